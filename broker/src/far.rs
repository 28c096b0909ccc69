//! The far side of a session: tells its course what happens, and does what the course says.
//!
//! The decisions are [`stp_proto::course`]'s. Everything that takes time (a dial, a measurement, a
//! look at another way) is a future that the session's own loop polls; there is no task that posts
//! back to it.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use stp_drive::{Act, DialFailed, Dialed, Far, path_sample};
use stp_net::link::TcpInfo;
use stp_proto::course::{Action, Course, Deadlines, Denial, Measured, Prepared, Relay, Target};
use stp_proto::rise::{RiseWatch, Rule, Way};
use stp_proto::select::{Rank, Rejection, Want};
use stp_proto::session::{Attempt, Denied, Event, LostCause, Peer, Session, WhyNot, code};
use stp_proto::time::Instant;
use stp_proto::wire::{
    Announcement, Belongs, Close, Connect, ConnectMode, PrepareRequest, ResetFrame, TransferReason,
    VERSION,
};
use tokio::sync::mpsc;

use crate::any_link::AnyLink;
use crate::around::Surroundings;
use crate::broker::Broker;
use crate::dial::{self, Found};
use crate::dialer::ServerDialer;
use crate::entry::{Entry, Order, View};
use crate::group;
use crate::reach::Reach;
use crate::service::Server;
use crate::{measure, relay};

/// How long a link to a server that is to get ready may take.
const PREPARE_MAX: Duration = Duration::from_secs(5);
/// How long a server that was left, and is out of reach, may yet be told, and how long one attempt
/// at that may take.
const LEAVE_MAX: Duration = Duration::from_secs(3_600);
const LEAVE_DIAL_MAX: Duration = Duration::from_secs(5);

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What was found out in a while.
enum Learned {
    /// Servers were measured.
    Servers(Vec<Measured<Rank>>),
    /// Ways to the home were measured.
    Ways(Vec<Measured<Option<Relay>>>),
}

/// The far side of one session.
pub struct SessionFar {
    around: Surroundings,
    course: Course,
    /// What others want of the session.
    orders: mpsc::Receiver<Order>,
    /// With this it may be led to its server through others.
    pass: Option<Arc<[u8]>>,
    /// What is being measured for a decision.
    measuring: Option<Boxed<Learned>>,
    /// A look at the straight way, while it is led through a relay.
    looking: Option<Boxed<(Way, Way)>>,
    /// When a new session gives up.
    connect_until: Instant,
    /// Where its link, or that of an attempt, leaves this machine.
    local: Option<SocketAddr>,
    /// Where the attached link leads, and since when there is one.
    link: Option<(Arc<Server>, Instant)>,
    /// The round trip of its link.
    watch: RiseWatch,
    /// What the server that would be next was told.
    prepared: Prepared,
}

impl SessionFar {
    /// The far side of this session.
    #[must_use]
    pub fn new(
        broker: Arc<Broker>,
        entry: Arc<Entry>,
        orders: mpsc::Receiver<Order>,
    ) -> SessionFar {
        let limits = broker.tables().config.limits;
        let deadlines = Deadlines { refused: limits.refused, gone: limits.gone };
        SessionFar {
            course: Course::new(entry.service.servers.len(), deadlines),
            connect_until: broker.now() + limits.connect,
            around: Surroundings { broker, entry },
            orders,
            pass: None,
            measuring: None,
            looking: None,
            local: None,
            link: None,
            watch: RiseWatch::new(Rule::default()),
            prepared: Prepared::default(),
        }
    }

    fn broker(&self) -> &Arc<Broker> {
        &self.around.broker
    }

    fn entry(&self) -> &Arc<Entry> {
        &self.around.entry
    }

    fn server(&self, rank: Rank) -> &Arc<Server> {
        &self.around.entry.service.servers[rank]
    }

    /// Does what the course says; returns what is left for the session to do.
    fn carry_out(&mut self, session: &Session, actions: Vec<Action>) -> Act {
        let mut act = Act::Nothing;
        let at_byte = session.positions().received;
        for action in actions {
            match action {
                Action::Retry => act = Act::Retry,
                Action::RetryIn(pause) => act = Act::RetryIn(pause),
                Action::Stay(reason) => act = Act::Stay(reason),
                Action::GiveUp { error, why } => {
                    self.entry().give_up(error, &why);
                    self.broker().session_ended(self.entry(), &why);
                    act = Act::Abort { code: code::NO_SERVER, reason: why };
                }
                Action::Measure { home, others } => self.measure(home, others),
                Action::MeasureWays { home } => {
                    let ways =
                        relay::ways(Arc::clone(self.broker()), Arc::clone(self.server(home)));
                    self.measuring = Some(Box::pin(async move { Learned::Ways(ways.await) }));
                }
                Action::Look => self.look(),
                Action::List(rank, asked) => {
                    let name = (self.entry().service_number, rank);
                    let now = self.broker().now();
                    self.broker().overloaded.lock().add(now, name, asked);
                }
                Action::Unlist(rank) => {
                    let name = (self.entry().service_number, rank);
                    self.broker().overloaded.lock().remove(&name);
                }
                Action::Doubt(target, cause) => self.doubt(target, cause),
                Action::Log { what, cause } => {
                    tracing::info!(session = self.entry().id, why = cause, "{what}");
                }
                Action::Note { what, cause } => {
                    if what == "refused" {
                        self.entry().note_refusal(&cause);
                    }
                    tracing::info!(session = self.entry().id, at_byte, why = cause, "{what}");
                    self.entry().record(what, cause, at_byte);
                }
                Action::NoteLink { attempt, from, to, gap, cause } => {
                    self.note_link((attempt, from, to), gap, cause, at_byte);
                }
            }
        }
        self.publish();
        act
    }

    /// Publishes where the session stands.
    fn publish(&self) {
        let via = self.course.via().and_then(|via| self.broker().server_with_key(via));
        *self.entry().view.lock() = View {
            server: self.course.last(),
            via,
            local: self.local,
            attached: self.course.is_attached(),
        };
    }

    fn measure(&mut self, home: Rank, others: Vec<Rank>) {
        let broker = Arc::clone(self.broker());
        let servers = self.entry().service.servers.clone();
        self.measuring = Some(Box::pin(async move {
            let measured = measure::servers(servers, home, others, || broker.random());
            Learned::Servers(measured.await)
        }));
    }

    /// Looks after a while whether the session can go straight again, if it does not.
    fn look(&mut self) {
        let home = self.course.home().map(|rank| Arc::clone(self.server(rank)));
        self.looking = self.course.via().zip(home).map(|(via, home)| {
            Box::pin(relay::look(Arc::clone(self.broker()), via, home)) as Boxed<_>
        });
    }

    /// Links that were made before one was lost are looked at, or dropped.
    fn doubt(&self, target: Target, cause: LostCause) {
        let via = target.via.and_then(|via| self.broker().server_with_key(via));
        let server = via.unwrap_or_else(|| Arc::clone(self.server(target.rank)));
        match cause {
            LostCause::Broken => server.reach.lost(),
            LostCause::Silent | LostCause::Unanswered => server.reach.suspect(),
            LostCause::Overtaken => {}
        }
    }

    fn note_link(
        &self,
        (attempt, from, to): (Attempt, Option<Rank>, Option<Rank>),
        gap: Duration,
        cause: String,
        at_byte: u64,
    ) {
        let what = match attempt {
            Attempt::Connect => "connected",
            Attempt::Resume => "resumed",
            Attempt::Transfer => "transferred",
        };
        let entry = self.entry();
        let mut history = entry.history(what, cause, at_byte);
        let gap_ms = u64::try_from(gap.as_millis()).unwrap_or(u64::MAX);
        history.gap_ms = (attempt != Attempt::Connect).then_some(gap_ms);
        history.from_server = from.map(|rank| self.server(rank).name());
        history.to_server = to.map(|rank| self.server(rank).name());
        let server = history.to_server.as_deref().unwrap_or_default();
        let (session, destination, cause) = (entry.id, &entry.destination, &history.cause);
        if attempt == Attempt::Connect {
            tracing::info!(session, server, %destination, "connected");
        } else {
            tracing::info!(session, server, gap_ms, at_byte, %cause, "{what}");
        }
        self.broker().count_attach(attempt);
        entry.status.record(history);
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
            self.server(to.rank).named(session.server());
        }
        let actions = self.course.handle_attached(now, &self.around, attempt, gap);
        // What comes through a relay says nothing of the straight way.
        let home = self.course.home().filter(|_| self.course.via().is_none());
        self.link = home.map(|rank| (Arc::clone(self.server(rank)), now));
        let act = self.carry_out(session, actions);
        if attempt == Attempt::Transfer {
            tokio::spawn(group::gather(Arc::clone(self.entry())));
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
        self.broker().count_refusal(why);
        if matches!(why, Rejection::Unauthorized | Rejection::Expired)
            && let Some(host) = &self.entry().host
        {
            self.broker().directory.distrust(host);
        }
        let denial = Denial {
            why,
            text: &text,
            linked: session.link().is_some(),
            established: session.is_established(),
            transferable: session.transferable(),
        };
        let actions = self.course.handle_denied(now, &self.around, &denial);
        self.carry_out(session, actions)
    }

    fn lost(&mut self, now: Instant, session: &Session, cause: LostCause) -> Act {
        if session.link().is_some() {
            let actions = self.course.handle_attempt_lost(&self.around, cause);
            return self.carry_out(session, actions);
        }
        (self.link, self.local) = (None, None);
        let silence = match cause {
            LostCause::Silent => self.broker().tables().config.limits.silence,
            LostCause::Broken | LostCause::Unanswered | LostCause::Overtaken => Duration::ZERO,
        };
        let actions = self.course.handle_lost(now, cause, silence);
        self.carry_out(session, actions)
    }

    fn order(&mut self, session: &Session, order: Order) -> Act {
        match order {
            Order::PathChanged { why, since } => {
                self.course.handle_path_changed(why, since);
                Act::Nothing
            }
            Order::Move { to, answer } => {
                let transferable = session.transferable();
                let moved = self.course.handle_user_move(&self.around, to, transferable);
                let (actions, said) = match moved {
                    Ok(actions) => (actions, Ok(())),
                    Err(why) => (Vec::new(), Err(why)),
                };
                let _nobody_waits_any_more = answer.send(said);
                self.carry_out(session, actions)
            }
        }
    }

    fn learned(&mut self, now: Instant, session: &Session, learned: Learned) -> Act {
        let actions = match learned {
            Learned::Servers(measured) => {
                let rtt_ms = self.entry().status.snapshot().rtt_ms.unwrap_or_default();
                let rtt = Duration::from_secs_f64(rtt_ms.max(0.0) / 1e3);
                self.course.handle_measured(now, &self.around, &measured, rtt)
            }
            Learned::Ways(measured) => self.course.handle_ways_measured(&self.around, &measured),
        };
        self.carry_out(session, actions)
    }

    /// R69: the server to which the session would go next is told what it receives.
    fn prepare(&mut self, now: Instant, session: &Session) {
        if session.transferable().is_err() || !self.course.is_attached() {
            return;
        }
        let request = session.transfer_request();
        let (Some(ticket), Some(proof)) = (request.ticket, &request.seam) else { return };
        let Some(next) = self.course.next_best(now, &self.around) else { return };
        if !self.prepared.is_due(now, proof.from, request.down, next) {
            return;
        }
        let connect = Connect {
            version: VERSION,
            handle: session.handles().0,
            epoch: 0,
            features: 0,
            window: 0,
            service: &self.entry().service.name,
            endpoint: "",
            mode: ConnectMode::Prepare(PrepareRequest { ticket, down: request.down }),
            grant: None,
            rate: None,
            belongs: Belongs::default(),
        };
        let mut frame = Vec::new();
        connect.encode(&mut frame);
        let reach = Arc::clone(&self.server(next).reach);
        tokio::spawn(async move {
            if let Ok(mut link) = tokio::time::timeout(PREPARE_MAX, reach.link()).await {
                link.send(&frame);
                link.linger();
            }
        });
    }

    /// The server that a session has left is told so.
    fn tell_left(&self, session: &Session, old: stp_proto::handle::Handle) {
        if let Some(rank) = self.course.came_from() {
            let initiator = session.handles().0;
            let reset = ResetFrame { initiator, acceptor: old, code: code::MOVED };
            // It outlives the session: the server may be out of reach for long.
            tokio::spawn(take_leave(Arc::clone(&self.server(rank).reach), reset));
        }
    }
}

/// A dial under way.
pub type Dialing = Boxed<Found>;

impl Far for SessionFar {
    type Link = AnyLink;
    type Found = Found;
    type Dialing = Dialing;

    fn announced(&mut self, _session: &Session, announcement: &Announcement) {
        group::announced(self.broker(), self.entry(), announcement);
    }

    fn heard(&mut self, now: Instant) {
        self.entry().pause().heard();
        if let Some((server, since)) = &self.link {
            server.heard.note(now, *since);
        }
    }

    fn speaks_elsewhere(&self, now: Instant) -> bool {
        self.link.as_ref().is_some_and(|(server, _)| server.heard.lately(now))
    }

    fn dial(&mut self, now: Instant, session: &Session) -> Dialing {
        let want = if session.is_established() {
            Want::Resume { transferable: session.transferable().is_ok() }
        } else {
            Want::Connect
        };
        let linked = session.link().is_some();
        let dial = self.course.handle_dial(now, linked, want, self.connect_until);
        Box::pin(dial::dial(self.around.clone(), dial, self.pass.clone()))
    }

    fn dialed(
        &mut self,
        _now: Instant,
        session: &mut Session,
        found: Found,
    ) -> Result<Dialed<AnyLink>, DialFailed> {
        let established = session.is_established();
        let (why, actions) = match found {
            Found::Link(target, link) => {
                self.local = Some(link.local_addr());
                let same = self.course.handle_found(target, established);
                self.publish();
                return Ok((AnyLink::Secured(*link), if same { Peer::Same } else { Peer::Other }));
            }
            Found::Unreached(rank) => {
                let why = format!("{} could not be reached", self.server(rank).name());
                (why, self.course.handle_unreached(rank))
            }
            Found::NoTurn(why) => (why.clone(), self.course.handle_turn_failed(why)),
            Found::NoServer(gave_up) => {
                let words = |why: WhyNot| session.why_fixed().unwrap_or_else(|| why.to_string());
                let (why, can) = (gave_up.why.clone(), session.transferable().map_err(words));
                (why, self.course.handle_no_server(&self.around, established, can, gave_up))
            }
        };
        let then = self.carry_out(session, actions);
        Err(DialFailed { why, then })
    }

    fn event(&mut self, now: Instant, session: &mut Session, event: &Event) -> Act {
        let actions = match event {
            Event::Attached { attempt, gap, .. } => {
                if *attempt == Attempt::Transfer {
                    self.entry().forget_service();
                }
                return self.attached(now, session, *attempt, *gap);
            }
            Event::Lost { cause, .. } => return self.lost(now, session, *cause),
            Event::Denied(why) => return self.denied(now, session, why),
            Event::Suspended { by_peer } => self.course.handle_suspended(now, *by_peer),
            Event::TransferWanted { reason, text } => {
                if session.is_moving() {
                    return Act::Nothing;
                }
                if *reason == TransferReason::ServiceFailed {
                    self.entry().note_service(session.positions().received, text);
                }
                // R94: its members go first; its server asks again.
                if group::has_members_at(self.entry(), self.course.home()) {
                    let received = session.positions().received;
                    self.entry().record("stays", "what belongs to it goes first".into(), received);
                    return Act::Stay(TransferReason::NobodyBetter);
                }
                let transferable = session.transferable();
                self.course.handle_asked_to_leave(now, *reason, text, transferable)
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
                self.tell_left(session, *old);
                return Act::Nothing;
            }
            Event::Moved { told: true, .. }
            | Event::Closed { .. }
            | Event::Established { .. }
            | Event::EndReceived
            | Event::Acknowledged(_)
            | Event::Stays { .. } => return Act::Nothing,
        };
        self.carry_out(session, actions)
    }

    fn poll_act(&mut self, now: Instant, session: &mut Session, cx: &mut Context<'_>) -> Poll<Act> {
        if let Poll::Ready(Some(order)) = self.orders.poll_recv(cx) {
            return Poll::Ready(self.order(session, order));
        }
        if let Some(measuring) = &mut self.measuring
            && let Poll::Ready(learned) = measuring.as_mut().poll(cx)
        {
            self.measuring = None;
            return Poll::Ready(self.learned(now, session, learned));
        }
        if let Some(looking) = &mut self.looking
            && let Poll::Ready((present, straight)) = looking.as_mut().poll(cx)
        {
            let actions = self.course.handle_looked(now, &self.around, present, straight);
            self.look();
            return Poll::Ready(self.carry_out(session, actions));
        }
        Poll::Pending
    }

    fn reuse(&mut self, _now: Instant, link: AnyLink, first: Option<Vec<u8>>) {
        let AnyLink::Secured(link) = link else { return };
        // A server speaks only when asked; one that does not is no good for another session.
        if first.is_some() {
            return;
        }
        // Not always the last one's: an attempt at another may have ended before it attached.
        // And not one that leads there through a relay.
        let there = (link.peer_key(), link.peer_addr());
        let leads_to = |server: &&Arc<Server>| {
            let dialer = server.reach.dialer();
            (dialer.key, dialer.address()) == there
        };
        let servers = &self.around.entry.service.servers;
        let last = self.course.last().map(|rank| &servers[rank]);
        if let Some(server) = last.into_iter().chain(servers).find(leads_to) {
            server.reach.keep(link);
        }
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
        self.carry_out(session, actions)
    }
}

/// Tells a server that a session has left it, so that it need not keep it for days. If it is out of
/// reach it is told when others find it there again.
async fn take_leave(reach: Arc<Reach<ServerDialer>>, reset: ResetFrame) {
    let told = tokio::time::timeout(LEAVE_MAX, async {
        let mut link = loop {
            reach.until_open().await;
            if let Ok(link) = tokio::time::timeout(LEAVE_DIAL_MAX, reach.link()).await {
                break link;
            }
        };
        let mut frame = Vec::new();
        Close::ResetFirst(reset).encode(&mut frame);
        link.send(&frame);
        link.linger();
    });
    if told.await.is_err() {
        tracing::debug!("a server that was left could not be told");
    }
}
