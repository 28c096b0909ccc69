//! The sessions of this server, and the tombstones of those that ended.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use stp_drive::{Command, SessionStatus};
use stp_net::key::PublicKey;
use stp_proto::handle::Handle;
use stp_proto::ticket::Granted;
use stp_proto::wire::ResumeDenial;
use tokio::sync::{Notify, mpsc};

/// Ended sessions shown in the status.
const ENDED_MAX: usize = 100;
/// So long a session counts with the rate it wants, until its own shows.
const WANTED_FOR: Duration = Duration::from_secs(5);
/// Tombstones at once; the oldest go first.
const TOMBS_MAX: usize = 100_000;

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
    /// Who opened it.
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
}

impl Entry {
    /// What it sends, bytes a second: at first what it will, as far as is known.
    #[must_use]
    pub fn rate(&self) -> u64 {
        let now = self.status.snapshot().rate_out;
        if self.since.elapsed() < WANTED_FOR { now.max(self.wanted) } else { now }
    }
}

enum Slot {
    /// Its service is being opened.
    Opening(Arc<Notify>),
    Running(Entry),
}

struct Tomb {
    seen: u32,
    why: ResumeDenial,
    until: Instant,
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
    slots: HashMap<Key, Slot>,
    tombs: HashMap<(Key, Handle), Tomb>,
    /// The keys of the tombs, oldest first.
    buried: VecDeque<(Key, Handle)>,
    ended: VecDeque<Ended>,
}

/// What stands under a key.
pub enum Occupant {
    /// Nothing.
    Nothing,
    /// A session that is being opened: wait.
    Opening(Arc<Notify>),
    /// A session.
    Running(Entry),
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
        self.inner.lock().slots.len()
    }

    /// There is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Looks a session up.
    #[must_use]
    pub fn find(&self, key: &Key) -> Occupant {
        match self.inner.lock().slots.get(key) {
            None => Occupant::Nothing,
            Some(Slot::Opening(notify)) => Occupant::Opening(Arc::clone(notify)),
            Some(Slot::Running(entry)) => Occupant::Running(entry.clone()),
        }
    }

    /// Keeps the place of a session whose service is being opened. `None` if it is taken.
    #[must_use]
    pub fn reserve(self: &Arc<Self>, key: Key) -> Option<Reserved> {
        let mut inner = self.inner.lock();
        if inner.slots.contains_key(&key) {
            return None;
        }
        let notify = Arc::new(Notify::new());
        inner.slots.insert(key, Slot::Opening(Arc::clone(&notify)));
        Some(Reserved { registry: Arc::clone(self), key, notify, kept: false })
    }

    /// Puts a session that has come over in place of what stood there. Its own entry is removed
    /// when the [`Running`] goes. `None` if a later CONNECT was faster: its service may have been
    /// opened in less time.
    pub fn replace(self: &Arc<Self>, key: Key, entry: Entry) -> Option<(Running, Option<Entry>)> {
        let own = entry.own;
        let mut inner = self.inner.lock();
        if let Some(Slot::Running(there)) = inner.slots.get(&key)
            && there.epoch > entry.epoch
        {
            return None;
        }
        let old = match inner.slots.insert(key, Slot::Running(entry)) {
            Some(Slot::Running(entry)) => Some(entry),
            Some(Slot::Opening(_)) | None => None,
        };
        Some((Running { registry: Arc::clone(self), key, own }, old))
    }

    /// What a late RESUME of this session is told.
    #[must_use]
    pub fn epitaph(&self, key: &Key, own: Handle) -> Option<(u32, ResumeDenial)> {
        let inner = self.inner.lock();
        let tomb = inner.tombs.get(&(*key, own))?;
        Some((tomb.seen, tomb.why))
    }

    /// Remembers how a session ended.
    pub fn bury(&self, key: Key, own: Handle, (seen, why): (u32, ResumeDenial), for_: Duration) {
        let mut inner = self.inner.lock();
        let now = Instant::now();
        while let Some(oldest) = inner.buried.front().copied() {
            let past = inner.tombs.get(&oldest).is_none_or(|tomb| tomb.until <= now);
            if !past && inner.buried.len() < TOMBS_MAX {
                break;
            }
            inner.buried.pop_front();
            inner.tombs.remove(&oldest);
        }
        inner.buried.push_back((key, own));
        inner.tombs.insert((key, own), Tomb { seen, why, until: now + for_ });
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
        let running = inner.slots.iter().filter_map(|(key, slot)| match slot {
            Slot::Running(entry) => Some((*key, entry.clone())),
            Slot::Opening(_) => None,
        });
        let mut running: Vec<_> = running.collect();
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
    kept: bool,
}

impl Reserved {
    /// The session runs, as with [`Registry::replace`].
    #[must_use]
    pub fn fill(mut self, entry: Entry) -> Option<(Running, Option<Entry>)> {
        self.kept = true;
        let registry = Arc::clone(&self.registry);
        registry.replace(self.key, entry)
    }
}

impl Drop for Reserved {
    fn drop(&mut self) {
        if !self.kept {
            let mut inner = self.registry.inner.lock();
            if matches!(inner.slots.get(&self.key), Some(Slot::Opening(_))) {
                inner.slots.remove(&self.key);
            }
        }
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
        let mut inner = self.registry.inner.lock();
        if let Some(Slot::Running(entry)) = inner.slots.get(&self.key)
            && entry.own == self.own
        {
            inner.slots.remove(&self.key);
        }
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
        }
    }

    const KEY: Key = (PublicKey([1; 32]), Handle([2; 16]));

    #[test]
    fn a_place_is_taken_once_and_given_back() {
        let registry = Arc::new(Registry::default());
        let reserved = registry.reserve(KEY).unwrap();
        assert!(registry.reserve(KEY).is_none());
        assert!(matches!(registry.find(&KEY), Occupant::Opening(_)));
        drop(reserved);
        let running = registry.reserve(KEY).unwrap().fill(entry(3)).unwrap();
        assert!(matches!(registry.find(&KEY), Occupant::Running(_)));
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
        let Occupant::Running(there) = registry.find(&KEY) else { panic!("it runs") };
        assert_eq!(there.own, Handle([5; 16]));
        drop(later);
        let reserved = registry.reserve(KEY).unwrap();
        let (_earlier, _) = registry.replace(KEY, entry(3)).unwrap();
        assert_eq!(reserved.fill(entry(5)).unwrap().1.unwrap().own, Handle([3; 16]));
    }

    #[test]
    fn a_tombstone_answers_for_its_own_session_only() {
        let registry = Registry::default();
        let why = ResumeDenial::Closed { received: 7 };
        registry.bury(KEY, Handle([3; 16]), (5, why), Duration::from_secs(9));
        assert_eq!(registry.epitaph(&KEY, Handle([3; 16])), Some((5, why)));
        assert_eq!(registry.epitaph(&KEY, Handle([4; 16])), None);
    }
}
