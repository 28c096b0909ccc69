//! Continuing what an app was receiving on another server, or at the same service after it broke
//! off (R64).
//!
//! Each protocol has a folder of its own. It watches the bytes of a session go by, says what a
//! replica needs to know of them (an [`Exchange`], which travels inside a ticket), and plans how a
//! replica goes on. When anything is in doubt the answer is a [`NoReplay`]: the app may see a short
//! end or a reset, but never a wrong byte.
//!
//! Deliberately not here: sockets, tickets' seals.

mod again;
mod digest;
pub mod ftp;
pub mod http;
pub mod https;
mod no_replay;

use serde::{Deserialize, Serialize};

pub use again::Again;
pub use no_replay::{NoReplay, NoReplayKind};

/// What a ticket says of the exchange under way, by protocol.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Exchange {
    /// HTTP/1.
    Http(http::Exchange),
    /// FTP.
    Ftp(ftp::Exchange),
    /// HTTP/1 in TLS.
    Https(Box<https::Exchange>),
}

impl Exchange {
    /// The exchange, if it is one of HTTP, in TLS or not.
    #[must_use]
    pub fn http(&self) -> Option<&http::Exchange> {
        match self {
            Self::Http(exchange) => Some(exchange),
            Self::Https(exchange) => Some(&exchange.http),
            Self::Ftp(_) => None,
        }
    }

    /// How far the app is in the stream of the exchange itself, if it has the session's stream up
    /// to `down`. In TLS that is known only as far as the ticket goes.
    #[must_use]
    pub fn received(&self, down: u64) -> u64 {
        match self {
            Self::Http(_) | Self::Ftp(_) => down,
            Self::Https(exchange) => exchange.plain,
        }
    }

    /// The exchange, if it is one of FTP.
    #[must_use]
    pub fn ftp(&self) -> Option<&ftp::Exchange> {
        match self {
            Self::Ftp(exchange) => Some(exchange),
            Self::Http(_) | Self::Https(_) => None,
        }
    }
}

/// What must be equal before a response is continued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Policy {
    /// The length, and every byte that the app has already.
    #[default]
    Prefix,
    /// The strong entity tag as well.
    Validators,
}
