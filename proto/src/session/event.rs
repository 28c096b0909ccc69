//! What goes into a session and what comes out: the contract with its driver.

use core::time::Duration;

use crate::cut::Cut;
use crate::handle::Handle;
use crate::time::Instant;
use crate::wire::{DenyReason, ResumeDenial, TransferReason};

/// A link's number, given by the driver. Numbers grow and are never used twice.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct LinkId(pub u64);

/// Where a new link leads.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum Peer {
    /// To the server that holds the session (or, before it is established, any).
    Same,
    /// To another one: the session is transferred.
    Other,
}

/// What happened.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum Input {
    /// The link asked for by [`Output::Dial`] is there. (Ignored by an acceptor: its links come
    /// with their first record.)
    LinkUp {
        /// The number that the driver gave it.
        link: LinkId,
        /// Where it leads.
        peer: Peer,
    },
    /// Bytes came in on the link, though no whole record yet: a sign of life.
    LinkAlive {
        /// The number that the driver gave it.
        link: LinkId,
    },
    /// The link broke or ended.
    LinkLost {
        /// The number that the driver gave it.
        link: LinkId,
    },
    /// The dial came to nothing.
    DialFailed,
    /// A path appeared or the address changed. If the driver knows that the attached link is dead,
    /// it says [`Input::LinkLost`] first.
    PathChanged,
    /// The near side ended its stream.
    NearFin,
    /// The near side aborted.
    NearReset,
    /// The near side closed both ways: nobody reads any more.
    NearGone,
    /// The user stops the session.
    Suspend {
        /// For so long, or for as long as the peer keeps it if that is shorter; none: until the
        /// user lets it go on.
        lasts: Option<Duration>,
    },
    /// The user lets it go on.
    Resume,
    /// The session must end now.
    Abort {
        /// The reason ([`super::code`]); the peer is told.
        code: u32,
    },
    /// The driver chose another server, or wants an attempt at once.
    Retry,
    /// The deadline of [`Output::Wait`] passed.
    Timeout,
}

/// What the driver is to do.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Output {
    /// One frame was appended to `out`; send it on `link`.
    Frame {
        /// The link to send it on.
        link: LinkId,
    },
    /// Bring a link up. Replaces a dial under way. Answer: LinkUp or DialFailed.
    Dial,
    /// The session is done with the link.
    Detach {
        /// The link that is let go.
        link: LinkId,
        /// What becomes of it.
        how: Detach,
    },
    /// End the stream towards the app or the service.
    ShutNear(ShutNear),
    /// Something that the status and the log show, and that the driver may decide about.
    Event(Event),
    /// There is nothing more to do now; say [`Input::Timeout`] at the deadline.
    Wait(Option<Instant>),
}

/// What becomes of a link the session is done with.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum Detach {
    /// Close it at once.
    Close,
    /// Flush, shut down writing, read to the end, close (R26).
    Linger,
    /// Nothing of this session is in flight on it in either direction: another session may use
    /// it (R52).
    Reuse,
}

/// How the near side ends.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum ShutNear {
    /// End of stream; the other direction goes on.
    Fin,
    /// Abort.
    Reset {
        /// The reason ([`super::code`]).
        code: u32,
    },
}

/// Kinds of attempts.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum Attempt {
    /// The session begins.
    Connect,
    /// It goes on at the same server.
    Resume,
    /// It goes on at another one.
    Transfer,
}

/// Why a link was lost.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum LostCause {
    /// The driver said so.
    Broken,
    /// No sign of life came for too long (R70).
    Silent,
    /// An attempt was not answered in time.
    Unanswered,
    /// While another server was asked, the stream went on to an exchange that this server was not
    /// told of. The attached link goes on.
    Overtaken,
}

/// An attempt was refused.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Denied {
    /// CONNECT_DENIED.
    Connect {
        /// [`Attempt::Connect`] or [`Attempt::Transfer`].
        attempt: Attempt,
        /// The reason, as CONNECT_DENIED names it.
        why: DenyReason,
        /// How long the server wants to be left alone; zero: it did not say.
        retry_after: Duration,
        /// The reason in words, for a person.
        text: String,
    },
    /// RESUME_DENIED, or an answer whose positions do not fit (mismatch).
    Resume(ResumeDenial),
}

/// How a session ended.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum ClosedWhy {
    /// Every byte and both ends of stream arrived.
    Clean,
    /// Aborted at this end.
    ResetHere {
        /// The reason ([`super::code`]).
        code: u32,
    },
    /// Aborted at the other end.
    ResetByPeer {
        /// The reason ([`super::code`]).
        code: u32,
    },
}

/// What the driver should know.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Event {
    /// Initiator: the first CONNECT_OK came.
    Established {
        /// The server's name.
        server: String,
    },
    /// An attempt was refused. The session waits, and probes slowly; [`Input::Retry`],
    /// [`Input::Abort`] or a new link ends that.
    Denied(Denied),
    /// A link is attached.
    Attached {
        /// The link that data moves on from now on.
        link: LinkId,
        /// The kind of attempt that brought it.
        attempt: Attempt,
        /// Time without a link before; zero for the first.
        gap: Duration,
        /// Bytes this end sends again.
        again: u64,
        /// This end's receive position.
        received: u64,
    },
    /// Initiator: a transfer succeeded; the old server may be told CLOSE RST with these handles.
    Moved {
        /// SH_B at the old server.
        old: Handle,
        /// It was told on its link, which still worked.
        told: bool,
    },
    /// The attached link, or that of an attempt, is gone.
    Lost {
        /// The link that is gone.
        link: LinkId,
        /// How that was found out.
        cause: LostCause,
    },
    /// The session is suspended.
    Suspended {
        /// Whose user did it.
        by_peer: bool,
        /// For how long, if that is known.
        lasts: Option<Duration>,
    },
    /// The time for which the user at this end had suspended it is over: it goes on.
    Woken,
    /// Both ends hold this cut.
    Acknowledged(Cut),
    /// Initiator: a newer ticket is held.
    TicketStored {
        /// Up position it covers.
        covers: u64,
        /// Whether it allows a transfer.
        transferable: bool,
    },
    /// Initiator: the server wants to be left.
    TransferWanted {
        /// What the server gave as its reason.
        reason: TransferReason,
        /// The reason in words, for a person.
        text: String,
    },
    /// Acceptor: the broker was asked to go elsewhere.
    LeaveAsked,
    /// Acceptor: the broker stays.
    Stays {
        /// What the broker gave as its reason.
        reason: TransferReason,
    },
    /// Initiator: the server gave a pass, which opens the way to it through other servers of the
    /// cluster (R80).
    PassGiven {
        /// The pass, sealed.
        pass: Box<[u8]>,
    },
    /// The peer has received everything, and the end of the stream.
    EndReceived,
    /// The session is over and nothing is left to tell the peer. The last event.
    Closed {
        /// How it ended, and by whose doing.
        why: ClosedWhy,
    },
}
