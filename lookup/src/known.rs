//! The keys of directories that were met before, as ssh keeps them: a line per place. The first
//! time somebody has to say that the key is right; from then on any other is refused.

use std::fs;
use std::io::{self, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use stp_net::key::{Identity, PublicKey};
use stp_net::link::{DialError, Link, LinkOptions, Tls};

use crate::address::DirectoryAddress;

/// The file of known directories is not longer than this, in bytes.
const FILE_MAX: u64 = 1 << 20;

/// The known directories.
#[derive(Debug, Clone)]
pub struct Known {
    path: PathBuf,
}

impl Known {
    /// Kept in the file at `path`, which need not exist.
    #[must_use]
    pub fn at(path: &Path) -> Known {
        Known { path: path.to_owned() }
    }

    /// The key of a place.
    pub fn key(&self, place: &DirectoryAddress) -> io::Result<Option<PublicKey>> {
        let text = match fs::metadata(&self.path) {
            Ok(meta) if meta.len() > FILE_MAX => {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "too long"));
            }
            Ok(_) => fs::read_to_string(&self.path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let wanted = place.to_string();
        for line in text.lines() {
            let mut words = line.split('#').next().unwrap_or_default().split_whitespace();
            if words.next() == Some(&wanted)
                && let Some(Ok(key)) = words.next().map(str::parse)
            {
                return Ok(Some(key));
            }
        }
        Ok(None)
    }

    /// Remembers a place.
    pub fn add(&self, place: &DirectoryAddress, key: &PublicKey) -> io::Result<()> {
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder)?;
        }
        let mut file = fs::OpenOptions::new().create(true).append(true).open(&self.path)?;
        file.write_all(format!("{place} {key}\n").as_bytes())?;
        file.sync_all()
    }
}

/// The key that the peer at `address` shows. It is not proved: dial again and expect it.
pub async fn shown_key(address: SocketAddr, options: &LinkOptions) -> Result<PublicKey, DialError> {
    let nobody = Identity::generate();
    let expected = Identity::generate().public_key();
    match Link::dial(address, &expected, &Tls::new(&nobody), options).await {
        Err(DialError::WrongKey { found, .. }) => Ok(found),
        Err(error) => Err(error),
        Ok(link) => Ok(link.peer_key()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_remembered_and_others_are_not_known() {
        let folder = tempfile::tempdir().expect("a folder");
        let known = Known::at(&folder.path().join("x/known"));
        let place: DirectoryAddress = "a.example:1".parse().expect("a place");
        assert_eq!(known.key(&place).expect("no file is no key"), None);
        let key = Identity::generate().public_key();
        known.add(&place, &key).expect("written");
        assert_eq!(known.key(&place).expect("read"), Some(key));
        let other: DirectoryAddress = "a.example:2".parse().expect("a place");
        assert_eq!(known.key(&other).expect("read"), None);
    }
}
