//! The marks of files (`stp_proto::chain`) that this server has: with them a session that comes
//! over is proved by reading at most the last 8 MiB of what its app has.
//!
//! A mark is worth something only for the very file that is read further on. So marks are kept by
//! what the file system says of a file ([`Look`]), of which the time of the inode's last change
//! cannot be set back by anybody. What an HTTP server says of a file (entity tag, date, length) is
//! not enough: a new build may have all of them, and then the result would be of two files.

use std::collections::HashMap;
use std::fs::{File, Metadata};
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime};

use axum::body::Body;
use axum::body::Bytes;
use hyper::body::{Frame, SizeHint};
use parking_lot::Mutex;
use stp_proto::chain::{self, Chain, MARK_EVERY, Mark};

/// Marks kept, of all files together: 12 MiB, for 2 TiB of files.
const MARKS_MAX: usize = 262_144;
/// A file that changed less than this ago may change again without showing it: the file system's
/// clock ticks every few milliseconds.
const REST: Duration = Duration::from_secs(2);
/// Read at a time ahead of a session.
const PIECE: usize = 1 << 20;

/// What tells whether a file is still the one that was read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Look {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Look {
    /// What the file at this path looks like; none if it is no file, or was changed just now.
    #[must_use]
    pub fn at(path: &Path) -> Option<Self> {
        Self::of(&std::fs::metadata(path).ok()?)
    }

    /// The same of what was found out already.
    #[must_use]
    pub fn of(meta: &Metadata) -> Option<Self> {
        let changed = Duration::from_secs(u64::try_from(meta.ctime()).ok()?);
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).ok()?;
        let rests = now.checked_sub(changed).is_some_and(|since| since >= REST);
        (meta.is_file() && rests).then(|| Self {
            device: meta.dev(),
            inode: meta.ino(),
            length: meta.len(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }

    /// How many marks the file has.
    fn marks(&self) -> usize {
        usize::try_from(self.length / MARK_EVERY).unwrap_or(usize::MAX)
    }
}

/// The marks of one file.
#[derive(Debug, Default)]
struct Kept {
    marks: Vec<Mark>,
    /// When it was used last, by a count of all uses.
    used: u64,
}

/// The marks that are kept.
#[derive(Debug, Default)]
pub struct Chains(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    files: HashMap<Look, Kept>,
    marks: usize,
    uses: u64,
}

/// What is known of the front of a file.
#[derive(Debug, Clone)]
pub struct Known {
    path: PathBuf,
    look: Look,
    /// How many [`MARK_EVERY`] lie before the mark.
    pub number: u64,
    /// The mark.
    pub mark: Mark,
}

impl Known {
    /// Whether it is known of the file that is at this place now.
    #[must_use]
    pub fn holds(&self) -> bool {
        Look::at(&self.path) == Some(self.look)
    }
}

impl Chains {
    /// What is known of the file at this path that helps to prove its first `have` bytes.
    #[must_use]
    pub fn known(&self, path: &Path, have: u64) -> Option<Known> {
        let look = Look::at(path)?;
        let mut state = self.0.lock();
        state.uses += 1;
        let uses = state.uses;
        let kept = state.files.get_mut(&look)?;
        kept.used = uses;
        let (number, mark) = chain::best(&kept.marks, have)?;
        Some(Known { path: path.to_owned(), look, number, mark })
    }

    /// How many marks of this file are known.
    #[must_use]
    pub fn count(&self, look: &Look) -> usize {
        self.0.lock().files.get(look).map_or(0, |kept| kept.marks.len())
    }

    /// A digest that goes on at this byte of a file; none if nothing new would come of it, or if
    /// what lies before is not known.
    #[must_use]
    pub fn digest(self: &Arc<Self>, look: Look, at: u64) -> Option<Digest> {
        let state = self.0.lock();
        let marks = state.files.get(&look).map_or(&[][..], |kept| &kept.marks);
        let number = usize::try_from(at / MARK_EVERY).ok()?;
        if !at.is_multiple_of(MARK_EVERY) || number < marks.len() || number >= look.marks() {
            return None;
        }
        let chain = match marks.get(number.wrapping_sub(1)) {
            Some(mark) => Chain::after(at / MARK_EVERY, *mark),
            None if number == 0 => Chain::default(),
            None => return None,
        };
        Some(Digest { chains: Arc::clone(self), look, chain })
    }

    /// The next mark of a file.
    fn learn(&self, look: Look, number: usize, mark: Mark) {
        let mut state = self.0.lock();
        state.uses += 1;
        let uses = state.uses;
        let kept = state.files.entry(look).or_default();
        kept.used = uses;
        if kept.marks.len() + 1 != number {
            return;
        }
        kept.marks.push(mark);
        state.marks += 1;
        while state.marks > MARKS_MAX {
            let oldest = state.files.iter().min_by_key(|(_, kept)| kept.used);
            let Some(oldest) = oldest.map(|(look, _)| *look) else { break };
            let gone = state.files.remove(&oldest).map_or(0, |kept| kept.marks.len());
            state.marks -= gone;
        }
    }

    /// Reads a file from the first byte that is not known to its end, at most this many bytes a
    /// second; blocks. Ends when the file changes.
    pub fn read_ahead(self: &Arc<Self>, path: &Path, rate: u64) -> std::io::Result<()> {
        let mut file = File::open(path)?;
        let Some(look) = Look::of(&file.metadata()?) else { return Ok(()) };
        let at = u64::try_from(self.count(&look)).unwrap_or(0) * MARK_EVERY;
        let Some(mut digest) = self.digest(look, at) else { return Ok(()) };
        std::io::Seek::seek(&mut file, std::io::SeekFrom::Start(at))?;
        let mut piece = vec![0; PIECE];
        let (begun, mut total) = (std::time::Instant::now(), 0);
        loop {
            let read = file.read(&mut piece)?;
            if read == 0 || Look::of(&file.metadata()?) != Some(look) {
                return Ok(());
            }
            digest.take(&piece[..read]);
            total += u64::try_from(read).unwrap_or(0);
            let due = Duration::from_micros(total.saturating_mul(1_000_000) / rate.max(1));
            std::thread::sleep(due.saturating_sub(begun.elapsed()));
        }
    }
}

/// Digests a file as it is read.
#[derive(Debug)]
pub struct Digest {
    chains: Arc<Chains>,
    look: Look,
    chain: Chain,
}

impl Digest {
    /// Takes the next bytes.
    pub fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (taken, mark) = self.chain.update(bytes);
            bytes = &bytes[taken..];
            if let Some(mark) = mark {
                let number = self.chain.position() / MARK_EVERY;
                self.chains.learn(self.look, usize::try_from(number).unwrap_or(0), mark);
            }
        }
    }
}

/// The body of a response, digested as it goes out.
pub struct Digested {
    body: Body,
    digest: Digest,
}

impl Digested {
    /// Digests `body`.
    #[must_use]
    pub fn new(body: Body, digest: Digest) -> Self {
        Self { body, digest }
    }
}

impl hyper::body::Body for Digested {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &polled
            && let Some(bytes) = frame.data_ref()
        {
            self.digest.take(bytes);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt;

    use super::*;

    /// A file of this many bytes that has been at rest for long enough, and its folder.
    fn file(length: u64) -> (tempfile::TempDir, PathBuf) {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("f");
        File::create(&path).and_then(|file| file.set_len(length)).expect("ours");
        while Look::at(&path).is_none() {
            std::thread::sleep(Duration::from_millis(50));
        }
        (folder, path)
    }

    #[test]
    fn a_file_that_is_read_ahead_is_known_until_it_changes() {
        let (_folder, path) = file(2 * MARK_EVERY + 10);
        let chains = Arc::new(Chains::default());
        assert!(chains.known(&path, u64::MAX).is_none());
        chains.read_ahead(&path, u64::MAX).expect("it is there");
        let known = chains.known(&path, u64::MAX).expect("it was read");
        assert_eq!((known.number, known.holds()), (2, true));
        assert_eq!(chains.known(&path, 2 * MARK_EVERY - 1).map(|known| known.number), Some(1));
        assert!(chains.known(&path, MARK_EVERY - 1).is_none());
        // A byte in place, and the date set back: the file is another one.
        let before = std::fs::metadata(&path).and_then(|about| about.modified()).expect("ours");
        let changed = File::options().write(true).open(&path).expect("ours");
        changed.write_all_at(b"x", 0).expect("ours");
        changed.set_modified(before).expect("ours");
        assert!(!known.holds());
        assert!(chains.known(&path, u64::MAX).is_none());
    }

    #[test]
    fn what_is_known_is_not_digested_again_and_a_gap_is_not_bridged() {
        let (_folder, path) = file(3 * MARK_EVERY);
        let chains = Arc::new(Chains::default());
        let look = Look::at(&path).expect("it rests");
        assert!(chains.digest(look, MARK_EVERY).is_none(), "what is before is not known");
        let zeros = vec![0; usize::try_from(MARK_EVERY).expect("it is short")];
        let mut digest = chains.digest(look, 0).expect("nothing is known");
        digest.take(&zeros[..1_000]);
        digest.take(&zeros);
        assert_eq!(chains.count(&look), 1);
        assert!(chains.digest(look, 0).is_none(), "the first part is known");
        chains.digest(look, MARK_EVERY).expect("it goes on").take(&zeros);
        assert_eq!(chains.count(&look), 2);
        let whole = Arc::new(Chains::default());
        whole.read_ahead(&path, u64::MAX).expect("it is there");
        let known = |chains: &Chains| chains.known(&path, 2 * MARK_EVERY).map(|known| known.mark);
        assert_eq!(known(&chains), known(&whole));
    }

    #[test]
    fn the_marks_that_were_used_longest_ago_make_room() {
        let chains = Chains::default();
        let mark = Chain::default().update(&vec![0; 8 << 20]).1.expect("a mark");
        let look =
            |inode| Look { device: 0, inode, length: u64::MAX, modified: (0, 0), changed: (0, 0) };
        for number in 1..MARKS_MAX {
            chains.learn(look(1), number, mark);
        }
        chains.learn(look(2), 1, mark);
        chains.learn(look(3), 1, mark);
        assert_eq!([1, 2, 3].map(|inode| chains.count(&look(inode))), [0, 1, 1]);
    }
}
