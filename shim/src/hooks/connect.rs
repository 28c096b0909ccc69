//! connect.

use core::cell::Cell;
use core::ffi::{c_int, c_void};

use libc::{sockaddr, socklen_t};

use super::hook;
use crate::address::{ADDRESS_BYTES, to_kernel};
use crate::guard::decide;
use crate::ops::broker::Host;
use crate::ops::connect::{self as plan, END, Next};
use crate::outcome::{Bypass, Outcome};
use crate::raw::{copy_in, errno, set_errno};

type Real = unsafe extern "C-unwind" fn(c_int, *const sockaddr, socklen_t) -> c_int;

hook! {
    /// Connects, through the broker where a route says so.
    [connect, __connect] (fd: c_int, address: *const sockaddr, length: socklen_t) -> c_int, real
    => {
        // SAFETY: the caller keeps its address in place during the call.
        unsafe { connect_by(real, fd, address, length) }
    }
}

/// # Safety
/// As `connect` demands.
unsafe fn connect_by(real: Real, fd: c_int, address: *const sockaddr, length: socklen_t) -> c_int {
    let panicked = Outcome::Bypass(Bypass::Panicked);
    let swapped = Cell::new(false);
    let decided = decide(panicked, || {
        // SAFETY: the kernel is asked whether the memory is there; the caller keeps it.
        match unsafe { copy_in::<ADDRESS_BYTES>(address.cast(), length as usize) } {
            Some(bytes) => plan::decide(fd, &bytes[..bytes.len().min(length as usize)], &swapped),
            None => Outcome::Bypass(Bypass::BadArgument),
        }
    });
    let bypass = match decided {
        Outcome::Bypass(bypass) => bypass,
        Outcome::Errno(errno) => return failed_with(errno),
        // SAFETY: the caller's own socket.
        Outcome::Ours(next) => return unsafe { carry_out(real, fd, next) },
    };
    // SAFETY: the caller's own arguments.
    let result = unsafe { real(fd, address, length) };
    // What the kernel says when asked to connect a Unix socket to an Internet address.
    if result != -1 || errno() != libc::EINVAL {
        return result;
    }
    let refused = match bypass {
        Bypass::Unrouted => decide(panicked, || plan::refused_by_kernel(fd)),
        Bypass::Panicked if swapped.get() => {
            decide((), || plan::undo(fd));
            Outcome::Bypass(Bypass::NotOurs)
        }
        _ => return result,
    };
    match refused {
        // SAFETY: as above; the socket is a fresh TCP socket now.
        Outcome::Bypass(Bypass::NotOurs) => unsafe { real(fd, address, length) },
        Outcome::Bypass(_) => result,
        Outcome::Errno(errno) => failed_with(errno),
        // SAFETY: as above.
        Outcome::Ours(next) => unsafe { carry_out(real, fd, next) },
    }
}

fn failed_with(errno: c_int) -> c_int {
    set_errno(errno);
    -1
}

/// Connects to what the system knows of a host, as if it had been asked for the name.
///
/// # Safety
/// The calls may unwind when the thread is cancelled.
unsafe fn connect_to_host(real: Real, fd: c_int, host: &Host, port: u16) -> c_int {
    let Some(address) = super::resolve::first_address(host, fd, port) else {
        set_errno(libc::EHOSTUNREACH);
        return -1;
    };
    let (bytes, length) = to_kernel(&address);
    // SAFETY: an address of our own.
    unsafe { real(fd, bytes.as_ptr().cast(), length as socklen_t) }
}

/// Does what a connect of ours still takes, outside of any catch where it waits.
///
/// # Safety
/// The calls may unwind when the thread is cancelled.
unsafe fn carry_out(real: Real, fd: c_int, next: Next) -> c_int {
    let failed = match next {
        Next::Done => 0,
        // SAFETY: as promised.
        Next::Elsewhere(host, port) => return unsafe { connect_to_host(real, fd, &host, port) },
        Next::SendEnd => {
            // The libc function, as it is a cancellation point like connect; our own hook on send
            // leaves such errors to us.
            // SAFETY: one byte of static memory.
            let result = unsafe { __send(fd, END.as_ptr().cast(), END.len(), libc::MSG_NOSIGNAL) };
            let why = errno();
            decide(if result > 0 { 0 } else { why }, || plan::sent(fd, result, why))
        }
        Next::WaitWritable => {
            let timeout_ms = decide(0, || plan::send_timeout_ms(fd));
            let mut polled = libc::pollfd { fd, events: libc::POLLOUT, revents: 0 };
            // SAFETY: one pollfd of our own.
            let result = unsafe { poll(&raw mut polled, 1, timeout_ms) };
            let why = errno();
            decide(if result > 0 { 0 } else { libc::EALREADY }, || plan::waited(fd, result, why))
        }
    };
    if failed == 0 { 0 } else { failed_with(failed) }
}

unsafe extern "C-unwind" {
    fn poll(polled: *mut libc::pollfd, count: libc::nfds_t, timeout_ms: c_int) -> c_int;
    fn __send(fd: c_int, at: *const c_void, length: usize, flags: c_int) -> isize;
}
