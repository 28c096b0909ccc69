//! Before the machine sleeps, as logind says, sessions are suspended, so that their servers know
//! that nobody comes for some time; when it wakes they go on at once.
//!
//! Without a system bus or without logind nothing happens: then a machine that sleeps is, for a
//! server, a link that has fallen silent.

use std::sync::Arc;
use std::time::Duration;

use futures_util::StreamExt;
use stp_proto::state::State;
use zbus::{Connection, OwnedFd};

use crate::any_link::Command;
use crate::broker::Broker;
use crate::entry::Entry;

/// A server is told that it will be as long as it keeps a session.
const AS_LONG_AS_MAY_BE: Duration = Duration::from_secs(u32::MAX as u64);
/// How long sleep is put off until all servers have been told: logind waits for 5 s at most.
const TELL_MAX: Duration = Duration::from_secs(2);
/// Between two looks at whether they have.
const LOOK_EVERY: Duration = Duration::from_millis(10);
/// A bus that went away is looked for again after this time.
const AGAIN: Duration = Duration::from_secs(60);

#[zbus::proxy(
    interface = "org.freedesktop.login1.Manager",
    default_service = "org.freedesktop.login1",
    default_path = "/org/freedesktop/login1"
)]
trait Manager {
    fn inhibit(&self, what: &str, who: &str, why: &str, mode: &str) -> zbus::Result<OwnedFd>;

    #[zbus(signal)]
    fn prepare_for_sleep(&self, start: bool) -> zbus::Result<()>;
}

/// Suspends the sessions before the machine sleeps, and resumes them afterwards, for ever; or until
/// it turns out that nobody says when it sleeps.
pub async fn watch(broker: Arc<Broker>) {
    let mut was_there = false;
    loop {
        let ended = listen(&broker, &mut was_there).await;
        let error = ended.err().map_or_else(|| "it has ended".to_owned(), |e| e.to_string());
        if !was_there {
            tracing::debug!(error, "no logind: sessions are not suspended before sleep");
            return;
        }
        tracing::info!(error, "the system bus is gone; it is looked for again");
        wake(&broker);
        tokio::time::sleep(AGAIN).await;
    }
}

async fn listen(broker: &Broker, was_there: &mut bool) -> zbus::Result<()> {
    let bus = Connection::system().await?;
    let manager = ManagerProxy::new(&bus).await?;
    let mut signals = manager.receive_prepare_for_sleep().await?;
    let mut delay = Some(inhibit(&manager).await?);
    *was_there = true;
    tracing::info!("logind says when this machine sleeps");
    while let Some(signal) = signals.next().await {
        if signal.args()?.start {
            before(broker).await;
            delay = None;
        } else {
            wake(broker);
            if delay.is_none() {
                delay = Some(inhibit(&manager).await?);
            }
        }
    }
    drop(delay);
    Ok(())
}

/// Puts sleep off until what is returned is dropped.
async fn inhibit(manager: &ManagerProxy<'_>) -> zbus::Result<OwnedFd> {
    manager.inhibit("sleep", "session", "servers are told that nobody comes", "delay").await
}

/// Suspends what goes over links, and waits until the servers have been told.
async fn before(broker: &Broker) {
    let goes = |entry: &Arc<Entry>| {
        let is_here = entry.service.direct.is_some() || !entry.was_linked();
        let lasts = Some(AS_LONG_AS_MAY_BE);
        !is_here
            && entry.held.lock().sleep()
            && entry.inbox.try_send(Command::Suspend { lasts }).is_ok()
    };
    let told: Vec<_> = broker.sessions().into_iter().filter(goes).collect();
    let is_told = |entry: &Arc<Entry>| match entry.status.snapshot().state {
        State::Suspended | State::Closed => true,
        State::Active | State::ReadyResume | State::SentResume => false,
    };
    let all = async {
        while !told.iter().all(is_told) {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    };
    let in_time = tokio::time::timeout(TELL_MAX, all).await.is_ok();
    tracing::info!(sessions = told.len(), in_time, "the machine is about to sleep");
}

/// What was suspended for the sake of sleep goes on.
fn wake(broker: &Broker) {
    let goes = |entry: &Arc<Entry>| {
        entry.held.lock().wake() && entry.inbox.try_send(Command::Resume).is_ok()
    };
    let count = broker.sessions().iter().filter(|entry| goes(entry)).count();
    if count > 0 {
        tracing::info!(sessions = count, "the machine is awake");
    }
}
