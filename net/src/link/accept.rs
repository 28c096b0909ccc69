//! Accepting links: bounded in number and time, and counted by what became of them.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::handshake::{self, Failure, blames_key};
use super::socket::{self, LinkOptions};
use super::{Link, Tls};

const BACKLOG: i32 = 4096;

/// Why a connection did not become a link.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The peer was too slow, or silent.
    #[error("path: no handshake within {} ms", after.as_millis())]
    TimedOut {
        /// How long was waited.
        after: Duration,
    },
    /// The peer went away: a port scan, a health check, a lost path.
    #[error("path: the connection was lost in the handshake: {source}")]
    Lost {
        /// How it ended.
        source: io::Error,
    },
    /// The peer is no STP client.
    #[error("peer: {what}")]
    Garbage {
        /// What it did.
        what: String,
    },
    /// The peer speaks TLS and has no key.
    #[error("peer: showed no key")]
    NoKey,
    /// The peer expects another server key than ours, or cannot use ours.
    #[error("peer: refused our key (alert {alert}); is our public key in its configuration?")]
    PeerRefused {
        /// The alert's name.
        alert: String,
    },
    /// Too many handshakes are under way.
    #[error("local: {pending} handshakes are under way, no more are begun")]
    Overloaded {
        /// The limit.
        pending: usize,
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
            Self::Overloaded { .. } => 5,
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

/// A server's way of accepting links: it bounds the handshakes at a time, and counts them.
pub struct Acceptor {
    tls: Arc<Tls>,
    options: LinkOptions,
    pending: Semaphore,
    pending_max: usize,
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
            pending: Semaphore::new(pending_max),
            pending_max,
            accepted: AtomicU64::new(0),
            refused: Default::default(),
        }
    }

    /// Shakes hands; run it in a task per connection. Beyond the limit the connection is closed
    /// at once.
    pub async fn accept(&self, tcp: TcpStream) -> Result<Link, AcceptError> {
        let result = match self.pending.try_acquire() {
            Ok(_permit) => Link::accept(tcp, &self.tls, &self.options).await,
            Err(_) => Err(AcceptError::Overloaded { pending: self.pending_max }),
        };
        match &result {
            Ok(_) => &self.accepted,
            Err(error) => &self.refused[error.index()],
        }
        .fetch_add(1, Ordering::Relaxed);
        result
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

/// Listens on `addr`; a restarted server gets its address back at once.
pub fn listen(addr: SocketAddr) -> io::Result<TcpListener> {
    let domain = Domain::for_address(addr);
    let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}
