//! What a status says, in words for a person.

use serde_json::Value;

use crate::table::time;

/// The state of a session of the status, and for how long when it waits for something.
#[must_use]
pub fn state_text(session: &Value) -> String {
    let words = match session["state"].as_str().unwrap_or_default() {
        "active" => return "active".to_owned(),
        "closed" => return "closed".to_owned(),
        "suspended" => "suspended",
        "sent_resume" => "coming back",
        "ready_resume" => "waiting for a link",
        _ => return "opening".to_owned(),
    };
    match session["state_ms"].as_u64() {
        Some(ms) if ms >= 1_000 => format!("{words}, {}", time(ms)),
        _ => words.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_session_that_waits_says_for_how_long() {
        let of = |state: &str, ms: u64| state_text(&json!({ "state": state, "state_ms": ms }));
        assert_eq!(of("active", 90_000), "active");
        assert_eq!(of("ready_resume", 10), "waiting for a link");
        assert_eq!(of("ready_resume", 14_000), "waiting for a link, 14 s");
        assert_eq!(of("suspended", 180_000), "suspended, 3 min");
        assert_eq!(state_text(&json!({})), "opening");
    }
}
