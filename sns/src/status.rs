//! What the daemon shows of itself: names, servers and counts, without keys and users' secrets.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use stp_net::link::Acceptor;
use stp_net::status::{ActError, Acting, Metrics, Source, page};
use stp_proto::profile::{self, Profile, Version};

use crate::record::Announced;
use crate::sns::Sns;

/// The status of a daemon.
pub struct Status {
    /// The daemon.
    pub sns: Arc<Sns>,
    /// Its counters of accepted links.
    pub acceptor: Arc<Acceptor>,
}

struct Sizes {
    endpoints: usize,
    services: usize,
    servers: usize,
    there: usize,
    users: usize,
    files: u64,
}

impl Status {
    fn sizes(&self) -> Sizes {
        self.sns.tables.read(|held| Sizes {
            endpoints: held.endpoints.len(),
            services: held.services.len(),
            servers: held.servers.len(),
            there: held.announced.len(),
            users: held.users.len(),
            files: held
                .shelves
                .values()
                .filter_map(|shelf| Some(shelf.inventory.as_ref()?.value.files))
                .sum(),
        })
    }

    /// An entry for each server that is allowed: its name, what it may offer, and what it has
    /// announced if it is there.
    fn servers<T>(&self, tell: impl Fn(&str, &[String], Option<&Announced>) -> T) -> Vec<T> {
        self.sns.tables.read(|held| {
            let allowed = held.servers.iter();
            allowed
                .map(|(name, server)| {
                    let there = held.announced.get(name).map(|announced| &announced.value);
                    tell(name, &server.value.services, there)
                })
                .collect()
        })
    }

    /// Servers whose cluster key or version does not fit to those of the others.
    fn trouble(&self) -> Vec<String> {
        let seen = |name: &str, announced: &Announced| {
            let (version, keys) = announced.told;
            (format!("server {name}"), Profile { version: Version(version), keys })
        };
        let ours = ("this gateway".to_owned(), self.sns.cluster.profile());
        let theirs = self.sns.tables.read(|held| {
            held.announced.iter().map(|(name, announced)| seen(name, &announced.value)).collect()
        });
        let mut all = profile::warnings(&[vec![ours], theirs].concat());
        all.extend(self.sns.cluster.warnings());
        all
    }

    fn gauges(&self) -> [(&'static str, &'static str, f64); 9] {
        let sizes = self.sizes();
        let links = self.sns.links.taken();
        let works = self.sns.store.0.health().1;
        [
            ("endpoints", "Endpoints.", sizes.endpoints as f64),
            ("services", "Services of endpoints.", sizes.services as f64),
            ("servers", "Servers that are allowed.", sizes.servers as f64),
            ("servers_there", "Servers that are there.", sizes.there as f64),
            ("users", "Users.", sizes.users as f64),
            ("files", "Files, counted at each server.", sizes.files as f64),
            ("links", "Links now.", links as f64),
            ("watches", "Watches now.", self.sns.tables.watches() as f64 / 2.0),
            ("store_works", "Whether the store works.", f64::from(u8::from(works))),
        ]
    }
}

impl Source for Status {
    fn status(&self) -> Value {
        let sns = &self.sns;
        let (store, works) = sns.store.0.health();
        let no_links = self.acceptor.refused().into_iter();
        let no_links = no_links.map(|(why, count)| (why.to_owned(), count)).collect();
        let map = |all: Vec<(String, u64)>| -> Value {
            all.into_iter()
                .map(|(name, count)| (name, json!(count)))
                .collect::<serde_json::Map<_, _>>()
                .into()
        };
        let gauges = self.gauges().map(|(name, _, value)| (name.to_owned(), json!(value)));
        let servers = self.servers(|name, allowed, there| {
            json!({ "server": name, "there": there.is_some(),
                "addresses": there.map_or(&[][..], |there| &there.addresses),
                "services": there.map_or(allowed, |there| &there.services) })
        });
        json!({
            "sns": {
                "name": sns.config.name,
                "pid": std::process::id(),
                "version": env!("CARGO_PKG_VERSION"),
                "uptime_s": sns.since.elapsed().as_secs(),
                "listen": sns.config.listen.to_string(),
                "key": sns.key.to_string(),
                "cluster": sns.cluster.name(),
                "domains": sns.config.domains.iter().map(|one| &one.name).collect::<Vec<_>>(),
                "store": store,
                "store_works": works,
            },
            "trouble": self.trouble(),
            "servers": servers,
            "sizes": gauges.into_iter().collect::<serde_json::Map<_, _>>(),
            "asked": map(sns.counters.all_asked()),
            "refused": map(sns.counters.all_refused()),
            "log_ins": {
                "disguised": sns.counters.disguised.load(Ordering::Relaxed),
                "checked": sns.counters.checked.load(Ordering::Relaxed),
            },
            "told": sns.counters.told.load(Ordering::Relaxed),
            "handshakes": {
                "accepted": self.acceptor.accepted(),
                "refused": map(no_links),
            },
        })
    }

    fn metrics(&self) -> String {
        let mut metrics = Metrics::new();
        for (name, help, value) in self.gauges() {
            metrics.gauge(&format!("stp_sns_{name}"), help, value);
        }
        let asked = self.sns.counters.all_asked();
        let refused = self.sns.counters.all_refused();
        let of = |all: &[(String, u64)]| all.to_vec();
        for (name, help, all) in [
            ("stp_sns_requests_total", "Requests, by kind.", of(&asked)),
            ("stp_sns_refused_total", "Refusals, by reason.", of(&refused)),
        ] {
            let all: Vec<_> = all.iter().map(|(name, count)| (name.as_str(), *count)).collect();
            metrics.counters(name, help, "kind", all);
        }
        let told = self.sns.counters.told.load(Ordering::Relaxed);
        metrics.counter("stp_sns_told_total", "Changes told to who watches.", told);
        metrics.finish()
    }

    fn page(&self) -> String {
        let sns = &self.sns;
        let rows = |all: Vec<(String, u64)>| -> Vec<Vec<String>> {
            all.into_iter().map(|(name, count)| vec![name, count.to_string()]).collect()
        };
        let sizes: Vec<_> = self
            .gauges()
            .iter()
            .map(|(name, _, value)| vec![(*name).to_owned(), value.to_string()])
            .collect();
        let servers = self.servers(|name, allowed, there| {
            let addresses = there.map_or(&[][..], |there| &there.addresses);
            let addresses: Vec<_> = addresses.iter().map(ToString::to_string).collect();
            let services = there.map_or(allowed, |there| &there.services);
            let state = if there.is_some() { "there" } else { "not there" };
            vec![name.to_owned(), state.to_owned(), addresses.join(" "), services.join(" ")]
        });
        page(&format!("Session Name Server {}", sns.config.name))
            .trouble(&self.trouble())
            .heading("Servers that are allowed")
            .table(&["name", "state", "addresses", "services"], &servers)
            .heading("Sizes")
            .table(&["what", "how many"], &sizes)
            .heading("Requests")
            .table(&["kind", "times"], &rows(sns.counters.all_asked()))
            .heading("Refused")
            .table(&["why", "times"], &rows(sns.counters.all_refused()))
            .finish()
    }

    fn act(self: Arc<Self>, _path: String, _body: Value) -> Acting {
        Box::pin(async { Err(ActError::not_found("use stp-sns admin")) })
    }
}
