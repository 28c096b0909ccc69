//! The outgoing stream: what is kept, what was sent, and what the peer has.

use super::PeerMisbehaved;
use crate::buffer::SendBuffer;
use crate::mutant::mutant;
use crate::wire::Report;

/// The state of the outgoing stream: una = `buffer.start()` <= heard, and una <= nxt <= max <= end.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Sending {
    /// Everything from una to end.
    pub buffer: SendBuffer,
    /// The next byte to send.
    pub nxt: u64,
    /// The highest position ever sent.
    pub max: u64,
    /// The peer has received this much.
    pub heard: u64,
    /// The peer takes nothing at or above this.
    pub limit: u64,
    /// The near side ended the stream: `buffer.end()` is final.
    pub fin: bool,
    /// FIN was sent on the attached link.
    pub fin_sent: bool,
    /// FIN was ever sent.
    pub fin_ever: bool,
    /// The peer has everything, the end included, so that it may be forgotten here.
    pub fin_acked: bool,
    /// The newest urgent byte, until it is freed (R12).
    urgent: Option<u64>,
    /// The urgent byte was announced on the attached link.
    pub urgent_said: bool,
    /// While another server is asked (R65): the position from which on nothing is freed, and the
    /// one up to which would have been freed.
    pin: Option<(u64, u64)>,
}

impl Sending {
    pub fn new(start: u64, limit: u64, piece: usize) -> Sending {
        Sending {
            buffer: SendBuffer::new(start, piece),
            nxt: start,
            max: start,
            heard: start,
            limit,
            fin: false,
            fin_sent: false,
            fin_ever: false,
            fin_acked: false,
            urgent: None,
            urgent_said: false,
            pin: None,
        }
    }

    pub fn una(&self) -> u64 {
        self.buffer.start()
    }

    pub fn end(&self) -> u64 {
        self.buffer.end()
    }

    /// R11: takes the peer's report on the attached link, which cannot name more than was sent.
    pub fn on_report(&mut self, report: &Report) -> Result<(), PeerMisbehaved> {
        if report.received > self.nxt {
            let sent = self.nxt;
            return Err(PeerMisbehaved::AckedUnsent { position: report.received, sent });
        }
        self.heard = self.heard.max(report.received);
        self.free(mutant!(FreeReceived, report.acked, report.received));
        self.limit = self.limit.max(report.limit);
        Ok(())
    }

    /// The bytes below `position` are needed no more.
    pub fn free(&mut self, mut position: u64) {
        if let Some((from, owed)) = &mut self.pin {
            *owed = position.max(*owed);
            position = position.min(*from);
        }
        if position > self.una() {
            self.buffer.free(position);
            self.urgent = self.urgent.filter(|urgent| *urgent >= position);
        }
    }

    /// R65: keeps everything from `from` on, whatever is acknowledged.
    pub fn pin(&mut self, from: u64) {
        self.pin = Some((from, self.una()));
    }

    /// Frees what was kept back.
    pub fn unpin(&mut self) {
        if let Some((_, owed)) = self.pin.take() {
            self.free(owed);
        }
    }

    /// What was kept back is needed after all.
    pub fn forget_owed(&mut self) {
        self.pin = None;
    }

    /// R22: whether the stream can be continued from the peer's position at a resume.
    pub fn fits(&self, report: &Report, fin_received: bool) -> bool {
        let known = self.una()..=self.max;
        known.contains(&report.received)
            && report.received >= self.heard
            && (!fin_received || self.fin_ever && report.received == self.end())
    }

    /// R22: goes back to the peer's position. Returns the number of bytes that will be sent again.
    pub fn roll_back(&mut self, report: &Report) -> u64 {
        self.nxt = mutant!(NoRollBack, report.received, self.nxt);
        mutant!(RollBackTooFar => self.nxt = self.nxt.saturating_sub(1).max(self.una()));
        mutant!(RollBackTooShort => self.nxt = (self.nxt + 1).min(self.max));
        self.heard = report.received;
        self.free(report.acked);
        self.limit = self.limit.max(report.limit);
        self.fin_sent = mutant!(FinNotAgain, self.fin_acked, self.fin_sent);
        self.max - self.nxt
    }

    /// The number of bytes of the next DATA frame. R65: while another server is asked no byte is
    /// new, because that server was told how far the stream went.
    pub fn sendable(&self) -> u64 {
        let limit = mutant!(NoWindow, self.limit, u64::MAX);
        let beside = mutant!(BesideSends, self.pin.is_some(), false);
        let limit = if beside { limit.min(self.max) } else { limit };
        self.end().min(limit).saturating_sub(self.nxt)
    }

    /// R12: the byte taken last is urgent. As with TCP there is one such byte at a time.
    pub fn mark_urgent(&mut self) {
        if !self.buffer.is_empty() {
            (self.urgent, self.urgent_said) = (Some(self.end() - 1), false);
        }
    }

    /// R12: the urgent byte, if it is among the next `count` and was not announced.
    pub fn urgent_due(&self, count: u64) -> Option<u64> {
        let next = self.nxt..self.nxt + count;
        self.urgent.filter(|urgent| !self.urgent_said && next.contains(urgent))
    }

    /// The newest urgent byte, until it is freed.
    pub fn urgent(&self) -> Option<u64> {
        self.urgent
    }

    /// R103: that byte, as it was when the process died.
    pub fn restore_urgent(&mut self, urgent: Option<u64>) {
        self.urgent = urgent.filter(|urgent| (self.una()..self.end()).contains(urgent));
    }

    pub fn transmitted(&mut self, count: u64) {
        self.nxt += count;
        self.max = self.max.max(self.nxt);
        debug_assert!(self.nxt <= self.end());
        mutant!(FreeSent => self.free(self.nxt));
    }

    /// R50: whether FIN is next; it follows the last byte.
    pub fn fin_due(&self) -> bool {
        self.fin && !self.fin_sent && mutant!(FinEarly, self.nxt == self.end(), true)
    }
}
