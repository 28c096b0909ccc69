//! What a session costs its daemon, and that it keeps to the daemon's budget.

use crate::carrier::Carrier;
use crate::driver::Driver;
use crate::far::Far;
use crate::near::Near;
use crate::stake::Stake;

impl<N: Near, F: Far> Driver<N, F> {
    /// What it holds comes out of a budget.
    #[must_use]
    pub fn with_stake(mut self, stake: Stake) -> Driver<N, F> {
        self.stake = stake;
        self
    }

    /// What it costs its daemon, bytes.
    pub(crate) fn cost(&self) -> u64 {
        let links: usize = self.links.iter().map(|(_, link)| link.memory()).sum();
        self.session.cost() + (links + self.near.memory()) as u64
    }

    /// Notes what it holds, and lets the session hold what it may.
    pub(crate) fn keep_to_budget(&mut self) {
        let cost = self.cost();
        let level = self.stake.note(cost);
        self.session.hold_to(level);
    }
}
