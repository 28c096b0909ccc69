//! What the embedded store's thread does: commits and leases over redb. The time is an argument, so
//! that a simulation can let days pass in a moment.
//!
//! A disk that is full, or that fails, breaks a commit and with it the open database: redb refuses
//! everything from then on. So the database is closed, and opened again with the next commit. It
//! then holds all that was answered, and the commit that failed as a whole or not at all. The sink
//! is told everything anew.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

use redb::{Database, ReadableDatabase, ReadableTable, Table, TableDefinition, WriteTransaction};

use super::{Applied, Change, CommitError, Guard, Lease, Sink};

/// Key to (version, lease number, lease seconds, value). Lease number 0: none.
const VALUES: TableDefinition<&str, (u64, u64, u32, &[u8])> = TableDefinition::new("values/1");
const COUNTERS: TableDefinition<&str, u64> = TableDefinition::new("counters/1");
const NEXT: &str = "next version";

/// Opens the database; makes it if there is none, but only the first time (`true`).
pub type Opener = Box<dyn FnMut(bool) -> Result<Database, redb::Error> + Send>;

/// Keys, values and leases.
pub struct Keeper {
    open: Opener,
    /// None after a failure, until it could be opened again.
    database: Option<Database>,
    sink: Arc<dyn Sink>,
    leases: Leases,
}

/// A commit: its guards and its changes.
pub type Commit = (Vec<Guard>, Vec<Change>);

/// The results of a transaction, which count once it is durable.
#[derive(Default)]
struct Outcome {
    applied: Vec<Applied>,
    leases: Vec<(String, u64, u32)>,
}

impl Keeper {
    /// Opens the database and tells the sink all that is in it.
    ///
    /// # Errors
    /// The error of redb.
    pub fn open(now: Instant, open: Opener, sink: Arc<dyn Sink>) -> Result<Keeper, redb::Error> {
        let mut keeper = Keeper { open, database: None, sink, leases: Leases::default() };
        keeper.reopen(now, true)?;
        Ok(keeper)
    }

    /// Makes all these commits in one transaction, each under its own guards. When this returns,
    /// the changes are durable, and the sink knows them.
    pub fn commit(&mut self, now: Instant, commits: &[Commit]) -> Vec<Result<(), CommitError>> {
        let mut outcome = Outcome::default();
        match self.transact(now, commits, &mut outcome) {
            Ok(results) => {
                if results.iter().any(Result::is_ok) {
                    for (key, lease, seconds) in outcome.leases {
                        self.leases.keep(now, &key, lease, seconds);
                    }
                    self.sink.apply(outcome.applied);
                }
                results
            }
            Err(error) => {
                if self.database.take().is_some() {
                    tracing::error!(%error, "the store cannot be written");
                }
                vec![Err(CommitError::Unavailable(error.to_string())); commits.len()]
            }
        }
    }

    /// Begins the lease of a key anew; false if the key is gone.
    pub fn renew(&mut self, now: Instant, key: &str) -> bool {
        self.leases.renew(now, key) || self.exists(key)
    }

    /// Deletes the keys whose leases have run out.
    pub fn sweep(&mut self, now: Instant) {
        let lapsed = self.leases.lapsed(now);
        if !lapsed.is_empty() {
            tracing::info!(names = lapsed.len(), first = lapsed[0], "leases ran out");
            let changes = lapsed.into_iter().map(Change::Delete).collect();
            self.commit(now, &[(Vec::new(), changes)]);
        }
    }

    /// When the next lease runs out.
    #[must_use]
    pub fn next_lapse(&self) -> Option<Instant> {
        self.leases.running.values().map(|running| running.until).min()
    }

    /// Whether the last commit could be written.
    #[must_use]
    pub fn works(&self) -> bool {
        self.database.is_some()
    }

    fn reopen(&mut self, now: Instant, first: bool) -> Result<(), redb::Error> {
        let database = (self.open)(first)?;
        let write = database.begin_write()?;
        write.open_table(VALUES)?;
        write.open_table(COUNTERS)?;
        write.commit()?;
        let read = database.begin_read()?;
        let table = read.open_table(VALUES)?;
        let (mut leases, mut all) = (Leases::default(), Vec::new());
        for item in table.iter()? {
            let (key, stored) = item?;
            let (version, lease, seconds, value) = stored.value();
            leases.keep(now, key.value(), lease, seconds);
            let key = key.value().to_owned();
            all.push(Applied::Put { key, value: value.to_vec(), version });
        }
        drop(table);
        (self.leases, self.database) = (leases, Some(database));
        self.sink.reset(all);
        Ok(())
    }

    fn exists(&self, key: &str) -> bool {
        let look = |database: &Database| -> Result<bool, redb::Error> {
            let read = database.begin_read()?;
            Ok(read.open_table(VALUES)?.get(key)?.is_some())
        };
        self.database.as_ref().is_some_and(|database| look(database).unwrap_or(false))
    }

    fn transact(
        &mut self,
        now: Instant,
        commits: &[Commit],
        outcome: &mut Outcome,
    ) -> Result<Vec<Result<(), CommitError>>, redb::Error> {
        if self.database.is_none() {
            self.reopen(now, false)?;
            tracing::info!("the store can be written again");
        }
        let database = self.database.as_ref().expect("it is open, or this has returned");
        let write: WriteTransaction = database.begin_write()?;
        let mut results = Vec::new();
        {
            let mut values = write.open_table(VALUES)?;
            let mut counters = write.open_table(COUNTERS)?;
            let mut next = counters.get(NEXT)?.map_or(1, |next| next.value());
            for (guards, changes) in commits {
                if hold(&values, guards)? {
                    for change in changes {
                        next += 1;
                        make(&mut values, change, next, outcome)?;
                    }
                    results.push(Ok(()));
                } else {
                    results.push(Err(CommitError::Conflict));
                }
            }
            counters.insert(NEXT, next)?;
        }
        write.commit()?;
        Ok(results)
    }
}

type Values<'a> = Table<'a, &'static str, (u64, u64, u32, &'static [u8])>;

fn hold(values: &Values<'_>, guards: &[Guard]) -> Result<bool, redb::Error> {
    for guard in guards {
        let held = match guard {
            Guard::Absent(key) => values.get(key.as_str())?.is_none(),
            Guard::Version(key, version) => {
                values.get(key.as_str())?.is_some_and(|stored| stored.value().0 == *version)
            }
        };
        if !held {
            return Ok(false);
        }
    }
    Ok(true)
}

fn make(
    values: &mut Values<'_>,
    change: &Change,
    version: u64,
    outcome: &mut Outcome,
) -> Result<(), redb::Error> {
    match change {
        Change::Put { key, value, lease } => {
            let (number, seconds) = match lease {
                Lease::None => (0, 0),
                Lease::New(seconds) => (version, *seconds),
                Lease::SameAs(other) => values.get(other.as_str())?.map_or((0, 0), |stored| {
                    let (_, number, seconds, _) = stored.value();
                    (number, seconds)
                }),
            };
            values.insert(key.as_str(), (version, number, seconds, value.as_slice()))?;
            outcome.leases.push((key.clone(), number, seconds));
            let (key, value) = (key.clone(), value.clone());
            outcome.applied.push(Applied::Put { key, value, version });
        }
        Change::Delete(key) => {
            if values.remove(key.as_str())?.is_some() {
                outcome.gone(key);
            }
        }
        Change::DeleteBelow(prefix) => {
            let mut gone = Vec::new();
            for item in values.range(prefix.as_str()..)? {
                let key = item?.0.value().to_owned();
                if !key.starts_with(prefix) {
                    break;
                }
                gone.push(key);
            }
            for key in gone {
                values.remove(key.as_str())?;
                outcome.gone(&key);
            }
        }
    }
    Ok(())
}

impl Outcome {
    fn gone(&mut self, key: &str) {
        self.leases.push((key.to_owned(), 0, 0));
        self.applied.push(Applied::Gone(key.to_owned()));
    }
}

/// The leases, in memory.
#[derive(Debug, Default)]
struct Leases {
    running: HashMap<u64, Running>,
    of: HashMap<String, u64>,
}

#[derive(Debug)]
struct Running {
    seconds: u32,
    until: Instant,
    keys: BTreeSet<String>,
}

impl Leases {
    fn keep(&mut self, now: Instant, key: &str, lease: u64, seconds: u32) {
        self.forget(key);
        if lease == 0 {
            return;
        }
        let until = now + Duration::from_secs(seconds.into());
        let new = || Running { seconds, until, keys: BTreeSet::new() };
        self.running.entry(lease).or_insert_with(new).keys.insert(key.to_owned());
        self.of.insert(key.to_owned(), lease);
    }

    fn forget(&mut self, key: &str) {
        let Some(lease) = self.of.remove(key) else { return };
        if let Some(running) = self.running.get_mut(&lease) {
            running.keys.remove(key);
            if running.keys.is_empty() {
                self.running.remove(&lease);
            }
        }
    }

    fn renew(&mut self, now: Instant, key: &str) -> bool {
        let running = self.of.get(key).and_then(|lease| self.running.get_mut(lease));
        if let Some(running) = running {
            running.until = now + Duration::from_secs(running.seconds.into());
            return true;
        }
        false
    }

    fn lapsed(&self, now: Instant) -> Vec<String> {
        let over = self.running.values().filter(|running| running.until <= now);
        over.flat_map(|running| running.keys.iter().cloned()).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::atomic::{AtomicBool, Ordering};

    use parking_lot::Mutex;
    use redb::StorageBackend;
    use redb::backends::InMemoryBackend;

    use super::*;

    /// A file that outlives the database, on a disk that may be full.
    #[derive(Debug, Default)]
    struct Disk {
        file: InMemoryBackend,
        full: AtomicBool,
    }

    #[derive(Debug)]
    struct File(Arc<Disk>);

    impl StorageBackend for File {
        fn len(&self) -> io::Result<u64> {
            self.0.file.len()
        }

        fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
            self.0.file.read(offset, out)
        }

        fn set_len(&self, len: u64) -> io::Result<()> {
            self.0.file.set_len(len)
        }

        fn sync_data(&self) -> io::Result<()> {
            self.0.file.sync_data()
        }

        fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
            if self.0.full.load(Ordering::Relaxed) {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.0.file.write(offset, data)
        }
    }

    #[derive(Default)]
    struct Seen(Mutex<BTreeSet<String>>);

    impl Sink for Seen {
        fn apply(&self, changes: Vec<Applied>) {
            for change in changes {
                match change {
                    Applied::Put { key, .. } => drop(self.0.lock().insert(key)),
                    Applied::Gone(key) => drop(self.0.lock().remove(&key)),
                }
            }
        }

        fn reset(&self, all: Vec<Applied>) {
            self.0.lock().clear();
            self.apply(all);
        }
    }

    fn put(key: &str, lease: Lease) -> Commit {
        (Vec::new(), vec![Change::Put { key: key.to_owned(), value: vec![1], lease }])
    }

    fn keeper(now: Instant) -> (Keeper, Arc<Disk>, Arc<Seen>) {
        let (disk, seen): (Arc<Disk>, Arc<Seen>) = Default::default();
        let file = Arc::clone(&disk);
        let open = move |_| Ok(Database::builder().create_with_backend(File(Arc::clone(&file)))?);
        let sink: Arc<dyn Sink> = Arc::clone(&seen) as Arc<dyn Sink>;
        (Keeper::open(now, Box::new(open), sink).expect("an empty disk"), disk, seen)
    }

    /// The simulation showed that redb refuses everything after its first failure: names could be
    /// neither made nor renewed until somebody started the daemon again.
    #[test]
    fn a_disk_that_was_full_is_got_over() {
        let now = Instant::now();
        let (mut keeper, disk, seen) = keeper(now);
        assert_eq!(keeper.commit(now, &[put("a", Lease::None)]), [Ok(())]);
        disk.full.store(true, Ordering::Relaxed);
        for _ in 0..3 {
            let refused = keeper.commit(now, &[put("b", Lease::None)]);
            assert!(matches!(refused[..], [Err(CommitError::Unavailable(_))]), "{refused:?}");
            assert!(!keeper.works() && seen.0.lock().contains("a"));
        }
        disk.full.store(false, Ordering::Relaxed);
        assert_eq!(keeper.commit(now, &[put("c", Lease::None)]), [Ok(())]);
        assert!(keeper.works());
        assert!(seen.0.lock().contains("a") && seen.0.lock().contains("c"));
    }

    #[test]
    fn a_lease_ends_what_it_keeps_and_a_renewal_in_time_saves_it() {
        let now = Instant::now();
        let (mut keeper, _disk, seen) = keeper(now);
        let second = Duration::from_secs(1);
        keeper.commit(now, &[put("a", Lease::New(2)), put("b", Lease::New(2))]);
        assert_eq!(keeper.next_lapse(), Some(now + 2 * second));
        assert!(keeper.renew(now + second, "a"));
        keeper.sweep(now + 2 * second);
        assert_eq!(seen.0.lock().iter().collect::<Vec<_>>(), ["a"]);
        assert!(!keeper.renew(now + 2 * second, "b"), "it is gone");
        keeper.sweep(now + 3 * second);
        assert!(seen.0.lock().is_empty() && keeper.next_lapse().is_none());
    }
}
