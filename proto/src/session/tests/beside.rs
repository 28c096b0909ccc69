//! Make before break (R65–R67): a broker, the server it leaves and the one it goes to, each over a
//! link of its own, records delivered in a seeded order, links broken at every step.

use std::collections::{BTreeMap, VecDeque};
use std::io;

use super::fixture::stream;
use crate::handle::Handle;
use crate::session::{
    Denied, Detach, Event, Input, Limits, LinkId, LostCause, Output, Peer, Session, StartAt,
    TicketOffer,
};
use crate::state::State;
use crate::time::Instant;
use crate::wire::{ConnectMode, DenyReason, First, first_frame};

const OLD: usize = 0;
const NEW: usize = 1;
const LEN: usize = 6_000;
const HEAD: u64 = 100;

struct Server {
    session: Option<Session>,
    /// The down stream as this replica has it, and how much of it the session was given.
    replica: Vec<u8>,
    given: usize,
    /// Bytes given at each step.
    pace: usize,
}

/// Which server a link leads to, and what is under way on it, each way.
type Wire = (usize, [VecDeque<Vec<u8>>; 2]);

struct Trio {
    now: Instant,
    broker: Session,
    got: Vec<u8>,
    events: Vec<Event>,
    servers: [Server; 2],
    /// Server and records to it and from it.
    links: BTreeMap<u64, Wire>,
    next_link: u64,
    /// The link with this number breaks after this many more records.
    breaks: Option<(u64, usize)>,
    /// Nothing is delivered on this link.
    held: Option<u64>,
    seed: u64,
}

fn limits() -> Limits {
    // A new server's buffer is full at once: it proposes cuts while it catches up.
    Limits {
        data_max: 100,
        seam_block: 64,
        chunk: 512,
        fill_max: 512,
        send_buffer_max: 800,
        checkpoint_every: 300,
        ..Limits::default()
    }
}

impl Trio {
    fn new(seed: u64) -> Trio {
        let now = Instant(1_000_000);
        let broker = Session::initiate(now, limits(), Handle([1; 16]), "www.web@example.org", "");
        let server = |pace| Server { session: None, replica: stream(2, LEN), given: 0, pace };
        Trio {
            now,
            broker,
            got: Vec::new(),
            events: Vec::new(),
            servers: [server(50), server(300)],
            links: BTreeMap::new(),
            next_link: 1,
            breaks: None,
            held: None,
            seed,
        }
    }

    fn roll(&mut self, below: usize) -> usize {
        self.seed = self.seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.seed >> 33) as usize % below
    }

    fn link(&mut self, server: usize, peer: Peer) {
        let link = self.next_link;
        self.next_link += 1;
        self.links.insert(link, (server, Default::default()));
        self.broker.handle_input(self.now, Input::LinkUp { link: LinkId(link), peer });
    }

    /// Where the broker believes its session to be.
    fn home(&self) -> usize {
        let (_, acceptor) = self.broker.handles();
        usize::from(acceptor == Handle([NEW as u8 + 2; 16]))
    }

    fn break_link(&mut self, link: u64) {
        if let Some((server, _)) = self.links.remove(&link) {
            let lost = Input::LinkLost { link: LinkId(link) };
            self.broker.handle_input(self.now, lost);
            if let Some(session) = &mut self.servers[server].session {
                session.handle_input(self.now, lost);
            }
        }
    }

    fn drain(&mut self) {
        let mut dial = false;
        let mut out = Vec::new();
        loop {
            out.clear();
            match self.broker.poll_output(self.now, true, &mut out) {
                Output::Frame { link } => self.carry(link, 0, &out),
                Output::Dial => dial = true,
                Output::Detach { link, how } => self.detach(link, 0, how),
                Output::Event(event) => self.events.push(event),
                Output::ShutNear(_) => {}
                Output::Wait(_) => break,
            }
        }
        for which in [OLD, NEW] {
            let Some(mut session) = self.servers[which].session.take() else { continue };
            loop {
                out.clear();
                match session.poll_output(self.now, true, &mut out) {
                    Output::Frame { link } => self.carry(link, 1, &out),
                    Output::Detach { link, how } => self.detach(link, 1, how),
                    Output::Wait(_) => break,
                    _ => {}
                }
            }
            self.servers[which].session = Some(session);
        }
        if dial {
            self.link(self.home(), Peer::Same);
        }
    }

    fn carry(&mut self, link: LinkId, way: usize, frame: &[u8]) {
        if let Some((_, ways)) = self.links.get_mut(&link.0) {
            ways[way].push_back(frame.to_vec());
        }
    }

    /// What is on its way to the other end still comes; an empty record is the end.
    fn detach(&mut self, link: LinkId, from: usize, how: Detach) {
        if how != Detach::Reuse {
            self.carry(link, from, &[]);
        }
    }

    fn give(&mut self) {
        for server in &mut self.servers {
            let Some(session) = &mut server.session else { continue };
            let end = (server.given + server.pace).min(server.replica.len());
            while server.given < end && session.send_room() > 0 {
                let rest = &server.replica[server.given..end];
                let count = session.fill(self.now, |slices| {
                    let here = slices[0].len().min(rest.len());
                    slices[0][..here].copy_from_slice(&rest[..here]);
                    Ok(here)
                });
                server.given += count.expect("there was room");
            }
        }
    }

    /// Delivers one record; false if there is none.
    fn deliver(&mut self) -> bool {
        let paused = self.broker.paused();
        let full = |(link, (_, ways)): (&u64, &Wire)| {
            let link = *link;
            let unread = paused == Some(LinkId(link));
            let ways = [ways[0].is_empty(), ways[1].is_empty() || unread];
            (0..2).filter(move |way| !ways[*way]).map(move |way| (link, way))
        };
        let waiting: Vec<(u64, usize)> = self
            .links
            .iter()
            .filter(|(link, _)| self.held != Some(**link))
            .flat_map(full)
            .collect();
        if waiting.is_empty() {
            return false;
        }
        let (link, way) = waiting[self.roll(waiting.len())];
        if let Some((breaking, left)) = &mut self.breaks
            && *breaking == link
        {
            if *left == 0 {
                self.breaks = None;
                self.break_link(link);
                return true;
            }
            *left -= 1;
        }
        let (server, ways) = self.links.get_mut(&link).expect("it was listed");
        let (server, record) = (*server, ways[way].pop_front().expect("it was not empty"));
        match way {
            _ if record.is_empty() => self.break_link(link),
            0 => self.at_server(server, LinkId(link), &record),
            _ => self.at_broker(LinkId(link), &record),
        }
        true
    }

    fn at_server(&mut self, which: usize, link: LinkId, record: &[u8]) {
        let now = self.now;
        let server = &mut self.servers[which];
        if let Some(session) = &mut server.session {
            let mut arrived = Vec::new();
            session.handle_record(now, link, record, &mut arrived).expect("the broker behaves");
            let all: usize = arrived.iter().map(|bytes| bytes.len()).sum();
            session.deliver(now, &arrived, |_| Ok(all)).expect("it is taken");
            return;
        }
        let Ok(First::Connect(connect)) = first_frame(record) else { panic!("not a CONNECT") };
        let at = match &connect.mode {
            ConnectMode::New | ConnectMode::Relay(_) | ConnectMode::Prepare(_) => {
                StartAt::default()
            }
            ConnectMode::Transfer(request) => StartAt { up: request.covers, down: request.down },
        };
        server.given = at.down as usize;
        let own = Handle([which as u8 + 2; 16]);
        let mut session = Session::accept(now, limits(), link, own, &connect, at, "s");
        session.hold_acks();
        if at.down > 0 {
            session.offer_ticket(TicketOffer {
                at: at.down,
                covers: at.up,
                seam_from: HEAD,
                transferable: true,
                ticket: b"new".to_vec(),
            });
        }
        server.session = Some(session);
    }

    fn at_broker(&mut self, link: LinkId, record: &[u8]) {
        let mut arrived = Vec::new();
        let done = self.broker.handle_record(self.now, link, record, &mut arrived);
        done.expect("the servers behave");
        let got = &mut self.got;
        let taken = self.broker.deliver(self.now, &arrived, |slices| -> io::Result<usize> {
            Ok(slices.iter().map(|slice| got.extend_from_slice(slice)).count())
                .map(|_| slices.iter().map(|slice| slice.len()).sum())
        });
        taken.expect("the app takes all");
        let right = stream(2, LEN);
        assert!(self.got[..] == right[..self.got.len()], "a wrong byte reached the app");
    }

    fn step(&mut self) {
        self.drain();
        if !self.deliver() {
            // Everything rests: time passes.
            self.now = Instant(self.now.0 + 20_000);
            self.broker.handle_input(self.now, Input::Timeout);
            for server in &mut self.servers {
                if let Some(session) = &mut server.session {
                    session.handle_input(self.now, Input::Timeout);
                }
            }
            self.give();
        } else if self.roll(3) == 0 {
            self.give();
        }
        self.drain();
    }

    fn until(&mut self, what: &str, done: impl Fn(&Trio) -> bool) {
        for _ in 0..20_000 {
            if done(self) {
                return;
            }
            self.step();
        }
        panic!("never: {what}: {:?} {:?}", self.broker.state(), self.events);
    }

    /// In the middle of an answer, at the old server.
    fn reading(seed: u64) -> Trio {
        let mut trio = Trio::new(seed);
        trio.until("established", |trio| trio.broker.is_established());
        let session = trio.servers[OLD].session.as_mut().expect("it has the session");
        session.hold_acks();
        session.offer_ticket(TicketOffer {
            at: 0,
            covers: 0,
            seam_from: HEAD,
            transferable: true,
            ticket: b"old".to_vec(),
        });
        trio.until("some bytes", |trio| trio.got.len() > 1_000);
        trio
    }

    fn move_over(&mut self) {
        self.link(NEW, Peer::Other);
        assert!(self.broker.is_moving());
        assert_eq!(self.broker.state(), State::Active);
    }

    fn moved(&self) -> bool {
        self.events.iter().any(|event| matches!(event, Event::Moved { .. }))
    }
}

/// R65, R66.
#[test]
fn the_old_server_goes_on_until_the_new_one_has_caught_up() {
    for seed in 0..50 {
        let mut trio = Trio::reading(seed);
        trio.move_over();
        let asked_at = trio.got.len();
        trio.until("moved", Trio::moved);
        let moved = Event::Moved { old: Handle([2; 16]), told: true };
        assert!(trio.events.contains(&moved));
        assert!(!trio.events.iter().any(|event| matches!(event, Event::Lost { .. })));
        trio.until("all", |trio| trio.got.len() == LEN);
        assert_eq!(trio.broker.transfer_request().ticket, Some(&b"new"[..]));
        let old = trio.servers[OLD].session.as_ref().expect("it is kept here");
        assert_eq!(old.state(), State::Closed, "it was told");
        assert!(old.positions().nxt as usize >= asked_at);
    }
}

/// R66: the old server is as fast; it has to be left unread for a while.
#[test]
fn a_new_server_that_cannot_catch_up_gets_the_path_for_itself() {
    for seed in 0..50 {
        let mut trio = Trio::reading(seed);
        (trio.servers[OLD].pace, trio.servers[NEW].pace) = (2, 2);
        trio.move_over();
        let at = trio.got.len();
        trio.held = Some(trio.next_link - 1);
        trio.until("old bytes", |trio| trio.got.len() > at + 300);
        trio.held = None;
        trio.until("it is left unread", |trio| trio.broker.paused().is_some());
        trio.servers[NEW].pace = 300;
        trio.until("moved", Trio::moved);
        assert_eq!(trio.broker.paused(), None);
        trio.until("all", |trio| trio.got.len() == LEN);
    }
}

/// R66: and if that does not help, everything is as before.
#[test]
fn a_server_that_never_catches_up_is_given_up() {
    let mut trio = Trio::reading(5);
    let at = trio.got.len();
    trio.move_over();
    trio.held = Some(trio.next_link - 1);
    trio.until("old bytes", |trio| trio.got.len() > at + 300);
    (trio.servers[OLD].pace, trio.servers[NEW].pace) = (1, 0);
    trio.held = None;
    trio.until("given up", |trio| {
        let late =
            |event: &Event| matches!(event, Event::Lost { cause: LostCause::Unanswered, .. });
        trio.events.iter().any(late)
    });
    assert_eq!((trio.broker.state(), trio.broker.paused()), (State::Active, None));
    trio.servers[OLD].pace = 300;
    trio.until("all", |trio| trio.got.len() == LEN);
    assert!(!trio.events.iter().any(|e| matches!(e, Event::Lost { cause: LostCause::Silent, .. })));
}

/// R65–R67: whichever link breaks, and whenever, every byte is right.
#[test]
fn a_link_may_break_at_every_step_of_a_move() {
    for broken in [0, 1] {
        for left in 0..60 {
            for seed in 0..4 {
                let mut trio = Trio::reading(seed * 1_000 + left as u64);
                let old = trio.broker.link().expect("attached").0;
                trio.move_over();
                trio.breaks = Some((if broken == 0 { old } else { trio.next_link - 1 }, left));
                trio.until("all", |trio| trio.got.len() == LEN);
                assert_eq!(trio.broker.state(), State::Active);
                assert_eq!(trio.broker.positions().received, LEN as u64);
            }
        }
    }
}

/// R67.
#[test]
fn a_replica_that_differs_after_the_seam_is_left_and_the_old_server_stays() {
    let mut found = 0;
    for seed in 0..50 {
        let mut trio = Trio::reading(seed);
        let at = trio.got.len();
        trio.servers[NEW].replica[at + 20] ^= 1;
        // The new server is slow to begin: the old one has gone on by then.
        trio.move_over();
        trio.held = Some(trio.next_link - 1);
        trio.until("old bytes", |trio| trio.got.len() > at + 200);
        trio.held = None;
        trio.until("all", |trio| trio.got.len() == LEN);
        let seam = |event: &Event| {
            matches!(event, Event::Denied(Denied::Connect { why: DenyReason::Seam, .. }))
        };
        found += usize::from(trio.events.iter().any(seam));
        assert!(!trio.moved());
    }
    assert_eq!(found, 50);
}

/// R65.
#[test]
fn a_new_answer_of_the_old_server_overtakes_the_move() {
    let mut trio = Trio::reading(7);
    trio.move_over();
    trio.held = Some(trio.next_link - 1);
    let session = trio.servers[OLD].session.as_mut().expect("it has the session");
    let at = session.positions().end;
    let ticket = b"next".to_vec();
    let offer = TicketOffer { at, covers: 0, seam_from: at + 10, transferable: true, ticket };
    session.offer_ticket(offer);
    trio.until("overtaken", |trio| {
        let lost = |event: &Event| matches!(event, Event::Lost { cause: LostCause::Overtaken, .. });
        trio.events.iter().any(lost)
    });
    assert!(!trio.broker.is_moving());
    assert_eq!(trio.broker.state(), State::Active);
    trio.until("all", |trio| trio.got.len() == LEN);
}

/// R66: bytes of the app that the new server was promised are kept, whatever the old one says.
#[test]
fn what_the_new_server_was_promised_is_kept() {
    let mut trio = Trio::reading(3);
    let text = b"what the app says";
    let filled = trio.broker.fill(trio.now, |slices| {
        slices[0][..text.len()].copy_from_slice(text);
        Ok(text.len())
    });
    assert_eq!(filled.expect("there is room"), text.len());
    trio.until("said", |trio| trio.broker.positions().heard == text.len() as u64);
    trio.move_over();
    trio.held = Some(trio.next_link - 1);
    let session = trio.servers[OLD].session.as_mut().expect("it has the session");
    session.release_acks(text.len() as u64);
    for _ in 0..40 {
        trio.step();
    }
    assert_eq!(trio.broker.positions().una, 0);
    trio.held = None;
    trio.until("moved", Trio::moved);
    trio.until("said again", |trio| trio.broker.positions().heard == text.len() as u64);
}

/// R65: both servers might execute what both are given.
#[test]
fn what_the_app_says_during_a_move_goes_to_one_server_only() {
    for seed in 0..50 {
        let mut trio = Trio::reading(seed);
        trio.move_over();
        let text = b"POST";
        let filled = trio.broker.fill(trio.now, |slices| {
            slices[0][..text.len()].copy_from_slice(text);
            Ok(text.len())
        });
        assert_eq!(filled.expect("there is room"), text.len());
        trio.until("moved", Trio::moved);
        trio.until("said", |trio| trio.broker.positions().heard == text.len() as u64);
        trio.until("all", |trio| trio.got.len() == LEN);
        let old = trio.servers[OLD].session.as_ref().expect("it is kept here");
        assert_eq!(old.positions().received, 0, "seed {seed}");
    }
}
