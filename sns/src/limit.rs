//! How often one may ask: a bucket of requests per network, refilled with time.
//!
//! Clients make keys at will, so they are told apart by network: an IPv4 address, an IPv6 /64.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use parking_lot::Mutex;

/// Buckets kept at most; full ones are forgotten first, because they say nothing.
const BUCKETS_MAX: usize = 100_000;

/// A rate and a burst.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rate {
    /// Tokens per second.
    pub per_s: f64,
    /// The most that are saved up.
    pub burst: f64,
}

/// Buckets by whatever tells those apart who are limited.
#[derive(Debug)]
pub struct Limiter<K> {
    rate: Rate,
    buckets: Mutex<HashMap<K, (f64, Instant)>>,
}

impl<K: Hash + Eq> Limiter<K> {
    /// Limits to `rate`.
    #[must_use]
    pub fn new(rate: Rate) -> Limiter<K> {
        Limiter { rate, buckets: Mutex::default() }
    }

    /// Takes `count` tokens; else says how long until they would be there.
    pub fn take(&self, key: K, count: f64, now: Instant) -> Result<(), Duration> {
        let Rate { per_s, burst } = self.rate;
        let mut buckets = self.buckets.lock();
        let left = |(tokens, at): (f64, Instant)| {
            (tokens + now.saturating_duration_since(at).as_secs_f64() * per_s).min(burst)
        };
        if buckets.len() >= BUCKETS_MAX && !buckets.contains_key(&key) {
            buckets.retain(|_, bucket| left(*bucket) < burst);
            if buckets.len() >= BUCKETS_MAX {
                return Err(Duration::from_secs(1));
            }
        }
        let bucket = buckets.entry(key).or_insert((burst, now));
        let tokens = left(*bucket);
        if tokens < count {
            *bucket = (tokens, now);
            return Err(Duration::from_secs_f64((count - tokens) / per_s));
        }
        *bucket = (tokens - count, now);
        Ok(())
    }
}

impl<K: Hash + Eq> Limiter<K> {
    /// Gives tokens back that turned out not to count.
    pub fn give(&self, key: &K, count: f64) {
        if let Some((tokens, _)) = self.buckets.lock().get_mut(key) {
            *tokens = (*tokens + count).min(self.rate.burst);
        }
    }
}

/// The network a client is limited by.
#[must_use]
pub fn network(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(v6) => {
            let bits = v6.to_bits() & (u128::MAX << 64);
            IpAddr::V6(Ipv6Addr::from_bits(bits))
        }
        v4 => v4,
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
    }

    #[test]
    fn a_whole_ipv6_network_is_one_client() {
        let of = |text: &str| network(text.parse().expect("an address"));
        assert_eq!(of("2001:db8::1"), of("2001:db8::ffff"));
        assert_ne!(of("2001:db8::1"), of("2001:db8:0:1::1"));
        assert_eq!(of("::ffff:192.0.2.1"), of("192.0.2.1"));
        assert_ne!(of("192.0.2.1"), of("192.0.2.2"));
    }
}
