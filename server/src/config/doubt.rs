//! What is not wrong in a configuration, and probably not meant.

use std::time::SystemTime;

use super::{Config, Kind, ServiceConfig};

/// A limit of everything that a server sends, if it is below this, was probably meant to be larger:
/// 1 Mbit/s, in bytes a second.
const EGRESS_DOUBTED: u64 = 125_000;

/// The warnings of `--check`.
#[must_use]
pub fn doubts(config: &Config) -> Vec<String> {
    let mut doubts = Vec::new();
    let moves = |service: &ServiceConfig| service.kind != Kind::Tcp;
    if config.cluster.is_none() && config.services.iter().any(moves) {
        doubts.push(
            "no cluster: no other server can continue what this one has begun; set cluster and \
             cluster_key_file, and give the other servers the same key"
                .to_owned(),
        );
    }
    if let Some(rate) = config.limits.egress.filter(|rate| *rate < EGRESS_DOUBTED) {
        doubts.push(format!(
            "limits.egress is {rate} bytes a second for all sessions together; \
             if more is meant, write a unit, such as \"800Mbit/s\""
        ));
    }
    for service in &config.services {
        let tls = service.tls.as_ref();
        let warning = tls.and_then(|tls| tls.certificates.warning(SystemTime::now()));
        doubts.extend(warning.map(|warning| format!("{}: {warning}", service.name)));
    }
    if config.services.is_empty() {
        doubts.push("there is no [[service]]: this server only relays".to_owned());
    }
    doubts
}
