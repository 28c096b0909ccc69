//! A service as the broker runs it: the ways to its servers, and what they are called.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Value, json};
use stp_net::echo::{self, About};
use stp_net::link::{LinkOptions, Through, Tls};
use stp_proto::course::{FailureKind, Pace, Standing};
use stp_proto::liveness::Heard;
use stp_proto::profile::Version;
use stp_proto::rise::Exits;
use stp_proto::select::Rank;

use crate::clock::now;
use crate::config;
use crate::dialer::ServerDialer;
use crate::distance::Distance;
use crate::leave::Leave;
use crate::reach::{News, Reach};

/// A server: the way there, and what it is called. Services at the same server share it.
pub struct Server {
    /// The way.
    pub reach: Arc<Reach<ServerDialer>>,
    /// How far it is.
    pub distance: Distance,
    /// When it was last heard on a link that had lasted.
    pub heard: Heard,
    /// What it says of itself, and when it was asked.
    asked: Mutex<Asked>,
    /// How many sessions may leave it for the sake of speed.
    pub exits: Mutex<Exits>,
    /// The name from the configuration; without one what the server said, or its address.
    name: Mutex<Name>,
}

#[derive(Default)]
struct Asked {
    at: Option<Instant>,
    about: Option<About>,
}

/// How often a server in use is asked what it says of itself (its clock, version, cluster keys).
const ABOUT_EVERY: Duration = Duration::from_secs(60);
/// The same for a server to which a session may go: rarely, since each time is a few packets.
const ABOUT_SPARE_EVERY: Duration = Duration::from_secs(600);
/// How long an answer is waited for.
const ABOUT_MAX: Duration = Duration::from_secs(2);

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

    /// What it says of itself, if it was asked and answered.
    #[must_use]
    pub fn about(&self) -> Option<About> {
        self.asked.lock().about
    }

    /// Asks a server, now and then, what it says of itself. `is_spare` says that it is one to which
    /// a running session may go.
    pub fn ask_about(self: &Arc<Self>, is_spare: bool) {
        let is_used = self.distance.way().now.is_some() || self.reach.counts().dials > 0;
        let every = match (is_used, is_spare) {
            (true, _) => ABOUT_EVERY,
            (false, true) => ABOUT_SPARE_EVERY,
            (false, false) => return,
        };
        let mut asked = self.asked.lock();
        let is_due = asked.at.is_none_or(|at| at.elapsed() >= every);
        if !is_due || !self.reach.is_open() {
            return;
        }
        asked.at = Some(Instant::now());
        drop(asked);
        let server = Arc::clone(self);
        tokio::spawn(async move {
            let Some(address) = server.reach.dialer().address() else { return };
            if let Some(about) = echo::about(address, ABOUT_MAX).await {
                server.asked.lock().about = Some(about);
            }
        });
    }

    /// The same server, reached over what a policy allows.
    fn under(&self, leave: &Arc<Leave>, maker: &Maker) -> Arc<Server> {
        let dialer = self.reach.dialer().under(Arc::clone(leave));
        self.again(dialer, Distance::under(Arc::clone(leave)), maker)
    }

    /// The same server, reached with another key of ours.
    fn with_key(&self, tls: &Arc<Tls>, maker: &Maker) -> Arc<Server> {
        self.again(self.reach.dialer().with_key(tls), Distance::default(), maker)
    }

    /// The same server by another way, with links of its own.
    fn again(&self, dialer: ServerDialer, distance: Distance, maker: &Maker) -> Arc<Server> {
        let name = self.name.lock();
        let name = Name { shown: name.shown.clone(), configured: name.configured };
        Arc::new(Server {
            reach: Reach::new(dialer, maker.pace, Arc::clone(&maker.news)),
            distance,
            heard: Heard::default(),
            asked: Mutex::default(),
            exits: Mutex::default(),
            name: Mutex::new(name),
        })
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
#[derive(Clone)]
pub struct Maker {
    /// The key that the broker shows.
    pub tls: Arc<Tls>,
    /// How links are to be.
    pub options: LinkOptions,
    /// Numbers of the ways.
    pub pace: Pace,
    /// Tells of changes of the standing of any server.
    pub news: News,
    /// The servers made so far.
    pub servers: Vec<Arc<Server>>,
    /// The endpoint whose key that is, by name; empty: none.
    pub endpoint: Arc<str>,
}

impl Maker {
    /// A service; nothing is dialed yet.
    pub fn service(&mut self, config: &config::Service) -> Arc<Service> {
        let servers = config.servers.iter().map(|server| self.server(server)).collect();
        Arc::new(Service {
            name: config.name.clone(),
            servers,
            direct: config.direct.clone(),
            egress: config.egress,
            leave: None,
            endpoint: Arc::clone(&self.endpoint),
        })
    }

    /// A server; one that is known already is the same.
    pub fn server(&mut self, config: &config::Server) -> Arc<Server> {
        let same = |server: &&Arc<Server>| {
            let dialer = server.reach.dialer();
            let same = (&dialer.key, &dialer.options.ssh) == (&config.key, &config.ssh);
            same && dialer.places() == config.places
        };
        if let Some(server) = self.servers.iter().find(same) {
            if let Some(name) = &config.name {
                let mut old = server.name.lock();
                (old.shown, old.configured) = (name.clone(), true);
            }
            return Arc::clone(server);
        }
        let tls = Arc::clone(&self.tls);
        let options = LinkOptions { ssh: config.ssh.clone(), ..self.options.clone() };
        let dialer = ServerDialer::new(config.places.clone(), config.key, tls, options);
        let name = Name {
            shown: config.name.clone().unwrap_or_else(|| config.places.all()[0].to_string()),
            configured: config.name.is_some(),
        };
        let reach = Reach::new(dialer, self.pace, Arc::clone(&self.news));
        let server = Arc::new(Server {
            reach,
            distance: Distance::default(),
            heard: Heard::default(),
            asked: Mutex::default(),
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
    /// The broker's own server asks the app's destination; there are no other servers.
    pub direct: Option<config::Direct>,
    /// Its servers lead to whatever destination the app names.
    pub egress: bool,
    /// The policy that says over what its links leave, if there is one.
    pub leave: Option<Arc<Leave>>,
    /// The endpoint with whose key its links are opened, by name; empty: this user's own key.
    pub endpoint: Arc<str>,
}

impl Service {
    /// The same service, its servers reached over what a policy allows.
    pub fn under(&self, leave: &Arc<Leave>, maker: &Maker) -> Arc<Service> {
        Arc::new(Service {
            name: self.name.clone(),
            servers: self.servers.iter().map(|server| server.under(leave, maker)).collect(),
            direct: self.direct.clone(),
            egress: self.egress,
            leave: Some(Arc::clone(leave)),
            endpoint: Arc::clone(&self.endpoint),
        })
    }

    /// The same service, its servers reached with the key of an endpoint.
    pub fn owned(&self, endpoint: &str, tls: &Arc<Tls>, maker: &Maker) -> Arc<Service> {
        Arc::new(Service {
            name: self.name.clone(),
            servers: self.servers.iter().map(|server| server.with_key(tls, maker)).collect(),
            direct: None,
            egress: self.egress,
            leave: None,
            endpoint: endpoint.into(),
        })
    }

    /// The endpoint that offers it: `object@domain` of `service.object@domain` (KTH 3.1.1).
    #[must_use]
    pub fn far_endpoint(&self) -> &str {
        self.name.split_once('.').map_or("", |(_, endpoint)| endpoint)
    }

    /// Whether it is the same service with the same servers, in the same order.
    #[must_use]
    pub fn is_same(&self, other: &Service) -> bool {
        let pairs = || self.servers.iter().zip(&other.servers);
        (&self.name, &self.direct, self.egress) == (&other.name, &other.direct, other.egress)
            && self.servers.len() == other.servers.len()
            && pairs().all(|(one, other)| Arc::ptr_eq(one, other))
    }

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
                "address": reach.dialer().places().to_string(),
                "at": reach.dialer().address().map(|at| at.to_string()),
                "through": reach.dialer().through().map(Through::word),
                "state": state,
                "why": why,
                "away_ms": away,
                "warm_links": reach.warm_links(),
                "rtt_ms": server.distance.way().now.map(|rtt| rtt.as_secs_f64() * 1e3),
                "clock_ahead_ms": server.about().map(|about| about.ahead_ms),
                "version": server.about().map(|about| Version(about.told.version).to_string()),
                "rtt_ms_min": server.distance.way().base.map(|rtt| rtt.as_secs_f64() * 1e3),
            })
        });
        json!({
            "name": self.name,
            "direct": self.direct.is_some(),
            "endpoint": Some(&*self.endpoint).filter(|name| !name.is_empty()),
            "policy": self.leave.as_ref().map(|leave| &leave.name),
            "servers": servers.collect::<Vec<_>>(),
        })
    }
}
