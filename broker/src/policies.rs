//! The policies of the configuration, and the interfaces that they are about.
//!
//! What decides is [`stp_proto::policy`]. A policy has a service's servers anew, each with its own
//! way there ([`Service::under`]): a link that one session may use need not be one that another
//! may. Sessions without a policy leave it to the kernel's routes, as ever.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Value, json};
use stp_net::interfaces::{self, Change, Medium, interfaces};
use stp_proto::policy::{Interface, Kind, Rule, is_called};

use crate::config::policy::{Named, Told};
use crate::leave::Leave;
use crate::service::{Maker, Server, Service};

/// A service under a policy that no session uses is forgotten after this time, with its links.
const KEEP: Duration = Duration::from_secs(600);

/// A service under a policy.
struct Under {
    /// What it is without. The directory looks after that one for as long as it is used.
    base: Arc<Service>,
    service: Arc<Service>,
    used: Instant,
}

/// The policies, and the interfaces that there are.
#[derive(Default)]
pub struct Policies {
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    seen: Vec<interfaces::Interface>,
    told: Vec<Told>,
    leaves: Vec<Arc<Leave>>,
    under: Vec<Under>,
}

/// What is known of an interface: the file has the last word.
fn known(seen: &interfaces::Interface, told: &[Told]) -> Interface {
    let told = told.iter().find(|told| is_called(&told.name, &seen.name));
    let kind = told.and_then(|told| told.kind).unwrap_or(match seen.medium {
        Medium::Cable => Kind::Wired,
        Medium::Wifi => Kind::Wireless,
        Medium::Modem => Kind::Mobile,
        Medium::Other => Kind::Other,
    });
    Interface {
        name: seen.name.clone(),
        kind,
        // A mobile network is paid for unless somebody says otherwise.
        metered: told.and_then(|told| told.metered).unwrap_or(kind == Kind::Mobile),
        cost: told.map_or(0, |told| told.cost),
        speed: told.and_then(|told| told.speed).or(seen.speed),
        up: seen.is_up(),
    }
}

impl State {
    fn interfaces(&self) -> Vec<Interface> {
        self.seen.iter().map(|seen| known(seen, &self.told)).collect()
    }

    fn judge(&self) {
        let interfaces = self.interfaces();
        for leave in &self.leaves {
            leave.judge(&interfaces);
        }
    }
}

impl Policies {
    /// Takes over what the configuration says. Sessions that run go by it as well; a policy that is
    /// not there any more stays as it was for those that have it.
    pub fn configure(&self, policies: &[Named], told: &[Told]) {
        let mut state = self.state.lock();
        told.clone_into(&mut state.told);
        let mut gone = std::mem::take(&mut state.leaves);
        for (name, policy) in policies {
            let old = gone.iter().position(|leave| leave.name == *name);
            let leave = old.map_or_else(|| Arc::new(Leave::new(name)), |old| gone.swap_remove(old));
            leave.set(policy);
            state.leaves.push(leave);
        }
        drop(state);
        self.look();
    }

    /// Looks which interfaces there are; returns what has changed.
    pub fn look(&self) -> Vec<Change> {
        let seen = match interfaces() {
            Ok(seen) => seen,
            Err(error) => {
                tracing::warn!(%error, "the interfaces cannot be seen");
                return Vec::new();
            }
        };
        let mut state = self.state.lock();
        let changes = interfaces::changes(&state.seen, &seen);
        state.seen = seen;
        state.judge();
        changes
    }

    /// The interface that has this address.
    #[must_use]
    pub fn interface_of(&self, ip: std::net::IpAddr) -> Option<String> {
        let ip = ip.to_canonical();
        let state = self.state.lock();
        let found = state.seen.iter().find(|seen| seen.addresses.contains(&ip));
        found.map(|seen| seen.name.clone())
    }

    /// Whether a link that leaves from this address leaves over the best interface.
    #[must_use]
    pub fn is_best(&self, leave: &Leave, ip: std::net::IpAddr) -> bool {
        ip.is_loopback() || self.interface_of(ip).is_some_and(|name| Some(name) == leave.best())
    }

    /// A service under the policy of this name.
    ///
    /// # Errors
    /// There is none; says what there is.
    pub fn under(
        &self,
        maker: &Maker,
        base: &Arc<Service>,
        name: &str,
    ) -> Result<Arc<Service>, String> {
        let mut state = self.state.lock();
        let leave = state.leaves.iter().find(|leave| leave.name == name).cloned();
        let Some(leave) = leave else {
            let names: Vec<&str> = state.leaves.iter().map(|leave| leave.name.as_str()).collect();
            let there = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
            return Err(format!("no [[policy]] is called \"{name}\"; there is {there}"));
        };
        let same = |under: &&mut Under| {
            let by = under.service.leave.as_ref();
            Arc::ptr_eq(&under.base, base) && by.is_some_and(|by| Arc::ptr_eq(by, &leave))
        };
        if let Some(under) = state.under.iter_mut().find(same) {
            under.used = Instant::now();
            return Ok(Arc::clone(&under.service));
        }
        let service = base.under(&leave, maker);
        let (base, used) = (Arc::clone(base), Instant::now());
        state.under.push(Under { base, service: Arc::clone(&service), used });
        Ok(service)
    }

    /// The servers of services under policies.
    #[must_use]
    pub fn servers(&self) -> Vec<Arc<Server>> {
        let state = self.state.lock();
        state.under.iter().flat_map(|under| under.service.servers.clone()).collect()
    }

    /// Forgets what nobody uses any more.
    pub fn age(&self) {
        self.state.lock().under.retain_mut(|under| {
            if Arc::strong_count(&under.service) > 1 {
                under.used = Instant::now();
            }
            under.used.elapsed() < KEEP
        });
    }

    /// For the status: the interfaces, and what each policy says of them.
    #[must_use]
    pub fn status(&self) -> (Value, Value) {
        let state = self.state.lock();
        let interfaces = state.interfaces().into_iter().map(|interface| {
            json!({
                "name": interface.name,
                "kind": interface.kind.word(),
                "metered": interface.metered,
                "cost": interface.cost,
                "bytes_a_second": interface.speed,
                "up": interface.up,
            })
        });
        let policies = state.leaves.iter().map(|leave| {
            let verdict = leave.verdict();
            let each = |all: &[(String, Rule)]| -> Vec<Value> {
                let one = |(name, rule): &(String, Rule)| {
                    json!({ "interface": name, "rule": rule.to_string() })
                };
                all.iter().map(one).collect()
            };
            json!({
                "name": leave.name,
                "allowed": each(&verdict.allowed),
                "forbidden": each(&verdict.forbidden),
            })
        });
        (interfaces.collect(), policies.collect())
    }
}
