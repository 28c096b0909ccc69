//! What happens between an app and its HTTP service, as a machine: bytes and events go in, bytes
//! and [`Action`]s come out.
//!
//! An [`Observer`] follows the bytes, which pass unchanged, but for a body in chunks, which is cut
//! anew (R68). What the machine adds: a ticket goes out before the first byte of a response, before
//! a chunk that is cut short, and after an exchange that had none. A response that the service
//! breaks off (nginx, when the app's side was away longer than `send_timeout`) is asked for again
//! and joined at the byte that the app's side has. If the service cannot give the rest, another
//! server is asked for, and if there is none the app gets what there is and then the end. A request
//! that may have been executed at another server, and may not be executed twice, ends the session.
//!
//! **Invariant:** no byte of a response head goes to the app's side before its ticket does.
//!
//! Deliberately not here: sockets, the session, tickets' seals and the clock. The driver reads and
//! writes as the machine says, so that the same bytes may come from a TLS layer.

mod body;
mod down;
mod exchanges;
mod patience;
mod ticket;
mod tickets;
mod trouble;
mod up;

#[cfg(test)]
mod tests;

pub use down::Ended;
pub use exchanges::{Action, Beginning, How, Machine, Next};
pub use patience::Failure;
pub use tickets::Offer;
pub use up::Wants;

use exchanges::{App, Carries, Out, Service, Want};
