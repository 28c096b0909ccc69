//! A disk under a directory's store: it may be full, and a loss of power may take away what was
//! written since it was last told to keep everything.

use std::collections::BTreeMap;
use std::io::{self, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard};

use redb::StorageBackend;

use crate::random::Random;

/// The unit that is kept or lost as a whole.
const PAGE: usize = 4_096;

/// The disk.
#[derive(Debug, Default)]
pub struct Disk(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    bytes: Vec<u8>,
    /// Pages as they were when everything was kept, where they are others now.
    kept: BTreeMap<usize, Vec<u8>>,
    full: Option<Full>,
}

/// How a disk is full.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum Full {
    /// No file grows.
    Growth,
    /// Nothing is written, as where files are never written in place.
    All,
}

impl Disk {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().expect("no panic holds it")
    }

    pub fn fill(&self, full: Option<Full>) {
        self.state().full = full;
    }

    /// Each page that was written since may be lost.
    pub fn lose_power(&self, random: &mut Random) {
        let mut state = self.state();
        for (page, old) in std::mem::take(&mut state.kept) {
            let at = page * PAGE;
            let length = old.len().min(state.bytes.len().saturating_sub(at));
            if random.one_in(2) {
                state.bytes[at..at + length].copy_from_slice(&old[..length]);
            }
        }
    }
}

/// The store's file on it.
#[derive(Debug)]
pub struct File(pub Arc<Disk>);

fn no_room() -> io::Error {
    ErrorKind::StorageFull.into()
}

impl StorageBackend for File {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.state().bytes.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let state = self.0.state();
        let from = usize::try_from(offset).expect("a small file");
        let bytes = state.bytes.get(from..from + out.len());
        out.copy_from_slice(bytes.ok_or(ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut state = self.0.state();
        let len = usize::try_from(len).expect("a small file");
        if state.full.is_some() && len > state.bytes.len() {
            return Err(no_room());
        }
        state.bytes.resize(len, 0);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        self.0.state().kept.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut guard = self.0.state();
        let state = &mut *guard;
        if state.full == Some(Full::All) {
            return Err(no_room());
        }
        let from = usize::try_from(offset).expect("a small file");
        let until = from + data.len();
        if until > state.bytes.len() {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        for page in from / PAGE..until.div_ceil(PAGE) {
            let end = ((page + 1) * PAGE).min(state.bytes.len());
            let old = &state.bytes[page * PAGE..end];
            state.kept.entry(page).or_insert_with(|| old.to_vec());
        }
        state.bytes[from..until].copy_from_slice(data);
        Ok(())
    }
}
