//! The seam proof inside a Transfer Request (R64).

use super::WireError;
use super::frame::{Fields, Put};
use crate::seam::SeamProof;

/// Most bytes a seam proof takes.
pub(crate) const SEAM_PROOF_MAX: usize = 1 + 8 + 8 + 4 + 16 + 16 + 32;

pub(crate) fn read_seam(f: &mut Fields<'_>) -> Result<Option<SeamProof>, WireError> {
    if !f.bool("seam")? {
        return Ok(None);
    }
    let proof = SeamProof {
        from: f.u64("seam from")?,
        until: f.u64("seam until")?,
        block: f.u32("seam block")?,
        last: u128::from_be_bytes(f.array("seam last")?),
        partial: u128::from_be_bytes(f.array("seam partial")?),
        chain: f.array("seam chain")?,
    };
    if proof.block == 0 || proof.until < proof.from {
        return Err(WireError::BadValue("seam"));
    }
    Ok(Some(proof))
}

pub(crate) fn put_seam(p: &mut Vec<u8>, proof: Option<&SeamProof>) {
    let Some(proof) = proof else {
        p.put_u8(0);
        return;
    };
    p.put_u8(1);
    p.put_u64(proof.from);
    p.put_u64(proof.until);
    p.put_u32(proof.block);
    p.extend_from_slice(&proof.last.to_be_bytes());
    p.extend_from_slice(&proof.partial.to_be_bytes());
    p.extend_from_slice(&proof.chain);
}
