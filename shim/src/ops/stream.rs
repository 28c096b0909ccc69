//! Reading, sending and shutting down: only where Unix sockets end otherwise than TCP does.

use core::ffi::c_int;

use stp_proto::local::socket_name::SocketName;
use stp_proto::local::wire::SocketState;

use super::kept::{ABORT_REPORTED, Kept, OWN};
use super::name::{hung_up, is_over};
use super::{Bypass, Outcome, broker, ours};
use crate::raw::{self, Errno, Fd};

/// What a failed or empty read on a socket means; nothing when it is to stay as it is. As with TCP
/// an abort is told once, and after it there is nothing more to read.
pub fn after_read(fd: Fd, result: isize, errno: Errno) -> Option<Errno> {
    let failed = match (result, errno) {
        // An orderly end leaves the other direction open; here both are closed.
        (0, _) => {
            let name = ours(fd)?;
            if !hung_up(fd) || is_reported(fd) {
                return None;
            }
            abort_behind_end(&name)?
        }
        (-1, libc::ECONNRESET) => broker::reset_errno(ours(fd)?.cookie),
        _ => return None,
    };
    report(fd);
    Some(failed)
}

/// The error that waits on a socket of ours, given once. `kernels` is what the kernel has just
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

/// How many of the bytes that wait a call for so many would see.
pub fn queued(fd: Fd, wanted: usize) -> Option<isize> {
    let queued = raw::ioctl_number(fd, libc::FIONREAD as core::ffi::c_long).ok()?;
    isize::try_from(wanted.min(usize::try_from(queued).ok()?)).ok()
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
        // The broker is gone, and with it the word on whether this was all.
        Some(SocketState::Pending | SocketState::Unknown) | None => Some(libc::ECONNRESET),
    }
}

/// The errno of a failed send; nothing when it is to stay as it is.
pub fn after_send(fd: Fd, errno: Errno) -> Option<Errno> {
    match errno {
        libc::ECONNRESET => Some(broker::reset_errno(ours(fd)?.cookie)),
        _ => None,
    }
}

/// Shutting down: the kernel does it. While reading is shut, what the broker has for the app goes
/// nowhere.
pub fn shutdown(fd: Fd) -> Outcome<c_int> {
    match ours(fd) {
        Some(name) if is_over(fd, &name) => Outcome::Errno(libc::ENOTCONN),
        Some(_) => Outcome::Bypass(Bypass::Native),
        None => Outcome::Bypass(Bypass::NotOurs),
    }
}
