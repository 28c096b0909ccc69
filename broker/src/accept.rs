//! Takes what the apps ask for: names to resolve, and connections for which sessions are begun.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use nix::errno::Errno;
use serde_json::json;
use stp_drive::{Near, SessionStatus, Stake, Start};
use stp_proto::course::Deadlines;
use stp_proto::handle::Handle;
use stp_proto::local::wire::Resolved;
use stp_proto::name::Name;
use stp_proto::select::Rank;
use stp_proto::session::{self, Session};
use stp_proto::wire::{Belongs, Destination};
use stp_server::service::ftp::DirectFtp;
use stp_server::within::{Target, Within};
use tokio::sync::mpsc;

use crate::any_link::Command;
use crate::app::{AppInfo, AppSocket, Listener, PassedConnect, Request};
use crate::around::Surroundings;
use crate::broker::Broker;
use crate::command;
use crate::config::{self, OtherNamespaces};
use crate::direct::{Direct, DirectFar, Notes};
use crate::endpoints;
use crate::entry::{App, Entry, Order};
use crate::far::{SessionFar, Waits};
use crate::goal::Goal;
use crate::group;
use crate::group::awaited::{Member, Reach};
use crate::group::reached::ReachedNear;
use crate::hosts;
use crate::lookup::Directory;
use crate::mirrors;
use crate::near::AppNear;
use crate::routes::Freeze;
use crate::upkeep::Upkeep;
use stp_proto::pattern::{Hosts, host_name};

const ELSEWHERE: &str = "the program runs in another network namespace than the broker, and \
     other_namespaces is not \"serve\"";
/// What is asked directly at this port speaks FTP; HTTP at any other.
const FTP: u16 = 21;
/// Commands that may wait for a session's loop, and orders for its far side.
const INBOX_MAX: usize = 16;

/// A session that is in the tables and does not run yet.
pub(crate) struct Begun {
    entry: Arc<Entry>,
    session: Session,
    commands: mpsc::Receiver<Command>,
    ordered: mpsc::Receiver<Order>,
    /// The server that has it, if the broker before this one began it.
    home: Option<Rank>,
}

impl Begun {
    /// A session that is in the tables as `listed`.
    pub(crate) fn new(listed: Unstarted, session: Session, home: Option<Rank>) -> Begun {
        let Unstarted { entry, commands, ordered } = listed;
        Begun { entry, session, commands, ordered, home }
    }
}

/// What is in the tables of a session.
pub(crate) struct Unstarted {
    pub(crate) entry: Arc<Entry>,
    commands: mpsc::Receiver<Command>,
    ordered: mpsc::Receiver<Order>,
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

/// Serves the apps until the listener is finished.
pub async fn serve(broker: &Arc<Broker>, listener: &mut Listener) {
    let door = Door(Arc::clone(broker));
    let reaching = broker.to_reach.receiver.lock().take();
    if let Some(mut reaching) = reaching {
        let door = door.clone();
        tokio::spawn(async move {
            while let Some(reach) = reaching.recv().await {
                tokio::spawn(door.clone().reach(reach));
            }
        });
    }
    while let Some(request) = listener.next().await {
        match request {
            Request::Open(socket) => door.open(socket),
            Request::Found(socket) => door.found(socket),
            Request::Resolve(request) => {
                let resolved = if request.info.is_elsewhere && !door.serves_elsewhere() {
                    Resolved::NotRouted
                } else {
                    door.resolve(&request.host, request.port)
                };
                if resolved == Resolved::Unknown {
                    let door = door.clone();
                    tokio::spawn(async move {
                        let resolved = door.resolve_ours(&request.host, &request.info).await;
                        request.answer(resolved);
                    });
                } else {
                    request.answer(resolved);
                }
            }
            Request::Name(request) => {
                let names = broker.virtual_addresses.lock();
                let name = names.name_of(request.address).map(str::to_owned);
                drop(names);
                request.answer(name);
            }
            Request::Passed(connect) => door.passed(&connect),
            Request::Accepted(request) => {
                let peer = broker.reached.seen(&request.accepted);
                request.answer(peer);
            }
            Request::Names(request) => {
                let names = command::names(broker, request.cookie);
                request.answer(names);
            }
            Request::Watch(request) => {
                let entry = broker.session_of(request.cookie);
                request.answer(entry.map(|entry| entry.status.states()));
            }
            Request::UserTimeout(cookie, ms) => command::user_timeout(broker, cookie, ms),
            Request::Act(request) => {
                let told = command::by_app(broker, request.cookie, request.act);
                request.answer(told);
            }
        }
    }
}

/// What the apps come to.
#[derive(Clone)]
pub(crate) struct Door(pub(crate) Arc<Broker>);

impl Door {
    fn resolve(&self, host: &str, port: Option<u16>) -> Resolved {
        let Ok(name) = wanted(host) else { return Resolved::NotRouted };
        let tables = self.0.tables();
        let route = tables.config.routes.leading(&name, port);
        // What this machine's own list says is not for a far end to resolve.
        let is_own =
            || route.is_some_and(|route| route.to.hosts == Hosts::Any) && hosts::has(&name);
        if route.is_none() || is_own() {
            let ours = Name::is_host(name.as_bytes());
            if ours && tables.called(&name).is_some() {
                return self.0.address(&name);
            }
            return if ours { Resolved::Unknown } else { Resolved::NotRouted };
        }
        self.0.address(&name)
    }

    /// A `.stp` name without a route: the directory knows it or nobody does.
    async fn resolve_ours(&self, host: &str, info: &AppInfo) -> Resolved {
        let Ok(name) = wanted(host) else { return Resolved::Unknown };
        match self.0.directory.find(&name).await {
            Ok(_) => self.0.address(&name),
            Err(lacking) => {
                tracing::warn!(host, "not found: {}", lacking.why);
                let reason = format!("not found: {}", lacking.why);
                self.push_unbegun(info, host, &reason, Some(lacking.errno as i32));
                if lacking.unknown { Resolved::Unknown } else { Resolved::TryAgain }
            }
        }
    }

    /// Whether programs in other network namespaces than the broker's are served. A namespace is a
    /// border: what its programs may reach is for whoever made it to say.
    fn serves_elsewhere(&self) -> bool {
        self.0.tables().config.other_namespaces == OtherNamespaces::Serve
    }

    /// An app connects.
    pub(crate) fn open(&self, socket: AppSocket) {
        if socket.info().is_elsewhere && !self.serves_elsewhere() {
            return self.turn_away(socket, None, Errno::ENETUNREACH, ELSEWHERE);
        }
        let to = socket.open().destination;
        let ip = to.ip().to_canonical();
        let host = {
            let mut names = self.0.virtual_addresses.lock();
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
        if let Some(host) = host.clone().filter(|host| endpoints::saved(host).is_some()) {
            let door = self.clone();
            tokio::spawn(async move { door.attach(socket, host).await });
            return;
        }
        if let Some(member) = group::take_awaited(&self.0, ip, to.port(), socket.info().pid) {
            let goal = Goal::of(&member.lead);
            return self.begin(socket, goal, host, Some(member));
        }
        let tables = self.0.tables();
        let route = tables.config.routes.find(host.as_deref(), ip, to.port());
        let called = host.as_deref().filter(|_| route.is_none()).and_then(|it| tables.called(it));
        let refused = match route {
            None if called.is_some() || self.is_of_directory(host.as_deref()) => None,
            None => Some((Errno::ECONNREFUSED, "no route for this destination")),
            Some(_) => None,
        };
        let full = self.0.session_count() >= tables.config.limits.sessions_max;
        let full = if full {
            Some((Errno::ECONNREFUSED, "there are as many sessions as limits.sessions_max"))
        } else {
            let spent = self.0.purse.admit(&[]).is_err();
            spent.then_some((Errno::ENOBUFS, "sessions hold as much as limits.memory"))
        };
        let led = route.map(|route| {
            let endpoint = route.endpoint.as_deref();
            (route.service, route.freeze, &route.policy, route.upkeep, endpoint)
        });
        let of_service = |at: usize| {
            let known = &tables.config.services[at];
            (at, Freeze::Waits, &known.policy, known.upkeep, None)
        };
        match (refused.or(full), led.or(called.map(of_service))) {
            (None, Some((at, freeze, policy, upkeep, endpoint))) => {
                let (number, service) = tables.services[at].clone();
                let goal = Goal { service, number, grant: None, freeze, upkeep };
                self.begin_owned(socket, goal, host, (policy.as_deref(), endpoint));
            }
            (None, None) => {
                let door = self.clone();
                tokio::spawn(async move { door.open_of_directory(socket, host).await });
            }
            (Some((errno, why)), _) => {
                if let Some(host) = &host {
                    self.0.virtual_addresses.lock().unused(self.0.now(), host);
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
    async fn open_of_directory(self, socket: AppSocket, host: Option<String>) {
        let name = host.as_deref().unwrap_or_default();
        let directory = match self.directory_for(name, socket.info().pid) {
            Ok(directory) => directory,
            Err(why) => {
                return self.turn_away(socket, host.as_deref(), Errno::ENETUNREACH, &why);
            }
        };
        match directory.find(name).await {
            Ok(found) => {
                let goal = Goal {
                    service: Arc::clone(&found.service),
                    number: found.number,
                    grant: found.grant.clone(),
                    freeze: Freeze::Waits,
                    upkeep: Upkeep::default(),
                };
                self.begin_under(socket, goal, host, None);
            }
            Err(lacking) => {
                self.0.virtual_addresses.lock().unused(self.0.now(), name);
                self.turn_away(socket, host.as_deref(), lacking.errno, &lacking.why);
            }
        }
    }

    /// The directory as the program's endpoint asks it; a file's is the one that has located it.
    fn directory_for(&self, name: &str, pid: i32) -> Result<Arc<Directory>, String> {
        let endpoints = &self.0.endpoints;
        let own = match Directory::endpoint_of(name) {
            Some("") => None,
            Some(located) => {
                let gone = || format!("the endpoint {located} is not here any more");
                Some(endpoints.find(located).ok_or_else(gone)?)
            }
            None => self.0.endpoint_of(pid, None)?,
        };
        Ok(own.map_or_else(|| Arc::clone(&self.0.directory), |one| Arc::clone(&one.directory)))
    }

    pub(crate) fn turn_away(&self, socket: AppSocket, host: Option<&str>, errno: Errno, why: &str) {
        let destination = destination(host, socket.open().destination);
        let info = socket.info();
        tracing::warn!(%destination, app = info.comm, "refused: {why}");
        self.0.counters.refused.fetch_add(1, Ordering::Relaxed);
        self.push_unbegun(info, &destination, &format!("refused: {why}"), Some(errno as i32));
        socket.refuse(errno as i32);
    }

    /// A connect that a route gives to a session went to the kernel.
    fn passed(&self, connect: &PassedConnect) {
        let to = connect.passed.destination;
        let names = self.0.virtual_addresses.lock();
        let host = names.name_of(to.ip().to_canonical()).map(str::to_owned);
        drop(names);
        let (destination, why) = (destination(host.as_deref(), to), connect.passed.why);
        let info = &connect.info;
        tracing::warn!(%destination, app = info.comm, "connected without a session: {why}");
        let reason = format!("connected without a session: {why}");
        self.push_unbegun(info, &destination, &reason, None);
    }

    /// Puts a connect that never became a session on the list of those that ended.
    fn push_unbegun(&self, info: &AppInfo, destination: &str, reason: &str, errno: Option<i32>) {
        self.0.push_ended(json!({
            "id": null,
            "app": { "pid": info.pid, "comm": info.comm },
            "destination": destination,
            "reason": reason,
            "errno": errno,
            "lasted_ms": 0,
        }));
    }

    /// Begins a session with the key of the endpoint that it has, and under its policy.
    fn begin_owned(
        &self,
        socket: AppSocket,
        goal: Goal,
        host: Option<String>,
        (policy, endpoint): (Option<&str>, Option<&str>),
    ) {
        match goal.of_endpoint(&self.0, socket.info().pid, endpoint) {
            Ok(goal) => self.begin_under(socket, goal, host, policy),
            Err(why) => self.turn_away(socket, host.as_deref(), Errno::ENETUNREACH, &why),
        }
    }

    /// Begins a session under the policy that it has, if there is one.
    fn begin_under(
        &self,
        socket: AppSocket,
        goal: Goal,
        host: Option<String>,
        policy: Option<&str>,
    ) {
        let is_ftp = socket.open().destination.port() == FTP;
        match goal.under(&self.0, socket.info().pid, policy) {
            Ok(goal) if is_ftp && goal.service.leave.is_some() && goal.service.direct.is_some() => {
                let why = "no policy can be kept for FTP without a far end";
                self.turn_away(socket, host.as_deref(), Errno::ENETUNREACH, why);
            }
            Ok(goal) => self.begin(socket, goal, host, None),
            Err(why) => self.turn_away(socket, host.as_deref(), Errno::ENETUNREACH, &why),
        }
    }

    fn begin(&self, socket: AppSocket, goal: Goal, host: Option<String>, member: Option<Member>) {
        let Ok(handle) = self.0.handle() else {
            return self.turn_away(socket, None, Errno::EAGAIN, "the system has no randomness");
        };
        let info = socket.info();
        let app = App { pid: info.pid, comm: info.comm.clone() };
        let peer = socket.open().destination;
        let freeze = goal.freeze;
        let kept = socket.kept().map(|kept| (kept.up_max(), kept.down_max()));
        let mut begun = self.enlist(handle, app, (peer, host), goal, member, kept);
        let _once = begun.entry.cookie.set(socket.open().cookie);
        if let Some(pauses) = self.0.pauses.get() {
            begun.entry.tell_pauses(pauses.enter(&socket.open().cookie, freeze));
        }
        begun.session.set_user_timeout(begun.entry.patience(socket.user_timeout()));
        let near = AppNear::new(Arc::clone(&self.0), socket, Arc::clone(&begun.entry));
        self.start(begun, near);
    }

    /// A listener of an app is reached, as its server has announced. If it cannot be, the server
    /// learns it from a session that ends with an error.
    async fn reach(self, Reach { member, address }: Reach) {
        let lead = Arc::clone(&member.lead);
        let near = match self.0.reached.reach(lead.app.pid, address, lead.peer).await {
            Ok(reached) => ReachedNear::new(reached),
            Err(why) => {
                tracing::warn!(session = lead.id, %address, "not reached: {why}");
                let received = lead.status.snapshot().positions.rcv;
                lead.record("refused", format!("{address} was not reached: {why}"), received);
                ReachedNear::unreached()
            }
        };
        let Ok(handle) = self.0.handle() else { return };
        let (app, goal) = (lead.app.clone(), Goal::of(&lead));
        let begun = self.enlist(handle, app, (address, None), goal, Some(member), None);
        self.start(begun, near);
    }

    /// Writes a new session into the tables.
    fn enlist(
        &self,
        handle: Handle,
        app: App,
        whither: (SocketAddr, Option<String>),
        goal: Goal,
        member: Option<Member>,
        kept: Option<(usize, usize)>,
    ) -> Begun {
        let grant = goal.grant.clone();
        let token = member.as_ref().map(|member| member.token);
        let (id, peer) = (self.0.next_id(), whither.0);
        let listed = self.list(id, app, whither, goal, member.as_ref());
        let entry = &listed.entry;
        let limits = kept_limits(&self.0, entry.upkeep, kept);
        let mut session = {
            let (service, endpoint) = (&entry.service.name, &entry.service.endpoint);
            Session::initiate(self.0.now(), limits, handle, service, endpoint)
        };
        session.belongs(Belongs { token, peer: Some(peer) });
        tell_destination(&mut session, entry);
        if let Some(grant) = &grant {
            session.show_grant(grant);
        }
        if let Some(member) = member {
            member.has_begun(entry);
        }
        Begun::new(listed, session, None)
    }

    /// Writes an entry into the tables.
    pub(crate) fn list(
        &self,
        id: u64,
        app: App,
        (peer, host): (SocketAddr, Option<String>),
        Goal { service, number, upkeep, .. }: Goal,
        member: Option<&Member>,
    ) -> Unstarted {
        let (inbox, commands) = mpsc::channel(INBOX_MAX);
        let (orders, ordered) = mpsc::channel(INBOX_MAX);
        let entry = Arc::new(Entry::new(
            id,
            app,
            member.map(|member| (Arc::downgrade(&member.lead), member.token)),
            (peer, destination(host.as_deref(), peer), host),
            (service, number, upkeep),
            (inbox, orders),
            SessionStatus::told_to(self.0.feed.clone(), id.into()),
        ));
        self.0.session_begun(&entry);
        Unstarted { entry, commands, ordered }
    }

    pub(crate) fn start<N: Near + Send + 'static>(&self, begun: Begun, near: N) {
        let Begun { entry, session, commands, ordered, home } = begun;
        let broker = Arc::clone(&self.0);
        tokio::spawn(async move {
            let noted = (Arc::clone(&entry.status), Stake::new(&broker.purse, Vec::new()));
            let mut listed = Listed { broker, entry, reason: None };
            let (broker, entry) = (Arc::clone(&listed.broker), Arc::clone(&listed.entry));
            let reason = if let Some(target) = direct(&broker, &entry) {
                let limits = limits(&broker.tables().config.limits);
                let within = Within::new(target, limits, Arc::clone(&broker.purse));
                let far = DirectFar::new(broker, entry, within);
                stp_drive::run(session, near, far, commands, Start::Unlinked, noted).await
            } else {
                let mut far = far(broker, entry, ordered);
                if let Some(home) = home {
                    far.restored(crate::clock::now(), home);
                }
                stp_drive::run(session, near, far, commands, Start::Unlinked, noted).await
            };
            listed.reason = Some(reason);
        });
    }
}

/// Has the session say where its app wants to go, if it goes to a server that leads anywhere.
pub(crate) fn tell_destination(session: &mut Session, entry: &Entry) {
    if entry.service.egress {
        let host = entry.host.clone();
        let host = host.unwrap_or_else(|| entry.peer.ip().to_canonical().to_string());
        session.lead_to(Destination { host: &host, port: entry.peer.port() });
    }
}

/// Where its links come from.
fn far(
    broker: Arc<Broker>,
    entry: Arc<Entry>,
    orders: mpsc::Receiver<Order>,
) -> SessionFar<Surroundings> {
    let limits = broker.tables().config.limits;
    let waits = Waits {
        connect_until: broker.now() + limits.connect,
        deadlines: Deadlines { refused: limits.refused, gone: limits.gone },
        silence: limits.silence,
    };
    let servers = entry.service.servers.len();
    SessionFar::new(Surroundings { broker, entry }, servers, waits, orders)
}

/// What a session may take, by the configuration.
pub(crate) fn limits(config: &config::Limits) -> session::Limits {
    session::Limits {
        send_buffer_max: config.send_buffer,
        receive_buffer_max: config.receive_buffer,
        checkpoint_every: config.send_buffer / 2,
        ack_every: (config.receive_buffer / 8).clamp(16 << 10, 256 << 10),
        heartbeat_idle: config.heartbeat,
        heartbeat_busy: config.silence / 3,
        silence_max: config.silence,
        hold: config.hold,
        suspended_max: config.suspend_max,
        ..session::Limits::default()
    }
}

/// The same for a session that is to be kept so, whose bytes are kept in rings of this size, up and
/// down.
pub(crate) fn kept_limits(
    broker: &Broker,
    upkeep: Upkeep,
    kept: Option<(usize, usize)>,
) -> session::Limits {
    let mut limits = upkeep.of(limits(&broker.tables().config.limits));
    if let Some((up, down)) = kept {
        limits.send_buffer_max = limits.send_buffer_max.min(up);
        limits.receive_buffer_max = limits.receive_buffer_max.min(down);
    }
    limits
}

/// Where the broker's own server goes for this session, if it is one of its own.
fn direct(broker: &Arc<Broker>, entry: &Arc<Entry>) -> Option<Target> {
    let direct = entry.service.direct.as_ref()?;
    // What belongs to a login goes where the login goes.
    let lead = entry.lead().unwrap_or_else(|| Arc::clone(entry));
    let host = lead.host.clone().unwrap_or_else(|| lead.peer.ip().to_canonical().to_string());
    let port = lead.peer.port();
    if entry.lead.is_some() || port == FTP {
        return Some(Target::Ftp(DirectFtp::new(host, port, Arc::clone(&broker.ftp))));
    }
    let own = mirrors::of_program(entry.app.pid).unwrap_or_else(|why| {
        tracing::warn!(session = entry.id, "its mirrors are not asked: {why}");
        Vec::new()
    });
    let mirrors = own.into_iter().chain(direct.mirrors.iter().cloned()).collect();
    let notes = Box::new(Notes(Arc::clone(broker), Arc::clone(entry)));
    Some(Target::Http(Direct::new(host, port, mirrors, notes)))
}

/// The host that a program asks for: a host name, or the name of a service.
fn wanted(text: &str) -> Result<String, String> {
    match text.contains('@') {
        true => text.parse::<Name>().map(|name| name.to_host()).map_err(|why| why.to_string()),
        false => host_name(text),
    }
}

fn destination(host: Option<&str>, to: SocketAddr) -> String {
    match host {
        Some(host) => format!("{host}:{}", to.port()),
        None => SocketAddr::new(to.ip().to_canonical(), to.port()).to_string(),
    }
}
