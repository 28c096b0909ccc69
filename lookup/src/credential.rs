//! What `session login` leaves behind: a file, mode 0600, with which the broker proves who the
//! user is. It holds what was derived from the password, not the password.

use std::fmt;
use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use stp_net::key::PublicKey;

use crate::address::DirectoryAddress;
use crate::password::Keys;

/// A credential's file is not longer than this, in bytes.
const FILE_MAX: u64 = 4_096;

/// A user at a gateway.
#[derive(Clone)]
pub struct Credential {
    /// Where the gateway is.
    pub gateway: DirectoryAddress,
    /// Its key.
    pub key: PublicKey,
    /// The user.
    pub user: String,
    /// What was derived from the password.
    pub keys: Keys,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credential({}@{})", self.user, self.gateway)
    }
}

/// Why there is no credential.
#[derive(Debug, thiserror::Error)]
pub enum CredentialError {
    /// Nobody has logged in.
    #[error("not logged in: {0} does not exist; run: session login {1}")]
    Missing(PathBuf, String),
    /// Others can read it.
    #[error("{0} can be read by others: make it private with \"chmod 600 {0}\"")]
    Exposed(PathBuf),
    /// It is not one.
    #[error("{0} is no credential: {1}; run: session login {2}")]
    Malformed(PathBuf, String, String),
    /// The system refuses.
    #[error("cannot use {0}: {1}")]
    Io(PathBuf, io::Error),
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    gateway: String,
    key: PublicKey,
    user: String,
    secret: String,
}

impl Credential {
    /// Where the credential of a user at a gateway is kept, below the configuration directory.
    #[must_use]
    pub fn path(folder: &Path, user: &str, gateway: &DirectoryAddress) -> PathBuf {
        folder.join("credentials").join(format!("{user}@{gateway}"))
    }

    /// Reads it.
    pub fn load(
        folder: &Path,
        user: &str,
        gateway: &DirectoryAddress,
    ) -> Result<Credential, CredentialError> {
        let path = Credential::path(folder, user, gateway);
        let who = format!("{user}@{gateway}");
        let failed = |error| CredentialError::Io(path.clone(), error);
        let file = match fs::File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(CredentialError::Missing(path, who));
            }
            Err(error) => return Err(failed(error)),
        };
        let mode = file.metadata().map_err(failed)?.permissions().mode();
        if mode & 0o077 != 0 {
            return Err(CredentialError::Exposed(path));
        }
        let mut text = String::new();
        file.take(FILE_MAX).read_to_string(&mut text).map_err(failed)?;
        let malformed =
            |what: &str| CredentialError::Malformed(path.clone(), what.to_owned(), who.clone());
        let file: File = serde_json::from_str(&text).map_err(|e| malformed(&e.to_string()))?;
        let root = URL_SAFE_NO_PAD.decode(&file.secret).ok();
        let root = root.and_then(|bytes| <[u8; 32]>::try_from(bytes).ok());
        Ok(Credential {
            gateway: file.gateway.parse().map_err(|e: String| malformed(&e))?,
            key: file.key,
            user: file.user,
            keys: Keys::from_root(root.ok_or_else(|| malformed("its secret is not 32 bytes"))?),
        })
    }

    /// Writes it, whole or not at all.
    pub fn store(&self, folder: &Path) -> Result<PathBuf, CredentialError> {
        let path = Credential::path(folder, &self.user, &self.gateway);
        let file = File {
            gateway: self.gateway.to_string(),
            key: self.key,
            user: self.user.clone(),
            secret: URL_SAFE_NO_PAD.encode(self.keys.root()),
        };
        let text = serde_json::to_string_pretty(&file).expect("plain data is always JSON");
        write_private(&path, text.as_bytes())
            .map_err(|error| CredentialError::Io(path.clone(), error))?;
        Ok(path)
    }
}

fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let draft = folder.join(format!(".{name}.{}", std::process::id()));
    let written = (|| {
        let mut options = fs::OpenOptions::new();
        let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
        file.write_all(content)?;
        file.sync_all()?;
        fs::rename(&draft, path)
    })();
    if written.is_err() {
        let _ = fs::remove_file(&draft);
    }
    written
}

#[cfg(test)]
mod tests {
    use super::*;
    use stp_net::key::Identity;

    fn credential() -> Credential {
        Credential {
            gateway: "gateway.example".parse().expect("a place"),
            key: Identity::generate().public_key(),
            user: "alice".into(),
            keys: Keys::from_root([9; 32]),
        }
    }

    #[test]
    fn a_credential_is_private_and_comes_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let credential = credential();
        let path = credential.store(folder.path()).expect("written");
        let mode = fs::metadata(&path).expect("it is there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        let loaded = Credential::load(folder.path(), "alice", &credential.gateway).expect("read");
        assert_eq!(loaded.key, credential.key);
        assert_eq!(loaded.keys.list_key(), credential.keys.list_key());
    }

    #[test]
    fn an_exposed_missing_or_broken_one_is_refused_and_says_what_to_do() {
        let folder = tempfile::tempdir().expect("a folder");
        let credential = credential();
        let load = || Credential::load(folder.path(), "alice", &credential.gateway);
        let missing = load().expect_err("nothing is there").to_string();
        assert!(missing.contains("session login alice@gateway.example:4480"), "{missing}");
        let path = credential.store(folder.path()).expect("written");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).expect("ours");
        assert!(matches!(load(), Err(CredentialError::Exposed(_))));
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("ours");
        fs::write(&path, "{}").expect("ours");
        assert!(matches!(load(), Err(CredentialError::Malformed(..))));
    }
}
