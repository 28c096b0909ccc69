//! Which of a cluster's keys is used on which day (R97).
//!
//! A cluster has another key every day. The key of a day makes the key of the next one and cannot
//! be made from it, so all servers have the same keys without a word, and what is erased is gone
//! for good. How keys are made is decided elsewhere; here is which.

use std::time::Duration;

use crate::ticket::{LEEWAY_S, TICKET_LEEWAY_S};

/// A day, in seconds: keys change at midnight, UTC.
const DAY_S: u64 = 24 * 3600;
/// Keys of so many days to come open tickets: the clock of the server that sealed one may be ahead.
const AHEAD: u64 = 1;
/// A daemon erases nothing before it has run for so long: a clock that is wrong when a machine
/// starts is set right by then.
const SETTLED: Duration = Duration::from_secs(600);

/// The days whose keys are of use at some time, counted from 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Days {
    /// The first one that opens tickets.
    pub first: u64,
    /// The one that seals them.
    pub seals: u64,
    /// The last one that opens them.
    pub last: u64,
}

impl Days {
    /// Those of this time, in seconds since 1970, when tickets are good for `life`.
    #[must_use]
    pub fn at(now: u64, life: Duration) -> Self {
        let seals = now / DAY_S;
        let oldest = now.saturating_sub(life.as_secs()).saturating_sub(TICKET_LEEWAY_S + LEEWAY_S);
        Self { first: oldest / DAY_S, seals, last: seals + AHEAD }
    }

    /// Whether a daemon that has run for `up` makes a key of the day `held` into that of the first
    /// day of use, and forgets it.
    #[must_use]
    pub fn erases(&self, held: u64, up: Duration) -> bool {
        held < self.first && up >= SETTLED
    }

    /// What is wrong with a key of the day `held`.
    #[must_use]
    pub fn warning(&self, held: u64) -> Option<String> {
        (held > self.last).then(|| {
            format!(
                "cluster_key_file has a key that begins in {} days: it was changed while the \
                 clock of this machine was ahead; copy the file of another server here",
                held - self.seals
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIFE: Duration = Duration::from_secs(72 * 3600);

    /// R97.
    #[test]
    fn a_ticket_opens_as_long_as_it_is_good_wherever_the_clocks_stand() {
        for sealed in (100 * DAY_S..101 * DAY_S).step_by(601) {
            let seals = Days::at(sealed, LIFE).seals;
            // The opener's clock: behind by all that is tolerated, up to the ticket's last moment.
            let last = sealed + LIFE.as_secs() + TICKET_LEEWAY_S;
            for now in [sealed - LEEWAY_S, sealed, sealed + DAY_S, last, last + LEEWAY_S] {
                let days = Days::at(now, LIFE);
                assert!((days.first..=days.last).contains(&seals), "{sealed} {now} {days:?}");
            }
        }
    }

    #[test]
    fn a_key_is_forgotten_when_no_ticket_of_its_day_is_good() {
        let days = Days::at(100 * DAY_S + 7 * 3600, LIFE);
        assert_eq!(days, Days { first: 97, seals: 100, last: 101 });
        assert!(days.erases(96, SETTLED) && !days.erases(97, SETTLED));
        let early = SETTLED.saturating_sub(Duration::from_secs(1));
        assert!(!days.erases(0, early), "the clock may be wrong");
        assert_eq!(Days::at(100 * DAY_S, Duration::ZERO).first, 99);
        assert_eq!(Days::at(0, LIFE), Days { first: 0, seals: 0, last: 1 });
    }

    #[test]
    fn a_key_from_the_future_is_said() {
        let days = Days::at(100 * DAY_S, LIFE);
        assert_eq!(days.warning(101), None);
        assert!(days.warning(130).unwrap().contains("begins in 30 days"));
    }
}
