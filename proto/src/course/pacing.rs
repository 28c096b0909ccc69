//! When links to one server are dialed, shared by all sessions that want to go there.
//!
//! Links that are ready for use are kept as *spares*, so that a new session costs no handshake.
//! When the server cannot be reached there is one *prober* for all its sessions: it starts an
//! attempt every quarter of a second and does not wait for the last one to fail (a lost SYN is sent
//! again by the kernel only after a second, and then after ever longer pauses). The first attempt
//! that succeeds wakes every session that waits. The sessions' own dials are bounded, so that a
//! thousand sessions do not trample the server that has just come back.
//!
//! The caller tells a [`Pacing`] what happened (`wait`, `handle_*`), then calls
//! [`Pacing::poll`] until it says how long there is nothing to do. `L` is a link; the caller
//! says how to see whether one still lives.

use core::time::Duration;
use std::collections::{BTreeMap, VecDeque};

use super::standing::{Failure, FailureKind, Standing};
use crate::mutant::mutant;
use crate::time::Instant;

/// The numbers of a [`Pacing`].
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Pace {
    /// From one attempt of the prober to the next.
    pub probe_every: Duration,
    /// The same, when an outage has become old.
    pub probe_every_max: Duration,
    /// The age at which an outage is old.
    pub outage_old: Duration,
    /// Attempts of the prober under way at once.
    pub probes_max: usize,
    /// A dial that takes longer than this, and than four times the last one, counts as silence.
    pub silence: Duration,
    /// Dials for sessions under way at once.
    pub dials_max: usize,
    /// Links dialed ahead.
    pub warm_max: usize,
    /// Links kept ready at most, those given back by sessions included. More than are dialed
    /// ahead: a session that takes one and gives it back must cost no handshake.
    pub kept_max: usize,
    /// How long an unused link is kept ready, and how long a server counts as lately used.
    pub warm_age: Duration,
}

impl Default for Pace {
    fn default() -> Pace {
        Pace {
            probe_every: Duration::from_millis(250),
            probe_every_max: Duration::from_secs(5),
            outage_old: Duration::from_secs(600),
            probes_max: 40,
            silence: Duration::from_millis(500),
            dials_max: 64,
            warm_max: 4,
            kept_max: 16,
            warm_age: Duration::from_secs(60),
        }
    }
}

/// Names a dial under way.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DialId(pub u64);

/// What is to be done now.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Pulse {
    /// Begin this dial; its result goes to [`Pacing::handle_dialed`].
    Dial(DialId),
    /// Give this dial up.
    Abandon(DialId),
    /// Nothing until that time, or until something happens.
    Wait(Option<Instant>),
    /// Nothing at all: no dial is under way, and nobody waits.
    Idle,
}

/// What is counted for the status.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default)]
pub struct PaceCounts {
    /// Dials begun.
    pub dials: u64,
    /// Links that were there already when a session wanted one.
    pub reused: u64,
    /// Times that the server went out of reach.
    pub outages: u64,
}

#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Purpose {
    /// A session waits for it.
    Session,
    /// The prober looks whether the server is back.
    Probe,
    /// A spare, dialed ahead.
    Spare,
}

#[derive(Copy, Clone, Debug)]
struct Dial {
    purpose: Purpose,
    begun: Instant,
    /// A dial for a session that has not been answered for too long.
    silent: bool,
}

#[derive(Copy, Clone, Debug)]
struct Prober {
    since: Instant,
    next: Instant,
}

/// The way to one server.
#[derive(Debug)]
pub struct Pacing<L> {
    pace: Pace,
    standing: Standing,
    took: Option<Duration>,
    spares: VecDeque<(L, Instant)>,
    used: Option<Instant>,
    filling: bool,
    waiting: usize,
    dials: BTreeMap<DialId, Dial>,
    abandoned: VecDeque<DialId>,
    prober: Option<Prober>,
    next_id: u64,
    changes: u64,
    counts: PaceCounts,
}

impl<L> Pacing<L> {
    /// The way to a server that was not dialed yet.
    #[must_use]
    pub fn new(pace: Pace) -> Pacing<L> {
        Pacing {
            pace,
            standing: Standing::Open,
            took: None,
            spares: VecDeque::new(),
            used: None,
            filling: false,
            waiting: 0,
            dials: BTreeMap::new(),
            abandoned: VecDeque::new(),
            prober: None,
            next_id: 0,
            changes: 0,
            counts: PaceCounts::default(),
        }
    }

    /// What is known of the way.
    #[must_use]
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    /// Counts the changes of the standing, but for changes of its times alone.
    #[must_use]
    pub fn changes(&self) -> u64 {
        self.changes
    }

    /// How long the last link took to make, if there was one.
    #[must_use]
    pub fn last_link(&self) -> Option<Duration> {
        self.took
    }

    /// Links ready for use.
    #[must_use]
    pub fn spares(&self) -> usize {
        self.spares.len()
    }

    /// What is counted for the status.
    #[must_use]
    pub fn counts(&self) -> PaceCounts {
        self.counts
    }

    /// Whether the prober runs.
    #[must_use]
    pub fn is_probing(&self) -> bool {
        self.prober.is_some()
    }

    /// One more session waits for a link. It looks for one with [`Pacing::take`].
    pub fn wait(&mut self) {
        self.waiting += 1;
    }

    /// One session fewer waits: it has a link, or has given up.
    pub fn wait_no_more(&mut self) {
        self.waiting = self.waiting.saturating_sub(1);
    }

    /// Takes a link that lives, the freshest first.
    pub fn take(&mut self, now: Instant, mut alive: impl FnMut(&mut L) -> bool) -> Option<L> {
        self.used = Some(now);
        while let Some((mut link, since)) = self.spares.pop_back() {
            if now - since < self.pace.warm_age && alive(&mut link) {
                self.filling = true;
                return Some(link);
            }
        }
        None
    }

    /// Counts a link that was there already when a session wanted one.
    pub fn count_reuse(&mut self) {
        self.counts.reused += 1;
    }

    /// Keeps a link for the next session; returns it if enough are kept.
    #[must_use]
    pub fn keep(&mut self, now: Instant, link: L) -> Option<L> {
        if self.spares.len() >= self.pace.kept_max.max(self.waiting) {
            return Some(link);
        }
        self.spares.push_back((link, now));
        None
    }

    /// Drops links that are too old or dead; called every few seconds. Returns whether links are
    /// to be dialed ahead.
    pub fn age(&mut self, now: Instant, mut alive: impl FnMut(&mut L) -> bool) -> bool {
        let age_max = self.pace.warm_age;
        self.spares.retain_mut(|(link, since)| now - *since < age_max && alive(link));
        // Only what this look finds: a pool that was full must not be filled again after its links
        // have become too old, when no session has come for `warm_age`.
        self.filling = self.used.is_some_and(|used| now - used < age_max)
            && self.standing.is_open()
            && self.spares.len() < self.pace.warm_max;
        self.filling
    }

    /// Keeps only the links of which `lives` says so.
    pub fn retain(&mut self, mut lives: impl FnMut(&mut L) -> bool) {
        self.spares.retain_mut(|(link, _)| lives(link));
    }

    /// A link to this server fell silent: no link that was made before is trusted.
    pub fn suspect(&mut self) {
        self.spares.clear();
    }

    /// The machine's addresses or routes have changed. `usable` says whether an unused link still
    /// leaves from an address that exists.
    pub fn handle_network_changed(&mut self, now: Instant, mut usable: impl FnMut(&L) -> bool) {
        self.spares.retain(|(link, _)| usable(link));
        // What is under way was begun on a path that may be gone.
        if self.prober.is_some() {
            self.abandon(|dial| dial.purpose == Purpose::Probe);
            self.prober = Some(Prober { since: now, next: now });
        }
    }

    /// A dial came to an end. Returns whether there is one more link to take.
    pub fn handle_dialed(&mut self, now: Instant, id: DialId, result: Result<L, Failure>) -> bool {
        let Some(dial) = self.dials.remove(&id) else { return false };
        match (result, dial.purpose) {
            (Ok(link), Purpose::Spare) => self.keep(now, link).is_none(),
            (Ok(link), Purpose::Session | Purpose::Probe) => {
                let kept = self.keep(now, link).is_none();
                self.handle_reached(now - dial.begun);
                kept
            }
            // Whether a spare can be had says nothing yet of the sessions' dials.
            (Err(_), Purpose::Spare) => {
                self.filling = false;
                false
            }
            (Err(failure), Purpose::Session | Purpose::Probe) => {
                self.handle_failure(now, failure);
                false
            }
        }
    }

    fn handle_reached(&mut self, took: Duration) {
        self.took = Some(took.max(Duration::from_micros(1)));
        if !self.standing.is_open() {
            self.standing = Standing::Open;
            self.changes += 1;
        }
        self.prober = None;
        // What was begun while the server was away may be lost for good.
        self.abandon(|dial| dial.purpose == Purpose::Probe || dial.silent);
    }

    fn handle_failure(&mut self, now: Instant, failure: Failure) {
        if failure.kind != FailureKind::Silent {
            self.spares.clear();
        }
        self.filling = false;
        self.counts.outages += u64::from(self.standing.is_open());
        self.changes += u64::from(self.standing.fail(now, failure));
    }

    fn abandon(&mut self, which: impl Fn(&Dial) -> bool) {
        let gone: Vec<DialId> =
            self.dials.iter().filter(|(_, dial)| which(dial)).map(|(id, _)| *id).collect();
        for id in gone {
            self.dials.remove(&id);
            self.abandoned.push_back(id);
        }
    }

    fn under_way(&self, purpose: Purpose) -> usize {
        self.dials.values().filter(|dial| dial.purpose == purpose).count()
    }

    fn begin(&mut self, now: Instant, purpose: Purpose) -> Pulse {
        let id = DialId(self.next_id);
        self.next_id += 1;
        self.counts.dials += 1;
        self.dials.insert(id, Dial { purpose, begun: now, silent: false });
        Pulse::Dial(id)
    }

    /// Says what is to be done next.
    pub fn poll(&mut self, now: Instant) -> Pulse {
        self.notice_silence(now);
        let away = !self.standing.is_open();
        mutant!(NoProber => if away { return Pulse::Wait(None) });
        let wants_probes = self.waiting > 0 && away;
        if !wants_probes && self.prober.take().is_some() {
            self.abandon(|dial| dial.purpose == Purpose::Probe);
        }
        if let Some(id) = self.abandoned.pop_front() {
            return Pulse::Abandon(id);
        }
        if wants_probes {
            if let Some(probe) = self.probe(now) {
                return probe;
            }
        } else if let Some(dial) = self.dial(now) {
            return dial;
        }
        match self.wake_at() {
            None if self.dials.is_empty() && self.waiting == 0 => Pulse::Idle,
            at => Pulse::Wait(at),
        }
    }

    /// A dial for a session that is not answered for long counts as a failure, but goes on.
    fn notice_silence(&mut self, now: Instant) {
        let patience = self.patience();
        let late = |dial: &Dial| {
            dial.purpose == Purpose::Session && !dial.silent && now >= dial.begun + patience
        };
        let mut any = false;
        for dial in self.dials.values_mut().filter(|dial| late(dial)) {
            dial.silent = true;
            any = true;
        }
        if any {
            let why = format!("no answer for {} ms", patience.as_millis());
            let failure = Failure { kind: FailureKind::Silent, why, errno: 0 };
            self.handle_failure(now, failure);
        }
    }

    fn patience(&self) -> Duration {
        self.pace.silence.max(self.took.unwrap_or_default() * 4)
    }

    /// The prober's next attempt, if it is due.
    fn probe(&mut self, now: Instant) -> Option<Pulse> {
        let first = Prober { since: now, next: now + self.pace.probe_every / 4 };
        let prober = *self.prober.get_or_insert(first);
        if now < prober.next {
            return None;
        }
        let next = now + self.probe_pause(now - prober.since);
        self.prober = Some(Prober { next, ..prober });
        let room = self.under_way(Purpose::Probe) < self.pace.probes_max;
        room.then(|| self.begin(now, Purpose::Probe))
    }

    /// From one attempt to the next, in an outage of this age.
    fn probe_pause(&self, age: Duration) -> Duration {
        let pace = &self.pace;
        let is_wrong = match &self.standing {
            Standing::Away { last, .. } => {
                matches!(last.kind, FailureKind::WrongKey | FailureKind::Unauthorized)
            }
            Standing::Open => false,
        };
        if is_wrong {
            pace.probe_every_max
        } else if age < pace.outage_old {
            pace.probe_every
        } else {
            // From the usual pace to the slowest within another such time.
            let more = age.saturating_sub(pace.outage_old);
            let part = more.as_secs_f64() / pace.outage_old.as_secs_f64();
            pace.probe_every.mul_f64((1.0 + 20.0 * part).min(1e3)).min(pace.probe_every_max)
        }
    }

    /// A dial for a session that waits, or for a spare.
    fn dial(&mut self, now: Instant) -> Option<Pulse> {
        let for_sessions = self.under_way(Purpose::Session);
        if for_sessions + self.spares.len() < self.waiting && for_sessions < self.pace.dials_max {
            return Some(self.begin(now, Purpose::Session));
        }
        self.filling &= self.standing.is_open() && self.spares.len() < self.pace.warm_max;
        // One after the other: they are for later.
        let fills = self.filling && self.waiting == 0 && self.under_way(Purpose::Spare) == 0;
        fills.then(|| self.begin(now, Purpose::Spare))
    }

    fn wake_at(&self) -> Option<Instant> {
        let patience = self.patience();
        let waits = |dial: &&Dial| dial.purpose == Purpose::Session && !dial.silent;
        let silent_at = self.dials.values().filter(waits).map(|dial| dial.begun + patience);
        silent_at.chain(self.prober.map(|prober| prober.next)).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> Instant {
        Instant(1_000_000 + ms * 1_000)
    }

    fn failure(kind: FailureKind) -> Failure {
        Failure { kind, why: "as told".to_owned(), errno: 0 }
    }

    fn dials(pacing: &mut Pacing<u32>, now: Instant) -> Vec<DialId> {
        let mut dials = Vec::new();
        loop {
            match pacing.poll(now) {
                Pulse::Dial(id) => dials.push(id),
                Pulse::Abandon(_) => {}
                Pulse::Wait(_) | Pulse::Idle => return dials,
            }
        }
    }

    /// A way on which a session waits for a dial that has just failed in this way.
    fn away(kind: FailureKind) -> Pacing<u32> {
        let mut pacing = Pacing::new(Pace::default());
        pacing.wait();
        let dial = dials(&mut pacing, at(0));
        assert_eq!(dial.len(), 1);
        assert!(!pacing.handle_dialed(at(0), dial[0], Err(failure(kind))));
        assert!(dials(&mut pacing, at(0)).is_empty());
        pacing
    }

    #[test]
    fn a_session_takes_the_freshest_link_that_lives() {
        let mut pacing = Pacing::new(Pace::default());
        for link in 0..4 {
            assert_eq!(pacing.keep(at(0), link), None);
        }
        assert_eq!(pacing.take(at(5), |link| *link != 3), Some(2));
        assert_eq!(pacing.take(at(60_001), |_| true), None, "the others are too old");
        assert_eq!(pacing.spares(), 0);
    }

    #[test]
    fn no_more_links_are_kept_than_the_pace_says() {
        let mut pacing = Pacing::new(Pace::default());
        let returned = (0..20).filter(|link| pacing.keep(at(0), *link).is_some()).count();
        assert_eq!((pacing.spares(), returned), (16, 4));
    }

    #[test]
    fn a_thousand_sessions_share_one_prober() {
        let mut pacing = away(FailureKind::Refused);
        (0..999).for_each(|_| pacing.wait());
        let probes: usize = (0..1_000).map(|ms| dials(&mut pacing, at(ms)).len()).sum();
        assert_eq!(probes, 4, "the first after 62 ms, then every 250 ms");
    }

    #[test]
    fn when_the_server_is_back_the_dials_for_sessions_are_bounded() {
        let mut pacing = away(FailureKind::Silent);
        (0..999).for_each(|_| pacing.wait());
        let probe = dials(&mut pacing, at(100))[0];
        assert!(pacing.handle_dialed(at(110), probe, Ok(7)));
        assert!(pacing.standing().is_open() && !pacing.is_probing());
        assert_eq!(pacing.take(at(110), |_| true), Some(7));
        pacing.wait_no_more();
        assert_eq!(dials(&mut pacing, at(110)).len(), 64);
    }

    #[test]
    fn a_dial_that_is_not_answered_counts_as_silence_and_may_yet_succeed() {
        let mut pacing = Pacing::new(Pace::default());
        pacing.wait();
        let slow = dials(&mut pacing, at(0))[0];
        assert_eq!(pacing.poll(at(0)), Pulse::Wait(Some(at(500))));
        assert!(dials(&mut pacing, at(500)).is_empty());
        assert!(!pacing.standing().is_open());
        assert_eq!(pacing.counts().outages, 1);
        assert_eq!(dials(&mut pacing, at(563)).len(), 1, "the prober");
        assert!(pacing.handle_dialed(at(600), slow, Ok(1)));
        assert_eq!(pacing.last_link(), Some(Duration::from_millis(600)));
        assert_eq!(pacing.changes(), 2);
    }

    #[test]
    fn the_prober_slows_down_in_an_old_outage_and_for_a_wrong_key() {
        let mut pacing = away(FailureKind::Silent);
        let count = |pacing: &mut Pacing<u32>, from: u64| {
            let mut count = 0;
            for ms in from..from + 10_000 {
                for probe in dials(pacing, at(ms)) {
                    pacing.handle_dialed(at(ms), probe, Err(failure(FailureKind::Silent)));
                    count += 1;
                }
            }
            count
        };
        assert_eq!(count(&mut pacing, 0), 40);
        assert_eq!(count(&mut pacing, 1_300_000), 2);
        assert_eq!(away(FailureKind::WrongKey).probe_pause(Duration::ZERO).as_secs(), 5);
    }

    #[test]
    fn the_prober_ends_when_nobody_waits_and_begins_anew_when_the_network_changes() {
        let mut pacing = away(FailureKind::Silent);
        let probe = dials(&mut pacing, at(100))[0];
        pacing.handle_network_changed(at(110), |_| true);
        assert_eq!(pacing.poll(at(110)), Pulse::Abandon(probe));
        assert_eq!(dials(&mut pacing, at(110)).len(), 1);
        pacing.wait_no_more();
        assert!(matches!(pacing.poll(at(120)), Pulse::Abandon(_)));
        assert_eq!(pacing.poll(at(120)), Pulse::Idle);
        assert!(!pacing.is_probing());
    }

    #[test]
    fn links_are_dialed_ahead_one_by_one_at_a_server_that_is_used() {
        let mut pacing = Pacing::new(Pace::default());
        assert!(!pacing.age(at(0), |_: &mut u32| true));
        assert_eq!(pacing.poll(at(0)), Pulse::Idle, "nobody has used it");
        assert_eq!(pacing.take(at(1), |_| true), None);
        assert!(pacing.age(at(2), |_| true));
        for link in 0..4 {
            let dial = dials(&mut pacing, at(3));
            assert_eq!(dial.len(), 1);
            assert!(pacing.handle_dialed(at(4), dial[0], Ok(link)));
        }
        assert_eq!(pacing.poll(at(5)), Pulse::Idle);
        assert_eq!(pacing.spares(), 4);
        assert!(!pacing.age(at(30_000), |_| true), "there are enough");
        assert!(!pacing.age(at(60_005), |_| true), "no session came for a minute");
        assert_eq!(pacing.spares(), 0);
        assert_eq!(pacing.poll(at(60_006)), Pulse::Idle);
    }
}
