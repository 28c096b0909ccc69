//! What outlives a process that is killed: memory that another process holds as well, and byte
//! counts in it that are right at every instant.
//!
//! A SIGKILL takes effect when a system call returns. The bytes have moved by then, and a count
//! that the process keeps would not follow. So the kernel counts: `sendmmsg` and `recvmmsg` write
//! the number of bytes into the header that they were given, before they return. The headers lie in
//! this memory. There are two for each direction, each beside the position at which its call began;
//! one word says which is in use. So the position is, whenever the process dies, that of the header
//! in use plus what the kernel wrote there.
//!
//! The memory is a sealed memfd: one page with the counts and two small texts, behind it two rings,
//! and last a longer text. Of those only the pages in use exist. A byte at position `p` of its
//! stream lies at `p % ring`, so that no table of places can be torn.

pub mod ledger;
mod memory;

use std::io::{self, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};

use ledger::{Page, Text, Way, Word};
use memory::Memory;

/// The page with the counts and the texts.
const PAGE: usize = 4096;
/// What stands first in that page; the last byte is the version of what follows.
const MAGIC: u64 = u64::from_be_bytes(*b"stpkept\x02");
/// The version before had no longer text.
const MAGIC_BEFORE: u64 = u64::from_be_bytes(*b"stpkept\x01");
/// Where the text that never changes stands.
const FACE_AT: usize = 512;
/// Its length at most.
pub const FACE_MAX: usize = RECORDS_AT - FACE_AT;
/// Where the two places of the record are.
const RECORDS_AT: usize = 2048;
/// The length of a record at most.
pub const RECORD_MAX: usize = (PAGE - RECORDS_AT) / 2;
/// The length of the longer text at most, of which there are two places: a ticket of 15,000 bytes,
/// and a digest.
pub const NOTE_MAX: usize = 20 << 10;
/// The largest ring: far more than a session may hold.
const RING_MAX: u64 = 1 << 30;

/// A call that moves bytes: where its stream was, and the header in which the kernel counts.
#[repr(C)]
struct Slot {
    began: AtomicU64,
    message: libc::mmsghdr,
}

/// One direction of a socket.
#[repr(C)]
struct Lane {
    /// The slot of the last call.
    in_use: AtomicU32,
    slots: [Slot; 2],
}

#[repr(C)]
struct Head {
    magic: u64,
    up: u64,
    down: u64,
    /// Bytes read from the socket; bytes that the socket has taken.
    read: Lane,
    written: Lane,
    /// What lies below this position in the ring of the way down, and was not written to the
    /// socket, is there.
    held_until: AtomicU64,
    face: AtomicU32,
    /// The record in use: 0 none, 1 and 2 its place.
    record: AtomicU32,
    records: [AtomicU32; 2],
    /// Whether the process works for this socket at the moment.
    at_work: AtomicU32,
    /// When processes died over it.
    deaths: [AtomicU64; 3],
    /// As `record` and `records`, for the longer text.
    note: AtomicU32,
    notes: [AtomicU32; 2],
}

const _: () = assert!(size_of::<Head>() <= FACE_AT, "the texts lie behind the counts");

/// The memory of one socket, and its counts.
#[derive(Debug)]
pub struct Kept {
    file: OwnedFd,
    memory: Memory,
    up: usize,
    down: usize,
    /// Room for the longer text at each of its places.
    note: usize,
    /// Where both streams were when the rings were given back last.
    given_back: [AtomicU64; 2],
}

impl Kept {
    /// Memory for a socket of which at most `up` bytes that were read, and `down` bytes that it has
    /// not taken, are kept.
    ///
    /// # Errors
    /// When the system has no memory or no descriptor left.
    pub fn new(up: usize, down: usize) -> io::Result<Kept> {
        let (up, down) = (up.next_multiple_of(PAGE), down.next_multiple_of(PAGE));
        let length = PAGE + up + down + 2 * NOTE_MAX;
        let file = memory::sealed_file(length)?;
        let memory = Memory::map(file.as_fd(), length)?;
        memory.write(0, &MAGIC.to_ne_bytes());
        memory.write(8, &(up as u64).to_ne_bytes());
        memory.write(16, &(down as u64).to_ne_bytes());
        Ok(Kept { file, memory, up, down, note: NOTE_MAX, given_back: Default::default() })
    }

    /// The memory that a process before this one has left.
    ///
    /// # Errors
    /// It is none of ours, or of another version.
    pub fn open(file: OwnedFd) -> io::Result<Kept> {
        let bad = |what| io::Error::new(io::ErrorKind::InvalidData, what);
        let length = rustix::fs::fstat(&file)?.st_size;
        if length < PAGE as i64 || !memory::is_sealed(file.as_fd()) {
            return Err(bad("not the memory of a socket"));
        }
        let head = Memory::map(file.as_fd(), PAGE)?;
        let word = |at| {
            let mut bytes = [0; 8];
            head.read(at, &mut bytes);
            u64::from_ne_bytes(bytes)
        };
        let (magic, up, down) = (word(0), word(8), word(16));
        let note = match magic {
            MAGIC => NOTE_MAX,
            MAGIC_BEFORE => 0,
            _ => return Err(bad("the memory of a socket, of another version")),
        };
        let rest = (PAGE + 2 * note) as u64;
        let whole = up <= RING_MAX && down <= RING_MAX && up + down + rest == length as u64;
        if !whole {
            return Err(bad("the memory of a socket, of another length than it says"));
        }
        let (up, down) = (up as usize, down as usize);
        let memory = Memory::map(file.as_fd(), PAGE + up + down + 2 * note)?;
        Ok(Kept { file, memory, up, down, note, given_back: Default::default() })
    }

    /// The file, to be given to whoever holds it when this process is gone.
    #[must_use]
    pub fn file(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }

    fn head(&self) -> &Head {
        // SAFETY: the memory begins with a page, which is at least as long and aligned as `Head`;
        // every pattern of bits is one, and what other threads or the kernel change is read by
        // atomic or volatile accesses only.
        unsafe { &*self.memory.at(0).cast::<Head>() }
    }

    /// Where a place of a text is, and how long it is.
    fn text_at(&self, text: Text, place: usize) -> (usize, usize) {
        match text {
            Text::Record => (RECORDS_AT + place * RECORD_MAX, RECORD_MAX),
            Text::Note => (PAGE + self.up + self.down + place * self.note, self.note),
        }
    }

    /// The header of the next call.
    fn begin(&self, way: Way) -> *mut libc::mmsghdr {
        let slot = ledger::begin(self, way, 0);
        (&raw const self.head().lane(way).slots[slot].message).cast_mut()
    }

    /// Bytes that were read from the socket.
    #[must_use]
    pub fn taken(&self) -> u64 {
        ledger::position(self, Way::Read)
    }

    /// Bytes that the socket has taken.
    #[must_use]
    pub fn given(&self) -> u64 {
        ledger::position(self, Way::Written)
    }

    /// Counts bytes as written that nobody will read.
    pub fn skip(&self, count: u64) {
        ledger::begin(self, Way::Written, count);
    }

    /// The socket begins where another one was: `taken` counts as read from it and `given` as
    /// written; `up` are the last bytes read, `down` those to be written next. False if the rings
    /// are too short for them.
    #[must_use]
    pub fn begin_at(&self, (taken, up): (u64, &[u8]), (given, down): (u64, &[u8])) -> bool {
        if up.len() > self.up || down.len() > self.down {
            return false;
        }
        ledger::begin(self, Way::Read, taken);
        ledger::begin(self, Way::Written, given);
        self.write_ring(PAGE, self.up, taken - up.len() as u64, up);
        self.hold(given, down);
        self.hold_until(given + down.len() as u64);
        true
    }

    /// Bytes that the ring of the way up holds at most.
    #[must_use]
    pub fn up_max(&self) -> usize {
        self.up
    }

    /// Bytes that the ring of the way down holds at most.
    #[must_use]
    pub fn down_max(&self) -> usize {
        self.down
    }

    /// Reads from the socket, never waiting: `skip` bytes that are thrown away, and behind them at
    /// most `wanted`, which go into the ring of the way up at `position`. Returns the number of
    /// both together; 0 at the end of the stream.
    ///
    /// # Errors
    /// Those of `recvmmsg`.
    pub fn read(
        &self,
        socket: BorrowedFd<'_>,
        skip: usize,
        position: u64,
        wanted: usize,
    ) -> rustix::io::Result<usize> {
        let mut skipped = [0u8; 8];
        let skip = skip.min(skipped.len());
        let [first, second] = self.ring(PAGE, self.up, position, wanted.min(self.up));
        let mut places =
            [libc::iovec { iov_base: skipped.as_mut_ptr().cast(), iov_len: skip }, first, second];
        let message = self.begin(Way::Read);
        // SAFETY: the header lies in this memory, which outlives the call, and nothing else touches
        // it meanwhile; its parts lead to the array above, to a local and to the ring.
        unsafe {
            (*message).msg_hdr.msg_iov = places.as_mut_ptr();
            (*message).msg_hdr.msg_iovlen = places.len();
            let flags = libc::MSG_DONTWAIT | libc::MSG_CMSG_CLOEXEC;
            let got = libc::recvmmsg(socket.as_raw_fd(), message, 1, flags, std::ptr::null_mut());
            counted(got, message)
        }
    }

    /// Looks at the next byte of the socket and puts it into the ring of the way up at `position`,
    /// without reading it. 0 at the end of the stream.
    ///
    /// # Errors
    /// Those of `recv`.
    pub fn peek(&self, socket: BorrowedFd<'_>, position: u64) -> rustix::io::Result<usize> {
        let [place, _] = self.ring(PAGE, self.up, position, 1);
        let flags = libc::MSG_DONTWAIT | libc::MSG_PEEK;
        // SAFETY: the place is one byte of this memory.
        let got = unsafe { libc::recv(socket.as_raw_fd(), place.iov_base, place.iov_len, flags) };
        usize::try_from(got).map_err(|_| last_error())
    }

    /// Copies `count` bytes that were read out of the ring.
    pub fn copy_up(&self, position: u64, mut count: usize, bufs: &mut [IoSliceMut<'_>]) {
        let mut at = position;
        for buf in bufs {
            let here = buf.len().min(count);
            self.read_ring(PAGE, self.up, at, &mut buf[..here]);
            count -= here;
            at += here as u64;
        }
    }

    /// Writes to the socket, never waiting; as urgent if so said, which is for one byte alone.
    ///
    /// # Errors
    /// Those of `sendmmsg`.
    pub fn write(
        &self,
        socket: BorrowedFd<'_>,
        bufs: &[IoSlice<'_>],
        urgent: bool,
    ) -> rustix::io::Result<usize> {
        let message = self.begin(Way::Written);
        let urgent = if urgent { libc::MSG_OOB } else { 0 };
        // SAFETY: as in `read`; an `IoSlice` is an `iovec`, and what it leads to is only read.
        unsafe {
            (*message).msg_hdr.msg_iov = bufs.as_ptr().cast_mut().cast();
            (*message).msg_hdr.msg_iovlen = bufs.len();
            let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL | urgent;
            counted(libc::sendmmsg(socket.as_raw_fd(), message, 1, flags), message)
        }
    }

    /// Keeps bytes that the socket has not taken. They count from [`Kept::hold_until`] on.
    pub fn hold(&self, position: u64, bytes: &[u8]) {
        self.write_ring(PAGE + self.up, self.down, position, bytes);
    }

    /// All bytes below `position` are in the ring of the way down, or were written to the socket.
    pub fn hold_until(&self, position: u64) {
        self.store(Word::HeldUntil, position);
    }

    /// The end of what is held.
    #[must_use]
    pub fn held_until(&self) -> u64 {
        self.load(Word::HeldUntil)
    }

    /// The bytes of the way down from `from` to `until`, at most as many as there is room for.
    #[must_use]
    pub fn held(&self, from: u64, until: u64) -> Vec<u8> {
        let count = until.saturating_sub(from).min(self.down as u64);
        let mut bytes = vec![0; count as usize];
        self.read_ring(PAGE + self.up, self.down, from, &mut bytes);
        bytes
    }

    /// The bytes that were read, from `from` to `until`, at most as many as there is room for.
    #[must_use]
    pub fn up(&self, from: u64, until: u64) -> Vec<u8> {
        let count = until.saturating_sub(from).min(self.up as u64);
        let mut bytes = vec![0; count as usize];
        self.read_ring(PAGE, self.up, from, &mut bytes);
        bytes
    }

    /// The text that was put there first.
    #[must_use]
    pub fn face(&self) -> Option<Vec<u8>> {
        let length = self.head().face.load(Ordering::Acquire) as usize;
        (1..=FACE_MAX).contains(&length).then(|| {
            let mut bytes = vec![0; length];
            self.memory.read(FACE_AT, &mut bytes);
            bytes
        })
    }

    /// Puts the text that never changes. One that is too long, or empty, is none.
    pub fn put_face(&self, bytes: &[u8]) {
        let fits = (1..=FACE_MAX).contains(&bytes.len());
        if fits {
            self.memory.write(FACE_AT, bytes);
        }
        let length = if fits { bytes.len() as u32 } else { 0 };
        self.head().face.store(length, Ordering::Release);
    }

    /// The record that was put there last.
    #[must_use]
    pub fn record(&self) -> Option<Vec<u8>> {
        ledger::text(self, Text::Record)
    }

    /// Puts another record in the place of the last one, which is whole until this one is. False if
    /// it is too long.
    #[must_use]
    pub fn put_record(&self, bytes: &[u8]) -> bool {
        if bytes.len() > RECORD_MAX {
            return false;
        }
        ledger::put_text(self, Text::Record, bytes);
        true
    }

    /// The longer text that was put there last.
    #[must_use]
    pub fn note(&self) -> Option<Vec<u8>> {
        ledger::text(self, Text::Note)
    }

    /// Puts another one; the last one is whole until this one is. False if it is too long.
    #[must_use]
    pub fn put_note(&self, bytes: &[u8]) -> bool {
        let fits = bytes.len() <= self.note;
        if fits {
            ledger::put_text(self, Text::Note, bytes);
        }
        fits
    }

    /// The process works for this socket from now on, or has done so.
    pub fn set_at_work(&self, at_work: bool) {
        self.head().at_work.store(at_work.into(), Ordering::Release);
    }

    /// Whether the last process died while it worked for this socket.
    #[must_use]
    pub fn was_at_work(&self) -> bool {
        self.head().at_work.load(Ordering::Acquire) != 0
    }

    /// When processes died over it, in no order; 0 is none.
    #[must_use]
    pub fn deaths(&self) -> [u64; 3] {
        std::array::from_fn(|index| self.head().deaths[index].load(Ordering::Acquire))
    }

    /// Puts those times.
    pub fn put_deaths(&self, deaths: [u64; 3]) {
        for (place, at) in self.head().deaths.iter().zip(deaths) {
            place.store(at, Ordering::Release);
        }
    }

    /// Bytes of memory that the rings may take now.
    #[must_use]
    pub fn in_use(&self) -> usize {
        let [up, down] = self.given_back.each_ref().map(|at| at.load(Ordering::Relaxed));
        let up = self.taken().saturating_sub(up).min(self.up as u64);
        (up + self.held_until().saturating_sub(down).min(self.down as u64)) as usize
    }

    /// Gives the memory of both rings back, of which nothing is needed any more, and that of the
    /// place of the longer text that is not in use.
    pub fn give_back(&self) {
        self.given_back[0].store(self.taken(), Ordering::Relaxed);
        self.given_back[1].store(self.held_until(), Ordering::Relaxed);
        use rustix::fs::FallocateFlags;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        let give = |at: usize, length: usize| {
            if length > 0 {
                let _kept_then = rustix::fs::fallocate(&self.file, flags, at as u64, length as u64);
            }
        };
        give(PAGE, self.up + self.down);
        if let Some(place) = ledger::place(self, Text::Note) {
            give(self.text_at(Text::Note, 1 - place).0, self.note);
        }
    }

    /// Two pieces of a ring: up to its end, and from its beginning.
    fn ring(&self, start: usize, ring: usize, position: u64, count: usize) -> [libc::iovec; 2] {
        let at = if ring == 0 { 0 } else { (position % ring as u64) as usize };
        let first = count.min(ring - at);
        let place = |at, length| libc::iovec {
            iov_base: self.memory.at(start + at).cast(),
            iov_len: length,
        };
        [place(at, first), place(0, (count - first).min(at))]
    }

    fn read_ring(&self, start: usize, ring: usize, position: u64, bytes: &mut [u8]) {
        let at = (position % ring as u64) as usize;
        let count = bytes.len();
        let (first, second) = bytes.split_at_mut(count.min(ring - at));
        self.memory.read(start + at, first);
        self.memory.read(start, second);
    }

    fn write_ring(&self, start: usize, ring: usize, position: u64, bytes: &[u8]) {
        let at = (position % ring as u64) as usize;
        let (first, second) = bytes.split_at(bytes.len().min(ring - at));
        self.memory.write(start + at, first);
        self.memory.write(start, second);
    }
}

impl Page for Kept {
    fn load(&self, word: Word) -> u64 {
        let head = self.head();
        match word {
            Word::InUse(way) => head.lane(way).in_use.load(Ordering::Acquire).into(),
            Word::Began(way, slot) => head.lane(way).slots[slot].began.load(Ordering::Acquire),
            Word::Moved(way, slot) => {
                let message = &raw const head.lane(way).slots[slot].message;
                // SAFETY: the field is aligned and there; the kernel may have written it.
                unsafe { (&raw const (*message).msg_len).read_volatile() }.into()
            }
            Word::HeldUntil => head.held_until.load(Ordering::Acquire),
            Word::Place(text) => head.text(text).0.load(Ordering::Acquire).into(),
            Word::Length(text, place) => head.text(text).1[place].load(Ordering::Acquire).into(),
        }
    }

    fn store(&self, word: Word, value: u64) {
        let head = self.head();
        match word {
            Word::InUse(way) => head.lane(way).in_use.store(value as u32, Ordering::Release),
            Word::Began(way, slot) => {
                head.lane(way).slots[slot].began.store(value, Ordering::Release);
            }
            Word::Moved(way, slot) => {
                let message = (&raw const head.lane(way).slots[slot].message).cast_mut();
                // SAFETY: the header lies in shared memory that is written through pointers alone;
                // zeros are one that leads nowhere.
                unsafe {
                    message.write_volatile(std::mem::zeroed());
                    (&raw mut (*message).msg_len).write_volatile(value as u32);
                }
            }
            Word::HeldUntil => head.held_until.store(value, Ordering::Release),
            Word::Place(text) => head.text(text).0.store(value as u32, Ordering::Release),
            Word::Length(text, place) => {
                head.text(text).1[place].store(value as u32, Ordering::Release);
            }
        }
    }

    fn read_text(&self, text: Text, place: usize, length: u64) -> Option<Vec<u8>> {
        let (at, most) = self.text_at(text, place);
        (length <= most as u64).then(|| {
            let mut bytes = vec![0; length as usize];
            self.memory.read(at, &mut bytes);
            bytes
        })
    }

    fn write_text(&self, text: Text, place: usize, bytes: &[u8]) {
        self.memory.write(self.text_at(text, place).0, bytes);
    }
}

impl Head {
    fn text(&self, text: Text) -> (&AtomicU32, &[AtomicU32; 2]) {
        match text {
            Text::Record => (&self.record, &self.records),
            Text::Note => (&self.note, &self.notes),
        }
    }

    fn lane(&self, way: Way) -> &Lane {
        match way {
            Way::Read => &self.read,
            Way::Written => &self.written,
        }
    }
}

/// What a call that moved one message, or none, has counted.
///
/// # Safety
/// `message` leads to a header.
unsafe fn counted(answer: libc::c_int, message: *const libc::mmsghdr) -> rustix::io::Result<usize> {
    if answer < 1 {
        return Err(last_error());
    }
    // SAFETY: as the caller says.
    Ok(unsafe { (&raw const (*message).msg_len).read_volatile() } as usize)
}

fn last_error() -> rustix::io::Errno {
    let error = io::Error::last_os_error();
    rustix::io::Errno::from_io_error(&error).unwrap_or(rustix::io::Errno::IO)
}

#[cfg(test)]
mod tests;
