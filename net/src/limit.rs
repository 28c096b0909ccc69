//! How often somebody may ask: a bucket of tokens per network (or whatever else tells people
//! apart), which refills with time.
//!
//! Clients make keys at will, so they are told apart by network: an IPv4 address, an IPv6 /64.
//! The memory for it is fixed, whoever asks: every key has two places in a table of fixed size,
//! chosen by two secret hashes, and is refused only when both are empty. Whoever shares one place
//! with somebody busy has the other one; nothing is ever searched or swept.

use std::hash::{BuildHasher, Hash, RandomState};
use std::marker::PhantomData;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Places in the table of a limiter: 16 bytes each, so 2 MiB.
const PLACES: usize = 1 << 17;

/// A rate and a burst.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Tokens per second.
    pub per_s: f64,
    /// The most that are saved up.
    pub burst: f64,
}

impl Rate {
    /// The same, `times` as high.
    #[must_use]
    pub fn times(self, times: f64) -> Rate {
        Rate { per_s: self.per_s * times, burst: self.burst * times }
    }
}

/// Tokens that are missing at a moment, in seconds since the limiter was made. An untouched place
/// misses none.
#[derive(Debug, Clone, Copy, Default)]
struct Bucket {
    missing: f64,
    at: f64,
}

/// Buckets by network, user, or whatever tells the limited clients apart.
#[derive(Debug)]
pub struct Limiter<K: ?Sized> {
    rate: Rate,
    since: Instant,
    hashes: [RandomState; 2],
    places: Mutex<Box<[Bucket]>>,
    key: PhantomData<fn(&K)>,
}

impl<K: Hash + ?Sized> Limiter<K> {
    /// Limits to `rate`.
    #[must_use]
    pub fn new(rate: Rate) -> Limiter<K> {
        Limiter {
            rate,
            since: Instant::now(),
            hashes: [RandomState::new(), RandomState::new()],
            places: Mutex::new(vec![Bucket::default(); PLACES].into()),
            key: PhantomData,
        }
    }

    /// Takes `count` tokens. An error says how long until they would be there.
    pub fn take(&self, key: &K, count: f64, now: Instant) -> Result<(), Duration> {
        let (places, mut table) = (self.places_of(key), self.places.lock());
        let missing = places.map(|place| self.missing(table[place], now));
        let least = missing[0].min(missing[1]);
        let over = least + count - self.rate.burst;
        let taken = if over > 0.0 { 0.0 } else { count };
        let at = now.saturating_duration_since(self.since).as_secs_f64();
        for (place, missing) in places.into_iter().zip(missing) {
            table[place] = Bucket { missing: (missing + taken).min(self.rate.burst), at };
        }
        match over > 0.0 {
            true => Err(Duration::from_secs_f64(over / self.rate.per_s)),
            false => Ok(()),
        }
    }

    /// Takes tokens whether they are there or not; below none it does not go.
    pub fn charge(&self, key: &K, count: f64, now: Instant) {
        let (places, mut table) = (self.places_of(key), self.places.lock());
        let at = now.saturating_duration_since(self.since).as_secs_f64();
        for place in places {
            let missing = self.missing(table[place], now) + count;
            table[place] = Bucket { missing: missing.min(self.rate.burst), at };
        }
    }

    /// How many tokens are missing.
    #[must_use]
    pub fn missing_of(&self, key: &K, now: Instant) -> f64 {
        let (places, table) = (self.places_of(key), self.places.lock());
        let [first, second] = places.map(|place| self.missing(table[place], now));
        first.min(second)
    }

    /// Gives tokens back that turned out not to count.
    pub fn give(&self, key: &K, count: f64) {
        let (places, mut table) = (self.places_of(key), self.places.lock());
        for place in places {
            table[place].missing = (table[place].missing - count).max(0.0);
        }
    }

    fn missing(&self, bucket: Bucket, now: Instant) -> f64 {
        let at = now.saturating_duration_since(self.since).as_secs_f64();
        (bucket.missing - (at - bucket.at).max(0.0) * self.rate.per_s).max(0.0)
    }

    fn places_of(&self, key: &K) -> [usize; 2] {
        let hashes = [self.hashes[0].hash_one(key), self.hashes[1].hash_one(key)];
        hashes.map(|hash| usize::try_from(hash % PLACES as u64).expect("a place of the table"))
    }
}

/// A set of fixed size that forgets: whoever was put in is there until about as many others were
/// as it has places.
#[derive(Debug)]
pub struct Recent<K: ?Sized> {
    hash: RandomState,
    places: Mutex<Box<[u64]>>,
    key: PhantomData<fn(&K)>,
}

impl<K: Hash + ?Sized> Default for Recent<K> {
    fn default() -> Self {
        let places = Mutex::new(vec![0; PLACES].into());
        Recent { hash: RandomState::new(), places, key: PhantomData }
    }
}

impl<K: Hash + ?Sized> Recent<K> {
    /// Puts a key in.
    pub fn insert(&self, key: &K) {
        let (place, mark) = self.place(key);
        self.places.lock()[place] = mark;
    }

    /// Whether a key is in.
    #[must_use]
    pub fn contains(&self, key: &K) -> bool {
        let (place, mark) = self.place(key);
        self.places.lock()[place] == mark
    }

    /// Its place, and the whole of its hash: two keys with the same are not met by chance. Zero
    /// stands for an empty place.
    fn place(&self, key: &K) -> (usize, u64) {
        let mark = self.hash.hash_one(key).max(1);
        (usize::try_from(mark % PLACES as u64).expect("a place of the table"), mark)
    }
}

/// The network a client is limited by.
#[must_use]
pub fn network(address: IpAddr) -> IpAddr {
    front(address, 64)
}

/// The larger network around it: whoever has an IPv6 /48 has 65,536 networks. For IPv4 it is the
/// address itself.
#[must_use]
pub fn site(address: IpAddr) -> IpAddr {
    front(address, 48)
}

fn front(address: IpAddr, v6_bits: u32) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let bits = v6.to_bits() & (u128::MAX << (128 - v6_bits));
            IpAddr::V6(Ipv6Addr::from_bits(bits))
        }
        v4 @ IpAddr::V4(_) => v4,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_let_through_and_then_the_rate() {
        let limiter = Limiter::new(Rate { per_s: 10.0, burst: 3.0 });
        let start = Instant::now();
        for _ in 0..3 {
            assert_eq!(limiter.take("a", 1.0, start), Ok(()));
        }
        let wait = limiter.take("a", 1.0, start).expect_err("the bucket is empty");
        assert!((0.09..0.11).contains(&wait.as_secs_f64()), "{wait:?}");
        assert_eq!(limiter.take("b", 1.0, start), Ok(()), "others are not concerned");
        assert_eq!(limiter.take("a", 1.0, start + Duration::from_millis(101)), Ok(()));
        limiter.give("a", 1.0);
        assert_eq!(limiter.take("a", 1.0, start + Duration::from_millis(102)), Ok(()));
    }

    /// With as many busy keys as half the places, nearly everybody else is still let through.
    #[test]
    fn a_crowd_does_not_shut_others_out_and_costs_no_memory() {
        let limiter = Limiter::new(Rate { per_s: 0.001, burst: 1.0 });
        let start = Instant::now();
        for busy in 0..PLACES / 8 {
            let _ = limiter.take(&busy, 1.0, start);
        }
        let others = PLACES..PLACES + 10_000;
        let refused = others.filter(|other| limiter.take(other, 1.0, start).is_err()).count();
        assert!(refused < 1_000, "{refused} of 10,000 were shut out");
        assert_eq!(limiter.places.lock().len(), PLACES);
    }

    #[test]
    fn what_is_remembered_is_forgotten_only_for_others() {
        let recent = Recent::default();
        assert!(!recent.contains("a"));
        recent.insert("a");
        assert!(recent.contains("a") && !recent.contains("b"));
    }

    #[test]
    fn a_whole_ipv6_network_is_one_client() {
        let of = |text: &str| network(text.parse().expect("an address"));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
        let site = |text: &str| site(text.parse().expect("an address"));
        assert_eq!(site("2001:db8:0:1::1"), site("2001:db8:0:2::1"));
        assert_ne!(site("192.0.2.1"), site("192.0.2.2"));
    }
}
