//! Announcing connections that belong to this session (R90, R91).

use super::{PeerMisbehaved, Session};
use crate::handle::Handle;
use crate::role::Daemon;
use crate::state::State;
use crate::wire::{Announce, Announcement, Belongs, FEATURE_GROUP};

/// Most announcements that the broker's end keeps until its driver takes them.
const KEPT_MAX: usize = 16;

impl Session {
    /// Acceptor: announces this before the next byte of the near side. False if the initiator does
    /// not know announcements.
    pub fn announce(&mut self, announcement: Announcement) -> bool {
        let knows = self.peer_features & FEATURE_GROUP != 0;
        if knows && self.role.daemon == Daemon::Server && self.state != State::Closed {
            let at = self.send.end();
            self.announcing.queue.push_back(Announce { at, announcement });
        }
        knows
    }

    /// Initiator: what every CONNECT is to say of the app's connection. To be called before the
    /// first link is up.
    pub fn belongs(&mut self, belongs: Belongs) {
        self.announcing.belongs = belongs;
    }

    /// Initiator: what was announced. To be taken and carried out before the bytes that came with
    /// it are handed to the near side.
    pub fn take_announced(&mut self) -> Vec<Announcement> {
        core::mem::take(&mut self.announcing.heard)
    }

    /// The token under which this session was announced.
    #[must_use]
    pub fn token(&self) -> Option<Handle> {
        self.announcing.belongs.token
    }

    pub(super) fn on_announce(&mut self, announce: &Announce) -> Result<(), PeerMisbehaved> {
        let received = self.receive.received;
        if announce.at > received {
            let position = announce.at;
            return Err(PeerMisbehaved::WrongTicket { position, reached: received });
        }
        if self.announcing.heard.len() >= KEPT_MAX {
            return Err(PeerMisbehaved::Unexpected("ANNOUNCE"));
        }
        self.announcing.heard.push(announce.announcement);
        Ok(())
    }
}
