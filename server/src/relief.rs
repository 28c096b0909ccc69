//! When memory is short, or most sessions that may be are there: sessions whose response nobody
//! fetches are given up, by their class and oldest first, as if this server had died. Their brokers
//! have tickets, and go on here or elsewhere when they come.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use stp_drive::Command;
use stp_proto::budget::Level;

use crate::listener::Server;
use crate::room;

/// What was given up shows in what is held after this time.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// Gives up what it must whenever memory is short.
pub async fn relieve(server: Arc<Server>) {
    loop {
        server.purse.short().await;
        while server.purse.look(|all| all.level() != Level::Plenty || all.is_crowded()) {
            give_up(&server);
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }
}

fn give_up(server: &Server) {
    let now = stp_drive::clock::now();
    let running = server.registry.running();
    let idle = room::idle(server.ticket_life(), now, &running).collect();
    for id in server.purse.look(|budget| budget.given_up(now, idle)) {
        let (_, entry) = &running[id];
        // One without room for commands is not idle.
        if entry.inbox.try_send(Command::GiveUp).is_ok() {
            tracing::info!(session = %entry.own, "given up, as memory is short");
            server.registry.counters.given_up.fetch_add(1, Ordering::Relaxed);
        }
    }
}
