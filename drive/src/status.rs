//! A session's published snapshot. It is written by the session's loop and read by the status
//! server; it never reaches into the data path.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde::{Serialize, Serializer};
use serde_json::Value;
use stp_net::status::{ActError, Feed};
use stp_proto::class::Class;
use stp_proto::session::{ClosedWhy, WhyNot, code};
use stp_proto::state::State;
use stp_proto::time;
use tokio::sync::watch;

use crate::clock;

/// How many happenings of a session are kept for the status.
const HISTORY_MAX: usize = 64;
/// How many moments, and how far they are apart at least, milliseconds: the last minute of a busy
/// session.
const SERIES_MAX: usize = 60;
const SERIES_EVERY_MS: u64 = 1_000;

/// The path of a session as it was at a moment, as this end's kernel saw it.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Moment {
    /// Milliseconds on the clock that counts sleep.
    pub at_ms: u64,
    /// Smoothed round-trip time, milliseconds.
    pub rtt_ms: f64,
    /// The least round trip of the link, milliseconds.
    pub rtt_ms_min: f64,
    /// What reached the other end lately, bytes a second.
    pub delivery_rate: u64,
    /// Both ways together, bytes a second.
    pub rate: u64,
}

/// One thing that happened to a session.
#[derive(Clone, Debug, Serialize)]
pub struct History {
    /// Milliseconds since the session began.
    pub at_ms: u64,
    /// What happened, one word: `established`, `lost`, `attached`, `denied`, …
    pub what: &'static str,
    /// Why, for a person.
    pub cause: String,
    /// Milliseconds from the loss of the last link to this attachment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gap_ms: Option<u64>,
    /// The server before, if it changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub from_server: Option<String>,
    /// The server after.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub to_server: Option<String>,
    /// The received position at that moment.
    pub at_byte: u64,
}

/// Numbers of a session, as of the last publication.
#[derive(Clone, Debug, Serialize)]
pub struct Snapshot {
    /// The state; shown by its name.
    #[serde(serialize_with = "by_name")]
    pub state: State,
    /// How long it has been in this state, milliseconds.
    pub state_ms: u64,
    /// Highest epoch seen.
    pub epoch: u32,
    /// Positions of both directions.
    pub positions: Positions,
    /// Bytes that the peer has not acknowledged.
    pub unacknowledged: u64,
    /// Received bytes that the near side has not taken.
    pub undelivered: u64,
    /// What it costs its daemon, bytes: what is held, and what was promised to the peer.
    pub cost: u64,
    /// A server's session without a link, all of which its broker can have again by its ticket.
    #[serde(skip)]
    pub again: bool,
    /// Smoothed round-trip time of the newest link, milliseconds.
    pub rtt_ms: Option<f64>,
    /// Delivered to the near side, bytes a second, over the last publications.
    pub rate_in: u64,
    /// Taken from the near side, bytes a second.
    pub rate_out: u64,
    /// `address → address` of the newest link.
    pub link: Option<String>,
    /// The last checkpoint that both ends hold.
    pub last_checkpoint: Option<String>,
    /// Whether the session could go on at another server now, or why not.
    #[serde(serialize_with = "yes_or_why_not")]
    pub transferable: Result<(), WhyNot>,
    /// How well it is kept while it has no link, as was granted; shown by its name.
    #[serde(serialize_with = "by_word")]
    pub class: Class,
    /// How long it is kept without a link, as both ends have agreed, seconds.
    pub hold_s: u64,
    /// How long this end can be suspended and still find the other one then, seconds.
    pub suspendable_s: u64,
    /// In how many seconds a suspension, at either end, is over; none: there is none, or nobody
    /// knows.
    pub suspended_s: Option<u64>,
    /// For how many seconds it is still kept without a link; none: it has one, or this end is
    /// suspended.
    pub kept_s: Option<u64>,
    /// When that is, on the clock of sessions.
    #[serde(skip)]
    pub ends: (Option<time::Instant>, Option<time::Instant>),
    /// Why it cannot go on at another server, as its server has said.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fixed: Option<String>,
}

impl Default for Snapshot {
    /// A session of which nothing was published yet.
    fn default() -> Snapshot {
        Snapshot {
            state: State::Suspended,
            state_ms: 0,
            epoch: 0,
            positions: Positions::default(),
            unacknowledged: 0,
            undelivered: 0,
            cost: 0,
            again: false,
            rtt_ms: None,
            rate_in: 0,
            rate_out: 0,
            link: None,
            last_checkpoint: None,
            transferable: Err(WhyNot::NotEstablished),
            class: Class::Temporary,
            hold_s: 0,
            suspendable_s: 0,
            suspended_s: None,
            kept_s: None,
            ends: (None, None),
            fixed: None,
        }
    }
}

fn by_name<S: Serializer>(state: &State, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(state_name(*state))
}

fn by_word<S: Serializer>(class: &Class, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(class.word())
}

fn yes_or_why_not<S: Serializer>(
    transferable: &Result<(), WhyNot>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match transferable {
        Ok(()) => serializer.serialize_str("yes"),
        Err(why) => serializer.collect_str(why),
    }
}

/// The positions that a person may ask for. All are byte counts from the session's start.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub struct Positions {
    /// Everything below was acknowledged by the peer.
    pub una: u64,
    /// Next to transmit.
    pub nxt: u64,
    /// Taken from the near side.
    pub end: u64,
    /// Received.
    pub rcv: u64,
    /// Delivered to the near side.
    pub dlv: u64,
}

/// Shared between a session's loop and the status server.
#[derive(Debug, Default)]
pub struct SessionStatus {
    /// Where it is told as it happens, and which session it is.
    feed: Option<(Feed, Value)>,
    inner: Mutex<(Snapshot, VecDeque<History>)>,
    /// When the state changed last.
    changed: Mutex<Option<Instant>>,
    series: Mutex<VecDeque<Moment>>,
    /// The state as it changes; nothing before the first publication.
    states: watch::Sender<Option<State>>,
}

impl SessionStatus {
    /// That of the session `id`, told to `feed` as it happens.
    #[must_use]
    pub fn told_to(feed: Feed, id: Value) -> SessionStatus {
        SessionStatus { feed: Some((feed, id)), ..SessionStatus::default() }
    }

    /// Tells something of this session.
    pub fn tell(&self, kind: &'static str, what: &impl Serialize) {
        if let Some((feed, id)) = &self.feed {
            feed.tell(kind, || {
                let mut value = serde_json::to_value(what).unwrap_or_default();
                if let Value::Object(fields) = &mut value {
                    fields.insert("session".to_owned(), id.clone());
                }
                value
            });
        }
    }

    /// The last published numbers.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        let changed = self.changed.lock().map_or(Duration::ZERO, |changed| changed.elapsed());
        let state_ms = u64::try_from(changed.as_millis()).unwrap_or(u64::MAX);
        let last = self.inner.lock().0.clone();
        let now = clock::now();
        let left = |end: Option<time::Instant>| end.map(|end| (end - now.min(end)).as_secs());
        let (suspended_s, kept_s) = (left(last.ends.0), left(last.ends.1));
        Snapshot { state_ms, suspended_s, kept_s, ..last }
    }

    /// What happened, oldest first, bounded.
    #[must_use]
    pub fn history(&self) -> Vec<History> {
        self.inner.lock().1.iter().cloned().collect()
    }

    /// The last moments, oldest first.
    #[must_use]
    pub fn series(&self) -> Vec<Moment> {
        self.series.lock().iter().copied().collect()
    }

    /// The state as it changes from now on. Of states that follow each other faster than they are
    /// looked at only the last one is seen.
    #[must_use]
    pub fn states(&self) -> watch::Receiver<Option<State>> {
        self.states.subscribe()
    }

    pub(crate) fn note(&self, moment: Moment) {
        let mut series = self.series.lock();
        if series.back().is_some_and(|last| moment.at_ms < last.at_ms + SERIES_EVERY_MS) {
            return;
        }
        if series.len() == SERIES_MAX {
            series.pop_front();
        }
        series.push_back(moment);
        drop(series);
        self.tell("sample", &moment);
    }

    /// Adds something that happened.
    pub fn record(&self, entry: History) {
        self.tell("happening", &entry);
        let mut inner = self.inner.lock();
        if inner.1.len() == HISTORY_MAX {
            inner.1.pop_front();
        }
        inner.1.push_back(entry);
    }

    pub(crate) fn publish(&self, snapshot: Snapshot) {
        let mut inner = self.inner.lock();
        let mut changed = self.changed.lock();
        if changed.is_none() || inner.0.state != snapshot.state {
            *changed = Some(Instant::now());
        }
        let state = snapshot.state;
        inner.0 = snapshot;
        drop(inner);
        self.states.send_if_modified(|told| told.replace(state) != Some(state));
    }
}

/// For how long a session is to be suspended, as the body of a request says: `{ "for_s": 3600 }`.
///
/// # Errors
/// It is no whole number of seconds from 1 on.
pub fn lasts(body: &Value) -> Result<Option<Duration>, ActError> {
    match &body["for_s"] {
        Value::Null => Ok(None),
        given => match given.as_u64() {
            Some(seconds @ 1..) => Ok(Some(Duration::from_secs(seconds.min(u32::MAX.into())))),
            _ => Err(ActError::bad_request("for_s is a number of seconds from 1 on")),
        },
    }
}

/// Why a session closed, in words.
pub(crate) fn closed_reason(why: ClosedWhy) -> String {
    match why {
        ClosedWhy::Clean => "ended in order".to_owned(),
        ClosedWhy::ResetHere { code } => format!("reset at this end, {}", code_text(code)),
        ClosedWhy::ResetByPeer { code } => format!("reset by the other end, {}", code_text(code)),
    }
}

fn code_text(code: u32) -> &'static str {
    match code {
        code::NEAR_RESET => "the program or service there aborted",
        code::NEAR_GONE => "the program or service there is gone",
        code::USER => "ended by a user",
        code::HOLD => "no link for longer than the hold time",
        code::PROTOCOL => "the protocol was broken",
        code::MOVED => "the session went to another server",
        code::SERVICE => "the server's service failed",
        code::NO_SERVER => "no server can continue it",
        code::IDLE => "nothing passed for longer than the idle limit",
        code::ROOM => "the server had no place left, and this session had no link",
        code::USER_TIMEOUT => "bytes were not acknowledged within the program's TCP_USER_TIMEOUT",
        code::SHUTDOWN => "the daemon is stopping",
        code::CARRIED => "another copy of it went on elsewhere, and a session can do so once",
        _ => "for an unknown reason",
    }
}

/// The name of a state in the status.
/// A state's name in the status.
#[must_use]
pub fn state_name(state: State) -> &'static str {
    match state {
        State::Active => "active",
        State::ReadyResume => "ready_resume",
        State::SentResume => "sent_resume",
        State::Suspended => "suspended",
        State::Closed => "closed",
    }
}
