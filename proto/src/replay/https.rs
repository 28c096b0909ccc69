//! What a ticket says of an exchange that goes to the app in TLS.
//!
//! The exchange is one of HTTP. Beside it stands where in its plaintext a record begins, and what
//! the records follow from: whoever has the same plaintext makes the same stream of it.

use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use zeroize::{Zeroize, Zeroizing};

use super::digest::{self, Digest};
use super::http::Exchange as Inner;
use crate::seam::{BLOCK, SeamProof};

/// Where an exchange in TLS stands, for a server that was not there. The ticket's own positions
/// are those of the stream; here are those of the plaintext.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Exchange {
    /// The exchange of HTTP.
    pub http: Inner,
    /// Down position at which it stood so.
    pub at: u64,
    /// Up position that it covers.
    pub covers: u64,
    /// Bytes of the record at the ticket's up position that come before it.
    pub skip: u64,
    /// Down position of the first byte of the record at the ticket's down position.
    pub plain: u64,
    /// First down position that can be compared.
    pub from: u64,
    /// The digest of the plaintext from there to `plain`; none if there is nothing between.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub digest: Option<Digested>,
    /// How long that record is, if the response does not end in it.
    pub first: u16,
    /// A change of keys comes before that record.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub update: bool,
    /// When keys were changed last, in seconds since 1970.
    pub updated: u64,
    /// Suite, secrets and numbers of records.
    pub keys: Hidden,
}

/// The digest of a stream in blocks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Digested(#[serde(with = "digest")] Digest);

impl Exchange {
    /// The proof of the plaintext before `plain`.
    #[must_use]
    pub fn proof(&self) -> Option<SeamProof> {
        let (last, partial, chain) = self.digest.as_ref()?.0;
        let (from, until) = (self.from, self.plain);
        (from < until).then_some(SeamProof { from, until, block: BLOCK, last, partial, chain })
    }
}

impl From<SeamProof> for Digested {
    fn from(proof: SeamProof) -> Self {
        Self((proof.last, proof.partial, proof.chain))
    }
}

/// Bytes that are wiped when they are dropped, and never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Hidden(Zeroizing<Vec<u8>>);

impl Hidden {
    /// Hides these.
    #[must_use]
    pub fn new(bytes: Zeroizing<Vec<u8>>) -> Self {
        Self(bytes)
    }

    /// The bytes.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Hidden {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl Serialize for Hidden {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let text = Zeroizing::new(STANDARD_NO_PAD.encode(&*self.0));
        serializer.serialize_str(&text)
    }
}

impl<'de> Deserialize<'de> for Hidden {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let mut text = String::deserialize(deserializer)?;
        let bytes = STANDARD_NO_PAD.decode(&text).map(Zeroizing::new);
        text.zeroize();
        bytes.map(Self).map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::seam::Seam;

    #[test]
    fn it_comes_back_as_it_was_and_shows_no_key() {
        let mut seam = Seam::new(5, BLOCK);
        seam.update(5, &[7; 70_000]);
        let exchange = Exchange {
            http: Inner::Idle { close: false },
            at: 5,
            covers: 3,
            skip: 1,
            plain: 70_005,
            from: 5,
            digest: Some(seam.proof().into()),
            first: 16_384,
            update: true,
            updated: 9,
            keys: Hidden::new(Zeroizing::new(vec![0xab; 82])),
        };
        assert_eq!(exchange.proof(), Some(seam.proof()));
        let text = serde_json::to_string(&exchange).unwrap();
        assert_eq!(serde_json::from_str::<Exchange>(&text).unwrap(), exchange);
        let shown = format!("{exchange:?}");
        assert!(shown.contains("82 bytes") && !shown.contains("171"), "{shown}");
    }
}
