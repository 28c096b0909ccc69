//! When the server to which a session would go next is told what it receives, so that it can get
//! ready before it is needed (R69).

use core::time::Duration;

use super::action::{Around, Seek};
use super::machine::Course;
use crate::chain::MARK_EVERY;
use crate::mutant::mutant;
use crate::select::{Rank, Want};
use crate::time::Instant;

/// A server is told again after this time if the app has received more, so that it can follow. If
/// not, it is told after twice as long, and so on up to the most: it may have been started anew.
const AGAIN_MIN: Duration = Duration::from_secs(15);
const AGAIN_MAX: Duration = Duration::from_secs(600);

/// What was told of the response under way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Prepared {
    /// Where the response begins, and the server that was told.
    told: Option<(u64, Rank)>,
    /// What the app had received then.
    received: u64,
    at: Instant,
    pause: Duration,
}

impl Prepared {
    /// Whether `next` is to be told now of a response whose body begins at `from` and of which the
    /// app has all below `received`.
    pub fn is_due(&mut self, now: Instant, from: u64, received: u64, next: Rank) -> bool {
        // Less is compared at once.
        if received.saturating_sub(from) < MARK_EVERY {
            return false;
        }
        if self.told != Some((from, next)) {
            *self = Self { told: Some((from, next)), pause: Duration::ZERO, ..Self::default() };
        } else if received > self.received {
            self.pause = AGAIN_MIN;
        }
        if now < self.at + self.pause {
            return false;
        }
        mutant!(PrepareUntold => return false);
        (self.received, self.at) = (received, now);
        self.pause = (self.pause * 2).clamp(AGAIN_MIN, AGAIN_MAX);
        true
    }
}

impl Course {
    /// The server to which the session would go if it had to leave its home now, as far as is
    /// known.
    #[must_use]
    pub fn next_best(&self, now: Instant, around: &impl Around) -> Option<Rank> {
        let seek = Seek {
            want: Want::Resume { transferable: true },
            choice: self.choice.clone(),
            leave: None,
            home_last: false,
            connect_until: now,
            lost_at: now,
            deadlines: self.deadlines,
        };
        let wanted = seek.wanted(now, around);
        let free = wanted.order.iter().filter(|one| Some(one.rank) != self.home());
        let mut free = free.filter(|one| one.not_before.is_none_or(|at| at <= now));
        free.find(|one| around.standing(one.rank).is_open()).map(|one| one.rank)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> Instant {
        Instant(seconds * 1_000_000)
    }

    #[test]
    fn a_response_that_stands_still_is_told_ever_more_rarely() {
        let mut prepared = Prepared::default();
        let far = 100 + MARK_EVERY;
        assert!(!prepared.is_due(at(1), 100, far - 1, 1), "it is compared at once");
        let told: Vec<u64> =
            (1..200).filter(|second| prepared.is_due(at(*second), 100, far, 1)).collect();
        assert_eq!(told, [1, 16, 46, 106]);
        let last = (200..5_000).filter(|second| prepared.is_due(at(*second), 100, far, 1));
        assert!(last.collect::<Vec<_>>().windows(2).all(|two| two[1] - two[0] <= 600));
    }

    #[test]
    fn a_response_that_goes_on_is_told_every_15_s() {
        let mut prepared = Prepared::default();
        let far = |second: u64| 100 + MARK_EVERY + second * 1_000;
        let told: Vec<u64> =
            (1..60).filter(|second| prepared.is_due(at(*second), 100, far(*second), 1)).collect();
        assert_eq!(told, [1, 16, 31, 46]);
        // It stands still for a while, and goes on.
        let told: Vec<u64> =
            (60..130).filter(|second| prepared.is_due(at(*second), 100, far(60), 1)).collect();
        assert_eq!(told, [61, 91]);
        assert!(prepared.is_due(at(130), 100, far(130), 1));
        assert!(!prepared.is_due(at(140), 100, far(140), 1));
    }

    #[test]
    fn another_server_and_another_response_are_told_at_once() {
        let mut prepared = Prepared::default();
        assert!(prepared.is_due(at(1), 0, MARK_EVERY, 1));
        assert!(!prepared.is_due(at(2), 0, MARK_EVERY, 1));
        assert!(prepared.is_due(at(2), 0, MARK_EVERY, 2));
        assert!(prepared.is_due(at(3), MARK_EVERY, 3 * MARK_EVERY, 2));
    }
}
