//! The app side of the broker: where unmodified programs arrive through the shim.
//!
//! A [`Listener`] owns the broker's Unix socket and turns what comes in into [`Request`]s; an open
//! request carries an [`AppSocket`], the broker's end of what the app believes to be its TCP
//! connection. A keeper may hold that socket as well ([`KeepWith`]); then it outlives the broker,
//! and the next one finds it. [`publish_routes`] writes the map by which the shim decides what
//! comes here at all.
//!
//! Nothing here knows of sessions, links or names. What Unix sockets do otherwise than TCP, and
//! how that is made good, is told beside each method.

mod info;
mod keeping;
mod listener;
mod publish;
mod read;
mod request;
mod socket;
mod socket_state;
#[cfg(test)]
mod tests;
mod watch;

pub use info::AppInfo;
pub use keeping::{KeepWith, Keeping};
pub use listener::{BindError, Counters, Listener};
pub use publish::publish_routes;
pub use request::{
    AcceptedRequest, ActRequest, NameRequest, Names, OfSession, PassedConnect, Request,
    ResolveRequest, States, Told,
};
pub use socket::{AppEnd, AppSocket, Shut};
