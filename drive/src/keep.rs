//! What is put by of a session so that another process can go on with it (R100 to R105), and what
//! that one finds.

use stp_net::kept::Kept;
use stp_proto::deaths::Deaths;
use stp_proto::session::{NearCounts, Remains, Session};
use stp_proto::time::Instant;

/// What was put by last.
#[derive(Debug, Default)]
pub struct Keep {
    record: Vec<u8>,
    next: Vec<u8>,
    /// Bytes lie in the rings.
    bytes: bool,
    /// It was said that nothing can be put by.
    said: bool,
}

impl Keep {
    /// Of a socket that another process had: bytes of before may lie there.
    #[must_use]
    pub fn found() -> Keep {
        Keep { bytes: true, ..Keep::default() }
    }

    /// Bytes were read into the ring.
    pub fn moved(&mut self) {
        self.bytes = true;
    }

    /// R101: what the near side has not taken.
    pub fn hold(&mut self, kept: &Kept, session: &Session) {
        let at = session.positions();
        let mut from = kept.held_until().max(at.delivered);
        for bytes in session.undelivered_from(from) {
            kept.hold(from, bytes);
            from += bytes.len() as u64;
        }
        kept.hold_until(at.received);
        self.bytes = true;
    }

    /// R100: the record that `encode` writes; one of nothing is none. False, once, if it is too
    /// long.
    #[must_use]
    pub fn put(
        &mut self,
        kept: &Kept,
        session: &Session,
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> bool {
        self.next.clear();
        encode(&mut self.next);
        let mut fits = true;
        if self.next != self.record {
            fits = kept.put_record(&self.next) || std::mem::replace(&mut self.said, true);
            std::mem::swap(&mut self.next, &mut self.record);
        }
        // R73: nothing is on its way, and the session has given its own memory back.
        if self.bytes && session.memory() == 0 {
            kept.give_back();
            self.bytes = false;
        }
        fits
    }
}

/// What the counts of a socket say (R102), and its bytes.
#[derive(Debug)]
pub struct Counted {
    /// How far it is.
    pub at: NearCounts,
    /// Whether the last byte of what was taken is still in the queue.
    pub looked_at: bool,
    /// The bytes that the peer may still ask for.
    pub up: Vec<u8>,
    /// Those that were received and not delivered.
    pub down: Vec<u8>,
}

impl Counted {
    /// Of a socket that has given `read` bytes for good.
    #[must_use]
    pub fn of(kept: &Kept, remains: &Remains, read: u64) -> Counted {
        let (at, looked_at) = remains.counts(read, kept.given(), kept.held_until());
        let from = remains.needed_from(at, kept.up_max() as u64);
        let (up, down) = (kept.up(from, at.end), kept.held(at.delivered, at.held));
        Counted { at, looked_at, up, down }
    }
}

/// R105: whether the session of this socket is to be given up; `died` says that the process before
/// died by itself.
#[must_use]
pub fn is_deadly(kept: &Kept, died: bool, now: Instant) -> bool {
    let at_work = kept.was_at_work();
    kept.set_at_work(false);
    if !(died && at_work) {
        return false;
    }
    let mut deaths = Deaths(kept.deaths());
    let too_many = deaths.note(now);
    kept.put_deaths(deaths.0);
    too_many
}
