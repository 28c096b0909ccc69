//! The clock, and what waits for a point in time of it: a program may have one that stands still in
//! pauses ([`crate::ops::clock`]), or one that is behind ([`crate::ops::wait`]).

use core::ffi::{c_int, c_void};

use libc::{clockid_t, itimerspec, itimerval, pthread_cond_t, pthread_mutex_t, pthread_rwlock_t};
use libc::{sem_t, timespec};

use super::hook;
use crate::guard::decide;
use crate::ops::clock::{self, Deadline, Rings};
use crate::ops::wait;
use crate::raw::{errno, set_errno};

hook! {
    /// Says the time. Clocks that count the time that passes are behind by the pauses of the
    /// program's sessions, or by those that it has spent waiting.
    [clock_gettime, __clock_gettime] (clock: c_int, time: *mut timespec) -> c_int, real => {
        // SAFETY: the caller's own arguments.
        let result = unsafe { real(clock, time) };
        if result != 0 || !wait::is_held_back(clock) {
            return result;
        }
        if clock::is_on() {
            // SAFETY: the libc function has just written there.
            let kernels = unsafe { time.read() };
            let told = decide(kernels, || clock::told(clock, kernels));
            // SAFETY: as above.
            unsafe { time.write(told) };
            return result;
        }
        let behind = wait::behind_ns();
        if behind != 0 {
            // SAFETY: as above.
            unsafe { time.write(wait::told(time.read(), behind)) };
        }
        result
    }
}

/// The point in time for which a call waits by a clock of the program's; nothing if it is the
/// kernel's.
///
/// # Safety
/// Null, or the caller's own time.
unsafe fn deadline(clock: clockid_t, time: *const timespec) -> Option<Deadline> {
    if time.is_null() || !clock::is_on() {
        return None;
    }
    // SAFETY: as promised.
    let time = unsafe { time.read() };
    decide(None, || Deadline::of(clock, time))
}

/// The same of a clock that only the kernel or libc knows.
///
/// # Safety
/// As for [`deadline`].
unsafe fn of_some_clock(time: *const timespec) -> Option<Deadline> {
    if time.is_null() || !clock::is_on() {
        return None;
    }
    // SAFETY: as promised.
    let time = unsafe { time.read() };
    decide(None, || Deadline::of_some_clock(time))
}

fn kernels(deadline: Deadline) -> Option<timespec> {
    decide(None, || deadline.kernels())
}

/// Makes a call with the kernel's time until the program's has come: `expired` says of a result
/// that the time ended it. Each turn takes 100 ms at least in a pause, which `hold` ends.
fn until(
    deadline: Option<Deadline>,
    given: *const timespec,
    expired: impl Fn(c_int) -> bool,
    mut call: impl FnMut(*const timespec) -> c_int,
) -> c_int {
    let Some(deadline) = deadline else { return call(given) };
    while let Some(time) = kernels(deadline) {
        let result = call(&raw const time);
        if !expired(result) {
            return result;
        }
    }
    // A time that has come has come on the kernel's clock as well.
    call(given)
}

hook! {
    /// Sleeps. A point in time of the program's clock is put back on the kernel's.
    [clock_nanosleep] (
        clock: c_int, flags: c_int, until_time: *const timespec, rest: *mut c_void
    ) -> c_int, real => {
        let absolute = flags & libc::TIMER_ABSTIME != 0;
        if !absolute || until_time.is_null() || !wait::is_held_back(clock) {
            // SAFETY: the caller's own arguments.
            return unsafe { real(clock, flags, until_time, rest) };
        }
        // SAFETY: the caller's own time.
        if let Some(deadline) = unsafe { deadline(clock, until_time) } {
            return until(Some(deadline), until_time, |result| result == 0, |time| {
                // What is waited for is a time of this clock.
                // SAFETY: as above.
                unsafe { real(libc::CLOCK_MONOTONIC, flags, time, rest) }
            });
        }
        let behind = wait::behind_ns();
        if behind == 0 {
            // SAFETY: as above.
            return unsafe { real(clock, flags, until_time, rest) };
        }
        // SAFETY: the caller's own time.
        let kernels = wait::kernels(unsafe { until_time.read() }, behind);
        // SAFETY: as above.
        unsafe { real(clock, flags, &raw const kernels, rest) }
    }
}

/// Waits for a condition. A wait that ends before its time by the program's clock has woken for
/// nothing, which a condition variable may do: what the program waits for is looked at again.
fn awaited(
    deadline: Option<Deadline>,
    given: *const timespec,
    call: impl FnOnce(*const timespec) -> c_int,
) -> c_int {
    let Some(deadline) = deadline else { return call(given) };
    let Some(time) = kernels(deadline) else { return call(given) };
    match call(&raw const time) {
        libc::ETIMEDOUT if kernels(deadline).is_some() => 0,
        result => result,
    }
}

hook! {
    /// Waits for a condition until a time of its own clock.
    [pthread_cond_timedwait] (
        cond: *mut pthread_cond_t, mutex: *mut pthread_mutex_t, time: *const timespec
    ) -> c_int, real => {
        // SAFETY: the caller's own arguments.
        let deadline = unsafe { of_some_clock(time) };
        // SAFETY: as above.
        awaited(deadline, time, |time| unsafe { real(cond, mutex, time) })
    }
}

hook! {
    /// Waits for a condition until a time of a clock.
    [pthread_cond_clockwait] (
        cond: *mut pthread_cond_t, mutex: *mut pthread_mutex_t, clock: clockid_t,
        time: *const timespec
    ) -> c_int, real => {
        // SAFETY: the caller's own arguments.
        let deadline = unsafe { deadline(clock, time) };
        // SAFETY: as above.
        awaited(deadline, time, |time| unsafe { real(cond, mutex, clock, time) })
    }
}

hook! {
    /// Waits for a semaphore until a time of a clock.
    [sem_clockwait] (sem: *mut sem_t, clock: clockid_t, time: *const timespec) -> c_int, real => {
        // SAFETY: the caller's own arguments.
        let deadline = unsafe { deadline(clock, time) };
        let expired = |result| result == -1 && errno() == libc::ETIMEDOUT;
        // SAFETY: as above.
        until(deadline, time, expired, |time| unsafe { real(sem, clock, time) })
    }
}

hook! {
    /// Waits for a mutex until a time of a clock.
    [pthread_mutex_clocklock] (
        mutex: *mut pthread_mutex_t, clock: clockid_t, time: *const timespec
    ) -> c_int, real => {
        // SAFETY: the caller's own arguments.
        let deadline = unsafe { deadline(clock, time) };
        let expired = |result| result == libc::ETIMEDOUT;
        // SAFETY: as above.
        until(deadline, time, expired, |time| unsafe { real(mutex, clock, time) })
    }
}

hook! {
    /// Waits for a lock until a time of a clock.
    [pthread_rwlock_clockrdlock, pthread_rwlock_clockwrlock] (
        lock: *mut pthread_rwlock_t, clock: clockid_t, time: *const timespec
    ) -> c_int, real => {
        // SAFETY: the caller's own arguments.
        let deadline = unsafe { deadline(clock, time) };
        let expired = |result| result == libc::ETIMEDOUT;
        // SAFETY: as above.
        until(deadline, time, expired, |time| unsafe { real(lock, clock, time) })
    }
}

/// A timer's setting with its time on the kernel's clock; nothing if it is there.
///
/// # Safety
/// Null, or the caller's own setting.
unsafe fn set_until(absolute: bool, setting: *const itimerspec) -> Option<itimerspec> {
    if !absolute || setting.is_null() || !clock::is_on() {
        return None;
    }
    // SAFETY: as promised.
    let setting = unsafe { setting.read() };
    // One that is all zero stops the timer.
    if (setting.it_value.tv_sec, setting.it_value.tv_nsec) == (0, 0) {
        return None;
    }
    // SAFETY: a time of our own.
    let deadline = unsafe { of_some_clock(&raw const setting.it_value) }?;
    Some(itimerspec { it_value: kernels(deadline)?, ..setting })
}

hook! {
    /// Sets a timer that is a descriptor.
    [timerfd_settime] (
        fd: c_int, flags: c_int, setting: *const itimerspec, before: *mut itimerspec
    ) -> c_int, real => {
        let absolute = flags & libc::TFD_TIMER_ABSTIME != 0;
        // SAFETY: the caller's own arguments.
        let kernels = unsafe { set_until(absolute, setting) };
        let setting = kernels.as_ref().map_or(setting, |kernels| &raw const *kernels);
        // SAFETY: as above.
        unsafe { real(fd, flags, setting, before) }
    }
}

hook! {
    /// Sets a timer that gives a signal or starts a thread.
    [timer_settime] (
        timer: *mut c_void, flags: c_int, setting: *const itimerspec, before: *mut itimerspec
    ) -> c_int, real => {
        let absolute = flags & libc::TIMER_ABSTIME != 0;
        // SAFETY: the caller's own arguments.
        let kernels = unsafe { set_until(absolute, setting) };
        let setting = kernels.as_ref().map_or(setting, |kernels| &raw const *kernels);
        // SAFETY: as above.
        unsafe { real(timer, flags, setting, before) }
    }
}

hook! {
    /// Has SIGALRM come after some seconds.
    [alarm] (seconds: u32) -> u32, real => {
        let rings = Rings { rest_ns: u64::from(seconds) * 1_000_000_000, every_ns: 0 };
        match decide(None, || clock::set_alarm(rings)) {
            Some(Ok(before)) => before.seconds(),
            // SAFETY: a plain number.
            Some(Err(_)) | None => unsafe { real(seconds) },
        }
    }
}

hook! {
    /// Has a signal come after some time, and again and again.
    [setitimer] (which: c_int, value: *const itimerval, before: *mut itimerval) -> c_int, real => {
        if which != libc::ITIMER_REAL || value.is_null() || !clock::is_on() {
            // SAFETY: the caller's own arguments.
            return unsafe { real(which, value, before) };
        }
        // SAFETY: as above.
        let value = unsafe { value.read() };
        let wanted = Rings::of(&value);
        match decide(None, || wanted.map_or_else(|errno| Some(Err(errno)), clock::set_alarm)) {
            Some(Ok(left)) => {
                if !before.is_null() {
                    // SAFETY: as above.
                    unsafe { before.write(left.to_c()) };
                }
                0
            }
            Some(Err(errno)) => {
                set_errno(errno);
                -1
            }
            // SAFETY: as above.
            None => unsafe { real(which, &raw const value, before) },
        }
    }
}

hook! {
    /// Says what is left of such a time.
    [getitimer] (which: c_int, value: *mut itimerval) -> c_int, real => {
        if which != libc::ITIMER_REAL || value.is_null() || !clock::is_on() {
            // SAFETY: the caller's own arguments.
            return unsafe { real(which, value) };
        }
        match decide(None, clock::alarm_left) {
            Some(left) => {
                // SAFETY: the caller's own place.
                unsafe { value.write(left.to_c()) };
                0
            }
            // SAFETY: as above.
            None => unsafe { real(which, value) },
        }
    }
}
