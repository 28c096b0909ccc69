//! The content of the store, in memory. Every look-up is answered from here.
//!
//! The store tells of every change ([`Sink`]). The tables take it in, and then tell the links that
//! watch the name. Values that cannot be read are left out and logged, because another daemon of a
//! newer version may have written them.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::{Mutex, RwLock};
use serde::de::DeserializeOwned;
use tokio::sync::mpsc;

use crate::record::{Announced, Endpoint, Inventory, Page, Revoked, Server, Service, User, bytes};
use crate::store::{Applied, Sink};

/// A value and its version in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Versioned<T> {
    /// The value.
    pub value: T,
    /// Its version.
    pub version: u64,
}

type Table<T> = HashMap<Box<str>, Versioned<T>>;

/// A file at a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldFile {
    /// Its length.
    pub size: u64,
    /// SHA-256 of its content.
    pub sha256: [u8; 32],
}

/// The list of files that a server holds for a service.
#[derive(Debug, Default)]
pub struct Shelf {
    /// Which list is the valid one.
    pub inventory: Option<Versioned<Inventory>>,
    /// Pages of lists, by digest and number; some may be of a list to come.
    pages: BTreeMap<(Box<str>, u32), BTreeMap<Box<str>, HeldFile>>,
}

impl Shelf {
    /// A file of the valid list.
    #[must_use]
    pub fn file(&self, path: &str) -> Option<HeldFile> {
        self.holding().find_map(|files| files.get(path).copied())
    }

    /// The files of the valid list.
    pub fn files(&self) -> impl Iterator<Item = (&str, HeldFile)> {
        self.holding().flatten().map(|(path, file)| (&**path, *file))
    }

    /// The digests of the lists that have pages here.
    pub fn digests(&self) -> impl Iterator<Item = &str> {
        self.pages.keys().map(|(digest, _)| &**digest)
    }

    fn holding(&self) -> impl Iterator<Item = &BTreeMap<Box<str>, HeldFile>> {
        let digest = self.inventory.as_ref().map(|inventory| inventory.value.digest.as_str());
        self.pages.iter().filter(move |((of, _), _)| Some(&**of) == digest).map(|(_, files)| files)
    }
}

/// All tables.
#[derive(Debug, Default)]
pub struct Held {
    /// Endpoints by name.
    pub endpoints: Table<Endpoint>,
    /// Services by `object@domain/service`.
    pub services: BTreeMap<Box<str>, Versioned<Service>>,
    /// Servers that are there, by name.
    pub announced: BTreeMap<Box<str>, Versioned<Announced>>,
    /// Servers that are allowed, by name.
    pub servers: BTreeMap<Box<str>, Versioned<Server>>,
    /// Services that an operator has given to servers. No service of an endpoint may have such a
    /// name.
    pub clustered: BTreeSet<String>,
    /// The servers that have a service.
    pub offered: HashMap<Box<str>, BTreeSet<Box<str>>>,
    /// Lists of files by server and service.
    pub shelves: BTreeMap<(Box<str>, Box<str>), Shelf>,
    /// Users by name.
    pub users: BTreeMap<Box<str>, Versioned<User>>,
    /// Users whose earlier tickets have ended, and the time up to which these were granted.
    pub revoked: BTreeMap<Box<str>, u64>,
    /// Endpoints per owner.
    pub owned: HashMap<[u8; 32], u32>,
    /// The secret from which the salts of unknown users are made.
    pub guise: Option<[u8; 32]>,
}

/// A link that is told when a name changes, and the number of its watch.
#[derive(Debug)]
struct Watcher {
    id: u64,
    number: u32,
    link: mpsc::Sender<u32>,
}

/// The tables, and the links that watch names in them.
#[derive(Debug, Default)]
pub struct Tables {
    held: RwLock<Held>,
    watchers: Mutex<HashMap<Box<str>, Vec<Watcher>>>,
    next_watcher: AtomicU64,
}

/// A watch; ends when dropped.
#[derive(Debug)]
pub struct Watching {
    tables: Arc<Tables>,
    name: Box<str>,
    id: u64,
}

impl Drop for Watching {
    fn drop(&mut self) {
        let mut watchers = self.tables.watchers.lock();
        if let Some(of_name) = watchers.get_mut(&self.name) {
            of_name.retain(|watcher| watcher.id != self.id);
            if of_name.is_empty() {
                watchers.remove(&self.name);
            }
        }
    }
}

impl Tables {
    /// Looks into the tables.
    pub fn read<T>(&self, look: impl FnOnce(&Held) -> T) -> T {
        look(&self.held.read())
    }

    /// Has `number` sent to `link` whenever the name itself changes. For a service, its endpoint
    /// must be watched as well. A link that is too slow for its own changes misses some.
    pub fn watch(self: &Arc<Self>, name: &str, number: u32, link: mpsc::Sender<u32>) -> Watching {
        let id = self.next_watcher.fetch_add(1, Ordering::Relaxed);
        let watcher = Watcher { id, number, link };
        self.watchers.lock().entry(name.into()).or_default().push(watcher);
        Watching { tables: Arc::clone(self), name: name.into(), id }
    }

    /// How many watches there are.
    #[must_use]
    pub fn watches(&self) -> usize {
        self.watchers.lock().values().map(Vec::len).sum()
    }

    fn tell(&self, changed: &BTreeSet<String>) {
        let watchers = self.watchers.lock();
        if watchers.is_empty() {
            return;
        }
        for name in changed {
            for watcher in watchers.get(name.as_str()).into_iter().flatten() {
                let _ = watcher.link.try_send(watcher.number);
            }
        }
    }
}

impl Sink for Tables {
    fn apply(&self, changes: Vec<Applied>) {
        let mut changed = BTreeSet::new();
        self.held.write().apply(changes, &mut changed);
        self.tell(&changed);
    }

    fn reset(&self, all: Vec<Applied>) {
        let (mut fresh, mut changed) = (Held::default(), BTreeSet::new());
        fresh.apply(all, &mut changed);
        let old = std::mem::replace(&mut *self.held.write(), fresh);
        changed.extend(old.endpoints.into_keys().map(String::from));
        changed.extend(old.services.into_keys().map(|name| service_of(&name)));
        changed.extend(old.offered.into_keys().map(String::from));
        self.tell(&changed);
    }
}

fn parse<T: DeserializeOwned>(key: &str, value: &[u8]) -> Option<T> {
    serde_json::from_slice(value)
        .map_err(|error| tracing::warn!(key, %error, "the store holds what cannot be read"))
        .ok()
}

impl Held {
    fn apply(&mut self, changes: Vec<Applied>, changed: &mut BTreeSet<String>) {
        for change in changes {
            match change {
                Applied::Put { key, value, version } => self.put(&key, &value, version, changed),
                Applied::Gone(key) => self.gone(&key, changed),
            }
        }
    }

    fn put(&mut self, key: &str, value: &[u8], version: u64, changed: &mut BTreeSet<String>) {
        let Some((table, name)) = key.split_once('/') else { return };
        match table {
            "ep" => {
                let Some(value) = parse::<Endpoint>(key, value) else { return };
                self.disown(name);
                *self.owned.entry(value.owner.0).or_default() += 1;
                self.endpoints.insert(name.into(), Versioned { value, version });
                changed.insert(name.to_owned());
            }
            "sv" => {
                let Some(value) = parse(key, value) else { return };
                self.services.insert(name.into(), Versioned { value, version });
                changed.insert(service_of(name));
            }
            "up" => {
                let Some(value) = parse::<Announced>(key, value) else { return };
                self.withdraw(name, changed);
                for service in &value.services {
                    self.offered.entry(service.as_str().into()).or_default().insert(name.into());
                    changed.insert(service.clone());
                }
                self.announced.insert(name.into(), Versioned { value, version });
            }
            "srv" => {
                if let Some(value) = parse(key, value) {
                    self.servers.insert(name.into(), Versioned { value, version });
                    self.count_clustered();
                }
            }
            "inv" => {
                let (Some((server, service)), Some(value)) =
                    (name.split_once('/'), parse(key, value))
                else {
                    return;
                };
                let shelf = self.shelves.entry((server.into(), service.into())).or_default();
                shelf.inventory = Some(Versioned { value, version });
            }
            "invp" => self.put_page(key, name, value),
            "user" => {
                if let Some(value) = parse(key, value) {
                    self.users.insert(name.into(), Versioned { value, version });
                }
            }
            "rev" => {
                if let Some(Revoked { until }) = parse(key, value) {
                    self.revoked.insert(name.into(), until);
                }
            }
            "secret" if name == "guise" => {
                self.guise = parse::<String>(key, value).and_then(|text| bytes(&text));
            }
            _ => tracing::debug!(key, "the store holds what is not known here"),
        }
    }

    fn put_page(&mut self, key: &str, name: &str, value: &[u8]) {
        let Some((shelf, page)) = page_of(name) else { return };
        let Some(value) = parse::<Page>(key, value) else { return };
        let read = |(path, size, sha256): (String, u64, String)| {
            Some((path.into(), HeldFile { size, sha256: bytes(&sha256)? }))
        };
        let files = value.files.into_iter().filter_map(read).collect();
        self.shelves.entry(shelf).or_default().pages.insert(page, files);
    }

    fn gone(&mut self, key: &str, changed: &mut BTreeSet<String>) {
        let Some((table, name)) = key.split_once('/') else { return };
        match table {
            "ep" => {
                self.disown(name);
                self.endpoints.remove(name);
                changed.insert(name.to_owned());
            }
            "sv" => {
                self.services.remove(name);
                changed.insert(service_of(name));
            }
            "up" => self.withdraw(name, changed),
            "srv" => {
                self.servers.remove(name);
                self.count_clustered();
            }
            "inv" => {
                if let Some((server, service)) = name.split_once('/') {
                    self.shelf_changed((server.into(), service.into()), |shelf| {
                        shelf.inventory = None;
                    });
                }
            }
            "invp" => {
                if let Some((shelf, page)) = page_of(name) {
                    self.shelf_changed(shelf, |shelf| drop(shelf.pages.remove(&page)));
                }
            }
            "user" => drop(self.users.remove(name)),
            "rev" => drop(self.revoked.remove(name)),
            _ => {}
        }
    }

    fn count_clustered(&mut self) {
        let all = self.servers.values().flat_map(|server| server.value.services.iter().cloned());
        self.clustered = all.collect();
    }

    fn shelf_changed(&mut self, name: (Box<str>, Box<str>), change: impl FnOnce(&mut Shelf)) {
        if let Some(shelf) = self.shelves.get_mut(&name) {
            change(shelf);
            if shelf.inventory.is_none() && shelf.pages.is_empty() {
                self.shelves.remove(&name);
            }
        }
    }

    fn disown(&mut self, name: &str) {
        let Some(old) = self.endpoints.get(name) else { return };
        let owner = old.value.owner.0;
        if let Some(count) = self.owned.get_mut(&owner) {
            *count -= 1;
            if *count == 0 {
                self.owned.remove(&owner);
            }
        }
    }

    fn withdraw(&mut self, server: &str, changed: &mut BTreeSet<String>) {
        let Some(old) = self.announced.remove(server) else { return };
        for service in &old.value.services {
            if let Some(servers) = self.offered.get_mut(service.as_str()) {
                servers.remove(server);
                if servers.is_empty() {
                    self.offered.remove(service.as_str());
                }
            }
            changed.insert(service.clone());
        }
    }
}

/// `object@domain/service` to `service.object@domain`.
fn service_of(name: &str) -> String {
    name.split_once('/')
        .map_or_else(String::new, |(endpoint, service)| format!("{service}.{endpoint}"))
}

type PageName = ((Box<str>, Box<str>), (Box<str>, u32));

fn page_of(name: &str) -> Option<PageName> {
    let mut parts = name.split('/');
    let shelf = (parts.next()?.into(), parts.next()?.into());
    Some((shelf, (parts.next()?.into(), parts.next()?.parse().ok()?)))
}
