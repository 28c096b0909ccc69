//! getsockname, getpeername, shutdown.

use core::ffi::c_int;
use core::net::SocketAddr;

use libc::{sockaddr, socklen_t};

use crate::guard::decide;
use crate::ops::{Bypass, Outcome, name, stream, to_kernel};
use crate::raw::{number_at, set_errno};

/// Looks the real functions up.
pub fn look_up() {
    let _: unsafe extern "C" fn(_, _, _) -> _ = redhook::real!(getsockname);
    let _: unsafe extern "C" fn(_, _, _) -> _ = redhook::real!(getpeername);
    let _: unsafe extern "C" fn(_, _) -> _ = redhook::real!(shutdown);
}

redhook::hook! {
    unsafe fn getsockname(fd: c_int, address: *mut sockaddr, length: *mut socklen_t) -> c_int
    => session_getsockname {
        // SAFETY: the kernel is asked whether the memory is there; the caller keeps it.
        let room = unsafe { number_at(length) };
        // SAFETY: the caller's own arguments.
        let result = unsafe { redhook::real!(getsockname)(fd, address, length) };
        if let Some(room) = room
            && result == 0
            // SAFETY: as above.
            && unsafe { is_unix(address, room) }
        {
            // SAFETY: as above.
            return unsafe { answer(result, || name::local(fd), address, length, room) };
        }
        result
    }
}

redhook::hook! {
    unsafe fn getpeername(fd: c_int, address: *mut sockaddr, length: *mut socklen_t) -> c_int
    => session_getpeername {
        // SAFETY: the kernel is asked whether the memory is there; the caller keeps it.
        let room = unsafe { number_at(length) };
        // SAFETY: the caller's own arguments.
        let result = unsafe { redhook::real!(getpeername)(fd, address, length) };
        if let Some(room) = room
            && result == 0
            // SAFETY: as above.
            && unsafe { is_unix(address, room) }
        {
            // The kernel has replaced the room by the length of its own answer.
            // SAFETY: as above.
            return unsafe { answer(result, || name::peer(fd), address, length, room) };
        }
        result
    }
}

redhook::hook! {
    unsafe fn shutdown(fd: c_int, how: c_int) -> c_int => session_shutdown {
        match decide(Outcome::Bypass(Bypass::Panicked), || stream::shutdown(fd)) {
            Outcome::Ours(result) => result,
            // SAFETY: plain numbers.
            Outcome::Bypass(_) => unsafe { redhook::real!(shutdown)(fd, how) },
            Outcome::Errno(errno) => {
                set_errno(errno);
                -1
            }
        }
    }
}

/// Whether the answer may be one of a socket of ours.
///
/// # Safety
/// The kernel has just written as much as there is room for.
unsafe fn is_unix(address: *const sockaddr, room: socklen_t) -> bool {
    // SAFETY: as promised.
    room < 2 || c_int::from(unsafe { (*address).sa_family }) == libc::AF_UNIX
}

/// Puts our answer in the place of the kernel's.
///
/// # Safety
/// `address` has room for `room` bytes.
unsafe fn answer(
    result: c_int,
    ask: impl FnOnce() -> Outcome<SocketAddr>,
    address: *mut sockaddr,
    length: *mut socklen_t,
    room: socklen_t,
) -> c_int {
    match decide(Outcome::Bypass(Bypass::Panicked), ask) {
        Outcome::Ours(ours) => {
            let (bytes, size) = to_kernel(&ours);
            // SAFETY: as promised; no more than there is room for.
            unsafe {
                let count = size.min(room as usize);
                core::ptr::copy_nonoverlapping(bytes.as_ptr(), address.cast(), count);
                *length = size as socklen_t;
            }
            0
        }
        Outcome::Bypass(_) => result,
        Outcome::Errno(errno) => {
            set_errno(errno);
            -1
        }
    }
}
