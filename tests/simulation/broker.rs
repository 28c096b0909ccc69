//! The broker: apps' sessions, and the rules by which it finds servers for them. The choice is the
//! shipped [`Choice`]; dialing, probing and waiting follow `broker/src/{far,search,reach}.rs`.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use stp_proto::handle::Handle;
use stp_proto::select::{Choice, Meaning, Next, Overloaded, REFUSED_MAX, Rank, Rejection, Want};
use stp_proto::session::{Denied, Event, Input, LostCause, Session, code};
use stp_proto::time::Instant;
use stp_proto::wire::{Close, ResetFrame};

use crate::app::{App, Task};
use crate::drive::End;
use crate::near::Near;
use crate::net::BROKER;
use crate::origin::Ledger;
use crate::plan::{Plan, Work};
use crate::random::Random;
use crate::reach::{Attempting, Reach};
use crate::search::{Candidate, Search};
use crate::server::Server;
use crate::work;
use crate::world::{Ev, Who, World};

const UNANSWERED_MAX: u32 = 2;
const CONNECT_MAX: Duration = Duration::from_secs(30);
const LEAVE_TRIES: u32 = 60;

/// What the driver says to a session after an event.
pub enum Verdict {
    Nothing,
    TryAgain,
    GiveUp,
}

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

/// An app's session.
pub struct Seat {
    pub end: Option<End>,
    pub work: Work,
    task: Option<Task>,
    /// What a server of it plays.
    pub script: work::Script,
    pub handle: Handle,
    pub facts: Facts,
    pub over: bool,
    pub goal: bool,
    started: Instant,
    pub search: Option<Search>,
    pub choice: Choice,
    pub trying: Option<Rank>,
    unanswered: u32,
    came_from: Option<Rank>,
    leave: Option<Rank>,
    /// Who offered its service when it began, if that was asked.
    offered: Option<Vec<Rank>>,
}

impl Seat {
    fn offers(&self, rank: Rank) -> bool {
        self.offered.as_ref().is_none_or(|offered| offered.contains(&rank))
    }
}

/// The broker.
pub struct Broker {
    pub seats: Vec<Seat>,
    pub asleep_until: Instant,
    pub reaches: Vec<Reach>,
    pub dials: Vec<Attempting>,
    pub next_dial: u64,
    overloaded: Overloaded<(usize, Rank)>,
}

impl Broker {
    pub fn new(
        plan: &Plan,
        random: &mut Random,
        servers: &[Server],
        ledger: &Rc<RefCell<Ledger>>,
    ) -> Broker {
        let reach = |_: &Server| Reach {
            address: None,
            away: None,
            was_reached: false,
            warm: Vec::new(),
            attempts: Vec::new(),
            probing: false,
        };
        let seat = |(number, work): (usize, &Work)| {
            let (task, script) = work::draw(plan, random, servers, ledger, number as u64, *work);
            Seat {
                end: None,
                work: *work,
                task: Some(task),
                script,
                handle: Handle(random.handle()),
                facts: Facts::default(),
                over: false,
                goal: false,
                started: Instant::default(),
                search: None,
                choice: Choice::new(servers.len()),
                trying: None,
                unanswered: 0,
                came_from: None,
                leave: None,
                offered: None,
            }
        };
        Broker {
            seats: plan.work.iter().enumerate().map(seat).collect(),
            asleep_until: Instant::default(),
            reaches: servers.iter().map(reach).collect(),
            dials: Vec::new(),
            next_dial: 0,
            overloaded: Overloaded::default(),
        }
    }

    /// Whether a session looks for a link.
    pub fn searches(&self, number: usize) -> bool {
        self.seats[number].search.is_some()
    }

    pub fn seat(&mut self, number: u64) -> &mut Seat {
        &mut self.seats[usize::try_from(number).expect("few sessions")]
    }

    /// Who opened a session with this handle.
    pub fn seat_of(&self, handle: Handle) -> Option<&Seat> {
        self.seats.iter().find(|seat| seat.handle == handle)
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
        self.broker.seat(number).offered = offered;
        let (now, limits) = (self.now, self.plan.broker.clone());
        let mut random = Random::new(self.random.next());
        let seat = &mut self.broker.seats[usize::try_from(number).expect("few sessions")];
        let service = seat.script.service();
        let session = Session::initiate(now, limits, seat.handle, service, "me@here");
        let task = seat.task.take().expect("it starts once");
        let app = App::new(task, &self.plan, &mut random);
        seat.started = now;
        seat.end = Some(End::new(session, Near::App(Box::new(app))));
        self.counts.sessions += 1;
        self.run_end(Who::Broker(number));
    }

    /// The session asks for a link.
    pub fn dial(&mut self, who: Who, session: &Session) {
        let Who::Broker(number) = who else { panic!("a server dials") };
        let now = self.now;
        let list = &self.broker.overloaded;
        let seat = &self.broker.seats[usize::try_from(number).expect("few sessions")];
        let established = session.is_established();
        let want = if established {
            Want::Resume { transferable: session.transferable().is_ok() }
        } else {
            Want::Connect
        };
        let mut home = seat.choice.home();
        let listed = |rank| list.contains(now, &(0, rank));
        let candidate = |rank: Rank| {
            let waits = established && Some(rank) != home;
            Candidate { rank, not_before: list.until(now, &(0, rank)).filter(|_| waits) }
        };
        let order = seat.choice.order(want, listed, |_| None).into_iter();
        let order = order.filter(|rank| seat.offers(*rank));
        let mut order: Vec<Candidate> = order.map(candidate).collect();
        if seat.unanswered >= UNANSWERED_MAX && order.len() > 1 {
            order.rotate_left(1);
            home = None;
        }
        if let Some(leave) = seat.leave
            && order.len() > 1
        {
            order.retain(|candidate| candidate.rank != leave);
            home = home.filter(|rank| *rank != leave);
        }
        let search = Search {
            began: now,
            order,
            home,
            give_up_at: (!established).then_some(seat.started + CONNECT_MAX),
            tired_after: seat.choice.is_left_to_home().then_some(REFUSED_MAX),
            asked: Vec::new(),
            last_asked: None,
            answered: None,
        };
        let seat = self.broker.seat(number);
        seat.leave = None;
        if let Some(Search { answered: Some((_, conn, ..)), .. }) = seat.search.replace(search) {
            self.close(conn, BROKER, false);
        }
        self.at(now, Ev::Search(number));
    }

    /// What the driver does with an event of a session.
    pub fn far_event(&mut self, number: u64, session: &Session, event: &Event) -> Verdict {
        match event {
            Event::Attached { .. } => self.attached(number),
            Event::Lost { cause, .. } => self.lost(number, *cause),
            Event::Denied(why) => return self.denied(number, session, why),
            Event::TransferWanted { .. }
                if self.may_move(number) && session.transferable().is_ok() =>
            {
                let seat = self.broker.seat(number);
                seat.leave = seat.choice.home();
                return Verdict::TryAgain;
            }
            Event::Moved { old, told: false } => {
                if let Some(rank) = self.broker.seat(number).came_from {
                    let initiator = session.handles().0;
                    let reset = ResetFrame { initiator, acceptor: *old, code: code::MOVED };
                    let mut frame = Vec::new();
                    Close::ResetFirst(reset).encode(&mut frame);
                    self.at(self.now, Ev::Leave(rank, frame, 0));
                }
            }
            _ => {}
        }
        Verdict::Nothing
    }

    /// Whether another server offers a session's service.
    fn may_move(&mut self, number: u64) -> bool {
        let all = self.servers.len();
        let seat = self.broker.seat(number);
        (0..all).filter(|rank| seat.offers(*rank)).count() > 1
    }

    fn attached(&mut self, number: u64) {
        let seat = self.broker.seat(number);
        let from = seat.choice.last();
        let to = seat.trying.take();
        seat.unanswered = 0;
        seat.came_from = from.filter(|from| to.is_some_and(|to| to != *from));
        if let Some(rank) = to {
            seat.choice.taken_by(rank);
            self.broker.overloaded.remove(&(0, rank));
        }
    }

    fn lost(&mut self, number: u64, cause: LostCause) {
        let now = self.now;
        let seat = self.broker.seat(number);
        let tried = seat.trying.take();
        let Some(rank) = tried.or(seat.choice.last()) else { return };
        if cause == LostCause::Unanswered {
            match tried {
                Some(rank) if Some(rank) == seat.choice.home() => seat.unanswered += 1,
                Some(rank) => self.broker.overloaded.add(now, (0, rank), Duration::ZERO),
                None => {}
            }
        }
        if cause != LostCause::Broken {
            let warm = std::mem::take(&mut self.broker.reaches[rank].warm);
            warm.into_iter().for_each(|(conn, _)| self.close(conn, BROKER, false));
        }
    }

    fn denied(&mut self, number: u64, session: &Session, why: &Denied) -> Verdict {
        let refusal = match why {
            Denied::Connect { why, retry_after, .. } => Rejection::of_connect(*why, *retry_after),
            Denied::Resume(why) => match Rejection::of_resume(*why) {
                Some(refusal) => refusal,
                None => return Verdict::Nothing,
            },
        };
        let now = self.now;
        let seat = &mut self.broker.seats[usize::try_from(number).expect("few sessions")];
        if session.link().is_some() {
            // A move that was planned: the session stays where it is.
            if let (Some(rank), false) = (seat.trying.take(), refusal.meaning() == Meaning::GiveUp)
            {
                seat.choice.refused(now, rank, refusal, &mut self.broker.overloaded, (0, rank));
            }
            return Verdict::Nothing;
        }
        let next = match seat.trying.take() {
            Some(rank) => {
                let list = &mut self.broker.overloaded;
                seat.choice.refused(now, rank, refusal, list, (0, rank))
            }
            None => Next::Another,
        };
        let unknown = refusal == Rejection::Unknown && session.is_established();
        let reason = match (next, session.transferable()) {
            (_, Err(why)) if unknown => format!("unknown there, and {why}"),
            (Next::GiveUp(why), _) => format!("no server can take it: {why}; {refusal}, {why:?}"),
            (Next::Another, _) => return Verdict::TryAgain,
        };
        self.give_up(number, &reason);
        Verdict::GiveUp
    }

    /// Tells a server that a session has left it.
    pub fn leave(&mut self, rank: Rank, frame: Vec<u8>, tries: u32) {
        let up = self.net.is_up(self.now, rank) && self.servers[rank].alive;
        if !up || self.servers[rank].gone {
            if tries < LEAVE_TRIES {
                self.after(Duration::from_secs(60), Ev::Leave(rank, frame, tries + 1));
            }
            return;
        }
        let conn = self.net.add(rank);
        if let Some(at) = self.net.send(self.now, conn, BROKER, &frame) {
            self.at(at, Ev::Arrive(conn, BROKER));
        }
        self.close(conn, BROKER, false);
    }

    /// The broker's daemon learns that the network has changed.
    pub fn noticed(&mut self) {
        self.forget_line();
        let address = self.net.address;
        for rank in 0..self.broker.reaches.len() {
            let warm = std::mem::take(&mut self.broker.reaches[rank].warm);
            for (conn, since) in warm {
                if self.net.conns.get(&conn).is_some_and(|conn| conn.address == address) {
                    self.broker.reaches[rank].warm.push((conn, since));
                } else {
                    self.close(conn, BROKER, false);
                }
            }
            let dials = &self.broker.dials;
            let old = |id: &u64| dials.iter().any(|d| d.id == *id && d.address != address);
            self.broker.reaches[rank].attempts.retain(|id| !old(id));
        }
        self.broker.dials.retain(|dial| dial.address == address);
        for number in 0..self.broker.seats.len() as u64 {
            let Some(end) = &self.broker.seat(number).end else { continue };
            let conn = end.links.last().map(|(_, conn)| *conn);
            let old = conn.and_then(|conn| self.net.conns.get(&conn)).map(|conn| conn.address);
            if old != Some(address) {
                self.input(Who::Broker(number), Input::PathChanged);
            }
        }
        self.news();
    }

    /// The broker drops a session.
    pub fn broker_session_over(&mut self, number: u64, end: End) {
        if let Some(Search { answered: Some((_, conn, ..)), .. }) =
            self.broker.seat(number).search.take()
        {
            self.close(conn, BROKER, false);
        }
        self.check_outcome(number, &end);
    }
}
