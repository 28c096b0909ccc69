//! The one loop that joins a session, its links and its near side.
//!
//! The broker and the server both do the same thing with a session: take what is ready (a link or
//! the near side, a deadline, a command), hand it to the pure [`stp_proto::session::Session`], then
//! carry out what the session asks for. That is one turn of a [`Driver`]. [`run`] takes turns in a
//! task, with the machine's clock and timers. The simulation takes them in virtual time.
//!
//! What differs is implemented elsewhere: what carries the frames ([`Carrier`]), where links come
//! from ([`Far`]) and what the near side is ([`Near`]).
//!
//! Deliberately not here: any decision. Those are in `stp-proto`.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

mod carrier;
pub mod clock;
mod command;
mod cost;
mod driver;
mod far;
pub mod keep;
mod links;
mod look;
mod memory;
mod near;
mod publish;
mod published;
mod run;
mod stake;
mod status;
pub mod upgrade;

pub use carrier::Carrier;
pub use command::Command;
pub use driver::{Driver, FIRST_LINK, Start, Turn};
pub use far::{Act, DialFailed, Dialed, Far, Never, path_sample};
pub use memory::MemoryLink;
pub use near::{Near, Pulled};
pub use run::run;
pub use stake::{Holder, Purse, Stake};
pub use status::{History, Moment, SessionStatus, Snapshot, lasts, state_name};
