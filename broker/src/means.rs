//! What a session's far side works with in the broker: dials, measurements, and the lists that all
//! sessions share.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use stp_proto::course::{Dial, Relay, Target};
use stp_proto::rise::Way;
use stp_proto::select::{Rank, Rejection};
use stp_proto::session::{Attempt, LostCause};
use stp_proto::time::Instant;
use stp_proto::wire::{Announcement, Close, Connect, ResetFrame};

use crate::any_link::AnyLink;
use crate::around::Surroundings;
use crate::dialer::ServerDialer;
use crate::entry::View;
use crate::far::{Found, Learned, Means, Note, Stands};
use crate::reach::Reach;
use crate::service::Server;
use crate::{dial, group, measure, relay};

/// How long a link to a server that is to get ready may take.
const PREPARE_MAX: Duration = Duration::from_secs(5);
/// How long the broker goes on trying to tell a server that a session has left it, and how long
/// one attempt at that may take.
const LEAVE_MAX: Duration = Duration::from_secs(3_600);
const LEAVE_DIAL_MAX: Duration = Duration::from_secs(5);

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

impl Surroundings {
    fn note_link(
        &self,
        (attempt, from, to): (Attempt, Option<Rank>, Option<Rank>),
        gap: Duration,
        cause: String,
        at_byte: u64,
    ) {
        let what = match attempt {
            Attempt::Connect => "connected",
            Attempt::Resume => "resumed",
            Attempt::Transfer => "transferred",
        };
        let entry = &self.entry;
        let mut history = entry.history(what, cause, at_byte);
        let gap_ms = u64::try_from(gap.as_millis()).unwrap_or(u64::MAX);
        history.gap_ms = (attempt != Attempt::Connect).then_some(gap_ms);
        history.from_server = from.map(|rank| self.server(rank).name());
        history.to_server = to.map(|rank| self.server(rank).name());
        let server = history.to_server.as_deref().unwrap_or_default();
        let (session, destination, cause) = (entry.id, &entry.destination, &history.cause);
        if attempt == Attempt::Connect {
            tracing::info!(session, server, %destination, "connected");
        } else {
            tracing::info!(session, server, gap_ms, at_byte, %cause, "{what}");
        }
        self.broker.count_attach(attempt);
        entry.note_linked();
        entry.status.record(history);
    }
}

impl Means for Surroundings {
    type Link = AnyLink;
    type Dialing = Boxed<Found<AnyLink>>;
    type Measuring = Boxed<Learned>;
    type Looking = Boxed<(Way, Way)>;

    fn dial(&self, _now: Instant, dial: Dial, pass: Option<Arc<[u8]>>) -> Self::Dialing {
        Box::pin(dial::dial(self.clone(), dial, pass))
    }

    fn measure(&self, _now: Instant, home: Rank, others: Vec<Rank>) -> Self::Measuring {
        let broker = Arc::clone(&self.broker);
        let servers = self.entry.service.servers.clone();
        Box::pin(async move {
            let measured = measure::servers(servers, home, others, || broker.random());
            Learned::Servers(measured.await)
        })
    }

    fn measure_ways(&self, _now: Instant, home: Rank) -> Self::Measuring {
        let ways = relay::ways(Arc::clone(&self.broker), Arc::clone(self.server(home)));
        Box::pin(async move { Learned::Ways(ways.await) })
    }

    fn look(&self, _now: Instant, via: Relay, home: Rank) -> Self::Looking {
        Box::pin(relay::look(Arc::clone(&self.broker), via, Arc::clone(self.server(home))))
    }

    fn link_round_trip(&self) -> Duration {
        let rtt_ms = self.entry.status.snapshot().rtt_ms.unwrap_or_default();
        Duration::from_secs_f64(rtt_ms.max(0.0) / 1e3)
    }

    fn list(&self, now: Instant, server: Rank, asked: Duration) {
        self.broker.overloaded.lock().add(now, self.listed_as(server), asked);
    }

    fn unlist(&self, server: Rank) {
        self.broker.overloaded.lock().remove(&self.listed_as(server));
    }

    fn doubt(&self, target: Target, cause: LostCause, loses_long: bool) {
        let via = target.via.and_then(|via| self.broker.server_with_key(via));
        let server = via.unwrap_or_else(|| Arc::clone(self.server(target.rank)));
        if loses_long {
            server.reach.dialer().loses_long();
        }
        match cause {
            LostCause::Broken => server.reach.lost(),
            LostCause::Silent | LostCause::Unanswered => server.reach.suspect(),
            LostCause::Overtaken => {}
        }
    }

    fn heard(&self, now: Instant, link: Option<(Rank, Instant)>) {
        self.entry.pause().heard();
        if let Some((server, since)) = link {
            self.server(server).heard.note(now, since);
        }
    }

    fn speaks(&self, now: Instant, server: Rank) -> bool {
        self.server(server).heard.lately(now)
    }

    fn keep(&self, _now: Instant, link: AnyLink, last: Option<Rank>) {
        let AnyLink::Secured(link) = link else { return };
        let policies = &self.broker.policies;
        let ip = link.local_addr().ip();
        if self.entry.service.leave.as_ref().is_some_and(|leave| !policies.is_best(leave, ip)) {
            return;
        }
        // Not always the last one's: an attempt at another may have ended before it attached.
        // And not one that leads there through a relay.
        let leads_to = |server: &&Arc<Server>| {
            let dialer = server.reach.dialer();
            dialer.key == link.peer_key() && dialer.is_at(link.peer_addr())
        };
        let servers = &self.entry.service.servers;
        let last = last.map(|rank| &servers[rank]);
        if let Some(server) = last.into_iter().chain(servers).find(leads_to) {
            server.reach.keep(link);
        }
    }

    fn prepare(&self, server: Rank, connect: Connect<'_>) {
        let mut frame = Vec::new();
        let service = self.entry.service.name.as_str();
        Connect { service, ..connect }.encode(&mut frame);
        let reach = Arc::clone(&self.server(server).reach);
        tokio::spawn(async move {
            if let Ok(mut link) = tokio::time::timeout(PREPARE_MAX, reach.link()).await {
                link.send(&frame);
                link.linger();
            }
        });
    }

    fn take_leave(&self, _now: Instant, server: Rank, reset: ResetFrame) {
        // It outlives the session: the server may be out of reach for long.
        tokio::spawn(take_leave(Arc::clone(&self.server(server).reach), reset));
    }

    fn publish(&self, stands: Stands) {
        let Stands { server, via, local, attached } = stands;
        let via = via.and_then(|via| self.broker.server_with_key(via));
        *self.entry.view.lock() = View { server, via, local, attached };
    }

    fn note(&self, at_byte: u64, note: Note) {
        let entry = &self.entry;
        match note {
            Note::Log(what, why) => tracing::info!(session = entry.id, why, "{what}"),
            Note::Happened(what, why) => {
                if what == "refused" {
                    entry.note_refusal(&why);
                }
                tracing::info!(session = entry.id, at_byte, why, "{what}");
                entry.record(what, why, at_byte);
            }
            Note::Linked { attempt, from, to, gap, cause } => {
                self.note_link((attempt, from, to), gap, cause, at_byte);
            }
            Note::Refused(why) => {
                self.broker.count_refusal(why);
                if matches!(why, Rejection::Unauthorized | Rejection::Expired)
                    && let Some(host) = &entry.host
                {
                    self.broker.directory.distrust(host);
                }
            }
            Note::GaveUp(error, why) => {
                entry.give_up(error, &why);
                self.broker.session_ended(entry, &why);
            }
        }
    }

    fn local_addr(&self, link: &AnyLink) -> Option<SocketAddr> {
        match link {
            AnyLink::Secured(link) => Some(link.local_addr()),
            AnyLink::Within(_) => None,
        }
    }

    fn named(&self, server: Rank, name: &str) {
        self.server(server).named(name);
    }

    fn announced(&self, announcement: &Announcement) {
        group::announced(&self.broker, &self.entry, announcement);
    }

    fn transferred(&self) {
        self.entry.forget_service();
    }

    fn woken(&self, received: u64) {
        self.entry.woken(received);
    }

    fn gather(&self) {
        group::gather(&self.entry);
    }

    fn service_failed(&self, received: u64, text: &str) {
        self.entry.note_service(received, text);
    }

    fn has_members_at(&self, server: Option<Rank>) -> bool {
        group::has_members_at(&self.entry, server)
    }
}

/// Tells a server that a session has left it, so that it need not keep it for days. If it is out of
/// reach it is told when others find it there again.
async fn take_leave(reach: Arc<Reach<ServerDialer>>, reset: ResetFrame) {
    let told = tokio::time::timeout(LEAVE_MAX, async {
        let mut link = loop {
            reach.until_open().await;
            if let Ok(link) = tokio::time::timeout(LEAVE_DIAL_MAX, reach.link()).await {
                break link;
            }
        };
        let mut frame = Vec::new();
        Close::ResetFirst(reset).encode(&mut frame);
        link.send(&frame);
        link.linger();
    });
    if told.await.is_err() {
        tracing::debug!("a server that was left could not be told");
    }
}
