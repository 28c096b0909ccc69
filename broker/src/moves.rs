//! Leaving a server on purpose: because it asks to be left (STP 7–9), or because a user says so.
//!
//! All other servers of the service are measured, in random order, but those on the overloaded
//! list; what is decided then, by [`stp_proto::rise`], is written into the session's history with
//! its numbers, also when it is to stay.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use stp_drive::{Act, Command};
use stp_net::link::Link;
use stp_proto::rise::{self, Margin, Way};
use stp_proto::select::Rank;
use stp_proto::wire::TransferReason;
use tokio::task::JoinSet;

use crate::broker::Broker;
use crate::entry::Entry;

/// How long a server may take to answer.
pub const PATIENCE: Duration = Duration::from_millis(500);
/// A measurement of another session is as good for so long.
pub const SAME: Duration = Duration::from_millis(250);
/// How long a link to a server that has just answered may take.
const LINK_MAX: Duration = Duration::from_secs(3);
/// How often a move that the stream has overtaken is tried again.
pub const OVERTAKEN_MAX: u32 = 5;

/// A move that was decided.
#[derive(Clone, Debug)]
pub struct Move {
    /// Where from.
    pub from: Rank,
    /// Where to, the best first.
    pub order: VecDeque<Rank>,
    /// Why, for the history.
    pub why: String,
    /// For the sake of speed: the server left is to be left alone for a while.
    pub congested: bool,
    /// How often the stream has overtaken it.
    pub overtaken: u32,
}

/// What a session that was asked to leave does.
enum Decision {
    Go(VecDeque<Rank>, String),
    Stay(String),
}

/// Decides whether a session leaves its server, and sees to it.
pub async fn decide(broker: Arc<Broker>, entry: Arc<Entry>, reason: TransferReason, text: String) {
    let home = entry.course.lock().choice.home();
    let Some(home) = home else {
        entry.course.lock().deciding = false;
        return;
    };
    let congested = reason == TransferReason::Congested;
    let decision = if congested && let Some(left) = entry.course.lock().cool.left(broker.now()) {
        Decision::Stay(format!("moved lately: no move for another {} s", left.as_secs() + 1))
    } else {
        let others = others(&broker, &entry, home);
        let ways = measure(&entry, home, &others).await;
        choose(&entry, home, &ways, congested)
    };
    entry.course.lock().deciding = false;
    let decision = match decision {
        Decision::Go(_, numbers) if congested && !may_leave(&broker, &entry, home) => {
            let name = entry.service.server_name(home);
            Decision::Stay(format!("others have just left {name}, that may be enough; {numbers}"))
        }
        decision => decision,
    };
    match decision {
        Decision::Go(order, numbers) => {
            let asked =
                if text.is_empty() { reason.to_string() } else { format!("{reason}: {text}") };
            let why = format!("{asked}; {numbers}");
            go(&entry, Move { from: home, order, why, congested, overtaken: 0 }).await;
        }
        Decision::Stay(why) => {
            let received = entry.status.snapshot().positions.rcv;
            stay(&entry, TransferReason::NobodyBetter, why, received).await;
        }
    }
}

/// Not all sessions that share a congested path leave it at once.
fn may_leave(broker: &Broker, entry: &Entry, home: Rank) -> bool {
    entry.service.servers[home].exits.lock().take(broker.now())
}

/// The session goes where the plan says, if it is still where it was.
pub async fn go(entry: &Entry, plan: Move) {
    tracing::info!(session = entry.id, why = plan.why, "leaves its server");
    let is_there = {
        let mut course = entry.course.lock();
        let is_there = course.choice.home() == Some(plan.from);
        if is_there {
            course.plan = Some(plan);
        }
        is_there
    };
    if is_there {
        let _ended = entry.inbox.send(Command::Retry).await;
    }
}

/// The session stays; what its loop is to do then.
pub fn stays(entry: &Entry, reason: TransferReason, why: &str, received: u64) -> Act {
    tracing::info!(session = entry.id, %why, "stays at its server");
    entry.record("stays", why.to_owned(), received);
    Act::Stay(reason)
}

/// The session stays; its loop is told.
pub async fn stay(entry: &Entry, reason: TransferReason, why: String, received: u64) {
    let _told = stays(entry, reason, &why, received);
    let _ended = entry.inbox.send(Command::Stay(reason)).await;
}

/// STP 8: all servers but the overloaded ones and those that cannot have the session, in random
/// order.
fn others(broker: &Broker, entry: &Entry, home: Rank) -> Vec<Rank> {
    let now = broker.now();
    let course = entry.course.lock();
    let list = broker.overloaded.lock();
    let open = |rank: &Rank| {
        *rank != home
            && course.choice.struck(*rank).is_none()
            && !list.contains(now, &(entry.service_number, *rank))
    };
    let mut others: Vec<Rank> = (0..entry.service.servers.len()).filter(open).collect();
    for k in (1..others.len()).rev() {
        let other = usize::try_from(broker.random() % (k as u64 + 1)).unwrap_or(0);
        others.swap(k, other);
    }
    others
}

/// Measures home and others at once; those that answer first come first.
async fn measure(entry: &Entry, home: Rank, others: &[Rank]) -> Vec<(Rank, Way)> {
    let mut asked = JoinSet::new();
    for rank in std::iter::once(home).chain(others.iter().copied()) {
        let server = Arc::clone(&entry.service.servers[rank]);
        asked.spawn(async move {
            let address = server.reach.dialer().address();
            (rank, server.distance.measure(address, SAME, PATIENCE).await)
        });
    }
    let mut ways = asked.join_all().await;
    ways.sort_by_key(|(_, way)| way.now.unwrap_or(Duration::MAX));
    ways
}

fn choose(entry: &Entry, home: Rank, ways: &[(Rank, Way)], congested: bool) -> Decision {
    let name = |rank: Rank| entry.service.server_name(rank);
    let here = ways.iter().find(|(rank, _)| *rank == home).map(|(_, way)| *way);
    let mut here = here.unwrap_or(Way { now: None, base: None });
    let snapshot = entry.status.snapshot();
    if here.now.is_none() && snapshot.state == "active" {
        // The link lives: its server is not gone, but at least as far as was waited.
        let rtt = Duration::from_secs_f64(snapshot.rtt_ms.unwrap_or_default().max(0.0) / 1e3);
        here.now = Some(rtt.max(PATIENCE));
    }
    let mut said = vec![format!("{} {}", name(home), numbers(here))];
    let mut order = VecDeque::new();
    for (rank, way) in ways.iter().filter(|(rank, _)| *rank != home) {
        // A server that shall be left is left for one whose echo was lost as well, at last.
        let fits = if congested { rise::better(here, *way, &Margin::default()) } else { Ok(()) };
        match fits {
            Ok(()) => {
                order.push_back(*rank);
                said.push(format!("{} {}", name(*rank), numbers(*way)));
            }
            Err(why) => said.push(format!("{} {}: {why}", name(*rank), numbers(*way))),
        }
    }
    let numbers = said.join(", ");
    if order.is_empty() {
        let others = if ways.len() > 1 { "" } else { "there is no other server: " };
        return Decision::Stay(format!("{others}{numbers}"));
    }
    Decision::Go(order, numbers)
}

/// A way in words.
pub fn numbers(way: Way) -> String {
    let ms = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1e3);
    match (way.now, way.base) {
        (Some(now), Some(base)) if base < now => format!("{} (at best {})", ms(now), ms(base)),
        (Some(now), _) => ms(now),
        (None, _) => "silent".to_owned(),
    }
}

/// A link to the first server of the plan that gives one.
pub async fn dial(entry: &Entry) -> Option<(Rank, Link)> {
    loop {
        let rank = *entry.course.lock().plan.as_ref()?.order.front()?;
        let reach = Arc::clone(&entry.service.servers[rank].reach);
        if let Ok(link) = tokio::time::timeout(LINK_MAX, reach.link()).await {
            return Some((rank, link));
        }
        next(entry, rank);
    }
}

/// This server of the plan is out of the question. Whether there is another.
pub fn next(entry: &Entry, failed: Rank) -> bool {
    let mut course = entry.course.lock();
    let Some(plan) = &mut course.plan else { return false };
    plan.order.retain(|rank| *rank != failed);
    let left = !plan.order.is_empty();
    if !left {
        course.plan = None;
    }
    left
}
