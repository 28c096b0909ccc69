//! What happened to a session, as a sentence. The live page has the same words in
//! `net/src/status/live/words.js`.

use serde_json::Value;

use crate::show::{number, word};
use stp_net::table::time;

/// The state of a session after an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    /// It has a link.
    Linked,
    /// It has none.
    Gap,
    /// It is suspended.
    Suspended,
}

/// The state of a session after an event; `None` if the event does not change it.
#[must_use]
pub fn mood(event: &Value) -> Option<Mood> {
    match event["what"].as_str()? {
        "connected" | "resumed" | "transferred" | "attached" => Some(Mood::Linked),
        "lost" | "gave up" => Some(Mood::Gap),
        "suspended" => Some(Mood::Suspended),
        _ => None,
    }
}

/// Whether an event is about a move that was not made: asked for, or decided against.
#[must_use]
pub fn stays(event: &Value) -> bool {
    matches!(event["what"].as_str(), Some("asked to leave" | "stays"))
}

/// One event as a sentence.
#[must_use]
pub fn sentence(event: &Value) -> String {
    let cause = word(&event["cause"]);
    let cause = if cause.is_empty() { cause } else { format!(": {cause}") };
    let pause = match number(&event["gap_ms"]) {
        0 => String::new(),
        ms => format!(" after {}", time(ms)),
    };
    let server = |which: &str, otherwise: &str| match word(&event[which]) {
        name if name.is_empty() => otherwise.to_owned(),
        name => name,
    };
    let to = server("to_server", "its server");
    match event["what"].as_str().unwrap_or_default() {
        "connected" => format!("connected to {to}{cause}"),
        "resumed" => format!("back at {to}{pause}{cause}"),
        "transferred" => {
            format!("went from {} to {to}{pause}{cause}", server("from_server", "its server"))
        }
        _ => format!("{}{pause}{cause}", word(&event["what"])),
    }
}

/// The longest pause among events, milliseconds, and how many there were.
#[must_use]
pub fn pauses(events: &[Value]) -> (usize, u64) {
    let gaps = events.iter().filter(|event| mood(event) == Some(Mood::Linked));
    let gaps = gaps.filter_map(|event| event["gap_ms"].as_u64()).filter(|gap| *gap > 0);
    gaps.fold((0, 0), |(count, longest), gap| (count + 1, longest.max(gap)))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_transfer_is_told_with_both_servers_and_its_pause() {
        let event = json!({ "what": "transferred", "from_server": "a", "to_server": "b",
            "gap_ms": 4_800, "cause": "link broke" });
        assert_eq!(sentence(&event), "went from a to b after 4.8 s: link broke");
        assert_eq!(pauses(&[event]), (1, 4_800));
    }

    #[test]
    fn what_is_not_known_is_told_as_it_is() {
        assert_eq!(sentence(&json!({ "what": "gave up", "cause": "no\u{7}" })), "gave up: no?");
        assert_eq!(mood(&json!({ "what": "something new" })), None);
    }
}
