//! The one loop that joins a session, its links and its near side.
//!
//! The broker and the server both do the same thing with a session: wait for one event (a link
//! or the near side is ready, a deadline passed, a command came), hand it to the pure
//! [`stp_proto::session::Session`], then carry out what it asks for. That loop is here, once.
//! What differs, where links come from ([`Far`]) and what the near side is ([`Near`]), is
//! implemented by the daemons.
//!
//! Deliberately not here: any decision. Those are in `stp-proto`.
#![forbid(unsafe_code)]

mod links;
mod run;
mod sides;
mod status;

pub use run::{Command, Start, run};
pub use sides::{AfterDenial, DialFailed, Dialed, Dialing, Far, Near, Never, Pulled, path_sample};
pub use status::{History, Moment, SessionStatus, Snapshot};
