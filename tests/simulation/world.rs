//! The simulated world: one virtual clock and a queue of what will happen.

use std::cell::RefCell;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use stp_proto::session::Input;
use stp_proto::time::Instant;

use crate::broker::Broker;
use crate::directory::Asker;
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

    pub fn number(self) -> u64 {
        match self {
            Who::Broker(number) | Who::Server(_, number) => number,
        }
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
    /// An attempt to make a link: it reaches the server, it is answered, it was silent for long.
    Syn(u64),
    Dialed(u64, bool),
    Silent(u64),
    Probe(usize),
    /// A server opens the service of a session.
    Open(usize, u32, ConnId, Vec<u8>),
    Fault(Kind),
    /// A user lets a session go on.
    Resume(Who),
    /// A server starts again.
    Restart(usize),
    /// What was frozen may go on.
    Thaw(usize),
    /// The broker's daemon learns of a changed network.
    Noticed,
    /// A server that was left is told.
    Leave(usize, Vec<u8>, u32),
    /// Faults are over.
    Mend,
    /// Somebody tells the directory that it is there.
    Tell(Asker),
    /// A link to the directory from there is there, or not; it is given up; an answer is late.
    Called(Asker, Option<SocketAddr>),
    LineLost(Asker, u64),
    Unanswered(Asker, u32),
    /// A request arrives at the directory, an answer at who asked.
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
    pub bytes: u64,
    /// Of the directory: requests answered, leases that ran out, servers found elsewhere.
    pub answers: u64,
    pub lapses: u64,
    pub followed: u64,
}

/// Everything.
pub struct World {
    pub now: Instant,
    queue: BinaryHeap<Reverse<(Instant, u64, u64)>>,
    events: std::collections::BTreeMap<u64, Ev>,
    sequence: u64,
    pub random: Random,
    pub plan: Plan,
    pub net: Net,
    pub broker: Broker,
    pub servers: Vec<Server>,
    pub ledger: Rc<RefCell<Ledger>>,
    /// The directory, and who asks it.
    pub names: Option<Names>,
    pub mended: bool,
    pub counts: Counts,
    /// The trace is printed.
    pub loud: bool,
}

impl World {
    pub fn new(seed: u64, loud: bool) -> World {
        let mut random = Random::new(seed);
        let plan = Plan::draw(&mut random);
        let net_random = Random::new(random.next());
        let net = Net::new(plan.wires.clone(), plan.packed, net_random);
        let ledger = Rc::new(RefCell::new(Ledger::default()));
        let servers = Server::all(&plan, &mut random, &ledger);
        let broker = Broker::new(&plan, &mut random, &servers, &ledger);
        let mut world = World {
            now: Instant(1_000_000),
            queue: BinaryHeap::new(),
            events: std::collections::BTreeMap::new(),
            sequence: 0,
            random,
            net,
            broker,
            servers,
            ledger,
            names: plan
                .names
                .map(|lease_s| Names::new(Instant(1_000_000), plan.replicas.len(), lease_s)),
            mended: false,
            counts: Counts::default(),
            loud,
            plan,
        };
        world.say(|world| format!("{:#?}", world.plan));
        world.begin();
        world
    }

    fn begin(&mut self) {
        for number in 0..self.broker.seats.len() as u64 {
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

    #[expect(clippy::print_stderr, reason = "the trace is what is asked for")]
    pub fn say(&self, text: impl FnOnce(&World) -> String) {
        if self.loud {
            let ms = self.now.0 / 1000;
            eprintln!("{:>8}.{:03} {}", ms / 1000, ms % 1000, text(self));
        }
    }

    /// One event; false when nothing is left to happen.
    pub fn step(&mut self) -> bool {
        let Some(Reverse((at, _, id))) = self.queue.pop() else { return false };
        self.now = self.now.max(at);
        let event = self.events.remove(&id).expect("queued events are kept");
        if let Some(awake) = self.sleeps(&event) {
            self.at(awake, event);
            return true;
        }
        self.counts.steps += 1;
        self.happen(event);
        if let Some(text) = self.ledger.borrow_mut().violation.take() {
            panic!("{text}");
        }
        true
    }

    /// When the machine wakes at which this would happen, if it sleeps.
    fn sleeps(&self, event: &Ev) -> Option<Instant> {
        let broker = self.broker.asleep_until;
        let server = |server: usize| self.servers[server].asleep_until;
        let until = match event {
            Ev::Arrive(conn, way) => match self.net.conns.get(conn) {
                Some(conn) if *way == BROKER => server(conn.server),
                Some(_) => broker,
                None => return None,
            },
            Ev::Wake(Who::Server(at, _)) | Ev::Resume(Who::Server(at, _)) => server(*at),
            Ev::Open(at, ..) => server(*at),
            Ev::Wake(_) | Ev::Start(_) | Ev::Search(_) | Ev::Dialed(..) | Ev::Silent(_) => broker,
            Ev::Probe(_) | Ev::Resume(_) | Ev::Noticed | Ev::Leave(..) => broker,
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
            Ev::Search(number) => self.search(number),
            Ev::Syn(attempt) => self.syn(attempt),
            Ev::Dialed(attempt, taken) => self.dialed(attempt, taken),
            Ev::Silent(attempt) => self.silent(attempt),
            Ev::Probe(rank) => self.probe(rank),
            Ev::Open(server, generation, conn, record) => {
                self.open(server, generation, conn, &record);
            }
            Ev::Fault(kind) => self.fault(kind),
            Ev::Resume(who) => self.input(who, Input::Resume),
            Ev::Restart(server) => self.restart(server),
            Ev::Thaw(server) => self.thaw(server),
            Ev::Noticed => self.noticed(),
            Ev::Leave(rank, frame, tries) => self.leave(rank, frame, tries),
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
