//! What is made of the configuration that is in use: services, servers, routes. A reload puts other
//! tables in their place; sessions that run keep the service that they began with.

use std::sync::Arc;
use std::time::SystemTime;

use stp_proto::name::Name;

use crate::config::Config;
use crate::service::{Maker, Server, Service};

/// The tables of one reading of the configuration.
pub struct Tables {
    /// The configuration.
    pub config: Config,
    /// The services in the configuration's order, each with its number on the overloaded list.
    pub services: Vec<(usize, Arc<Service>)>,
    /// Every server of theirs once, and the relays.
    pub servers: Vec<Arc<Server>>,
    /// When the configuration was read.
    pub read: SystemTime,
    /// Keys that say something else in the file; the broker goes by what it read when it began.
    pub pending: Vec<&'static str>,
}

impl Tables {
    /// The place of the service whose name this is in its host form. One that leads wherever the
    /// app says is no place to connect to.
    #[must_use]
    pub fn called(&self, host: &str) -> Option<usize> {
        let name = Name::from_host(host).ok()?;
        self.config.services.iter().position(|service| {
            service.name == name.as_str() && service.direct.is_none() && !service.egress
        })
    }

    /// Makes the tables. Servers that `maker` knows, and services that are the same in `old`, are
    /// taken over, with their links and what is known of them.
    pub fn new(config: Config, maker: &mut Maker, old: Option<&Tables>) -> Tables {
        let old_services = old.map_or(&[][..], |old| &old.services);
        let next = old_services.iter().map(|(number, _)| number + 1).max().unwrap_or(0);
        let mut services = Vec::new();
        for (place, described) in config.services.iter().enumerate() {
            let made = maker.service(described);
            let kept = old_services.iter().find(|(_, known)| known.is_same(&made)).cloned();
            services.push(kept.unwrap_or((next + place, made)));
        }
        let relays: Vec<_> = config.relays.iter().map(|relay| maker.server(relay)).collect();
        let mut servers: Vec<Arc<Server>> = Vec::new();
        let of_services = services.iter().flat_map(|(_, service)| &service.servers);
        for server in of_services.chain(&relays) {
            if !servers.iter().any(|known| Arc::ptr_eq(known, server)) {
                servers.push(Arc::clone(server));
            }
        }
        // What nothing uses any more is forgotten.
        maker.servers.clone_from(&servers);
        Tables { config, services, servers, read: SystemTime::now(), pending: Vec::new() }
    }
}
