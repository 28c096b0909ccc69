//! What this process has done so far that matters to a later connect.
//!
//! A connect has to carry over all that the program did to its socket: options, other descriptors
//! of it, epoll registrations. Asking the kernel for all of that costs a hundred system calls, and
//! most programs have done nothing of it. So hooks on the calls that can do it leave a note here,
//! in plain static memory: the notes are copied by fork, gone after exec (where [`look_around`]
//! looks once at what was inherited), and only hints, which the connect checks against the kernel.

use core::ffi::c_int;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64, Ordering::Relaxed};

use super::clock;
use super::procfs::{EPOLL, each_descriptor};
use super::socket::ours;
use crate::raw::{self, Fd};

/// An option that a program may set before its connect.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Settable {
    /// The level, as for `setsockopt`.
    pub level: c_int,
    /// The name.
    pub name: c_int,
    /// Whether the kernel does the same for Unix sockets as for TCP.
    pub native: bool,
}

const fn native(name: c_int) -> Settable {
    Settable { level: libc::SOL_SOCKET, name, native: true }
}

const fn tcp_only(level: c_int, name: c_int) -> Settable {
    Settable { level, name, native: false }
}

/// Every option that is carried over.
pub const SETTABLE: [Settable; 36] = [
    native(libc::SO_RCVTIMEO),
    native(libc::SO_SNDTIMEO),
    native(libc::SO_KEEPALIVE),
    native(libc::SO_OOBINLINE),
    native(libc::SO_LINGER),
    native(libc::SO_RCVLOWAT),
    native(libc::SO_PRIORITY),
    native(libc::SO_REUSEADDR),
    native(libc::SO_BROADCAST),
    native(libc::SO_DONTROUTE),
    native(libc::SO_TIMESTAMP),
    native(libc::SO_TIMESTAMPNS),
    tcp_only(libc::SOL_SOCKET, libc::SO_SNDBUF),
    tcp_only(libc::SOL_SOCKET, libc::SO_RCVBUF),
    tcp_only(libc::SOL_SOCKET, libc::SO_REUSEPORT),
    tcp_only(libc::SOL_SOCKET, libc::SO_MARK),
    tcp_only(libc::IPPROTO_TCP, libc::TCP_NODELAY),
    tcp_only(libc::IPPROTO_TCP, libc::TCP_MAXSEG),
    tcp_only(libc::IPPROTO_TCP, libc::TCP_CORK),
    tcp_only(libc::IPPROTO_TCP, libc::TCP_KEEPIDLE),
    tcp_only(libc::IPPROTO_TCP, libc::TCP_KEEPINTVL),
    tcp_only(libc::IPPROTO_TCP, libc::TCP_KEEPCNT),
    tcp_only(libc::IPPROTO_TCP, libc::TCP_SYNCNT),
    tcp_only(libc::IPPROTO_TCP, libc::TCP_LINGER2),
    tcp_only(libc::IPPROTO_TCP, libc::TCP_WINDOW_CLAMP),
    tcp_only(libc::IPPROTO_TCP, libc::TCP_QUICKACK),
    tcp_only(libc::IPPROTO_TCP, libc::TCP_CONGESTION),
    tcp_only(libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT),
    tcp_only(libc::IPPROTO_TCP, libc::TCP_NOTSENT_LOWAT),
    tcp_only(libc::IPPROTO_IP, libc::IP_TOS),
    tcp_only(libc::IPPROTO_IP, libc::IP_TTL),
    tcp_only(libc::IPPROTO_IP, libc::IP_MTU_DISCOVER),
    tcp_only(libc::IPPROTO_IP, libc::IP_RECVERR),
    tcp_only(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY),
    tcp_only(libc::IPPROTO_IPV6, libc::IPV6_TCLASS),
    tcp_only(libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS),
];

/// Options that were set on any socket: one bit for each line of [`SETTABLE`].
static SET: AtomicU64 = AtomicU64::new(0);
/// The bit of [`SET`] for `SO_BINDTODEVICE`, which is not carried over but decides about a connect.
const DEVICE_BIT: u64 = 1 << 63;

/// The program sets an option of some socket.
pub fn sets_option(level: c_int, name: c_int) {
    let at = SETTABLE.iter().position(|it| (it.level, it.name) == (level, name));
    let device = (level, name) == (libc::SOL_SOCKET, libc::SO_BINDTODEVICE);
    let bit = at.map_or(if device { DEVICE_BIT } else { 0 }, |at| 1 << at);
    if SET.load(Relaxed) & bit != bit {
        SET.fetch_or(bit, Relaxed);
    }
}

/// The options that may differ from their defaults on this socket: those that were set on any, or
/// all of them for a socket that was not made by this program.
pub fn may_be_set(fd: Fd) -> impl Iterator<Item = Settable> {
    let set = if was_made_here(fd) { SET.load(Relaxed) } else { u64::MAX };
    SETTABLE.into_iter().enumerate().filter(move |(at, _)| set >> at & 1 != 0).map(|(_, it)| it)
}

/// Whether the socket may be bound to an interface.
pub fn may_have_device(fd: Fd) -> bool {
    !was_made_here(fd) || SET.load(Relaxed) & DEVICE_BIT != 0
}

/// Whether `SO_RCVTIMEO` or `SO_SNDTIMEO` was ever set: the first two lines of [`SETTABLE`].
pub fn sets_timeouts() -> bool {
    SET.load(Relaxed) & 0b11 != 0 || HAS_INHERITED.load(Relaxed)
}

/// Descriptors above this are never noted.
const NOTED_MAX: usize = 65_536;
/// Sockets that this program made, one bit for each descriptor.
static MADE: [AtomicU64; NOTED_MAX / 64] = [const { AtomicU64::new(0) }; NOTED_MAX / 64];

/// The program has made a socket.
pub fn made_socket(fd: Fd) {
    if let Some((word, bit)) = made_bit(fd) {
        word.fetch_or(bit, Relaxed);
    }
}

/// The number belongs to another socket now.
fn replaced(fd: Fd) {
    if let Some((word, bit)) = made_bit(fd) {
        word.fetch_and(!bit, Relaxed);
    }
}

fn was_made_here(fd: Fd) -> bool {
    made_bit(fd).is_some_and(|(word, bit)| word.load(Relaxed) & bit != 0)
}

fn made_bit(fd: Fd) -> Option<(&'static AtomicU64, u64)> {
    let fd = usize::try_from(fd).ok()?;
    Some((MADE.get(fd / 64)?, 1 << (fd % 64)))
}

/// Somebody may get signals from a descriptor: `F_SETOWN` or `F_SETSIG` was used.
static HAS_OWNERS: AtomicBool = AtomicBool::new(false);
/// A TCP socket may have several descriptors.
static HAS_TWINS: AtomicBool = AtomicBool::new(false);
/// The process was started with sockets.
static HAS_INHERITED: AtomicBool = AtomicBool::new(false);
/// The process has, or has had, a session's socket.
static HAS_SESSION: AtomicBool = AtomicBool::new(false);

/// Whether any descriptor may have an owner that gets its signals.
pub fn may_have_owner() -> bool {
    HAS_OWNERS.load(Relaxed) || HAS_INHERITED.load(Relaxed)
}

/// The program has been told a virtual address.
static KNOWS_VIRTUAL: AtomicBool = AtomicBool::new(false);

/// The program is told a virtual address.
pub fn knows_virtual_now() {
    KNOWS_VIRTUAL.store(true, Relaxed);
}

/// Whether the program may know a virtual address.
#[inline]
pub fn may_know_virtual() -> bool {
    KNOWS_VIRTUAL.load(Relaxed)
}

/// A session's socket has taken the place of a TCP socket.
pub fn has_session_now() {
    HAS_SESSION.store(true, Relaxed);
}

/// Whether the process may have a session's socket.
#[inline]
pub fn may_have_session() -> bool {
    HAS_SESSION.load(Relaxed)
}

/// `old` was duplicated as `new`.
pub fn duplicated(old: Fd, new: Fd) {
    replaced(new);
    if knows_epoll(old) {
        made_epoll(new);
    } else if raw::tcp_state(old) == Ok(raw::TCP_CLOSED) {
        HAS_TWINS.store(true, Relaxed);
    }
}

/// `fcntl` has succeeded.
pub fn controlled(fd: Fd, command: c_int, result: c_int) {
    const F_SETSIG: c_int = 10;
    const F_SETOWN_EX: c_int = 15;
    match command {
        libc::F_DUPFD | libc::F_DUPFD_CLOEXEC => duplicated(fd, result),
        libc::F_SETOWN | F_SETOWN_EX | F_SETSIG => HAS_OWNERS.store(true, Relaxed),
        _ => {}
    }
}

/// The program calls `ioctl`.
#[inline]
pub fn asks_device(request: core::ffi::c_ulong) {
    const FIOSETOWN: core::ffi::c_ulong = 0x8901;
    const SIOCSPGRP: core::ffi::c_ulong = 0x8902;
    if matches!(request, FIOSETOWN | SIOCSPGRP) {
        HAS_OWNERS.store(true, Relaxed);
    }
}

/// Whether a TCP socket of this process may have another descriptor.
pub fn may_have_twins() -> bool {
    HAS_TWINS.load(Relaxed)
}

/// Epoll instances that are remembered; with more of them, all descriptors are looked at.
const EPOLLS_MAX: usize = 32;
const FREE: Fd = -1;
static EPOLLS: [AtomicI32; EPOLLS_MAX] = [const { AtomicI32::new(FREE) }; EPOLLS_MAX];
static TOO_MANY_EPOLLS: AtomicBool = AtomicBool::new(false);

/// The program has made an epoll instance.
pub fn made_epoll(fd: Fd) {
    if knows_epoll(fd) {
        return;
    }
    let take = |slot: &AtomicI32| slot.compare_exchange(FREE, fd, Relaxed, Relaxed).is_ok();
    if !EPOLLS.iter().any(take) {
        TOO_MANY_EPOLLS.store(true, Relaxed);
    }
}

fn knows_epoll(fd: Fd) -> bool {
    EPOLLS.iter().any(|slot| slot.load(Relaxed) == fd)
}

/// The descriptor is no epoll instance any more.
pub fn lost_epoll(fd: Fd) {
    for slot in &EPOLLS {
        let _another_one_now = slot.compare_exchange(fd, FREE, Relaxed, Relaxed);
    }
}

/// The epoll instances; nothing when there were more than are remembered.
pub fn epolls() -> Option<impl Iterator<Item = Fd>> {
    let known = EPOLLS.iter().map(|slot| slot.load(Relaxed)).filter(|fd| *fd != FREE);
    (!TOO_MANY_EPOLLS.load(Relaxed)).then_some(known)
}

/// The last registration of a descriptor with epoll.
struct LastRegistration {
    /// The epoll instance, one more than its number; 0 is none.
    epoll: AtomicU32,
    events: AtomicU32,
    data: AtomicU64,
}

/// Only pages of it that are used take memory.
static REGISTRATIONS: [LastRegistration; NOTED_MAX] = [const {
    LastRegistration {
        epoll: AtomicU32::new(0),
        events: AtomicU32::new(0),
        data: AtomicU64::new(0),
    }
}; NOTED_MAX];

/// The program has registered a descriptor, with these events and this user data, or none any more.
#[inline]
pub fn registered(epoll: Fd, fd: Fd, event: Option<(u32, u64)>) {
    let Some(place) = usize::try_from(fd).ok().and_then(|fd| REGISTRATIONS.get(fd)) else { return };
    let Some((events, data)) = event else { return place.epoll.store(0, Relaxed) };
    place.events.store(events, Relaxed);
    place.data.store(data, Relaxed);
    place.epoll.store(epoll as u32 + 1, Relaxed);
}

/// Events and user data of a descriptor that is registered with this epoll instance, if they are
/// known: a registration for one event changes when that comes, so only the kernel knows it.
pub fn last_registration(epoll: Fd, fd: Fd) -> Option<(u32, u64)> {
    let place = REGISTRATIONS.get(usize::try_from(fd).ok()?)?;
    let known = place.epoll.load(Relaxed) == epoll as u32 + 1;
    let (events, data) = (place.events.load(Relaxed), place.data.load(Relaxed));
    (known && events & libc::EPOLLONESHOT as u32 == 0).then_some((events, data))
}

/// Looks at what the process was started with. Called when the library is loaded, because a program
/// may forbid itself to look at `/proc` later.
pub fn look_around() {
    let mut sockets = 0;
    let _no_proc = each_descriptor(|fd, target| {
        if target == EPOLL {
            made_epoll(fd);
        } else if target.starts_with(b"socket:") {
            sockets += 1;
            if let Some(name) = ours(fd) {
                clock::note(&name.cookie);
                has_session_now();
            }
        }
    });
    if sockets > 0 {
        HAS_INHERITED.store(true, Relaxed);
    }
    if sockets > 1 {
        HAS_TWINS.store(true, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn options_are_asked_for_only_if_they_were_set() {
        let fd = raw::socket(libc::AF_INET, libc::SOCK_STREAM, 0).unwrap();
        assert_eq!(may_be_set(fd).count(), SETTABLE.len(), "nothing is known of it");
        made_socket(fd);
        assert_eq!(may_be_set(fd).count(), 0);
        sets_option(libc::IPPROTO_TCP, libc::TCP_NODELAY);
        sets_option(libc::IPPROTO_TCP, 9_999);
        let names: Vec<_> = may_be_set(fd).map(|it| it.name).collect();
        assert_eq!(names, [libc::TCP_NODELAY]);
        assert!(!may_have_device(fd));
        sets_option(libc::SOL_SOCKET, libc::SO_BINDTODEVICE);
        assert!(may_have_device(fd));
        duplicated(0, fd);
        assert_eq!(may_be_set(fd).count(), SETTABLE.len(), "another file has its number");
        raw::close(fd);
        assert!(!was_made_here(-1) && !was_made_here(Fd::MAX));
    }
}
