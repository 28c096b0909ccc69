//! getsockopt, setsockopt, ioctl.

use core::ffi::{c_int, c_ulong, c_void};

use libc::socklen_t;

use super::hook;
use crate::guard::decide;
use crate::ops::option::{self, Who};
use crate::ops::{process, socket};
use crate::outcome::{Bypass, Outcome};
use crate::raw::{errno, number_at};

/// No option of TCP has a longer value, but for those that are no values.
const VALUE_BYTES_MAX: usize = 1_024;
const PANICKED: Bypass = Bypass::Panicked;

hook! {
    /// Reads an option of a socket.
    [getsockopt] (
        fd: c_int, level: c_int, name: c_int, value: *mut c_void, length: *mut socklen_t
    ) -> c_int, real => {
        let who = option::who(level, name);
        let elsewhere = matches!(who, Who::Tcp | Who::TcpIfRefused);
        // SAFETY: the kernel is asked whether the memory is there; the caller keeps it.
        let room = if elsewhere { unsafe { number_at(length) } } else { None };
        // SAFETY: the caller's own arguments.
        let result = unsafe { real(fd, level, name, value, length) };
        match who {
            // SAFETY: the kernel has written the length, and as many bytes.
            Who::Error if result == 0 && unsafe { *length } as usize == size_of::<c_int>() => {
                // SAFETY: as above: a whole number.
                unsafe { correct_error(fd, value.cast()) };
                result
            }
            Who::Kernel | Who::Error => result,
            Who::TcpIfRefused if result != -1 || errno() != libc::EOPNOTSUPP => result,
            _ if value.is_null() => result,
            // SAFETY: the caller's buffer, of the size it said, and the place of that size if there
            // is one.
            _ => unsafe { get_from_tcp(result, fd, (level, name), value.cast(), length, room) },
        }
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
    let outcome =
        decide(Outcome::Bypass(PANICKED), || option::get(fd, level, name, room, &mut answer));
    let written = outcome.map(|count| {
        // SAFETY: as promised; count is at most the room.
        unsafe {
            core::ptr::copy_nonoverlapping(answer.as_ptr(), value, count);
            *length = count as socklen_t;
        }
        0
    });
    written.finish(|| result)
}

hook! {
    /// Sets an option of a socket.
    [setsockopt] (
        fd: c_int, level: c_int, name: c_int, value: *const c_void, length: socklen_t
    ) -> c_int, real => {
        process::sets_option(level, name);
        let who = option::who(level, name);
        // The kernel might set an option of the socket level on the Unix socket, where it means
        // something else; so it is not asked first. It refuses all others that it does not know.
        if who != Who::Tcp {
            // SAFETY: the caller's own arguments.
            let result = unsafe { real(fd, level, name, value, length) };
            if option::is_brokers_too(level, name) && result == 0 {
                decide((), || option::lingered(fd));
            }
            if who != Who::TcpIfRefused || result == 0 || errno() != libc::EOPNOTSUPP {
                return result;
            }
        }
        if value.is_null() || length as usize > VALUE_BYTES_MAX {
            // SAFETY: as above.
            return unsafe { real(fd, level, name, value, length) };
        }
        let outcome = decide(Outcome::Bypass(PANICKED), || {
            socket::ours(fd).map_or(Outcome::Bypass(Bypass::NotOurs), |ours| {
                // SAFETY: the caller's buffer, of the size it said.
                let bytes = unsafe { core::slice::from_raw_parts(value.cast(), length as usize) };
                option::set(fd, &ours, level, name, bytes)
            })
        });
        // SAFETY: as above.
        outcome.finish(|| unsafe { real(fd, level, name, value, length) })
    }
}

hook! {
    /// Asks a device, or a socket for the bytes that wait in it. On all machines that we support a
    /// variadic argument is passed in the same way as a fixed one.
    [ioctl] (fd: c_int, request: c_ulong, argument: *mut c_void) -> c_int, real => {
        process::asks_device(request);
        // SAFETY: the caller's own arguments.
        let result = unsafe { real(fd, request, argument) };
        if !option::is_count(request) {
            return result;
        }
        let outcome = decide(Outcome::Bypass(PANICKED), || option::unsent(fd, request));
        let written = outcome.map(|unsent| {
            // Unix sockets know only one of the two; it finds out whether there is a place.
            // SAFETY: the caller's own arguments.
            let result = unsafe { real(fd, socket::SIOCOUTQ as c_ulong, argument) };
            if result == 0 {
                // SAFETY: the kernel has just written a number there.
                unsafe { argument.cast::<c_int>().write_unaligned(unsent) };
            }
            result
        });
        written.finish(|| result)
    }
}
