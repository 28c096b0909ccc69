//! Continuing an HTTP exchange (R64).
//!
//! An [`Observer`] watches the bytes of a session go by between the app and an HTTP server and
//! knows at every byte which exchange is under way. It rewrites nothing; only a body in chunks is
//! cut anew, so that any server makes the same stream of it (R68). From an [`Exchange`] and
//! the position of the app a [`Plan`] says what to ask the replica's own server, and an [`Ask`]
//! judges the answer.
//!
//! Deliberately not here: HTTP/2. A stream that is not HTTP/1 is *opaque*: it passes untouched and
//! cannot be continued.

mod body;
mod chunks;
mod exchange;
mod flow;
mod head;
mod machine;
mod observer;
mod parts;
mod pieces;
mod plan;
mod range;
mod scan;
mod splice;
mod translate;

#[cfg(test)]
mod tests;

pub use body::{Body, Framing};
pub use chunks::Base;
pub use exchange::Exchange;
pub use flow::{Down, Ending, Flow, Up};
pub use head::{HEAD_MAX, HeadError, RequestHead, ResponseHead};
pub use machine::{Action, Beginning, Ended, Failure, How, Machine, Next, Offer, Wants};
pub use observer::Observer;
pub use pieces::{Waiting, copy};
pub use plan::{Ask, Judged, Locator, Plan};
pub use range::ContentRange;
pub use splice::{Joined, Splice, SpliceStep};
pub use translate::{FLUSH_BUSY, FLUSH_EVERY, FLUSH_LEAVING, LEAVING_MAX};
