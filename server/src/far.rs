//! The far side of a server's session: links come to it, it dials none. What happens to the
//! session is written down for the status, and its end for those who ask later.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use stp_drive::{Act, DialFailed, Dialed, Far, History, Never, SessionStatus, path_sample};
use stp_net::link::{Link, TcpInfo};
use stp_proto::handle::Handle;
use stp_proto::rise::RiseWatch;
use stp_proto::session::{Attempt, Event, LostCause, Session};
use stp_proto::time;
use stp_proto::wire::TransferReason;
use tokio::sync::mpsc;

use crate::passes::Passes;
use crate::registry::{Key, Registry};

/// A link that a session gave back, and what the broker has already said for the next one.
pub type GivenBack = (Link, Option<Vec<u8>>);

/// The far side of one session.
pub struct ServerFar {
    /// Where its end is noted.
    pub registry: Arc<Registry>,
    /// Which session it is.
    pub key: Key,
    /// The handle this server chose.
    pub own: Handle,
    /// How long its tombstone stands.
    pub tombstone: Duration,
    /// Links that can carry another session.
    pub links: mpsc::UnboundedSender<GivenBack>,
    /// What is published.
    pub status: Arc<SessionStatus>,
    /// When it began here.
    pub since: Instant,
    /// The round trip of its link.
    pub watch: RiseWatch,
    /// For being reached through others, if its service can need that.
    pub passes: Option<Passes>,
    /// The broker has said that it cannot go elsewhere.
    pub fixed: Arc<AtomicBool>,
}

impl ServerFar {
    fn record(&self, session: &Session, what: &'static str, cause: String, gap: Option<Duration>) {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        tracing::debug!(session = %self.own, what, cause);
        self.status.record(History {
            at_ms: millis(self.since.elapsed()),
            what,
            cause,
            gap_ms: gap.map(millis),
            from_server: None,
            to_server: None,
            at_byte: session.positions().nxt,
        });
    }
}

impl Far for ServerFar {
    type Link = Link;
    type Found = Result<Dialed<Link>, DialFailed>;
    type Dialing = Never<Link>;

    fn dial(&mut self, _now: time::Instant, _session: &Session) -> Never<Link> {
        std::future::pending()
    }

    fn dialed(
        &mut self,
        _now: time::Instant,
        _session: &mut Session,
        found: Self::Found,
    ) -> Result<Dialed<Link>, DialFailed> {
        found
    }

    fn event(&mut self, _now: time::Instant, session: &mut Session, event: &Event) -> Act {
        match event {
            Event::Attached { attempt, gap, again, .. } => {
                self.watch.forget();
                if let Some(passes) = &mut self.passes {
                    passes.again();
                }
                let how = match attempt {
                    Attempt::Connect => "connect",
                    Attempt::Resume => "resume",
                    Attempt::Transfer => "transfer",
                };
                let cause = format!("{how}, {again} bytes again");
                self.record(session, "attached", cause, Some(*gap));
            }
            Event::Lost { cause, .. } => {
                let cause = match cause {
                    LostCause::Broken => "the link broke",
                    LostCause::Silent => "the link was silent",
                    LostCause::Unanswered => "no answer",
                    LostCause::Overtaken => "overtaken",
                };
                self.record(session, "lost", cause.to_owned(), None);
            }
            Event::Suspended { by_peer } => {
                let who = if *by_peer { "by the app's side" } else { "here" };
                self.record(session, "suspended", who.to_owned(), None);
            }
            Event::Stays { reason } => {
                let fixed = *reason == TransferReason::NotTransferable;
                self.fixed.store(fixed, Ordering::Relaxed);
                self.record(session, "stays", reason.to_string(), None);
            }
            Event::Closed { .. } => {
                if let Some(epitaph) = session.epitaph() {
                    self.registry.bury(self.key, self.own, epitaph, self.tombstone);
                }
            }
            _ => {}
        }
        Act::Nothing
    }

    fn wants_sample(&self, now: time::Instant) -> bool {
        self.watch.is_due(now)
    }

    /// STP 6: asks the broker to go elsewhere when the round trip has risen.
    fn sample(&mut self, now: time::Instant, session: &mut Session, info: &TcpInfo) -> Act {
        if let Some(passes) = &mut self.passes {
            passes.give(now, session);
        }
        if let Some(rise) = self.watch.sample(now, path_sample(session, info)) {
            let text = rise.to_string();
            tracing::info!(session = %self.own, "asks to be left: {text}");
            session.request_transfer(TransferReason::Congested, &text);
            self.record(session, "asks to be left", text, None);
        }
        Act::Nothing
    }

    fn reuse(&mut self, _now: time::Instant, link: Link, first: Option<Vec<u8>>) {
        // Nobody listens any more when the server ends.
        let _ = self.links.send((link, first));
    }
}
