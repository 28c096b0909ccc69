//! `session status`: what the broker says, for a person.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::Value;

use crate::args::Status;
use crate::broker;
use crate::print::print;
use stp_net::status::state_text;
use stp_net::table::{Table, bytes, time};

/// How many ended sessions are shown.
const ENDED_SHOWN: usize = 5;
/// How many events of a session are shown.
const EVENTS_SHOWN: usize = 4;

/// Prints the status once, or again and again.
///
/// # Errors
/// When no broker answers.
pub fn status(args: &Status) -> anyhow::Result<ExitCode> {
    loop {
        let text = match broker::status() {
            Ok(status) if args.endpoint.is_some() => of_endpoint(args, status)?,
            Ok(status) if args.json => format!("{}\n", serde_json::to_string_pretty(&status)?),
            Ok(status) => page(&status),
            Err(error) if args.watch => format!("{error:#}\n"),
            Err(error) => return Err(error),
        };
        if !args.watch {
            print(&text)?;
            return Ok(ExitCode::SUCCESS);
        }
        let clear = if args.json { "" } else { "\x1b[H\x1b[2J" };
        print(&format!("{clear}{text}"))?;
        std::thread::sleep(Duration::from_secs(1));
    }
}

/// The same of the sessions of one endpoint.
fn of_endpoint(args: &Status, mut status: Value) -> anyhow::Result<String> {
    for list in ["sessions", "ended"] {
        if let Some(all) = status[list].as_array_mut() {
            all.retain(|session| session["endpoint"].as_str() == args.endpoint.as_deref());
        }
    }
    Ok(match args.json {
        true => format!("{}\n", serde_json::to_string_pretty(&status)?),
        false => page(&status),
    })
}

fn page(status: &Value) -> String {
    let broker = &status["broker"];
    let sessions = list(&status["sessions"]);
    let mut text = format!(
        "broker {} · process {} · up {} · {} session{}\n",
        word(&broker["version"]),
        broker["pid"],
        time(number(&broker["uptime_s"]) * 1_000),
        sessions.len(),
        if sessions.len() == 1 { "" } else { "s" },
    );
    text += &about(status);
    text += &trouble(&list(&status["trouble"]), std::io::stdout().is_terminal());
    text += &servers(&list(&status["services"]));
    text += &session_table(&sessions);
    text += &policies(&sessions);
    text += &upkeep(&sessions);
    text += &events(&sessions);
    text += &ended(&list(&status["ended"]));
    text
}

/// The troubles that there are now, one line for each.
fn trouble(all: &[Value], colours: bool) -> String {
    let (red, plain) = if colours { ("\x1b[1;31m", "\x1b[0m") } else { ("", "") };
    all.iter().map(|one| format!("{red}trouble:{plain} {}\n", word(one))).collect()
}

/// The broker's configuration file, and the gateway that it is logged in at.
fn about(status: &Value) -> String {
    let file = word(&status["broker"]["config"]);
    let gateway = &status["gateway"];
    let place = list(&gateway["places"]).first().map(word);
    let known = match (place, gateway["user"].as_str()) {
        (Some(place), Some(_)) => {
            let state = if gateway["trouble"].is_null() { "" } else { " (trouble)" };
            format!(" · gateway {}@{place}{state}", word(&gateway["user"]))
        }
        _ => String::new(),
    };
    if file.is_empty() { String::new() } else { format!("configuration {file}{known}\n") }
}

fn servers(services: &[Value]) -> String {
    let mut table = Table::new(&["SERVICE", "SERVER", "STATE", ">WARM", "WHY"]);
    for service in services {
        let mut name = word(&service["name"]);
        for (how, by) in [(" for ", &service["endpoint"]), (" under ", &service["policy"])] {
            if by.is_string() {
                name += &format!("{how}{}", word(by));
            }
        }
        if service["direct"] == true {
            let (here, why) = ("this machine".to_owned(), "without a far end".to_owned());
            table.row(vec![name.clone(), here, String::new(), String::new(), why]);
        }
        for server in list(&service["servers"]) {
            let through = server["through"].as_str();
            let through = through.map_or_else(String::new, |way| format!(" through {way}"));
            table.row(vec![
                name.clone(),
                word(&server["name"]),
                word(&server["state"]) + &through,
                server["warm_links"].to_string(),
                word(&server["why"]),
            ]);
        }
    }
    if table.is_empty() { "\nno services\n".into() } else { format!("\n{}", table.fitted()) }
}

fn session_table(sessions: &[Value]) -> String {
    if sessions.is_empty() {
        return "\nno sessions\n".into();
    }
    let mut table = Table::new(&[
        ">ID",
        "APP",
        "DESTINATION",
        "SERVER",
        "STATE",
        ">RTT",
        ">IN",
        ">OUT",
        ">RATE",
        ">UNACKED",
    ]);
    for session in sessions {
        let rate = number(&session["rate_in"]) + number(&session["rate_out"]);
        let rtt = session["rtt_ms"].as_f64();
        table.row(vec![
            session["id"].to_string(),
            format!("{} {}", word(&session["app"]["comm"]), session["app"]["pid"]),
            word(&session["destination"]),
            way(session),
            state_text(session),
            rtt.map_or("–".into(), |ms| format!("{ms:.1} ms")),
            bytes(number(&session["positions"]["dlv"])),
            bytes(number(&session["positions"]["end"])),
            format!("{}/s", bytes(rate)),
            bytes(number(&session["unacknowledged"])),
        ]);
    }
    if sessions.len() > 1 {
        table.row(totals(sessions));
    }
    format!("\n{}", table.fitted())
}

/// Where the sessions with a policy are, and why.
fn policies(sessions: &[Value]) -> String {
    let mut table = Table::new(&[">ID", "POLICY", "INTERFACE", "WHY"]);
    for session in sessions {
        let policy = &session["policy"];
        if policy["name"].is_string() {
            let interface = policy["interface"].as_str().unwrap_or("–");
            let why = policy["rule"].as_str().unwrap_or("no link");
            table.row(vec![
                session["id"].to_string(),
                word(&policy["name"]),
                interface.to_owned(),
                why.to_owned(),
            ]);
        }
    }
    if table.is_empty() { String::new() } else { format!("\n{}", table.fitted()) }
}

/// How sessions are kept that are not kept as most are, or are suspended for a time.
fn upkeep(sessions: &[Value]) -> String {
    let mut table = Table::new(&[">ID", "CLASS", "ASKED FOR", "HOLD", "SUSPENDED FOR"]);
    for session in sessions {
        let (class, asked) = (word(&session["class"]), word(&session["class_asked"]));
        let left = session["suspended_s"].as_u64();
        if class != "temporary" || asked != "temporary" || left.is_some() {
            let hold = time(number(&session["hold_s"]) * 1_000);
            let left = left.map_or("–".to_owned(), |left| time(left * 1_000));
            table.row(vec![session["id"].to_string(), class, asked, hold, left]);
        }
    }
    if table.is_empty() { String::new() } else { format!("\n{}", table.fitted()) }
}

/// The last row of a table that leaves some out.
fn totals(sessions: &[Value]) -> Vec<String> {
    let sum = |of: &dyn Fn(&Value) -> u64| bytes(sessions.iter().map(of).sum());
    let waiting = sessions.iter().filter(|session| session["state"] != "active").count();
    let state =
        if waiting == 0 { "all active".to_owned() } else { format!("{waiting} not active") };
    vec![
        String::new(),
        "total".to_owned(),
        format!("{} sessions", sessions.len()),
        String::new(),
        state,
        String::new(),
        sum(&|session| number(&session["positions"]["dlv"])),
        sum(&|session| number(&session["positions"]["end"])),
        format!("{}/s", sum(&|session| number(&session["rate_in"]) + number(&session["rate_out"]))),
        sum(&|session| number(&session["unacknowledged"])),
    ]
}

/// The session's server, and the relay through which its link goes there.
fn way(session: &Value) -> String {
    match session["via"].as_str() {
        Some(_) => format!("{} via {}", word(&session["server"]), word(&session["via"])),
        None => word(&session["server"]),
    }
}

fn events(sessions: &[Value]) -> String {
    let mut table = Table::new(&[">ID", ">AFTER", "WHAT", ">GAP", ">AT BYTE", "CAUSE"]);
    for session in sessions {
        let all = list(&session["events"]);
        for event in &all[all.len().saturating_sub(EVENTS_SHOWN)..] {
            let gap = event["gap_ms"].as_u64();
            table.row(vec![
                session["id"].to_string(),
                time(number(&event["at_ms"])),
                word(&event["what"]),
                gap.map_or(String::new(), time),
                number(&event["at_byte"]).to_string(),
                cause(event),
            ]);
        }
    }
    if table.is_empty() { String::new() } else { format!("\n{}", table.fitted()) }
}

fn cause(event: &Value) -> String {
    let cause = word(&event["cause"]);
    match (event["from_server"].as_str(), event["to_server"].as_str()) {
        (Some(from), Some(to)) if from != to => format!("{from} → {to} {cause}"),
        _ => cause,
    }
}

fn ended(ended: &[Value]) -> String {
    let mut table = Table::new(&[">ID", "APP", "DESTINATION", ">LASTED", ">IN", ">OUT", "ENDED"]);
    for session in &ended[ended.len().saturating_sub(ENDED_SHOWN)..] {
        table.row(vec![
            session["id"].to_string(),
            format!("{} {}", word(&session["app"]["comm"]), session["app"]["pid"]),
            word(&session["destination"]),
            time(number(&session["lasted_ms"])),
            bytes(number(&session["positions"]["dlv"])),
            bytes(number(&session["positions"]["end"])),
            word(&session["reason"]) + &redirected(session),
        ]);
    }
    if table.is_empty() { String::new() } else { format!("\n{}", table.fitted()) }
}

/// Where its response has sent the program, past all routes.
fn redirected(session: &Value) -> String {
    let events = list(&session["events"]);
    let event = events.iter().find(|event| event["what"] == "redirected");
    event.map_or_else(String::new, |event| format!("; redirected {}", word(&event["cause"])))
}

pub(crate) fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

pub(crate) fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

/// The text without characters that control a terminal.
pub(crate) fn word(value: &Value) -> String {
    let text = value.as_str().unwrap_or_default();
    text.chars().map(|c| if c.is_control() { '?' } else { c }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_status_is_a_page_too() {
        let text = page(&serde_json::json!({}));
        assert!(text.contains("no sessions"), "{text}");
    }

    #[test]
    fn a_session_is_a_row_and_a_transfer_names_both_servers() {
        let text = page(&serde_json::json!({
            "broker": {"version": "0.1.0", "pid": 7, "uptime_s": 65, "config": "/x/broker.toml"},
            "gateway": {"places": ["g.e.org:4700"], "user": "alice", "trouble": null},
            "trouble": ["server a: nobody listens there"],
            "services": [{"name": "www.m@e.org", "servers": [
                {"name": "a", "state": "refuses", "warm_links": 0, "why": "connection refused"}]}],
            "sessions": [{"id": 3, "app": {"comm": "curl\u{1b}", "pid": 12}, "state": "active",
                "destination": "m.e.org:80", "server": "b", "via": "c", "rtt_ms": 40.25,
                "positions": {"dlv": 5_242_880, "end": 80}, "rate_in": 1_048_576,
                "events": [{"at_ms": 1_500, "what": "attached", "cause": "server died",
                    "gap_ms": 180, "from_server": "a", "to_server": "b", "at_byte": 99}]}],
        }));
        for part in [
            "curl? 12",
            "40.2 ms",
            "5.0 MiB",
            "1.0 MiB/s",
            "a → b server died",
            "180 ms",
            "b via c",
            "configuration /x/broker.toml · gateway alice@g.e.org:4700",
            "trouble: server a: nobody listens there",
        ] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
    }
}
