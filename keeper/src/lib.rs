//! The keeper: a process that holds what must outlive a daemon, and starts the next one.
//!
//! It holds descriptors: the socket on which a broker's programs connect, or a server's links, and
//! of each session the socket of its near side and the memory in which the daemon keeps how far it
//! is. It never reads from any of them, and hears nothing from a network. A daemon holds the
//! *lease*: its connection to the keeper. When the kernel ends that, as at `kill -9`, the keeper
//! starts the next daemon and hands it all it has; no two are ever served at once. When the daemon
//! says that it has ended, or cannot be started any more, the keeper ends, and with it the
//! descriptors: programs see a reset.
//!
//! [`lease`] and [`holding`] are the daemon's side of that connection, [`process`] the keeper's.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod holding;
pub mod lease;
mod message;
pub mod process;
pub mod signals;
