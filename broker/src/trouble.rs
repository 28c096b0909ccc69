//! What is wrong now, in words for the person who runs the programs: one list, shown on top of the
//! status.

use std::time::{Duration, SystemTime};

use stp_proto::course::{FailureKind, Standing};

use crate::broker::Broker;

/// A server that is out of reach for less than this is being looked for; that is no trouble yet.
const AWAY_MIN: Duration = Duration::from_secs(3);

/// What is wrong now, the most general first.
#[must_use]
pub fn list(broker: &Broker) -> Vec<String> {
    let mut all = broker.warnings.lock().clone();
    all.extend(changed(broker));
    all.extend(broker.directory.trouble().map(|why| format!("directory: {why}")));
    all.extend(servers(broker));
    all
}

/// The configuration is not the one that is in use.
fn changed(broker: &Broker) -> Option<String> {
    let file = &broker.config.file;
    let written = std::fs::metadata(file).and_then(|about| about.modified()).ok()?;
    let read = SystemTime::now().checked_sub(broker.started.elapsed())?;
    let text = format!(
        "{} has changed since the broker was started; what it says now is used after a restart",
        file.display()
    );
    (written > read).then_some(text)
}

/// Servers that were tried and cannot be used.
fn servers(broker: &Broker) -> Vec<String> {
    let now = broker.now();
    let one = |server: &std::sync::Arc<crate::service::Server>| {
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
