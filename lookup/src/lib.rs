//! The client's side of a Session Name Server and its gateway: one link, many requests; the keys
//! derived from a password; the list of servers that only its owner can open.
//!
//! Brokers resolve names and locate files with it, servers announce themselves, the `session`
//! command logs in. What is said is in `stp_proto::lookup`, how it travels in `stp_net::link`;
//! here the two are joined, as `stp-drive` joins them for sessions.
//!
//! **Invariant:** a password is known to [`password`] alone, for the time of one derivation. It
//! goes over no link, into no file and into no log.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod address;
pub mod connection;
pub mod credential;
pub mod endpoint;
pub mod gateway;
pub mod here;
pub mod known;
pub mod live_key;
pub mod own_names;
pub mod password;
pub mod sealed;

/// The file of known keys in the configuration directory.
pub const KNOWN_FILE: &str = "known_directories";

pub use address::{DirectoryAddress, PORT};
pub use connection::{AskError, Connection};
pub use credential::Credential;
pub use gateway::{Gateway, Referral};
pub use here::config_dir as folder;
pub use password::{Keys, Verifier};
