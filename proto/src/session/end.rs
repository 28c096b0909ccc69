//! [`Session`]: what it is made of, how it begins, and what can be asked of it.

use core::time::Duration;

use super::announcing::Announcing;
use super::clock::{Clock, Timer};
use super::ending::Ending;
use super::journal::{HeldTicket, Journal};
use super::links::{Beside, Links, Pace};
use super::outbox::{Control, Outbox};
use super::receive::Receiving;
use super::send::Sending;
use super::{Attempt, ClosedWhy, Limits, LinkId, Positions, StartAt};
use crate::budget::Level;
use crate::class::Class;
use crate::cut::{Cut, Cuts};
use crate::handle::Handle;
use crate::mutant::mutant;
use crate::role::Role;
use crate::seam::Seam;
use crate::state::State;
use crate::time::Instant;
use crate::trickle;
use crate::wire::{Connect, Destination, ResumeDenial, Upkeep};

/// One end of a session.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Session {
    pub(super) state: State,
    pub(super) role: Role,
    pub(super) limits: Limits,
    /// SH_A and SH_B: the handles that name this session at the two ends.
    pub(super) initiator: Handle,
    pub(super) acceptor: Handle,
    pub(super) service: Box<str>,
    pub(super) grant: Option<Box<[u8]>>,
    /// Initiator: where the app wants to go (R110).
    pub(super) destination: Option<(Box<str>, u16)>,
    pub(super) endpoint: Box<str>,
    pub(super) server: Box<str>,
    /// Initiator: a CONNECT was answered. Acceptor: true from the start.
    pub(super) established: bool,
    /// The features of the peer (R6): an acceptor has them from CONNECT, an initiator from
    /// CONNECT_OK.
    pub(super) peer_features: u32,
    /// Initiator: the rate that the session is used to, in bytes a second; 0: not known.
    pub(super) rate_wanted: u64,
    /// How long it is kept without a link, as both ends have agreed (R72).
    pub(super) hold: Duration,
    /// What was granted, and how long the peer keeps it through a suspension; none before that is
    /// known, and if the peer knows of no such thing (R74, R75).
    pub(super) upkeep: Option<Upkeep>,
    /// Acceptor: the initiator was heard after its CONNECT. Initiator: a CONNECT went out.
    pub(super) confirmed: bool,
    pub(super) epoch: u32,
    /// R131: it was carried here, and no far end has taken it since.
    pub(super) carried: bool,
    /// Acceptor: the positions at which this end began.
    pub(super) start: StartAt,
    pub(super) links: Links,
    pub(super) send: Sending,
    pub(super) receive: Receiving,
    /// How short of memory the daemon is.
    pub(super) level: Level,
    pub(super) cuts: Cuts,
    /// Bytes moved since the last cut, and whether one is due for another reason.
    pub(super) uncut: u64,
    pub(super) cut_due: bool,
    /// An acknowledgement is due; `ask_due`: one that asks for an answer (R70).
    pub(super) ack_due: bool,
    pub(super) ask_due: bool,
    pub(super) near_gone: bool,
    pub(super) journal: Journal,
    pub(super) announcing: Announcing,
    pub(super) held: Option<Box<HeldTicket>>,
    /// The attempt at another server while the old link goes on (R65).
    pub(super) beside: Option<Box<Beside>>,
    pub(super) seam: Option<Box<Seam>>,
    pub(super) ending: Ending,
    pub(super) outbox: Outbox,
    pub(super) clock: Clock,
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
        session.await_link(now, Pace::Now);
        session
    }

    /// Sets the gateway's ticket, which CONNECT shows as long as the session has none of its own.
    /// Call it before the first link is up. A ticket that is too long for a CONNECT is left out.
    pub fn show_grant(&mut self, grant: &[u8]) {
        let fits = (1..=crate::wire::GRANT_MAX).contains(&grant.len());
        self.grant = fits.then(|| grant.into());
    }

    /// Initiator: has every CONNECT say where the app wants to go (R110). Call it before the first
    /// link is up.
    pub fn lead_to(&mut self, destination: Destination<'_>) {
        self.destination = Some((destination.host.into(), destination.port));
    }

    /// Initiator: where the app wants to go, if that is said.
    #[must_use]
    pub fn destination(&self) -> Option<Destination<'_>> {
        self.destination.as_ref().map(|(host, port)| Destination { host, port: *port })
    }

    /// The server's end of a session that `connect` opens or brings over. Queues CONNECT_OK on
    /// `link`.
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
        session.agree_on(connect.hold.unwrap_or(Duration::MAX), connect.upkeep);
        session.send.limit = at.down.saturating_add(connect.window);
        session.links.begin(link);
        session.attach(now, link, Attempt::Connect, 0);
        session.outbox.frame(link, Control::ConnectOk);
        session
    }

    pub(super) fn new(
        now: Instant,
        limits: Limits,
        role: Role,
        own: Handle,
        start: StartAt,
    ) -> Session {
        let (low, _) = own.0.split_first_chunk::<8>().expect("a handle has 16 bytes");
        let seed = u64::from_be_bytes(*low);
        let window = limits.window_first.min(limits.receive_buffer_max);
        Session {
            state: State::ReadyResume,
            role,
            initiator: Handle::NONE,
            acceptor: Handle::NONE,
            service: "".into(),
            grant: None,
            destination: None,
            endpoint: "".into(),
            server: "".into(),
            established: false,
            peer_features: 0,
            rate_wanted: 0,
            hold: limits.hold,
            upkeep: None,
            confirmed: false,
            epoch: 0,
            carried: false,
            start,
            links: Links::default(),
            send: Sending::new(start.down, start.down, limits.chunk),
            receive: Receiving::new(start.up, window, limits.chunk),
            level: Level::default(),
            cuts: Cuts::start(start.down, start.up),
            uncut: 0,
            cut_due: false,
            ack_due: false,
            ask_due: false,
            near_gone: false,
            journal: Journal::default(),
            announcing: Announcing::default(),
            held: None,
            beside: None,
            seam: None,
            ending: Ending::default(),
            outbox: Outbox::default(),
            clock: Clock::new(now, seed),
            limits,
        }
    }

    /// R72: both ends keep the session without a link for as long as the one that keeps it shorter.
    /// R74: an acceptor grants what is asked for, or the best it has.
    pub(super) fn agree_on(&mut self, theirs: Duration, upkeep: Option<Upkeep>) {
        self.hold = mutant!(HoldForgotten, self.limits.hold.min(theirs), self.limits.hold);
        let class = |class: Class| mutant!(ClassUnbounded, class.min(self.limits.class), class);
        self.upkeep = upkeep.map(|upkeep| Upkeep { class: class(upkeep.class), ..upkeep });
    }

    /// How well the session is kept, as was granted (R74).
    #[must_use]
    pub fn class(&self) -> Class {
        self.upkeep.map_or(Class::Temporary, |upkeep| upkeep.class)
    }

    /// How long it is kept without a link, as both ends have agreed (R72).
    #[must_use]
    pub fn hold(&self) -> Duration {
        self.hold
    }

    /// Until when this end is suspended, or the peer, if that has an end (R75).
    #[must_use]
    pub fn suspended_until(&self) -> Option<Instant> {
        self.clock.at(Timer::Wake).or(self.clock.away)
    }

    /// When it is given up, unless there is a link before (R72).
    #[must_use]
    pub fn kept_until(&self) -> Option<Instant> {
        self.clock.at(Timer::Hold)
    }

    /// Takes the transition of the state table for `event`. The caller carries the action out.
    pub(super) fn step(&mut self, event: crate::state::StateEvent) -> Option<crate::state::Action> {
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

    /// The bounds and times of this session.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// The number of questions on the attached link that were not answered yet (R70).
    #[must_use]
    pub fn unanswered(&self) -> u8 {
        self.clock.asked
    }

    /// Whether nobody is there at the other end, as far as is known: there is no link, or a
    /// question on it is overdue (R70, R38).
    #[must_use]
    pub fn is_away(&self, now: Instant) -> bool {
        let overdue = self.clock.asked > 0 && now - self.clock.asked_first >= trickle::OVERDUE;
        self.links.attached.is_none() || overdue
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

    /// The highest epoch seen or used.
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

    /// The bytes held in the buffers: (send, receive).
    pub fn buffered(&self) -> (usize, usize) {
        (self.send.buffer.len(), self.receive.buffer.len())
    }

    /// The memory held by both buffers, used or spare.
    pub fn memory(&self) -> usize {
        self.send.buffer.memory() + self.receive.buffer.memory()
    }

    /// What this session costs its daemon: the memory that it holds, and what it has promised to
    /// take.
    pub fn cost(&self) -> u64 {
        self.memory() as u64 + self.receive.promised()
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

    /// The endpoint that asked for the session.
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
