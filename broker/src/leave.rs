//! One policy as it is in use: over which interfaces links may leave now, and what holds a session
//! that may not go on.

use std::time::{Duration, Instant};

use parking_lot::Mutex;
use stp_proto::policy::{Interface, Place, Policy, Step, Verdict, judge, step};

use crate::upkeep::Upkeep;

/// A session that did not get to the best interface is tried there again after this time.
const AGAIN: Duration = Duration::from_secs(60);

/// A policy that is in use, and what it says now.
pub struct Leave {
    /// What it is called.
    pub name: String,
    now: Mutex<(Policy, Verdict)>,
    upkeep: Mutex<Upkeep>,
}

impl Leave {
    /// A policy of this name that allows nothing yet.
    #[must_use]
    pub fn new(name: &str) -> Leave {
        Leave { name: name.to_owned(), now: Mutex::default(), upkeep: Mutex::default() }
    }

    /// The interfaces that may be used, the best one first.
    #[must_use]
    pub fn ways(&self) -> Vec<String> {
        self.now.lock().1.allowed.iter().map(|(name, _)| name.clone()).collect()
    }

    /// Why nothing may be used.
    #[must_use]
    pub fn why_not(&self) -> String {
        let why = self.now.lock().1.why_not();
        format!("the policy \"{}\" allows no interface: {why}", self.name)
    }

    /// That it forbids this interface, and why.
    #[must_use]
    pub fn forbids(&self, interface: &str) -> String {
        let rule = self.rule(interface).unwrap_or_else(|| "gone".to_owned());
        format!("the policy \"{}\" forbids {interface}: {rule}", self.name)
    }

    /// How it has its sessions kept.
    #[must_use]
    pub fn upkeep(&self) -> Upkeep {
        *self.upkeep.lock()
    }

    /// Takes over what the configuration says.
    pub fn set(&self, (policy, upkeep): &(Policy, Upkeep)) {
        self.now.lock().0.clone_from(policy);
        *self.upkeep.lock() = *upkeep;
    }

    /// Judges the interfaces anew.
    pub fn judge(&self, interfaces: &[Interface]) {
        let mut now = self.now.lock();
        now.1 = judge(&now.0, interfaces);
    }

    /// What it says now.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        self.now.lock().1.clone()
    }

    /// What it says of an interface.
    #[must_use]
    pub fn rule(&self, interface: &str) -> Option<String> {
        self.now.lock().1.rule(interface).map(ToString::to_string)
    }

    /// What a session does.
    #[must_use]
    pub fn step(&self, place: Place<'_>) -> Step {
        step(&self.now.lock().1, place)
    }

    /// The best interface.
    #[must_use]
    pub fn best(&self) -> Option<String> {
        self.now.lock().1.allowed.first().map(|(name, _)| name.clone())
    }
}

/// What holds a session that is not to go on.
#[derive(Clone, Default)]
pub struct Held {
    /// Its user.
    pub by_user: bool,
    /// Its policy, and why.
    pub by_policy: Option<String>,
    /// The machine is about to sleep.
    by_sleep: bool,
    /// Where it was to go, and when that was tried.
    tried: Option<(String, Instant)>,
}

impl Held {
    /// Whether it is worth trying to get to this interface: it was not tried lately.
    pub fn tries(&mut self, best: String) -> bool {
        let tried = self.tried.as_ref();
        if tried.is_some_and(|(to, at)| *to == best && at.elapsed() < AGAIN) {
            return false;
        }
        self.tried = Some((best, Instant::now()));
        true
    }

    /// Nothing but its policy may hold it.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        !self.by_user && !self.by_sleep
    }

    /// Nothing holds it.
    #[must_use]
    pub fn is_free(&self) -> bool {
        self.is_wanted() && self.by_policy.is_none()
    }

    /// Its user wants it suspended; whether it is not so already.
    pub fn suspend(&mut self) -> bool {
        self.by_user = true;
        self.by_policy.is_none() && !self.by_sleep
    }

    /// Its user lets it go on.
    ///
    /// # Errors
    /// Something else does not; says what. It goes on when that does.
    pub fn resume(&mut self) -> Result<(), String> {
        self.by_user = false;
        match &self.by_policy {
            Some(why) => Err(why.clone()),
            None if self.by_sleep => Err("the machine is about to sleep".to_owned()),
            None => Ok(()),
        }
    }

    /// The machine is about to sleep; whether the session is not suspended already.
    pub fn sleep(&mut self) -> bool {
        let is_news = self.is_free();
        self.by_sleep = true;
        is_news
    }

    /// It has slept; whether the session goes on.
    pub fn wake(&mut self) -> bool {
        core::mem::take(&mut self.by_sleep) && self.is_free()
    }

    /// The time for which it was suspended is over; whether something else still holds it.
    pub fn woken(&mut self) -> bool {
        self.by_user = false;
        self.by_policy.is_some() || self.by_sleep
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whoever suspends it first has it suspended, and whoever lets go last has it go on.
    #[test]
    fn a_session_goes_on_when_nothing_holds_it_any_more() {
        let mut held = Held::default();
        assert!(held.suspend(), "the first one");
        assert!(!held.sleep());
        assert!(held.resume().unwrap_err().contains("sleep"));
        assert!(held.wake() && held.is_wanted());
        assert!(!held.wake(), "it was not asleep");

        assert!(held.sleep());
        held.by_policy = Some("no interface".to_owned());
        assert!(!held.wake() && !held.suspend());
        assert_eq!(held.resume().unwrap_err(), "no interface");
        assert!(held.woken(), "the policy still holds it");
        held.by_policy = None;
        assert!(held.sleep() && held.wake());
        assert!(!held.woken());
    }
}
