//! The eight requests of KTH 3.3.6, renewals included, over the store and the tables.
//!
//! A name belongs to the key that made it: no other client can change it, delete it, or attach a
//! service to it. The configuration of the domain says which keys or users may make names. A
//! service lives as long as its endpoint, because both have the same lease.

use std::net::SocketAddr;
use std::ops::Bound;
use std::sync::atomic::Ordering;
use std::time::Duration;

use stp_net::key::PublicKey;
use stp_proto::lookup::{
    Body, ChangeEndpoint, ChangeService, Changed, Created, Done, EndpointFound, EndpointName,
    Location, NewEndpoint, NewService, Protocol, Refusal, ServiceFound,
};
use stp_proto::name::Name;

use crate::config::Creators;
use crate::record::{Endpoint, Service, endpoint_key, json, service_key, services_below};
use crate::sns::{Caller, LoggedIn, Sns, not_committed};
use crate::store::{Change, CommitError, Guard, Lease};
use crate::tables::{Held, Versioned};

/// The most services at one endpoint.
const SERVICES_MAX: usize = 64;

/// A result, or the answer that says why there is none.
type Refusing<T> = Result<T, Box<Body>>;

fn refuse<T>(why: Refusal, text: impl Into<String>) -> Refusing<T> {
    Err(Box::new(Body::refused(why, text)))
}

impl Sns {
    /// NEW_EP (use case 7).
    pub async fn new_endpoint(&self, caller: &Caller, new: NewEndpoint) -> Body {
        self.try_new_endpoint(caller, new).await.unwrap_or_else(|refused| *refused)
    }

    async fn try_new_endpoint(&self, caller: &Caller, new: NewEndpoint) -> Refusing<Body> {
        self.allow(caller, &new.name)?;
        let max = self.config.limits.endpoints_per_key;
        let (exists, owned) = self.tables.read(|held| {
            let owned = held.owned.get(&caller.key.0).copied().unwrap_or(0);
            (held.endpoints.contains_key(new.name.as_str()), owned)
        });
        if exists {
            return refuse(Refusal::Exists, format!("{} exists already", new.name));
        }
        if owned >= max {
            return refuse(Refusal::Full, format!("this key has {max} endpoints"));
        }
        let lease_s = self.lease(new.lease_s);
        let key = endpoint_key(&new.name);
        let value = Endpoint { owner: caller.key, addresses: new.addresses.0, lease_s };
        let lease = if lease_s == 0 { Lease::None } else { Lease::New(lease_s) };
        let put = Change::Put { key: key.clone(), value: json(&value), lease };
        match self.commit(vec![Guard::Absent(key)], vec![put]).await {
            Ok(()) => Ok(Body::Created(Created { lease_s })),
            Err(CommitError::Conflict) => {
                refuse(Refusal::Exists, format!("{} exists already", new.name))
            }
            Err(error) => Err(Box::new(not_committed(&error))),
        }
    }

    /// CHANGE_EP.
    pub async fn change_endpoint(&self, caller: &Caller, change: ChangeEndpoint) -> Body {
        let old = match self.owned(caller, &change.name) {
            Ok(old) => old,
            Err(refused) => return *refused,
        };
        let key = endpoint_key(&change.name);
        let value = Endpoint { addresses: change.addresses.0, ..old.value };
        let lease = Lease::SameAs(key.clone());
        let put = Change::Put { key: key.clone(), value: json(&value), lease };
        self.done(vec![Guard::Version(key, old.version)], vec![put]).await
    }

    /// DEL_EP (use case 8): its services go with it.
    pub async fn delete_endpoint(&self, caller: &Caller, name: &EndpointName) -> Body {
        let old = match self.owned(caller, name) {
            Ok(old) => old,
            Err(refused) => return *refused,
        };
        let key = endpoint_key(name);
        let changes = vec![Change::Delete(key.clone()), Change::DeleteBelow(services_below(name))];
        self.done(vec![Guard::Version(key, old.version)], changes).await
    }

    /// GET_EP.
    #[must_use]
    pub fn get_endpoint(&self, name: &EndpointName) -> Body {
        self.counters.looked_up.fetch_add(1, Ordering::Relaxed);
        match self.tables.read(|held| self.find_endpoint(held, name.as_str())) {
            Some(found) => Body::Endpoint(found),
            None => self.not_found(name.as_str(), name.domain()),
        }
    }

    /// NEW_SERVICE.
    pub async fn new_service(&self, caller: &Caller, new: NewService) -> Body {
        let endpoint = EndpointName::of(&new.name);
        let (exists, count) = self.tables.read(|held| {
            let below = format!("{endpoint}/");
            let from = (Bound::Included(below.as_str()), Bound::Unbounded);
            let services = held.services.range::<str, _>(from);
            let count = services.take_while(|(name, _)| name.starts_with(&below)).count();
            (held.services.contains_key(service_name(&new.name).as_str()), count)
        });
        let old = match self.owned(caller, &endpoint) {
            Ok(old) => old,
            Err(refused) => return *refused,
        };
        if exists {
            return Body::refused(Refusal::Exists, format!("{} exists already", new.name));
        }
        if self.tables.read(|held| held.clustered.contains(new.name.as_str())) {
            let text = format!("{} is a service of the cluster's servers", new.name);
            return Body::refused(Refusal::NotAllowed, text);
        }
        if count >= SERVICES_MAX {
            let text = format!("{endpoint} has {SERVICES_MAX} services");
            return Body::refused(Refusal::Full, text);
        }
        let key = service_key(&new.name);
        let value = json(&Service { port: new.port, key: PublicKey(new.key) });
        let lease = Lease::SameAs(endpoint_key(&endpoint));
        let put = Change::Put { key: key.clone(), value, lease };
        // If the endpoint were changed meanwhile, the service could get a lease that is over.
        let guards = vec![Guard::Absent(key), Guard::Version(endpoint_key(&endpoint), old.version)];
        match self.commit(guards, vec![put]).await {
            Ok(()) => Body::Created(Created { lease_s: old.value.lease_s }),
            Err(error) => not_committed(&error),
        }
    }

    /// CHANGE_SERVICE.
    pub async fn change_service(&self, caller: &Caller, change: ChangeService) -> Body {
        let (endpoint, old) = match self.owned_service(caller, &change.name) {
            Ok(owned) => owned,
            Err(refused) => return *refused,
        };
        let key = service_key(&change.name);
        let value = json(&Service { port: change.port, key: PublicKey(change.key) });
        let put = Change::Put { key: key.clone(), value, lease: Lease::SameAs(endpoint) };
        self.done(vec![Guard::Version(key, old)], vec![put]).await
    }

    /// DEL_SERVICE.
    pub async fn delete_service(&self, caller: &Caller, name: &Name) -> Body {
        let (_, old) = match self.owned_service(caller, name) {
            Ok(owned) => owned,
            Err(refused) => return *refused,
        };
        let key = service_key(name);
        self.done(vec![Guard::Version(key.clone(), old)], vec![Change::Delete(key)]).await
    }

    /// GET_SERVICE.
    #[must_use]
    pub fn get_service(&self, caller: &Caller, name: &Name) -> Body {
        self.counters.looked_up.fetch_add(1, Ordering::Relaxed);
        match self.tables.read(|held| self.find_service(held, caller, name)) {
            Some(found) => Body::Service(found),
            None => self.not_found(name.as_str(), name.domain()),
        }
    }

    /// A lease begins anew.
    pub async fn renew(&self, caller: &Caller, name: &EndpointName) -> Body {
        let old = match self.owned(caller, name) {
            Ok(old) => old,
            Err(refused) => return *refused,
        };
        match self.renew_lease(endpoint_key(name)).await {
            Ok(true) => Body::Created(Created { lease_s: old.value.lease_s }),
            Ok(false) => Body::refused(Refusal::NotFound, format!("the lease of {name} ran out")),
            Err(error) => not_committed(&error),
        }
    }

    /// The message of a watch.
    #[must_use]
    pub fn changed(&self, caller: &Caller, name: &str, endpoint: bool) -> Changed {
        self.tables.read(|held| {
            if endpoint {
                return Changed { endpoint: self.find_endpoint(held, name), service: None };
            }
            let service = name.parse().ok();
            let service = service.and_then(|name| self.find_service(held, caller, &name));
            Changed { endpoint: None, service }
        })
    }

    fn find_endpoint(&self, held: &Held, name: &str) -> Option<EndpointFound> {
        let found = &held.endpoints.get(name)?.value;
        if !self.endpoint_is_alive(name, found.lease_s) {
            return None;
        }
        Some(EndpointFound {
            addresses: found.addresses.clone().into(),
            owner: found.owner.0,
            fresh_s: self.fresh(found.lease_s),
        })
    }

    fn find_service(&self, held: &Held, caller: &Caller, name: &Name) -> Option<ServiceFound> {
        let mut places = Vec::new();
        let mut lease_s = 0;
        // An operator has named the servers of this service, so no client may add a place of its
        // own.
        if !held.clustered.contains(name.as_str())
            && let Some(service) = held.services.get(service_name(name).as_str())
            && let Some(endpoint) = held.endpoints.get(name.endpoint())
            && self.endpoint_is_alive(name.endpoint(), endpoint.value.lease_s)
        {
            lease_s = endpoint.value.lease_s;
            places.extend(endpoint.value.addresses.iter().map(|address| Location {
                server: String::new(),
                address: SocketAddr::new(*address, service.value.port),
                protocol: Protocol::Session,
                key: service.value.key.0,
            }));
        }
        for (server, announced) in self.servers_of(held, name.as_str(), caller.address) {
            places.extend(announced.addresses.iter().map(|address| Location {
                server: server.to_owned(),
                address: *address,
                protocol: Protocol::Session,
                key: announced.key.0,
            }));
        }
        if places.is_empty() {
            return None;
        }
        places.truncate(stp_proto::lookup::LIST_MAX);
        Some(ServiceFound { places: places.into(), fresh_s: self.fresh(lease_s) })
    }

    /// How long a client may use the answer to a look-up: not longer than the lease.
    fn fresh(&self, lease_s: u32) -> u32 {
        let fresh = u32::try_from(self.config.limits.fresh.as_secs()).unwrap_or(u32::MAX);
        if lease_s == 0 { fresh } else { fresh.min(lease_s) }
    }

    fn lease(&self, asked: u32) -> u32 {
        let max = u32::try_from(self.config.limits.lease_max.as_secs()).unwrap_or(u32::MAX);
        if asked == 0 { 0 } else { asked.clamp(2, max) }
    }

    fn not_found(&self, name: &str, domain: &str) -> Body {
        if self.store.0.silent_for() > Duration::ZERO {
            let text = format!("{name} is not known to be there: the store does not answer");
            return Body::refused(Refusal::Unavailable, text);
        }
        let text = match self.config.domain(domain) {
            Some(_) => format!("{name} does not exist"),
            None => format!("{name} does not exist; the domain {domain} is not kept here"),
        };
        Body::refused(Refusal::NotFound, text)
    }

    /// Whether the caller may make names in the domain.
    fn allow(&self, caller: &Caller, name: &EndpointName) -> Refusing<()> {
        let Some(domain) = self.config.domain(name.domain()) else {
            let text = format!("the domain {} is not kept here", name.domain());
            return refuse(Refusal::NotAllowed, text);
        };
        let allowed = match &domain.creators {
            Creators::Any => true,
            Creators::These { keys, users } => {
                let is_one = |user: &LoggedIn| {
                    users.contains(&user.name)
                        && self.tables.read(|held| user.record(held).is_some())
                };
                keys.contains(&caller.key) || caller.user.as_ref().is_some_and(is_one)
            }
        };
        if allowed {
            return Ok(());
        }
        tracing::info!(client = %caller.key, %name, "may not make names in this domain");
        refuse(Refusal::NotAllowed, format!("this key may not make names in {}", name.domain()))
    }

    fn owned(&self, caller: &Caller, name: &EndpointName) -> Refusing<Versioned<Endpoint>> {
        let found = self.tables.read(|held| held.endpoints.get(name.as_str()).cloned());
        let Some(found) = found else {
            return Err(Box::new(self.not_found(name.as_str(), name.domain())));
        };
        if found.value.owner != caller.key {
            tracing::info!(client = %caller.key, %name, "belongs to another key");
            return refuse(Refusal::NotOwner, format!("{name} belongs to another key"));
        }
        Ok(found)
    }

    /// The store's key of the endpoint, and the version of the service.
    fn owned_service(&self, caller: &Caller, name: &Name) -> Refusing<(String, u64)> {
        let endpoint = EndpointName::of(name);
        self.owned(caller, &endpoint)?;
        let found = self.tables.read(|held| {
            held.services.get(service_name(name).as_str()).map(|service| service.version)
        });
        match found {
            Some(version) => Ok((endpoint_key(&endpoint), version)),
            None => Err(Box::new(self.not_found(name.as_str(), name.domain()))),
        }
    }

    async fn done(&self, guards: Vec<Guard>, changes: Vec<Change>) -> Body {
        match self.commit(guards, changes).await {
            Ok(()) => Body::Done(Done),
            Err(error) => not_committed(&error),
        }
    }
}

/// The name of a service in its table.
fn service_name(name: &Name) -> String {
    format!("{}/{}", name.endpoint(), name.service())
}
