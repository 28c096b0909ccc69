//! The near side of a session, as the loop sees it.

use std::io;
use std::task::{Context, Poll};

use stp_proto::session::{Event, Session, ShutNear};
use stp_proto::time::Instant;

/// What [`Near::pull`] found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pulled {
    /// This many bytes went into the session.
    Bytes(usize),
    /// The near side will send no more (half-close). It may still read.
    Fin,
    /// The near side closed both ways: nobody reads any more.
    Gone,
}

/// The near side of a session: the app at the broker, the service at the server.
pub trait Near {
    /// Ready when [`Near::pull`] may make progress. Also drives work of its own, such as opening
    /// a service again.
    fn poll_readable(&mut self, now: Instant, cx: &mut Context<'_>) -> Poll<()>;

    /// Ready when [`Near::push`] may make progress.
    fn poll_writable(&mut self, now: Instant, cx: &mut Context<'_>) -> Poll<()>;

    /// When it must be polled again even if nothing wakes it.
    fn due(&self) -> Option<Instant> {
        None
    }

    /// The session has no room for what the near side may have. A near side that must not be left
    /// waiting takes it elsewhere meanwhile, and gives it with [`Near::pull`] later; when it wants
    /// to be asked again it says by [`Near::due`].
    fn take_ahead(&mut self, _now: Instant, _session: &Session) {}

    /// Memory that it takes beside the session's.
    fn memory(&self) -> usize {
        0
    }

    /// Moves bytes from the near side into the session.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing now; anything else means that the near side was reset.
    fn pull(&mut self, now: Instant, session: &mut Session) -> io::Result<Pulled>;

    /// Moves bytes from the session to the near side: first what the session kept, then
    /// `arrived`. The session keeps what is not taken.
    ///
    /// # Errors
    /// `WouldBlock` when the near side is full; anything else means that it is gone.
    fn push(&mut self, now: Instant, session: &mut Session, arrived: &[&[u8]])
    -> io::Result<usize>;

    /// Ends the stream towards the near side.
    fn shut(&mut self, now: Instant, how: ShutNear);

    /// Puts by what must survive this process (R100). It is called before what the session said
    /// leaves on a link.
    fn keep(&mut self, _session: &Session) {}

    /// The process begins to work for this session, or has done so for now: if it dies meanwhile,
    /// the session may be why (R105).
    fn at_work(&self, _at_work: bool) {}

    /// Tells of something that happened to the session.
    fn event(&mut self, now: Instant, session: &mut Session, event: &Event);
}
