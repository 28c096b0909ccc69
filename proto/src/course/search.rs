//! One search of one session for a link: its home first, the others when they may be asked, and
//! the first that is right.
//!
//! The caller calls [`Search::poll`] whenever something may have changed (a link came, the standing
//! of a server changed, a time was reached) and does what it says until it says to wait.

use core::time::Duration;
use std::collections::BTreeMap;

use super::standing::{FailureKind, Standing, Ways};
use crate::mutant::mutant;
use crate::select::{self, REFUSED_KNOWN_MAX, REFUSED_MAX, REFUSED_NEW_MAX, Rank, View};
use crate::time::Instant;

/// Between the starts of two servers that are no home.
const STAGGER: Duration = Duration::from_millis(250);

/// A server that may be asked.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub struct Candidate {
    /// Its place in the service's list.
    pub rank: Rank,
    /// It is on the overloaded list until then.
    pub not_before: Option<Instant>,
}

/// What a session looks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Wanted {
    /// The servers that may be asked, best first. The home, if there is one, is first.
    pub order: Vec<Candidate>,
    /// The server that holds the session.
    pub home: Option<Rank>,
    /// When a new session gives up; none for one that is established.
    pub give_up_at: Option<Instant>,
    /// When the session lost its link.
    pub lost_at: Instant,
    /// If no server but its home can go on with it: how long that is waited for.
    pub bound: Option<Deadlines>,
    /// The other servers of the service. That one of them answers shows that it is not the network
    /// that is away.
    pub witnesses: Vec<Rank>,
}

impl Wanted {
    /// From when on it is worth knowing whether anything else than the home answers: then it is not
    /// the network that is away.
    #[must_use]
    pub fn witness_at(&self) -> Option<Instant> {
        self.bound.map(|bound| self.lost_at + bound.gone.saturating_sub(WITNESS_LEAD))
    }
}

/// How long a session whose home is gone waits for it, when no other server can go on with it.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub struct Deadlines {
    /// Its machine answers, but nobody listens there: the process is gone.
    pub refused: Duration,
    /// It is silent while others answer: the machine is gone.
    pub gone: Duration,
}

impl Default for Deadlines {
    fn default() -> Deadlines {
        Deadlines { refused: REFUSED_MAX, gone: GONE_MAX }
    }
}

/// See [`Deadlines::gone`].
const GONE_MAX: Duration = Duration::from_secs(300);
/// This long before the end, other servers are asked whether they are there.
const WITNESS_LEAD: Duration = Duration::from_secs(10);
/// Servers that are asked for the sake of that.
const WITNESSES_MAX: usize = 3;

/// What an app is told when its session has come to nothing.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum AppError {
    /// Nobody listens, or everybody has refused: `ECONNREFUSED`.
    Refused,
    /// No server could take it: `EHOSTUNREACH`.
    Unreachable,
    /// No server has answered in time: `ETIMEDOUT`.
    TimedOut,
    /// It was established and cannot go on: `ECONNRESET`.
    Reset,
    /// This error number, as a server or the kernel gave it.
    Number(i32),
}

/// How a search ended without a link.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum NoServer {
    /// No server may be asked.
    NobodyLeft,
    /// All servers refuse.
    AllRefuse,
    /// No server answered in time.
    NobodyAnswers,
    /// Only the home could go on with it, and nobody listens there any more.
    HomeRefuses,
    /// Only the home could go on with it, and it is silent while others answer.
    HomeGone,
}

/// Why a search ended without a link.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct GaveUp {
    /// How it ended.
    pub end: NoServer,
    /// For the app.
    pub error: AppError,
    /// For the log and the status: what is known of each server.
    pub why: String,
}

/// What is to be done now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Begin to wait for a link to this server, and tell of it with [`Search::handle_link`].
    Ask(Rank),
    /// The search is over: this server's link is the right one.
    Take(Rank),
    /// The search is over without a link.
    GiveUp(GaveUp),
    /// Nothing until that time, or until something happens.
    Wait(Option<Instant>),
}

#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
struct Asked {
    rank: Rank,
    /// It was out of reach at some time since it was asked.
    was_away: bool,
}

#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
struct Answer {
    rank: Rank,
    at: Instant,
    was_away: bool,
}

/// A search under way.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Search {
    wanted: Wanted,
    began: Instant,
    asked: Vec<Asked>,
    last_asked: Option<Instant>,
    answer: Option<Answer>,
    /// Another server than the home was there when it was asked as a witness.
    witnessed: bool,
}

impl Search {
    /// Begins a search.
    #[must_use]
    pub fn new(now: Instant, wanted: Wanted) -> Search {
        Search {
            wanted,
            began: now,
            asked: Vec::new(),
            last_asked: None,
            answer: None,
            witnessed: false,
        }
    }

    /// Whether this server was asked.
    #[must_use]
    pub fn has_asked(&self, server: Rank) -> bool {
        self.asked.iter().any(|asked| asked.rank == server)
    }

    /// A link to a server that was asked is there. Returns whether it is to be held for this
    /// search; otherwise it is for another session.
    pub fn handle_link(&mut self, now: Instant, server: Rank) -> bool {
        if !self.wanted.order.iter().any(|one| one.rank == server) {
            self.witnessed = true;
            return false;
        }
        let is_right = self.wanted.home.is_none_or(|home| home == server);
        if self.answer.is_some() && !is_right {
            return false;
        }
        let was_away = self.asked.iter().any(|asked| asked.rank == server && asked.was_away);
        self.answer = Some(Answer { rank: server, at: now, was_away });
        true
    }

    /// Something else than the home has answered: the gateway.
    pub fn handle_witness(&mut self) {
        self.witnessed = true;
    }

    /// The link that was held for this search has died.
    pub fn handle_link_lost(&mut self, server: Rank) {
        if self.answer.is_some_and(|answer| answer.rank == server) {
            self.answer = None;
            self.asked.retain(|asked| asked.rank != server);
        }
    }

    /// Says what is to be done next.
    pub fn poll(&mut self, now: Instant, ways: &impl Ways) -> Step {
        for asked in &mut self.asked {
            asked.was_away |= !ways.standing(asked.rank).is_open();
        }
        if let Some(answer) = self.answer
            && self.take_at(answer, ways).is_some_and(|at| at <= now)
        {
            return Step::Take(answer.rank);
        }
        if let Some(gave_up) = self.hopeless(now, ways) {
            return Step::GiveUp(gave_up);
        }
        let next = self.next_to_ask(now, ways).or_else(|| self.next_witness(ways));
        if let Some((rank, at)) = next
            && at <= now
        {
            let was_away = !ways.standing(rank).is_open();
            self.asked.push(Asked { rank, was_away });
            self.last_asked = Some(now);
            return Step::Ask(rank);
        }
        Step::Wait(self.wake_at(now, ways))
    }

    /// When the session takes the link that is there: at once if it leads to the home or there is
    /// none, otherwise when the home has had its time.
    fn take_at(&self, answer: Answer, ways: &impl Ways) -> Option<Instant> {
        let Some(home) = self.wanted.home.filter(|home| *home != answer.rank) else {
            return Some(answer.at);
        };
        let refuses = ways.standing(home).refuses_since().is_some();
        let view = if refuses { View::Refuses } else { View::Silent };
        Some(select::leave_home_at(self.began, view, self.grace(ways), answer.at, answer.was_away))
    }

    /// How long a silent home is waited for.
    fn grace(&self, ways: &impl Ways) -> Duration {
        select::grace(self.wanted.home.and_then(|home| ways.last_link(home)))
    }

    /// The server that is asked next, and when.
    fn next_to_ask(&self, now: Instant, ways: &impl Ways) -> Option<(Rank, Instant)> {
        let fresh = self.wanted.order.iter().filter(|one| !self.has_asked(one.rank));
        let next = fresh.min_by_key(|one| one.not_before.filter(|at| *at > now))?;
        let turn = match self.asked.last() {
            None => now,
            // Nobody waits for a server that is known to be out of reach.
            Some(last) if self.is_hopeless_now(last.rank, ways) => now,
            Some(last) if Some(last.rank) == self.wanted.home => self.began + self.grace(ways) / 2,
            Some(_) => self.last_asked.unwrap_or(now) + STAGGER,
        };
        Some((next.rank, next.not_before.map_or(turn, |at| at.max(turn))))
    }

    /// Whether asking the next server need not wait for this one.
    fn is_hopeless_now(&self, server: Rank, ways: &impl Ways) -> bool {
        match ways.standing(server) {
            Standing::Open => false,
            Standing::Away { last, .. } => {
                last.kind != FailureKind::Silent || Some(server) != self.wanted.home
            }
        }
    }

    fn wake_at(&self, now: Instant, ways: &impl Ways) -> Option<Instant> {
        let wanted = &self.wanted;
        let ask_at = self.next_to_ask(now, ways).map(|(_, at)| at);
        let take_at = self.answer.and_then(|answer| self.take_at(answer, ways));
        let witness_at = self.next_witness(ways).map(|(_, at)| at);
        let tired_at = self.tired_at(ways).map(|(_, at)| at);
        let refused_at = wanted.give_up_at.and(self.all_refuse_since(ways));
        let refused_at = refused_at.map(|since| since + self.refused_max(ways));
        let all = [ask_at, take_at, witness_at, wanted.give_up_at, tired_at, refused_at];
        // What is due already waits for something else to happen.
        all.into_iter().flatten().filter(|at| *at > now).min()
    }

    /// When a session that only its home can go on with gives up, and why.
    fn tired_at(&self, ways: &impl Ways) -> Option<(NoServer, Instant)> {
        let (bound, home) = (self.wanted.bound?, self.wanted.home?);
        // A configured server that is away does not prolong it, one that may yet answer does.
        let others = self.wanted.order.iter().filter(|one| one.rank != home);
        let hopeful =
            |one: &Candidate| one.not_before.is_none() && ways.standing(one.rank).is_open();
        if others.into_iter().any(hopeful) {
            return None;
        }
        match ways.standing(home).refuses_since() {
            Some(since) => {
                let at = since.max(self.wanted.lost_at) + bound.refused;
                Some((NoServer::HomeRefuses, at))
            }
            None if self.witnessed => Some((NoServer::HomeGone, self.wanted.lost_at + bound.gone)),
            None => None,
        }
    }

    /// A server that is asked only to see whether the network works, and when.
    fn next_witness(&self, ways: &impl Ways) -> Option<(Rank, Instant)> {
        let (bound, home) = (self.wanted.bound?, self.wanted.home?);
        if self.witnessed || ways.standing(home).refuses_since().is_some() {
            return None;
        }
        let asked = |rank: &&Rank| self.has_asked(**rank);
        let mut witnesses = self.wanted.witnesses.iter().take(WITNESSES_MAX);
        let next = witnesses.find(|rank| !asked(rank))?;
        Some((*next, self.wanted.lost_at + bound.gone.saturating_sub(WITNESS_LEAD)))
    }

    /// Since when nobody listens at any of the servers, or their keys are wrong.
    fn all_refuse_since(&self, ways: &impl Ways) -> Option<Instant> {
        let mut since_all = self.began;
        for candidate in &self.wanted.order {
            since_all = since_all.max(ways.standing(candidate.rank).refuses_since()?);
        }
        (!self.wanted.order.is_empty()).then_some(since_all)
    }

    /// How long a new session tries servers whose ports are all closed.
    fn refused_max(&self, ways: &impl Ways) -> Duration {
        let known = |one: &Candidate| ways.last_link(one.rank).is_some();
        if self.wanted.order.iter().any(known) { REFUSED_KNOWN_MAX } else { REFUSED_NEW_MAX }
    }

    fn hopeless(&self, now: Instant, ways: &impl Ways) -> Option<GaveUp> {
        let wanted = &self.wanted;
        if wanted.order.is_empty() {
            let why = "no server is left that could take it".to_owned();
            let (error, end) = (AppError::Unreachable, NoServer::NobodyLeft);
            return Some(GaveUp { end, error, why });
        }
        mutant!(NeverGivesUp => return None);
        if let Some(give_up_at) = wanted.give_up_at {
            let refused = self.all_refuse_since(ways);
            if refused.is_some_and(|since| now >= since + self.refused_max(ways)) {
                return Some(self.gave_up(NoServer::AllRefuse, AppError::Refused, ways));
            }
            let late = now >= give_up_at;
            return late.then(|| self.gave_up(NoServer::NobodyAnswers, AppError::TimedOut, ways));
        }
        let (end, at) = self.tired_at(ways)?;
        (now >= at).then(|| self.gave_up(end, AppError::Reset, ways))
    }

    /// The reason, server by server; the error of the first that says more than silence.
    fn gave_up(&self, end: NoServer, error: AppError, ways: &impl Ways) -> GaveUp {
        let mut whys = BTreeMap::new();
        let mut told = None;
        for candidate in &self.wanted.order {
            if let Standing::Away { last, .. } = ways.standing(candidate.rank) {
                let says = last.kind == FailureKind::Silent && error == AppError::TimedOut;
                told = told.or(Some(last.errno).filter(|errno| says && *errno != 0));
                whys.insert(candidate.rank, last.why);
            }
        }
        let whys: Vec<String> = whys.into_values().collect();
        GaveUp { end, error: told.map_or(error, AppError::Number), why: whys.join("; ") }
    }
}

#[cfg(test)]
mod tests {
    use super::super::standing::Failure;
    use super::*;

    #[derive(Copy, Clone, PartialEq)]
    enum Server {
        Up,
        Refuses,
        Silent,
    }

    /// Servers that are as they are told to be: one that is up answers 5 ms after it is asked, or
    /// after it has come up.
    struct Lab {
        servers: Vec<(Server, Standing)>,
        search: Search,
        asked: Vec<(Rank, u64)>,
        now: u64,
    }

    impl Ways for Vec<(Server, Standing)> {
        fn standing(&self, server: Rank) -> Standing {
            self[server].1.clone()
        }

        fn last_link(&self, _server: Rank) -> Option<Duration> {
            None
        }
    }

    fn at(ms: u64) -> Instant {
        Instant(1_000_000 + ms * 1_000)
    }

    impl Lab {
        fn new(servers: &[Server], home: Option<Rank>) -> Lab {
            let mut order: Vec<Candidate> =
                (0..servers.len()).map(|rank| Candidate { rank, not_before: None }).collect();
            order.sort_by_key(|candidate| Some(candidate.rank) != home);
            let give_up_at = home.is_none().then(|| at(5_000));
            let witnesses = (0..servers.len()).filter(|rank| Some(*rank) != home).collect();
            let wanted = Wanted { order, home, give_up_at, lost_at: at(0), bound: None, witnesses };
            let servers = servers.iter().map(|server| (*server, Standing::Open)).collect();
            Lab { servers, search: Search::new(at(0), wanted), asked: Vec::new(), now: 0 }
        }

        /// Lets time pass until then, or until the search is over.
        fn run(&mut self, until: u64) -> Option<Result<Rank, GaveUp>> {
            while self.now < until {
                let now = at(self.now);
                loop {
                    match self.search.poll(now, &self.servers) {
                        Step::Ask(rank) => self.asked.push((rank, self.now)),
                        Step::Take(rank) => return Some(Ok(rank)),
                        Step::GiveUp(gave_up) => return Some(Err(gave_up)),
                        Step::Wait(wake_at) => {
                            assert!(wake_at.is_none_or(|at| at > now), "it waits for the past");
                            break;
                        }
                    }
                }
                self.now += 1;
                self.answer();
            }
            None
        }

        fn answer(&mut self) {
            let (ms, now) = (self.now, at(self.now));
            for (rank, since) in &mut self.asked {
                let (server, standing) = &mut self.servers[*rank];
                let kind = match server {
                    Server::Up if ms == *since + 5 => {
                        *standing = Standing::Open;
                        self.search.handle_link(now, *rank);
                        continue;
                    }
                    Server::Refuses if ms >= *since + 5 => FailureKind::Refused,
                    Server::Silent if ms >= *since + 500 => FailureKind::Silent,
                    _ => continue,
                };
                standing.fail(now, Failure { kind, why: format!("server {rank}"), errno: 0 });
            }
        }

        /// A server that was asked already comes up.
        fn comes_up(&mut self, rank: Rank) {
            self.servers[rank].0 = Server::Up;
            for (asked, since) in &mut self.asked {
                if *asked == rank {
                    *since = self.now;
                }
            }
        }
    }

    /// The server that is found and after how many milliseconds.
    fn found(mut lab: Lab) -> (Result<Rank, GaveUp>, u64) {
        let result = lab.run(30_000).expect("it comes to an end");
        (result, lab.now)
    }

    #[test]
    fn a_new_session_takes_the_first_that_answers() {
        assert_eq!(found(Lab::new(&[Server::Up, Server::Up], None)), (Ok(0), 5));
        assert_eq!(found(Lab::new(&[Server::Refuses, Server::Up], None)), (Ok(1), 10));
        assert_eq!(found(Lab::new(&[Server::Silent, Server::Up], None)), (Ok(1), 255));
    }

    #[test]
    fn a_new_session_is_refused_when_every_port_is_closed_for_a_second() {
        let (result, ms) = found(Lab::new(&[Server::Refuses, Server::Refuses], None));
        let gave_up = result.expect_err("nobody is there");
        assert_eq!(gave_up.error, AppError::Refused);
        assert_eq!(gave_up.why, "server 0; server 1");
        assert_eq!(ms, 1_010);
    }

    #[test]
    fn a_new_session_that_nobody_answers_ends_when_its_time_is_over() {
        let (result, ms) = found(Lab::new(&[Server::Silent, Server::Silent], None));
        assert_eq!(result.expect_err("nobody is there").error, AppError::TimedOut);
        assert_eq!(ms, 5_000);
    }

    #[test]
    fn a_server_that_is_just_being_started_again_is_waited_for() {
        let mut lab = Lab::new(&[Server::Refuses], None);
        assert_eq!(lab.run(500), None);
        lab.comes_up(0);
        assert_eq!(lab.run(1_000), Some(Ok(0)));
    }

    #[test]
    fn a_home_that_refuses_is_left_at_once_and_one_that_answers_never() {
        assert_eq!(found(Lab::new(&[Server::Up, Server::Refuses], Some(1))), (Ok(0), 10));
        assert_eq!(found(Lab::new(&[Server::Up, Server::Up], Some(1))).0, Ok(1));
    }

    #[test]
    fn a_silent_home_is_left_after_its_grace() {
        assert_eq!(found(Lab::new(&[Server::Up, Server::Silent], Some(1))), (Ok(0), 1_000));
    }

    #[test]
    fn when_everything_was_away_the_home_is_preferred() {
        let mut lab = Lab::new(&[Server::Silent, Server::Silent], Some(1));
        assert_eq!(lab.run(1_500), None);
        lab.comes_up(0);
        assert_eq!(lab.run(1_700), None);
        lab.comes_up(1);
        assert_eq!(lab.run(5_000), Some(Ok(1)));
    }

    #[test]
    fn a_session_that_only_its_home_can_resume_waits_for_it() {
        let mut lab = Lab::new(&[Server::Up, Server::Refuses], Some(1));
        lab.search.wanted.order.retain(|candidate| candidate.rank == 1);
        assert_eq!(lab.run(20_000), None);
        lab.comes_up(1);
        assert_eq!(lab.run(30_000), Some(Ok(1)));
    }

    #[test]
    fn a_refusing_home_is_given_up_when_its_patience_is_over() {
        let mut lab = Lab::new(&[Server::Up, Server::Refuses], Some(1));
        lab.search.wanted.order.retain(|candidate| candidate.rank == 1);
        lab.search.wanted.bound = Some(Deadlines::default());
        let (result, ms) = found(lab);
        let gave_up = result.expect_err("patience is over");
        assert_eq!((gave_up.error, gave_up.end), (AppError::Reset, NoServer::HomeRefuses));
        assert_eq!(ms, 20_005);
    }

    #[test]
    fn a_server_that_is_away_does_not_prolong_the_search() {
        let mut lab = Lab::new(&[Server::Silent, Server::Refuses, Server::Refuses], Some(1));
        lab.search.wanted.bound = Some(Deadlines::default());
        assert_eq!(found(lab).1, 20_005);
    }

    #[test]
    fn a_silent_home_is_given_up_only_when_another_server_answers() {
        let mut lab = Lab::new(&[Server::Up, Server::Silent], Some(1));
        lab.search.wanted.order.retain(|candidate| candidate.rank == 1);
        lab.search.wanted.bound = Some(Deadlines::default());
        let result = lab.run(400_000).expect("it comes to an end");
        assert_eq!(result.expect_err("it is gone").end, NoServer::HomeGone);
        assert_eq!(lab.now, 300_000);
        let mut lab = Lab::new(&[Server::Silent, Server::Silent], Some(1));
        lab.search.wanted.order.retain(|candidate| candidate.rank == 1);
        lab.search.wanted.bound = Some(Deadlines::default());
        assert_eq!(lab.run(400_000), None, "the network may be away");
        lab.comes_up(0);
        assert!(lab.run(401_000).expect("now it is known").is_err());
    }

    #[test]
    fn a_silent_home_is_given_up_when_the_gateway_answers() {
        let mut lab = Lab::new(&[Server::Silent], Some(0));
        lab.search.wanted.bound = Some(Deadlines::default());
        assert_eq!(lab.search.wanted.witness_at(), Some(at(290_000)));
        assert_eq!(lab.run(400_000), None, "the network may be away");
        lab.search.handle_witness();
        let result = lab.run(400_001).expect("now it is known");
        assert_eq!(result.expect_err("it is gone").end, NoServer::HomeGone);
    }

    #[test]
    fn an_overloaded_server_is_asked_only_when_its_time_has_come() {
        let mut lab = Lab::new(&[Server::Up, Server::Refuses], Some(1));
        lab.search.wanted.order[1].not_before = Some(at(600));
        assert_eq!(found(lab), (Ok(0), 605));
    }

    #[test]
    fn a_link_that_dies_while_it_is_held_is_asked_for_again() {
        let mut lab = Lab::new(&[Server::Up, Server::Silent], Some(1));
        assert_eq!(lab.run(700), None);
        lab.search.handle_link_lost(0);
        lab.asked.retain(|(rank, _)| *rank != 0);
        assert_eq!(lab.run(2_000), Some(Ok(0)));
        assert_eq!(lab.asked.iter().filter(|(rank, _)| *rank == 0).count(), 1);
    }
}
