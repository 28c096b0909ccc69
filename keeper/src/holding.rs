//! What a daemon lends to its keeper while it runs, and what it finds there when it begins.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use tracing::warn;

use crate::lease::{Held, Lease};

/// The number under which the socket that the daemon listens on is held.
const DOOR: u64 = 0;

/// Something whose descriptors the keeper holds as well.
pub trait Lent: Send + Sync {
    /// They are found in this order; three at most.
    fn descriptors(&self) -> Vec<BorrowedFd<'_>>;
}

/// How the keeper starts the next daemon.
#[derive(Clone, Debug)]
pub struct Next {
    /// The daemon's program.
    pub program: PathBuf,
    /// What it is started with.
    pub arguments: Vec<OsString>,
}

impl Next {
    /// The same as this process.
    ///
    /// # Errors
    /// Its own file is not known.
    pub fn like_this_one() -> io::Result<Next> {
        let arguments = std::env::args_os().skip(1).collect();
        Ok(Next { program: std::env::current_exe()?, arguments })
    }
}

/// What a daemon that died has left.
#[derive(Debug, Default)]
pub struct Left {
    /// The socket that it listened on.
    pub door: Option<OwnedFd>,
    /// The rest, by number.
    pub held: Vec<Held>,
}

/// The keeper, and all that it holds for this daemon.
#[derive(Debug)]
pub struct Holding {
    dir: PathBuf,
    next: Next,
    inner: Mutex<Inner>,
}

struct Inner {
    /// None while no keeper can be had: then sessions end with the daemon.
    lease: Option<Lease>,
    free: u64,
    door: Option<OwnedFd>,
    lent: BTreeMap<u64, Weak<dyn Lent>>,
}

impl std::fmt::Debug for Inner {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Inner").field("lease", &self.lease).finish_non_exhaustive()
    }
}

impl Holding {
    /// Takes over from a daemon that died, or starts a keeper.
    ///
    /// # Errors
    /// There is no keeper and none can be started, or the one that is there does not answer.
    pub fn begin(dir: &Path, next: Next) -> io::Result<(Arc<Holding>, Left)> {
        let (lease, held) = match Lease::take(dir)? {
            Some((lease, held)) => (lease, held),
            None => (Lease::start(dir, &next.program, &next.arguments)?, Vec::new()),
        };
        let free = held.iter().map(|(number, _)| number + 1).max().unwrap_or(DOOR + 1);
        let mut left = Left::default();
        for (number, mut descriptors) in held {
            match number {
                DOOR => left.door = descriptors.pop(),
                _ => left.held.push((number, descriptors)),
            }
        }
        let inner = Inner { lease: Some(lease), free, door: None, lent: BTreeMap::new() };
        let holding = Arc::new(Holding { dir: dir.to_owned(), next, inner: Mutex::new(inner) });
        holding.watch();
        Ok((holding, left))
    }

    /// Sees the keeper end, and starts another one, which gets everything anew.
    fn watch(self: &Arc<Holding>) {
        let inner = self.inner.lock();
        let holding = Arc::downgrade(self);
        let watched = inner.lease.as_ref().map(|lease| {
            lease.watch(move || {
                if let Some(holding) = holding.upgrade() {
                    holding.start_again();
                }
            })
        });
        if let Some(Err(error)) = watched {
            warn!(%error, "the keeper is not watched");
        }
    }

    fn start_again(self: &Arc<Holding>) {
        // Dropped behind the lock, which a keepsake takes.
        let mut alive = Vec::new();
        let mut inner = self.inner.lock();
        if inner.lease.take().is_none() {
            return;
        }
        warn!("the keeper has ended; another one is started");
        let lease = Lease::start(&self.dir, &self.next.program, &self.next.arguments);
        let put = lease.and_then(|lease| {
            if let Some(door) = &inner.door {
                lease.hold(DOOR, &[door.as_fd()])?;
            }
            for (number, lent) in &inner.lent {
                if let Some(lent) = lent.upgrade() {
                    lease.hold(*number, &lent.descriptors())?;
                    alive.push(lent);
                }
            }
            Ok(lease)
        });
        match put {
            Ok(lease) => {
                inner.lease = Some(lease);
                drop(inner);
                self.watch();
            }
            Err(error) => warn!(%error, "no keeper: sessions end if this process is killed"),
        }
    }

    /// The keeper holds the socket that the daemon listens on.
    ///
    /// # Errors
    /// It is gone, or there is no descriptor left.
    pub fn hold_door(&self, door: OwnedFd) -> io::Result<()> {
        let mut inner = self.inner.lock();
        let door = inner.door.insert(door).try_clone()?;
        inner.lease.as_ref().map_or(Ok(()), |lease| lease.hold(DOOR, &[door.as_fd()]))
    }

    /// The daemon ends in order, and the keeper with it.
    pub fn end(&self) {
        if let Some(lease) = self.inner.lock().lease.take() {
            let _gone_already = lease.end();
        }
    }

    /// Has the keeper hold what `lend` makes of its keepsake.
    pub fn hold<L: Lent + 'static>(
        self: &Arc<Holding>,
        lend: impl FnOnce(Keepsake) -> L,
    ) -> Arc<L> {
        let number = {
            let mut inner = self.inner.lock();
            let number = inner.free;
            inner.free += 1;
            number
        };
        let lent = self.keep_on(number, lend);
        let inner = self.inner.lock();
        let held = inner.lease.as_ref().map(|lease| lease.hold(number, &lent.descriptors()));
        drop(inner);
        match held {
            // The keeper is gone: the next one is given everything.
            Some(Err(error)) if error.kind() == io::ErrorKind::BrokenPipe => {}
            Some(Err(error)) => warn!(%error, "a session will end if this process is killed"),
            Some(Ok(())) | None => {}
        }
        lent
    }

    /// The same of what the keeper holds already, for the daemon before.
    pub fn keep_on<L: Lent + 'static>(
        self: &Arc<Holding>,
        number: u64,
        lend: impl FnOnce(Keepsake) -> L,
    ) -> Arc<L> {
        let lent = Arc::new(lend(Keepsake { holding: Arc::clone(self), number }));
        let weak: Weak<dyn Lent> = Arc::<L>::downgrade(&lent);
        self.inner.lock().lent.insert(number, weak);
        lent
    }
}

/// Has the keeper let go when it is dropped.
#[derive(Debug)]
pub struct Keepsake {
    holding: Arc<Holding>,
    number: u64,
}

impl Drop for Keepsake {
    fn drop(&mut self) {
        let mut inner = self.holding.inner.lock();
        inner.lent.remove(&self.number);
        if let Some(lease) = &inner.lease {
            let _gone_already = lease.let_go(self.number);
        }
    }
}
