//! Ed25519 identities of brokers and servers, and how secrets are kept in files.
//!
//! There is no web PKI: a server is known by the public key written in the broker's
//! configuration, and a client by the key it proves in the TLS handshake. Secret files are made
//! at first use, mode 0600, and refused if anyone else can read them.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::atomic::{AtomicU32, Ordering};

use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::envelope;

/// The twelve bytes that stand before an Ed25519 key in a SubjectPublicKeyInfo (RFC 8410).
const SPKI_PREFIX: [u8; 12] =
    [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];
/// A key's file is not longer than this, in bytes.
const KEY_FILE_MAX: u64 = 16 * 1024;
const SCHEME: &str = "ed25519:";

/// An Ed25519 public key; written `ed25519:` and 43 characters of base64url.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PublicKey(pub [u8; 32]);

impl PublicKey {
    /// The key as a DER SubjectPublicKeyInfo, the form in which TLS carries it (RFC 7250).
    #[must_use]
    pub fn to_spki(&self) -> Vec<u8> {
        [&SPKI_PREFIX[..], &self.0[..]].concat()
    }

    /// Reads a DER SubjectPublicKeyInfo; `None` if it is not an Ed25519 key.
    #[must_use]
    pub fn from_spki(der: &[u8]) -> Option<Self> {
        let key = der.strip_prefix(&SPKI_PREFIX)?;
        Some(Self(key.try_into().ok()?))
    }
}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{SCHEME}{}", URL_SAFE_NO_PAD.encode(self.0))
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Why a text is not a public key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPublicKey {
    /// It does not begin with `ed25519:`.
    #[error("a public key is written \"ed25519:\" and 43 characters, not {0:?}")]
    Scheme(String),
    /// What follows is not 32 bytes in base64url.
    #[error("the part after \"ed25519:\" is not 32 bytes in base64url: {0:?}")]
    Bytes(String),
}

impl FromStr for PublicKey {
    type Err = BadPublicKey;

    fn from_str(text: &str) -> Result<Self, BadPublicKey> {
        let encoded = text.strip_prefix(SCHEME).ok_or_else(|| BadPublicKey::Scheme(text.into()))?;
        let bytes = URL_SAFE_NO_PAD.decode(encoded.trim_end_matches('='));
        let key = bytes.ok().and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        key.map(Self).ok_or_else(|| BadPublicKey::Bytes(encoded.into()))
    }
}

impl Serialize for PublicKey {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for PublicKey {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// A secret file that could not be read, made or understood.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// The system refused.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody else may have read the secret.
    #[error(
        "{path} can be read by others (mode {mode:04o}): make it private with \"chmod 600 {path}\""
    )]
    Exposed {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is not a key.
    #[error("{path}: {what}")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// What is wrong, and what belongs there.
        what: String,
    },
}

/// An Ed25519 key pair, by which the peers of this broker or server know it.
pub struct Identity {
    pkcs8: Vec<u8>,
    public: PublicKey,
}

impl fmt::Debug for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Identity").field("public", &self.public).finish_non_exhaustive()
    }
}

impl Identity {
    /// Makes a new identity that is kept nowhere.
    #[must_use]
    pub fn generate() -> Self {
        let pair = Ed25519KeyPair::generate().expect("the system's randomness does not fail");
        let pkcs8 = pair.to_pkcs8v1().expect("a generated key can be written");
        Self { public: public_of(&pair), pkcs8: pkcs8.as_ref().to_vec() }
    }

    /// Reads the PEM (PKCS #8) file at `path`, or makes an identity and writes it there.
    pub fn load_or_create(path: &Path) -> Result<Self, KeyError> {
        match read_secret(path) {
            Ok(text) => Self::from_pem(&text, path),
            Err(KeyError::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                write_secret(path, Self::generate().to_pem().as_bytes())?;
                Self::from_pem(&read_secret(path)?, path)
            }
            Err(error) => Err(error),
        }
    }

    /// The public half.
    #[must_use]
    pub fn public_key(&self) -> PublicKey {
        self.public
    }

    /// Seals bytes for the holder of this key and for one purpose ([`envelope`]).
    #[must_use]
    pub fn seal(&self, purpose: &str, bound_to: &[u8], plain: &[u8]) -> Vec<u8> {
        envelope::seal(&envelope::derive(&self.pkcs8, purpose), bound_to, plain)
    }

    /// Opens what [`Identity::seal`] gave; nothing if it was changed, or is another's.
    #[must_use]
    pub fn open(&self, purpose: &str, bound_to: &[u8], sealed: &[u8]) -> Option<Vec<u8>> {
        envelope::open(&envelope::derive(&self.pkcs8, purpose), bound_to, sealed)
    }

    /// The private half as PKCS #8 DER, for the TLS library.
    pub(crate) fn pkcs8(&self) -> &[u8] {
        &self.pkcs8
    }

    fn to_pem(&self) -> String {
        let body = STANDARD.encode(&self.pkcs8);
        format!("-----BEGIN PRIVATE KEY-----\n{body}\n-----END PRIVATE KEY-----\n")
    }

    /// From the text of a key's file; `path` is for the error.
    ///
    /// # Errors
    /// It is no key.
    pub fn from_pem(text: &str, path: &Path) -> Result<Self, KeyError> {
        let malformed = |what: &str| KeyError::Malformed {
            path: path.into(),
            what: format!(
                "{what}; an Ed25519 key in PEM is expected here (delete the file to have a new \
                    one made)"
            ),
        };
        let body = text
            .trim()
            .strip_prefix("-----BEGIN PRIVATE KEY-----")
            .and_then(|rest| rest.strip_suffix("-----END PRIVATE KEY-----"))
            .ok_or_else(|| malformed("no PRIVATE KEY block"))?;
        let body: String = body.split_whitespace().collect();
        let pkcs8 = STANDARD.decode(body).map_err(|_| malformed("the block is not base64"))?;
        let pair = Ed25519KeyPair::from_pkcs8(&pkcs8)
            .or_else(|_| Ed25519KeyPair::from_pkcs8_maybe_unchecked(&pkcs8))
            .map_err(|_| malformed("the block is not an Ed25519 private key"))?;
        Ok(Self { public: public_of(&pair), pkcs8 })
    }
}

fn public_of(pair: &Ed25519KeyPair) -> PublicKey {
    PublicKey(pair.public_key().as_ref().try_into().expect("an Ed25519 public key has 32 bytes"))
}

/// Reads a small private text file; refuses one that others can read.
pub fn read_secret(path: &Path) -> Result<String, KeyError> {
    let failed = |source| KeyError::Io { action: "read", path: path.into(), source };
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyError::Exposed { path: path.into(), mode });
    }
    let mut text = String::new();
    file.take(KEY_FILE_MAX).read_to_string(&mut text).map_err(failed)?;
    Ok(text)
}

/// Writes a private file whole or not at all. If another process made it first, theirs stays.
pub(crate) fn write_secret(path: &Path, content: &[u8]) -> Result<(), KeyError> {
    by_draft(path, content, |draft| match fs::hard_link(draft, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        other => other,
    })
}

/// Writes a private file whole or not at all, in the place of one that is there.
pub(crate) fn replace_secret(path: &Path, content: &[u8]) -> Result<(), KeyError> {
    by_draft(path, content, |draft| fs::rename(draft, path))
}

fn by_draft(
    path: &Path,
    content: &[u8],
    put: impl FnOnce(&Path) -> io::Result<()>,
) -> Result<(), KeyError> {
    let failed = |source| KeyError::Io { action: "write", path: path.into(), source };
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !folder.exists() {
        let mut builder = fs::DirBuilder::new();
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.recursive(true).create(folder).map_err(failed)?;
    }
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    static DRAFTS: AtomicU32 = AtomicU32::new(0);
    let number = DRAFTS.fetch_add(1, Ordering::Relaxed);
    let draft = folder.join(format!(".{name}.{}.{number}", std::process::id()));
    let result = (|| {
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(content)?;
        file.sync_all()?;
        put(&draft)
    })();
    // It is not there any more if it was renamed.
    let _ = fs::remove_file(&draft);
    result.map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_public_key_is_read_as_it_is_written() {
        let key = Identity::generate().public_key();
        let text = key.to_string();
        assert_eq!(text.len(), SCHEME.len() + 43);
        assert_eq!(text.parse(), Ok(key));
        assert_eq!(PublicKey::from_spki(&key.to_spki()), Some(key));
        assert_eq!(serde_json::to_string(&key).ok(), Some(format!("\"{text}\"")));
    }

    #[test]
    fn what_is_no_public_key_is_refused_with_the_reason() {
        let refused = |text: &str| text.parse::<PublicKey>().expect_err("no key").to_string();
        assert!(refused("AAAA").contains("is written \"ed25519:\""));
        assert!(refused("ed25519:AAAA").contains("not 32 bytes"));
        assert!(refused("ed25519:!").contains("not 32 bytes"));
        assert_eq!(PublicKey::from_spki(&[0; 44]), None);
    }

    #[test]
    fn an_identity_is_made_once_and_stays() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("deeper/client.key");
        let made = Identity::load_or_create(&path).expect("made");
        let mode = fs::metadata(&path).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let kept = Identity::load_or_create(&path).expect("kept");
        assert_eq!(made.public_key(), kept.public_key());
        let beside = fs::read_dir(path.parent().expect("a folder")).expect("a folder").count();
        assert_eq!(beside, 1, "no draft is left");
    }

    #[test]
    fn many_who_make_the_same_identity_at_once_agree() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("client.key");
        let keys: Vec<PublicKey> = std::thread::scope(|scope| {
            let make = || Identity::load_or_create(&path).expect("made or kept").public_key();
            let threads: Vec<_> = (0..8).map(|_| scope.spawn(make)).collect();
            threads.into_iter().map(|thread| thread.join().expect("no panic")).collect()
        });
        assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
    }

    #[test]
    fn a_secret_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("client.key");
        Identity::load_or_create(&path).expect("made");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("it is ours");
        let error = Identity::load_or_create(&path).expect_err("exposed").to_string();
        assert!(error.contains("mode 0644") && error.contains("chmod 600"), "{error}");
    }

    #[test]
    fn a_file_that_is_no_identity_is_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("client.key");
        write_secret(&path, b"hello").expect("written");
        let error = Identity::load_or_create(&path).expect_err("no key").to_string();
        assert!(error.contains("no PRIVATE KEY block"), "{error}");
        assert_eq!(fs::read(&path).expect("it is there"), b"hello");
    }
}
