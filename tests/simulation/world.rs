//! The simulated world: one virtual clock and a queue of what will happen.

use std::cell::{Cell, RefCell, RefMut};
use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use stp_drive::Command;
use stp_proto::course::{FailureKind, Relay};
use stp_proto::handle::Handle;
use stp_proto::select::Rank;
use stp_proto::time::Instant;

use crate::broker::Broker;
use crate::directory::Asker;
use crate::ends::End;
use crate::link::Wire;
use crate::names::Names;
use crate::net::{BROKER, ConnId, Net, SERVER};
use crate::origin::Ledger;
use crate::plan::{Kind, Plan};
use crate::random::Random;
use crate::server::Server;

/// A session's end.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Who {
    Broker(u64),
    /// The server, and the session's number there.
    Server(usize, u64),
}

impl Who {
    pub fn side(self) -> usize {
        match self {
            Who::Broker(_) => BROKER,
            Who::Server(..) => SERVER,
        }
    }

    /// The session with this number at one side of a connection to this server.
    pub fn at(side: usize, server: usize, number: u64) -> Who {
        if side == BROKER { Who::Broker(number) } else { Who::Server(server, number) }
    }
}

/// What will happen.
#[derive(Debug)]
pub enum Ev {
    Arrive(ConnId, usize),
    Wake(Who),
    /// An app begins.
    Start(u64),
    Search(u64),
    /// A dial reaches the server, it is answered, it has taken too long.
    Syn(u64),
    Dialed(u64, bool),
    DialOver(u64),
    /// The broker looks whether links to a server are to be dialed.
    Pace(Rank),
    /// Servers are measured: for a session's first choice, for a decision to leave (its number),
    /// and the ways to a session's home.
    MeasureFirst(u64, u64, Vec<Rank>),
    Measure(u64, u64, Vec<Rank>),
    MeasureWays(u64, u64, Rank),
    /// The answers have come.
    MeasuredFirst(u64, u64, Vec<(Rank, Option<Duration>)>),
    Measured(u64, u64, Vec<(Rank, Option<Duration>)>),
    MeasuredWays(u64, u64, Rank, Vec<(Option<Relay>, Option<Duration>)>),
    /// A session that is led through a relay to its server looks at the straight way.
    Look(u64, u64, (Rank, Rank)),
    /// A server opens the service of a session.
    Open(usize, u32, ConnId, Vec<u8>),
    /// A server reads of a response that it follows for a session elsewhere.
    ReadAlong(usize, u32, Handle),
    Fault(Kind),
    /// A user lets a session go on.
    Resume(Who),
    /// A server starts again.
    Restart(usize),
    /// A machine or an app that was frozen may go on.
    Thaw(usize),
    /// The broker's daemon learns of a changed network.
    Noticed,
    /// A server that was left is told.
    Leave(usize, Vec<u8>, u32),
    /// The server to which a session would go next is told what it receives (R69).
    Prepare(usize, Vec<u8>),
    /// Faults are over.
    Mend,
    /// A client announces itself to the directory.
    Tell(Asker),
    /// A link to the directory from there is there, or not; it is given up; an answer is late.
    Called(Asker, Option<SocketAddr>),
    LineLost(Asker, u64),
    Unanswered(Asker, u32),
    /// A request arrives at the directory, an answer at its asker.
    Request(u64, Vec<u8>),
    Told(Asker, u64, Vec<u8>),
    /// The broker follows the servers of a service.
    Follow(usize),
    /// The directory looks at its leases; it starts again; its disk has room again.
    Sweep,
    DirectoryBack,
    DiskFreed,
}

/// What was counted in one run.
#[derive(Clone, Debug, Default)]
pub struct Counts {
    pub steps: u64,
    pub virtual_time: Duration,
    pub faults: u64,
    pub sessions: u64,
    pub goals: u64,
    pub resets: u64,
    pub resumed: u64,
    pub moved: u64,
    /// Decisions to leave for the sake of speed, those that a cool-down put off, links through
    /// relays, and denials because a server was full.
    pub decided: u64,
    pub cooled: u64,
    pub led: u64,
    pub full: u64,
    /// Denials for other reasons.
    pub refused: u64,
    pub bytes: u64,
    /// Of the directory: requests answered, leases that ran out, servers found elsewhere.
    pub answers: u64,
    pub lapses: u64,
    pub followed: u64,
}

/// Everything.
pub struct World {
    pub now: Instant,
    /// The same time, shared with parts that cannot see the world.
    pub clock: Rc<Cell<Instant>>,
    queue: BinaryHeap<Reverse<(Instant, u64, u64)>>,
    events: BTreeMap<u64, Ev>,
    sequence: u64,
    pub random: Random,
    pub plan: Plan,
    pub net: Wire,
    pub broker: Rc<RefCell<Broker>>,
    /// The sessions' ends; an empty place while one takes its turns.
    pub ends: BTreeMap<Who, Option<End>>,
    pub servers: Vec<Server>,
    pub ledger: Rc<RefCell<Ledger>>,
    /// The directory, and those that ask it.
    pub names: Option<Names>,
    pub mended: bool,
    pub counts: Counts,
}

impl World {
    pub fn new(seed: u64) -> World {
        let mut random = Random::new(seed);
        let mut aside = Random::new(seed ^ 0x6d65_6d6f);
        let plan = Plan::draw(&mut random).with_memory(&mut aside);
        World::with(plan, random)
    }

    /// A world that is as this plan says.
    pub fn with(plan: Plan, mut random: Random) -> World {
        let net_random = Random::new(random.next());
        let net = Net::new(plan.wires.clone(), plan.packed, net_random);
        let net = Rc::new(RefCell::new(net));
        let ledger = Rc::new(RefCell::new(Ledger::default()));
        let servers = Server::all(&plan, &mut random, &ledger);
        let broker = Broker::new(&plan, &mut random, &servers, &ledger, &net);
        let mut world = World {
            now: Instant(1_000_000),
            clock: Rc::new(Cell::new(Instant(1_000_000))),
            queue: BinaryHeap::new(),
            events: BTreeMap::new(),
            sequence: 0,
            random,
            net,
            broker: Rc::new(RefCell::new(broker)),
            ends: BTreeMap::new(),
            servers,
            ledger,
            names: plan
                .names
                .map(|lease_s| Names::new(Instant(1_000_000), plan.replicas.len(), lease_s)),
            mended: false,
            counts: Counts::default(),
            plan,
        };
        world.say(|world| format!("{:#?}", world.plan));
        world.begin();
        world
    }

    fn begin(&mut self) {
        for number in self.sessions() {
            let after = if number == 0 { Duration::ZERO } else { self.random.millis(1, 20_000) };
            self.at(self.now + after, Ev::Start(number));
        }
        let active = u64::try_from(self.plan.active.as_micros()).expect("hours");
        if self.names.is_some() {
            self.begin_names();
        }
        for (kind, times) in self.plan.faults.clone() {
            if kind == Kind::Suspend {
                continue;
            }
            for _ in 0..times {
                // Half of them early: most exchanges are short.
                let span = if self.random.one_in(2) { active.min(5_000_000) } else { active };
                let at = self.now + Duration::from_micros(self.random.below(span));
                self.at(at, Ev::Fault(kind));
            }
        }
        self.at(self.now + self.plan.active, Ev::Mend);
    }

    pub fn at(&mut self, at: Instant, event: Ev) {
        self.sequence += 1;
        self.events.insert(self.sequence, event);
        self.queue.push(Reverse((at, self.sequence, self.sequence)));
    }

    pub fn after(&mut self, pause: Duration, event: Ev) {
        self.at(self.now + pause, event);
    }

    pub fn say(&self, text: impl FnOnce(&World) -> String) {
        crate::trace::say(self.now, || text(self));
    }

    /// The network.
    pub fn net(&self) -> RefMut<'_, Net> {
        self.net.borrow_mut()
    }

    /// The network, for links.
    pub fn wire(&self) -> Wire {
        Rc::clone(&self.net)
    }

    /// The apps' sessions, by number.
    pub fn sessions(&self) -> std::ops::Range<u64> {
        0..self.broker.borrow().seats.len() as u64
    }

    /// The broker, which has looked at the clock.
    pub fn broker(&self) -> RefMut<'_, Broker> {
        let mut broker = self.broker.borrow_mut();
        broker.now = self.now;
        broker
    }

    /// Takes the events that the network and the broker want into the queue.
    fn take_wishes(&mut self) {
        let (arrivals, roomy) = {
            let mut net = self.net();
            (std::mem::take(&mut net.arrivals), std::mem::take(&mut net.roomy))
        };
        for (at, conn, way) in arrivals {
            self.at(at, Ev::Arrive(conn, way));
        }
        for (conn, way) in roomy {
            self.use_room(conn, way);
        }
        let todo = std::mem::take(&mut self.broker.borrow_mut().todo);
        for (at, event) in todo {
            self.at(at, event);
        }
    }

    /// When something happens next.
    pub fn next_at(&self) -> Option<Instant> {
        self.queue.peek().map(|Reverse((at, ..))| *at)
    }

    /// One event; false when nothing is left to happen.
    pub fn step(&mut self) -> bool {
        let Some(Reverse((at, _, id))) = self.queue.pop() else { return false };
        self.now = self.now.max(at);
        self.net().now = self.now;
        self.clock.set(self.now);
        let event = self.events.remove(&id).expect("queued events are kept");
        if let Some(awake) = self.sleeps(&event) {
            self.at(awake, event);
            return true;
        }
        self.counts.steps += 1;
        self.happen(event);
        self.take_wishes();
        if let Some(text) = self.ledger.borrow_mut().violation.take() {
            panic!("{text}");
        }
        true
    }

    /// When the machine wakes at which this would happen, if it sleeps.
    fn sleeps(&self, event: &Ev) -> Option<Instant> {
        let broker = self.broker.borrow().asleep_until;
        let server = |server: usize| self.servers[server].asleep_until;
        let until = match event {
            Ev::Arrive(conn, way) => match self.net().conns.get(conn) {
                Some(conn) if *way == BROKER => server(conn.server),
                Some(_) => broker,
                None => return None,
            },
            Ev::Wake(Who::Server(at, _)) | Ev::Resume(Who::Server(at, _)) => server(*at),
            Ev::Open(at, ..) | Ev::ReadAlong(at, ..) => server(*at),
            Ev::Wake(_) | Ev::Start(_) | Ev::Search(_) | Ev::Dialed(..) => broker,
            Ev::DialOver(_) | Ev::Pace(_) | Ev::MeasureFirst(..) | Ev::Measure(..) => broker,
            Ev::MeasureWays(..) | Ev::MeasuredFirst(..) | Ev::Measured(..) => broker,
            Ev::MeasuredWays(..) | Ev::Look(..) => broker,
            Ev::Resume(_) | Ev::Noticed | Ev::Leave(..) | Ev::Prepare(..) => broker,
            Ev::Tell(asker)
            | Ev::Called(asker, _)
            | Ev::LineLost(asker, _)
            | Ev::Unanswered(asker, _)
            | Ev::Told(asker, ..) => match asker {
                Asker::Broker => broker,
                Asker::Server(at) => server(*at),
                Asker::Owner => server(0),
            },
            Ev::Follow(_) => broker,
            Ev::Syn(_) | Ev::Fault(_) | Ev::Restart(_) | Ev::Thaw(_) | Ev::Mend => return None,
            Ev::Request(..) | Ev::Sweep | Ev::DirectoryBack | Ev::DiskFreed => return None,
        };
        (until > self.now).then_some(until)
    }

    fn happen(&mut self, event: Ev) {
        match event {
            Ev::Arrive(conn, way) => self.arrive(conn, way),
            Ev::Wake(who) => self.wake(who),
            Ev::Start(number) => self.start(number),
            Ev::Search(number) => self.broker().look(number),
            Ev::Syn(attempt) => self.syn(attempt),
            Ev::Dialed(attempt, taken) => self.dialed(attempt, taken),
            Ev::DialOver(id) => self.broker().dialed(id, Err(FailureKind::Silent)),
            Ev::Pace(rank) => self.broker().pace(rank),
            Ev::MeasureFirst(..) | Ev::Measure(..) | Ev::MeasureWays(..) => self.measuring(event),
            Ev::MeasuredFirst(number, dial, ways) => {
                self.broker().measured_first(number, dial, &ways);
            }
            Ev::Measured(number, question, ways) => {
                self.broker().measured(number, question, &ways);
            }
            Ev::MeasuredWays(number, question, home, ways) => {
                self.broker().measured_ways(number, (question, home), &ways);
            }
            Ev::Look(number, look, ways) => self.look_straight(number, look, ways),
            Ev::ReadAlong(server, generation, handle) => {
                self.read_along(server, generation, handle);
            }
            Ev::Open(server, generation, conn, record) => {
                self.open(server, generation, conn, &record);
            }
            Ev::Fault(kind) => self.fault(kind),
            Ev::Resume(who) => self.tell_end(who, Command::Resume),
            Ev::Restart(server) => self.restart(server),
            Ev::Thaw(server) => self.thaw(server),
            Ev::Noticed => self.noticed(),
            Ev::Leave(rank, frame, tries) => self.leave(rank, frame, tries),
            Ev::Prepare(rank, frame) => self.tell_next(rank, &frame),
            Ev::Mend => self.mend(),
            Ev::Tell(asker) => self.tell(asker),
            Ev::Called(asker, from) => self.called(asker, from),
            Ev::LineLost(asker, line) => self.line_lost(asker, line),
            Ev::Unanswered(asker, id) => self.unanswered(asker, id),
            Ev::Request(line, bytes) => self.request(line, &bytes),
            Ev::Told(asker, line, bytes) => self.told(asker, line, &bytes),
            Ev::Follow(service) => self.follow(service),
            Ev::Sweep => self.sweep(),
            Ev::DirectoryBack => self.directory_back(),
            Ev::DiskFreed => self.fill_disk(None),
        }
    }
}
