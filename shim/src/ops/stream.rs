//! Reading, sending and shutting down: only where Unix sockets end otherwise than TCP does.

use core::ffi::c_int;

use stp_proto::local::routes::Match;
use stp_proto::local::socket_name::SocketName;
use stp_proto::local::wire::SocketState;

use super::broker;
use super::kept::{ABORT_REPORTED, Kept, OWN};
use super::socket::{hung_up, is_over, ours};
use crate::address::from_kernel;
use crate::map;
use crate::outcome::{Bypass, Outcome};
use crate::raw::{self, Errno, Fd};

const RIGHT: Bypass = Bypass::Right;

/// Whether the result of a read can be another than TCP's at all: it is an end or a reset. `wanted`
/// says whether the caller gave room for a byte.
#[inline]
pub fn may_differ(result: isize, wanted: bool, errno: impl FnOnce() -> Errno) -> bool {
    (result == 0 && wanted) || (result == -1 && errno() == libc::ECONNRESET)
}

/// What a failed or empty read on a socket means. As with TCP an abort is told once, and after it
/// there is nothing more to read.
pub fn after_read(fd: Fd, result: isize) -> Outcome<isize> {
    let Some(name) = ours(fd) else { return Outcome::Bypass(Bypass::NotOurs) };
    let failed = match result {
        // An orderly end leaves the other direction open; here both are closed.
        0 if !hung_up(fd) || is_reported(fd) => return Outcome::Bypass(RIGHT),
        0 => match abort_behind_end(&name) {
            Some(errno) => errno,
            None => return Outcome::Bypass(RIGHT),
        },
        _ => broker::reset_errno(name.cookie),
    };
    report(fd);
    Outcome::Errno(failed)
}

/// The error that waits on a session's socket, given once. `kernels` is what the kernel has just
/// given; where that is nothing the abort may have come while the connect was being made.
pub fn take_error(fd: Fd, name: &SocketName, kernels: Errno) -> Option<Errno> {
    let failed = if kernels != 0 {
        broker::reset_errno(name.cookie)
    } else if hung_up(fd) && !is_reported(fd) {
        match broker::socket_state(name.cookie) {
            Some(SocketState::Refused(errno) | SocketState::Reset(errno)) => errno,
            _ => return None,
        }
    } else {
        return None;
    };
    report(fd);
    Some(failed)
}

fn is_reported(fd: Fd) -> bool {
    Kept::load(fd).find(OWN, ABORT_REPORTED).is_some()
}

fn report(fd: Fd) {
    let mut kept = Kept::load(fd);
    kept.put(OWN, ABORT_REPORTED, &[1]);
    kept.store(fd);
}

/// The errno of an abort that the kernel shows as an end, if it is one.
fn abort_behind_end(name: &SocketName) -> Option<Errno> {
    match broker::socket_state(name.cookie) {
        Some(SocketState::Refused(errno) | SocketState::Reset(errno)) => Some(errno),
        Some(SocketState::Closed | SocketState::Established { .. }) => None,
        // The broker is gone, so nobody can say whether this was all.
        Some(SocketState::Pending | SocketState::Unknown) | None => Some(libc::ECONNRESET),
    }
}

/// Whether `MSG_TRUNC` asks to throw bytes away. TCP does that, while Unix sockets would copy them.
pub fn discards(fd: Fd, flags: c_int) -> bool {
    flags & libc::MSG_TRUNC != 0 && ours(fd).is_some()
}

/// How many of the bytes that wait a call for `wanted` bytes would see.
pub fn queued(fd: Fd, wanted: usize) -> Option<isize> {
    let queued = raw::ioctl_number(fd, libc::FIONREAD as core::ffi::c_long).ok()?;
    isize::try_from(wanted.min(usize::try_from(queued).ok()?)).ok()
}

/// Bytes of a stream to be thrown away: how many are still to be received, and how.
pub struct Discard {
    wanted: usize,
    done: usize,
    flags: c_int,
}

impl Discard {
    /// For a call that wants `wanted` bytes, with its flags.
    pub fn new(wanted: usize, flags: c_int) -> Discard {
        Discard { wanted, done: 0, flags: flags & !libc::MSG_TRUNC }
    }

    /// The next receive: at most `room` bytes, with these flags. Nothing when all are thrown away.
    pub fn next(&self, room: usize) -> Option<(usize, c_int)> {
        (self.done < self.wanted).then(|| (room.min(self.wanted - self.done), self.flags))
    }

    /// What a receive gave; the result of the whole call if that was the last one.
    pub fn took(&mut self, fd: Fd, result: isize) -> Option<isize> {
        let Ok(count @ 1..) = usize::try_from(result) else {
            return Some(if self.done > 0 { self.done as isize } else { result });
        };
        if self.flags & libc::MSG_PEEK != 0 {
            return Some(queued(fd, self.wanted).unwrap_or(result));
        }
        self.done += count;
        // The call has something to give, so it does not wait for more unless it was asked to.
        if self.flags & libc::MSG_WAITALL == 0 {
            self.flags |= libc::MSG_DONTWAIT;
        }
        (self.done >= self.wanted).then_some(self.done as isize)
    }
}

/// Whether the sender's address that came with bytes must be hidden: a connected TCP socket names
/// no sender, and the broker's address is nobody's business.
pub fn hides_sender(fd: Fd, family: c_int) -> bool {
    family == libc::AF_UNIX && ours(fd).is_some()
}

/// What a failed send on a socket means.
pub fn after_send(fd: Fd) -> Outcome<isize> {
    match ours(fd) {
        Some(name) => Outcome::Errno(broker::reset_errno(name.cookie)),
        None => Outcome::Bypass(Bypass::NotOurs),
    }
}

/// Whether a send failed with `errno` only because it names an address, which a connected TCP
/// socket would ignore.
pub fn ignores_address(fd: Fd, errno: Errno) -> bool {
    errno == libc::EISCONN && ours(fd).is_some()
}

/// Whether sending with `MSG_FASTOPEN` to this address, in the kernel's form, has to connect a
/// session first.
pub fn opens_fast(fd: Fd, address: &[u8]) -> bool {
    let routed = from_kernel(address).is_some_and(|to| map::destination(&to).is_some());
    routed && ours(fd).is_none()
}

/// Whether a datagram would go to a virtual address, where nobody must be: only TCP is carried.
pub fn strays(fd: Fd, address: &[u8]) -> Outcome<isize> {
    let to = from_kernel(address).and_then(|to| map::destination(&to));
    let datagram = || raw::option(fd, libc::SOL_SOCKET, libc::SO_TYPE) == Ok(libc::SOCK_DGRAM);
    if to == Some(Match::Virtual) && datagram() {
        return Outcome::Errno(libc::ENETUNREACH);
    }
    Outcome::Bypass(Bypass::Unrouted)
}

/// Shutting down: the kernel does it. While reading is shut, what the broker has for the program
/// goes nowhere.
pub fn shutdown(fd: Fd) -> Outcome<c_int> {
    match ours(fd) {
        Some(name) if is_over(fd, &name) => Outcome::Errno(libc::ENOTCONN),
        Some(_) => Outcome::Bypass(Bypass::Native),
        None => Outcome::Bypass(Bypass::NotOurs),
    }
}
