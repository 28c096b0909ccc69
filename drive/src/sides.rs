//! The two sides of a session, as the loop sees them.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use stp_net::link::{Link, TcpInfo};
use stp_proto::rise;
use stp_proto::session::{Denied, Event, Peer, Session, ShutNear};
use stp_proto::time::Instant;

/// What [`Near::pull`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pulled {
    /// So many bytes went into the session.
    Bytes(usize),
    /// The near side will send no more (half-close); it may still read.
    Fin,
    /// The near side closed both ways: nobody reads any more.
    Gone,
}

/// The near side of a session: the app at the broker, the service at the server.
pub trait Near: Send {
    /// Ready when [`Near::pull`] may make progress. Also drives work of its own (a service that
    /// is being opened again).
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Ready when [`Near::push`] may make progress.
    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Moves bytes from the near side into the session.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing now; anything else means that the near side was reset.
    fn pull(&mut self, now: Instant, session: &mut Session) -> io::Result<Pulled>;

    /// Moves bytes from the session, first what it kept, then `arrived`, to the near side. What
    /// is not taken is kept by the session.
    ///
    /// # Errors
    /// `WouldBlock` when the near side is full; anything else means that it is gone.
    fn push(&mut self, now: Instant, session: &mut Session, arrived: &[&[u8]])
    -> io::Result<usize>;

    /// Ends the stream towards the near side.
    fn shut(&mut self, how: ShutNear);

    /// Tells of something that happened to the session.
    fn event(&mut self, now: Instant, session: &mut Session, event: &Event);
}

/// A link that was dialed, and whether it leads to the server that holds the session.
pub type Dialed = (Link, Peer);

/// A dial that came to nothing; the session backs off and asks again.
#[derive(Clone, Debug)]
pub struct DialFailed {
    /// For the log and the status.
    pub why: String,
}

/// What is to be done after a refusal.
#[derive(Clone, Debug)]
pub enum AfterDenial {
    /// Dial again at once; the dialer has chosen where.
    TryAgain,
    /// Dial again, but later: nobody else can be asked now.
    TryLater,
    /// No server can continue: reset the near side.
    GiveUp {
        /// One of [`stp_proto::session::code`].
        code: u32,
        /// For the log and the status.
        reason: String,
    },
}

/// The future of a dial.
pub type Dialing = Pin<Box<dyn Future<Output = Result<Dialed, DialFailed>> + Send>>;

/// Where links come from.
pub trait Far: Send {
    /// Starts to bring up a link for this session.
    fn dial(&mut self, session: &Session) -> Dialing;

    /// A server refused; says what to do.
    fn denied(&mut self, session: &Session, why: &Denied) -> AfterDenial;

    /// Tells of something that happened to the session.
    fn event(&mut self, session: &Session, event: &Event);

    /// Whether a sample of the attached link is due. Asked after everything that happens.
    fn wants_sample(&self, _now: Instant) -> bool {
        false
    }

    /// A sample of the attached link, of the sending kernel's view.
    fn sample(&mut self, _now: Instant, _session: &mut Session, _info: &TcpInfo) {}

    /// Something came on the attached link.
    fn heard(&mut self, _now: Instant) {}

    /// Whether the peer's machine speaks on other links, which have lasted: then this one is not
    /// dead for its silence, but waits its turn behind them.
    fn speaks_elsewhere(&self, _now: Instant) -> bool {
        false
    }

    /// Gives back a link on which nothing of this session is in flight any more. `first` is what
    /// the peer has already said for the next session on it.
    fn reuse(&mut self, link: Link, first: Option<Vec<u8>>);
}

/// What a sample says of the path on which a session sends.
#[must_use]
pub fn path_sample(session: &Session, info: &TcpInfo) -> rise::Sample {
    let at = session.positions();
    rise::Sample {
        srtt_us: info.rtt_us,
        min_rtt_us: info.min_rtt_us,
        rate: info.delivery_rate,
        acked: info.bytes_acked,
        // What the rate says of the path: nothing, if there was nothing to send.
        idle: info.app_limited || info.unacked == 0 || at.nxt >= at.limit,
    }
}

/// The far side of a server's session: links come to it, it dials none.
#[derive(Clone, Copy, Debug, Default)]
pub struct Never;

impl Never {
    /// A dial that never ends.
    #[must_use]
    pub fn dialing() -> Dialing {
        Box::pin(std::future::pending())
    }
}
