//! The broker: its tables, and what it does with what the apps ask for.

use std::collections::{BTreeMap, VecDeque};
use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Instant;

use nix::errno::Errno;
use parking_lot::Mutex;
use serde_json::{Value, json};
use stp_drive::{Command, SessionStatus, Start};
use stp_net::link::{LinkOptions, Tls};
use stp_net::status::Feed;
use stp_proto::course::Pace;
use stp_proto::handle::Handle;
use stp_proto::local::wire::Resolved;
use stp_proto::name::Name;
use stp_proto::select::{Overloaded, Rank, Rejection};
use stp_proto::session::{self, Attempt, Session, code};
use tokio::sync::mpsc;

use crate::app::{AppSocket, Counters as AppCounters, Listener, Request};
use crate::config::Config;
use crate::entry::{App, Course, Entry};
use crate::far::SessionFar;
use crate::lookup::Directory;
use crate::near::AppNear;
use crate::reach::News;
use crate::relay::Relays;
use crate::routes::host_name;
use crate::service::{Maker, Server, Service};
use crate::virtual_addresses::{Family, VirtualAddresses};

/// Ended sessions kept for the status.
const ENDED_MAX: usize = 100;
/// Commands that may wait for a session's loop.
const INBOX_MAX: usize = 16;

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
    /// The configuration.
    pub config: Config,
    /// The services, in the configuration's order.
    pub services: Vec<Arc<Service>>,
    /// Every server of theirs once.
    pub servers: Vec<Arc<Server>>,
    /// VirtualAddresses, files and servers that the directory knows.
    pub directory: Arc<Directory>,
    /// What happens to the sessions, as it happens.
    pub feed: Feed,
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
    virtual_addresses: Mutex<VirtualAddresses>,
    sessions: Mutex<BTreeMap<u64, Arc<Entry>>>,
    session_count: AtomicUsize,
    ended: Mutex<VecDeque<Value>>,
    next_id: AtomicU64,
    random: File,
}

/// Where a new session goes.
struct Target {
    service: Arc<Service>,
    /// Its number on the overloaded list.
    number: usize,
    /// The gateway's ticket.
    grant: Option<Arc<[u8]>>,
}

/// Takes a session off the list when its loop ends, also by a panic.
struct Listed {
    broker: Arc<Broker>,
    entry: Arc<Entry>,
    reason: Option<String>,
}

impl Drop for Listed {
    fn drop(&mut self) {
        let reason = self.reason.take();
        let reason = reason.unwrap_or_else(|| "a bug in the broker; see its log".to_owned());
        self.broker.session_ended(&self.entry, &reason);
    }
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
        let options =
            LinkOptions { congestion: config.congestion.clone(), ..LinkOptions::default() };
        let pace = Pace { warm_max: config.limits.warm_links, ..Pace::default() };
        let news = News::default();
        let tls = Arc::clone(tls);
        let mut maker = Maker { tls, options, pace, news: Arc::clone(&news), servers: Vec::new() };
        let services = config.services.iter().map(|service| maker.service(service)).collect();
        for relay in &config.relays {
            maker.server(relay);
        }
        let names = VirtualAddresses::new(config.virtual_ipv4, config.virtual_ipv6);
        Ok(Arc::new(Broker {
            services,
            servers: maker.servers.clone(),
            directory: Directory::new(config.directory.clone(), maker),
            feed: Feed::default(),
            relays: Relays::default(),
            news,
            overloaded: Mutex::default(),
            counters: Counters::default(),
            refusals: Mutex::default(),
            app_counters,
            started: Instant::now(),
            virtual_addresses: Mutex::new(names.expect("the configuration was checked")),
            sessions: Mutex::default(),
            session_count: AtomicUsize::new(0),
            ended: Mutex::default(),
            next_id: AtomicU64::new(1),
            random: File::open("/dev/urandom")?,
            config,
        }))
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

    /// Serves the apps until the listener is finished.
    pub async fn serve(self: &Arc<Self>, listener: &mut Listener) {
        while let Some(request) = listener.next().await {
            match request {
                Request::Open(socket) => self.open(socket),
                Request::Resolve(request) => {
                    let resolved = self.resolve(&request.host, request.port);
                    if resolved == Resolved::Unknown {
                        let broker = Arc::clone(self);
                        tokio::spawn(async move {
                            let resolved = broker.resolve_ours(&request.host).await;
                            request.answer(resolved);
                        });
                    } else {
                        request.answer(resolved);
                    }
                }
                Request::Name(request) => {
                    let name =
                        self.virtual_addresses.lock().name_of(request.address).map(str::to_owned);
                    request.answer(name);
                }
            }
        }
    }

    fn resolve(&self, host: &str, port: Option<u16>) -> Resolved {
        let Ok(name) = host_name(host) else { return Resolved::NotRouted };
        let nowhere = IpAddr::from([0, 0, 0, 0]);
        let routed = match port {
            Some(port) => self.config.routes.find(Some(&name), nowhere, port).is_some(),
            None => self.config.routes.wants_name(&name),
        };
        if !routed {
            let ours = Name::is_host(name.as_bytes());
            return if ours { Resolved::Unknown } else { Resolved::NotRouted };
        }
        self.address(&name)
    }

    /// A `.stp` name without a route: the directory knows it or nobody does.
    async fn resolve_ours(&self, host: &str) -> Resolved {
        let Ok(name) = host_name(host) else { return Resolved::Unknown };
        match self.directory.find(&name).await {
            Ok(_) => self.address(&name),
            Err(lacking) => {
                tracing::warn!(host, "not found: {}", lacking.why);
                if lacking.unknown { Resolved::Unknown } else { Resolved::TryAgain }
            }
        }
    }

    /// The virtual addresses of a name.
    pub(crate) fn address(&self, name: &str) -> Resolved {
        let now = self.now();
        let mut names = self.virtual_addresses.lock();
        let v4 = names.address(now, name, Family::V4);
        let v6 = names.address(now, name, Family::V6);
        match (v4, v6) {
            (Some(IpAddr::V4(v4)), Some(IpAddr::V6(v6))) => Resolved::Virtual { v4, v6: Some(v6) },
            (Some(IpAddr::V4(v4)), _) => Resolved::Virtual { v4, v6: None },
            _ => Resolved::TryAgain,
        }
    }

    /// An app connects.
    fn open(self: &Arc<Self>, socket: AppSocket) {
        let to = socket.open().destination;
        let ip = to.ip().to_canonical();
        let host = {
            let mut names = self.virtual_addresses.lock();
            let host = names.name_of(ip).map(str::to_owned);
            if host.is_none() && names.is_virtual(ip) {
                drop(names);
                let why = "a virtual address that stands for no name any more";
                return self.turn_away(socket, None, Errno::EHOSTUNREACH, why);
            }
            if let Some(host) = &host {
                names.used(host);
            }
            host
        };
        let route = self.config.routes.find(host.as_deref(), ip, to.port());
        let refused = match route {
            None if self.is_of_directory(host.as_deref()) => None,
            None => Some((Errno::ECONNREFUSED, "no route for this destination")),
            Some(_) => None,
        };
        let full = self.session_count() >= self.config.limits.sessions_max;
        let full = full
            .then_some((Errno::ECONNREFUSED, "there are as many sessions as limits.sessions_max"));
        match (refused.or(full), route) {
            (None, Some(route)) => {
                let service = Arc::clone(&self.services[route.service]);
                self.begin(socket, Target { service, number: route.service, grant: None }, host);
            }
            (None, None) => {
                let broker = Arc::clone(self);
                tokio::spawn(async move { broker.open_of_directory(socket, host).await });
            }
            (Some((errno, why)), _) => {
                if let Some(host) = &host {
                    self.virtual_addresses.lock().unused(self.now(), host);
                }
                self.turn_away(socket, host.as_deref(), errno, why);
            }
        }
    }

    /// Whether a name without a route may be one of the directory's.
    fn is_of_directory(&self, host: Option<&str>) -> bool {
        host.is_some_and(Directory::may_know)
    }

    /// An app connects to a name or file that the directory knows.
    async fn open_of_directory(self: Arc<Self>, socket: AppSocket, host: Option<String>) {
        let name = host.as_deref().unwrap_or_default();
        match self.directory.find(name).await {
            Ok(found) => {
                let target = Target {
                    service: Arc::clone(&found.service),
                    number: found.number,
                    grant: found.grant.clone(),
                };
                self.begin(socket, target, host);
            }
            Err(lacking) => {
                self.virtual_addresses.lock().unused(self.now(), name);
                self.turn_away(socket, host.as_deref(), lacking.errno, &lacking.why);
            }
        }
    }

    fn turn_away(&self, socket: AppSocket, host: Option<&str>, errno: Errno, why: &str) {
        let destination = destination(host, socket.open().destination);
        let app = socket.info().comm.clone();
        tracing::warn!(%destination, app, "refused: {why}");
        self.counters.refused.fetch_add(1, Ordering::Relaxed);
        self.push_ended(json!({
            "id": null,
            "app": { "pid": socket.info().pid, "comm": app },
            "destination": destination,
            "reason": format!("refused: {why}"),
            "errno": errno as i32,
            "lasted_ms": 0,
        }));
        socket.refuse(errno as i32);
    }

    fn begin(self: &Arc<Self>, socket: AppSocket, target: Target, host: Option<String>) {
        let Ok(handle) = self.handle() else {
            return self.turn_away(socket, None, Errno::EAGAIN, "the system has no randomness");
        };
        let Target { service, number: service_number, grant } = target;
        let (inbox, commands) = mpsc::channel(INBOX_MAX);
        let info = socket.info();
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let entry = Arc::new(Entry {
            id,
            app: App { pid: info.pid, comm: info.comm.clone() },
            destination: destination(host.as_deref(), socket.open().destination),
            host,
            service_number,
            started: Instant::now(),
            inbox,
            status: Arc::new(SessionStatus::told_to(self.feed.clone(), id.into())),
            course: Mutex::new(Course::new(service.servers.len())),
            service,
        });
        let mut session =
            Session::initiate(self.now(), self.limits(), handle, &entry.service.name, "");
        if let Some(grant) = &grant {
            session.show_grant(grant);
        }
        self.sessions.lock().insert(entry.id, Arc::clone(&entry));
        self.session_count.fetch_add(1, Ordering::Relaxed);
        self.counters.opened.fetch_add(1, Ordering::Relaxed);
        let broker = Arc::clone(self);
        tokio::spawn(async move {
            let near = AppNear::new(socket, Arc::clone(&entry));
            let far = SessionFar::new(Arc::clone(&broker), Arc::clone(&entry));
            let status = Arc::clone(&entry.status);
            let mut listed = Listed { broker, entry, reason: None };
            let reason = stp_drive::run(session, near, far, commands, Start::Dial, status).await;
            listed.reason = Some(reason);
        });
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

    fn limits(&self) -> session::Limits {
        let config = &self.config.limits;
        session::Limits {
            send_buffer_max: config.send_buffer,
            receive_buffer_max: config.receive_buffer,
            checkpoint_every: config.send_buffer / 2,
            ack_every: (config.receive_buffer / 8).clamp(16 << 10, 256 << 10),
            heartbeat_idle: config.heartbeat,
            heartbeat_busy: config.silence / 3,
            silence_max: config.silence,
            hold: config.hold,
            ..session::Limits::default()
        }
    }

    pub(crate) fn session_ended(&self, entry: &Entry, reason: &str) {
        if self.sessions.lock().remove(&entry.id).is_none() {
            return;
        }
        self.session_count.fetch_sub(1, Ordering::Relaxed);
        if let Some(host) = &entry.host {
            self.virtual_addresses.lock().unused(self.now(), host);
        }
        let gave_up = entry.course.lock().gave_up.clone();
        let reason = gave_up.map_or_else(|| reason.to_owned(), |(_, why)| why);
        let positions = entry.status.snapshot().positions;
        self.counters.ended.fetch_add(1, Ordering::Relaxed);
        self.counters.bytes_in.fetch_add(positions.dlv, Ordering::Relaxed);
        self.counters.bytes_out.fetch_add(positions.end, Ordering::Relaxed);
        let lasted_ms = entry.started.elapsed().as_millis() as u64;
        let (session, destination) = (entry.id, &entry.destination);
        tracing::info!(session, %destination, lasted_ms, bytes_in = positions.dlv, "ended: {reason}");
        let mut ended = entry.json();
        if let Some(ended) = ended.as_object_mut() {
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

    fn push_ended(&self, value: Value) {
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
        let mut all = self.servers.clone();
        for server in self.directory.servers() {
            if !all.iter().any(|known| Arc::ptr_eq(known, &server)) {
                all.push(server);
            }
        }
        all
    }

    /// Looks after what ages; called every few seconds.
    pub fn age(&self) {
        self.overloaded.lock().age(self.now());
        for server in self.all_servers() {
            server.reach.age();
        }
        self.directory.age();
    }

    /// Ends every session: the apps get a reset. Waits a little until they have.
    pub async fn shut_down(&self) {
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

fn destination(host: Option<&str>, to: SocketAddr) -> String {
    match host {
        Some(host) => format!("{host}:{}", to.port()),
        None => SocketAddr::new(to.ip().to_canonical(), to.port()).to_string(),
    }
}
