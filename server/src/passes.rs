//! The passes that a server gives to the brokers of its sessions (R80).

use std::sync::Arc;
use std::time::Duration;

use stp_net::key::PublicKey;
use stp_net::seal;
use stp_proto::pass::Pass;
use stp_proto::session::Session;
use stp_proto::time;

use crate::ticket::{Cluster, unix_now};

/// Before a pass is offered again to a broker that had no link, or knows no passes.
const PASS_AGAIN: Duration = Duration::from_secs(60);

/// The passes of one session: a new one for every link, and when half its time is over.
pub struct Passes {
    cluster: Arc<Cluster>,
    /// This server.
    home: PublicKey,
    client: PublicKey,
    due: time::Instant,
}

impl Passes {
    /// For the client of a session at the server `home`.
    #[must_use]
    pub fn new(cluster: Arc<Cluster>, home: PublicKey, client: PublicKey) -> Passes {
        Passes { cluster, home, client, due: time::Instant(0) }
    }

    /// The session has a new link.
    pub fn again(&mut self) {
        self.due = time::Instant(0);
    }

    /// Gives the broker one if it is time.
    pub fn give(&mut self, now: time::Instant, session: &mut Session) {
        if now < self.due {
            return;
        }
        let life = self.cluster.life;
        let pass = Pass::new(&self.cluster.name, self.home.0, (unix_now(), life.as_secs()));
        let sealed = seal::seal(&self.cluster.key(), &pass.encode(), &self.client);
        self.due = now + if session.give_pass(&sealed) { life / 2 } else { PASS_AGAIN };
    }
}
