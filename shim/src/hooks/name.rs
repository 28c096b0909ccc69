//! getsockname, getpeername, accept, accept4, shutdown.

use core::ffi::c_int;
use core::net::SocketAddr;

use libc::{sockaddr, socklen_t};

use super::hook;
use crate::address::to_kernel;
use crate::guard::decide;
use crate::ops::{name, process, stream};
use crate::outcome::{Bypass, Outcome};
use crate::raw::number_at;

const PANICKED: Bypass = Bypass::Panicked;

hook! {
    /// Says the socket's own address.
    [getsockname] (fd: c_int, address: *mut sockaddr, length: *mut socklen_t) -> c_int, real => {
        // SAFETY: the kernel is asked whether the memory is there; the caller keeps it.
        let room = unsafe { number_at(length) };
        // SAFETY: the caller's own arguments.
        let result = unsafe { real(fd, address, length) };
        match room {
            // SAFETY: the kernel has just written as much as there is room for.
            Some(room) if result == 0 && unsafe { is_unix(address, room) } => {
                let outcome = decide(Outcome::Bypass(PANICKED), || name::local(fd));
                // SAFETY: as above.
                unsafe { answer(outcome, result, address, length, room) }
            }
            _ => result,
        }
    }
}

hook! {
    /// Says the address of the socket's peer.
    [getpeername] (fd: c_int, address: *mut sockaddr, length: *mut socklen_t) -> c_int, real => {
        // SAFETY: the kernel is asked whether the memory is there; the caller keeps it.
        let room = unsafe { number_at(length) };
        // SAFETY: the caller's own arguments.
        let result = unsafe { real(fd, address, length) };
        match room {
            // SAFETY: the kernel has just written as much as there is room for.
            Some(room) if result == 0 && unsafe { is_unix(address, room) } => {
                let outcome = decide(Outcome::Bypass(PANICKED), || name::peer(fd));
                // SAFETY: as above.
                unsafe { answer(outcome, result, address, length, room) }
            }
            Some(room) if result == 0 && process::may_have_session() => {
                let outcome = decide(Outcome::Bypass(PANICKED), || name::accepted(fd));
                // SAFETY: as above.
                unsafe { answer(outcome, result, address, length, room) }
            }
            _ => result,
        }
    }
}

hook! {
    /// Accepts a connection, and says where it comes from.
    [accept] (fd: c_int, address: *mut sockaddr, length: *mut socklen_t) -> c_int, real => {
        // SAFETY: the kernel is asked whether the memory is there; the caller keeps it.
        let room = unsafe { wants_peer(address, length) };
        // SAFETY: the caller's own arguments.
        let result = unsafe { real(fd, address, length) };
        // SAFETY: the kernel has just written as much as there is room for.
        unsafe { accepted(result, address, length, room) }
    }
}

hook! {
    /// Accepts a connection, with flags for it, and says where it comes from.
    [accept4] (
        fd: c_int, address: *mut sockaddr, length: *mut socklen_t, flags: c_int
    ) -> c_int, real => {
        // SAFETY: as above.
        let room = unsafe { wants_peer(address, length) };
        // SAFETY: as above.
        let result = unsafe { real(fd, address, length, flags) };
        // SAFETY: as above.
        unsafe { accepted(result, address, length, room) }
    }
}

/// The room for the address of whoever connects, if the answer may be ours.
///
/// # Safety
/// As [`number_at`] demands.
unsafe fn wants_peer(address: *const sockaddr, length: *const socklen_t) -> Option<socklen_t> {
    if address.is_null() || !process::may_have_session() {
        return None;
    }
    // SAFETY: as promised.
    unsafe { number_at(length) }
}

/// Corrects where a connection comes from that was accepted as `fd`.
///
/// # Safety
/// As [`answer`] demands, if there is room.
unsafe fn accepted(
    fd: c_int,
    address: *mut sockaddr,
    length: *mut socklen_t,
    room: Option<socklen_t>,
) -> c_int {
    let Some(room) = room.filter(|_| fd >= 0) else { return fd };
    let outcome = decide(Outcome::Bypass(PANICKED), || name::accepted(fd));
    // SAFETY: as promised.
    unsafe { answer(outcome, fd, address, length, room) }
}

hook! {
    /// Ends one direction of a connection, or both.
    [shutdown] (fd: c_int, how: c_int) -> c_int, real => {
        let outcome = decide(Outcome::Bypass(PANICKED), || stream::shutdown(fd));
        // SAFETY: plain numbers.
        outcome.finish(|| unsafe { real(fd, how) })
    }
}

/// Whether the kernel's answer may be that for a session's socket.
///
/// # Safety
/// The kernel has just written as much as there is room for.
unsafe fn is_unix(address: *const sockaddr, room: socklen_t) -> bool {
    // SAFETY: as promised.
    room < 2 || c_int::from(unsafe { (*address).sa_family }) == libc::AF_UNIX
}

/// Puts an answer of ours in the place of the kernel's, which was `result`.
///
/// # Safety
/// `address` has room for `room` bytes, and `length` leads to a number.
unsafe fn answer(
    outcome: Outcome<SocketAddr>,
    result: c_int,
    address: *mut sockaddr,
    length: *mut socklen_t,
    room: socklen_t,
) -> c_int {
    let written = outcome.map(|ours| {
        let (bytes, size) = to_kernel(&ours);
        // SAFETY: as promised; no more than there is room for.
        unsafe {
            let count = size.min(room as usize);
            core::ptr::copy_nonoverlapping(bytes.as_ptr(), address.cast(), count);
            *length = size as socklen_t;
        }
        result
    });
    written.finish(|| result)
}
