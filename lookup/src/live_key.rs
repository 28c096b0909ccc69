//! The cluster key as its file is now: a changed file is noticed while the daemon runs.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use parking_lot::Mutex;
use stp_net::key::{ClusterKey, KeyError};
use stp_net::seal;
use stp_proto::profile::{Profile, Version};

/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(1);

/// The cluster key of a file.
#[derive(Debug)]
pub struct LiveKey {
    path: Option<PathBuf>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    key: Arc<ClusterKey>,
    changed: Option<SystemTime>,
    looked: Instant,
}

impl LiveKey {
    /// Reads the file.
    pub fn load(path: &Path) -> Result<LiveKey, KeyError> {
        let changed = changed(path);
        let key = ClusterKey::load(path)?;
        Ok(LiveKey { path: Some(path.to_owned()), ..LiveKey::with(key, changed) })
    }

    /// A key that does not change.
    #[must_use]
    pub fn fixed(key: ClusterKey) -> LiveKey {
        LiveKey::with(key, None)
    }

    fn with(key: ClusterKey, changed: Option<SystemTime>) -> LiveKey {
        let state = State { key: Arc::new(key), changed, looked: Instant::now() };
        LiveKey { path: None, state: Mutex::new(state) }
    }

    /// What a daemon with this key says of itself.
    #[must_use]
    pub fn profile(&self) -> Profile {
        let mut ids = seal::key_ids(&self.now()).into_iter();
        let keys = std::array::from_fn(|_| ids.next().unwrap_or_default());
        Profile { version: Version::ours(), keys }
    }

    /// The key as it is now. A file that cannot be read is logged, and the last one holds.
    #[must_use]
    pub fn now(&self) -> Arc<ClusterKey> {
        let mut state = self.state.lock();
        if let Some(path) = &self.path
            && state.looked.elapsed() >= LOOK
        {
            state.looked = Instant::now();
            let changed = changed(path);
            if changed != state.changed {
                match ClusterKey::load(path) {
                    Ok(key) => {
                        tracing::info!(file = %path.display(), "the cluster key has changed");
                        state.key = Arc::new(key);
                    }
                    Err(error) => tracing::error!(%error, "the cluster key cannot be read"),
                }
                state.changed = changed;
            }
        }
        Arc::clone(&state.key)
    }
}

fn changed(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|meta| meta.modified()).ok()
}
