//! Who a socket is and whom it is connected to.

use core::net::SocketAddr;

use stp_proto::local::socket_name::SocketName;
use stp_proto::local::wire::SocketState;

use super::{Bypass, Outcome, broker, connect, ours};
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
    if is_over(fd, &name) || connect::is_pending(fd, &name) {
        return Outcome::Errno(libc::ENOTCONN);
    }
    Outcome::Ours(name.peer)
}

/// Whether both ends are closed, after which there is no connection any more. A socket whose own
/// end alone shut both directions is still connected.
pub fn is_over(fd: Fd, name: &SocketName) -> bool {
    hung_up(fd)
        && !matches!(broker::socket_state(name.cookie), Some(SocketState::Established { .. }))
}

/// Whether both directions have ended.
pub fn hung_up(fd: Fd) -> bool {
    raw::poll(fd, 0).is_ok_and(|events| events & libc::POLLHUP != 0)
}
