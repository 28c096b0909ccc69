//! The log-in at a gateway (STP 1), as far as it needs no cryptography.
//!
//! The client derives two keys from the password, with a salt and a cost that the gateway tells.
//! One signs the gateway's challenge, the other opens the list of servers. The gateway keeps the
//! public half of the first and the second. The password never leaves the client, and what a thief
//! finds at the gateway does not log in.

use super::MessageError;
use super::field::{Field, Reader};

/// Bytes of a salt.
pub const SALT_BYTES: usize = 16;

/// What one derivation costs (Argon2id).
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KdfCost {
    /// Memory, in KiB.
    pub memory_kib: u32,
    /// Passes over it.
    pub passes: u32,
    /// Lanes.
    pub lanes: u32,
}

impl Default for KdfCost {
    /// The second choice of RFC 9106: 64 MiB, three passes; with one lane.
    fn default() -> KdfCost {
        KdfCost { memory_kib: 64 * 1024, passes: 3, lanes: 1 }
    }
}

impl KdfCost {
    /// Whether a client agrees: cheap enough to bear, and not so cheap that a false gateway could
    /// guess the password from the answer.
    #[must_use]
    pub fn is_acceptable(&self) -> bool {
        (19 * 1024..=1024 * 1024).contains(&self.memory_kib)
            && (2..=16).contains(&self.passes)
            && (1..=8).contains(&self.lanes)
    }
}

impl Field for KdfCost {
    fn put(&self, out: &mut Vec<u8>) {
        self.memory_kib.put(out);
        self.passes.put(out);
        self.lanes.put(out);
    }

    fn read(from: &mut Reader<'_>, name: &'static str) -> Result<Self, MessageError> {
        let cost = KdfCost {
            memory_kib: u32::read(from, name)?,
            passes: u32::read(from, name)?,
            lanes: u32::read(from, name)?,
        };
        if cost.is_acceptable() { Ok(cost) } else { Err(MessageError::BadValue(name)) }
    }
}

/// Whether a text can be a user's name: 1 to 64 of `a-z 0-9 . _ -`.
#[must_use]
pub fn user_is_good(user: &str) -> bool {
    let good = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-".contains(&b);
    (1..=64).contains(&user.len()) && user.bytes().all(good)
}

/// What the client signs: the challenge, and all that it is good for. A proof for one gateway,
/// link or user is worth nothing with another.
#[must_use]
pub fn login_statement(
    nonce: &[u8; 32],
    gateway: &[u8; 32],
    client: &[u8; 32],
    user: &str,
) -> Vec<u8> {
    [b"session gateway log-in 1\0".as_slice(), nonce, gateway, client, user.as_bytes()].concat()
}
