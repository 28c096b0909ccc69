//! Why a session is not taken, as the broker is told.

use std::io;

use stp_proto::budget::Spent;
use stp_proto::egress::Refusal;
use stp_proto::replay::{self, NoReplayKind};
use stp_proto::ticket::TicketError;
use stp_proto::wire::DenyReason;

use crate::service::join::JoinError;
use crate::ticket::BadTicket;

/// A denial: for the broker's decision, and for a person.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}: {text}")]
pub struct Denial {
    /// What kind.
    pub why: DenyReason,
    /// Why, in words.
    pub text: String,
    /// One word for the counters, if the kind does not say enough.
    word: Option<&'static str>,
}

impl Denial {
    /// A denial of this kind.
    pub fn new(why: DenyReason, text: impl Into<String>) -> Self {
        Self { why, text: text.into(), word: None }
    }

    /// The same, counted by a word of its own.
    pub fn counted(why: DenyReason, text: impl Into<String>, word: &'static str) -> Self {
        Self { why, text: text.into(), word: Some(word) }
    }

    /// The service could not be reached.
    #[must_use]
    pub fn unreachable(error: &io::Error) -> Self {
        let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Refusal>());
        if let Some(refusal) = inner {
            let why = DenyReason::Refused(refusal.errno());
            return Self::counted(why, refusal.to_string(), "egress_denied");
        }
        let errno = error.raw_os_error().unwrap_or(match error.kind() {
            io::ErrorKind::TimedOut => libc::ETIMEDOUT,
            io::ErrorKind::HostUnreachable => libc::EHOSTUNREACH,
            io::ErrorKind::NetworkUnreachable => libc::ENETUNREACH,
            _ => libc::ECONNREFUSED,
        });
        let errno = u16::try_from(errno).unwrap_or_default();
        Self::new(DenyReason::Refused(errno), error.to_string())
    }

    /// One word for the counters.
    #[must_use]
    pub fn word(&self) -> &'static str {
        if let Some(word) = self.word {
            return word;
        }
        match self.why {
            DenyReason::Overloaded => "overloaded",
            DenyReason::NotHere => "not_here",
            DenyReason::Seam => "seam",
            DenyReason::Expired => "expired",
            DenyReason::Mismatch => "mismatch",
            DenyReason::Unsafe => "unsafe",
            DenyReason::Refused(_) => "service_refused",
            DenyReason::Unauthorized => "unauthorized",
            DenyReason::Version => "version",
            DenyReason::Draining => "draining",
            DenyReason::Internal => "internal",
            DenyReason::Verifying => "verifying",
        }
    }
}

impl From<Spent> for Denial {
    fn from(spent: Spent) -> Self {
        Self::counted(DenyReason::Overloaded, spent.to_string(), spent.word())
    }
}

impl From<replay::NoReplay> for Denial {
    fn from(denial: replay::NoReplay) -> Self {
        let why = match denial.kind {
            NoReplayKind::Mismatch | NoReplayKind::Elsewhere => DenyReason::Mismatch,
            NoReplayKind::Seam => DenyReason::Seam,
            NoReplayKind::NotHere => DenyReason::NotHere,
            NoReplayKind::Busy => DenyReason::Overloaded,
            NoReplayKind::Unsafe => DenyReason::Unsafe,
        };
        Self::new(why, denial.text)
    }
}

impl From<BadTicket> for Denial {
    fn from(bad: BadTicket) -> Self {
        let why = match &bad {
            BadTicket::Sealed(_) => DenyReason::Unauthorized,
            BadTicket::Claims(TicketError::Expired(_)) => DenyReason::Expired,
            BadTicket::Claims(_) => DenyReason::Mismatch,
        };
        Self::new(why, bad.to_string())
    }
}

impl From<JoinError> for Denial {
    fn from(error: JoinError) -> Self {
        match error {
            JoinError::Down(source)
            | JoinError::Broken(source)
            | JoinError::Service { source, .. } => Self::unreachable(&source),
            JoinError::Busy(why) | JoinError::Refused(why) => why.into(),
        }
    }
}
