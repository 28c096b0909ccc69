//! Sessions without a far end: the broker's own server asks the app's destination.
//!
//! The session is the same as any other, with its two ends in one process. What a far end would do
//! when the path or the origin dies, the server inside does: it asks for the rest of the response
//! and goes on at the exact byte, after it has compared what the app has.

use std::future::{Ready, ready};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use stp_drive::{Act, DialFailed, Dialed, Far};
use stp_proto::course::AppError;
use stp_proto::session::{Denied, Event, Peer, Session, code};
use stp_proto::time::Instant;
use stp_proto::wire::{Announcement, DenyReason, TransferReason};
use stp_server::within::Within;

use crate::any_link::AnyLink;
use crate::broker::Broker;
use crate::entry::Entry;
use crate::group;

pub use stp_server::service::direct::{Direct, Mirror, Note};

/// Writes what happens to an origin's streams into a session's history, and has them keep to its
/// policy.
pub struct Notes(pub Arc<Broker>, pub Arc<Entry>);

impl Note for Notes {
    fn note(&self, what: &'static str, cause: &str, at: u64) {
        self.1.record(what, cause.to_owned(), at);
    }

    fn ways(&self) -> Option<Vec<String>> {
        self.1.service.leave.as_ref().map(|leave| leave.ways())
    }

    fn forbids(&self, from: IpAddr) -> Option<String> {
        let leave = self.1.service.leave.as_ref().filter(|_| !from.is_loopback())?;
        let name = self.0.policies.interface_of(from)?;
        (!leave.ways().contains(&name)).then(|| leave.forbids(&name))
    }

    fn connected(&self, from: SocketAddr) {
        self.1.view.lock().local = Some(from);
    }
}

/// The far side of a session that the broker's own server serves.
pub struct DirectFar {
    broker: Arc<Broker>,
    entry: Arc<Entry>,
    within: Within,
}

impl DirectFar {
    /// The far side of this session.
    #[must_use]
    pub fn new(broker: Arc<Broker>, entry: Arc<Entry>, within: Within) -> DirectFar {
        DirectFar { broker, entry, within }
    }

    fn give_up(&self, error: AppError, why: String) -> Act {
        self.entry.give_up(error, &why);
        self.broker.session_ended(&self.entry, &why);
        Act::Abort { code: code::NO_SERVER, reason: why }
    }
}

impl Far for DirectFar {
    type Link = AnyLink;
    type Found = Result<Dialed<AnyLink>, DialFailed>;
    type Dialing = Ready<Self::Found>;

    fn dial(&mut self, _now: Instant, session: &Session) -> Self::Dialing {
        // R103: its other end died with the broker before.
        let is_restored = session.is_established() && !self.within.is_begun();
        let peer = match session.transferable() {
            _ if !is_restored => Peer::Same,
            Ok(()) => Peer::Other,
            Err(why) => {
                let why = format!("its server was a part of the broker that has ended, and {why}");
                let then = self.give_up(AppError::Reset, why.clone());
                return ready(Err(DialFailed { why, then }));
            }
        };
        ready(Ok((AnyLink::Within(self.within.link()), peer)))
    }

    fn dialed(
        &mut self,
        _now: Instant,
        _session: &mut Session,
        found: Self::Found,
    ) -> Result<Dialed<AnyLink>, DialFailed> {
        found
    }

    fn announced(&mut self, _session: &Session, announcement: &Announcement) {
        group::announced(&self.broker, &self.entry, announcement);
    }

    fn event(&mut self, _now: Instant, session: &mut Session, event: &Event) -> Act {
        let at_byte = session.positions().received;
        match event {
            Event::Attached { attempt, .. } => {
                self.entry.view.lock().attached = true;
                self.broker.count_attach(*attempt);
                self.entry.record("connected", "directly, without a far end".to_owned(), at_byte);
                Act::Nothing
            }
            Event::Denied(Denied::Connect { why, text, .. }) => {
                let error = match why {
                    DenyReason::Refused(errno) => AppError::Number(i32::from(*errno)),
                    _ => AppError::Refused,
                };
                self.give_up(error, format!("{}: {text}", self.entry.destination))
            }
            Event::Denied(Denied::Resume(why)) => self.give_up(AppError::Reset, why.to_string()),
            Event::Suspended { by_peer, .. } => {
                self.entry.view.lock().attached = false;
                let who = if *by_peer { "by the server" } else { "here" };
                self.entry.record("suspended", who.to_owned(), at_byte);
                Act::Nothing
            }
            Event::Woken => {
                self.entry.woken(at_byte);
                Act::Nothing
            }
            // There is nobody else to go to. The server hands on what there is, and then the end.
            Event::TransferWanted { text, .. } => {
                self.entry.record("stays", text.clone(), at_byte);
                Act::Stay(TransferReason::NobodyBetter)
            }
            Event::Lost { .. } if session.link().is_none() => {
                self.give_up(AppError::Reset, "the broker's own server failed; see its log".into())
            }
            _ => Act::Nothing,
        }
    }

    fn reuse(&mut self, _now: Instant, _link: AnyLink, _first: Option<Vec<u8>>) {}
}
