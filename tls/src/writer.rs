//! What the app receives: plaintext in, records out, cut so that another server cuts alike (R95).
//!
//! Records are counted from a *base*, which a ticket names: where in the plaintext a record begins,
//! and what seals it. From there each is 16 KiB long, and the last one of a response what is left.
//! A record that cannot wait to be full is announced by a ticket before it goes out: that is a new
//! base, which says how long the record is. A change of keys is announced in the same way. So the
//! stream follows from the plaintext and the base.
//!
//! The base carries the digest of the plaintext before it, and the broker digests the stream behind
//! it: both together prove the whole. Equal keys and equal numbers make equal records of equal
//! plaintext only.

use std::collections::VecDeque;
use std::io::{self, IoSliceMut};

use stp_proto::replay::http;
use stp_proto::replay::https::{Exchange, Hidden};
use stp_proto::seam::{BLOCK, Seam, SeamMismatch, SeamProof, Verifier};

use crate::alert::CLOSE_NOTIFY;
use crate::reader::Reader;
use crate::record::{HEADER, Kind, OVERHEAD, PLAIN_MAX, Sealer};
use crate::secret::{Direction, Keys};

/// Records that one read fills at most: more would be memory that is cleared for nothing.
const RECORDS_AT_ONCE: usize = 4;
/// Made and not taken: no more is made before it is. Two reads' worth.
const OUT_MAX: usize = 128 * 1024;
/// A base this far behind the last one, at least: the first record.
const BASE_MIN: u64 = 16 * 1024;
/// From then on as far as this, if the last one is a second old: what another server makes again to
/// compare it takes a few milliseconds. Each base ends a move that has begun (R65), so that they
/// must not come too often.
const BASE_MAX: u64 = 4 << 20;
/// And at most, however fast it goes: a tenth of a second of making it again.
const BASE_LAST: u64 = 64 << 20;
/// Records under one key. AES-GCM allows 2^24.5 of full size (RFC 8446, 5.5).
const KEY_RECORDS_MAX: u64 = 1 << 23;
/// After a takeover keys are changed (R96), but not sooner than this after the last time, seconds:
/// GnuTLS ends a connection in which they are changed more often than 8 times at once.
const UPDATE_EVERY: u64 = 15;
/// And not sooner than this after the takeover, seconds: while a session is moved, both servers
/// send, and what comes twice is compared (R67). That takes 2 s at most.
const FENCE_AFTER: u64 = 5;
/// The message that changes keys, and wants no answer.
const KEY_UPDATE: [u8; 5] = [24, 0, 0, 1, 0];

/// How an exchange of HTTP stands, when it can be continued.
#[derive(Debug, Clone)]
pub struct Standing {
    /// Down position, in the plaintext.
    pub at: u64,
    /// Up position that it covers.
    pub covers: u64,
    /// First down position that can be compared.
    pub from: u64,
    /// What a server needs to know of it.
    pub http: http::Exchange,
}

impl Standing {
    /// Whether a record begins at its place anyway, because a response begins or has ended there.
    fn is_between(&self) -> bool {
        match &self.http {
            http::Exchange::Idle { .. } => true,
            http::Exchange::Interim { head_at, .. } | http::Exchange::Response { head_at, .. } => {
                *head_at == self.at
            }
        }
    }
}

/// A ticket to be sent before the byte at its place.
#[derive(Debug)]
pub struct Ticket {
    /// Down position in the stream.
    pub at: u64,
    /// Up position in the stream that it covers.
    pub covers: u64,
    /// What it says, or why the session cannot be continued from here on.
    pub exchange: Result<Box<Exchange>, String>,
}

/// What is needed to make tickets.
pub struct Desk<'a> {
    /// The other direction.
    pub reader: &'a Reader,
    /// Sends one; says whether it could be made.
    pub issue: &'a mut dyn FnMut(Ticket) -> bool,
    /// Seconds since 1970.
    pub now: u64,
}

/// What was made and not taken.
#[derive(Default)]
struct Out {
    pieces: VecDeque<Vec<u8>>,
    /// Bytes of the first piece that were taken.
    gone: usize,
    length: usize,
}

impl Out {
    fn push(&mut self, piece: Vec<u8>) {
        self.length += piece.len();
        self.pieces.push_back(piece);
    }

    fn copy(&mut self, slices: &mut [IoSliceMut<'_>]) -> usize {
        let mut copied = 0;
        for slice in slices {
            let mut room = &mut slice[..];
            while let (Some(piece), false) = (self.pieces.front(), room.is_empty()) {
                let rest = &piece[self.gone..];
                let count = rest.len().min(room.len());
                let (now, later) = std::mem::take(&mut room).split_at_mut(count);
                now.copy_from_slice(&rest[..count]);
                (room, copied) = (later, copied + count);
                self.gone += count;
                if self.gone == piece.len() {
                    self.pieces.pop_front();
                    self.gone = 0;
                }
            }
        }
        self.length -= copied;
        copied
    }
}

/// Makes what the app receives.
pub struct Writer {
    sealer: Sealer,
    /// The down position behind all that was made.
    at: u64,
    /// The plaintext position of the record under way.
    plain: u64,
    /// The record under way: room for the header, then plaintext.
    record: Vec<u8>,
    /// How much plaintext makes it whole.
    limit: usize,
    out: Out,
    standing: Option<Standing>,
    /// The digest of the plaintext before the record, as far as it can be compared.
    seam: Seam,
    /// The plaintext position of the newest base, and when it was made, seconds since 1970.
    base: (u64, u64),
    /// The session is expected to go to another server until then: no base that can wait is made.
    leaving: u64,
    /// Keys are to be changed before the next record: the app wants it, or the key is worn.
    update: bool,
    /// Keys are to be changed before the first record from this time on, seconds since 1970.
    fence: Option<u64>,
    /// When they were.
    updated: u64,
    /// What is made is compared with what the app has.
    check: Option<Verifier>,
    differs: Option<SeamMismatch>,
}

impl Writer {
    /// Begins behind a handshake, at this down position.
    #[must_use]
    pub fn new(direction: Direction, at: u64) -> Self {
        Self {
            sealer: Sealer::new(direction),
            at,
            plain: 0,
            record: vec![0; HEADER],
            limit: PLAIN_MAX,
            out: Out::default(),
            standing: None,
            seam: Seam::new(0, BLOCK),
            base: (0, 0),
            leaving: 0,
            update: false,
            fence: None,
            updated: 0,
            check: None,
            differs: None,
        }
    }

    /// Goes on where a ticket says, whose down position is `at`. What is made is compared with the
    /// proof of what the app has from there on, if it has anything. `seam` is the digest of the
    /// plaintext before. It is `now`, seconds since 1970.
    #[must_use]
    pub fn resume(
        exchange: &Exchange,
        direction: Direction,
        (at, proof): (u64, Option<SeamProof>),
        seam: Option<Seam>,
        now: u64,
    ) -> Self {
        let mut writer = Self::new(direction, at);
        let Exchange { http, at, covers, plain, from, first, update, updated, .. } = exchange;
        writer.standing =
            Some(Standing { at: *at, covers: *covers, from: *from, http: http.clone() });
        writer.seam = seam.unwrap_or_else(|| Seam::new(*from, BLOCK));
        (writer.plain, writer.base, writer.updated) = (*plain, (*plain, now), *updated);
        writer.limit = usize::from(*first).clamp(1, PLAIN_MAX);
        writer.check = proof.filter(|proof| proof.until > proof.from).map(Verifier::new);
        let fence = now.saturating_add(FENCE_AFTER);
        writer.fence = Some(fence.max(updated.saturating_add(UPDATE_EVERY)));
        if *update {
            let fence = writer.fence;
            writer.change();
            writer.fence = fence;
        }
        writer
    }

    /// The down position behind all that was made.
    #[must_use]
    pub fn at(&self) -> u64 {
        self.at
    }

    /// Bytes that were made and not taken.
    #[must_use]
    pub fn made(&self) -> usize {
        self.out.length
    }

    /// Takes what fits of what was made.
    pub fn copy(&mut self, slices: &mut [IoSliceMut<'_>]) -> usize {
        self.out.copy(slices)
    }

    /// Plaintext waits for the rest of its record.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.record.len() > HEADER
    }

    /// Whether all that the app has was made again and is the same.
    ///
    /// # Errors
    /// When it is not the same.
    pub fn is_joined(&self) -> Result<bool, SeamMismatch> {
        match self.differs {
            Some(differs) => Err(differs),
            None => Ok(self.check.is_none()),
        }
    }

    /// How the exchange stands that the newest ticket tells of.
    #[must_use]
    pub fn standing(&self) -> Option<&Standing> {
        self.standing.as_ref()
    }

    /// The broker was asked to take the session elsewhere, and does so until then if at all, in
    /// seconds since 1970.
    pub fn leaves(&mut self, until: u64) {
        self.leaving = until;
    }

    /// The app wants other keys.
    pub fn want_update(&mut self) {
        self.update = true;
    }

    /// Lets `read` fill records; says what it says. 0 if it was not called, because there is too
    /// much that was not taken.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn fill(
        &mut self,
        desk: &mut Desk<'_>,
        read: &mut dyn FnMut(&mut [IoSliceMut<'_>]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        if self.out.length >= OUT_MAX {
            return Ok(0);
        }
        let begun = self.record.len();
        self.record.resize(HEADER + self.limit, 0);
        let mut more: [_; RECORDS_AT_ONCE - 1] =
            std::array::from_fn(|_| vec![0; HEADER + PLAIN_MAX]);
        let mut views = vec![IoSliceMut::new(&mut self.record[begun..])];
        views.extend(more.iter_mut().map(|record| IoSliceMut::new(&mut record[HEADER..])));
        let read = read(&mut views);
        let mut left = *read.as_ref().unwrap_or(&0);
        let (mut at, mut more) = (begun, more.into_iter());
        while left >= self.record.len() - at {
            left -= self.record.len() - at;
            self.seal(desk);
            at = HEADER;
            match more.next() {
                Some(record) if left > 0 => self.record = record,
                _ => return read,
            }
        }
        self.record.truncate(at + left);
        if !self.waits() {
            // What waits for nothing keeps no memory.
            self.record = vec![0; HEADER];
        }
        read
    }

    /// Takes this plaintext, whole.
    pub fn write(&mut self, desk: &mut Desk<'_>, mut plain: &[u8]) {
        while !plain.is_empty() {
            let room = HEADER + self.limit - self.record.len();
            let (now, later) = plain.split_at(room.min(plain.len()));
            self.record.extend_from_slice(now);
            plain = later;
            if now.len() == room {
                self.seal(desk);
            }
        }
    }

    /// An exchange can be continued from here on, as this says. False if no ticket can be made.
    pub fn stand(&mut self, desk: &mut Desk<'_>, standing: Standing) -> bool {
        debug_assert_eq!(standing.at, self.plain + (self.record.len() - HEADER) as u64);
        if standing.is_between() {
            self.seal(desk);
        } else {
            self.flush(desk);
        }
        if self.seam.from() != standing.from {
            if standing.from < self.plain {
                // Something was not digested.
                self.standing = None;
                return false;
            }
            self.seam = Seam::new(standing.from, BLOCK);
        }
        self.standing = Some(standing);
        self.tell(desk, false)
    }

    /// From here on nobody can continue, for this reason.
    pub fn disclaim(&mut self, desk: &mut Desk<'_>, covers: u64, why: String) {
        self.standing = None;
        let (at, covers) = (self.at, desk.reader.place(covers).at);
        (desk.issue)(Ticket { at, covers, exchange: Err(why) });
    }

    /// What waits goes out now.
    pub fn flush(&mut self, desk: &mut Desk<'_>) {
        let length = self.record.len() - HEADER;
        if length > 0 {
            self.limit = length;
            if !self.changes(desk.now) {
                self.tell(desk, false);
            }
            self.seal(desk);
        }
    }

    /// A response is whole.
    pub fn complete(&mut self, desk: &mut Desk<'_>) {
        self.seal(desk);
        if self.base.0 < self.plain && self.standing.is_some() {
            self.tell(desk, false);
        }
    }

    /// Nothing more goes to the app.
    pub fn close(&mut self, desk: &mut Desk<'_>) {
        self.seal(desk);
        self.end(&CLOSE_NOTIFY);
    }

    /// The last word: an alert.
    pub fn end(&mut self, alert: &[u8; 2]) {
        let record = self.sealer.message(Kind::Alert, alert);
        self.push(record);
    }

    /// Makes a ticket for the record that begins here. It is of no use while the app has more than
    /// that already.
    fn tell(&mut self, desk: &mut Desk<'_>, update: bool) -> bool {
        let Some(standing) = &self.standing else { return false };
        if self.check.is_some() {
            return true;
        }
        self.base = (self.plain, desk.now);
        let place = desk.reader.place(standing.covers);
        let keys = Keys { down: self.sealer.direction().clone(), up: place.direction };
        let compared = self.seam.position() > self.seam.from();
        let exchange = Exchange {
            http: standing.http.clone(),
            at: standing.at,
            covers: standing.covers,
            skip: place.skip,
            plain: self.plain,
            from: standing.from,
            digest: compared.then(|| self.seam.proof().into()),
            first: u16::try_from(self.limit).unwrap_or(u16::MAX),
            update,
            updated: self.updated,
            keys: Hidden::new(keys.to_bytes()),
        };
        let covers = place.at;
        let made = (desk.issue)(Ticket { at: self.at, covers, exchange: Ok(Box::new(exchange)) });
        if !made {
            self.disclaim(desk, 0, "heads too long for a ticket".to_owned());
        }
        made
    }

    /// Keys are to be changed before the next record.
    fn changes(&self, now: u64) -> bool {
        let fence = self.fence.is_some_and(|fence| now >= fence);
        let worn = self.sealer.direction().number >= KEY_RECORDS_MAX;
        (self.update || fence || worn) && self.check.is_none()
    }

    /// Seals the record under way, if there is anything in it.
    fn seal(&mut self, desk: &mut Desk<'_>) {
        let length = self.record.len() - HEADER;
        if length == 0 {
            return;
        }
        if self.changes(desk.now) {
            let limit = std::mem::replace(&mut self.limit, length);
            self.tell(desk, true);
            self.limit = limit;
            self.updated = desk.now;
            self.change();
        }
        self.seam.update(self.plain, &self.record[HEADER..]);
        self.plain += length as u64;
        self.limit = PLAIN_MAX;
        let mut record = std::mem::replace(&mut self.record, vec![0; HEADER]);
        record.reserve_exact(OVERHEAD - HEADER);
        self.sealer.seal(Kind::Data, &mut record);
        self.push(record);
        self.rebase(desk);
    }

    /// A new base from time to time: what another server would make again is bounded.
    fn rebase(&mut self, desk: &mut Desk<'_>) {
        let (base, made) = self.base;
        let (since, before) = (self.plain - base, base.saturating_sub(self.seam.from()));
        let old = before < BASE_MAX || desk.now > made + 1 || since >= BASE_LAST;
        let far = since >= before.clamp(BASE_MIN, BASE_MAX);
        if far
            && old
            && desk.now >= self.leaving
            && self.seam.position() > self.seam.from()
            && self.standing.is_some()
        {
            self.tell(desk, false);
        }
    }

    fn change(&mut self) {
        let record = self.sealer.message(Kind::Handshake, &KEY_UPDATE);
        self.push(record);
        self.sealer.change();
        (self.update, self.fence) = (false, None);
    }

    /// A record was made. What the app has of it is compared.
    fn push(&mut self, mut record: Vec<u8>) {
        self.at += record.len() as u64;
        if let Some(check) = &mut self.check {
            match check.push(&record) {
                Ok(had) => drop(record.drain(..had)),
                Err(differs) => self.differs = Some(differs),
            }
            if check.missing() == 0
                && let Some(Err(differs)) = self.check.take().map(Verifier::finish)
            {
                self.differs = Some(differs);
            }
        }
        if !record.is_empty() {
            self.out.push(record);
        }
    }
}
