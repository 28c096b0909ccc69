//! One search of one session for a link: its home first, the others when they may be asked, and
//! whoever is right first. What is right is decided by [`stp_proto::select`]; here is the waiting.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use stp_proto::select::{self, REFUSED_KNOWN_MAX, REFUSED_NEW_MAX, Rank, View};
use tokio::task::JoinSet;

use crate::reach::{Dialer, Kind, News, Reach, Standing};

/// Between the starts of two servers that are no home.
const STAGGER: Duration = Duration::from_millis(250);

/// A server that may be asked.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Candidate {
    /// Its place in the service's list.
    pub rank: Rank,
    /// It is on the overloaded list until then.
    pub not_before: Option<Instant>,
}

/// What a session looks for.
pub struct Search<D: Dialer> {
    /// All servers of the service.
    pub servers: Vec<Arc<Reach<D>>>,
    /// Tells of changes of their standing.
    pub news: News,
    /// Who may be asked, best first. The home, if there is one, is first.
    pub order: Vec<Candidate>,
    /// The server that holds the session.
    pub home: Option<Rank>,
    /// When a new session gives up; none for one that is established.
    pub give_up_at: Option<Instant>,
    /// Every other server has refused for good: how long a home that refuses is tried.
    pub tired_after: Option<Duration>,
}

/// Why a search ended without a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GaveUp {
    /// For the app.
    pub errno: i32,
    /// For the log and the status.
    pub why: String,
}

struct Asked {
    rank: Rank,
    was_away: bool,
}

struct State<D: Dialer> {
    search: Search<D>,
    began: Instant,
    tasks: JoinSet<(Rank, D::Link)>,
    asked: Vec<Asked>,
    last_asked: Option<Instant>,
    answered: Option<(Rank, D::Link, Instant, bool)>,
}

impl<D: Dialer> Search<D> {
    /// Searches until there is a link or no hope. Dropping the future ends the search.
    ///
    /// # Errors
    /// When no server can be had; says why.
    pub async fn run(self) -> Result<(Rank, D::Link), GaveUp> {
        let mut news = self.news.subscribe();
        let mut state = State {
            search: self,
            began: Instant::now(),
            tasks: JoinSet::new(),
            asked: Vec::new(),
            last_asked: None,
            answered: None,
        };
        loop {
            let now = Instant::now();
            state.look(now);
            if let Some(gave_up) = state.hopeless(now) {
                return Err(gave_up);
            }
            let leave_at = state.leave_at();
            if leave_at.is_some_and(|at| at <= now) {
                let (rank, link, ..) = state.answered.take().expect("leave_at looked");
                state.give_back();
                return Ok((rank, link));
            }
            state.ask(now);
            let wake_at = state.wake_at(now, leave_at);
            tokio::select! {
                Some(Ok((rank, link))) = state.tasks.join_next() => {
                    if let Some((rank, link)) = state.answer(rank, link) {
                        state.give_back();
                        return Ok((rank, link));
                    }
                }
                changed = news.changed() => changed.expect("the search holds the sender"),
                () = sleep_until(wake_at) => {}
            }
        }
    }
}

impl<D: Dialer> State<D> {
    fn standing(&self, rank: Rank) -> Standing {
        self.search.servers[rank].standing().borrow().clone()
    }

    /// Remembers who was out of reach during this search.
    fn look(&mut self, now: Instant) {
        let _ = now;
        for k in 0..self.asked.len() {
            let away = !self.standing(self.asked[k].rank).is_open();
            self.asked[k].was_away |= away;
        }
    }

    /// A link came. Returns it if it is right at once.
    fn answer(&mut self, rank: Rank, link: D::Link) -> Option<(Rank, D::Link)> {
        if self.search.home.is_none_or(|home| home == rank) {
            return Some((rank, link));
        }
        let was_away = self.asked.iter().any(|asked| asked.rank == rank && asked.was_away);
        match self.answered {
            Some(_) => self.search.servers[rank].keep(link),
            None => self.answered = Some((rank, link, Instant::now(), was_away)),
        }
        None
    }

    /// When the session goes to the one that has answered instead of its home.
    fn leave_at(&self) -> Option<Instant> {
        let (_, _, answered, was_away) = self.answered.as_ref()?;
        let micros = |at: Instant| {
            let since = at.saturating_duration_since(self.began).as_micros();
            stp_proto::time::Instant(u64::try_from(since).unwrap_or(u64::MAX))
        };
        let home = match self.search.home.map(|home| self.standing(home)) {
            None => View::Refuses,
            Some(Standing::Away { last, .. }) if last.kind != Kind::Silent => View::Refuses,
            Some(_) => View::Silent,
        };
        let (began, answered) = (micros(self.began), micros(*answered));
        let at = select::leave_home_at(began, home, self.grace(), answered, *was_away)?;
        Some(self.began + Duration::from_micros(at.0))
    }

    /// How long a silent home is waited for.
    fn grace(&self) -> Duration {
        select::grace(self.search.home.and_then(|home| self.search.servers[home].last_link()))
    }

    /// Starts to ask whoever may be asked now.
    fn ask(&mut self, now: Instant) {
        while let Some((rank, at)) = self.next_to_ask(now) {
            if at > now {
                break;
            }
            let reach = Arc::clone(&self.search.servers[rank]);
            self.asked.push(Asked { rank, was_away: !self.standing(rank).is_open() });
            self.last_asked = Some(now);
            self.tasks.spawn(async move { (rank, reach.link().await) });
        }
    }

    /// Who is asked next, and when.
    fn next_to_ask(&self, now: Instant) -> Option<(Rank, Instant)> {
        let fresh = |c: &&Candidate| !self.asked.iter().any(|asked| asked.rank == c.rank);
        let order = self.search.order.iter().filter(fresh);
        let next = order.min_by_key(|c| c.not_before.filter(|at| *at > now))?;
        let turn = match self.asked.last() {
            None => now,
            // Nobody waits for a server that is known to be out of reach.
            Some(last) if self.is_hopeless_now(last.rank) => now,
            Some(last) if Some(last.rank) == self.search.home => self.began + self.grace() / 2,
            Some(_) => self.last_asked.unwrap_or(now) + STAGGER,
        };
        Some((next.rank, next.not_before.map_or(turn, |at| at.max(turn))))
    }

    /// Whether asking the next need not wait for this one.
    fn is_hopeless_now(&self, rank: Rank) -> bool {
        match self.standing(rank) {
            Standing::Open => false,
            Standing::Away { last, .. } => {
                last.kind != Kind::Silent || Some(rank) != self.search.home
            }
        }
    }

    fn wake_at(&self, now: Instant, leave_at: Option<Instant>) -> Option<Instant> {
        let ask_at = self.next_to_ask(now).map(|(_, at)| at);
        let tired_at = self.home_refuses_since().zip(self.search.tired_after).map(|(s, t)| s + t);
        let refused_at = self.search.give_up_at.and(self.all_refuse_since());
        let refused_at = refused_at.map(|since| since + self.refused_max());
        let all = [ask_at, leave_at, self.search.give_up_at, tired_at, refused_at];
        all.into_iter().flatten().min()
    }

    fn home_refuses_since(&self) -> Option<Instant> {
        match self.standing(self.search.home?) {
            Standing::Away { last, since, .. } if last.kind != Kind::Silent => Some(since),
            _ => None,
        }
    }

    /// Since when nobody listens at any of the servers, or their keys are wrong.
    fn all_refuse_since(&self) -> Option<Instant> {
        let mut since_all = self.began;
        for candidate in &self.search.order {
            match self.standing(candidate.rank) {
                Standing::Away { last, since, .. } if last.kind != Kind::Silent => {
                    since_all = since_all.max(since);
                }
                _ => return None,
            }
        }
        (!self.search.order.is_empty()).then_some(since_all)
    }

    /// How long a new session tries servers whose ports are all closed.
    fn refused_max(&self) -> Duration {
        let known = |c: &Candidate| self.search.servers[c.rank].was_reached();
        if self.search.order.iter().any(known) { REFUSED_KNOWN_MAX } else { REFUSED_NEW_MAX }
    }

    fn hopeless(&self, now: Instant) -> Option<GaveUp> {
        if self.search.order.is_empty() {
            let why = "no server is left that could take it".to_owned();
            return Some(GaveUp { errno: Errno::EHOSTUNREACH as i32, why });
        }
        if let Some(give_up_at) = self.search.give_up_at {
            let refused = self.all_refuse_since();
            if refused.is_some_and(|since| now >= since + self.refused_max()) {
                return Some(self.gave_up(Errno::ECONNREFUSED as i32));
            }
            return (now >= give_up_at).then(|| self.gave_up(Errno::ETIMEDOUT as i32));
        }
        let refused = self.home_refuses_since().zip(self.search.tired_after);
        let tired = refused.is_some_and(|(since, patience)| now >= since + patience);
        tired.then(|| self.gave_up(Errno::ECONNRESET as i32))
    }

    /// The reason, server by server; the errno of the first that says more than silence.
    fn gave_up(&self, errno: i32) -> GaveUp {
        let mut whys = BTreeMap::new();
        let mut told = None;
        for candidate in &self.search.order {
            if let Standing::Away { last, .. } = self.standing(candidate.rank) {
                if last.kind == Kind::Silent && errno == Errno::ETIMEDOUT as i32 {
                    told = told.or(Some(last.errno));
                }
                whys.insert(candidate.rank, last.why);
            }
        }
        let whys: Vec<String> = whys.into_values().collect();
        GaveUp { errno: told.filter(|e| *e != 0).unwrap_or(errno), why: whys.join("; ") }
    }

    /// Links that came too late serve the next session.
    fn give_back(&mut self) {
        if let Some((rank, link, ..)) = self.answered.take() {
            self.search.servers[rank].keep(link);
        }
        while let Some(task) = self.tasks.try_join_next() {
            if let Ok((rank, link)) = task {
                self.search.servers[rank].keep(link);
            }
        }
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reach::fake::{Fake, FakeLink, Server, reach};
    use parking_lot::Mutex;
    use stp_proto::select::REFUSED_MAX;

    struct Lab {
        search: Search<Fake>,
        servers: Vec<Arc<Mutex<Server>>>,
    }

    fn lab(servers: &[Server], home: Option<Rank>) -> Lab {
        let news = News::default();
        let (ways, states) = servers.iter().map(|server| reach(*server, &news)).unzip();
        let mut order: Vec<Candidate> =
            (0..servers.len()).map(|rank| Candidate { rank, not_before: None }).collect();
        order.sort_by_key(|candidate| Some(candidate.rank) != home);
        let give_up_at = home.is_none().then(|| Instant::now() + Duration::from_secs(5));
        let tired_after = None;
        Lab {
            search: Search { servers: ways, news, order, home, give_up_at, tired_after },
            servers: states,
        }
    }

    /// Who was found, and after how many milliseconds.
    async fn found(search: Search<Fake>) -> (Result<Rank, GaveUp>, u128) {
        let began = Instant::now();
        let result = tokio::time::timeout(Duration::from_secs(15), search.run()).await;
        let result: Result<(Rank, FakeLink), GaveUp> = result.expect("it came to an end");
        (result.map(|(rank, _)| rank), began.elapsed().as_millis())
    }

    #[tokio::test]
    async fn a_new_session_takes_the_first_that_answers() {
        let (result, ms) = found(lab(&[Server::Up, Server::Up], None).search).await;
        assert_eq!(result, Ok(0));
        assert!(ms < 200, "{ms} ms");
        let (result, ms) = found(lab(&[Server::Refuses, Server::Up], None).search).await;
        assert_eq!(result, Ok(1));
        assert!(ms < 200, "{ms} ms");
        let (result, ms) = found(lab(&[Server::Silent, Server::Up], None).search).await;
        assert_eq!(result, Ok(1));
        assert!(ms < 500, "{ms} ms");
    }

    #[tokio::test]
    async fn a_new_session_is_refused_when_every_port_is_closed_for_a_second() {
        let (result, ms) = found(lab(&[Server::Refuses, Server::Refuses], None).search).await;
        let gave_up = result.expect_err("nobody is there");
        assert_eq!(gave_up.errno, Errno::ECONNREFUSED as i32);
        assert!((900..2_000).contains(&ms), "{ms} ms");
    }

    #[tokio::test]
    async fn a_server_that_is_just_being_started_again_is_waited_for() {
        let lab = lab(&[Server::Refuses], None);
        let server = Arc::clone(&lab.servers[0]);
        let search = tokio::spawn(found(lab.search));
        tokio::time::sleep(Duration::from_millis(500)).await;
        *server.lock() = Server::Up;
        assert_eq!(search.await.expect("no panic").0, Ok(0));
    }

    #[tokio::test]
    async fn a_home_that_refuses_is_left_at_once_and_one_that_answers_never() {
        let (result, ms) = found(lab(&[Server::Up, Server::Refuses], Some(1)).search).await;
        assert_eq!(result, Ok(0));
        assert!(ms < 300, "{ms} ms");
        let (result, _) = found(lab(&[Server::Up, Server::Up], Some(1)).search).await;
        assert_eq!(result, Ok(1));
    }

    #[tokio::test]
    async fn a_silent_home_is_left_after_its_grace() {
        let (result, ms) = found(lab(&[Server::Up, Server::Silent], Some(1)).search).await;
        assert_eq!(result, Ok(0));
        assert!((950..1_800).contains(&ms), "{ms} ms");
    }

    #[tokio::test]
    async fn when_everything_was_away_the_home_is_preferred() {
        let lab = lab(&[Server::Silent, Server::Silent], Some(1));
        let servers = lab.servers.clone();
        let search = tokio::spawn(found(lab.search));
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        *servers[0].lock() = Server::Up;
        tokio::time::sleep(Duration::from_millis(200)).await;
        *servers[1].lock() = Server::Up;
        assert_eq!(search.await.expect("no panic").0, Ok(1));
    }

    #[tokio::test]
    async fn a_session_that_only_its_home_can_resume_waits_for_it() {
        let mut lab = lab(&[Server::Up, Server::Refuses], Some(1));
        lab.search.order.retain(|candidate| candidate.rank == 1);
        let server = Arc::clone(&lab.servers[1]);
        let search = tokio::spawn(found(lab.search));
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        assert!(!search.is_finished());
        *server.lock() = Server::Up;
        assert_eq!(search.await.expect("no panic").0, Ok(1));
    }

    #[tokio::test]
    async fn a_refusing_home_is_given_up_when_its_patience_is_over() {
        let mut lab = lab(&[Server::Up, Server::Refuses], Some(1));
        lab.search.order.retain(|candidate| candidate.rank == 1);
        lab.search.tired_after = Some(REFUSED_MAX / 20);
        let (result, ms) = found(lab.search).await;
        assert_eq!(result.expect_err("patience is over").errno, Errno::ECONNRESET as i32);
        assert!((900..2_000).contains(&ms), "{ms} ms");
    }

    #[tokio::test]
    async fn an_overloaded_server_is_asked_only_when_its_time_has_come() {
        let mut lab = lab(&[Server::Up, Server::Refuses], Some(1));
        let soon = Instant::now() + Duration::from_millis(600);
        lab.search.order[1].not_before = Some(soon);
        let (result, ms) = found(lab.search).await;
        assert_eq!(result, Ok(0));
        assert!((550..1_500).contains(&ms), "{ms} ms");
    }
}
