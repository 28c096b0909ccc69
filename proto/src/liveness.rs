//! Whether a link that owes an answer is dead or only slow (PROTOCOL.md R70).
//!
//! A session gives up a link that leaves its questions unanswered. On a slow path a question, or
//! its answer, waits behind a large record or behind the traffic of other links, and the link is
//! not dead for that. Two things show that it lives: its own bytes are still being acknowledged by
//! the peer's kernel, and the peer's machine still speaks on other links. This module says when to
//! look, and what counts.

use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;

use crate::session::{LinkId, LostCause};
use crate::time::Instant;

/// How often the kernel is asked about a link that owes an answer. One call every half second
/// costs nothing, and the shortest silence that ends a link is some seconds.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Fewer bytes acknowledged than this, from one look to the next, are no progress: the questions
/// alone, with the headers of TLS, make that many.
const PROGRESS: u64 = 512;

/// Other links may vouch for this one only from this many unanswered questions on. The first may
/// just be on its way.
const QUESTIONS: u8 = 2;

/// What the kernel said of a link the last time it was asked.
#[derive(Clone, Copy, Debug)]
struct Seen {
    link: LinkId,
    at: Instant,
    /// Bytes that the peer's kernel had acknowledged.
    acked: u64,
}

/// What to find out about the attached link now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Look {
    /// The link.
    pub link: LinkId,
    /// It counts as alive if the peer's machine speaks on other links.
    pub others: bool,
    /// The kernel should be asked how many bytes of it were acknowledged.
    pub kernel: bool,
}

/// Watches the attached link of one session while the peer owes it an answer.
#[derive(Clone, Debug, Default)]
pub struct Liveness {
    seen: Option<Seen>,
}

impl Liveness {
    /// A deadline of the session has passed. Says what to look at; nothing if the peer owes no
    /// answer: `unanswered` is the number of questions it has left open.
    pub fn look(&mut self, now: Instant, link: Option<LinkId>, unanswered: u8) -> Option<Look> {
        let Some(link) = link.filter(|_| unanswered > 0) else {
            // What was acknowledged before a question says nothing of the time after it.
            self.seen = None;
            return None;
        };
        let fresh = |seen: Seen| seen.link == link && now - seen.at < LOOK_EVERY;
        let kernel = !self.seen.is_some_and(fresh);
        Some(Look { link, others: unanswered >= QUESTIONS, kernel })
    }

    /// The peer's kernel has acknowledged `acked` bytes on the link. Says whether that is progress
    /// since the last look, and so a sign of life.
    pub fn acked(&mut self, now: Instant, link: LinkId, acked: u64) -> bool {
        let before = self.seen.replace(Seen { link, at: now, acked });
        before.is_some_and(|seen| seen.link == link && acked >= seen.acked.saturating_add(PROGRESS))
    }
}

/// A link that is older than this was there before the others became silent: it is as long as a
/// link is silent before it is given up.
const LASTED: Duration = Duration::from_secs(3);
/// A machine that was heard this short a time ago lives. It is shorter than a link is silent before
/// its peer is asked.
const LATELY: Duration = Duration::from_millis(500);

/// Signs of life of a peer's machine, on any link to it. Only links that have lasted count: a new
/// one says nothing of whether the old ones still work. Shared by all sessions that go there.
#[derive(Debug, Default)]
pub struct Heard(AtomicU64);

impl Heard {
    /// Something came on a link that was attached at that time.
    pub fn note(&self, now: Instant, attached: Instant) {
        if now - attached >= LASTED {
            self.0.store(now.0, Ordering::Relaxed);
        }
    }

    /// Whether something came just now.
    #[must_use]
    pub fn lately(&self, now: Instant) -> bool {
        let heard = Instant(self.0.load(Ordering::Relaxed));
        heard > Instant(0) && now - heard < LATELY
    }
}

/// Segments are sent again so often in vain before it is held against their length.
const AGAIN: u8 = 3;
/// A link on which something came this short a time ago has a path.
const CAME_LATELY: Duration = Duration::from_secs(2);
/// Words of the peer's kernel that come so long after the last data answer questions that came
/// after them.
const LATER: Duration = Duration::from_millis(500);

/// What the kernel knew of a link when it was lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Last {
    /// Since data last came.
    pub data: Duration,
    /// Since anything last came: data, or a word that some has arrived there.
    pub any: Duration,
    /// How often the oldest segment was sent again in vain.
    pub timeouts: u8,
}

impl Last {
    /// Whether short packets passed, and long ones were lost without a word (RFC 2923, 2.1). They
    /// are those of the peer if it falls silent while its kernel still takes our questions; and
    /// ours if it still speaks, or has just shaken hands, and takes nothing.
    #[must_use]
    pub fn loses_long(&self, cause: LostCause) -> bool {
        let theirs = self.data >= self.any + LATER;
        let takes_nothing = self.timeouts >= AGAIN;
        match cause {
            LostCause::Silent => theirs || (takes_nothing && self.any <= CAME_LATELY),
            LostCause::Broken => takes_nothing && self.any <= CAME_LATELY,
            LostCause::Unanswered => theirs || takes_nothing,
            LostCause::Overtaken => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_packets_are_lost_where_short_ones_pass() {
        use LostCause::{Broken, Silent, Unanswered};
        let last = |data, any, timeouts| Last {
            data: Duration::from_millis(data),
            any: Duration::from_millis(any),
            timeouts,
        };
        // A download: questions are taken, and nothing comes. An upload: the peer asks, or hangs
        // up, and nothing of ours is taken. The path has gone; nobody is there any more.
        for (last, cause, loses) in [
            (last(3_000, 1_000, 0), Silent, true),
            (last(10_000, 200, 5), Broken, true),
            (last(5_000, 5_000, 4), Unanswered, true),
            (last(3_000, 3_000, 3), Silent, false),
            (last(3_000, 2_900, 0), Silent, false),
            (last(60_000, 0, 0), Broken, false),
            (last(10_000, 10_000, 6), Broken, false),
            (last(5_000, 5_000, 0), Unanswered, false),
        ] {
            assert_eq!(last.loses_long(cause), loses, "{last:?} {cause:?}");
        }
    }

    #[test]
    fn only_links_that_have_lasted_speak_for_the_others() {
        let heard = Heard::default();
        let at = |ms: u64| Instant(1_000_000 + ms * 1_000);
        assert!(!heard.lately(at(0)), "nothing was heard");
        heard.note(at(1_000), at(0));
        assert!(!heard.lately(at(1_000)), "the link is new");
        heard.note(at(1_000), at(500));
        heard.note(at(6_000), at(0));
        assert!(heard.lately(at(6_400)));
        assert!(!heard.lately(at(6_500)), "too long ago");
    }

    const LINK: LinkId = LinkId(3);
    const START: Instant = Instant(1_000_000);

    fn after(millis: u64) -> Instant {
        START + Duration::from_millis(millis)
    }

    #[test]
    fn a_link_that_owes_nothing_is_not_looked_at() {
        let mut liveness = Liveness::default();
        assert_eq!(liveness.look(START, Some(LINK), 0), None);
        assert_eq!(liveness.look(START, None, 3), None);
    }

    #[test]
    fn the_kernel_is_asked_twice_a_second() {
        let mut liveness = Liveness::default();
        let kernel = |liveness: &mut Liveness, millis| {
            liveness.look(after(millis), Some(LINK), 1).is_some_and(|look| look.kernel)
        };
        assert!(kernel(&mut liveness, 0));
        liveness.acked(after(0), LINK, 0);
        assert!(!kernel(&mut liveness, 499));
        assert!(kernel(&mut liveness, 500));
    }

    #[test]
    fn progress_is_more_than_the_questions_make() {
        let mut liveness = Liveness::default();
        assert!(!liveness.acked(after(0), LINK, 10_000), "nothing to compare with");
        assert!(!liveness.acked(after(500), LINK, 10_000 + PROGRESS - 1));
        assert!(liveness.acked(after(1_000), LINK, 10_000 + 2 * PROGRESS - 1));
    }

    #[test]
    fn another_link_starts_anew() {
        let mut liveness = Liveness::default();
        liveness.acked(after(0), LINK, 0);
        assert!(!liveness.acked(after(500), LinkId(4), 1 << 20));
        assert!(liveness.look(after(600), Some(LINK), 1).is_some_and(|look| look.kernel));
    }

    #[test]
    fn what_was_acknowledged_before_the_question_does_not_count() {
        let mut liveness = Liveness::default();
        liveness.acked(after(0), LINK, 0);
        assert_eq!(liveness.look(after(100), Some(LINK), 0), None, "the question was answered");
        assert!(!liveness.acked(after(5_000), LINK, 1 << 20));
    }

    #[test]
    fn others_vouch_only_from_the_second_question_on() {
        let mut liveness = Liveness::default();
        let others = |liveness: &mut Liveness, unanswered| {
            liveness.look(START, Some(LINK), unanswered).is_some_and(|look| look.others)
        };
        assert!(!others(&mut liveness, 1));
        assert!(others(&mut liveness, 2));
    }
}
