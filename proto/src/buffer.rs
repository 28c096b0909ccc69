//! The two buffers of an end, and their memory.
//!
//! Bytes taken from the near side are kept until the peer has acknowledged them. Bytes received are
//! kept only if the near side does not take them at once. Both buffers start without memory, and an
//! idle session gives all of it back ([`SendBuffer::trim`]). Memory that was freed last is used
//! again first, so that a busy session works in the processor's cache. Two buffers are equal if
//! they hold the same bytes at the same positions, wherever their memory lies.

use core::fmt;
use core::hash::{Hash, Hasher};
use std::collections::VecDeque;
use std::io::{self, IoSlice, IoSliceMut};

use crate::mutant::mutant;

/// A read of at most this many bytes into an empty buffer moves into memory of its own size.
const SMALL: usize = 2048;
/// Spare pieces that are kept for the next read.
const SPARES_MAX: usize = 8;
/// The most slices of one vectored call.
pub const SLICES_MAX: usize = 64;

/// A piece of memory, of which the bytes from `from` to `to` are in use.
#[derive(Clone)]
struct Piece {
    memory: Box<[u8]>,
    from: usize,
    to: usize,
}

impl Piece {
    fn bytes(&self) -> &[u8] {
        &self.memory[self.from..self.to]
    }

    fn len(&self) -> usize {
        self.to - self.from
    }

    fn space(&self) -> usize {
        self.memory.len() - self.to
    }
}

/// A queue of bytes in pieces of memory.
#[derive(Clone)]
struct Pieces {
    pieces: VecDeque<Piece>,
    spares: Vec<Box<[u8]>>,
    size: usize,
    len: usize,
    /// All of it, used or spare, in bytes.
    memory: usize,
}

impl Pieces {
    fn new(size: usize) -> Pieces {
        assert!(size > 0, "a piece holds bytes");
        Pieces { pieces: VecDeque::new(), spares: Vec::new(), size, len: 0, memory: 0 }
    }

    fn allocate(&mut self, size: usize) -> Box<[u8]> {
        self.memory += size;
        vec![0; size].into_boxed_slice()
    }

    fn fresh(&mut self) -> Piece {
        let memory = self.spares.pop().unwrap_or_else(|| self.allocate(self.size));
        Piece { memory, from: 0, to: 0 }
    }

    fn give_back(&mut self, memory: Box<[u8]>) {
        if memory.len() == self.size && self.spares.len() < SPARES_MAX {
            self.spares.push(memory);
        } else {
            self.memory -= memory.len();
        }
    }

    /// Gives spare memory back.
    fn trim(&mut self) {
        self.memory -= self.spares.len() * self.size;
        self.spares = Vec::new();
    }

    /// Frees `count` bytes at the front.
    fn consume(&mut self, mut count: usize) {
        assert!(count <= self.len, "no more is freed than is held");
        self.len -= count;
        while let Some(front) = self.pieces.front_mut() {
            let here = front.len().min(count);
            front.from += here;
            count -= here;
            if front.len() > 0 {
                break;
            }
            let Some(empty) = self.pieces.pop_front() else { break };
            self.give_back(empty.memory);
        }
        if self.pieces.is_empty() && self.pieces.capacity() > 8 {
            self.pieces = VecDeque::new();
        }
    }

    /// Appends a copy of `bytes`.
    fn push(&mut self, mut bytes: &[u8]) {
        self.len += bytes.len();
        while !bytes.is_empty() {
            if self.pieces.back().is_none_or(|back| back.space() == 0) {
                let small = self.pieces.is_empty() && bytes.len() <= SMALL.min(self.size / 4);
                let piece = match small {
                    true => Piece { memory: self.allocate(2 * bytes.len()), from: 0, to: 0 },
                    false => self.fresh(),
                };
                self.pieces.push_back(piece);
            }
            let back = self.pieces.back_mut().expect("a piece with space was just put there");
            let (now, later) = bytes.split_at(back.space().min(bytes.len()));
            back.memory[back.to..back.to + now.len()].copy_from_slice(now);
            back.to += now.len();
            bytes = later;
        }
    }

    /// The bytes from `skip` on, piece by piece.
    fn from(&self, skip: usize) -> impl Iterator<Item = &[u8]> {
        // Walk from the nearer end: what is sent next is mostly near the back.
        let (mut index, mut start) = (0, 0);
        if skip > self.len / 2 {
            (index, start) = (self.pieces.len(), self.len);
            while start > skip {
                index -= 1;
                start -= self.pieces[index].len();
            }
        } else {
            while let Some(piece) = self.pieces.get(index)
                && start + piece.len() <= skip
            {
                start += piece.len();
                index += 1;
            }
        }
        let mut skip = skip - start;
        self.pieces.range(index..).map(move |piece| &piece.bytes()[core::mem::take(&mut skip)..])
    }

    fn equals(&self, other: &Pieces) -> bool {
        self.len == other.len && self.from(0).flatten().eq(other.from(0).flatten())
    }

    fn hash<H: Hasher>(&self, state: &mut H) {
        state.write_usize(self.len);
        self.from(0).flatten().for_each(|byte| state.write_u8(*byte));
    }
}

/// Bytes of the outgoing stream that the peer has not acknowledged.
#[derive(Clone)]
pub struct SendBuffer {
    pieces: Pieces,
    start: u64,
    appetite: usize,
}

impl SendBuffer {
    /// An empty buffer at position `start`, whose memory comes in pieces of `piece` bytes.
    pub fn new(start: u64, piece: usize) -> SendBuffer {
        SendBuffer { pieces: Pieces::new(piece), start, appetite: piece }
    }

    /// Position of the first byte held.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// The position after the last byte held.
    pub fn end(&self) -> u64 {
        self.start + self.len() as u64
    }

    /// Bytes held.
    pub fn len(&self) -> usize {
        self.pieces.len
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.pieces.len == 0
    }

    /// Offers spare space of at most `room` and `max` bytes to `read`, keeps what was read.
    pub fn fill<R>(&mut self, room: usize, max: usize, mut read: R) -> io::Result<usize>
    where
        R: FnMut(&mut [IoSliceMut<'_>]) -> io::Result<usize>,
    {
        let wanted = self.appetite.max(self.pieces.size).min(max).min(room);
        if wanted == 0 {
            return Ok(0);
        }
        let tail = self.pieces.pieces.back().map_or(0, Piece::space);
        let mut fresh: Vec<Piece> = Vec::new();
        let mut space = tail;
        while space < wanted && fresh.len() < SLICES_MAX - 1 {
            let piece = self.pieces.fresh();
            space += piece.memory.len();
            fresh.push(piece);
        }
        let offered = space.min(wanted);
        let result = {
            let mut left = offered;
            let mut slices: Vec<IoSliceMut<'_>> = Vec::with_capacity(fresh.len() + 1);
            let back = self.pieces.pieces.back_mut().filter(|back| back.space() > 0);
            for piece in back.into_iter().chain(fresh.iter_mut()) {
                let size = piece.space().min(left);
                left -= size;
                let to = piece.to;
                slices.push(IoSliceMut::new(&mut piece.memory[to..to + size]));
            }
            read(&mut slices)
        };
        let count = match &result {
            Ok(count) => *count,
            Err(_) => 0,
        };
        assert!(count <= offered, "read reports no more than it was offered");
        self.commit(count, fresh);
        if count == offered {
            self.appetite = self.appetite.max(offered * 2).min(max);
        } else if count < offered / 4 {
            self.appetite = (self.appetite / 2).max(self.pieces.size);
        }
        result
    }

    fn commit(&mut self, count: usize, fresh: Vec<Piece>) {
        let mut left = count;
        let was_empty = self.is_empty();
        if let Some(back) = self.pieces.pieces.back_mut() {
            let here = back.space().min(left);
            back.to += here;
            left -= here;
        }
        let mut unused = Vec::new();
        for mut piece in fresh {
            if left == 0 {
                unused.push(piece.memory);
                continue;
            }
            let here = piece.space().min(left);
            piece.to = here;
            left -= here;
            self.pieces.pieces.push_back(piece);
        }
        // Pieces go back in the order in which they would be taken again.
        unused.into_iter().rev().for_each(|memory| self.pieces.give_back(memory));
        self.pieces.len += count;
        if was_empty && count > 0 && count <= SMALL.min(self.pieces.size / 4) {
            self.shrink(count);
        }
    }

    /// Moves a small amount that is alone in a large piece into memory of its own size. The large
    /// piece stays for the next read.
    fn shrink(&mut self, count: usize) {
        let Some(piece) = self.pieces.pieces.front_mut() else { return };
        if self.pieces.len != count || piece.memory.len() < self.pieces.size {
            return;
        }
        let small: Box<[u8]> = piece.bytes().into();
        self.pieces.memory += small.len();
        let large = core::mem::replace(&mut piece.memory, small);
        (piece.from, piece.to) = (0, count);
        self.pieces.give_back(large);
    }

    /// Appends bytes that were taken before.
    pub fn push(&mut self, bytes: &[u8]) {
        self.pieces.push(bytes);
    }

    /// Frees everything below `position`.
    pub fn free(&mut self, position: u64) {
        assert!(position <= self.end(), "only what was taken is freed");
        let count = usize::try_from(position.saturating_sub(self.start)).expect("held in memory");
        self.pieces.consume(count);
        self.start = self.start.max(position);
    }

    /// At most `max` bytes from `position` on, piece by piece.
    pub fn at(&self, position: u64, max: usize) -> impl Iterator<Item = &[u8]> {
        assert!(position >= self.start, "freed bytes are never sent");
        let skip = usize::try_from(position - self.start).expect("held in memory");
        let mut left = max;
        self.pieces.from(skip).map_while(move |bytes| {
            let here = bytes.len().min(left);
            left -= here;
            (here > 0).then(|| &bytes[..here])
        })
    }

    /// Whether it holds no memory at all.
    pub fn is_bare(&self) -> bool {
        self.pieces.pieces.is_empty() && self.pieces.spares.is_empty()
    }

    /// Gives spare memory back.
    pub fn trim(&mut self) {
        self.pieces.trim();
    }

    /// Memory held, used or spare.
    pub fn memory(&self) -> usize {
        self.pieces.memory
    }
}

impl PartialEq for SendBuffer {
    fn eq(&self, other: &SendBuffer) -> bool {
        self.start == other.start && self.pieces.equals(&other.pieces)
    }
}

impl Eq for SendBuffer {}

impl Hash for SendBuffer {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.start.hash(state);
        self.pieces.hash(state);
    }
}

impl fmt::Debug for SendBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SendBuffer({}..{})", self.start, self.end())
    }
}

/// Bytes of the incoming stream that the near side has not taken.
#[derive(Clone)]
pub struct ReceiveBuffer {
    pieces: Pieces,
}

impl ReceiveBuffer {
    /// An empty buffer whose memory comes in pieces of `piece` bytes.
    pub fn new(piece: usize) -> ReceiveBuffer {
        ReceiveBuffer { pieces: Pieces::new(piece) }
    }

    /// Bytes held.
    pub fn len(&self) -> usize {
        self.pieces.len
    }

    /// Whether it holds nothing.
    pub fn is_empty(&self) -> bool {
        self.pieces.len == 0
    }

    /// Writes what is held, and then `arrived`, until `write` takes no more; keeps the rest. The
    /// byte that has `urgent` other bytes before it is written alone, and `write` is told so.
    /// Returns the number of bytes written, or an error if there were none.
    pub fn deliver<W>(
        &mut self,
        arrived: &[&[u8]],
        urgent: Option<u64>,
        mut write: W,
    ) -> io::Result<usize>
    where
        W: FnMut(&[IoSlice<'_>], bool) -> io::Result<usize>,
    {
        let total = self.len() + arrived.iter().map(|bytes| bytes.len()).sum::<usize>();
        let mut written = 0;
        let mut fate = Ok(());
        let mut pending = arrived;
        let mut head = 0;
        while written < total {
            let before = urgent.and_then(|urgent| urgent.checked_sub(written as u64));
            let most = before.map_or(u64::MAX, |before| before.max(1));
            let (slices, used) = self.slices(pending, head, most);
            let offered: usize = slices[..used].iter().map(|slice| slice.len()).sum();
            match write(&slices[..used], before == Some(0)) {
                Ok(0) => break,
                Ok(count) => {
                    assert!(count <= offered, "write reports no more than it was offered");
                    written += count;
                    let buffered = count.min(self.len());
                    mutant!(DeliverTwice, self.pieces.consume(buffered), ());
                    let mut taken = count - buffered;
                    while let Some(first) = pending.first()
                        && taken >= first.len() - head
                    {
                        taken -= first.len() - head;
                        head = 0;
                        pending = &pending[1..];
                    }
                    head += taken;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => (),
                Err(error) => {
                    fate = Err(error);
                    break;
                }
            }
        }
        for bytes in pending {
            self.pieces.push(&bytes[core::mem::take(&mut head)..]);
        }
        if written > 0 { Ok(written) } else { fate.map(|()| 0) }
    }

    fn slices<'s>(
        &'s self,
        arrived: &[&'s [u8]],
        head: usize,
        most: u64,
    ) -> ([IoSlice<'s>; SLICES_MAX], usize) {
        let mut slices = [IoSlice::new(&[]); SLICES_MAX];
        let mut used = 0;
        let mut left = usize::try_from(most).unwrap_or(usize::MAX);
        let mut head = head;
        let fresh = arrived.iter().map(|bytes| &bytes[core::mem::take(&mut head)..]);
        for (slot, bytes) in slices.iter_mut().zip(self.pieces.from(0).chain(fresh)) {
            if left == 0 {
                break;
            }
            let here = bytes.len().min(left);
            *slot = IoSlice::new(&bytes[..here]);
            left -= here;
            used += 1;
        }
        (slices, used)
    }

    /// Appends bytes that were received before.
    pub fn push(&mut self, bytes: &[u8]) {
        self.pieces.push(bytes);
    }

    /// The bytes held, except `skip` at the front, piece by piece.
    pub fn from(&self, skip: u64) -> impl Iterator<Item = &[u8]> {
        let skip = usize::try_from(skip).unwrap_or(usize::MAX).min(self.len());
        self.pieces.from(skip)
    }

    /// Forgets everything held, and returns how many bytes it was.
    pub fn discard(&mut self) -> usize {
        let count = self.len();
        self.pieces = Pieces::new(self.pieces.size);
        count
    }

    /// Whether it holds no memory at all.
    pub fn is_bare(&self) -> bool {
        self.pieces.pieces.is_empty() && self.pieces.spares.is_empty()
    }

    /// Gives spare memory back.
    pub fn trim(&mut self) {
        self.pieces.trim();
    }

    /// Memory held, used or spare.
    pub fn memory(&self) -> usize {
        self.pieces.memory
    }
}

impl PartialEq for ReceiveBuffer {
    fn eq(&self, other: &ReceiveBuffer) -> bool {
        self.pieces.equals(&other.pieces)
    }
}

impl Eq for ReceiveBuffer {}

impl Hash for ReceiveBuffer {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.pieces.hash(state);
    }
}

impl fmt::Debug for ReceiveBuffer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ReceiveBuffer({} bytes)", self.len())
    }
}

#[cfg(test)]
mod tests;
