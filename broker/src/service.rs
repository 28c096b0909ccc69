//! A service as the broker runs it: the ways to its servers, and what they are called.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use stp_net::link::{LinkOptions, Tls};
use stp_proto::course::{FailureKind, Pace, Standing};
use stp_proto::rise::Exits;
use stp_proto::select::Rank;
use stp_proto::time::Instant;

use crate::clock::now;
use crate::config;
use crate::dialer::ServerDialer;
use crate::distance::Distance;
use crate::reach::{News, Reach};

/// A server: the way there, and what it is called. Services at the same server share it.
pub struct Server {
    /// The way.
    pub reach: Arc<Reach<ServerDialer>>,
    /// How far it is.
    pub distance: Distance,
    /// When it was last heard on a link that had lasted.
    pub heard: Heard,
    /// Who may leave it for the sake of speed.
    pub exits: Mutex<Exits>,
    /// The name from the configuration; without one what the server said, or its address.
    name: Mutex<Name>,
}

/// Signs of life of a server, on any link to it. Only links count that have lasted: a new one says
/// nothing of whether the old ones still work.
#[derive(Default)]
pub struct Heard(AtomicU64);

/// As long as a link is silent before it is given up: one that is older was there before.
const LASTED: Duration = Duration::from_secs(3);
/// Shorter than a link is silent before its peer is asked.
const LATELY: Duration = Duration::from_millis(500);

impl Heard {
    /// Something came on a link that was attached at that time.
    pub fn note(&self, now: Instant, attached: Instant) {
        if now - attached >= LASTED {
            self.0.store(now.0, Ordering::Relaxed);
        }
    }

    /// Whether something came just now.
    #[must_use]
    pub fn lately(&self, now: Instant) -> bool {
        let heard = Instant(self.0.load(Ordering::Relaxed));
        heard > Instant(0) && now - heard < LATELY
    }
}

struct Name {
    shown: String,
    configured: bool,
}

impl Server {
    /// What it is called.
    #[must_use]
    pub fn name(&self) -> String {
        self.name.lock().shown.clone()
    }

    /// It said what it is called.
    pub fn named(&self, told: &str) {
        let mut name = self.name.lock();
        if !name.configured && !told.is_empty() {
            told.clone_into(&mut name.shown);
        }
    }
}

/// Makes services so that those at the same server share the way there.
pub struct Maker {
    /// Who we are.
    pub tls: Arc<Tls>,
    /// How links are to be.
    pub options: LinkOptions,
    /// Numbers of the ways.
    pub pace: Pace,
    /// Tells of changes of the standing of any server.
    pub news: News,
    /// The servers made so far.
    pub servers: Vec<Arc<Server>>,
}

impl Maker {
    /// A service; nothing is dialed yet.
    pub fn service(&mut self, config: &config::Service) -> Arc<Service> {
        let servers = config.servers.iter().map(|server| self.server(server)).collect();
        Arc::new(Service { name: config.name.clone(), servers })
    }

    /// A server; one that is known already is the same.
    pub fn server(&mut self, config: &config::Server) -> Arc<Server> {
        let same = |server: &&Arc<Server>| {
            let dialer = server.reach.dialer();
            (dialer.address(), dialer.key) == (config.address, config.key)
        };
        if let Some(server) = self.servers.iter().find(same) {
            if let Some(name) = &config.name {
                let mut old = server.name.lock();
                (old.shown, old.configured) = (name.clone(), true);
            }
            return Arc::clone(server);
        }
        let tls = Arc::clone(&self.tls);
        let dialer = ServerDialer::new(config.address, config.key, tls, self.options.clone());
        let name = Name {
            shown: config.name.clone().unwrap_or_else(|| config.address.to_string()),
            configured: config.name.is_some(),
        };
        let reach = Reach::new(dialer, self.pace, Arc::clone(&self.news));
        let server = Arc::new(Server {
            reach,
            distance: Distance::default(),
            heard: Heard::default(),
            exits: Mutex::default(),
            name: Mutex::new(name),
        });
        self.servers.push(Arc::clone(&server));
        server
    }
}

/// A service and its servers.
pub struct Service {
    /// `service.object@domain`.
    pub name: String,
    /// Its servers, best first.
    pub servers: Vec<Arc<Server>>,
}

impl Service {
    /// What a server is called.
    #[must_use]
    pub fn server_name(&self, rank: Rank) -> String {
        self.servers[rank].name()
    }

    /// Its part of the status; `listed` says who is on the overloaded list.
    pub fn status(&self, listed: impl Fn(Rank) -> bool) -> Value {
        let servers = self.servers.iter().enumerate().map(|(rank, server)| {
            let reach = &server.reach;
            let standing = reach.standing();
            let (state, why, away) = match &standing {
                Standing::Open if listed(rank) => ("overloaded", String::new(), None),
                Standing::Open if reach.counts().dials == 0 => {
                    ("not tried yet", String::new(), None)
                }
                Standing::Open => ("ok", String::new(), None),
                Standing::Away { last, away_since, .. } => {
                    let state = match last.kind {
                        FailureKind::Refused => "refuses",
                        FailureKind::Silent => "unreachable",
                        FailureKind::WrongKey => "wrong key",
                        FailureKind::Unauthorized => "not authorized",
                    };
                    (state, last.why.clone(), Some((now() - *away_since).as_millis() as u64))
                }
            };
            json!({
                "name": server.name(),
                "address": reach.dialer().address().to_string(),
                "state": state,
                "why": why,
                "away_ms": away,
                "warm_links": reach.warm_links(),
                "rtt_ms": server.distance.way().now.map(|rtt| rtt.as_secs_f64() * 1e3),
                "rtt_ms_min": server.distance.way().base.map(|rtt| rtt.as_secs_f64() * 1e3),
            })
        });
        json!({ "name": self.name, "servers": servers.collect::<Vec<_>>() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_links_that_have_lasted_speak_for_the_others() {
        let heard = Heard::default();
        let at = |ms: u64| Instant(1_000_000 + ms * 1_000);
        assert!(!heard.lately(at(0)), "nothing was heard");
        heard.note(at(1_000), at(0));
        assert!(!heard.lately(at(1_000)), "the link is new");
        heard.note(at(1_000), at(500));
        heard.note(at(6_000), at(0));
        assert!(heard.lately(at(6_400)));
        assert!(!heard.lately(at(6_500)), "too long ago");
    }
}
