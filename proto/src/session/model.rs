//! For the model checker only (feature `model`, never on in what is shipped): which timers are set,
//! and one of them expiring while the clock stands still.

use super::clock::Timer;
use super::{Detach, LinkId, Session};
use crate::role::Dialing;
use crate::time::Instant;

impl Session {
    /// The timers that are set.
    pub fn timers(&self) -> impl Iterator<Item = Timer> {
        Timer::ALL.into_iter().filter(|timer| self.clock.is_set(*timer))
    }

    /// Makes one timer expire at `now`; the others stay as they are.
    pub fn expire(&mut self, now: Instant, timer: Timer) {
        self.clock.set(timer, now);
    }

    /// Acceptor: whether the initiator was heard after its CONNECT.
    pub fn is_confirmed(&self) -> bool {
        self.confirmed
    }

    /// Whether the end of the peer's stream was received.
    pub fn has_peer_end(&self) -> bool {
        self.receive.fin
    }

    /// The mistake `ReuseEarly`.
    pub(super) fn reuse_early(&mut self, link: LinkId) {
        if self.role.dialing == Dialing::Dialer && self.receive.fin {
            self.links.attached = None;
            self.outbox.detach(link, Detach::Reuse);
        }
    }
}
