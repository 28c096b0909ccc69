//! A service as the broker runs it: the ways to its servers, and what they are called.

use std::sync::Arc;

use parking_lot::Mutex;
use serde_json::{Value, json};
use stp_net::link::{LinkOptions, Tls};
use stp_proto::select::Rank;

use crate::config;
use crate::dialer::ServerDialer;
use crate::reach::{Kind, News, Pace, Reach, Standing};

/// A service and the ways to its servers.
pub struct Service {
    /// `service.object@domain`.
    pub name: String,
    /// The ways, best first.
    pub servers: Vec<Arc<Reach<ServerDialer>>>,
    /// Tells of changes of their standing.
    pub news: News,
    /// The names: from the configuration, else what the server said, else its address.
    names: Mutex<Vec<Name>>,
}

struct Name {
    shown: String,
    configured: bool,
}

impl Service {
    /// Nothing is dialed yet.
    #[must_use]
    pub fn new(config: &config::Service, tls: &Arc<Tls>, options: &LinkOptions, pace: Pace) -> Self {
        let news = News::default();
        let reach = |server: &config::Server| {
            let (tls, options) = (Arc::clone(tls), options.clone());
            let dialer = ServerDialer { address: server.address, key: server.key, tls, options };
            Reach::new(dialer, pace, Arc::clone(&news))
        };
        let name = |server: &config::Server| Name {
            shown: server.name.clone().unwrap_or_else(|| server.address.to_string()),
            configured: server.name.is_some(),
        };
        Service {
            name: config.name.clone(),
            servers: config.servers.iter().map(reach).collect(),
            names: Mutex::new(config.servers.iter().map(name).collect()),
            news,
        }
    }

    /// What a server is called.
    #[must_use]
    pub fn server_name(&self, rank: Rank) -> String {
        self.names.lock()[rank].shown.clone()
    }

    /// A server said what it is called.
    pub fn named(&self, rank: Rank, told: &str) {
        let mut names = self.names.lock();
        if !names[rank].configured && !told.is_empty() {
            told.clone_into(&mut names[rank].shown);
        }
    }

    /// Its part of the status; `listed` says who is on the overloaded list.
    pub fn status(&self, listed: impl Fn(Rank) -> bool) -> Value {
        let servers = self.servers.iter().enumerate().map(|(rank, reach)| {
            let standing = reach.standing().borrow().clone();
            let (state, why, away) = match &standing {
                Standing::Open if listed(rank) => ("overloaded", String::new(), None),
                Standing::Open => ("ok", String::new(), None),
                Standing::Away { last, away_since, .. } => {
                    let state = match last.kind {
                        Kind::Refused => "refuses",
                        Kind::Silent => "unreachable",
                        Kind::WrongKey => "wrong key",
                        Kind::Unauthorized => "not authorized",
                    };
                    (state, last.why.clone(), Some(away_since.elapsed().as_millis() as u64))
                }
            };
            json!({
                "name": self.server_name(rank),
                "address": reach.dialer().address.to_string(),
                "state": state,
                "why": why,
                "away_ms": away,
                "warm_links": reach.warm_links(),
            })
        });
        json!({ "name": self.name, "servers": servers.collect::<Vec<_>>() })
    }
}
