//! Accepting links: bounded in number and time, and counted by what became of them.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use parking_lot::Mutex;
use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;

use super::handshake::{self, Failure, blames_key};
use super::socket::{self, LinkOptions};
use super::{Link, Tls};
use crate::admission::{Admission, Denied, Fault};

/// Connections that the kernel keeps until they are accepted.
const BACKLOG: i32 = 4096;
/// How often it is said that connections are denied.
const SAY_EVERY: Duration = Duration::from_secs(10);

/// Why a connection did not become a link.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The peer was too slow, or silent.
    #[error("no handshake within {} ms", after.as_millis())]
    TimedOut {
        /// How long was waited.
        after: Duration,
    },
    /// The peer went away: a port scan, a health check, a lost path.
    #[error("the connection was lost in the handshake: {source}")]
    Lost {
        /// How it ended.
        source: io::Error,
    },
    /// The peer is no STP client.
    #[error("{what}")]
    Garbage {
        /// What it did.
        what: String,
    },
    /// The peer speaks TLS and has no key.
    #[error("showed no key")]
    NoKey,
    /// The peer expects another server key than ours, or cannot use ours.
    #[error("refused our key (alert {alert}); is our public key in its configuration?")]
    PeerRefused {
        /// The alert's name.
        alert: String,
    },
    /// It was closed before a handshake.
    #[error("not let in: {why}")]
    Denied {
        /// Which rule closed it.
        #[from]
        why: Denied,
    },
}

/// The kinds of [`AcceptError`], in the order of their counters.
const REASONS: [&str; 6] = ["timeout", "lost", "garbage", "no_key", "key_refused", "overloaded"];

impl AcceptError {
    /// One word per kind, for the counters and the status.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        REASONS[self.index()]
    }

    fn index(&self) -> usize {
        match self {
            Self::TimedOut { .. } => 0,
            Self::Lost { .. } => 1,
            Self::Garbage { .. } => 2,
            Self::NoKey => 3,
            Self::PeerRefused { .. } => 4,
            Self::Denied { .. } => 5,
        }
    }
}

impl From<Failure> for AcceptError {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Io(source) => Self::Lost { source },
            closed @ Failure::Closed(_) => Self::Lost {
                source: io::Error::new(io::ErrorKind::UnexpectedEof, closed.to_string()),
            },
            Failure::NoKey => Self::NoKey,
            Failure::Alert(alert) if blames_key(alert) => {
                Self::PeerRefused { alert: format!("{alert:?}") }
            }
            Failure::Alert(alert) => {
                Self::Garbage { what: format!("ended the handshake with alert {alert:?}") }
            }
            Failure::NotTls(what) => Self::Garbage { what },
            Failure::WrongKey(wrong) => Self::Garbage { what: wrong.to_string() },
            Failure::Tls(error) => Self::Garbage { what: format!("is no STP client: {error}") },
        }
    }
}

impl Link {
    /// Shakes hands over an accepted connection. Whether the client's key is welcome is for the
    /// caller to decide ([`Link::peer_key`]), and to tell in its own words.
    pub async fn accept(
        tcp: TcpStream,
        tls: &Tls,
        options: &LinkOptions,
    ) -> Result<Self, AcceptError> {
        let lost = |source| AcceptError::Lost { source };
        socket::prepare(&SockRef::from(&tcp), options).map_err(lost)?;
        let done = timeout(options.timeout, handshake::accept(&tcp, tls.server()))
            .await
            .map_err(|_| AcceptError::TimedOut { after: options.timeout })??;
        Self::new(tcp, tls.public_key(), done).map_err(lost)
    }
}

/// A server's way of accepting links: as [`Admission`] lets them in, all counted.
pub struct Acceptor {
    tls: Arc<Tls>,
    options: LinkOptions,
    admission: Admission,
    /// When it was last said that connections are denied, and how many were since.
    said: Mutex<(Option<Instant>, u64)>,
    accepted: AtomicU64,
    refused: [AtomicU64; REASONS.len()],
}

impl fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Acceptor")
            .field("accepted", &self.accepted())
            .field("refused", &self.refused())
            .finish_non_exhaustive()
    }
}

impl Acceptor {
    /// Accepts as `tls`, with at most `pending_max` handshakes under way.
    #[must_use]
    pub fn new(tls: Arc<Tls>, options: LinkOptions, pending_max: usize) -> Self {
        Self {
            tls,
            options,
            admission: Admission::new(pending_max),
            said: Mutex::default(),
            accepted: AtomicU64::new(0),
            refused: Default::default(),
        }
    }

    /// Shakes hands; run it in a task per connection. What is not let in is closed at once.
    pub async fn accept(&self, tcp: TcpStream) -> Result<Link, AcceptError> {
        let result = self.try_accept(tcp).await;
        match &result {
            Ok(_) => &self.accepted,
            Err(error) => &self.refused[error.index()],
        }
        .fetch_add(1, Ordering::Relaxed);
        result
    }

    async fn try_accept(&self, tcp: TcpStream) -> Result<Link, AcceptError> {
        let from = tcp.peer_addr().map_err(|source| AcceptError::Lost { source })?.ip();
        let now = Instant::now();
        let share = self.admission.admit(from, now, chance());
        let _share = share.inspect_err(|why| self.say(*why, now))?;
        let timeout = self.admission.patience(self.options.timeout);
        let options = LinkOptions { timeout, ..self.options.clone() };
        let result = Link::accept(tcp, &self.tls, &options).await;
        let fault = match &result {
            Err(AcceptError::TimedOut { .. }) => Some(Fault::Silent),
            Err(AcceptError::Garbage { .. } | AcceptError::NoKey) => Some(Fault::Garbage),
            _ => None,
        };
        if let Some(fault) = fault {
            self.admission.punish(from, fault, Instant::now());
        }
        result
    }

    /// Says once in a while that connections are denied: a flood must not fill the log.
    fn say(&self, why: Denied, now: Instant) {
        let mut said = self.said.lock();
        said.1 += 1;
        if said.0.is_none_or(|last| now.saturating_duration_since(last) >= SAY_EVERY) {
            tracing::warn!(%why, denied = said.1, "connections are closed before a handshake");
            *said = (Some(now), 0);
        }
    }

    /// How many of `max` places for links that wait for their first frame the network of an address
    /// may have.
    #[must_use]
    pub fn share_of(&self, from: IpAddr, max: usize) -> usize {
        self.admission.share_of(from, max)
    }

    /// Whether somebody at that network was served before.
    #[must_use]
    pub fn knows(&self, from: IpAddr) -> bool {
        self.admission.knows(from)
    }

    /// Somebody there is served: from now on that network is known to the admission.
    pub fn welcome(&self, from: IpAddr) {
        self.admission.welcome(from);
    }

    /// Handshakes that succeeded so far.
    #[must_use]
    pub fn accepted(&self) -> u64 {
        self.accepted.load(Ordering::Relaxed)
    }

    /// Handshakes that failed so far, by reason.
    #[must_use]
    pub fn refused(&self) -> Vec<(&'static str, u64)> {
        let count = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        REASONS.iter().copied().zip(self.refused.iter().map(count)).collect()
    }
}

/// A number from 0 to 1 that nobody can guess.
fn chance() -> f64 {
    let mut bytes = [0; 4];
    SystemRandom::new().fill(&mut bytes).expect("the system's randomness does not fail");
    f64::from(u32::from_ne_bytes(bytes)) / f64::from(u32::MAX)
}

/// Listens on `addr`; a restarted server gets its address back at once.
pub fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let domain = Domain::for_address(addr);
    let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}
