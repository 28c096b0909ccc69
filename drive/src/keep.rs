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
    /// A newer ticket has come.
    ticket: bool,
    /// Up to where what was received was digested, when the ticket was put by.
    digested: Option<u64>,
}

impl Keep {
    /// Of a socket that another process had: bytes of before may lie there.
    #[must_use]
    pub fn found() -> Keep {
        Keep { bytes: true, ticket: true, ..Keep::default() }
    }

    /// Bytes were read into the ring.
    pub fn moved(&mut self) {
        self.bytes = true;
    }

    /// A newer ticket has come.
    pub fn ticket_came(&mut self) {
        self.ticket = true;
    }

    /// R103: the newest ticket with the digest, if either has changed. To be called before the near
    /// side is given anything, too.
    pub fn put_ticket(&mut self, kept: &Kept, session: &Session) {
        let digested = session.digested();
        if std::mem::take(&mut self.ticket) || digested != self.digested {
            self.digested = digested;
            self.next.clear();
            session.encode_ticket(&mut self.next);
            let fits = kept.put_note(&self.next);
            debug_assert!(fits, "a ticket is bounded");
        }
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

/// The session's positions at which the counts of a socket began.
#[derive(Copy, Clone, PartialEq, Eq, Debug, Default)]
pub struct Base {
    /// Of what was given to the socket.
    pub up: u64,
    /// Of what was read from it.
    pub down: u64,
}

impl Base {
    /// Appends it to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.up.to_le_bytes());
        out.extend(self.down.to_le_bytes());
    }

    /// Reads what [`Base::encode`] wrote in front of other bytes.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<(Base, &[u8])> {
        let (up, rest) = bytes.split_first_chunk()?;
        let (down, rest) = rest.split_first_chunk()?;
        Some((Base { up: u64::from_le_bytes(*up), down: u64::from_le_bytes(*down) }, rest))
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
        Counted::since(kept, remains, read, Base::default())
    }

    /// The same of a socket whose counts began there.
    #[must_use]
    pub fn since(kept: &Kept, remains: &Remains, read: u64, base: Base) -> Counted {
        let (read, given) = (base.down + read, base.up + kept.given());
        let (at, looked_at) = remains.counts(read, given, kept.held_until());
        // The ring knows of nothing that was before.
        let from = remains.needed_from(at, kept.up_max() as u64).max(base.down).min(at.end);
        let up = kept.up(from - base.down, at.end - base.down);
        Counted { at, looked_at, up, down: kept.held(at.delivered, at.held) }
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
