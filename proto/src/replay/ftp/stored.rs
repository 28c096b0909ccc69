//! What is said in tickets of the file that an upload makes.

use serde::{Deserialize, Serialize};

use super::text::latin;
use crate::replay::digest::{self, Digest};
use crate::seam::{Seam, SeamProof};

/// The file that an upload makes, from its first byte on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct File {
    /// Its name, as the client's directory has it.
    #[serde(with = "latin")]
    pub name: Vec<u8>,
}

/// How much of a file is proven to be at the server, and what it is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Stored {
    /// Bytes from its beginning.
    pub until: u64,
    #[serde(with = "digest")]
    digest: Digest,
}

impl Stored {
    /// What was digested.
    #[must_use]
    pub fn of(seam: &Seam) -> Self {
        let SeamProof { until, last, partial, chain, .. } = seam.proof();
        Self { until, digest: (last, partial, chain) }
    }

    /// Whether these are the same bytes.
    #[must_use]
    pub fn is(&self, seam: &Seam) -> bool {
        *self == Self::of(seam)
    }
}
