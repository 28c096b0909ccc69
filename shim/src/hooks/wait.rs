//! poll, select, epoll_wait and their kin. The original call comes first, so
//! whatever is ready ends the wait at once; only one that has expired is looked at
//! ([`crate::ops::wait`]).

use core::ffi::c_int;
use core::ptr;

use libc::{epoll_event, fd_set, nfds_t, pollfd, sigset_t, timespec, timeval};

use super::hook;
use crate::guard::decide;
use crate::ops::wait::{self, BIT_WORDS, Bits, Pausing, Set};

/// Makes a call again as long as its time-out stands still. `call` takes milliseconds and gives
/// what the call gave; 0 is "expired".
#[inline]
fn while_paused(
    result: c_int,
    timeout_ms: u64,
    set: Set<'_>,
    mut call: impl FnMut(u64) -> c_int,
) -> c_int {
    if result != 0 || timeout_ms == 0 || !wait::may_pause() {
        return result;
    }
    let mut pausing = Pausing::default();
    loop {
        let Some(ms) = decide(None, || pausing.expired(timeout_ms, set)) else { return 0 };
        let result = call(ms);
        if result != 0 {
            return result;
        }
    }
}

/// Milliseconds of a time-out of poll and epoll_wait; 0 for one that does not end, or not wait.
fn of_ms(timeout_ms: c_int) -> u64 {
    u64::try_from(timeout_ms).unwrap_or(0)
}

/// The same of a `timespec`, rounded down: a shorter one is not worth a look.
///
/// # Safety
/// Null, or the kernel has accepted it.
unsafe fn of_timespec(timeout: *const timespec) -> u64 {
    // SAFETY: as promised.
    unsafe { timeout.as_ref() }.map_or(0, |time| {
        let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
        seconds.saturating_mul(1_000).saturating_add(time.tv_nsec as u64 / 1_000_000)
    })
}

fn timespec_of(ms: u64) -> timespec {
    timespec { tv_sec: (ms / 1_000) as i64, tv_nsec: (ms % 1_000 * 1_000_000) as i64 }
}

fn ms_of(ms: u64) -> c_int {
    c_int::try_from(ms).unwrap_or(c_int::MAX)
}

/// The set of poll.
///
/// # Safety
/// The kernel has accepted the array; it lives on.
unsafe fn polled<'a>(fds: *mut pollfd, count: nfds_t) -> Set<'a> {
    if fds.is_null() || count == 0 {
        return Set::Poll(&[]);
    }
    // SAFETY: as promised.
    Set::Poll(unsafe { core::slice::from_raw_parts(fds, count as usize) })
}

hook! {
    /// Waits for events of descriptors.
    [poll, __poll] (fds: *mut pollfd, count: nfds_t, timeout_ms: c_int) -> c_int, real => {
        // SAFETY: the caller's own arguments.
        let result = unsafe { real(fds, count, timeout_ms) };
        if result != 0 || timeout_ms <= 0 {
            return result;
        }
        // SAFETY: as above; the kernel has accepted them.
        unsafe {
            let set = polled(fds, count);
            while_paused(result, of_ms(timeout_ms), set, |ms| real(fds, count, ms_of(ms)))
        }
    }
}

hook! {
    /// Waits for events of descriptors, with the size of the array checked.
    [__poll_chk] (fds: *mut pollfd, count: nfds_t, timeout_ms: c_int, size: usize) -> c_int, real
    => {
        // SAFETY: the caller's own arguments.
        let result = unsafe { real(fds, count, timeout_ms, size) };
        if result != 0 || timeout_ms <= 0 {
            return result;
        }
        // SAFETY: as above; the kernel has accepted them.
        unsafe {
            let set = polled(fds, count);
            while_paused(result, of_ms(timeout_ms), set, |ms| real(fds, count, ms_of(ms), size))
        }
    }
}

hook! {
    /// Waits for events of descriptors, with other signals let in.
    [ppoll] (
        fds: *mut pollfd, count: nfds_t, timeout: *const timespec, mask: *const sigset_t
    ) -> c_int, real => {
        // SAFETY: the caller's own arguments.
        let result = unsafe { real(fds, count, timeout, mask) };
        if result != 0 || timeout.is_null() {
            return result;
        }
        // SAFETY: as above; the kernel has accepted them.
        unsafe {
            let set = polled(fds, count);
            while_paused(result, of_timespec(timeout), set, |ms| {
                let rest = timespec_of(ms);
                real(fds, count, &raw const rest, mask)
            })
        }
    }
}

hook! {
    /// Waits for events of descriptors, with other signals let in and the size of the array
    /// checked.
    [__ppoll_chk] (
        fds: *mut pollfd, count: nfds_t, timeout: *const timespec, mask: *const sigset_t,
        size: usize
    ) -> c_int, real => {
        // SAFETY: the caller's own arguments.
        let result = unsafe { real(fds, count, timeout, mask, size) };
        if result != 0 || timeout.is_null() {
            return result;
        }
        // SAFETY: as above; the kernel has accepted them.
        unsafe {
            let set = polled(fds, count);
            while_paused(result, of_timespec(timeout), set, |ms| {
                let rest = timespec_of(ms);
                real(fds, count, &raw const rest, mask, size)
            })
        }
    }
}

/// The three sets of select as they were before the call, which clears them.
struct Sets {
    places: [*mut fd_set; 3],
    bits: [Bits; 3],
    bytes: usize,
}

impl Sets {
    /// Copies the sets; nothing when no session can be in them, or when there are more descriptors
    /// than a set usually has.
    ///
    /// # Safety
    /// Each is null or has room for `count` bits.
    unsafe fn keep(count: c_int, places: [*mut fd_set; 3]) -> Option<Sets> {
        let bytes = usize::try_from(count).ok()?.div_ceil(64) * 8;
        if !wait::may_pause() || bytes > BIT_WORDS * 8 {
            return None;
        }
        let bits = places.map(|place| {
            if place.is_null() {
                return [0; BIT_WORDS];
            }
            // SAFETY: as promised.
            wait::bits_of(unsafe { core::slice::from_raw_parts(place.cast(), bytes) })
        });
        Some(Sets { places, bits, bytes })
    }

    /// Puts them back for another call.
    ///
    /// # Safety
    /// As for `keep`.
    unsafe fn put_back(&self) {
        for (place, bits) in self.places.iter().zip(&self.bits) {
            if !place.is_null() {
                let from = bits.as_ptr().cast::<u8>();
                // SAFETY: as promised.
                unsafe { ptr::copy_nonoverlapping(from, place.cast::<u8>(), self.bytes) };
            }
        }
    }
}

hook! {
    /// Waits for descriptors of three sets.
    [select, __select] (
        count: c_int, read: *mut fd_set, write: *mut fd_set, except: *mut fd_set,
        timeout: *mut timeval
    ) -> c_int, real => {
        // The kernel writes the rest of the time here.
        // SAFETY: the caller's own place, or null.
        let timeout_ms = unsafe { timeout.as_ref() }.map_or(0, |time| {
            let seconds = u64::try_from(time.tv_sec).unwrap_or(0);
            seconds.saturating_mul(1_000).saturating_add(time.tv_usec as u64 / 1_000)
        });
        let kept = if timeout_ms == 0 {
            None
        } else {
            // SAFETY: the caller's own sets.
            unsafe { Sets::keep(count, [read, write, except]) }
        };
        // SAFETY: the caller's own arguments.
        let result = unsafe { real(count, read, write, except, timeout) };
        let Some(kept) = kept.filter(|_| result == 0) else { return result };
        while_paused(result, timeout_ms, Set::Select(&kept.bits), |ms| {
            let mut rest =
                timeval { tv_sec: (ms / 1_000) as i64, tv_usec: (ms % 1_000 * 1_000) as i64 };
            // SAFETY: as above.
            unsafe {
                kept.put_back();
                real(count, read, write, except, &raw mut rest)
            }
        })
    }
}

hook! {
    /// Waits for descriptors of three sets, with other signals let in.
    [pselect] (
        count: c_int, read: *mut fd_set, write: *mut fd_set, except: *mut fd_set,
        timeout: *const timespec, mask: *const sigset_t
    ) -> c_int, real => {
        let kept = if timeout.is_null() {
            None
        } else {
            // SAFETY: the caller's own sets.
            unsafe { Sets::keep(count, [read, write, except]) }
        };
        // SAFETY: the caller's own arguments.
        let result = unsafe { real(count, read, write, except, timeout, mask) };
        let Some(kept) = kept.filter(|_| result == 0) else { return result };
        // SAFETY: the kernel has accepted it.
        let timeout_ms = unsafe { of_timespec(timeout) };
        while_paused(result, timeout_ms, Set::Select(&kept.bits), |ms| {
            let rest = timespec_of(ms);
            // SAFETY: as above.
            unsafe {
                kept.put_back();
                real(count, read, write, except, &raw const rest, mask)
            }
        })
    }
}

hook! {
    /// Waits for events of an epoll instance.
    [epoll_wait] (epoll: c_int, events: *mut epoll_event, max: c_int, timeout_ms: c_int) -> c_int,
    real => {
        // SAFETY: the caller's own arguments.
        let result = unsafe { real(epoll, events, max, timeout_ms) };
        if result != 0 || timeout_ms <= 0 {
            return result;
        }
        while_paused(result, of_ms(timeout_ms), Set::Epoll(epoll), |ms| {
            // SAFETY: as above.
            unsafe { real(epoll, events, max, ms_of(ms)) }
        })
    }
}

hook! {
    /// Waits for events of an epoll instance, with other signals let in.
    [epoll_pwait] (
        epoll: c_int, events: *mut epoll_event, max: c_int, timeout_ms: c_int,
        mask: *const sigset_t
    ) -> c_int, real => {
        // SAFETY: the caller's own arguments.
        let result = unsafe { real(epoll, events, max, timeout_ms, mask) };
        if result != 0 || timeout_ms <= 0 {
            return result;
        }
        while_paused(result, of_ms(timeout_ms), Set::Epoll(epoll), |ms| {
            // SAFETY: as above.
            unsafe { real(epoll, events, max, ms_of(ms), mask) }
        })
    }
}

hook! {
    /// Waits for events of an epoll instance, to the nanosecond.
    [epoll_pwait2] (
        epoll: c_int, events: *mut epoll_event, max: c_int, timeout: *const timespec,
        mask: *const sigset_t
    ) -> c_int, real => {
        // SAFETY: the caller's own arguments.
        let result = unsafe { real(epoll, events, max, timeout, mask) };
        if result != 0 || timeout.is_null() {
            return result;
        }
        // SAFETY: the kernel has accepted it.
        let timeout_ms = unsafe { of_timespec(timeout) };
        while_paused(result, timeout_ms, Set::Epoll(epoll), |ms| {
            let rest = timespec_of(ms);
            // SAFETY: as above.
            unsafe { real(epoll, events, max, &raw const rest, mask) }
        })
    }
}
