//! Where a control connection and one of its data connections meet.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, OnceLock, Weak};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use stp_net::key::PublicKey;
use stp_proto::handle::Handle;
use stp_proto::replay::ftp::{DataNews, DataState, Verdict};
use tokio::net::TcpStream;
use tokio::sync::Notify;

/// What became of a data connection is kept so long for a control connection that comes later: both
/// may be on their way here from another server.
const KEPT: Duration = Duration::from_secs(120);
/// And of so many at most.
const KEPT_MAX: usize = 1_024;

/// The data connections that are agreed upon or under way, by client and token.
#[derive(Debug, Default)]
pub struct Groups {
    slots: Mutex<BTreeMap<(PublicKey, Handle), Weak<Slot>>>,
    ended: Mutex<VecDeque<(Instant, Arc<Slot>)>>,
}

impl Groups {
    /// The meeting place of this token; it exists as long as somebody holds it.
    pub fn slot(&self, client: PublicKey, token: Handle) -> Arc<Slot> {
        let mut slots = self.slots.lock();
        if let Some(slot) = slots.get(&(client, token)).and_then(Weak::upgrade) {
            return slot;
        }
        slots.retain(|_, slot| slot.strong_count() > 0);
        let slot = Arc::new(Slot::default());
        slots.insert((client, token), Arc::downgrade(&slot));
        slot
    }

    /// A data session has ended: what became of it stays known for a while.
    pub fn keep(&self, slot: Arc<Slot>) {
        let mut ended = self.ended.lock();
        let now = Instant::now();
        while ended.len() >= KEPT_MAX || ended.front().is_some_and(|(at, _)| now - *at > KEPT) {
            ended.pop_front();
        }
        ended.push_back((now, slot));
    }

    /// The same, if somebody holds it.
    pub fn find(&self, client: PublicKey, token: Handle) -> Option<Arc<Slot>> {
        self.slots.lock().get(&(client, token)).and_then(Weak::upgrade)
    }
}

/// What the control connection's side gives the data.
#[derive(Debug)]
pub struct Begun {
    /// What is transferred.
    pub state: DataState,
    /// The connection to the server; none: the data side asks by itself.
    pub stream: Option<TcpStream>,
}

#[derive(Debug, Default)]
struct Inner {
    begun: Option<Begun>,
    verdict: Option<Verdict>,
    news: Option<DataNews>,
    /// A data session is here.
    present: bool,
    waker: Option<Waker>,
}

/// One data connection, seen from both sides.
#[derive(Debug, Default)]
pub struct Slot {
    inner: Mutex<Inner>,
    told: Notify,
    /// It stands for all connections to these ports of the server, first and last.
    range: OnceLock<(u16, u16)>,
}

impl Slot {
    /// Control: it stands for all connections to these ports.
    pub fn open_range(&self, first: u16, last: u16) {
        let _only_once = self.range.set((first, last));
    }

    /// The ports for which it stands, first and last.
    pub fn range(&self) -> Option<(u16, u16)> {
        self.range.get().copied()
    }

    /// Control: the transfer begins.
    pub fn begin(&self, begun: Begun) {
        let mut inner = self.inner.lock();
        inner.begun = Some(begun);
        inner.wake();
    }

    /// Control: how it ended, by the server's word. Only the first one counts.
    pub fn judge(&self, verdict: Verdict) {
        let mut inner = self.inner.lock();
        inner.verdict.get_or_insert(verdict);
        inner.wake();
    }

    /// Control: it must not go on, whatever was said before.
    pub fn stop(&self) {
        let mut inner = self.inner.lock();
        if inner.verdict != Some(Verdict::Done) {
            inner.verdict = Some(Verdict::Failed);
        }
        inner.wake();
    }

    /// Control: waits for news of the data.
    pub async fn news(&self) -> DataNews {
        loop {
            let told = self.told.notified();
            if let Some(news) = self.inner.lock().news.take() {
                return news;
            }
            told.await;
        }
    }

    /// Whether a data session is here.
    pub fn is_present(&self) -> bool {
        self.inner.lock().present
    }

    /// Data: is here.
    pub fn arrive(&self) {
        self.inner.lock().present = true;
    }

    /// Data: what became of it, or that it can go on nowhere else.
    pub fn tell(&self, news: DataNews) {
        let mut inner = self.inner.lock();
        inner.present &= news == DataNews::Fixed;
        inner.news = Some(news);
        drop(inner);
        self.told.notify_one();
    }

    /// Data: waits for the transfer to begin.
    pub fn poll_begun(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut inner = self.inner.lock();
        if inner.begun.is_some() || inner.verdict.is_some() {
            return Poll::Ready(());
        }
        inner.wait(cx)
    }

    /// Data: takes what was begun.
    pub fn take_begun(&self) -> Option<Begun> {
        self.inner.lock().begun.take()
    }

    /// Data: waits for the server's word.
    pub fn poll_verdict(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut inner = self.inner.lock();
        if inner.verdict.is_some() { Poll::Ready(()) } else { inner.wait(cx) }
    }

    /// Data: the server's word so far.
    pub fn verdict(&self) -> Option<Verdict> {
        self.inner.lock().verdict
    }
}

impl Inner {
    fn wait(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            self.waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }

    fn wake(&mut self) {
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }
}
