//! The links of a session: the attached one, that of an attempt, and the one beside.

use core::time::Duration;

use super::{Attempt, LinkId};
use crate::cut::Cuts;
use crate::handle::Handle;
use crate::seam::Seam;
use crate::wire::{Announce, Upkeep};

/// The links of a session (R1).
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Links {
    /// Data moves here.
    pub(super) attached: Option<LinkId>,
    /// An attempt is under way here.
    pub(super) trying: Option<(LinkId, Attempt)>,
    /// No link with this number or a smaller one begins any more.
    pub(super) newest: Option<LinkId>,
    /// The driver was asked for a link.
    pub(super) dialing: bool,
}

impl Links {
    /// The link that is spoken on.
    pub(super) fn current(&self) -> Option<LinkId> {
        self.attached.or(self.trying.map(|(link, _)| link))
    }

    /// Takes note of a new link; false if its number is not new.
    pub(super) fn begin(&mut self, link: LinkId) -> bool {
        let new = self.newest.is_none_or(|newest| link > newest);
        if new {
            self.newest = Some(link);
        }
        new
    }
}

/// When the next attempt is made.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(super) enum Pace {
    Now,
    Soon,
    Slow,
    After(Duration),
}

/// An attempt at another server while the old link lives.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Beside {
    pub(super) link: LinkId,
    /// What the ticket it was shown covers, and where that ticket's digest begins.
    pub(super) covers: u64,
    pub(super) seam_from: u64,
    /// What has come from the old server since it was asked.
    pub(super) old: Seam,
    /// The same bytes as they come from the new one.
    pub(super) new: Seam,
    /// The end of what was acknowledged to it.
    pub(super) told: u64,
    /// The old link is not read, so that the new server can catch up.
    pub(super) paused: bool,
    /// The cuts agreed with it: its buffer is full at once, and a full buffer proposes one.
    pub(super) cuts: Cuts,
    /// It has the session, as soon as it has caught up.
    pub(super) answer: Option<Answer>,
    /// The newest ticket it gave.
    pub(super) ticket: Option<Box<OwnTicket>>,
    /// What it announced.
    pub(super) announced: Vec<Announce>,
}

/// CONNECT_OK, kept.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct Answer {
    pub(super) acceptor: Handle,
    pub(super) epoch: u32,
    pub(super) features: u32,
    pub(super) up: u64,
    pub(super) limit: u64,
    pub(super) hold: Duration,
    pub(super) upkeep: Option<Upkeep>,
    pub(super) server: Box<str>,
}

#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub(super) struct OwnTicket {
    pub(super) at: u64,
    pub(super) covers: u64,
    pub(super) seam_from: u64,
    pub(super) transferable: bool,
    pub(super) ticket: Box<[u8]>,
}
