//! Putting a session's socket in the place of the program's TCP socket, and back.
//!
//! All that the program has done to its socket so far has to hold for the new one: file status
//! flags, close-on-exec, who gets signals, options, epoll registrations, other descriptors of it.

use core::ffi::{c_int, c_long};
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use stp_proto::local::Family;
use stp_proto::local::routes::Match;
use stp_proto::local::socket_name::SocketName;

use super::kept::{Kept, VALUE_BYTES_MAX};
use super::process;
use super::references::References;
use crate::address::{from_kernel, to_kernel};
use crate::raw::{self, Fd, Result};

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
        let owned = process::may_have_owner();
        let ask = |what| if owned { raw::fcntl(fd, what, 0).unwrap_or(0) } else { 0 };
        Ok(FileFlags {
            status: c_long::from(raw::fcntl(fd, libc::F_GETFL, 0)?),
            owner: ask(libc::F_GETOWN),
            signal: ask(F_GETSIG),
        })
    }

    /// Whether calls on it wait.
    pub fn nonblocking(&self) -> bool {
        self.status & c_long::from(libc::O_NONBLOCK) != 0
    }

    /// Gives another file the same.
    pub fn give(&self, fd: Fd) {
        // A fresh socket has no other flags than these.
        let fresh = self.status == c_long::from(libc::O_RDWR);
        let done = if fresh { Ok(0) } else { raw::fcntl(fd, libc::F_SETFL, self.status) };
        if self.owner != 0 {
            let _signals_are_lost = raw::fcntl(fd, libc::F_SETOWN, c_long::from(self.owner));
        }
        if self.signal != 0 {
            let _signals_are_lost = raw::fcntl(fd, F_SETSIG, c_long::from(self.signal));
        }
        debug_assert!(done.is_ok());
    }
}

/// What was set on a socket before its connect.
#[derive(Default)]
pub struct Settings {
    /// Values of options that only TCP knows.
    pub kept: Kept,
    /// `SO_LINGER` makes a close an abort.
    pub abortive: bool,
    /// `SO_KEEPALIVE` is on.
    pub keepalive: bool,
}

/// The value of `SO_LINGER` that makes a close an abort.
pub fn abortive_linger() -> [u8; 8] {
    let mut value = [0; 8];
    value[..4].copy_from_slice(&1i32.to_ne_bytes());
    value
}

/// Gives `to` the options that the kernel does for both kinds of socket, and collects those of
/// `from` that only TCP knows and that differ from a fresh socket's.
pub fn carry(from: Fd, to: Fd, family: Family) -> Result<Settings> {
    let mut settings = Settings::default();
    let mut fresh = None;
    for option in process::may_be_set(from) {
        let (level, name) = (option.level, option.name);
        if level == libc::IPPROTO_IPV6 && family == Family::V4 {
            continue;
        }
        let mut value = [0; VALUE_BYTES_MAX];
        let Ok(length) = raw::getsockopt(from, level, name, &mut value) else { continue };
        let compared = match (&fresh, option.native) {
            (_, true) => to,
            (Some(Fresh(fd)), false) => *fd,
            (None, false) => fresh.insert(Fresh::new(family)?).0,
        };
        let mut default = [0; VALUE_BYTES_MAX];
        let known = raw::getsockopt(compared, level, name, &mut default).is_ok();
        if !known || value == default {
            continue;
        }
        if !option.native {
            halve_buffer(level, name, &mut value);
            settings.kept.put(level, name, &value[..length]);
            continue;
        }
        let _stays = raw::setsockopt(to, level, name, &value[..length]);
        settings.abortive |= name == libc::SO_LINGER && value[..8] == abortive_linger();
        settings.keepalive |= name == libc::SO_KEEPALIVE;
    }
    Ok(settings)
}

/// The kernel doubles the size of a buffer that is set, so the size that was set is half of what it
/// answers.
fn halve_buffer(level: c_int, name: c_int, value: &mut [u8; VALUE_BYTES_MAX]) {
    if level == libc::SOL_SOCKET && matches!(name, libc::SO_SNDBUF | libc::SO_RCVBUF) {
        let [a, b, c, d, ..] = *value;
        let half = c_int::from_ne_bytes([a, b, c, d]) / 2;
        value[..4].copy_from_slice(&half.to_ne_bytes());
    }
}

/// Whether the program has bound the socket to an interface.
pub fn has_device(fd: Fd) -> bool {
    let mut name = [0; 16];
    process::may_have_device(fd)
        && raw::getsockopt(fd, libc::SOL_SOCKET, libc::SO_BINDTODEVICE, &mut name)
            .is_ok_and(|length| length > 0 && name[0] != 0)
}

/// Whether the program has bound the socket to an address of this machine that a connect to
/// `destination` would not use by itself.
pub fn has_other_source(fd: Fd, destination: &SocketAddr) -> Result<bool> {
    let now = raw::getsockname(fd)?;
    let now = from_kernel(now.as_bytes()).ok_or(libc::EAFNOSUPPORT)?.ip();
    let free = now.is_unspecified() || now.to_canonical().is_loopback();
    Ok(!free && source_for(destination).to_canonical() != now.to_canonical())
}

/// Binds the program's TCP socket to the address that the kernel would choose and to a free port,
/// so that `getsockname` tells the truth. Says the address, and whether the program had bound it.
pub fn reserve(tcp: Fd, destination: &SocketAddr, why: Match) -> Result<(SocketAddr, bool)> {
    let now = raw::getsockname(tcp)?;
    let now = from_kernel(now.as_bytes()).ok_or(libc::EAFNOSUPPORT)?;
    let bound = !now.ip().is_unspecified() || now.port() != 0;
    let ip = match why {
        _ if !now.ip().is_unspecified() => now.ip(),
        // The host behind a virtual address is reached from addresses that come and go; only this
        // one is always there.
        Match::Virtual => loopback(destination),
        Match::Routed => source_for(destination),
    };
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
pub fn replace(fd: Fd, new: Fd, references: &References) -> Result<()> {
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
    carry(fd, fresh.0, name.family)?;
    for (level, option, value) in Kept::load(fd).all() {
        let _not_kept = raw::setsockopt(fresh.0, level, option, value);
    }
    flags.give(fresh.0);
    let new = core::mem::ManuallyDrop::new(fresh).0;
    // A program that has used more descriptors since its connect than can be found keeps a dead
    // session's socket under some of them.
    let references = References::find(fd).unwrap_or_default();
    replace(fd, new, &references)
}
