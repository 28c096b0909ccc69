//! What became of each app socket, kept for the shim's later question.
//!
//! A Unix socket can tell the app `ECONNRESET` or nothing; the real errno is asked for by cookie,
//! also some time after the socket has gone.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use stp_proto::local::Cookie;
use stp_proto::local::wire::SocketState;

/// How long the state of a socket that has ended is kept.
const KEEP: Duration = Duration::from_secs(120);
/// The most ended sockets remembered.
const ENDED_MAX: usize = 16_384;

/// The table; clones share it.
#[derive(Clone, Default)]
pub(super) struct SocketStates(Arc<Mutex<Table>>);

#[derive(Default)]
struct Table {
    sockets: HashMap<Cookie, Entry>,
    ended: VecDeque<(Instant, Cookie)>,
}

struct Entry {
    state: SocketState,
    abortive: bool,
}

impl SocketStates {
    /// A new socket, its connect under way; false when this cookie is known already.
    pub(super) fn open(&self, cookie: Cookie, abortive: bool) -> bool {
        let mut table = self.0.lock();
        if table.sockets.contains_key(&cookie) {
            return false;
        }
        table.sockets.insert(cookie, Entry { state: SocketState::Pending, abortive });
        true
    }

    /// A later fact about a socket that lives.
    pub(super) fn set(&self, cookie: Cookie, state: SocketState) {
        if let Some(entry) = self.0.lock().sockets.get_mut(&cookie) {
            entry.state = state;
        }
    }

    /// The last fact about a socket.
    pub(super) fn end(&self, cookie: Cookie, state: SocketState, now: Instant) {
        let mut table = self.0.lock();
        let Some(entry) = table.sockets.get_mut(&cookie) else { return };
        entry.state = state;
        table.ended.push_back((now, cookie));
        while let Some(&(since, cookie)) = table.ended.front() {
            if table.ended.len() <= ENDED_MAX && now.duration_since(since) < KEEP {
                break;
            }
            table.ended.pop_front();
            table.sockets.remove(&cookie);
        }
    }

    pub(super) fn ask(&self, cookie: Cookie) -> SocketState {
        self.0.lock().sockets.get(&cookie).map_or(SocketState::Unknown, |entry| entry.state)
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
        let (states, start) = (SocketStates::default(), Instant::now());
        assert!(states.open(cookie(1), false));
        assert!(!states.open(cookie(1), false));
        assert_eq!(states.ask(cookie(1)), SocketState::Pending);
        states.end(cookie(1), SocketState::Refused(111), start);
        assert_eq!(states.ask(cookie(1)), SocketState::Refused(111));
        states.open(cookie(2), false);
        states.end(cookie(2), SocketState::Closed, start + KEEP);
        assert_eq!(states.ask(cookie(1)), SocketState::Unknown);
        assert_eq!(states.ask(cookie(2)), SocketState::Closed);
    }

    #[test]
    fn the_table_is_bounded_but_never_forgets_a_living_socket() {
        let (states, now) = (SocketStates::default(), Instant::now());
        states.open(cookie(0), true);
        for number in 1..=ENDED_MAX as u32 + 10 {
            states.open(cookie(number), false);
            states.end(cookie(number), SocketState::Closed, now);
        }
        assert_eq!(states.0.lock().sockets.len(), ENDED_MAX + 1);
        assert_eq!(states.ask(cookie(0)), SocketState::Pending);
        assert!(states.is_abortive(cookie(0)));
        assert_eq!(states.ask(cookie(1)), SocketState::Unknown);
    }
}
