//! What is left of an end when its process dies, and how the next process goes on with it (R100 to
//! R104).
//!
//! The driver puts the remains where they survive before anything leaves on a link. So whatever
//! the process learned or did after that is, for the peer, as if it had been lost with the link.
//! Only the near side goes on meanwhile, and there the kernel's counts tell how far it is.
//!
//! Beside the remains of a broker's end there is its newest ticket with the digest of what was
//! received, so that the session can go on at another server as before. That is put by before the
//! near side is given what was digested: so it is never behind what the near side has. A server's
//! end leaves remains only if it deals in no tickets and has had the session from its beginning.

use core::hash::Hasher;
use core::time::Duration;

use xxhash_rust::xxh3::Xxh3Default;

use super::clock::Timer;
use super::journal::HeldTicket;
use super::links::Pace;
use super::{Limits, Session, StartAt};
use crate::class::Class;
use crate::cut::{Cut, Cuts, Id, Phase};
use crate::handle::Handle;
use crate::mutant::mutant;
use crate::role::{Daemon, Role};
use crate::seam::Seam;
use crate::state::State;
use crate::time::Instant;
use crate::wire::Upkeep;

/// The version of the remains, which stands first. One version back is read as well.
pub const REMAINS_VERSION: u8 = 4;
/// The version of the ticket that is put by.
const TICKET_VERSION: u8 = 1;
/// The longest name of a server that is kept; it is only shown.
const SERVER_MAX: usize = 100;
/// Beside the class: it was carried (R131).
const CARRIED: u8 = 0x80;
/// No position.
const NONE: u64 = u64::MAX;

/// One end, without its bytes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Remains {
    daemon: Daemon,
    confirmed: bool,
    initiator: Handle,
    acceptor: Handle,
    server: Box<str>,
    epoch: u32,
    peer_features: u32,
    suspended: bool,
    near_gone: bool,
    fin: bool,
    fin_ever: bool,
    fin_acked: bool,
    fin_received: bool,
    fin_given: bool,
    discard: bool,
    una: u64,
    max: u64,
    heard: u64,
    limit: u64,
    end: u64,
    urgent: Option<u64>,
    received: u64,
    told_limit: u64,
    urgent_received: Option<u64>,
    cuts: Cuts,
    /// How long both ends keep the session without a link.
    hold: Duration,
    /// Since when it has had none.
    unlinked: Option<Instant>,
    /// What was granted (R74).
    upkeep: Option<Upkeep>,
    /// Until when this end is suspended, and the peer, if that has an end (R75).
    wake: Option<Instant>,
    away: Option<Instant>,
    /// R131: it was carried here, and no far end has taken it since.
    carried: bool,
}

/// How far the near side is, as the kernel counts.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct NearCounts {
    /// The end of what was taken from it.
    pub end: u64,
    /// The end of what it was given.
    pub delivered: u64,
    /// The end of what was received and survives.
    pub held: u64,
}

/// Why remains are of no use.
#[derive(Copy, Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum NotRestored {
    /// They were written by another version.
    #[error("the state is of version {0}, this program reads {REMAINS_VERSION}")]
    Version(u8),
    /// They are cut off, or not what was written.
    #[error("the state is damaged")]
    Damaged,
    /// They do not fit what the kernel has counted.
    #[error("the state does not fit the byte counts of the program's socket")]
    Misfit,
}

impl Remains {
    /// Appends them to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let start = out.len();
        out.push(REMAINS_VERSION);
        out.extend(self.initiator.0);
        out.extend(self.acceptor.0);
        out.extend(self.epoch.to_le_bytes());
        out.extend(self.peer_features.to_le_bytes());
        let flags = [
            self.suspended,
            self.near_gone,
            self.fin,
            self.fin_ever,
            self.fin_acked,
            self.fin_received,
            self.fin_given,
            self.discard,
        ];
        out.push(bits(&flags));
        let class = self.upkeep.map_or(Class::Temporary, |upkeep| upkeep.class);
        let more = bits(&[self.daemon == Daemon::Server, self.confirmed]);
        let carried = if self.carried { CARRIED } else { 0 };
        out.push(more | class.number() << 2 | carried);
        let Cuts { acked, pending, phase } = self.cuts;
        out.push(match phase {
            Phase::Idle => 0,
            Phase::Requested => 1,
            Phase::Answered => 2,
        });
        out.extend([acked.id.number(), pending.id.number()]);
        let words = [
            self.una,
            self.max,
            self.heard,
            self.limit,
            self.end,
            self.urgent.unwrap_or(NONE),
            self.received,
            self.told_limit,
            self.urgent_received.unwrap_or(NONE),
            acked.sent,
            acked.received,
            pending.sent,
            pending.received,
            u64::try_from(self.hold.as_micros()).unwrap_or(NONE),
            self.unlinked.map_or(NONE, |since| since.0),
            self.upkeep.map_or(NONE, |upkeep| upkeep.suspended.as_secs()),
            self.wake.map_or(NONE, |until| until.0),
            self.away.map_or(NONE, |until| until.0),
        ];
        out.extend(words.iter().flat_map(|word| word.to_le_bytes()));
        out.push(self.server.len() as u8);
        out.extend(self.server.as_bytes());
        let sum = checksum(&out[start..]);
        out.extend(sum.to_le_bytes());
    }

    /// Reads what [`Remains::encode`] wrote, and all of it.
    pub fn decode(bytes: &[u8]) -> Result<Remains, NotRestored> {
        let version = match bytes.first() {
            Some(&version @ (3 | REMAINS_VERSION)) => version,
            Some(&other) => return Err(NotRestored::Version(other)),
            None => return Err(NotRestored::Damaged),
        };
        let (bytes, sum) = bytes.split_last_chunk::<8>().ok_or(NotRestored::Damaged)?;
        if checksum(bytes) != u64::from_le_bytes(*sum) {
            return Err(NotRestored::Damaged);
        }
        read(version, &mut Fields(&bytes[1..])).ok_or(NotRestored::Damaged)
    }

    /// R131: the same in another place, without a link since then.
    #[must_use]
    pub(super) fn away_since(self, unlinked: Instant) -> Remains {
        let (wake, away) = (None, None);
        Remains { suspended: false, unlinked: Some(unlinked), carried: true, wake, away, ..self }
    }

    /// The handles of the initiator and of the acceptor.
    #[must_use]
    pub fn handles(&self) -> (Handle, Handle) {
        (self.initiator, self.acceptor)
    }

    /// Whether the near side has ended its stream.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.fin
    }

    /// Whether the near side was told the end of the stream.
    #[must_use]
    pub fn end_given(&self) -> bool {
        self.fin_given && !self.discard
    }

    /// How far the near side is, if it has given `read` bytes for good, and perhaps one more that
    /// was only looked at; says whether it was (R102).
    pub fn counts(&self, read: u64, delivered: u64, held: u64) -> (NearCounts, bool) {
        let looked_at = mutant!(LookedAtForgotten, self.end > read, false);
        let end = read + u64::from(looked_at);
        let end = mutant!(EndStale, end, self.end);
        let delivered = mutant!(GivenStale, delivered, delivered.min(self.received));
        let held = if self.discard { self.received } else { held.max(delivered) };
        let delivered = if self.discard { held } else { delivered };
        mutant!(HeldForgotten => {
            return (NearCounts { end, delivered, held: delivered }, looked_at);
        });
        (NearCounts { end, delivered, held }, looked_at)
    }

    /// From where on the bytes taken from the near side are needed. At most `kept` of them are
    /// there.
    pub fn needed_from(&self, at: NearCounts, kept: u64) -> u64 {
        mutant!(UnaStale, self.una, self.una + 1).max(at.end.saturating_sub(kept)).min(at.end)
    }
}

/// The first flag is the lowest bit.
fn bits(flags: &[bool]) -> u8 {
    flags.iter().rev().fold(0, |bits, flag| bits << 1 | u8::from(*flag))
}

pub(super) fn checksum(bytes: &[u8]) -> u64 {
    let mut hasher = Xxh3Default::new();
    hasher.write(bytes);
    hasher.finish()
}

/// Reads fields off the front.
pub(super) struct Fields<'a>(pub(super) &'a [u8]);

impl<'a> Fields<'a> {
    /// Bytes behind their number, at most so many.
    pub(super) fn part(&mut self, most: usize) -> Option<&'a [u8]> {
        let length = u32::from_le_bytes(self.take()?) as usize;
        let (part, rest) = self.0.split_at_checked(length)?;
        self.0 = rest;
        (length <= most).then_some(part)
    }

    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (front, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*front)
    }

    pub(super) fn word(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
}

fn read(version: u8, fields: &mut Fields<'_>) -> Option<Remains> {
    let (initiator, acceptor) = (Handle(fields.take()?), Handle(fields.take()?));
    let epoch = u32::from_le_bytes(fields.take()?);
    let peer_features = u32::from_le_bytes(fields.take()?);
    let [flags] = fields.take()?;
    let [more] = fields.take()?;
    let [phase, acked, pending] = fields.take()?;
    let phase = match phase {
        0 => Phase::Idle,
        1 => Phase::Requested,
        2 => Phase::Answered,
        _ => return None,
    };
    let (acked, pending) = (Id::new(acked)?, Id::new(pending)?);
    let flag = |bit: u8| flags >> bit & 1 == 1;
    let mut word = || fields.word();
    let position = |word: u64| (word != NONE).then_some(word);
    let (una, max, heard, limit, end) = (word()?, word()?, word()?, word()?, word()?);
    let urgent = position(word()?);
    let (received, told_limit, urgent_received) = (word()?, word()?, position(word()?));
    let acked = Cut { id: acked, sent: word()?, received: word()? };
    let pending = Cut { id: pending, sent: word()?, received: word()? };
    let (hold, unlinked) = (word()?, word()?);
    // Version 3 knew of no classes and of no suspension with an end.
    let suspensions = if version == 3 { [NONE; 3] } else { [word()?, word()?, word()?] };
    let [suspended, wake, away] = suspensions.map(position);
    let class = Class::from_number(more >> 2 & 3)?;
    let [length] = fields.take()?;
    let server = core::str::from_utf8(fields.0).ok()?;
    let sound = server.len() == usize::from(length)
        && una <= max
        && max <= end
        && heard <= max
        && received <= told_limit
        && told_limit < NONE / 2
        && end < NONE / 2
        && !initiator.is_none()
        && !acceptor.is_none();
    sound.then(|| Remains {
        daemon: if more & 1 == 1 { Daemon::Server } else { Daemon::Broker },
        confirmed: more & 2 == 2,
        initiator,
        acceptor,
        server: server.into(),
        epoch,
        peer_features,
        suspended: flag(0),
        near_gone: flag(1),
        fin: flag(2),
        fin_ever: flag(3),
        fin_acked: flag(4),
        fin_received: flag(5),
        fin_given: flag(6),
        discard: flag(7),
        una,
        max,
        heard,
        limit,
        end,
        urgent,
        received,
        told_limit,
        urgent_received,
        cuts: Cuts { acked, pending, phase },
        hold: Duration::from_micros(hold),
        unlinked: position(unlinked).map(Instant),
        upkeep: suspended.map(|s| Upkeep { class, suspended: Duration::from_secs(s) }),
        wake: wake.map(Instant),
        away: away.map(Instant),
        carried: more & CARRIED != 0,
    })
}

impl Session {
    /// R100: what must survive before anything leaves on a link. Nothing before the session is
    /// established, after its end, and of an end whose tickets would have to survive as well
    /// (R104).
    pub fn remains(&self) -> Option<Remains> {
        let plain = self.role.daemon == Daemon::Broker
            || self.start == StartAt::default() && !self.receive.hold && self.journal.is_empty();
        if plain { self.remains_without_tickets() } else { None }
    }

    /// R104: the same of an end whose tickets need not survive, because its peer has the word that
    /// it cannot go on elsewhere.
    pub fn remains_without_tickets(&self) -> Option<Remains> {
        if !self.established || self.state == State::Closed {
            return None;
        }
        let cut = self.server.char_indices().map(|(at, c)| at + c.len_utf8());
        let length = cut.take_while(|end| *end <= SERVER_MAX).last().unwrap_or(0);
        Some(Remains {
            daemon: self.role.daemon,
            confirmed: self.confirmed,
            initiator: self.initiator,
            acceptor: self.acceptor,
            server: self.server[..length].into(),
            epoch: self.epoch,
            peer_features: self.peer_features,
            suspended: self.state == State::Suspended,
            near_gone: self.near_gone,
            fin: self.send.fin,
            fin_ever: self.send.fin_ever,
            fin_acked: self.send.fin_acked,
            fin_received: self.receive.fin,
            fin_given: self.receive.fin_given,
            discard: self.receive.discard,
            una: self.send.una(),
            max: self.send.max,
            heard: self.send.heard,
            limit: self.send.limit,
            end: self.send.end(),
            urgent: self.send.urgent(),
            received: self.receive.received,
            told_limit: self.receive.told_limit,
            urgent_received: self.receive.urgent,
            cuts: self.cuts,
            hold: self.hold,
            unlinked: self.clock.unlinked,
            upkeep: self.upkeep,
            wake: self.clock.at(Timer::Wake),
            away: self.clock.away,
            carried: self.carried,
        })
    }

    /// R101: the bytes that the near side has not taken, from `position` on, piece by piece.
    pub fn undelivered_from(&self, position: u64) -> impl Iterator<Item = &[u8]> {
        self.receive.buffer.from(position.saturating_sub(self.receive.delivered()))
    }

    /// R103: appends what lets the session go on at another server: its newest ticket, and the
    /// digest of what was received. Nothing if it has none.
    pub fn encode_ticket(&self, out: &mut Vec<u8>) {
        let Some(held) = &self.held else { return };
        let start = out.len();
        out.extend([TICKET_VERSION, bits(&[held.transferable, self.seam.is_some()])]);
        out.extend(held.covers.to_le_bytes());
        out.extend((held.ticket.len() as u16).to_le_bytes());
        out.extend(&held.ticket);
        if let Some(seam) = &self.seam {
            seam.encode(out);
        }
        let sum = checksum(&out[start..]);
        out.extend(sum.to_le_bytes());
    }

    /// R103: a restored session has the ticket that [`Session::encode_ticket`] wrote.
    pub fn take_up_ticket(&mut self, bytes: &[u8]) -> Result<(), NotRestored> {
        let (bytes, sum) = bytes.split_last_chunk::<8>().ok_or(NotRestored::Damaged)?;
        if checksum(bytes) != u64::from_le_bytes(*sum) {
            return Err(NotRestored::Damaged);
        }
        let (version, bytes) = bytes.split_first().ok_or(NotRestored::Damaged)?;
        if *version != TICKET_VERSION {
            return Err(NotRestored::Version(*version));
        }
        let fields = || {
            let mut fields = Fields(bytes);
            let ([flags], covers) = (fields.take()?, fields.word()?);
            let length = usize::from(u16::from_le_bytes(fields.take()?));
            let (ticket, seam) = fields.0.split_at_checked(length)?;
            let seam = if flags & 2 == 2 { Some(Seam::decode(seam)?) } else { None };
            let held = HeldTicket { covers, transferable: flags & 1 == 1, ticket: ticket.into() };
            (covers <= self.send.max).then_some((held, seam))
        };
        let (held, seam) = fields().ok_or(NotRestored::Damaged)?;
        self.held = Some(Box::new(held));
        // A digest that is ahead skips what comes again; one that is behind is of no use.
        let received = self.receive.received;
        self.seam = seam.filter(|seam| seam.position() >= received).map(Box::new);
        Ok(())
    }

    /// Up to where what was received is digested.
    #[must_use]
    pub fn digested(&self) -> Option<u64> {
        self.seam.as_ref().map(|seam| seam.position())
    }

    /// The bytes that the peer has not acknowledged, from `position` on, piece by piece.
    #[cfg(test)]
    pub fn kept_from(&self, position: u64) -> impl Iterator<Item = &[u8]> {
        self.send.buffer.at(position, usize::MAX)
    }

    /// R103: the end again, in another process. `up` are the bytes from
    /// [`Remains::needed_from`] on, `down` those received and not delivered.
    pub fn restore(
        now: Instant,
        limits: Limits,
        service: &str,
        remains: &Remains,
        at: NearCounts,
        (up, down): (&[u8], &[u8]),
    ) -> Result<Session, NotRestored> {
        let una = at.end.checked_sub(up.len() as u64).ok_or(NotRestored::Misfit)?;
        let fits = una <= remains.max
            && at.end >= remains.end
            && (at.end == remains.end || !remains.fin)
            && at.held >= remains.received
            && (at.held == remains.received || !remains.fin_received)
            && at.held <= remains.told_limit
            && at.held - at.delivered == down.len() as u64;
        if !fits {
            return Err(NotRestored::Misfit);
        }
        let role = match remains.daemon {
            Daemon::Broker => Role::BROKER,
            Daemon::Server => Role::SERVER,
        };
        let start = StartAt { up: at.held, down: una };
        let mut session = Session::new(now, limits, role, remains.initiator, start);
        session.start = StartAt::default();
        session.initiator = remains.initiator;
        session.acceptor = remains.acceptor;
        session.service = service.into();
        session.server = remains.server.clone();
        (session.established, session.confirmed) = (true, remains.confirmed);
        session.epoch = remains.epoch;
        session.carried = remains.carried;
        session.peer_features = remains.peer_features;
        session.near_gone = remains.near_gone;
        // R72: what was agreed goes on, from when it began.
        session.hold = session.limits.hold.min(remains.hold);
        session.clock.unlinked = remains.unlinked.filter(|since| *since <= now);
        session.clock.away = remains.away;
        session.upkeep = remains.upkeep;
        session.cuts = mutant!(CutsForgotten, remains.cuts, Cuts::start(0, 0));
        let send = &mut session.send;
        send.buffer.push(up);
        send.max = remains.max;
        send.nxt = remains.max;
        // What makes room for more than the buffer holds was acknowledged.
        send.heard = remains.heard.max(una);
        send.limit = remains.limit;
        (send.fin, send.fin_ever) = (remains.fin, remains.fin_ever);
        send.fin_acked = remains.fin_acked;
        send.restore_urgent(remains.urgent);
        let receive = &mut session.receive;
        receive.keep(down);
        receive.told_limit = remains.told_limit;
        receive.urgent = remains.urgent_received.filter(|urgent| *urgent >= at.delivered);
        receive.forget_announced();
        (receive.fin, receive.fin_given) = (remains.fin_received, remains.fin_given);
        receive.fin_ack_due = remains.fin_received;
        receive.discard = remains.discard;
        if remains.near_gone {
            session.clock.arm(Timer::Closing, now + session.limits.closing_max);
        }
        if remains.suspended {
            session.state = State::Suspended;
            if let Some(until) = remains.wake {
                session.clock.set(Timer::Wake, until);
            }
        } else {
            session.await_link(now, Pace::Now);
        }
        session.keep_trim(now);
        session.check_drained();
        Ok(session)
    }
}
