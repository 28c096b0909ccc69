//! One end of a session: the pure core that joins a near side (app or service) and links.
//!
//! The driver tells it what happened (`handle_input`, `handle_record`), moves bytes (`fill`,
//! `deliver`) and then drains `poll_output` until it says [`Output::Wait`]. Nothing here waits, asks
//! for the time or touches the kernel. The same functions are stepped by the model checker with
//! limits of a few bytes; two ends that hold the same bytes in the same state are equal and hash
//! alike, whatever the clock says.
//!
//! Files by noun: `send` and `receive` are the two streams, `attempt` how links begin, `record` what
//! comes in, `output` what goes out, `near` the app or service, `close` all endings, `transfer`
//! tickets and the way to another server, `beside` that way while the old link still works, `journal` the tickets of an acceptor, `clock` all time.
//! Rule numbers (R..) are those of PROTOCOL.md.

mod attempt;
mod beside;
mod clock;
mod close;
mod event;
mod input;
mod journal;
mod limit;
#[cfg(feature = "model")]
mod model;
mod near;
mod outbox;
mod output;
mod receive;
mod record;
mod send;
mod transfer;

#[cfg(test)]
mod tests;

pub use event::{
    Attempt, ClosedWhy, Denied, Detach, Event, Input, LinkId, LostCause, Output, Peer, ShutNear,
};
pub use limit::Limits;

#[cfg(feature = "model")]
pub use clock::Timer;
#[cfg(feature = "model")]
pub use crate::mutant::Mutant;

use beside::Beside;
use clock::Clock;
use close::Ending;
use journal::Journal;
use outbox::{Control, Outbox};
use receive::Receiving;
use send::Sending;
use transfer::HeldTicket;

use crate::mutant::mutant;

use crate::cut::{Cut, CutError, Cuts};
use crate::handle::Handle;
use crate::role::Role;
use crate::seam::Seam;
use crate::state::State;
use crate::time::Instant;
use crate::wire::{Connect, ResumeDenial, WireError};

/// Why a session was reset (CLOSE RST).
pub mod code {
    /// The near side aborted.
    pub const NEAR_RESET: u32 = 1;
    /// The near side is gone and nobody reads what comes.
    pub const NEAR_GONE: u32 = 2;
    /// A user or operator ended the session.
    pub const USER: u32 = 3;
    /// No link for longer than the hold time.
    pub const HOLD: u32 = 4;
    /// The peer broke the protocol.
    pub const PROTOCOL: u32 = 5;
    /// The session went to another server.
    pub const MOVED: u32 = 6;
    /// The server's service failed.
    pub const SERVICE: u32 = 7;
    /// No server can continue the session.
    pub const NO_SERVER: u32 = 8;
    /// The daemon is stopping.
    pub const SHUTDOWN: u32 = 9;
    /// The peer ended the session without having everything.
    pub const LOST: u32 = 10;
}

/// Where a new acceptor begins: 0, 0 for a new session; at a transfer the position the ticket
/// covers and the broker's receive position.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct StartAt {
    /// First up byte wanted.
    pub up: u64,
    /// First down byte sent.
    pub down: u64,
}

/// A ticket for the broker (D4).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct TicketOffer {
    /// Down position before whose DATA it is sent.
    pub at: u64,
    /// Up position it covers.
    pub covers: u64,
    /// First down position that can be compared on a replica.
    pub seam_from: u64,
    /// Whether it allows a transfer.
    pub transferable: bool,
    /// Sealed bytes, at most [`crate::wire::TICKET_MAX`].
    pub ticket: Vec<u8>,
}

/// All positions of one end.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Positions {
    /// Send: freed below.
    pub una: u64,
    /// Send: next to transmit.
    pub nxt: u64,
    /// Send: highest transmitted.
    pub max: u64,
    /// Send: taken from the near side.
    pub end: u64,
    /// Send: the peer has received this much.
    pub heard: u64,
    /// Send: the peer's limit.
    pub limit: u64,
    /// Receive: given to the near side.
    pub delivered: u64,
    /// Receive: received.
    pub received: u64,
    /// Receive: what the peer may free (D3).
    pub acked: u64,
    /// Receive: limit told to the peer.
    pub told: u64,
}

/// Why a session cannot be transferred now.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum WhyNot {
    /// Not established.
    #[error("not established yet")]
    NotEstablished,
    /// No ticket was given, and something was already exchanged.
    #[error("the server gave no ticket")]
    NoTicket,
    /// The newest ticket says so.
    #[error("the server says that it cannot be transferred")]
    NotTransferable,
    /// Up bytes the ticket does not cover are already freed.
    #[error("up bytes from {covers} on are needed, kept are those from {kept} on")]
    Freed {
        /// Covered by the ticket.
        covers: u64,
        /// First byte kept.
        kept: u64,
    },
    /// It has ended.
    #[error("closed")]
    Closed,
}

/// The peer broke the protocol. The session has reset itself; nothing else is harmed.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum PeerMisbehaved {
    /// Not frames.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// Checkpoint rules broken.
    #[error(transparent)]
    Cut(#[from] CutError),
    /// DATA does not continue the stream.
    #[error("peer sent data at position {position}, {expected} is next")]
    WrongPosition {
        /// Received.
        position: u64,
        /// Next in line.
        expected: u64,
    },
    /// DATA beyond the limit told.
    #[error("peer sent data up to position {end}, its limit is {limit}")]
    WindowExceeded {
        /// End of the data.
        end: u64,
        /// Limit.
        limit: u64,
    },
    /// DATA after FIN.
    #[error("peer sent data at position {position}, after the end of its stream")]
    DataAfterFin {
        /// Position.
        position: u64,
    },
    /// FIN elsewhere than at the end.
    #[error("peer ended its stream at position {position}, received are {expected}")]
    WrongFin {
        /// Received.
        position: u64,
        /// Where the stream ends.
        expected: u64,
    },
    /// An urgent byte that came already, lies beyond the limit or behind the end.
    #[error("peer announced an urgent byte at position {position}, received are {received}")]
    WrongUrgent {
        /// Announced.
        position: u64,
        /// Received.
        received: u64,
    },
    /// Acknowledges what was not sent.
    #[error("peer acknowledged position {position}, sent are {sent}")]
    AckedUnsent {
        /// Acknowledged.
        position: u64,
        /// Sent.
        sent: u64,
    },
    /// A checkpoint at another position than the stream's.
    #[error("peer put a checkpoint at {position}, received are {received}")]
    WrongCheckpoint {
        /// The peer's sent position.
        position: u64,
        /// Received.
        received: u64,
    },
    /// A ticket whose place or cover is ahead of the streams.
    #[error("peer sent a ticket for position {position}, the stream is at {reached}")]
    WrongTicket {
        /// Position in the ticket.
        position: u64,
        /// Where the stream is.
        reached: u64,
    },
    /// An answer to another attempt.
    #[error("peer answered attempt {got}, under way is {expected}")]
    WrongEpoch {
        /// Received.
        got: u32,
        /// Under way.
        expected: u32,
    },
    /// A frame that has no place here.
    #[error("peer sent a frame of type {0}, which has no place here")]
    Unexpected(&'static str),
}

/// The links of a session (R1).
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
struct Links {
    /// Data moves here.
    attached: Option<LinkId>,
    /// An attempt is under way here.
    trying: Option<(LinkId, Attempt)>,
    /// No link with this number or a smaller one begins any more.
    newest: Option<LinkId>,
    /// The driver was asked for a link.
    dialing: bool,
}

impl Links {
    /// The link that is spoken on.
    fn current(&self) -> Option<LinkId> {
        self.attached.or(self.trying.map(|(link, _)| link))
    }

    /// Takes note of a new link; false if its number is not new.
    fn begin(&mut self, link: LinkId) -> bool {
        let new = self.newest.is_none_or(|newest| link > newest);
        if new {
            self.newest = Some(link);
        }
        new
    }
}

/// One end of a session.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Session {
    state: State,
    role: Role,
    limits: Limits,
    /// SH_A and SH_B.
    initiator: Handle,
    acceptor: Handle,
    service: Box<str>,
    grant: Option<Box<[u8]>>,
    endpoint: Box<str>,
    server: Box<str>,
    /// Initiator: a CONNECT was answered. Acceptor: from the start.
    established: bool,
    /// What the peer said that it can: acceptor, in CONNECT; initiator, in CONNECT_OK.
    peer_features: u32,
    /// Initiator: what the session is used to get, bytes a second; 0: not known.
    rate_wanted: u64,
    /// Acceptor: the initiator was heard after its CONNECT. Initiator: a CONNECT went out.
    confirmed: bool,
    epoch: u32,
    /// Where this end began (acceptor).
    start: StartAt,
    links: Links,
    send: Sending,
    receive: Receiving,
    cuts: Cuts,
    /// Bytes moved since the last cut, and whether one is due for another reason.
    uncut: u64,
    cut_due: bool,
    /// An acknowledgement is due; one with a question.
    ack_due: bool,
    ask_due: bool,
    near_gone: bool,
    journal: Journal,
    held: Option<Box<HeldTicket>>,
    /// Another server is asked while the old link goes on.
    beside: Option<Box<Beside>>,
    seam: Option<Box<Seam>>,
    ending: Ending,
    outbox: Outbox,
    clock: Clock,
}

impl Session {
    /// The broker's end of a new session.
    pub fn initiate(
        now: Instant,
        limits: Limits,
        handle: Handle,
        service: &str,
        endpoint: &str,
    ) -> Session {
        assert!(!handle.is_none(), "a handle is random");
        let mut session = Session::new(now, limits, Role::BROKER, handle, StartAt::default());
        session.initiator = handle;
        session.service = service.into();
        session.endpoint = endpoint.into();
        session.send.limit = 0;
        session.await_link(now, attempt::Pace::Now);
        session
    }

    /// The gateway's ticket, which a CONNECT shows as long as the session has none of its own.
    /// To be called before the first link is up; a ticket too long for a CONNECT is left out.
    pub fn show_grant(&mut self, grant: &[u8]) {
        let fits = (1..=crate::wire::GRANT_MAX).contains(&grant.len());
        self.grant = fits.then(|| grant.into());
    }

    /// The server's end; queues CONNECT_OK on `link`.
    pub fn accept(
        now: Instant,
        limits: Limits,
        link: LinkId,
        own: Handle,
        connect: &Connect<'_>,
        at: StartAt,
        server_id: &str,
    ) -> Session {
        assert!(!own.is_none(), "a handle is random");
        let mut session = Session::new(now, limits, Role::SERVER, own, at);
        session.state = State::Active;
        session.initiator = connect.handle;
        session.acceptor = own;
        session.service = connect.service.into();
        session.endpoint = connect.endpoint.into();
        session.server = server_id.into();
        session.established = true;
        session.epoch = connect.epoch;
        session.peer_features = connect.features;
        session.send.limit = at.down.saturating_add(connect.window);
        session.links.begin(link);
        session.attach(now, link, Attempt::Connect, 0);
        session.outbox.frame(link, Control::ConnectOk);
        session
    }

    fn new(now: Instant, limits: Limits, role: Role, own: Handle, start: StartAt) -> Session {
        let (low, _) = own.0.split_first_chunk::<8>().expect("a handle has 16 bytes");
        let seed = u64::from_be_bytes(*low);
        Session {
            state: State::ReadyResume,
            role,
            initiator: Handle::NONE,
            acceptor: Handle::NONE,
            service: "".into(),
            grant: None,
            endpoint: "".into(),
            server: "".into(),
            established: false,
            peer_features: 0,
            rate_wanted: 0,
            confirmed: false,
            epoch: 0,
            start,
            links: Links::default(),
            send: Sending::new(start.down, start.down, limits.chunk),
            receive: Receiving::new(start.up, limits.receive_buffer_max, limits.chunk),
            cuts: Cuts::start(start.down, start.up),
            uncut: 0,
            cut_due: false,
            ack_due: false,
            ask_due: false,
            near_gone: false,
            journal: Journal::default(),
            held: None,
            beside: None,
            seam: None,
            ending: Ending::default(),
            outbox: Outbox::default(),
            clock: Clock::new(now, seed),
            limits,
        }
    }

    /// Takes the machine's transition for `event`; the caller does what it says.
    fn step(&mut self, event: crate::state::StateEvent) -> Option<crate::state::Action> {
        let (next, action) = self.state.on(event, self.role.dialing)?;
        self.state = next;
        Some(action)
    }

    /// The state.
    pub fn state(&self) -> State {
        self.state
    }

    /// What this end does that the other does not.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Bounds and times.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Questions on the attached link that were not answered yet (R70).
    #[must_use]
    pub fn unanswered(&self) -> u8 {
        self.clock.asked
    }

    /// All positions.
    pub fn positions(&self) -> Positions {
        Positions {
            una: self.send.una(),
            nxt: self.send.nxt,
            max: self.send.max,
            end: self.send.end(),
            heard: self.send.heard,
            limit: self.send.limit,
            delivered: self.receive.delivered(),
            received: self.receive.received,
            acked: self.receive.acked(),
            told: self.receive.told_limit,
        }
    }

    /// (SH_A, SH_B); SH_B is [`Handle::NONE`] before it is known.
    pub fn handles(&self) -> (Handle, Handle) {
        (self.initiator, self.acceptor)
    }

    /// Highest epoch seen or used.
    pub fn epoch(&self) -> u32 {
        self.epoch
    }

    /// The newest cut known to be held by both ends; none before the first CONNECT_OK.
    pub fn last_checkpoint(&self) -> Option<Cut> {
        self.established.then(|| self.cuts.agreed())
    }

    /// The two newest cuts and how far they are agreed, for checkers.
    pub fn cuts(&self) -> &Cuts {
        &self.cuts
    }

    /// (send, receive) bytes held.
    pub fn buffered(&self) -> (usize, usize) {
        (self.send.buffer.len(), self.receive.buffer.len())
    }

    /// Memory held by both buffers, used or spare.
    pub fn memory(&self) -> usize {
        self.send.buffer.memory() + self.receive.buffer.memory()
    }

    /// The attached link.
    pub fn link(&self) -> Option<LinkId> {
        self.links.attached
    }

    /// The server's name once established.
    pub fn server(&self) -> &str {
        &self.server
    }

    /// The service asked for.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// The endpoint that asked.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// Whether the first CONNECT was answered.
    pub fn is_established(&self) -> bool {
        self.established
    }

    /// Whether [`Event::Closed`] was queued: once it is polled, the session can be dropped.
    pub fn is_over(&self) -> bool {
        self.ending.over
    }

    /// What a tombstone of this session answers to a late RESUME: highest epoch, and why.
    pub fn epitaph(&self) -> Option<(u32, ResumeDenial)> {
        mutant!(NoTombstone => return None);
        let denial = match self.ending.why? {
            ClosedWhy::Clean => ResumeDenial::Closed { received: self.receive.received },
            ClosedWhy::ResetHere { code } | ClosedWhy::ResetByPeer { code } => {
                ResumeDenial::Reset { code }
            }
        };
        Some((self.epoch, denial))
    }
}
