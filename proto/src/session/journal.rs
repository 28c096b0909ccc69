//! The acceptor's tickets: kept in stream order until the broker surely has them (R60 to R62).

use std::collections::VecDeque;

use crate::mutant::mutant;

/// A ticket for the broker (R60).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct TicketOffer {
    /// Down position before whose DATA it is sent.
    pub at: u64,
    /// Up position it covers.
    pub covers: u64,
    /// First down position that can be compared on a replica.
    pub seam_from: u64,
    /// Whether it allows a transfer.
    pub transferable: bool,
    /// Sealed bytes, at most [`crate::wire::TICKET_MAX`].
    pub ticket: Vec<u8>,
}

/// The newest ticket, at the broker.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct HeldTicket {
    pub covers: u64,
    pub transferable: bool,
    pub ticket: Box<[u8]>,
}

/// Tickets offered, each sent just before the DATA at its place.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Journal {
    /// By rising `at`; the first is the newest the broker may need again.
    tickets: VecDeque<TicketOffer>,
    /// Index of the next one to send on the attached link.
    next: usize,
    bytes: usize,
    /// The last ticket that the broker needed no more did not let it go.
    bound: bool,
}

impl Journal {
    /// R60: `at` and `covers` never go back.
    pub fn push(&mut self, mut offer: TicketOffer) {
        if let Some(last) = self.tickets.back() {
            offer.at = offer.at.max(last.at);
            offer.covers = offer.covers.max(last.covers);
        }
        self.bytes += offer.ticket.len();
        self.tickets.push_back(offer);
    }

    /// The ticket due before the byte at `nxt`.
    pub fn due(&self, nxt: u64) -> Option<&TicketOffer> {
        self.tickets.get(self.next).filter(|ticket| ticket.at <= nxt)
    }

    /// The due ticket was sent.
    pub fn sent(&mut self) {
        self.next += 1;
    }

    /// Bytes that may be sent from `nxt` on before the next ticket.
    pub fn distance(&self, nxt: u64) -> u64 {
        self.tickets.get(self.next).map_or(u64::MAX, |ticket| ticket.at - nxt)
    }

    /// R61: the broker has received up to `heard`. Returns the up position it surely holds a ticket
    /// for: a ticket precedes the byte at its place.
    pub fn on_heard(&mut self, heard: u64) -> Option<u64> {
        let sure = self
            .tickets
            .iter()
            .take(self.next)
            .take_while(|ticket| mutant!(TicketAtOnce, ticket.at < heard, ticket.at <= heard))
            .last()
            .map(|ticket| ticket.covers);
        // No resume continues below `heard`: only the newest ticket at or before it is needed
        // again.
        while self.next > 1 && self.tickets.get(1).is_some_and(|second| second.at <= heard) {
            if let Some(first) = self.tickets.pop_front() {
                self.bytes -= first.ticket.len();
                self.bound = !first.transferable;
            }
            self.next -= 1;
        }
        sure
    }

    /// R62: a resume continues at `position`: the newest ticket at or before it goes again first.
    pub fn roll_back(&mut self, position: u64) {
        let before = self.tickets.iter().take_while(|ticket| ticket.at <= position).count();
        self.next = self.next.min(before.saturating_sub(1));
    }

    /// Whether every ticket that the broker may have lets it go to another server. If it has none
    /// yet, it has nothing else either, and may go anywhere.
    pub fn lets_go(&self, heard: u64) -> bool {
        let mut sent = self.tickets.iter().take(self.next);
        let sure = sent.next().is_some_and(|first| first.at < heard);
        (sure || !self.bound) && self.tickets.iter().all(|ticket| ticket.transferable)
    }

    /// Whether none was ever offered that the broker may need again.
    pub fn is_empty(&self) -> bool {
        self.tickets.is_empty()
    }

    /// Bytes of tickets held.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
