//! The configuration is read again: `session reload`, or SIGHUP.

use serde_json::{Value, json};

use crate::broker::Broker;
use crate::config::Config;
use crate::map;
use crate::policing;
use crate::tables::Tables;

/// What has become of a reload.
#[derive(Debug, PartialEq, Eq)]
pub struct Reloaded {
    /// The file.
    pub file: String,
    /// Services and routes in use now.
    pub counts: (usize, usize),
    /// Keys that have changed, and are used only after a restart of the broker.
    pub pending: Vec<&'static str>,
}

impl Reloaded {
    /// For the answer to `session reload`.
    #[must_use]
    pub fn json(&self) -> Value {
        let (services, routes) = self.counts;
        json!({
            "config": self.file,
            "services": services,
            "routes": routes,
            "after_restart": self.pending,
        })
    }
}

/// Puts another configuration in use. New sessions go by it; those that run keep their service.
///
/// # Errors
/// When it cannot be used; says why. What was in use before stays so.
pub fn apply(broker: &Broker, read: Result<Config, String>) -> Result<Reloaded, String> {
    let result = read.and_then(|config| put_in_use(broker, config));
    *broker.reload_failed.lock() = result.as_ref().err().cloned();
    match &result {
        Ok(done) => {
            let (services, routes) = done.counts;
            let after_restart = done.pending.join(", ");
            tracing::info!(
                config = done.file,
                services,
                routes,
                after_restart,
                "the configuration was read again"
            );
        }
        Err(error) => tracing::warn!("what was read before goes on: {error}"),
    }
    result
}

fn put_in_use(broker: &Broker, mut config: Config) -> Result<Reloaded, String> {
    let old = broker.tables();
    let pending = keep_fixed(&old.config, &mut config);
    let file = config.file.display().to_string();
    map::build(&config, &[]).map_err(|error| format!("{file}: {error}"))?;
    let mut tables = Tables::new(config, &mut broker.maker.lock(), Some(&old));
    tables.pending.clone_from(&pending);
    let counts = (tables.services.len(), tables.config.routes.iter().count());
    broker.put_in_use(tables);
    policing::changed(broker, broker.now());
    Ok(Reloaded { file, counts, pending })
}

/// What is used at the start only stays as it was; returns the keys that say something else.
fn keep_fixed(old: &Config, new: &mut Config) -> Vec<&'static str> {
    let mut changed = Vec::new();
    let mut keep = |key, differs: bool| {
        if differs {
            changed.push(key);
        }
    };
    keep("status", old.status != new.status);
    keep("key_file", old.key_file != new.key_file);
    keep("keeper", old.keeper != new.keeper);
    keep("virtual_ipv4", old.virtual_ipv4 != new.virtual_ipv4);
    keep("virtual_ipv6", old.virtual_ipv6 != new.virtual_ipv6);
    keep("congestion", old.congestion != new.congestion);
    keep("gateway", old.directory.gateway != new.directory.gateway);
    keep("directory", old.directory.domains != new.directory.domains);
    keep("limits.warm_links", old.limits.warm_links != new.limits.warm_links);
    let room = |config: &Config| (config.limits.memory, config.limits.sessions_max);
    keep("limits.memory, limits.sessions_max", room(old) != room(new));
    new.status.clone_from(&old.status);
    new.key_file.clone_from(&old.key_file);
    new.keeper = old.keeper;
    (new.virtual_ipv4, new.virtual_ipv6) = (old.virtual_ipv4, old.virtual_ipv6);
    new.congestion.clone_from(&old.congestion);
    new.directory.clone_from(&old.directory);
    (new.limits.memory, new.limits.sessions_max) = room(old);
    new.limits.warm_links = old.limits.warm_links;
    changed
}
