//! What is under way beside a session's link.

use std::collections::VecDeque;

use super::action::Relay;
use crate::select::Rank;
use crate::wire::TransferReason;

/// What is under way beside the link that a session has. There is one at most, so two decisions
/// cannot be made at once.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Default)]
pub enum Change {
    /// Nothing.
    #[default]
    Nothing,
    /// Ways are being measured, to decide whether it leaves its server or changes its way.
    Deciding(Question),
    /// It goes to another server.
    Move(Move),
    /// It goes to the same server by another way.
    Turn(Turn),
}

/// What is to be decided.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Question {
    /// Why the session was asked to leave.
    pub reason: TransferReason,
    /// The same for a person.
    pub text: String,
    /// Whether its user asks.
    pub by_user: bool,
    /// It cannot go to another server, only by another way.
    pub ways_only: bool,
}

/// A move that was decided.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Move {
    /// Where to, the best first; never empty.
    pub order: VecDeque<Rank>,
    /// Why, for the history.
    pub why: String,
    /// For the sake of speed: the server that is left is to be left alone for a while.
    pub for_speed: bool,
    /// The service behind its server gives no more: to stay would be the end of it.
    pub service_failed: bool,
    /// Its user wants it.
    pub by_user: bool,
    /// How often the stream has overtaken it.
    pub overtaken: u32,
}

/// A change of the way that was decided.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Turn {
    /// Through which server; none: straight.
    pub via: Option<Relay>,
    /// Why, for the history.
    pub why: String,
    /// For the sake of speed: there is no other change for a while after it.
    pub for_speed: bool,
}
