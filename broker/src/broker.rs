//! What the broker has: its tables, its counters, and the sessions.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::Read;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use parking_lot::{Mutex, RwLock};
use serde_json::{Value, json};
use stp_drive::Purse;
use stp_drive::upgrade::Upgrade;
use stp_net::link::{LinkOptions, Tls};
use stp_net::status::Feed;
use stp_proto::course::{Pace, Relay};
use stp_proto::group::{Awaited, Groups};
use stp_proto::handle::Handle;
use stp_proto::local::Cookie;
use stp_proto::local::wire::Resolved;
use stp_proto::select::{Overloaded, Rank, Rejection};
use stp_proto::session::{Attempt, code};
use tokio::sync::Notify;

use crate::any_link::Command;
use crate::app::{Counters as AppCounters, publish_routes};
use crate::config::Config;
use crate::endpoints::{Endpoint, Endpoints};
use crate::entry::Entry;
use crate::group::awaited::ToReach;
use crate::group::listener::Reached;
use crate::lookup::Directory;
use crate::map;
use crate::names::NamesFile;
use crate::pauses::Pauses;
use crate::policies::Policies;
use crate::reach::News;
use crate::relays::Relays;
use crate::service::{Maker, Server, Service};
use crate::tables::Tables;
use crate::virtual_addresses::{Family, VirtualAddresses};

/// Ended sessions kept for the status.
const ENDED_MAX: usize = 100;

/// What is counted.
#[derive(Debug, Default)]
pub struct Counters {
    /// Sessions begun.
    pub opened: AtomicU64,
    /// Connects refused before a session was begun.
    pub refused: AtomicU64,
    /// Sessions that came to an end.
    pub ended: AtomicU64,
    /// Links attached to the same server again.
    pub resumed: AtomicU64,
    /// Sessions taken to another server.
    pub transferred: AtomicU64,
    /// Bytes delivered to apps by sessions that have ended.
    pub bytes_in: AtomicU64,
    /// Bytes taken from apps by sessions that have ended.
    pub bytes_out: AtomicU64,
    /// Changes of the network.
    pub network_changes: AtomicU64,
}

/// Everything the broker has.
pub struct Broker {
    tables: RwLock<Arc<Tables>>,
    /// Makes the services of the next tables.
    pub(crate) maker: Mutex<Maker>,
    /// Why the configuration could not be read again, if that is so.
    pub(crate) reload_failed: Mutex<Option<String>>,
    /// Told when the broker is asked to end.
    pub(crate) stop: Notify,
    /// It takes no new sessions, and ends as soon as those it has are reset.
    pub(crate) ending: AtomicBool,
    /// Names, files and servers that the directory knows.
    pub directory: Arc<Directory>,
    /// What happens to the sessions, as it happens.
    pub feed: Feed,
    /// What the sessions hold together.
    pub purse: Arc<Purse>,
    /// Over what links may leave.
    pub policies: Policies,
    /// This user's endpoints.
    pub endpoints: Endpoints,
    /// Ways through relays.
    pub relays: Relays,
    /// Tells of changes of the standing of any server.
    pub news: News,
    /// Servers to be left alone for a while: service and place.
    pub overloaded: Mutex<Overloaded<(usize, Rank)>>,
    /// What is counted.
    pub counters: Counters,
    /// Refusals by servers, by reason.
    pub refusals: Mutex<BTreeMap<String, u64>>,
    /// What the app side counts.
    pub app_counters: Arc<AppCounters>,
    /// When it began.
    pub started: Instant,
    /// Where the shims learn which sessions have no link.
    pub pauses: OnceLock<Arc<Pauses>>,
    /// What went wrong at its start, and is wrong for as long as it runs.
    pub warnings: Mutex<Vec<String>>,
    /// Virtual addresses and the names they stand for.
    pub(crate) virtual_addresses: Mutex<VirtualAddresses>,
    /// Connections that were announced.
    pub(crate) groups: Mutex<Groups>,
    /// Where the logins and the data of FTP without a far end meet.
    pub(crate) ftp: Arc<stp_server::service::ftp::Groups>,
    /// Listeners of apps that are to be reached.
    pub(crate) to_reach: ToReach,
    /// Those that were reached.
    pub(crate) reached: Arc<Reached>,
    /// Where the route map is.
    pub(crate) published_in: OnceLock<PathBuf>,
    /// The program that would go on.
    pub(crate) upgrade: OnceLock<Arc<Upgrade>>,
    /// Where the names are that have virtual addresses.
    pub(crate) names: OnceLock<NamesFile>,
    sessions: Mutex<BTreeMap<u64, Arc<Entry>>>,
    session_count: AtomicUsize,
    ended: Mutex<VecDeque<Value>>,
    next_id: AtomicU64,
    random: File,
}

impl Broker {
    /// A broker without sessions.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub fn new(
        config: Config,
        tls: &Arc<Tls>,
        app_counters: Arc<AppCounters>,
    ) -> std::io::Result<Arc<Broker>> {
        let (congestion, detour) = (config.congestion.clone(), config.proxy.detour());
        let options = LinkOptions { congestion, detour, ..LinkOptions::default() };
        let pace = Pace { warm_max: config.limits.warm_links, ..Pace::default() };
        let news = News::default();
        let tls = Arc::clone(tls);
        let mut maker = Maker {
            tls,
            options,
            pace,
            news: Arc::clone(&news),
            servers: Vec::new(),
            endpoint: Arc::default(),
        };
        let of_directory = maker.clone();
        let endpoints = Endpoints::new(of_directory.clone(), config.directory.clone());
        let purse = Purse::new(config.limits.memory, config.limits.sessions_max);
        let names = VirtualAddresses::new(config.virtual_ipv4, config.virtual_ipv6);
        let policies = Policies::default();
        policies.configure(&config.policies, &config.interfaces);
        Ok(Arc::new(Broker {
            directory: Directory::new(config.directory.clone(), of_directory),
            tables: RwLock::new(Arc::new(Tables::new(config, &mut maker, None))),
            maker: Mutex::new(maker),
            reload_failed: Mutex::default(),
            stop: Notify::new(),
            ending: AtomicBool::new(false),
            feed: Feed::default(),
            purse,
            policies,
            endpoints,
            relays: Relays::default(),
            news,
            overloaded: Mutex::default(),
            counters: Counters::default(),
            refusals: Mutex::default(),
            app_counters,
            started: Instant::now(),
            pauses: OnceLock::new(),
            warnings: Mutex::default(),
            virtual_addresses: Mutex::new(names.expect("the configuration was checked")),
            groups: Mutex::default(),
            ftp: Arc::default(),
            to_reach: ToReach::default(),
            reached: Arc::default(),
            published_in: OnceLock::new(),
            upgrade: OnceLock::new(),
            names: OnceLock::new(),
            sessions: Mutex::default(),
            session_count: AtomicUsize::new(0),
            ended: Mutex::default(),
            next_id: AtomicU64::new(1),
            random: File::open("/dev/urandom")?,
        }))
    }

    /// What the configuration in use has come to.
    #[must_use]
    pub fn tables(&self) -> Arc<Tables> {
        Arc::clone(&self.tables.read())
    }

    /// Puts other tables in use, and tells the programs.
    pub(crate) fn put_in_use(&self, tables: Tables) {
        let groups = self.groups.lock();
        self.policies.configure(&tables.config.policies, &tables.config.interfaces);
        *self.tables.write() = Arc::new(tables);
        self.publish(groups.awaited());
    }

    /// The time on the clock that counts sleep.
    #[must_use]
    pub fn now(&self) -> stp_proto::time::Instant {
        crate::clock::now()
    }

    /// The sessions, by number.
    #[must_use]
    pub fn sessions(&self) -> Vec<Arc<Entry>> {
        self.sessions.lock().values().cloned().collect()
    }

    /// The sessions of an endpoint.
    #[must_use]
    pub fn sessions_of(&self, endpoint: &str) -> Vec<Arc<Entry>> {
        let mut all = self.sessions();
        all.retain(|entry| *entry.service.endpoint == *endpoint);
        all
    }

    /// The endpoint of a program's sessions, which go by this route.
    ///
    /// # Errors
    /// The one that is wanted is not here.
    pub(crate) fn endpoint_of(
        &self,
        pid: i32,
        route: Option<&str>,
    ) -> Result<Option<Arc<Endpoint>>, String> {
        self.endpoints.of_program(pid, route, self.tables().config.endpoint.as_deref())
    }

    /// The session of this number.
    #[must_use]
    pub fn session(&self, id: u64) -> Option<Arc<Entry>> {
        self.sessions.lock().get(&id).cloned()
    }

    /// The session behind a program's socket.
    pub(crate) fn session_of(&self, cookie: Cookie) -> Option<Arc<Entry>> {
        let sessions = self.sessions.lock();
        sessions.values().find(|entry| entry.cookie.get() == Some(&cookie)).cloned()
    }

    /// Takes a new session up.
    pub(crate) fn session_begun(&self, entry: &Arc<Entry>) {
        self.sessions.lock().insert(entry.id, Arc::clone(entry));
        // A member is counted with its lead.
        if entry.lead.is_none() {
            self.session_count.fetch_add(1, Ordering::Relaxed);
        }
        self.counters.opened.fetch_add(1, Ordering::Relaxed);
    }

    /// A number for a new session.
    pub(crate) fn next_id(&self) -> u64 {
        self.next_id.fetch_add(1, Ordering::Relaxed)
    }

    /// Numbers below this one are taken.
    pub(crate) fn ids_from(&self, id: u64) {
        self.next_id.fetch_max(id, Ordering::Relaxed);
    }

    /// How many there are.
    #[must_use]
    pub fn session_count(&self) -> usize {
        self.session_count.load(Ordering::Relaxed)
    }

    /// The last ended sessions, oldest first.
    #[must_use]
    pub fn ended(&self) -> Vec<Value> {
        self.ended.lock().iter().cloned().collect()
    }

    /// The virtual addresses of a name.
    pub(crate) fn address(&self, name: &str) -> Resolved {
        let now = self.now();
        let mut names = self.virtual_addresses.lock();
        if let Some(file) = self.names.get().filter(|_| !names.knows(name)) {
            file.add(name);
        }
        let v4 = names.address(now, name, Family::V4);
        let v6 = names.address(now, name, Family::V6);
        match (v4, v6) {
            (Some(IpAddr::V4(v4)), Some(IpAddr::V6(v6))) => Resolved::Virtual { v4, v6: Some(v6) },
            (Some(IpAddr::V4(v4)), _) => Resolved::Virtual { v4, v6: None },
            _ => Resolved::TryAgain,
        }
    }

    /// A random number; 0 when the system has none.
    pub(crate) fn random(&self) -> u64 {
        let mut bytes = [0; 8];
        let _zero = (&self.random).read_exact(&mut bytes);
        u64::from_be_bytes(bytes)
    }

    /// A handle nobody can guess.
    pub(crate) fn handle(&self) -> std::io::Result<Handle> {
        let mut bytes = [0; 16];
        (&self.random).read_exact(&mut bytes)?;
        Ok(Handle(bytes))
    }

    pub(crate) fn session_ended(&self, entry: &Entry, reason: &str) {
        if self.sessions.lock().remove(&entry.id).is_none() {
            return;
        }
        if entry.lead.is_none() {
            self.session_count.fetch_sub(1, Ordering::Relaxed);
        }
        self.disband(entry);
        if let Some(host) = &entry.host {
            self.virtual_addresses.lock().unused(self.now(), host);
        }
        let mut reason = entry.gave_up().map_or(reason, |(_, why)| why).to_owned();
        if let Some(said) = entry.service_said() {
            reason += &format!("; its server said: {said}");
        }
        if entry.gave_up().is_some() || entry.service_said().is_some() {
            for refusal in entry.refusals() {
                if !reason.contains(&refusal) {
                    reason += &format!("; {refusal}");
                }
            }
        }
        let positions = entry.status.snapshot().positions;
        self.counters.ended.fetch_add(1, Ordering::Relaxed);
        self.counters.bytes_in.fetch_add(positions.dlv, Ordering::Relaxed);
        self.counters.bytes_out.fetch_add(positions.end, Ordering::Relaxed);
        let lasted_ms = entry.started.elapsed().as_millis() as u64;
        let (session, destination) = (entry.id, &entry.destination);
        let bytes_in = positions.dlv;
        tracing::info!(session, %destination, lasted_ms, bytes_in, "ended: {reason}");
        let mut ended = entry.json();
        if let Some(ended) = ended.as_object_mut() {
            ended.insert("gave_up".to_owned(), entry.gave_up().is_some().into());
            ended.insert("reason".to_owned(), reason.into());
            ended.insert("lasted_ms".to_owned(), lasted_ms.into());
        }
        let (app, destination) = (&entry.app.comm, &entry.destination);
        entry.status.tell(
            "ended",
            &json!({ "app": app, "destination": destination, "reason": ended["reason"] }),
        );
        self.push_ended(ended);
    }

    /// A session has ended: so has what was awaited for it.
    fn disband(&self, entry: &Entry) {
        let mut groups = self.groups.lock();
        if groups.ended(entry.id) {
            self.publish(groups.awaited());
        }
        drop(groups);
        if let (Some((_, token)), Some(lead)) = (&entry.lead, entry.lead()) {
            lead.members.lock().retain(|(member, _)| member != token);
        }
    }

    /// Puts the route map where the programs find it.
    pub(crate) fn publish(&self, awaited: &[Awaited]) {
        let Some(dir) = self.published_in.get() else { return };
        let written = map::build(&self.tables().config, awaited)
            .map_err(|error| error.to_string())
            .and_then(|map| publish_routes(dir, &map).map_err(|error| error.to_string()));
        if let Err(error) = written {
            tracing::error!(error, "the route map cannot be written");
        }
    }

    pub(crate) fn push_ended(&self, value: Value) {
        let mut ended = self.ended.lock();
        if ended.len() == ENDED_MAX {
            ended.pop_front();
        }
        ended.push_back(value);
    }

    pub(crate) fn count_refusal(&self, why: Rejection) {
        let word = match why {
            Rejection::Overloaded(_) => "overloaded",
            Rejection::Draining => "draining",
            Rejection::NotHere => "not_here",
            Rejection::Seam => "seam",
            Rejection::Expired => "expired",
            Rejection::Mismatch => "mismatch",
            Rejection::Unsafe => "unsafe",
            Rejection::Service(_) => "service",
            Rejection::Unauthorized => "unauthorized",
            Rejection::WrongKey => "wrong_key",
            Rejection::Version => "version",
            Rejection::Unknown => "unknown",
            Rejection::Internal => "internal",
            Rejection::Verifying(_) => "verifying",
        };
        *self.refusals.lock().entry(word.to_owned()).or_default() += 1;
    }

    pub(crate) fn count_attach(&self, attempt: Attempt) {
        match attempt {
            Attempt::Connect => {}
            Attempt::Resume => {
                self.counters.resumed.fetch_add(1, Ordering::Relaxed);
            }
            Attempt::Transfer => {
                self.counters.transferred.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Every server once, those of the directory as well.
    #[must_use]
    pub fn all_servers(&self) -> Vec<Arc<Server>> {
        let mut all = self.tables().servers.clone();
        for server in self.directory.servers() {
            if !all.iter().any(|known| Arc::ptr_eq(known, &server)) {
                all.push(server);
            }
        }
        all
    }

    /// Every service: of the configuration, and those that were found by name.
    #[must_use]
    pub fn all_services(&self) -> Vec<Arc<Service>> {
        let configured = self.tables();
        let numbered = configured.services.iter().cloned().chain(self.directory.services());
        numbered.map(|(_, service)| service).collect()
    }

    /// The server that has this key.
    #[must_use]
    pub fn server_with_key(&self, relay: Relay) -> Option<Arc<Server>> {
        let has_it = |server: &Arc<Server>| server.reach.dialer().key.0 == relay.0;
        let known = self.tables().servers.iter().find(|server| has_it(server)).cloned();
        known.or_else(|| self.directory.servers().into_iter().find(has_it))
    }

    /// Looks after what ages; called every few seconds.
    pub fn age(&self) {
        self.overloaded.lock().age(self.now());
        let in_use = self.sessions();
        for server in self.all_servers() {
            server.reach.age();
            let has_it = |spare: &Arc<Server>| Arc::ptr_eq(spare, &server);
            server.ask_about(in_use.iter().any(|entry| entry.service.servers.iter().any(has_it)));
        }
        for server in self.policies.servers().into_iter().chain(self.endpoints.servers()) {
            server.reach.age();
        }
        self.endpoints.age();
        self.policies.age();
        self.directory.age();
    }

    /// Ends every session: the apps get a reset. Waits a little until they have.
    pub async fn shut_down(&self) {
        self.ending.store(true, Ordering::Relaxed);
        for entry in self.sessions() {
            let _ended_already = entry.inbox.try_send(Command::Abort { code: code::SHUTDOWN });
        }
        for _ in 0..100 {
            if self.session_count() == 0 {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    }
}
