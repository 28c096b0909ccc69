//! Beginning a link, and saying which side is to blame when there is none.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::time::{Duration, Instant};

use socket2::SockRef;
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::handshake::{self, Failure, blames_key};
use super::proxy::Proxy;
use super::race::{Lost, race};
use super::socket::{self, LinkOptions};
use super::ssh::{self, SshWay};
use super::{Link, Tls};
use crate::key::PublicKey;
use crate::place::{Place, Places};

/// The straight way has this much time before a proxy is asked beside it.
const DETOUR_AFTER: Duration = Duration::from_secs(1);

/// Which side is to blame for a link that did not come up.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Blame {
    /// The network between, or a peer that is not there: try again, or elsewhere.
    Path,
    /// The peer is there and is not what it should be: trying again will not help.
    Peer,
    /// This machine.
    Local,
}

/// Why there is no link.
#[derive(Debug, thiserror::Error)]
pub enum DialError {
    /// There is no way to the address.
    #[error("{addr} cannot be reached: {source}")]
    Unreachable {
        /// The place dialled.
        addr: Place,
        /// What the system said.
        source: io::Error,
    },
    /// The machine answers, and nobody listens.
    #[error("{addr} refused the connection: nobody listens there")]
    Refused {
        /// The place dialled.
        addr: Place,
    },
    /// No answer in time.
    #[error("no answer from {addr} during the {during} within {} ms", after.as_millis())]
    TimedOut {
        /// The place dialled.
        addr: Place,
        /// "connect" or "handshake".
        during: &'static str,
        /// How long was waited.
        after: Duration,
    },
    /// The connection ended in the handshake.
    #[error("the connection to {addr} was lost in the handshake: {source}")]
    Lost {
        /// The place dialled.
        addr: Place,
        /// How it ended.
        source: io::Error,
    },
    /// Somebody else answers.
    #[error("{addr} has the key {found}, not {expected}")]
    WrongKey {
        /// The place dialled.
        addr: Place,
        /// The key from the configuration.
        expected: PublicKey,
        /// The key the peer showed.
        found: PublicKey,
    },
    /// The peer does not want us.
    #[error("{addr} refused our key {ours} (alert {alert})")]
    PeerRefused {
        /// The place dialled.
        addr: Place,
        /// The alert's name.
        alert: String,
        /// Our key, to be compared with the peer's configuration.
        ours: PublicKey,
    },
    /// Who answers is no STP server. A network that wants a log-in first answers for everybody, so
    /// this says nothing of the peer.
    #[error("{addr} {what}")]
    Misbehaved {
        /// The place dialled.
        addr: Place,
        /// What it did.
        what: String,
    },
    /// The proxy does not lead there.
    #[error("the proxy {proxy} does not lead to {addr}: {source}")]
    Proxy {
        /// The place dialled.
        addr: Place,
        /// The proxy, as it is written.
        proxy: String,
        /// What it said, or why it was not reached.
        source: io::Error,
    },
    /// The name has no address.
    #[error("{places} has no address: {source}")]
    Unknown {
        /// The places that were looked up.
        places: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// We could not even try.
    #[error("cannot {action} for {addr}: {source}")]
    Local {
        /// The place dialled.
        addr: Place,
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
}

impl DialError {
    /// The side that is to blame.
    #[must_use]
    pub fn blame(&self) -> Blame {
        match self {
            Self::Unreachable { .. }
            | Self::Refused { .. }
            | Self::TimedOut { .. }
            | Self::Lost { .. }
            | Self::Misbehaved { .. }
            | Self::Proxy { .. }
            | Self::Unknown { .. } => Blame::Path,
            Self::WrongKey { .. } | Self::PeerRefused { .. } => Blame::Peer,
            Self::Local { .. } => Blame::Local,
        }
    }

    /// The errno that tells an app the same.
    #[must_use]
    pub fn errno(&self) -> i32 {
        match self {
            Self::Unreachable { source, .. } => match source.raw_os_error() {
                Some(libc::ENETUNREACH) => libc::ENETUNREACH,
                _ => libc::EHOSTUNREACH,
            },
            Self::TimedOut { .. } | Self::Misbehaved { .. } => libc::ETIMEDOUT,
            Self::Lost { .. } => libc::ECONNRESET,
            Self::Refused { .. } | Self::WrongKey { .. } | Self::PeerRefused { .. } => {
                libc::ECONNREFUSED
            }
            Self::Local { .. } | Self::Proxy { .. } | Self::Unknown { .. } => libc::EHOSTUNREACH,
        }
    }
}

/// A link that came up.
#[derive(Debug)]
pub struct Dialed {
    /// The link.
    pub link: Link,
    /// The server's address; none if a proxy or ssh is in between.
    pub address: Option<SocketAddr>,
    /// What is in between.
    pub through: Option<Through>,
}

/// What a link goes through, if not straight to its server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Through {
    /// A proxy.
    Proxy,
    /// The user's ssh.
    Ssh,
}

impl Through {
    /// In a word.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Through::Proxy => "proxy",
            Through::Ssh => "ssh",
        }
    }
}

impl Link {
    /// Connects to `addr` and shakes hands with the holder of the key `expect`.
    pub async fn dial(
        addr: SocketAddr,
        expect: &PublicKey,
        tls: &Tls,
        options: &LinkOptions,
    ) -> Result<Self, DialError> {
        let dialed = Self::dial_place(addr.into(), expect, tls, options).await?;
        Ok(dialed.link)
    }

    /// The same for a server with several places. `known` is where it was met last: it is tried
    /// before any name has been looked up.
    pub async fn dial_any(
        places: &Places,
        known: Option<SocketAddr>,
        expect: &PublicKey,
        tls: &Tls,
        options: &LinkOptions,
    ) -> Result<Dialed, DialError> {
        let network = Self::dial_network(places, known, expect, tls, options);
        let Some(ssh) = &options.ssh else { return network.await };
        beside(network, Self::dial_ssh(ssh, (places, expect), tls, options), ssh::AFTER).await
    }

    /// Through the user's ssh.
    async fn dial_ssh(
        ssh: &SshWay,
        (places, expect): (&Places, &PublicKey),
        tls: &Tls,
        options: &LinkOptions,
    ) -> Result<Dialed, DialError> {
        let addr = places.all()[0].clone();
        let tcp = ssh.connect().await.map_err(|source| DialError::Local {
            addr: addr.clone(),
            action: "run ssh",
            source,
        })?;
        socket::prepare(&SockRef::from(&tcp), options)
            .map_err(|source| DialError::Lost { addr: addr.clone(), source })?;
        let link = Self::begin(tcp, (addr, expect), tls, options.timeout, options).await?;
        Ok(Dialed { link, address: None, through: Some(Through::Ssh) })
    }

    async fn dial_network(
        places: &Places,
        known: Option<SocketAddr>,
        expect: &PublicKey,
        tls: &Tls,
        options: &LinkOptions,
    ) -> Result<Dialed, DialError> {
        let options = &options.sparing(places);
        let written = places.all().iter().filter(|place| place.address().is_some()).cloned();
        let mut at: Vec<Place> = known.into_iter().map(Place::from).collect();
        at.extend(written.filter(|place| known.map(Place::from).as_ref() != Some(place)));
        let more = async {
            match places.resolve().await {
                Ok(found) => Ok(found.into_iter().map(Place::from).collect()),
                // A proxy may know what the names of another network mean.
                Err(_) if options.detour.is_some() => Ok(places.all().to_vec()),
                Err(error) => Err(error),
            }
        };
        let attempt = |place| Self::dial_place(place, expect, tls, options);
        race(at, more, attempt, |error| error.blame() == Blame::Peer).await.map_err(|lost| {
            match lost {
                Lost::Failed(error) => error,
                Lost::NoPlace(source) => DialError::Unknown { places: places.to_string(), source },
            }
        })
    }

    async fn dial_place(
        place: Place,
        expect: &PublicKey,
        tls: &Tls,
        options: &LinkOptions,
    ) -> Result<Dialed, DialError> {
        let begun = Instant::now();
        let tcp = within(place.clone(), options, connect(&place, options)).await?;
        let left = options.timeout.saturating_sub(begun.elapsed());
        let address = place.address();
        let link = Self::begin(tcp, (place, expect), tls, left, options).await?;
        let address = address.filter(|address| link.peer_addr() == *address);
        let through = address.is_none().then_some(Through::Proxy);
        Ok(Dialed { link, address, through })
    }

    /// Shakes hands with the holder of the key `expect` through the peer of this link, which passes
    /// on whatever comes from now on (PROTOCOL.md R81): it sees neither key nor contents.
    ///
    /// # Errors
    /// As [`Link::dial`]; the address is that of the peer between.
    pub async fn through(
        self,
        expect: &PublicKey,
        tls: &Tls,
        options: &LinkOptions,
    ) -> Result<Self, DialError> {
        let addr = Place::from(self.peer_addr());
        let tcp = match self.into_tcp() {
            Ok(tcp) => tcp,
            Err(source) => return Err(DialError::Lost { addr, source }),
        };
        Self::begin(tcp, (addr, expect), tls, options.timeout, options).await
    }

    async fn begin(
        tcp: TcpStream,
        (addr, expect): (Place, &PublicKey),
        tls: &Tls,
        left: Duration,
        options: &LinkOptions,
    ) -> Result<Self, DialError> {
        let peer = match tcp.peer_addr() {
            Ok(peer) => peer,
            Err(source) => return Err(DialError::Lost { addr, source }),
        };
        let client = tls.client(expect, peer.ip());
        let Ok(done) = timeout(left, handshake::begin(&tcp, client)).await else {
            let after = options.timeout;
            return Err(DialError::TimedOut { addr, during: "handshake", after });
        };
        let done = done.map_err(|failure| blame(addr.clone(), tls.public_key(), failure))?;
        Self::new(tcp, tls.public_key(), done).map_err(|source| DialError::Lost { addr, source })
    }
}

/// A plain connection with the options of a link: what a relay passes links on over.
///
/// # Errors
/// As [`Link::dial`].
pub async fn connect_plain(
    addr: SocketAddr,
    options: &LinkOptions,
) -> Result<TcpStream, DialError> {
    let place = Place::from(addr);
    within(place.clone(), options, connect(&place, options)).await
}

/// Waits for a connection no longer than a link may take.
async fn within(
    addr: Place,
    options: &LinkOptions,
    connecting: impl Future<Output = Result<TcpStream, DialError>>,
) -> Result<TcpStream, DialError> {
    let after = options.timeout;
    let connected = timeout(after, connecting).await;
    connected.unwrap_or(Err(DialError::TimedOut { addr, during: "connect", after }))
}

async fn connect(place: &Place, options: &LinkOptions) -> Result<TcpStream, DialError> {
    match (place.address(), &options.detour) {
        (Some(addr), None) => straight(addr, options).await,
        (Some(addr), Some(detour)) if !detour.always => {
            // Nobody's proxy leads to this machine.
            if addr.ip().is_loopback() || detour.spares(place) {
                return straight(addr, options).await;
            }
            let detour = through(&detour.proxy, place, options);
            beside(straight(addr, options), detour, DETOUR_AFTER).await
        }
        (_, Some(detour)) => through(&detour.proxy, place, options).await,
        (None, None) => {
            let source = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
            Err(DialError::Unknown { places: place.to_string(), source })
        }
    }
}

/// The first way, and the second one beside it when the first takes long or has failed; of two
/// failures the first one's.
async fn beside<T>(
    first: impl Future<Output = Result<T, DialError>>,
    second: impl Future<Output = Result<T, DialError>>,
    after: Duration,
) -> Result<T, DialError> {
    let (mut first, mut second) = (pin!(first), pin!(second));
    let failed = match timeout(after, &mut first).await {
        Ok(Ok(led)) => return Ok(led),
        // Another way leads to the same peer.
        Ok(Err(error)) if error.blame() == Blame::Peer => return Err(error),
        Ok(Err(error)) => error,
        Err(_) => tokio::select! {
            led = &mut first => match led {
                Ok(led) => return Ok(led),
                Err(error) => error,
            },
            led = &mut second => return match led {
                Ok(led) => Ok(led),
                Err(_) => first.await,
            },
        },
    };
    second.await.map_err(|_| failed)
}

/// A connection through a proxy, which may be given a name.
async fn through(
    proxy: &Proxy,
    place: &Place,
    options: &LinkOptions,
) -> Result<TcpStream, DialError> {
    let lost = |source| {
        let (addr, proxy) = (place.clone(), proxy.to_string());
        DialError::Proxy { addr, proxy, source }
    };
    let attempt = |at: Place| async move {
        match at.address() {
            Some(addr) => straight(addr, options).await.map_err(io::Error::other),
            None => Err(io::Error::new(io::ErrorKind::NotFound, "it has no address")),
        }
    };
    let found = async {
        let found = proxy.place.resolve().await?;
        Ok(found.into_iter().map(Place::from).collect())
    };
    let reached = race(Vec::new(), found, attempt, |_| false).await;
    let tcp = reached.map_err(|why| match why {
        Lost::NoPlace(source) | Lost::Failed(source) => lost(source),
    })?;
    proxy.lead(tcp, place).await.map_err(lost)
}

async fn straight(addr: SocketAddr, options: &LinkOptions) -> Result<TcpStream, DialError> {
    let place = Place::from(addr);
    let socket = match socket::outgoing(addr, options) {
        Ok(socket) => socket,
        Err(source) => {
            return Err(DialError::Local { addr: place, action: "prepare a socket", source });
        }
    };
    let connecting = TcpSocket::from_std_stream(socket.into()).connect(addr);
    connecting.await.map_err(|source| match source.raw_os_error() {
        Some(libc::ECONNREFUSED) => DialError::Refused { addr: place },
        Some(libc::ETIMEDOUT) => {
            DialError::TimedOut { addr: place, during: "connect", after: options.timeout }
        }
        Some(libc::ECONNRESET) => DialError::Lost { addr: place, source },
        Some(libc::EPERM | libc::EACCES | libc::EMFILE | libc::ENFILE | libc::ENOBUFS) => {
            DialError::Local { addr: place, action: "connect", source }
        }
        _ => DialError::Unreachable { addr: place, source },
    })
}

fn blame(addr: Place, ours: PublicKey, failure: Failure) -> DialError {
    match failure {
        Failure::Io(source) if source.raw_os_error() == Some(libc::ETIMEDOUT) => {
            DialError::TimedOut { addr, during: "handshake", after: Duration::ZERO }
        }
        Failure::Io(source) => DialError::Lost { addr, source },
        closed @ Failure::Closed(_) => {
            let source = io::Error::new(io::ErrorKind::UnexpectedEof, closed.to_string());
            DialError::Lost { addr, source }
        }
        Failure::WrongKey(wrong) => {
            DialError::WrongKey { addr, expected: wrong.expected, found: wrong.found }
        }
        Failure::Alert(alert) if blames_key(alert) => {
            DialError::PeerRefused { addr, alert: format!("{alert:?}"), ours }
        }
        Failure::Alert(alert) => DialError::Misbehaved {
            addr,
            what: format!("ended the handshake with alert {alert:?}"),
        },
        Failure::NotTls(what) => DialError::Misbehaved { addr, what },
        Failure::NoKey => DialError::Misbehaved { addr, what: "showed no key".into() },
        Failure::Tls(error) => {
            DialError::Misbehaved { addr, what: format!("is no STP server: {error}") }
        }
    }
}
