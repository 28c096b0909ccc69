//! What is wrong now, in words for the person who runs the programs: one list, shown on top of the
//! status.

use std::collections::HashSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use stp_net::config::BUILT_IN;
use stp_proto::clocks;
use stp_proto::course::{FailureKind, Standing};
use stp_proto::profile::{self, Profile, Version};

use crate::broker::Broker;
use crate::config::found;
use crate::service::{Server, Service};

/// A server that is out of reach for less than this is being looked for; that is no trouble yet.
const AWAY_MIN: Duration = Duration::from_secs(3);

/// What is wrong now, the most general first.
#[must_use]
pub fn list(broker: &Broker) -> Vec<String> {
    let mut all = broker.warnings.lock().clone();
    all.extend(of_configuration(broker));
    all.extend(broker.directory.trouble());
    all.extend(broker.endpoints.trouble());
    all.extend(servers(broker));
    all.extend(clocks(broker));
    all.extend(clusters(broker));
    all
}

/// Clocks that differ: tickets and log-ins are good for a time.
fn clocks(broker: &Broker) -> Vec<String> {
    let one = |server: &Arc<Server>| Some((server.name(), server.about()?.ahead_ms));
    clocks::warnings(&broker.all_servers().iter().filter_map(one).collect::<Vec<_>>())
}

/// Servers of one service between which no session could move. It is said before one has to.
fn clusters(broker: &Broker) -> Vec<String> {
    let one = |server: &Arc<Server>| {
        let told = server.about()?.told;
        Some((server.name(), Profile { version: Version(told.version), keys: told.keys }))
    };
    let of_service = |service: &Arc<Service>| {
        profile::warnings(&service.servers.iter().filter_map(one).collect::<Vec<_>>())
    };
    let mut all: Vec<_> = broker.all_services().iter().flat_map(of_service).collect();
    let mut said = HashSet::new();
    all.retain(|line| said.insert(line.clone()));
    all
}

/// The configuration in the file is not the one that is in use.
fn of_configuration(broker: &Broker) -> Vec<String> {
    let tables = broker.tables();
    let failed = broker.reload_failed.lock().clone();
    let failed = failed.map(|why| format!("{why}; what was read before goes on"));
    let mut all: Vec<String> = failed.or_else(|| unread(broker)).into_iter().collect();
    if !tables.pending.is_empty() {
        let (keys, file) = (tables.pending.join(", "), tables.config.file.display());
        all.push(format!("{keys}: changed in {file}, and used when the broker starts anew"));
    }
    all
}

/// What the file says now has not been read: it was changed, or it was not there. Nothing when it
/// could not be read, which is trouble of another kind.
#[must_use]
pub fn unread(broker: &Broker) -> Option<String> {
    let tables = broker.tables();
    let file = &tables.config.file;
    if broker.reload_failed.lock().is_some() {
        return None;
    }
    if file == Path::new(BUILT_IN) {
        let new = found::find()?.display().to_string();
        return Some(format!(
            "{new} was not there yet when the broker began; to use it: session reload"
        ));
    }
    let written = std::fs::metadata(file).and_then(|about| about.modified()).ok()?;
    let file = file.display();
    (written > tables.read)
        .then(|| format!("{file} has changed since it was read; to use it: session reload"))
}

/// Servers that were tried and cannot be used.
fn servers(broker: &Broker) -> Vec<String> {
    let now = broker.now();
    let one = |server: &Arc<Server>| {
        let Standing::Away { last, away_since, .. } = server.reach.standing() else { return None };
        let away = now - away_since;
        let what = match last.kind {
            FailureKind::Refused => "nobody listens there",
            FailureKind::Silent => "it does not answer",
            FailureKind::WrongKey => "it has another key than the one configured",
            FailureKind::Unauthorized => "it does not accept this user's key",
        };
        let text = format!(
            "server {}: {what}, for {} s now ({})",
            server.name(),
            away.as_secs(),
            last.why
        );
        (away >= AWAY_MIN).then_some(text)
    };
    broker.all_servers().iter().filter_map(one).collect()
}
