//! The two addresses of a session's socket, as the program should see them.

use core::net::SocketAddr;

use super::socket::{is_over, is_pending, ours};
use crate::outcome::{Bypass, Outcome};
use crate::raw::Fd;

/// The answer to `getsockname`.
pub fn local(fd: Fd) -> Outcome<SocketAddr> {
    match ours(fd) {
        Some(name) => Outcome::Ours(name.local),
        None => Outcome::Bypass(Bypass::NotOurs),
    }
}

/// The answer to `getpeername`: there is no peer before the connect has succeeded, and none after
/// both ends have closed.
pub fn peer(fd: Fd) -> Outcome<SocketAddr> {
    let Some(name) = ours(fd) else { return Outcome::Bypass(Bypass::NotOurs) };
    if is_over(fd, &name) || is_pending(fd, &name) {
        return Outcome::Errno(libc::ENOTCONN);
    }
    Outcome::Ours(name.peer)
}
