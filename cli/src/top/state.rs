//! The state of `session top`: every session with what the broker told of it, and what the user
//! looks at.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::feed::Event;
use crate::show::{list, number, word};
use crate::words::{self, Mood};

/// Samples of a session that are kept, about one a second.
pub const SAMPLES: usize = 20;
const EVENTS_MAX: usize = 64;
const TOLD_MAX: usize = 200;

/// A session, as the broker told of it.
#[derive(Debug, Default)]
pub struct Session {
    /// What the broker says of it, without events.
    pub told: Value,
    /// What happened to it, oldest first.
    pub events: Vec<Value>,
    /// Its rates, oldest first, bytes a second.
    pub rates: VecDeque<u64>,
    /// When its last sample came.
    pub sampled: Option<Instant>,
    /// When it began.
    pub begun: Option<Instant>,
}

impl Session {
    /// Whether it has a link.
    pub fn mood(&self) -> Mood {
        let last = self.events.iter().rev().find_map(words::mood);
        last.unwrap_or(if self.told["link"].is_string() { Mood::Linked } else { Mood::Gap })
    }

    /// Bytes a second now, by its last sample; none if that is old.
    pub fn rate(&self, now: Instant) -> u64 {
        let fresh = |at: Instant| now.duration_since(at) < Duration::from_secs(3);
        match (self.mood(), self.rates.back()) {
            (Mood::Linked, Some(rate)) if self.sampled.is_some_and(fresh) => *rate,
            (Mood::Linked, _) => number(&self.told["rate_in"]) + number(&self.told["rate_out"]),
            _ => 0,
        }
    }
}

/// In which order the sessions stand.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    /// The newest first.
    #[default]
    Newest,
    /// The fastest first.
    Rate,
    /// By the name of the program.
    App,
}

impl Order {
    /// The order that follows this one when the key is pressed.
    pub fn next(self) -> Order {
        match self {
            Order::Newest => Order::Rate,
            Order::Rate => Order::App,
            Order::App => Order::Newest,
        }
    }
}

/// What the user is asked for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Asking {
    /// Nothing: keys are commands.
    #[default]
    Nothing,
    /// Words to search for.
    Search,
    /// Whether to close this session.
    Close(u64),
}

/// Everything that is shown.
#[derive(Debug, Default)]
pub struct State {
    /// The broker itself, services and counters.
    pub status: Value,
    /// The sessions by number.
    pub sessions: BTreeMap<u64, Session>,
    /// What happened to any of them, newest first: number, program, sentence, when.
    pub log: VecDeque<(u64, String, String, Instant)>,
    /// What is searched for.
    pub words: String,
    /// What the user is asked for.
    pub asking: Asking,
    /// What came of the last command.
    pub said: String,
    /// In which order the sessions stand.
    pub order: Order,
    /// A whole status is needed, because something is not known.
    pub wants_status: bool,
    chosen: Option<u64>,
}

impl State {
    /// Takes a status, whole or without events.
    pub fn take_status(&mut self, status: &Value, now: Instant) {
        self.wants_status = false;
        let told = list(&status["sessions"]);
        let there: Vec<u64> = told.iter().map(|session| number(&session["id"])).collect();
        self.sessions.retain(|id, _| there.contains(id));
        for (id, mut told) in there.into_iter().zip(told) {
            let session = self.sessions.entry(id).or_default();
            if let Some(Value::Array(events)) = told.get_mut("events").map(Value::take) {
                session.events = events;
                let series = list(&told["series"]);
                session.rates = series.iter().map(|one| number(&one["rate"])).collect();
            }
            let age = Duration::from_millis(number(&told["age_ms"]));
            session.begun = session.begun.or_else(|| now.checked_sub(age));
            session.told = told;
        }
        for (name, value) in status.as_object().into_iter().flatten() {
            if name != "sessions" {
                self.status[name] = value.clone();
            }
        }
    }

    /// Takes an event of the broker.
    pub fn take(&mut self, event: &Event, now: Instant) {
        let data = &event.data;
        let id = number(&data["session"]);
        match event.kind.as_str() {
            "status" => self.take_status(data, now),
            "sample" => {
                if let Some(session) = self.sessions.get_mut(&id) {
                    session.rates.push_back(number(&data["rate"]));
                    session.sampled = Some(now);
                    session.told["rtt_ms"] = data["rtt_ms"].clone();
                }
            }
            "happening" => {
                self.note(id, words::sentence(data), now);
                match self.sessions.get_mut(&id) {
                    Some(session) => {
                        session.events.push(data.clone());
                        if session.events.len() > EVENTS_MAX {
                            session.events.remove(0);
                        }
                    }
                    None => self.wants_status = true,
                }
                self.wants_status |= words::mood(data).is_some();
            }
            "ended" => {
                self.note(id, format!("ended: {}", word(&data["reason"])), now);
                self.sessions.remove(&id);
            }
            _ => {}
        }
        if let Some(session) = self.sessions.get_mut(&id) {
            let excess = session.rates.len().saturating_sub(SAMPLES);
            session.rates.drain(..excess);
        }
    }

    fn note(&mut self, id: u64, what: String, now: Instant) {
        let app = self.sessions.get(&id).map(|session| word(&session.told["app"]["comm"]));
        self.log.push_front((id, app.unwrap_or_default(), what, now));
        self.log.truncate(TOLD_MAX);
    }

    /// The sessions that match what is searched for, in order.
    pub fn shown(&self, now: Instant) -> Vec<(u64, &Session)> {
        let words: Vec<String> = self.words.split_whitespace().map(str::to_lowercase).collect();
        let matches = |(id, session): &(u64, &Session)| {
            let told = &session.told;
            let of = ["destination", "service", "server", "via", "state"].map(|name| &told[name]);
            let text = of.into_iter().chain([&told["app"]["comm"]]).map(word);
            let text = text.collect::<Vec<_>>().join(" ").to_lowercase();
            let text = format!("{id} {} {text}", told["app"]["pid"]);
            words.iter().all(|word| text.contains(word.as_str()))
        };
        let all = self.sessions.iter().rev().map(|(id, session)| (*id, session));
        let mut shown: Vec<_> = all.filter(matches).collect();
        match self.order {
            Order::Newest => {}
            Order::Rate => shown.sort_by_key(|(_, session)| std::cmp::Reverse(session.rate(now))),
            Order::App => shown.sort_by_key(|(_, session)| word(&session.told["app"]["comm"])),
        }
        shown
    }

    /// Where the selected one stands among those shown; the first, if it is not there.
    pub fn place(&self, shown: &[(u64, &Session)]) -> Option<usize> {
        let chosen = shown.iter().position(|(id, _)| Some(*id) == self.chosen);
        chosen.or(if shown.is_empty() { None } else { Some(0) })
    }

    /// The selected session.
    pub fn selected(&self) -> Option<u64> {
        let shown = self.shown(Instant::now());
        self.place(&shown).map(|place| shown[place].0)
    }

    /// Selects another one, this many places down.
    pub fn step(&mut self, by: isize) {
        let shown = self.shown(Instant::now());
        let Some(place) = self.place(&shown) else { return };
        let place = place.saturating_add_signed(by).min(shown.len() - 1);
        self.chosen = Some(shown[place].0);
    }

    /// Searches for something else.
    pub fn search(&mut self, words: String) {
        self.words = words;
        self.asking = Asking::Nothing;
    }
}
