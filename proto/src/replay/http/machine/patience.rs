//! What is known of a service that gives no more.

use core::time::Duration;

use crate::time::Instant;

/// A service that cannot be reached is tried again for this long, unless it is told otherwise.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);
/// The broker tells within this time that it stays, or leaves. It counts from the last byte that it
/// has acknowledged.
const VERDICT_MAX: Duration = Duration::from_secs(20);

/// Why the service gave nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// It could not be reached.
    Down(String),
    /// It was asked, and may give more when it is asked again: it broke off, or said that it is
    /// busy.
    Busy(String),
    /// It was asked, and will say the same again.
    Refused(String),
}

impl Failure {
    /// What happened, in words.
    #[must_use]
    pub fn text(&self) -> &str {
        let (Self::Down(text) | Self::Busy(text) | Self::Refused(text)) = self;
        text
    }
}

/// What the broker knows of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    /// Nothing yet.
    Nothing,
    /// It should be told now.
    Due,
    /// It was told, at this time.
    At(Instant),
    /// It was told, and then the link was lost.
    Lost,
    /// It answered that it stays.
    Stays,
}

/// A service that gives no more.
#[derive(Debug)]
pub(super) struct Trouble {
    pub(super) since: Instant,
    pub(super) text: String,
    pub(super) pause: Duration,
    pub(super) told: Told,
    /// It is not tried again.
    pub(super) over: bool,
}

impl Trouble {
    pub(super) fn new(now: Instant) -> Self {
        let text = String::new();
        Self { since: now, text, pause: Duration::ZERO, told: Told::Nothing, over: false }
    }

    /// What the broker is to be told now.
    pub fn wants_to_tell(&self) -> Option<&str> {
        (self.told == Told::Due).then_some(&*self.text)
    }

    /// When the broker's answer is not waited for any longer.
    pub fn due(&self) -> Option<Instant> {
        match self.told {
            Told::At(at) if self.over => Some(at + VERDICT_MAX),
            _ => None,
        }
    }
}
