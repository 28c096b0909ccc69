//! The pause file, mapped by programs that have a session.

use core::ffi::CStr;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU64, Ordering};

use stp_proto::local::Cookie;
use stp_proto::local::pause::{
    FILE_BYTES, HEAD_WORDS, Head, LINE_WORDS, Line, key, places, word_of,
};

use crate::raw;
use crate::surroundings::known;

/// Every word of the file; the mapping is never unmapped.
type Words = [AtomicU64; FILE_BYTES / 8];

static FILE: AtomicPtr<Words> = AtomicPtr::new(ptr::null_mut());

/// How often a line is read again that is just being written.
const READS_MAX: usize = 8;

/// The head of the file; nothing when there is none.
pub fn head() -> Option<Head> {
    Head::from_words(words::<HEAD_WORDS>(file()?, 0)?)
}

/// The line of a session; nothing when the broker tells nothing of it.
pub fn line(cookie: &Cookie) -> Option<Line> {
    line_of(key(cookie))
}

/// The same for the key of one.
pub fn line_of(key: u64) -> Option<Line> {
    // That of a line that is free.
    if key == 0 {
        return None;
    }
    let file = file()?;
    let holds = |slot: &usize| file[word_of(*slot)].load(Ordering::Relaxed) == key;
    let slot = places(key).find(holds)?;
    let line = Line::from_words(words::<LINE_WORDS>(file, word_of(slot))?);
    (line.key == key).then_some(line)
}

/// Words that belong together: they are read until two readings agree.
fn words<const WORDS: usize>(file: &Words, at: usize) -> Option<[u64; WORDS]> {
    let read = || core::array::from_fn(|step| file[at + step].load(Ordering::Acquire));
    let mut before: [u64; WORDS] = read();
    for _ in 0..READS_MAX {
        let now = read();
        if now == before {
            return Some(now);
        }
        before = now;
    }
    None
}

fn file() -> Option<&'static Words> {
    let at = FILE.load(Ordering::Acquire);
    let at = if at.is_null() { map()? } else { at };
    // SAFETY: a mapping of that size, never unmapped, whose words are only accessed as atomics.
    Some(unsafe { &*at })
}

#[cold]
fn map() -> Option<*mut Words> {
    let path = CStr::from_bytes_with_nul(known()?.pauses.as_bytes_with_nul()).ok()?;
    let fd = raw::open(path, libc::O_NOFOLLOW).ok()?;
    let fits = raw::stat(fd).is_ok_and(|(size, owner, _)| {
        size == FILE_BYTES as u64 && (owner == raw::euid() || owner == 0)
    });
    let at = if fits { raw::map(fd, FILE_BYTES).ok() } else { None };
    raw::close(fd);
    let at = at?.cast_mut().cast::<Words>();
    FILE.store(at, Ordering::Release);
    Some(at)
}
