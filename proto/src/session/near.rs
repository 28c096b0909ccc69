//! The near side: the app at the broker, the service at the server.

use std::io::{self, IoSlice, IoSliceMut};

use super::clock::Timer;
use super::{Session, ShutNear, code};
use crate::budget::Level;
use crate::mutant::mutant;
use crate::role::Daemon;
use crate::state::State;
use crate::time::Instant;

/// Space for the longest head that a server follows, and for what comes with it.
const HEAD_ROOM: usize = 128 << 10;

impl Session {
    /// Writes what is buffered and then what arrived to the near side (vectored) until `write`
    /// takes no more. Keeps the rest, also on error. Returns the number of bytes written by this
    /// call, or an error if there were none.
    pub fn deliver<W: FnMut(&[IoSlice<'_>]) -> io::Result<usize>>(
        &mut self,
        now: Instant,
        arrived: &[&[u8]],
        mut write: W,
    ) -> io::Result<usize> {
        self.receive.urgent = None;
        self.deliver_marked(now, arrived, |slices, _| write(slices))
    }

    /// Like [`Session::deliver`], to a near side that knows urgent bytes: such a byte is written
    /// alone, and `write` is called with `true` (R13).
    pub fn deliver_marked<W: FnMut(&[IoSlice<'_>], bool) -> io::Result<usize>>(
        &mut self,
        now: Instant,
        arrived: &[&[u8]],
        write: W,
    ) -> io::Result<usize> {
        if self.receive.discard {
            return Ok(0);
        }
        let count: u64 = arrived.iter().map(|bytes| bytes.len() as u64).sum();
        assert!(count == self.receive.limbo, "what arrived is delivered once, and all of it");
        let urgent = self.receive.before_urgent();
        self.receive.limbo = 0;
        let result = self.receive.buffer.deliver(arrived, urgent, write);
        self.receive.taken();
        self.receive.grow(self.level.share_of(self.limits.receive_buffer_max));
        if result.as_ref().is_ok_and(|count| *count > 0) {
            self.keep_handing_over(now);
        }
        self.keep_trim(now);
        self.check_drained();
        result
    }

    /// Bytes kept for the near side.
    pub fn undelivered(&self) -> usize {
        self.receive.buffer.len()
    }

    /// Tells the near side the end of the stream once it has taken everything (R53).
    pub(super) fn check_drained(&mut self) {
        if mutant!(FinUndrained, !self.receive.drained(), false) {
            return;
        }
        if self.receive.fin && !self.receive.fin_given {
            self.receive.fin_given = true;
            self.outbox.shut(ShutNear::Fin);
        }
        if let Some(shut) = self.ending.shut.take() {
            self.receive.stop();
            self.outbox.shut(shut);
        }
        self.check_over();
    }

    /// How short of memory the daemon is: what this session may hold follows from it (R37).
    pub fn hold_to(&mut self, level: Level) {
        if self.level != level {
            self.level = level;
            self.receive.grow(level.share_of(self.limits.receive_buffer_max));
        }
        if level != Level::Plenty {
            self.send.buffer.trim();
            self.receive.buffer.trim();
        }
    }

    /// How many bytes the near side may give now; 0 is back-pressure (R30, R36, R37).
    pub fn send_room(&self) -> usize {
        let stopped = self.send.fin
            || self.state == State::Closed
            || self.journal.bytes() > self.limits.tickets_max;
        if stopped {
            return 0;
        }
        let most = self.limits.send_buffer_max;
        // A head that is acknowledged as a whole must fit, or it would never be sent.
        let least = if self.role.daemon == Daemon::Broker { most.min(HEAD_ROOM) } else { 0 };
        let most = self.level.share_of(most).max(least);
        let room = most.saturating_sub(self.send.buffer.len());
        let unsent = usize::try_from(self.send.end() - self.send.nxt).unwrap_or(usize::MAX);
        let ahead = self.level.share_of(self.limits.ahead_max).saturating_sub(unsent);
        mutant!(AheadUnbounded, room.min(ahead), room)
    }

    /// Lets `read` fill spare buffer space. `Ok(0)` is passed on without being interpreted. If
    /// there is no room, `read` is not called.
    pub fn fill<R: FnMut(&mut [IoSliceMut<'_>]) -> io::Result<usize>>(
        &mut self,
        now: Instant,
        read: R,
    ) -> io::Result<usize> {
        let room = self.send_room();
        if room == 0 {
            return Ok(0);
        }
        self.clock.arm(Timer::Trim, now + self.limits.heartbeat_busy);
        if self.send.una() == self.send.end() {
            self.clock.wrote = now;
        }
        self.send.buffer.fill(room, self.limits.fill_max, read)
    }

    /// Says that the byte which `fill` took last is urgent (R12).
    pub fn mark_urgent(&mut self) {
        if self.state != State::Closed {
            self.send.mark_urgent();
        }
    }

    /// The near side ended its stream.
    pub(super) fn near_fin(&mut self) {
        if self.state != State::Closed {
            self.send.fin = true;
        }
    }

    /// The near side closed both ways (R54).
    pub(super) fn near_gone(&mut self, now: Instant) {
        if self.state == State::Closed {
            self.receive.stop();
            self.ending.shut = None;
            return self.check_over();
        }
        if self.near_gone {
            return;
        }
        if !self.established {
            return self.abort(now, code::NEAR_GONE);
        }
        self.near_gone = true;
        self.ending.heard = self.send.heard;
        self.send.fin = true;
        self.receive.stop();
        self.clock.arm(Timer::Closing, now + self.limits.closing_max);
        self.check_stop(now);
    }

    /// R54: bytes came that nobody will read, and the peer has all of ours, so it need not go on.
    pub(super) fn check_stop(&mut self, now: Instant) {
        let pointless = self.near_gone && self.receive.dropped && !self.receive.fin;
        if pointless && self.send.heard == self.send.end() {
            self.abort(now, code::NEAR_GONE);
        }
    }
}
