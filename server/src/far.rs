//! The far side of a server's session: links come to it, it dials none. What happens to the
//! session is written down for the status, and its end for a RESUME that comes later.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use stp_drive::{
    Act, Carrier, DialFailed, Dialed, Far, History, Never, SessionStatus, path_sample,
};
use stp_net::link::{Link, TcpInfo};
use stp_proto::handle::Handle;
use stp_proto::rise::RiseWatch;
use stp_proto::session::{Attempt, Event, LostCause, Session};
use stp_proto::time;
use stp_proto::wire::{ResumeDenial, TransferReason};
use tokio::sync::mpsc;

use crate::passes::Passes;
use crate::registry::{Key, Registry};

/// A link that a session gave back, and what the broker has already said for the next one.
pub type GivenBack = (Link, Option<Vec<u8>>);

/// What a session's far side tells its server.
pub trait Host {
    /// What carries the session.
    type Link: Carrier;

    /// The session has ended: the epoch and the reason for a late RESUME.
    fn bury(&mut self, now: time::Instant, epitaph: (u32, ResumeDenial));
    /// A link that can carry another session, and what the broker has already said for that.
    fn give_back(&mut self, link: Self::Link, first: Option<Vec<u8>>);
    /// Gives the broker a pass if it is time, for being led here through others (R80).
    fn give_pass(&mut self, now: time::Instant, session: &mut Session);
    /// The session has a new link: a pass is due.
    fn pass_again(&mut self);
    /// The broker has said that the session can, or cannot, go elsewhere.
    fn stays(&mut self, fixed: bool);
    /// Something for the session's history; for how long there was no link.
    fn record(&self, session: &Session, what: &'static str, cause: String, gap: Option<Duration>);
}

/// The far side of one session.
pub struct ServerFar<H> {
    host: H,
    /// The round trip of its link.
    watch: RiseWatch,
}

impl<H: Host> ServerFar<H> {
    /// The far side of a session that has just been accepted.
    pub fn new(host: H, watch: RiseWatch) -> Self {
        ServerFar { host, watch }
    }
}

impl<H: Host> Far for ServerFar<H> {
    type Link = H::Link;
    type Found = Result<Dialed<H::Link>, DialFailed>;
    type Dialing = Never<H::Link>;

    fn dial(&mut self, _now: time::Instant, _session: &Session) -> Never<H::Link> {
        std::future::pending()
    }

    fn dialed(
        &mut self,
        _now: time::Instant,
        _session: &mut Session,
        found: Self::Found,
    ) -> Result<Dialed<H::Link>, DialFailed> {
        found
    }

    fn event(&mut self, now: time::Instant, session: &mut Session, event: &Event) -> Act {
        match event {
            Event::Attached { attempt, gap, again, .. } => {
                self.watch.forget();
                self.host.pass_again();
                let how = match attempt {
                    Attempt::Connect => "connect",
                    Attempt::Resume => "resume",
                    Attempt::Transfer => "transfer",
                };
                let cause = format!("{how}, {again} bytes again");
                self.host.record(session, "attached", cause, Some(*gap));
            }
            Event::Lost { cause, .. } => {
                let cause = match cause {
                    LostCause::Broken => "the link broke",
                    LostCause::Silent => "the link was silent",
                    LostCause::Unanswered => "no answer",
                    LostCause::Overtaken => "overtaken",
                };
                self.host.record(session, "lost", cause.to_owned(), None);
            }
            Event::Suspended { by_peer, lasts } => {
                let by = if *by_peer { "by the app's side" } else { "here" };
                let cause = match lasts {
                    Some(lasts) => format!("{by}, for {} s", lasts.as_secs()),
                    None => by.to_owned(),
                };
                self.host.record(session, "suspended", cause, None);
            }
            Event::Woken => {
                self.host.record(session, "woken", "its time was over".to_owned(), None);
            }
            Event::Stays { reason } => {
                self.host.stays(*reason == TransferReason::NotTransferable);
                self.host.record(session, "stays", reason.to_string(), None);
            }
            Event::Closed { .. } => {
                if let Some(epitaph) = session.epitaph() {
                    self.host.bury(now, epitaph);
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
        self.host.give_pass(now, session);
        if let Some(rise) = self.watch.sample(now, path_sample(session, info)) {
            let text = rise.to_string();
            session.request_transfer(TransferReason::Congested, &text);
            self.host.record(session, "asks to be left", text, None);
        }
        Act::Nothing
    }

    fn reuse(&mut self, _now: time::Instant, link: H::Link, first: Option<Vec<u8>>) {
        self.host.give_back(link, first);
    }
}

/// What one session of a daemon tells its server.
pub struct DaemonHost {
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
    /// For being reached through others, if its service can need that.
    pub passes: Option<Passes>,
    /// The broker has said that it cannot go elsewhere.
    pub fixed: Arc<AtomicBool>,
}

impl Host for DaemonHost {
    type Link = Link;

    fn bury(&mut self, now: time::Instant, epitaph: (u32, ResumeDenial)) {
        self.registry.bury(now, (self.key, self.own), epitaph, self.tombstone);
    }

    fn give_back(&mut self, link: Link, first: Option<Vec<u8>>) {
        // Nobody listens any more when the server ends.
        let _ = self.links.send((link, first));
    }

    fn give_pass(&mut self, now: time::Instant, session: &mut Session) {
        if let Some(passes) = &mut self.passes {
            passes.give(now, session);
        }
    }

    fn pass_again(&mut self) {
        if let Some(passes) = &mut self.passes {
            passes.again();
        }
    }

    fn stays(&mut self, fixed: bool) {
        self.fixed.store(fixed, Ordering::Relaxed);
    }

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
