//! What became of each app socket, kept for the shim's later question.
//!
//! A Unix socket can tell the app `ECONNRESET` or nothing; the real errno is asked for by cookie,
//! also some time after the socket has gone.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use stp_proto::local::Cookie;
use stp_proto::local::wire::Verdict;

/// How long the verdict on a socket that has ended is kept.
const KEEP: Duration = Duration::from_secs(120);
/// The most ended sockets remembered.
const ENDED_MAX: usize = 16_384;

/// The table; clones share it.
#[derive(Clone, Default)]
pub(super) struct Verdicts(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    sockets: HashMap<Cookie, Entry>,
    ended: VecDeque<(Instant, Cookie)>,
}

struct Entry {
    verdict: Verdict,
    abortive: bool,
}

impl Verdicts {
    /// A new socket, its connect under way; false when this cookie is known already.
    pub(super) fn open(&self, cookie: Cookie, abortive: bool) -> bool {
        let mut table = self.0.lock();
        if table.sockets.contains_key(&cookie) {
            return false;
        }
        table.sockets.insert(cookie, Entry { verdict: Verdict::Pending, abortive });
        true
    }

    /// A later fact about a socket that lives.
    pub(super) fn set(&self, cookie: Cookie, verdict: Verdict) {
        if let Some(entry) = self.0.lock().sockets.get_mut(&cookie) {
            entry.verdict = verdict;
        }
    }

    /// The last fact about a socket.
    pub(super) fn end(&self, cookie: Cookie, verdict: Verdict, now: Instant) {
        let mut table = self.0.lock();
        let Some(entry) = table.sockets.get_mut(&cookie) else { return };
        entry.verdict = verdict;
        table.ended.push_back((now, cookie));
        while let Some(&(since, cookie)) = table.ended.front() {
            if table.ended.len() <= ENDED_MAX && now.duration_since(since) < KEEP {
                break;
            }
            table.ended.pop_front();
            table.sockets.remove(&cookie);
        }
    }

    pub(super) fn ask(&self, cookie: Cookie) -> Verdict {
        self.0.lock().sockets.get(&cookie).map_or(Verdict::Unknown, |entry| entry.verdict)
    }

    pub(super) fn set_abortive(&self, cookie: Cookie, abortive: bool) {
        if let Some(entry) = self.0.lock().sockets.get_mut(&cookie) {
            entry.abortive = abortive;
        }
    }

    pub(super) fn is_abortive(&self, cookie: Cookie) -> bool {
        self.0.lock().sockets.get(&cookie).is_some_and(|entry| entry.abortive)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cookie(number: u32) -> Cookie {
        let mut bytes = [0; 16];
        bytes[..4].copy_from_slice(&number.to_le_bytes());
        Cookie(bytes)
    }

    #[test]
    fn the_last_word_is_kept_for_a_while() {
        let (verdicts, start) = (Verdicts::default(), Instant::now());
        assert!(verdicts.open(cookie(1), false));
        assert!(!verdicts.open(cookie(1), false));
        assert_eq!(verdicts.ask(cookie(1)), Verdict::Pending);
        verdicts.end(cookie(1), Verdict::Refused(111), start);
        assert_eq!(verdicts.ask(cookie(1)), Verdict::Refused(111));
        verdicts.open(cookie(2), false);
        verdicts.end(cookie(2), Verdict::Closed, start + KEEP);
        assert_eq!(verdicts.ask(cookie(1)), Verdict::Unknown);
        assert_eq!(verdicts.ask(cookie(2)), Verdict::Closed);
    }

    #[test]
    fn the_table_is_bounded_but_never_forgets_a_living_socket() {
        let (verdicts, now) = (Verdicts::default(), Instant::now());
        verdicts.open(cookie(0), true);
        for number in 1..=ENDED_MAX as u32 + 10 {
            verdicts.open(cookie(number), false);
            verdicts.end(cookie(number), Verdict::Closed, now);
        }
        assert_eq!(verdicts.0.lock().sockets.len(), ENDED_MAX + 1);
        assert_eq!(verdicts.ask(cookie(0)), Verdict::Pending);
        assert!(verdicts.is_abortive(cookie(0)));
        assert_eq!(verdicts.ask(cookie(1)), Verdict::Unknown);
    }
}
