//! What a seed draws before its run begins: the machines, the work, and which faults there are.
//! Every seed leaves most kinds of faults out (swarm testing), so that the rest get far.

use std::time::Duration;

use stp_proto::course::Deadlines;
use stp_proto::replay::Policy;
use stp_proto::session::Limits;

use crate::random::Random;

/// The kinds of faults a seed may have.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Kind {
    /// A link breaks; each end learns it soon, late or never.
    Cut,
    /// A link goes silent in one direction or both; new ones work.
    Silence,
    /// Nothing comes through to a server, or to any, for a while.
    Outage,
    /// The way to a server, or to all, takes longer for a while.
    Delay,
    /// The broker's machine has another address: its links are dead.
    AddressChange,
    /// A server's machine is elsewhere for a while: its links are dead.
    ServerMove,
    /// Both at once.
    BothMove,
    /// A server's process or machine dies and comes back without memory.
    Death,
    /// The app takes nothing for a while: disk full.
    Stall,
    /// The app aborts, or is closed.
    Quit,
    /// A machine sleeps: its clock leaps.
    Sleep,
    /// A server's clock of the day is set to another time.
    Clock,
    /// Users suspend and resume, with probability 1/128 after every call (KTH 5.2.4).
    Suspend,
    /// The real service breaks connections off, or is down.
    Origin,
    /// A server has no room, or wants to be left.
    Burden,
    /// The driver asks for attempts out of turn.
    Impatience,
    /// The directory dies, loses its power or its links, or cannot be reached.
    Directory,
    /// The directory's disk is full for a while.
    Disk,
    /// A user moves a session.
    UserMove,
    /// The processes of the broker, or of a server, die, and their keeper starts the next. Drawn
    /// aside as well.
    Restart,
    /// Memory gets short at a server. Drawn aside, so that older seeds mean what they meant.
    Memory,
}

impl Kind {
    pub const ALL: [Kind; 19] = [
        Kind::Cut,
        Kind::Silence,
        Kind::Outage,
        Kind::Delay,
        Kind::AddressChange,
        Kind::ServerMove,
        Kind::BothMove,
        Kind::Death,
        Kind::Stall,
        Kind::Quit,
        Kind::Sleep,
        Kind::Clock,
        Kind::Suspend,
        Kind::Origin,
        Kind::Burden,
        Kind::Impatience,
        Kind::Directory,
        Kind::Disk,
        Kind::UserMove,
    ];
}

/// The properties of a network.
#[derive(Clone, Debug)]
pub struct Wires {
    /// One way, to each server.
    pub latency: Vec<Duration>,
    /// At most this much more.
    pub jitter: Duration,
    /// Bytes a second.
    pub bandwidth: u64,
    /// Bytes on the way at which a link takes no DATA.
    pub queue: usize,
}

/// What a replica holds.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Replica {
    Right,
    /// Other bytes of the same length under another validator.
    OtherBytes,
    /// Other bytes of the same length under the same validator: every byte differs.
    SameValidator,
    /// Another length.
    OtherLength,
    /// Nothing.
    Empty,
}

impl Replica {
    /// The content that its validators stand for.
    pub fn named(self) -> &'static str {
        if matches!(self, Replica::Right | Replica::SameValidator) { "right" } else { "other" }
    }
}

/// The validator that promises equal bytes.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Validator {
    Strong,
    Weak,
    Modified,
}

/// Reads or writes this many bytes, then pauses.
#[derive(Copy, Clone, Debug)]
pub struct Pace {
    pub burst: usize,
    pub pause: Duration,
}

impl Pace {
    pub const FREE: Pace = Pace { burst: usize::MAX, pause: Duration::ZERO };

    fn draw(random: &mut Random, slow: bool) -> Pace {
        if !slow {
            return Pace::FREE;
        }
        Pace { burst: random.size(100, 100_000), pause: random.millis(1, 2_000) }
    }
}

/// What a session does.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Work {
    /// Exchanges over a replayable service. `safe`: each can be repeated and has a known length.
    Http { safe: bool },
    /// A stream each way over a service nothing is known of.
    Tcp,
}

/// The draw of one seed.
#[derive(Clone, Debug)]
pub struct Plan {
    pub faults: Vec<(Kind, u64)>,
    /// Faults happen until then; then everything is mended.
    pub active: Duration,
    pub broker: Limits,
    /// How long a session whose home is gone waits for it.
    pub deadlines: Deadlines,
    pub server: Limits,
    pub wires: Wires,
    pub replicas: Vec<Replica>,
    pub validator: Validator,
    /// What must be equal before a response is continued.
    pub policy: Policy,
    pub work: Vec<Work>,
    pub app: Pace,
    pub app_write: Pace,
    pub origin: Pace,
    /// The real service closes idle connections after this time.
    pub keepalive: Duration,
    /// How long tickets are valid.
    pub ticket_life: Duration,
    /// Links dialed ahead.
    pub warm: usize,
    /// Several frames of data share a record.
    pub packed: bool,
    /// Changes of addresses are noticed.
    pub watched: bool,
    /// Timers fire this much too late at most.
    pub late: Duration,
    /// The longest file or stream.
    pub size: u64,
    /// Pauses of the app between exchanges.
    pub think: Duration,
    /// Servers are found by the directory; its leases, in seconds.
    pub names: Option<u32>,
}

impl Plan {
    pub fn draw(random: &mut Random) -> Plan {
        let mut faults = Vec::new();
        let kinds = random.within(0, 5);
        for _ in 0..kinds {
            let kind = random.pick(&Kind::ALL);
            if faults.iter().all(|(other, _)| *other != kind) {
                faults.push((kind, random.scale(1, 24)));
            }
        }
        let has = |kind| faults.iter().any(|(other, _)| *other == kind);
        let servers = random.index(3) + 1;
        let size = random.scale(200, 400_000);
        let limits = |random: &mut Random| draw_limits(random, size);
        let (broker, server) = (limits(random), limits(random));
        let least_latency = if random.one_in(6) { 100_000 } else { 200 };
        let latency = (0..servers)
            .map(|_| Duration::from_micros(random.scale(least_latency, least_latency * 400)))
            .map(|time| time.min(Duration::from_millis(300)))
            .collect();
        let wires = Wires {
            latency,
            jitter: if random.one_in(2) { random.millis(1, 50) } else { Duration::ZERO },
            // A stream takes from a twentieth of a second to a minute.
            bandwidth: random.scale(size / 60 + 1_000, size * 20 + 10_000),
            queue: random.size(2_000, 256 << 10),
        };
        let wrong =
            [Replica::OtherBytes, Replica::SameValidator, Replica::OtherLength, Replica::Empty];
        let any_wrong = random.one_in(4);
        let replicas = (0..servers)
            .map(|server| {
                let wrong_here = any_wrong && server > 0 && random.one_in(2);
                if wrong_here { random.pick(&wrong) } else { Replica::Right }
            })
            .collect();
        let sessions = random.pick(&[1, 1, 1, 2, 3]);
        let works = [Work::Http { safe: true }, Work::Http { safe: false }, Work::Tcp];
        let names = random.one_in(3) || has(Kind::Directory) || has(Kind::Disk);
        let active = random.millis(500, 4 * 3_600_000);
        // At most some hundreds of renewals.
        let lease_s = u32::try_from(active.as_secs() / 100).expect("hours").max(15);
        let slow = [random.one_in(3), random.one_in(4), random.one_in(2)];
        let validator = random.pick(&[
            Validator::Strong,
            Validator::Strong,
            Validator::Weak,
            Validator::Modified,
        ]);
        // Only strong tags can be demanded equal.
        let demanded = validator == Validator::Strong && random.one_in(4);
        Plan {
            active,
            names: names.then_some(lease_s),
            broker,
            // Longer than any outage: what ends sessions is looked at by a scenario.
            deadlines: Deadlines { gone: Duration::from_secs(86_400), ..Deadlines::default() },
            server,
            wires,
            replicas,
            validator,
            policy: if demanded { Policy::Validators } else { Policy::Prefix },
            work: (0..sessions).map(|_| random.pick(&works)).collect(),
            app: Pace::draw(random, slow[0]),
            app_write: Pace::draw(random, slow[1]),
            origin: Pace::draw(random, slow[2] || has(Kind::Origin)),
            keepalive: Duration::from_secs(if random.one_in(4) { 75 } else { 300_000 }),
            ticket_life: Duration::from_secs(if random.one_in(10) { 300 } else { 72 * 3600 }),
            warm: random.index(3),
            packed: random.one_in(3),
            watched: !random.one_in(4),
            late: if random.one_in(3) { random.millis(1, 200) } else { Duration::ZERO },
            size,
            think: if random.one_in(2) { random.millis(1, 600_000) } else { Duration::ZERO },
            faults,
        }
    }

    /// What came to be drawn later: from numbers of its own, so that a seed draws the rest as
    /// before.
    pub fn with_memory(mut self, random: &mut Random) -> Plan {
        for limits in [&mut self.broker, &mut self.server] {
            let first = (limits.receive_buffer_max as u64 / 64).max(1);
            limits.window_first = random.size(first, 256 << 10);
            limits.ahead_max = random.size(2_000, 256 << 10);
        }
        // A session whose ticket is over keeps its server.
        let lasting = self.ticket_life > Duration::from_secs(3_600);
        if lasting && random.one_in(4) {
            self.faults.push((Kind::Memory, random.scale(1, 24)));
        }
        if random.one_in(4) {
            self.faults.push((Kind::Restart, random.scale(1, 24)));
        }
        self
    }

    pub fn has(&self, kind: Kind) -> bool {
        self.faults.iter().any(|(other, _)| *other == kind)
    }
}

fn draw_limits(random: &mut Random, size: u64) -> Limits {
    let mut limits = Limits::default();
    if random.one_in(4) {
        return limits;
    }
    // Small enough that bounds are met, not so small that a run takes for ever.
    let least = (size / 64).max(16);
    limits.send_buffer_max = random.size(least, least * 256);
    // A request head is acknowledged when it is whole.
    limits.send_buffer_max = limits.send_buffer_max.max(2_000);
    limits.receive_buffer_max = random.size(least, least * 256);
    limits.ack_every = random.size(least / 4, least * 64);
    limits.checkpoint_every = random.size(least / 2, least * 128);
    limits.chunk = random.size(least / 8, 64 << 10);
    limits.fill_max = random.size(least / 2, 256 << 10);
    limits.data_max = random.size(least / 4, 16_372);
    if random.one_in(3) {
        limits.tickets_max = random.size(8_000, 40_000);
    }
    if random.one_in(6) {
        limits.hold = random.millis(60_000, 7_200_000);
    }
    limits
}
