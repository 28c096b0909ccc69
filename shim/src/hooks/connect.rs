//! connect.

use core::cell::Cell;
use core::ffi::c_int;

use libc::{sockaddr, socklen_t};

use super::hook;
use crate::guard::decide;
use crate::ops::broker::Host;
use crate::ops::connect::{
    ConnectStep, END, decide as plan, refused_by_kernel, sent, undo, waited,
};
use crate::ops::{Bypass, to_kernel};
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
    let panicked = ConnectStep::Bypass(Bypass::Panicked);
    let swapped = Cell::new(false);
    let decided = decide(panicked, || {
        // SAFETY: the kernel is asked whether the memory is there; the caller keeps it.
        match unsafe { copy_in::<28>(address.cast(), length as usize) } {
            Some(bytes) => plan(fd, &bytes[..bytes.len().min(length as usize)], &swapped),
            None => ConnectStep::Bypass(Bypass::BadArgument),
        }
    });
    let bypass = match decided {
        ConnectStep::Bypass(bypass) => bypass,
        ConnectStep::Elsewhere(host, port) => {
            // SAFETY: as above.
            return unsafe { connect_to_host(real, fd, &host, port) };
        }
        other => return finish(fd, other),
    };
    // SAFETY: the caller's own arguments.
    let result = unsafe { real(fd, address, length) };
    // What the kernel says when asked to connect a Unix socket to an Internet address.
    if result != -1 || errno() != libc::EINVAL {
        return result;
    }
    let refused = match bypass {
        Bypass::Unrouted => decide(panicked, || refused_by_kernel(fd)),
        Bypass::Panicked if swapped.get() => {
            decide((), || undo(fd));
            ConnectStep::Bypass(Bypass::NotOurs)
        }
        _ => return result,
    };
    match refused {
        // SAFETY: as above; the socket is a fresh TCP socket now.
        ConnectStep::Bypass(Bypass::NotOurs) => unsafe { real(fd, address, length) },
        ConnectStep::Bypass(_) => result,
        other => finish(fd, other),
    }
}

/// Connects to what the system knows of a host, as if it had been asked for the name.
///
/// # Safety
/// None; the calls may unwind when the thread is cancelled.
unsafe fn connect_to_host(real: Real, fd: c_int, host: &Host, port: u16) -> c_int {
    let Some(address) = super::resolve::first_address(host, fd, port) else {
        set_errno(libc::EHOSTUNREACH);
        return -1;
    };
    let (bytes, length) = to_kernel(&address);
    // SAFETY: an address of our own.
    unsafe { real(fd, bytes.as_ptr().cast(), length as socklen_t) }
}

/// Carries a plan out, outside of any catch where it waits.
fn finish(fd: c_int, plan: ConnectStep) -> c_int {
    let failed = match plan {
        ConnectStep::Bypass(_) | ConnectStep::Elsewhere(..) => libc::ECONNABORTED,
        ConnectStep::Done(failed) => failed,
        ConnectStep::SendEnd => {
            // SAFETY: one byte of static memory. The libc function, as it is a cancellation point
            // like connect; our own hook on send leaves such errors to us.
            let result = unsafe { super::stream::real_send(fd, &END, libc::MSG_NOSIGNAL) };
            let why = errno();
            decide(if result > 0 { 0 } else { why }, || sent(fd, result, why))
        }
        ConnectStep::WaitWritable => {
            let mut polled = libc::pollfd { fd, events: libc::POLLOUT, revents: 0 };
            // SAFETY: one pollfd of our own.
            let result = unsafe { poll(&raw mut polled, 1, send_timeout_ms(fd)) };
            let why = errno();
            decide(if result > 0 { 0 } else { libc::EALREADY }, || waited(fd, result, why))
        }
    };
    if failed == 0 {
        return 0;
    }
    set_errno(failed);
    -1
}

unsafe extern "C-unwind" {
    fn poll(polled: *mut libc::pollfd, count: libc::nfds_t, timeout_ms: c_int) -> c_int;
}

fn send_timeout_ms(fd: c_int) -> c_int {
    decide(0, || crate::ops::connect::send_timeout_ms(fd))
}
