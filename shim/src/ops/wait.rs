//! Waits whose time-out stands still while every session that they wait for is without a link.
//!
//! The rule is [`stp_proto::local::pause::Wait`]; this finds the sessions of a set, and keeps the
//! clock that the program is told.

use core::ffi::c_int;
use core::sync::atomic::{AtomicU64, Ordering::Relaxed};

use stp_proto::local::pause::{Expiry, Line, Wait};

use super::references::each_registered;
use super::socket::ours;
use super::{clock, process};
use crate::pauses;
use crate::raw::{self, Fd};

/// More sessions than this in one set are not looked at: with so many, one has a link.
const SESSIONS_MAX: usize = 64;

/// The descriptors that a call waits for.
#[derive(Clone, Copy)]
pub enum Set<'a> {
    /// Those of poll.
    Poll(&'a [libc::pollfd]),
    /// Those of select: words of bits, each set as select was given it.
    Select(&'a [Bits]),
    /// Those registered in an epoll instance.
    Epoll(Fd),
    /// Just one.
    One(Fd),
}

/// The bits of a descriptor set as select has it.
pub const BIT_WORDS: usize = 16;
/// One descriptor set, as it was before the call.
pub type Bits = [u64; BIT_WORDS];

/// Time by which the clock of the program is behind the kernel's, nanoseconds.
static BEHIND_NS: AtomicU64 = AtomicU64::new(0);

/// A call that waits, and whose time-out has expired.
#[derive(Default)]
pub struct Pausing(Option<Wait>);

impl Pausing {
    /// The kernel says that a wait of `timeout_ms` has expired, or that a part of it has that was
    /// waited for again. For how long the call must be made again; nothing when it is over.
    pub fn expired(&mut self, timeout_ms: u64, set: Set<'_>) -> Option<u64> {
        let (head, now) = (pauses::head()?, raw::now_ms());
        if self.0.is_none() && head.is_quiet(now, timeout_ms) {
            return None;
        }
        let mut lines = [Line::default(); SESSIONS_MAX];
        let lines = set.sessions(&mut lines)?;
        let wait = self.0.get_or_insert(Wait::expired(now, timeout_ms));
        let before = wait.given_ms();
        let verdict = wait.look(&head, now, lines.iter().copied());
        hold_back(wait.given_ms() - before);
        match verdict {
            Expiry::Expire => None,
            Expiry::Again(ms) => Some(ms),
        }
    }
}

impl Set<'_> {
    /// What the broker tells of the sessions in the set; nothing when it tells nothing of one of
    /// them, or when there are too many.
    fn sessions<'a>(&self, lines: &'a mut [Line; SESSIONS_MAX]) -> Option<&'a [Line]> {
        let mut count = 0;
        let mut known = true;
        let mut look = |fd: Fd| {
            let Some(name) = ours(fd) else { return };
            match (pauses::line(&name.cookie), lines.get_mut(count)) {
                (Some(line), Some(slot)) => {
                    *slot = line;
                    count += 1;
                }
                _ => known = false,
            }
        };
        match self {
            Set::One(fd) => look(*fd),
            Set::Poll(polled) => {
                polled.iter().filter(|one| one.fd >= 0).for_each(|one| look(one.fd));
            }
            Set::Select(sets) => each_bit(sets, look),
            Set::Epoll(epoll) => each_registered(*epoll, look).ok()?,
        }
        known.then_some(&lines[..count])
    }
}

/// Calls with each descriptor that is in one of the sets, once.
fn each_bit(sets: &[Bits], mut each: impl FnMut(Fd)) {
    for word in 0..BIT_WORDS {
        let mut bits = sets.iter().fold(0, |all, set| all | set[word]);
        while bits != 0 {
            each((word * 64) as Fd + bits.trailing_zeros() as Fd);
            bits &= bits - 1;
        }
    }
}

/// A set that select is about to overwrite, as words: `count` descriptors of it.
pub fn bits_of(bytes: &[u8]) -> Bits {
    let mut bits = [0; BIT_WORDS];
    for (word, bytes) in bits.iter_mut().zip(bytes.chunks(8)) {
        let mut padded = [0; 8];
        padded[..bytes.len()].copy_from_slice(bytes);
        *word = u64::from_ne_bytes(padded);
    }
    bits
}

/// The time in milliseconds that a blocking call on a socket waits, by `SO_RCVTIMEO` or
/// `SO_SNDTIMEO`; nothing when it does not wait, waits for ever, or is no session's.
pub fn socket_timeout(fd: Fd, option: c_int, flags: c_int) -> Option<u64> {
    if flags & libc::MSG_DONTWAIT != 0 || ours(fd).is_none() {
        return None;
    }
    let status = raw::fcntl(fd, libc::F_GETFL, 0).ok()?;
    let timeout = raw::socket_timeout_ms(fd, option)?;
    (status & libc::O_NONBLOCK == 0).then_some(timeout)
}

/// Whether a call that failed may have waited on a session until its time-out.
#[inline]
pub fn may_have_waited() -> bool {
    process::may_have_session() && process::sets_timeouts()
}

/// Holds the clock of the program back by a pause that it has spent waiting, as long as it has one
/// thread: another thread may hold deadlines of the kernel's clock. A clock that stands still in
/// every pause needs nothing more.
fn hold_back(ms: u64) {
    if ms > 0 && raw::is_single_threaded() && !clock::is_on() {
        BEHIND_NS.fetch_add(ms * 1_000_000, Relaxed);
    }
}

/// By how much the clock of the program is behind, nanoseconds. With a second thread it jumps
/// forward, once and for all.
#[inline]
pub fn behind_ns() -> u64 {
    let behind = BEHIND_NS.load(Relaxed);
    if behind != 0 && !raw::is_single_threaded() {
        BEHIND_NS.store(0, Relaxed);
        return 0;
    }
    behind
}

/// Whether the clock of this number counts the time that passes, so that time-outs are made of it.
#[inline]
pub fn is_held_back(clock: c_int) -> bool {
    matches!(
        clock,
        libc::CLOCK_MONOTONIC
            | libc::CLOCK_BOOTTIME
            | libc::CLOCK_MONOTONIC_RAW
            | libc::CLOCK_MONOTONIC_COARSE
    )
}

/// A time of the kernel's clock as the program is told it.
pub fn told(time: libc::timespec, behind_ns: u64) -> libc::timespec {
    shifted(time, -i64::try_from(behind_ns).unwrap_or(0))
}

/// A time of the program's clock on the kernel's.
pub fn kernels(time: libc::timespec, behind_ns: u64) -> libc::timespec {
    shifted(time, i64::try_from(behind_ns).unwrap_or(0))
}

fn shifted(time: libc::timespec, by_ns: i64) -> libc::timespec {
    const SECOND: i64 = 1_000_000_000;
    let total = time.tv_sec.saturating_mul(SECOND).saturating_add(time.tv_nsec);
    let shifted = total.saturating_add(by_ns).max(0);
    libc::timespec { tv_sec: shifted / SECOND, tv_nsec: shifted % SECOND }
}

/// Whether the head of the pause file is worth a look: a session may be among what is waited for.
#[inline]
pub fn may_pause() -> bool {
    process::may_have_session()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_descriptor_of_a_set_is_found_once() {
        let (mut first, mut second) = ([0; BIT_WORDS], [0; BIT_WORDS]);
        first[0] = 0b101;
        second[0] = 0b100;
        second[15] = 1 << 63;
        let mut found = Vec::new();
        each_bit(&[first, second], |fd| found.push(fd));
        assert_eq!(found, [0, 2, 1_023]);
        assert_eq!(bits_of(&[5, 0, 0, 0, 0, 0, 0, 0, 1])[..2], [5, 1]);
    }

    #[test]
    fn the_clock_is_told_behind_the_kernels() {
        let time = libc::timespec { tv_sec: 10, tv_nsec: 100 };
        let told = told(time, 1_500_000_000);
        assert_eq!((told.tv_sec, told.tv_nsec), (8, 500_000_100));
        let back = kernels(told, 1_500_000_000);
        assert_eq!((back.tv_sec, back.tv_nsec), (10, 100));
    }
}
