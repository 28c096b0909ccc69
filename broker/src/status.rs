//! What the broker shows of itself.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};
use stp_net::status::{Acting, Feed, Metrics, Source, page, state_text};
use stp_net::table::{bytes, time};
use stp_proto::course::PaceCounts;

use crate::broker::Broker;
use crate::command;
use crate::entry::Entry;
use crate::policing;
use crate::service::Server;
use crate::trouble;

/// The broker's status; reads only what was published.
pub struct Status(pub Arc<Broker>);

impl Source for Status {
    fn status(&self) -> Value {
        let broker = &self.0;
        let tables = broker.tables();
        let sessions = sessions(broker);
        let (interfaces, policies) = broker.policies.status();
        json!({
            "broker": {
                "pid": std::process::id(),
                "version": env!("CARGO_PKG_VERSION"),
                "uptime_s": broker.started.elapsed().as_secs(),
                "config": tables.config.file.display().to_string(),
                "config_unread": trouble::unread(broker),
                "ending": broker.ending.load(Ordering::Relaxed),
                "status": tables.config.status.to_string(),
            },
            "trouble": trouble::list(broker),
            "gateway": broker.directory.status(),
            "services": services(broker),
            "routes": routes(broker),
            "interfaces": interfaces,
            "policies": policies,
            "endpoints": endpoints(broker),
            "sessions": sessions,
            "ended": broker.ended(),
            "refused": *broker.refusals.lock(),
            "counters": Value::Object(
                counters(broker).into_iter().map(|(n, _, v)| (n.to_owned(), v.into())).collect(),
            ),
        })
    }

    fn metrics(&self) -> String {
        let broker = &self.0;
        let mut metrics = Metrics::new();
        let count = broker.session_count() as f64;
        metrics.gauge("session_broker_sessions", "Sessions now.", count);
        for (name, help, value) in counters(broker) {
            metrics.counter(&format!("session_broker_{name}_total"), help, value);
        }
        let refusals = broker.refusals.lock().clone();
        metrics.counters(
            "session_broker_refusals_total",
            "Refusals by servers.",
            "reason",
            refusals.iter().map(|(reason, count)| (reason.as_str(), *count)),
        );
        let servers = servers(broker);
        metrics.gauges(
            "session_broker_server_up",
            "Whether the last link to a server worked.",
            "server",
            servers.iter().map(|(name, up, _)| (name.as_str(), f64::from(u8::from(*up)))),
        );
        metrics.gauges(
            "session_broker_warm_links",
            "Links kept ready for use.",
            "server",
            servers.iter().map(|(name, _, warm)| (name.as_str(), *warm as f64)),
        );
        metrics.finish()
    }

    fn page(&self) -> String {
        let broker = &self.0;
        let sessions = broker.sessions();
        let up = time(broker.started.elapsed().as_millis() as u64);
        let about = format!(
            "Broker {}, process {}, up {up}. {} session(s) now, {} so far; {} resumed, {} \
             transferred.",
            env!("CARGO_PKG_VERSION"),
            std::process::id(),
            sessions.len(),
            broker.counters.opened.load(Ordering::Relaxed),
            broker.counters.resumed.load(Ordering::Relaxed),
            broker.counters.transferred.load(Ordering::Relaxed),
        );
        let sessions = self::sessions(broker);
        let mut ended = broker.ended();
        ended.reverse();
        ended.truncate(20);
        page("Sessions")
            .text(&about)
            .text(&where_from(broker))
            .trouble(&trouble::list(broker))
            .heading("Sessions")
            .table(&SESSION_HEAD, &sessions.iter().map(session_row).collect::<Vec<_>>())
            .heading("What happened to them")
            .table(&EVENT_HEAD, &event_rows(&sessions))
            .heading("Servers")
            .table(&SERVER_HEAD, &server_rows(broker))
            .heading("Ended lately")
            .table(&ENDED_HEAD, &ended.iter().map(ended_row).collect::<Vec<_>>())
            .finish()
    }

    fn feed(&self) -> Option<&Feed> {
        Some(&self.0.feed)
    }

    fn act(self: Arc<Self>, path: String, body: Value) -> Acting {
        Box::pin(async move { command::act(&self.0, &path, &body).await })
    }
}

/// The sessions, each with where it is and why.
fn sessions(broker: &Broker) -> Vec<Value> {
    let one = |entry: &Arc<Entry>| {
        let mut all = entry.json();
        all["policy"] = policing::told(broker, entry);
        all
    };
    broker.sessions().iter().map(one).collect()
}

fn endpoints(broker: &Broker) -> Vec<Value> {
    let all = broker.endpoints.all();
    let one = |name: &str| broker.sessions_of(name).len();
    all.iter().map(|endpoint| endpoint.json(one(endpoint.name().as_str()))).collect()
}

/// The services, and behind them those of running sessions that are reached in a way of their own:
/// with the key of an endpoint, or under a policy.
fn services(broker: &Broker) -> Vec<Value> {
    let known = broker.tables().services.clone().into_iter().chain(broker.directory.services());
    let mut numbered: Vec<_> = known.collect();
    for entry in broker.sessions() {
        let service = &entry.service;
        let is_own = !service.endpoint.is_empty() || service.leave.is_some();
        if is_own && !numbered.iter().any(|(_, listed)| Arc::ptr_eq(listed, service)) {
            numbered.push((entry.service_number, Arc::clone(service)));
        }
    }
    let (now, list) = (broker.now(), broker.overloaded.lock());
    let numbered = numbered.into_iter();
    numbered.map(|(k, service)| service.status(|rank| list.contains(now, &(k, rank)))).collect()
}

fn routes(broker: &Broker) -> Vec<Value> {
    let tables = broker.tables();
    let mut all: Vec<Value> = Vec::new();
    let mut last = None;
    for route in tables.config.routes.iter() {
        // One line of the configuration may stand for many prefixes.
        if last.replace((&route.written, route.service)) != Some((&route.written, route.service)) {
            let service = &tables.services[route.service].1.name;
            all.push(json!({ "to": &*route.written, "service": service }));
        }
    }
    all
}

fn counters(broker: &Broker) -> Vec<(&'static str, &'static str, u64)> {
    let own = &broker.counters;
    let app = &broker.app_counters;
    let counts: Vec<PaceCounts> = broker.all_servers().iter().map(|s| s.reach.counts()).collect();
    let sum = |of: fn(&PaceCounts) -> u64| counts.iter().map(of).sum();
    let load = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    vec![
        ("sessions_opened", "Sessions begun.", load(&own.opened)),
        ("sessions_ended", "Sessions that came to an end.", load(&own.ended)),
        ("connects_refused", "Connects refused before a session was begun.", load(&own.refused)),
        ("resumed", "Sessions resumed at the same server.", load(&own.resumed)),
        ("transferred", "Sessions taken to another server.", load(&own.transferred)),
        ("bytes_in", "Bytes delivered to apps by ended sessions.", load(&own.bytes_in)),
        ("bytes_out", "Bytes taken from apps by ended sessions.", load(&own.bytes_out)),
        ("network_changes", "Changes of the network.", load(&own.network_changes)),
        ("dials", "Links dialed.", sum(|counts| counts.dials)),
        ("warm_links_used", "Sessions that found a link ready.", sum(|counts| counts.reused)),
        ("outages", "Times a server went out of reach.", sum(|counts| counts.outages)),
        ("app_garbage", "Local connections that sent no message.", load(&app.garbage)),
        ("app_strangers", "Local connections of other users.", load(&app.strangers)),
        ("app_silent", "Local connections that said nothing.", load(&app.silent)),
    ]
}

fn servers(broker: &Broker) -> Vec<(String, bool, usize)> {
    let server = |server: &Arc<Server>| {
        let reach = &server.reach;
        let name = format!("{} {}", server.name(), reach.dialer().places());
        (name, reach.is_open(), reach.warm_links())
    };
    broker.all_servers().iter().map(server).collect()
}

/// Where it is configured, and at which gateway it is known.
fn where_from(broker: &Broker) -> String {
    let file = format!("Configuration: {}.", broker.tables().config.file.display());
    let gateway = broker.directory.status();
    match (gateway["places"][0].as_str(), gateway["user"].as_str()) {
        (Some(place), Some(user)) => {
            let state = gateway["trouble"].as_str().unwrap_or("no trouble");
            format!("{file} Gateway: {user}@{place}, {state}.")
        }
        _ => file,
    }
}

const SESSION_HEAD: [&str; 8] =
    ["#", "app", "destination", "server", "state", "RTT", "in / out", "rate"];
const EVENT_HEAD: [&str; 6] = ["#", "after", "what", "pause", "at byte", "why"];
const SERVER_HEAD: [&str; 5] = ["service", "server", "state", "warm links", "why"];
const ENDED_HEAD: [&str; 6] = ["#", "app", "destination", "lasted", "in / out", "ended"];
/// Events of one session on the page.
const EVENTS_SHOWN: usize = 6;

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "–".to_owned(),
        other => other.to_string(),
    }
}

fn session_row(session: &Value) -> Vec<String> {
    let rate = number(&session["rate_in"]) + number(&session["rate_out"]);
    let rtt = session["rtt_ms"].as_f64().map_or("–".to_owned(), |ms| format!("{ms:.1} ms"));
    vec![
        text(&session["id"]),
        app(session),
        text(&session["destination"]),
        text(&session["server"]),
        state_text(session),
        rtt,
        both_ways(session),
        format!("{}/s", bytes(rate)),
    ]
}

fn event_rows(sessions: &[Value]) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for session in sessions {
        let events = session["events"].as_array().map(Vec::as_slice).unwrap_or_default();
        for event in &events[events.len().saturating_sub(EVENTS_SHOWN)..] {
            let (from, to) = (&event["from_server"], &event["to_server"]);
            let servers = match (from.as_str(), to.as_str()) {
                (Some(from), Some(to)) if from != to => format!("{from} → {to} "),
                (None, Some(to)) => format!("{to} "),
                _ => String::new(),
            };
            rows.push(vec![
                text(&session["id"]),
                time(number(&event["at_ms"])),
                text(&event["what"]),
                event["gap_ms"].as_u64().map_or(String::new(), time),
                text(&event["at_byte"]),
                format!("{servers}{}", text(&event["cause"])),
            ]);
        }
    }
    rows
}

fn server_rows(broker: &Broker) -> Vec<Vec<String>> {
    let mut rows = Vec::new();
    for service in services(broker) {
        for server in service["servers"].as_array().into_iter().flatten() {
            let about = [&service["name"], &server["name"], &server["state"]];
            let mut row: Vec<String> = about.into_iter().map(text).collect();
            row.push(text(&server["warm_links"]));
            row.push(text(&server["why"]));
            rows.push(row);
        }
    }
    rows
}

fn ended_row(session: &Value) -> Vec<String> {
    vec![
        text(&session["id"]),
        app(session),
        text(&session["destination"]),
        time(number(&session["lasted_ms"])),
        both_ways(session),
        text(&session["reason"]),
    ]
}

fn app(session: &Value) -> String {
    format!("{} {}", text(&session["app"]["comm"]), session["app"]["pid"])
}

fn both_ways(session: &Value) -> String {
    let at = &session["positions"];
    format!("{} / {}", bytes(number(&at["dlv"])), bytes(number(&at["end"])))
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_names_the_servers_only_when_they_differ() {
        let session = json!({ "id": 1, "events": [
            { "at_ms": 5, "what": "connected", "cause": "", "to_server": "a", "at_byte": 0 },
            { "at_ms": 9, "what": "resumed", "cause": "link broke", "gap_ms": 12,
              "from_server": "a", "to_server": "a", "at_byte": 7 },
            { "at_ms": 20, "what": "transferred", "cause": "link broke", "gap_ms": 150,
              "from_server": "a", "to_server": "b", "at_byte": 9 },
        ]});
        let rows = event_rows(&[session]);
        assert_eq!(rows[0][5], "a ");
        assert_eq!(rows[1][5], "link broke");
        assert_eq!(rows[2][5], "a → b link broke");
        assert_eq!(rows[2][3], "150 ms");
    }
}
