//! The two addresses of a session's socket, and the peer of a connection that a server makes to the
//! program, as the program should see them.

use core::net::{IpAddr, SocketAddr};

use stp_proto::local::wire::Accepted;

use super::broker;
use super::socket::{is_over, is_pending, ours};
use crate::address::from_kernel;
use crate::outcome::{Bypass, Outcome};
use crate::raw::{self, Fd};

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

/// The peer of a TCP socket of a program that has a session. A connection that a server makes to a
/// listener of the program is made by the broker, from the listener's own address; the program sees
/// it come from the server.
pub fn accepted(fd: Fd) -> Outcome<SocketAddr> {
    let end = |address: raw::Result<raw::Address>| from_kernel(address.ok()?.as_bytes());
    let ends = end(raw::getpeername(fd)).zip(end(raw::getsockname(fd)));
    let Some((from, to)) = ends.filter(|(from, to)| from.ip() == to.ip()) else {
        return Outcome::Bypass(Bypass::NotOurs);
    };
    match (broker::peer_of(Accepted { from, to }), to.ip()) {
        (Some(SocketAddr::V4(peer)), IpAddr::V6(_)) => {
            Outcome::Ours(SocketAddr::new(peer.ip().to_ipv6_mapped().into(), peer.port()))
        }
        (Some(peer), own) if peer.is_ipv4() == own.is_ipv4() => Outcome::Ours(peer),
        _ => Outcome::Bypass(Bypass::NotOurs),
    }
}
