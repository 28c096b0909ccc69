//! Servers that announce themselves, and the files they hold (STP 1: only a part of the cluster
//! may carry a file, and the gateway knows which).
//!
//! An operator says which key a server has and what it may offer. The server announces its place
//! again and again, and sends the list of its files if it is not the one that is kept here. Clients
//! are no longer told of a server that stops announcing itself; its list stays until it is back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use stp_net::echo;
use stp_proto::lookup::{
    Announce, Announced, Body, Done, Files, LIST_MAX, List, Refusal, Revoked, Server, Told,
};
use stp_proto::name::Name;

use crate::record::{self, Inventory, Page, json, text};
use crate::sns::{Caller, Sns, not_committed};
use crate::store::{Change, Lease};
use crate::tables::{Held, HeldFile};

/// The most addresses of one server.
const ADDRESSES_MAX: usize = 8;
/// The most servers that one client is told, so that their list fits into an answer.
const RANKED_MAX: usize = 20;

/// The lists that a link is sending: the pages that have come, by service.
pub type Sending = BTreeMap<String, (u32, u64)>;

/// The last revocation, in the order of time and name, that was told on a link.
#[derive(Debug, Default)]
pub struct ToldRevoked((u64, Box<str>));

impl ToldRevoked {
    /// Revocations that were not told yet, as many as fit into an answer. The rest comes with the
    /// next.
    fn next(&mut self, held: &Held) -> Vec<Revoked> {
        let all = held.revoked.iter().map(|(user, until)| (*until, user.clone()));
        let mut new: Vec<_> = all.filter(|one| *one > self.0).collect();
        new.sort_unstable();
        new.truncate(LIST_MAX);
        if let Some(last) = new.last() {
            self.0 = last.clone();
        }
        let one = |(until, user): (u64, Box<str>)| Revoked { user: user.into(), until };
        new.into_iter().map(one).collect()
    }
}

/// Which servers hold a file, and what they hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holders {
    /// The service.
    pub service: Name,
    /// The file, the same at all of them.
    pub file: HeldFile,
    /// The servers.
    pub servers: BTreeSet<Box<str>>,
}

/// The servers that hold a file, by the SHA-256 and length of their copies.
type Copies = BTreeMap<([u8; 32], u64), BTreeSet<Box<str>>>;

fn no_inventory(digest: &[u8; 32]) -> bool {
    *digest == [0; 32]
}

impl Sns {
    /// A server announces itself.
    pub async fn announce(
        &self,
        caller: &Caller,
        announce: Announce,
        told: &mut ToldRevoked,
    ) -> Body {
        let name = announce.server.as_str();
        if let Err(refused) = self.allow_server(caller, name, &announce.services) {
            return *refused;
        }
        let addresses: Vec<SocketAddr> = announce
            .addresses
            .iter()
            .map(|address| {
                let here = address.ip().is_unspecified();
                let ip = if here { caller.address.to_canonical() } else { address.ip() };
                SocketAddr::new(ip, address.port())
            })
            .collect();
        if !(1..=ADDRESSES_MAX).contains(&addresses.len()) || announce.services.is_empty() {
            let text = format!("a server has 1 to {ADDRESSES_MAX} addresses and a service");
            return Body::refused(Refusal::BadRequest, text);
        }
        let profile = announce.told.profile();
        let value = record::Announced {
            key: caller.key,
            addresses,
            services: announce.services.iter().map(ToString::to_string).collect(),
            told: (profile.version.0, profile.keys),
        };
        let lease_s = u32::try_from(self.config.limits.server_lease.as_secs()).unwrap_or(15);
        let key = format!("up/{name}");
        let same = self.tables.read(|held| {
            held.announced.get(name).is_some_and(|announced| announced.value == value)
        });
        let renewed = if same { self.renew_lease(key.clone()).await } else { Ok(false) };
        match renewed {
            Ok(true) => {}
            Ok(false) => {
                tracing::info!(server = name, addresses = ?value.addresses, "a server is there");
                let put = Change::Put { key, value: json(&value), lease: Lease::New(lease_s) };
                if let Err(error) = self.commit(Vec::new(), vec![put]).await {
                    return not_committed(&error);
                }
            }
            Err(error) => return not_committed(&error),
        }
        let digest = text(&announce.inventory);
        let has = |held: &Held, service: &Name| {
            let shelf = held.shelves.get(&(name.into(), service.as_str().into()));
            let inventory = shelf.and_then(|shelf| shelf.inventory.as_ref());
            inventory.is_some_and(|inventory| inventory.value.digest == digest)
        };
        let files_wanted = !no_inventory(&announce.inventory)
            && self.tables.read(|held| !announce.services.iter().all(|one| has(held, one)));
        let revoked = self.tables.read(|held| told.next(held)).into();
        let told = Told::new(&self.cluster.profile(), echo::unix_ms());
        Body::Announced(Announced { lease_s, files_wanted, revoked, told })
    }

    /// A part of a server's list of files.
    pub async fn files(&self, caller: &Caller, files: Files, sending: &mut Sending) -> Body {
        let (server, service) = (files.server.as_str(), files.service.as_str());
        if let Err(refused) = self.allow_server(caller, server, &vec![files.service.clone()].into())
        {
            return *refused;
        }
        if files.first {
            sending.insert(service.to_owned(), (0, 0));
        }
        let Some((pages, count)) = sending.get_mut(service) else {
            return Body::refused(Refusal::BadRequest, "a list begins with its first part");
        };
        if files.files.is_empty() && !(files.first && files.last) {
            return Body::refused(Refusal::BadRequest, "a part of a list holds files");
        }
        let page = *pages;
        *pages += 1;
        *count += files.files.len() as u64;
        let (pages, count) = (*pages, *count);
        if count > self.config.limits.files_per_server {
            let text = format!("more than {} files", self.config.limits.files_per_server);
            return Body::refused(Refusal::Full, text);
        }
        let digest = text(&files.inventory);
        let mut changes = Vec::new();
        // What was begun and never finished goes with the next beginning, so that no list but the
        // one that holds and the one that comes is ever kept.
        if files.first || files.last {
            let (lists, holds) = self.tables.read(|held| {
                let shelf = held.shelves.get(&(server.into(), service.into()));
                let holds = shelf.and_then(|shelf| shelf.inventory.as_ref());
                let holds = holds.map(|inventory| inventory.value.digest.clone());
                (held.lists(server, service), holds.filter(|_| !files.last))
            });
            let old =
                lists.into_iter().filter(|list| *list != digest && Some(list) != holds.as_ref());
            let gone = |old| Change::DeleteBelow(format!("invp/{server}/{service}/{old}/"));
            changes.extend(old.map(gone));
        }
        changes.push(Change::Put {
            key: format!("invp/{server}/{service}/{digest}/{page:08}"),
            value: json(&Page::new(&files.files)),
            lease: Lease::None,
        });
        if files.last {
            sending.remove(service);
            tracing::info!(server, service, files = count, "a server's list of files");
            let inventory = Inventory { digest: digest.clone(), pages, files: count };
            changes.push(Change::Put {
                key: format!("inv/{server}/{service}"),
                value: json(&inventory),
                lease: Lease::None,
            });
        }
        match self.commit(Vec::new(), changes).await {
            Ok(()) => Body::Done(Done),
            Err(error) => not_committed(&error),
        }
    }

    fn allow_server(
        &self,
        caller: &Caller,
        name: &str,
        services: &List<Name>,
    ) -> Result<(), Box<Body>> {
        let allowed = self.tables.read(|held| held.servers.get(name).cloned());
        let refuse = |text: String| {
            tracing::info!(server = name, client = %caller.key, text, "announcement refused");
            Err(Box::new(Body::refused(Refusal::NotAllowed, text)))
        };
        let how = format!("stp-sns admin server allow {name} {} SERVICE...", caller.key);
        let Some(allowed) = allowed.filter(|allowed| allowed.value.key == caller.key) else {
            let text =
                format!("no server {name:?} is allowed here with this key; to allow it: {how}");
            return refuse(text);
        };
        let may = |service: &Name| allowed.value.services.iter().any(|one| one == service.as_str());
        match services.iter().find(|service| !may(service)) {
            Some(service) => refuse(format!(
                "server {name:?} may not offer {service}; to allow it, with all its services: {how}"
            )),
            None => Ok(()),
        }
    }

    /// The servers that have a service, nearest first.
    #[must_use]
    pub fn servers_of<'a>(
        &self,
        held: &'a Held,
        service: &str,
        client: IpAddr,
    ) -> Vec<(&'a str, &'a record::Announced)> {
        let Some(servers) = held.offered.get(service) else { return Vec::new() };
        let found = self.there(held, servers);
        let order = self.config.networks.rank(client, &addresses(&found));
        order.into_iter().map(|(index, _)| found[index]).collect()
    }

    /// The servers of `names` that are there now.
    fn there<'a>(
        &self,
        held: &'a Held,
        names: &'a BTreeSet<Box<str>>,
    ) -> Vec<(&'a str, &'a record::Announced)> {
        let lease = self.config.limits.server_lease;
        let found =
            names.iter().filter_map(|name| Some((&**name, &held.announced.get(name)?.value)));
        found.filter(|(name, _)| self.is_alive(&format!("up/{name}"), lease)).collect()
    }

    /// The list for a client: the servers of `names` that are there, ranked.
    #[must_use]
    pub fn ranked(&self, held: &Held, names: &BTreeSet<Box<str>>, client: IpAddr) -> Vec<Server> {
        let found = self.there(held, names);
        let order = self.config.networks.rank(client, &addresses(&found));
        let one = |(index, hops): (usize, u8)| {
            let (name, announced) = found[index];
            Server {
                name: name.to_owned(),
                addresses: announced.addresses.clone().into(),
                key: announced.key.0,
                hops,
            }
        };
        order.into_iter().map(one).take(RANKED_MAX).collect()
    }
}

fn addresses(servers: &[(&str, &record::Announced)]) -> Vec<Vec<IpAddr>> {
    let of = |(_, announced): &(&str, &record::Announced)| {
        announced.addresses.iter().map(SocketAddr::ip).collect()
    };
    servers.iter().map(of).collect()
}

impl Held {
    /// Which servers hold a file now, for a service that `may_be` accepts. Where copies differ, the
    /// one that most servers hold counts; clients are not told of the servers with other copies.
    #[must_use]
    pub fn holders(&self, may_be: impl Fn(&str) -> bool, path: &str) -> Option<Holders> {
        let mut found: BTreeMap<&str, Copies> = BTreeMap::new();
        for ((server, of), shelf) in &self.shelves {
            let there = self.offered.get(of).is_some_and(|servers| servers.contains(server));
            if may_be(of)
                && there
                && let Some(file) = shelf.file(path)
            {
                let copies = found.entry(of).or_default();
                copies.entry((file.sha256, file.size)).or_default().insert(server.clone());
            }
        }
        let (service, copies) = found.into_iter().next()?;
        if copies.len() > 1 {
            tracing::warn!(service, path, "servers hold different copies of a file");
        }
        let ((sha256, size), servers) =
            copies.into_iter().max_by_key(|(_, servers)| servers.len())?;
        let file = HeldFile { size, sha256 };
        Some(Holders { service: service.parse().ok()?, file, servers })
    }

    /// Whether any server, present or not, holds a file, for a service that `may_be` accepts.
    #[must_use]
    pub fn is_known(&self, may_be: impl Fn(&str) -> bool, path: &str) -> bool {
        self.shelves.iter().any(|((_, of), shelf)| may_be(of) && shelf.file(path).is_some())
    }

    /// The digests of all lists that have pages in the store.
    #[must_use]
    pub fn lists(&self, server: &str, service: &str) -> BTreeSet<String> {
        let shelf = self.shelves.get(&(server.into(), service.into()));
        shelf.map(|shelf| shelf.digests().map(ToOwned::to_owned).collect()).unwrap_or_default()
    }
}
