//! The key that seals tickets, and how it is replaced while sessions live.
//!
//! Every day has its own key without anybody's doing (R97). Whoever has stolen a key has those of
//! later days as well; then it is replaced. The file holds a secret in a line. Tickets are sealed
//! with the first one, and all of them open tickets (`stp_net::cluster_key`). Replacing one takes
//! three steps, and each is made on every machine before the next: `add` puts a new key last, so
//! that it opens everywhere; `promote` puts it first, so that it seals; `retire` removes the others
//! when the last ticket that they sealed has expired. Daemons notice a changed file by themselves.

use std::path::Path;
use std::sync::Arc;

use stp_lookup::live_key::{self, LiveKey};
use stp_net::cluster_key::{ClusterKey, KeyFile};
use stp_net::key::KeyError;
use stp_proto::profile::Profile;
use stp_proto::session::Limits;

/// The cluster's name and key.
#[derive(Debug)]
pub struct Cluster {
    name: String,
    key: LiveKey,
}

impl Cluster {
    /// Reads the key file.
    pub fn load(name: &str, path: &Path) -> Result<Cluster, KeyError> {
        Ok(Cluster { name: name.to_owned(), key: LiveKey::load(path, Limits::default().hold)? })
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

    /// What an operator should know of the key.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        self.key.warnings()
    }

    /// Sees to it that past days are forgotten. It never ends.
    pub async fn follow(&self) {
        self.key.follow().await;
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
    /// Erases the keys of past days, which daemons do by themselves where they can write.
    Advance,
}

/// Changes the file, as a whole or not at all. Returns what is to be done next.
pub fn step(path: &Path, step: Step) -> anyhow::Result<&'static str> {
    if step == Step::Add && !path.exists() {
        live_key::create(path)?;
        return Ok("copy the file to every server and gateway of the cluster");
    }
    let mut file = KeyFile::load(path)?;
    let next = match step {
        Step::Add => {
            if file.count() >= KeyFile::MAX {
                anyhow::bail!("{} holds {} keys: retire some first", path.display(), file.count());
            }
            file.add(live_key::today());
            "copy the file everywhere; then promote"
        }
        Step::Promote => {
            file.promote();
            "copy the file everywhere; retire when the longest-lived ticket is past"
        }
        Step::Advance => {
            live_key::advance(path, Limits::default().hold)?;
            return Ok("past days are erased from this copy; do the same with every other one");
        }
        Step::Retire => {
            file.retire();
            "copy the file everywhere; tickets of the old key are refused from now on"
        }
    };
    file.save(path)?;
    Ok(next)
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
        let life = Limits::default().hold;
        let load = || live_key::read(&path, life).expect("a good file");
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
