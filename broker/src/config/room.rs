//! What of the table `[limits]` can be had on this machine.

use stp_net::machine;
use stp_proto::budget::{self, Seats};

use super::Limits;

impl Limits {
    /// As many sessions as memory and descriptors are enough for.
    pub(super) fn fit(&mut self, given: Option<usize>) -> Result<(), (&'static str, String)> {
        let most = budget::most_sessions(self.memory);
        let wanted = (given.unwrap_or(self.sessions_max.min(most)), given.is_some());
        // The app, its link, and the one that takes its place.
        let sessions = Seats { key: "sessions_max", wanted, each: 3, share: 1 };
        let fitted = budget::fit(machine::descriptors(), [sessions]);
        [self.sessions_max] = fitted.map_err(|error| (error.key, error.to_string()))?;
        if self.sessions_max > most {
            let needed = budget::memory_for(self.sessions_max).div_ceil(1 << 20);
            let has = self.memory >> 20;
            let what = format!("they need {needed} MiB in limits.memory, and there are {has}");
            return Err(("sessions_max", what));
        }
        Ok(())
    }
}
