//! The sessions of this server, and the tombstones of those that ended.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use stp_drive::{Command, SessionStatus};
use stp_net::key::PublicKey;
use stp_net::spool::View;
use stp_proto::handle::Handle;
use stp_proto::roster::{Calls, Roster};
use stp_proto::ticket::Granted;
use stp_proto::time;
use stp_proto::wire::ResumeDenial;
use tokio::sync::{Notify, mpsc};

/// Ended sessions shown in the status.
const ENDED_MAX: usize = 100;
/// A session counts with the rate it wants for this long, until its own shows.
const WANTED_FOR: Duration = Duration::from_secs(5);

/// Which session: whose, and the handle its broker chose.
pub type Key = (PublicKey, Handle);

/// A session that runs.
#[derive(Clone)]
pub struct Entry {
    /// The handle this server chose.
    pub own: Handle,
    /// Its loop.
    pub inbox: mpsc::Sender<Command>,
    /// What it publishes.
    pub status: Arc<SessionStatus>,
    /// The service.
    pub service: String,
    /// The endpoint that opened it, as its broker says.
    pub endpoint: String,
    /// When it began here.
    pub since: Instant,
    /// It came from another server.
    pub transferred: bool,
    /// The rate it was used to where it comes from, bytes a second.
    pub wanted: u64,
    /// The epoch of the CONNECT that opened it.
    pub epoch: u32,
    /// Its broker has said that it cannot go elsewhere.
    pub fixed: Arc<AtomicBool>,
    /// What the gateway has granted.
    pub granted: Option<Granted>,
    /// What is taken of its service while it is away.
    pub spool: Option<Arc<View>>,
}

impl Entry {
    /// What it sends, bytes a second: at first what it will, as far as is known.
    #[must_use]
    pub fn rate(&self) -> u64 {
        let now = self.status.snapshot().rate_out;
        if self.since.elapsed() < WANTED_FOR { now.max(self.wanted) } else { now }
    }
}

/// A session that ended, for the status.
#[derive(Debug, Clone)]
pub struct Ended {
    /// The handle this server chose.
    pub own: Handle,
    /// The service.
    pub service: String,
    /// Whose it was.
    pub client: PublicKey,
    /// How it ended.
    pub reason: String,
    /// How long it lived here.
    pub lived: Duration,
    /// When it ended.
    pub at: Instant,
}

#[derive(Default)]
struct Inner {
    roster: Roster<Key, Entry, Arc<Notify>>,
    ended: VecDeque<Ended>,
}

/// What a CONNECT comes to.
pub enum Called {
    /// The link is for this session: it has repeated its CONNECT.
    Attach(Box<Entry>),
    /// Its service is being opened by an earlier CONNECT: wait.
    Wait(Arc<Notify>),
    /// Its service is to be opened; whether a place can be kept for it.
    Open {
        /// Nothing stands there.
        free: bool,
    },
}

/// Counters for the status.
#[derive(Debug, Default)]
pub struct Counters {
    /// Sessions opened.
    pub opened: AtomicU64,
    /// Sessions taken over from other servers.
    pub transferred: AtomicU64,
    /// RESUMEs handed to a session.
    pub resumed: AtomicU64,
    /// Sessions that were given up when memory was short.
    pub given_up: AtomicU64,
    /// Sessions without a link that ended for the sake of new ones.
    pub made_room: AtomicU64,
    /// Sessions that ended cleanly, and otherwise.
    pub ended: AtomicU64,
    refused: Mutex<BTreeMap<String, u64>>,
}

impl Counters {
    /// Something was refused for this reason.
    pub fn refuse(&self, reason: &str) {
        *self.refused.lock().entry(reason.to_owned()).or_default() += 1;
    }

    /// Refusals by reason.
    #[must_use]
    pub fn refused(&self) -> BTreeMap<String, u64> {
        self.refused.lock().clone()
    }
}

/// All sessions of this server.
#[derive(Default)]
pub struct Registry {
    inner: Mutex<Inner>,
    /// Counters.
    pub counters: Counters,
}

impl Registry {
    /// Sessions that run or are being opened.
    #[must_use]
    pub fn len(&self) -> usize {
        self.inner.lock().roster.len()
    }

    /// Those of one client.
    #[must_use]
    pub fn of_client(&self, client: PublicKey) -> usize {
        let (first, last) = (Handle([0; 16]), Handle([0xff; 16]));
        self.inner.lock().roster.count((client, first)..=(client, last))
    }

    /// There is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What a CONNECT comes to; `new` if it does not ask for a session of another server.
    #[must_use]
    pub fn connect(&self, key: &Key, new: bool) -> Called {
        match self.inner.lock().roster.connect(key, new) {
            Calls::Attach(entry) => Called::Attach(Box::new(entry.clone())),
            Calls::Wait(notify) => Called::Wait(Arc::clone(notify)),
            Calls::Open { free } => Called::Open { free },
        }
    }

    /// The session to which a link with a RESUME for the acceptor `own` goes.
    ///
    /// # Errors
    /// There is none: the epoch and the reason of RESUME_DENIED.
    pub fn resume(&self, key: &Key, own: Handle, epoch: u32) -> Result<Entry, (u32, ResumeDenial)> {
        self.inner.lock().roster.resume(key, own, epoch).cloned()
    }

    /// The session that an RST for the acceptor `own` at the beginning of a link ends.
    #[must_use]
    pub fn reset(&self, key: &Key, own: Handle) -> Option<Entry> {
        self.inner.lock().roster.reset(key, own).cloned()
    }

    /// Keeps the place of a session whose service is being opened. `None` if it is taken.
    #[must_use]
    pub fn reserve(self: &Arc<Self>, key: Key) -> Option<Reserved> {
        let notify = Arc::new(Notify::new());
        let kept = self.inner.lock().roster.reserve(key, Arc::clone(&notify));
        kept.then(|| Reserved { registry: Arc::clone(self), key, notify })
    }

    /// Puts a session that has come over in place of what stood there. Its own entry is removed
    /// when the [`Running`] goes. `None` if a later CONNECT was faster: its service may have been
    /// opened in less time.
    pub fn replace(self: &Arc<Self>, key: Key, entry: Entry) -> Option<(Running, Option<Entry>)> {
        let own = entry.own;
        let named = (own, entry.epoch);
        let filled = self.inner.lock().roster.fill(key, named, entry).ok()?;
        Some((Running { registry: Arc::clone(self), key, own }, filled.old))
    }

    /// Remembers for this long how a session ended.
    pub fn bury(
        &self,
        now: time::Instant,
        session: (Key, Handle),
        epitaph: (u32, ResumeDenial),
        keep: Duration,
    ) {
        self.inner.lock().roster.bury(now, session, epitaph, keep);
    }

    /// A session begins; whether it comes from another server.
    pub fn note_begin(&self, transferred: bool) {
        self.counters.opened.fetch_add(1, Ordering::Relaxed);
        self.counters.transferred.fetch_add(u64::from(transferred), Ordering::Relaxed);
    }

    /// Adds to the list of ended sessions.
    pub fn note_end(&self, ended: Ended) {
        self.counters.ended.fetch_add(1, Ordering::Relaxed);
        let mut inner = self.inner.lock();
        if inner.ended.len() == ENDED_MAX {
            inner.ended.pop_front();
        }
        inner.ended.push_back(ended);
    }

    /// Running sessions, with their keys, oldest first.
    #[must_use]
    pub fn running(&self) -> Vec<(Key, Entry)> {
        let inner = self.inner.lock();
        let running = inner.roster.all_running();
        let mut running: Vec<_> = running.map(|(key, entry)| (*key, entry.clone())).collect();
        drop(inner);
        running.sort_by_key(|(_, entry)| entry.since);
        running
    }

    /// Ended sessions, oldest first.
    #[must_use]
    pub fn ended(&self) -> Vec<Ended> {
        self.inner.lock().ended.iter().cloned().collect()
    }
}

/// The place of a session that is being opened; given back when it is dropped.
pub struct Reserved {
    registry: Arc<Registry>,
    key: Key,
    notify: Arc<Notify>,
}

impl Reserved {
    /// The session runs, as with [`Registry::replace`].
    #[must_use]
    pub fn fill(self, entry: Entry) -> Option<(Running, Option<Entry>)> {
        let registry = Arc::clone(&self.registry);
        registry.replace(self.key, entry)
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        // Nothing, if the session runs by now.
        let _notified_below = self.registry.inner.lock().roster.give_up(&self.key);
        self.notify.notify_waiters();
    }
}

/// A session's place; given back when it is dropped.
pub struct Running {
    registry: Arc<Registry>,
    key: Key,
    own: Handle,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.registry.inner.lock().roster.remove(&self.key, self.own);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(own: u8) -> Entry {
        Entry {
            own: Handle([own; 16]),
            inbox: mpsc::channel(1).0,
            status: Arc::default(),
            service: String::new(),
            endpoint: String::new(),
            since: Instant::now(),
            transferred: false,
            wanted: 0,
            epoch: own.into(),
            fixed: Arc::default(),
            granted: None,
            spool: None,
        }
    }

    const KEY: Key = (PublicKey([1; 32]), Handle([2; 16]));

    #[test]
    fn a_place_is_taken_once_and_given_back() {
        let registry = Arc::new(Registry::default());
        let reserved = registry.reserve(KEY).unwrap();
        assert!(registry.reserve(KEY).is_none());
        assert!(matches!(registry.connect(&KEY, true), Called::Wait(_)));
        assert_eq!((registry.of_client(KEY.0), registry.of_client(PublicKey([2; 32]))), (1, 0));
        drop(reserved);
        let running = registry.reserve(KEY).unwrap().fill(entry(3)).unwrap();
        assert!(matches!(registry.connect(&KEY, true), Called::Attach(_)));
        drop(running);
        assert!(registry.is_empty());
    }

    #[test]
    fn the_end_of_a_replaced_session_leaves_its_successor_alone() {
        let registry = Arc::new(Registry::default());
        let (first, _) = registry.reserve(KEY).unwrap().fill(entry(3)).unwrap();
        let (second, old) = registry.replace(KEY, entry(4)).unwrap();
        assert_eq!(old.unwrap().own, Handle([3; 16]));
        drop(first);
        assert_eq!(registry.len(), 1);
        drop(second);
        assert_eq!(registry.len(), 0);
    }

    #[test]
    fn a_slow_opening_does_not_take_the_place_of_a_later_attempt() {
        let registry = Arc::new(Registry::default());
        let (later, _) = registry.replace(KEY, entry(5)).unwrap();
        assert!(registry.replace(KEY, entry(3)).is_none());
        let Called::Attach(there) = registry.connect(&KEY, true) else { panic!("it runs") };
        assert_eq!(there.own, Handle([5; 16]));
        drop(later);
        let reserved = registry.reserve(KEY).unwrap();
        let (_earlier, _) = registry.replace(KEY, entry(3)).unwrap();
        assert_eq!(reserved.fill(entry(5)).unwrap().1.unwrap().own, Handle([3; 16]));
    }
}
