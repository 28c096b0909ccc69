//! `session log`: what happens to the sessions, a line each, as it happens.

use std::collections::HashMap;
use std::io::{ErrorKind, Write};
use std::process::ExitCode;

use jiff::{SignedDuration, Timestamp, tz::TimeZone};
use serde_json::{Value, json};

use crate::args::Log;
use crate::feed::{self, Event};
use crate::show::{list, number, word};
use crate::words;

/// Follows the broker until it ends.
///
/// # Errors
/// When no broker answers, or its stream breaks off.
pub fn log(args: &Log) -> anyhow::Result<ExitCode> {
    let mut teller = Teller::default();
    for event in feed::follow() {
        let event = event?;
        let text = if args.json {
            Some(format!("{}\n", json!({ "event": event.kind, "data": event.data })))
        } else {
            teller.tell(&event, args.lines)
        };
        if let Some(text) = text {
            match std::io::stdout().lock().write_all(text.as_bytes()) {
                // The reader, such as `head`, has seen enough.
                Err(error) if error.kind() == ErrorKind::BrokenPipe => {
                    return Ok(ExitCode::SUCCESS);
                }
                other => other?,
            }
        }
    }
    eprintln!("session: the broker has ended");
    Ok(ExitCode::SUCCESS)
}

/// The program and destination of a session, for lines that have only its number.
#[derive(Default)]
struct Teller {
    who: HashMap<u64, String>,
    /// How many decisions in a row left a session where it is.
    stayed: HashMap<u64, u32>,
}

impl Teller {
    /// The lines to print for an event.
    fn tell(&mut self, event: &Event, lines: usize) -> Option<String> {
        let now = Timestamp::now();
        match event.kind.as_str() {
            "status" => Some(self.past(&event.data, now, lines)),
            "happening" => self.happening(&event.data, now),
            "ended" => {
                let id = number(&event.data["session"]);
                let who = self.who.remove(&id).unwrap_or_else(|| who(id, &event.data));
                self.stayed.remove(&id);
                Some(line(now, &who, &format!("ended: {}", word(&event.data["reason"]))))
            }
            "missed" => Some(line(now, "-", &format!("{} events were missed", event.data))),
            _ => None,
        }
    }

    fn happening(&mut self, event: &Value, at: Timestamp) -> Option<String> {
        let id = number(&event["session"]);
        let mut text = words::sentence(event);
        if event["what"] == "asked to leave" {
            return None; // The decision follows, with the same numbers.
        }
        if words::stays(event) {
            let times = self.stayed.entry(id).or_default();
            *times += 1;
            if *times > 1 {
                text = format!("{text} ({times} times)");
            }
        } else {
            self.stayed.remove(&id);
        }
        let name = self.who.entry(id).or_insert_with(|| who(id, &ask(id)));
        Some(line(at, name, &text))
    }

    /// The last lines of what happened before this command began.
    fn past(&mut self, status: &Value, now: Timestamp, lines: usize) -> String {
        let mut all = Vec::new();
        for session in list(&status["ended"]).iter().chain(&list(&status["sessions"])) {
            let id = number(&session["id"]);
            let begun = now - SignedDuration::from_millis(number(&session["age_ms"]) as i64);
            if session["reason"].is_null() {
                self.who.insert(id, who(id, session));
                for event in list(&session["events"]) {
                    let at = begun + SignedDuration::from_millis(number(&event["at_ms"]) as i64);
                    all.push((at, id, event));
                }
            }
        }
        all.sort_by_key(|(at, id, _)| (*at, *id));
        let told: Vec<String> = all
            .into_iter()
            .filter_map(|(at, id, mut event)| {
                event["session"] = id.into();
                self.happening(&event, at)
            })
            .collect();
        told[told.len().saturating_sub(lines)..].concat()
    }
}

/// A session that began after this command: the broker is asked for its program and destination.
fn ask(id: u64) -> Value {
    let status = crate::broker::status().unwrap_or_default();
    list(&status["sessions"]).into_iter().find(|one| one["id"] == id).unwrap_or_default()
}

fn who(id: u64, session: &Value) -> String {
    let app = match &session["app"] {
        Value::String(_) => word(&session["app"]),
        app => word(&app["comm"]),
    };
    format!("{id} {app} {}", word(&session["destination"])).trim_end().to_owned()
}

fn line(at: Timestamp, who: &str, text: &str) -> String {
    let at = at.to_zoned(TimeZone::system()).strftime("%H:%M:%S");
    format!("{at}  {who}  {text}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_who_and_what_and_repeated_decisions_are_counted() {
        let mut teller = Teller::default();
        let status = json!({ "sessions": [{ "id": 3, "app": { "comm": "curl" }, "age_ms": 9_000,
            "destination": "m.example.org:80", "events": [
                { "at_ms": 0, "what": "connected", "to_server": "a", "cause": "" }] }] });
        let told = teller.tell(&Event { kind: "status".into(), data: status }, 10);
        let told = told.expect("the past");
        assert!(told.ends_with("  3 curl m.example.org:80  connected to a\n"), "{told}");
        let stays = json!({ "session": 3, "what": "stays", "cause": "no better server" });
        for counted in [false, true] {
            let event = Event { kind: "happening".into(), data: stays.clone() };
            let told = teller.tell(&event, 10).expect("a line");
            assert_eq!(told.contains("(2 times)"), counted, "{told}");
        }
        let ended = json!({ "session": 3, "reason": "it is complete" });
        let told = teller.tell(&Event { kind: "ended".into(), data: ended }, 10);
        assert!(
            told.expect("a line").ends_with("3 curl m.example.org:80  ended: it is complete\n")
        );
    }
}
