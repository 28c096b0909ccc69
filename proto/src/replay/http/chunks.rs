//! The chunks that an app gets: cut at fixed places of the body, so that any server cuts alike
//! (R68).
//!
//! A body in chunks goes to the app in chunks of our own. Each has [`CELL`] bytes, counted from a
//! *base*, and the last one what is left. So the stream follows from the body and the base, and a
//! server that has the same body makes the same bytes. What comes slowly is not held back until a
//! cell is full: then a new base is announced, in a ticket, that says how long the next chunk is.
//! The base carries the digest of the body before it, and the broker digests the stream behind it;
//! both together prove the whole prefix, and the broker needs to know nothing of chunks.

use serde::{Deserialize, Serialize};

use crate::replay::digest::{self, Digest};
use crate::seam::{BLOCK, Seam, SeamProof};

/// Body bytes of a chunk, unless the base or the end of the body says otherwise.
pub(super) const CELL: u32 = 65_536;

/// Where the cells are counted from, for a server that was not there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Base {
    /// Down position of the first chunk that is counted.
    pub at: u64,
    /// Body bytes before it.
    pub body: u64,
    /// How long that first chunk is, if the body does not end in it: 1 to 65,536 bytes.
    pub first: u32,
    /// The digest of the body before it.
    #[serde(with = "digest")]
    pub digest: Digest,
}

impl Base {
    /// Before the first byte of a body, which is at this down position.
    pub(super) fn begin(at: u64) -> Self {
        Self::here(at, CELL, &Seam::new(0, BLOCK))
    }

    fn here(at: u64, first: u32, seam: &Seam) -> Self {
        let SeamProof { until, last, partial, chain, .. } = seam.proof();
        Self { at, body: until, first, digest: (last, partial, chain) }
    }

    /// The proof of the body before it, in positions of the body.
    pub(super) fn proof(&self) -> SeamProof {
        let (last, partial, chain) = self.digest;
        SeamProof { from: 0, until: self.body, block: BLOCK, last, partial, chain }
    }

    /// It could have been made.
    pub(super) fn is_sound(&self) -> bool {
        (1..=CELL).contains(&self.first)
    }

    /// How many body bytes the app has that has the stream up to `have`, if no chunk so far was
    /// cut short by the end of the body; otherwise about so many.
    pub(super) fn body_at(&self, have: u64) -> u64 {
        let passed = have.saturating_sub(self.at);
        let frame = |size: u32| (head(size).len() as u64, u64::from(size));
        let (line, size) = frame(self.first);
        let beyond = passed.saturating_sub(line + size + 2);
        let first = passed.saturating_sub(line).min(size);
        let (line, size) = frame(CELL);
        let (cells, rest) = (beyond / (line + size + 2), beyond % (line + size + 2));
        let behind = cells.saturating_mul(size) + rest.saturating_sub(line).min(size);
        self.body.saturating_add(first).saturating_add(behind)
    }
}

fn head(size: u32) -> String {
    format!("{size:x}\r\n")
}

/// Cuts a body into chunks.
#[derive(Debug, Clone)]
pub struct Cutter {
    base: Base,
    /// How long the next chunk is to be.
    next: u32,
    /// The next chunk, as far as it has come.
    pending: Vec<u8>,
    /// The digest of the body in all chunks before it.
    seam: Seam,
}

impl Cutter {
    /// Goes on at a base; `seam` has seen the body before it.
    pub(super) fn new(base: Base, seam: Seam) -> Self {
        Self { next: base.first, base, pending: Vec::new(), seam }
    }

    /// At the beginning of a body, which is at this down position.
    pub(super) fn begin(at: u64) -> Self {
        Self::new(Base::begin(at), Seam::new(0, BLOCK))
    }

    /// The base that was announced.
    pub(super) fn base(&self) -> &Base {
        &self.base
    }

    /// The base that was announced to the broker stays, whatever this was made from.
    pub(super) fn announced(&mut self, base: Base) {
        self.base = base;
    }

    /// A base at the present down position, which is between two chunks.
    pub(super) fn base_here(&self, at: u64) -> Base {
        Base::here(at, self.next, &self.seam)
    }

    /// Bytes that wait for the rest of their chunk.
    pub(super) fn waits(&self) -> bool {
        !self.pending.is_empty()
    }

    /// Body bytes go into chunks; those that are whole go to `out`.
    pub(super) fn push(&mut self, mut data: &[u8], out: &mut Vec<u8>) {
        while !data.is_empty() {
            let missing = usize::try_from(self.next).unwrap_or(usize::MAX) - self.pending.len();
            let (now, later) = data.split_at(missing.min(data.len()));
            self.pending.extend_from_slice(now);
            if now.len() == missing {
                self.emit(out);
            }
            data = later;
        }
    }

    /// What waits is to be the next chunk, which begins at this down position: a ticket with the
    /// new base must go out before it.
    pub(super) fn announce(&mut self, at: u64) {
        self.next = u32::try_from(self.pending.len()).unwrap_or(CELL).clamp(1, CELL);
        self.base = self.base_here(at);
    }

    /// What waits is a chunk.
    pub(super) fn emit(&mut self, out: &mut Vec<u8>) {
        let data = std::mem::take(&mut self.pending);
        let size = u32::try_from(data.len()).unwrap_or(CELL);
        out.extend_from_slice(head(size).as_bytes());
        out.extend_from_slice(&data);
        out.extend_from_slice(b"\r\n");
        self.seam.update(self.seam.position(), &data);
        self.next = CELL;
    }

    /// The body is over: what waits, the last chunk, and the lines behind it with the empty one.
    pub(super) fn end(&mut self, trailers: &[u8], out: &mut Vec<u8>) {
        if self.waits() {
            self.emit(out);
        }
        out.extend_from_slice(b"0\r\n");
        out.extend_from_slice(trailers);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::http::{Body, Framing};

    fn content(length: usize) -> Vec<u8> {
        (0..length).map(|at| (at % 251) as u8).collect()
    }

    #[test]
    fn the_same_body_makes_the_same_chunks_however_it_came() {
        for length in [0, 1, 65_535, 65_536, 65_537, 200_000] {
            let (body, mut whole) = (content(length), Vec::new());
            let mut cutter = Cutter::begin(7);
            cutter.push(&body, &mut whole);
            cutter.end(b"\r\n", &mut whole);
            let mut followed = Body::new(Framing::Chunked);
            assert_eq!(followed.take(&whole), whole.len());
            assert!(followed.over());
            for piece in [1_000, 70_000] {
                let (mut cutter, mut out) = (Cutter::begin(7), Vec::new());
                body.chunks(piece).for_each(|piece| cutter.push(piece, &mut out));
                cutter.end(b"\r\n", &mut out);
                assert!(out == whole, "{length} by {piece}");
            }
        }
    }

    #[test]
    fn from_a_base_another_server_makes_the_same_bytes() {
        let body = content(300_000);
        let (mut cutter, mut out) = (Cutter::begin(50), Vec::new());
        cutter.push(&body[..100_000], &mut out);
        cutter.announce(50 + out.len() as u64);
        let base = cutter.base().clone();
        assert_eq!((base.body, base.first), (65_536, 100_000 - 65_536));
        cutter.emit(&mut out);
        cutter.push(&body[100_000..], &mut out);
        cutter.end(b"\r\n", &mut out);
        let mut seam = Seam::new(0, BLOCK);
        seam.update(0, &body[..65_536]);
        assert_eq!(seam.proof(), base.proof());
        let (mut other, mut rest) = (Cutter::new(base.clone(), seam), Vec::new());
        other.push(&body[65_536..], &mut rest);
        other.end(b"\r\n", &mut rest);
        assert!(out.ends_with(&rest));
        assert_eq!(out.len() - rest.len(), usize::try_from(base.at).unwrap() - 50);
        let text = serde_json::to_string(&base).unwrap();
        assert_eq!(serde_json::from_str::<Base>(&text).unwrap(), base);
    }

    #[test]
    fn how_much_of_a_body_the_app_has_follows_from_the_base() {
        let body = content(300_000);
        let (mut cutter, mut out) = (Cutter::begin(0), Vec::new());
        cutter.push(&body[..1_000], &mut out);
        cutter.announce(0);
        cutter.emit(&mut out);
        cutter.push(&body[1_000..], &mut out);
        for have in (0..out.len()).step_by(777).chain([1, 5, 6, 1_005, 1_006, 1_007, 1_008]) {
            let mut followed = Body::new(Framing::Chunked);
            let (mut at, mut data) = (0, 0);
            while at < have {
                let (taken, is_data) = followed.next(&out[at..have]);
                at += taken;
                data += if is_data { taken } else { 0 };
            }
            assert_eq!(cutter.base().body_at(have as u64), data as u64, "{have}");
        }
    }
}
