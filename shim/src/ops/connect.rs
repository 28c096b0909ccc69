//! Connecting: whether a session takes the connection, and how it is made to look like TCP's.
//!
//! The program's socket is replaced by a Unix socket to the broker whose send buffer holds filler.
//! As long as that lies unread, the socket is not writable, which is what a connect that is under
//! way looks like to poll, select and epoll; and a blocking connect is a blocking send of the byte
//! that ends the filler, so that the kernel itself does time-outs, signals and restarts.

use core::cell::Cell;
use core::ffi::c_int;
use core::net::SocketAddr;
use core::sync::atomic::{AtomicI32, Ordering::Relaxed};

use stp_proto::local::routes::{Match, WhenAbsent};
use stp_proto::local::socket_name::{SOCKET_NAME_BYTES, SocketName};
use stp_proto::local::wire::{FILLER, FILLER_END, Open, OpenFlags, Passed, PassedWhy, Request};
use stp_proto::local::{Cookie, Family};
use stp_proto::name::Name;

use super::broker::Host;
use super::kept::{CONNECT_INTERRUPTED, CONNECT_REPORTED, Kept, OWN};
use super::references::{Lost, References};
use super::socket::{hung_up, is_pending, ours};
use super::swap::{self, FileFlags};
use super::{broker, clock, process, stream, told};
use crate::address::from_kernel;
use crate::map;
use crate::outcome::{Bypass, Outcome};
use crate::raw::{self, Errno, Fd, Quiet, Result};

/// What a connect that is ours takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[expect(clippy::large_enum_variant, reason = "lives on the stack of one call; no heap here")]
pub enum Next {
    /// Nothing more: it has succeeded.
    Done,
    /// Send the byte that ends the filler, waiting; then ask [`sent`].
    SendEnd,
    /// Wait until the socket is writable; then ask [`waited`].
    WaitWritable,
    /// The real call, to this host and port instead of the virtual address that stands for it.
    Elsewhere(Host, u16),
}

/// The byte a blocking connect waits to send.
pub static END: [u8; 1] = [FILLER_END];
/// More than a quarter of the usual send buffer: with this in it a socket is not writable.
const FILL_BYTES: usize = 52 << 10;
/// More than the smallest send buffer: with this in it a send waits.
const SMALL_FILL_BYTES: usize = 4 << 10;
static FILL: [u8; FILL_BYTES] = [FILLER; FILL_BYTES];

/// Decides about a connect to an address in the kernel's form; `swapped` says whether a session's
/// socket has taken the place of the program's.
pub fn decide(fd: Fd, address: &[u8], swapped: &Cell<bool>) -> Outcome<Next> {
    if address.starts_with(&(libc::AF_UNSPEC as u16).to_ne_bytes()) {
        return disconnect(fd);
    }
    let Some(destination) = from_kernel(address) else {
        return Outcome::Bypass(Bypass::OtherFamily);
    };
    let Some(why) = map::destination(&destination) else {
        return Outcome::Bypass(Bypass::Unrouted);
    };
    if let Some(name) = ours(fd) {
        let outcome = again(fd, &name);
        if outcome != Outcome::Bypass(Bypass::NotOurs) {
            return outcome;
        }
    }
    match family_if_free(fd, &destination) {
        Ok(family) => {
            if why == Match::Virtual
                && let Some(host) = other_port(&destination)
            {
                return Outcome::Ours(Next::Elsewhere(host, destination.port()));
            }
            let quiet = Quiet::begin();
            let outcome = open(fd, family, &destination, why, swapped);
            drop(quiet);
            outcome.unwrap_or_else(Outcome::Errno)
        }
        // Only TCP is carried; a datagram to a virtual address would go astray.
        Err(Bypass::NotTcp) if why == Match::Virtual => elsewhere(&destination),
        Err(bypass) => Outcome::Bypass(bypass),
    }
}

/// The host behind a virtual address, if this port of it is not routed: a name is asked for
/// without a port in most cases, so its virtual address also meets ports that are not ours.
fn other_port(destination: &SocketAddr) -> Option<Host> {
    let host = host_behind(destination)?;
    let name = host.as_c_str().to_bytes();
    let routed = Name::is_host(name) || map::host(name, Some(destination.port()));
    (!routed).then_some(host)
}

/// The name that stands behind a virtual address, from the broker or as this process was told it.
fn host_behind(destination: &SocketAddr) -> Option<Host> {
    let ip = destination.ip().to_canonical();
    broker::name_of(ip).or_else(|| told::name_of(ip))
}

/// The host behind a virtual address, to be connected to without a session.
fn elsewhere(destination: &SocketAddr) -> Outcome<Next> {
    match host_behind(destination) {
        Some(host) => Outcome::Ours(Next::Elsewhere(host, destination.port())),
        None => Outcome::Errno(libc::ENETUNREACH),
    }
}

/// A connect that a route gives to a session, and that no session can carry: it goes to the kernel,
/// and the broker is told why.
fn without_session(destination: &SocketAddr, why: Match, reason: PassedWhy) -> Outcome<Next> {
    broker::passed(Passed { destination: *destination, why: reason });
    match why {
        Match::Routed => Outcome::Bypass(Bypass::CannotCarry),
        Match::Virtual => elsewhere(destination),
    }
}

/// What a connect means that the kernel refused although it goes to no routed place: the socket
/// may be one of ours.
pub fn refused_by_kernel(fd: Fd) -> Outcome<Next> {
    match ours(fd) {
        Some(name) => again(fd, &name),
        None => Outcome::Bypass(Bypass::NotOurs),
    }
}

/// Gives the app its TCP socket back when a decision has panicked after the swap.
pub fn undo(fd: Fd) {
    if let Some(name) = ours(fd) {
        let _quiet = Quiet::begin();
        let _stays_dead = swap::give_back(fd, &name);
    }
}

/// The app's TCP socket, if it is one and not in use.
fn family_if_free(fd: Fd, destination: &SocketAddr) -> core::result::Result<Family, Bypass> {
    let number = |level, name| raw::option(fd, level, name).map_err(|_| Bypass::BadArgument);
    if number(libc::SOL_SOCKET, libc::SO_TYPE)? != libc::SOCK_STREAM {
        return Err(Bypass::NotTcp);
    }
    let family = match number(libc::SOL_SOCKET, libc::SO_DOMAIN)? {
        libc::AF_INET if destination.is_ipv4() => Family::V4,
        libc::AF_INET6 if destination.is_ipv6() => Family::V6,
        _ => return Err(Bypass::OtherFamily),
    };
    let protocol = number(libc::SOL_SOCKET, libc::SO_PROTOCOL)?;
    if protocol != libc::IPPROTO_TCP && protocol != libc::IPPROTO_MPTCP {
        return Err(Bypass::NotTcp);
    }
    if raw::tcp_state(fd) != Ok(raw::TCP_CLOSED) {
        return Err(Bypass::InUse);
    }
    let only_v6 = family == Family::V6 && destination.ip().to_canonical().is_ipv4();
    if only_v6 && number(libc::IPPROTO_IPV6, libc::IPV6_V6ONLY)? != 0 {
        return Err(Bypass::OtherFamily);
    }
    if destination.port() == 0 || destination.ip().to_canonical().is_unspecified() {
        return Err(Bypass::BadArgument);
    }
    Ok(family)
}

fn open(
    fd: Fd,
    family: Family,
    destination: &SocketAddr,
    why: Match,
    swapped: &Cell<bool>,
) -> Result<Outcome<Next>> {
    let flags = FileFlags::of(fd)?;
    let new = match broker::dial() {
        Ok(new) => new,
        Err(errno) => return Ok(without_broker(errno, destination, why)),
    };
    let references = match carried(fd, destination, why) {
        Ok(references) => references,
        Err(reason) => {
            raw::close(new);
            return Ok(without_session(destination, why, reason));
        }
    };
    let prepared = prepare((fd, new), family, (destination, why), &flags);
    let replaced = prepared.and_then(|()| {
        swapped.set(true);
        process::has_session_now();
        swap::replace(fd, new, &references)
    });
    match replaced {
        Ok(()) if flags.nonblocking() => Ok(Outcome::Errno(libc::EINPROGRESS)),
        Ok(()) => Ok(Outcome::Ours(Next::SendEnd)),
        Err(errno) => {
            raw::close(new);
            match errno {
                libc::EMFILE | libc::ENFILE => Ok(without_broker(errno, destination, why)),
                _ => Err(errno),
            }
        }
    }
}

/// What refers to the socket, or why no session can take its place.
fn carried(
    fd: Fd,
    destination: &SocketAddr,
    why: Match,
) -> core::result::Result<References, PassedWhy> {
    if swap::has_device(fd) {
        return Err(PassedWhy::Interface);
    }
    // A host behind a virtual address is reached from any address of this machine.
    if why == Match::Routed && swap::has_other_source(fd, destination).unwrap_or(false) {
        return Err(PassedWhy::SourceAddress);
    }
    References::find(fd).map_err(|lost| match lost {
        Lost::TooMany => PassedWhy::TooManyReferences,
        Lost::Unreadable => PassedWhy::UnreadableReferences,
    })
}

/// A program that has no descriptor left for the swap is as one that finds no broker.
fn without_broker(errno: Errno, destination: &SocketAddr, why: Match) -> Outcome<Next> {
    let full = matches!(errno, libc::EMFILE | libc::ENFILE);
    if !full {
        map::doubt();
    }
    let failed = Outcome::Errno(if full { errno } else { libc::ECONNREFUSED });
    match (why, map::when_absent()) {
        (_, WhenAbsent::Fail) => failed,
        (Match::Routed, WhenAbsent::Pass) => Outcome::Bypass(Bypass::BrokerAbsent),
        (Match::Virtual, WhenAbsent::Pass) => {
            match told::name_of(destination.ip().to_canonical()) {
                Some(host) if !Name::is_host(host.as_c_str().to_bytes()) => {
                    Outcome::Ours(Next::Elsewhere(host, destination.port()))
                }
                _ => failed,
            }
        }
    }
}

/// Makes the new socket all it has to be before it takes the old one's place.
fn prepare(
    (fd, new): (Fd, Fd),
    family: Family,
    (destination, why): (&SocketAddr, Match),
    flags: &FileFlags,
) -> Result<()> {
    broker::set_patience(new, libc::SO_SNDTIMEO, 0)?;
    let settings = swap::carry(fd, new, family)?;
    settings.kept.store(new);
    let (local, bound) = swap::reserve(fd, destination, why)?;
    let mut cookie = Cookie([0; 16]);
    raw::random(&mut cookie.0)?;
    clock::note(&cookie);
    let nonblocking = flags.nonblocking();
    let name = SocketName { family, nonblocking, local, peer: *destination, cookie };
    bind_abstract(new, &name)?;
    let open = Open {
        cookie,
        family,
        destination: *destination,
        local,
        pid: raw::pid(),
        flags: OpenFlags {
            nonblocking,
            bound,
            abortive: settings.abortive,
            keepalive: settings.keepalive,
            reserved: true,
        },
    };
    // The reserved port may be shared with a listener of the app (FTP, active mode).
    let one = 1i32.to_ne_bytes();
    let _not_shared = raw::setsockopt(fd, libc::SOL_SOCKET, libc::SO_REUSEADDR, &one);
    let message = Request::Open(open).encode().ok_or(libc::EINVAL)?;
    let bytes = message.as_bytes();
    if raw::send_with_descriptor(new, bytes, fd)? != bytes.len() {
        return Err(libc::ENOBUFS);
    }
    // From here on the TCP socket is the broker's as well, and the app may not get it back. If the
    // broker has refused already, the app learns it from the new socket.
    flags.give(new);
    match fill(new, nonblocking) {
        Ok(()) | Err(libc::EPIPE | libc::ECONNRESET) => Ok(()),
        Err(errno) => Err(errno),
    }
}

fn bind_abstract(fd: Fd, name: &SocketName) -> Result<()> {
    const NAME_AT: usize = 3;
    let mut address = [0; NAME_AT + SOCKET_NAME_BYTES];
    address[..2].copy_from_slice(&(libc::AF_UNIX as u16).to_ne_bytes());
    address[NAME_AT..].copy_from_slice(&name.encode());
    raw::bind(fd, &address)
}

/// The size that the kernel gives to the send buffer of a new Unix socket, as it answers it.
static BUFFER: AtomicI32 = AtomicI32::new(0);

/// Makes a send buffer that holds filler a full one, by making it as small as the kernel allows for
/// as long as the connect waits: filling and emptying 200 KiB would cost more than all the rest.
fn shrink(fd: Fd) -> Result<()> {
    let (level, name) = (libc::SOL_SOCKET, libc::SO_SNDBUF);
    BUFFER.store(raw::option(fd, level, name)?, Relaxed);
    raw::setsockopt(fd, level, name, &1i32.to_ne_bytes())
}

/// Undoes [`shrink`]; the kernel doubles what is set.
fn unshrink(fd: Fd) {
    let size = BUFFER.load(Relaxed) / 2;
    let _stays_small = raw::setsockopt(fd, libc::SOL_SOCKET, libc::SO_SNDBUF, &size.to_ne_bytes());
}

/// Fills the send buffer: so that the next byte has to wait for a blocking connect, and so that the
/// socket is not writable, with the end byte, for a non-blocking one.
fn fill(fd: Fd, nonblocking: bool) -> Result<()> {
    if nonblocking {
        return block(fd);
    }
    // The filler alone is more than the small buffer: the broker may read the message before it.
    raw::send(fd, &FILL[..SMALL_FILL_BYTES])?;
    shrink(fd)
}

/// Fills it so far that the socket is not writable, and ends the filler.
fn block(fd: Fd) -> Result<()> {
    /// More pieces than this no send buffer takes.
    const PIECES_MAX: usize = 4_096;
    for _ in 0..PIECES_MAX {
        match raw::send(fd, &FILL) {
            Ok(_) if !writable(fd) => break,
            Ok(_) => {}
            Err(libc::EAGAIN) => break,
            Err(errno) => return Err(errno),
        }
    }
    raw::send(fd, &END).map(drop)
}

fn writable(fd: Fd) -> bool {
    raw::poll(fd, libc::POLLOUT).is_ok_and(|events| events & libc::POLLOUT != 0)
}

/// After the send of [`Next::SendEnd`]: the result of connect, 0 or an errno.
pub fn sent(fd: Fd, result: isize, errno: Errno) -> Errno {
    unshrink(fd);
    if result > 0 {
        clock::look();
        return 0;
    }
    let Some(name) = ours(fd) else { return errno };
    match errno {
        // Interrupted, or out of time: it goes on in the background, as with TCP.
        libc::EINTR | libc::EAGAIN => {
            let _quiet = Quiet::begin();
            let _gone_then = block(fd);
            let mut kept = Kept::load(fd);
            kept.put(OWN, CONNECT_INTERRUPTED, &[1]);
            kept.store(fd);
            if errno == libc::EINTR { libc::EINTR } else { libc::EINPROGRESS }
        }
        _ => {
            let _quiet = Quiet::begin();
            let errno = broker::refused_errno(name.cookie);
            let _stays_dead = swap::give_back(fd, &name);
            errno
        }
    }
}

/// After the wait of [`Next::WaitWritable`]: the result of connect, 0 or an errno.
pub fn waited(fd: Fd, result: c_int, errno: Errno) -> Errno {
    if result < 0 {
        return errno;
    }
    if result == 0 {
        return libc::EALREADY;
    }
    match ours(fd).map(|name| again(fd, &name)) {
        Some(Outcome::Ours(Next::Done)) => 0,
        Some(Outcome::Errno(errno)) => errno,
        _ => libc::ECONNABORTED,
    }
}

/// A connect on a session's socket. "Not ours" says that it is a fresh TCP socket again, to be
/// connected anew.
fn again(fd: Fd, name: &SocketName) -> Outcome<Next> {
    let kernels = raw::option(fd, libc::SOL_SOCKET, libc::SO_ERROR).unwrap_or(0);
    if let Some(errno) = stream::take_error(fd, name, kernels) {
        let _quiet = Quiet::begin();
        let _stays_dead = swap::give_back(fd, name);
        return Outcome::Errno(errno);
    }
    if hung_up(fd) {
        let _quiet = Quiet::begin();
        return match swap::give_back(fd, name) {
            Ok(()) => Outcome::Bypass(Bypass::NotOurs),
            Err(errno) => Outcome::Errno(errno),
        };
    }
    if is_pending(fd, name) {
        let waits = FileFlags::of(fd).is_ok_and(|flags| !flags.nonblocking());
        let under_way = Outcome::Errno(libc::EALREADY);
        return if waits { Outcome::Ours(Next::WaitWritable) } else { under_way };
    }
    let mut kept = Kept::load(fd);
    let in_background = name.nonblocking || kept.find(OWN, CONNECT_INTERRUPTED).is_some();
    if !in_background || kept.find(OWN, CONNECT_REPORTED).is_some() {
        return Outcome::Errno(libc::EISCONN);
    }
    kept.put(OWN, CONNECT_REPORTED, &[1]);
    kept.store(fd);
    Outcome::Ours(Next::Done)
}

/// A connect to no address dissolves the association: the program gets a TCP socket again.
fn disconnect(fd: Fd) -> Outcome<Next> {
    let Some(name) = ours(fd) else { return Outcome::Bypass(Bypass::NotOurs) };
    let _quiet = Quiet::begin();
    match swap::give_back(fd, &name) {
        Ok(()) => Outcome::Ours(Next::Done),
        Err(errno) => Outcome::Errno(errno),
    }
}

/// How long a connect on this socket waits, as for poll: `SO_SNDTIMEO`, -1 for ever.
pub fn send_timeout_ms(fd: Fd) -> c_int {
    let timeout = raw::socket_timeout_ms(fd, libc::SO_SNDTIMEO);
    timeout.map_or(-1, |ms| c_int::try_from(ms).unwrap_or(c_int::MAX))
}
