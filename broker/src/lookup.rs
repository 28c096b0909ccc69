//! The directory as the broker uses it: `.stp` names become services, files become services with
//! a ticket, and servers that move are followed.
//!
//! A name is looked up in two steps (KTH 3.3.4): its domain's Session Name Server, from the
//! configuration or by DNS; then the service there. If a gateway is configured it is asked first,
//! because it gives a ticket as well. What was found is kept as long as it is fresh, and longer if
//! the directory cannot be reached. While sessions use a service, a watch follows its servers: one
//! that comes up at another address with the same key is dialed there (use case 4).

mod files;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use nix::errno::Errno;
use parking_lot::Mutex;
use serde_json::{Value, json};
use stp_lookup::connection::NameWatch;
use stp_lookup::gateway::{LoginError, connect};
use stp_lookup::known::Known;
use stp_lookup::{AskError, Connection, Credential, DirectoryAddress, Gateway, KNOWN_FILE, PORT};
use stp_net::key::PublicKey;
use stp_net::link::LinkOptions;
use stp_net::paths::is_here;
use stp_net::place::Place;
use stp_proto::lookup::{Ask, Body, FilePath, Location, OneName, OneService, Refusal};
use stp_proto::name::Name;
use tokio::sync::{Notify, watch};

use crate::config::{self, DirectoryConfig, GatewayConfig};
use crate::lacking::{Lacking, lacking};
use crate::service::{Maker, Server, Service};

/// Numbers of services that are not in the configuration.
const FIRST_NUMBER: usize = 1 << 32;
/// Names kept.
const KEPT_MAX: usize = 10_000;
/// What was found by the gateway is asked again after this time.
const FRESH_MAX: Duration = Duration::from_secs(30);
/// An answer that is not fresh is used for this long if the directory cannot be reached.
const STALE_MAX: Duration = Duration::from_secs(24 * 3_600);
/// An answer that no session uses and nobody asks for is kept for this long.
const KEEP: Duration = Duration::from_secs(600);
/// From one attempt to follow a service to the next.
const FOLLOW_AGAIN: Duration = Duration::from_secs(1);
/// How often it is looked whether anybody still uses a service, and where its servers are.
const FOLLOW_LOOK: Duration = Duration::from_secs(30);
const DIAL_MAX: Duration = Duration::from_secs(4);
/// The front of the names that stand for files, before that of the endpoint; no host name begins
/// so.
const FILE_FRONT: &str = "file:";

/// Something that was found.
#[derive(Clone)]
pub struct KnownService {
    /// Its service.
    pub service: Arc<Service>,
    /// The service's number on the overloaded list.
    pub number: usize,
    /// The gateway's ticket.
    pub grant: Option<Arc<[u8]>>,
    at: Instant,
    /// The same by the calendar, which goes on while the machine sleeps, as a ticket's life does.
    date: SystemTime,
    /// When an app last wanted it.
    asked: Instant,
    fresh: Duration,
    life: Duration,
}

impl KnownService {
    /// Whether it is not older than this.
    fn is_within(&self, age: Duration) -> bool {
        self.at.elapsed() < age && self.date.elapsed().is_ok_and(|elapsed| elapsed < age)
    }
}

/// Names, files and servers that the directory knows.
pub struct Directory {
    config: DirectoryConfig,
    folder: Option<PathBuf>,
    maker: Mutex<Maker>,
    found: Mutex<HashMap<String, KnownService>>,
    gateway: tokio::sync::Mutex<Option<Gateway>>,
    others: tokio::sync::Mutex<HashMap<DirectoryAddress, Connection>>,
    next_number: AtomicUsize,
    next_file: AtomicUsize,
    trouble: Mutex<Option<String>>,
    /// The public half of the proving key that the gateway has refused, and what it said.
    refused: Mutex<Option<([u8; 32], String)>>,
    /// Counts changes of the network.
    network: watch::Sender<u64>,
    /// Servers that have left the address at which they were used, and who waits for them.
    moved: (Mutex<Vec<Arc<Server>>>, Notify),
}

/// The link is lost, or the log-in on it has ended: the password was changed.
fn must_log_in_again(error: &AskError) -> bool {
    match error {
        AskError::Lost(_) => true,
        AskError::Refused(refused) => refused.why == Refusal::NotLoggedIn,
        _ => false,
    }
}

impl Directory {
    /// A directory; nothing is asked yet.
    pub fn new(config: DirectoryConfig, mut maker: Maker) -> Arc<Directory> {
        maker.servers.clear();
        Arc::new(Directory {
            config,
            folder: stp_lookup::folder(),
            maker: Mutex::new(maker),
            found: Mutex::default(),
            gateway: tokio::sync::Mutex::default(),
            others: tokio::sync::Mutex::default(),
            next_number: AtomicUsize::new(FIRST_NUMBER),
            next_file: AtomicUsize::new(1),
            trouble: Mutex::default(),
            refused: Mutex::default(),
            network: watch::Sender::new(0),
            moved: Default::default(),
        })
    }

    /// The servers that have left the address at which they were used, once there are any.
    pub async fn moved(&self) -> Vec<Arc<Server>> {
        self.moved.1.notified().await;
        std::mem::take(&mut self.moved.0.lock())
    }

    /// The endpoint with whose key it is asked, by name; empty: this user's own.
    #[must_use]
    pub fn endpoint(&self) -> String {
        self.maker.lock().endpoint.to_string()
    }

    /// The endpoint whose directory has located a file, by name, of the name that stands for it.
    #[must_use]
    pub fn endpoint_of(host: &str) -> Option<&str> {
        let (endpoint, _) = host.strip_prefix(FILE_FRONT)?.rsplit_once('/')?;
        Some(endpoint)
    }

    /// Whether the configuration says which name server keeps the domain.
    #[must_use]
    pub fn has_server_of(&self, domain: &str) -> bool {
        self.config.domains.iter().any(|one| one.domain == domain)
    }

    /// Counts changes of the network.
    #[must_use]
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.network.subscribe()
    }

    /// How links to directories are made.
    fn options(&self) -> LinkOptions {
        let detour = self.maker.lock().options.detour.clone();
        LinkOptions { timeout: DIAL_MAX, detour, ..LinkOptions::default() }
    }

    /// Where the gateway is, if there is one.
    #[must_use]
    pub fn gateway_places(&self) -> Vec<DirectoryAddress> {
        self.config.gateway.as_ref().map_or_else(Vec::new, |gateway| gateway.places.clone())
    }

    /// Whether a name is of the kind the directory knows.
    #[must_use]
    pub fn may_know(host: &str) -> bool {
        host.starts_with(FILE_FRONT) || Name::is_host(host.as_bytes())
    }

    /// The servers of all that was found.
    #[must_use]
    pub fn servers(&self) -> Vec<Arc<Server>> {
        self.maker.lock().servers.clone()
    }

    /// All services that were found, with their numbers.
    #[must_use]
    pub fn services(&self) -> Vec<(usize, Arc<Service>)> {
        let found = self.found.lock();
        let mut all: Vec<_> =
            found.values().map(|found| (found.number, Arc::clone(&found.service))).collect();
        all.sort_by_key(|(number, _)| *number);
        all
    }

    /// Why the last look-up came to nothing, if it did.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        self.trouble.lock().clone()
    }

    /// For the status. No ticket, no secret.
    #[must_use]
    pub fn status(&self) -> Value {
        let gateway = self.config.gateway.as_ref();
        let places = gateway.map_or(&[][..], |gateway| &gateway.places);
        json!({
            "places": places.iter().map(ToString::to_string).collect::<Vec<_>>(),
            "user": gateway.map(|gateway| &gateway.user),
            "names": self.found.lock().len(),
            "trouble": *self.trouble.lock(),
        })
    }

    /// Forgets what nobody uses any more.
    pub fn age(&self) {
        self.found.lock().retain(|_, found| {
            Arc::strong_count(&found.service) > 1 || found.asked.elapsed() < found.life.min(KEEP)
        });
        // The list itself holds one.
        self.maker.lock().servers.retain(|server| Arc::strong_count(server) > 1);
    }

    /// The machine's addresses or routes have changed: links to directories may be dead without
    /// saying so. Servers that are followed are asked for over new ones. Whoever waits for an
    /// answer on a link from an address that is gone is told at once, and not after its time.
    pub fn network_changed(self: &Arc<Self>) {
        let directory = Arc::clone(self);
        // A task that dials a directory holds its lock meanwhile, and nobody should wait for that.
        tokio::spawn(async move {
            let others = std::mem::take(&mut *directory.others.lock().await);
            let gateway = directory.gateway.lock().await.take();
            let links = others.values().chain(gateway.as_ref().map(Gateway::connection));
            links.filter(|link| !is_here(link.local_address().ip())).for_each(Connection::close);
            directory.network.send_modify(|count| *count += 1);
        });
    }

    /// The ticket for a name was not accepted: the next session gets a new one.
    pub fn distrust(&self, host: &str) {
        if let Some(found) = self.found.lock().get_mut(host) {
            found.fresh = Duration::ZERO;
        }
    }

    /// The service behind a name or file.
    pub async fn find(self: &Arc<Self>, host: &str) -> Result<KnownService, Lacking> {
        let kept = self.found.lock().get_mut(host).map(|kept| {
            kept.asked = Instant::now();
            kept.clone()
        });
        if let Some(kept) = &kept
            && (kept.is_within(kept.fresh) || host.starts_with(FILE_FRONT))
        {
            return Ok(kept.clone());
        }
        let name = Name::from_host(host)
            .map_err(|error| lacking(Errno::EHOSTUNREACH, format!("{host}: {error}")))?;
        let looked_up = self.look_up(&name).await;
        let trouble = looked_up.as_ref().err().map(|lacking| lacking.why.clone());
        *self.trouble.lock() = trouble;
        match (looked_up, kept) {
            (Ok(sources), kept) => Ok(self.keep(host, &name, sources, kept)),
            (Err(lacking), Some(kept)) if !lacking.unknown && kept.is_within(kept.life) => {
                tracing::warn!(host, why = lacking.why, "using what was known before");
                Ok(kept)
            }
            (Err(lacking), _) => Err(lacking),
        }
    }

    fn keep(
        self: &Arc<Self>,
        host: &str,
        name: &Name,
        sources: Sources,
        kept: Option<KnownService>,
    ) -> KnownService {
        let Sources { servers, grant, fresh, life } = sources;
        let asked = kept.as_ref().map_or_else(Instant::now, |kept| kept.asked);
        let same = kept.filter(|kept| offers(&kept.service, &servers));
        let (service, number, is_new) = match same {
            Some(kept) => (kept.service, kept.number, false),
            None => {
                let config = config::Service::at(name.to_string(), servers);
                let number = self.next_number.fetch_add(1, Ordering::Relaxed);
                (self.maker.lock().service(&config), number, true)
            }
        };
        let (at, date) = (Instant::now(), SystemTime::now());
        let kept = Arc::clone(&service);
        let found = KnownService { service: kept, number, grant, at, date, asked, fresh, life };
        let mut all = self.found.lock();
        if all.len() >= KEPT_MAX && !all.contains_key(host) {
            let oldest = all.iter().min_by_key(|(_, found)| found.at).map(|(host, _)| host.clone());
            oldest.map(|host| all.remove(&host));
        }
        all.insert(host.to_owned(), found.clone());
        drop(all);
        if is_new {
            let (directory, host) = (Arc::clone(self), host.to_owned());
            tokio::spawn(directory.follow(host, name.clone(), Arc::downgrade(&service)));
        }
        found
    }

    async fn look_up(&self, name: &Name) -> Result<Sources, Lacking> {
        if self.config.gateway.is_some() {
            let located = self.locate(Some(name.clone()), None, 0).await;
            match located {
                Ok(found) => return Ok(Sources::of_gateway(&found)),
                // Another domain's SNS may know it.
                Err(lacking) if lacking.unknown && !self.is_kept_by_gateway(name) => {}
                Err(lacking) => return Err(lacking),
            }
        }
        let connection = self.of_domain(name.domain()).await?;
        let ask = Ask::GetService(OneService { name: name.clone() });
        match connection.ask(ask).await? {
            Body::Service(found) => Ok(Sources {
                servers: of_domain(&found.places),
                grant: None,
                fresh: Duration::from_secs(found.fresh_s.into()),
                life: STALE_MAX,
            }),
            _ => Err(lacking(Errno::EHOSTUNREACH, "directory: an unexpected answer")),
        }
    }

    /// Without any other place for the domain the gateway's word is the last.
    fn is_kept_by_gateway(&self, name: &Name) -> bool {
        !self.config.domains.iter().any(|one| one.domain == name.domain())
    }

    /// Asks the gateway; logs in first if need be, and again if the link was lost.
    async fn locate(
        &self,
        service: Option<Name>,
        path: Option<FilePath>,
        from: u64,
    ) -> Result<stp_lookup::Referral, Lacking> {
        let Some(config) = &self.config.gateway else {
            return Err(lacking(Errno::EHOSTUNREACH, "no [gateway] is configured"));
        };
        let mut last = lacking(Errno::EHOSTUNREACH, "the gateway cannot be reached");
        for _ in 0..2 {
            let gateway = self.logged_in(config).await?;
            match gateway.locate(service.clone(), path.clone(), from).await {
                Ok(found) => return Ok(found),
                Err(error) if must_log_in_again(&error) => {
                    *self.gateway.lock().await = None;
                    last = error.into();
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(last)
    }

    async fn logged_in(&self, config: &GatewayConfig) -> Result<Gateway, Lacking> {
        let mut kept = self.gateway.lock().await;
        if let Some(gateway) = kept.as_ref().filter(|gateway| gateway.connection().is_open()) {
            return Ok(gateway.clone());
        }
        let folder = self.folder.as_deref();
        let folder = folder.ok_or_else(|| lacking(Errno::EACCES, "no home for credentials"))?;
        let first = &config.places[0];
        let credential = Credential::load(folder, &config.user, first)
            .map_err(|error| lacking(Errno::EACCES, error.to_string()))?;
        let proof = credential.keys.proof_key();
        if let Some((refused, why)) = &*self.refused.lock()
            && *refused == proof
        {
            return Err(lacking(Errno::EACCES, why.clone()));
        }
        let key = config.key.unwrap_or(credential.key);
        let tls = Arc::clone(&self.maker.lock().tls);
        let options = self.options();
        let mut last = None;
        for place in &config.places {
            let connection = match connect(place, &key, &tls, &options).await {
                Ok(connection) => connection,
                Err(error) => {
                    last = Some(error);
                    continue;
                }
            };
            match Gateway::login(connection, &credential, unix_now()).await {
                Ok(gateway) => {
                    tracing::info!(gateway = %place, user = config.user, "logged in");
                    *kept = Some(gateway.clone());
                    return Ok(gateway);
                }
                Err(LoginError::Ask(AskError::Refused(refused)))
                    if refused.why == Refusal::LoginRefused =>
                {
                    let why = format!(
                        "the gateway refuses the log-in ({}); run: session login {}@{first}",
                        refused.text, config.user
                    );
                    // It will be refused as long as nobody logs in anew: asking again and again
                    // would only use up the attempts that are left.
                    *self.refused.lock() = Some((proof, why.clone()));
                    return Err(lacking(Errno::EACCES, why));
                }
                Err(error) => last = Some(error),
            }
        }
        Err(last.map_or_else(|| lacking(Errno::EHOSTUNREACH, "no gateway"), Lacking::from))
    }

    /// The Session Name Server of a domain: configured, or where the domain's name leads, if its
    /// key is known.
    pub(crate) async fn of_domain(&self, domain: &str) -> Result<Connection, Lacking> {
        let configured = self.config.domains.iter().find(|one| one.domain == domain);
        let (place, key) = match configured {
            Some(one) => (one.address.clone(), one.key),
            None => {
                let place = Place { host: domain.to_owned(), port: PORT };
                let place = DirectoryAddress(place);
                let known = self.folder.as_ref().map(|dir| Known::at(&dir.join(KNOWN_FILE)));
                let key = known.and_then(|known| known.key(&place).ok().flatten());
                let key = key.ok_or_else(|| Lacking {
                    errno: Errno::EHOSTUNREACH,
                    why: format!("the key of {place} is not known; run: session trust {place}"),
                    unknown: true,
                })?;
                (place, key)
            }
        };
        let mut others = self.others.lock().await;
        if let Some(connection) = others.get(&place).filter(|connection| connection.is_open()) {
            return Ok(connection.clone());
        }
        let tls = Arc::clone(&self.maker.lock().tls);
        let options = self.options();
        let connection = connect(&place, &key, &tls, &options).await?;
        others.insert(place, connection.clone());
        Ok(connection)
    }

    /// Follows the servers of a service as long as anybody uses it.
    async fn follow(self: Arc<Self>, host: String, name: Name, service: Weak<Service>) {
        loop {
            tokio::time::sleep(FOLLOW_AGAIN).await;
            if service.strong_count() == 0 {
                return;
            }
            let mut network = self.network.subscribe();
            let Ok(mut watch) = self.watch(&name).await else { continue };
            // What has changed before the watch began.
            self.refresh(&host, &name, &service).await;
            loop {
                let changed = tokio::select! {
                    changed = tokio::time::timeout(FOLLOW_LOOK, watch.changed()) => changed,
                    _ = network.changed() => break,
                };
                if service.strong_count() == 0 {
                    return;
                }
                match changed {
                    Ok(Some(_)) => self.refresh(&host, &name, &service).await,
                    Ok(None) => break,
                    // A link that died silently is noticed only when something is said on it.
                    Err(_quiet) => self.refresh(&host, &name, &service).await,
                }
            }
        }
    }

    async fn watch(&self, name: &Name) -> Result<NameWatch, Lacking> {
        let ask = Ask::Watch(OneName { name: name.to_string(), endpoint: false });
        let connection = match &self.config.gateway {
            Some(config) if self.is_kept_by_gateway(name) => {
                self.logged_in(config).await?.connection().clone()
            }
            _ => self.of_domain(name.domain()).await?,
        };
        Ok(connection.watch(ask).await?)
    }

    /// Looks the service up again; tells its servers that have moved, and new sessions of others.
    async fn refresh(self: &Arc<Self>, host: &str, name: &Name, service: &Weak<Service>) {
        let sources = match self.look_up(name).await {
            Ok(sources) => sources,
            Err(lacking) => {
                // It was taken back. Sessions go on; who connects now is told.
                if lacking.unknown {
                    self.found.lock().remove(host);
                }
                return;
            }
        };
        let Some(service) = service.upgrade() else { return };
        for server in &service.servers {
            let dialer = server.reach.dialer();
            let source = sources.servers.iter().find(|source| source.key == dialer.key);
            let Some(source) = source.filter(|source| source.places != dialer.places()) else {
                continue;
            };
            let (now, at) = (&source.places, dialer.address());
            let stays = now.addresses().any(|address| Some(address) == at);
            let (name, from) = (server.name(), dialer.places());
            dialer.moved(now.clone());
            if !stays {
                tracing::info!(server = name, %from, to = %now, "a server has moved");
                server.reach.network_changed(|_| false);
                self.moved.0.lock().push(Arc::clone(server));
                self.moved.1.notify_one();
            }
        }
        let kept = self.found.lock().get(host).cloned();
        self.keep(host, name, sources, kept);
    }
}

/// What a look-up has given.
struct Sources {
    servers: Vec<config::Server>,
    grant: Option<Arc<[u8]>>,
    fresh: Duration,
    life: Duration,
}

impl Sources {
    fn of_gateway(found: &stp_lookup::Referral) -> Sources {
        // All addresses of a server, the servers in their order.
        let mut servers = Vec::new();
        for server in found.servers.iter() {
            for address in server.addresses.iter() {
                add(&mut servers, (*address, server.key), Some(server.name.clone()));
            }
        }
        Sources {
            servers,
            grant: Some(found.ticket.as_slice().into()),
            fresh: (found.life / 2).min(FRESH_MAX),
            life: found.life,
        }
    }
}

/// The servers of a domain's record.
fn of_domain(places: &[Location]) -> Vec<config::Server> {
    let mut servers = Vec::new();
    for place in places {
        let name = (!place.server.is_empty()).then(|| place.server.clone());
        add(&mut servers, (place.address, place.key), name);
    }
    servers
}

/// Adds a server, or a further address to one that is there.
fn add(
    servers: &mut Vec<config::Server>,
    (address, key): (SocketAddr, [u8; 32]),
    name: Option<String>,
) {
    let key = PublicKey(key);
    match servers.iter_mut().find(|server| server.key == key) {
        Some(server) => server.places.add(address.into()),
        None => servers.push(config::Server { places: address.into(), key, name, ssh: None }),
    }
}

/// Whether a service has just these servers, in this order.
fn offers(service: &Service, servers: &[config::Server]) -> bool {
    let of = |server: &Arc<Server>| {
        let dialer = server.reach.dialer();
        (dialer.places(), dialer.key)
    };
    service.servers.len() == servers.len()
        && service.servers.iter().zip(servers).all(|(a, b)| of(a) == (b.places.clone(), b.key))
}

fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
