//! Decisions: what a call on a descriptor means, and what is done about it.
//!
//! Everything here is safe code over [`crate::raw`], and comes to one of three outcomes: the call
//! is ours and answered, it is none of our business, or it fails with an errno.

pub mod broker;
pub mod connect;
pub mod kept;
pub mod name;
pub mod option;
pub mod resolve;
pub mod scan;
pub mod stream;
pub mod swap;

use core::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use stp_proto::local::socket_name::SocketName;

use crate::raw::{self, Errno, Fd};

/// What became of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome<T> {
    /// Ours, with this result.
    Ours(T),
    /// Not ours: the real call decides.
    Bypass(Bypass),
    /// Ours, and failed.
    Errno(Errno),
}

/// Why a call is none of our business.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bypass {
    /// The shim itself is at fault; it stays out of the way.
    Panicked,
    /// The arguments are such that the kernel should say what is wrong with them.
    BadArgument,
    /// Neither IPv4 nor IPv6, or not the family of the socket.
    OtherFamily,
    /// No route leads there.
    Unrouted,
    /// Not a stream socket of TCP.
    NotTcp,
    /// The TCP socket is connected, connecting or listening already.
    InUse,
    /// The socket is not one of ours.
    NotOurs,
    /// No broker runs, and the configuration says to go on without.
    BrokerAbsent,
    /// The kernel does on our sockets what TCP would do.
    Native,
    /// The name is not routed.
    OtherName,
}

/// The name of a socket that is ours, which is all that is known of it.
pub fn ours(fd: Fd) -> Option<SocketName> {
    const PATH_AT: usize = 2;
    let name = raw::getsockname(fd).ok()?;
    if name.family() != libc::AF_UNIX || name.as_bytes().get(PATH_AT) != Some(&0) {
        return None;
    }
    SocketName::decode(name.as_bytes().get(PATH_AT + 1..)?)
}

/// A socket address in the kernel's form.
pub fn to_kernel(address: &SocketAddr) -> ([u8; 28], usize) {
    let mut bytes = [0; 28];
    bytes[2..4].copy_from_slice(&address.port().to_be_bytes());
    match address {
        SocketAddr::V4(v4) => {
            bytes[..2].copy_from_slice(&(libc::AF_INET as u16).to_ne_bytes());
            bytes[4..8].copy_from_slice(&v4.ip().octets());
            (bytes, 16)
        }
        SocketAddr::V6(v6) => {
            bytes[..2].copy_from_slice(&(libc::AF_INET6 as u16).to_ne_bytes());
            bytes[8..24].copy_from_slice(&v6.ip().octets());
            bytes[24..28].copy_from_slice(&v6.scope_id().to_ne_bytes());
            (bytes, 28)
        }
    }
}

/// Reads the kernel's form of an IPv4 or IPv6 address.
pub fn from_kernel(bytes: &[u8]) -> Option<SocketAddr> {
    const OLD_IPV6_BYTES: usize = 24;
    let family: [u8; 2] = bytes.get(..2)?.try_into().ok()?;
    let port = u16::from_be_bytes(bytes.get(2..4)?.try_into().ok()?);
    match i32::from(u16::from_ne_bytes(family)) {
        libc::AF_INET if bytes.len() >= 16 => {
            let ip: [u8; 4] = bytes.get(4..8)?.try_into().ok()?;
            Some(SocketAddrV4::new(Ipv4Addr::from(ip), port).into())
        }
        libc::AF_INET6 if bytes.len() >= OLD_IPV6_BYTES => {
            let ip: [u8; 16] = bytes.get(8..24)?.try_into().ok()?;
            let scope = bytes.get(24..28).and_then(|scope| scope.try_into().ok());
            let scope = scope.map_or(0, u32::from_ne_bytes);
            Some(SocketAddrV6::new(Ipv6Addr::from(ip), port, 0, scope).into())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_form_is_read_back() {
        for text in ["127.0.0.1:80", "[::1]:65535", "[fe80::1%7]:1", "[::ffff:1.2.3.4]:5"] {
            let address: SocketAddr = text.parse().unwrap();
            let (bytes, length) = to_kernel(&address);
            assert_eq!(from_kernel(&bytes[..length]), Some(address));
            assert_eq!(from_kernel(&bytes[..length - 5]), None);
        }
        assert_eq!(from_kernel(&[]), None);
        assert_eq!(from_kernel(&[libc::AF_UNIX as u8, 0, 0, 0]), None);
    }
}
