//! The far side of a session, as the loop sees it: where its links come from.

use std::future::{Future, Pending};
use std::task::{Context, Poll};
use std::time::Duration;

use stp_net::link::TcpInfo;
use stp_proto::rise;
use stp_proto::session::{Event, Peer, Session};
use stp_proto::time::Instant;
use stp_proto::wire::{Announcement, TransferReason};

use crate::carrier::Carrier;

/// What the far side wants done with the session after an event.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Act {
    /// Nothing.
    #[default]
    Nothing,
    /// The session asks for a link now; the far side has chosen where it leads.
    Retry,
    /// The session asks for a link after this pause.
    RetryIn(Duration),
    /// The peer is told that the session stays where it is, and why.
    Stay(TransferReason),
    /// The session ends with an error for the near side.
    Abort {
        /// One of [`stp_proto::session::code`].
        code: u32,
        /// For the log and the status.
        reason: String,
    },
}

/// A link that was dialed, and whether it leads to the server that holds the session.
pub type Dialed<L> = (L, Peer);

/// A dial that gave no link. The session asks again after a pause, unless the far side wants
/// something else.
#[derive(Clone, Debug)]
pub struct DialFailed {
    /// For the log and the status.
    pub why: String,
    /// What is to be done then.
    pub then: Act,
}

impl DialFailed {
    /// A dial that failed for this reason and may be repeated.
    #[must_use]
    pub fn new(why: String) -> DialFailed {
        DialFailed { why, then: Act::Nothing }
    }
}

/// Where links come from. The loop tells what happened to the session; the answer says what is to
/// be done. The far side never sends commands to the loop that called it.
pub trait Far {
    /// What it dials.
    type Link: Carrier;

    /// The result of a dial.
    type Found;

    /// A dial under way.
    type Dialing: Future<Output = Self::Found> + Unpin;

    /// Starts to bring up a link for this session.
    fn dial(&mut self, now: Instant, session: &Session) -> Self::Dialing;

    /// A dial has come to an end. The session may be another one by now than when it was begun.
    ///
    /// # Errors
    /// When it came to nothing.
    fn dialed(
        &mut self,
        now: Instant,
        session: &mut Session,
        found: Self::Found,
    ) -> Result<Dialed<Self::Link>, DialFailed>;

    /// Tells of something that happened to the session, a refusal included.
    fn event(&mut self, now: Instant, session: &mut Session, event: &Event) -> Act;

    /// The peer announced a connection that belongs to this session (PROTOCOL.md R90). Called
    /// before the bytes that came with it are handed to the near side.
    fn announced(&mut self, _session: &Session, _announcement: &Announcement) {}

    /// Ready when a decision that took time has been made, such as one for which servers were
    /// measured.
    fn poll_act(
        &mut self,
        _now: Instant,
        _session: &mut Session,
        _cx: &mut Context<'_>,
    ) -> Poll<Act> {
        Poll::Pending
    }

    /// Whether a sample of the attached link is due. Asked after everything that happens.
    fn wants_sample(&self, _now: Instant) -> bool {
        false
    }

    /// A sample of the attached link, of the sending kernel's view.
    fn sample(&mut self, _now: Instant, _session: &mut Session, _info: &TcpInfo) -> Act {
        Act::Nothing
    }

    /// The link of which [`Far::event`] says next that it was lost has lost long packets only.
    fn loses_long(&mut self) {}

    /// Something came on the attached link.
    fn heard(&mut self, _now: Instant) {}

    /// Whether the peer's machine speaks on other links, which have lasted. A silent link is not
    /// dead then: it waits its turn behind them.
    fn speaks_elsewhere(&self, _now: Instant) -> bool {
        false
    }

    /// Gives back a link on which nothing of this session is in flight any more. `first` is what
    /// the peer has already said for the next session on it.
    fn reuse(&mut self, now: Instant, link: Self::Link, first: Option<Vec<u8>>);
}

/// The dial of a far side that dials none: links come to a server's session. It never ends.
pub type Never<L> = Pending<Result<Dialed<L>, DialFailed>>;

/// What a sample says of the path on which a session sends.
#[must_use]
pub fn path_sample(session: &Session, info: &TcpInfo) -> rise::Sample {
    let at = session.positions();
    rise::Sample {
        srtt_us: info.rtt_us,
        min_rtt_us: info.min_rtt_us,
        rate: info.delivery_rate,
        acked: info.bytes_acked,
        // The rate says nothing of the path if there was nothing to send.
        idle: info.app_limited || info.unacked == 0 || at.nxt >= at.limit,
    }
}
