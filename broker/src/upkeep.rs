//! How a session is to be kept, as policies, routes and services say it.

use std::time::Duration;

use stp_proto::class::Class;
use stp_proto::session::Limits;

/// What is said; none: the next one says it.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default)]
pub struct Upkeep {
    /// How well (R74).
    pub class: Option<Class>,
    /// How long without a link (R72).
    pub hold: Option<Duration>,
    /// How long with a link on which nothing passes (R76).
    pub idle: Option<Duration>,
}

impl Upkeep {
    /// This, and what it leaves open as `next` says.
    #[must_use]
    pub fn or(self, next: Upkeep) -> Upkeep {
        Upkeep {
            class: self.class.or(next.class),
            hold: self.hold.or(next.hold),
            idle: self.idle.or(next.idle),
        }
    }

    /// These limits, as far as nothing is said.
    #[must_use]
    pub fn of(self, limits: Limits) -> Limits {
        Limits {
            class: self.class.unwrap_or(limits.class),
            hold: self.hold.unwrap_or(limits.hold),
            idle: self.idle.or(limits.idle),
            ..limits
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_one_leaves_open_the_next_one_says() {
        let seconds = |s| Some(Duration::from_secs(s));
        let policy = Upkeep { class: Some(Class::Critical), hold: None, idle: seconds(5) };
        let route = Upkeep { class: Some(Class::Suspended), hold: seconds(7), idle: seconds(9) };
        let limits = policy.or(route).of(Limits::default());
        assert_eq!((limits.class, limits.hold), (Class::Critical, Duration::from_secs(7)));
        assert_eq!(limits.idle, seconds(5));
        assert_eq!(Upkeep::default().of(Limits::default()), Limits::default());
    }
}
