//! What a link has read and not yet opened, what it lends, and what it has sealed and not yet sent.
//!
//! The buffers come from a pool (`pool.rs`) and go back as soon as nothing is in them.

use std::ops::Range;

use super::pool;
use super::record::{RECORD_MAX, WIRE_MAX};

/// What was read and not yet opened, and what the last read opened.
///
/// The plaintext of one read stands at the front of the buffer; the ciphertext follows behind a gap
/// of at least one record, which opened records only widen.
#[derive(Default)]
pub(super) struct Inbox {
    /// Empty, or a buffer of the pool.
    bytes: Box<[u8]>,
    /// Ciphertext that waits: for being opened, or for the rest of its record.
    pending: Range<usize>,
    /// rustls was shown what is pending up to here.
    seen: usize,
    /// Plaintext lent to the caller.
    records: Vec<Range<u32>>,
}

/// Takes plaintext while the ciphertext behind it is opened.
pub(super) struct Lender<'a> {
    room: &'a mut [u8],
    records: &'a mut Vec<Range<u32>>,
}

impl Lender<'_> {
    /// Keeps the plaintext of one record, to be lent.
    pub fn lend(&mut self, plain: &[u8]) {
        let start = self.records.last().map_or(0, |last| last.end as usize);
        let end = start + plain.len();
        self.room[start..end].copy_from_slice(plain);
        let at = |index: usize| u32::try_from(index).expect("buffers are far below 4 GiB");
        self.records.push(at(start)..at(end));
    }
}

impl Inbox {
    /// Holds what came behind the handshake.
    pub fn begin(&mut self, rest: &[u8]) {
        if !rest.is_empty() {
            self.bytes = pool::take_in();
            self.pending = RECORD_MAX..RECORD_MAX + rest.len();
            self.seen = RECORD_MAX;
            self.bytes[self.pending.clone()].copy_from_slice(rest);
        }
    }

    /// Forgets what was lent, and makes room for a whole read: `None` if more is pending than the
    /// longest record.
    pub fn room(&mut self) -> Option<&mut [u8]> {
        self.records.clear();
        if self.bytes.is_empty() {
            self.bytes = pool::take_in();
        }
        if self.pending.start != RECORD_MAX {
            let seen = self.seen - self.pending.start;
            self.bytes.copy_within(self.pending.clone(), RECORD_MAX);
            self.pending = RECORD_MAX..RECORD_MAX + self.pending.len();
            self.seen = RECORD_MAX + seen;
        }
        let start = self.pending.end;
        (self.pending.len() <= WIRE_MAX).then(|| &mut self.bytes[start..start + pool::READ_MAX])
    }

    /// Tells how many bytes were read into [`Self::room`].
    pub fn fill(&mut self, received: usize) {
        self.pending.end += received;
    }

    /// The space for plaintext, and all ciphertext that is pending.
    pub fn split(&mut self) -> (Lender<'_>, &mut [u8]) {
        self.seen = self.pending.end;
        let (room, sealed) = self.bytes[..self.pending.end].split_at_mut(self.pending.start);
        (Lender { room, records: &mut self.records }, sealed)
    }

    /// Tells how many bytes of ciphertext have been opened.
    pub fn discard(&mut self, length: usize) {
        self.pending.start += length;
    }

    /// What rustls was shown and did not tell to discard.
    pub fn seen(&mut self) -> &mut [u8] {
        &mut self.bytes[self.pending.start..self.seen]
    }

    pub fn is_pending(&self) -> bool {
        !self.pending.is_empty()
    }

    pub fn memory(&self) -> usize {
        self.bytes.len()
    }

    pub fn forget(&mut self) {
        self.records.clear();
    }

    pub fn lent(&self) -> (&[u8], &[Range<u32>]) {
        (&self.bytes, &self.records)
    }

    /// Gives the buffer back if nothing is pending in it.
    pub fn rest(&mut self) {
        self.records.clear();
        if self.pending.is_empty() {
            self.give_back();
        }
        if self.records.capacity() > 64 {
            self.records = Vec::new();
        }
    }

    fn give_back(&mut self) {
        (self.pending, self.seen) = (0..0, 0);
        if !self.bytes.is_empty() {
            pool::give_in(std::mem::take(&mut self.bytes));
        }
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

impl Drop for Inbox {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// Sealed records; those before `sent` are the kernel's.
#[derive(Default)]
pub(super) struct Outbox {
    /// Zeros behind `end`, so that room is made once and not for each record.
    bytes: Vec<u8>,
    sent: usize,
    end: usize,
    /// Where plaintext is composed.
    plain: Vec<u8>,
}

impl Outbox {
    /// Room for `length` more bytes, zeros or what stood there before.
    pub fn spare(&mut self, length: usize) -> &mut [u8] {
        if self.bytes.is_empty() {
            self.bytes = pool::take_out();
        } else if self.sent > self.end - self.sent {
            self.bytes.copy_within(self.sent..self.end, 0);
            (self.sent, self.end) = (0, self.end - self.sent);
        }
        if self.bytes.len() < self.end + length {
            self.bytes.resize(self.end + length, 0);
        }
        &mut self.bytes[self.end..]
    }

    /// Tells how many bytes were written to [`Self::spare`].
    pub fn fill(&mut self, length: usize) {
        self.end += length;
        assert!(self.end <= self.bytes.len(), "only spare room is filled");
    }

    pub fn unsent(&self) -> &[u8] {
        &self.bytes[self.sent..self.end]
    }

    /// The kernel took this many bytes.
    pub fn take(&mut self, sent: usize) {
        self.sent += sent;
    }

    /// An empty buffer to compose in; to be given back by [`Self::composed`].
    pub fn compose(&mut self) -> Vec<u8> {
        let plain = std::mem::take(&mut self.plain);
        if plain.capacity() == 0 { pool::take_plain() } else { plain }
    }

    pub fn composed(&mut self, mut plain: Vec<u8>) {
        plain.clear();
        self.plain = plain;
    }

    pub fn memory(&self) -> usize {
        self.bytes.len() + self.plain.capacity()
    }

    /// Gives the buffers back.
    pub fn rest(&mut self) {
        (self.sent, self.end) = (0, 0);
        if !self.bytes.is_empty() {
            pool::give_out(std::mem::take(&mut self.bytes));
        }
        if self.plain.capacity() > 0 {
            pool::give_plain(std::mem::take(&mut self.plain));
        }
    }

    #[cfg(test)]
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.plain.capacity() == 0
    }

    #[cfg(test)]
    pub fn unsent_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.sent..self.end]
    }
}

impl Drop for Outbox {
    fn drop(&mut self) {
        self.rest();
    }
}
