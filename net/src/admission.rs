//! Which connections are admitted before anything is known of them: those that have not completed a
//! handshake, and links that have not asked for anything yet.
//!
//! A peer that has proved nothing must cost next to nothing, and must not keep out those who are
//! served already. So half-open connections are shared by network; when half of the places are
//! taken, new ones are dropped by chance, the more the fuller it gets, and have less time; the
//! last quarter is kept for networks that were [welcomed](Admission::welcome) before: a session's
//! link that broke comes back from one of them, mostly. A network whose connections keep coming to
//! nothing is not heard for a while. The numbers are those of OpenSSH's MaxStartups and
//! PerSourcePenalties in kind.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use crate::limit::{Limiter, Rate, Recent, network};

/// A network may have one of this many parts of all half-open places; a known one, half of them.
const PARTS: usize = 8;
/// And this many in any case.
const SHARE_MIN: usize = 8;
/// Penalties below this many seconds are forgiven: paths are cut, and clients are restarted.
const FORGIVEN_S: f64 = 15.0;
/// No network is refused for longer than this many seconds.
const UNHEARD_MAX_S: f64 = 60.0;
/// When half the places are taken, a handshake has a quarter of its time, and this at least.
const HURRY_MIN: Duration = Duration::from_secs(1);

/// Why a connection is closed at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// All places are taken.
    #[error("all {0} handshakes that may be under way are")]
    Full(usize),
    /// Its network has its share.
    #[error("its network has {0} handshakes under way")]
    Share(usize),
    /// It was dropped by chance, as more than half of the places are taken.
    #[error("dropped by chance, as {0} handshakes are under way")]
    Chance(usize),
    /// Connections from its network came to nothing again and again.
    #[error("connections from its network came to nothing too often")]
    Penalty,
}

/// How a connection came to nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It was silent until its time was over.
    Silent,
    /// It spoke something else, or showed no key.
    Garbage,
}

impl Fault {
    fn penalty_s(self) -> f64 {
        match self {
            Fault::Silent => 4.0,
            Fault::Garbage => 2.0,
        }
    }
}

/// The places of half-open connections.
#[derive(Debug)]
pub struct Admission {
    max: usize,
    known: Recent<IpAddr>,
    penalties: Limiter<IpAddr>,
    shares: Arc<Shares>,
}

impl Admission {
    /// With `max` places.
    #[must_use]
    pub fn new(max: usize) -> Admission {
        let rate = Rate { per_s: 1.0, burst: FORGIVEN_S + UNHEARD_MAX_S };
        Admission {
            max,
            known: Recent::default(),
            penalties: Limiter::new(rate),
            shares: Shares::new(max),
        }
    }

    /// A place for a connection `from` an address, for as long as it is half open. `chance` is a
    /// number from 0 to 1, a new one each time.
    pub fn admit(&self, from: IpAddr, now: Instant, chance: f64) -> Result<Share, Denied> {
        let network = network(from);
        let is_known = self.known.contains(&network);
        if !is_known && self.penalties.missing_of(&network, now) >= FORGIVEN_S {
            return Err(Denied::Penalty);
        }
        let share = self.share_of(from, self.max);
        let taken = self.shares.taken();
        if !is_known {
            let (half, last_quarter) = (self.max / 2, self.max - self.max / 4);
            let over = taken.saturating_sub(half) as f64 / (last_quarter - half).max(1) as f64;
            if taken >= last_quarter {
                return Err(Denied::Full(self.max));
            }
            if chance < over {
                return Err(Denied::Chance(taken));
            }
        }
        match self.shares.take(network, share) {
            Some(share) => Ok(share),
            None if self.shares.taken() >= self.max => Err(Denied::Full(self.max)),
            None => Err(Denied::Share(share)),
        }
    }

    /// How many of `max` places the network of an address may have.
    #[must_use]
    pub fn share_of(&self, from: IpAddr, max: usize) -> usize {
        if self.knows(from) { max / 2 } else { max / PARTS }.max(SHARE_MIN)
    }

    /// Whether somebody at the network of an address was served before.
    #[must_use]
    pub fn knows(&self, from: IpAddr) -> bool {
        self.known.contains(&network(from))
    }

    /// How long a handshake may take now, if it may take `usual` when there is room.
    #[must_use]
    pub fn patience(&self, usual: Duration) -> Duration {
        if self.shares.is_half_full() { (usual / 4).max(HURRY_MIN).min(usual) } else { usual }
    }

    /// A connection from there came to nothing by its own fault.
    pub fn punish(&self, from: IpAddr, fault: Fault, now: Instant) {
        self.penalties.charge(&network(from), fault.penalty_s(), now);
    }

    /// Somebody there is served: from now on that network is known, and what it did is forgiven.
    pub fn welcome(&self, from: IpAddr) {
        let network = network(from);
        self.known.insert(&network);
        self.penalties.give(&network, FORGIVEN_S + UNHEARD_MAX_S);
    }
}

/// Places that networks, or whatever else tells clients apart, share.
#[derive(Debug)]
pub struct Shares<K: Hash + Eq = IpAddr> {
    max: usize,
    held: Mutex<Held<K>>,
}

#[derive(Debug)]
struct Held<K> {
    all: usize,
    by_whom: HashMap<K, usize>,
}

impl<K: Hash + Eq + Copy> Shares<K> {
    /// With `max` places in all.
    #[must_use]
    pub fn new(max: usize) -> Arc<Shares<K>> {
        Arc::new(Shares { max, held: Mutex::new(Held { all: 0, by_whom: HashMap::new() }) })
    }

    /// A place for somebody who may have `most` of them. Given back when dropped.
    #[must_use]
    pub fn take(self: &Arc<Self>, whose: K, most: usize) -> Option<Share<K>> {
        let mut held = self.held.lock();
        let own = held.by_whom.get(&whose).copied().unwrap_or(0);
        if held.all >= self.max || own >= most {
            return None;
        }
        held.all += 1;
        held.by_whom.insert(whose, own + 1);
        Some(Share { shares: Arc::clone(self), whose })
    }

    /// Places that are taken.
    #[must_use]
    pub fn taken(&self) -> usize {
        self.held.lock().all
    }

    /// Whether half of the places or more are taken.
    #[must_use]
    pub fn is_half_full(&self) -> bool {
        self.taken() * 2 >= self.max
    }
}

/// A place that is taken.
#[derive(Debug)]
pub struct Share<K: Hash + Eq = IpAddr> {
    shares: Arc<Shares<K>>,
    whose: K,
}

impl<K: Hash + Eq> Drop for Share<K> {
    fn drop(&mut self) {
        let mut held = self.shares.held.lock();
        held.all -= 1;
        if let Some(own) = held.by_whom.get_mut(&self.whose) {
            *own -= 1;
            if *own == 0 {
                held.by_whom.remove(&self.whose);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(number: usize) -> IpAddr {
        let number = u32::try_from(number).expect("a small number");
        IpAddr::from((0xC633_6400 + number).to_be_bytes())
    }

    /// Even chances, one after the other.
    fn chances() -> impl FnMut() -> f64 {
        let mut next = 0.0;
        move || {
            next = (next + 0.618_034) % 1.0;
            next
        }
    }

    /// Silent connections from as many networks as one likes: whoever was served comes back, and
    /// strangers still have a chance.
    #[test]
    fn a_flood_keeps_out_neither_those_who_are_known_nor_all_others() {
        let (admission, now) = (Admission::new(256), Instant::now());
        let mut chance = chances();
        let old = address(100_000);
        admission.welcome(old);
        let flood: Vec<_> = (0..10_000)
            .filter_map(|number| admission.admit(address(number), now, chance()).ok())
            .collect();
        assert!((128..=192).contains(&flood.len()), "{} got in", flood.len());
        let back = (0..64).filter_map(|_| admission.admit(old, now, chance()).ok());
        let back: Vec<_> = back.collect();
        assert_eq!(back.len(), 64, "the last quarter is for those who are known");
        assert_eq!(admission.patience(Duration::from_secs(10)), Duration::from_millis(2_500));
        drop((flood, back));
        assert_eq!(admission.patience(Duration::from_secs(10)), Duration::from_secs(10));
        assert!(admission.shares.held.lock().by_whom.is_empty());
    }

    #[test]
    fn places_get_scarce_before_they_are_gone() {
        let (admission, now) = (Admission::new(256), Instant::now());
        let held: Vec<_> =
            (0..128).map(|number| admission.admit(address(number), now, 0.0)).collect();
        assert!(held.iter().all(Result::is_ok), "half of them are had for the asking");
        let more: Vec<_> = (0..32)
            .filter_map(|number| admission.admit(address(1_000 + number), now, 0.99).ok())
            .collect();
        assert_eq!(more.len(), 32);
        let lucky = (0..100)
            .filter(|part| admission.admit(address(5_000), now, f64::from(*part) / 100.0).is_ok());
        assert_eq!(lucky.count(), 50, "half way to the last quarter, every second one");
    }

    #[test]
    fn one_network_has_its_share_and_no_more() {
        let (admission, now) = (Admission::new(256), Instant::now());
        let one = address(1);
        let held: Vec<_> = (0..256).filter_map(|_| admission.admit(one, now, 1.0).ok()).collect();
        assert_eq!(held.len(), 32);
        assert_eq!(admission.admit(one, now, 1.0).expect_err("enough"), Denied::Share(32));
        admission.admit(address(2), now, 1.0).expect("another one");
    }

    #[test]
    fn who_comes_to_nothing_again_and_again_is_not_heard_for_a_while() {
        let (admission, now) = (Admission::new(256), Instant::now());
        let (bad, good) = (address(1), address(2));
        for _ in 0..3 {
            admission.admit(bad, now, 1.0).expect("anybody may fail three times");
            admission.punish(bad, Fault::Silent, now);
        }
        admission.admit(bad, now, 1.0).expect("12 s are forgiven");
        for _ in 0..100 {
            admission.punish(bad, Fault::Garbage, now);
        }
        assert_eq!(admission.admit(bad, now, 1.0).expect_err("unheard"), Denied::Penalty);
        admission.admit(good, now, 1.0).expect("somebody else");
        let later = now + Duration::from_secs(61);
        admission.admit(bad, later, 1.0).expect("a minute is the most");
        // Whoever is served is forgiven.
        for _ in 0..100 {
            admission.punish(bad, Fault::Garbage, later);
        }
        admission.welcome(bad);
        admission.admit(bad, later, 1.0).expect("known");
    }
}
