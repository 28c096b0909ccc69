//! Deadlines, and everything that depends on time.
//!
//! Equality and hash leave the values of deadlines out: for the model checker two sessions are the
//! same if the same deadlines are set, whenever they are due.

use core::hash::{Hash, Hasher};
use core::time::Duration;

use crate::time::Instant;

/// The timers of a session.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum Timer {
    /// Another attempt is due.
    Retry,
    /// The attempt under way is given up.
    Attempt,
    /// A delayed acknowledgement is due.
    Ack,
    /// A cut is to be proposed.
    Checkpoint,
    /// There was no link for too long.
    Hold,
    /// The near side is gone, or only the peer's last word is missing, for long enough.
    Closing,
    /// The link is kept no longer for the peer's last word.
    LastWord,
    /// Spare memory is to be given back.
    Trim,
    /// The suspension at this end is over.
    Wake,
}

const TIMERS: usize = 9;

#[cfg(feature = "model")]
impl Timer {
    /// All timers.
    pub const ALL: [Timer; TIMERS] = [
        Timer::Retry,
        Timer::Attempt,
        Timer::Ack,
        Timer::Checkpoint,
        Timer::Hold,
        Timer::Closing,
        Timer::LastWord,
        Timer::Trim,
        Timer::Wake,
    ];
}

/// Everything that depends on the clock.
#[derive(Clone, Debug)]
pub(super) struct Clock {
    timers: [Option<Instant>; TIMERS],
    /// The last sign of life on the attached link.
    pub heard: Instant,
    /// The last DATA, either way.
    pub traffic: Instant,
    /// When the near side wrote what has been unacknowledged for longest, or this end was resumed.
    pub wrote: Instant,
    /// The times of the first and the last unanswered question, and their number.
    pub asked_first: Instant,
    pub asked_last: Instant,
    pub asked: u8,
    /// The time since which there has been no link.
    pub unlinked: Option<Instant>,
    /// Until when the peer is suspended, as it has said.
    pub away: Option<Instant>,
    /// When the last link was attached.
    pub attached: Instant,
    /// The state of the generator that spreads pauses at random.
    seed: u64,
}

impl Clock {
    pub fn new(now: Instant, seed: u64) -> Clock {
        Clock {
            timers: [None; TIMERS],
            heard: now,
            traffic: now,
            wrote: now,
            asked_first: now,
            asked_last: now,
            asked: 0,
            unlinked: None,
            away: None,
            attached: now,
            seed,
        }
    }

    pub fn set(&mut self, timer: Timer, at: Instant) {
        self.timers[timer as usize] = Some(at);
    }

    /// Sets the timer unless it is set already.
    pub fn arm(&mut self, timer: Timer, at: Instant) {
        self.timers[timer as usize].get_or_insert(at);
    }

    pub fn stop(&mut self, timer: Timer) {
        self.timers[timer as usize] = None;
    }

    /// When the timer expires, if it is set.
    pub fn at(&self, timer: Timer) -> Option<Instant> {
        self.timers[timer as usize]
    }

    #[cfg(feature = "model")]
    pub fn is_set(&self, timer: Timer) -> bool {
        self.timers[timer as usize].is_some()
    }

    /// Whether the timer has expired. If so, stops it.
    pub fn expired(&mut self, timer: Timer, now: Instant) -> bool {
        let expired = self.timers[timer as usize].is_some_and(|at| at <= now);
        if expired {
            self.stop(timer);
        }
        expired
    }

    /// The next deadline. A timer that is set to the end of time is no deadline.
    pub fn next(&self) -> Option<Instant> {
        self.timers.iter().flatten().copied().filter(|at| at.0 < u64::MAX).min()
    }

    /// Takes note of a sign of life.
    pub fn alive(&mut self, now: Instant) {
        self.heard = now;
        self.asked = 0;
    }

    /// R71: half to all of `pause`, from the seed (splitmix64).
    pub fn jitter(&mut self, pause: Duration) -> Duration {
        self.seed = self.seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.seed;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let half = pause / 2;
        let share = u32::try_from(z >> 32).expect("32 bits are left");
        half + half.mul_f64(f64::from(share) / f64::from(u32::MAX))
    }
}

impl PartialEq for Clock {
    fn eq(&self, other: &Clock) -> bool {
        let set = |clock: &Clock| clock.timers.map(|timer| timer.is_some());
        set(self) == set(other)
            && self.asked == other.asked
            && self.unlinked.is_some() == other.unlinked.is_some()
            && self.away.is_some() == other.away.is_some()
    }
}

impl Eq for Clock {}

impl Hash for Clock {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.timers.map(|timer| timer.is_some()).hash(state);
        self.asked.hash(state);
        self.unlinked.is_some().hash(state);
        self.away.is_some().hash(state);
    }
}
