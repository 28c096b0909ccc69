//! Socket addresses in the kernel's form.

use core::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};

/// The longest address of IPv4 or IPv6, in bytes: a `sockaddr_in6`.
pub const ADDRESS_BYTES: usize = 28;

/// The kernel's form of an address, and how many of the bytes belong to it.
pub fn to_kernel(address: &SocketAddr) -> ([u8; ADDRESS_BYTES], usize) {
    let mut bytes = [0; ADDRESS_BYTES];
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
