//! Room for a new session where as many are served as may be.

use std::sync::atomic::Ordering;
use std::time::Duration;

use stp_drive::Command;
use stp_proto::budget::{self, Idle};
use stp_proto::class::Class;
use stp_proto::session::code;
use stp_proto::time::Instant;

use crate::registry::{Entry, Key, Registry};

/// How often, and how many times, it is looked whether a session that was to end has.
const LOOK_EVERY: Duration = Duration::from_millis(5);
const LOOKS: u32 = 200;

/// Those without a link, by their place in the list. `life` is that of a ticket; without a cluster
/// none has one.
pub fn idle<'a>(
    life: Duration,
    now: Instant,
    running: &'a [(Key, Entry)],
) -> impl Iterator<Item = Idle<usize>> + use<'a> {
    let life = u64::try_from(life.as_millis()).unwrap_or(u64::MAX);
    running.iter().enumerate().filter_map(move |(id, (_, entry))| {
        let snapshot = entry.status.snapshot();
        let is_away = snapshot.suspended_s.is_some();
        (snapshot.link.is_none()).then_some(Idle {
            id,
            cost: snapshot.cost,
            since: Instant(now.0.saturating_sub(snapshot.state_ms * 1_000)),
            again: snapshot.again && snapshot.state_ms < life,
            class: snapshot.class.max(if is_away { Class::Suspended } else { Class::Temporary }),
        })
    })
}

/// Where as many sessions are served as may be, one that is temporary and has no link ends for the
/// sake of a new one, if there is one (R74). Returns when its place is free, or after a time.
pub async fn make(registry: &Registry, most: usize, life: Duration) {
    let now = stp_drive::clock::now();
    let running = registry.running();
    let Some(gone) = budget::makes_room(now, idle(life, now, &running)) else { return };
    let (_, entry) = &running[gone.id];
    let command = if gone.again { Command::GiveUp } else { Command::Abort { code: code::ROOM } };
    if entry.inbox.try_send(command).is_err() {
        return;
    }
    let again = gone.again;
    tracing::info!(session = %entry.own, again, "makes room for another session");
    registry.counters.made_room.fetch_add(1, Ordering::Relaxed);
    for _ in 0..LOOKS {
        if registry.len() < most {
            return;
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}
