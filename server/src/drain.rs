//! Shutting down in order: every session is asked to go elsewhere, and is waited for.

use std::collections::HashMap;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use stp_drive::Command;
use stp_proto::handle::Handle;
use stp_proto::state::State;
use stp_proto::wire::TransferReason;

use crate::listener::Server;
use crate::registry::Entry;

/// How often the server looks whether all sessions have gone.
const LOOK: Duration = Duration::from_millis(50);
/// A session that is still here is asked again after this time.
const ASK_AGAIN: Duration = Duration::from_secs(2);
/// Sessions that are on their way at a time: this many, or this part of all (one eighth) if that is
/// more. Each costs its path twice what it had while it moves.
const AT_ONCE: usize = 32;
const AT_ONCE_PART: usize = 8;
/// How long a session without a link is waited for.
const UNLINKED_MAX: Duration = Duration::from_secs(3);

impl Server {
    /// Asks every session to go elsewhere and takes no new ones. Ends when all have gone that can,
    /// or when none has gone for the configured time (`drain`). Hundreds of sessions on one narrow
    /// path need longer than that; they have it as long as one after the other goes.
    pub async fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
        let begun = Instant::now();
        let at_once = AT_ONCE.max(self.registry.len() / AT_ONCE_PART);
        let mut asked: HashMap<Handle, Instant> = HashMap::new();
        let (mut fewest, mut gone_at) = (usize::MAX, begun);
        while gone_at.elapsed() < self.config.limits.drain {
            let left: Vec<_> =
                self.registry.running().into_iter().map(|(_, entry)| entry).collect();
            if left.len() < fewest {
                (fewest, gone_at) = (left.len(), Instant::now());
            }
            // A session without a link cannot be told; it finds another server when it comes back.
            let away = begun.elapsed() > UNLINKED_MAX;
            let told = |entry: &&Entry| {
                let away = away && entry.status.snapshot().state != State::Active;
                !away && !entry.fixed.load(Ordering::Relaxed)
            };
            let told: Vec<_> = left.iter().filter(told).collect();
            if told.is_empty() {
                break;
            }
            ask(&told, &mut asked, at_once);
            tokio::time::sleep(LOOK).await;
        }
        tracing::info!(
            left = self.registry.len(),
            took_ms = begun.elapsed().as_millis(),
            "drained"
        );
    }
}

/// Asks as many as may be on their way; those that were never asked come first.
fn ask(told: &[&Entry], asked: &mut HashMap<Handle, Instant>, at_once: usize) {
    let waits = |entry: &&&Entry| asked.get(&entry.own).is_none_or(|at| at.elapsed() >= ASK_AGAIN);
    let mut next: Vec<_> = told.iter().filter(waits).collect();
    let under_way = told.len() - next.len();
    next.sort_by_key(|entry| asked.get(&entry.own).copied());
    for entry in next.into_iter().take(at_once.saturating_sub(under_way)) {
        let (reason, text) = (TransferReason::Draining, String::new());
        // A full inbox: it is asked again.
        let _ = entry.inbox.try_send(Command::AskTransfer { reason, text });
        asked.insert(entry.own, Instant::now());
    }
}
