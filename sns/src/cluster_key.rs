//! The key that seals tickets, and how it is changed while sessions live.
//!
//! The file holds a key per line. Tickets are sealed with the first one, and all of them open
//! tickets (`stp_net::key::ClusterKey`). A change takes three steps, and each is made on every
//! machine before the next: `add` puts a new key last, so that it opens everywhere; `promote` puts
//! it first, so that it seals; `retire` removes the others when the last ticket that they sealed
//! has expired. Daemons notice a changed file by themselves.

use std::fs;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use stp_lookup::live_key::LiveKey;
use stp_net::key::{ClusterKey, KeyError};
use stp_proto::profile::Profile;

/// The cluster's name and key.
#[derive(Debug)]
pub struct Cluster {
    name: String,
    key: LiveKey,
}

impl Cluster {
    /// Reads the key file.
    pub fn load(name: &str, path: &Path) -> Result<Cluster, KeyError> {
        Ok(Cluster { name: name.to_owned(), key: LiveKey::load(path)? })
    }

    /// A cluster whose key does not change.
    #[must_use]
    pub fn fixed(name: &str, key: ClusterKey) -> Cluster {
        Cluster { name: name.to_owned(), key: LiveKey::fixed(key) }
    }

    /// Its name: the audience of its tickets.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What a daemon with this key says of itself.
    #[must_use]
    pub fn profile(&self) -> Profile {
        self.key.profile()
    }

    /// The key as it is now.
    #[must_use]
    pub fn key(&self) -> Arc<ClusterKey> {
        self.key.now()
    }
}

/// A step of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Step {
    /// Adds a key that opens tickets and does not seal them yet. Makes the file if there is none.
    Add,
    /// Has the newest key seal tickets.
    Promote,
    /// Removes all keys but the one that seals.
    Retire,
}

/// Changes the file, as a whole or not at all. Returns what is to be done next.
pub fn step(path: &Path, step: Step) -> anyhow::Result<&'static str> {
    let mut keys = if path.exists() { lines(path)? } else { Vec::new() };
    let made = keys.is_empty();
    let next = match step {
        Step::Add => {
            if keys.len() >= ClusterKey::MAX {
                anyhow::bail!("{} holds {} keys: retire some first", path.display(), keys.len());
            }
            keys.push(STANDARD.encode(stp_lookup::password::random::<32>()));
            if made {
                "copy the file to every server and gateway of the cluster"
            } else {
                "copy the file everywhere; then promote"
            }
        }
        Step::Promote => {
            let newest = keys.pop().ok_or_else(|| anyhow::anyhow!("the file holds no key"))?;
            keys.insert(0, newest);
            "copy the file everywhere; retire when the longest-lived ticket is past"
        }
        Step::Retire => {
            keys.truncate(1);
            "copy the file everywhere; tickets of the old key are refused from now on"
        }
    };
    let text: String = keys.iter().map(|key| format!("{key}\n")).collect();
    let draft = path.with_extension(format!("draft.{}", std::process::id()));
    let mut options = fs::OpenOptions::new();
    let mut file = options.write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    Ok(next)
}

fn lines(path: &Path) -> anyhow::Result<Vec<String>> {
    ClusterKey::load(path)?;
    let text = fs::read_to_string(path)?;
    let bare = |line: &str| line.split('#').next().unwrap_or_default().trim().to_owned();
    Ok(text.lines().map(bare).filter(|line| !line.is_empty()).collect())
}

#[cfg(test)]
mod tests {
    use super::*;
    use stp_net::key::Identity;
    use stp_net::seal::{open, seal};

    #[test]
    fn at_no_step_of_a_change_does_a_server_refuse_a_ticket_it_should_open() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("cluster.key");
        let client = Identity::generate().public_key();
        let load = || ClusterKey::load(&path).expect("a good file");
        step(&path, Step::Add).expect("made");
        let mut before = load();
        let old_ticket = seal(&before, b"old", &client);
        for change in [Step::Add, Step::Promote] {
            step(&path, change).expect("changed");
            let after = load();
            // A server with the file of before and one with the new file open each other's tickets.
            assert!(open(&before, &seal(&after, b"x", &client), &client).is_ok(), "{change:?}");
            assert!(open(&after, &seal(&before, b"x", &client), &client).is_ok(), "{change:?}");
            assert!(open(&after, &old_ticket, &client).is_ok(), "{change:?}");
            before = after;
        }
        step(&path, Step::Retire).expect("changed");
        assert!(open(&load(), &seal(&before, b"x", &client), &client).is_ok());
        assert!(open(&load(), &old_ticket, &client).is_err(), "the old key is gone");
    }
}
