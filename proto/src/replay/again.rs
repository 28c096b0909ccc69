//! How often, and how soon, a service that broke a response off is asked for the rest.
//!
//! A service that closes because the app's side was away has usually sent something since it was
//! asked last; it is asked again at once. One that gives nothing more is not asked for ever.

use core::time::Duration;

/// The same position is asked for at most this often.
const TRIES_MAX: u32 = 3;
/// A service that gave at least this much since it was asked last is asked again at once.
const PROGRESS: u64 = 256 * 1024;
/// The first pause before a service is asked again that gave less; each further one is twice as
/// long, up to the most.
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);

/// How often the rest of one response was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Again {
    asked_at: Option<u64>,
    tries: u32,
    pause: Duration,
}

impl Again {
    /// The response broke off at down position `at`. Returns the pause before the service is asked
    /// for the rest, or `None` if it is not to be asked any more.
    pub fn ask(&mut self, at: u64) -> Option<Duration> {
        let gained = self.asked_at.map(|before| at.saturating_sub(before));
        (self.tries, self.pause) = match gained {
            Some(0) => (self.tries + 1, (self.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX)),
            Some(gained) if gained < PROGRESS => (1, (self.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX)),
            Some(_) | None => (1, Duration::ZERO),
        };
        self.asked_at = Some(at);
        (self.tries <= TRIES_MAX).then_some(self.pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_position_is_asked_for_three_times() {
        let mut again = Again::default();
        let pauses: Vec<_> = (0..5).map(|_| again.ask(1000)).collect();
        let millis = Duration::from_millis;
        assert_eq!(pauses, [Some(millis(0)), Some(millis(100)), Some(millis(200)), None, None]);
    }

    #[test]
    fn a_service_that_gives_little_is_asked_more_and_more_rarely() {
        let mut again = Again::default();
        let pauses: Vec<_> = (0..9).filter_map(|at| again.ask(at)).collect();
        assert_eq!(pauses.len(), 9);
        assert!(pauses.windows(2).all(|two| two[0] <= two[1]) && pauses[8] == PAUSE_MAX);
        assert_eq!(again.ask(8 + PROGRESS), Some(Duration::ZERO));
    }
}
