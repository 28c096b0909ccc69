//! The `ftp` service: a real FTP server whose logins outlive links and servers.
//!
//! A control connection is a session with a task beside it, which carries out what
//! `stp_proto::replay::ftp` decides. A data connection is another session, announced in the stream
//! of the first (PROTOCOL.md R90), and meets the control connection's side of it in a [`Slot`].

mod connection;
mod control;
mod data;
mod direct;
mod open;
mod resume;
mod slot;
mod task;
mod upload;

pub use control::Control;
pub use data::Data;
pub use direct::DirectFtp;
pub use open::{Asked, open};
pub use slot::Groups;

use slot::Slot;
