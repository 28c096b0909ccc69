//! The functions of `session.h`. They stand in front of nothing: a program that knows of sessions
//! calls them.

use core::ffi::c_int;

use stp_proto::local::wire::Act;

use crate::guard::decide;
use crate::ops::aware::{self, Status};
use crate::raw::Errno;

/// 0 with the status in its place, or the errno as a negative number.
///
/// # Safety
/// Null, or room for it.
unsafe fn answer(told: Result<Status, Errno>, place: *mut Status) -> c_int {
    match told {
        Ok(_) if place.is_null() => -libc::EFAULT,
        Ok(status) => {
            // SAFETY: as promised.
            unsafe { place.write(status) };
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
