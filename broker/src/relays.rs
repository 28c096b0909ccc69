//! What the broker knows of ways through relays.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use stp_net::key::PublicKey;
use stp_proto::select::Overloaded;

use crate::distance::Distance;

/// What the broker knows of ways through relays, by the keys of relay and home.
#[derive(Default)]
pub struct Relays {
    ways: Mutex<BTreeMap<(PublicKey, PublicKey), Arc<Distance>>>,
    /// Relays that have refused to lead to a home, and are not asked again for a while.
    pub refused: Mutex<Overloaded<(PublicKey, PublicKey)>>,
}

impl Relays {
    /// How far a home is through a relay.
    pub fn distance(&self, relay: PublicKey, home: PublicKey) -> Arc<Distance> {
        Arc::clone(self.ways.lock().entry((relay, home)).or_default())
    }

    /// The network has changed: what was measured is of other paths.
    pub fn forget(&self) {
        self.ways.lock().clear();
    }
}
