//! getsockopt, setsockopt, ioctl.

use core::ffi::{c_int, c_ulong, c_void};

use libc::socklen_t;

use crate::guard::decide;
use crate::ops::{Bypass, Outcome, option, ours};
use crate::raw::{number_at, set_errno};

/// Longer values than this no TCP option has, but for those that are no values.
const VALUE_BYTES_MAX: usize = 1_024;
const SIOCOUTQ: c_ulong = 0x5411;
const SIOCOUTQNSD: c_ulong = 0x894b;

/// Looks the real functions up.
pub fn look_up() {
    let _: unsafe extern "C" fn(_, _, _, _, _) -> _ = redhook::real!(getsockopt);
    let _: unsafe extern "C" fn(_, _, _, _, _) -> _ = redhook::real!(setsockopt);
    let _: unsafe extern "C" fn(_, _, _) -> _ = redhook::real!(ioctl);
}

redhook::hook! {
    unsafe fn getsockopt(
        fd: c_int, level: c_int, name: c_int, value: *mut c_void, length: *mut socklen_t
    ) -> c_int => session_getsockopt {
        let socket_level = level == libc::SOL_SOCKET;
        let at_once = option::is_native(level, name) || (socket_level && name == libc::SO_ERROR);
        // SAFETY: the kernel is asked whether the memory is there; the caller keeps it.
        let room = if at_once { None } else { unsafe { number_at(length) } };
        // SAFETY: the caller's own arguments.
        let result = unsafe { redhook::real!(getsockopt)(fd, level, name, value, length) };
        if socket_level && name == libc::SO_ERROR {
            // SAFETY: the kernel has written the length, and so many bytes.
            if result == 0 && unsafe { *length } as usize == size_of::<c_int>() {
                // SAFETY: as above: a whole number.
                unsafe { correct_error(fd, value.cast()) };
            }
            return result;
        }
        let refused = result == -1 && crate::raw::errno() == libc::EOPNOTSUPP;
        let elsewhere = if socket_level { !at_once } else { refused };
        if !elsewhere || value.is_null() {
            return result;
        }
        // SAFETY: the caller's buffer, of the size it said, and the place of that size if there is
        // one.
        unsafe { get_from_tcp(result, fd, (level, name), value.cast(), length, room) }
    }
}

/// # Safety
/// `error` leads to a number.
unsafe fn correct_error(fd: c_int, error: *mut c_int) {
    // SAFETY: as promised.
    let kernels = unsafe { error.read_unaligned() };
    let ours = decide(kernels, || option::error(fd, kernels));
    // SAFETY: as promised.
    unsafe { error.write_unaligned(ours) };
}

/// # Safety
/// `value` leads to `room` bytes, and `length` to a number if there is room.
unsafe fn get_from_tcp(
    result: c_int,
    fd: c_int,
    (level, name): (c_int, c_int),
    value: *mut u8,
    length: *mut socklen_t,
    room: Option<socklen_t>,
) -> c_int {
    let mut answer = [0; VALUE_BYTES_MAX];
    let outcome = decide(Outcome::Bypass(Bypass::Panicked), || {
        option::get(fd, level, name, room, &mut answer)
    });
    match outcome {
        Outcome::Ours(count) => {
            // SAFETY: as promised; count is at most the room.
            unsafe {
                core::ptr::copy_nonoverlapping(answer.as_ptr(), value, count);
                *length = count as socklen_t;
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

redhook::hook! {
    unsafe fn setsockopt(
        fd: c_int, level: c_int, name: c_int, value: *const c_void, length: socklen_t
    ) -> c_int => session_setsockopt {
        let native = option::is_native(level, name);
        let socket_level = level == libc::SOL_SOCKET;
        // An option of the socket level might be done by the kernel to the Unix socket, with
        // another meaning; so it is asked first. Of all others the kernel knows that they are
        // TCP's.
        if native || !socket_level {
            // SAFETY: the caller's own arguments.
            let result = unsafe { redhook::real!(setsockopt)(fd, level, name, value, length) };
            if native && name == libc::SO_LINGER && result == 0 {
                decide((), || option::lingered(fd));
            }
            if native || result == 0 || crate::raw::errno() != libc::EOPNOTSUPP {
                return result;
            }
        }
        if value.is_null() || length as usize > VALUE_BYTES_MAX {
            // SAFETY: as above.
            return unsafe { redhook::real!(setsockopt)(fd, level, name, value, length) };
        }
        // SAFETY: the caller's buffer, of the size it said.
        let bytes = unsafe { core::slice::from_raw_parts(value.cast::<u8>(), length as usize) };
        let panicked = Outcome::Bypass(Bypass::Panicked);
        match decide(panicked, || option::set(fd, level, name, bytes)) {
            Outcome::Ours(()) => 0,
            // SAFETY: as above.
            Outcome::Bypass(_) => unsafe {
                redhook::real!(setsockopt)(fd, level, name, value, length)
            },
            Outcome::Errno(errno) => {
                set_errno(errno);
                -1
            }
        }
    }
}

redhook::hook! {
    unsafe fn ioctl(fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int => session_ioctl {
        // SAFETY: the caller's own arguments; on all our machines a third argument is passed the
        // same way whether or not the function is variadic.
        let result = unsafe { redhook::real!(ioctl)(fd, request, argument) };
        if !matches!(request, SIOCOUTQ | SIOCOUTQNSD) {
            return result;
        }
        let Some(unsent) = decide(None, || unsent(fd, request)) else { return result };
        // Unix sockets know only the first of the two; it finds out whether there is a place.
        // SAFETY: as above.
        let result = unsafe { redhook::real!(ioctl)(fd, SIOCOUTQ, argument) };
        if result == 0 {
            // SAFETY: the kernel has just written a number there.
            unsafe { argument.cast::<c_int>().write_unaligned(unsent) };
        }
        result
    }
}

/// Bytes sent but not acknowledged, or not sent; nothing when the socket is not ours.
fn unsent(fd: c_int, request: c_ulong) -> Option<c_int> {
    let name = ours(fd)?;
    Some(if request == SIOCOUTQ { option::unacknowledged(fd, &name) } else { 0 })
}
