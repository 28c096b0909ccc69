//! The app side of the broker: where unmodified programs arrive through the shim.
//!
//! A [`Listener`] owns the broker's Unix socket and turns what comes in into [`Request`]s; an open
//! request carries an [`AppSocket`], the broker's end of what the app believes to be its TCP
//! connection. The interface of that socket is small on purpose (read some, deliver, positions,
//! shut), so that it can later be kept by another process. [`publish_routes`] writes the map by
//! which the shim decides what comes here at all.
//!
//! Nothing here knows of sessions, links or names. What Unix sockets do otherwise than TCP, and
//! how that is made good, is told beside each method.

mod listener;
mod publish;
mod read;
mod request;
mod socket;
mod socket_state;
#[cfg(test)]
mod tests;

pub use listener::{BindError, Counters, Listener};
pub use publish::publish_routes;
pub use request::{AcceptedRequest, NameRequest, PassedConnect, Request, ResolveRequest};
pub use socket::{AppEnd, AppInfo, AppSocket, Shut};
