//! The tickets of one session, and whether one is due.

use crate::replay::http::exchange::Exchange;
use crate::time::Instant;

/// A ticket to be sent before the byte at its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// Down position before whose byte it is sent.
    pub at: u64,
    /// Up position that it covers.
    pub covers: u64,
    /// First down position that can be compared on a replica.
    pub seam_from: u64,
    /// What it says, or why the session cannot be continued from here on.
    pub exchange: Result<Exchange, String>,
}

/// What the broker has for the exchange under way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Held {
    /// No ticket of this exchange.
    Nothing,
    /// A ticket with which it can be continued.
    Ticket,
    /// The word that it cannot be continued.
    Disclaimer,
}

/// The tickets of one session.
#[derive(Debug)]
pub(super) struct Tickets {
    /// The server can make them.
    pub(super) made: bool,
    pub(super) held: Held,
    /// The response head that is held back has had its ticket.
    pub(super) before_head: bool,
    /// An exchange without a ticket is over: one is due.
    pub(super) due: bool,
    pub(super) refreshed: Instant,
}

impl Tickets {
    pub fn new(made: bool, ticketed: bool) -> Self {
        let held = if ticketed { Held::Ticket } else { Held::Nothing };
        Self { made, held, before_head: false, due: false, refreshed: Instant::default() }
    }

    /// One is due.
    pub fn is_due(&self) -> bool {
        self.due
    }

    /// `lasting`: a ticket of the exchange does not say that it is over.
    pub fn exchange_ended(&mut self, lasting: bool) {
        self.due |= self.held != Held::Ticket || lasting;
        self.held = Held::Nothing;
    }
}
