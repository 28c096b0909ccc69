//! The embedded store: one file, made for a single daemon.
//!
//! redb keeps it: copy-on-write pages and a commit that is durable or did not happen, so a kill at
//! any moment loses nothing that was answered. One thread writes; what waits while it does goes
//! into the next commit together (one fsync for many). Leases run in memory: after a restart each
//! begins anew, because the daemon's own absence must not take anybody's name away.

use std::collections::{BTreeSet, HashMap};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use redb::{Database, ReadableDatabase, ReadableTable, Table, TableDefinition, WriteTransaction};
use tokio::sync::oneshot;

use super::{Applied, Change, CommitError, Guard, Later, Lease, Sink, Store};

/// Key to (version, lease number, lease seconds, value). Lease number 0: none.
const VALUES: TableDefinition<&str, (u64, u64, u32, &[u8])> = TableDefinition::new("values/1");
const COUNTERS: TableDefinition<&str, u64> = TableDefinition::new("counters/1");
const NEXT: &str = "next version";

/// Commits that are put into one transaction at most.
const TOGETHER_MAX: usize = 512;
/// Commits that may wait.
const QUEUE_MAX: usize = 4_096;
/// Bytes of the file kept in memory: look-ups do not come here.
const CACHE: usize = 16 << 20;
/// How often leases are looked at.
const SWEEP: Duration = Duration::from_millis(250);

/// The embedded store.
#[derive(Debug)]
pub struct Embedded {
    jobs: Sender<Job>,
    path: String,
    works: Arc<AtomicBool>,
}

enum Job {
    Commit(Vec<Guard>, Vec<Change>, Answer<()>),
    Renew(String, Answer<bool>),
}

type Answer<T> = oneshot::Sender<Result<T, CommitError>>;

impl Embedded {
    /// Opens the file at `path`, or makes it, and tells the sink all that is in it.
    pub fn open(path: &Path, sink: Arc<dyn Sink>) -> anyhow::Result<Embedded> {
        if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            std::fs::create_dir_all(folder)?;
        }
        let database = Database::builder()
            .set_cache_size(CACHE)
            .create(path)
            .map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
        set_private(path)?;
        let mut leases = Leases::default();
        load(&database, &*sink, &mut leases)?;
        let (jobs, inbox) = crossbeam_channel::bounded(QUEUE_MAX);
        let works = Arc::new(AtomicBool::new(true));
        let writer = Writer { database, sink, leases, works: Arc::clone(&works) };
        std::thread::Builder::new().name("store".into()).spawn(move || writer.run(&inbox))?;
        Ok(Embedded { jobs, path: path.display().to_string(), works })
    }

    fn submit<T: Send + 'static>(
        &self,
        job: impl FnOnce(Answer<T>) -> Job,
    ) -> Later<Result<T, CommitError>> {
        let (answer, answered) = oneshot::channel();
        let sent = self.jobs.try_send(job(answer));
        Box::pin(async move {
            let gone = |what: &str| CommitError::Unavailable(what.to_owned());
            sent.map_err(|_| gone("too many commits wait"))?;
            answered.await.map_err(|_| gone("the store's thread has ended"))?
        })
    }
}

impl Store for Embedded {
    fn commit(&self, guards: Vec<Guard>, changes: Vec<Change>) -> Later<Result<(), CommitError>> {
        self.submit(|answer| Job::Commit(guards, changes, answer))
    }

    fn renew(&self, key: String) -> Later<Result<bool, CommitError>> {
        self.submit(|answer| Job::Renew(key, answer))
    }

    fn health(&self) -> (String, bool) {
        (format!("embedded {}", self.path), self.works.load(Ordering::Relaxed))
    }
}

fn set_private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::PermissionsExt;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
}

fn load(database: &Database, sink: &dyn Sink, leases: &mut Leases) -> anyhow::Result<()> {
    let write = database.begin_write()?;
    write.open_table(VALUES)?;
    write.open_table(COUNTERS)?;
    write.commit()?;
    sink.reset();
    let read = database.begin_read()?;
    let table = read.open_table(VALUES)?;
    let mut batch = Vec::new();
    for item in table.iter()? {
        let (key, stored) = item?;
        let (version, lease, seconds, value) = stored.value();
        leases.keep(key.value(), lease, seconds);
        let key = key.value().to_owned();
        batch.push(Applied::Put { key, value: value.to_vec(), version });
        if batch.len() == 1_024 {
            sink.apply(std::mem::take(&mut batch));
        }
    }
    sink.apply(batch);
    Ok(())
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
    fn keep(&mut self, key: &str, lease: u64, seconds: u32) {
        self.forget(key);
        if lease == 0 {
            return;
        }
        let until = Instant::now() + Duration::from_secs(seconds.into());
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

    fn renew(&mut self, key: &str) -> bool {
        let running = self.of.get(key).and_then(|lease| self.running.get_mut(lease));
        if let Some(running) = running {
            running.until = Instant::now() + Duration::from_secs(running.seconds.into());
            return true;
        }
        false
    }

    fn lapsed(&self) -> Vec<String> {
        let now = Instant::now();
        let over = self.running.values().filter(|running| running.until <= now);
        over.flat_map(|running| running.keys.iter().cloned()).collect()
    }
}

/// The thread that writes.
struct Writer {
    database: Database,
    sink: Arc<dyn Sink>,
    leases: Leases,
    works: Arc<AtomicBool>,
}

/// What a transaction will have done, once it is durable.
#[derive(Default)]
struct Outcome {
    applied: Vec<Applied>,
    leases: Vec<(String, u64, u32)>,
}

impl Writer {
    fn run(mut self, inbox: &Receiver<Job>) {
        let mut swept = Instant::now();
        loop {
            let first = match inbox.recv_timeout(SWEEP) {
                Ok(job) => Some(job),
                Err(RecvTimeoutError::Timeout) => None,
                Err(RecvTimeoutError::Disconnected) => return,
            };
            let mut jobs: Vec<Job> = first.into_iter().collect();
            jobs.extend(inbox.try_iter().take(TOGETHER_MAX - jobs.len()));
            if swept.elapsed() >= SWEEP {
                swept = Instant::now();
                let lapsed = self.leases.lapsed();
                if !lapsed.is_empty() {
                    tracing::info!(names = lapsed.len(), first = lapsed[0], "leases ran out");
                    let changes = lapsed.into_iter().map(Change::Delete).collect();
                    jobs.push(Job::Commit(Vec::new(), changes, oneshot::channel().0));
                }
            }
            let mut commits = Vec::new();
            for job in jobs {
                match job {
                    Job::Commit(guards, changes, answer) => {
                        commits.push((guards, changes, answer));
                    }
                    Job::Renew(key, answer) => {
                        let known = self.leases.renew(&key) || self.exists(&key);
                        let _ = answer.send(Ok(known));
                    }
                }
            }
            if !commits.is_empty() {
                self.commit(commits);
            }
        }
    }

    fn exists(&self, key: &str) -> bool {
        let look = || -> Result<bool, redb::Error> {
            let read = self.database.begin_read()?;
            Ok(read.open_table(VALUES)?.get(key)?.is_some())
        };
        look().unwrap_or(false)
    }

    /// All of them in one transaction; each under its own guards.
    fn commit(&mut self, commits: Vec<(Vec<Guard>, Vec<Change>, Answer<()>)>) {
        let mut outcome = Outcome::default();
        let mut answers = Vec::new();
        let done = self.transact(&commits, &mut outcome);
        self.works.store(done.is_ok(), Ordering::Relaxed);
        let results = match done {
            Ok(results) => results,
            Err(error) => {
                tracing::error!(%error, "the store cannot be written");
                let failed = CommitError::Unavailable(error.to_string());
                vec![Err(failed); commits.len()]
            }
        };
        for ((_, _, answer), result) in commits.into_iter().zip(&results) {
            answers.push((answer, result.clone()));
        }
        if results.iter().any(Result::is_ok) {
            for (key, lease, seconds) in outcome.leases {
                self.leases.keep(&key, lease, seconds);
            }
            self.sink.apply(outcome.applied);
        }
        for (answer, result) in answers {
            let _ = answer.send(result);
        }
    }

    fn transact(
        &self,
        commits: &[(Vec<Guard>, Vec<Change>, Answer<()>)],
        outcome: &mut Outcome,
    ) -> Result<Vec<Result<(), CommitError>>, redb::Error> {
        let write: WriteTransaction = self.database.begin_write()?;
        let mut results = Vec::new();
        {
            let mut values = write.open_table(VALUES)?;
            let mut counters = write.open_table(COUNTERS)?;
            let mut next = counters.get(NEXT)?.map_or(1, |next| next.value());
            for (guards, changes, _) in commits {
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
