//! What a course is asked, what it says is to be done, and what it asks of its surroundings.

use core::fmt;
use core::time::Duration;

use super::search::{AppError, Candidate, Deadlines, Wanted};
use super::standing::Ways;
use crate::mutant::mutant;
use crate::rise::Way;
use crate::select::{Choice, Rank, Want};
use crate::session::{Attempt, LostCause};
use crate::time::Instant;
use crate::wire::TransferReason;

/// A server through which another one is reached, by its public key.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Relay(pub [u8; 32]);

/// Where a link leads.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub struct Target {
    /// The server.
    pub rank: Rank,
    /// The server through which it is reached; none: straight.
    pub via: Option<Relay>,
}

/// What a course asks of its surroundings while it decides.
pub trait Around: Ways {
    /// What a server is called.
    fn server_name(&self, server: Rank) -> String;

    /// What a relay is called.
    fn relay_name(&self, relay: Relay) -> String;

    /// Until when a server is on the overloaded list, if it is now.
    fn listed_until(&self, now: Instant, server: Rank) -> Option<Instant>;

    /// The round trip to a server, as far as it is known.
    fn round_trip(&self, server: Rank) -> Option<Duration>;

    /// Whether one more session may leave this server for the sake of speed now; counts it.
    fn take_exit(&self, now: Instant, server: Rank) -> bool;
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// The session is to ask for a link now.
    Retry,
    /// The session is to ask for a link after this pause.
    RetryIn(Duration),
    /// The server is to be told that the session stays where it is.
    Stay(TransferReason),
    /// The session is over: no server can go on with it.
    GiveUp {
        /// For the app.
        error: AppError,
        /// For the log, the status and the list of ended sessions.
        why: String,
    },
    /// The ways to these servers are to be measured, for [`super::Course::handle_measured`]. A
    /// measurement that is still under way is of no use any more.
    Measure {
        /// The session's home.
        home: Rank,
        /// The others.
        others: Vec<Rank>,
    },
    /// The straight way to the home and those through relays are to be measured, for
    /// [`super::Course::handle_ways_measured`].
    MeasureWays {
        /// The session's home.
        home: Rank,
    },
    /// From now on, and as long as [`super::Course::looks`] says so, the present way and the
    /// straight one are to be measured every few seconds, for [`super::Course::handle_looked`].
    Look,
    /// A server is to be left alone by all sessions for a while.
    List(Rank, Duration),
    /// A server has taken a session: it is off the overloaded list.
    Unlist(Rank),
    /// A link to this server, or to this relay, was lost in this way: spares are to be looked at.
    Doubt(Target, LostCause),
    /// For the log.
    Log {
        /// What is about to happen.
        what: &'static str,
        /// The reason, in words.
        cause: String,
    },
    /// For the session's history and the log.
    Note {
        /// What happened.
        what: &'static str,
        /// The reason, in words.
        cause: String,
    },
    /// For the session's history and the log: it has a link.
    NoteLink {
        /// How it came to it.
        attempt: Attempt,
        /// The server before.
        from: Option<Rank>,
        /// The server now.
        to: Option<Rank>,
        /// For how long nothing can have come through.
        gap: Duration,
        /// Why the link before was lost or left.
        cause: String,
    },
}

/// Where a session that asks for a link is to be dialed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Dial {
    /// At this server: a move was decided. The link it has goes on.
    Move(Rank),
    /// At its home, by this way: a change of the way was decided. The link it has goes on.
    Turn(Target),
    /// Wherever it can be had.
    Search(Seek),
}

/// A search that is to begin. It is separate from the course because the first choice of a new
/// session waits for a measurement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seek {
    /// What the session looks for.
    pub want: Want,
    /// The servers, as the session knows them.
    pub(crate) choice: Choice,
    /// The server that the user wants to be left.
    pub(crate) leave: Option<Rank>,
    /// The home lets itself be connected to and then says nothing: it is asked last.
    pub(crate) home_last: bool,
    /// When a new session gives up.
    pub(crate) connect_until: Instant,
    /// When the session lost its link.
    pub(crate) lost_at: Instant,
    /// How long it waits for its home, if no other server can go on with it.
    pub(crate) deadlines: Deadlines,
}

/// A server that the user wants a session to leave is asked again if no other server has given a
/// link after this time. It is longer than most outages of the whole network.
const LEFT_FOR: Duration = Duration::from_secs(20);
/// Servers measured before a first choice.
const FIRST_ASKED: usize = 3;

impl Seek {
    /// The servers that are worth measuring before the first choice (STP 3): the best ones, if
    /// there is a choice at all.
    #[must_use]
    pub fn measured_first(&self, now: Instant, around: &impl Around) -> Vec<Rank> {
        if self.want != Want::Connect {
            return Vec::new();
        }
        let mut order = self.order(now, around);
        if order.len() < 2 {
            return Vec::new();
        }
        order.truncate(FIRST_ASKED);
        order
    }

    /// The servers that may be asked, best first. A server that is hardly farther than the nearest
    /// counts as just as near.
    fn order(&self, now: Instant, around: &impl Around) -> Vec<Rank> {
        let rtts: Vec<_> = (0..self.choice.servers()).map(|rank| around.round_trip(rank)).collect();
        let rtts = crate::select::near_enough(&rtts);
        let listed = |rank| around.listed_until(now, rank).is_some();
        self.choice.order(self.want, listed, |rank| rtts[rank])
    }

    /// What is looked for.
    #[must_use]
    pub fn wanted(&self, now: Instant, around: &impl Around) -> Wanted {
        let established = self.want != Want::Connect;
        let mut home = self.choice.home();
        let candidate = |rank: Rank| {
            let waits = established && Some(rank) != home;
            let waits = mutant!(ListIgnored, waits, false);
            let not_before = around.listed_until(now, rank).filter(|_| waits);
            Candidate { rank, not_before }
        };
        let mut order: Vec<_> = self.order(now, around).into_iter().map(candidate).collect();
        if let Some(leave) = mutant!(LeftAgain, self.leave, None)
            && order.len() > 1
        {
            order.retain(|candidate| candidate.rank != leave);
            let rank = leave;
            order.push(Candidate { rank, not_before: Some(now + LEFT_FOR) });
            home = home.filter(|rank| *rank != leave);
        }
        if self.want == (Want::Resume { transferable: true }) {
            let again = self.choice.second_tries().filter(|(rank, _)| Some(*rank) != home);
            let again =
                again.map(|(rank, at)| (rank, around.listed_until(now, rank).max(Some(at))));
            order.extend(again.map(|(rank, not_before)| Candidate { rank, not_before }));
        }
        if self.home_last && order.len() > 1 && order[0].rank == home.unwrap_or(usize::MAX) {
            order.rotate_left(1);
            home = None;
            // It is asked last even if all others have to wait a little.
            if let Some((last, others)) = order.split_last_mut()
                && others.iter().all(|one| self.choice.struck(one.rank).is_some())
            {
                last.not_before = others.iter().filter_map(|one| one.not_before).min();
            }
        }
        let others = (0..self.choice.servers()).filter(|rank| Some(*rank) != self.choice.home());
        let is_bound = self.is_bound_to_home() || self.choice.is_left_to_home();
        Wanted {
            order,
            home,
            give_up_at: (!established).then_some(self.connect_until),
            lost_at: self.lost_at,
            bound: (established && is_bound).then_some(self.deadlines),
            witnesses: others.collect(),
        }
    }

    /// The server that holds the session.
    #[must_use]
    pub fn home(&self) -> Option<Rank> {
        self.choice.home()
    }

    /// Whether only its home can go on with the session, so that it may be led there by a relay.
    #[must_use]
    pub fn is_bound_to_home(&self) -> bool {
        mutant!(RelayUnused, self.want == Want::Resume { transferable: false }, false)
    }
}

/// A way that was measured, and where it leads.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub struct Measured<T> {
    /// Where it leads.
    pub to: T,
    /// How far that is.
    pub way: Way,
}

/// Why a session has no link, or wants another one: shown as the cause when it has one again.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Hash)]
pub enum GapWhy {
    /// The link was lost.
    Lost(LostCause),
    /// It was suspended.
    Suspended {
        /// By the server; otherwise by the user.
        by_peer: bool,
    },
    /// The user wants it to go to another server.
    User,
    /// The address that the link left from is gone.
    AddressGone,
    /// It was busy and has fallen silent when the network changed.
    SilentSinceChange,
    /// The directory says that its server is elsewhere now.
    ServerMoved,
    /// Its policy prefers another interface.
    Policy,
    /// The broker was killed, or upgraded.
    Restarted,
}

impl fmt::Display for GapWhy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            GapWhy::Lost(LostCause::Broken) => "link broke",
            GapWhy::Lost(LostCause::Silent) => "link silent",
            GapWhy::Lost(LostCause::Unanswered) => "attempt unanswered",
            GapWhy::Lost(LostCause::Overtaken) => "overtaken",
            GapWhy::Suspended { by_peer: true } => "suspended by the server",
            GapWhy::Suspended { by_peer: false } => "suspended here",
            GapWhy::User => "moved by the user",
            GapWhy::AddressGone => "address gone",
            GapWhy::SilentSinceChange => "silent since the network changed",
            GapWhy::ServerMoved => "server moved",
            GapWhy::Policy => "its policy prefers another interface",
            GapWhy::Restarted => "the broker was restarted",
        })
    }
}

/// Why a session cannot be moved by its user now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CannotMove {
    /// There is nowhere else to go.
    OnlyServer,
    /// The session cannot be continued elsewhere.
    NotTransferable(crate::session::WhyNot),
    /// No server holds it now.
    Homeless,
    /// A move or a change of its way is under way already.
    UnderWay,
    /// It is there.
    There(String),
    /// It has no link, so it looks for a server by itself.
    NoLink,
}

impl fmt::Display for CannotMove {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            CannotMove::OnlyServer => f.write_str("its service has only one server"),
            CannotMove::NotTransferable(why) => write!(f, "it cannot be moved: {why}"),
            CannotMove::Homeless => f.write_str("it has no server now"),
            CannotMove::UnderWay => f.write_str("it is about to move already"),
            CannotMove::There(server) => write!(f, "it is at {server} already"),
            CannotMove::NoLink => {
                f.write_str("it has no link now; it looks for a server by itself")
            }
        }
    }
}

/// The session stays where it is; its server is told.
pub(super) fn stays(reason: TransferReason, why: String) -> Vec<Action> {
    let mut actions = vec![Action::Note { what: "stays", cause: why }];
    mutant!(StayUntold, actions.push(Action::Stay(reason)), ());
    actions
}
