//! The keeper: a process that holds what must outlive the broker, and starts the next one.
//!
//! It holds descriptors: the socket on which programs connect, and of each session the program's
//! socket and the memory in which its broker keeps how far it is. It never reads from any of them,
//! and hears nothing from a network. A broker holds the *lease*: its connection to the keeper. When
//! the kernel ends that, as at `kill -9`, the keeper starts the next broker and hands it all it
//! has; no two brokers are ever served at once. When the broker says that it has ended, or cannot
//! be started any more, the keeper ends, and with it the descriptors: programs see a reset.
//!
//! [`lease`] is the broker's side of that connection, [`process`] the keeper's.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod lease;
mod message;
pub mod process;
