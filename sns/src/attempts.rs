//! Failed attempts to log in, and the clients that have to wait because of them.

use std::net::IpAddr;
use std::time::{Duration, Instant};

use stp_net::key::PublicKey;
use stp_net::limit::{Limiter, Rate, Recent, network, site};

use crate::config::Limits;

/// Failed attempts. Nobody can lock somebody else out:
///
/// - the network is charged first, so that one network cannot use up a user's attempts for others;
/// - a user who is guessed at from everywhere still has one attempt from each network;
/// - a client whose key has logged in as this user before is limited by itself alone. The key is
///   proved by the link, so nobody else comes under it.
#[derive(Debug)]
pub struct Attempts {
    site: Limiter<IpAddr>,
    network: Limiter<IpAddr>,
    both: Limiter<(String, IpAddr)>,
    user: Limiter<str>,
    /// One attempt of a network for a user under attack.
    first: Limiter<(String, IpAddr)>,
    own: Limiter<(String, PublicKey)>,
    known: Recent<(String, PublicKey)>,
}

/// From one network, the attempts at one user may be made at this many users.
const USERS_OF_A_NETWORK: f64 = 10.0;

impl Attempts {
    /// Limits as configured: those of one user from one network.
    #[must_use]
    pub fn new(limits: &Limits) -> Attempts {
        let rate = limits.attempts;
        Attempts {
            site: Limiter::new(rate.times(USERS_OF_A_NETWORK * 16.0)),
            network: Limiter::new(rate.times(USERS_OF_A_NETWORK)),
            both: Limiter::new(rate),
            user: Limiter::new(rate.times(10.0)),
            first: Limiter::new(Rate { burst: 1.0, ..rate }),
            own: Limiter::new(rate),
            known: Recent::default(),
        }
    }

    /// A client tries to log in. The error says how long it must wait.
    pub fn begin(
        &self,
        user: &str,
        (key, address): (PublicKey, IpAddr),
        now: Instant,
    ) -> Result<(), Duration> {
        let own = (user.to_owned(), key);
        if self.known.contains(&own) {
            return self.own.take(&own, 1.0, now);
        }
        let network = network(address);
        let both = (user.to_owned(), network);
        self.site.take(&site(address), 1.0, now)?;
        self.network.take(&network, 1.0, now)?;
        self.both.take(&both, 1.0, now)?;
        let first = self.first.take(&both, 1.0, now);
        self.user.take(user, 1.0, now).or(first)
    }

    /// The password was right, so the attempt does not count.
    pub fn succeeded(&self, user: &str, (key, address): (PublicKey, IpAddr)) {
        let (network, own) = (network(address), (user.to_owned(), key));
        let both = (user.to_owned(), network);
        self.site.give(&site(address), 1.0);
        self.network.give(&network, 1.0);
        self.both.give(&both, 1.0);
        self.first.give(&both, 1.0);
        self.user.give(user, 1.0);
        self.own.give(&own, 1.0);
        self.known.insert(&own);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempts() -> Attempts {
        let text = "listen = \"127.0.0.1:1\"\ncluster = \"c\"\ncluster_key_file = \"/k\"\n";
        let config = crate::config::parse(std::path::Path::new("sns.toml"), text);
        Attempts::new(&config.expect("enough").limits)
    }

    fn caller(key: u8, address: &str) -> (PublicKey, IpAddr) {
        (PublicKey([key; 32]), address.parse().expect("an address"))
    }

    #[test]
    fn guessing_from_everywhere_does_not_lock_the_user_out() {
        let (attempts, now) = (attempts(), Instant::now());
        for network in 0..=255u8 {
            for _ in 0..20 {
                let _ = attempts.begin("alice", caller(9, &format!("198.51.100.{network}")), now);
            }
        }
        attempts.begin("alice", caller(1, "192.0.2.1"), now).expect("the first from a network");
        assert!(attempts.begin("alice", caller(1, "192.0.2.1"), now).is_err(), "and one only");
    }

    #[test]
    fn a_client_that_has_logged_in_before_is_not_locked_out_by_its_own_network() {
        let (attempts, now) = (attempts(), Instant::now());
        let alice = caller(1, "192.0.2.1");
        attempts.begin("alice", alice, now).expect("the first");
        attempts.succeeded("alice", alice);
        for user in 0..100 {
            for _ in 0..10 {
                let _ = attempts.begin(&format!("user{user}"), caller(9, "192.0.2.1"), now);
                let _ = attempts.begin("alice", caller(9, "192.0.2.1"), now);
            }
        }
        assert!(attempts.begin("alice", caller(2, "192.0.2.1"), now).is_err(), "used up");
        attempts.begin("alice", alice, now).expect("she is known");
        let elsewhere = caller(1, "203.0.113.1");
        attempts.begin("alice", elsewhere, now).expect("she is known everywhere");
        // Whether it is known or not, no client can guess without end.
        assert!((0..10).any(|_| attempts.begin("alice", elsewhere, now).is_err()));
    }

    #[test]
    fn one_network_may_try_a_user_a_few_times() {
        let (attempts, now) = (attempts(), Instant::now());
        let tried = (0..20).filter(|_| attempts.begin("a", caller(1, "192.0.2.1"), now).is_ok());
        assert_eq!(tried.count(), 5);
    }
}
