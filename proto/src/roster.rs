//! The sessions of one server: what stands under a broker's handle, what the first frame of a link
//! comes to, and the tombstones that answer for sessions that have ended.

use core::ops::RangeBounds;
use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use crate::handle::Handle;
use crate::mutant::mutant;
use crate::time::Instant;
use crate::wire::ResumeDenial;

/// Tombstones kept at a time; the oldest go first.
const TOMBS_MAX: usize = 100_000;

/// All sessions of one server. `K` says whose a session is and which handle its broker chose, `E`
/// is what the server keeps of one that runs, and `W` is what waits while its service is opened.
#[derive(Debug)]
pub struct Roster<K, E, W> {
    places: BTreeMap<K, Slot<E, W>>,
    tombs: BTreeMap<(K, Handle), Tomb>,
    /// The keys of the tombs, oldest first.
    buried: VecDeque<(K, Handle)>,
}

#[derive(Debug)]
enum Slot<E, W> {
    /// Its service is being opened.
    Opening(W),
    Running(Running<E>),
}

#[derive(Debug)]
struct Running<E> {
    /// The handle that this server chose.
    own: Handle,
    /// The epoch of the CONNECT that opened it.
    epoch: u32,
    entry: E,
}

#[derive(Debug)]
struct Tomb {
    seen: u32,
    why: ResumeDenial,
    until: Instant,
}

/// What a CONNECT comes to.
#[derive(Debug, PartialEq, Eq)]
pub enum Calls<'a, E, W> {
    /// The link is for a session that runs: it has repeated its CONNECT.
    Attach(&'a E),
    /// Its service is being opened by an earlier CONNECT.
    Wait(&'a mut W),
    /// Its service is to be opened. A place can be kept for it if `free`; otherwise it replaces
    /// what stands there.
    Open {
        /// Nothing stands there.
        free: bool,
    },
}

/// What a session that has been put in its place came upon.
#[derive(Debug, PartialEq, Eq)]
pub struct Filled<E, W> {
    /// The session that ran there: it has moved.
    pub old: Option<E>,
    /// What waited for it.
    pub waited: Option<W>,
}

impl<K, E, W> Default for Roster<K, E, W> {
    fn default() -> Self {
        Roster { places: BTreeMap::new(), tombs: BTreeMap::new(), buried: VecDeque::new() }
    }
}

impl<K: Ord + Copy, E, W> Roster<K, E, W> {
    /// Sessions that run or are being opened.
    pub fn len(&self) -> usize {
        self.places.len()
    }

    /// Those among these keys that run or are being opened.
    pub fn count(&self, keys: impl RangeBounds<K>) -> usize {
        self.places.range(keys).count()
    }

    /// There is none.
    pub fn is_empty(&self) -> bool {
        self.places.is_empty()
    }

    /// What a CONNECT comes to; `new` if it does not ask for a session of another server.
    pub fn connect(&mut self, key: &K, new: bool) -> Calls<'_, E, W> {
        match self.places.get_mut(key) {
            None => Calls::Open { free: true },
            Some(Slot::Opening(waits)) => Calls::Wait(waits),
            Some(Slot::Running(running)) if new => Calls::Attach(&running.entry),
            Some(Slot::Running(_)) => Calls::Open { free: false },
        }
    }

    /// Keeps the place of a session whose service is being opened; false if it is taken.
    pub fn reserve(&mut self, key: K, waits: W) -> bool {
        if self.places.contains_key(&key) {
            return false;
        }
        self.places.insert(key, Slot::Opening(waits));
        true
    }

    /// A session's service could not be opened: its place is free. Returns what waited for it.
    pub fn give_up(&mut self, key: &K) -> Option<W> {
        if !matches!(self.places.get(key), Some(Slot::Opening(_))) {
            return None;
        }
        match self.places.remove(key)? {
            Slot::Opening(waits) => Some(waits),
            Slot::Running(_) => None,
        }
    }

    /// A session runs from now on, in place of whatever stood there. `epoch` is that of its
    /// CONNECT.
    ///
    /// # Errors
    /// A later CONNECT was faster: its service was opened in less time. The entry comes back.
    pub fn fill(
        &mut self,
        key: K,
        (own, epoch): (Handle, u32),
        entry: E,
    ) -> Result<Filled<E, W>, E> {
        if let Some(Slot::Running(there)) = self.places.get(&key)
            && there.epoch > epoch
        {
            return Err(entry);
        }
        let before = self.places.insert(key, Slot::Running(Running { own, epoch, entry }));
        Ok(match before {
            None => Filled { old: None, waited: None },
            Some(Slot::Opening(waits)) => Filled { old: None, waited: Some(waits) },
            Some(Slot::Running(running)) => Filled { old: Some(running.entry), waited: None },
        })
    }

    /// A session has ended, unless another one has taken its place.
    pub fn remove(&mut self, key: &K, own: Handle) {
        if matches!(self.places.get(key), Some(Slot::Running(there)) if there.own == own) {
            self.places.remove(key);
        }
    }

    /// The session that runs under this key.
    pub fn running(&self, key: &K) -> Option<&E> {
        match self.places.get(key)? {
            Slot::Running(running) => Some(&running.entry),
            Slot::Opening(_) => None,
        }
    }

    /// All sessions that run.
    pub fn all_running(&self) -> impl Iterator<Item = (&K, &E)> {
        self.places.iter().filter_map(|(key, place)| match place {
            Slot::Running(running) => Some((key, &running.entry)),
            Slot::Opening(_) => None,
        })
    }

    /// The session to which a link with a RESUME for the acceptor `own` goes.
    ///
    /// # Errors
    /// There is none: the epoch and the reason of RESUME_DENIED.
    pub fn resume(&self, key: &K, own: Handle, epoch: u32) -> Result<&E, (u32, ResumeDenial)> {
        if let Some(Slot::Running(there)) = self.places.get(key)
            && there.own == own
        {
            return Ok(&there.entry);
        }
        let tomb = mutant!(TombForgotten, self.tombs.get(&(*key, own)), None);
        match tomb {
            Some(tomb) => Err((tomb.seen, tomb.why)),
            None => Err((epoch, ResumeDenial::Unknown)),
        }
    }

    /// The session that an RST for the acceptor `own` at the beginning of a link ends; `own` is
    /// none if its broker never learned it. DONE is the answer in any case.
    pub fn reset(&self, key: &K, own: Handle) -> Option<&E> {
        match self.places.get(key)? {
            Slot::Running(there) if own.is_none() || there.own == own => Some(&there.entry),
            Slot::Running(_) | Slot::Opening(_) => None,
        }
    }

    /// Remembers for this long how a session ended: the epoch and the reason for a late RESUME.
    pub fn bury(
        &mut self,
        now: Instant,
        (key, own): (K, Handle),
        (seen, why): (u32, ResumeDenial),
        keep: Duration,
    ) {
        while let Some(oldest) = self.buried.front().copied() {
            let past = self.tombs.get(&oldest).is_none_or(|tomb| tomb.until <= now);
            if !past && self.buried.len() < TOMBS_MAX {
                break;
            }
            self.buried.pop_front();
            self.tombs.remove(&oldest);
        }
        self.buried.push_back((key, own));
        self.tombs.insert((key, own), Tomb { seen, why, until: now + keep });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    type Small = Roster<u8, char, u8>;

    const fn handle(number: u8) -> Handle {
        Handle([number; 16])
    }

    #[test]
    fn a_connect_waits_attaches_or_opens() {
        let mut roster = Small::default();
        assert_eq!(roster.connect(&1, true), Calls::Open { free: true });
        assert!(roster.reserve(1, 0));
        assert!(!roster.reserve(1, 0));
        assert!(matches!(roster.connect(&1, true), Calls::Wait(_)));
        assert!(matches!(roster.connect(&1, false), Calls::Wait(_)));
        assert_eq!(roster.fill(1, (handle(3), 1), 'a').unwrap().waited, Some(0));
        assert_eq!(roster.connect(&1, true), Calls::Attach(&'a'));
        assert_eq!(roster.connect(&1, false), Calls::Open { free: false });
    }

    #[test]
    fn a_place_that_is_given_up_is_free_and_one_that_runs_is_not_given_up() {
        let mut roster = Small::default();
        roster.reserve(1, 7);
        assert_eq!(roster.give_up(&1), Some(7));
        assert!(roster.is_empty());
        roster.fill(1, (handle(3), 1), 'a').unwrap();
        assert_eq!(roster.give_up(&1), None);
        assert_eq!(roster.len(), 1);
    }

    #[test]
    fn a_slow_opening_does_not_take_the_place_of_a_later_attempt() {
        let mut roster = Small::default();
        roster.fill(1, (handle(5), 5), 'b').unwrap();
        assert_eq!(roster.fill(1, (handle(3), 3), 'a'), Err('a'));
        assert_eq!(roster.running(&1), Some(&'b'));
        assert_eq!(roster.fill(1, (handle(6), 6), 'c').unwrap().old, Some('b'));
    }

    #[test]
    fn the_end_of_a_replaced_session_leaves_its_successor_alone() {
        let mut roster = Small::default();
        roster.fill(1, (handle(3), 1), 'a').unwrap();
        roster.fill(1, (handle(4), 2), 'b').unwrap();
        roster.remove(&1, handle(3));
        assert_eq!(roster.all_running().count(), 1);
        roster.remove(&1, handle(4));
        assert!(roster.is_empty());
    }

    #[test]
    fn a_resume_is_for_its_own_session_only_and_a_tombstone_answers_for_an_ended_one() {
        let mut roster = Small::default();
        roster.fill(1, (handle(3), 1), 'a').unwrap();
        assert_eq!(roster.resume(&1, handle(3), 9), Ok(&'a'));
        assert_eq!(roster.resume(&1, handle(4), 9), Err((9, ResumeDenial::Unknown)));
        assert_eq!(roster.resume(&2, handle(3), 9), Err((9, ResumeDenial::Unknown)));
        let why = ResumeDenial::Closed { received: 7 };
        roster.bury(Instant(0), (1, handle(3)), (5, why), Duration::from_secs(9));
        roster.remove(&1, handle(3));
        assert_eq!(roster.resume(&1, handle(3), 9), Err((5, why)));
    }

    #[test]
    fn a_reset_ends_the_session_that_it_names_or_whichever_runs() {
        let mut roster = Small::default();
        roster.reserve(1, 0);
        assert_eq!(roster.reset(&1, Handle::NONE), None);
        roster.fill(1, (handle(3), 1), 'a').unwrap();
        assert_eq!(roster.reset(&1, Handle::NONE), Some(&'a'));
        assert_eq!(roster.reset(&1, handle(3)), Some(&'a'));
        assert_eq!(roster.reset(&1, handle(4)), None);
    }

    #[test]
    fn tombstones_are_bounded_and_go_when_their_time_is_over() {
        let mut roster = Small::default();
        let (why, second) = (ResumeDenial::Unknown, Duration::from_secs(1));
        for number in 0..3 {
            roster.bury(Instant(u64::from(number)), (number, handle(1)), (1, why), second);
        }
        assert_eq!(roster.tombs.len(), 3);
        roster.bury(Instant(5_000_000), (9, handle(1)), (1, why), second);
        assert_eq!(roster.tombs.len(), 1);
        assert_eq!(roster.buried.len(), 1);
    }
}
