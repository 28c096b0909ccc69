//! What is announced of connections that belong to a session (R90, R91), kept in stream order.

use std::collections::VecDeque;

use crate::mutant::mutant;
use crate::wire::{Announce, Announcement, Belongs};

/// The acceptor's announcements, each sent just before the DATA at its place, and the
/// initiator's until they are carried out.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Announcing {
    /// By rising `at`.
    pub queue: VecDeque<Announce>,
    /// Index of the next one to send on the attached link.
    next: usize,
    /// Initiator: heard, in order.
    pub heard: Vec<Announcement>,
    /// Initiator: what the CONNECT says.
    pub belongs: Belongs,
}

impl Announcing {
    /// The one due before the byte at `nxt`.
    pub fn due(&self, nxt: u64) -> Option<Announce> {
        let late = mutant!(AnnounceLate, 0, 1);
        self.queue.get(self.next).copied().filter(|announce| announce.at + late <= nxt)
    }

    /// The due one was sent.
    pub fn sent(&mut self) {
        self.next += 1;
    }

    /// Bytes that may be sent from `nxt` on before the next one.
    pub fn distance(&self, nxt: u64) -> u64 {
        let late = mutant!(AnnounceLate, 0, 1);
        self.queue.get(self.next).map_or(u64::MAX, |announce| announce.at + late - nxt)
    }

    /// The initiator has received up to `heard`: what stands before that was heard as well.
    pub fn on_heard(&mut self, heard: u64) {
        while self.next > 0 && self.queue.front().is_some_and(|first| first.at < heard) {
            self.queue.pop_front();
            self.next -= 1;
        }
    }

    /// R91: a resume continues at `position`: what stands there or behind it goes again.
    pub fn roll_back(&mut self, position: u64) {
        let before = self.queue.iter().take_while(|announce| announce.at < position).count();
        self.next = mutant!(AnnounceNotAgain, self.next.min(before), self.next);
    }
}
