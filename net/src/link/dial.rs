//! Beginning a link, and saying which side is to blame when there is none.

use std::io;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;

use super::handshake::{self, Failure, blames_key};
use super::socket::{self, LinkOptions};
use super::{Link, Tls};
use crate::key::PublicKey;

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
        /// The address dialled.
        addr: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// The machine answers, and nobody listens.
    #[error("{addr} refused the connection: nobody listens there")]
    Refused {
        /// The address dialled.
        addr: SocketAddr,
    },
    /// No answer in time.
    #[error("no answer from {addr} during the {during} within {} ms", after.as_millis())]
    TimedOut {
        /// The address dialled.
        addr: SocketAddr,
        /// "connect" or "handshake".
        during: &'static str,
        /// How long was waited.
        after: Duration,
    },
    /// The connection ended in the handshake.
    #[error("the connection to {addr} was lost in the handshake: {source}")]
    Lost {
        /// The address dialled.
        addr: SocketAddr,
        /// How it ended.
        source: io::Error,
    },
    /// Somebody else answers.
    #[error("{addr} has the key {found}, not {expected}")]
    WrongKey {
        /// The address dialled.
        addr: SocketAddr,
        /// The key from the configuration.
        expected: PublicKey,
        /// The key the peer showed.
        found: PublicKey,
    },
    /// The peer does not want us.
    #[error("{addr} refused our key {ours} (alert {alert})")]
    PeerRefused {
        /// The address dialled.
        addr: SocketAddr,
        /// The alert's name.
        alert: String,
        /// Our key, to be compared with the peer's configuration.
        ours: PublicKey,
    },
    /// The peer is no STP server.
    #[error("{addr} {what}")]
    Misbehaved {
        /// The address dialled.
        addr: SocketAddr,
        /// What it did.
        what: String,
    },
    /// We could not even try.
    #[error("cannot {action} for {addr}: {source}")]
    Local {
        /// The address dialled.
        addr: SocketAddr,
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
            | Self::Lost { .. } => Blame::Path,
            Self::WrongKey { .. } | Self::PeerRefused { .. } | Self::Misbehaved { .. } => {
                Blame::Peer
            }
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
            Self::TimedOut { .. } => libc::ETIMEDOUT,
            Self::Lost { .. } => libc::ECONNRESET,
            Self::Refused { .. }
            | Self::WrongKey { .. }
            | Self::PeerRefused { .. }
            | Self::Misbehaved { .. } => libc::ECONNREFUSED,
            Self::Local { .. } => libc::EHOSTUNREACH,
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
        let begun = Instant::now();
        let tcp = connect_plain(addr, options).await?;
        let left = options.timeout.saturating_sub(begun.elapsed());
        Self::begin(tcp, (addr, expect), tls, left, options).await
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
        let addr = self.peer_addr();
        let tcp = self.into_tcp().map_err(|source| DialError::Lost { addr, source })?;
        Self::begin(tcp, (addr, expect), tls, options.timeout, options).await
    }

    async fn begin(
        tcp: TcpStream,
        (addr, expect): (SocketAddr, &PublicKey),
        tls: &Tls,
        left: Duration,
        options: &LinkOptions,
    ) -> Result<Self, DialError> {
        let client = tls.client(expect, addr.ip());
        let late = DialError::TimedOut { addr, during: "handshake", after: options.timeout };
        let done = timeout(left, handshake::begin(&tcp, client))
            .await
            .map_err(|_| late)?
            .map_err(|failure| blame(addr, tls.public_key(), failure))?;
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
    let timed_out = DialError::TimedOut { addr, during: "connect", after: options.timeout };
    let tcp = timeout(options.timeout, connect(addr, options)).await.map_err(|_| timed_out)??;
    socket::keep_alive(&tcp).map_err(|source| DialError::Lost { addr, source })?;
    Ok(tcp)
}

async fn connect(addr: SocketAddr, options: &LinkOptions) -> Result<TcpStream, DialError> {
    let socket = socket::outgoing(addr, options).map_err(|source| DialError::Local {
        addr,
        action: "prepare a socket",
        source,
    })?;
    let connecting = TcpSocket::from_std_stream(socket.into()).connect(addr);
    connecting.await.map_err(|source| match source.raw_os_error() {
        Some(libc::ECONNREFUSED) => DialError::Refused { addr },
        Some(libc::ETIMEDOUT) => {
            DialError::TimedOut { addr, during: "connect", after: options.timeout }
        }
        Some(libc::ECONNRESET) => DialError::Lost { addr, source },
        Some(libc::EPERM | libc::EACCES | libc::EMFILE | libc::ENFILE | libc::ENOBUFS) => {
            DialError::Local { addr, action: "connect", source }
        }
        _ => DialError::Unreachable { addr, source },
    })
}

fn blame(addr: SocketAddr, ours: PublicKey, failure: Failure) -> DialError {
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
