//! What the broker keeps of a session beside the session itself: whose it is, where it goes, and
//! what its loop has published.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock, Weak};
use std::time::{Duration, Instant};

use nix::errno::Errno;
use parking_lot::Mutex;
use serde_json::{Value, json};
use stp_drive::{History, SessionStatus};
use stp_proto::course::{AppError, CannotMove, GapWhy};
use stp_proto::handle::Handle;
use stp_proto::local::Cookie;
use stp_proto::local::wire::Told;
use stp_proto::select::Rank;
use stp_proto::time;
use stp_server::within;
use tokio::sync::{mpsc, oneshot};

use crate::any_link::Command;
use crate::leave::Held;
use crate::pauses::Pause;
use crate::remains::Awaits;
use crate::service::{Server, Service};
use crate::upkeep::Upkeep;

/// The program at the near side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct App {
    /// Its process id.
    pub pid: i32,
    /// Its name as the kernel knows it.
    pub comm: String,
}

/// What others want of a session's far side.
#[derive(Debug)]
pub enum Order {
    /// The user wants it at another server: at this one, or at any.
    Move {
        /// Where to.
        to: Option<Rank>,
        /// Whether it goes.
        answer: oneshot::Sender<Result<(), CannotMove>>,
    },
    /// The network has changed, and the session is about to be told to open another link.
    PathChanged {
        /// Why, for its history.
        why: GapWhy,
        /// Since when nothing can have come through.
        since: time::Instant,
    },
}

/// Where a session stands, as its loop has published it.
#[derive(Clone, Default)]
pub struct View {
    /// The server that holds it, or did last.
    pub server: Option<Rank>,
    /// The server through which its link goes; none: straight.
    pub via: Option<Arc<Server>>,
    /// Where its link, or that of an attempt, leaves this machine.
    pub local: Option<SocketAddr>,
    /// Whether it has a link.
    pub attached: bool,
}

/// What may be on its way to a session when its server says that the service gives no more.
const ON_THE_WAY_MAX: u64 = 16 << 20;

/// Refusals of a session that are told when it ends.
const REFUSALS_MAX: usize = 4;

/// A session as its broker lists it.
pub struct Entry {
    /// Its number.
    pub id: u64,
    /// Whose it is.
    pub app: App,
    /// Its peer, as the app knows it.
    pub peer: SocketAddr,
    /// The session to which it belongs, and the token under which it was announced.
    pub lead: Option<(Weak<Entry>, Handle)>,
    /// Those that belong to it.
    pub members: Mutex<Vec<(Handle, Weak<Entry>)>>,
    /// The connection that was announced in its stream and not made yet.
    pub awaits: Mutex<Option<Awaits>>,
    /// Where the app wanted to go, as it said.
    pub destination: String,
    /// The name behind a virtual address.
    pub host: Option<String>,
    /// The service's place in the configuration.
    pub service_number: usize,
    /// How it is to be kept, as was asked for.
    pub upkeep: Upkeep,
    /// The service.
    pub service: Arc<Service>,
    /// When it began.
    pub started: Instant,
    /// Where commands for its loop go.
    pub inbox: mpsc::Sender<Command>,
    /// Where orders for its far side go.
    pub orders: mpsc::Sender<Order>,
    /// What its loop publishes.
    pub status: Arc<SessionStatus>,
    /// What its far side publishes.
    pub view: Mutex<View>,
    /// How the shim names its socket; none for a connection that no program has begun.
    pub cookie: OnceLock<Cookie>,
    /// What the shim is told of the times without a link.
    pause: OnceLock<Pause>,
    /// Its program can go on with it elsewhere, and wants to be told when its endpoint is saved.
    pub aware: AtomicBool,
    /// What keeps it suspended.
    pub held: Mutex<Held>,
    /// It has had a link.
    linked: AtomicBool,
    /// What the app is told, and why, if the broker has given up.
    gave_up: OnceLock<(i32, String)>,
    /// Why its service gives no more, as its server said, and what had been received then.
    service_said: Mutex<Option<(u64, String)>>,
    /// What other servers said that did not take it, since it was at its present one.
    refusals: Mutex<Vec<String>>,
}

impl Entry {
    /// A session that begins now, as a member of `lead` if there is one. `inbox` and `orders` lead
    /// to its loop.
    #[must_use]
    pub fn new(
        id: u64,
        app: App,
        lead: Option<(Weak<Entry>, Handle)>,
        (peer, destination, host): (SocketAddr, String, Option<String>),
        (service, service_number, upkeep): (Arc<Service>, usize, Upkeep),
        (inbox, orders): (mpsc::Sender<Command>, mpsc::Sender<Order>),
        status: SessionStatus,
    ) -> Entry {
        Entry {
            id,
            app,
            peer,
            lead,
            members: Mutex::default(),
            awaits: Mutex::default(),
            destination,
            host,
            service_number,
            upkeep,
            service,
            started: Instant::now(),
            inbox,
            orders,
            status: Arc::new(status),
            view: Mutex::default(),
            cookie: OnceLock::new(),
            pause: OnceLock::new(),
            aware: AtomicBool::new(false),
            held: Mutex::default(),
            linked: AtomicBool::new(false),
            gave_up: OnceLock::new(),
            service_said: Mutex::default(),
            refusals: Mutex::default(),
        }
    }

    /// How long what its app writes may be unacknowledged, of what the app has said. What is
    /// configured for this session goes before that.
    #[must_use]
    pub fn patience(&self, said: Option<Duration>) -> Option<Duration> {
        said.filter(|_| self.upkeep.hold.is_none())
    }

    /// The time for which its user had suspended it is over: it goes on, unless something else
    /// holds it.
    pub fn woken(&self, at_byte: u64) {
        self.record("woken", "its time was over".to_owned(), at_byte);
        if self.held.lock().woken() {
            let _ended_or_too_busy = self.inbox.try_send(Command::Suspend { lasts: None });
        }
    }

    /// Its server says why the service gives no more.
    pub fn note_service(&self, received: u64, text: &str) {
        *self.service_said.lock() = Some((received, text.to_owned()));
    }

    /// It has a link, or had one with the broker before this one.
    pub fn note_linked(&self) {
        self.linked.store(true, Ordering::Relaxed);
    }

    /// Whether it has had a link.
    #[must_use]
    pub fn was_linked(&self) -> bool {
        self.linked.load(Ordering::Relaxed)
    }

    /// It is at another server now.
    pub fn forget_service(&self) {
        *self.service_said.lock() = None;
        self.refusals.lock().clear();
    }

    /// A server does not take it, for this reason.
    pub fn note_refusal(&self, why: &str) {
        let mut refusals = self.refusals.lock();
        refusals.retain(|before| before != why);
        if refusals.len() == REFUSALS_MAX {
            refusals.remove(0);
        }
        refusals.push(why.to_owned());
    }

    /// What other servers said that did not take it, the last one last.
    #[must_use]
    pub fn refusals(&self) -> Vec<String> {
        self.refusals.lock().clone()
    }

    /// Why its service gave no more than it has received, if its server said so lately. What the
    /// service had sent before may still have been on its way.
    #[must_use]
    pub fn service_said(&self) -> Option<String> {
        let received = self.status.snapshot().positions.rcv;
        let said = self.service_said.lock();
        let near = |at: u64| received.saturating_sub(at) <= ON_THE_WAY_MAX;
        said.as_ref().filter(|(at, _)| near(*at)).map(|(_, text)| text.clone())
    }

    /// Adds something that happened to the session's history.
    pub fn record(&self, what: &'static str, cause: String, at_byte: u64) {
        self.status.record(self.history(what, cause, at_byte));
    }

    /// A piece of history, to be completed.
    #[must_use]
    pub fn history(&self, what: &'static str, cause: String, at_byte: u64) -> History {
        let at_ms = self.started.elapsed().as_millis();
        History {
            at_ms: u64::try_from(at_ms).unwrap_or(u64::MAX),
            what,
            cause,
            gap_ms: None,
            from_server: None,
            to_server: None,
            at_byte,
        }
    }

    /// The broker has given up; the first reason counts.
    pub fn give_up(&self, error: AppError, why: &str) {
        let errno = match error {
            AppError::Refused => Errno::ECONNREFUSED as i32,
            AppError::Unreachable => Errno::EHOSTUNREACH as i32,
            AppError::TimedOut => Errno::ETIMEDOUT as i32,
            AppError::Reset => Errno::ECONNRESET as i32,
            AppError::Number(errno) => errno,
        };
        let _the_first_counts = self.gave_up.set((errno, why.to_owned()));
    }

    /// What the app is told, and why, if the broker has given up.
    #[must_use]
    pub fn gave_up(&self) -> Option<&(i32, String)> {
        self.gave_up.get()
    }

    /// What the shim is told of the times without a link; nothing unless [`Entry::tell_pauses`]
    /// came first.
    #[must_use]
    pub fn pause(&self) -> &Pause {
        self.pause.get_or_init(Pause::default)
    }

    /// Has the shim told of the times without a link.
    pub fn tell_pauses(&self, pause: Pause) {
        let _told_once = self.pause.set(pause);
    }

    /// The server that holds it, by name.
    #[must_use]
    pub fn server(&self) -> Option<String> {
        if self.service.direct.is_some() {
            return Some(within::NAME.to_owned());
        }
        self.view.lock().server.map(|rank| self.service.server_name(rank))
    }

    /// The server through which its link goes, by name; none: straight.
    #[must_use]
    pub fn via(&self) -> Option<String> {
        self.view.lock().via.as_ref().map(|via| via.name())
    }

    /// The session to which it belongs, while that lives.
    #[must_use]
    pub fn lead(&self) -> Option<Arc<Entry>> {
        self.lead.as_ref()?.0.upgrade()
    }

    /// The number of the session to which it belongs, and the token under which it was announced.
    #[must_use]
    pub fn led_by(&self) -> Option<(u64, Handle)> {
        let (lead, token) = self.lead.as_ref()?;
        Some((lead.upgrade()?.id, *token))
    }

    /// Its number in the status: that of the lead, or its own if it has members.
    fn lead_id(&self) -> Option<u64> {
        let own = || (!self.members.lock().is_empty()).then_some(self.id);
        self.lead().map(|lead| lead.id).or_else(own)
    }

    /// Those that belong to it and live.
    #[must_use]
    pub fn living_members(&self) -> Vec<Arc<Entry>> {
        self.members.lock().iter().filter_map(|(_, member)| member.upgrade()).collect()
    }

    /// How it fares, but for its server's name, for a program that knows of sessions.
    #[must_use]
    pub fn told(&self) -> Told<'static> {
        let now = self.status.snapshot();
        Told {
            state: now.state,
            rtt_us: (now.rtt_ms.unwrap_or(0.0) * 1e3) as u32,
            paused_ms: self.pause().paused_ms().unwrap_or(0),
            taken: now.positions.end,
            acknowledged: now.positions.una,
            received: now.positions.rcv,
            delivered: now.positions.dlv,
            server: "",
        }
    }

    /// Its part of the status.
    #[must_use]
    pub fn json(&self) -> Value {
        let snapshot = serde_json::to_value(self.status.snapshot()).unwrap_or_default();
        let mut all = json!({
            "id": self.id,
            "app": { "pid": self.app.pid, "comm": self.app.comm },
            "destination": self.destination,
            "group": self.lead_id(),
            "service": self.service.name,
            "endpoint": Some(&*self.service.endpoint).filter(|name| !name.is_empty()),
            "far_endpoint": self.service.far_endpoint(),
            "server": self.server(),
            "via": self.via(),
            "age_ms": self.started.elapsed().as_millis() as u64,
            "class_asked": self.upkeep.class.unwrap_or_default().word(),
            "freeze": self.pause().freeze().name(),
            "paused_ms": self.pause().paused_ms(),
            "events": self.status.history(),
            "series": self.status.series(),
        });
        if let (Some(all), Value::Object(snapshot)) = (all.as_object_mut(), snapshot) {
            all.extend(snapshot);
        }
        all
    }
}
