//! The links of one session: the attached one, an attempt, and for a moment an old one.

use std::task::{Context, Poll};

use stp_net::link::Link;
use stp_proto::session::LinkId;

/// At most this many links of a session exist at a time: attached, attempt, and one just evicted.
const LINKS_MAX: usize = 4;

/// What [`Links::poll_ready`] found about one link.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Ready {
    pub(crate) readable: bool,
    pub(crate) writable: bool,
}

/// A small list: a map would cost more than it saves.
#[derive(Default)]
pub(crate) struct Links {
    list: Vec<(LinkId, Link)>,
    next: u64,
}

impl Links {
    /// The id that the next [`Links::add`] gives out.
    pub(crate) fn add(&mut self, link: Link) -> LinkId {
        let id = LinkId(self.next);
        self.next += 1;
        if self.list.len() == LINKS_MAX {
            self.list.remove(0);
        }
        self.list.push((id, link));
        id
    }

    pub(crate) fn get_mut(&mut self, id: LinkId) -> Option<&mut Link> {
        self.list.iter_mut().find(|(other, _)| *other == id).map(|(_, link)| link)
    }

    pub(crate) fn take(&mut self, id: LinkId) -> Option<Link> {
        let at = self.list.iter().position(|(other, _)| *other == id)?;
        Some(self.list.remove(at).1)
    }

    pub(crate) fn newest(&self) -> Option<&Link> {
        self.list.last().map(|(_, link)| link)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut (LinkId, Link)> {
        self.list.iter_mut()
    }

    /// Which links can be read, or written where something waits to be sent.
    pub(crate) fn poll_ready(&mut self, cx: &mut Context<'_>, ready: &mut Vec<(LinkId, Ready)>) {
        for (id, link) in &mut self.list {
            let readable = link.poll_readable(cx).is_ready();
            let writable = link.unsent() > 0 && matches!(link.poll_writable(cx), Poll::Ready(_));
            if readable || writable {
                ready.push((*id, Ready { readable, writable }));
            }
        }
    }
}
