//! When a path has become so slow that another server should be asked (STP 6), and
//! whether another one is really better (STP 9).
//!
//! The sending side samples what its kernel knows of the link. A [`RiseWatch`] says that the round
//! trip has *risen* when it has been at least twice, and 20 ms above, its windowed minimum for at
//! least eight samples and half a second, while the rate at which the link delivers has fallen.
//! Both are needed: a bulk flow that fills its own queue has a long round trip at full rate; a
//! reader that is slow has a low rate at a short round trip. Neither is a reason to go elsewhere. A
//! flow that has little to send (somebody types) fills no queue; there the round trip alone
//! decides, if it is 60 ms longer for two seconds.
//!
//! Rising says nothing about where the congestion is. That is seen by the broker, which measures
//! the round trip to every server: [`better`] takes another one only if it is clearly nearer *now*,
//! and has not become slower in the same measure, as all do that share a congested access link.

use core::fmt;
use core::time::Duration;
use std::collections::VecDeque;

use crate::time::Instant;

/// Numbers of the rule.
#[derive(Copy, Clone, PartialEq, Debug)]
pub struct Rule {
    /// The round trip has risen when it is this many times the base …
    pub factor: f64,
    /// … and at least this much above it.
    pub above: Duration,
    /// The number of samples that must agree, without a break …
    pub samples_min: u32,
    /// … and the time for which they must agree.
    pub lasting: Duration,
    /// A flow that has little to send cannot fill a queue itself: its rate says nothing, and its
    /// round trip alone decides. It must be this much above the base …
    pub quiet_above: Duration,
    /// … for this long.
    pub quiet_lasting: Duration,
    /// The rate has fallen when it is at most this part of its best.
    pub rate_part: f64,
    /// The base is the least round trip within this time.
    pub base_window: Duration,
    /// The best rate is the highest within this time.
    pub rate_window: Duration,
    /// The least time from one sample to the next.
    pub sample_every: Duration,
    /// The pause before the broker is asked again; it doubles every time.
    pub ask_again: Duration,
    /// The longest such pause.
    pub ask_again_max: Duration,
}

impl Default for Rule {
    fn default() -> Rule {
        Rule {
            factor: 2.0,
            above: Duration::from_millis(20),
            samples_min: 8,
            lasting: Duration::from_millis(500),
            quiet_above: Duration::from_millis(60),
            quiet_lasting: Duration::from_secs(2),
            rate_part: 0.75,
            base_window: Duration::from_secs(30),
            rate_window: Duration::from_secs(15),
            sample_every: Duration::from_millis(50),
            ask_again: Duration::from_secs(2),
            ask_again_max: Duration::from_secs(60),
        }
    }
}

/// What the kernel says of a link.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub struct Sample {
    /// Smoothed round trip, microseconds.
    pub srtt_us: u32,
    /// Least round trip the kernel knows, microseconds; 0: none.
    pub min_rtt_us: u32,
    /// Delivered lately, bytes a second.
    pub rate: u64,
    /// Bytes the peer has acknowledged since the beginning: whether the round trip is a new one.
    pub acked: u64,
    /// The sender, or the reader, had no more to do: the rate says nothing of the path.
    pub idle: bool,
}

/// A rise, with its numbers.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Rise {
    /// Smoothed round trip now, microseconds.
    pub srtt_us: u32,
    /// What it was at its best, microseconds.
    pub base_us: u32,
    /// Delivered now, bytes a second.
    pub rate: u64,
    /// What was delivered at its best.
    pub rate_max: u64,
    /// For how long it has lasted.
    pub lasted: Duration,
}

impl fmt::Display for Rise {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ms = |us: u32| f64::from(us) / 1e3;
        let mbit = |rate: u64| rate as f64 * 8.0 / 1e6;
        write!(
            f,
            "round trip {:.0} ms, was {:.0}; {:.1} Mbit/s, was {:.1}; for {} ms",
            ms(self.srtt_us),
            ms(self.base_us),
            mbit(self.rate),
            mbit(self.rate_max),
            self.lasted.as_millis()
        )
    }
}

/// The extreme of the last while, in a few buckets.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
struct Window {
    /// Beginning of each bucket, and its best value.
    buckets: VecDeque<(Instant, u64)>,
}

const BUCKETS: u32 = 10;

impl Window {
    fn add(&mut self, now: Instant, span: Duration, value: u64, better: fn(u64, u64) -> u64) {
        while self.buckets.front().is_some_and(|(at, _)| now - *at > span) {
            self.buckets.pop_front();
        }
        match self.buckets.back_mut() {
            Some((at, best)) if now - *at < span / BUCKETS => *best = better(*best, value),
            _ => self.buckets.push_back((now, value)),
        }
    }

    fn best(&self, better: fn(u64, u64) -> u64) -> Option<u64> {
        self.buckets.iter().map(|(_, value)| *value).reduce(better)
    }
}

/// Watches one link.
#[derive(Clone, PartialEq, Debug)]
pub struct RiseWatch {
    rule: Rule,
    base: Window,
    rate: Window,
    /// Average of the rate, over about ten samples.
    smooth: u64,
    last: Option<Instant>,
    acked: u64,
    high_since: Option<(Instant, u32)>,
    /// The same of a flow with little to send.
    quiet_since: Option<(Instant, u32)>,
    asked: u32,
    ask_at: Instant,
}

impl RiseWatch {
    /// Of a new link.
    #[must_use]
    pub fn new(rule: Rule) -> RiseWatch {
        RiseWatch {
            rule,
            base: Window::default(),
            rate: Window::default(),
            smooth: 0,
            last: None,
            acked: 0,
            high_since: None,
            quiet_since: None,
            asked: 0,
            ask_at: Instant(0),
        }
    }

    /// The link was replaced: what is known is of another path.
    pub fn forget(&mut self) {
        let (asked, ask_at) = (self.asked, self.ask_at);
        *self = RiseWatch { asked, ask_at, ..RiseWatch::new(self.rule) };
    }

    /// Whether the next sample is due.
    #[must_use]
    pub fn is_due(&self, now: Instant) -> bool {
        self.last.is_none_or(|last| now - last >= self.rule.sample_every)
    }

    /// Takes a sample; says when the path has become slow, once, and again only after a while.
    pub fn sample(&mut self, now: Instant, sample: Sample) -> Option<Rise> {
        self.last = Some(now);
        if sample.srtt_us == 0 {
            return None;
        }
        let least = match sample.min_rtt_us {
            0 => sample.srtt_us,
            least => least.min(sample.srtt_us),
        };
        self.base.add(now, self.rule.base_window, u64::from(least), u64::min);
        let fresh = core::mem::replace(&mut self.acked, sample.acked) != sample.acked;
        if sample.idle {
            self.high_since = None;
            let rise = self.look_quiet(sample).filter(|_| fresh);
            if fresh {
                let lasting = self.rule.quiet_lasting;
                return lasts(now, rise, &mut self.quiet_since, (self.rule.samples_min, lasting))
                    .filter(|_| self.may_ask(now));
            }
            return None;
        }
        self.quiet_since = None;
        self.smooth = match self.smooth {
            0 => sample.rate,
            old => old - old / 5 + sample.rate / 5,
        };
        self.rate.add(now, self.rule.rate_window, self.smooth, u64::max);
        let rise = self.look(sample.srtt_us);
        let enough = (self.rule.samples_min, self.rule.lasting);
        lasts(now, rise, &mut self.high_since, enough).filter(|_| self.may_ask(now))
    }

    /// Whether the broker may be asked now; then not again for a while.
    fn may_ask(&mut self, now: Instant) -> bool {
        if now < self.ask_at {
            return false;
        }
        let pause = self.rule.ask_again.saturating_mul(1 << self.asked.min(10));
        self.ask_at = now + pause.min(self.rule.ask_again_max);
        self.asked += 1;
        true
    }

    /// The base, if the round trip is high above it.
    fn high_above(&self, srtt_us: u32, above: Duration) -> Option<u32> {
        let base_us = u32::try_from(self.base.best(u64::min)?).unwrap_or(u32::MAX);
        let above = u32::try_from(above.as_micros()).unwrap_or(u32::MAX);
        let high = f64::from(srtt_us) >= f64::from(base_us) * self.rule.factor
            && srtt_us >= base_us.saturating_add(above);
        high.then_some(base_us)
    }

    /// The rule for one sample of a flow with little to send.
    fn look_quiet(&self, sample: Sample) -> Option<Rise> {
        let base_us = self.high_above(sample.srtt_us, self.rule.quiet_above)?;
        let (srtt_us, rate) = (sample.srtt_us, sample.rate);
        Some(Rise { srtt_us, base_us, rate, rate_max: rate, lasted: Duration::ZERO })
    }

    /// The rule itself, for one sample.
    fn look(&self, srtt_us: u32) -> Option<Rise> {
        let base_us = self.high_above(srtt_us, self.rule.above)?;
        let rate_max = self.rate.best(u64::max)?;
        let fallen = self.smooth as f64 <= rate_max as f64 * self.rule.rate_part;
        fallen.then_some(Rise {
            srtt_us,
            base_us,
            rate: self.smooth,
            rate_max,
            lasted: Duration::ZERO,
        })
    }
}

/// Counts samples that agree; the rise, when they are enough and have lasted.
fn lasts(
    now: Instant,
    rise: Option<Rise>,
    run: &mut Option<(Instant, u32)>,
    (samples_min, lasting): (u32, Duration),
) -> Option<Rise> {
    let Some(rise) = rise else {
        *run = None;
        return None;
    };
    let (since, count) = run.map_or((now, 1), |(since, count)| (since, count + 1));
    *run = Some((since, count));
    let lasted = now - since;
    (count >= samples_min && lasted >= lasting).then_some(Rise { lasted, ..rise })
}

/// What the broker knows of the way to a server.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct Way {
    /// Measured now; none: no answer.
    pub now: Option<Duration>,
    /// The least measured lately, if it was measured before.
    pub base: Option<Duration>,
}

impl Way {
    /// How much slower than it was.
    fn risen(self) -> Option<Duration> {
        Some(self.now?.saturating_sub(self.base?))
    }
}

/// What must be gained by a move.
#[derive(Copy, Clone, PartialEq, Debug)]
pub struct Margin {
    /// The other's round trip is at most this part of the present one …
    pub part: f64,
    /// … and at least this much shorter.
    pub by: Duration,
    /// The other has become slower by at least this part of what the present one has: the
    /// congestion is on the way they share.
    pub shared: f64,
}

impl Default for Margin {
    fn default() -> Margin {
        Margin { part: 0.8, by: Duration::from_millis(10), shared: 0.5 }
    }
}

/// Why another server is not taken.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum NotBetter {
    /// It did not answer.
    Silent,
    /// It is no nearer than the present one.
    NoNearer,
    /// It has become slower in the same measure: shared bottleneck.
    Shared,
    /// It is still slower than it was.
    Risen,
}

impl fmt::Display for NotBetter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            NotBetter::Silent => "no answer",
            NotBetter::NoNearer => "no nearer",
            NotBetter::Shared => "slower in the same measure: shared bottleneck",
            NotBetter::Risen => "still slower than it was",
        })
    }
}

/// Whether a session that is at `home` should go to `other` (STP 9 and the margin). A home that
/// does not answer at all is worse than any that does.
pub fn better(home: Way, other: Way, margin: &Margin) -> Result<(), NotBetter> {
    let there = other.now.ok_or(NotBetter::Silent)?;
    let Some(here) = home.now else { return Ok(()) };
    if let (Some(here_risen), Some(there_risen)) = (home.risen(), other.risen())
        && there_risen >= margin.by
        && there_risen.as_secs_f64() >= here_risen.as_secs_f64() * margin.shared
    {
        return Err(NotBetter::Shared);
    }
    let near = there.as_secs_f64() <= here.as_secs_f64() * margin.part;
    if near && here.saturating_sub(there) >= margin.by { Ok(()) } else { Err(NotBetter::NoNearer) }
}

/// Whether a session that is led to its server through another one should go straight again: that
/// way is no longer than the present one, and as short as it used to be.
pub fn straight_again(present: Way, straight: Way, margin: &Margin) -> Result<(), NotBetter> {
    let now = straight.now.ok_or(NotBetter::Silent)?;
    let risen = straight.risen().unwrap_or_default();
    if risen >= margin.by && risen.as_secs_f64() >= now.as_secs_f64() * (1.0 - margin.part) {
        return Err(NotBetter::Risen);
    }
    if present.now.is_none_or(|present| now <= present) { Ok(()) } else { Err(NotBetter::NoNearer) }
}

/// No moves for the sake of speed until then: doubles with every one, and is forgotten slowly.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct CoolDown {
    moves: u32,
    until: Option<Instant>,
}

/// After the first move.
pub const COOL_MIN: Duration = Duration::from_secs(10);
/// It has doubled often enough to be longer than [`COOL_MAX`].
const DOUBLINGS: u32 = 10;
/// At most.
pub const COOL_MAX: Duration = Duration::from_secs(600);

impl CoolDown {
    /// A move was made.
    pub fn moved(&mut self, now: Instant) {
        // Long without a move: as if there had been none.
        if self.until.is_some_and(|until| now > until + COOL_MAX) {
            self.moves = 0;
        }
        let pause = COOL_MIN.saturating_mul(1 << self.moves).min(COOL_MAX);
        self.moves = (self.moves + 1).min(DOUBLINGS);
        self.until = Some(now + pause);
    }

    /// How long it still is.
    #[must_use]
    pub fn left(&self, now: Instant) -> Option<Duration> {
        self.until.filter(|until| now < *until).map(|until| until - now)
    }
}

/// How many sessions may leave one server for the sake of speed: one, a second later two, then
/// four. Sessions that are each other's congestion see that it is over before all have gone.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub struct Exits {
    /// When the last second began, how many may go in it and how many have.
    second: Option<(Instant, u32, u32)>,
}

/// Departures are counted over this time.
const EXITS_SPAN: Duration = Duration::from_secs(1);
/// After this time without a departure, one may leave again, then two, and so on.
const EXITS_FORGOTTEN: Duration = Duration::from_secs(10);

impl Exits {
    /// Whether one more may leave now; counts it.
    pub fn take(&mut self, now: Instant) -> bool {
        let (begun, allowed, taken) = match self.second {
            Some((begun, ..)) if now - begun > EXITS_FORGOTTEN => (now, 1, 0),
            Some((begun, allowed, _)) if now - begun >= EXITS_SPAN => {
                (now, allowed.saturating_mul(2), 0)
            }
            Some(second) => second,
            None => (now, 1, 0),
        };
        let goes = taken < allowed;
        self.second = Some((begun, allowed, taken + u32::from(goes)));
        goes
    }
}

#[cfg(test)]
mod tests;
