//! The incoming stream: what was received, what the near side took, and what the peer was told.

use super::PeerMisbehaved;
use crate::buffer::ReceiveBuffer;
use crate::mutant::mutant;
use crate::wire::Report;

/// The state of the incoming stream: delivered <= received, acked <= received <= told.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Receiving {
    /// The bytes that the near side has not taken yet.
    pub buffer: ReceiveBuffer,
    /// The next byte wanted.
    pub received: u64,
    /// Bytes handed to the caller in `arrived`, not yet passed to `deliver`.
    pub limbo: u64,
    /// The receive position last told to the peer.
    pub told: u64,
    /// The acknowledged position last told.
    pub told_acked: u64,
    /// The limit last told.
    pub told_limit: u64,
    /// Most bytes kept for the near side: at first few, and more as the near side takes them
    /// (R35).
    pub window: u64,
    /// The position from which on the near side has to take a whole window before it grows.
    grows_from: u64,
    /// Acknowledgements are held back (R60), and the peer may free only what lies below `released`.
    pub hold: bool,
    /// What the peer may free while acknowledgements are held.
    pub released: u64,
    /// The newest urgent byte, announced or received, that the near side did not take (R13).
    pub urgent: Option<u64>,
    /// The peer's stream ends at `received`.
    pub fin: bool,
    /// CLOSE ACK is owed for the end of the peer's stream.
    pub fin_ack_due: bool,
    /// The near side was told the end, or needs it no more.
    pub fin_given: bool,
    /// Nobody reads any more: what comes is dropped (R54).
    pub discard: bool,
    /// Something was dropped.
    pub dropped: bool,
}

impl Receiving {
    pub fn new(start: u64, window: usize, piece: usize) -> Receiving {
        let window = window as u64;
        Receiving {
            buffer: ReceiveBuffer::new(piece),
            received: start,
            limbo: 0,
            told: start,
            told_acked: start,
            told_limit: start + window,
            window,
            grows_from: start,
            hold: false,
            released: start,
            urgent: None,
            fin: false,
            fin_ack_due: false,
            fin_given: false,
            discard: false,
            dropped: false,
        }
    }

    /// The position up to which the near side has taken the stream.
    pub fn delivered(&self) -> u64 {
        self.received - self.buffer.len() as u64 - self.limbo
    }

    /// The position below which the peer may free (R11).
    pub fn acked(&self) -> u64 {
        let hold = mutant!(AckUnjournaled, self.hold, false);
        if hold { self.released.min(self.received) } else { self.received }
    }

    /// R32: the limit. It never moves back, and it does not move on while nobody reads.
    pub fn limit(&self) -> u64 {
        if self.discard {
            self.told_limit
        } else {
            let from = mutant!(WindowFromReceived, self.delivered(), self.received);
            self.told_limit.max(from + self.window)
        }
    }

    /// R35: a near side that has taken a whole window may have two, up to `max`.
    pub fn grow(&mut self, max: usize) {
        let (delivered, max) = (self.delivered(), max as u64);
        if self.window > max {
            (self.window, self.grows_from) = (max, delivered);
        } else if delivered - self.grows_from >= self.window {
            (self.window, self.grows_from) = (max.min(2 * self.window), delivered);
        }
    }

    /// R103: has these bytes, received by another process and not taken by the near side.
    pub fn keep(&mut self, down: &[u8]) {
        self.buffer.push(down);
        self.grows_from = self.delivered();
    }

    /// What the peer was promised and has not sent: it may come at any time.
    pub fn promised(&self) -> u64 {
        if self.discard { 0 } else { self.told_limit.saturating_sub(self.received) }
    }

    pub fn report(&self) -> Report {
        Report { received: self.received, acked: self.acked(), limit: self.limit() }
    }

    /// Makes the report that is going out now, and takes note of it.
    pub fn tell(&mut self) -> Report {
        let report = self.report();
        self.told = report.received;
        self.told_acked = report.acked;
        self.told_limit = report.limit;
        report
    }

    /// R31, R33: whether a report should go out at once.
    pub fn report_due(&self, ack_every: usize) -> bool {
        let ack_every = (ack_every as u64).min(self.window.div_ceil(4)).max(1);
        self.received - self.told >= ack_every
            || self.acked() - self.told_acked >= ack_every
            || mutant!(
                NoWindowUpdate,
                self.limit() - self.told_limit >= self.window.div_ceil(2).max(1),
                false
            )
    }

    /// Whether the peer has not been told the newest positions.
    pub fn report_pending(&self) -> bool {
        self.told != self.received || self.told_acked != self.acked()
    }

    /// R10: DATA continues the stream and respects the window.
    pub fn on_data(&mut self, position: u64, count: usize) -> Result<(), PeerMisbehaved> {
        let expected = self.received;
        if position != expected {
            return Err(PeerMisbehaved::WrongPosition { position, expected });
        }
        let end = position + count as u64;
        if end > self.told_limit {
            return Err(PeerMisbehaved::WindowExceeded { end, limit: self.told_limit });
        }
        if self.fin {
            return Err(PeerMisbehaved::DataAfterFin { position });
        }
        self.received = end;
        if self.discard {
            self.dropped = true;
        } else {
            self.limbo += count as u64;
        }
        Ok(())
    }

    /// R13: the peer announces that a byte which is still to come is urgent.
    pub fn on_urgent(&mut self, position: u64) -> Result<(), PeerMisbehaved> {
        let received = self.received;
        if self.fin || !(received..self.told_limit).contains(&position) {
            return Err(PeerMisbehaved::WrongUrgent { position, received });
        }
        if !self.discard {
            self.urgent = Some(position);
        }
        Ok(())
    }

    /// R13: an announcement dies with its link; the peer makes it again before it sends the byte.
    pub fn forget_announced(&mut self) {
        let kept = mutant!(UrgentDropped, self.received, 0);
        self.urgent = self.urgent.filter(|urgent| *urgent < kept);
    }

    /// The number of bytes that the near side takes before the urgent one, if that one is here.
    pub fn before_urgent(&self) -> Option<u64> {
        let delivered = self.delivered();
        self.urgent.filter(|urgent| *urgent < self.received)?.checked_sub(delivered)
    }

    /// The near side took `count` bytes more.
    pub fn taken(&mut self) {
        let delivered = self.delivered();
        self.urgent = self.urgent.filter(|urgent| *urgent >= delivered);
    }

    /// R50: the peer ends its stream.
    pub fn on_fin(&mut self, position: u64) -> Result<(), PeerMisbehaved> {
        if position != self.received {
            return Err(PeerMisbehaved::WrongFin { position, expected: self.received });
        }
        if let Some(urgent) = self.urgent.filter(|urgent| *urgent >= position) {
            return Err(PeerMisbehaved::WrongUrgent { position: urgent, received: position });
        }
        self.fin = true;
        self.fin_ack_due = true;
        Ok(())
    }

    /// Whether CLOSE ACK may go out: the peer may free everything.
    pub fn fin_ack_ready(&self) -> bool {
        self.fin_ack_due && self.acked() == self.received
    }

    /// Whether everything was handed to the near side.
    pub fn drained(&self) -> bool {
        self.limbo == 0 && self.buffer.is_empty()
    }

    /// From now on nobody reads. Forgets what is buffered.
    pub fn stop(&mut self) {
        self.told_limit = self.limit();
        self.discard = true;
        self.fin_given = true;
        self.urgent = None;
        if self.buffer.discard() > 0 || self.limbo > 0 {
            self.dropped = true;
        }
        self.limbo = 0;
    }
}
