//! What the broker keeps of a session beside the session itself: whose it is, where it goes, and
//! the course of its servers.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use parking_lot::Mutex;
use serde_json::{Value, json};
use stp_drive::{Command, History, SessionStatus};
use stp_proto::rise::CoolDown;
use stp_proto::select::{Choice, Rank};
use tokio::sync::mpsc;

use crate::moves::Move;
use crate::relay::Turn;
use crate::service::{Server, Service};

/// The program at the near side.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct App {
    /// Its process id.
    pub pid: i32,
    /// Its name as the kernel knows it.
    pub comm: String,
}

/// A session as its broker lists it.
pub struct Entry {
    /// Its number.
    pub id: u64,
    /// Whose it is.
    pub app: App,
    /// Where the app wanted to go, as it said.
    pub destination: String,
    /// The name behind a virtual address.
    pub host: Option<String>,
    /// The service's place in the configuration.
    pub service_number: usize,
    /// The service.
    pub service: Arc<Service>,
    /// When it began.
    pub started: Instant,
    /// Where commands for its loop go.
    pub inbox: mpsc::Sender<Command>,
    /// What its loop publishes.
    pub status: Arc<SessionStatus>,
    /// Its way through the servers.
    pub course: Mutex<Course>,
}

/// A session's way through the servers.
pub struct Course {
    /// Who may be asked.
    pub choice: Choice,
    /// The server an attempt under way goes to.
    pub trying: Option<Rank>,
    /// Whether a link is attached.
    pub attached: bool,
    /// Where its link, or that of an attempt, leaves this machine.
    pub local: Option<SocketAddr>,
    /// Why the last link was lost.
    pub lost: String,
    /// Since when nothing can have come through, as far as is known.
    pub away_since: Option<Instant>,
    /// Attempts at its home that were not answered, one after the other.
    pub unanswered: u32,
    /// The server it came from at its last transfer.
    pub came_from: Option<Rank>,
    /// The user wants it to leave this server.
    pub leave: Option<Rank>,
    /// A move to another server that was decided.
    pub plan: Option<Move>,
    /// With this it may be led to its server through others.
    pub pass: Option<Arc<[u8]>>,
    /// The server through which its link goes; none: straight.
    pub via: Option<Arc<Server>>,
    /// The same of an attempt under way.
    pub trying_via: Option<Arc<Server>>,
    /// Another way to its server that was decided.
    pub turn: Option<Turn>,
    /// Somebody looks whether it can go straight again.
    pub watched: bool,
    /// Whether a move is being decided.
    pub deciding: bool,
    /// No moves for the sake of speed for a while.
    pub cool: CoolDown,
    /// What the app is told, and why, when the broker has given up.
    pub gave_up: Option<(i32, String)>,
}

impl Course {
    /// A session of a service with this many servers.
    #[must_use]
    pub fn new(servers: usize) -> Course {
        Course {
            choice: Choice::new(servers),
            trying: None,
            attached: false,
            local: None,
            lost: String::new(),
            away_since: None,
            unanswered: 0,
            came_from: None,
            leave: None,
            plan: None,
            pass: None,
            via: None,
            trying_via: None,
            turn: None,
            watched: false,
            deciding: false,
            cool: CoolDown::default(),
            gave_up: None,
        }
    }
}

impl Entry {
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

    /// The server that holds it, by name.
    #[must_use]
    pub fn server(&self) -> Option<String> {
        self.course.lock().choice.last().map(|rank| self.service.server_name(rank))
    }

    /// The server through which its link goes, by name; none: straight.
    #[must_use]
    pub fn via(&self) -> Option<String> {
        self.course.lock().via.as_ref().map(|via| via.name())
    }

    /// Its part of the status.
    #[must_use]
    pub fn json(&self) -> Value {
        let snapshot = serde_json::to_value(self.status.snapshot()).unwrap_or_default();
        let mut all = json!({
            "id": self.id,
            "app": { "pid": self.app.pid, "comm": self.app.comm },
            "destination": self.destination,
            "service": self.service.name,
            "server": self.server(),
            "via": self.via(),
            "age_ms": self.started.elapsed().as_millis() as u64,
            "events": self.status.history(),
            "series": self.status.series(),
        });
        if let (Some(all), Value::Object(snapshot)) = (all.as_object_mut(), snapshot) {
            all.extend(snapshot);
        }
        all
    }
}
