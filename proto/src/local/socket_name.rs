//! The abstract name of an app-side socket: all that is known of it, kept by the kernel.
//!
//! The kernel keeps a bound socket's name for as long as any process holds the socket, so what
//! stands in the name needs no table, no lock and no environment, and survives fork, dup, exec and
//! passing to another process.

use core::net::SocketAddr;

use super::bytes::{ADDRESS_BYTES, Reader, Writer};
use super::{Cookie, Family};

const MAGIC: [u8; 8] = *b"session\x01";
/// The length of every such name, without the NUL byte that makes it abstract.
pub const SOCKET_NAME_BYTES: usize = MAGIC.len() + 2 + 2 * ADDRESS_BYTES + 16;

/// What the name of an app-side socket says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SocketName {
    /// The family of the TCP socket the app had made.
    pub family: Family,
    /// Whether the app called a non-blocking connect.
    pub nonblocking: bool,
    /// The answer to `getsockname`.
    pub local: SocketAddr,
    /// The answer to `getpeername`: the destination as the app wrote it.
    pub peer: SocketAddr,
    /// The socket's identity at the broker.
    pub cookie: Cookie,
}

impl SocketName {
    /// The bytes after the leading NUL.
    #[must_use]
    pub fn encode(&self) -> [u8; SOCKET_NAME_BYTES] {
        let mut name = [0; SOCKET_NAME_BYTES];
        let mut out = Writer::new(&mut name);
        out.bytes(&MAGIC);
        out.u8(if self.family == Family::V4 { 4 } else { 6 });
        out.u8(u8::from(self.nonblocking));
        out.address(&self.local);
        out.address(&self.peer);
        out.bytes(&self.cookie.0);
        debug_assert_eq!(out.end(), Some(SOCKET_NAME_BYTES));
        name
    }

    /// Reads the bytes after the leading NUL; nothing for any name that is not ours.
    #[must_use]
    pub fn decode(name: &[u8]) -> Option<SocketName> {
        if name.len() != SOCKET_NAME_BYTES || !name.starts_with(&MAGIC) {
            return None;
        }
        let mut input = Reader::new(&name[MAGIC.len()..]);
        let family = match input.u8()? {
            4 => Family::V4,
            6 => Family::V6,
            _ => return None,
        };
        let nonblocking = input.u8()? & 1 != 0;
        let (local, peer) = (input.address()?, input.address()?);
        Some(SocketName { family, nonblocking, local, peer, cookie: Cookie(input.array()?) })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(family: Family, local: &str, peer: &str) -> SocketName {
        SocketName {
            family,
            nonblocking: true,
            local: local.parse().unwrap(),
            peer: peer.parse().unwrap(),
            cookie: Cookie([7; 16]),
        }
    }

    #[test]
    fn a_name_says_what_was_written_into_it() {
        let names = [
            sample(Family::V4, "127.0.0.1:40000", "127.192.0.1:80"),
            sample(Family::V6, "[::ffff:10.0.0.1]:1", "[::ffff:10.0.0.2]:65535"),
            sample(Family::V6, "[fe80::1%3]:40000", "[fe80::2%3]:21"),
        ];
        for name in names {
            assert_eq!(SocketName::decode(&name.encode()), Some(name));
        }
    }

    #[test]
    fn a_name_fits_the_kernels_limit() {
        const { assert!(SOCKET_NAME_BYTES <= 107) }
    }

    #[test]
    fn other_names_are_not_ours() {
        let name = sample(Family::V4, "127.0.0.1:40000", "127.192.0.1:80").encode();
        assert_eq!(SocketName::decode(b""), None);
        assert_eq!(SocketName::decode(b"/tmp/.X11-unix/X0"), None);
        assert_eq!(SocketName::decode(&name[..SOCKET_NAME_BYTES - 1]), None);
        let mut longer = name.to_vec();
        longer.push(0);
        assert_eq!(SocketName::decode(&longer), None);
        for at in 0..MAGIC.len() + 1 {
            let mut other = name;
            other[at] ^= 0x20;
            assert_eq!(SocketName::decode(&other), None, "byte {at}");
        }
    }
}
