//! Bytes that wait outside a session's buffers, in order: in memory at first, then in a file.
//!
//! The file has no name (`O_TMPFILE`), so nobody finds it, and it is gone with the process, however
//! that ends. Each block in it is sealed with a key that is made for this spool and lies nowhere
//! but in its memory; the number of the block is its nonce. All spools of a daemon share what may
//! be in them ([`Room`]).

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use aws_lc_rs::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use aws_lc_rs::rand::{SecureRandom, SystemRandom};

/// A block of a spool, in memory and in the file.
pub const BLOCK: usize = 64 << 10;
/// Blocks that are kept in memory; what comes behind them goes into the file. Most outages are
/// short, and most services slow.
const BLOCKS_IN_MEMORY: usize = 4;
/// A place in the file: a block and its seal.
const SLOT: u64 = BLOCK as u64 + 16;

/// What all spools of a daemon may hold together.
#[derive(Debug)]
pub struct Room {
    dir: PathBuf,
    used: AtomicU64,
    most: u64,
}

impl Room {
    /// At most so many bytes, in files of this directory.
    #[must_use]
    pub fn new(dir: &Path, most: u64) -> Arc<Room> {
        Arc::new(Room { dir: dir.to_owned(), used: AtomicU64::new(0), most })
    }

    /// Bytes held, and how many there may be.
    #[must_use]
    pub fn used(&self) -> (u64, u64) {
        (self.used.load(Ordering::Relaxed), self.most)
    }

    /// Where the files are.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Bytes that are left.
    fn left(&self) -> u64 {
        let (used, most) = self.used();
        most.saturating_sub(used)
    }
}

/// What a spool tells of itself.
#[derive(Debug, Default)]
pub struct View {
    /// Bytes in it.
    pub bytes: AtomicU64,
    /// It is full, or its file cannot be written: the service waits.
    pub full: AtomicBool,
}

/// The spool of one session.
pub struct Spool {
    room: Arc<Room>,
    most: u64,
    view: Arc<View>,
    /// What is given next; its first `given` bytes are.
    front: Vec<u8>,
    given: usize,
    /// Blocks in the file: their numbers and places.
    filed: VecDeque<(u64, u64)>,
    /// What came last.
    back: VecDeque<Vec<u8>>,
    disk: Option<Disk>,
    /// The file could not be written.
    failed: bool,
}

/// The file of a spool.
struct Disk {
    file: File,
    key: LessSafeKey,
    /// The number of the next block; none is used twice.
    next: u64,
    /// Places that are free, below `slots`.
    free: Vec<u64>,
    slots: u64,
}

impl Disk {
    fn new(dir: &Path) -> io::Result<Disk> {
        let mut secret = [0; 32];
        let failed = |_| io::Error::other("the system's randomness fails");
        SystemRandom::new().fill(&mut secret).map_err(failed)?;
        let key = UnboundKey::new(&AES_256_GCM, &secret).map_err(failed)?;
        let file = tempfile::tempfile_in(dir)?;
        let key = LessSafeKey::new(key);
        Ok(Disk { file, key, next: 0, free: Vec::new(), slots: 0 })
    }

    fn nonce(number: u64) -> Nonce {
        let mut nonce = [0; 12];
        nonce[4..].copy_from_slice(&number.to_be_bytes());
        Nonce::assume_unique_for_key(nonce)
    }

    /// Puts a block by; its number and its place.
    fn put(&mut self, mut block: Vec<u8>) -> io::Result<(u64, u64)> {
        let number = self.next;
        self.next += 1;
        let sealed =
            self.key.seal_in_place_append_tag(Disk::nonce(number), Aad::empty(), &mut block);
        sealed.map_err(|_| io::Error::other("a block cannot be sealed"))?;
        let slot = self.free.pop().unwrap_or(self.slots);
        if let Err(error) = self.file.write_all_at(&block, slot * SLOT) {
            self.free.extend((slot < self.slots).then_some(slot));
            return Err(error);
        }
        self.slots = self.slots.max(slot + 1);
        Ok((number, slot))
    }

    /// Takes a block back.
    fn take(&mut self, (number, slot): (u64, u64)) -> io::Result<Vec<u8>> {
        let mut block = vec![0; SLOT as usize];
        self.file.read_exact_at(&mut block, slot * SLOT)?;
        let opened = self.key.open_in_place(Disk::nonce(number), Aad::empty(), &mut block);
        let length = opened.map_err(|_| io::Error::other("a block was altered"))?.len();
        block.truncate(length);
        self.free.push(slot);
        Ok(block)
    }
}

impl std::fmt::Debug for Spool {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Spool").field("bytes", &self.len()).finish_non_exhaustive()
    }
}

impl Spool {
    /// An empty one for at most `most` bytes.
    #[must_use]
    pub fn new(room: &Arc<Room>, most: u64) -> Spool {
        Spool {
            room: Arc::clone(room),
            most,
            view: Arc::default(),
            front: Vec::new(),
            given: 0,
            filed: VecDeque::new(),
            back: VecDeque::new(),
            disk: None,
            failed: false,
        }
    }

    /// What it tells of itself.
    #[must_use]
    pub fn view(&self) -> Arc<View> {
        Arc::clone(&self.view)
    }

    /// Bytes in it.
    #[must_use]
    pub fn len(&self) -> u64 {
        self.view.bytes.load(Ordering::Relaxed)
    }

    /// There is nothing in it.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that can be put in now, by its own bound and that of all spools.
    #[must_use]
    pub fn room(&self) -> u64 {
        if self.failed { 0 } else { self.most.saturating_sub(self.len()).min(self.room.left()) }
    }

    /// Memory that it takes.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.front.capacity() + self.back.iter().map(Vec::capacity).sum::<usize>()
    }

    /// It is full, or not: for whoever looks.
    pub fn say_full(&self, full: bool) {
        self.view.full.store(full, Ordering::Relaxed);
    }

    /// Has `read` fill room for at most `max` bytes; how many came. 0 is passed on.
    ///
    /// # Errors
    /// Those of `read`.
    pub fn fill(
        &mut self,
        max: u64,
        read: impl FnOnce(&mut [IoSliceMut<'_>]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        let room = usize::try_from(self.room().min(max)).unwrap_or(usize::MAX);
        if room == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        // What is small joins what came before it.
        let unfilled = self.back.pop_back_if(|block| block.len() < BLOCK);
        let mut block = unfilled.unwrap_or_default();
        let most = room.min(BLOCK - block.len());
        let held = block.len();
        block.resize(held + most, 0);
        let count = read(&mut [IoSliceMut::new(&mut block[held..])]);
        block.truncate(held + *count.as_ref().unwrap_or(&0));
        if !block.is_empty() {
            block.shrink_to_fit();
            self.back.push_back(block);
        }
        self.grow(*count.as_ref().unwrap_or(&0));
        self.put_by();
        count
    }

    /// Gives what came first to `write`, at most `max` bytes of it; how many it took.
    ///
    /// # Errors
    /// Those of `write`, and those of the file.
    pub fn give(
        &mut self,
        max: u64,
        write: impl FnOnce(&[IoSlice<'_>]) -> io::Result<usize>,
    ) -> io::Result<usize> {
        if self.given == self.front.len() {
            self.given = 0;
            self.front = match (self.filed.pop_front(), &mut self.disk) {
                (Some(place), Some(disk)) => disk.take(place)?,
                _ => self.back.pop_front().unwrap_or_default(),
            };
        }
        let rest = &self.front[self.given..];
        let rest = &rest[..rest.len().min(usize::try_from(max).unwrap_or(usize::MAX))];
        let count = if rest.is_empty() { 0 } else { write(&[IoSlice::new(rest)])? };
        self.given += count;
        self.shrink(count);
        Ok(count)
    }

    fn grow(&self, count: usize) {
        self.view.bytes.fetch_add(count as u64, Ordering::Relaxed);
        self.room.used.fetch_add(count as u64, Ordering::Relaxed);
    }

    fn shrink(&mut self, count: usize) {
        self.view.bytes.fetch_sub(count as u64, Ordering::Relaxed);
        self.room.used.fetch_sub(count as u64, Ordering::Relaxed);
        if self.is_empty() {
            // The file's space is given back.
            (self.front, self.given, self.disk) = (Vec::new(), 0, None);
        }
    }

    /// What does not fit into memory goes into the file. A file that cannot be written makes the
    /// spool a full one.
    fn put_by(&mut self) {
        while self.back.len() > BLOCKS_IN_MEMORY {
            let placed = match &mut self.disk {
                Some(disk) => Ok(disk),
                none => Disk::new(&self.room.dir).map(|disk| none.insert(disk)),
            };
            let Some(block) = self.back.front() else { return };
            match placed.and_then(|disk| disk.put(block.clone())) {
                Ok(place) => {
                    self.filed.push_back(place);
                    self.back.pop_front();
                }
                Err(error) => {
                    let dir = self.room.dir.display();
                    tracing::warn!(%error, %dir, "a spool cannot be written: its service waits");
                    self.failed = true;
                    return;
                }
            }
        }
    }
}

impl Drop for Spool {
    fn drop(&mut self) {
        self.room.used.fetch_sub(self.len(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(from: u64, count: usize) -> Vec<u8> {
        (from..from + count as u64).map(|at| (at * 7 + at / 251) as u8).collect()
    }

    fn put(spool: &mut Spool, bytes: &[u8]) -> usize {
        let filled = spool.fill(u64::MAX, |slices| {
            let count = slices[0].len().min(bytes.len());
            slices[0][..count].copy_from_slice(&bytes[..count]);
            Ok(count)
        });
        filled.unwrap_or(0)
    }

    fn get(spool: &mut Spool, max: usize) -> Vec<u8> {
        let mut got = Vec::new();
        let given = spool.give(max as u64, |slices| {
            got.extend_from_slice(&slices[0]);
            Ok(slices[0].len())
        });
        assert_eq!(given.unwrap(), got.len());
        got
    }

    #[test]
    fn bytes_come_out_as_they_went_in_however_they_are_taken() {
        let dir = tempfile::tempdir().unwrap();
        let room = Room::new(dir.path(), 1 << 30);
        let mut spool = Spool::new(&room, 64 << 20);
        let (mut into, mut out) = (0, 0);
        for (round, size) in
            [70_000, 3, 65_536, 1, 40_000, 9_999].iter().cycle().enumerate().take(400)
        {
            into += put(&mut spool, &bytes(into, *size)) as u64;
            assert_eq!(spool.len(), into - out);
            assert!(spool.memory() <= (BLOCKS_IN_MEMORY + 2) * BLOCK + BLOCK);
            if round % 3 == 0 {
                let got = get(&mut spool, 50_000);
                assert_eq!(got, bytes(out, got.len()), "at {out}");
                out += got.len() as u64;
            }
        }
        assert!(spool.disk.as_ref().is_some_and(|disk| disk.slots > 20), "a file is in use");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "and has no name");
        while !spool.is_empty() {
            let got = get(&mut spool, usize::MAX);
            assert_eq!(got, bytes(out, got.len()), "at {out}");
            out += got.len() as u64;
        }
        assert_eq!((out, room.used().0), (into, 0));
        assert!(spool.disk.is_none() && spool.memory() == 0, "all of it is given back");
    }

    #[test]
    fn the_file_shows_nothing_and_an_altered_block_is_no_block() {
        let dir = tempfile::tempdir().unwrap();
        let mut disk = Disk::new(dir.path()).unwrap();
        let place = disk.put(vec![b'x'; BLOCK]).unwrap();
        let mut stored = vec![0; SLOT as usize];
        disk.file.read_exact_at(&mut stored, 0).unwrap();
        assert!(!stored.windows(8).any(|eight| eight == [b'x'; 8]));
        disk.file.write_all_at(&[stored[100] ^ 1], 100).unwrap();
        assert!(disk.take(place).is_err());
    }

    #[test]
    fn neither_its_own_bound_nor_that_of_all_is_passed() {
        let dir = tempfile::tempdir().unwrap();
        let room = Room::new(dir.path(), 300_000);
        let (mut one, mut other) = (Spool::new(&room, 200_000), Spool::new(&room, 200_000));
        let fill = |spool: &mut Spool| while put(spool, &[1; BLOCK]) > 0 {};
        fill(&mut one);
        fill(&mut other);
        assert_eq!((one.len(), other.len(), room.used().0), (200_000, 100_000, 300_000));
        drop(one);
        fill(&mut other);
        assert_eq!((other.len(), room.used().0), (200_000, 200_000));
    }

    #[test]
    fn a_spool_without_a_place_for_its_file_is_full_with_its_memory() {
        let room = Room::new(Path::new("/nowhere"), 1 << 30);
        let mut spool = Spool::new(&room, 64 << 20);
        while put(&mut spool, &[1; BLOCK]) > 0 {}
        assert_eq!(spool.len(), (BLOCKS_IN_MEMORY as u64 + 1) * BLOCK as u64);
        assert_eq!(get(&mut spool, BLOCK).len(), BLOCK);
    }
}
