//! Make before break: a planned transfer whose new link is opened beside the old one (R65–R67).
//!
//! Until the new server has caught up, the session stays ACTIVE on the old link: bytes still come,
//! `received` grows, and tickets and acknowledgements are taken. Only what the new server was
//! promised is not freed. The new server's stream begins where the request said. What the broker
//! has had from the old one since then is compared and dropped. The first byte that is new moves
//! the session over, in one instant (T12 and T14 at once). So the app's stream has no gap, a server
//! that is slower than the old one never gets the session, and a replica that differs after the
//! seam is found out before it matters.
//!
//! This is done only inside an answer whose bytes can be compared, that is, while there is a seam
//! digest. Between answers the request decides what comes, and two servers may answer it in
//! different words. There, and when the old link is gone anyway, the session detaches first.

use super::attempt::next_epoch;
use super::clock::Timer;
use super::links::{Answer, Beside, OwnTicket};
use super::outbox::Control;
use super::{Attempt, Denied, Detach, Event, LinkId, LostCause, Session, code};
use crate::cut::Cuts;
use crate::seam::Seam;
use crate::state::{State, StateEvent};
use crate::time::Instant;
use crate::wire::{
    Announce, Checkpoint, Close, ConnectDenied, ConnectMode, ConnectOk, Data, DenyReason, Frame,
    Report, TicketFrame,
};

/// Most announcements of a server that does not have the session yet.
const ANNOUNCED_MAX: usize = 8;

impl Session {
    /// Whether another server is being asked while the attached one goes on.
    pub fn is_moving(&self) -> bool {
        self.beside.is_some()
    }

    /// The link that must not be read for now, so that the new server can catch up (R66).
    pub fn paused(&self) -> Option<LinkId> {
        self.links.attached.filter(|_| self.beside.as_ref().is_some_and(|beside| beside.paused))
    }

    /// R66: a server that has not caught up in time gets the path for itself for a while. If that
    /// does not help, or if it has not even answered, it is given up.
    pub(super) fn beside_late(&mut self, now: Instant, link: LinkId) {
        let catch_up = self.limits.catch_up_max;
        match &mut self.beside {
            Some(beside) if beside.answer.is_some() && !beside.paused => {
                beside.paused = true;
                self.clock.set(Timer::Attempt, now + catch_up);
            }
            Some(_) => self.beside_lost(link, LostCause::Unanswered),
            None => {}
        }
    }

    /// Whether a link to another server is opened beside the attached one (R65).
    pub(super) fn goes_beside(&self) -> bool {
        self.state == State::Active
            && self.links.attached.is_some()
            && !self.receive.fin
            && self.transfer_request().seam.is_some()
    }

    /// Sends CONNECT on the new link, while the old one goes on.
    pub(super) fn start_beside(&mut self, now: Instant, link: LinkId) {
        self.drop_beside(Detach::Close);
        self.epoch = next_epoch(self.epoch, self.role.opening);
        let request = self.transfer_request();
        let (covers, down) = (request.covers, request.down);
        let seam_from = request.seam.as_ref().map_or(down, |proof| proof.from);
        let mut connect = Vec::new();
        self.connect(ConnectMode::Transfer(request)).encode(&mut connect);
        let seam = Seam::new(down, self.limits.seam_block);
        self.beside = Some(Box::new(Beside {
            link,
            covers,
            seam_from,
            old: seam.clone(),
            new: seam,
            told: down,
            paused: false,
            cuts: Cuts::start(covers, down),
            answer: None,
            ticket: None,
            announced: Vec::new(),
        }));
        self.send.pin(covers);
        self.clock.stop(Timer::Retry);
        self.clock.set(Timer::Attempt, now + self.transfer_patience());
        self.outbox.frame(link, Control::Encoded(connect));
    }

    pub(super) fn is_beside(&self, link: LinkId) -> bool {
        self.beside.as_ref().is_some_and(|beside| beside.link == link)
    }

    /// The link on which another server is asked.
    pub(super) fn beside_link(&self) -> Option<LinkId> {
        self.beside.as_ref().map(|beside| beside.link)
    }

    /// Ends the attempt; the attached link goes on.
    pub(super) fn drop_beside(&mut self, how: Detach) {
        if let Some(beside) = self.beside.take() {
            self.send.unpin();
            self.clock.stop(Timer::Attempt);
            if how == Detach::Linger {
                let moved = Close::Reset { code: code::MOVED };
                self.outbox.frame(beside.link, Control::Close(moved));
            }
            self.outbox.detach(beside.link, how);
        }
    }

    /// The new link failed; the old one goes on.
    pub(super) fn beside_lost(&mut self, link: LinkId, cause: LostCause) {
        let how = match cause {
            LostCause::Broken => Detach::Close,
            LostCause::Silent | LostCause::Unanswered | LostCause::Overtaken => Detach::Linger,
        };
        self.drop_beside(how);
        self.outbox.event(Event::Lost { link, cause });
    }

    /// Takes a frame of the new server while the session is not there yet. If DATA brings bytes
    /// that are new, returns them: then the session has moved. What does not fit harms the new link
    /// alone.
    pub(super) fn on_beside<'b>(
        &mut self,
        now: Instant,
        link: LinkId,
        frame: Frame<'b>,
    ) -> Option<Data<'b>> {
        match frame {
            Frame::ConnectOk(ok) => self.beside_accepted(now, link, &ok),
            Frame::ConnectDenied(denied) => self.beside_denied(&denied),
            Frame::Data(data) => return self.beside_data(now, link, data),
            Frame::Ticket(ticket) => self.beside_ticket(link, &ticket),
            Frame::Checkpoint(checkpoint) => self.beside_checkpoint(link, checkpoint),
            Frame::Announce(announce) => self.beside_announced(link, announce),
            // The server will give another one after the move.
            Frame::Pass(_) => {}
            // What can be continued elsewhere comes of services without urgent bytes.
            Frame::Urgent(_) => {}
            _ => self.beside_lost(link, LostCause::Broken),
        }
        None
    }

    fn beside_accepted(&mut self, now: Instant, link: LinkId, ok: &ConnectOk<'_>) {
        let known = self.send.una()..=self.send.max;
        let Some(beside) = &mut self.beside else { return };
        let asked = beside.old.from();
        let fits = ok.initiator == self.initiator
            && ok.epoch == self.epoch
            && known.contains(&ok.up)
            && ok.down == asked
            && ok.limit >= ok.up
            && beside.answer.is_none();
        beside.cuts = Cuts::start(ok.up, ok.down);
        if !fits {
            let text = format!("its answer does not fit: up {}, down {}", ok.up, ok.down);
            self.drop_beside(Detach::Close);
            return self.event_denied(DenyReason::Mismatch, text);
        }
        beside.answer = Some(Answer {
            acceptor: ok.acceptor,
            epoch: ok.epoch,
            features: ok.features,
            up: ok.up,
            limit: ok.limit,
            hold: ok.hold,
            upkeep: ok.upkeep,
            server: ok.server.into(),
        });
        if self.receive.received == asked {
            self.move_over(now, link);
        } else {
            // R23: the server must learn that its answer arrived.
            self.tell_beside();
            self.clock.set(Timer::Attempt, now + self.limits.catch_up);
        }
    }

    fn beside_denied(&mut self, denied: &ConnectDenied<'_>) {
        self.drop_beside(Detach::Close);
        let (why, retry_after) = (denied.why, denied.retry_after);
        let (attempt, text) = (Attempt::Transfer, denied.text.to_string());
        self.outbox.event(Event::Denied(Denied::Connect { attempt, why, retry_after, text }));
    }

    fn event_denied(&mut self, why: DenyReason, text: String) {
        let (attempt, retry_after) = (Attempt::Transfer, core::time::Duration::ZERO);
        self.outbox.event(Event::Denied(Denied::Connect { attempt, why, retry_after, text }));
    }

    /// R66: compares and drops the bytes that are here already; the first new byte moves the
    /// session.
    fn beside_data<'b>(&mut self, now: Instant, link: LinkId, data: Data<'b>) -> Option<Data<'b>> {
        let received = self.receive.received;
        let beside = self.beside.as_mut()?;
        if beside.paused {
            // The old link is not attached any more, so there is nothing to compare with.
            self.clock.alive(now);
        }
        let next = beside.new.position();
        if data.position != next || beside.answer.is_none() {
            self.beside_lost(link, LostCause::Broken);
            return None;
        }
        let missing = usize::try_from(received - next).unwrap_or(usize::MAX);
        let (known, fresh) = data.bytes.split_at(missing.min(data.bytes.len()));
        beside.new.update(next, known);
        let reached = beside.new.position();
        if fresh.is_empty() && reached < received {
            if reached - beside.told >= (self.limits.ack_every as u64).max(1) {
                self.tell_beside();
            }
            return None;
        }
        if beside.new != beside.old {
            let from = beside.old.from();
            self.drop_beside(Detach::Linger);
            let text = format!("its bytes from {from} to {received} differ");
            self.event_denied(DenyReason::Seam, text);
            return None;
        }
        self.move_over(now, link);
        (!fresh.is_empty()).then_some(Data { position: received, bytes: fresh })
    }

    fn beside_checkpoint(&mut self, link: LinkId, checkpoint: Checkpoint) {
        let limit = self.receive.told_limit;
        let Some((beside, up)) = self.beside.as_mut().and_then(|beside| {
            let up = beside.answer.as_ref()?.up;
            Some((beside, up))
        }) else {
            return self.beside_lost(link, LostCause::Broken);
        };
        let received = beside.new.position();
        let report = Report { received, acked: received, limit };
        let theirs = match checkpoint {
            Checkpoint::Request { report, .. }
            | Checkpoint::Answer { report, .. }
            | Checkpoint::Confirm { report, .. }
            | Checkpoint::Ack { report, .. } => report,
        };
        if let Some(answer) = &mut beside.answer {
            answer.limit = answer.limit.max(theirs.limit);
        }
        let fits = match checkpoint {
            Checkpoint::Request { id, sent, .. } if sent == received => {
                match beside.cuts.on_request(id, sent, up, self.role.opening) {
                    Ok(Some(cut)) => {
                        beside.told = received;
                        let answer = Checkpoint::Answer { id: cut.id, sent: cut.sent, report };
                        self.outbox.frame(link, Control::Checkpoint(answer));
                        true
                    }
                    Ok(None) => true,
                    Err(_) => false,
                }
            }
            Checkpoint::Confirm { id, .. } => beside.cuts.on_confirm(id).is_ok(),
            Checkpoint::Ack { echo, .. } => {
                if echo {
                    self.tell_beside();
                }
                true
            }
            Checkpoint::Request { .. } | Checkpoint::Answer { .. } => false,
        };
        if !fits || theirs.received > up {
            self.beside_lost(link, LostCause::Broken);
        }
    }

    fn beside_ticket(&mut self, link: LinkId, ticket: &TicketFrame<'_>) {
        let Some(beside) = &mut self.beside else { return };
        let fits = beside.answer.as_ref().is_some_and(|answer| ticket.covers <= answer.up);
        if !fits || ticket.at > beside.new.position() {
            return self.beside_lost(link, LostCause::Broken);
        }
        beside.ticket = Some(Box::new(OwnTicket {
            at: ticket.at,
            covers: ticket.covers,
            seam_from: ticket.seam_from,
            transferable: ticket.transferable,
            ticket: ticket.ticket.into(),
        }));
    }

    /// Does what is left to do once the session has moved.
    fn beside_announced(&mut self, link: LinkId, announce: Announce) {
        let Some(beside) = &mut self.beside else { return };
        if announce.at > beside.new.position() || beside.announced.len() >= ANNOUNCED_MAX {
            return self.beside_lost(link, LostCause::Broken);
        }
        beside.announced.push(announce);
    }

    /// Acknowledges to the new server what came again.
    fn tell_beside(&mut self) {
        let limit = self.receive.told_limit;
        if let Some(beside) = &mut self.beside {
            let received = beside.new.position();
            beside.told = received;
            let report = Report { received, acked: received, limit };
            let ack = Checkpoint::Ack { echo: false, report };
            self.outbox.frame(beside.link, Control::Checkpoint(ack));
        }
    }

    /// R66: moves the session. From this instant on nothing is heard from the old server, which is
    /// told.
    fn move_over(&mut self, now: Instant, link: LinkId) {
        let Some(beside) = self.beside.take() else { return };
        let Some(answer) = beside.answer else { return };
        self.send.forget_owed();
        if let Some(old) = self.links.attached.take() {
            let moved = Close::Reset { code: code::MOVED };
            self.outbox.frame(old, Control::Close(moved));
            self.outbox.detach(old, Detach::Linger);
        }
        self.step(StateEvent::LinkLost);
        self.step(StateEvent::LinkUp);
        self.links.trying = Some((link, Attempt::Transfer));
        self.clock.unlinked = Some(now);
        let ok = ConnectOk {
            initiator: self.initiator,
            acceptor: answer.acceptor,
            epoch: answer.epoch,
            features: answer.features,
            up: answer.up,
            down: beside.old.from(),
            limit: answer.limit,
            hold: answer.hold,
            tombstone: self.limits.tombstone,
            server: &answer.server,
            upkeep: answer.upkeep,
        };
        self.adopt_connect_ok(now, link, Attempt::Transfer, true, &ok);
        self.cuts = beside.cuts;
        // What the server knows of our position and limit is as old as the request.
        self.ack_due = true;
        if let Some(own) = beside.ticket {
            let OwnTicket { at, covers, seam_from, transferable, ticket } = *own;
            let ticket = TicketFrame { at, covers, seam_from, transferable, ticket: &ticket };
            let _it_was_checked = self.on_ticket(&ticket);
        }
        for announce in &beside.announced {
            let _it_was_checked = self.on_announce(announce);
        }
    }

    /// Takes note of bytes from the old server while another one is asked.
    pub(super) fn note_beside(&mut self, position: u64, bytes: &[u8]) {
        if let Some(beside) = &mut self.beside {
            beside.old.update(position, bytes);
        }
    }

    /// R65: the stream has gone on to something that the new server was not told of.
    pub(super) fn overtaken(&mut self, ticket: Option<&TicketFrame<'_>>) {
        let Some(beside) = &self.beside else { return };
        let same = ticket.is_some_and(|ticket| {
            ticket.transferable
                && (ticket.covers, ticket.seam_from) == (beside.covers, beside.seam_from)
        });
        if !same {
            self.beside_lost(beside.link, LostCause::Overtaken);
        }
    }
}
