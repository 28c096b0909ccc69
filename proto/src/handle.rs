//! Session handles (KTH 3.7.1): 128 random bits, one chosen by each side. The pair names the
//! session. The core never makes one up: handles are arguments.

use core::fmt;

/// One side's name for a session. Logs and status show its first 32 bits, as hexadecimal digits:
/// enough to tell sessions apart, too little to guess the rest.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Handle(pub [u8; 16]);

impl Handle {
    /// "Not known yet": the peer's handle before it has answered. Never chosen by anybody.
    pub const NONE: Handle = Handle([0; 16]);

    /// Whether this is [`Handle::NONE`].
    pub fn is_none(&self) -> bool {
        *self == Handle::NONE
    }
}

impl fmt::Display for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0[..4].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Handle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Handle({self})")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_tells_sessions_apart_and_does_not_give_the_handle_away() {
        let handle = Handle(core::array::from_fn(|i| (i * 17) as u8));
        assert_eq!(format!("{handle} {handle:?}"), "00112233 Handle(00112233)");
        assert!(Handle::NONE.is_none() && !handle.is_none());
    }
}
