//! What a session's course asks of the broker while it decides.

use std::sync::Arc;
use std::time::Duration;

use stp_proto::course::{Around, Relay, Standing, Ways};
use stp_proto::select::Rank;
use stp_proto::time::Instant;

use crate::broker::Broker;
use crate::entry::Entry;
use crate::service::Server;

/// What is around one session.
#[derive(Clone)]
pub struct Surroundings {
    /// Everything the broker has.
    pub broker: Arc<Broker>,
    /// The session.
    pub entry: Arc<Entry>,
}

/// A member of a group is tried at other servers than its lead's this much later.
const ELSEWHERE_AFTER: Duration = Duration::from_secs(2);

impl Surroundings {
    /// One of its servers.
    pub(crate) fn server(&self, rank: Rank) -> &Arc<Server> {
        &self.entry.service.servers[rank]
    }

    /// The name of a server on the overloaded list.
    pub(crate) fn listed_as(&self, rank: Rank) -> (usize, Rank) {
        (self.entry.service_number, rank)
    }

    /// The server of the session to which this one belongs, if this one is not there.
    fn lead_server(&self) -> Option<Rank> {
        let lead = self.entry.lead()?;
        let there = {
            let view = lead.view.lock();
            view.server.filter(|_| view.attached)
        };
        there.filter(|there| self.entry.view.lock().server != Some(*there))
    }
}

impl Ways for Surroundings {
    fn standing(&self, server: Rank) -> Standing {
        self.server(server).reach.standing()
    }

    fn last_link(&self, server: Rank) -> Option<Duration> {
        self.server(server).reach.last_link()
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
        let listed = self.broker.overloaded.lock().until(now, &self.listed_as(server));
        // R94: a member goes where its lead is, and elsewhere only if that server does not answer.
        match self.lead_server() {
            Some(lead) if lead != server => listed.max(Some(now + ELSEWHERE_AFTER)),
            _ => listed,
        }
    }

    fn round_trip(&self, server: Rank) -> Option<Duration> {
        if self.lead_server() == Some(server) {
            return Some(Duration::ZERO);
        }
        self.server(server).distance.way().now
    }

    fn take_exit(&self, now: Instant, server: Rank) -> bool {
        self.server(server).exits.lock().take(now)
    }
}
