//! How long something is waited for that is not decided by a course itself.

use core::time::Duration;

use crate::select::GRACE;

/// How long the measurement before a first choice may take.
pub const FIRST_MAX: Duration = Duration::from_millis(400);
/// How much longer than the nearest server another may take to answer then.
const FIRST_LONGER: Duration = Duration::from_millis(20);
/// A session whose server is out of reach looks again for a relay after this time, at most.
const RESCUE_MAX: Duration = Duration::from_secs(5);

/// The first server has answered after this time: how long the others are still waited for. A
/// server that is much farther, or silent, is not worth waiting for.
#[must_use]
pub fn first_longer(answered_after: Duration) -> Duration {
    answered_after + FIRST_LONGER
}

/// The pauses between the looks of a session, whose server is out of reach, for a relay. The
/// straight way has half of the grace of a silent home first.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct RescuePauses(Duration);

impl Default for RescuePauses {
    fn default() -> RescuePauses {
        RescuePauses(GRACE / 2)
    }
}

impl RescuePauses {
    /// How long to wait before the next look.
    pub fn next_pause(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (self.0 * 2).min(RESCUE_MAX);
        pause
    }
}
