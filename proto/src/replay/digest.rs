//! How the digest of a prefix is written into tickets.

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::de::Error;
use serde::{Deserialize, Deserializer, Serializer};

/// Of bytes in blocks of 64 KiB: the last whole block, what follows it, and the chain.
pub type Digest = (u128, u128, [u8; 32]);

/// Writes it as text.
pub fn serialize<S: Serializer>(digest: &Digest, serializer: S) -> Result<S::Ok, S::Error> {
    let (last, partial, chain) = digest;
    let bytes = [&last.to_be_bytes()[..], &partial.to_be_bytes(), chain].concat();
    serializer.serialize_str(&STANDARD_NO_PAD.encode(bytes))
}

/// Reads that.
pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Digest, D::Error> {
    let text = String::deserialize(deserializer)?;
    let bytes = STANDARD_NO_PAD.decode(text).map_err(D::Error::custom)?;
    let bytes: [u8; 64] = bytes.try_into().map_err(|_| D::Error::custom("not 64 bytes"))?;
    let mut parts = ([0; 16], [0; 16], [0; 32]);
    parts.0.copy_from_slice(&bytes[..16]);
    parts.1.copy_from_slice(&bytes[16..32]);
    parts.2.copy_from_slice(&bytes[32..]);
    Ok((u128::from_be_bytes(parts.0), u128::from_be_bytes(parts.1), parts.2))
}
