//! The daemons' kernel edge: the secured link, keys and tickets at rest, the clock that counts
//! sleep, news of network paths, the status server, configuration files and the log.
//!
//! What decides lives in `stp-proto`; this crate knows nothing of frames, sessions or positions.
//! It moves bytes between a socket and its caller, and says in plain words who is to blame when
//! it cannot. Unsafe code is allowed here, and kept to few calls (`link/tcp_info.rs`,
//! `link/socket.rs`, `paths.rs`, `urgent.rs`, `machine.rs`) and to memory that outlives a process
//! (`kept.rs`).

#![warn(missing_docs)]

pub mod admission;
pub mod clock;
pub mod cluster_key;
pub mod config;
pub mod echo;
pub mod envelope;
pub mod interfaces;
pub mod kept;
pub mod key;
pub mod limit;
pub mod link;
pub mod log;
pub mod machine;
pub mod paths;
pub mod place;
pub mod seal;
pub mod spool;
pub mod status;
pub mod table;
pub mod urgent;
