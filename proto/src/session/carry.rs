//! A session's end that is carried to another machine (KTH 4.3, R130 to R132): what is saved of it,
//! and how it goes on there.
//!
//! It is saved while it is suspended: nothing is on its way, so its positions and its bytes are
//! all there is. A copy can be carried to two machines. Which one goes on is decided by the far
//! end, by the epoch, at the first RESUME. So the other one must not do what every other end does
//! that hears of a greater epoch, which is to ask again with one greater still.

use core::time::Duration;

use super::remains::{Fields, NearCounts, checksum};
use super::{Limits, NotRestored, Remains, Session};
use crate::mutant::mutant;
use crate::state::State;
use crate::time::Instant;

/// The version of what is saved, which stands first.
const VERSION: u8 = 1;
/// The most bytes of one direction that are read back; a session's buffer is never larger.
pub const FROZEN_BYTES_MAX: usize = 1 << 30;
/// The most bytes of a record or a ticket.
const TEXT_MAX: usize = 64 << 10;

/// A suspended end with its bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Frozen {
    remains: Remains,
    /// How far the app was.
    at: NearCounts,
    /// The bytes of the app that the far end may still ask for.
    up: Vec<u8>,
    /// Those that were received and that the app has not been given.
    down: Vec<u8>,
    /// R103: the newest ticket and the digest; empty if there is none.
    ticket: Vec<u8>,
}

/// Why an end cannot be saved.
#[derive(Copy, Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum CannotFreeze {
    /// No server has answered yet.
    #[error("it has not begun yet")]
    NotBegun,
    /// R130: bytes may be on their way.
    #[error("it is not suspended")]
    NotSuspended,
    /// Its app is gone, or it has ended.
    #[error("its program has closed it")]
    Closing,
}

impl Frozen {
    /// The ends of what was taken from the app, and of what it was given.
    #[must_use]
    pub fn positions(&self) -> (u64, u64) {
        (self.at.end, self.at.delivered)
    }

    /// The bytes of the app that are needed, and those for it, in their order.
    #[must_use]
    pub fn bytes(&self) -> (&[u8], &[u8]) {
        (&self.up, &self.down)
    }

    /// The ticket and the digest as [`Session::encode_ticket`] wrote them.
    #[must_use]
    pub fn ticket(&self) -> &[u8] {
        &self.ticket
    }

    /// Whether the app had ended its stream.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.remains.has_ended()
    }

    /// Appends it to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.push(VERSION);
        out.extend(self.at.end.to_le_bytes());
        out.extend(self.at.delivered.to_le_bytes());
        let mut remains = Vec::new();
        self.remains.encode(&mut remains);
        for part in [&remains, &self.ticket, &self.up, &self.down] {
            out.extend((part.len() as u32).to_le_bytes());
            out.extend(part);
        }
        let sum = checksum(&out[start..]);
        out.extend(sum.to_le_bytes());
    }

    /// Reads what [`Frozen::encode`] wrote, and all of it. Takes no more memory than came.
    ///
    /// # Errors
    /// It is cut off, changed, or of another version.
    pub fn decode(bytes: &[u8]) -> Result<Frozen, NotRestored> {
        match bytes.first() {
            Some(&VERSION) => {}
            Some(&other) => return Err(NotRestored::Version(other)),
            None => return Err(NotRestored::Damaged),
        }
        let (bytes, sum) = bytes.split_last_chunk::<8>().ok_or(NotRestored::Damaged)?;
        if checksum(bytes) != u64::from_le_bytes(*sum) {
            return Err(NotRestored::Damaged);
        }
        let mut fields = Fields(&bytes[1..]);
        let mut read = || {
            let (end, delivered) = (fields.word()?, fields.word()?);
            let (remains, ticket) = (fields.part(TEXT_MAX)?, fields.part(TEXT_MAX)?);
            let (up, down) = (fields.part(FROZEN_BYTES_MAX)?, fields.part(FROZEN_BYTES_MAX)?);
            fields.0.is_empty().then_some((end, delivered, remains, ticket, up, down))
        };
        let (end, delivered, remains, ticket, up, down) = read().ok_or(NotRestored::Damaged)?;
        let remains = Remains::decode(remains)?;
        let held = delivered.checked_add(down.len() as u64).ok_or(NotRestored::Damaged)?;
        let at = NearCounts { end, delivered, held };
        Ok(Frozen { remains, at, up: up.into(), down: down.into(), ticket: ticket.into() })
    }
}

impl Session {
    /// R130: this end with its bytes, to be carried elsewhere.
    ///
    /// # Errors
    /// It is not suspended, or there is nothing to go on with.
    pub fn freeze(&self) -> Result<Frozen, CannotFreeze> {
        if self.state == State::Closed || self.near_gone || self.receive.discard {
            return Err(CannotFreeze::Closing);
        }
        if mutant!(FrozenActive, self.state != State::Suspended, false) {
            return Err(CannotFreeze::NotSuspended);
        }
        let remains = self.remains().ok_or(CannotFreeze::NotBegun)?;
        let delivered = self.receive.delivered();
        let up = self.send.buffer.at(self.send.una(), usize::MAX);
        let mut ticket = Vec::new();
        mutant!(TicketLeftBehind, self.encode_ticket(&mut ticket), ());
        Ok(Frozen {
            remains,
            at: NearCounts { end: self.send.end(), delivered, held: self.receive.received },
            up: up.flatten().copied().collect(),
            down: self.undelivered_from(delivered).flatten().copied().collect(),
            ticket,
        })
    }

    /// R131: goes on with an end that was saved, on another machine perhaps, and `away` ago. Its
    /// app begins where the saved one was.
    ///
    /// # Errors
    /// What was saved contradicts itself.
    pub fn thaw(
        now: Instant,
        limits: Limits,
        service: &str,
        away: Duration,
        frozen: &Frozen,
    ) -> Result<Session, NotRestored> {
        // The clocks of two machines have nothing in common.
        let remains = frozen.remains.clone().away_since(now - away);
        let bytes = (frozen.up.as_slice(), frozen.down.as_slice());
        let mut session = Session::restore(now, limits, service, &remains, frozen.at, bytes)?;
        if !frozen.ticket.is_empty() {
            session.take_up_ticket(&frozen.ticket)?;
        }
        Ok(session)
    }

    /// R131: whether it was carried, and no far end has taken it since.
    #[must_use]
    pub fn is_carried(&self) -> bool {
        self.carried
    }

    /// Says under which endpoint it was opened (KTH 3.1.1).
    pub fn of_endpoint(&mut self, endpoint: &str) {
        self.endpoint = endpoint.into();
    }
}
