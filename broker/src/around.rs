//! What a session's course asks of the broker while it decides.

use std::sync::Arc;
use std::time::Duration;

use stp_proto::course::{Around, Relay, Standing, Ways};
use stp_proto::select::Rank;
use stp_proto::time::Instant;

use crate::broker::Broker;
use crate::entry::Entry;

/// What is around one session.
#[derive(Clone)]
pub struct Surroundings {
    /// Everything the broker has.
    pub broker: Arc<Broker>,
    /// The session.
    pub entry: Arc<Entry>,
}

impl Ways for Surroundings {
    fn standing(&self, server: Rank) -> Standing {
        self.entry.service.servers[server].reach.standing()
    }

    fn last_link(&self, server: Rank) -> Option<Duration> {
        self.entry.service.servers[server].reach.last_link()
    }
}

impl Around for Surroundings {
    fn server_name(&self, server: Rank) -> String {
        self.entry.service.server_name(server)
    }

    fn relay_name(&self, relay: Relay) -> String {
        let server = self.broker.server_with_key(relay);
        server.map_or_else(|| "an unknown server".to_owned(), |server| server.name())
    }

    fn listed_until(&self, now: Instant, server: Rank) -> Option<Instant> {
        self.broker.overloaded.lock().until(now, &(self.entry.service_number, server))
    }

    fn round_trip(&self, server: Rank) -> Option<Duration> {
        self.entry.service.servers[server].distance.way().now
    }

    fn take_exit(&self, now: Instant, server: Rank) -> bool {
        self.entry.service.servers[server].exits.lock().take(now)
    }
}
