//! Scenarios: the observer on whole exchanges, cut everywhere; plans carried out against a
//! replica that is a pure function.

mod observe;
mod proceed;

use super::*;
use crate::replay::{NoReplay, NoReplayKind, Policy};

/// Everything that an exchange does to an observer, in pieces of the given sizes.
pub(super) struct Run {
    pub observer: Observer,
    pub up: Vec<u8>,
    pub down: Vec<u8>,
    pub ended: usize,
    pub tickets: Vec<(u64, Exchange)>,
}

impl Run {
    pub fn new() -> Self {
        let (up, down) = (Vec::new(), Vec::new());
        Self { observer: Observer::new(0, 0), up, down, ended: 0, tickets: Vec::new() }
    }

    /// As a service does it; returns what has to wait.
    pub fn up<'a>(&mut self, mut bytes: &'a [u8]) -> &'a [u8] {
        while !bytes.is_empty() {
            let head = self.observer.up_flow() == Flow::Head;
            if self.observer.up_flow() == Flow::Wait {
                break;
            }
            let (taken, event) = self.observer.up(bytes);
            match event {
                Up::More if head => {}
                Up::More => self.up.extend_from_slice(&bytes[..taken]),
                Up::Head { .. } => self.up.extend_from_slice(self.observer.request_head()),
                Up::Opaque => {
                    self.up.extend(self.observer.take_held_up());
                    if !head {
                        self.up.extend_from_slice(&bytes[..taken]);
                    }
                }
            }
            bytes = &bytes[taken..];
            self.ended += usize::from(self.observer.take_ended());
        }
        bytes
    }

    pub fn down(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let head = self.observer.down_flow() == Flow::Head;
            let (taken, event) = self.observer.down(bytes);
            match event {
                Down::More if head => {}
                Down::More => self.down.extend_from_slice(&bytes[..taken]),
                Down::Head => {
                    if let Some(exchange) = self.observer.exchange() {
                        self.tickets.push((self.observer.covers(), exchange));
                    }
                    assert_eq!(self.observer.positions().1, self.down.len() as u64);
                    let released = self.observer.release_head();
                    self.down.extend_from_slice(&released);
                }
                Down::Interim | Down::Opaque => {
                    self.down.extend(self.observer.take_held_down());
                    if !head {
                        self.down.extend_from_slice(&bytes[..taken]);
                    }
                }
            }
            bytes = &bytes[taken..];
            self.ended += usize::from(self.observer.take_ended());
        }
        assert!(self.observer.positions().1 <= self.down.len() as u64);
    }
}

/// A file that is different everywhere.
pub(super) fn content(length: usize) -> Vec<u8> {
    (0..length as u64).map(|i| (i.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u8).collect()
}
