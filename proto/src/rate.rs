//! The rate that a session is used to: the highest of late.
//!
//! A server to which a session moves starts sending at this rate, because finding it out anew takes
//! seconds. A rate that was reached a minute ago says little of now, so it fades with time.

use core::time::Duration;

use crate::time::Instant;

/// Half of the highest rate is forgotten in this time: longer than a pause between two requests,
/// shorter than it takes until the path to another place has become a different one.
const HALF_LIFE: Duration = Duration::from_secs(7);

/// A measured rate is one only over at least this time. Over less, one burst counts too much.
pub const OVER: Duration = Duration::from_millis(100);

/// The highest rate of late, bytes a second.
#[derive(Clone, Copy, Debug, Default)]
pub struct RecentRate {
    rate: f64,
    at: Instant,
}

impl RecentRate {
    /// `bytes` came in the time `over`, which ends now. Ignored if that is too short to be a rate.
    pub fn note(&mut self, now: Instant, bytes: u64, over: Duration) {
        if over < OVER {
            return;
        }
        let new = bytes as f64 / over.as_secs_f64();
        *self = RecentRate { rate: new.max(self.faded(now)), at: now };
    }

    /// The rate, as of now.
    #[must_use]
    pub fn at(&self, now: Instant) -> u64 {
        self.faded(now) as u64
    }

    fn faded(&self, now: Instant) -> f64 {
        let halvings = (now - self.at).as_secs_f64() / HALF_LIFE.as_secs_f64();
        self.rate * (-halvings).exp2()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;
    const SECOND: Duration = Duration::from_secs(1);

    fn second(seconds: u64) -> Instant {
        Instant(seconds * 1_000_000)
    }

    #[test]
    fn the_highest_rate_of_late_counts() {
        let mut rate = RecentRate::default();
        rate.note(second(10), 4 * MIB, SECOND);
        rate.note(second(10), MIB, SECOND);
        assert_eq!(rate.at(second(10)), 4 * MIB);
        rate.note(second(11), 8 * MIB, SECOND);
        assert_eq!(rate.at(second(11)), 8 * MIB);
    }

    #[test]
    fn it_fades_with_time_and_not_with_the_number_of_measurements() {
        let (mut busy, mut idle) = (RecentRate::default(), RecentRate::default());
        busy.note(second(0), 4 * MIB, SECOND);
        idle.note(second(0), 4 * MIB, SECOND);
        for tenth in 1..=70 {
            busy.note(Instant(tenth * 100_000), 0, Duration::from_millis(100));
        }
        assert_eq!(idle.at(second(7)), 2 * MIB);
        assert!(busy.at(second(7)).abs_diff(2 * MIB) <= 1);
    }

    #[test]
    fn a_burst_is_no_rate() {
        let mut rate = RecentRate::default();
        rate.note(second(1), MIB, Duration::from_millis(99));
        assert_eq!(rate.at(second(1)), 0);
        rate.note(second(1), MIB, Duration::from_millis(100));
        assert_eq!(rate.at(second(1)), 10 * MIB);
    }
}
