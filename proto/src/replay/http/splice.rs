//! Joining the body of another answer to the one the app has part of.

use crate::mutant::mutant;
use crate::replay::{NoReplay, NoReplayKind};
use crate::seam::{Seam, SeamMismatch, Verifier};

/// What a step of a [`Splice`] came upon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SpliceStep {
    /// All bytes were compared or skipped; more must come.
    More,
    /// Everything the app has is the same here. So many of the bytes were needed for that; what
    /// follows is for the app.
    Joined(usize),
}

/// Compares the front of a body with the proof of what the app has.
#[derive(Debug)]
pub struct Splice {
    /// Bytes that come before anything comparable.
    skip: u64,
    check: Option<Verifier>,
    seam: Option<Seam>,
    /// Body bytes for the app behind the seam; none: until the stream ends.
    pub left: Option<u64>,
    /// Bytes of the answer behind those, which the app must not see.
    pub excess: u64,
    /// The connection can carry another request afterwards.
    pub keep_alive: bool,
}

impl Splice {
    /// `skip` bytes of the answer come before the first that can be compared (or, with nothing to
    /// compare, before the first for the app); then `left` are for the app and `excess` for
    /// nobody.
    pub(super) fn new(
        skip: u64,
        check: Option<Verifier>,
        (left, excess): (Option<u64>, u64),
        keep_alive: bool,
    ) -> Self {
        Self { skip, check, seam: None, left, excess, keep_alive }
    }

    /// Takes body bytes of the answer; call it with none before the first.
    pub fn feed(&mut self, bytes: &[u8]) -> Result<SpliceStep, NoReplay> {
        let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(bytes.len());
        self.skip -= u64::try_from(skipped).unwrap_or(u64::MAX);
        if self.skip > 0 {
            return Ok(SpliceStep::More);
        }
        let Some(check) = &mut self.check else { return Ok(SpliceStep::Joined(skipped)) };
        let rest = &bytes[skipped..];
        let compared = mutant!(SeamSkipped, check.push(rest), {
            let missing = usize::try_from(check.missing()).unwrap_or(usize::MAX);
            let _differs = check.push(rest);
            Ok(missing.min(rest.len()))
        });
        let compared = compared.map_err(differs)?;
        if check.missing() > 0 {
            return Ok(SpliceStep::More);
        }
        let seam = check.continued();
        let same = self.check.take().map_or(Ok(()), Verifier::finish);
        mutant!(SeamSkipped, same, Ok(())).map_err(differs)?;
        self.seam = Some(seam);
        Ok(SpliceStep::Joined(skipped + compared))
    }

    /// The digest of what the app has, to go on with; after it has joined.
    pub fn take_seam(&mut self) -> Option<Seam> {
        self.seam.take()
    }
}

fn differs(mismatch: SeamMismatch) -> NoReplay {
    NoReplay::new(NoReplayKind::Seam, mismatch.to_string())
}
