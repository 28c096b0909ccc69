//! The seam: proof of the bytes a broker already gave to its app, and the check of it on a replica
//! (R63, R64, R67).
//!
//! Every byte runs through xxh3 (fast), every 64 KiB block's digest through SHA-256 (rare). A block
//! is digested in pieces of 1 KiB, each behind the digest of the one before it, and the last one's
//! is the block's. So all that is known of a stream is a few numbers and the bytes of one piece:
//! another process can go on with it (R103). Memory is constant. The proof guards against replicas
//! that differ by mistake; ticket and link keys guard against people.

use core::fmt;
use core::hash::{Hash, Hasher};

use sha2::{Digest, Sha256};
use xxhash_rust::xxh3::Xxh3Default;

/// Bytes of one block.
pub const BLOCK: u32 = 65_536;

/// Bytes of one piece of a block.
const PIECE: usize = 1024;

/// What the broker sends of the down bytes `from..until`.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct SeamProof {
    /// First position that can be compared.
    pub from: u64,
    /// The broker's receive position.
    pub until: u64,
    /// Block size, counted from `from`.
    pub block: u32,
    /// The digest of the last complete block; 0 when there is none.
    pub last: u128,
    /// That of the bytes after it.
    pub partial: u128,
    /// SHA-256(chain || digest) over the digests of all complete blocks, beginning with zeros.
    pub chain: [u8; 32],
}

impl SeamProof {
    /// Complete blocks covered.
    pub fn blocks(&self) -> u64 {
        (self.until - self.from) / u64::from(self.block)
    }

    /// Where the last complete block begins; `from` when there is none.
    pub fn last_start(&self) -> u64 {
        self.from + self.blocks().saturating_sub(1) * u64::from(self.block)
    }
}

/// The running digest at the broker.
#[derive(Clone)]
pub struct Seam {
    from: u64,
    position: u64,
    block: u32,
    /// The digest of the block's complete pieces; 0 when there is none.
    pieces: u128,
    /// The bytes after those.
    tail: Vec<u8>,
    last: u128,
    chain: [u8; 32],
}

impl Seam {
    /// A digest of the bytes from `from` on.
    pub fn new(from: u64, block: u32) -> Seam {
        assert!(block > 0, "a block holds bytes");
        Seam { from, position: from, block, pieces: 0, tail: Vec::new(), last: 0, chain: [0; 32] }
    }

    /// The digest of the bytes `from..position`, all of them in whole blocks, of which these are
    /// the last one's digest and the chain.
    pub(crate) fn at(from: u64, position: u64, block: u32, known: (u128, [u8; 32])) -> Seam {
        assert!((position - from).is_multiple_of(u64::from(block)), "whole blocks");
        let (last, chain) = known;
        Seam { position, last, chain, ..Seam::new(from, block) }
    }

    /// First position that is digested.
    pub fn from(&self) -> u64 {
        self.from
    }

    /// The position after the last byte digested.
    pub fn position(&self) -> u64 {
        self.position
    }

    /// Takes bytes of the stream that begin at `position`; what lies below the digest is skipped.
    pub fn update(&mut self, position: u64, mut bytes: &[u8]) {
        let skip = self.position.saturating_sub(position);
        let skip = usize::try_from(skip).unwrap_or(usize::MAX).min(bytes.len());
        bytes = &bytes[skip..];
        debug_assert!(
            bytes.is_empty() || position + skip as u64 == self.position,
            "bytes come in order"
        );
        while !bytes.is_empty() {
            let missing = u64::from(self.block) - self.filled();
            let missing = usize::try_from(missing).unwrap_or(usize::MAX);
            let piece = (PIECE - self.tail.len()).min(missing);
            let (now, later) = bytes.split_at(piece.min(bytes.len()));
            self.position += now.len() as u64;
            if now.len() < piece {
                self.tail.extend_from_slice(now);
            } else if self.tail.is_empty() {
                self.pieces = behind(self.pieces, now);
            } else {
                self.tail.extend_from_slice(now);
                self.pieces = behind(self.pieces, &self.tail);
                self.tail.clear();
            }
            if self.filled() == 0 {
                self.last = core::mem::take(&mut self.pieces);
                self.chain = link(&self.chain, self.last);
            }
            bytes = later;
        }
    }

    /// Appends all that is known of the stream to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.from.to_le_bytes());
        out.extend(self.position.to_le_bytes());
        out.extend(self.block.to_le_bytes());
        out.extend(self.pieces.to_le_bytes());
        out.extend(self.last.to_le_bytes());
        out.extend(self.chain);
        out.extend(&self.tail);
    }

    /// Reads what [`Seam::encode`] wrote, and nothing else.
    #[must_use]
    pub fn decode(bytes: &[u8]) -> Option<Seam> {
        let (from, bytes) = bytes.split_first_chunk()?;
        let (position, bytes) = bytes.split_first_chunk()?;
        let (block, bytes) = bytes.split_first_chunk()?;
        let (pieces, bytes) = bytes.split_first_chunk()?;
        let (last, bytes) = bytes.split_first_chunk()?;
        let (chain, tail) = bytes.split_first_chunk()?;
        let seam = Seam {
            from: u64::from_le_bytes(*from),
            position: u64::from_le_bytes(*position),
            block: u32::from_le_bytes(*block),
            pieces: u128::from_le_bytes(*pieces),
            last: u128::from_le_bytes(*last),
            chain: *chain,
            tail: tail.to_vec(),
        };
        let sound = seam.block > 0
            && seam.from <= seam.position
            && seam.filled() % PIECE as u64 == seam.tail.len() as u64;
        sound.then_some(seam)
    }

    /// Bytes of the block that is not complete yet.
    fn filled(&self) -> u64 {
        (self.position - self.from) % u64::from(self.block)
    }

    /// The proof of everything digested so far.
    pub fn proof(&self) -> SeamProof {
        SeamProof {
            from: self.from,
            until: self.position,
            block: self.block,
            last: self.last,
            partial: behind(self.pieces, &self.tail),
            chain: self.chain,
        }
    }
}

/// The digest of these bytes behind those with that digest.
fn behind(before: u128, bytes: &[u8]) -> u128 {
    let mut hasher = Xxh3Default::new();
    hasher.update(&before.to_be_bytes());
    hasher.update(bytes);
    hasher.digest128()
}

fn link(chain: &[u8; 32], digest: u128) -> [u8; 32] {
    let mut hasher = Sha256::new();
    hasher.update(chain);
    hasher.update(digest.to_be_bytes());
    hasher.finalize().into()
}

impl PartialEq for Seam {
    fn eq(&self, other: &Seam) -> bool {
        self.proof() == other.proof()
    }
}

impl Eq for Seam {}

impl Hash for Seam {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.proof().hash(state);
    }
}

impl fmt::Debug for Seam {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Seam({}..{})", self.from, self.position)
    }
}

/// The replica's bytes are not those the app was given.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum SeamMismatch {
    /// The last complete block differs.
    #[error("local copy differs in the block at position {0}")]
    Block(u64),
    /// The bytes after it differ.
    #[error("local copy differs in the bytes from position {0} on")]
    Partial(u64),
    /// Some earlier block differs.
    #[error("local copy differs somewhere between positions {0} and {1}")]
    Chain(u64, u64),
    /// The local copy ended before the seam.
    #[error("local copy ends {0} bytes before the seam")]
    Short(u64),
}

/// The check at a replica of the whole prefix: push its own bytes from the proof's first position
/// on, then finish.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Verifier {
    proof: SeamProof,
    seam: Seam,
}

impl Verifier {
    /// A check against `proof`.
    pub fn new(proof: SeamProof) -> Verifier {
        let seam = Seam::new(proof.from, proof.block);
        Verifier { proof, seam }
    }

    /// A check of which this much is done: `seam` has seen the replica's own bytes.
    pub(crate) fn beyond(proof: SeamProof, seam: Seam) -> Verifier {
        Verifier { proof, seam }
    }

    /// The same check, of which this much is done: `digested` has seen the replica's own bytes from
    /// the first on, counted from 0. None if those are more than the check is about.
    pub(crate) fn behind(self, digested: Seam) -> Option<Verifier> {
        let Verifier { proof, seam } = self;
        let position = proof.from.checked_add(digested.position)?;
        let fits = digested.from == 0 && digested.block == proof.block && position <= proof.until;
        let undone = seam.position == proof.from;
        let seam = Seam { from: proof.from, position, ..digested };
        (fits && undone).then_some(Verifier { proof, seam })
    }

    /// Bytes still to push before [`Verifier::finish`].
    pub fn missing(&self) -> u64 {
        self.proof.until - self.seam.position()
    }

    /// Takes the replica's bytes in order. Returns how many belong before the seam; what is left of
    /// `bytes` is the stream's continuation. Fails as soon as the last block is seen to differ.
    pub fn push(&mut self, bytes: &[u8]) -> Result<usize, SeamMismatch> {
        let take = usize::try_from(self.missing()).unwrap_or(usize::MAX).min(bytes.len());
        self.seam.update(self.seam.position(), &bytes[..take]);
        let last_start = self.proof.last_start();
        let last_end = self.proof.from + self.proof.blocks() * u64::from(self.proof.block);
        let passed = last_end > self.proof.from && self.seam.position() == last_end;
        if passed && self.seam.proof().last != self.proof.last {
            return Err(SeamMismatch::Block(last_start));
        }
        Ok(take)
    }

    /// The digest of everything before the seam, to go on with once the verdict is good.
    pub fn continued(&self) -> Seam {
        self.seam.clone()
    }

    /// The verdict.
    pub fn finish(self) -> Result<(), SeamMismatch> {
        if self.missing() > 0 {
            return Err(SeamMismatch::Short(self.missing()));
        }
        let own = self.seam.proof();
        let blocks_end = self.proof.from + self.proof.blocks() * u64::from(self.proof.block);
        if self.proof.blocks() > 0 && own.last != self.proof.last {
            return Err(SeamMismatch::Block(self.proof.last_start()));
        }
        if own.partial != self.proof.partial {
            return Err(SeamMismatch::Partial(blocks_end));
        }
        if own.chain != self.proof.chain {
            return Err(SeamMismatch::Chain(self.proof.from, blocks_end));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FROM: u64 = 100;

    fn bytes(count: u64) -> Vec<u8> {
        (0..FROM + count).map(|i| ((i * 37) ^ (i >> 5)) as u8).collect()
    }

    fn proof(stream: &[u8], step: usize) -> SeamProof {
        let mut seam = Seam::new(FROM, 64);
        let mut position = 0;
        for piece in stream.chunks(step) {
            seam.update(position, piece);
            position += piece.len() as u64;
        }
        seam.proof()
    }

    fn verify(proof: &SeamProof, replica: &[u8]) -> Result<usize, SeamMismatch> {
        let mut verifier = Verifier::new(proof.clone());
        let from = usize::try_from(proof.from).unwrap().min(replica.len());
        let mut taken = from;
        for piece in replica[from..].chunks(50) {
            taken += verifier.push(piece)?;
        }
        verifier.finish()?;
        Ok(taken)
    }

    #[test]
    fn the_proof_does_not_depend_on_how_bytes_came() {
        for count in [0, 1, 63, 64, 65, 128, 1000] {
            let stream = bytes(count);
            let whole = proof(&stream, 5000);
            assert_eq!(whole.until, FROM + count);
            for step in [1, 7, 64, 100] {
                assert_eq!(proof(&stream, step), whole);
            }
        }
    }

    #[test]
    fn another_process_goes_on_with_what_is_known() {
        let stream = bytes(70_000);
        for block in [64, BLOCK] {
            for cut in [100, 101, 1_000, 1_124, 1_125, 60_000, 65_636, 70_000] {
                let mut seam = Seam::new(FROM, block);
                seam.update(0, &stream[..cut]);
                let mut known = Vec::new();
                seam.encode(&mut known);
                assert!(known.len() < 84 + PIECE, "{} bytes", known.len());
                let mut again = Seam::decode(&known).expect("it was written so");
                assert!(Seam::decode(&known[..known.len() - 1]).is_none());
                seam.update(cut as u64, &stream[cut..]);
                again.update(cut as u64, &stream[cut..]);
                assert_eq!(again, seam, "{block}, {cut}");
            }
        }
    }

    #[test]
    fn the_same_bytes_pass_and_what_follows_the_seam_is_left() {
        for count in [0, 1, 63, 64, 65, 128, 1000] {
            let proof = proof(&bytes(count), 11);
            let longer = bytes(count + 500);
            assert_eq!(verify(&proof, &longer), Ok((FROM + count) as usize));
        }
    }

    #[test]
    fn one_byte_that_differs_anywhere_is_found() {
        let stream = bytes(1000);
        let good = proof(&stream, 11);
        for at in FROM as usize..stream.len() {
            let mut replica = stream.clone();
            replica[at] ^= 0x80;
            assert!(verify(&good, &replica).is_err(), "{at}");
        }
    }

    #[test]
    fn a_copy_that_ends_before_the_seam_is_short() {
        let good = proof(&bytes(1000), 11);
        assert_eq!(verify(&good, &bytes(999)), Err(SeamMismatch::Short(1)));
        assert!(verify(&good, &bytes(0)).is_err());
    }
}
