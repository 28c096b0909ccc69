//! Memory that is shared with whoever holds the file.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::ptr::NonNull;

use rustix::fs::{MemfdFlags, SealFlags};

/// Nobody can take away memory that a process has mapped.
const SEALS: SealFlags = SealFlags::SHRINK.union(SealFlags::GROW).union(SealFlags::SEAL);

/// A file of this length in memory, whose length is for ever.
pub(super) fn sealed_file(length: usize) -> io::Result<OwnedFd> {
    let flags = MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING;
    let file = rustix::fs::memfd_create("session", flags)?;
    rustix::fs::ftruncate(&file, length as u64)?;
    rustix::fs::fcntl_add_seals(&file, SEALS)?;
    Ok(file)
}

pub(super) fn is_sealed(file: BorrowedFd<'_>) -> bool {
    rustix::fs::fcntl_get_seals(file).is_ok_and(|seals| seals.contains(SEALS))
}

/// A mapping of a sealed file.
#[derive(Debug)]
pub(super) struct Memory {
    start: NonNull<u8>,
    length: usize,
}

// SAFETY: the mapping belongs to no thread.
unsafe impl Send for Memory {}
// SAFETY: what several threads may touch at once is atomic; the rest is written by the owner of the
// socket alone.
unsafe impl Sync for Memory {}

impl Memory {
    pub(super) fn map(file: BorrowedFd<'_>, length: usize) -> io::Result<Memory> {
        let access = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping, at a place that the kernel chooses.
        let start = unsafe {
            libc::mmap(std::ptr::null_mut(), length, access, libc::MAP_SHARED, file.as_raw_fd(), 0)
        };
        match NonNull::new(start.cast::<u8>()) {
            Some(place) if start != libc::MAP_FAILED => Ok(Memory { start: place, length }),
            _ => Err(io::Error::last_os_error()),
        }
    }

    /// The byte at this place.
    pub(super) fn at(&self, place: usize) -> *mut u8 {
        assert!(place <= self.length, "a place in the mapping");
        // SAFETY: it lies in the mapping, or right behind it.
        unsafe { self.start.as_ptr().add(place) }
    }

    pub(super) fn read(&self, place: usize, bytes: &mut [u8]) {
        assert!(place + bytes.len() <= self.length, "a place in the mapping");
        // SAFETY: both are there, and apart: the mapping is reached through this alone.
        unsafe { self.at(place).copy_to_nonoverlapping(bytes.as_mut_ptr(), bytes.len()) }
    }

    pub(super) fn write(&self, place: usize, bytes: &[u8]) {
        assert!(place + bytes.len() <= self.length, "a place in the mapping");
        // SAFETY: as in `read`.
        unsafe { self.at(place).copy_from_nonoverlapping(bytes.as_ptr(), bytes.len()) }
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        // SAFETY: it was mapped so, and nothing borrows from it any more.
        unsafe { libc::munmap(self.start.as_ptr().cast(), self.length) };
    }
}
