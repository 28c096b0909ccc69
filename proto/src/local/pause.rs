//! The pause file: which sessions have no link at present, so that the time-outs of the programs
//! that wait for them stand still.
//!
//! The broker writes the file, every shim that holds a session maps it. When nothing is paused, a
//! shim reads one word of it after a wait has expired, and nothing before. All times are
//! milliseconds of `CLOCK_MONOTONIC`, which is the clock that waits run on; 0 stands for "not". All
//! words are native `u64`s. The first [`HEAD_WORDS`] words are the [`Head`]; [`SLOTS`] lines of
//! [`LINE_WORDS`] words follow, one for a session, in a place near the one that its cookie names
//! ([`places`]).
//!
//! [`Wait`] is the rule: a time-out does not run while every session that a call waits for is
//! without a link. The rule for a set of descriptors has four points.
//!
//! 1. A set without any session keeps its time-out.
//! 2. Whatever becomes ready, a session or not, ends the wait at once, also in a pause.
//! 3. A set with several sessions stands still only while all of them are paused.
//! 4. Descriptors that are no sessions neither stop the clock nor keep it running.

use super::Cookie;

/// The words of the head.
pub const HEAD_WORDS: usize = 8;
/// The words of a line: a cache line of the machine.
pub const LINE_WORDS: usize = 8;
/// The number of lines: more than there are sessions by default, and a power of two.
pub const SLOTS: usize = 16_384;
/// How many places may hold the line of a session.
pub const PROBES: usize = 32;
/// The size of the file.
pub const FILE_BYTES: usize = (HEAD_WORDS + SLOTS * LINE_WORDS) * 8;
/// The word of the head that counts the sessions that are paused now.
pub const PAUSED_AT: usize = 1;
/// The word of the head that says when a pause ended last.
pub const ENDED_AT: usize = 2;

const MAGIC: u64 = u64::from_le_bytes(*b"stpause\x01");

/// How long an answer may be late before its link is doubted, beyond the heartbeat: a slow round
/// trip and the time between two publications.
const LATE_MS: u64 = 500;
/// How often a wait in a pause looks whether the pause is over.
pub const LOOK_EVERY_MS: u64 = 100;
/// A wait shorter than this is not held up for a link that is only doubted.
pub const DOUBT_FROM_MS: u64 = 500;

/// What holds for every session of a broker.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Head {
    /// Sessions that are paused now.
    pub paused: u64,
    /// When a pause ended last.
    pub ended_ms: u64,
    /// Within this time a link is heard of while its session is busy.
    pub heartbeat_busy_ms: u64,
    /// Within this time a link is heard of otherwise.
    pub heartbeat_idle_ms: u64,
    /// A session is busy for this long after bytes moved.
    pub busy_for_ms: u64,
    /// After this time the broker itself declares a silent link lost.
    pub silence_ms: u64,
}

impl Head {
    /// The words of the file.
    #[must_use]
    pub fn to_words(self) -> [u64; HEAD_WORDS] {
        let Head {
            paused,
            ended_ms,
            heartbeat_busy_ms,
            heartbeat_idle_ms,
            busy_for_ms,
            silence_ms,
        } = self;
        let [busy, idle] = [heartbeat_busy_ms, heartbeat_idle_ms];
        [MAGIC, paused, ended_ms, busy, idle, busy_for_ms, silence_ms, 0]
    }

    /// Reads the words; nothing when they are none of ours.
    #[must_use]
    pub fn from_words(words: [u64; HEAD_WORDS]) -> Option<Head> {
        let [magic, paused, ended_ms, busy, idle, busy_for_ms, silence_ms, _] = words;
        (magic == MAGIC).then_some(Head {
            paused,
            ended_ms,
            heartbeat_busy_ms: busy,
            heartbeat_idle_ms: idle,
            busy_for_ms,
            silence_ms,
        })
    }

    /// Whether a wait that has just expired has nothing to do with any pause, as far as the head
    /// tells.
    #[must_use]
    pub fn is_quiet(&self, now_ms: u64, timeout_ms: u64) -> bool {
        let before = self.ended_ms == 0 || self.ended_ms.saturating_add(timeout_ms) < now_ms;
        self.paused == 0 && before && timeout_ms < DOUBT_FROM_MS
    }
}

/// What is known of one session.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Line {
    /// Which session; 0 in a line that is free.
    pub key: u64,
    /// Since when it is paused.
    pub since_ms: u64,
    /// When this pause ends at the latest, because a link is attached again.
    pub until_ms: u64,
    /// The beginning of the pause before.
    pub last_from_ms: u64,
    /// Its end.
    pub last_to_ms: u64,
    /// When its link was heard of last.
    pub heard_ms: u64,
    /// When bytes of the session moved last, in either direction.
    pub moved_ms: u64,
    /// Its route says `freeze = "clock"`.
    pub stops_clock: bool,
}

/// A span of time in which a session was paused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Span {
    from_ms: u64,
    to_ms: u64,
    /// It goes on.
    open: bool,
}

impl Line {
    /// The words of the file.
    #[must_use]
    pub fn to_words(self) -> [u64; LINE_WORDS] {
        let Line { key, since_ms, until_ms, last_from_ms, last_to_ms, heard_ms, moved_ms, .. } =
            self;
        let stops = u64::from(self.stops_clock);
        [key, since_ms, until_ms, last_from_ms, last_to_ms, heard_ms, moved_ms, stops]
    }

    /// Reads the words.
    #[must_use]
    pub fn from_words(words: [u64; LINE_WORDS]) -> Line {
        let [key, since_ms, until_ms, last_from_ms, last_to_ms, heard_ms, moved_ms, stops] = words;
        let stops_clock = stops != 0;
        Line { key, since_ms, until_ms, last_from_ms, last_to_ms, heard_ms, moved_ms, stops_clock }
    }

    /// Whether its pause goes on at `now`.
    #[must_use]
    pub fn is_paused(&self, now_ms: u64) -> bool {
        self.since_ms != 0 && (self.until_ms == 0 || now_ms < self.until_ms)
    }

    /// The session has lost its link, or was suspended, at `at`.
    pub fn pause(&mut self, at_ms: u64) {
        if self.since_ms == 0 {
            self.since_ms = at_ms.max(1);
        }
        self.until_ms = 0;
    }

    /// A link is attached again. The bytes that were asked for come later, so the pause goes on
    /// until [`Line::resume`], but not beyond `until`.
    pub fn attach(&mut self, until_ms: u64) {
        if self.since_ms != 0 {
            self.until_ms = until_ms;
        }
    }

    /// Bytes flow again.
    pub fn resume(&mut self, now_ms: u64) {
        if self.since_ms != 0 {
            let end = if self.until_ms == 0 { now_ms } else { now_ms.min(self.until_ms) };
            (self.last_from_ms, self.last_to_ms) = (self.since_ms, end);
            (self.since_ms, self.until_ms) = (0, 0);
        }
    }

    /// Whether something should have been heard of the link by now. The broker has not declared it
    /// lost yet, but programs' time-outs may be shorter than its patience. A broker that has
    /// stopped itself is not waited for.
    #[must_use]
    pub fn is_doubted(&self, head: &Head, now_ms: u64) -> bool {
        let busy = now_ms.saturating_sub(self.moved_ms) < head.busy_for_ms;
        let every = if busy { head.heartbeat_busy_ms } else { head.heartbeat_idle_ms };
        let quiet = now_ms.saturating_sub(self.heard_ms);
        let due = every.saturating_add(LATE_MS);
        self.heard_ms != 0 && quiet > due && quiet < due.saturating_add(2 * head.silence_ms)
    }

    /// The part of the time from `from` to `now` in which it was paused.
    fn paused(&self, head: &Head, from_ms: u64, now_ms: u64) -> Option<Span> {
        let (begin, end, open) = if self.since_ms != 0 {
            let open = self.is_paused(now_ms);
            (self.since_ms, if open { now_ms } else { self.until_ms }, open)
        } else if self.is_doubted(head, now_ms) {
            (self.heard_ms, now_ms, true)
        } else {
            (self.last_from_ms, self.last_to_ms, false)
        };
        let (from_ms, to_ms) = (begin.max(from_ms), end.min(now_ms));
        (from_ms < to_ms || open).then_some(Span { from_ms, to_ms, open })
    }
}

/// The key of a session in the file.
#[must_use]
pub fn key(cookie: &Cookie) -> u64 {
    let [a, b, c, d, e, f, g, h, ..] = cookie.0;
    u64::from_ne_bytes([a, b, c, d, e, f, g, h]).max(1)
}

/// The slots that may hold the line of a session, in the order in which they are tried.
pub fn places(key: u64) -> impl Iterator<Item = usize> {
    let first = key as usize;
    (0..PROBES).map(move |step| first.wrapping_add(step) % SLOTS)
}

/// Where a slot begins in the file, in words.
#[must_use]
pub fn word_of(slot: usize) -> usize {
    HEAD_WORDS + slot * LINE_WORDS
}

/// A wait with a time-out that the kernel says has expired.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Wait {
    timeout_ms: u64,
    begun_ms: u64,
    /// The time until here has been looked at.
    seen_ms: u64,
    /// Time given back because all sessions were paused.
    given_ms: u64,
}

/// How a wait that has expired goes on.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Expiry {
    /// It is over.
    Expire,
    /// The call is made again, for this many milliseconds.
    Again(u64),
}

impl Wait {
    /// A wait that has just taken its whole time-out.
    #[must_use]
    pub fn expired(now_ms: u64, timeout_ms: u64) -> Wait {
        let begun_ms = now_ms.saturating_sub(timeout_ms);
        Wait { timeout_ms, begun_ms, seen_ms: begun_ms, given_ms: 0 }
    }

    /// Time given back so far.
    #[must_use]
    pub fn given_ms(&self) -> u64 {
        self.given_ms
    }

    /// Looks at the sessions that the call waits for.
    pub fn look(
        &mut self,
        head: &Head,
        now_ms: u64,
        sessions: impl Iterator<Item = Line>,
    ) -> Expiry {
        let Some(pause) = all_paused(head, self.seen_ms, now_ms, sessions) else {
            return Expiry::Expire;
        };
        self.given_ms += pause.ms;
        self.seen_ms = now_ms;
        if pause.goes_on {
            return Expiry::Again(LOOK_EVERY_MS);
        }
        let run = now_ms.saturating_sub(self.begun_ms).saturating_sub(self.given_ms);
        match self.timeout_ms.saturating_sub(run) {
            0 => Expiry::Expire,
            rest => Expiry::Again(rest),
        }
    }
}

/// How long all of some sessions were paused at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Pause {
    /// Milliseconds.
    pub ms: u64,
    /// They still are.
    pub goes_on: bool,
}

/// The part of the time from `from_ms` to `now_ms` in which all sessions were paused; nothing
/// without sessions.
fn all_paused(
    head: &Head,
    from_ms: u64,
    now_ms: u64,
    sessions: impl Iterator<Item = Line>,
) -> Option<Pause> {
    let mut common = Span { from_ms, to_ms: now_ms, open: true };
    let mut any = false;
    for session in sessions {
        let none = Span { from_ms: now_ms, to_ms: from_ms, open: false };
        let span = session.paused(head, from_ms, now_ms).unwrap_or(none);
        common.from_ms = common.from_ms.max(span.from_ms);
        common.to_ms = common.to_ms.min(span.to_ms);
        common.open &= span.open;
        any = true;
    }
    let ms = common.to_ms.saturating_sub(common.from_ms);
    any.then_some(Pause { ms, goes_on: common.open })
}

/// The rule of `freeze = "clock"`: for how long the clock of a program stood still from `from_ms`,
/// when this was asked last, to `now_ms`. It does while all sessions of the program are paused, if
/// the route of one of them says so; nothing if none does.
pub fn stood_still(
    head: &Head,
    from_ms: u64,
    now_ms: u64,
    sessions: impl Iterator<Item = Line> + Clone,
) -> Option<Pause> {
    let wanted = sessions.clone().any(|session| session.stops_clock);
    if wanted { all_paused(head, from_ms, now_ms, sessions) } else { None }
}

/// How long a wait until a point in time of the program's clock lasts on the kernel's, from now on,
/// in nanoseconds; 0 when that time has come. In a pause it ends now and then, to look again.
#[must_use]
pub fn wait_ns(until_ns: u64, told_ns: u64, goes_on: bool) -> u64 {
    match until_ns.saturating_sub(told_ns) {
        0 => 0,
        rest if goes_on => rest.max(LOOK_EVERY_MS * 1_000_000),
        rest => rest,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: Head = Head {
        paused: 0,
        ended_ms: 0,
        heartbeat_busy_ms: 1_000,
        heartbeat_idle_ms: 10_000,
        busy_for_ms: 30_000,
        silence_ms: 3_000,
    };

    /// A session that is heard of all the time.
    fn running(now_ms: u64) -> Line {
        Line { key: 1, heard_ms: now_ms, moved_ms: now_ms, ..Line::default() }
    }

    fn paused(since_ms: u64) -> Line {
        Line { since_ms, ..running(since_ms) }
    }

    /// Runs a wait that begins at 10,000 to its end; `sets` says what the set holds at a time.
    fn ends_at(timeout_ms: u64, sets: impl Fn(u64) -> Vec<Line>) -> u64 {
        let mut now = 10_000 + timeout_ms;
        let mut wait = Wait::expired(now, timeout_ms);
        for _ in 0..10_000 {
            match wait.look(&HEAD, now, sets(now).into_iter()) {
                Expiry::Expire => return now,
                Expiry::Again(ms) => now += ms,
            }
        }
        u64::MAX
    }

    #[test]
    fn words_are_read_back() {
        let head = Head { paused: 3, ended_ms: 4, ..HEAD };
        assert_eq!(Head::from_words(head.to_words()), Some(head));
        assert_eq!(Head::from_words([0; HEAD_WORDS]), None);
        let line = Line {
            key: 1,
            since_ms: 2,
            until_ms: 3,
            last_from_ms: 4,
            last_to_ms: 5,
            heard_ms: 6,
            moved_ms: 7,
            stops_clock: true,
        };
        assert_eq!(Line::from_words(line.to_words()), line);
    }

    #[test]
    fn a_set_without_sessions_keeps_its_time_out() {
        assert_eq!(ends_at(3_000, |_| vec![]), 13_000);
    }

    #[test]
    fn a_running_session_keeps_its_time_out() {
        assert_eq!(ends_at(3_000, |now| vec![running(now)]), 13_000);
    }

    #[test]
    fn the_time_of_a_pause_is_given_back() {
        // Lost at 11,000, back at 23,000.
        let end = ends_at(3_000, |now| {
            let mut line = paused(11_000);
            if now >= 23_000 {
                line.resume(23_000);
                (line.heard_ms, line.moved_ms) = (now, now);
            }
            vec![line]
        });
        assert!((25_000..25_000 + LOOK_EVERY_MS).contains(&end), "{end}");
    }

    #[test]
    fn a_pause_before_the_wait_counts_for_nothing() {
        let line = |now| Line { last_from_ms: 5_000, last_to_ms: 9_000, ..running(now) };
        assert_eq!(ends_at(3_000, |now| vec![line(now)]), 13_000);
        let line = |now| Line { last_from_ms: 5_000, last_to_ms: 10_500, ..running(now) };
        assert_eq!(ends_at(3_000, |now| vec![line(now)]), 13_500);
    }

    #[test]
    fn one_session_with_a_link_lets_the_time_out_run() {
        assert_eq!(ends_at(3_000, |now| vec![paused(10_000), running(now)]), 13_000);
    }

    #[test]
    fn only_the_time_in_which_all_are_paused_is_given_back() {
        // The first is away from 10,500 to 12,500, the second from 11,500 to 20,000.
        let end = ends_at(3_000, |now| {
            let mut first = paused(10_500);
            first.resume(12_500);
            (first.heard_ms, first.moved_ms) = (now, now);
            let mut second = paused(11_500);
            if now >= 20_000 {
                second.resume(20_000);
                (second.heard_ms, second.moved_ms) = (now, now);
            }
            vec![first, second]
        });
        assert_eq!(end, 14_000);
    }

    #[test]
    fn a_pause_outlasts_the_new_link_until_bytes_flow_but_not_for_ever() {
        let mut line = paused(1_000);
        line.attach(9_000);
        assert!(line.is_paused(8_999) && !line.is_paused(9_000));
        line.resume(5_000);
        assert_eq!((line.last_from_ms, line.last_to_ms, line.since_ms), (1_000, 5_000, 0));
        let mut late = paused(1_000);
        late.attach(9_000);
        late.resume(20_000);
        assert_eq!(late.last_to_ms, 9_000);
        let mut lost_again = paused(1_000);
        lost_again.attach(9_000);
        lost_again.pause(8_000);
        assert!(lost_again.is_paused(20_000) && lost_again.since_ms == 1_000);
    }

    #[test]
    fn a_link_that_is_overdue_is_doubted_and_a_stopped_broker_is_not_waited_for() {
        let line = Line { heard_ms: 10_000, moved_ms: 10_000, ..running(10_000) };
        assert!(!line.is_doubted(&HEAD, 11_500));
        assert!(line.is_doubted(&HEAD, 11_501));
        assert!(!line.is_doubted(&HEAD, 17_500));
        let idle = Line { moved_ms: 1, ..line };
        assert!(!idle.is_doubted(&Head { busy_for_ms: 1_000, ..HEAD }, 20_500));
        assert!(idle.is_doubted(&Head { busy_for_ms: 1_000, ..HEAD }, 20_501));
        // The wait of 3 s does not run while its link is doubted, and does when the broker is dead.
        let end = ends_at(3_000, |_| vec![line]);
        assert!((20_400..20_700).contains(&end), "{end}");
    }

    /// A clock that is looked at every 100 ms from 10,000 to 30,000: where it is then, and whether
    /// it ever went back.
    fn clock_at_30_000(sets: impl Fn(u64) -> Vec<Line>) -> u64 {
        let (mut behind, mut told) = (0, 0);
        for now in (10_000..=30_000).step_by(100) {
            let pause = stood_still(&HEAD, now - 100, now, sets(now).into_iter());
            behind += pause.unwrap_or_default().ms;
            assert!(now - behind >= told, "back from {told} to {}", now - behind);
            told = now - behind;
        }
        told
    }

    #[test]
    fn a_clock_stands_still_while_all_sessions_are_paused_and_one_of_them_asks_for_it() {
        let asks = |line: Line| Line { stops_clock: true, ..line };
        let away = |now: u64, from: u64, to: u64| {
            let mut line = if now < from { running(now) } else { paused(from) };
            if now >= to {
                line.resume(to);
                (line.heard_ms, line.moved_ms) = (now, now);
            }
            line
        };
        for (told, sets) in [
            (30_000, &(|_| vec![]) as &dyn Fn(u64) -> Vec<Line>),
            (30_000, &|now| vec![asks(running(now))]),
            (30_000, &|now| vec![away(now, 11_000, 23_000)]),
            (18_000, &|now| vec![asks(away(now, 11_000, 23_000))]),
            (30_000, &|now| vec![asks(away(now, 11_000, 23_000)), running(now)]),
            (27_000, &|now| vec![asks(away(now, 11_000, 23_000)), away(now, 20_000, 25_000)]),
            (11_000, &|now| vec![asks(away(now, 11_000, 40_000))]),
        ] {
            assert_eq!(clock_at_30_000(sets), told);
        }
    }

    #[test]
    fn a_clock_stands_still_while_a_link_is_doubted() {
        // Heard of last at 10,000: doubted from 11,501 to 17,500, when the broker itself is.
        let line = Line { heard_ms: 10_000, moved_ms: 10_000, stops_clock: true, ..running(1) };
        assert_eq!(clock_at_30_000(|_| vec![line]), 24_100);
    }

    #[test]
    fn a_deadline_is_waited_for_on_the_kernels_clock() {
        const MS: u64 = 1_000_000;
        assert_eq!(wait_ns(5, 5, true), 0);
        assert_eq!(wait_ns(5, 9, false), 0);
        assert_eq!(wait_ns(3_000 * MS, 1_000 * MS, false), 2_000 * MS);
        assert_eq!(wait_ns(3_000 * MS, 1_000 * MS, true), 2_000 * MS);
        assert_eq!(wait_ns(1_001 * MS, 1_000 * MS, true), LOOK_EVERY_MS * MS);
    }

    #[test]
    fn the_head_alone_tells_that_nothing_is_paused() {
        assert!(HEAD.is_quiet(10_000, 100));
        assert!(!HEAD.is_quiet(10_000, DOUBT_FROM_MS), "a link may be doubted");
        assert!(!Head { paused: 1, ..HEAD }.is_quiet(10_000, 100));
        assert!(!Head { ended_ms: 9_950, ..HEAD }.is_quiet(10_000, 100));
        assert!(Head { ended_ms: 9_850, ..HEAD }.is_quiet(10_000, 100));
    }

    #[test]
    fn every_key_has_places_within_the_file() {
        for number in [0, 1, u64::MAX, SLOTS as u64 - 1] {
            let all: Vec<_> = places(number).collect();
            assert_eq!(all.len(), PROBES);
            assert!(all.iter().all(|slot| word_of(*slot) + LINE_WORDS <= FILE_BYTES / 8));
        }
        assert_eq!(key(&Cookie([0; 16])), 1);
    }
}
