//! The far side of a session: tells its course what happens, and does what the course says.
//!
//! The decisions are [`stp_proto::course`]'s. Everything that takes time (a dial, a measurement, a
//! look at another way) is a future that the session's own loop polls; there is no task that posts
//! back to it. What dials and measures is a [`Means`]: the broker's own
//! (`means.rs`), or that of a simulation.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use stp_drive::{Act, Carrier, DialFailed, Dialed, Far, path_sample};
use stp_net::link::TcpInfo;
use stp_proto::course::{
    Action, AppError, Around, Course, Deadlines, Denial, Dial, GaveUp, Measured, Prepared, Relay,
    Target,
};
use stp_proto::rise::{RiseWatch, Rule, Way};
use stp_proto::select::{Rank, Rejection, Want};
use stp_proto::session::{Attempt, Denied, Event, LostCause, Peer, Session, WhyNot, code};
use stp_proto::time::Instant;
use stp_proto::wire::{
    Announcement, Belongs, Connect, ConnectMode, PrepareRequest, ResetFrame, TransferReason,
    VERSION,
};
use tokio::sync::mpsc;

use crate::entry::Order;

/// What a dial has come to.
pub enum Found<L> {
    /// A link.
    Link(Target, Box<L>),
    /// The server to which a move was decided gave none in time.
    Unreached(Rank),
    /// There is none by the way that was decided; says why.
    NoTurn(String),
    /// No server could be had at all.
    NoServer(GaveUp),
}

/// What was found out in a while.
pub enum Learned {
    /// Servers were measured.
    Servers(Vec<Measured<Rank>>),
    /// Ways to the home were measured.
    Ways(Vec<Measured<Option<Relay>>>),
}

/// Something for the log or the session's history.
pub enum Note {
    /// For the log: what is about to happen, and why.
    Log(&'static str, String),
    /// What happened, and why.
    Happened(&'static str, String),
    /// The session has a link.
    Linked {
        /// How it came to it.
        attempt: Attempt,
        /// The server before.
        from: Option<Rank>,
        /// The server now.
        to: Option<Rank>,
        /// For how long nothing can have come through.
        gap: Duration,
        /// Why there was none.
        cause: String,
    },
    /// A server refused.
    Refused(Rejection),
    /// No server can go on with it; why, for the app and for a person.
    GaveUp(AppError, String),
}

/// Where a session stands, for those outside its loop.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Stands {
    /// The server that holds it, or did last.
    pub server: Option<Rank>,
    /// The server through which its link goes; none: straight.
    pub via: Option<Relay>,
    /// Where its link, or that of an attempt, leaves this machine.
    pub local: Option<SocketAddr>,
    /// Whether it has a link.
    pub attached: bool,
}

/// What the far side of a session works with: dials, measurements, lists that all sessions share.
/// Nothing here decides.
pub trait Means: Around {
    /// What carries the session.
    type Link: Carrier;
    /// A dial under way. Dropping it ends the attempt.
    type Dialing: Future<Output = Found<Self::Link>> + Unpin;
    /// A measurement under way.
    type Measuring: Future<Output = Learned> + Unpin;
    /// A look, after a while, at the present way and at the straight one.
    type Looking: Future<Output = (Way, Way)> + Unpin;

    /// Begins to bring up a link.
    fn dial(&self, now: Instant, dial: Dial, pass: Option<Arc<[u8]>>) -> Self::Dialing;
    /// Begins to measure the session's home and the others.
    fn measure(&self, now: Instant, home: Rank, others: Vec<Rank>) -> Self::Measuring;
    /// Begins to measure the straight way to the home and those through relays.
    fn measure_ways(&self, now: Instant, home: Rank) -> Self::Measuring;
    /// Looks after a while at the way through a relay and at the straight one.
    fn look(&self, now: Instant, via: Relay, home: Rank) -> Self::Looking;
    /// The round trip of the session's link, as its status has it.
    fn link_round_trip(&self) -> Duration;

    /// All sessions leave a server alone for a while.
    fn list(&self, now: Instant, server: Rank, asked: Duration);
    /// A server has taken a session: it is off the overloaded list.
    fn unlist(&self, server: Rank);
    /// Links that were made before one was lost are looked at, or dropped. If so said, only short
    /// packets pass there.
    fn doubt(&self, target: Target, cause: LostCause, loses_long: bool);
    /// Something came on the session's link; where that leads straight, and since when.
    fn heard(&self, now: Instant, link: Option<(Rank, Instant)>);
    /// Whether a server speaks on other links, which have lasted.
    fn speaks(&self, now: Instant, server: Rank) -> bool;
    /// A link that can serve another session, most likely at `last`.
    fn keep(&self, now: Instant, link: Self::Link, last: Option<Rank>);
    /// The server to which the session would go next is told what it receives (R69).
    fn prepare(&self, _server: Rank, _connect: Connect<'_>) {}
    /// The server that a session has left is told so, now or when it is found again.
    fn take_leave(&self, now: Instant, server: Rank, reset: ResetFrame);

    /// Publishes where the session stands.
    fn publish(&self, stands: Stands);
    /// Something for the log or the history, and how much the session had received.
    fn note(&self, at_byte: u64, note: Note);

    /// Where a link leaves this machine.
    fn local_addr(&self, _link: &Self::Link) -> Option<SocketAddr> {
        None
    }
    /// What a server calls itself.
    fn named(&self, _server: Rank, _name: &str) {}
    /// A server announced a connection that belongs to this session (R90).
    fn announced(&self, _announcement: &Announcement) {}
    /// A transfer has attached: what the server before said of its service is forgotten.
    fn transferred(&self) {}
    /// The time for which its user had suspended the session is over (R75).
    fn woken(&self, _received: u64) {}
    /// The members of the session's group follow it to where it now is (R94).
    fn gather(&self) {}
    /// The server says why its service gives no more, and how much had been received.
    fn service_failed(&self, _received: u64, _text: &str) {}
    /// What belongs to the session is still at this server, and goes first (R94).
    fn has_members_at(&self, _server: Option<Rank>) -> bool {
        false
    }
}

/// How long a session waits, by the configuration.
#[derive(Copy, Clone, Debug)]
pub struct Waits {
    /// When a new session gives up.
    pub connect_until: Instant,
    /// For a home that is gone.
    pub deadlines: Deadlines,
    /// A link that is silent for this long is lost.
    pub silence: Duration,
}

/// The far side of one session.
pub struct SessionFar<M: Means> {
    means: M,
    course: Course,
    waits: Waits,
    /// What others want of the session.
    orders: mpsc::Receiver<Order>,
    /// With this it may be led to its server through others.
    pass: Option<Arc<[u8]>>,
    /// What is being measured for a decision.
    measuring: Option<M::Measuring>,
    /// A look at the straight way, while it is led through a relay.
    looking: Option<M::Looking>,
    /// Where its link, or that of an attempt, leaves this machine.
    local: Option<SocketAddr>,
    /// Where the attached link leads, if it goes there straight, and since when there is one.
    link: Option<(Rank, Instant)>,
    /// The link that was lost last lost long packets only.
    loses_long: bool,
    /// The round trip of its link.
    watch: RiseWatch,
    /// What the server that would be next was told.
    prepared: Prepared,
}

impl<M: Means> SessionFar<M> {
    /// The far side of a session whose service has this many servers.
    #[must_use]
    pub fn new(means: M, servers: usize, waits: Waits, orders: mpsc::Receiver<Order>) -> Self {
        SessionFar {
            means,
            course: Course::new(servers, waits.deadlines),
            waits,
            orders,
            pass: None,
            measuring: None,
            looking: None,
            local: None,
            link: None,
            loses_long: false,
            watch: RiseWatch::new(Rule::default()),
            prepared: Prepared::default(),
        }
    }

    /// The session goes on in this process of the broker; this server has it.
    pub fn restored(&mut self, now: Instant, home: Rank) {
        self.course.handle_restored(now, home);
        self.publish();
    }

    /// What it works with.
    pub fn means(&self) -> &M {
        &self.means
    }

    /// Does what the course says; returns what is left for the session to do.
    fn carry_out(&mut self, now: Instant, session: &Session, actions: Vec<Action>) -> Act {
        let mut act = Act::Nothing;
        let at_byte = session.positions().received;
        for action in actions {
            match action {
                Action::Retry => act = Act::Retry,
                Action::RetryIn(pause) => act = Act::RetryIn(pause),
                Action::Stay(reason) => act = Act::Stay(reason),
                Action::GiveUp { error, why } => {
                    self.means.note(at_byte, Note::GaveUp(error, why.clone()));
                    act = Act::Abort { code: code::NO_SERVER, reason: why };
                }
                Action::Measure { home, others } => {
                    self.measuring = Some(self.means.measure(now, home, others));
                }
                Action::MeasureWays { home } => {
                    self.measuring = Some(self.means.measure_ways(now, home));
                }
                Action::Look => self.look(now),
                Action::List(rank, asked) => self.means.list(now, rank, asked),
                Action::Unlist(rank) => self.means.unlist(rank),
                Action::Doubt(target, cause) => {
                    let loses_long = std::mem::take(&mut self.loses_long);
                    self.means.doubt(target, cause, loses_long);
                }
                Action::Log { what, cause } => self.means.note(at_byte, Note::Log(what, cause)),
                Action::Note { what, cause } => {
                    self.means.note(at_byte, Note::Happened(what, cause));
                }
                Action::NoteLink { attempt, from, to, gap, cause } => {
                    self.means.note(at_byte, Note::Linked { attempt, from, to, gap, cause });
                }
            }
        }
        self.publish();
        act
    }

    /// Publishes where the session stands.
    fn publish(&self) {
        self.means.publish(Stands {
            server: self.course.last(),
            via: self.course.via(),
            local: self.local,
            attached: self.course.is_attached(),
        });
    }

    /// Looks after a while whether the session can go straight again, if it does not.
    fn look(&mut self, now: Instant) {
        let led = self.course.via().zip(self.course.home());
        self.looking = led.map(|(via, home)| self.means.look(now, via, home));
    }

    fn attached(
        &mut self,
        now: Instant,
        session: &Session,
        attempt: Attempt,
        gap: Duration,
    ) -> Act {
        self.watch.forget();
        if let Some(to) = self.course.attempt() {
            self.means.named(to.rank, session.server());
        }
        let actions = self.course.handle_attached(now, &self.means, attempt, gap);
        // What comes through a relay says nothing of the straight way.
        let home = self.course.home().filter(|_| self.course.via().is_none());
        self.link = home.map(|rank| (rank, now));
        let act = self.carry_out(now, session, actions);
        if attempt == Attempt::Transfer {
            self.means.gather();
        }
        act
    }

    /// A server refused.
    fn denied(&mut self, now: Instant, session: &Session, denied: &Denied) -> Act {
        let (why, text) = match denied {
            Denied::Connect { why, retry_after, text, .. } => {
                (Some(Rejection::of_connect(*why, *retry_after)), text.clone())
            }
            Denied::Resume(why) => (Rejection::of_resume(*why), why.to_string()),
        };
        let Some(why) = why else { return Act::Nothing };
        self.means.note(session.positions().received, Note::Refused(why));
        let denial = Denial {
            why,
            text: &text,
            linked: session.link().is_some(),
            established: session.is_established(),
            transferable: session.transferable(),
        };
        let actions = self.course.handle_denied(now, &self.means, &denial);
        self.carry_out(now, session, actions)
    }

    fn lost(&mut self, now: Instant, session: &Session, cause: LostCause) -> Act {
        if session.link().is_some() {
            let actions = self.course.handle_attempt_lost(&self.means, cause);
            return self.carry_out(now, session, actions);
        }
        (self.link, self.local) = (None, None);
        let silence = match cause {
            LostCause::Silent => self.waits.silence,
            LostCause::Broken | LostCause::Unanswered | LostCause::Overtaken => Duration::ZERO,
        };
        let actions = self.course.handle_lost(now, cause, silence);
        self.carry_out(now, session, actions)
    }

    fn order(&mut self, now: Instant, session: &Session, order: Order) -> Act {
        match order {
            Order::PathChanged { why, since } => {
                self.course.handle_path_changed(now, why, since);
                Act::Nothing
            }
            Order::Move { to, answer } => {
                let transferable = session.transferable();
                let moved = self.course.handle_user_move(&self.means, to, transferable);
                let (actions, said) = match moved {
                    Ok(actions) => (actions, Ok(())),
                    Err(why) => (Vec::new(), Err(why)),
                };
                let _nobody_waits_any_more = answer.send(said);
                self.carry_out(now, session, actions)
            }
        }
    }

    fn learned(&mut self, now: Instant, session: &Session, learned: Learned) -> Act {
        let actions = match learned {
            Learned::Servers(measured) => {
                let rtt = self.means.link_round_trip();
                self.course.handle_measured(now, &self.means, &measured, rtt)
            }
            Learned::Ways(measured) => self.course.handle_ways_measured(&self.means, &measured),
        };
        self.carry_out(now, session, actions)
    }

    /// R69: the server to which the session would go next is told what it receives.
    fn prepare(&mut self, now: Instant, session: &Session) {
        if session.transferable().is_err() || !self.course.is_attached() {
            return;
        }
        let request = session.transfer_request();
        let (Some(ticket), Some(proof)) = (request.ticket, &request.seam) else { return };
        let Some(next) = self.course.next_best(now, &self.means) else { return };
        if !self.prepared.is_due(now, proof.from, request.down, next) {
            return;
        }
        let connect = Connect {
            version: VERSION,
            handle: session.handles().0,
            epoch: 0,
            features: 0,
            window: 0,
            service: "",
            endpoint: "",
            mode: ConnectMode::Prepare(PrepareRequest { ticket, down: request.down }),
            grant: None,
            rate: None,
            hold: None,
            upkeep: None,
            belongs: Belongs::default(),
            destination: session.destination(),
        };
        self.means.prepare(next, connect);
    }

    fn asked_to_leave(
        &mut self,
        now: Instant,
        session: &Session,
        reason: TransferReason,
        text: &str,
    ) -> Act {
        let received = session.positions().received;
        if reason == TransferReason::ServiceFailed {
            self.means.service_failed(received, text);
        }
        // R94: its members go first; its server asks again.
        if self.means.has_members_at(self.course.home()) {
            let cause = "what belongs to it goes first".to_owned();
            self.means.note(received, Note::Happened("stays", cause));
            return Act::Stay(TransferReason::NobodyBetter);
        }
        let transferable = session.transferable();
        let actions = self.course.handle_asked_to_leave(now, reason, text, transferable);
        self.carry_out(now, session, actions)
    }
}

impl<M: Means> Far for SessionFar<M> {
    type Link = M::Link;
    type Found = Found<M::Link>;
    type Dialing = M::Dialing;

    fn announced(&mut self, _session: &Session, announcement: &Announcement) {
        self.means.announced(announcement);
    }

    fn heard(&mut self, now: Instant) {
        self.means.heard(now, self.link);
    }

    fn speaks_elsewhere(&self, now: Instant) -> bool {
        self.link.is_some_and(|(server, _)| self.means.speaks(now, server))
    }

    fn dial(&mut self, now: Instant, session: &Session) -> M::Dialing {
        let want = if session.is_established() {
            Want::Resume { transferable: session.transferable().is_ok() }
        } else {
            Want::Connect
        };
        let linked = session.link().is_some();
        let dial = self.course.handle_dial(now, linked, want, self.waits.connect_until);
        self.means.dial(now, dial, self.pass.clone())
    }

    fn dialed(
        &mut self,
        now: Instant,
        session: &mut Session,
        found: Found<M::Link>,
    ) -> Result<Dialed<M::Link>, DialFailed> {
        let established = session.is_established();
        let (why, actions) = match found {
            Found::Link(target, link) => {
                self.local = self.means.local_addr(&link);
                let same = self.course.handle_found(target, established);
                self.publish();
                return Ok((*link, if same { Peer::Same } else { Peer::Other }));
            }
            Found::Unreached(rank) => {
                let why = format!("{} could not be reached", self.means.server_name(rank));
                (why, self.course.handle_unreached(rank))
            }
            Found::NoTurn(why) => (why.clone(), self.course.handle_turn_failed(why)),
            Found::NoServer(gave_up) => {
                let words = |why: WhyNot| session.why_fixed().unwrap_or_else(|| why.to_string());
                let (why, can) = (gave_up.why.clone(), session.transferable().map_err(words));
                (why, self.course.handle_no_server(&self.means, established, can, gave_up))
            }
        };
        let then = self.carry_out(now, session, actions);
        Err(DialFailed { why, then })
    }

    fn event(&mut self, now: Instant, session: &mut Session, event: &Event) -> Act {
        let actions = match event {
            Event::Attached { attempt, gap, .. } => {
                if *attempt == Attempt::Transfer {
                    self.means.transferred();
                }
                return self.attached(now, session, *attempt, *gap);
            }
            Event::Lost { cause, .. } => return self.lost(now, session, *cause),
            Event::Denied(why) => return self.denied(now, session, why),
            Event::Suspended { by_peer, lasts } => {
                self.course.handle_suspended(now, *by_peer, *lasts)
            }
            Event::Woken => {
                self.means.woken(session.positions().received);
                return Act::Nothing;
            }
            Event::TransferWanted { reason, text } => {
                return self.asked_to_leave(now, session, *reason, text);
            }
            Event::PassGiven { pass } => {
                self.pass = Some(pass.as_ref().into());
                self.course.handle_pass();
                return Act::Nothing;
            }
            Event::TicketStored { .. } => {
                self.prepare(now, session);
                return Act::Nothing;
            }
            Event::Moved { old, told: false } => {
                if let Some(rank) = self.course.came_from() {
                    let initiator = session.handles().0;
                    let reset = ResetFrame { initiator, acceptor: *old, code: code::MOVED };
                    self.means.take_leave(now, rank, reset);
                }
                return Act::Nothing;
            }
            Event::Moved { told: true, .. }
            | Event::Closed { .. }
            | Event::Established { .. }
            | Event::EndReceived
            | Event::Acknowledged(_)
            | Event::LeaveAsked
            | Event::Stays { .. } => return Act::Nothing,
        };
        self.carry_out(now, session, actions)
    }

    fn poll_act(&mut self, now: Instant, session: &mut Session, cx: &mut Context<'_>) -> Poll<Act> {
        if let Poll::Ready(Some(order)) = self.orders.poll_recv(cx) {
            return Poll::Ready(self.order(now, session, order));
        }
        if let Some(measuring) = &mut self.measuring
            && let Poll::Ready(learned) = Pin::new(measuring).poll(cx)
        {
            self.measuring = None;
            return Poll::Ready(self.learned(now, session, learned));
        }
        if let Some(looking) = &mut self.looking
            && let Poll::Ready((present, straight)) = Pin::new(looking).poll(cx)
        {
            let actions = self.course.handle_looked(now, &self.means, present, straight);
            self.look(now);
            return Poll::Ready(self.carry_out(now, session, actions));
        }
        Poll::Pending
    }

    fn reuse(&mut self, now: Instant, link: M::Link, first: Option<Vec<u8>>) {
        // A server speaks only when asked; one that does not is no good for another session.
        if first.is_none() {
            self.means.keep(now, link, self.course.last());
        }
    }

    fn loses_long(&mut self) {
        self.loses_long = true;
    }

    fn wants_sample(&self, now: Instant) -> bool {
        self.watch.is_due(now)
    }

    /// STP 6 the other way: this end sends, and its path has become slow.
    fn sample(&mut self, now: Instant, session: &mut Session, info: &TcpInfo) -> Act {
        let Some(rise) = self.watch.sample(now, path_sample(session, info)) else {
            return Act::Nothing;
        };
        if session.is_moving() {
            return Act::Nothing;
        }
        let (text, transferable) = (rise.to_string(), session.transferable());
        let actions = self.course.handle_slow_path(now, &text, transferable);
        self.carry_out(now, session, actions)
    }
}
