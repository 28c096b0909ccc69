//! The five states and every transition between them (KTH 3.8, figure 14; R20 to R26).
//!
//! ```text
//!                 T2 user suspends                     T8 RESUME: DENIED
//!      +------------------------------------------+      +---------+
//!      |                                          v      |         v
//!  +--------+  T1 link lost, T4 SUSPEND   +-------------------------+
//!  | ACTIVE |-------------+               |        SUSPENDED        |
//!  +--------+             |               +-------------------------+
//!   ^ ^  | new link       v   T5 user suspends ^      |        ^
//!   | |  | (before    +--------------+---------+      |        |
//!   | |  |  the old   | READY_RESUME |<---------------+        |
//!   | |  |  breaks)   +--------------+   T9 user resumes       |
//!   | |  |             |  |  ^                                 |
//!   | |  |   T7, T12   |  |  | T11, T13, T15 lost, denied      |
//!   | |  |   link up   |  |  |                                 |
//!   | |  v             v  |  |                                 |
//!   | |  +-------------+  |  |     T5 user suspends            |
//!   | +--| SENT_RESUME |--|--+---------------------------------+
//!   |T14 +-------------+  |
//!   |     T16 new link: again     T17 older epoch: DENIED, T18 newer epoch: accept
//!   +---------------------+
//!     T3, T6, T10 RESUME accepted       from every state: CLOSED (both ends through, RST, abort)
//! ```
//!
//! Four things differ from the thesis:
//!
//! - Every attempt has a number, and a RESUME is accepted if and only if its number is greater than
//!   any seen. That alone decides T3, T6, T17 and T18, and it removes flaw F3.
//! - A link is dialed in READY_RESUME (or while the session is still ACTIVE). SENT_RESUME begins
//!   when RESUME is written to the link, so the junction SEND_RESUME is passed at `LinkUp`, and T9
//!   leads to READY_RESUME and dials at once.
//! - CONNECT and transfer are attempts like RESUME.
//! - Only one end dials (R27); the other waits for its links.
//!
//! Positions, buffers and timers belong to the session, never to this table.

use core::fmt;

use crate::mutant::mutant;
use crate::role::Dialing;

/// The five states.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum State {
    /// A link is attached, data moves.
    Active,
    /// No link is attached; the session wants one.
    ReadyResume,
    /// CONNECT or RESUME was sent on a new link; its answer is awaited.
    SentResume,
    /// Stopped by the user at this end.
    Suspended,
    /// Over. What is left: to tell the peer, and to hand the near side what was received.
    Closed,
}

impl State {
    /// All states, in the order of the table.
    pub const ALL: [State; 5] =
        [State::Active, State::ReadyResume, State::SentResume, State::Suspended, State::Closed];
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            State::Active => "ACTIVE",
            State::ReadyResume => "READY_RESUME",
            State::SentResume => "SENT_RESUME",
            State::Suspended => "SUSPENDED",
            State::Closed => "CLOSED",
        })
    }
}

/// What happened, as far as the states care.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum StateEvent {
    /// A link dialed here is there.
    LinkUp,
    /// The attached link, or that of the attempt under way, broke or fell silent.
    LinkLost,
    /// A path appeared or the address changed.
    PathChanged,
    /// Time for another attempt, or the driver wants one.
    RetryDue,
    /// The user stops the session.
    UserSuspend,
    /// The user lets it go on.
    UserResume,
    /// SUSPEND came.
    PeerSuspend,
    /// RESUME with a greater epoch than any seen, and its positions fit.
    PeerResume,
    /// RESUME with an epoch already seen.
    PeerResumeStale,
    /// RESUME with a greater epoch whose positions or cuts do not fit.
    PeerResumeMisfit,
    /// CONNECT_OK or RESUME_OK that fits the attempt under way.
    PeerAccepts,
    /// RESUME_DENIED: suspended there, or colliding with an attempt of the peer's.
    PeerWaits,
    /// RESUME_DENIED: stale; the peer has seen greater epochs.
    PeerAhead,
    /// CONNECT_DENIED; RESUME_DENIED for good; or an answer that does not fit.
    PeerRefuses,
    /// RESUME_DENIED: the session ended well there, and here nothing is missing.
    PeerClosed,
    /// RST, or RESUME_DENIED: reset.
    PeerReset,
    /// Both streams with their ends are through and acknowledged.
    Finished,
    /// This end gives the session up.
    Abort,
}

impl StateEvent {
    /// All events, in the order of the table.
    pub const ALL: [StateEvent; 18] = [
        StateEvent::LinkUp,
        StateEvent::LinkLost,
        StateEvent::PathChanged,
        StateEvent::RetryDue,
        StateEvent::UserSuspend,
        StateEvent::UserResume,
        StateEvent::PeerSuspend,
        StateEvent::PeerResume,
        StateEvent::PeerResumeStale,
        StateEvent::PeerResumeMisfit,
        StateEvent::PeerAccepts,
        StateEvent::PeerWaits,
        StateEvent::PeerAhead,
        StateEvent::PeerRefuses,
        StateEvent::PeerClosed,
        StateEvent::PeerReset,
        StateEvent::Finished,
        StateEvent::Abort,
    ];
}

/// What to do on a transition.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Action {
    /// Ask the driver for a link, now.
    Dial,
    /// Detach all links, take the next epoch, send CONNECT or RESUME on the new link.
    StartAttempt,
    /// Detach the old link, take over the epoch, roll back to the peer's position, RESUME_OK.
    AcceptResume,
    /// Attach the link of the attempt, roll back to the peer's position.
    Adopt,
    /// Drop the link; another attempt soon.
    Detach,
    /// Drop the link; the peer will come, probe slowly.
    DetachAndWait,
    /// Drop the link; another attempt at once.
    DetachAndRetry,
    /// Drop the link; the driver decides, probe slowly.
    DetachRefused,
    /// SUSPEND on the link, then drop it.
    SendSuspend,
    /// Drop all links, attempts and timers.
    Halt,
    /// Wait for the peer's RESUME.
    Await,
    /// RESUME_DENIED(SUSPENDED).
    DenySuspended,
    /// RESUME_DENIED(STALE).
    DenyStale,
    /// RESUME_DENIED(COLLISION); the attempt here stands.
    DenyCollision,
    /// Detach the old link, RESUME_DENIED(MISMATCH).
    DenyMismatch,
    /// RESUME_DENIED(CLOSED or RESET): the tombstone.
    DenyEnded,
    /// End well.
    Finish,
    /// End with a reset from here: tell the peer and the near side.
    Reset,
    /// End with the peer's reset: tell the near side.
    ResetByPeer,
    /// Tell the peer on this link how the session ended here.
    Farewell,
    /// The peer knows; nothing is left to tell.
    LetGo,
}

impl State {
    /// The whole machine: the next state and what to do, or nothing if the event means nothing
    /// here.
    pub fn on(self, event: StateEvent, dialing: Dialing) -> Option<(State, Action)> {
        match self {
            State::Active => active(event, dialing),
            State::ReadyResume => ready_resume(event, dialing),
            State::SentResume => sent_resume(event, dialing),
            State::Suspended => suspended(event, dialing),
            State::Closed => closed(event, dialing),
        }
    }
}

fn active(event: StateEvent, dialing: Dialing) -> Option<(State, Action)> {
    use Action::*;
    use State::*;
    use StateEvent::*;
    match (event, dialing) {
        (LinkLost, _) => Some((ReadyResume, Detach)), // T1
        (UserSuspend, _) => Some((Suspended, SendSuspend)), // T2
        (PeerResume, _) => Some((Active, AcceptResume)), // T3, T10
        (PeerSuspend, _) => Some((ReadyResume, DetachAndWait)), // T4
        // Make before break: the old link goes on until the new one is up.
        (PathChanged | RetryDue, Dialing::Dialer) => Some((Active, Dial)),
        (LinkUp, Dialing::Dialer) => Some((SentResume, StartAttempt)), // T12
        (PeerResumeStale, _) => Some((Active, DenyStale)),
        (PeerResumeMisfit, _) => Some((ReadyResume, DenyMismatch)),
        (PeerReset, _) => Some((Closed, ResetByPeer)),
        (Finished, _) => Some((Closed, Finish)),
        (Abort, _) => Some((Closed, Reset)),
        (PathChanged | RetryDue | LinkUp, Dialing::Listener) => None,
        (UserResume | PeerAccepts | PeerWaits | PeerAhead | PeerRefuses | PeerClosed, _) => None,
    }
}

fn ready_resume(event: StateEvent, dialing: Dialing) -> Option<(State, Action)> {
    use Action::*;
    use State::*;
    use StateEvent::*;
    match (event, dialing) {
        (UserSuspend, _) => Some((Suspended, Halt)),     // T5
        (PeerResume, _) => Some((Active, AcceptResume)), // T6, T10
        (PathChanged | RetryDue, Dialing::Dialer) => Some((ReadyResume, Dial)), // T7
        (LinkUp, Dialing::Dialer) => Some((SentResume, StartAttempt)), // T7, T12
        (PeerResumeStale, _) => Some((ReadyResume, DenyStale)),
        (PeerResumeMisfit, _) => Some((ReadyResume, DenyMismatch)),
        (PeerReset, _) => Some((Closed, ResetByPeer)),
        (Finished, _) => Some((Closed, Finish)),
        (Abort, _) => Some((Closed, Reset)),
        (PathChanged | RetryDue | LinkUp, Dialing::Listener) => None,
        (LinkLost | UserResume | PeerSuspend, _) => None,
        (PeerAccepts | PeerWaits | PeerAhead | PeerRefuses | PeerClosed, _) => None,
    }
}

fn sent_resume(event: StateEvent, dialing: Dialing) -> Option<(State, Action)> {
    use Action::*;
    use State::*;
    use StateEvent::*;
    match (event, dialing) {
        (UserSuspend, _) => Some((Suspended, Halt)),  // T5
        (LinkLost, _) => Some((ReadyResume, Detach)), // T11, T13
        (PeerAccepts, _) => Some((Active, Adopt)),    // T14
        (PeerWaits, _) => Some((ReadyResume, DetachAndWait)), // T15
        (PathChanged | RetryDue, Dialing::Dialer) => Some((SentResume, Dial)), // T16
        (LinkUp, Dialing::Dialer) => Some((SentResume, StartAttempt)), // T16, T12
        (PeerResumeStale, _) => Some((SentResume, DenyCollision)), // T17
        (PeerResume, _) => Some((Active, AcceptResume)), // T18, T10
        (PeerAhead, _) => Some((ReadyResume, DetachAndRetry)),
        (PeerRefuses, _) => Some((ReadyResume, DetachRefused)),
        (PeerResumeMisfit, _) => Some((ReadyResume, DenyMismatch)),
        (PeerClosed, _) => Some((Closed, Finish)),
        (PeerReset, _) => Some((Closed, ResetByPeer)),
        (Finished, _) => Some((Closed, Finish)),
        (Abort, _) => Some((Closed, Reset)),
        (PathChanged | RetryDue | LinkUp, Dialing::Listener) => None,
        (UserResume | PeerSuspend, _) => None,
    }
}

fn suspended(event: StateEvent, dialing: Dialing) -> Option<(State, Action)> {
    use Action::*;
    use State::*;
    use StateEvent::*;
    match (event, dialing) {
        (PeerResume, _) if mutant!(SuspendedAccepts, false, true) => Some((Active, AcceptResume)),
        // T8
        (PeerResume | PeerResumeStale | PeerResumeMisfit, _) => Some((Suspended, DenySuspended)),
        (UserResume, Dialing::Dialer) => Some((ReadyResume, Dial)), // T9
        (UserResume, Dialing::Listener) => Some((ReadyResume, Await)), // T9
        (PeerReset, _) => Some((Closed, ResetByPeer)),
        (Finished, _) => Some((Closed, Finish)),
        (Abort, _) => Some((Closed, Reset)),
        (LinkUp | LinkLost | PathChanged | RetryDue | UserSuspend | PeerSuspend, _) => None,
        (PeerAccepts | PeerWaits | PeerAhead | PeerRefuses | PeerClosed, _) => None,
    }
}

fn closed(event: StateEvent, dialing: Dialing) -> Option<(State, Action)> {
    use Action::*;
    use State::*;
    use StateEvent::*;
    match (event, dialing) {
        (PeerResume | PeerResumeStale | PeerResumeMisfit, _) => Some((Closed, DenyEnded)),
        (LinkLost, _) => Some((Closed, Detach)),
        (PathChanged | RetryDue, Dialing::Dialer) => Some((Closed, Dial)),
        (LinkUp, Dialing::Dialer) => Some((Closed, Farewell)),
        (PeerReset | PeerClosed | Finished, _) => Some((Closed, LetGo)),
        (PathChanged | RetryDue | LinkUp, Dialing::Listener) => None,
        (UserSuspend | UserResume | PeerSuspend | Abort, _) => None,
        (PeerAccepts | PeerWaits | PeerAhead | PeerRefuses, _) => None,
    }
}

#[cfg(test)]
mod tests;
