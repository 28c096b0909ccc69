//! The clock of a program that has a session by a route with `freeze = "clock"`: it stands still
//! while all sessions of the program are paused ([`stp_proto::local::pause::stood_still`]), and
//! points in time that the program has made of it are put back on the kernel's clock.
//!
//! Plain static memory, changed by single steps, so that it is good in any thread, in a signal
//! handler, and copied by fork. It is looked at how long the clock stood still every 100 ms at
//! most; whoever moves [`SEEN_MS`] on does it. What was told once is never more than what is told
//! later.
//!
//! `alarm` and `setitimer(ITIMER_REAL)` of such a program: the kernel's timer would ring in a
//! pause. So a timer of our own runs instead, with a signal of its own ([`signal`]) whose handler
//! looks at the program's clock: it has the kernel ring `SIGALRM`, or waits again. What the program
//! does with `SIGALRM` is its own. A call that our signal interrupts goes on, and must be there to
//! be interrupted by `SIGALRM`, which follows [`RING_IN_US`] later. As with the kernel's timer, a
//! child of fork has none.

use core::ffi::c_int;
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicBool, AtomicI32, AtomicU32, AtomicU64};

use libc::{itimerval, timespec, timeval};
use stp_proto::local::Cookie;
use stp_proto::local::pause::{self, LOOK_EVERY_MS, Line};

use crate::guard::decide;
use crate::pauses;
use crate::raw::{self, Errno, Result};

const MS: u64 = 1_000_000;
const SECOND: i64 = 1_000_000_000;

/// Sessions that are noted; with more of them one has a link.
const NOTED_MAX: usize = 64;
/// The sessions of this process by their keys. One of which the broker tells nothing has ended.
static NOTED: [AtomicU64; NOTED_MAX] = [const { AtomicU64::new(0) }; NOTED_MAX];
/// There were more.
static TOO_MANY: AtomicBool = AtomicBool::new(false);

/// The broker has not told yet of a session that was noted; when that was looked at last.
static UNTOLD: AtomicBool = AtomicBool::new(false);
static ASKED_MS: AtomicU64 = AtomicU64::new(0);
/// When one was noted last.
static NOTED_MS: AtomicU64 = AtomicU64::new(0);
/// A connect that takes longer has failed.
const UNTOLD_MAX_MS: u64 = 120_000;

/// The clock stands still in pauses.
static ON: AtomicBool = AtomicBool::new(false);
/// By how much it is behind the kernel's.
static BEHIND_NS: AtomicU64 = AtomicU64::new(0);
/// Until when that was looked at.
static SEEN_MS: AtomicU64 = AtomicU64::new(0);
/// It stood still then.
static STANDS: AtomicBool = AtomicBool::new(false);
/// The latest time that the program was told.
static TOLD_NS: AtomicU64 = AtomicU64::new(0);

/// The process has this session from now on.
pub fn note(cookie: &Cookie) {
    let key = pause::key(cookie);
    let takes = |held: u64, slot: &AtomicU64| {
        slot.load(Relaxed) == held && slot.compare_exchange(held, key, Relaxed, Relaxed).is_ok()
    };
    let over = |slot: &AtomicU64| {
        let held = slot.load(Relaxed);
        !told_of(held) && takes(held, slot)
    };
    if !NOTED.iter().any(|slot| takes(0, slot)) && !NOTED.iter().any(over) {
        TOO_MANY.store(true, Relaxed);
    }
    NOTED_MS.store(raw::now_ms(), Relaxed);
    UNTOLD.store(true, Relaxed);
}

/// What the broker tells of the sessions of this process. Nothing is gathered: this may run on the
/// small stack of a signal handler.
fn sessions() -> impl Iterator<Item = Line> + Clone {
    NOTED.iter().filter_map(|slot| pauses::line_of(slot.load(Relaxed)))
}

/// Whether the broker tells of every session that was noted.
fn all_told() -> bool {
    NOTED.iter().map(|slot| slot.load(Relaxed)).all(|key| key == 0 || told_of(key))
}

fn told_of(key: u64) -> bool {
    pauses::line_of(key).is_some()
}

/// Whether the clock stands still in pauses. The sessions are looked at every 100 ms at most.
#[inline]
pub fn is_on() -> bool {
    ON.load(Relaxed) || (UNTOLD.load(Relaxed) && ask(raw::now_ns() / MS))
}

#[cold]
fn ask(now_ms: u64) -> bool {
    let asked = ASKED_MS.load(Relaxed);
    let due = now_ms >= asked + LOOK_EVERY_MS;
    if !due || ASKED_MS.compare_exchange(asked, now_ms, Relaxed, Relaxed).is_err() {
        return false;
    }
    begin(now_ms)
}

/// Looks now whether the clock stands still in pauses: a session may be there.
pub fn look() {
    if UNTOLD.load(Relaxed) && !ON.load(Relaxed) {
        begin(raw::now_ns() / MS);
    }
}

fn begin(now_ms: u64) -> bool {
    if all_told() || now_ms > NOTED_MS.load(Relaxed).saturating_add(UNTOLD_MAX_MS) {
        UNTOLD.store(false, Relaxed);
    }
    let wanted = sessions().any(|line| line.stops_clock);
    if wanted {
        SEEN_MS.store(now_ms, Relaxed);
        if !ON.swap(true, Relaxed) {
            take_over();
        }
    }
    wanted
}

/// Looks for how long the clock has stood still, if that was not done just now or is wanted at
/// once. Whether it stands still now.
fn pass(now_ms: u64, at_once: bool) -> bool {
    let seen = SEEN_MS.load(Relaxed);
    let due = now_ms >= seen + if at_once { 1 } else { LOOK_EVERY_MS };
    if !due || SEEN_MS.compare_exchange(seen, now_ms, Relaxed, Relaxed).is_err() {
        return STANDS.load(Relaxed);
    }
    let head = pauses::head().filter(|_| !TOO_MANY.load(Relaxed));
    let pause = head.and_then(|head| pause::stood_still(&head, seen, now_ms, sessions()));
    let pause = pause.unwrap_or_default();
    BEHIND_NS.fetch_add(pause.ms * MS, Relaxed);
    STANDS.store(pause.goes_on, Relaxed);
    pause.goes_on
}

/// The time of the program's `CLOCK_MONOTONIC` when the kernel's says this, nanoseconds.
fn told_ns(kernels_ns: u64) -> u64 {
    let told = kernels_ns.saturating_sub(BEHIND_NS.load(Relaxed));
    TOLD_NS.fetch_max(told, Relaxed).max(told)
}

/// A time of one of the kernel's clocks that count the time that passes, as the program is told it.
pub fn told(clock: c_int, time: timespec) -> timespec {
    let kernels = nanoseconds(time);
    if clock == libc::CLOCK_MONOTONIC {
        pass(kernels / MS, false);
        return time_of(told_ns(kernels));
    }
    let now = raw::now_ns();
    pass(now / MS, false);
    time_of(kernels.saturating_sub(now.saturating_sub(told_ns(now))))
}

/// The program's time now, and whether the clock stands still.
pub fn now() -> (u64, bool) {
    let kernels = raw::now_ns();
    let stands = pass(kernels / MS, true);
    (told_ns(kernels), stands)
}

/// A point in time of the program's clock, nanoseconds.
#[derive(Clone, Copy)]
pub struct Deadline(u64);

impl Deadline {
    /// The point in time for which a program waits by a clock; nothing if that is the kernel's.
    pub fn of(clock: c_int, time: timespec) -> Option<Deadline> {
        let ahead_ns = match clock {
            libc::CLOCK_MONOTONIC => 0,
            libc::CLOCK_BOOTTIME => raw::clock_ns(clock).saturating_sub(raw::now_ns()),
            _ => return None,
        };
        is_on().then(|| Deadline(nanoseconds(time).saturating_sub(ahead_ns)))
    }

    /// The same of a clock that is not known: that of a condition variable, or of a timer. The two
    /// that it may be are decades apart.
    pub fn of_some_clock(time: timespec) -> Option<Deadline> {
        let deadline = Deadline::of(libc::CLOCK_MONOTONIC, time)?;
        is_monotonic(deadline.0, raw::now_ns(), raw::clock_ns(libc::CLOCK_REALTIME))
            .then_some(deadline)
    }

    /// Until when the kernel is to wait from now on; nothing when the time has come.
    pub fn kernels(self) -> Option<timespec> {
        let (told, stands) = now();
        match pause::wait_ns(self.0, told, stands) {
            0 => None,
            rest => Some(time_of(raw::now_ns().saturating_add(rest))),
        }
    }
}

/// Whether a point in time is one of `CLOCK_MONOTONIC` and not of `CLOCK_REALTIME`.
fn is_monotonic(time_ns: u64, monotonic_ns: u64, real_ns: u64) -> bool {
    time_ns.abs_diff(monotonic_ns) < time_ns.abs_diff(real_ns)
}

/// A time in nanoseconds; one before 0 is 0.
fn nanoseconds(time: timespec) -> u64 {
    let total = time.tv_sec.saturating_mul(SECOND).saturating_add(time.tv_nsec);
    u64::try_from(total).unwrap_or(0)
}

/// Nanoseconds as a time.
pub fn time_of(ns: u64) -> timespec {
    let ns = i64::try_from(ns).unwrap_or(i64::MAX);
    timespec { tv_sec: ns / SECOND, tv_nsec: ns % SECOND }
}

const US: u64 = 1_000;
const SECOND_US: u64 = 1_000_000;
/// How long after our signal `SIGALRM` comes: a call that is made again is waiting by then.
const RING_IN_US: i64 = 10_000;

/// When it rings by the program's clock, nanoseconds; 0 for never.
static UNTIL_NS: AtomicU64 = AtomicU64::new(0);
/// How long after that it rings again; 0 for never.
static EVERY_NS: AtomicU64 = AtomicU64::new(0);
/// The kernel's number of our timer, and the process that has it; 0 for none.
static TIMER: AtomicI32 = AtomicI32::new(0);
static OWNER: AtomicU32 = AtomicU32::new(0);

/// The signal of our timer.
fn signal() -> c_int {
    libc::SIGRTMAX() - 1
}

/// The rest until it rings, and how often it rings, nanoseconds.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Rings {
    /// 0 for never.
    pub rest_ns: u64,
    /// 0 for once.
    pub every_ns: u64,
}

impl Rings {
    /// As C has it.
    pub fn of(value: &itimerval) -> Result<Rings> {
        let ns = |time: timeval| {
            let us = u64::try_from(time.tv_usec).ok().filter(|us| *us < SECOND_US);
            let seconds = u64::try_from(time.tv_sec).ok();
            let us = seconds.zip(us).map(|(s, us)| s.saturating_mul(SECOND_US).saturating_add(us));
            us.map(|us| us.saturating_mul(US)).ok_or(libc::EINVAL)
        };
        Ok(Rings { rest_ns: ns(value.it_value)?, every_ns: ns(value.it_interval)? })
    }

    /// The same for C.
    pub fn to_c(self) -> itimerval {
        let time = |ns: u64| {
            let us = ns.div_ceil(US);
            timeval { tv_sec: (us / SECOND_US) as i64, tv_usec: (us % SECOND_US) as i64 }
        };
        itimerval { it_interval: time(self.every_ns), it_value: time(self.rest_ns) }
    }

    /// The rest in seconds, as `alarm` answers it: to the nearest one, and not 0 if it will ring.
    pub fn seconds(self) -> u32 {
        const SECOND: u64 = SECOND_US * US;
        let seconds = self.rest_ns.saturating_add(SECOND / 2) / SECOND;
        u32::try_from(seconds.max(u64::from(self.rest_ns > 0))).unwrap_or(u32::MAX)
    }
}

/// What is left, if the program's alarm is ours to keep; nothing if it is the kernel's.
pub fn alarm_left() -> Option<Rings> {
    is_on().then(|| rest(now().0))
}

fn rest(now_ns: u64) -> Rings {
    let until = UNTIL_NS.load(Relaxed);
    if until == 0 || OWNER.load(Relaxed) != raw::pid() {
        return Rings::default();
    }
    // One that is about to ring has not rung.
    Rings { rest_ns: until.saturating_sub(now_ns).max(1), every_ns: EVERY_NS.load(Relaxed) }
}

/// Sets it anew; what was left. Nothing if the program's alarm is the kernel's.
pub fn set_alarm(rings: Rings) -> Option<core::result::Result<Rings, Errno>> {
    is_on().then(|| start(rings))
}

fn start(rings: Rings) -> Result<Rings> {
    let (now, _) = now();
    let before = rest(now);
    let until = if rings.rest_ns == 0 { 0 } else { now.saturating_add(rings.rest_ns) };
    UNTIL_NS.store(0, Relaxed);
    // One that is about to ring does not.
    raw::take_itimer()?;
    EVERY_NS.store(rings.every_ns, Relaxed);
    if until != 0 || OWNER.load(Relaxed) == raw::pid() {
        let timer = timer()?;
        UNTIL_NS.store(until, Relaxed);
        raw::set_timer(timer, rings.rest_ns)?;
    }
    Ok(before)
}

/// Our timer in this process.
fn timer() -> Result<c_int> {
    let pid = raw::pid();
    if OWNER.load(Relaxed) == pid {
        return Ok(TIMER.load(Relaxed));
    }
    raw::handle(signal(), rang)?;
    let timer = raw::make_timer(signal())?;
    TIMER.store(timer, Relaxed);
    OWNER.store(pid, Relaxed);
    Ok(timer)
}

/// The program's clock stands still in pauses from now on: an alarm that the kernel keeps is ours.
pub fn take_over() {
    let Ok(Some(rings)) = raw::take_itimer().map(|value| Rings::of(&value).ok()) else { return };
    if rings.rest_ns > 0 {
        let _lost_if_the_kernel_has_no_timer = start(rings);
    }
}

/// Our timer has run out.
extern "C" fn rang(_: c_int) {
    let errno = raw::errno();
    // If this is wrong it rings as without us.
    let rings = decide(true, || {
        let (now, stands) = now();
        let until = UNTIL_NS.load(Relaxed);
        if until == 0 {
            return false;
        }
        let rest = pause::wait_ns(until, now, stands);
        let every = EVERY_NS.load(Relaxed);
        let next = if rest == 0 && every > 0 { every } else { rest };
        if rest == 0 {
            UNTIL_NS.store(if every > 0 { now.saturating_add(every) } else { 0 }, Relaxed);
        }
        if next > 0 {
            let _rings_no_more = raw::set_timer(TIMER.load(Relaxed), next);
        }
        rest == 0
    });
    if rings {
        raw::ring_in_us(RING_IN_US);
    }
    raw::set_errno(errno);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clock_of_a_point_in_time_is_the_nearer_one() {
        const YEARS_50: u64 = 1_600_000_000 * 1_000_000_000;
        const DAY: u64 = 86_400 * 1_000_000_000;
        for (time, monotonic) in [
            (0, true),
            (2 * DAY, true),
            (YEARS_50, false),
            (YEARS_50 + DAY, false),
            (u64::MAX, false),
        ] {
            assert_eq!(is_monotonic(time, DAY, YEARS_50), monotonic, "{time}");
        }
    }

    #[test]
    fn times_are_read_back_and_bounded() {
        for (seconds, ns) in [(0, 0), (5, 7), (86_400, 999_999_999)] {
            let time = time_of(nanoseconds(timespec { tv_sec: seconds, tv_nsec: ns }));
            assert_eq!((time.tv_sec, time.tv_nsec), (seconds, ns));
        }
        assert_eq!(nanoseconds(timespec { tv_sec: -5, tv_nsec: 0 }), 0);
        assert_eq!(nanoseconds(timespec { tv_sec: i64::MAX, tv_nsec: 0 }), i64::MAX as u64);
    }

    #[test]
    fn without_a_session_the_clock_is_the_kernels() {
        assert!(!is_on());
        assert!(Deadline::of(libc::CLOCK_MONOTONIC, time_of(1)).is_none());
        let time = timespec { tv_sec: 3, tv_nsec: 4 };
        let told = told(libc::CLOCK_MONOTONIC, time);
        assert_eq!((told.tv_sec, told.tv_nsec), (3, 4));
    }

    #[test]
    fn what_is_left_is_said_as_the_kernel_says_it() {
        let ms = |ms: u64| Rings { rest_ns: ms * 1_000_000, every_ns: 0 };
        for (rest, seconds) in [(0, 0), (1, 1), (1_400, 1), (1_500, 2), (3_000, 3)] {
            assert_eq!(ms(rest).seconds(), seconds, "{rest}");
        }
        let rings = Rings { rest_ns: 3_000_000_500, every_ns: 1_500_000_000 };
        let value = rings.to_c();
        assert_eq!((value.it_value.tv_sec, value.it_value.tv_usec), (3, 1));
        let read = Rings::of(&value).unwrap();
        assert_eq!(read, Rings { rest_ns: 3_000_001_000, ..rings });
        let wrong = timeval { tv_sec: 0, tv_usec: 1_000_000 };
        assert_eq!(Rings::of(&itimerval { it_value: wrong, ..value }), Err(libc::EINVAL));
    }

    #[test]
    fn a_program_whose_clock_is_the_kernels_keeps_its_alarm() {
        assert_eq!(alarm_left(), None);
        assert_eq!(set_alarm(Rings::default()), None);
    }
}
