//! A key under a passphrase: Argon2id makes a key of the passphrase, with which the endpoint's key
//! is sealed.

use argon2::{Algorithm, Argon2, Params, Version};
use stp_net::envelope;
use stp_proto::lookup::KdfCost;

use crate::password::random;

/// What stands first: the kind of the file and its version.
const MAGIC: &[u8; 8] = b"stpkey\0\x01";
const SALT: usize = 16;
const BOUND_TO: &[u8] = b"session endpoint: a key under a passphrase";
/// 64 MiB, 3 passes: as for a password of a gateway.
const COST: KdfCost = KdfCost { memory_kib: 64 << 10, passes: 3, lanes: 1 };

fn derive(passphrase: &str, salt: &[u8; SALT]) -> Option<[u8; 32]> {
    let params = Params::new(COST.memory_kib, COST.passes, COST.lanes, Some(32)).ok()?;
    let mut key = [0; 32];
    let argon = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    argon.hash_password_into(passphrase.as_bytes(), salt, &mut key).ok()?;
    Some(key)
}

/// Seals a key's text. Nothing if the machine has not the memory for it (64 MiB).
pub(super) fn seal(passphrase: &str, text: &[u8]) -> Option<Vec<u8>> {
    let salt: [u8; SALT] = random();
    let key = derive(passphrase, &salt)?;
    let mut sealed = [MAGIC.as_slice(), &salt].concat();
    sealed.extend(envelope::seal(&key, BOUND_TO, text));
    Some(sealed)
}

/// Opens it. Nothing if it is another passphrase, or the file was changed.
pub(super) fn open(passphrase: &str, sealed: &[u8]) -> Option<Vec<u8>> {
    let (salt, sealed) = sealed.strip_prefix(MAGIC)?.split_first_chunk::<SALT>()?;
    envelope::open(&derive(passphrase, salt)?, BOUND_TO, sealed)
}
