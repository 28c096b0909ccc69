//! Bounded writing and reading of little-endian fields, shared by the local formats.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

use crate::steps;

/// The encoded size of a socket address: family, port, scope, 16 bytes of address.
pub(super) const ADDRESS_BYTES: usize = 1 + 2 + 4 + 16;

/// Writes into a caller's buffer; running out of room is remembered, not fatal.
pub(super) struct Writer<'a> {
    out: &'a mut [u8],
    at: usize,
    full: bool,
}

impl<'a> Writer<'a> {
    pub(super) fn new(out: &'a mut [u8]) -> Writer<'a> {
        Writer { out, at: 0, full: false }
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        match self.out.get_mut(self.at..self.at + bytes.len()) {
            Some(room) => {
                room.copy_from_slice(bytes);
                self.at += bytes.len();
            }
            None => self.full = true,
        }
    }

    pub(super) fn u8(&mut self, value: u8) {
        self.bytes(&[value]);
    }

    pub(super) fn u16(&mut self, value: u16) {
        self.bytes(&value.to_le_bytes());
    }

    pub(super) fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    pub(super) fn address(&mut self, address: &SocketAddr) {
        let mut ip = [0; 16];
        let scope = match address {
            SocketAddr::V4(v4) => {
                ip[..4].copy_from_slice(&v4.ip().octets());
                0
            }
            SocketAddr::V6(v6) => {
                ip = v6.ip().octets();
                v6.scope_id()
            }
        };
        self.u8(if address.is_ipv4() { 4 } else { 6 });
        self.u16(address.port());
        self.u32(scope);
        self.bytes(&ip);
    }

    /// The number of bytes written, or nothing when they did not fit.
    pub(super) fn end(self) -> Option<usize> {
        (!self.full).then_some(self.at)
    }
}

/// Reads fields off the front of a slice; every read may find it too short.
pub(super) struct Reader<'a> {
    rest: &'a [u8],
}

impl<'a> Reader<'a> {
    pub(super) fn new(rest: &'a [u8]) -> Reader<'a> {
        Reader { rest }
    }

    pub(super) fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (front, rest) = self.rest.split_at_checked(count)?;
        steps::note(count);
        self.rest = rest;
        Some(front)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    pub(super) fn u8(&mut self) -> Option<u8> {
        self.array::<1>().map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    pub(super) fn address(&mut self) -> Option<SocketAddr> {
        let (family, port, scope) = (self.u8()?, self.u16()?, self.u32()?);
        let ip: [u8; 16] = self.array()?;
        match family {
            4 => {
                let ip = Ipv4Addr::new(ip[0], ip[1], ip[2], ip[3]);
                Some(SocketAddr::V4(SocketAddrV4::new(ip, port)))
            }
            6 => Some(SocketAddr::V6(SocketAddrV6::new(Ipv6Addr::from(ip), port, 0, scope))),
            _ => None,
        }
    }

    pub(super) fn rest(self) -> &'a [u8] {
        self.rest
    }
}

/// The address with an IPv4-mapped IPv6 address turned into plain IPv4.
pub(super) fn canonical(address: &SocketAddr) -> (IpAddr, u16) {
    (address.ip().to_canonical(), address.port())
}
