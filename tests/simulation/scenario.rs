//! Worlds in which one thing happens, and what must come of it within a time. They need no chance,
//! and say more exactly than the rules for all seeds what the choice of servers is to do.

use std::time::Duration;

use stp_drive::Command;
use stp_proto::course::Deadlines;
use stp_proto::replay::Policy;
use stp_proto::select::Rank;
use stp_proto::session::Limits;

use crate::app::Task;
use crate::net::{BROKER, SERVER};
use crate::plan::{Kind, Pace, Plan, Replica, Validator, Wires, Work};
use crate::random::Random;
use crate::work::Script;
use crate::world::{Ev, World};

/// A scenario.
pub type Scenario = (&'static str, fn());

/// All of them.
pub const ALL: &[Scenario] = &[
    ("a home that falls silent is left in seconds", a_silent_home_is_left),
    ("a home that refuses is left at once", a_refusing_home_is_left),
    ("a slow server is left for a fast one, but not at once again", speed_and_cool_down),
    ("a server is not left for one that is as slow", slow_everywhere),
    ("a session bound to its home is led there, and goes straight again", relayed),
    ("the server that its user leaves is not chosen again", left_by_its_user),
    ("a server that is full is left alone for a while", full),
    ("a session bound to a home that is gone ends in minutes", home_gone),
    ("a new session is given up where every server refuses", refused_everywhere),
    ("a server asks to be left", asked_to_leave),
    ("a server that catches up slowly has the path for itself", slow_to_catch_up),
    ("a link carries the next session at once", next_on_the_link),
    ("the server that would be next is told of a long response", next_is_told),
    ("a response that was followed goes on", followed),
    ("a response that was followed, and is another one, is refused", followed_in_vain),
    ("a session that its server gives up for lack of memory goes on", given_up),
    ("another file under the same validator is no continuation", same_validator),
    ("a session goes on in the next processes of broker and server", restarted),
    ("a session whose broker was restarted has its ticket", restarted_with_a_ticket),
];

fn plan(work: Work) -> Plan {
    Plan {
        deadlines: Deadlines::default(),
        faults: Vec::new(),
        active: Duration::from_secs(3_600),
        broker: Limits::default(),
        server: Limits::default(),
        wires: Wires {
            latency: vec![Duration::from_millis(10), Duration::from_millis(11)],
            jitter: Duration::ZERO,
            bandwidth: 1 << 20,
            queue: 1 << 17,
        },
        replicas: vec![Replica::Right, Replica::Right],
        validator: Validator::Strong,
        policy: Policy::Prefix,
        work: vec![work],
        app: Pace::FREE,
        app_write: Pace::FREE,
        origin: Pace { burst: 20_000, pause: Duration::from_millis(100) },
        keepalive: Duration::from_secs(300_000),
        ticket_life: Duration::from_secs(72 * 3_600),
        warm: 1,
        packed: false,
        watched: true,
        late: Duration::ZERO,
        size: 10_000,
        think: Duration::from_millis(100),
        names: None,
    }
}

/// A client that asks for one small file after the other.
fn client() -> World {
    let world = World::with(plan(Work::Http { safe: true }), Random::new(0));
    let request = b"GET /f0 HTTP/1.1\r\nHost: a\r\n\r\n".to_vec();
    if let Some(Task::Exchanges { requests, pipeline, .. }) = &mut world.broker().seat(0).task {
        *requests = vec![request; 3_000];
        *pipeline = 1;
    }
    world
}

/// A stream each way over a service nothing is known of.
fn stream() -> World {
    let world = World::with(plan(Work::Tcp), Random::new(0));
    let (up, down) = ((1, 1_000), (2, 40_000_000));
    world.broker().seat(0).task = Some(Task::Stream { up, down, written: 0, seen: 0 });
    world.broker().seat(0).script = Script::Tcp { up, down, waits: false };
    world
}

impl World {
    fn go_on(&mut self, time: Duration) {
        let until = self.now + time;
        while self.next_at().is_some_and(|at| at <= until) {
            self.step();
        }
        self.now = until;
        self.net().now = until;
        self.clock.set(until);
    }

    /// The server that has the session, with a link to it.
    fn home(&self) -> Option<Rank> {
        let mut broker = self.broker();
        let stands = broker.seat(0).stands;
        stands.server.filter(|_| stands.attached)
    }

    /// Goes on until the session is at this server, at most this long.
    fn expect_at(&mut self, rank: Rank, within: Duration) {
        let until = self.now + within;
        while self.home() != Some(rank) {
            assert!(self.now < until, "not at server {rank} after {within:?}: {:?}", self.home());
            self.go_on(Duration::from_millis(100));
        }
    }

    /// The session has a server; the other one.
    fn begun(&mut self) -> (Rank, Rank) {
        self.go_on(Duration::from_secs(3));
        let home = self.home().expect("it has begun");
        (home, 1 - home)
    }

    /// Nothing comes through to a server any more, for this long.
    fn silence_to(&mut self, rank: Rank, time: Duration) {
        let until = self.now + time;
        let mut net = self.net();
        net.down_until[rank] = until;
        for conn in net.to(Some(rank)) {
            if let Some(known) = net.conns.get_mut(&conn)
                && known.path == rank
            {
                known.ways[BROKER].dead = true;
                known.ways[SERVER].dead = true;
            }
        }
    }

    fn slow_down_to(&mut self, rank: Rank, more: Duration) {
        let until = self.now + Duration::from_secs(3_600);
        self.net().slow_until[rank] = (until, more);
    }
}

const fn seconds(count: u64) -> Duration {
    Duration::from_secs(count)
}

fn a_silent_home_is_left() {
    let mut world = client();
    let (home, other) = world.begun();
    world.silence_to(home, seconds(3_000));
    world.expect_at(other, seconds(12));
}

fn a_refusing_home_is_left() {
    let mut world = client();
    let (home, other) = world.begun();
    world.kill(home, false);
    world.expect_at(other, seconds(2));
}

fn speed_and_cool_down() {
    let mut world = client();
    let (home, other) = world.begun();
    world.go_on(seconds(10));
    world.slow_down_to(home, Duration::from_millis(120));
    world.expect_at(other, seconds(30));
    // Now this one is slow, and the first is fast again.
    world.slow_down_to(home, Duration::ZERO);
    world.slow_down_to(other, Duration::from_millis(120));
    for _ in 0..80 {
        world.go_on(Duration::from_millis(100));
        assert_ne!(world.home(), Some(home), "it moved again before the cool-down was over");
    }
    world.expect_at(home, seconds(60));
}

fn slow_everywhere() {
    let mut world = client();
    let (home, other) = world.begun();
    world.go_on(seconds(10));
    world.slow_down_to(home, Duration::from_millis(120));
    world.slow_down_to(other, Duration::from_millis(120));
    for _ in 0..300 {
        world.go_on(Duration::from_millis(100));
        assert_ne!(world.home(), Some(other), "it moved to a server that is as slow");
    }
    assert!(world.broker().decided == 0, "it was decided to leave");
}

fn relayed() {
    let mut world = stream();
    let (home, other) = world.begun();
    world.silence_to(home, seconds(60));
    let until = world.now + seconds(20);
    let via = crate::ways::relay(other);
    while world.broker().seat(0).stands.via != Some(via) || world.home().is_none() {
        assert!(world.now < until, "not led through the other server");
        world.go_on(Duration::from_millis(100));
    }
    world.go_on(seconds(60));
    let until = world.now + seconds(60);
    while world.broker().seat(0).stands.via.is_some() {
        assert!(world.now < until, "it does not go straight again");
        world.go_on(Duration::from_millis(100));
    }
}

fn left_by_its_user() {
    let mut world = client();
    let (home, other) = world.begun();
    world.silence_to(home, seconds(8));
    world.silence_to(other, seconds(8));
    while world.home().is_some() {
        world.go_on(Duration::from_millis(100));
    }
    assert!(world.move_by_user(0, None), "it can be moved");
    world.expect_at(other, seconds(20));
}

fn full() {
    let mut world = client();
    let (home, other) = world.begun();
    world.servers[other].full_until = world.now + seconds(3_000);
    world.kill(home, true);
    world.go_on(seconds(60));
    let full = world.counts.full;
    assert!((1..=8).contains(&full), "it was asked {full} times");
}

fn home_gone() {
    let mut world = stream();
    let (home, _) = world.begun();
    // No relay leads there either.
    world.kill(home, true);
    world.go_on(seconds(400));
    assert!(world.broker().seat(0).facts.gave_up.is_some(), "it waits for ever");
}

fn refused_everywhere() {
    let mut world = client();
    world.kill(0, false);
    world.kill(1, false);
    world.go_on(seconds(45));
    assert!(world.broker().seat(0).facts.gave_up.is_some(), "it is tried for ever");
}

fn asked_to_leave() {
    let mut world = client();
    let (home, other) = world.begun();
    world.ask_to_leave(home);
    world.expect_at(other, seconds(5));
}

/// A client that asks for one file, which takes 12 s.
fn download(replicas: [Replica; 2]) -> World {
    let plan = plan(Work::Http { safe: true });
    let plan = Plan { replicas: replicas.to_vec(), origin: Pace::FREE, ..plan };
    let world = World::with(plan, Random::new(0));
    for server in &world.servers {
        server.origin.files.borrow_mut().fill(12 << 20);
    }
    let request = b"GET /f0 HTTP/1.1\r\nHost: a\r\n\r\n".to_vec();
    if let Some(Task::Exchanges { requests, .. }) = &mut world.broker().seat(0).task {
        *requests = vec![request];
    }
    world
}

fn slow_to_catch_up() {
    let mut world = download([Replica::Right; 2]);
    let (_, other) = world.begun();
    assert!(world.move_by_user(0, Some(other)), "it can be moved");
    world.expect_at(other, seconds(6));
}

/// R69.
fn next_is_told() {
    let mut world = download([Replica::Right; 2]);
    for server in &world.servers {
        server.origin.files.borrow_mut().fill(24 << 20);
    }
    let (home, other) = world.begun();
    let told = |world: &World, rank: Rank| world.servers[rank].origin.read_ahead.borrow().len();
    world.go_on(seconds(4));
    assert_eq!(told(&world, other), 0, "less than 8 MiB are compared at once");
    // 8 MiB take 8 s, and a new ticket comes every 5 s.
    world.go_on(seconds(10));
    assert_eq!((told(&world, home), told(&world, other)), (0, 1), "it is told once");
    let head = world.servers[other].origin.read_ahead.borrow()[0].clone();
    assert!(head.starts_with(b"GET /f0 "), "it is told which file");
    world.kill(home, false);
    world.expect_at(other, seconds(5));
}

/// R69: the response that was asked for beforehand is the one that goes on.
fn followed() {
    let mut world = download([Replica::Right; 2]);
    for server in &world.servers {
        server.origin.files.borrow_mut().fill(24 << 20);
    }
    let (home, other) = world.begun();
    world.go_on(seconds(15));
    let asked = world.servers[other].origin.read_ahead.borrow().len();
    assert_eq!(asked, 1, "it is told");
    world.kill(home, false);
    world.expect_at(other, seconds(5));
    world.go_on(seconds(20));
    let answers = world.servers[other].origin.answers.get();
    assert_eq!(answers, 1, "requests for the file");
}

/// The same of a file that begins otherwise there.
fn followed_in_vain() {
    let mut world = download([Replica::Right, Replica::SameValidator]);
    for server in &world.servers {
        server.origin.files.borrow_mut().fill(24 << 20);
    }
    let (home, _) = world.begun();
    world.go_on(seconds(15));
    world.kill(home, false);
    world.go_on(seconds(30));
    assert!(world.counts.refused >= 1, "its answer is refused");
}

/// R37: memory gets short at a server while the network is away. What its broker can have again is
/// given up, and had again; what is nowhere else stays.
fn given_up() {
    for (mut world, stays) in [(client(), false), (stream(), true)] {
        let (home, other) = world.begun();
        world.silence_to(home, seconds(15));
        world.silence_to(other, seconds(15));
        world.go_on(seconds(12));
        for who in world.sessions_of(home) {
            world.tell_end(who, Command::GiveUp);
        }
        world.go_on(seconds(1));
        assert_eq!(!world.sessions_of(home).is_empty(), stays, "what is left at the server");
        let until = world.now + seconds(60);
        while world.home().is_none() {
            let gave_up = world.broker().seat(0).facts.gave_up.clone();
            assert!(gave_up.is_none() && world.now < until, "it does not go on: {gave_up:?}");
            world.go_on(Duration::from_millis(100));
        }
    }
}

fn restarted() {
    let mut plan = plan(Work::Tcp);
    plan.faults.push((Kind::Restart, 0));
    let mut world = World::with(plan, Random::new(0));
    let (up, down) = ((1, 100_000), (2, 4_000_000));
    world.broker().seat(0).task = Some(Task::Stream { up, down, written: 0, seen: 0 });
    world.broker().seat(0).script = Script::Tcp { up, down, waits: false };
    for _ in 0..10 {
        world.go_on(Duration::from_millis(300));
        world.restart_broker();
        world.go_on(Duration::from_millis(200));
        world.restart_server(0);
    }
    world.go_on(Duration::from_secs(60));
    assert!(world.broker().seat(0).goal, "every byte came");
}

/// It goes on elsewhere in the middle of a response.
fn restarted_with_a_ticket() {
    let mut plan = plan(Work::Http { safe: true });
    plan.faults.push((Kind::Restart, 0));
    let mut world = World::with(plan, Random::new(0));
    for server in &world.servers {
        *server.origin.files.borrow_mut() = vec![4_000_000; 4];
    }
    let request = b"GET /f0 HTTP/1.1\r\nHost: a\r\n\r\n".to_vec();
    if let Some(Task::Exchanges { requests, pipeline, .. }) = &mut world.broker().seat(0).task {
        *requests = vec![request; 2];
        *pipeline = 1;
    }
    world.go_on(Duration::from_secs(5));
    let home = world.home().expect("it is somewhere");
    world.restart_broker();
    world.go_on(Duration::from_secs(1));
    world.restart_broker();
    world.kill(home, true);
    world.expect_at(1 - home, Duration::from_secs(20));
    world.go_on(Duration::from_secs(100));
    assert!(world.broker().seat(0).goal, "every byte came");
}

fn same_validator() {
    let mut world = download([Replica::Right, Replica::SameValidator]);
    let (home, _) = world.begun();
    world.kill(home, false);
    world.go_on(seconds(30));
    let refused = world.counts.refused;
    assert!((1..=3).contains(&refused), "it was asked {refused} times");
}

fn next_on_the_link() {
    let plan = Plan { work: vec![Work::Tcp; 9], warm: 0, ..plan(Work::Tcp) };
    let mut world = World::with(plan, Random::new(0));
    for number in 0..9 {
        let (up, down) = ((1, 10), (2, 10));
        world.broker().seat(number).task = Some(Task::Stream { up, down, written: 0, seen: 0 });
        world.broker().seat(number).script = Script::Tcp { up, down, waits: false };
        // Not by itself: one after the other.
        world.broker().seat(number).begun = true;
    }
    for number in 0..9 {
        // A CONNECT that nobody heard is repeated after 20 s, and a server that does not hear the
        // last word gives the link up after 5 s.
        let until = world.now + seconds(4);
        world.broker().seat(number).begun = false;
        world.at(world.now, Ev::Start(number));
        while !world.broker().seat(number).over {
            assert!(world.now < until, "session {number} is not over");
            world.step();
        }
        // The server wakes to the last word of one session and the first one of the next.
        for server in &mut world.servers {
            server.asleep_until = world.now + seconds(1);
        }
    }
}

#[test]
fn what_must_come_of_one_thing_comes_of_it() {
    for (name, scenario) in ALL {
        println!("{name}");
        crate::trace::set_loud(std::env::var_os("STP_LOUD").is_some());
        scenario();
    }
}
