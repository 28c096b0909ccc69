//! The functions of `session.h`. They stand in front of nothing: a program that knows of sessions
//! calls them.

use core::ffi::{CStr, c_char, c_int};

use stp_proto::local::wire::Act;

use crate::address::to_kernel;
use crate::guard::decide;
use crate::ops::aware::{self, Names, Status};
use crate::raw::{self, Errno};

/// 0 with what was told in its place, or the errno as a negative number.
///
/// # Safety
/// Null, or room for it.
unsafe fn answer<T>(told: Result<T, Errno>, place: *mut T) -> c_int {
    match told {
        Ok(_) if place.is_null() => -libc::EFAULT,
        Ok(told) => {
            // SAFETY: as promised.
            unsafe { place.write(told) };
            0
        }
        Err(errno) => -errno,
    }
}

fn done(told: &Result<Status, Errno>) -> c_int {
    told.as_ref().map_or_else(|errno| -errno, |_| 0)
}

/// How a session fares.
///
/// # Safety
/// `status` is null or has room for it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn session_status(fd: c_int, status: *mut Status) -> c_int {
    let told = decide(Err(libc::EHOSTDOWN), || aware::act(fd, Act::Look));
    // SAFETY: as promised.
    unsafe { answer(told, status) }
}

/// Has a session suspended.
#[unsafe(no_mangle)]
pub extern "C" fn session_suspend(fd: c_int) -> c_int {
    done(&decide(Err(libc::EHOSTDOWN), || aware::act(fd, Act::Suspend)))
}

/// Has a session resumed.
#[unsafe(no_mangle)]
pub extern "C" fn session_resume(fd: c_int) -> c_int {
    done(&decide(Err(libc::EHOSTDOWN), || aware::act(fd, Act::Resume)))
}

/// Ends a session by an error.
#[unsafe(no_mangle)]
pub extern "C" fn session_abort(fd: c_int) -> c_int {
    done(&decide(Err(libc::EHOSTDOWN), || aware::act(fd, Act::Abort)))
}

/// Waits until a session's state is another one.
///
/// # Safety
/// `status` is null or has room for it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn session_wait(
    fd: c_int,
    state: c_int,
    timeout_ms: c_int,
    status: *mut Status,
) -> c_int {
    let told = decide(Err(libc::EHOSTDOWN), || aware::wait(fd, state, timeout_ms));
    // SAFETY: as promised.
    unsafe { answer(told, status) }
}

/// What the ends of a session are called.
///
/// # Safety
/// `names` is null or has room for it.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn session_names(fd: c_int, names: *mut Names) -> c_int {
    let told = decide(Err(libc::EHOSTDOWN), || aware::names(fd));
    // SAFETY: as promised.
    unsafe { answer(told, names) }
}

/// A descriptor that can be read from when a session's state has changed.
#[unsafe(no_mangle)]
pub extern "C" fn session_events(fd: c_int) -> c_int {
    decide(Err(libc::EHOSTDOWN), || aware::events(fd)).unwrap_or_else(|errno| -errno)
}

/// A new socket, connected to the service of this name.
///
/// # Safety
/// The name is null or ends in NUL. The call may unwind when the thread is cancelled.
#[unsafe(no_mangle)]
pub unsafe extern "C-unwind" fn session_connect(name: *const c_char, flags: c_int) -> c_int {
    if name.is_null() {
        return -libc::EFAULT;
    }
    // SAFETY: as promised.
    let name = unsafe { CStr::from_ptr(name) }.to_bytes();
    let (fd, to) = match decide(Err(libc::EHOSTDOWN), || aware::begin(name, flags)) {
        Ok(begun) => begun,
        Err(errno) => return -errno,
    };
    let (bytes, length) = to_kernel(&to);
    // SAFETY: an address of our own.
    let result = unsafe { super::connect::connect(fd, bytes.as_ptr().cast(), length as u32) };
    let errno = raw::errno();
    if result == 0 || errno == libc::EINPROGRESS {
        return fd;
    }
    raw::close(fd);
    -errno
}
