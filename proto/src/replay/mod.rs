//! Continuing an HTTP exchange on another server, or at the same one after it closed too early
//! (DESIGN 3.3 `http`, 3.5; PROTOCOL A7).
//!
//! An [`Observer`] watches the bytes of a session go by between the app and an HTTP server and
//! knows at every byte which exchange is under way. It rewrites nothing. What a replica needs to
//! know of the exchange is an [`Exchange`], which travels inside a ticket. From an exchange and
//! the position of the app a [`Plan`] says what to ask the replica's own server, and an
//! [`Ask`] judges the answer. When anything is in doubt the answer is a [`Refusal`]: the app may
//! see a reset, but never a wrong byte.
//!
//! Deliberately not here: sockets, tickets' seals, and HTTP/2 (a stream that is not HTTP/1 is
//! *opaque*: it passes untouched and cannot be continued).

mod again;
mod body;
mod exchange;
mod head;
mod observer;
mod plan;
mod splice;

#[cfg(test)]
mod tests;

pub use again::Again;
pub use body::{Body, Framing};
pub use exchange::Exchange;
pub use head::{ContentRange, HeadError, RequestHead, ResponseHead};
pub use observer::{Down, Ending, Flow, Observer, Up};
pub use plan::{Ask, Judged, Plan, Policy, Refusal, RefusalKind};
pub use splice::{Splice, SpliceStep};

/// Request head and response head together may be this long if a ticket is to carry them.
pub const HEADS_MAX: usize = 14 * 1024;

/// A longer head is not followed: the stream is opaque from there on.
pub const HEAD_MAX: usize = 64 * 1024;
