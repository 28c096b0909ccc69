//! The broker: apps' sessions and their ways through the servers. Everything that decides is
//! shipped: [`Course`], [`Search`] and the pacing of dials. What is simulated is what they ask for:
//! dials, links and measurements.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::rc::Rc;
use std::time::Duration;

use stp_drive::{Act, Command, DialFailed, Dialed, Start};
use stp_proto::course::{
    Action, Course, Deadlines, Denial, Dial as Where, GapWhy, Measured, PATIENCE, Relay, Search,
    Seek, Step, Target,
};
use stp_proto::handle::Handle;
use stp_proto::rise;
use stp_proto::select::{GRACE, Rank, Rejection, Want};
use stp_proto::session::{Denied, Event, LostCause, Peer, Session, code};
use stp_proto::time::Instant;
use stp_proto::wire::{Close, ResetFrame};

use crate::app::{App, Task};
use crate::ends::End;
use crate::far::{Far, Found, Place, Slot};
use crate::link::{SimLink, Wire};
use crate::near::{Kind, NearSide};
use crate::net::{BROKER, ConnId};
use crate::origin::Ledger;
use crate::plan::{Plan, Work};
use crate::random::Random;
use crate::server::Server;
use crate::ways::{Dial, For, Offered, Servers, Spare, rank_of, relay};
use crate::work;
use crate::world::{Ev, Who, World};

const CONNECT_MAX: Duration = Duration::from_secs(30);
/// How long a link to a server that has just answered a measurement may take.
const LINK_MAX: Duration = Duration::from_secs(3);
/// A session whose server is out of reach looks again for a relay after this time at most.
const RESCUE_MAX: Duration = Duration::from_secs(5);
/// How often a server that cannot be reached is tried, to tell it that a session has left.
const LEAVE_TRIES: u32 = 60;
/// How often a session that is led through a relay looks at the straight way.
const LOOK_EVERY: Duration = Duration::from_secs(3);

/// What may be blamed for a session's end.
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
    First(Seek),
    Search(Searching),
    /// It waits for a link to this server until then: a move was decided.
    Move(Rank, Instant),
    /// It goes to its server by another way.
    Turn(Target, Instant),
}

/// A search under way.
pub struct Searching {
    search: Search,
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
            Looking::First(_) => "measures first",
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
    /// What a server of it plays.
    pub script: work::Script,
    pub handle: Handle,
    pub facts: Facts,
    pub over: bool,
    pub goal: bool,
    pub started: Instant,
    /// The servers of its service: what its course calls the first is the first of them.
    pub ranks: Rc<[Rank]>,
    pub course: Course,
    pub looking: Looking,
    slot: Slot,
    /// Counts dials, and what is measured for a decision: older ones are of no use.
    dial: u64,
    question: u64,
    /// What its driver is to do.
    pub acts: VecDeque<Act>,
    pass: bool,
    /// Where its straight link leads, and since when.
    link: Option<(Rank, Instant)>,
    watched: bool,
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
    silence: Duration,
    /// What is counted.
    pub decided: u64,
    pub cooled: u64,
    pub led: u64,
    /// What will happen.
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
                started: Instant::default(),
                ranks: Rc::default(),
                course: Course::new(0, Deadlines::default()),
                looking: Looking::Nothing,
                slot: Slot::default(),
                dial: 0,
                question: 0,
                acts: VecDeque::new(),
                pass: false,
                link: None,
                watched: false,
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
            silence: plan.broker.silence_max,
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

    /// Asks a session's course something.
    fn ask_course<T>(
        &mut self,
        number: u64,
        ask: impl FnOnce(&mut Course, &Offered<'_>) -> T,
    ) -> T {
        let seat = &mut self.seats[usize::try_from(number).expect("few sessions")];
        ask(&mut seat.course, &Offered { servers: &self.servers, ranks: &seat.ranks })
    }

    /// The session's server, if one has it.
    fn home(&mut self, number: u64) -> Option<Rank> {
        let seat = self.seat(number);
        seat.course.home().map(|home| seat.ranks[home])
    }

    // What the driver asks.

    /// The session asks for a link.
    pub fn dial(&mut self, now: Instant, number: u64, session: &Session) -> Slot {
        self.now = now;
        let want = if session.is_established() {
            Want::Resume { transferable: session.transferable().is_ok() }
        } else {
            Want::Connect
        };
        let linked = session.link().is_some();
        self.look_no_more(number);
        let seat = self.seat(number);
        seat.slot = Slot::default();
        let slot = seat.slot.clone();
        let connect_until = seat.started + CONNECT_MAX;
        match seat.course.handle_dial(now, linked, want, connect_until) {
            Where::Move(rank) => {
                seat.looking = Looking::Move(rank, now + LINK_MAX);
                let server = seat.ranks[rank];
                self.servers.list[server].pacing.wait();
                self.attend(server);
                self.todo.push((now + LINK_MAX, Ev::Search(number)));
            }
            Where::Turn(target) => self.begin_turn(number, target),
            Where::Search(seek) => self.begin_search(number, seek),
        }
        self.todo.push((now, Ev::Search(number)));
        slot
    }

    /// Something happened to a session.
    pub fn event(&mut self, now: Instant, number: u64, session: &Session, event: &Event) -> Act {
        self.now = now;
        let linked = session.link().is_some();
        let silence = self.silence;
        let transferable = session.transferable();
        let actions = self.ask_course(number, |course, around| match event {
            Event::Attached { attempt, gap, .. } => {
                course.handle_attached(now, around, *attempt, *gap)
            }
            Event::Lost { cause, .. } if linked => course.handle_attempt_lost(around, *cause),
            Event::Lost { cause, .. } => {
                let silent = if *cause == LostCause::Silent { silence } else { Duration::ZERO };
                course.handle_lost(now, *cause, silent)
            }
            Event::Suspended { by_peer } => course.handle_suspended(now, *by_peer),
            Event::TransferWanted { reason, text } => {
                course.handle_asked_to_leave(now, *reason, text, transferable)
            }
            Event::PassGiven { .. } => {
                course.handle_pass();
                Vec::new()
            }
            _ => Vec::new(),
        });
        match event {
            Event::Attached { .. } => {
                let straight = self.seat(number).course.via().is_none();
                let home = self.home(number).filter(|_| straight);
                self.seat(number).link = home.map(|home| (home, now));
            }
            Event::Lost { .. } if !linked => self.seat(number).link = None,
            Event::PassGiven { .. } => self.seat(number).pass = true,
            Event::Denied(why) => return self.denied(number, session, why),
            Event::Moved { old, told: false } => self.take_leave(number, session, *old),
            _ => {}
        }
        self.act(number, actions)
    }

    /// The server that the session came from is told that it has left.
    fn take_leave(&mut self, number: u64, session: &Session, old: Handle) {
        let seat = self.seat(number);
        let Some(server) = seat.course.came_from().map(|rank| seat.ranks[rank]) else { return };
        let initiator = session.handles().0;
        let reset = ResetFrame { initiator, acceptor: old, code: code::MOVED };
        let mut frame = Vec::new();
        Close::ResetFirst(reset).encode(&mut frame);
        self.todo.push((self.now, Ev::Leave(server, frame, 0)));
    }

    fn denied(&mut self, number: u64, session: &Session, why: &Denied) -> Act {
        let (why, text) = match why {
            Denied::Connect { why, retry_after, text, .. } => {
                (Some(Rejection::of_connect(*why, *retry_after)), text.clone())
            }
            Denied::Resume(why) => (Rejection::of_resume(*why), why.to_string()),
        };
        let Some(why) = why else { return Act::Nothing };
        let denial = Denial {
            why,
            text: &text,
            linked: session.link().is_some(),
            established: session.is_established(),
            transferable: session.transferable(),
        };
        let now = self.now;
        let actions =
            self.ask_course(number, |course, around| course.handle_denied(now, around, &denial));
        self.act(number, actions)
    }

    /// This end finds the path slow.
    pub fn slow_path(&mut self, now: Instant, number: u64, session: &Session, text: &str) -> Act {
        self.now = now;
        let transferable = session.transferable();
        let actions = self.seat(number).course.handle_slow_path(now, text, transferable);
        self.act(number, actions)
    }

    /// Something came on a session's link.
    pub fn heard(&mut self, now: Instant, number: u64) {
        if let Some((rank, since)) = self.seat(number).link {
            self.servers.list[rank].heard.note(now, since);
        }
    }

    /// Whether a session's server speaks on other links.
    pub fn speaks_elsewhere(&mut self, now: Instant, number: u64) -> bool {
        let link = self.seat(number).link;
        link.is_some_and(|(rank, _)| self.servers.list[rank].heard.lately(now))
    }

    /// Does what a course wants done; what is left is for the session's driver.
    fn act(&mut self, number: u64, actions: Vec<Action>) -> Act {
        let now = self.now;
        let ranks = Rc::clone(&self.seat(number).ranks);
        let mut act = Act::Nothing;
        for action in actions {
            crate::trace::say(now, || format!("session {number}: {action:?}"));
            match action {
                Action::Retry => act = Act::Retry,
                Action::RetryIn(pause) => act = Act::RetryIn(pause),
                Action::Stay(reason) => act = Act::Stay(reason),
                Action::GiveUp { why, .. } => {
                    self.seat(number).facts.gave_up.get_or_insert(why.clone());
                    act = Act::Abort { code: code::NO_SERVER, reason: why };
                }
                Action::Measure { home, others } => {
                    let question = self.ask(number);
                    let all = std::iter::once(home).chain(others).collect();
                    self.todo.push((now, Ev::Measure(number, question, all)));
                }
                Action::MeasureWays { home } => {
                    let question = self.ask(number);
                    self.todo.push((now, Ev::MeasureWays(number, question, ranks[home])));
                }
                Action::Look => {
                    if !std::mem::replace(&mut self.seat(number).watched, true) {
                        self.todo.push((now + LOOK_EVERY, Ev::Look(number)));
                    }
                }
                Action::List(rank, asked) => {
                    self.servers.overloaded.add(now, ranks[rank], asked);
                }
                Action::Unlist(rank) => self.servers.overloaded.remove(&ranks[rank]),
                Action::Doubt(to, cause) => {
                    self.doubt(to.via.map_or(ranks[to.rank], rank_of), cause);
                }
                Action::Log { what, cause } => {
                    let leaves = what == "leaves its server";
                    self.decided += u64::from(leaves && cause.starts_with("congested"));
                }
                Action::Note { what, cause } => {
                    self.cooled += u64::from(what == "stays" && cause.contains("lately"));
                }
                Action::NoteLink { .. } => {}
            }
        }
        act
    }

    fn ask(&mut self, number: u64) -> u64 {
        let seat = self.seat(number);
        seat.question += 1;
        seat.question
    }

    fn doubt(&mut self, rank: Rank, cause: LostCause) {
        let pacing = &mut self.servers.list[rank].pacing;
        match cause {
            LostCause::Silent | LostCause::Unanswered => pacing.suspect(),
            LostCause::Broken | LostCause::Overtaken => {}
        }
    }

    /// The session's driver is to do this, though it did not ask.
    fn tell(&mut self, number: u64, actions: Vec<Action>) {
        let act = self.act(number, actions);
        if act != Act::Nothing {
            self.seat(number).acts.push_back(act);
            self.todo.push((self.now, Ev::Wake(Who::Broker(number))));
        }
    }

    // Links for sessions.

    fn begin_search(&mut self, number: u64, seek: Seek) {
        let now = self.now;
        let mut first = self.ask_course(number, |_, around| seek.measured_first(now, around));
        let ranks = Rc::clone(&self.seat(number).ranks);
        first.retain(|rank| self.servers.list[ranks[*rank]].measured.now.is_none());
        if first.is_empty() {
            return self.search_for(number, &seek);
        }
        let dial = self.seat(number).dial;
        self.seat(number).looking = Looking::First(seek);
        self.todo.push((now, Ev::MeasureFirst(number, dial, first)));
    }

    fn search_for(&mut self, number: u64, seek: &Seek) {
        let now = self.now;
        let wanted = self.ask_course(number, |_, around| seek.wanted(now, around));
        let has_pass = self.seat(number).pass;
        let rescue = (has_pass && seek.is_bound_to_home()).then_some((now + GRACE / 2, GRACE / 2));
        if let Some((at, _)) = rescue {
            self.todo.push((at, Ev::Search(number)));
        }
        let search = Search::new(now, wanted);
        self.seat(number).looking = Looking::Search(Searching {
            search,
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
            Looking::First(seek) => self.search_for(number, &seek),
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
            Looking::Nothing | Looking::First(_) => Vec::new(),
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
            first @ Looking::First(_) => self.seat(number).looking = first,
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
        self.answer(number, Found::TurnFailed);
    }

    fn go_on_searching(&mut self, number: u64, mut searching: Searching) {
        let now = self.now;
        self.collect(number, &mut searching);
        loop {
            let step = self.ask_course(number, |_, around| searching.search.poll(now, around));
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
        let (home, dial) = (self.home(number), self.seat(number).dial);
        let Some(home) = home else { return };
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
        let (Some(spare), Some(rank)) = (spare, seat.course.home()) else { return };
        self.look_no_more(number);
        self.led += 1;
        self.found(number, Target { rank, via: Some(relay(via)) }, spare);
    }

    fn found(&mut self, number: u64, to: Target, spare: Spare) {
        let link = SimLink::new(&self.net, spare.conn, BROKER, number);
        drop(spare);
        self.answer(number, Found::Link(to, link));
    }

    fn answer(&mut self, number: u64, found: Found) {
        self.seat(number).slot.fill(found);
        self.todo.push((self.now, Ev::Wake(Who::Broker(number))));
    }

    /// A dial of a session has come to an end.
    pub fn dial_ended(
        &mut self,
        now: Instant,
        number: u64,
        session: &Session,
        found: Found,
    ) -> Result<Dialed<SimLink>, DialFailed> {
        self.now = now;
        let (established, transferable) = (session.is_established(), session.transferable());
        let at = usize::try_from(number).expect("few sessions");
        let Seat { course, ranks, .. } = &mut self.seats[at];
        let around = Offered { servers: &self.servers, ranks };
        let (why, actions) = match found {
            Found::Link(to, link) => {
                let same = course.handle_found(to, established);
                crate::trace::say(now, || {
                    format!("session {number} gets link {} to {to:?}, same {same}", link.conn)
                });
                return Ok((link, if same { Peer::Same } else { Peer::Other }));
            }
            Found::Unreached(rank) => {
                let why = "no link to where it would move".to_owned();
                (why, course.handle_unreached(rank))
            }
            Found::TurnFailed => {
                let why = "no link by the other way".to_owned();
                (why.clone(), course.handle_turn_failed(why))
            }
            Found::NoServer(gave_up) => {
                let why = gave_up.why.clone();
                let can = transferable.map_err(|why| why.to_string());
                let actions = course.handle_no_server(&around, established, can, gave_up);
                (why, actions)
            }
        };
        let then = self.act(number, actions);
        Err(DialFailed { why, then })
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
        let rtt = ways.first().and_then(|way| way.way.base).unwrap_or_default();
        let now = self.now;
        let actions = self
            .ask_course(number, |course, around| course.handle_measured(now, around, &ways, rtt));
        self.tell(number, actions);
    }

    /// The ways to a session's server were measured: the straight one first.
    pub fn measured_ways(
        &mut self,
        number: u64,
        question: u64,
        measured: &[(Option<Relay>, Option<Duration>)],
    ) {
        if self.seat(number).question != question {
            return;
        }
        let base = self.home(number).and_then(|home| self.servers.list[home].measured.base);
        let ways: Vec<_> = measured
            .iter()
            .map(|(to, now)| {
                let base = if to.is_none() { base.or(*now) } else { *now };
                Measured { to: *to, way: rise::Way { now: *now, base } }
            })
            .collect();
        let actions =
            self.ask_course(number, |course, around| course.handle_ways_measured(around, &ways));
        self.tell(number, actions);
    }

    /// A session that is led through a relay has looked at the straight way.
    pub fn looked(&mut self, number: u64, present: Option<Duration>, straight: Option<Duration>) {
        let way = |now: Option<Duration>| rise::Way { now, base: now };
        let now = self.now;
        let actions = self.ask_course(number, |course, around| {
            course.handle_looked(now, around, way(present), way(straight))
        });
        self.tell(number, actions);
    }

    /// Whether a session goes on looking at the straight way, and where it is led through.
    pub fn looks(&mut self, number: u64) -> Option<(Rank, Rank)> {
        let seat = self.seat(number);
        let looks = seat.course.looks() && !seat.over;
        seat.watched = looks;
        if !looks {
            return None;
        }
        let via = seat.course.via().map(rank_of);
        self.home(number).zip(via)
    }
}

impl World {
    /// An app connects, as soon as its name is known.
    pub fn start(&mut self, number: u64) {
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
        let (session, task) = {
            let mut broker = self.broker();
            let (now, all) = (broker.now, broker.servers.list.len());
            let seat = broker.seat(number);
            seat.ranks = offered.unwrap_or_else(|| (0..all).collect()).into();
            seat.course = Course::new(seat.ranks.len(), deadlines);
            (seat.begun, seat.started) = (true, now);
            let service = seat.script.service();
            let session = Session::initiate(now, limits, seat.handle, service, "me@here");
            (session, seat.task.take().expect("it starts once"))
        };
        let app = App::new(task, &self.plan, &mut random);
        let near = NearSide::new(Kind::App(Box::new(app)));
        let far = Far::new(Place::Broker(Rc::clone(&self.broker), number), &self.wire());
        self.counts.sessions += 1;
        let who = Who::Broker(number);
        self.ends.insert(who, Some(End::new(session, near, far, Start::Dial)));
        self.run_end(who);
    }

    /// A user wants a session elsewhere: at this server, or at any other. Whether it can be moved.
    pub fn move_by_user(&mut self, number: u64, to: Option<Rank>) -> bool {
        let who = Who::Broker(number);
        let Some(transferable) = self.end(who).map(|end| end.session().transferable()) else {
            return false;
        };
        let mut broker = self.broker();
        let actions = broker
            .ask_course(number, |course, around| course.handle_user_move(around, to, transferable));
        let moves = actions.is_ok();
        broker.tell(number, actions.unwrap_or_default());
        moves
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
                let now = self.now;
                self.broker().seat(number).course.handle_path_changed(GapWhy::AddressGone, now);
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
                Ev::MeasuredWays(number, question, ways)
            }
            other => panic!("{other:?} measures nothing"),
        };
        self.after(longest, measured);
    }

    /// A session that is led through a relay looks at the straight way.
    pub fn look_straight(&mut self, number: u64) {
        let looks = self.broker().looks(number);
        let Some((home, via)) = looks else { return };
        let straight = self.measure(home, home, PATIENCE);
        let present = self.measure(home, via, PATIENCE);
        self.broker().looked(number, present, straight);
        self.after(LOOK_EVERY, Ev::Look(number));
    }

    /// The broker drops a session.
    pub fn broker_session_over(&mut self, number: u64, end: End) {
        self.broker().look_no_more(number);
        self.check_outcome(number, end);
    }
}
