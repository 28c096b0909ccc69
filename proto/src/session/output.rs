//! `poll_output`: what goes out, one thing at a time.
//!
//! First comes what is queued, in order. Then, on the attached link, come acknowledgements (they
//! free the peer's memory) and the proposal of a cut; then, as long as the link has room, tickets
//! and DATA in stream order, and FIN after the last byte. Control frames never wait for room or
//! window (R34), so that a full buffer can always be emptied.

use super::clock::Timer;
use super::outbox::{Control, Queued};
use super::{Output, Session};
use crate::class::Class;
use crate::mutant::mutant;
use crate::state::State;
use crate::time::Instant;
use crate::wire::{
    Checkpoint, Close, Connect, ConnectMode, ConnectOk, FEATURE_URGENT, FEATURES, PassFrame,
    Report, TicketFrame, Transfer, Upkeep, Urgent, VERSION, encode_data,
};

impl Session {
    /// The next thing to do. DATA goes out only if `room` says that the link has room. If the
    /// answer is [`Output::Frame`], exactly one frame was appended to `out`, otherwise none.
    pub fn poll_output(&mut self, now: Instant, room: bool, out: &mut Vec<u8>) -> Output {
        if let Some(output) = self.poll_queue(out) {
            return output;
        }
        if self.state == State::Active
            && let Some(link) = self.links.attached
        {
            if self.poll_control(now, out) || (room && self.poll_stream(now, out)) {
                return Output::Frame { link };
            }
            let before = self.journal.due(self.send.nxt).is_some()
                || self.announcing.due(self.send.nxt).is_some();
            if self.send.fin_due() && !before {
                self.send.fin_sent = true;
                self.send.fin_ever = true;
                Close::Fin { position: self.send.nxt }.encode(out);
                return Output::Frame { link };
            }
            // CLOSE ACK may have completed the session.
            if let Some(output) = self.poll_queue(out) {
                return output;
            }
        }
        Output::Wait(self.deadline())
    }

    fn poll_queue(&mut self, out: &mut Vec<u8>) -> Option<Output> {
        Some(match self.outbox.pop()? {
            Queued::Frame(link, control) => {
                self.encode(&control, out);
                Output::Frame { link }
            }
            Queued::Dial => Output::Dial,
            Queued::Detach(link, how) => Output::Detach { link, how },
            Queued::Shut(how) => Output::ShutNear(how),
            Queued::Event(event) => Output::Event(event),
        })
    }

    /// Acknowledgements and cuts.
    fn poll_control(&mut self, now: Instant, out: &mut Vec<u8>) -> bool {
        if self.receive.fin_ack_ready() {
            self.receive.fin_ack_due = false;
            self.told();
            Close::Ack { position: self.receive.received }.encode(out);
            self.check_complete(now);
            return true;
        }
        if self.ack_due || self.ask_due || self.receive.report_due(self.limits.ack_every) {
            let echo = core::mem::take(&mut self.ask_due);
            let report = self.told();
            Checkpoint::Ack { echo, report }.encode(out);
            return true;
        }
        if self.cut_wanted() {
            let cut = self
                .cuts
                .propose(mutant!(CutAhead, self.send.nxt, self.send.end()), self.receive.received);
            self.cut_made();
            if let Some(cut) = cut {
                let report = self.told();
                Checkpoint::Request { id: cut.id, sent: cut.sent, report }.encode(out);
                return true;
            }
        }
        false
    }

    /// A report goes out, so that no acknowledgement is pending any more.
    fn told(&mut self) -> Report {
        self.ack_due = false;
        self.clock.stop(Timer::Ack);
        self.receive.tell()
    }

    /// R41: a cut is due, because enough bytes moved, or enough time passed, or the buffer is full.
    fn cut_wanted(&self) -> bool {
        let full = self.send.buffer.len() >= self.limits.send_buffer_max;
        let due = self.cut_due || full || self.uncut >= self.limits.checkpoint_every as u64;
        let closing = self.send.fin_sent && self.receive.fin;
        due && !closing && self.cuts.may_propose(self.send.nxt, self.receive.received)
    }

    /// Tickets, the urgent mark (R12) and DATA, in stream order.
    fn poll_stream(&mut self, now: Instant, out: &mut Vec<u8>) -> bool {
        let nxt = self.send.nxt;
        // Who has the ticket has heard what it counts on.
        let first = mutant!(TicketFirst, true, self.journal.due(nxt).is_none());
        if let Some(announce) = self.announcing.due(nxt).filter(|_| first) {
            announce.encode(out);
            self.announcing.sent();
            return true;
        }
        if let Some(offer) = self.journal.due(nxt) {
            TicketFrame {
                at: offer.at,
                covers: offer.covers,
                seam_from: offer.seam_from,
                transferable: offer.transferable,
                ticket: &offer.ticket,
            }
            .encode(out);
            self.journal.sent();
            return true;
        }
        let most = self.limits.data_max.clamp(1, crate::wire::DATA_MAX) as u64;
        let count = self.send.sendable().min(self.journal.distance(nxt)).min(most);
        let count = count.min(self.announcing.distance(nxt));
        if count == 0 {
            return false;
        }
        let knows = self.peer_features & FEATURE_URGENT != 0;
        if knows && let Some(position) = self.send.urgent_due(count) {
            Urgent { position }.encode(out);
            self.send.urgent_said = true;
            return true;
        }
        let size = usize::try_from(count).expect("at most one frame");
        encode_data(nxt, self.send.buffer.at(nxt, size), out);
        self.send.transmitted(count);
        self.moved(now, size);
        true
    }

    /// The time at which the driver must say Timeout at the latest.
    fn deadline(&self) -> Option<Instant> {
        let timers = self.clock.next();
        let liveness = self.liveness_deadline().filter(|at| at.0 < u64::MAX);
        timers
            .into_iter()
            .chain(liveness)
            .chain(self.idle_deadline())
            .chain(self.unacked_deadline())
            .min()
    }

    fn encode(&self, control: &Control, out: &mut Vec<u8>) {
        match control {
            Control::Connect => self.connect(ConnectMode::New).encode(out),
            Control::Transfer => {
                self.connect(ConnectMode::Transfer(self.transfer_request())).encode(out);
            }
            Control::Encoded(frame) => out.extend_from_slice(frame),
            Control::ConnectOk => ConnectOk {
                initiator: self.initiator,
                acceptor: self.acceptor,
                epoch: self.epoch,
                features: self.peer_features & FEATURES,
                up: self.start.up,
                down: self.start.down,
                limit: self.receive.told_limit,
                hold: self.hold,
                tombstone: self.limits.tombstone,
                server: &self.server,
                upkeep: self.upkeep.map(|granted| self.own_upkeep(granted.class)),
            }
            .encode(out),
            Control::Resume(frame) => frame.encode(out),
            Control::ResumeOk(frame) => frame.encode(out),
            Control::ResumeDenied(frame) => frame.encode(out),
            Control::Checkpoint(frame) => frame.encode(out),
            Control::Close(frame) => frame.encode(out),
            Control::Suspend(frame) => frame.encode(out),
            Control::AskTransfer(reason, text) => Transfer { reason: *reason, text }.encode(out),
            Control::Stay(reason) => Transfer { reason: *reason, text: "" }.encode_stay(out),
            Control::Pass(pass) => PassFrame { pass }.encode(out),
        }
    }

    fn own_upkeep(&self, class: Class) -> Upkeep {
        Upkeep { class, suspended: self.limits.suspended_max }
    }

    pub(super) fn connect<'s>(&'s self, mode: ConnectMode<'s>) -> Connect<'s> {
        Connect {
            version: VERSION,
            handle: self.initiator,
            epoch: self.epoch,
            features: FEATURES,
            window: self.receive.told_limit - self.receive.received,
            service: &self.service,
            endpoint: &self.endpoint,
            grant: self.grant.as_deref().filter(|_| mode.wants_grant()),
            rate: Some(self.rate_wanted).filter(|rate| *rate > 0),
            hold: Some(self.limits.hold),
            upkeep: Some(self.own_upkeep(self.limits.class)),
            belongs: self.announcing.belongs,
            destination: self.destination(),
            mode,
        }
    }
}
