//! Whether a session is to blame for the ends of the processes that had it (R105).

use core::time::Duration;

use crate::time::Instant;

/// So many processes may die over one session.
const DEATHS_MAX: usize = 3;
/// Within this time.
const WITHIN: Duration = Duration::from_secs(60);

/// When processes died while they worked for one session: the last times, in no order. 0 is none.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub struct Deaths(pub [u64; DEATHS_MAX]);

impl Deaths {
    /// One more died at about `now`. True if the session is to be given up, so that the others may
    /// live.
    pub fn note(&mut self, now: Instant) -> bool {
        let oldest = self.0.iter_mut().min().expect("there are some");
        *oldest = now.0.max(1);
        let within = WITHIN.as_micros() as u64;
        self.0.iter().all(|at| *at > 0 && now.0.saturating_sub(*at) < within)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant(seconds * 1_000_000)
    }

    /// R105.
    #[test]
    fn three_deaths_within_a_minute_are_too_many() {
        let mut deaths = Deaths::default();
        assert!(!deaths.note(at(0)));
        assert!(!deaths.note(at(29)));
        assert!(deaths.note(at(59)));
        assert!(!deaths.note(at(90)), "the first two were long ago");
        assert!(!deaths.note(at(200)));
        assert!(!deaths.note(at(230)));
        assert!(deaths.note(at(240)));
    }

    #[test]
    fn deaths_that_are_spread_out_are_forgiven() {
        let mut deaths = Deaths::default();
        assert!((1..100).all(|n| !deaths.note(at(n * 30))));
    }
}
