//! The cluster key as its file and the day have it: a changed file is noticed while the daemon
//! runs, and what no ticket needs any more is forgotten, in memory and in the file (R97).

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use stp_net::cluster_key::{ClusterKey, KeyFile};
use stp_net::key::KeyError;
use stp_proto::days::Days;
use stp_proto::profile::{Profile, Version};

/// How often the file is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// A file that could not be written is tried again after this time.
const AGAIN: Duration = Duration::from_secs(3_600);
/// How often [`LiveKey::follow`] looks when nobody else does.
const FOLLOW: Duration = Duration::from_secs(60);

/// The cluster key of a file.
#[derive(Debug)]
pub struct LiveKey {
    source: Option<Source>,
    state: Mutex<State>,
}

/// Where it comes from.
#[derive(Debug)]
struct Source {
    path: PathBuf,
    /// How long tickets are good.
    life: Duration,
    begun: Instant,
}

#[derive(Debug)]
struct State {
    key: Arc<ClusterKey>,
    /// What it was made of, and for which days.
    made_of: Option<(KeyFile, Days)>,
    changed: Option<SystemTime>,
    looked: Instant,
    /// When the file could not be written, and what is said of it.
    unwritten: Option<(Instant, String)>,
}

impl LiveKey {
    /// Reads the file. Tickets are good for `life`.
    pub fn load(path: &Path, life: Duration) -> Result<LiveKey, KeyError> {
        let changed = changed(path);
        let file = KeyFile::load(path)?;
        let days = Days::at(unix_now(), life);
        let state = State { made_of: Some((file.clone(), days)), changed, ..of(keys(&file, days)) };
        let source = Source { path: path.to_owned(), life, begun: Instant::now() };
        Ok(LiveKey { source: Some(source), state: Mutex::new(state) })
    }

    /// A key that does not change.
    #[must_use]
    pub fn fixed(key: ClusterKey) -> LiveKey {
        LiveKey { source: None, state: Mutex::new(of(key)) }
    }

    /// What a daemon with this key says of itself.
    #[must_use]
    pub fn profile(&self) -> Profile {
        let key = self.now();
        let mut ids = key.ids().iter().copied();
        let keys = std::array::from_fn(|_| ids.next().unwrap_or_default());
        Profile { version: Version::ours(), keys }
    }

    /// The key as it is now. A file that cannot be read is logged, and the last one holds.
    #[must_use]
    pub fn now(&self) -> Arc<ClusterKey> {
        let mut state = self.state.lock();
        if let Some(source) = &self.source
            && state.looked.elapsed() >= LOOK
        {
            state.looked = Instant::now();
            source.read_again(&mut state);
            source.turn(&mut state, unix_now(), source.begun.elapsed());
        }
        Arc::clone(&state.key)
    }

    /// What an operator should know.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        let state = self.state.lock();
        let ahead = state
            .made_of
            .iter()
            .flat_map(|(file, days)| file.days().max().and_then(|held| days.warning(held)));
        ahead.chain(state.unwritten.iter().map(|(_, text)| text.clone())).collect()
    }

    /// Looks from time to time, even if nobody wants the key. It never ends.
    pub async fn follow(&self) {
        loop {
            let _ = self.now();
            tokio::time::sleep(FOLLOW).await;
        }
    }
}

impl Source {
    fn read_again(&self, state: &mut State) {
        let changed = changed(&self.path);
        if changed == state.changed {
            return;
        }
        state.changed = changed;
        match KeyFile::load(&self.path) {
            Ok(file) => {
                tracing::info!(file = %self.path.display(), "the cluster key has changed");
                let days = Days::at(unix_now(), self.life);
                state.key = Arc::new(keys(&file, days));
                state.made_of = Some((file, days));
            }
            Err(error) => tracing::error!(%error, "the cluster key cannot be read"),
        }
    }

    /// Another day has come, perhaps: `now` in seconds since 1970. The daemon has run for `up`.
    fn turn(&self, state: &mut State, now: u64, up: Duration) {
        let Some((file, days)) = &mut state.made_of else { return };
        let today = Days::at(now, self.life);
        if today != *days {
            *days = today;
            state.key = Arc::new(keys(file, today));
        }
        let recently = |(at, _): &(Instant, String)| at.elapsed() < AGAIN;
        let erases = file.days().any(|held| today.erases(held, up));
        if !erases || state.unwritten.as_ref().is_some_and(recently) {
            return;
        }
        // As it is now: somebody may have added a key.
        let written = KeyFile::load(&self.path).and_then(|mut file| {
            file.advance(today.first);
            file.save(&self.path)
        });
        file.advance(today.first);
        state.unwritten = match written {
            Ok(()) => None,
            // It is not the file itself that systemd hands over, but a copy in memory.
            Err(_) if is_credential(&self.path) => None,
            Err(error) => Some((
                Instant::now(),
                format!(
                    "the cluster key's past days cannot be erased: {error}; let this program write \
                     there, or run \"stp-server --advance-cluster-key FILE\" daily where it is kept"
                ),
            )),
        };
    }
}

fn is_credential(path: &Path) -> bool {
    std::env::var_os("CREDENTIALS_DIRECTORY").is_some_and(|folder| path.starts_with(folder))
}

/// Its keys on these days.
#[must_use]
fn keys(file: &KeyFile, days: Days) -> ClusterKey {
    file.keys(days.seals, days.first..=days.last)
}

fn of(key: ClusterKey) -> State {
    State {
        key: Arc::new(key),
        made_of: None,
        changed: None,
        looked: Instant::now(),
        unwritten: None,
    }
}

fn changed(path: &Path) -> Option<SystemTime> {
    std::fs::metadata(path).and_then(|meta| meta.modified()).ok()
}

/// Seconds since 1970.
#[must_use]
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// The keys of a file as they are now, for tickets that are good for `life`.
///
/// # Errors
/// When there is no such file, or it holds something else.
pub fn read(path: &Path, life: Duration) -> Result<ClusterKey, KeyError> {
    Ok(keys(&KeyFile::load(path)?, Days::at(unix_now(), life)))
}

/// Makes a file with a new key, good from today on.
///
/// # Errors
/// When there is one already, or it cannot be written.
pub fn create(path: &Path) -> Result<(), KeyError> {
    KeyFile::create(path, today()).map(drop)
}

/// Erases from a file the keys of days before which no ticket is good for `life`.
///
/// # Errors
/// When it cannot be read or written.
pub fn advance(path: &Path, life: Duration) -> Result<(), KeyError> {
    let mut file = KeyFile::load(path)?;
    file.advance(Days::at(unix_now(), life).first);
    file.save(path)
}

/// This day, counted from 1970.
#[must_use]
pub fn today() -> u64 {
    Days::at(unix_now(), Duration::ZERO).seals
}

#[cfg(test)]
mod tests {
    use super::*;
    use stp_net::key::Identity;
    use stp_net::seal::{open, seal};

    const DAY: u64 = 86_400;
    const LIFE: Duration = Duration::from_secs(72 * 3600);
    const UP: Duration = Duration::from_secs(600);

    /// R97.
    #[test]
    fn every_day_has_its_key_and_past_ones_are_erased_from_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cluster.key");
        create(&path).unwrap();
        let (live, client) = (LiveKey::load(&path, LIFE).unwrap(), Identity::generate());
        let (client, source) = (client.public_key(), live.source.as_ref().unwrap());
        let now = unix_now();
        let turned = |days: u64, up| {
            source.turn(&mut live.state.lock(), now + days * DAY, up);
            Arc::clone(&live.state.lock().key)
        };
        let mut tickets: Vec<Vec<u8>> = Vec::new();
        for day in 0..10 {
            let key = turned(day, if day < 2 { Duration::ZERO } else { UP });
            tickets.push(seal(&key, b"claims", &client));
            let opens = |ticket: &Vec<u8>| open(&key, ticket, &client).is_ok();
            let open: Vec<bool> = tickets.iter().rev().map(opens).collect();
            // Three days, and one more in their first hour.
            let good = open.iter().take_while(|opens| **opens).count();
            assert!(good == open.len().min(4) || good == open.len().min(5), "{day}: {open:?}");
            let held = KeyFile::load(&path).unwrap().days().next().unwrap();
            assert!(held + 4 >= now / DAY + day || day < 2, "{held}");
        }
        assert!(live.warnings().is_empty());
        // What is stolen now opens nothing of the first days.
        let stolen = KeyFile::load(&path).unwrap().keys(0, 0..=now / DAY + 99);
        let stolen: Vec<bool> =
            tickets.iter().map(|ticket| open(&stolen, ticket, &client).is_ok()).collect();
        assert_eq!(stolen[..5], [false; 5]);
        assert_eq!(stolen[7..], [true; 3]);
    }

    #[test]
    fn a_file_that_cannot_be_written_and_one_from_the_future_are_said() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("cluster.key");
        KeyFile::create(&path, today() + 30).unwrap();
        let live = LiveKey::load(&path, LIFE).unwrap();
        assert!(live.warnings()[0].contains("begins in 30 days"), "{:?}", live.warnings());
        let source = live.source.as_ref().unwrap();
        // Nobody can write what is not there, not even root.
        std::fs::remove_file(&path).unwrap();
        source.turn(&mut live.state.lock(), unix_now() + 60 * DAY, UP);
        let said = live.warnings();
        assert!(said[0].contains("cannot be erased") && said.len() == 1, "{said:?}");
    }
}
