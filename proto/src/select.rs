//! Which server a session tries next, and when there is none left (STP 3–5, 8, 11).
//!
//! A [`Choice`] belongs to one session: the ranked servers of its service, the one that holds the
//! session (its *home*), and those that refused this very session for good. An [`Overloaded`] list
//! belongs to the whole broker: servers that asked to be left alone for a while; it ages. Both are
//! plain data; dialing, probing and timers are the broker's. Measuring round trips before the first
//! choice (STP 3) is not here: the broker measures, and hands the figures to [`Choice::order`].

use core::fmt;
use core::time::Duration;
use std::collections::BTreeMap;

use crate::mutant::mutant;
use crate::time::Instant;
use crate::wire::{DenyReason, ResumeDenial};

/// A server is known here by its place in the service's ranked list.
pub type Rank = usize;

/// How long a server stays on the overloaded list at first, and at most.
pub const OVERLOADED_MIN: Duration = Duration::from_secs(5);
/// See [`OVERLOADED_MIN`].
pub const OVERLOADED_MAX: Duration = Duration::from_secs(300);
/// How long a silent home is waited for while another server answers, at most.
pub const GRACE: Duration = Duration::from_secs(1);
/// See [`GRACE`]: at least.
pub const GRACE_MIN: Duration = Duration::from_millis(300);
/// How long a home that refuses is tried when every other server has refused for good.
pub const REFUSED_MAX: Duration = Duration::from_secs(20);
/// How long a new session tries servers whose ports are all closed.
pub const REFUSED_NEW_MAX: Duration = Duration::from_secs(1);
/// The same, when one of them was there before: it may be on its way up again.
pub const REFUSED_KNOWN_MAX: Duration = Duration::from_secs(5);

/// Why a server did not take a session: what it said, or what its port did.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Rejection {
    /// It has no room; come back after this long (zero: it did not say).
    Overloaded(Duration),
    /// It is being shut down in order.
    Draining,
    /// It does not have what the session is reading.
    NotHere,
    /// Its bytes at the seam differ from those delivered.
    Seam,
    /// The ticket is too old.
    Expired,
    /// Ticket and request, or positions, do not fit together.
    Mismatch,
    /// What the app asked for may not be asked twice.
    Unsafe,
    /// The real service behind it cannot be reached; the errno of that.
    Service(u16),
    /// This user's key is not welcome there.
    Unauthorized,
    /// It shows another key than the one configured.
    WrongKey,
    /// It speaks another version of the protocol.
    Version,
    /// It does not know the session any more: it was restarted.
    Unknown,
    /// Something in it broke.
    Internal,
    /// It is comparing its copy with what the app has; ask again after this long.
    Verifying(Duration),
}

impl fmt::Display for Rejection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Rejection::Overloaded(wait) if wait.is_zero() => f.write_str("overloaded"),
            Rejection::Overloaded(wait) => write!(f, "overloaded for {} s", wait.as_secs().max(1)),
            Rejection::Draining => f.write_str("draining: it is being shut down"),
            Rejection::NotHere => f.write_str("does not have it"),
            Rejection::Seam => f.write_str("its copy differs from what was delivered"),
            Rejection::Expired => f.write_str("ticket expired"),
            Rejection::Mismatch => f.write_str("ticket and request do not fit together"),
            Rejection::Unsafe => f.write_str("the request may not be sent twice"),
            Rejection::Service(errno) => write!(f, "its service cannot be reached (errno {errno})"),
            Rejection::Unauthorized => f.write_str("this user's key is not accepted there"),
            Rejection::WrongKey => f.write_str("shows another key than the configured one"),
            Rejection::Version => f.write_str("speaks another protocol version"),
            Rejection::Unknown => f.write_str("does not know the session any more"),
            Rejection::Internal => f.write_str("internal error there"),
            Rejection::Verifying(_) => f.write_str("is comparing its copy"),
        }
    }
}

impl Rejection {
    /// What a CONNECT_DENIED says.
    #[must_use]
    pub fn of_connect(why: DenyReason, retry_after: Duration) -> Rejection {
        match why {
            DenyReason::Overloaded => Rejection::Overloaded(retry_after),
            DenyReason::NotHere => Rejection::NotHere,
            DenyReason::Seam => Rejection::Seam,
            DenyReason::Expired => Rejection::Expired,
            DenyReason::Mismatch => Rejection::Mismatch,
            DenyReason::Unsafe => Rejection::Unsafe,
            DenyReason::Refused(errno) => Rejection::Service(errno),
            DenyReason::Unauthorized => Rejection::Unauthorized,
            DenyReason::Version => Rejection::Version,
            DenyReason::Draining => Rejection::Draining,
            DenyReason::Internal => Rejection::Internal,
            DenyReason::Verifying => Rejection::Verifying(retry_after),
        }
    }

    /// What a RESUME_DENIED says, where it is for the choice to act on it. A home whose positions
    /// do not fit is no home any more; another server may still go on from the ticket.
    #[must_use]
    pub fn of_resume(why: ResumeDenial) -> Option<Rejection> {
        match why {
            ResumeDenial::Unknown | ResumeDenial::Mismatch | ResumeDenial::Moved => {
                Some(Rejection::Unknown)
            }
            ResumeDenial::Suspended { .. }
            | ResumeDenial::Stale
            | ResumeDenial::Collision
            | ResumeDenial::Closed { .. }
            | ResumeDenial::Reset { .. } => None,
        }
    }
}

/// What a refusal means for the choice.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Meaning {
    /// Onto the overloaded list, for every session, at least this long.
    List(Duration),
    /// Not this server, for this session, ever.
    NotThisSession,
    /// No server but its home may go on with this session. Without one the app gets a reset, and
    /// the cause is shown.
    GiveUp,
    /// Not now: others are asked, and this one again in a while, for this session alone.
    Later,
    /// The server lives but has lost the session; it may take it anew as a transfer.
    Forgotten,
}

impl Rejection {
    /// What follows from this refusal.
    #[must_use]
    pub fn meaning(self) -> Meaning {
        match self {
            Rejection::Overloaded(wait) => Meaning::List(wait),
            Rejection::Draining | Rejection::Internal | Rejection::Service(_) => {
                Meaning::List(Duration::ZERO)
            }
            Rejection::NotHere
            | Rejection::Seam
            | Rejection::Mismatch
            | Rejection::Unauthorized
            | Rejection::WrongKey
            | Rejection::Version => Meaning::NotThisSession,
            // An expired ticket is expired everywhere, as a request that may not be repeated is.
            Rejection::Expired | Rejection::Unsafe => Meaning::GiveUp,
            Rejection::Unknown => Meaning::Forgotten,
            Rejection::Verifying(_) => Meaning::Later,
        }
    }
}

#[derive(Copy, Clone, Debug)]
struct Listed {
    until: Instant,
    strikes: u32,
}

/// The broker's overloaded list; `K` names a server across services.
///
/// An entry ages: it ends after its time, which doubles when the server refuses again soon after.
#[derive(Clone, Debug)]
pub struct Overloaded<K: Ord> {
    entries: BTreeMap<K, Listed>,
}

impl<K: Ord> Default for Overloaded<K> {
    fn default() -> Self {
        Overloaded { entries: BTreeMap::new() }
    }
}

impl<K: Ord> Overloaded<K> {
    /// Puts a server on the list, for at least `asked`.
    pub fn add(&mut self, now: Instant, server: K, asked: Duration) {
        let old = self.entries.get(&server).filter(|e| now < e.until + OVERLOADED_MAX);
        let strikes = old.map_or(0, |e| e.strikes + 1);
        let doubled = OVERLOADED_MIN.saturating_mul(1 << strikes.min(10));
        let until = now + doubled.max(asked).min(OVERLOADED_MAX);
        self.entries.insert(server, Listed { until, strikes });
    }

    /// Whether a server is on the list now.
    #[must_use]
    pub fn contains(&self, now: Instant, server: &K) -> bool {
        self.entries.get(server).is_some_and(|e| now < e.until)
    }

    /// Until when a server is on the list, if it is now.
    #[must_use]
    pub fn until(&self, now: Instant, server: &K) -> Option<Instant> {
        self.entries.get(server).map(|e| e.until).filter(|until| now < *until)
    }

    /// Takes a server off: it accepted a session.
    pub fn remove(&mut self, server: &K) {
        self.entries.remove(server);
    }

    /// Forgets what is long past.
    pub fn age(&mut self, now: Instant) {
        self.entries.retain(|_, e| now < e.until + OVERLOADED_MAX);
    }
}

/// What a session looks for.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Want {
    /// Any server: the session is new.
    Connect,
    /// Its home; any other only if the session can be transferred.
    Resume {
        /// Whether another server may take it.
        transferable: bool,
    },
}

/// What the choice says after a refusal or a failed round.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// Some server is left: try again, after a back-off if all of them have been tried.
    Another,
    /// None may take the session.
    GiveUp(Rejection),
}

/// A server refused a session for good.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
struct Strike {
    why: Rejection,
    at: Instant,
    times: u32,
}

/// A server that did not have what a session was reading may have it a little later, because it is
/// being copied there. It is asked again after this time, then after twice as long, and so on.
const AGAIN_MIN: Duration = Duration::from_secs(2);
/// The pause between two such questions doubles this many times at most: to 64 s.
const AGAIN_DOUBLINGS: u32 = 5;

impl Strike {
    fn again_at(self) -> Option<Instant> {
        let pause = AGAIN_MIN * (1 << self.times.min(AGAIN_DOUBLINGS));
        match self.why {
            Rejection::NotHere => Some(self.at + pause),
            Rejection::Verifying(wait) => Some(self.at + wait),
            _ => None,
        }
    }

    /// It may still turn out that the server can go on with the session.
    fn is_open(self) -> bool {
        self.why.meaning() == Meaning::Later
    }
}

/// The choice of one session.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Choice {
    servers: usize,
    home: Option<Rank>,
    forgotten: bool,
    struck: BTreeMap<Rank, Strike>,
    /// The servers that have refused since the session was last taken, and why.
    asked: BTreeMap<Rank, Rejection>,
    /// Why only its home may go on with it until it has a link again.
    only_home: Option<Rejection>,
    final_refusal: Option<Rejection>,
}

impl Choice {
    /// A new session of a service with this many servers.
    #[must_use]
    pub fn new(servers: usize) -> Choice {
        Choice {
            servers,
            home: None,
            forgotten: false,
            struck: BTreeMap::new(),
            asked: BTreeMap::new(),
            only_home: None,
            final_refusal: None,
        }
    }

    /// How many servers the service has.
    #[must_use]
    pub fn servers(&self) -> usize {
        self.servers
    }

    /// A server holds the session now.
    pub fn taken_by(&mut self, server: Rank) {
        self.home = Some(server);
        self.forgotten = false;
        self.only_home = None;
        self.struck.remove(&server);
        self.asked.clear();
    }

    /// The server that holds the session, if one does.
    #[must_use]
    pub fn home(&self) -> Option<Rank> {
        self.home.filter(|_| !self.forgotten)
    }

    /// The server that held the session last, even if it has forgotten it.
    #[must_use]
    pub fn last(&self) -> Option<Rank> {
        self.home
    }

    /// Why a server is out of the question for this session.
    #[must_use]
    pub fn struck(&self, server: Rank) -> Option<Rejection> {
        self.struck.get(&server).map(|strike| strike.why)
    }

    /// The servers to try, best first. `listed` says which are on the overloaded list (tried last,
    /// not never: a session with nowhere else to go may ask again), `rtt` what is known of the
    /// round trip (lowest first; ties, and all that is unknown, by rank).
    pub fn order(
        &self,
        want: Want,
        listed: impl Fn(Rank) -> bool,
        rtt: impl Fn(Rank) -> Option<Duration>,
    ) -> Vec<Rank> {
        let home = self.home();
        let open = |rank: &Rank| match want {
            Want::Resume { .. } if self.only_home.is_some() => Some(*rank) == home,
            Want::Resume { transferable: false } => Some(*rank) == home,
            Want::Resume { transferable: true } => {
                Some(*rank) == home || !self.struck.contains_key(rank)
            }
            Want::Connect => !self.asked.contains_key(rank),
        };
        let mut order: Vec<Rank> = (0..self.servers).filter(open).collect();
        order.sort_by_key(|&rank| {
            let last = self.home == Some(rank);
            (!last, listed(rank), rtt(rank).unwrap_or(Duration::MAX), rank)
        });
        order
    }

    /// A server refused. Servers that are to be avoided by all sessions go onto `list`.
    pub fn refused<K: Ord>(
        &mut self,
        now: Instant,
        server: Rank,
        why: Rejection,
        list: &mut Overloaded<K>,
        name: K,
    ) -> Next {
        if let Meaning::List(asked) = why.meaning() {
            list.add(now, name, asked);
        }
        self.refuse(now, server, why)
    }

    /// A server refused. Those that are to be avoided by all sessions are for the caller to list.
    pub fn refuse(&mut self, now: Instant, server: Rank, why: Rejection) -> Next {
        mutant!(RefusalForgotten => return Next::Another);
        if why.meaning() != Meaning::Later {
            self.asked.insert(server, why);
        }
        match why.meaning() {
            Meaning::List(_) => {}
            Meaning::NotThisSession | Meaning::Later => {
                let before = self.struck.get(&server);
                let times = before.map_or(0, |strike| (strike.times + 1).min(AGAIN_DOUBLINGS));
                self.struck.insert(server, Strike { why, at: now, times });
            }
            // Another server was asked because the home was out of reach: that may come back.
            Meaning::GiveUp if self.home().is_some_and(|home| home != server) => {
                self.only_home = Some(why);
            }
            Meaning::GiveUp => self.final_refusal = Some(why),
            Meaning::Forgotten if self.home == Some(server) => {
                self.forgotten = mutant!(HomeKept, true, false);
                self.final_refusal = self.final_refusal.or(self.only_home);
            }
            Meaning::Forgotten => {}
        }
        self.next()
    }

    /// Whether any server is left.
    #[must_use]
    pub fn next(&self) -> Next {
        if let Some(why) = self.final_refusal {
            return Next::GiveUp(why);
        }
        let refused = |rank: &Rank| match self.home {
            // A new session asks each server once.
            None => self.asked.contains_key(rank),
            Some(_) => self.struck.get(rank).is_some_and(|strike| !strike.is_open()),
        };
        let left = (0..self.servers).any(|rank| self.home() == Some(rank) || !refused(&rank));
        if left { Next::Another } else { Next::GiveUp(self.worst()) }
    }

    /// Whether a new session has asked this server already.
    #[must_use]
    pub fn asked(&self, server: Rank) -> bool {
        self.asked.contains_key(&server)
    }

    /// Whether a session that another server could go on with has, as it is, only its home left:
    /// the others, or some of them, have refused for good. If its home is gone as well, and the
    /// rest out of reach, it cannot go on.
    #[must_use]
    pub fn is_left_to_home(&self) -> bool {
        let Some(home) = self.home() else { return false };
        let others = self.struck.iter().filter(|(rank, _)| **rank != home);
        let (open, closed): (Vec<_>, Vec<_>) = others.partition(|(_, strike)| strike.is_open());
        self.only_home.is_some() || (open.is_empty() && !closed.is_empty())
    }

    /// The servers that have refused for good and may have changed, and when to ask them again.
    pub fn second_tries(&self) -> impl Iterator<Item = (Rank, Instant)> {
        let tries = self.struck.iter().filter(|_| self.only_home.is_none());
        tries.filter_map(|(rank, strike)| Some((*rank, strike.again_at()?)))
    }

    /// The refusal worth showing: the one that speaks of the content, before those of the door.
    #[must_use]
    pub fn worst(&self) -> Rejection {
        let order = |why: &Rejection| match why {
            Rejection::Seam => 0,
            Rejection::Mismatch => 1,
            Rejection::NotHere => 2,
            Rejection::Unauthorized => 3,
            Rejection::WrongKey => 4,
            Rejection::Service(_) => 5,
            _ => 6,
        };
        let struck = self.struck.values().map(|strike| &strike.why);
        let all = struck.chain(self.asked.values()).chain(&self.only_home);
        all.copied().min_by_key(order).unwrap_or(Rejection::Unknown)
    }
}

/// What is known of the way to a server during one search.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum View {
    /// Nothing came back yet.
    Silent,
    /// The port is closed: nobody is there.
    Refuses,
}

/// How long a silent home is waited for: three times as long as a link to it took last, if that is
/// known. It has been silent for as long as it takes to lose a link by silence already.
#[must_use]
pub fn grace(last_link: Option<Duration>) -> Duration {
    last_link.map_or(GRACE, |took| (took * 3).clamp(GRACE_MIN, GRACE))
}

/// When a session should go to `other`, which has answered, rather than wait for its home.
///
/// A home that refuses is left at once. A silent one gets `grace` from the start of the search;
/// and when `other` had been out of reach as well (the whole network was away) [`GRACE`] from the
/// moment it came back, because the home comes back with it, most of the time.
#[must_use]
pub fn leave_home_at(
    since: Instant,
    home: View,
    grace: Duration,
    other_answered: Instant,
    other_was_away: bool,
) -> Instant {
    match home {
        View::Refuses => other_answered,
        View::Silent if other_was_away => (since + GRACE).max(other_answered + GRACE),
        View::Silent => {
            let waited = mutant!(GraceUnbounded, since + grace, Instant(u64::MAX));
            waited.max(other_answered)
        }
    }
}

/// Round trips for [`Choice::order`]: a server that is at most a quarter, or 5 ms, farther than the
/// nearest counts as just as near, so that the rank decides.
#[must_use]
pub fn near_enough(rtts: &[Option<Duration>]) -> Vec<Option<Duration>> {
    let Some(best) = rtts.iter().flatten().min().copied() else { return rtts.to_vec() };
    let near = (best + best / 4).max(best + Duration::from_millis(5));
    let tied = |rtt: Duration| if rtt <= near { best } else { rtt };
    rtts.iter().map(|rtt| rtt.map(tied)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const S: u64 = 1_000_000;

    fn at(seconds: u64) -> Instant {
        Instant(seconds * S)
    }

    fn by_rank(choice: &Choice, want: Want) -> Vec<Rank> {
        choice.order(want, |_| false, |_| None)
    }

    #[test]
    fn a_new_session_tries_the_servers_by_rank() {
        assert_eq!(by_rank(&Choice::new(3), Want::Connect), [0, 1, 2]);
    }

    #[test]
    fn the_lowest_round_trip_wins_and_ties_go_by_rank() {
        let rtt = |rank| Some(Duration::from_millis([30, 10, 10, 20][rank]));
        assert_eq!(Choice::new(4).order(Want::Connect, |_| false, rtt), [1, 2, 3, 0]);
    }

    #[test]
    fn the_home_comes_first_and_alone_if_the_session_cannot_be_transferred() {
        let mut choice = Choice::new(3);
        choice.taken_by(2);
        assert_eq!(by_rank(&choice, Want::Resume { transferable: true }), [2, 0, 1]);
        assert_eq!(by_rank(&choice, Want::Resume { transferable: false }), [2]);
    }

    #[test]
    fn an_overloaded_server_is_tried_last_and_returns_when_its_entry_has_aged() {
        let mut list = Overloaded::default();
        let mut choice = Choice::new(2);
        let next = choice.refused(at(0), 0, Rejection::Overloaded(Duration::ZERO), &mut list, "a");
        assert_eq!(next, Next::Another);
        let names = ["a", "b"];
        let order = |choice: &Choice, now| {
            choice.order(Want::Connect, |r| list.contains(now, &names[r]), |_| None)
        };
        assert_eq!(order(&choice, at(1)), [1], "this session has asked it");
        assert_eq!(order(&Choice::new(2), at(1)), [1, 0]);
        assert_eq!(order(&Choice::new(2), at(6)), [0, 1]);
        assert_eq!(list.until(at(1), &"a"), Some(at(5)));
        assert_eq!(list.until(at(6), &"a"), None);
    }

    #[test]
    fn a_new_session_asks_each_server_once_and_then_says_why_not() {
        let mut list = Overloaded::default();
        let mut choice = Choice::new(2);
        let busy = Rejection::Overloaded(Duration::ZERO);
        assert_eq!(choice.refused(at(0), 0, busy, &mut list, 0), Next::Another);
        let next = choice.refused(at(0), 1, Rejection::Service(111), &mut list, 1);
        assert_eq!(next, Next::GiveUp(Rejection::Service(111)));
    }

    #[test]
    fn the_time_on_the_list_doubles_up_to_a_bound_and_a_success_forgets_it() {
        let mut list = Overloaded::default();
        list.add(at(0), "a", Duration::ZERO);
        list.add(at(5), "a", Duration::ZERO);
        assert!(list.contains(at(14), &"a"));
        assert!(!list.contains(at(15), &"a"));
        for k in 0..40 {
            list.add(at(20 + k), "a", Duration::ZERO);
        }
        assert!(!list.contains(at(59) + OVERLOADED_MAX, &"a"));
        list.remove(&"a");
        list.add(at(100), "a", Duration::from_secs(60));
        assert!(list.contains(at(159), &"a"));
        assert!(!list.contains(at(160), &"a"));
    }

    #[test]
    fn a_replica_that_differs_is_not_tried_again_by_this_session() {
        let mut list = Overloaded::default();
        let mut choice = Choice::new(3);
        choice.taken_by(0);
        assert_eq!(choice.refused(at(0), 1, Rejection::Seam, &mut list, 1), Next::Another);
        assert_eq!(by_rank(&choice, Want::Resume { transferable: true }), [0, 2]);
        assert_eq!(choice.struck(1), Some(Rejection::Seam));
    }

    #[test]
    fn a_server_that_forgot_the_session_may_take_it_anew_and_comes_first() {
        let mut list = Overloaded::default();
        let mut choice = Choice::new(2);
        choice.taken_by(1);
        assert_eq!(choice.refused(at(0), 1, Rejection::Unknown, &mut list, 1), Next::Another);
        assert_eq!(choice.home(), None);
        assert_eq!(by_rank(&choice, Want::Resume { transferable: true }), [1, 0]);
        assert!(by_rank(&choice, Want::Resume { transferable: false }).is_empty());
        choice.taken_by(1);
        assert_eq!(choice.home(), Some(1));
    }

    #[test]
    fn when_all_have_refused_for_good_the_cause_shown_is_that_of_the_content() {
        let mut list = Overloaded::default();
        let mut choice = Choice::new(2);
        choice.taken_by(0);
        choice.refused(at(0), 1, Rejection::Seam, &mut list, 1);
        choice.refused(at(0), 0, Rejection::Unknown, &mut list, 0);
        let next = choice.refused(at(0), 0, Rejection::WrongKey, &mut list, 0);
        assert_eq!(next, Next::GiveUp(Rejection::Seam));
    }

    #[test]
    fn a_request_that_may_not_be_repeated_waits_for_the_home_as_long_as_that_has_it() {
        let mut list = Overloaded::default();
        let mut choice = Choice::new(3);
        choice.taken_by(0);
        let transferable = Want::Resume { transferable: true };
        assert_eq!(choice.refused(at(0), 1, Rejection::Unsafe, &mut list, 1), Next::Another);
        assert_eq!(by_rank(&choice, transferable), [0]);
        assert!(choice.is_left_to_home());
        choice.taken_by(0);
        assert_eq!(by_rank(&choice, transferable), [0, 1, 2], "the next request may be another");
        choice.refused(at(1), 2, Rejection::Expired, &mut list, 2);
        let next = choice.refused(at(1), 0, Rejection::Unknown, &mut list, 0);
        assert_eq!(next, Next::GiveUp(Rejection::Expired));
    }

    #[test]
    fn a_request_that_may_not_be_repeated_ends_a_session_without_a_home() {
        let mut list = Overloaded::default();
        let mut choice = Choice::new(3);
        choice.taken_by(0);
        choice.refused(at(0), 0, Rejection::Unknown, &mut list, 0);
        let next = choice.refused(at(0), 1, Rejection::Unsafe, &mut list, 1);
        assert_eq!(next, Next::GiveUp(Rejection::Unsafe));
    }

    #[test]
    fn a_session_is_left_to_its_home_when_others_have_refused_for_good() {
        let mut list = Overloaded::default();
        let mut choice = Choice::new(3);
        choice.taken_by(0);
        assert!(!choice.is_left_to_home());
        choice.refused(at(0), 1, Rejection::Seam, &mut list, 1);
        assert!(choice.is_left_to_home(), "the third may be away for ever");
        assert_eq!(choice.worst(), Rejection::Seam);
        let mut lone = Choice::new(1);
        lone.taken_by(0);
        assert!(!lone.is_left_to_home(), "no other server: wait");
    }

    #[test]
    fn a_server_that_did_not_have_it_is_asked_again_ever_more_rarely() {
        let mut choice = Choice::new(2);
        choice.taken_by(0);
        let mut again = |seconds| {
            choice.refuse(at(seconds), 1, Rejection::NotHere);
            choice.second_tries().collect::<Vec<_>>()
        };
        assert_eq!(again(10), [(1, at(12))]);
        assert_eq!(again(20), [(1, at(24))]);
        assert_eq!(again(30), [(1, at(38))]);
        choice.refuse(at(40), 1, Rejection::Seam);
        assert_eq!(choice.second_tries().count(), 0, "its copy differs for good");
    }

    #[test]
    fn a_server_that_still_compares_is_asked_again_and_hoped_for() {
        let mut choice = Choice::new(3);
        choice.taken_by(0);
        choice.refuse(at(1), 0, Rejection::Unknown);
        choice.refuse(at(1), 0, Rejection::Mismatch);
        choice.refuse(at(1), 1, Rejection::Seam);
        let wait = Duration::from_secs(4);
        assert_eq!(choice.refuse(at(2), 2, Rejection::Verifying(wait)), Next::Another);
        assert_eq!(choice.second_tries().collect::<Vec<_>>(), [(2, at(6))]);
        assert!(!choice.is_left_to_home());
        let next = choice.refuse(at(7), 2, Rejection::Seam);
        assert_eq!(next, Next::GiveUp(Rejection::Seam));
    }

    #[test]
    fn a_refusing_home_is_left_at_once_and_a_silent_one_after_its_grace() {
        let leave = |home, away| leave_home_at(at(10), home, GRACE, at(10), away);
        assert_eq!(leave(View::Refuses, false), at(10));
        assert_eq!(leave(View::Silent, false), at(11));
    }

    #[test]
    fn after_an_outage_of_everything_the_home_has_its_grace_again() {
        assert_eq!(leave_home_at(at(0), View::Silent, GRACE, at(60), true), at(61));
        assert_eq!(leave_home_at(at(0), View::Silent, GRACE, at(60), false), at(60));
        let ms = Duration::from_millis;
        assert_eq!(
            [None, Some(ms(9)), Some(ms(150)), Some(ms(999))].map(grace),
            [GRACE, ms(300), ms(450), GRACE]
        );
    }
}
