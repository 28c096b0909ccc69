//! What is wrong now, in words for the person who runs this server: one list, shown on top of the
//! status.

use std::sync::atomic::Ordering;
use std::time::Duration;

use stp_net::echo::About;
use stp_proto::profile::{Profile, Version};
use stp_proto::{clocks, profile};

use crate::listener::Server;
use crate::registry::Entry;

/// How long a ticket of another cluster is remembered. Brokers show one every few seconds while a
/// session of theirs may go on here.
const FOREIGN_FOR: Duration = Duration::from_secs(300);

/// What this server is, for whoever compares it with others.
pub(crate) fn profile(server: &Server) -> Profile {
    let outside = Profile { version: Version::ours(), ..Profile::default() };
    server.config.cluster.as_ref().map_or(outside, |cluster| cluster.profile())
}

/// What is wrong now.
pub(crate) fn list(server: &Server) -> Vec<String> {
    let (trouble, directory) = {
        let standing = server.directory.lock();
        (standing.trouble.clone(), standing.heard)
    };
    let mut all: Vec<String> = trouble.into_iter().collect();
    let told = |(name, about): (String, About)| {
        let told = about.told;
        let profile = Profile { version: Version(told.version), keys: told.keys };
        (name, about.ahead_ms, profile)
    };
    let directory =
        directory.map(|(ahead_ms, profile)| ("the gateway".to_owned(), ahead_ms, profile));
    let heard: Vec<_> = server.relays.heard().into_iter().map(told).chain(directory).collect();
    let clock = |(name, ahead_ms, _): &(String, i64, Profile)| (name.clone(), *ahead_ms);
    all.extend(clocks::warnings(&heard.iter().map(clock).collect::<Vec<_>>()));
    let ours = (server.config.name.clone(), profile(server));
    let theirs = heard.into_iter().map(|(name, _, profile)| (name, profile));
    // The others first: of two that differ, this one is told to change.
    let seen: Vec<_> = theirs.chain([ours]).collect();
    all.extend(profile::warnings(&seen));
    all.extend(full_spools(server));
    let cluster = server.config.cluster.as_ref();
    all.extend(cluster.map(|cluster| cluster.warnings()).unwrap_or_default());
    let foreign = cluster.and_then(|cluster| cluster.foreign());
    all.extend(foreign.filter(|seen| seen.at.elapsed() < FOREIGN_FOR).map(|seen| {
        format!(
            "client {} has a ticket that is sealed with key {}, which is not in cluster_key_file: \
             if another server of this cluster made it, the two have different files; copy one to \
             the other, or no session goes on from there here",
            seen.client, seen.key
        )
    }));
    all
}

/// Services that wait, because as much was taken of them for sessions that are away as may be.
fn full_spools(server: &Server) -> Option<String> {
    let running = server.registry.running();
    let full = |entry: &Entry| {
        entry.spool.as_ref().is_some_and(|spool| spool.full.load(Ordering::Relaxed))
    };
    let count = running.iter().filter(|(_, entry)| full(entry)).count();
    (count > 0).then(|| {
        let dir = server.config.limits.spools.dir().display();
        format!(
            "the spools of {count} sessions that are away are full, or cannot be written in {dir}: \
             their services wait, and may give them up; see spool, spool_total and spool_dir in \
             [limits]"
        )
    })
}
