//! getsockname, getpeername, shutdown.

use core::ffi::c_int;
use core::net::SocketAddr;

use libc::{sockaddr, socklen_t};

use super::hook;
use crate::address::to_kernel;
use crate::guard::decide;
use crate::ops::{name, stream};
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
            _ => result,
        }
    }
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
        0
    });
    written.finish(|| result)
}
