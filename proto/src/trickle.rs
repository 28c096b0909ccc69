//! How fast a server goes on taking from a service whose session is away (R38).
//!
//! A service that cannot send for some time gives its client up (nginx's `send_timeout`, MariaDB's
//! `net_write_timeout`). So while a session has no link, its server takes a little now and then,
//! into a spool, and the service believes that somebody reads. A service that waits for room in its
//! kernel's send buffer is woken only when a third of that is free; therefore what is taken at once
//! is more than a third of a large send buffer, and what lies between is a part of the service's
//! patience. Where that is not known, a service is first thought to be impatient; as the spool
//! fills, a service of the usual patience of a minute is kept for longer instead.
//!
//! The end of a session is away when it has no link, or when a question on its link is overdue: a
//! server declares a silent link lost later than most services lose patience.

use core::time::Duration;

use crate::mutant::mutant;
use crate::time::Instant;

/// What is taken at once: more than a third of the 4 MiB that Linux lets a send buffer grow to.
pub const STEP: u64 = 2 << 20;
/// The pause between two steps for a service of unknown patience, as long as its spool is empty.
pub const EVERY_FIRST: Duration = Duration::from_secs(1);
/// The longest such pause: a quarter of the minute that most services wait.
pub const EVERY_LAST: Duration = Duration::from_secs(15);
/// A question on the link that is unanswered for so long makes the end an absent one.
pub const OVERDUE: Duration = Duration::from_millis(500);
/// How often a session that takes nothing is looked at, while its link seems to be well.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);

/// What is done now for a service that may be waiting.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Take {
    /// So many bytes are taken, if they are there.
    Now(u64),
    /// Nothing; it is looked at again then.
    Later(Instant),
    /// Nothing until the spool has room again: the service feels it.
    Full,
}

/// What is taken of one service while its session is away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Trickle {
    /// The shortest time for which the service waits, where it is known.
    patience: Option<Duration>,
    /// When something was taken last, or the service began to wait.
    taken_at: Option<Instant>,
}

impl Trickle {
    /// Of a service with this patience.
    #[must_use]
    pub fn new(patience: Option<Duration>) -> Trickle {
        Trickle { patience, taken_at: None }
    }

    /// The session takes bytes itself.
    pub fn flows(&mut self) {
        self.taken_at = None;
    }

    /// The session takes nothing; what is done for its service. `spooled` of `most` bytes are in
    /// the spool, and `away` says whether nobody is there at the other end.
    pub fn look(&mut self, now: Instant, away: bool, spooled: u64, most: u64) -> Take {
        let since = *self.taken_at.get_or_insert(now);
        if !away {
            return Take::Later(now + LOOK_EVERY);
        }
        let room = mutant!(SpoolUnbounded, most.saturating_sub(spooled), STEP);
        if room == 0 {
            return Take::Full;
        }
        let due = since + self.every(spooled, most);
        if now < due {
            return Take::Later(due);
        }
        self.taken_at = Some(now);
        Take::Now(room.min(mutant!(StepTooSmall, STEP, STEP / 16)))
    }

    /// The pause between two steps.
    fn every(&self, spooled: u64, most: u64) -> Duration {
        if let Some(patience) = self.patience {
            return mutant!(TrickleLate, patience / 4, patience * 2);
        }
        let eighths = u32::try_from(spooled.saturating_mul(8) / most.max(1)).unwrap_or(8);
        (EVERY_FIRST * (1 << eighths.min(4))).min(EVERY_LAST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// A service that always has more to send, with a send buffer of 4 MiB; a receive buffer of the
    /// server beside it. It gives up after `patience` without being woken.
    struct Service {
        queued: u64,
        woken: Instant,
    }

    const BUFFER: u64 = 4 * MIB;

    impl Service {
        /// `count` bytes are taken of it; it writes when a third of its buffer is free.
        fn taken(&mut self, now: Instant, count: u64) {
            self.queued -= count;
            if self.queued <= BUFFER - BUFFER / 3 {
                (self.queued, self.woken) = (BUFFER, now);
            }
        }
    }

    /// Runs such a service until it gives up, or an hour is over; says when, and what was spooled.
    fn kept_for(known: Option<Duration>, patience: Duration, most: u64) -> (Duration, u64) {
        let begin = Instant(1_000_000);
        let mut service = Service { queued: BUFFER, woken: begin };
        let (mut trickle, mut spooled, mut now) = (Trickle::new(known), 0, begin);
        let end = begin + Duration::from_secs(3_600);
        while now < end {
            match trickle.look(now, true, spooled, most) {
                Take::Now(count) => {
                    spooled += count;
                    service.taken(now, count);
                }
                Take::Later(at) => {
                    assert!(at > now, "time goes on");
                    now = at;
                }
                Take::Full => now = service.woken + patience,
            }
            assert!(spooled <= most, "{spooled} bytes are in a spool of {most}");
            if now - service.woken >= patience {
                return (now - begin, spooled);
            }
        }
        (now - begin, spooled)
    }

    fn a_service_is_kept_until_the_spool_is_full() {
        for seconds in [2, 5, 60, 300] {
            let patience = Duration::from_secs(seconds);
            let (kept, spooled) = kept_for(Some(patience), patience, 256 * MIB);
            let hour = kept.as_secs() >= 3_600;
            assert!(spooled == 256 * MIB || hour, "{seconds} s: {spooled} bytes in {kept:?}");
            assert!(kept >= 30 * patience || hour, "{seconds} s: kept for {kept:?}");
        }
    }

    /// R38.
    #[test]
    fn a_service_of_known_patience_is_kept() {
        a_service_is_kept_until_the_spool_is_full();
    }

    #[test]
    fn one_of_unknown_patience_is_kept_for_minutes_and_a_patient_one_for_longer() {
        let most = 256 * MIB;
        let (impatient, _) = kept_for(None, Duration::from_secs(5), most);
        assert!((100..200).contains(&impatient.as_secs()), "{impatient:?}");
        let (usual, spooled) = kept_for(None, Duration::from_secs(60), most);
        assert!(usual.as_secs() >= 1_000 && spooled == most, "{usual:?}");
    }

    #[test]
    fn nothing_is_taken_while_somebody_is_there() {
        let mut trickle = Trickle::new(None);
        let now = Instant(5_000_000);
        assert_eq!(trickle.look(now, false, 0, 10), Take::Later(now + LOOK_EVERY));
        // It has waited since then.
        let later = now + EVERY_FIRST;
        assert_eq!(trickle.look(later, true, 0, 10), Take::Now(10));
        assert_eq!(trickle.look(later, true, 10, 10), Take::Full);
        trickle.flows();
        assert_eq!(trickle.look(later, true, 0, 10), Take::Later(later + EVERY_FIRST));
    }

    #[cfg(feature = "model")]
    #[test]
    fn every_mistake_is_caught() {
        use crate::mutant::Mutant;
        for mutant in Mutant::TRICKLE {
            Mutant::set(Some(*mutant));
            let kept = std::panic::catch_unwind(a_service_is_kept_until_the_spool_is_full);
            Mutant::set(None);
            assert!(kept.is_err(), "{}", mutant.mistake());
        }
    }
}
