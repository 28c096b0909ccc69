//! From a password to two keys (STP 1, 2): Argon2id makes one secret of it, HKDF makes two of
//! that. The first signs the gateway's challenge, the second opens its list of servers.

use std::fmt;

use argon2::{Algorithm, Argon2, Params, Version};
use aws_lc_rs::hkdf;
use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use stp_proto::lookup::{KdfCost, SALT_BYTES};

/// Why no keys could be derived.
#[derive(Debug, thiserror::Error)]
pub enum PasswordError {
    /// The gateway asks for a derivation that gives the password away, or that nobody can bear.
    #[error("the gateway asks for a key derivation that is not acceptable: {0:?}")]
    Cost(KdfCost),
    /// Argon2 refuses.
    #[error("cannot derive keys from the password: {0}")]
    Argon2(String),
}

/// The two keys of a user. They are as good as the password for this one gateway.
#[derive(Clone)]
pub struct Keys {
    root: [u8; 32],
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Keys(..)")
    }
}

/// What a gateway keeps of a user: enough to check a proof and to seal lists, not to log in.
#[derive(Clone, PartialEq, Eq)]
pub struct Verifier {
    /// The user's salt.
    pub salt: [u8; SALT_BYTES],
    /// The cost of the derivation.
    pub cost: KdfCost,
    /// The public half of the proving key.
    pub proof: [u8; 32],
    /// The list key.
    pub list: [u8; 32],
}

impl fmt::Debug for Verifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Verifier").field("cost", &self.cost).finish_non_exhaustive()
    }
}

impl Keys {
    /// Derives the keys; takes as long as `cost` says, so not on a task's thread.
    pub fn derive(
        password: &str,
        salt: &[u8; SALT_BYTES],
        cost: KdfCost,
    ) -> Result<Keys, PasswordError> {
        if !cost.is_acceptable() {
            return Err(PasswordError::Cost(cost));
        }
        let failed = |error: argon2::Error| PasswordError::Argon2(error.to_string());
        let params =
            Params::new(cost.memory_kib, cost.passes, cost.lanes, Some(32)).map_err(failed)?;
        let mut root = [0; 32];
        Argon2::new(Algorithm::Argon2id, Version::V0x13, params)
            .hash_password_into(password.as_bytes(), salt, &mut root)
            .map_err(failed)?;
        Ok(Keys { root })
    }

    /// From the secret a credential holds.
    #[must_use]
    pub fn from_root(root: [u8; 32]) -> Keys {
        Keys { root }
    }

    /// The secret itself, for the credential.
    #[must_use]
    pub(crate) fn root(&self) -> &[u8; 32] {
        &self.root
    }

    /// Signs a log-in statement.
    #[must_use]
    pub fn prove(&self, statement: &[u8]) -> [u8; 64] {
        let signature = self.pair().sign(statement);
        signature.as_ref().try_into().expect("an Ed25519 signature has 64 bytes")
    }

    /// The public half of the proving key.
    #[must_use]
    pub fn proof_key(&self) -> [u8; 32] {
        self.pair().public_key().as_ref().try_into().expect("an Ed25519 public key has 32 bytes")
    }

    /// The list key.
    #[must_use]
    pub fn list_key(&self) -> [u8; 32] {
        self.expand(b"session gateway list key 1")
    }

    fn pair(&self) -> Ed25519KeyPair {
        let seed = self.expand(b"session gateway proof key 1");
        Ed25519KeyPair::from_seed_unchecked(&seed).expect("any 32 bytes are a seed")
    }

    fn expand(&self, purpose: &[u8]) -> [u8; 32] {
        let mut out = [0; 32];
        hkdf::Prk::new_less_safe(hkdf::HKDF_SHA256, &self.root)
            .expand(&[purpose], hkdf::HKDF_SHA256)
            .and_then(|okm| okm.fill(&mut out))
            .expect("32 bytes are within what HKDF gives");
        out
    }
}

impl Verifier {
    /// What a gateway keeps of a user with this password; a new salt.
    pub fn new(password: &str, cost: KdfCost) -> Result<Verifier, PasswordError> {
        let salt = random();
        Verifier::of(&Keys::derive(password, &salt, cost)?, salt, cost)
    }

    fn of(keys: &Keys, salt: [u8; 16], cost: KdfCost) -> Result<Verifier, PasswordError> {
        Ok(Verifier { salt, cost, proof: keys.proof_key(), list: keys.list_key() })
    }

    /// Whether the signature is by the user's proving key.
    #[must_use]
    pub fn accepts(&self, statement: &[u8], signature: &[u8; 64]) -> bool {
        UnparsedPublicKey::new(&ED25519, self.proof).verify(statement, signature).is_ok()
    }
}

/// Random bytes.
#[must_use]
pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    SystemRandom::new().fill(&mut bytes).expect("the system's randomness does not fail");
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    const COST: KdfCost = KdfCost { memory_kib: 19 * 1024, passes: 2, lanes: 1 };

    #[test]
    fn the_same_password_gives_the_same_keys_and_another_does_not() {
        let verifier = Verifier::new("correct horse", COST).expect("an acceptable cost");
        let keys = |password| Keys::derive(password, &verifier.salt, COST).expect("as before");
        let proof = keys("correct horse").prove(b"statement");
        assert!(verifier.accepts(b"statement", &proof));
        assert!(!verifier.accepts(b"another", &proof));
        assert!(!verifier.accepts(b"statement", &keys("battery").prove(b"statement")));
        assert_eq!(keys("correct horse").list_key(), verifier.list);
        assert_ne!(verifier.list, verifier.proof);
    }

    #[test]
    fn a_cost_that_gives_the_password_away_is_refused() {
        let weak = KdfCost { memory_kib: 64, passes: 1, lanes: 1 };
        assert!(matches!(Keys::derive("p", &[0; 16], weak), Err(PasswordError::Cost(_))));
    }

    #[test]
    fn nothing_secret_is_printed() {
        let verifier = Verifier::new("p", COST).expect("an acceptable cost");
        let text = format!("{verifier:?} {:?}", Keys::from_root([7; 32]));
        assert!(!text.contains("list") && !text.contains('7'), "{text}");
    }
}
