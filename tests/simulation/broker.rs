//! The broker: apps' sessions, and the rules by which it finds servers for them. The choice is the
//! shipped [`Choice`]; dialing, probing and waiting follow `broker/src/{far,search,reach}.rs`.

use std::cell::RefCell;
use std::rc::Rc;
use std::time::Duration;

use stp_proto::handle::Handle;
use stp_proto::select::{
    self, Choice, GRACE, Meaning, Next, Overloaded, REFUSED_KNOWN_MAX, REFUSED_NEW_MAX, Rank,
    Refusal, View, Want,
};
use stp_proto::session::{Denied, Event, Input, LostCause, Peer, Session, code};
use stp_proto::time::Instant;
use stp_proto::wire::{Close, ResetFrame};

use crate::app::{App, Task};
use crate::near::Near;
use crate::net::{BROKER, ConnId, Owner};
use crate::origin::Ledger;
use crate::plan::{Plan, Work};
use crate::random::Random;
use crate::server::Server;
use crate::work;
use crate::world::{End, Ev, Who, World};

const UNANSWERED_MAX: u32 = 2;
const STAGGER: Duration = Duration::from_millis(250);
const CONNECT_MAX: Duration = Duration::from_secs(30);
const PROBE_EVERY: Duration = Duration::from_millis(250);
const PROBE_EVERY_MAX: Duration = Duration::from_secs(5);
const OUTAGE_OLD: Duration = Duration::from_secs(600);
const PROBES_MAX: usize = 40;
const SILENCE: Duration = Duration::from_millis(500);
const DIAL_MAX: Duration = Duration::from_secs(10);
const WARM_AGE: Duration = Duration::from_secs(60);
const KEPT_MAX: usize = 16;
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
    search: Option<Search>,
    choice: Choice,
    trying: Option<Rank>,
    unanswered: u32,
    came_from: Option<Rank>,
    leave: Option<Rank>,
}

/// A server that may be asked.
struct Candidate {
    rank: Rank,
    not_before: Option<Instant>,
}

struct Search {
    began: Instant,
    order: Vec<Candidate>,
    home: Option<Rank>,
    give_up_at: Option<Instant>,
    tired_after: Option<Duration>,
    /// Who was asked, and whether it was out of reach since.
    asked: Vec<(Rank, bool)>,
    last_asked: Option<Instant>,
    answered: Option<(Rank, ConnId, Instant, bool)>,
}

/// How a server is out of reach: refusing or silent, and since when.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
struct Away {
    refuses: bool,
    since: Instant,
    away_since: Instant,
}

/// The way to one server.
struct Reach {
    away: Option<Away>,
    was_reached: bool,
    warm: Vec<(ConnId, Instant)>,
    attempts: Vec<u64>,
    probing: bool,
}

/// A dial under way.
struct Attempting {
    id: u64,
    rank: Rank,
    address: u32,
    begun: Instant,
}

/// The broker.
pub struct Broker {
    pub seats: Vec<Seat>,
    pub asleep_until: Instant,
    reaches: Vec<Reach>,
    dials: Vec<Attempting>,
    next_dial: u64,
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
    /// An app connects.
    pub fn start(&mut self, number: u64) {
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
        let order = seat.choice.order(want, listed, |_| None);
        let mut order: Vec<Candidate> = order.into_iter().map(candidate).collect();
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
            tired_after: seat.choice.patience(),
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

    /// A search looks around.
    pub fn search(&mut self, number: u64) {
        let now = self.now;
        let Some(mut search) = self.broker.seat(number).search.take() else { return };
        for (rank, away) in &mut search.asked {
            *away |= self.broker.reaches[*rank].away.is_some();
        }
        self.collect(&mut search);
        let home = search.home;
        let right = search.answered.filter(|(rank, ..)| home.is_none_or(|home| home == *rank));
        let leave_at = search.answered.and_then(|(_, _, answered, was_away)| {
            let view = match home.map(|home| self.broker.reaches[home].away) {
                None => View::Refuses,
                Some(Some(away)) if away.refuses => View::Refuses,
                Some(_) => View::Silent,
            };
            select::leave_home_at(search.began, view, answered, was_away)
        });
        if right.is_some() || leave_at.is_some_and(|at| at <= now) {
            let (rank, conn, ..) = search.answered.take().expect("looked");
            return self.found(number, &search, rank, conn);
        }
        if let Some(why) = self.hopeless(&search) {
            let began_new = search.give_up_at.is_some();
            if began_new && self.broker.seat(number).choice.home().is_some() {
                return self.input(Who::Broker(number), Input::DialFailed);
            }
            return self.search_failed(number, &why);
        }
        while let Some((rank, at)) = self.next_to_ask(&search) {
            if at > now {
                break;
            }
            search.asked.push((rank, self.broker.reaches[rank].away.is_some()));
            search.last_asked = Some(now);
            self.ask(rank);
            if !self.broker.reaches[rank].warm.is_empty() {
                self.at(now, Ev::Search(number));
            }
        }
        let wake = [
            self.next_to_ask(&search).map(|(_, at)| at),
            leave_at,
            search.give_up_at,
            self.home_refuses(&search).zip(search.tired_after).map(|(since, t)| since + t),
            search.give_up_at.and(self.all_refuse(&search)).map(|t| t + self.refused_max(&search)),
        ];
        if let Some(at) = wake.into_iter().flatten().filter(|at| *at > now).min() {
            self.at(at, Ev::Search(number));
        }
        self.broker.seat(number).search = Some(search);
    }

    /// Takes a link that is ready at a server that was asked.
    fn collect(&mut self, search: &mut Search) {
        let ranks: Vec<(Rank, bool)> = search.asked.clone();
        for (rank, was_away) in ranks {
            let right = search.home.is_none_or(|home| home == rank);
            if search.answered.is_some_and(|(held, ..)| held == rank || !right) {
                continue;
            }
            if let Some(conn) = self.take_warm(rank) {
                if let Some((_, other, ..)) =
                    search.answered.replace((rank, conn, self.now, was_away))
                {
                    self.close(other, BROKER, false);
                }
            } else if self.broker.reaches[rank].away.is_some() {
                self.start_prober(rank);
            } else if self.broker.reaches[rank].attempts.is_empty() {
                self.begin_dial(rank);
            }
        }
    }

    fn found(&mut self, number: u64, search: &Search, rank: Rank, conn: ConnId) {
        let established = {
            let seat = self.broker.seat(number);
            seat.trying = Some(rank);
            seat.end.as_ref().is_some_and(|end| end.session.is_established())
        };
        // The choice's home, not the search's: that may have been set aside.
        let home = self.broker.seat(number).choice.home();
        let same = !established || home == Some(rank);
        let peer = if same { Peer::Same } else { Peer::Other };
        let _ = search;
        self.say(|_| format!("session {number} gets link {conn} to server {rank}, {peer:?}"));
        match self.hand_over(Who::Broker(number), conn) {
            Some(link) => self.input(Who::Broker(number), Input::LinkUp { link, peer }),
            None => self.close(conn, BROKER, false),
        }
    }

    fn search_failed(&mut self, number: u64, why: &str) {
        self.give_up(number, why);
        self.input(Who::Broker(number), Input::DialFailed);
        self.input(Who::Broker(number), Input::Abort { code: code::NO_SERVER });
    }

    fn give_up(&mut self, number: u64, why: &str) {
        self.say(|_| format!("session {number} is given up: {why}"));
        self.broker.seat(number).facts.gave_up.get_or_insert(why.to_owned());
    }

    fn next_to_ask(&self, search: &Search) -> Option<(Rank, Instant)> {
        let fresh = |c: &&Candidate| !search.asked.iter().any(|(rank, _)| *rank == c.rank);
        let order = search.order.iter().filter(fresh);
        let next = order.min_by_key(|c| c.not_before.filter(|at| *at > self.now))?;
        let hopeless = |rank: Rank| {
            let away = self.broker.reaches[rank].away;
            away.is_some_and(|away| away.refuses || Some(rank) != search.home)
        };
        let turn = match search.asked.last() {
            None => self.now,
            Some((last, _)) if hopeless(*last) => self.now,
            Some((last, _)) if Some(*last) == search.home => search.began + GRACE / 2,
            Some(_) => search.last_asked.unwrap_or(self.now) + STAGGER,
        };
        Some((next.rank, next.not_before.map_or(turn, |at| at.max(turn))))
    }

    fn home_refuses(&self, search: &Search) -> Option<Instant> {
        let away = self.broker.reaches[search.home?].away?;
        away.refuses.then_some(away.since)
    }

    fn all_refuse(&self, search: &Search) -> Option<Instant> {
        let mut since = search.began;
        for candidate in &search.order {
            let away = self.broker.reaches[candidate.rank].away.filter(|away| away.refuses)?;
            since = since.max(away.since);
        }
        (!search.order.is_empty()).then_some(since)
    }

    fn refused_max(&self, search: &Search) -> Duration {
        let known = |c: &Candidate| self.broker.reaches[c.rank].was_reached;
        if search.order.iter().any(known) { REFUSED_KNOWN_MAX } else { REFUSED_NEW_MAX }
    }

    fn hopeless(&self, search: &Search) -> Option<String> {
        let now = self.now;
        if search.order.is_empty() {
            return Some("no server is left that could take it".to_owned());
        }
        if let Some(give_up_at) = search.give_up_at {
            let refused = self.all_refuse(search);
            if refused.is_some_and(|since| now >= since + self.refused_max(search)) {
                return Some("every server refuses".to_owned());
            }
            return (now >= give_up_at).then(|| "no server answers".to_owned());
        }
        let refused = self.home_refuses(search).zip(search.tired_after);
        let tired = refused.is_some_and(|(since, patience)| now >= since + patience);
        tired.then(|| "its home refuses, and all others have".to_owned())
    }

    // The way to a server.

    /// A session waits for a link to a server.
    fn ask(&mut self, rank: Rank) {
        let reach = &self.broker.reaches[rank];
        if !reach.warm.is_empty() {
            return;
        }
        if reach.away.is_none() {
            self.begin_dial(rank);
        } else {
            self.start_prober(rank);
        }
    }

    fn begin_dial(&mut self, rank: Rank) {
        self.broker.next_dial += 1;
        let id = self.broker.next_dial;
        let address = self.net.address;
        self.broker.reaches[rank].attempts.push(id);
        self.broker.dials.push(Attempting { id, rank, address, begun: self.now });
        if self.net.is_up(self.now, rank) {
            let delay = self.net.delay(rank);
            self.after(delay, Ev::Syn(id));
        }
        self.after(SILENCE, Ev::Silent(id));
        self.after(DIAL_MAX, Ev::Silent(id));
    }

    fn attempt(&self, id: u64) -> Option<&Attempting> {
        self.broker.dials.iter().find(|dial| dial.id == id)
    }

    /// The attempt reaches the server's machine.
    pub fn syn(&mut self, id: u64) {
        let Some(&Attempting { rank, address, .. }) = self.attempt(id) else { return };
        let server = &self.servers[rank];
        let lost = !self.net.is_up(self.now, rank)
            || address != self.net.address
            || server.asleep_until > self.now
            || server.gone;
        if lost {
            return;
        }
        let taken = server.alive;
        let mut delay = self.net.delay(rank);
        if taken {
            // TLS: one more round trip.
            delay += self.net.delay(rank) + self.net.delay(rank);
        }
        self.after(delay, Ev::Dialed(id, taken));
    }

    pub fn dialed(&mut self, id: u64, taken: bool) {
        let Some(&Attempting { rank, address, .. }) = self.attempt(id) else { return };
        if !self.net.is_up(self.now, rank) || address != self.net.address {
            return;
        }
        if taken != self.servers[rank].alive || self.servers[rank].gone {
            return;
        }
        self.forget_dial(id);
        if !taken {
            return self.dial_failed(rank, true);
        }
        let conn = self.net.add(rank);
        self.broker.reaches[rank].warm.push((conn, self.now));
        self.broker.reaches[rank].was_reached = true;
        self.broker.reaches[rank].away = None;
        self.news();
    }

    fn forget_dial(&mut self, id: u64) {
        self.broker.dials.retain(|dial| dial.id != id);
        self.broker.reaches.iter_mut().for_each(|reach| reach.attempts.retain(|a| *a != id));
    }

    /// The attempt has not been answered for some time.
    pub fn silent(&mut self, id: u64) {
        let Some(&Attempting { rank, begun, .. }) = self.attempt(id) else { return };
        if self.now - begun >= DIAL_MAX {
            self.forget_dial(id);
        }
        self.dial_failed(rank, false);
    }

    fn dial_failed(&mut self, rank: Rank, refuses: bool) {
        let now = self.now;
        if refuses {
            let warm = std::mem::take(&mut self.broker.reaches[rank].warm);
            warm.into_iter().for_each(|(conn, _)| self.close(conn, BROKER, false));
        }
        let reach = &mut self.broker.reaches[rank];
        let same = reach.away.filter(|away| away.refuses == refuses);
        let since = same.map_or(now, |away| away.since);
        let away_since = reach.away.map_or(now, |away| away.away_since);
        reach.away = Some(Away { refuses, since, away_since });
        for seat in &mut self.broker.seats {
            seat.facts.unreachable |= !seat.over;
        }
        self.start_prober(rank);
        if same.is_none() {
            self.news();
        }
    }

    fn start_prober(&mut self, rank: Rank) {
        if !std::mem::replace(&mut self.broker.reaches[rank].probing, true) {
            self.after(PROBE_EVERY / 4, Ev::Probe(rank));
        }
    }

    /// Tries again, as long as a session waits and the server is out of reach.
    pub fn probe(&mut self, rank: Rank) {
        let waits = |seat: &Seat| {
            let asked = |search: &Search| search.asked.iter().any(|(asked, _)| *asked == rank);
            seat.search.as_ref().is_some_and(asked)
        };
        let wanted = self.broker.seats.iter().any(waits);
        let reach = &mut self.broker.reaches[rank];
        let Some(away) = reach.away.filter(|_| wanted) else {
            reach.probing = false;
            return;
        };
        let age = self.now - away.away_since;
        let past = age.saturating_sub(OUTAGE_OLD).as_secs_f64() / OUTAGE_OLD.as_secs_f64();
        let pause = PROBE_EVERY.mul_f64((1.0 + 20.0 * past).min(20.0)).min(PROBE_EVERY_MAX);
        if reach.attempts.len() < PROBES_MAX {
            self.begin_dial(rank);
        }
        self.after(pause, Ev::Probe(rank));
    }

    /// Every search looks again.
    fn news(&mut self) {
        for number in 0..self.broker.seats.len() as u64 {
            if self.broker.seat(number).search.is_some() {
                self.at(self.now, Ev::Search(number));
            }
        }
    }

    fn take_warm(&mut self, rank: Rank) -> Option<ConnId> {
        while let Some((conn, since)) = self.broker.reaches[rank].warm.pop() {
            let lives = self.net.conns.get(&conn).is_some_and(|c| c.owner[BROKER] == Owner::Spare);
            if lives && self.now - since < WARM_AGE {
                for _ in self.broker.reaches[rank].warm.len()..self.plan.warm {
                    if self.broker.reaches[rank].away.is_none() {
                        self.begin_dial(rank);
                    }
                }
                return Some(conn);
            }
            self.close(conn, BROKER, false);
        }
        None
    }

    /// A link that a session gave back.
    pub fn keep_for(&mut self, number: u64, conn: ConnId) {
        let Some(rank) = self.broker.seat(number).choice.last() else {
            return self.close(conn, BROKER, false);
        };
        let address = self.net.conns.get(&conn).map(|conn| conn.address);
        let warm = &mut self.broker.reaches[rank].warm;
        if warm.len() < KEPT_MAX && address == Some(self.net.address) {
            warm.push((conn, self.now));
            self.news();
        } else {
            self.close(conn, BROKER, false);
        }
    }

    /// A spare link ended, or its server spoke unasked.
    pub fn drop_spare(&mut self, conn: ConnId) {
        for reach in &mut self.broker.reaches {
            reach.warm.retain(|(other, _)| *other != conn);
        }
        for seat in &mut self.broker.seats {
            if let Some(search) = &mut seat.search {
                search.answered = search.answered.filter(|(_, other, ..)| *other != conn);
            }
        }
        self.close(conn, BROKER, false);
        self.news();
    }

    /// What the driver does with an event of a session.
    pub fn far_event(&mut self, number: u64, session: &Session, event: &Event) -> Verdict {
        match event {
            Event::Attached { .. } => self.attached(number),
            Event::Lost { cause, .. } => self.lost(number, *cause),
            Event::Denied(why) => return self.denied(number, session, why),
            Event::TransferWanted { .. }
                if self.servers.len() > 1 && session.transferable().is_ok() =>
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
            Denied::Connect { why, retry_after, .. } => Refusal::of_connect(*why, *retry_after),
            Denied::Resume(why) => match Refusal::of_resume(*why) {
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
        let unknown = refusal == Refusal::Unknown && session.is_established();
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
