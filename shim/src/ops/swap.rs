//! Putting a socket of ours in the place of the app's TCP socket, and back.
//!
//! All that the app has done to its socket so far has to hold for the new one: file status flags,
//! close-on-exec, who gets signals, options, epoll registrations, other numbers of it.

use core::ffi::{c_int, c_long};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use stp_proto::local::Family;
use stp_proto::local::socket_name::SocketName;

use super::kept::{Kept, VALUE_BYTES_MAX};
use super::scan::References;
use super::{from_kernel, to_kernel};
use crate::raw::{self, Fd, Result};

/// Socket-level options that the kernel does for Unix sockets as it does for TCP.
pub const NATIVE: [c_int; 12] = [
    libc::SO_RCVTIMEO,
    libc::SO_SNDTIMEO,
    libc::SO_KEEPALIVE,
    libc::SO_OOBINLINE,
    libc::SO_LINGER,
    libc::SO_RCVLOWAT,
    libc::SO_PRIORITY,
    libc::SO_REUSEADDR,
    libc::SO_BROADCAST,
    libc::SO_DONTROUTE,
    libc::SO_TIMESTAMP,
    libc::SO_TIMESTAMPNS,
];

/// Options of TCP sockets that are written down when they are not as in a fresh socket.
const TCP_ONLY: [(c_int, c_int); 24] = [
    (libc::SOL_SOCKET, libc::SO_SNDBUF),
    (libc::SOL_SOCKET, libc::SO_RCVBUF),
    (libc::SOL_SOCKET, libc::SO_REUSEPORT),
    (libc::SOL_SOCKET, libc::SO_MARK),
    (libc::IPPROTO_TCP, libc::TCP_NODELAY),
    (libc::IPPROTO_TCP, libc::TCP_MAXSEG),
    (libc::IPPROTO_TCP, libc::TCP_CORK),
    (libc::IPPROTO_TCP, libc::TCP_KEEPIDLE),
    (libc::IPPROTO_TCP, libc::TCP_KEEPINTVL),
    (libc::IPPROTO_TCP, libc::TCP_KEEPCNT),
    (libc::IPPROTO_TCP, libc::TCP_SYNCNT),
    (libc::IPPROTO_TCP, libc::TCP_LINGER2),
    (libc::IPPROTO_TCP, libc::TCP_WINDOW_CLAMP),
    (libc::IPPROTO_TCP, libc::TCP_QUICKACK),
    (libc::IPPROTO_TCP, libc::TCP_CONGESTION),
    (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT),
    (libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT),
    (libc::IPPROTO_IP, libc::IP_TOS),
    (libc::IPPROTO_IP, libc::IP_TTL),
    (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER),
    (libc::IPPROTO_IP, libc::IP_RECVERR),
    (libc::IPPROTO_IPV6, libc::IPV6_V6ONLY),
    (libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
    (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS),
];

const F_SETSIG: c_int = 10;
const F_GETSIG: c_int = 11;

/// A fresh TCP socket, closed when dropped: the kernel's own answer to what options may be.
pub struct Fresh(pub Fd);

impl Fresh {
    /// Makes one.
    pub fn new(family: Family) -> Result<Fresh> {
        let domain = if family == Family::V4 { libc::AF_INET } else { libc::AF_INET6 };
        raw::socket(domain, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0).map(Fresh)
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        raw::close(self.0);
    }
}

/// What belongs to the open file and the descriptor, not to the socket.
#[derive(Clone, Copy)]
pub struct FileFlags {
    status: c_long,
    owner: c_int,
    signal: c_int,
}

impl FileFlags {
    /// Reads them.
    pub fn of(fd: Fd) -> Result<FileFlags> {
        Ok(FileFlags {
            status: c_long::from(raw::fcntl(fd, libc::F_GETFL, 0)?),
            owner: raw::fcntl(fd, libc::F_GETOWN, 0).unwrap_or(0),
            signal: raw::fcntl(fd, F_GETSIG, 0).unwrap_or(0),
        })
    }

    /// Whether calls on it wait.
    pub fn nonblocking(&self) -> bool {
        self.status & c_long::from(libc::O_NONBLOCK) != 0
    }

    /// Gives another file the same.
    pub fn give(&self, fd: Fd) {
        let done = raw::fcntl(fd, libc::F_SETFL, self.status);
        if self.owner != 0 {
            let _signals_are_lost = raw::fcntl(fd, libc::F_SETOWN, c_long::from(self.owner));
        }
        if self.signal != 0 {
            let _signals_are_lost = raw::fcntl(fd, F_SETSIG, c_long::from(self.signal));
        }
        debug_assert!(done.is_ok());
    }
}

/// Copies the options the kernel does for both kinds of socket.
pub fn carry_native(from: Fd, to: Fd) {
    for name in NATIVE {
        let (mut old, mut new) = ([0; VALUE_BYTES_MAX], [0; VALUE_BYTES_MAX]);
        let length = raw::getsockopt(from, libc::SOL_SOCKET, name, &mut old);
        let other = raw::getsockopt(to, libc::SOL_SOCKET, name, &mut new);
        if let (Ok(length), Ok(_)) = (length, other)
            && old != new
        {
            let _stays = raw::setsockopt(to, libc::SOL_SOCKET, name, &old[..length]);
        }
    }
}

/// Writes down what differs from a fresh socket in the options only TCP has.
pub fn note_tcp_options(tcp: Fd, family: Family) -> Result<Kept> {
    let mut kept = Kept::default();
    let fresh = Fresh::new(family)?;
    for (level, name) in TCP_ONLY {
        if level == libc::IPPROTO_IPV6 && family == Family::V4 {
            continue;
        }
        let (mut old, mut new) = ([0; VALUE_BYTES_MAX], [0; VALUE_BYTES_MAX]);
        let length = raw::getsockopt(tcp, level, name, &mut old);
        let other = raw::getsockopt(fresh.0, level, name, &mut new);
        if let (Ok(length), Ok(_)) = (length, other)
            && old != new
        {
            let buffer = (level, name) == (libc::SOL_SOCKET, libc::SO_SNDBUF)
                || (level, name) == (libc::SOL_SOCKET, libc::SO_RCVBUF);
            if buffer {
                // The kernel doubles what is set.
                let [a, b, c, d, ..] = old;
                let half = c_int::from_ne_bytes([a, b, c, d]) / 2;
                old[..4].copy_from_slice(&half.to_ne_bytes());
            }
            kept.put(level, name, &old[..length]);
        }
    }
    Ok(kept)
}

/// Binds the app's TCP socket to the address the kernel would choose and to a free port, so that
/// `getsockname` tells the truth (SHIM.md 1.7). Says the address, and whether the app had bound it.
pub fn reserve(tcp: Fd, destination: &SocketAddr) -> Result<(SocketAddr, bool)> {
    let now = raw::getsockname(tcp)?;
    let now = from_kernel(now.as_bytes()).ok_or(libc::EAFNOSUPPORT)?;
    let bound = !now.ip().is_unspecified() || now.port() != 0;
    let ip = if now.ip().is_unspecified() { source_for(destination) } else { now.ip() };
    if now.port() != 0 {
        return Ok((SocketAddr::new(ip, now.port()), bound));
    }
    if bound {
        let (level, name) = (libc::IPPROTO_IP, libc::IP_BIND_ADDRESS_NO_PORT);
        let _default = raw::setsockopt(tcp, level, name, &0i32.to_ne_bytes());
    }
    let (wanted, length) = to_kernel(&with_scope(ip, destination));
    let _port_stays_zero = raw::bind(tcp, &wanted[..length]);
    let got = raw::getsockname(tcp)?;
    let got = from_kernel(got.as_bytes()).ok_or(libc::EAFNOSUPPORT)?;
    Ok((with_port(with_scope(ip, destination), got.port()), bound))
}

fn with_port(mut address: SocketAddr, port: u16) -> SocketAddr {
    address.set_port(port);
    address
}

/// The address without a port, in the scope of the destination.
fn with_scope(ip: IpAddr, destination: &SocketAddr) -> SocketAddr {
    let mut address = SocketAddr::new(ip, 0);
    if let (SocketAddr::V6(v6), SocketAddr::V6(to)) = (&mut address, destination) {
        v6.set_scope_id(to.scope_id());
    }
    address
}

/// The address the kernel would send from, found with an unconnected UDP socket.
fn source_for(destination: &SocketAddr) -> IpAddr {
    let domain = if destination.is_ipv4() { libc::AF_INET } else { libc::AF_INET6 };
    let found = raw::socket(domain, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0).and_then(|fd| {
        let (to, length) = to_kernel(destination);
        let name = raw::connect(fd, &to[..length]).and_then(|()| raw::getsockname(fd));
        raw::close(fd);
        name
    });
    match found.map(|name| from_kernel(name.as_bytes())) {
        Ok(Some(address)) => address.ip(),
        _ => loopback(destination),
    }
}

fn loopback(destination: &SocketAddr) -> IpAddr {
    match destination.ip() {
        IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some() => {
            Ipv4Addr::LOCALHOST.to_ipv6_mapped().into()
        }
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    }
}

/// Puts `new` under every number and into every epoll instance of the socket behind `fd`, and
/// closes `new`.
pub fn replace(fd: Fd, new: Fd) -> Result<()> {
    let references = References::find(fd);
    references.leave();
    let put = |number: Fd| {
        let flags = raw::fcntl(number, libc::F_GETFD, 0)?;
        raw::dup3(new, number, flags & libc::FD_CLOEXEC != 0)
    };
    let done = put(fd);
    if done.is_ok() {
        for twin in references.twins() {
            let _closed_meanwhile = put(*twin);
        }
    }
    references.join();
    raw::close(new);
    done
}

/// Gives the app a TCP socket again, as fresh as after a connect that failed.
pub fn give_back(fd: Fd, name: &SocketName) -> Result<()> {
    let flags = FileFlags::of(fd)?;
    let fresh = Fresh::new(name.family)?;
    carry_native(fd, fresh.0);
    for (level, option, value) in Kept::load(fd).all() {
        let _not_kept = raw::setsockopt(fresh.0, level, option, value);
    }
    flags.give(fresh.0);
    let new = fresh.0;
    core::mem::forget(fresh);
    replace(fd, new)
}
