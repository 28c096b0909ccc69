//! The broker: apps' sessions and their ways through the servers. Everything that decides is
//! shipped: the far side of a session with its course, [`Search`] and the pacing of dials. What is
//! simulated is what they ask for: dials, links and measurements.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::rc::Rc;
use std::time::Duration;

use stp_broker::entry::Order;
use stp_broker::far::{Found, Learned, SessionFar, Stands, Waits};
use stp_drive::{Command, Start};
use stp_proto::course::{
    Dial as Where, GapWhy, Measured, PATIENCE, Relay, Search, Seek, Step, Target,
};
use stp_proto::handle::Handle;
use stp_proto::rise::Way;
use stp_proto::select::{GRACE, Rank};
use stp_proto::session::{LostCause, Session};
use stp_proto::state::State;
use stp_proto::time::Instant;
use tokio::sync::{mpsc, oneshot};

use crate::app::{App, Task};
use crate::ends::End;
use crate::far::Far;
use crate::link::{SimLink, Wire};
use crate::means::{SimMeans, Slot};
use crate::near::{Kind, NearSide};
use crate::net::{BROKER, ConnId};
use crate::origin::Ledger;
use crate::plan::{Kind as Fault, Plan, Work};
use crate::random::Random;
use crate::server::Server;
use crate::ways::{Dial, For, Offered, Servers, Spare, rank_of, relay};
use crate::work;
use crate::world::{Ev, Who, World};

/// Orders that may wait for a session's far side.
const ORDERS_MAX: usize = 16;
const CONNECT_MAX: Duration = Duration::from_secs(30);
/// How long a link to a server that has just answered a measurement may take.
const LINK_MAX: Duration = Duration::from_secs(3);
/// A session whose server is out of reach looks again for a relay after this time at most.
const RESCUE_MAX: Duration = Duration::from_secs(5);
/// How often a server that cannot be reached is tried, to tell it that a session has left.
const LEAVE_TRIES: u32 = 60;

/// Facts that may explain a session's end.
#[derive(Clone, Debug, Default)]
pub struct Facts {
    pub app_aborted: bool,
    pub app_quit: bool,
    /// A server died since it began.
    pub deaths: u32,
    /// No server could be reached or had room for a while.
    pub unreachable: bool,
    /// A server dropped it early, never having heard the broker after its CONNECT_OK (R23).
    pub unheard: bool,
    /// Why the broker gave it up.
    pub gave_up: Option<String>,
}

/// What a session's dial does.
pub enum Looking {
    Nothing,
    /// It measures before its first choice.
    First(Seek, bool),
    Search(Searching),
    /// It waits for a link to this server until then: a move was decided.
    Move(Rank, Instant),
    /// It goes to its server by another way.
    Turn(Target, Instant),
}

/// A search under way.
pub struct Searching {
    search: Search,
    /// The session's server.
    home: Option<Rank>,
    /// Servers from which it waits for a link.
    asking: BTreeSet<Rank>,
    held: Vec<(Rank, Spare)>,
    /// It cannot go on elsewhere: a relay may lead it to its server, at this time, and after
    /// another pause again.
    rescue: Option<(Instant, Duration)>,
}

impl Looking {
    pub fn describe(&self) -> &'static str {
        match self {
            Looking::Nothing => "looks for nothing",
            Looking::First(..) => "measures first",
            Looking::Search(_) => "searches",
            Looking::Move(..) => "moves",
            Looking::Turn(..) => "turns",
        }
    }

    /// A link has ended that might be held for it.
    pub fn lose(&mut self, conn: ConnId) {
        let Looking::Search(searching) = self else { return };
        let Some(at) = searching.held.iter().position(|(_, spare)| spare.conn == conn) else {
            return;
        };
        let (rank, spare) = searching.held.remove(at);
        searching.search.handle_link_lost(rank);
        drop(spare);
    }
}

/// An app's session.
pub struct Seat {
    /// It has begun.
    pub begun: bool,
    pub work: Work,
    pub task: Option<Task>,
    /// The service that a server plays for it.
    pub script: work::Script,
    pub handle: Handle,
    pub facts: Facts,
    pub over: bool,
    pub goal: bool,
    /// The servers of its service: what its course calls the first is the first of them.
    pub ranks: Rc<[Rank]>,
    /// Where it stands, as its far side has published it.
    pub stands: Stands,
    pub looking: Looking,
    pub dialing: Slot<Found<SimLink>>,
    pub measuring: Slot<Learned>,
    pub looked: Slot<(Way, Way)>,
    /// Numbers of dials, of measurements for a decision, and of looks at the straight way. The
    /// results of older ones are dropped.
    pub dial: u64,
    pub question: u64,
    pub look: u64,
    /// The orders for its far side.
    orders: Option<mpsc::Sender<Order>>,
}

/// The broker.
pub struct Broker {
    pub now: Instant,
    pub net: Wire,
    pub seats: Vec<Seat>,
    pub asleep_until: Instant,
    pub servers: Servers,
    pub dials: BTreeMap<u64, Dial>,
    pub next_dial: u64,
    /// What is counted.
    pub decided: u64,
    pub cooled: u64,
    pub led: u64,
    /// Events that the world must put into its queue.
    pub todo: Vec<(Instant, Ev)>,
}

impl Broker {
    pub fn new(
        plan: &Plan,
        random: &mut Random,
        servers: &[Server],
        ledger: &Rc<RefCell<Ledger>>,
        net: &Wire,
    ) -> Broker {
        let seat = |(number, work): (usize, &Work)| {
            let (task, script) = work::draw(plan, random, servers, ledger, number as u64, *work);
            Seat {
                begun: false,
                work: *work,
                task: Some(task),
                script,
                handle: Handle(random.handle()),
                facts: Facts::default(),
                over: false,
                goal: false,
                ranks: Rc::default(),
                stands: Stands { server: None, via: None, local: None, attached: false },
                looking: Looking::Nothing,
                dialing: Slot::default(),
                measuring: Slot::default(),
                looked: Slot::default(),
                dial: 0,
                question: 0,
                look: 0,
                orders: None,
            }
        };
        Broker {
            now: Instant::default(),
            net: Rc::clone(net),
            seats: plan.work.iter().enumerate().map(seat).collect(),
            asleep_until: Instant::default(),
            servers: Servers::new(servers.len(), plan.warm),
            dials: BTreeMap::new(),
            next_dial: 0,
            decided: 0,
            cooled: 0,
            led: 0,
            todo: Vec::new(),
        }
    }

    pub fn seat(&mut self, number: u64) -> &mut Seat {
        &mut self.seats[usize::try_from(number).expect("few sessions")]
    }

    /// The session opened with this handle.
    pub fn seat_of(&self, handle: Handle) -> Option<&Seat> {
        self.seats.iter().find(|seat| seat.handle == handle)
    }

    /// Shows the servers of a session's service to the code that decides.
    pub fn show<T>(&mut self, number: u64, ask: impl FnOnce(&Offered<'_>) -> T) -> T {
        let ranks = Rc::clone(&self.seat(number).ranks);
        ask(&Offered { servers: &self.servers, ranks: &ranks })
    }

    /// A session asks for a link.
    pub fn dial(&mut self, number: u64, dial: Where, has_pass: bool) -> Slot<Found<SimLink>> {
        let now = self.now;
        self.look_no_more(number);
        let seat = self.seat(number);
        seat.dialing = Slot::default();
        let slot = seat.dialing.clone();
        match dial {
            Where::Move(rank) => {
                seat.looking = Looking::Move(rank, now + LINK_MAX);
                let server = seat.ranks[rank];
                self.servers.list[server].pacing.wait();
                self.attend(server);
                self.todo.push((now + LINK_MAX, Ev::Search(number)));
            }
            Where::Turn(target) => self.begin_turn(number, target),
            Where::Search(seek) => self.begin_search(number, seek, has_pass),
        }
        self.todo.push((now, Ev::Search(number)));
        slot
    }

    pub fn doubt(&mut self, rank: Rank, cause: LostCause) {
        let pacing = &mut self.servers.list[rank].pacing;
        match cause {
            LostCause::Silent | LostCause::Unanswered => pacing.suspect(),
            LostCause::Broken | LostCause::Overtaken => {}
        }
    }

    /// A session's driver has something to do.
    fn wake(&mut self, number: u64) {
        self.todo.push((self.now, Ev::Wake(Who::Broker(number))));
    }

    // Links for sessions.

    fn begin_search(&mut self, number: u64, seek: Seek, has_pass: bool) {
        let now = self.now;
        let mut first = self.show(number, |around| seek.measured_first(now, around));
        let ranks = Rc::clone(&self.seat(number).ranks);
        first.retain(|rank| self.servers.list[ranks[*rank]].measured.now.is_none());
        if first.is_empty() {
            return self.search_for(number, &seek, has_pass);
        }
        let dial = self.seat(number).dial;
        self.seat(number).looking = Looking::First(seek, has_pass);
        self.todo.push((now, Ev::MeasureFirst(number, dial, first)));
    }

    fn search_for(&mut self, number: u64, seek: &Seek, has_pass: bool) {
        let now = self.now;
        let wanted = self.show(number, |around| seek.wanted(now, around));
        let rescue = (has_pass && seek.is_bound_to_home()).then_some((now + GRACE / 2, GRACE / 2));
        if let Some((at, _)) = rescue {
            self.todo.push((at, Ev::Search(number)));
        }
        let search = Search::new(now, wanted);
        self.seat(number).looking = Looking::Search(Searching {
            search,
            home: seek.home(),
            asking: BTreeSet::new(),
            held: Vec::new(),
            rescue,
        });
    }

    /// A new session has measured before its first choice, or need not wait for it any longer.
    pub fn measured_first(
        &mut self,
        number: u64,
        dial: u64,
        measured: &[(Rank, Option<Duration>)],
    ) {
        self.note_measured(number, measured);
        let seat = self.seat(number);
        if seat.dial != dial {
            return;
        }
        match std::mem::replace(&mut seat.looking, Looking::Nothing) {
            Looking::First(seek, has_pass) => self.search_for(number, &seek, has_pass),
            other => seat.looking = other,
        }
        self.look(number);
    }

    fn begin_turn(&mut self, number: u64, target: Target) {
        let until = self.now + LINK_MAX;
        let server = self.seat(number).ranks[target.rank];
        self.seat(number).looking = Looking::Turn(target, until);
        self.todo.push((until, Ev::Search(number)));
        match target.via {
            Some(via) => {
                let (dial, via) = (self.seat(number).dial, rank_of(via));
                self.begin_dial(server, For::Led { number, dial, via });
            }
            None => {
                self.servers.list[server].pacing.wait();
                self.attend(server);
            }
        }
    }

    /// The dial under way is over, or of no use.
    pub fn look_no_more(&mut self, number: u64) {
        let seat = self.seat(number);
        seat.dial += 1;
        let waited: Vec<Rank> = match std::mem::replace(&mut seat.looking, Looking::Nothing) {
            Looking::Nothing | Looking::First(..) => Vec::new(),
            Looking::Move(rank, _) => vec![rank],
            Looking::Turn(target, _) => {
                if target.via.is_none() {
                    vec![target.rank]
                } else {
                    Vec::new()
                }
            }
            Looking::Search(searching) => {
                // Links that came too late serve the next session.
                for (rank, spare) in searching.held {
                    let server = self.seat(number).ranks[rank];
                    self.keep(server, spare);
                }
                searching.asking.into_iter().collect()
            }
        };
        for rank in waited {
            let server = self.seat(number).ranks[rank];
            self.servers.list[server].pacing.wait_no_more();
            self.attend(server);
        }
    }

    /// A session that looks for a link looks again.
    pub fn look(&mut self, number: u64) {
        let now = self.now;
        match std::mem::replace(&mut self.seat(number).looking, Looking::Nothing) {
            Looking::Nothing => {}
            Looking::Search(searching) => self.go_on_searching(number, searching),
            Looking::Move(rank, until) => {
                let server = self.seat(number).ranks[rank];
                if let Some(spare) = self.take_spare(server) {
                    self.stop_waiting(number, rank);
                    return self.found(number, Target { rank, via: None }, spare);
                }
                if now < until {
                    self.seat(number).looking = Looking::Move(rank, until);
                    return;
                }
                self.stop_waiting(number, rank);
                self.answer(number, Found::Unreached(rank));
            }
            Looking::Turn(target, until) => self.go_on_turning(number, target, until),
            first @ Looking::First(..) => self.seat(number).looking = first,
        }
    }

    fn stop_waiting(&mut self, number: u64, rank: Rank) {
        let seat = self.seat(number);
        seat.dial += 1;
        let server = seat.ranks[rank];
        self.servers.list[server].pacing.wait_no_more();
        self.attend(server);
    }

    fn go_on_turning(&mut self, number: u64, target: Target, until: Instant) {
        let straight = target.via.is_none();
        let server = self.seat(number).ranks[target.rank];
        if straight && let Some(spare) = self.take_spare(server) {
            self.stop_waiting(number, target.rank);
            return self.found(number, target, spare);
        }
        if self.now < until {
            self.seat(number).looking = Looking::Turn(target, until);
            return;
        }
        if straight {
            self.stop_waiting(number, target.rank);
        }
        self.answer(number, Found::NoTurn("no link by the other way".to_owned()));
    }

    fn go_on_searching(&mut self, number: u64, mut searching: Searching) {
        let now = self.now;
        self.collect(number, &mut searching);
        loop {
            let step = self.show(number, |around| searching.search.poll(now, around));
            match step {
                Step::Ask(rank) => {
                    let server = self.seat(number).ranks[rank];
                    self.servers.list[server].pacing.wait();
                    searching.asking.insert(rank);
                    self.collect(number, &mut searching);
                    self.attend(server);
                }
                Step::Take(rank) => {
                    let at = searching.held.iter().position(|(held, _)| *held == rank);
                    let (_, spare) = searching.held.remove(at.expect("it is held"));
                    self.seat(number).looking = Looking::Search(searching);
                    self.look_no_more(number);
                    return self.found(number, Target { rank, via: None }, spare);
                }
                Step::GiveUp(gave_up) => {
                    self.seat(number).looking = Looking::Search(searching);
                    self.look_no_more(number);
                    return self.answer(number, Found::NoServer(gave_up));
                }
                Step::Wait(at) => {
                    if let Some(at) = at.filter(|at| *at > now) {
                        self.todo.push((at, Ev::Search(number)));
                    }
                    break;
                }
            }
        }
        self.look_for_relays(number, &mut searching);
        self.seat(number).looking = Looking::Search(searching);
    }

    /// Takes the links that are ready at servers that were asked.
    fn collect(&mut self, number: u64, searching: &mut Searching) {
        for rank in searching.asking.clone() {
            let server = self.seat(number).ranks[rank];
            let Some(spare) = self.take_spare(server) else { continue };
            searching.asking.remove(&rank);
            self.servers.list[server].pacing.wait_no_more();
            if searching.search.handle_link(self.now, rank) {
                searching.held.push((rank, spare));
            } else {
                self.keep(server, spare);
            }
        }
    }

    /// A session whose home cannot be reached, and that can go on nowhere else, asks all others to
    /// lead it there.
    fn look_for_relays(&mut self, number: u64, searching: &mut Searching) {
        let now = self.now;
        let Some((at, pause)) = searching.rescue.filter(|(at, _)| *at <= now) else { return };
        let next = (pause * 2).min(RESCUE_MAX);
        searching.rescue = Some((at + pause, next));
        self.todo.push((at + pause, Ev::Search(number)));
        let Some(home) = searching.home else { return };
        let seat = self.seat(number);
        let (home, dial) = (seat.ranks[home], seat.dial);
        for via in (0..self.servers.list.len()).filter(|via| *via != home) {
            self.begin_dial(home, For::Led { number, dial, via });
        }
    }

    /// A dial through a relay came to an end.
    pub fn led(&mut self, number: u64, dial: u64, via: Rank, spare: Option<Spare>) {
        let seat = self.seat(number);
        if seat.dial != dial {
            return;
        }
        let home = match &seat.looking {
            Looking::Search(searching) => searching.home,
            Looking::Turn(target, _) => Some(target.rank),
            Looking::Nothing | Looking::First(..) | Looking::Move(..) => None,
        };
        let (Some(spare), Some(rank)) = (spare, home) else { return };
        self.look_no_more(number);
        self.led += 1;
        self.found(number, Target { rank, via: Some(relay(via)) }, spare);
    }

    fn found(&mut self, number: u64, to: Target, spare: Spare) {
        let link = SimLink::new(&self.net, spare.conn, BROKER, number);
        drop(spare);
        self.answer(number, Found::Link(to, Box::new(link)));
    }

    fn answer(&mut self, number: u64, found: Found<SimLink>) {
        self.seat(number).dialing.fill(found);
        self.wake(number);
    }

    // What was measured.

    fn note_measured(&mut self, number: u64, measured: &[(Rank, Option<Duration>)]) {
        let ranks = Rc::clone(&self.seat(number).ranks);
        for (rank, now) in measured {
            let way = &mut self.servers.list[ranks[*rank]].measured;
            way.now = *now;
            way.base = way.base.into_iter().chain(*now).min();
        }
    }

    /// The servers were measured for a session that may leave its own.
    pub fn measured(&mut self, number: u64, question: u64, measured: &[(Rank, Option<Duration>)]) {
        self.note_measured(number, measured);
        if self.seat(number).question != question {
            return;
        }
        let ranks = Rc::clone(&self.seat(number).ranks);
        let ways: Vec<Measured<Rank>> = measured
            .iter()
            .map(|(to, _)| Measured { to: *to, way: self.servers.list[ranks[*to]].measured })
            .collect();
        self.seat(number).measuring.fill(Learned::Servers(ways));
        self.wake(number);
    }

    /// The ways to a session's server were measured: the straight one first.
    pub fn measured_ways(
        &mut self,
        number: u64,
        (question, home): (u64, Rank),
        measured: &[(Option<Relay>, Option<Duration>)],
    ) {
        if self.seat(number).question != question {
            return;
        }
        let base = self.servers.list[home].measured.base;
        let ways: Vec<_> = measured
            .iter()
            .map(|(to, now)| {
                let base = if to.is_none() { base.or(*now) } else { *now };
                Measured { to: *to, way: Way { now: *now, base } }
            })
            .collect();
        self.seat(number).measuring.fill(Learned::Ways(ways));
        self.wake(number);
    }

    /// A session that is led through a relay has looked at the straight way.
    fn looked(
        &mut self,
        number: u64,
        look: u64,
        (present, straight): (Option<Duration>, Option<Duration>),
    ) {
        let way = |now: Option<Duration>| Way { now, base: now };
        let seat = self.seat(number);
        if seat.look == look && !seat.over {
            seat.looked.fill((way(present), way(straight)));
            self.wake(number);
        }
    }
}

impl World {
    /// An app connects, as soon as its name is known.
    pub fn start(&mut self, number: u64) {
        if self.broker().seat(number).begun {
            return;
        }
        if self.names.is_some() && !self.resolve(number) {
            return;
        }
        self.begin_session(number);
    }

    pub fn begin_session(&mut self, number: u64) {
        let offered = self.offered(number);
        let mut random = Random::new(self.random.next());
        let limits = self.plan.broker.clone();
        let deadlines = self.plan.deadlines;
        let (inbox, orders) = mpsc::channel(ORDERS_MAX);
        let (session, task, waits, servers) = {
            let mut broker = self.broker();
            let (now, all) = (broker.now, broker.servers.list.len());
            let seat = broker.seat(number);
            seat.ranks = offered.unwrap_or_else(|| (0..all).collect()).into();
            (seat.begun, seat.orders) = (true, Some(inbox));
            let connect_until = now + CONNECT_MAX;
            let waits = Waits { connect_until, deadlines, silence: limits.silence_max };
            let service = seat.script.service();
            let session = Session::initiate(now, limits, seat.handle, service, "me@here");
            (session, seat.task.take().expect("it starts once"), waits, seat.ranks.len())
        };
        let app = App::new(task, &self.plan, &mut random);
        let near = self.keep(NearSide::new(Kind::App(Box::new(app))), BROKER);
        let means = SimMeans { broker: Rc::clone(&self.broker), number };
        let far = Far::of_broker(SessionFar::new(means, servers, waits, orders));
        self.counts.sessions += 1;
        let who = Who::Broker(number);
        self.ends.insert(who, Some(End::new(session, near, far, Start::Unlinked)));
        self.run_end(who);
    }

    /// A near side that outlives its session's process, if such processes die.
    pub fn keep(&self, near: NearSide, side: usize) -> NearSide {
        let limits = if side == BROKER { &self.plan.broker } else { &self.plan.server };
        if self.plan.has(Fault::Restart) { near.kept(limits) } else { near }
    }

    /// The broker's process dies, and the next one goes on with what its keeper has. A connect that
    /// is under way is left alone.
    pub fn restart_broker(&mut self) {
        for number in self.sessions() {
            let who = Who::Broker(number);
            let goes_on = |end: &End| {
                end.session().is_established() && end.session().state() != State::Closed
            };
            if self.end(who).is_some_and(goes_on) {
                self.restart_session(number);
            }
        }
    }

    fn restart_session(&mut self, number: u64) {
        let (who, now, limits) = (Who::Broker(number), self.now, self.plan.broker.clone());
        let Some(mut old) = self.ends.remove(&who).flatten() else { return };
        self.broker().look_no_more(number);
        let (inbox, orders) = mpsc::channel(ORDERS_MAX);
        let (home, service, servers) = {
            let mut broker = self.broker();
            let seat = broker.seat(number);
            seat.orders = Some(inbox);
            (seat.stands.server, seat.script.service(), seat.ranks.len())
        };
        let mut near = std::mem::replace(old.driver.near(), NearSide::gone());
        let Some(session) = near.restore(now, &limits, service) else {
            panic!("session {number} has left nothing");
        };
        let (deadlines, silence) = (self.plan.deadlines, limits.silence_max);
        let waits = Waits { connect_until: now + CONNECT_MAX, deadlines, silence };
        let means = SimMeans { broker: Rc::clone(&self.broker), number };
        let mut far = Far::of_broker(SessionFar::new(means, servers, waits, orders));
        far.tickets = std::mem::take(&mut old.driver.far().tickets);
        far.resumed = old.driver.far().resumed;
        far.moved = old.driver.far().moved;
        far.restored(now, home.expect("a server has it, or had it last"));
        let mut end = End::new(session, near, far, Start::Unlinked);
        end.watch = std::mem::take(&mut old.watch);
        drop(old);
        self.ends.insert(who, Some(end));
        self.run_end(who);
    }

    /// A user wants a session elsewhere: at this server, or at any other. Whether it can be moved.
    pub fn move_by_user(&mut self, number: u64, to: Option<Rank>) -> bool {
        let (answer, mut answered) = oneshot::channel();
        self.order(number, Order::Move { to, answer });
        self.run_end(Who::Broker(number));
        answered.try_recv().is_ok_and(|moves| moves.is_ok())
    }

    fn order(&mut self, number: u64, order: Order) {
        if let Some(orders) = &self.broker().seat(number).orders {
            // As in the daemon: if the queue of a session is full, the order is dropped.
            let _full = orders.try_send(order);
        }
    }

    /// Tells a server that a session has left it.
    pub fn leave(&mut self, rank: Rank, frame: Vec<u8>, tries: u32) {
        let up = self.net().is_up(self.now, rank) && self.servers[rank].alive;
        if !up || self.servers[rank].gone {
            if tries < LEAVE_TRIES {
                self.after(Duration::from_secs(60), Ev::Leave(rank, frame, tries + 1));
            }
            return;
        }
        let mut net = self.net();
        let conn = net.add(rank, rank);
        net.send(conn, BROKER, &frame);
        net.close(conn, BROKER, false);
    }

    /// Tells a server what a session receives elsewhere, on a link of its own (R69).
    pub fn tell_next(&mut self, rank: Rank, frame: &[u8]) {
        let up = self.net().is_up(self.now, rank) && self.servers[rank].alive;
        if !up || self.servers[rank].gone {
            return;
        }
        let mut net = self.net();
        let conn = net.add(rank, rank);
        net.send(conn, BROKER, frame);
        net.close(conn, BROKER, false);
    }

    /// The broker's daemon learns that the network has changed.
    pub fn noticed(&mut self) {
        self.forget_line();
        self.broker().network_changed();
        let address = self.net().address;
        for number in self.sessions() {
            let who = Who::Broker(number);
            let Some(end) = self.end(who) else { continue };
            let conn = end.driver.newest_link().map(|link| link.conn);
            let old = conn.and_then(|conn| self.net().conns.get(&conn).map(|conn| conn.address));
            if old != Some(address) {
                let (why, since) = (GapWhy::AddressGone, self.now);
                self.order(number, Order::PathChanged { why, since });
                self.tell_end(who, Command::PathChanged);
            }
        }
    }

    /// Servers, or ways, are measured: the answers come when the last one has.
    pub fn measuring(&mut self, event: Ev) {
        let patience = PATIENCE;
        let mut longest = Duration::ZERO;
        let mut measure = |world: &mut World, to: Rank, path: Rank| {
            let trip = world.measure(to, path, patience);
            longest = longest.max(trip.unwrap_or(patience));
            trip
        };
        let measured = match event {
            Ev::MeasureFirst(number, dial, ranks) => {
                let known = Rc::clone(&self.broker().seat(number).ranks);
                let all = ranks.into_iter().map(|rank| {
                    let server = known[rank];
                    (rank, measure(self, server, server))
                });
                Ev::MeasuredFirst(number, dial, all.collect())
            }
            Ev::Measure(number, question, ranks) => {
                let known = Rc::clone(&self.broker().seat(number).ranks);
                let all = ranks.into_iter().map(|rank| {
                    let server = known[rank];
                    (rank, measure(self, server, server))
                });
                Ev::Measured(number, question, all.collect())
            }
            Ev::MeasureWays(number, question, home) => {
                let mut ways = vec![(None, measure(self, home, home))];
                for via in (0..self.servers.len()).filter(|via| *via != home) {
                    if let Some(trip) = measure(self, home, via) {
                        ways.push((Some(relay(via)), Some(trip)));
                    }
                }
                Ev::MeasuredWays(number, question, home, ways)
            }
            other => panic!("{other:?} measures nothing"),
        };
        self.after(longest, measured);
    }

    /// A session that is led through a relay looks at the straight way.
    pub fn look_straight(&mut self, number: u64, look: u64, (via, home): (Rank, Rank)) {
        let straight = self.measure(home, home, PATIENCE);
        let present = self.measure(home, via, PATIENCE);
        self.broker().looked(number, look, (present, straight));
    }

    /// The broker drops a session.
    pub fn broker_session_over(&mut self, number: u64, end: End) {
        self.broker().look_no_more(number);
        self.check_outcome(number, end);
    }
}
