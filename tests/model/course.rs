//! A session's course through the servers of its service, stepped through everything that can
//! happen to it within the bounds of a run: dials, answers, refusals, lost links, requests to
//! leave, measurements and the wishes of its user, in every order.
//!
//! Shipped are the course and the choice of servers (`stp_proto::course`, `select`), and the search
//! for a link, which runs to its end in one step. Modelled are the servers (how each one answers a
//! dial) and the little of a session and of a broker that a course needs. Everything that may go
//! wrong is counted, because the states would have no end otherwise.
//!
//! The clock stands still, except for a step that lets an hour pass. All times of rest, and all
//! times on the overloaded list, are over then.

use std::time::Duration;

use stp_proto::course::{
    Action, Around, Change, Course, Deadlines, Denial, Dial, Failure, FailureKind, GapWhy, GaveUp,
    Measured, Relay, Search, Standing, Step as Next, Target, Wanted, Ways,
};
use stp_proto::rise::Way;
use stp_proto::select::{OVERLOADED_MIN, Rank, Rejection, Want};
use stp_proto::session::{Attempt, LostCause, Mutant, WhyNot};
use stp_proto::time::Instant;
use stp_proto::wire::TransferReason;

use crate::explore::{Model, Report, Step, Verdict, explore};
use crate::pool::Pool;

/// The most servers of a run.
const MOST: usize = 3;
const RELAY: Relay = Relay([7; 32]);
const START: Instant = Instant(1_000_000_000);
const HOUR: Duration = Duration::from_secs(3_600);
/// A server answers a dial, or refuses it, after this time.
const ANSWERS_AFTER: Duration = Duration::from_millis(5);
/// A dial that nobody answers counts as failed after this time.
const SILENT_AFTER: Duration = Duration::from_millis(500);

/// The bounds of a run.
#[derive(Clone, Debug)]
struct Bounds {
    name: &'static str,
    servers: usize,
    /// Only its home can go on with the session.
    bound: bool,
    left: Left,
    /// How often another server cannot catch up, because the app still takes what a failed service
    /// gave.
    rest: u8,
}

/// What may still happen.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Left {
    /// Links that break, sessions suspended, paths changed, attempts overtaken, looks that find the
    /// straight way bad.
    faults: u8,
    /// Refusals of each server.
    refusals: [u8; MOST],
    /// Wishes of the user.
    wishes: u8,
    /// Requests of a server to be left.
    asks: u8,
    /// Servers that change how they answer.
    moods: u8,
    /// Hours that pass.
    hours: u8,
}

const NOTHING: Left =
    Left { faults: 0, refusals: [0; MOST], wishes: 0, asks: 0, moods: 0, hours: 0 };
const TWO: Bounds = Bounds { name: "", servers: 2, bound: false, left: NOTHING, rest: 2 };

/// How a server answers a dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Mood {
    Up,
    /// It lets itself be connected to, and answers nothing.
    Mute,
    /// Nobody listens there.
    Refuses,
    /// Nothing comes back.
    Silent,
}

const MOODS: [Mood; 4] = [Mood::Up, Mood::Mute, Mood::Refuses, Mood::Silent];

/// A dial under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum Dialing {
    Move(Rank),
    Turn(Target),
    /// `led`: a relay may lead it to its home. `listed`: on the overloaded list when it began.
    Search {
        wanted: Wanted,
        led: bool,
        listed: [bool; MOST],
    },
}

/// When the session asks for a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Wants {
    Never,
    /// After a pause.
    Soon,
    /// Before anything else can happen.
    Now,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum End {
    GaveUp,
    /// The failed service's response ended short, as no server could go on with it.
    Short,
}

/// What is around a course.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Setting {
    now: Instant,
    moods: [Mood; MOST],
    listed: [bool; MOST],
    established: bool,
    /// The session has a link on which bytes move.
    linked: bool,
    /// The session asks for a link.
    wants: Wants,
    dialing: Option<Dialing>,
    /// An attempt that awaits its answer.
    trying: Option<(Target, Attempt)>,
    /// What is being measured: ways; otherwise servers.
    measuring: Option<bool>,
    /// Servers that will never take this session, and those that refused it since it was asked to
    /// leave, or since it looks for its first server.
    never: [bool; MOST],
    refused: [bool; MOST],
    /// A server said that only the home may go on with it.
    only_home: bool,
    /// Its home does not know it any more.
    forgotten: bool,
    /// A refusal that is final.
    fatal: bool,
    /// The server that has asked to be left waits for an answer.
    asked: bool,
    /// The service behind its home gives no more.
    failed: bool,
    rest: u8,
    /// The server that its user wants it to leave.
    wish: Option<Rank>,
    /// No move for the sake of speed was made in this hour.
    rested: bool,
    end: Option<End>,
    left: Left,
}

/// A state: the course and what is around it.
#[derive(Clone, Debug)]
struct State {
    course: Course,
    setting: Setting,
}

/// What happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Happens {
    /// The session asks for a link.
    Dials,
    /// The dial comes to an end, as the servers are.
    DialEnds,
    /// A relay leads to the home.
    Led,
    /// The attempt is answered, or not, as its server is.
    Answered,
    Refused(Rejection),
    AttemptBreaks,
    Overtaken,
    Lost(LostCause),
    Suspended,
    PathChanged,
    Asked(TransferReason),
    /// The present server, or way, is found slow; otherwise as good as the others.
    Measured(bool),
    Looked(bool),
    UserMove(Option<Rank>),
    Mood(Rank, Mood),
    AnHourPasses,
}

use Happens::*;

/// What courses ask of their surroundings. Nothing is known of the ways, unless a search has found
/// it out.
#[derive(Clone)]
struct Seen {
    listed: [Option<Instant>; MOST],
    standings: [Standing; MOST],
}

impl Seen {
    fn of(now: Instant, listed: [bool; MOST]) -> Seen {
        let listed = listed.map(|listed| listed.then_some(now + OVERLOADED_MIN));
        Seen { listed, standings: Default::default() }
    }
}

impl Ways for Seen {
    fn standing(&self, server: Rank) -> Standing {
        self.standings[server].clone()
    }

    fn last_link(&self, _server: Rank) -> Option<Duration> {
        None
    }
}

impl Around for Seen {
    fn server_name(&self, server: Rank) -> String {
        server.to_string()
    }

    fn relay_name(&self, _relay: Relay) -> String {
        "relay".to_owned()
    }

    fn listed_until(&self, now: Instant, server: Rank) -> Option<Instant> {
        self.listed[server].filter(|until| *until > now)
    }

    fn round_trip(&self, _server: Rank) -> Option<Duration> {
        None
    }

    fn take_exit(&self, _now: Instant, _server: Rank) -> bool {
        true
    }
}

/// How a search ended.
enum Searched {
    /// This server, at that time.
    Take(Rank, Instant),
    GaveUp(GaveUp),
    /// It waits until something changes.
    Waits,
}

fn away(now: Instant, kind: FailureKind) -> Standing {
    let last = Failure { kind, why: "away".to_owned(), errno: 0 };
    Standing::Away { last, since: now, away_since: now }
}

/// Runs the shipped search to its end.
fn search(mut now: Instant, wanted: &Wanted, moods: &[Mood; MOST], seen: &Seen) -> Searched {
    let mut seen = seen.clone();
    let mut search = Search::new(now, wanted.clone());
    let mut answers: Vec<(Instant, Rank)> = Vec::new();
    loop {
        let wake = match search.poll(now, &seen) {
            Next::Take(rank) => return Searched::Take(rank, now),
            Next::GiveUp(gave_up) => return Searched::GaveUp(gave_up),
            Next::Ask(rank) => {
                let silent = moods[rank] == Mood::Silent;
                answers.push((now + if silent { SILENT_AFTER } else { ANSWERS_AFTER }, rank));
                continue;
            }
            Next::Wait(wake) => wake,
        };
        let next = answers.iter().map(|(at, _)| *at).chain(wake).min();
        let Some(next) = next else { return Searched::Waits };
        now = next;
        for (_, rank) in answers.extract_if(.., |(at, _)| *at <= now) {
            match moods[rank] {
                Mood::Up | Mood::Mute => drop(search.handle_link(now, rank)),
                Mood::Refuses => seen.standings[rank] = away(now, FailureKind::Refused),
                Mood::Silent => seen.standings[rank] = away(now, FailureKind::Silent),
            }
        }
    }
}

/// A way that has become slow, one that has not, or none.
fn way(there: bool, slow: bool) -> Way {
    let ms = |ms| Some(Duration::from_millis(ms)).filter(|_| there);
    Way { now: ms(if slow { 900 } else { 10 }), base: ms(10) }
}

impl Setting {
    /// The session asks for a link, unless a dial is under way.
    fn want_unless_dialing(&mut self, when: Wants) {
        if self.dialing.is_none() {
            self.wants = self.wants.max(when);
        }
    }

    fn seen(&self) -> Seen {
        Seen::of(self.now, self.listed)
    }
}

impl State {
    fn new(bounds: &Bounds) -> State {
        let setting = Setting {
            now: START,
            moods: [Mood::Up; MOST],
            listed: [false; MOST],
            established: false,
            linked: false,
            wants: Wants::Now,
            dialing: None,
            trying: None,
            measuring: None,
            never: [false; MOST],
            refused: [false; MOST],
            only_home: false,
            forgotten: false,
            fatal: false,
            asked: false,
            failed: false,
            rest: 0,
            wish: None,
            rested: true,
            end: None,
            left: bounds.left.clone(),
        };
        State { course: Course::new(bounds.servers, Deadlines::default()), setting }
    }

    /// Whether a server could take the session now.
    fn could_take(&self, bounds: &Bounds, server: Rank) -> bool {
        let set = &self.setting;
        if set.moods[server] != Mood::Up || set.fatal {
            return false;
        }
        if !set.established {
            return !set.refused[server];
        }
        if self.course.home() == Some(server) {
            return true;
        }
        !bounds.bound && !set.only_home && !set.never[server]
    }

    /// Its home is out of reach, and a relay could lead there.
    fn could_be_led(&self, bounds: &Bounds) -> bool {
        let home = self.course.home().is_some_and(|home| self.setting.moods[home] == Mood::Silent);
        home && bounds.bound && bounds.servers > 1
    }

    /// It has no link, and nothing can be done until something changes.
    fn is_cut_off(&self, bounds: &Bounds) -> bool {
        let nobody = !(0..bounds.servers).any(|server| self.could_take(bounds, server));
        !self.setting.linked && nobody && !self.could_be_led(bounds)
    }

    /// Its search waits until something changes.
    fn search_waits(&self) -> bool {
        let set = &self.setting;
        let Some(Dialing::Search { wanted, listed, .. }) = &set.dialing else { return false };
        let seen = Seen::of(set.now, *listed);
        matches!(search(set.now, wanted, &set.moods, &seen), Searched::Waits)
    }

    /// A server whose service has failed asks to be left as soon as there is a link to it.
    fn is_asked_again(&self) -> bool {
        let set = &self.setting;
        let there = self.course.home().is_some_and(|rank| {
            let mood = self.mood_of(Target { rank, via: self.course.via() });
            matches!(mood, Mood::Up | Mood::Mute)
        });
        set.failed && set.linked && !set.asked && there
    }

    /// Nothing is under way, and nobody waits.
    fn is_at_rest(&self) -> bool {
        let set = &self.setting;
        let idle = set.dialing.is_none() && set.trying.is_none() && set.measuring.is_none();
        set.linked
            && idle
            && set.wants == Wants::Never
            && !set.asked
            && !set.failed
            && !self.is_changing()
    }

    fn is_changing(&self) -> bool {
        *self.course.change() != Change::Nothing
    }

    /// How the server of an attempt takes it.
    fn mood_of(&self, target: Target) -> Mood {
        match self.setting.moods[target.rank] {
            Mood::Silent if target.via.is_some() => Mood::Up,
            mood => mood,
        }
    }
}

/// How a server may refuse an attempt.
fn refusals(attempt: Attempt) -> Vec<Rejection> {
    match attempt {
        Attempt::Connect => vec![Rejection::NotHere, Rejection::Draining],
        Attempt::Resume => vec![Rejection::Unknown],
        Attempt::Transfer => vec![
            Rejection::NotHere,
            Rejection::Draining,
            Rejection::Seam,
            Rejection::Unsafe,
            Rejection::Verifying(Duration::from_secs(2)),
        ],
    }
}

/// All that can happen now: what happens by itself, and what may go wrong.
fn what_can_happen(state: &State, bounds: &Bounds) -> Vec<(Happens, bool)> {
    let mut all = Vec::new();
    let (set, left) = (&state.setting, &state.setting.left);
    if set.end.is_some() {
        return all;
    }
    let mut add = |possible: bool, free: bool, happens: Happens| {
        if possible {
            all.push((happens, free));
        }
    };
    if set.wants == Wants::Now {
        return vec![(Dials, true)];
    }
    if state.is_asked_again() {
        return vec![(Asked(TransferReason::ServiceFailed), true)];
    }
    add(set.wants == Wants::Soon, true, Dials);
    add(set.dialing.is_some(), true, DialEnds);
    if let Some(Dialing::Search { led, .. }) = &set.dialing {
        add(*led && state.could_be_led(bounds), true, Led);
    }
    // A search that can end does so before anything else goes wrong.
    let settled = !matches!(set.dialing, Some(Dialing::Search { .. })) || state.search_waits();
    let may_fail = left.faults > 0 && settled;
    if let Some((target, attempt)) = set.trying {
        let up = state.mood_of(target) == Mood::Up;
        add(up || !state.is_cut_off(bounds), true, Answered);
        let refuses = up && left.refusals[target.rank] > 0;
        refusals(attempt).into_iter().for_each(|why| add(refuses, false, Refused(why)));
        add(may_fail, false, AttemptBreaks);
        let moves = matches!(state.course.change(), Change::Move(_));
        add(may_fail && set.linked && moves, false, Overtaken);
    }
    add(set.measuring.is_some(), true, Measured(true));
    add(set.measuring.is_some(), true, Measured(false));
    if let Some(home) = state.course.home().filter(|_| set.linked) {
        let mood = state.mood_of(Target { rank: home, via: state.course.via() });
        add(mood == Mood::Refuses, true, Lost(LostCause::Broken));
        add(mood == Mood::Silent, true, Lost(LostCause::Silent));
        add(may_fail && mood == Mood::Up, false, Lost(LostCause::Broken));
        add(may_fail, false, Suspended);
        add(may_fail, false, PathChanged);
        if mood == Mood::Up && !set.failed {
            for reason in
                [TransferReason::Congested, TransferReason::Draining, TransferReason::ServiceFailed]
            {
                add(left.asks > 0, false, Asked(reason));
            }
        }
        let looks = state.course.looks() && !state.is_changing();
        add(looks && set.moods[home] == Mood::Up, true, Looked(true));
        add(looks && may_fail, false, Looked(false));
    }
    for to in std::iter::once(None).chain((0..bounds.servers).map(Some)) {
        add(left.wishes > 0, false, UserMove(to));
    }
    for server in (0..bounds.servers).filter(|_| settled) {
        for mood in MOODS.into_iter().filter(|mood| *mood != set.moods[server]) {
            add(left.moods > 0, false, Mood(server, mood));
        }
    }
    add(left.hours > 0 && state.is_at_rest(), false, AnHourPasses);
    all
}

/// A step of the model.
struct Taking<'a> {
    bounds: &'a Bounds,
    before: &'a State,
    course: Course,
    set: Setting,
}

/// What comes of it; otherwise what is broken.
fn take(bounds: &Bounds, before: &State, happens: Happens) -> Result<State, String> {
    let (course, set) = (before.course.clone(), before.setting.clone());
    let mut taking = Taking { bounds, before, course, set };
    let actions = taking.happen(happens)?;
    taking.carry_out(&actions)?;
    taking.check(happens)?;
    Ok(State { course: taking.course, setting: taking.set })
}

impl Taking<'_> {
    fn transferable(&self) -> Result<(), WhyNot> {
        if self.bounds.bound { Err(WhyNot::NotTransferable) } else { Ok(()) }
    }

    fn happen(&mut self, happens: Happens) -> Result<Vec<Action>, String> {
        let now = self.set.now;
        Ok(match happens {
            Dials => return self.dials(),
            DialEnds => return self.dial_ends(),
            Led => {
                let rank = self.course.home().ok_or("nobody is led to no home")?;
                self.set.dialing = None;
                self.found(Target { rank, via: Some(RELAY) })
            }
            Answered => self.answered(),
            Refused(why) => self.refused(why),
            AttemptBreaks => {
                self.set.left.faults -= 1;
                self.attempt_lost(LostCause::Broken)
            }
            Overtaken => {
                self.set.left.faults -= 1;
                self.attempt_lost(LostCause::Overtaken)
            }
            Lost(cause) => {
                let home = self.course.home().map(|rank| Target { rank, via: self.course.via() });
                let fault = home.is_some_and(|home| self.before.mood_of(home) == Mood::Up);
                self.set.left.faults -= u8::from(fault);
                (self.set.linked, self.set.trying, self.set.asked) = (false, None, false);
                self.set.want_unless_dialing(Wants::Now);
                self.course.handle_lost(now, cause, Duration::ZERO)
            }
            Suspended => {
                let set = &mut self.set;
                set.left.faults -= 1;
                (set.linked, set.trying, set.dialing) = (false, None, None);
                (set.wants, set.asked, set.wish) = (Wants::Soon, false, None);
                self.course.handle_suspended(now, false, None)
            }
            PathChanged => {
                self.set.left.faults -= 1;
                self.set.wants = Wants::Now;
                self.course.handle_path_changed(now, GapWhy::AddressGone, now);
                Vec::new()
            }
            Asked(reason) => self.asked(reason),
            Measured(slow) => self.measured(slow),
            Looked(good) => {
                self.set.left.faults -= u8::from(!good);
                let (present, straight) = (way(true, false), way(true, !good));
                self.course.handle_looked(now, &self.set.seen(), present, straight)
            }
            UserMove(to) => self.user_move(to),
            Mood(server, mood) => {
                self.set.left.moods -= 1;
                self.set.moods[server] = mood;
                Vec::new()
            }
            AnHourPasses => {
                let set = &mut self.set;
                set.left.hours -= 1;
                (set.now, set.listed, set.rested) = (now + HOUR, [false; MOST], true);
                Vec::new()
            }
        })
    }

    fn dials(&mut self) -> Result<Vec<Action>, String> {
        let now = self.set.now;
        let set = &mut self.set;
        set.wants = Wants::Never;
        let want = match set.established {
            true => Want::Resume { transferable: !self.bounds.bound },
            false => Want::Connect,
        };
        let until = now + Duration::from_secs(30);
        let dialing = match self.course.handle_dial(now, set.linked, want, until) {
            Dial::Move(rank) => Dialing::Move(rank),
            Dial::Turn(target) => Dialing::Turn(target),
            Dial::Search(seek) => {
                let wanted = seek.wanted(now, &set.seen());
                let led = seek.is_bound_to_home();
                Dialing::Search { wanted, led, listed: set.listed }
            }
        };
        match (&dialing, self.course.change()) {
            (Dialing::Move(rank), Change::Move(plan)) => {
                let free = plan.order.iter().any(|other| !set.listed[*other]);
                if set.listed[*rank] && free && !plan.by_user {
                    return Err(
                        "a move leads to a server in cool-down while another is free".into()
                    );
                }
            }
            (Dialing::Turn(_), Change::Turn(_)) => {}
            (Dialing::Search { wanted, .. }, _) if !set.linked => {
                let at_once = wanted.order.iter().filter(|one| one.not_before.is_none());
                let at_once: Vec<Rank> = at_once.map(|one| one.rank).collect();
                let again = set.wish.is_some_and(|wish| at_once.contains(&wish));
                if again && at_once.len() > 1 {
                    return Err("the server that the user wants to leave is asked again".into());
                }
                set.wish = None;
            }
            (Dialing::Search { .. }, _) => {}
            _ => return Err(format!("{dialing:?} was not decided")),
        }
        set.dialing = Some(dialing);
        Ok(Vec::new())
    }

    fn dial_ends(&mut self) -> Result<Vec<Action>, String> {
        let reached = |mood| matches!(mood, Mood::Up | Mood::Mute);
        let dialing = self.set.dialing.take().ok_or("a dial")?;
        match &dialing {
            Dialing::Move(rank) if reached(self.set.moods[*rank]) => {
                return Ok(self.found(Target { rank: *rank, via: None }));
            }
            Dialing::Turn(target) if reached(self.before.mood_of(*target)) => {
                return Ok(self.found(*target));
            }
            _ => {}
        }
        let actions = match dialing {
            Dialing::Move(rank) => {
                self.set.refused[rank] = true;
                self.course.handle_unreached(rank)
            }
            Dialing::Turn(_) => self.course.handle_turn_failed("no link that way".to_owned()),
            Dialing::Search { wanted, led, listed } => {
                let seen = Seen::of(self.set.now, listed);
                match search(self.set.now, &wanted, &self.set.moods, &seen) {
                    Searched::Take(rank, at) => {
                        self.check_choice(&wanted, rank, at, &seen)?;
                        return Ok(self.found(Target { rank, via: None }));
                    }
                    Searched::Waits => {
                        self.set.dialing = Some(Dialing::Search { wanted, led, listed });
                        return Ok(Vec::new());
                    }
                    Searched::GaveUp(gave_up) => self.no_server(gave_up),
                }
            }
        };
        if !self.set.linked {
            self.set.want_unless_dialing(Wants::Soon);
        }
        Ok(actions)
    }

    fn no_server(&mut self, gave_up: GaveUp) -> Vec<Action> {
        let can = self.transferable().map_err(|why| why.to_string());
        let established = self.set.established;
        self.course.handle_no_server(&self.set.seen(), established, can, gave_up)
    }

    /// A server on the overloaded list is chosen only if no other that answers is free.
    fn check_choice(
        &self,
        wanted: &Wanted,
        rank: Rank,
        at: Instant,
        seen: &Seen,
    ) -> Result<(), String> {
        let listed = |server| seen.listed_until(at, server).is_some();
        let answers = |server: Rank| self.set.moods[server] == Mood::Up;
        let mut others = wanted.order.iter().map(|one| one.rank);
        let other = others.find(|other| *other != rank && !listed(*other) && answers(*other));
        match other {
            Some(other) if listed(rank) && wanted.home != Some(rank) => {
                Err(format!("{rank} is in cool-down and chosen, while {other} is free"))
            }
            _ => Ok(()),
        }
    }

    /// A dial brought a link: the session begins its attempt.
    fn found(&mut self, target: Target) -> Vec<Action> {
        let same = self.course.handle_found(target, self.set.established);
        let attempt = match (self.set.established, same) {
            (false, _) => Attempt::Connect,
            (true, true) => Attempt::Resume,
            (true, false) => Attempt::Transfer,
        };
        self.set.trying = Some((target, attempt));
        if attempt == Attempt::Transfer && self.bounds.bound {
            // The session sees to that itself.
            return self.refused_by(Rejection::Unsafe);
        }
        // Another server is asked beside the link; the same one only instead of it.
        self.set.linked &= attempt == Attempt::Transfer;
        Vec::new()
    }

    fn answered(&mut self) -> Vec<Action> {
        let Some((target, attempt)) = self.set.trying else { return Vec::new() };
        let set = &mut self.set;
        let mood = self.before.mood_of(target);
        let beside = set.linked && set.failed;
        match mood {
            Mood::Refuses => return self.attempt_lost(LostCause::Broken),
            // What the app has not taken yet keeps the other server from catching up.
            Mood::Up | Mood::Mute if beside && set.rest > 0 => {
                set.rest -= 1;
                return self.attempt_lost(LostCause::Unanswered);
            }
            // The failed service's server does not wait for ever for another one to answer.
            Mood::Mute if beside => {
                (set.end, set.trying) = (Some(End::Short), None);
                return Vec::new();
            }
            Mood::Mute | Mood::Silent => return self.attempt_lost(LostCause::Unanswered),
            // It does not know the session any more.
            Mood::Up if set.forgotten && attempt == Attempt::Resume => {
                return self.refused_by(Rejection::Unknown);
            }
            Mood::Up => {}
        }
        let for_speed = match self.course.change() {
            Change::Move(plan) => plan.for_speed,
            Change::Turn(turn) => turn.for_speed,
            Change::Nothing | Change::Deciding(_) => false,
        };
        (set.established, set.linked, set.trying) = (true, true, None);
        (set.asked, set.wish, set.only_home, set.forgotten) = (false, None, false, false);
        set.refused = [false; MOST];
        set.never[target.rank] = false;
        set.failed &= attempt == Attempt::Resume;
        let seen = set.seen();
        let actions = self.course.handle_attached(self.set.now, &seen, attempt, Duration::ZERO);
        // The link may be another one than the one that the change is for.
        self.set.rested &= !(for_speed && *self.course.change() == Change::Nothing);
        if self.bounds.bound {
            self.course.handle_pass();
        }
        actions
    }

    fn attempt_lost(&mut self, cause: LostCause) -> Vec<Action> {
        let set = &mut self.set;
        set.trying = None;
        if set.linked {
            return self.course.handle_attempt_lost(&set.seen(), cause);
        }
        set.want_unless_dialing(Wants::Soon);
        if cause == LostCause::Unanswered {
            // That takes longer than a server stays on the overloaded list at first.
            set.listed = [false; MOST];
        }
        self.course.handle_lost(set.now, cause, Duration::ZERO)
    }

    fn refused(&mut self, why: Rejection) -> Vec<Action> {
        if let Some((target, _)) = self.set.trying {
            self.set.left.refusals[target.rank] -= 1;
        }
        self.refused_by(why)
    }

    fn refused_by(&mut self, why: Rejection) -> Vec<Action> {
        let Some((target, _)) = self.set.trying.take() else { return Vec::new() };
        let (set, home) = (&mut self.set, self.course.home());
        let rank = target.rank;
        set.refused[rank] = true;
        set.never[rank] |= why == Rejection::Seam;
        if why == Rejection::Unsafe && !set.linked {
            let other = home.is_some_and(|home| home != rank);
            (set.only_home, set.fatal) = (set.only_home || other, set.fatal || !other);
        }
        if why == Rejection::Unknown {
            set.forgotten = true;
            set.fatal |= self.bounds.bound || set.only_home;
        }
        let (linked, established) = (set.linked, set.established);
        let transferable = if self.bounds.bound { Err(WhyNot::NotTransferable) } else { Ok(()) };
        let denial = Denial { why, text: "", linked, established, transferable };
        self.course.handle_denied(set.now, &set.seen(), &denial)
    }

    fn asked(&mut self, reason: TransferReason) -> Vec<Action> {
        let transferable = self.transferable();
        let set = &mut self.set;
        // One that has failed asks until it is left.
        set.left.asks -= u8::from(!set.failed);
        if reason == TransferReason::ServiceFailed && !set.failed {
            (set.failed, set.rest, set.refused) = (true, self.bounds.rest, [false; MOST]);
        }
        // While something is under way, a congested server gets no answer: it asks again.
        let busy = self.course.attempt().is_some() || *self.course.change() != Change::Nothing;
        set.asked |= !busy || reason != TransferReason::Congested;
        self.course.handle_asked_to_leave(set.now, reason, "", transferable)
    }

    fn measured(&mut self, slow: bool) -> Vec<Action> {
        let (now, seen) = (self.set.now, self.set.seen());
        let answers = |server: Rank| self.set.moods[server] != Mood::Silent;
        if self.set.measuring.take() == Some(false) {
            let home = self.course.home();
            let measured: Vec<_> = (0..self.bounds.servers)
                .map(|to| Measured { to, way: way(answers(to), slow && Some(to) == home) })
                .collect();
            return self.course.handle_measured(now, &seen, &measured, Duration::ZERO);
        }
        let via = self.course.via();
        let straight = self.course.home().is_some_and(answers);
        let measured = [(None, straight), (Some(RELAY), self.bounds.servers > 1)];
        let measured =
            measured.map(|(to, there)| Measured { to, way: way(there, slow && to == via) });
        self.course.handle_ways_measured(&seen, &measured)
    }

    fn user_move(&mut self, to: Option<Rank>) -> Vec<Action> {
        let (home, transferable) = (self.course.home(), self.transferable());
        match self.course.handle_user_move(&self.set.seen(), to, transferable) {
            Ok(actions) => {
                self.set.left.wishes -= 1;
                self.set.wish = home;
                actions
            }
            Err(_) => Vec::new(),
        }
    }

    /// Does what the course says.
    fn carry_out(&mut self, actions: &[Action]) -> Result<(), String> {
        for action in actions {
            let set = &mut self.set;
            match action {
                Action::Retry => set.wants = Wants::Now,
                Action::RetryIn(_) => set.wants = set.wants.max(Wants::Soon),
                Action::Stay(_) => {
                    (set.asked, set.wish) = (false, None);
                    if set.failed && set.linked {
                        set.end = Some(End::Short);
                        self.check_short()?;
                    }
                }
                Action::GiveUp { why, error } => {
                    set.end = Some(End::GaveUp);
                    if why.is_empty() {
                        return Err(format!("it ends with {error:?} and no reason"));
                    }
                    self.check_given_up()?;
                }
                Action::Measure { home, others } => {
                    if others.contains(home) || self.course.home() != Some(*home) {
                        return Err(format!("{home} and {others:?} are measured"));
                    }
                    let slow = |change: &Change| match change {
                        Change::Deciding(question) => question.reason == TransferReason::Congested,
                        _ => false,
                    };
                    if slow(self.course.change()) && !set.rested {
                        return Err("it moves for the sake of speed in its time of rest".into());
                    }
                    set.measuring = Some(false);
                }
                Action::MeasureWays { .. } => set.measuring = Some(true),
                Action::List(rank, _) => set.listed[*rank] = true,
                Action::Unlist(rank) => set.listed[*rank] = false,
                Action::Look | Action::Doubt(..) => {}
                Action::Log { .. } | Action::Note { .. } | Action::NoteLink { .. } => {}
            }
        }
        let by_user = match self.course.change() {
            Change::Deciding(question) => question.by_user,
            Change::Move(plan) => plan.by_user,
            Change::Turn(_) | Change::Nothing => false,
        };
        // What the user wanted has come to nothing.
        if self.course.is_attached() && !by_user {
            self.set.wish = None;
        }
        Ok(())
    }

    /// A response ends short only if no server could go on with it.
    fn check_short(&self) -> Result<(), String> {
        let now = State { course: self.course.clone(), setting: self.set.clone() };
        let home = self.course.home();
        let could = |server: &Rank| {
            let gone = self.set.listed[*server] || self.set.refused[*server];
            Some(*server) != home && !gone && now.could_take(self.bounds, *server)
        };
        match (0..self.bounds.servers).find(could) {
            Some(server) => Err(format!("its response ends short, and {server} could go on")),
            None => Ok(()),
        }
    }

    fn check_given_up(&self) -> Result<(), String> {
        if self.before.setting.linked && self.set.linked {
            return Err("a session that has a link is given up".into());
        }
        let now = State { course: self.course.clone(), setting: self.set.clone() };
        match (0..self.bounds.servers).find(|server| now.could_take(self.bounds, *server)) {
            Some(server) => Err(format!("it is given up, and {server} could take it")),
            None => Ok(()),
        }
    }

    /// What must hold in every state.
    fn check(&self, happens: Happens) -> Result<(), String> {
        let (before, after, set) = (self.before.course.change(), self.course.change(), &self.set);
        let says = |what: &str| Err(format!("{what}: {before:?}, then {after:?}"));
        if set.linked && !self.course.is_attached() {
            return says("the course does not know of the link");
        }
        if set.linked && self.course.home().is_none() {
            return says("a session with a link has no server");
        }
        if *after != Change::Nothing && !self.course.is_attached() {
            return says("a change needs a link to be beside");
        }
        match after {
            Change::Deciding(question) if set.measuring != Some(question.ways_only) => {
                return says("a decision waits for nothing");
            }
            Change::Move(plan) if plan.order.is_empty() => return says("a move leads nowhere"),
            Change::Move(plan) if plan.order.iter().any(|to| Some(*to) == self.course.home()) => {
                return says("a move leads to where the session is");
            }
            _ => {}
        }
        let underway = match happens {
            Asked(_) => *before != Change::Nothing,
            UserMove(_) => matches!(before, Change::Move(_) | Change::Turn(_)),
            _ => false,
        };
        if underway && before != after {
            return says("two decisions at once");
        }
        let waits = *after == Change::Nothing && set.trying.is_none();
        if set.asked && set.linked && waits && set.end.is_none() {
            return says("the server that asked to be left is not told");
        }
        Ok(())
    }
}

/// Every state of a run, each kept once.
struct World {
    bounds: Bounds,
    courses: Pool<Course>,
    settings: Pool<Setting>,
}

impl World {
    fn new(bounds: Bounds) -> World {
        World { bounds, courses: Pool::new(), settings: Pool::new() }
    }

    fn put(&mut self, state: State) -> (u32, u32) {
        (self.courses.put(state.course).0, self.settings.put(state.setting).0)
    }

    fn state(&self, (course, setting): (u32, u32)) -> State {
        State { course: self.courses[course].clone(), setting: self.settings[setting].clone() }
    }
}

impl Model for World {
    type Key = (u32, u32);
    type Label = Happens;

    fn start(&mut self) -> Self::Key {
        let first = State::new(&self.bounds);
        self.put(first)
    }

    fn steps(&mut self, key: Self::Key, out: &mut Vec<Step<Self::Key, Happens>>) {
        let state = self.state(key);
        for (label, free) in what_can_happen(&state, &self.bounds) {
            let to = take(&self.bounds, &state, label).map(|next| self.put(next));
            out.push(Step { to, free, label });
        }
    }

    fn broken(&mut self, _key: Self::Key) -> Option<String> {
        None
    }

    fn is_goal(&mut self, key: Self::Key) -> bool {
        let state = self.state(key);
        let over = state.setting.end.is_some();
        over || state.is_at_rest() || state.is_cut_off(&self.bounds)
    }

    fn describe(&mut self, _key: Self::Key, label: Happens) -> String {
        format!("{label:?}")
    }

    fn show(&mut self, key: Self::Key) -> String {
        format!("{:?}", self.state(key))
    }
}

/// More states than any run has.
const STATES_MAX: usize = 20_000_000;

const fn each(refusals: u8) -> [u8; MOST] {
    [refusals; MOST]
}

/// The runs of CI.
fn small() -> Vec<Bounds> {
    let left = |left| Bounds { left, ..TWO };
    vec![
        Bounds {
            name: "N1",
            ..left(Left { faults: 1, refusals: each(1), asks: 1, moods: 1, ..NOTHING })
        },
        Bounds { name: "N2", ..left(Left { faults: 1, wishes: 1, asks: 1, moods: 1, ..NOTHING }) },
        Bounds { name: "N3", ..left(Left { asks: 3, hours: 1, ..NOTHING }) },
        Bounds {
            name: "N4",
            bound: true,
            ..left(Left { faults: 1, refusals: each(1), asks: 1, moods: 2, ..NOTHING })
        },
        Bounds {
            name: "N5",
            servers: 3,
            ..left(Left { asks: 1, moods: 1, refusals: each(1), ..NOTHING })
        },
    ]
}

/// The runs of scripts/verify.
fn large() -> Vec<Bounds> {
    let all = Left { faults: 1, refusals: each(1), asks: 1, moods: 1, ..NOTHING };
    let more = Left { wishes: 1, asks: 2, hours: 1, ..all.clone() };
    let twice = Left { faults: 2, refusals: each(2), asks: 2, moods: 2, hours: 1, ..NOTHING };
    vec![
        Bounds { name: "N6", left: more, ..TWO },
        Bounds { name: "N7", servers: 3, left: all, ..TWO },
        Bounds { name: "N8", bound: true, left: twice, ..TWO },
    ]
}

/// A row of the table.
fn row(bounds: &Bounds, report: &Report) -> String {
    let left = &bounds.left;
    let mut wrong: Vec<String> = Vec::new();
    for (count, what) in [
        (left.faults, "faults"),
        (left.refusals[0], "refusals of each"),
        (left.asks, "requests to leave"),
        (left.wishes, "wishes of the user"),
        (left.moods, "changes of a server"),
        (left.hours, "hours"),
    ] {
        if count > 0 {
            wrong.push(format!("{count} {what}"));
        }
    }
    let bound = if bounds.bound { "bound to its home; " } else { "" };
    format!(
        "| {} | {} | {bound}{} | {} | {} | {} | {} | {:.1} |",
        bounds.name,
        bounds.servers,
        wrong.join(", "),
        report.states,
        report.steps,
        report.depth,
        report.ends,
        report.took.as_secs_f64()
    )
}

fn holds(runs: Vec<Bounds>) {
    for bounds in runs {
        let mut world = World::new(bounds.clone());
        let report = explore(&mut world, STATES_MAX);
        println!("{}", row(&bounds, &report));
        report.trace.iter().for_each(|line| println!("{line}"));
        assert_eq!(report.verdict, Verdict::Holds, "{}: {report}", bounds.name);
        assert!(report.acyclic, "{}: runs in circles", bounds.name);
    }
}

#[test]
fn a_course_keeps_its_rules_in_every_state() {
    holds(small());
}

#[test]
#[ignore = "large: run by scripts/verify"]
fn a_course_keeps_its_rules_in_many_more_states() {
    holds(large());
}

/// What catches a mistake, and in which run.
fn hunt(mutant: Mutant) -> Option<(&'static str, String, Report)> {
    Mutant::set(Some(mutant));
    let caught = small().into_iter().find_map(|bounds| {
        let name = bounds.name;
        let report = explore(&mut World::new(bounds), STATES_MAX);
        let why = match &report.verdict {
            Verdict::Broken(what) => what.split(": ").next().unwrap_or_default().to_owned(),
            Verdict::DeadEnd => "dead end".to_owned(),
            Verdict::Lost { states } => format!("lost in {states} states"),
            Verdict::Holds if !report.acyclic => "it runs in circles".to_owned(),
            Verdict::TooMany => "more states than the right rules have".to_owned(),
            Verdict::Holds => return None,
        };
        Some((name, why, report))
    });
    Mutant::set(None);
    caught
}

#[test]
fn every_mistake_in_a_course_is_caught() {
    let mut missed = Vec::new();
    for mutant in Mutant::COURSES {
        let Some((run, why, report)) = hunt(*mutant) else {
            missed.push(*mutant);
            continue;
        };
        let (states, trace) = (report.states, report.trace.len());
        println!("| {mutant:?} | {} | {why} | {run} | {states} | {trace} |", mutant.mistake());
    }
    assert!(missed.is_empty(), "not caught: {missed:?}");
}
