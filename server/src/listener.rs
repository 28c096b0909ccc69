//! From a TCP connection to a session: handshake, first frame, and what it asks for.
//!
//! A link may wait long for its first frame, as brokers keep some ready; the number of links that
//! wait is bounded.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use stp_drive::{Command, FIRST_LINK, Purse, SessionStatus, Stake, Start};
use stp_net::admission::Shares;
use stp_net::key::PublicKey;
use stp_net::limit::network;
use stp_net::link::{AcceptError, Acceptor, Link};
use stp_net::status::Feed;
use stp_proto::lookup::Revoked;
use stp_proto::session::{Session, code};
use stp_proto::ticket::Granted;
use stp_proto::wire::{
    Connect, ConnectMode, DenyReason, First, ResetFrame, ResumeFrame, VERSION,
    encode_connect_denied, encode_done, encode_resume_denied, first_frame,
};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, Semaphore, mpsc};

use crate::comparing::Comparings;
use crate::config::{Config, Kind, ServiceConfig};
use crate::denial::Denial;
use crate::far::GivenBack;
use crate::following::Followings;
use crate::grant::{Asking, Revocations, Used};
use crate::keeping::{Face, Keeping};
use crate::life::{INBOX, Life, Ready, holders};
use crate::open::{Opened, open};
use crate::passes::Passes;
use crate::registry::{Called, Entry, Key, Registry, Running};
use crate::relays::Relays;
use crate::room;
use crate::service::ftp::Groups;
use crate::standing::Standing;
use crate::ticket::{Seal, random_handle};

/// A repeated CONNECT waits this long for the first one.
const OPENING_MAX: Duration = Duration::from_secs(30);
/// A client that is not allowed has this long to ask, and be told so.
const STRANGER_MAX: Duration = Duration::from_secs(10);
/// A broker that was refused for lack of room is asked to come back after this time.
const RETRY_AFTER: Duration = Duration::from_secs(5);
/// One whose session is being compared here, after this time.
const VERIFY_AGAIN: Duration = Duration::from_secs(1);
/// This server.
pub struct Server {
    /// Its configuration.
    pub config: Config,
    /// Its sessions.
    pub registry: Arc<Registry>,
    /// Its way of accepting links.
    pub acceptor: Acceptor,
    /// Its public key.
    pub key: PublicKey,
    /// What happens to its sessions, as it happens.
    pub feed: Feed,
    /// What it passes on to others.
    pub relays: Arc<Relays>,
    /// When it was started.
    pub since: Instant,
    /// What is known of the directory, for the status.
    pub directory: Arc<Mutex<Standing>>,
    /// Where the control and data connections of FTP logins meet.
    groups: Arc<Groups>,
    /// Tickets for one file that were used.
    used: Used,
    /// Users whose tickets of before have ended.
    pub(crate) revocations: Revocations,
    /// Sessions that come over and are still being compared.
    comparings: Arc<Comparings>,
    /// Responses of sessions elsewhere that are followed.
    pub(crate) followings: Followings,
    /// The turn to read a file ahead.
    pub(crate) reading: Arc<Semaphore>,
    /// It is being shut down: nothing new is taken.
    pub(crate) draining: AtomicBool,
    drain_wanted: Notify,
    /// What its sessions hold together.
    pub purse: Arc<Purse>,
    /// Links that wait for their first frame.
    waiting: Arc<Shares>,
    links: mpsc::UnboundedSender<GivenBack>,
    /// What holds the sockets to services, if anything does.
    keeping: Option<Arc<Keeping>>,
}

/// Links that sessions gave back.
pub type Returned = mpsc::UnboundedReceiver<GivenBack>;

impl Server {
    /// A server, and where its sessions give links back.
    #[must_use]
    pub fn new(
        config: Config,
        acceptor: Acceptor,
        key: PublicKey,
        keeping: Option<Arc<Keeping>>,
    ) -> (Arc<Self>, Returned) {
        let (links, returned) = mpsc::unbounded_channel();
        let relays = Arc::new(Relays::new(&config.relays, config.limits.relayed));
        let server = Self {
            registry: Arc::default(),
            acceptor,
            key,
            feed: Feed::default(),
            relays,
            since: Instant::now(),
            groups: Arc::default(),
            used: Used::default(),
            revocations: Revocations::default(),
            comparings: Arc::default(),
            followings: Followings::default(),
            reading: Arc::new(Semaphore::new(1)),
            draining: AtomicBool::new(false),
            drain_wanted: Notify::new(),
            directory: Arc::default(),
            purse: Purse::new(config.limits.memory, config.limits.sessions),
            waiting: Shares::new(config.limits.links),
            links,
            keeping,
            config,
        };
        (Arc::new(server), returned)
    }

    /// Accepts links for ever.
    pub async fn run(self: Arc<Self>, listener: TcpListener, mut returned: Returned) {
        loop {
            tokio::select! {
                accepted = listener.accept() => match accepted {
                    Ok((tcp, _)) => drop(tokio::spawn(Arc::clone(&self).shake_hands(tcp))),
                    Err(error) => {
                        // Out of descriptors, mostly: others must get a chance to give some back.
                        tracing::warn!(%error, "cannot accept");
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                },
                Some((link, first)) = returned.recv() => {
                    drop(tokio::spawn(Arc::clone(&self).next(link, first)));
                }
            }
        }
    }

    /// What leaves it now, bytes a second, as its sessions have published it, or want it.
    #[must_use]
    pub fn egress(&self) -> u64 {
        let running = self.registry.running();
        let own: u64 = running.iter().map(|(_, entry)| entry.rate()).sum();
        own + self.relays.rate()
    }

    /// The directory tells of users whose tickets of before have ended: their sessions end.
    pub fn revoke(&self, revoked: &[Revoked]) {
        for one in revoked {
            self.revocations.learn(one);
        }
        if self.revocations.is_empty() {
            return;
        }
        for (_, entry) in self.registry.running() {
            let Some(granted) = &entry.granted else { continue };
            if self.revocations.check(granted).is_err() {
                tracing::info!(session = %entry.own, user = granted.user, "revoked");
                // If it has no room for commands now, the next announcement finds it again.
                let _ = entry.inbox.try_send(Command::Abort { code: code::USER });
            }
        }
    }

    /// An operator wants it to end when its sessions have gone.
    pub fn want_drain(&self) {
        self.drain_wanted.notify_one();
    }

    /// Until an operator wants that.
    pub async fn drain_wanted(&self) {
        self.drain_wanted.notified().await;
    }

    /// Whether it takes nothing new.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    async fn shake_hands(self: Arc<Self>, tcp: TcpStream) {
        let from = tcp.peer_addr().ok();
        let link = match Box::pin(self.acceptor.accept(tcp)).await {
            Ok(link) => link,
            Err(error) => {
                let quiet =
                    matches!(error, AcceptError::Lost { .. } | AcceptError::TimedOut { .. })
                        || matches!(error, AcceptError::Denied { .. });
                if quiet {
                    tracing::debug!(?from, %error, "no link");
                } else {
                    tracing::info!(?from, %error, "no link");
                }
                return;
            }
        };
        self.wait(link).await;
    }

    fn allows(&self, client: &PublicKey) -> bool {
        self.config.clients.as_ref().is_none_or(|allowed| allowed.contains(client))
    }

    /// A link that a session gave back serves the next one.
    async fn next(self: Arc<Self>, link: Link, first: Option<Vec<u8>>) {
        match first {
            Some(record) => self.dispatch(link, record).await,
            None => self.wait(link).await,
        }
    }

    /// Waits for the first frame of a link and does what it asks for.
    async fn wait(self: Arc<Self>, mut link: Link) {
        let from = link.peer_addr().ip();
        let most = self.acceptor.share_of(from, self.config.limits.links);
        let Some(place) = self.waiting.take(network(from), most) else {
            self.registry.counters.refuse("links_max");
            return;
        };
        // A key that anybody can make does not hold a link for long where others need the room.
        let is_welcome = self.acceptor.knows(from) || !self.waiting.is_half_full();
        let allowed = self.allows(&link.peer_key()) && is_welcome;
        let patience = if allowed { self.config.limits.warm } else { STRANGER_MAX };
        let first = tokio::time::timeout(patience, first_record(&mut link)).await;
        drop(place);
        match first {
            Ok(Some(record)) => Box::pin(self.dispatch(link, record)).await,
            Ok(None) => {}
            Err(_) => link.linger(),
        }
    }

    async fn dispatch(self: Arc<Self>, link: Link, record: Vec<u8>) {
        match first_frame(&record) {
            Ok(First::Connect(connect)) => self.connect(link, &record, &connect).await,
            Ok(First::Resume(resume)) => self.resume(link, &resume, record),
            Ok(First::Reset(reset)) => self.reset(link, &reset),
            Err(error) => {
                tracing::info!(from = %link.peer_addr(), %error, "not a session");
                self.registry.counters.refuse("garbage");
            }
        }
    }

    fn resume(&self, mut link: Link, resume: &ResumeFrame, record: Vec<u8>) {
        let key = (link.peer_key(), resume.initiator);
        let (seen, why) = match self.registry.resume(&key, resume.acceptor, resume.epoch) {
            Ok(entry) => {
                self.registry.counters.resumed.fetch_add(1, Ordering::Relaxed);
                self.acceptor.welcome(link.peer_addr().ip());
                return self.attach(&entry, link, record);
            }
            Err(denial) => denial,
        };
        tracing::debug!(session = %resume.acceptor, %why, "not resumed");
        self.registry.counters.refuse("resume_denied");
        let mut frame = Vec::new();
        encode_resume_denied(seen, why, &mut frame);
        link.send(&frame);
        link.linger();
    }

    fn reset(&self, mut link: Link, reset: &ResetFrame) {
        let key = (link.peer_key(), reset.initiator);
        if let Some(entry) = self.registry.reset(&key, reset.acceptor) {
            // A full inbox: the session hears of it from its own timers.
            let _ = entry.inbox.try_send(Command::Abort { code: reset.code });
        }
        let mut frame = Vec::new();
        encode_done(&mut frame);
        link.send(&frame);
        link.linger();
    }

    /// Hands a link to a session that runs.
    fn attach(&self, entry: &Entry, link: Link, record: Vec<u8>) {
        let command = Command::Attach { link: Box::new(link), record };
        if entry.inbox.try_send(command).is_err() {
            self.registry.counters.refuse("session_busy");
        }
    }

    async fn connect(self: Arc<Self>, mut link: Link, record: &[u8], connect: &Connect<'_>) {
        if let ConnectMode::Relay(request) = &connect.mode {
            return Box::pin(self.relay(link, connect, request)).await;
        }
        if let ConnectMode::Prepare(request) = &connect.mode {
            return self.prepare(link, connect, request);
        }
        let key = (link.peer_key(), connect.handle);
        let new = matches!(connect.mode, ConnectMode::New);
        if let Called::Wait(notify) = self.registry.connect(&key, new) {
            let _ = tokio::time::timeout(OPENING_MAX, notify.notified()).await;
        }
        let free = match self.registry.connect(&key, new) {
            Called::Attach(entry) => return self.attach(&entry, link, record.to_vec()),
            Called::Wait(_) => false,
            Called::Open { free } => free,
        };
        match self.open_session(&link, connect, key, free).await {
            Ok((ready, running)) => {
                // A quarter more: while its path was bad, the broker has come to expect about that
                // much less than it was used to.
                if let (ConnectMode::Transfer(_), Some(rate)) = (&connect.mode, connect.rate)
                    && let Err(error) = link.start_slowly(rate.saturating_add(rate / 4))
                {
                    tracing::debug!(%error, "cannot be paced");
                }
                tracing::info!(
                    session = %ready.own, service = connect.service, client = %key.0,
                    opened_ms = ready.since.elapsed().as_millis(), "session"
                );
                let life = self.life(key, running);
                tokio::spawn(life.run(ready, Start::Link(Box::new(link))));
            }
            Err(denial) => self.deny(link, connect, &denial),
        }
    }

    /// Answers CONNECT_DENIED.
    pub(crate) fn deny(&self, mut link: Link, connect: &Connect<'_>, denial: &Denial) {
        tracing::info!(
            client = %link.peer_key(), service = connect.service, why = %denial.why,
            text = denial.text, "refused"
        );
        self.registry.counters.refuse(denial.word());
        self.note_refused(link.peer_key(), connect, denial);
        let after = match denial.why {
            DenyReason::Overloaded => RETRY_AFTER,
            DenyReason::Verifying => VERIFY_AGAIN,
            _ => Duration::ZERO,
        };
        let mut frame = Vec::new();
        encode_connect_denied(connect.handle, denial.why, after, &denial.text, &mut frame);
        link.send(&frame);
        link.linger();
    }

    /// Whether anything can be had here now by the holder of `client`.
    pub(crate) fn welcome(&self, client: &PublicKey, connect: &Connect<'_>) -> Result<(), Denial> {
        if connect.version != VERSION {
            let text = format!("version {VERSION} is spoken here, not {}", connect.version);
            return Err(Denial::new(DenyReason::Version, text));
        }
        if !self.allows(client) {
            let text = format!("{client} is not among the clients of this server");
            return Err(Denial::new(DenyReason::Unauthorized, text));
        }
        if self.draining.load(Ordering::Relaxed) {
            let text = "this server is being shut down";
            return Err(Denial::new(DenyReason::Draining, text));
        }
        Ok(())
    }

    /// Whether `rate` bytes a second more can leave this server.
    pub(crate) fn has_egress(&self, rate: u64) -> Result<(), Denial> {
        let Some(most) = self.config.limits.egress else { return Ok(()) };
        let used = self.egress();
        if used < most && used.saturating_add(rate) <= most {
            return Ok(());
        }
        let text = format!("{used} of {most} bytes a second are used, {rate} more are wanted");
        Err(Denial::new(DenyReason::Overloaded, text))
    }

    /// Checks the gateway's ticket; what it grants.
    fn admit(
        &self,
        link: &Link,
        connect: &Connect<'_>,
        service: &ServiceConfig,
    ) -> Result<Option<Granted>, Denial> {
        // A member of a group has nothing but what its lead, who was admitted, lets it have.
        if !connect.mode.wants_grant() || connect.belongs.token.is_some() {
            return Ok(None);
        }
        let (Some(cluster), Some(grant)) = (&self.config.cluster, connect.grant) else {
            if service.tickets {
                let text = "this service is for those with a ticket of the gateway";
                return Err(Denial::new(DenyReason::Unauthorized, text));
            }
            return Ok(None);
        };
        let (client, address) = (link.peer_key(), link.peer_addr().ip());
        let asking = Asking { client, address, service: &service.name, handle: connect.handle };
        let grant = self.used.admit(cluster, grant, &asking)?;
        self.revocations.check(&grant.granted())?;
        tracing::info!(user = grant.user, scope = ?grant.scope, ticket = grant.id, "admitted");
        Ok(Some(grant.granted()))
    }

    /// The service that a session asks for, and its part of the budget, if there is room, or some
    /// can be made.
    async fn has_room(
        &self,
        connect: &Connect<'_>,
        link: &Link,
    ) -> Result<(&ServiceConfig, Stake), Denial> {
        self.welcome(&link.peer_key(), connect)?;
        let service = self.config.services.iter().find(|known| known.name == connect.service);
        let service = service.ok_or_else(|| {
            Denial::new(DenyReason::NotHere, format!("no service {:?} here", connect.service))
        })?;
        // A member of a group counts with its lead, without which it would not be here.
        let member = connect.belongs.token.is_some();
        let most = self.config.limits.sessions_per_client.filter(|_| !member);
        if most.is_some_and(|most| self.registry.of_client(link.peer_key()) >= most) {
            let text = format!("{} sessions of this client are served", most.unwrap_or_default());
            return Err(Denial::new(DenyReason::Overloaded, text));
        }
        self.has_egress(connect.rate.unwrap_or(0))?;
        let (purse, holders) = (&self.purse, holders(link));
        if !member && self.is_full() {
            // Nobody who would be refused takes another one's place.
            purse.look(|budget| budget.admit(&holders))?;
            let most = self.config.limits.sessions;
            room::make(&self.registry, most, self.ticket_life()).await;
            if self.is_full() {
                let text = format!("{} sessions are served", self.config.limits.sessions);
                return Err(Denial::new(DenyReason::Overloaded, text));
            }
        }
        let stake = match member {
            true => Stake::new(purse, holders),
            false => Stake::admitted(purse, holders)?,
        };
        Ok((service, stake))
    }

    /// How long a ticket of this server is good.
    pub(crate) fn ticket_life(&self) -> Duration {
        self.config.cluster.as_ref().map_or(Duration::ZERO, |cluster| cluster.life)
    }

    /// Whether as many sessions are served as may be.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.registry.len() >= self.config.limits.sessions
    }

    /// The life of a session that has its place.
    pub(crate) fn life(&self, key: Key, running: Running) -> Life {
        let limits = &self.config.limits;
        Life {
            registry: Arc::clone(&self.registry),
            links: self.links.clone(),
            tombstone: limits.session.tombstone,
            rise: limits.rise,
            key,
            ended: None,
            running,
        }
    }

    /// The passes for a session of this client, if its service can need them.
    pub(crate) fn passes_for(&self, kind: Kind, client: PublicKey) -> Option<Passes> {
        let cluster = self.config.cluster.clone().filter(|_| kind == Kind::Tcp);
        cluster.map(|cluster| Passes::new(cluster, self.key, client))
    }

    async fn open_session(
        &self,
        link: &Link,
        connect: &Connect<'_>,
        key: Key,
        free: bool,
    ) -> Result<(Ready, Running), Denial> {
        let (service, stake) = self.has_room(connect, link).await?;
        let since = Instant::now();
        let reserved = if free { self.registry.reserve(key) } else { None };
        let transferred = matches!(connect.mode, ConnectMode::Transfer(_));
        if reserved.is_none() && !transferred {
            return Err(Denial::new(DenyReason::Overloaded, "this session is being opened"));
        }
        let mut mint = self.config.cluster.as_ref().map(|c| c.mint(&service.name, key.0, key.1));
        if let Some(granted) = self.admit(link, connect, service)?
            && let Some(mint) = &mut mint
        {
            mint.restrict(Some(granted));
        }
        let (groups, coming) = ((key.0, &self.groups), (&self.comparings, &self.followings));
        let led = service.toward(key.0, connect)?;
        let told = led.told_of(link.peer_addr(), link.local_addr());
        let opening = open(&told, connect, groups, mint, &self.revocations, coming);
        let Opened { service: near, at, granted } = Box::pin(opening).await?;
        let near = match &self.keeping {
            Some(keeping) => near.kept_by(keeping, || face(&key, connect, granted.clone())),
            None => near,
        };
        let own = random_handle();
        let now = stp_drive::clock::now();
        let limits = service.limits(&self.config.limits.session);
        let name = &self.config.name;
        let mut session = Session::accept(now, limits, FIRST_LINK, own, connect, at, name);
        if near.holds_acks() {
            session.hold_acks();
        }
        let (inbox, commands) = mpsc::channel(INBOX);
        let entry = Entry {
            own,
            inbox,
            status: Arc::new(SessionStatus::told_to(self.feed.clone(), own.to_string().into())),
            service: service.name.clone(),
            endpoint: connect.endpoint.to_owned(),
            since,
            transferred,
            epoch: connect.epoch,
            wanted: connect.rate.unwrap_or(0),
            fixed: Arc::default(),
            granted,
            spool: near.spool(),
        };
        let fixed = Arc::clone(&entry.fixed);
        let passes = self.passes_for(led.kind, key.0);
        let status = Arc::clone(&entry.status);
        self.registry.note_begin(transferred);
        let placed = match reserved {
            Some(reserved) => reserved.fill(entry),
            None => self.registry.replace(key, entry),
        };
        let Some((running, old)) = placed else {
            return Err(Denial::new(DenyReason::Overloaded, "a later attempt was faster"));
        };
        if let Some(old) = old {
            let _ = old.inbox.try_send(Command::Abort { code: code::MOVED });
        }
        self.acceptor.welcome(link.peer_addr().ip());
        tracing::debug!(peer = %link.peer_addr(), "accepted");
        let service = service.name.clone();
        let status = (status, stake);
        let led = Some(led.target.clone());
        let ready =
            Ready { session, near, own, commands, status, service, since, fixed, passes, led };
        Ok((ready, running))
    }
}

fn face(key: &Key, connect: &Connect<'_>, granted: Option<Granted>) -> Face {
    Face {
        client: key.0.0,
        service: connect.service.to_owned(),
        endpoint: connect.endpoint.to_owned(),
        epoch: connect.epoch,
        granted,
        bound: false,
    }
}

/// The first record of a link; `None` if it ends, or is of no use, before that.
async fn first_record(link: &mut Link) -> Option<Vec<u8>> {
    loop {
        std::future::poll_fn(|cx| link.poll_readable(cx)).await.ok()?;
        let records = match link.try_read() {
            Ok(records) => records,
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => continue,
            Err(error) => {
                tracing::debug!(%error, "a waiting link ended");
                return None;
            }
        };
        let mut all = records.iter();
        match (all.next(), all.len()) {
            (Some(record), 0) => return Some(record.to_vec()),
            (Some(_), more) => {
                tracing::info!(more, "a link began with more than one frame");
                return None;
            }
            (None, _) if records.closed() => return None,
            (None, _) => {}
        }
    }
}
