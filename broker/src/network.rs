//! What the broker does when the machine's links, addresses or routes change, or those of a server.
//!
//! A session whose link leaves from an address that is gone is told at once, and so is one that
//! was busy and has fallen silent: a new link is opened beside the old one, so a mistake costs a
//! handshake and no pause. A link that works is left alone, even when a better path has appeared.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use stp_net::paths::{PathWatch, is_here, leads};
use stp_proto::course::GapWhy;
use stp_proto::time;

use crate::any_link::Command;
use crate::broker::Broker;
use crate::clock::now;
use crate::entry::{Entry, Order, View};
use crate::policing;
use crate::service::Server;

/// A session that moved bytes within this time is busy.
const BUSY: Duration = Duration::from_secs(30);
/// A busy session that moves nothing for this long after a change has lost its path.
const SILENT: Duration = Duration::from_millis(300);
/// Between two looks at which sessions are busy, and at warm links that are too old.
const TICK: Duration = Duration::from_secs(2);

/// When each session moved bytes last, as seen from outside.
#[derive(Default)]
struct Progress(BTreeMap<u64, (u64, Instant)>);

impl Progress {
    fn look(&mut self, sessions: &[Arc<Entry>], now: Instant) {
        let here: BTreeSet<u64> = sessions.iter().map(|entry| entry.id).collect();
        self.0.retain(|id, _| here.contains(id));
        for entry in sessions {
            let moved = moved(entry);
            let last = self.0.entry(entry.id).or_insert((moved, now));
            if last.0 != moved {
                *last = (moved, now);
            }
        }
    }

    fn is_busy(&self, entry: &Entry, now: Instant) -> bool {
        let last = self.0.get(&entry.id);
        let lately = last.is_none_or(|(_, at)| now.duration_since(*at) < BUSY);
        lately || entry.status.snapshot().unacknowledged > 0
    }
}

fn moved(entry: &Entry) -> u64 {
    let positions = entry.status.snapshot().positions;
    positions.rcv + positions.una
}

/// Watches the network and looks after what ages, for as long as the broker runs.
pub async fn watch(broker: Arc<Broker>) {
    let mut news = match PathWatch::new() {
        Ok(news) => Some(news),
        Err(error) => {
            tracing::warn!(%error, "changes of the network cannot be watched; timers must do");
            None
        }
    };
    let mut progress = Progress::default();
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {
                progress.look(&broker.sessions(), Instant::now());
                broker.age();
                policing::apply_all(&broker, now());
            }
            servers = broker.directory.moved() => handle_moved(&broker, &servers),
            result = changed(&mut news) => match result {
                Ok(()) => handle_change(&broker, &mut progress).await,
                Err(error) => {
                    tracing::warn!(%error, "changes of the network cannot be watched any more");
                    news = None;
                }
            },
        }
    }
}

async fn changed(news: &mut Option<PathWatch>) -> std::io::Result<()> {
    match news {
        Some(news) => news.changed().await,
        None => std::future::pending().await,
    }
}

async fn handle_change(broker: &Broker, progress: &mut Progress) {
    let changed_at = now();
    broker.counters.network_changes.fetch_add(1, Ordering::Relaxed);
    let mut here = BTreeMap::new();
    let changes = broker.policies.look();
    broker.relays.forget();
    for server in broker.all_servers().into_iter().chain(broker.endpoints.servers()) {
        server.distance.forget();
        // One that is kept ready and leads nowhere would be tried first by the next session.
        server.reach.network_changed(|link| leads(link.local_addr().ip(), link.peer_addr()));
    }
    broker.directory.network_changed();
    broker.endpoints.network_changed();
    policing::changed(broker, changed_at);
    let sessions = broker.sessions();
    progress.look(&sessions, Instant::now());
    let mut others = Vec::new();
    let mut rebound = 0;
    for entry in sessions {
        // Their streams to origins are looked at by the broker's own server.
        if entry.service.direct.is_some() {
            continue;
        }
        let View { local, attached, .. } = entry.view.lock().clone();
        match local {
            Some(local) if attached && is_ours(&mut here, local.ip()) => {
                let before = moved(&entry);
                others.push((entry, before));
            }
            _ => {
                rebound += 1;
                tell(&entry, GapWhy::AddressGone, changed_at);
            }
        }
    }
    others.retain(|(entry, _)| progress.is_busy(entry, Instant::now()));
    let busy = others.len();
    if busy > 0 {
        tokio::time::sleep(SILENT).await;
    }
    for (entry, before) in others {
        let silent = moved(&entry) == before;
        if silent && progress.is_busy(&entry, Instant::now()) {
            rebound += 1;
            tell(&entry, GapWhy::SilentSinceChange, changed_at);
        }
    }
    let changes: Vec<String> = changes.iter().map(ToString::to_string).collect();
    tracing::info!(rebound, changes = changes.join(", "), "the network has changed");
}

/// The links to these servers lead to where they are no more.
fn handle_moved(broker: &Broker, servers: &[Arc<Server>]) {
    let moved_at = now();
    for entry in broker.sessions() {
        let View { server, attached, .. } = entry.view.lock().clone();
        let server = server.filter(|_| attached).and_then(|rank| entry.service.servers.get(rank));
        if server.is_some_and(|at| servers.iter().any(|moved| Arc::ptr_eq(moved, at))) {
            tell(&entry, GapWhy::ServerMoved, moved_at);
        }
    }
}

fn tell(entry: &Entry, why: GapWhy, since: time::Instant) {
    let _ended_already = entry.orders.try_send(Order::PathChanged { why, since });
    let _ended_already = entry.inbox.try_send(Command::PathChanged);
}

/// Whether the machine has this address, remembered for one change.
fn is_ours(here: &mut BTreeMap<IpAddr, bool>, ip: IpAddr) -> bool {
    *here.entry(ip).or_insert_with(|| is_here(ip))
}
