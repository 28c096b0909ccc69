//! The far side of a session: which server it goes to, and what is to be done when one refuses or
//! is lost. The decisions are [`stp_proto::select`]'s; the ways are [`crate::reach`]'s.

mod choice;
mod leave;
mod link;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use stp_drive::{Act, DialFailed, Dialed, Far, path_sample};
use stp_net::link::{Link, TcpInfo};
use stp_proto::rise::{RiseWatch, Rule};
use stp_proto::select::{Next, Rejection, Want};
use stp_proto::session::{Denied, Event, Session, code};
use stp_proto::time;
use stp_proto::wire::{ResetFrame, TransferReason};

use crate::broker::Broker;
use crate::entry::Entry;
use crate::service::Server;
use choice::give_up;
use leave::take_leave;

/// What this end notices of a path is no news for so long after it was decided about.
const ASKED_LATELY: Duration = Duration::from_secs(2);

/// The far side of one session.
#[derive(Clone)]
pub struct SessionFar {
    broker: Arc<Broker>,
    entry: Arc<Entry>,
    /// Where the attached link leads, and since when there is one.
    link: Option<(Arc<Server>, time::Instant)>,
    /// The round trip of its link.
    watch: RiseWatch,
    /// When it was last decided whether to leave.
    asked: Option<Instant>,
}

impl SessionFar {
    /// The far side of this session.
    #[must_use]
    pub fn new(broker: Arc<Broker>, entry: Arc<Entry>) -> SessionFar {
        let watch = RiseWatch::new(Rule::default());
        SessionFar { broker, entry, link: None, watch, asked: None }
    }
}

/// A dial under way.
pub type Dialing = Pin<Box<dyn Future<Output = Result<Dialed<Link>, DialFailed>> + Send>>;

impl Far for SessionFar {
    type Link = Link;
    type Dialing = Dialing;

    fn heard(&mut self, now: time::Instant) {
        if let Some((server, since)) = &self.link {
            server.heard.note(now, *since);
        }
    }

    fn speaks_elsewhere(&self, now: time::Instant) -> bool {
        self.link.as_ref().is_some_and(|(server, _)| server.heard.lately(now))
    }

    fn dial(&mut self, _now: time::Instant, session: &Session) -> Dialing {
        let far = self.clone();
        let received = session.positions().received;
        // An attempt that is still under way may yet succeed: it is not forgotten for this.
        let mut course = self.entry.course.lock();
        if session.link().is_some() && course.plan.is_some() {
            drop(course);
            return Box::pin(async move { far.dial_planned(received).await });
        }
        if session.link().is_some()
            && let Some(turn) = course.turn.clone()
        {
            drop(course);
            return Box::pin(async move { far.dial_turn(turn, received).await });
        }
        (course.plan, course.turn) = (None, None);
        drop(course);
        let want = if session.is_established() {
            Want::Resume { transferable: session.transferable().is_ok() }
        } else {
            Want::Connect
        };
        Box::pin(async move { far.dial_any(want, received).await })
    }

    fn event(&mut self, _now: time::Instant, session: &mut Session, event: &Event) -> Act {
        let received = session.positions().received;
        match event {
            Event::Attached { attempt, gap, received, .. } => {
                self.watch.forget();
                self.attached(session, *attempt, *gap, *received);
                let home = {
                    let course = self.entry.course.lock();
                    // What comes through a relay says nothing of the straight way.
                    course.choice.home().filter(|_| course.via.is_none())
                };
                let server = home.map(|rank| Arc::clone(&self.entry.service.servers[rank]));
                self.link = server.map(|server| (server, self.broker.now()));
            }
            Event::Lost { cause, .. } if session.link().is_some() => {
                return self.lost_planned(*cause, received);
            }
            Event::Lost { cause, .. } => {
                self.link = None;
                return self.lost(*cause, received);
            }
            Event::Suspended { by_peer } => {
                let cause = if *by_peer { "by the server" } else { "by the user" };
                let mut course = self.entry.course.lock();
                course.attached = false;
                course.away_since = Some(Instant::now());
                course.lost = format!("suspended {cause}");
                drop(course);
                self.entry.record("suspended", cause.to_owned(), received);
            }
            Event::TransferWanted { reason, text } => {
                return self.asked_to_leave(session, *reason, text);
            }
            Event::Denied(why) => return self.denied(session, why),
            Event::PassGiven { pass } => {
                self.entry.course.lock().pass = Some(pass.as_ref().into());
            }
            Event::Moved { told: true, .. } => {}
            Event::Moved { old, told: false } => {
                if let Some(rank) = self.entry.course.lock().came_from {
                    let initiator = session.handles().0;
                    let reset = ResetFrame { initiator, acceptor: *old, code: code::MOVED };
                    let reach = Arc::clone(&self.entry.service.servers[rank].reach);
                    tokio::spawn(take_leave(reach, reset));
                }
            }
            Event::Closed { .. }
            | Event::Established { .. }
            | Event::Acknowledged(_)
            | Event::TicketStored { .. }
            | Event::EndReceived
            | Event::Stays { .. } => {}
        }
        Act::Nothing
    }

    fn reuse(&mut self, _now: time::Instant, link: Link, first: Option<Vec<u8>>) {
        // A server speaks only when asked; one that does not is no good for another session.
        if first.is_some() {
            return;
        }
        // Not always the last one's: an attempt at another may have ended before it attached.
        // And not one that leads there through a relay.
        let there = (link.peer_key(), link.peer_addr());
        let leads_to = |server: &&Arc<Server>| {
            let dialer = server.reach.dialer();
            (dialer.key, dialer.address()) == there
        };
        let servers = &self.entry.service.servers;
        let last = self.entry.course.lock().choice.last().map(|rank| &servers[rank]);
        if let Some(server) = last.into_iter().chain(servers).find(leads_to) {
            server.reach.keep(link);
        }
    }

    fn wants_sample(&self, now: time::Instant) -> bool {
        self.watch.is_due(now)
    }

    /// STP 6 the other way: this end sends, and its path has become slow.
    fn sample(&mut self, now: time::Instant, session: &mut Session, info: &TcpInfo) -> Act {
        // The server may have noticed as well, and asked.
        let asked = self.asked.is_some_and(|asked| asked.elapsed() < ASKED_LATELY);
        if let Some(rise) = self.watch.sample(now, path_sample(session, info))
            && !asked
        {
            return self.asked_to_leave(session, TransferReason::Congested, &rise.to_string());
        }
        Act::Nothing
    }
}

impl SessionFar {
    /// A server refused.
    fn denied(&mut self, session: &Session, why: &Denied) -> Act {
        let (refusal, text) = match why {
            Denied::Connect { why, retry_after, text, .. } => {
                (Some(Rejection::of_connect(*why, *retry_after)), text.clone())
            }
            Denied::Resume(why) => (Rejection::of_resume(*why), why.to_string()),
        };
        let Some(refusal) = refusal else { return Act::Nothing };
        if matches!(refusal, Rejection::Unauthorized | Rejection::Expired)
            && let Some(host) = &self.entry.host
        {
            self.broker.directory.distrust(host);
        }
        let mut course = self.entry.course.lock();
        let server = course.trying.map(|rank| self.entry.service.server_name(rank));
        let said = if text.is_empty() { String::new() } else { format!(": {text}") };
        let cause = format!("{} {refusal}{said}", server.as_deref().unwrap_or("server"));
        self.entry.record("refused", cause.clone(), session.positions().received);
        if session.link().is_some() {
            drop(course);
            return self.denied_planned(refusal, &cause, session.positions().received);
        }
        let next = self.refuse(&mut course, refusal, &text).unwrap_or(Next::Another);
        let hopeless = match (refusal, session.transferable()) {
            (Rejection::Unknown, Err(why)) if session.is_established() => {
                Some(format!("{cause}; and it cannot be continued elsewhere: {why}"))
            }
            _ => None,
        };
        let reason = match (next, hopeless) {
            (_, Some(reason)) => reason,
            (Next::GiveUp(why), None) => format!("no server can take it: {why} ({cause})"),
            (Next::Another, None) => return Act::Retry,
        };
        let errno = match refusal {
            _ if session.is_established() => nix::errno::Errno::ECONNRESET as i32,
            Rejection::Service(errno) => i32::from(errno),
            Rejection::NotHere => nix::errno::Errno::EHOSTUNREACH as i32,
            _ => nix::errno::Errno::ECONNREFUSED as i32,
        };
        drop(course);
        give_up(&self.broker, &self.entry, errno, &reason, session.positions().received);
        Act::Abort { code: code::NO_SERVER, reason }
    }
}
