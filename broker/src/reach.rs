//! The way to one server, shared by all sessions that want to go there.
//!
//! Links that are ready for use are kept warm, so that a new session costs no handshake. When the
//! server cannot be reached there is one prober for all its sessions: it starts an attempt every
//! quarter of a second, does not wait for the last one to fail (a lost SYN is sent again by the
//! kernel only after a second, and then after ever longer pauses), and the first attempt that
//! succeeds wakes every session that waits. Their own dials are paced, so that a thousand sessions
//! do not trample the server that has just come back.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tokio::sync::{Notify, Semaphore, watch};
use tokio::task::JoinSet;

/// Numbers of the prober and the pool.
#[derive(Copy, Clone, Debug)]
pub struct Pace {
    /// From one attempt of the prober to the next.
    pub probe_every: Duration,
    /// The same, when an outage has become old.
    pub probe_every_max: Duration,
    /// When an outage is old.
    pub outage_old: Duration,
    /// Attempts of the prober under way at once.
    pub probes_max: usize,
    /// A dial that takes longer than this, or four times as long as the last one, counts as silence.
    pub silence: Duration,
    /// Dials of sessions under way at once.
    pub dials_max: usize,
    /// Links dialed ahead.
    pub warm_max: usize,
    /// Links kept ready at most, those given back by sessions included. More than are dialed
    /// ahead: a session that takes one and gives it back must cost no handshake.
    pub kept_max: usize,
    /// How long an unused link is kept ready, and how long a server counts as lately used.
    pub warm_age: Duration,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            probe_every: Duration::from_millis(250),
            probe_every_max: Duration::from_secs(5),
            outage_old: Duration::from_secs(600),
            probes_max: 40,
            silence: Duration::from_millis(500),
            dials_max: 64,
            warm_max: 4,
            kept_max: 16,
            warm_age: Duration::from_secs(60),
        }
    }
}

/// What kind of failure a dial was.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Somebody answered that nobody listens there.
    Refused,
    /// Nothing came back, or there is no path.
    Silent,
    /// A server answered that is not the configured one.
    WrongKey,
    /// The server does not accept this user's key.
    Unauthorized,
}

/// A dial that failed.
#[derive(Clone, Debug)]
pub struct Failure {
    /// What kind.
    pub kind: Kind,
    /// For the log and the status.
    pub why: String,
    /// What an app's connect() would have been told.
    pub errno: i32,
}

/// What is known of the way to a server.
#[derive(Clone, Debug)]
pub enum Standing {
    /// Not tried yet, or the last link worked.
    Open,
    /// Out of reach.
    Away {
        /// The last failure.
        last: Failure,
        /// Since when failures were of this kind.
        since: Instant,
        /// Since when it is out of reach.
        away_since: Instant,
    },
}

impl Standing {
    /// Whether a link can be hoped for now.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self, Standing::Open)
    }
}

/// How links to a server are made. The broker's is [`crate::dialer::ServerDialer`].
pub trait Dialer: Send + Sync + 'static {
    /// A link.
    type Link: Send + 'static;
    /// Brings up a link.
    fn dial(&self) -> Dialing<Self::Link>;
    /// Whether an unused link still lives.
    fn alive(&self, link: &mut Self::Link) -> bool;
}

/// A dial under way.
pub type Dialing<L> = Pin<Box<dyn Future<Output = Result<L, Failure>> + Send>>;

/// Tells that the standing of some server of a service has changed; counts up.
pub type News = Arc<watch::Sender<u64>>;

/// The way to one server.
pub struct Reach<D: Dialer> {
    dialer: D,
    pace: Pace,
    standing: watch::Sender<Standing>,
    warm: Mutex<Warm<D::Link>>,
    dials: Semaphore,
    /// Sessions that wait for a link.
    waiting: AtomicUsize,
    network_changed: Notify,
    news: News,
    /// What is counted for the status.
    pub counts: Counts,
}

/// What is counted for the status.
#[derive(Debug, Default)]
pub struct Counts {
    /// Dials begun.
    pub dials: AtomicUsize,
    /// Links taken ready from the pool.
    pub reused: AtomicUsize,
    /// Outages.
    pub outages: AtomicUsize,
}

struct Warm<L> {
    links: VecDeque<(L, Instant)>,
    used: Option<Instant>,
    filling: bool,
    probing: bool,
    last_dial: Duration,
}

/// Counts a session as waiting for as long as it lives.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl<D: Dialer> Reach<D> {
    /// Nothing is dialed yet.
    pub fn new(dialer: D, pace: Pace, news: News) -> Arc<Reach<D>> {
        Arc::new(Reach {
            dialer,
            pace,
            standing: watch::Sender::new(Standing::Open),
            warm: Mutex::new(Warm {
                links: VecDeque::new(),
                used: None,
                filling: false,
                probing: false,
                last_dial: Duration::ZERO,
            }),
            dials: Semaphore::new(pace.dials_max),
            waiting: AtomicUsize::new(0),
            network_changed: Notify::new(),
            news,
            counts: Counts::default(),
        })
    }

    /// How links are made here.
    pub fn dialer(&self) -> &D {
        &self.dialer
    }

    /// What is known now, and news of it.
    pub fn standing(&self) -> watch::Receiver<Standing> {
        self.standing.subscribe()
    }

    /// Whether a link to it was ever made.
    pub fn was_reached(&self) -> bool {
        self.last_link().is_some()
    }

    /// How long the last link took to make, if there was one.
    pub fn last_link(&self) -> Option<Duration> {
        Some(self.warm.lock().last_dial).filter(|took| *took > Duration::ZERO)
    }

    /// Links ready for use.
    pub fn warm_links(&self) -> usize {
        self.warm.lock().links.len()
    }

    /// A link, as soon as there can be one: at once if one is warm, else by a dial, else when the
    /// prober has got through. Dropping the future is giving up.
    pub async fn link(self: &Arc<Self>) -> D::Link {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        let mut standing = self.standing.subscribe();
        loop {
            if let Some(link) = self.take_warm() {
                return link;
            }
            if !standing.borrow_and_update().is_open() {
                self.probe();
                until(&mut standing, Standing::is_open).await;
                continue;
            }
            tokio::select! {
                () = until(&mut standing, |s| !s.is_open()) => {}
                permit = self.dials.acquire() => {
                    let _permit = permit.expect("the semaphore is never closed");
                    if let Some(link) = self.dial_once().await {
                        return link;
                    }
                }
            }
        }
    }

    /// One dial. If it is slow the prober joins in; `None` means look again.
    async fn dial_once(self: &Arc<Self>) -> Option<D::Link> {
        let mut standing = self.standing.subscribe();
        let begun = Instant::now();
        let mut dial = self.begin();
        let patience = self.pace.silence.max(self.warm.lock().last_dial * 4);
        let result = tokio::select! {
            result = &mut dial => result,
            () = tokio::time::sleep(patience) => {
                let (kind, errno) = (Kind::Silent, nix::errno::Errno::ETIMEDOUT as i32);
                let why = format!("no answer for {} ms", patience.as_millis());
                self.failed(Failure { kind, why, errno });
                self.probe();
                tokio::select! {
                    result = &mut dial => result,
                    () = until(&mut standing, Standing::is_open) => return None,
                }
            }
        };
        match result {
            Ok(link) => {
                self.succeeded(begun);
                Some(link)
            }
            Err(failure) => {
                self.failed(failure);
                None
            }
        }
    }

    fn begin(&self) -> Dialing<D::Link> {
        self.counts.dials.fetch_add(1, Ordering::Relaxed);
        self.dialer.dial()
    }

    fn succeeded(&self, begun: Instant) {
        self.warm.lock().last_dial = begun.elapsed();
        let came_back = self.standing.send_if_modified(|standing| {
            let was_away = !standing.is_open();
            *standing = Standing::Open;
            was_away
        });
        if came_back {
            self.news.send_modify(|count| *count += 1);
        }
    }

    fn failed(&self, failure: Failure) {
        if failure.kind != Kind::Silent {
            self.warm.lock().links.clear();
        }
        let mut is_news = true;
        self.standing.send_modify(|standing| {
            let now = Instant::now();
            let (since, away_since) = match standing {
                Standing::Away { last, since, away_since } if last.kind == failure.kind => {
                    is_news = false;
                    (*since, *away_since)
                }
                Standing::Away { away_since, .. } => (now, *away_since),
                Standing::Open => {
                    self.counts.outages.fetch_add(1, Ordering::Relaxed);
                    (now, now)
                }
            };
            *standing = Standing::Away { last: failure, since, away_since };
        });
        if is_news {
            self.news.send_modify(|count| *count += 1);
        }
    }

    /// Tells that a link to this server was lost in a way that means that nobody is there.
    pub fn lost(&self) {
        let mut warm = self.warm.lock();
        warm.links.retain_mut(|(link, _)| self.dialer.alive(link));
    }

    /// Tells that a link to this server fell silent: nothing that was made before is trusted.
    pub fn suspect(&self) {
        self.warm.lock().links.clear();
    }

    /// Starts the prober unless it runs.
    fn probe(self: &Arc<Self>) {
        if !std::mem::replace(&mut self.warm.lock().probing, true) {
            let reach = Arc::clone(self);
            tokio::spawn(async move {
                reach.run_prober().await;
                reach.warm.lock().probing = false;
                // Somebody may have begun to wait while the prober was on its way out.
                if reach.is_wanted() && !reach.standing.borrow().is_open() {
                    reach.probe();
                }
            });
        }
    }

    fn is_wanted(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }

    async fn run_prober(self: &Arc<Self>) {
        let mut standing = self.standing.subscribe();
        let mut attempts = JoinSet::new();
        let mut started = Instant::now();
        let mut next = tokio::time::Instant::now() + self.pace.probe_every / 4;
        while self.is_wanted() {
            tokio::select! {
                () = tokio::time::sleep_until(next) => {
                    if attempts.len() < self.pace.probes_max {
                        let (begun, dial) = (Instant::now(), self.begin());
                        attempts.spawn(async move { (begun, dial.await) });
                    }
                    next = tokio::time::Instant::now() + self.probe_pause(started);
                }
                Some(Ok((begun, result))) = attempts.join_next() => match result {
                    Ok(link) => {
                        self.keep(link);
                        self.succeeded(begun);
                        return;
                    }
                    Err(failure) => self.failed(failure),
                },
                () = self.network_changed.notified() => {
                    // What is under way was begun on a path that may be gone.
                    attempts.abort_all();
                    started = Instant::now();
                    next = tokio::time::Instant::now();
                }
                () = until(&mut standing, Standing::is_open) => return,
            }
        }
    }

    fn probe_pause(&self, started: Instant) -> Duration {
        let wrong = match &*self.standing.borrow() {
            Standing::Away { last, .. } => {
                matches!(last.kind, Kind::WrongKey | Kind::Unauthorized)
            }
            Standing::Open => false,
        };
        let age = started.elapsed();
        if wrong {
            self.pace.probe_every_max
        } else if age < self.pace.outage_old {
            self.pace.probe_every
        } else {
            // From the usual pace to the slowest within another such time.
            let past = (age - self.pace.outage_old).as_secs_f64();
            let part = past / self.pace.outage_old.as_secs_f64();
            self.pace.probe_every.mul_f64(1.0 + 20.0 * part).min(self.pace.probe_every_max)
        }
    }

    /// The machine's addresses or routes have changed. `usable` says whether an unused link still
    /// leaves from an address that exists.
    pub fn network_changed(&self, mut usable: impl FnMut(&D::Link) -> bool) {
        self.warm.lock().links.retain(|(link, _)| usable(link));
        self.network_changed.notify_waiters();
    }

    /// Takes a link that lives, the freshest first.
    pub fn take_warm(self: &Arc<Self>) -> Option<D::Link> {
        let mut warm = self.warm.lock();
        warm.used = Some(Instant::now());
        let mut found = None;
        while let Some((mut link, since)) = warm.links.pop_back() {
            if since.elapsed() < self.pace.warm_age && self.dialer.alive(&mut link) {
                self.counts.reused.fetch_add(1, Ordering::Relaxed);
                found = Some(link);
                break;
            }
        }
        drop(warm);
        if found.is_some() {
            self.fill();
        }
        found
    }

    /// Keeps a link for the next session, unless enough are kept.
    pub fn keep(&self, mut link: D::Link) {
        let mut warm = self.warm.lock();
        if warm.links.len() < self.pace.kept_max && self.dialer.alive(&mut link) {
            warm.links.push_back((link, Instant::now()));
        }
    }

    /// Drops links that are too old or dead; called every few seconds.
    pub fn age(self: &Arc<Self>) {
        let mut warm = self.warm.lock();
        let age_max = self.pace.warm_age;
        warm.links.retain_mut(|(link, since)| since.elapsed() < age_max && self.dialer.alive(link));
        let used = warm.used.is_some_and(|used| used.elapsed() < age_max);
        drop(warm);
        if used {
            self.fill();
        }
    }

    /// Dials in the background until enough links are warm, if the server was used lately.
    pub fn fill(self: &Arc<Self>) {
        {
            let mut warm = self.warm.lock();
            let enough = warm.links.len() >= self.pace.warm_max;
            if enough || warm.filling || !self.standing.borrow().is_open() {
                return;
            }
            warm.filling = true;
        }
        let reach = Arc::clone(self);
        tokio::spawn(async move {
            while reach.warm_links() < reach.pace.warm_max && reach.standing.borrow().is_open() {
                match reach.begin().await {
                    Ok(link) => reach.keep(link),
                    Err(_) => break,
                }
            }
            reach.warm.lock().filling = false;
        });
    }
}

async fn until(standing: &mut watch::Receiver<Standing>, wanted: fn(&Standing) -> bool) {
    // It cannot fail: the sender lives as long as the reach whose method waits here.
    let _the_standing = standing.wait_for(wanted).await;
}

#[cfg(test)]
pub(crate) mod fake {
    //! A server that is as it is told to be.

    use std::sync::atomic::AtomicU32;

    use super::*;

    #[derive(Copy, Clone, PartialEq)]
    pub(crate) enum Server {
        Up,
        Refuses,
        Silent,
    }

    pub(crate) struct Fake {
        pub(crate) server: Arc<Mutex<Server>>,
        pub(crate) under_way: Arc<AtomicU32>,
        pub(crate) most: Arc<AtomicU32>,
    }

    pub(crate) struct FakeLink {
        pub(crate) alive: bool,
    }

    impl Dialer for Fake {
        type Link = FakeLink;

        fn dial(&self) -> Dialing<FakeLink> {
            let (server, under_way, most) =
                (self.server.clone(), self.under_way.clone(), self.most.clone());
            Box::pin(async move {
                let now = under_way.fetch_add(1, Ordering::SeqCst) + 1;
                most.fetch_max(now, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(5)).await;
                let seen = *server.lock();
                if seen == Server::Silent {
                    tokio::time::sleep(Duration::from_millis(300)).await;
                }
                under_way.fetch_sub(1, Ordering::SeqCst);
                let failure = |kind| Failure { kind, why: "as told".to_owned(), errno: 0 };
                match seen {
                    Server::Up => Ok(FakeLink { alive: true }),
                    Server::Refuses => Err(failure(Kind::Refused)),
                    Server::Silent => Err(failure(Kind::Silent)),
                }
            })
        }

        fn alive(&self, link: &mut FakeLink) -> bool {
            link.alive
        }
    }

    pub(crate) fn reach(server: Server, news: &News) -> (Arc<Reach<Fake>>, Arc<Mutex<Server>>) {
        let state = Arc::new(Mutex::new(server));
        let fake = Fake { server: state.clone(), under_way: Arc::default(), most: Arc::default() };
        let pace = Pace {
            probe_every: Duration::from_millis(10),
            silence: Duration::from_millis(30),
            dials_max: 8,
            ..Pace::default()
        };
        (Reach::new(fake, pace, Arc::clone(news)), state)
    }
}

#[cfg(test)]
mod tests {
    use super::fake::{FakeLink, Server};
    use super::*;

    fn reach(server: Server) -> (Arc<Reach<fake::Fake>>, Arc<Mutex<Server>>) {
        fake::reach(server, &News::default())
    }

    async fn soon<T>(future: impl Future<Output = T>) -> T {
        tokio::time::timeout(Duration::from_secs(10), future).await.expect("it came in time")
    }

    #[tokio::test]
    async fn links_are_kept_warm_bounded_and_dead_ones_are_not_given_out() {
        let (reach, _) = reach(Server::Up);
        for _ in 0..20 {
            reach.keep(FakeLink { alive: true });
        }
        assert_eq!(reach.warm_links(), 16);
        for (link, _) in &mut reach.warm.lock().links {
            link.alive = false;
        }
        assert!(reach.take_warm().is_none());
        assert_eq!(reach.warm_links(), 0);
    }

    #[tokio::test]
    async fn after_the_first_use_links_are_dialed_ahead() {
        let (reach, _) = reach(Server::Up);
        soon(reach.link()).await;
        reach.age();
        soon(async {
            while reach.warm_links() < 4 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        })
        .await;
        let before = reach.counts.reused.load(Ordering::Relaxed);
        soon(reach.link()).await;
        assert_eq!(reach.counts.reused.load(Ordering::Relaxed), before + 1);
    }

    #[tokio::test]
    async fn a_thousand_sessions_share_one_prober_and_all_come_back_paced() {
        for outage in [Server::Refuses, Server::Silent] {
            let (reach, server) = reach(outage);
            let mut sessions = JoinSet::new();
            for _ in 0..1_000 {
                let reach = Arc::clone(&reach);
                sessions.spawn(async move { reach.link().await.alive });
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
            let dials = reach.counts.dials.load(Ordering::Relaxed);
            assert!(dials < 100, "{dials} dials while it was out of reach");
            assert!(!reach.standing().borrow().is_open());
            *server.lock() = Server::Up;
            let mut came = 0;
            while let Some(link) = soon(sessions.join_next()).await {
                came += usize::from(link.expect("no panic"));
            }
            assert_eq!(came, 1_000);
            assert_eq!(reach.counts.outages.load(Ordering::Relaxed), 1);
            assert!(reach.dialer.most.load(Ordering::SeqCst) <= 40 + 8 + 1);
        }
    }

    #[tokio::test]
    async fn the_prober_stops_when_nobody_waits() {
        let (reach, _) = reach(Server::Refuses);
        let waited = tokio::time::timeout(Duration::from_millis(50), reach.link()).await;
        assert!(waited.is_err());
        tokio::time::sleep(Duration::from_millis(50)).await;
        let dials = reach.counts.dials.load(Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(reach.counts.dials.load(Ordering::Relaxed) <= dials + 1);
        assert!(!reach.warm.lock().probing);
    }

    #[tokio::test]
    async fn a_change_of_the_network_probes_at_once() {
        let (reach, server) = reach(Server::Silent);
        let waiter = tokio::spawn({
            let reach = Arc::clone(&reach);
            async move { reach.link().await }
        });
        tokio::time::sleep(Duration::from_millis(100)).await;
        *server.lock() = Server::Up;
        reach.network_changed(|_| true);
        soon(waiter).await.expect("no panic");
    }
}
