//! Bytes that only the holder of a secret can read or make: ChaCha20-Poly1305 under a key that is
//! made, by HKDF, of the secret and 32 random bytes. Those stand in front, so no key is used twice,
//! and however much is sealed no nonce can repeat.

use aws_lc_rs::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::hkdf::{HKDF_SHA256, Prk, Salt};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};

const SALT: usize = 32;

/// A key of 32 bytes for one purpose, which says nothing of the secret.
#[must_use]
pub fn derive(secret: &[u8], purpose: &str) -> [u8; 32] {
    let mut key = [0; 32];
    Prk::new_less_safe(HKDF_SHA256, secret)
        .expand(&[purpose.as_bytes()], HKDF_SHA256)
        .and_then(|made| made.fill(&mut key))
        .expect("32 bytes are within what HKDF gives");
    key
}

fn key(secret: &[u8; 32], salt: &[u8]) -> LessSafeKey {
    let mut key = [0; 32];
    Salt::new(HKDF_SHA256, salt)
        .extract(secret)
        .expand(&[b"session envelope 1".as_slice()], HKDF_SHA256)
        .and_then(|made| made.fill(&mut key))
        .expect("32 bytes are within what HKDF gives");
    let key = UnboundKey::new(&CHACHA20_POLY1305, &key).expect("a key has 32 bytes");
    LessSafeKey::new(key)
}

/// Once under each key.
fn nonce() -> Nonce {
    Nonce::assume_unique_for_key([0; 12])
}

/// Seals `plain`; it is opened only with the same secret and the same `bound_to`.
#[must_use]
pub fn seal(secret: &[u8; 32], bound_to: &[u8], plain: &[u8]) -> Vec<u8> {
    let mut salt = [0; SALT];
    SystemRandom::new().fill(&mut salt).expect("the system's randomness does not fail");
    let mut body = plain.to_vec();
    key(secret, &salt)
        .seal_in_place_append_tag(nonce(), Aad::from(bound_to), &mut body)
        .expect("a session is shorter than what the cipher takes");
    [salt.as_slice(), &body].concat()
}

/// Opens what [`seal`] gave. Nothing if the secret is another one, or a bit was changed.
#[must_use]
pub fn open(secret: &[u8; 32], bound_to: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
    let (salt, body) = sealed.split_at_checked(SALT)?;
    let mut body = body.to_vec();
    let opened = key(secret, salt).open_in_place(nonce(), Aad::from(bound_to), &mut body).ok()?;
    let length = opened.len();
    body.truncate(length);
    Some(body)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_opened_with_the_same_secret_and_unchanged() {
        let secret = derive(b"a secret", "a test");
        assert_ne!(secret, derive(b"a secret", "another test"));
        let sealed = seal(&secret, b"place", b"text");
        assert_ne!(sealed, seal(&secret, b"place", b"text"));
        assert_eq!(open(&secret, b"place", &sealed).as_deref(), Some(b"text".as_slice()));
        assert_eq!(open(&[1; 32], b"place", &sealed), None);
        assert_eq!(open(&secret, b"elsewhere", &sealed), None);
        for at in 0..sealed.len() {
            let mut wrong = sealed.clone();
            wrong[at] ^= 1;
            assert_eq!(open(&secret, b"place", &wrong), None, "changed at {at}");
            assert_eq!(open(&secret, b"place", &sealed[..at]), None, "cut off at {at}");
        }
    }
}
