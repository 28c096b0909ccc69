//! The digests of a file's front, at every 8 MiB: with them the whole part that an app has is
//! proved by reading at most the last 8 MiB of it (R64).
//!
//! A [`SeamProof`] chains the digests of all blocks of a body. So the chain after the first 8 MiB
//! of a file is the same in every session that receives the file from its first byte, and can be
//! kept: a [`Mark`]. Whoever keeps marks must know that they are those of the very file that is
//! read further on: that is not decided here.

use crate::seam::{BLOCK, Seam, SeamProof, Verifier};

/// There is a mark at every so many bytes of a file.
pub const MARK_EVERY: u64 = 128 * BLOCK as u64;

/// The digest of the front of a file, up to a multiple of [`MARK_EVERY`].
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct Mark {
    /// xxh3-128 of the last block.
    pub(crate) last: u128,
    /// The chain over all blocks.
    pub(crate) chain: [u8; 32],
}

/// Digests a file from its first byte on, and tells its marks.
#[derive(Debug)]
pub struct Chain(Seam);

impl Default for Chain {
    fn default() -> Self {
        Self(Seam::new(0, BLOCK))
    }
}

impl Chain {
    /// Goes on after `number` times [`MARK_EVERY`] bytes.
    #[must_use]
    pub fn after(number: u64, mark: Mark) -> Self {
        let position = number.saturating_mul(MARK_EVERY);
        Self(Seam::at(0, position, BLOCK, (mark.last, mark.chain)))
    }

    /// Bytes digested so far.
    #[must_use]
    pub fn position(&self) -> u64 {
        self.0.position()
    }

    /// Takes the next bytes of the file; returns how many it took, and the mark at the end of those
    /// if there is one. To be called again with what is left.
    pub fn update(&mut self, bytes: &[u8]) -> (usize, Option<Mark>) {
        let missing = MARK_EVERY - self.position() % MARK_EVERY;
        let taken = usize::try_from(missing).unwrap_or(usize::MAX).min(bytes.len());
        self.0.update(self.position(), &bytes[..taken]);
        let whole = self.position() > 0 && self.position().is_multiple_of(MARK_EVERY);
        let proof = (taken > 0 && whole).then(|| self.0.proof());
        (taken, proof.map(|proof| Mark { last: proof.last, chain: proof.chain }))
    }
}

/// The last mark that helps to prove this many bytes: its number, from 1 on, is how many
/// [`MARK_EVERY`] lie before it. `known` are those that are kept, from the first on.
#[must_use]
pub fn best(known: &[Mark], have: u64) -> Option<(u64, Mark)> {
    let number = (have / MARK_EVERY).min(u64::try_from(known.len()).unwrap_or(u64::MAX));
    let mark = usize::try_from(number.checked_sub(1)?).ok().and_then(|at| known.get(at))?;
    Some((number, *mark))
}

/// A check of `proof` that needs only the bytes from `number` times [`MARK_EVERY`] of the body on.
/// None if the proof is not one that this mark belongs to.
#[must_use]
pub fn verifier(proof: &SeamProof, number: u64, mark: Mark) -> Option<Verifier> {
    let at = number.checked_mul(MARK_EVERY)?;
    let position = proof.from.checked_add(at).filter(|position| *position <= proof.until)?;
    if proof.block != BLOCK {
        return None;
    }
    let seam = Seam::at(proof.from, position, BLOCK, (mark.last, mark.chain));
    Some(Verifier::beyond(proof.clone(), seam))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Where the body begins in the session's stream.
    const FROM: u64 = 300;

    fn file(length: u64) -> Vec<u8> {
        (0..length).map(|i| (i.wrapping_mul(0x9e37_79b9) >> 13) as u8).collect()
    }

    fn marks(file: &[u8], step: usize) -> Vec<Mark> {
        let (mut chain, mut marks) = (Chain::default(), Vec::new());
        for mut piece in file.chunks(step) {
            while !piece.is_empty() {
                let (taken, mark) = chain.update(piece);
                marks.extend(mark);
                piece = &piece[taken..];
            }
        }
        marks
    }

    fn proof(front: &[u8]) -> SeamProof {
        let mut seam = Seam::new(FROM, BLOCK);
        seam.update(FROM, front);
        seam.proof()
    }

    /// Whether the file's own marks and what it has behind them prove the first `have` bytes.
    fn proves(file: &[u8], known: &[Mark], proof: &SeamProof, have: u64) -> bool {
        let (number, mark) = best(known, have).expect("one helps");
        let at = usize::try_from(number * MARK_EVERY).expect("it is short");
        let mut verifier = verifier(proof, number, mark).expect("it belongs to it");
        assert!(verifier.missing() < MARK_EVERY || known.len() as u64 == number);
        verifier.push(&file[at..]).is_ok() && verifier.finish().is_ok()
    }

    #[test]
    fn marks_do_not_depend_on_how_bytes_came() {
        let file = file(2 * MARK_EVERY + 5);
        assert_eq!(marks(&file, 1 << 20).len(), 2);
        assert_eq!(marks(&file, 1 << 20), marks(&file, 100_003));
        assert_eq!(marks(&file, file.len()), marks(&file, 100_003));
    }

    #[test]
    fn a_front_is_proved_by_the_last_mark_and_what_follows_it() {
        let file = file(2 * MARK_EVERY + 100_000);
        let known = marks(&file, file.len());
        for have in [MARK_EVERY, MARK_EVERY + 1, 2 * MARK_EVERY, 2 * MARK_EVERY + 70_000] {
            let proof = proof(&file[..have as usize]);
            assert!(proves(&file, &known, &proof, have), "{have}");
            assert!(proves(&file, &known[..1], &proof, have), "{have} by the first mark");
        }
    }

    #[test]
    fn a_byte_that_differs_is_found_wherever_it_is() {
        let have = 2 * MARK_EVERY - 10;
        let given = file(have);
        let proof = proof(&given);
        for at in [0, MARK_EVERY - 1, MARK_EVERY, have - 1] {
            let mut own = given.clone();
            own[at as usize] ^= 1;
            assert!(!proves(&own, &marks(&own, own.len()), &proof, have), "{at}");
        }
    }

    #[test]
    fn a_mark_behind_what_is_to_be_proved_does_not_help() {
        let known = marks(&file(2 * MARK_EVERY), 1 << 20);
        assert_eq!(best(&known, MARK_EVERY - 1), None);
        assert_eq!(best(&known, 2 * MARK_EVERY - 1).map(|(number, _)| number), Some(1));
        assert_eq!(best(&known, u64::MAX).map(|(number, _)| number), Some(2));
        assert_eq!(best(&[], u64::MAX), None);
        let short = proof(&file(MARK_EVERY - 1));
        assert!(verifier(&short, 1, known[0]).is_none());
    }
}
