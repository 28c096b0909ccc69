//! The links of one session: the attached one, an attempt, and for a moment an old one.

use std::task::Context;

use stp_proto::session::LinkId;

use crate::carrier::Carrier;

/// At most this many links of a session exist at a time: attached, attempt, and one just evicted.
const LINKS_MAX: usize = 4;

/// A small list: a map would cost more than it saves.
pub(crate) struct Links<L> {
    list: Vec<(LinkId, L)>,
    next: u64,
}

impl<L> Default for Links<L> {
    fn default() -> Links<L> {
        Links { list: Vec::new(), next: 0 }
    }
}

impl<L: Carrier> Links<L> {
    /// Takes a link up and gives it a number. The oldest is dropped if there are too many.
    pub(crate) fn add(&mut self, link: L) -> LinkId {
        let id = LinkId(self.next);
        self.next += 1;
        if self.list.len() == LINKS_MAX {
            self.list.remove(0);
        }
        self.list.push((id, link));
        id
    }

    pub(crate) fn get_mut(&mut self, id: LinkId) -> Option<&mut L> {
        self.list.iter_mut().find(|(other, _)| *other == id).map(|(_, link)| link)
    }

    pub(crate) fn take(&mut self, id: LinkId) -> Option<L> {
        let at = self.list.iter().position(|(other, _)| *other == id)?;
        Some(self.list.remove(at).1)
    }

    pub(crate) fn newest(&self) -> Option<&L> {
        self.list.last().map(|(_, link)| link)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &(LinkId, L)> {
        self.list.iter()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut (LinkId, L)> {
        self.list.iter_mut()
    }

    /// Adds the links that can be read, except `paused`, to `readable`. Says whether a link that
    /// has something to send can be written.
    pub(crate) fn poll_ready(
        &mut self,
        cx: &mut Context<'_>,
        paused: Option<LinkId>,
        readable: &mut Vec<LinkId>,
    ) -> bool {
        let mut writable = false;
        for (id, link) in &mut self.list {
            if Some(*id) != paused && link.poll_readable(cx).is_ready() {
                readable.push(*id);
            }
            writable |= link.unsent() > 0 && link.poll_writable(cx).is_ready();
        }
        writable
    }
}
