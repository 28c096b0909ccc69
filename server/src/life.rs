//! A session that runs here, and what is said when it has ended.

use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use stp_drive::{Command, Holder, SessionStatus, Stake, Start};
use stp_net::limit::network;
use stp_net::link::Link;
use stp_proto::handle::Handle;
use stp_proto::rise::{RiseWatch, Rule};
use stp_proto::session::Session;
use tokio::sync::mpsc;

use crate::far::{DaemonHost, GivenBack, ServerFar};
use crate::passes::Passes;
use crate::registry::{Ended, Key, Registry, Running};
use crate::service::Service;
use crate::service::upstream::Target;

/// Commands that may wait for a session's loop.
pub(crate) const INBOX: usize = 16;

/// Whose memory a session on this link takes.
pub(crate) fn holders(link: &Link) -> Vec<Holder> {
    vec![Holder::Key(link.peer_key()), Holder::Network(network(link.peer_addr().ip()))]
}

/// A session that can be run.
pub(crate) struct Ready {
    pub(crate) session: Session,
    pub(crate) near: Service,
    pub(crate) own: Handle,
    pub(crate) commands: mpsc::Receiver<Command>,
    pub(crate) status: (Arc<SessionStatus>, Stake),
    pub(crate) service: String,
    pub(crate) since: Instant,
    pub(crate) fixed: Arc<AtomicBool>,
    pub(crate) passes: Option<Passes>,
    /// Kept as long as the session lives: an egress counts it by that.
    pub(crate) led: Option<Target>,
}

/// What is left to be said when a session has ended, however it did.
pub(crate) struct Life {
    pub(crate) registry: Arc<Registry>,
    pub(crate) links: mpsc::UnboundedSender<GivenBack>,
    pub(crate) tombstone: Duration,
    pub(crate) rise: Rule,
    pub(crate) key: Key,
    /// What is said of its end, once it runs.
    pub(crate) ended: Option<Ended>,
    pub(crate) running: Running,
}

impl Life {
    pub(crate) async fn run(mut self, ready: Ready, start: Start) {
        let host = DaemonHost {
            registry: Arc::clone(&self.registry),
            key: self.key,
            own: ready.own,
            tombstone: self.tombstone,
            links: self.links.clone(),
            status: Arc::clone(&ready.status.0),
            since: ready.since,
            passes: ready.passes,
            fixed: ready.fixed,
        };
        let far = ServerFar::new(host, RiseWatch::new(self.rise));
        self.ended = Some(Ended {
            own: ready.own,
            service: ready.service,
            client: self.key.0,
            reason: "internal error: the session's task panicked".to_owned(),
            lived: Duration::ZERO,
            at: ready.since,
        });
        let Ready { session, near, commands, status, led: _counted, .. } = ready;
        let reason = stp_drive::run(session, near, far, commands, start, status).await;
        if let Some(ended) = &mut self.ended {
            ended.reason = reason;
        }
    }
}

impl Drop for Life {
    fn drop(&mut self) {
        let Some(ended) = self.ended.take() else { return };
        let (since, now) = (ended.at, Instant::now());
        let ended = Ended { lived: now - since, at: now, ..ended };
        if std::thread::panicking() {
            tracing::error!(session = %ended.own, reason = ended.reason, "session ended");
        } else {
            tracing::info!(session = %ended.own, reason = ended.reason, "session ended");
        }
        let _ = &self.running;
        self.registry.note_end(ended);
    }
}
