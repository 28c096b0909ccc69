//! The embedded store: one file, made for a single daemon.
//!
//! It is kept by redb, with copy-on-write pages and commits that are durable or have not happened.
//! So a kill at any moment loses nothing that was answered. One thread writes; changes that wait
//! while it does so go into the next commit together (one fsync for many). Leases run in memory:
//! after a restart each one begins anew, because nobody should lose a name while the daemon was
//! away. What the thread does is in `keeper`.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender};
use redb::Database;
use tokio::sync::oneshot;

use super::keeper::Keeper;
use super::{Change, CommitError, Guard, Later, Sink, Store};

/// The most commits in one transaction.
const TOGETHER_MAX: usize = 512;
/// The most commits that may wait.
const QUEUE_MAX: usize = 4_096;
/// Bytes of the file that are kept in memory. They are few, because look-ups do not read the file.
const CACHE: usize = 16 << 20;
/// How often leases are checked.
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
        let file = path.to_owned();
        let open = move |first: bool| {
            let mut builder = Database::builder();
            builder.set_cache_size(CACHE);
            Ok(if first { builder.create(&file)? } else { builder.open(&file)? })
        };
        let keeper = Keeper::open(Instant::now(), Box::new(open), sink)
            .map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))?;
        set_private(path)?;
        let (jobs, inbox) = crossbeam_channel::bounded(QUEUE_MAX);
        let works = Arc::new(AtomicBool::new(true));
        let writer = Writer { keeper, works: Arc::clone(&works) };
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

/// The thread that writes.
struct Writer {
    keeper: Keeper,
    works: Arc<AtomicBool>,
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
            let now = Instant::now();
            if now - swept >= SWEEP {
                swept = now;
                self.keeper.sweep(now);
            }
            let (mut commits, mut answers) = (Vec::new(), Vec::new());
            for job in jobs {
                match job {
                    Job::Commit(guards, changes, answer) => {
                        commits.push((guards, changes));
                        answers.push(answer);
                    }
                    Job::Renew(key, answer) => {
                        let _ = answer.send(Ok(self.keeper.renew(now, &key)));
                    }
                }
            }
            if !commits.is_empty() {
                let results = self.keeper.commit(now, &commits);
                for (answer, result) in answers.into_iter().zip(results) {
                    let _ = answer.send(result);
                }
            }
            self.works.store(self.keeper.works(), Ordering::Relaxed);
        }
    }
}
