//! What one session holds of its daemon's budget.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use parking_lot::Mutex;
use stp_net::key::PublicKey;
use stp_proto::budget::{Budget, Level, OWN, Spent};
use tokio::sync::Notify;

/// Changes of less than this are not noted, so that a busy session seldom asks.
const STEP: u64 = 64 << 10;

/// Who holds something.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Holder {
    /// A client.
    Key(PublicKey),
    /// Everybody there.
    Network(IpAddr),
}

/// The budget of a daemon, shared by its sessions.
#[derive(Debug)]
pub struct Purse {
    budget: Mutex<Budget<Holder>>,
    /// How often the daemon's level has changed.
    changes: AtomicU32,
    short: Notify,
}

impl Purse {
    /// Shares `memory` bytes among at most `sessions` sessions.
    #[must_use]
    pub fn new(memory: u64, sessions: usize) -> Arc<Purse> {
        Arc::new(Purse {
            budget: Mutex::new(Budget::new(memory, sessions)),
            changes: AtomicU32::new(0),
            short: Notify::new(),
        })
    }

    /// Looks at the budget, or asks it for a decision.
    pub fn look<T>(&self, look: impl FnOnce(&Budget<Holder>) -> T) -> T {
        look(&self.budget.lock())
    }

    /// Whether a new session of these holders can be taken.
    ///
    /// # Errors
    /// What is spent.
    pub fn admit(&self, holders: &[Holder]) -> Result<(), Spent> {
        self.budget.lock().admit(holders)
    }

    /// Until the budget gets short, or most sessions that may be are there.
    pub async fn short(&self) {
        self.short.notified().await;
    }

    fn change<T>(&self, change: impl FnOnce(&mut Budget<Holder>) -> T) -> T {
        let mut budget = self.budget.lock();
        let (was, uncrowded) = (budget.level(), !budget.is_crowded());
        let level = change(&mut budget);
        let is = budget.level();
        if uncrowded && budget.is_crowded() {
            self.short.notify_one();
        }
        drop(budget);
        if is != was {
            self.changes.fetch_add(1, Ordering::Relaxed);
            tracing::debug!(was = was.word(), is = is.word(), "memory");
            if is > was {
                self.short.notify_one();
            }
        }
        level
    }
}

/// What one session holds of a budget; given back when it is dropped.
#[derive(Debug, Default)]
pub struct Stake {
    purse: Option<Arc<Purse>>,
    holders: Vec<Holder>,
    noted: u64,
    level: Level,
    changes: u32,
}

impl Stake {
    /// That of a session of these holders, which holds nothing yet.
    #[must_use]
    pub fn new(purse: &Arc<Purse>, holders: Vec<Holder>) -> Stake {
        purse.change(|budget| budget.enter(&holders));
        Stake { purse: Some(Arc::clone(purse)), holders, ..Stake::default() }
    }

    /// The same, if a new session of these holders can be taken: from now on it counts.
    ///
    /// # Errors
    /// What is spent.
    pub fn admitted(purse: &Arc<Purse>, holders: Vec<Holder>) -> Result<Stake, Spent> {
        purse.change(|budget| {
            budget.admit(&holders)?;
            budget.enter(&holders);
            Ok(())
        })?;
        Ok(Stake { purse: Some(Arc::clone(purse)), holders, ..Stake::default() })
    }

    /// The session costs so much now. Returns how short memory is for it.
    pub(crate) fn note(&mut self, cost: u64) -> Level {
        let Some(purse) = &self.purse else { return Level::Plenty };
        let changes = purse.changes.load(Ordering::Relaxed);
        let moved = cost.abs_diff(self.noted) >= STEP || (cost <= OWN && self.noted > OWN);
        if moved || changes != self.changes {
            self.level = purse.change(|budget| budget.note(&self.holders, self.noted, cost));
            (self.noted, self.changes) = (cost, changes);
        }
        self.level
    }
}

impl Drop for Stake {
    fn drop(&mut self) {
        if let Some(purse) = &self.purse {
            purse.change(|budget| budget.leave(&self.holders, self.noted));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_gives_back_what_it_held_and_others_hear_of_it() {
        let purse = Purse::new(8 << 20, 8);
        let network = Holder::Network([192, 0, 2, 1].into());
        let (mut one, mut other) =
            (Stake::new(&purse, vec![network]), Stake::new(&purse, Vec::new()));
        assert_eq!(one.note(1 << 20), Level::Plenty);
        assert_eq!(one.note((1 << 20) + 1), Level::Plenty);
        assert_eq!(purse.look(Budget::held).0, (1 << 20) - OWN, "a byte is not worth a lock");
        assert_eq!(one.note(9 << 20), Level::Full);
        assert_eq!(other.note(0), Level::Full, "the level has changed since it looked");
        assert!(purse.admit(&[]).is_err());
        assert!(Stake::admitted(&purse, Vec::new()).is_err());
        drop(one);
        assert!(Stake::admitted(&purse, vec![network]).is_ok());
        assert_eq!(other.note(0), Level::Plenty);
        assert_eq!(purse.look(Budget::held).0, 0);
    }

    #[test]
    fn a_session_of_no_budget_is_never_short() {
        assert_eq!(Stake::default().note(1 << 40), Level::Plenty);
    }
}
