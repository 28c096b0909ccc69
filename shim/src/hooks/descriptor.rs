//! Calls that make or duplicate descriptors. They go to the kernel as they are; the hooks note what
//! a later connect has to know ([`crate::ops::process`]), and cannot panic.

use core::ffi::{c_int, c_ulong};

use libc::epoll_event;

use super::hook;
use crate::ops::process;
use crate::raw::{errno, set_errno};

/// Notes something about a call that has succeeded, and leaves errno as it was.
#[inline]
fn noted(result: c_int, note: impl FnOnce()) -> c_int {
    if result >= 0 {
        let before = errno();
        note();
        set_errno(before);
    }
    result
}

hook! {
    /// Makes a socket.
    [socket] (domain: c_int, kind: c_int, protocol: c_int) -> c_int, real => {
        // SAFETY: plain numbers.
        let fd = unsafe { real(domain, kind, protocol) };
        noted(fd, || process::made_socket(fd))
    }
}

hook! {
    /// Makes an epoll instance.
    [epoll_create, epoll_create1] (argument: c_int) -> c_int, real => {
        // SAFETY: a plain number.
        let fd = unsafe { real(argument) };
        noted(fd, || process::made_epoll(fd))
    }
}

hook! {
    /// Duplicates a descriptor.
    [dup] (old: c_int) -> c_int, real => {
        // SAFETY: a plain number.
        let new = unsafe { real(old) };
        noted(new, || process::duplicated(old, new))
    }
}

hook! {
    /// Duplicates a descriptor to a given number.
    [dup2] (old: c_int, new: c_int) -> c_int, real => {
        // SAFETY: plain numbers.
        let result = unsafe { real(old, new) };
        noted(result, || {
            if old != new {
                process::duplicated(old, new);
            }
        })
    }
}

hook! {
    /// Duplicates a descriptor to a given number, with flags.
    [dup3] (old: c_int, new: c_int, flags: c_int) -> c_int, real => {
        // SAFETY: plain numbers.
        let result = unsafe { real(old, new, flags) };
        noted(result, || process::duplicated(old, new))
    }
}

hook! {
    /// Does many things to a descriptor. On all machines that we support a variadic argument is
    /// passed in the same way as a fixed one.
    [fcntl, fcntl64] (fd: c_int, command: c_int, argument: c_ulong) -> c_int, real => {
        // SAFETY: the caller's own arguments.
        let result = unsafe { real(fd, command, argument) };
        noted(result, || process::controlled(fd, command, result))
    }
}

hook! {
    /// Changes what an epoll instance watches.
    [epoll_ctl] (epoll: c_int, operation: c_int, fd: c_int, event: *mut epoll_event) -> c_int, real
    => {
        // SAFETY: the caller's own arguments.
        let result = unsafe { real(epoll, operation, fd, event) };
        if result == 0 {
            // SAFETY: the kernel has accepted it, if the operation takes one.
            let event = unsafe { event.as_ref() }.filter(|_| operation != libc::EPOLL_CTL_DEL);
            process::registered(epoll, fd, event.map(|event| (event.events, event.u64)));
        }
        result
    }
}
