//! The pause file in the session directory: tells the shims which sessions have no link at present.
//!
//! What stands in it, and what it means for a program that waits, is decided by
//! [`stp_proto::local::pause`]. This writes it: a line of 64 bytes when a session begins, ends, is
//! paused or goes on, and at most every [`STAMP_EVERY_MS`] while its link is heard of. The file is
//! written to in place, also by the next broker, so that programs keep the same memory.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::Path;
use std::sync::Arc;

use nix::time::{ClockId, clock_gettime};
use parking_lot::Mutex;
use rustix::fs::FallocateFlags;
use stp_proto::local::Cookie;
use stp_proto::local::path::PAUSES_FILE;
use stp_proto::local::pause::{self, Head, Line, SLOTS};
use stp_proto::session::{Attempt, Event, Limits};

use crate::routes::Freeze;

/// How often the signs of life of a session are written at most.
const STAMP_EVERY_MS: u64 = 100;
/// How long a pause goes on at most after a link is attached again, until bytes flow on it.
const GRACE_MS: u64 = 2_000;

/// The time on the clock that waits run on.
fn now_ms() -> u64 {
    let time = clock_gettime(ClockId::CLOCK_MONOTONIC).expect("Linux has this clock");
    let ms = time.tv_sec() * 1_000 + time.tv_nsec() / 1_000_000;
    u64::try_from(ms).expect("time runs forward from 0").max(1)
}

/// The file, and which of its lines are in use.
#[derive(Debug)]
pub struct Pauses {
    file: File,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    head: Head,
    /// One bit for each slot.
    used: Vec<u64>,
}

impl Pauses {
    /// Takes the file of this directory over, or makes it.
    ///
    /// # Errors
    /// When it cannot be written to.
    pub fn open(dir: &Path, limits: &Limits) -> io::Result<Arc<Pauses>> {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600);
        let file = options.open(dir.join(PAUSES_FILE))?;
        // Holes: only lines that are used take memory.
        // Programs have it mapped, also those of the broker before: it must not be shorter for an
        // instant.
        file.set_len(pause::FILE_BYTES as u64)?;
        let flags = FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE;
        if rustix::fs::fallocate(&file, flags, 0, pause::FILE_BYTES as u64).is_err() {
            file.write_all_at(&vec![0; pause::FILE_BYTES], 0)?;
        }
        let ms = |time: std::time::Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let head = Head {
            paused: 0,
            ended_ms: 0,
            heartbeat_busy_ms: ms(limits.heartbeat_busy),
            heartbeat_idle_ms: ms(limits.heartbeat_idle),
            busy_for_ms: ms(limits.busy_for),
            silence_ms: ms(limits.silence_max),
        };
        file.write_all_at(&bytes(head.to_words()), 0)?;
        let inner = Mutex::new(Inner { head, used: vec![0; SLOTS / 64] });
        Ok(Arc::new(Pauses { file, inner }))
    }

    /// A line for a session that begins; none if nothing stands still for it.
    #[must_use]
    pub fn enter(self: &Arc<Pauses>, cookie: &Cookie, freeze: Freeze) -> Pause {
        if freeze == Freeze::Off {
            return Pause::default();
        }
        let key = pause::key(cookie);
        let mut inner = self.inner.lock();
        let free = pause::places(key).find(|slot| inner.used[slot / 64] >> (slot % 64) & 1 == 0);
        if let Some(slot) = free {
            inner.used[slot / 64] |= 1 << (slot % 64);
        }
        drop(inner);
        let now = now_ms();
        let stops_clock = freeze == Freeze::Clock;
        let line = Line { key, heard_ms: now, moved_ms: now, stops_clock, ..Line::default() };
        let pause = Pause {
            place: free.map(|slot| (Arc::clone(self), slot)),
            state: Mutex::new(State { line, established: false }),
        };
        pause.write(&line);
        pause
    }

    fn write(&self, slot: usize, line: &Line) {
        let at = pause::word_of(slot) as u64 * 8;
        if let Err(error) = self.file.write_all_at(&bytes(line.to_words()), at) {
            tracing::debug!(%error, "the pause file cannot be written");
        }
    }

    /// One session more, or one less, is paused.
    fn count(&self, begins: bool) {
        let mut inner = self.inner.lock();
        if begins {
            inner.head.paused += 1;
        } else {
            inner.head.paused = inner.head.paused.saturating_sub(1);
            inner.head.ended_ms = now_ms();
        }
        // Under the lock, so that the last number is the last one written.
        if let Err(error) = self.file.write_all_at(&bytes(inner.head.to_words()), 0) {
            tracing::debug!(%error, "the pause file cannot be written");
        }
    }
}

fn bytes<const WORDS: usize>(words: [u64; WORDS]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// One session's line; free again when dropped. Without a place, as when the file is full or
/// time-outs run on by the configuration, it does nothing.
#[derive(Debug, Default)]
pub struct Pause {
    place: Option<(Arc<Pauses>, usize)>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    line: Line,
    established: bool,
}

impl Pause {
    fn write(&self, line: &Line) {
        if let Some((pauses, slot)) = &self.place {
            pauses.write(*slot, line);
        }
    }

    /// What stands still in a pause.
    #[must_use]
    pub fn freeze(&self) -> Freeze {
        match &self.place {
            None => Freeze::Off,
            Some(_) if self.state.lock().line.stops_clock => Freeze::Clock,
            Some(_) => Freeze::Waits,
        }
    }

    /// For how long it has been paused, if it is, in milliseconds.
    #[must_use]
    pub fn paused_ms(&self) -> Option<u64> {
        let (line, now) = (self.state.lock().line, now_ms());
        line.is_paused(now).then(|| now.saturating_sub(line.since_ms))
    }

    /// The link was heard of.
    pub fn heard(&self) {
        self.stamp(false);
    }

    /// Bytes of the session came from the program or from the link.
    pub fn moved(&self) {
        self.stamp(true);
    }

    fn stamp(&self, moved: bool) {
        if self.place.is_none() {
            return;
        }
        let now = now_ms();
        let mut state = self.state.lock();
        let line = &mut state.line;
        let late = |stamp: u64| now.saturating_sub(stamp) >= STAMP_EVERY_MS;
        if late(line.heard_ms) || (moved && late(line.moved_ms)) {
            line.heard_ms = now;
            if moved {
                line.moved_ms = now;
            }
            self.write(line);
        }
    }

    /// The program has written something: the session is busy.
    pub fn wrote(&self) {
        let mut state = self.state.lock();
        let now = now_ms();
        if now.saturating_sub(state.line.moved_ms) >= STAMP_EVERY_MS {
            state.line.moved_ms = now;
            self.write(&state.line);
        }
    }

    /// Bytes came on a link: a pause is over.
    pub fn flows(&self) {
        self.moved();
        self.change(Line::resume);
    }

    /// Something happened to the session; `linked` says whether it has a link now.
    pub fn event(&self, event: &Event, linked: bool) {
        match event {
            Event::Established { .. } => self.state.lock().established = true,
            Event::Lost { .. } if !linked && self.state.lock().established => {
                self.change(|line, _| line.pause(line.heard_ms));
            }
            Event::Suspended { .. } => self.change(Line::pause),
            Event::Attached { attempt: Attempt::Resume | Attempt::Transfer, .. } => {
                self.change(|line, now| {
                    line.heard_ms = now;
                    line.attach(now + GRACE_MS);
                });
            }
            Event::Acknowledged(_) => self.change(Line::resume),
            _ => {}
        }
    }

    /// Changes the line, and tells if it is another one then.
    fn change(&self, change: impl FnOnce(&mut Line, u64)) {
        let Some((pauses, slot)) = &self.place else { return };
        let mut state = self.state.lock();
        let (before, now) = (state.line, now_ms());
        change(&mut state.line, now);
        if state.line == before {
            return;
        }
        // A program that sees the count finds the line behind it.
        let (was, is) = (before.since_ms != 0, state.line.since_ms != 0);
        pauses.write(*slot, &state.line);
        if was != is {
            pauses.count(is);
        }
    }
}

impl Drop for Pause {
    fn drop(&mut self) {
        let Some((pauses, slot)) = self.place.take() else { return };
        if self.state.lock().line.since_ms != 0 {
            pauses.count(false);
        }
        pauses.write(slot, &Line::default());
        pauses.inner.lock().used[slot / 64] &= !(1 << (slot % 64));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use stp_proto::local::pause::{FILE_BYTES, HEAD_WORDS, LINE_WORDS, PROBES};
    use stp_proto::session::{LinkId, LostCause};

    fn words<const WORDS: usize>(dir: &Path, at: usize) -> [u64; WORDS] {
        let file = std::fs::read(dir.join(PAUSES_FILE)).unwrap();
        assert_eq!(file.len(), FILE_BYTES);
        let mut words = [0; WORDS];
        for (word, bytes) in words.iter_mut().zip(file[at * 8..].chunks_exact(8)) {
            *word = u64::from_ne_bytes(bytes.try_into().unwrap());
        }
        words
    }

    fn head(dir: &Path) -> Head {
        Head::from_words(words::<HEAD_WORDS>(dir, 0)).unwrap()
    }

    fn lines(dir: &Path, cookie: &Cookie) -> Vec<Line> {
        let key = pause::key(cookie);
        let line = |slot| Line::from_words(words::<LINE_WORDS>(dir, pause::word_of(slot)));
        pause::places(key).map(line).filter(|line| line.key == key).collect()
    }

    const LOST: Event = Event::Lost { link: LinkId(1), cause: LostCause::Silent };

    #[test]
    fn a_lost_link_is_told_and_bytes_end_the_pause() {
        let (dir, cookie) = (tempfile::tempdir().unwrap(), Cookie([7; 16]));
        let pauses = Pauses::open(dir.path(), &Limits::default()).unwrap();
        let pause = pauses.enter(&cookie, Freeze::Clock);
        pause.event(&LOST, false);
        assert_eq!(head(dir.path()).paused, 0, "a connect that is under way is no pause");
        pause.event(&Event::Established { server: String::new() }, true);
        pause.event(&LOST, true);
        assert_eq!(head(dir.path()).paused, 0, "another link is left");
        pause.event(&LOST, false);
        pause.event(&LOST, false);
        assert_eq!((head(dir.path()).paused, pause.paused_ms().is_some()), (1, true));
        let line = lines(dir.path(), &cookie)[0];
        assert!(line.is_paused(now_ms()) && line.since_ms == line.heard_ms);
        assert!(line.stops_clock && pause.freeze() == Freeze::Clock);
        pause.flows();
        assert_eq!((head(dir.path()).paused, pause.paused_ms()), (0, None));
        assert!(head(dir.path()).ended_ms > 0);
        pause.event(&Event::Suspended { by_peer: false, lasts: None }, false);
        assert_eq!(head(dir.path()).paused, 1);
        drop(pause);
        assert_eq!(head(dir.path()).paused, 0);
        assert_eq!(lines(dir.path(), &cookie), []);
    }

    /// A program that has the file mapped would be killed by SIGBUS.
    #[test]
    fn the_next_broker_never_makes_the_file_shorter() {
        use std::os::unix::fs::MetadataExt;
        use std::sync::atomic::{AtomicBool, Ordering};
        let dir = tempfile::tempdir().unwrap();
        let before = Pauses::open(dir.path(), &Limits::default()).unwrap();
        before.enter(&Cookie([7; 16]), Freeze::Waits).event(&LOST, false);
        let (file, done) = (&before.file, AtomicBool::new(false));
        let shortest = std::thread::scope(|scope| {
            let watch = || {
                let (mut shortest, mut looks) = (u64::MAX, 0);
                while !done.load(Ordering::Relaxed) || looks == 0 {
                    shortest = shortest.min(file.metadata().unwrap().len());
                    looks += 1;
                }
                shortest
            };
            let watch = scope.spawn(watch);
            for _ in 0..500 {
                Pauses::open(dir.path(), &Limits::default()).unwrap();
            }
            done.store(true, Ordering::Relaxed);
            watch.join().unwrap()
        });
        assert_eq!(shortest, FILE_BYTES as u64);
        let now = std::fs::metadata(dir.path().join(PAUSES_FILE)).unwrap();
        assert_eq!(now.ino(), file.metadata().unwrap().ino(), "it is the same file");
        assert_eq!(lines(dir.path(), &Cookie([7; 16])), [], "the sessions enter it anew");
    }

    #[test]
    fn a_crowded_place_is_left_without_a_line_and_freed_ones_are_used_again() {
        let (dir, cookie) = (tempfile::tempdir().unwrap(), Cookie([1; 16]));
        let pauses = Pauses::open(dir.path(), &Limits::default()).unwrap();
        let mut all: Vec<Pause> =
            (0..PROBES).map(|_| pauses.enter(&cookie, Freeze::Waits)).collect();
        assert_eq!(lines(dir.path(), &cookie).len(), PROBES);
        assert_eq!(pauses.enter(&cookie, Freeze::Waits).freeze(), Freeze::Off);
        all.pop();
        assert_eq!(pauses.enter(&cookie, Freeze::Waits).freeze(), Freeze::Waits);
        drop(all);
        assert_eq!(pauses.enter(&cookie, Freeze::Off).freeze(), Freeze::Off);
    }
}
