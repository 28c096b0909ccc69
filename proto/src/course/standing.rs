//! What is known of the way to one server.

use core::time::Duration;

use crate::select::Rank;
use crate::time::Instant;

/// In which way a dial failed.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum FailureKind {
    /// A machine answered that nobody listens there.
    Refused,
    /// Nothing came back, or there is no path.
    Silent,
    /// A server answered that has another key than the configured one.
    WrongKey,
    /// The server does not accept this user's key.
    Unauthorized,
}

/// A dial that failed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Failure {
    /// In which way.
    pub kind: FailureKind,
    /// For the log and the status.
    pub why: String,
    /// What an app's `connect()` would have been told; 0 if nothing special.
    pub errno: i32,
}

/// What is known of the way to a server.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub enum Standing {
    /// Not tried yet, or the last link worked.
    #[default]
    Open,
    /// Out of reach.
    Away {
        /// The last failure.
        last: Failure,
        /// Since when failures have been of this kind.
        since: Instant,
        /// Since when the server has been out of reach.
        away_since: Instant,
    },
}

impl Standing {
    /// Whether a link can be hoped for now.
    #[must_use]
    pub fn is_open(&self) -> bool {
        matches!(self, Standing::Open)
    }

    /// Since when somebody has answered there who is not the server that is wanted: the port is
    /// closed, or the key is wrong.
    #[must_use]
    pub fn refuses_since(&self) -> Option<Instant> {
        match self {
            Standing::Away { last, since, .. } if last.kind != FailureKind::Silent => Some(*since),
            Standing::Away { .. } | Standing::Open => None,
        }
    }

    /// Takes in a failure. Returns whether anything but the time has changed by it.
    pub(crate) fn fail(&mut self, now: Instant, last: Failure) -> bool {
        let (since, away_since, is_news) = match self {
            Standing::Away { last: old, since, away_since } if old.kind == last.kind => {
                (*since, *away_since, false)
            }
            Standing::Away { away_since, .. } => (now, *away_since, true),
            Standing::Open => (now, now, true),
        };
        *self = Standing::Away { last, since, away_since };
        is_news
    }
}

/// The ways to the servers of a service, as a search looks at them.
pub trait Ways {
    /// What is known of the way to this server.
    fn standing(&self, server: Rank) -> Standing;

    /// How long the last link to this server took to make, if there was one.
    fn last_link(&self, server: Rank) -> Option<Duration>;
}
