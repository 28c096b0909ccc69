//! Socket options: what TCP would answer, from a TCP socket.
//!
//! A fresh TCP socket says which values are allowed and how they read back; nothing of that is
//! written down here. Values set by the program are kept with its socket ([`super::kept`]).

use core::ffi::c_int;

use stp_proto::local::socket_name::SocketName;
use stp_proto::local::wire::SocketState;

use super::broker;
use super::kept::{Kept, VALUE_BYTES_MAX};
use super::process::SETTABLE;
use super::socket::{SIOCOUTQ, ours};
use super::stream;
use super::swap::{Fresh, abortive_linger};
use crate::outcome::{Bypass, Outcome};
use crate::raw::{self, Errno, Fd};

const STATE_AT: usize = 0;
const UNACKED_AT: usize = 24;
const RTT_AT: usize = 68;
const ESTABLISHED: u8 = 1;
const SYN_SENT: u8 = 2;
/// What Linux calls the bytes that were not sent yet.
const SIOCOUTQNSD: core::ffi::c_ulong = 0x894b;
/// The most memory one held-back byte keeps in use (the broker's limit for such bursts, and more).
const HELD_BACK_MAX: c_int = 36 << 10;
const USUAL_SEGMENT: c_int = 1448;

/// What answers a question for an option, or sets it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Who {
    /// The kernel: it does the same for Unix sockets as for TCP.
    Kernel,
    /// The kernel gives an error of the socket, which [`error`] corrects.
    Error,
    /// The kernel is asked first, but for a session's socket its answer has another meaning.
    Tcp,
    /// The kernel is asked first, and refuses for a session's socket: the option is TCP's.
    TcpIfRefused,
}

/// What knows an option.
pub fn who(level: c_int, name: c_int) -> Who {
    match level {
        libc::SOL_SOCKET if name == libc::SO_ERROR => Who::Error,
        libc::SOL_SOCKET if is_native(level, name) => Who::Kernel,
        libc::SOL_SOCKET => Who::Tcp,
        _ => Who::TcpIfRefused,
    }
}

/// Whether the kernel's own answer for a Unix socket is TCP's.
fn is_native(level: c_int, name: c_int) -> bool {
    const MORE: [c_int; 5] = [
        libc::SO_TYPE,
        libc::SO_ACCEPTCONN,
        libc::SO_COOKIE,
        libc::SO_INCOMING_CPU,
        libc::SO_PEEK_OFF,
    ];
    let settable = SETTABLE.iter().any(|it| it.native && it.name == name);
    level == libc::SOL_SOCKET && (settable || MORE.contains(&name))
}

/// The answer to `SO_ERROR`, after the kernel's.
pub fn error(fd: Fd, kernels: Errno) -> Errno {
    let taken = ours(fd).and_then(|name| stream::take_error(fd, &name, kernels));
    taken.unwrap_or(kernels)
}

/// Reads an option only TCP has; says how many bytes of `value` are the answer. `room` is how many
/// the caller takes, if it has said so.
pub fn get(
    fd: Fd,
    level: c_int,
    name: c_int,
    room: Option<u32>,
    value: &mut [u8],
) -> Outcome<usize> {
    let Some(socket) = ours(fd) else { return Outcome::Bypass(Bypass::NotOurs) };
    let Some(room) = room else { return Outcome::Errno(libc::EFAULT) };
    if c_int::try_from(room).is_err() {
        return Outcome::Errno(libc::EINVAL);
    }
    let value = match value.split_at_mut_checked(room as usize) {
        Some((value, _)) => value,
        None => value,
    };
    let fresh = match Fresh::new(socket.family) {
        Ok(fresh) => fresh,
        Err(errno) => return Outcome::Errno(errno),
    };
    let kept = Kept::load(fd);
    let set = kept.find(level, name);
    if let Some(set) = set {
        let _as_fresh_then = raw::setsockopt(fresh.0, level, name, set);
    }
    let length = match raw::getsockopt(fresh.0, level, name, value) {
        Ok(length) => length,
        Err(errno) => return Outcome::Errno(errno),
    };
    match (level, name) {
        (libc::IPPROTO_TCP, libc::TCP_INFO) => {
            fill_info(broker::socket_state(socket.cookie), &mut value[..length]);
        }
        (libc::IPPROTO_TCP, libc::TCP_MAXSEG) if set.is_none() && length == 4 => {
            value[..4].copy_from_slice(&USUAL_SEGMENT.to_ne_bytes());
        }
        _ => {}
    }
    Outcome::Ours(length)
}

fn fill_info(state: Option<SocketState>, info: &mut [u8]) {
    let mut put = |at: usize, bytes: &[u8]| {
        if let Some(place) = info.get_mut(at..at + bytes.len()) {
            place.copy_from_slice(bytes);
        }
    };
    match state {
        Some(SocketState::Pending) => put(STATE_AT, &[SYN_SENT]),
        Some(SocketState::Established { rtt_us, unacknowledged }) => {
            let segments = unacknowledged.div_ceil(USUAL_SEGMENT as u32);
            put(STATE_AT, &[ESTABLISHED]);
            put(UNACKED_AT, &segments.to_ne_bytes());
            put(RTT_AT, &rtt_us.to_ne_bytes());
        }
        _ => {}
    }
}

/// Sets an option only TCP has: checked by a TCP socket, kept with this one.
pub fn set(fd: Fd, socket: &SocketName, level: c_int, name: c_int, value: &[u8]) -> Outcome<c_int> {
    match (level, name) {
        // Nobody would ever tell the app that its pages are free again.
        (libc::SOL_SOCKET, libc::SO_ZEROCOPY) => return Outcome::Errno(libc::EOPNOTSUPP),
        // TLS in the kernel would encrypt what the broker could never send.
        (libc::IPPROTO_TCP, libc::TCP_ULP) => return Outcome::Errno(libc::ENOENT),
        // The place where options are kept.
        (libc::SOL_SOCKET, libc::SO_ATTACH_FILTER | libc::SO_DETACH_FILTER) => {
            return Outcome::Ours(0);
        }
        _ => {}
    }
    let fresh = match Fresh::new(socket.family) {
        Ok(fresh) => fresh,
        Err(errno) => return Outcome::Errno(errno),
    };
    if let Err(errno) = raw::setsockopt(fresh.0, level, name, value) {
        return Outcome::Errno(errno);
    }
    if value.len() <= VALUE_BYTES_MAX {
        let mut kept = Kept::load(fd);
        kept.put(level, name, value);
        kept.store(fd);
    }
    if let (libc::IPPROTO_TCP, libc::TCP_USER_TIMEOUT, Some(ms)) =
        (level, name, value.first_chunk())
    {
        broker::user_timeout(socket.cookie, u32::from_ne_bytes(*ms));
    }
    Outcome::Ours(0)
}

/// Whether the broker has to know of an option that the kernel has set: `SO_LINGER`.
pub fn is_brokers_too(level: c_int, name: c_int) -> bool {
    (level, name) == (libc::SOL_SOCKET, libc::SO_LINGER)
}

/// The program has set `SO_LINGER`, which the kernel has done.
pub fn lingered(fd: Fd) {
    let Some(socket) = ours(fd) else { return };
    let mut value = [0; 8];
    if raw::getsockopt(fd, libc::SOL_SOCKET, libc::SO_LINGER, &mut value).is_ok() {
        broker::linger(socket.cookie, value == abortive_linger());
    }
}

/// Whether the answer to this `ioctl` is another for a session's socket.
pub fn is_count(request: core::ffi::c_ulong) -> bool {
    request == SIOCOUTQ as core::ffi::c_ulong || request == SIOCOUTQNSD
}

/// Bytes sent but not acknowledged, or not sent.
pub fn unsent(fd: Fd, request: core::ffi::c_ulong) -> Outcome<c_int> {
    let Some(name) = ours(fd) else { return Outcome::Bypass(Bypass::NotOurs) };
    Outcome::Ours(if request == SIOCOUTQNSD { 0 } else { unacknowledged(fd, &name) })
}

/// Bytes that the far end has not acknowledged: those the broker has not taken, counted by the
/// kernel's memory for them, and those it keeps.
fn unacknowledged(fd: Fd, socket: &SocketName) -> c_int {
    let kept = match broker::socket_state(socket.cookie) {
        Some(SocketState::Established { unacknowledged, .. }) => unacknowledged,
        _ => 0,
    };
    let waiting = raw::ioctl_number(fd, SIOCOUTQ).unwrap_or(0);
    // One held-back byte lies in the queue all the time.
    let waiting = if waiting > HELD_BACK_MAX { waiting } else { 0 };
    waiting.saturating_add(c_int::try_from(kept).unwrap_or(c_int::MAX))
}
