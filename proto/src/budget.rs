//! What all sessions of a daemon may hold together: bytes, and descriptors.
//!
//! A session's own bounds say what it may hold; ten thousand of them are more than any machine has.
//! So the bytes that sessions hold, and those that they have promised to take, come out of one
//! budget, as TCP's do in the kernel (`tcp_mem`). Every session has a little of its own; what goes
//! beyond is counted, for the daemon and for each holder, which is a client's key or its network.
//! Nobody may have more than half of it, or three quarters of all sessions; and when three quarters
//! are taken, nobody more than a fair share. When the budget gets short, sessions take less ahead
//! and promise less; the oldest response that nobody fetches is given up, if its broker can have it
//! again by its ticket. When it is spent, nothing new is taken. What was acknowledged, or is
//! nowhere else, is never given up.

use core::fmt;
use core::time::Duration;
use std::collections::BTreeMap;

use crate::class::Class;
use crate::mutant::mutant;
use crate::time::Instant;

/// Bytes that every session has of its own: what it may hold both ways when the budget is spent.
pub const OWN: u64 = 2 * FULL as u64;
/// What a session may hold one way when the budget is short: a few reads.
const SHORT: usize = 256 << 10;
/// The same when it is spent: a piece of a buffer's memory.
const FULL: usize = 64 << 10;
/// One holder may have this many sessions in any case.
const SESSIONS_MIN: usize = 8;
/// A session without a link is not given up before this time: most come back sooner.
const IDLE_MIN: Duration = Duration::from_secs(3);
/// Descriptors of the daemon itself: log, listeners, timers, its store, requests for its status.
const OWN_DESCRIPTORS: u64 = 48;

/// How short of memory a daemon is.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum Level {
    /// Sessions hold what their own bounds allow.
    #[default]
    Plenty,
    /// They hold less, and idle ones are given up.
    Short,
    /// They hold as little as they can, and no new one is taken.
    Full,
}

impl Level {
    /// What a session may hold one way, if its own bound is `most`.
    #[must_use]
    pub fn share_of(self, most: usize) -> usize {
        match self {
            Level::Plenty => most,
            Level::Short => most.min(SHORT),
            Level::Full => most.min(FULL),
        }
    }

    /// One word, for the status.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Level::Plenty => "plenty",
            Level::Short => "short",
            Level::Full => "full",
        }
    }
}

/// Why nothing new is taken.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Spent {
    /// All sessions together hold so much.
    All {
        /// Bytes held and promised.
        held: u64,
        /// Bytes that there are.
        most: u64,
    },
    /// The sessions of one client, or of one network, do.
    Holder {
        /// Bytes held and promised.
        held: u64,
        /// What nobody may have more of.
        most: u64,
    },
    /// One client, or one network, has so many sessions.
    Sessions(usize),
}

impl Spent {
    /// One word, for the counters.
    #[must_use]
    pub fn word(self) -> &'static str {
        match self {
            Spent::All { .. } => "memory",
            Spent::Holder { .. } => "memory_share",
            Spent::Sessions(_) => "sessions_share",
        }
    }
}

impl fmt::Display for Spent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mib = |bytes: &u64| bytes.div_ceil(1 << 20);
        match self {
            Spent::All { held, most } => {
                write!(f, "sessions hold {} of {} MiB", mib(held), mib(most))
            }
            Spent::Holder { held, most } => {
                let (held, most) = (mib(held), mib(most));
                write!(f, "this client's sessions hold {held} of the {most} MiB that one may")
            }
            Spent::Sessions(count) => write!(f, "this client has {count} sessions"),
        }
    }
}

/// As many sessions as `memory` is enough for: half of it is left beyond what each has of its own.
#[must_use]
pub fn most_sessions(memory: u64) -> usize {
    usize::try_from(memory / 2 / OWN).unwrap_or(usize::MAX)
}

/// The memory that is enough for so many sessions.
#[must_use]
pub fn memory_for(sessions: usize) -> u64 {
    (sessions as u64).saturating_mul(2 * OWN)
}

/// The budget of a daemon. `K` names a holder.
#[derive(Debug)]
pub struct Budget<K> {
    /// What sessions share beyond their own.
    shared: u64,
    held: u64,
    level: Level,
    /// Sessions that there may be, and are.
    places: usize,
    taken: usize,
    holders: BTreeMap<K, Held>,
    /// How many of the holders are networks.
    networks: usize,
}

/// What one holder has.
#[derive(Copy, Clone, Debug, Default)]
struct Held {
    bytes: u64,
    sessions: usize,
    /// It is the widest of some session's holders: a network, of which nobody has many, and not a
    /// key, of which everybody has.
    network: bool,
}

impl<K: Ord + Copy> Budget<K> {
    /// Shares `memory` bytes among at most `sessions` sessions. If there were more than
    /// [`most_sessions`], little would be left beyond what each has of its own.
    #[must_use]
    pub fn new(memory: u64, sessions: usize) -> Budget<K> {
        let shared = memory.saturating_sub((sessions as u64).saturating_mul(OWN));
        Budget {
            shared,
            held: 0,
            level: Level::Plenty,
            places: sessions,
            taken: 0,
            holders: BTreeMap::new(),
            networks: 0,
        }
    }

    /// These holders have one session more. The last one is their network.
    pub fn enter(&mut self, holders: &[K]) {
        self.taken += 1;
        for holder in holders {
            self.holders.entry(*holder).or_default().sessions += 1;
        }
        if let Some(held) = holders.last().and_then(|last| self.holders.get_mut(last)) {
            self.networks += usize::from(!core::mem::replace(&mut held.network, true));
        }
    }

    /// A session of theirs that cost so much is over.
    pub fn leave(&mut self, holders: &[K], cost: u64) {
        self.note(holders, cost, 0);
        self.taken -= 1;
        for holder in holders {
            let Some(held) = self.holders.get_mut(holder) else { continue };
            held.sessions -= 1;
            if held.sessions == 0 {
                self.networks -= usize::from(held.network);
                self.holders.remove(holder);
            }
        }
    }

    /// A session of these holders costs `now` bytes, and not `before` any more. Returns how short
    /// memory is for it.
    pub fn note(&mut self, holders: &[K], before: u64, now: u64) -> Level {
        let (before, now) = (before.saturating_sub(OWN), now.saturating_sub(OWN));
        if before != now {
            self.held = self.held - before + now;
            for holder in holders {
                if let Some(held) = self.holders.get_mut(holder) {
                    held.bytes = held.bytes - before + now;
                }
            }
            self.level = self.level_now();
        }
        self.level_of(holders)
    }

    /// It is short from three quarters on, until half of it is free again.
    fn level_now(&self) -> Level {
        let pressure = self.shared / 4 * 3;
        if self.held >= self.shared {
            Level::Full
        } else if self.held >= pressure {
            self.level.max(Level::Short)
        } else if self.held >= self.shared / 2 {
            self.level.min(Level::Short)
        } else {
            Level::Plenty
        }
    }

    /// How short it is for a session of these holders. While it is short, it is spent for those who
    /// have more than their fair share: what is left is for the others.
    #[must_use]
    pub fn level_of(&self, holders: &[K]) -> Level {
        let held = self.most_of(holders);
        let most = match self.level {
            Level::Plenty => self.share(),
            Level::Short | Level::Full => self.share().min(self.shared / self.fair_parts()),
        };
        match held {
            held if held >= most => Level::Full,
            held if held >= self.share() / 4 * 3 => self.level.max(Level::Short),
            _ => self.level,
        }
    }

    /// Into how many parts all is shared fairly: one for each network, and one for the next.
    fn fair_parts(&self) -> u64 {
        self.networks as u64 + 1
    }

    /// Whether three quarters of all sessions are there.
    #[must_use]
    pub fn is_crowded(&self) -> bool {
        self.taken > self.places / 4 * 3
    }

    /// How short it is for the daemon.
    #[must_use]
    pub fn level(&self) -> Level {
        self.level
    }

    /// Bytes held and promised, beyond what sessions have of their own; and what there are.
    #[must_use]
    pub fn held(&self) -> (u64, u64) {
        (self.held, self.shared)
    }

    fn share(&self) -> u64 {
        self.shared / 2
    }

    fn most_of(&self, holders: &[K]) -> u64 {
        self.each(holders).map(|held| held.bytes).max().unwrap_or(0)
    }

    fn each(&self, holders: &[K]) -> impl Iterator<Item = &Held> {
        holders.iter().filter_map(|holder| self.holders.get(holder))
    }

    /// Whether a new session of these holders can be taken.
    ///
    /// # Errors
    /// What is spent.
    pub fn admit(&self, holders: &[K]) -> Result<(), Spent> {
        if self.level == Level::Full {
            return Err(Spent::All { held: self.held, most: self.shared });
        }
        let (held, most) = (self.most_of(holders), self.share());
        if held >= most {
            return Err(Spent::Holder { held, most });
        }
        let sessions = self.each(holders).map(|held| held.sessions).max().unwrap_or(0);
        let most = (self.places - self.places / 4).max(SESSIONS_MIN);
        let fair = usize::try_from(self.places as u64 / self.fair_parts()).unwrap_or(usize::MAX);
        let most = if self.is_crowded() { most.min(fair.max(1)) } else { most };
        if sessions >= most { Err(Spent::Sessions(sessions)) } else { Ok(()) }
    }

    /// The sessions that are given up now: temporary ones before others, and of those the ones that
    /// have been without a link for longest, until half of the budget and of the sessions would be
    /// free. Critical ones are left alone (R74).
    #[must_use]
    pub fn given_up<I>(&self, now: Instant, mut all: Vec<Idle<I>>) -> Vec<I> {
        let (mut bytes, mut places) = (0, 0);
        if self.level != Level::Plenty {
            bytes = self.held.saturating_sub(self.shared / 2);
        }
        if self.is_crowded() {
            places = self.taken - self.places / 2;
        }
        all.retain(|idle| idle.again && idle.may_go(now));
        all.sort_by_key(|idle| (idle.class(), idle.since));
        let mut gone = Vec::new();
        for idle in all {
            let cost = idle.cost.saturating_sub(OWN);
            if places > 0 || bytes > 0 && cost > 0 {
                places = places.saturating_sub(1);
                bytes = bytes.saturating_sub(cost);
                gone.push(idle.id);
            }
        }
        gone
    }
}

/// A session without a link.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Idle<I> {
    /// What its daemon calls it.
    pub id: I,
    /// What it costs, bytes.
    pub cost: u64,
    /// Since when it has been without a link.
    pub since: Instant,
    /// Its broker can have all of it again, here or elsewhere, by its ticket.
    pub again: bool,
    /// How well it is to be kept.
    pub class: Class,
}

impl<I> Idle<I> {
    fn class(&self) -> Class {
        mutant!(ClassIgnored, self.class, Class::Temporary)
    }

    fn may_go(&self, now: Instant) -> bool {
        now - self.since >= IDLE_MIN && self.class() < Class::Critical
    }
}

/// The session that ends for the sake of a new one, where there are as many as may be: a temporary
/// one; if its broker can have it again, rather than one that is lost; and of those the one that
/// has been without a link for longest (R74).
pub fn makes_room<I>(now: Instant, all: impl IntoIterator<Item = Idle<I>>) -> Option<Idle<I>> {
    all.into_iter()
        .filter(|idle| idle.may_go(now) && idle.class() == Class::Temporary)
        .min_by_key(|idle| (!idle.again, idle.since))
}

/// Something of which there may be only so many at once, as each takes descriptors.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Seats {
    /// Its key in the configuration.
    pub key: &'static str,
    /// How many there are to be, and whether that is what the configuration says.
    pub wanted: (usize, bool),
    /// Descriptors that each takes at most.
    pub each: u64,
    /// What part of the descriptors they have if those are scarce.
    pub share: u64,
}

/// The descriptors are not enough.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TooFew {
    /// The key that takes most.
    pub key: &'static str,
    needed: u64,
    limit: u64,
}

impl fmt::Display for TooFew {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TooFew { needed, limit, .. } = self;
        write!(
            f,
            "{needed} descriptors would be needed, and this process may have {limit}: lower it, or \
             raise the limit (ulimit -Hn, or LimitNOFILE= in the unit)"
        )
    }
}

/// How many there are of everything, so that no descriptor is ever missing: what the configuration
/// says, and of the rest as many as fit. Descriptors that are set aside are there for whoever comes
/// back, however many others come.
///
/// # Errors
/// What the configuration says does not fit.
pub fn fit<const N: usize>(limit: u64, places: [Seats; N]) -> Result<[usize; N], TooFew> {
    let total = |set: bool| {
        let of = places.iter().filter(|place| place.wanted.1 == set);
        of.map(|place| (place.wanted.0 as u64).saturating_mul(place.each)).sum::<u64>()
    };
    // At least one of everything.
    let open = || places.iter().filter(|place| !place.wanted.1);
    let least: u64 = open().map(|place| place.each).sum();
    let needed = OWN_DESCRIPTORS + total(true) + least;
    let Some(left) = limit.checked_sub(OWN_DESCRIPTORS + total(true)).filter(|left| *left >= least)
    else {
        let most = places.iter().filter(|place| place.wanted.1);
        let most = most.max_by_key(|place| (place.wanted.0 as u64).saturating_mul(place.each));
        return Err(TooFew { key: most.map_or("", |place| place.key), needed, limit });
    };
    let shares: u64 = open().map(|place| place.share).sum();
    Ok(places.map(|place| match place.wanted {
        (count, true) => count,
        (count, false) => {
            let fits = left / shares * place.share / place.each;
            count.min(usize::try_from(fits).unwrap_or(usize::MAX).max(1))
        }
    }))
}

#[cfg(test)]
mod tests;
