//! The way to one server, shared by all sessions that want to go there: makes the links that
//! [`stp_proto::course::Pacing`] says are to be made.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use stp_proto::course::{DialId, Failure, FailureKind, Pace, PaceCounts, Pacing, Pulse, Standing};
use tokio::sync::{Notify, watch};
use tokio::task::{AbortHandle, JoinError, JoinSet};

use crate::clock::{now, sleep_until};

/// How links to a server are made. The broker's is [`crate::dialer::ServerDialer`].
pub trait Dialer: Send + Sync + 'static {
    /// A link.
    type Link: Send + 'static;
    /// Brings up a link.
    fn dial(&self) -> Dialing<Self::Link>;
    /// Whether an unused link still lives.
    fn alive(&self, link: &mut Self::Link) -> bool;
    /// Packets go another way now.
    fn network_changed(&self);
}

/// A dial under way.
pub type Dialing<L> = Pin<Box<dyn Future<Output = Result<L, Failure>> + Send>>;

/// Tells that the standing of some server of a service has changed; counts up.
pub type News = Arc<watch::Sender<u64>>;

/// The way to one server.
pub struct Reach<D: Dialer> {
    dialer: D,
    state: Mutex<State<D::Link>>,
    /// Wakes the task that makes the links.
    happened: Notify,
    /// Wakes a session that waits for a link.
    ready: Notify,
    news: News,
}

struct State<L> {
    pacing: Pacing<L>,
    /// The task that makes the links runs.
    driven: bool,
}

/// Counts a session as waiting for as long as it lives.
struct Waiting<'a, D: Dialer>(&'a Arc<Reach<D>>);

impl<'a, D: Dialer> Waiting<'a, D> {
    fn begin(reach: &'a Arc<Reach<D>>) -> Waiting<'a, D> {
        reach.state.lock().pacing.wait();
        Waiting(reach)
    }
}

impl<D: Dialer> Drop for Waiting<'_, D> {
    fn drop(&mut self) {
        self.0.state.lock().pacing.wait_no_more();
        self.0.happened.notify_one();
    }
}

impl<D: Dialer> Reach<D> {
    /// Nothing is dialed yet.
    pub fn new(dialer: D, pace: Pace, news: News) -> Arc<Reach<D>> {
        Arc::new(Reach {
            dialer,
            state: Mutex::new(State { pacing: Pacing::new(pace), driven: false }),
            happened: Notify::new(),
            ready: Notify::new(),
            news,
        })
    }

    /// How links are made here.
    pub fn dialer(&self) -> &D {
        &self.dialer
    }

    /// What is known now.
    pub fn standing(&self) -> Standing {
        self.state.lock().pacing.standing().clone()
    }

    /// Whether a link can be hoped for now.
    pub fn is_open(&self) -> bool {
        self.state.lock().pacing.standing().is_open()
    }

    /// Waits until a link can be hoped for. Nobody probes for the sake of this.
    pub async fn until_open(&self) {
        let mut news = self.news.subscribe();
        while !self.is_open() {
            // It cannot fail: the sender is held here.
            let _changed = news.changed().await;
        }
    }

    /// How long the last link took to make, if there was one.
    pub fn last_link(&self) -> Option<Duration> {
        self.state.lock().pacing.last_link()
    }

    /// Links ready for use.
    pub fn warm_links(&self) -> usize {
        self.state.lock().pacing.spares()
    }

    /// What is counted for the status.
    pub fn counts(&self) -> PaceCounts {
        self.state.lock().pacing.counts()
    }

    /// A link, as soon as there can be one. Dropping the future is giving up.
    pub async fn link(self: &Arc<Self>) -> D::Link {
        if let Some(link) = self.take() {
            self.state.lock().pacing.count_reuse();
            return link;
        }
        let _waiting = Waiting::begin(self);
        loop {
            let mut ready = pin!(self.ready.notified());
            ready.as_mut().enable();
            if let Some(link) = self.take() {
                return link;
            }
            self.attend();
            ready.await;
        }
    }

    fn take(self: &Arc<Self>) -> Option<D::Link> {
        let link = self.state.lock().pacing.take(now(), |link| self.dialer.alive(link));
        if link.is_some() {
            self.attend();
        }
        link
    }

    /// Keeps a link for the next session, unless enough are kept.
    pub fn keep(&self, mut link: D::Link) {
        if self.dialer.alive(&mut link) && self.state.lock().pacing.keep(now(), link).is_none() {
            self.ready.notify_one();
        }
    }

    /// Drops links that are too old or dead; called every few seconds.
    pub fn age(self: &Arc<Self>) {
        let fills = self.state.lock().pacing.age(now(), |link| self.dialer.alive(link));
        if fills {
            self.attend();
        }
    }

    /// Tells that a link to this server was lost in a way that means that nobody is there.
    pub fn lost(&self) {
        self.state.lock().pacing.retain(|link| self.dialer.alive(link));
    }

    /// Tells that a link to this server fell silent: nothing that was made before is trusted.
    pub fn suspect(&self) {
        self.state.lock().pacing.suspect();
    }

    /// The machine's addresses or routes have changed. `usable` says whether an unused link still
    /// leaves from an address that exists.
    pub fn network_changed(&self, usable: impl FnMut(&D::Link) -> bool) {
        self.dialer.network_changed();
        self.state.lock().pacing.handle_network_changed(now(), usable);
        self.happened.notify_one();
    }

    /// Sees to it that what the pacing wants is done.
    fn attend(self: &Arc<Self>) {
        if std::mem::replace(&mut self.state.lock().driven, true) {
            self.happened.notify_one();
        } else {
            let reach = Arc::clone(self);
            tokio::spawn(async move { reach.drive().await });
        }
    }

    /// Makes links until none is wanted and nobody waits for one.
    async fn drive(&self) {
        let mut dials = Dials { tasks: JoinSet::new(), handles: BTreeMap::new() };
        while let Some(wake_at) = self.next(&mut dials) {
            tokio::select! {
                Some(done) = dials.tasks.join_next() => {
                    if let Some((id, result)) = dials.end(done) {
                        self.dialed(id, result);
                    }
                }
                () = self.happened.notified() => {}
                () = sleep_until(wake_at) => {}
            }
        }
    }

    /// Does what is to be done now; returns until when there is nothing more.
    fn next(&self, dials: &mut Dials<D::Link>) -> Option<Option<stp_proto::time::Instant>> {
        let mut state = self.state.lock();
        let before = state.pacing.changes();
        let wake_at = loop {
            match state.pacing.poll(now()) {
                Pulse::Dial(id) => dials.begin(id, self.dialer.dial()),
                Pulse::Abandon(id) => dials.abandon(id),
                Pulse::Wait(at) => break Some(at),
                Pulse::Idle => {
                    state.driven = false;
                    break None;
                }
            }
        };
        let is_news = state.pacing.changes() != before;
        drop(state);
        self.tell(is_news);
        wake_at
    }

    fn dialed(&self, id: DialId, result: Result<D::Link, Failure>) {
        let mut state = self.state.lock();
        let before = state.pacing.changes();
        let is_ready = state.pacing.handle_dialed(now(), id, result);
        let is_news = state.pacing.changes() != before;
        drop(state);
        if is_ready {
            self.ready.notify_one();
        }
        self.tell(is_news);
    }

    fn tell(&self, is_news: bool) {
        if is_news {
            self.news.send_modify(|count| *count += 1);
        }
    }
}

/// The dials under way. They run at the same time, on whatever worker has time.
struct Dials<L> {
    tasks: JoinSet<(DialId, Result<L, Failure>)>,
    handles: BTreeMap<DialId, AbortHandle>,
}

impl<L: Send + 'static> Dials<L> {
    fn begin(&mut self, id: DialId, dial: Dialing<L>) {
        self.handles.insert(id, self.tasks.spawn(async move { (id, dial.await) }));
    }

    fn abandon(&mut self, id: DialId) {
        if let Some(handle) = self.handles.remove(&id) {
            handle.abort();
        }
    }

    /// The result of a dial; none, if it was abandoned.
    fn end(&mut self, done: Ended<L>) -> Option<(DialId, Result<L, Failure>)> {
        let (id, result) = match done {
            Ok(done) => done,
            Err(error) if error.is_cancelled() => return None,
            Err(error) => {
                let of_it = |(_, handle): &(&DialId, &AbortHandle)| handle.id() == error.id();
                let id = *self.handles.iter().find(of_it)?.0;
                let why = "a bug in the broker; see its log".to_owned();
                (id, Err(Failure { kind: FailureKind::Silent, why, errno: 0 }))
            }
        };
        self.handles.remove(&id);
        Some((id, result))
    }
}

type Ended<L> = Result<(DialId, Result<L, Failure>), JoinError>;

#[cfg(test)]
pub(crate) mod fake {
    //! A server that is as it is told to be.

    use std::sync::atomic::AtomicU32;

    use super::*;
    use std::sync::atomic::Ordering;

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
                    Server::Refuses => Err(failure(FailureKind::Refused)),
                    Server::Silent => Err(failure(FailureKind::Silent)),
                }
            })
        }

        fn alive(&self, link: &mut FakeLink) -> bool {
            link.alive
        }

        fn network_changed(&self) {}
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
    use std::sync::atomic::Ordering;

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
        reach.state.lock().pacing.retain(|link| {
            link.alive = false;
            true
        });
        assert!(reach.take().is_none());
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
        let before = reach.counts().reused;
        soon(reach.link()).await;
        assert_eq!(reach.counts().reused, before + 1);
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
            let dials = reach.counts().dials;
            assert!(dials < 100, "{dials} dials while it was out of reach");
            assert!(!reach.is_open());
            *server.lock() = Server::Up;
            let mut came = 0;
            while let Some(link) = soon(sessions.join_next()).await {
                came += usize::from(link.expect("no panic"));
            }
            assert_eq!(came, 1_000);
            assert_eq!(reach.counts().outages, 1);
            assert!(reach.dialer.most.load(Ordering::SeqCst) <= 40 + 8 + 1);
        }
    }

    #[tokio::test]
    async fn the_prober_stops_when_nobody_waits() {
        let (reach, _) = reach(Server::Refuses);
        let waited = tokio::time::timeout(Duration::from_millis(50), reach.link()).await;
        assert!(waited.is_err());
        tokio::time::sleep(Duration::from_millis(50)).await;
        let dials = reach.counts().dials;
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(reach.counts().dials <= dials + 1);
        assert!(!reach.state.lock().driven);
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
