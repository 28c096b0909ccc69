//! Bytes that wait for room on the other side, and pieces of bytes.

use std::io::{IoSlice, IoSliceMut};

/// Most pieces written with one call.
const PIECES_MAX: usize = 64;

/// A small queue of bytes.
#[derive(Debug, Default)]
pub struct Waiting {
    bytes: Vec<u8>,
    gone: usize,
}

impl Waiting {
    /// What waits.
    #[must_use]
    pub fn rest(&self) -> &[u8] {
        &self.bytes[self.gone..]
    }

    /// Nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.rest().is_empty()
    }

    /// Adds to what waits.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The first `count` bytes are through. An empty queue keeps no memory.
    pub fn advance(&mut self, count: usize) {
        self.gone += count;
        if self.gone >= self.bytes.len() {
            *self = Self::default();
        }
    }

    /// Everything that waits.
    #[must_use]
    pub fn take(&mut self) -> Vec<u8> {
        let Self { mut bytes, gone } = std::mem::take(self);
        bytes.drain(..gone);
        bytes
    }
}

impl From<Vec<u8>> for Waiting {
    fn from(bytes: Vec<u8>) -> Self {
        Self { bytes, gone: 0 }
    }
}

/// The pieces behind the first `taken` bytes.
pub(super) fn beyond<'a>(slices: &'a [IoSlice<'_>], mut taken: usize) -> Vec<&'a [u8]> {
    let mut pieces = Vec::with_capacity(slices.len().min(PIECES_MAX));
    for slice in slices {
        let skipped = taken.min(slice.len());
        taken -= skipped;
        if skipped < slice.len() && pieces.len() < PIECES_MAX {
            pieces.push(&slice[skipped..]);
        }
    }
    pieces
}

/// The first `most` bytes of these pieces.
pub(super) fn at_most<'a>(pieces: &[&'a [u8]], mut most: usize) -> Vec<IoSlice<'a>> {
    let mut slices = Vec::with_capacity(pieces.len());
    for piece in pieces {
        let length = piece.len().min(most);
        most -= length;
        slices.push(IoSlice::new(&piece[..length]));
    }
    slices
}

/// Copies what fits.
#[must_use]
pub fn copy(mut bytes: &[u8], slices: &mut [IoSliceMut<'_>]) -> usize {
    let mut copied = 0;
    for slice in slices {
        let length = slice.len().min(bytes.len());
        slice[..length].copy_from_slice(&bytes[..length]);
        bytes = &bytes[length..];
        copied += length;
    }
    copied
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_waits_leaves_in_order_and_without_a_trace() {
        let mut waiting = Waiting::from(b"abc".to_vec());
        waiting.push(b"def");
        waiting.advance(2);
        assert_eq!(waiting.rest(), b"cdef");
        assert_eq!(waiting.take(), b"cdef");
        waiting.push(b"x");
        waiting.advance(1);
        assert!(waiting.is_empty() && waiting.bytes.capacity() == 0);
    }

    #[test]
    fn pieces_are_cut_where_they_are_asked_to_be() {
        let slices = [IoSlice::new(b"ab"), IoSlice::new(b""), IoSlice::new(b"cde")];
        assert_eq!(beyond(&slices, 0), [&b"ab"[..], b"cde"]);
        assert_eq!(beyond(&slices, 3), [&b"de"[..]]);
        assert!(beyond(&slices, 5).is_empty());
        let cut: Vec<u8> =
            at_most(&beyond(&slices, 1), 2).iter().flat_map(|s| s.to_vec()).collect();
        assert_eq!(cut, b"bc");
        let (mut one, mut two) = ([0; 2], [0; 4]);
        let mut spare = [IoSliceMut::new(&mut one), IoSliceMut::new(&mut two)];
        assert_eq!(copy(b"vwxyz", &mut spare), 5);
        assert_eq!((&one, &two), (b"vw", b"xyz\0"));
    }
}
