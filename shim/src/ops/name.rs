//! Who a socket is and whom it is connected to.

use core::net::SocketAddr;

use super::{Bypass, Outcome, connect, ours};
use crate::raw::{self, Fd};

/// The answer to `getsockname`.
pub fn local(fd: Fd) -> Outcome<SocketAddr> {
    match ours(fd) {
        Some(name) => Outcome::Ours(name.local),
        None => Outcome::Bypass(Bypass::NotOurs),
    }
}

/// The answer to `getpeername`: none before the connect is through and after both ends are closed.
pub fn peer(fd: Fd) -> Outcome<SocketAddr> {
    let Some(name) = ours(fd) else { return Outcome::Bypass(Bypass::NotOurs) };
    if hung_up(fd) || connect::is_pending(fd, &name) {
        return Outcome::Errno(libc::ENOTCONN);
    }
    Outcome::Ours(name.peer)
}

/// Whether both directions have ended, which for TCP is the end of the connection.
pub fn hung_up(fd: Fd) -> bool {
    raw::poll(fd, 0).is_ok_and(|events| events & libc::POLLHUP != 0)
}
