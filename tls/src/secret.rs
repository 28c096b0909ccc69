//! What the records of one direction follow from.

use std::fmt;

use aws_lc_rs::aead::{AES_128_GCM, AES_256_GCM, Algorithm, CHACHA20_POLY1305};
use aws_lc_rs::aead::{LessSafeKey, UnboundKey};
use aws_lc_rs::hkdf::{self, HKDF_SHA256, HKDF_SHA384, KeyType, Prk};
use zeroize::{Zeroize, Zeroizing};

/// The cipher suites of TLS 1.3 that are offered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Suite {
    /// `TLS_AES_128_GCM_SHA256`.
    Aes128,
    /// `TLS_AES_256_GCM_SHA384`.
    Aes256,
    /// `TLS_CHACHA20_POLY1305_SHA256`.
    ChaCha20,
}

impl Suite {
    /// The suite of this number.
    #[must_use]
    pub fn of(number: u16) -> Option<Self> {
        match number {
            0x1301 => Some(Self::Aes128),
            0x1302 => Some(Self::Aes256),
            0x1303 => Some(Self::ChaCha20),
            _ => None,
        }
    }

    /// Its number.
    #[must_use]
    pub fn number(self) -> u16 {
        match self {
            Self::Aes128 => 0x1301,
            Self::Aes256 => 0x1302,
            Self::ChaCha20 => 0x1303,
        }
    }

    /// How long its secrets are: as long as its hash.
    #[must_use]
    pub fn secret_length(self) -> usize {
        match self {
            Self::Aes128 | Self::ChaCha20 => 32,
            Self::Aes256 => 48,
        }
    }

    fn hkdf(self) -> hkdf::Algorithm {
        match self {
            Self::Aes128 | Self::ChaCha20 => HKDF_SHA256,
            Self::Aes256 => HKDF_SHA384,
        }
    }

    fn aead(self) -> &'static Algorithm {
        match self {
            Self::Aes128 => &AES_128_GCM,
            Self::Aes256 => &AES_256_GCM,
            Self::ChaCha20 => &CHACHA20_POLY1305,
        }
    }
}

/// A traffic secret of one direction. It is wiped when it is dropped, and never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret {
    suite: Suite,
    bytes: Zeroizing<Vec<u8>>,
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Secret").field("suite", &self.suite).finish_non_exhaustive()
    }
}

struct Length(usize);

impl KeyType for Length {
    fn len(&self) -> usize {
        self.0
    }
}

/// A nonce's length in all suites.
pub(crate) const NONCE: usize = 12;

impl Secret {
    /// These bytes, if they are as many as the suite's hash has.
    #[must_use]
    pub fn new(suite: Suite, bytes: &[u8]) -> Option<Self> {
        let fits = bytes.len() == suite.secret_length();
        fits.then(|| Self { suite, bytes: Zeroizing::new(bytes.to_vec()) })
    }

    /// Whose secret it is.
    #[must_use]
    pub fn suite(&self) -> Suite {
        self.suite
    }

    /// The bytes, for a sealed ticket.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The secret after a change of keys (RFC 8446, 7.2).
    #[must_use]
    pub fn next(&self) -> Self {
        let bytes = self.expand("traffic upd", self.suite.secret_length());
        Self { suite: self.suite, bytes }
    }

    /// The key, and what its nonces are made of (RFC 8446, 7.3).
    pub(crate) fn keys(&self) -> (LessSafeKey, [u8; NONCE]) {
        let key = self.expand("key", self.suite.aead().key_len());
        let key = UnboundKey::new(self.suite.aead(), &key).expect("a key of its length");
        let mut iv = [0; NONCE];
        iv.copy_from_slice(&self.expand("iv", NONCE));
        (LessSafeKey::new(key), iv)
    }

    /// `HKDF-Expand-Label` with an empty context (RFC 8446, 7.1).
    fn expand(&self, label: &str, length: usize) -> Zeroizing<Vec<u8>> {
        let size = u16::try_from(length).expect("keys are short").to_be_bytes();
        let name = u8::try_from("tls13 ".len() + label.len()).expect("labels are short");
        let info: [&[u8]; 5] = [&size, &[name], b"tls13 ", label.as_bytes(), &[0]];
        let secret = Prk::new_less_safe(self.suite.hkdf(), &self.bytes);
        let mut out = Zeroizing::new(vec![0; length]);
        let okm = secret.expand(&info, Length(length)).expect("keys are short");
        okm.fill(&mut out).expect("the length that was asked for");
        out
    }
}

/// One direction: its secret, and the number of the next record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Direction {
    /// What its keys follow from.
    pub secret: Secret,
    /// How many records went by under it.
    pub number: u64,
}

/// Both directions, as a sealed ticket carries them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keys {
    /// Of what the app receives.
    pub down: Direction,
    /// Of what the app sends.
    pub up: Direction,
}

impl Keys {
    /// As bytes: suite, then number and secret of each direction.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        let suite = self.down.secret.suite;
        // Its whole room at once: a vector that grows leaves copies behind.
        let mut bytes = Zeroizing::new(Vec::with_capacity(2 + 2 * (8 + suite.secret_length())));
        bytes.extend_from_slice(&suite.number().to_be_bytes());
        for direction in [&self.down, &self.up] {
            bytes.extend_from_slice(&direction.number.to_be_bytes());
            bytes.extend_from_slice(&direction.secret.bytes);
        }
        bytes
    }

    /// From what [`Keys::to_bytes`] made.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Option<Self> {
        let (suite, rest) = bytes.split_first_chunk::<2>()?;
        let suite = Suite::of(u16::from_be_bytes(*suite))?;
        let each = 8 + suite.secret_length();
        if rest.len() != 2 * each {
            return None;
        }
        let direction = |part: &[u8]| {
            let (number, secret) = part.split_first_chunk::<8>()?;
            let secret = Secret::new(suite, secret)?;
            Some(Direction { secret, number: u64::from_be_bytes(*number) })
        };
        Some(Self { down: direction(&rest[..each])?, up: direction(&rest[each..])? })
    }
}

/// Wipes bytes that held secrets.
pub fn wipe(bytes: &mut Vec<u8>) {
    bytes.zeroize();
}
