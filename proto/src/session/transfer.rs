//! Tickets and the way to another server (R60 to R64).

use core::time::Duration;

use super::journal::HeldTicket;
use super::outbox::Control;
use super::{Event, PeerMisbehaved, Session, TicketOffer, WhyNot};
use crate::mutant::mutant;
use crate::role::Daemon;
use crate::seam::Seam;
use crate::state::State;
use crate::wire::{
    FEATURE_PASS, PASS_MAX, TICKET_MAX, TicketFrame, TransferReason, TransferRequest,
};

/// A server compares at least this many bytes a microsecond (50 MB a second), or is too slow.
const COMPARED_PER_US_MIN: u64 = 50;

impl Session {
    /// Acceptor: from now on acknowledgements move only by tickets and `release_acks` (R60).
    pub fn hold_acks(&mut self) {
        if self.role.daemon == Daemon::Server && !self.receive.hold && !self.send.fin_acked {
            self.receive.hold = true;
            self.receive.released = self.receive.released.max(self.receive.told_acked);
        }
    }

    /// Acceptor: acknowledges up to `covers` without a ticket.
    pub fn release_acks(&mut self, covers: u64) {
        self.receive.released = self.receive.released.max(covers.min(self.receive.received));
        self.ack_due |= self.receive.acked() > self.receive.told_acked;
    }

    /// Acceptor: gives a ticket to send at its place in the stream (R60). With it the broker may
    /// free what the ticket covers; acknowledgements follow when the broker surely has it.
    pub fn offer_ticket(&mut self, offer: TicketOffer) {
        assert!(offer.ticket.len() <= TICKET_MAX, "tickets are bounded where they are made");
        assert!(offer.covers <= self.receive.received, "a ticket covers what was received");
        if self.role.daemon == Daemon::Server && self.state != State::Closed {
            self.journal.push(offer);
        }
    }

    /// Acceptor: asks the broker to go elsewhere.
    pub fn request_transfer(&mut self, reason: TransferReason, text: &str) {
        if let (Daemon::Server, State::Active, Some(link)) =
            (self.role.daemon, self.state, self.links.attached)
        {
            self.outbox.frame(link, Control::AskTransfer(reason, text.to_string()));
            self.outbox.event(Event::LeaveAsked);
        }
    }

    /// Acceptor: gives the initiator a pass of at most [`crate::wire::PASS_MAX`] bytes (R80). False
    /// if the initiator knows no passes, or if there is no link now.
    pub fn give_pass(&mut self, pass: &[u8]) -> bool {
        let knows = self.peer_features & FEATURE_PASS != 0 && pass.len() <= PASS_MAX;
        match self.links.attached {
            Some(link)
                if knows && self.role.daemon == Daemon::Server && self.state == State::Active =>
            {
                self.outbox.frame(link, Control::Pass(pass.into()));
                true
            }
            _ => false,
        }
    }

    /// Acceptor: whether the broker can have everything of this session again, by its ticket or
    /// anew. Without a link the session can then end as if this server had died.
    #[must_use]
    pub fn can_be_had_again(&self) -> bool {
        let unlinked = self.links.attached.is_none() && self.state != State::Closed;
        let lets_go = self.receive.hold && self.journal.lets_go(self.send.heard);
        unlinked && mutant!(GivesUpUnique, lets_go, true)
    }

    /// Initiator: sets the rate that the session is used to, in bytes a second. Another server is
    /// told it (STP 10).
    pub fn want_rate(&mut self, rate: u64) {
        self.rate_wanted = rate;
    }

    /// Initiator: declines to go elsewhere, when the server asked for it.
    pub fn decline_transfer(&mut self, reason: TransferReason) {
        if let (Daemon::Broker, State::Active, Some(link)) =
            (self.role.daemon, self.state, self.links.attached)
        {
            self.outbox.frame(link, Control::Stay(reason));
        }
    }

    /// Initiator: keeps the newest ticket, which acknowledges what it covers (R63).
    pub(super) fn on_ticket(&mut self, ticket: &TicketFrame<'_>) -> Result<(), PeerMisbehaved> {
        let received = self.receive.received;
        if ticket.at > received {
            return Err(PeerMisbehaved::WrongTicket { position: ticket.at, reached: received });
        }
        if ticket.covers > self.send.nxt {
            let reached = self.send.nxt;
            return Err(PeerMisbehaved::WrongTicket { position: ticket.covers, reached });
        }
        self.overtaken(Some(ticket));
        self.send.heard = self.send.heard.max(ticket.covers);
        self.send.free(ticket.covers);
        // The digest goes on while the replica's first comparable byte stays the same.
        let same = self.seam.as_ref().is_some_and(|seam| seam.from() == ticket.seam_from);
        if !ticket.transferable {
            self.seam = None;
        } else if !same {
            let fresh = || Box::new(Seam::new(ticket.seam_from, self.limits.seam_block));
            self.seam = (ticket.seam_from >= received).then(fresh);
        }
        let (covers, transferable) = (ticket.covers, ticket.transferable);
        let ticket = ticket.ticket.into();
        self.held = Some(Box::new(HeldTicket { covers, transferable, ticket }));
        self.outbox.event(Event::TicketStored { covers, transferable });
        Ok(())
    }

    /// What a transfer CONNECT would carry now.
    pub fn transfer_request(&self) -> TransferRequest<'_> {
        let reached = |seam: &&Seam| seam.position() == self.receive.received;
        TransferRequest {
            ticket: self.held.as_ref().map(|held| &*held.ticket),
            covers: self
                .held
                .as_ref()
                .map_or(0, |held| mutant!(TicketKeptBack, held.covers, held.covers + 1)),
            down: self.receive.received,
            up_from: self.send.una(),
            up_sent: self.send.max,
            up_fin: self.send.fin,
            epoch: self.epoch,
            seam: self.seam.as_deref().filter(reached).map(Seam::proof),
        }
    }

    /// How long another server may take for its answer: it compares the whole prefix first.
    pub(super) fn transfer_patience(&self) -> Duration {
        let prefix = self.seam.as_ref().map_or(0, |seam| seam.position() - seam.from());
        self.limits.connect_timeout + Duration::from_micros(prefix / COMPARED_PER_US_MIN)
    }

    /// Initiator: why the server said that the session cannot go on elsewhere, if it said so.
    pub fn why_fixed(&self) -> Option<String> {
        let held = self.held.as_ref().filter(|held| !held.transferable)?;
        let text = String::from_utf8_lossy(&held.ticket);
        let clean: String = text.chars().filter(|c| !c.is_control()).take(200).collect();
        (!clean.is_empty()).then_some(clean)
    }

    /// Initiator: whether a transfer is possible now (R64).
    pub fn transferable(&self) -> Result<(), WhyNot> {
        if self.state == State::Closed {
            return Err(WhyNot::Closed);
        }
        if !self.established {
            return Err(WhyNot::NotEstablished);
        }
        let kept = self.send.una();
        match &self.held {
            Some(held) if !held.transferable => Err(WhyNot::NotTransferable),
            Some(held) if kept > held.covers => Err(WhyNot::Freed { covers: held.covers, kept }),
            Some(_) => Ok(()),
            // Nothing was acknowledged or received: any server can begin.
            None if kept == 0 && self.receive.received == 0 => Ok(()),
            None => Err(WhyNot::NoTicket),
        }
    }
}
