//! What users want done: `POST` requests to the status, such as `session move` makes.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use stp_drive::lasts;
use stp_net::status::ActError;
use stp_proto::local::Cookie;
use stp_proto::local::wire::Act;
use stp_proto::select::Rank;
use stp_proto::session::code;
use stp_proto::state::State;
use tokio::sync::oneshot;

use crate::any_link::Command;
use crate::app::{Names, Told};
use crate::broker::Broker;
use crate::config::found;
use crate::endpoints::{self, Endpoint};
use crate::entry::{Entry, Order};
use crate::lookup::Directory;
use crate::reload;
use crate::service::Server;
use stp_proto::pattern::host_name;

const KNOWN: &str = "there is only files, route, reload, upgrade, stop, and sessions/ID/suspend, \
     resume, close and move, and sessions/all/suspend and resume, and endpoints/…";

/// Does what is asked for.
///
/// # Errors
/// When it cannot be done; says why.
pub async fn act(broker: &Arc<Broker>, path: &str, body: &Value) -> Result<Value, ActError> {
    if path == "files" {
        let address = |host: &str| broker.address(host);
        let endpoint = endpoint_of_files(broker, body)?;
        let directory = endpoint.map_or_else(
            || Arc::clone(&broker.directory),
            |endpoint| Arc::clone(&endpoint.directory),
        );
        return directory.offer_file(body, address).await;
    }
    if let Some(action) = path.strip_prefix("endpoints/") {
        return endpoints::act::act(broker, action, body).await;
    }
    if path == "reload" {
        let read = found::read_again(&broker.tables().config.file);
        let read = read.map_err(|error| error.to_string());
        return reload::apply(broker, read).map(|done| done.json()).map_err(ActError::conflict);
    }
    if path == "upgrade" {
        let upgrade = broker
            .upgrade
            .get()
            .ok_or_else(|| ActError::conflict("it has just begun".to_owned()))?;
        let begun = upgrade.begin().await;
        begun.map_err(|error| ActError::conflict(format!("no upgrade: {error:#}")))?;
        return Ok(json!({ "pid": std::process::id(), "sessions": broker.session_count() }));
    }
    if path == "route" {
        return route(broker, body);
    }
    if path == "stop" {
        broker.stop.notify_one();
        return Ok(json!({ "pid": std::process::id(), "sessions": broker.session_count() }));
    }
    let mut parts = path.split('/');
    let (Some("sessions"), Some(id), Some(action), None) =
        (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Err(ActError::not_found(KNOWN));
    };
    let lasts = lasts(body)?;
    if id == "all" {
        return all(broker, action, lasts).await;
    }
    let number: u64 =
        id.parse().map_err(|_| ActError::bad_request(format!("{id} is no session number")))?;
    let entry = broker.session(number);
    let entry = entry.ok_or_else(|| ActError::not_found(format!("there is no session {id}")))?;
    let mut answer = json!({ "session": entry.id, "action": action });
    match action {
        "suspend" => {
            if let Some(lasts) = suspend(&entry, lasts).await? {
                answer["for_s"] = json!(lasts.as_secs());
            }
        }
        "resume" => resume(&entry).await?,
        "close" => send(&entry, Command::Abort { code: code::USER }).await?,
        "move" => move_session(&entry, body["server"].as_str()).await?,
        _ => return Err(ActError::not_found(format!("nobody can {action} a session"))),
    }
    Ok(answer)
}

/// The endpoint with whose key a file is located: that of the program which asks.
fn endpoint_of_files(broker: &Broker, body: &Value) -> Result<Option<Arc<Endpoint>>, ActError> {
    let pid = body["pid"].as_i64().and_then(|pid| i32::try_from(pid).ok()).unwrap_or_default();
    let named = body["endpoint"].as_str();
    broker.endpoint_of(pid, named).map_err(ActError::conflict)
}

/// Does what a program wants of a session of its own; how that fared before. Nothing when there is
/// no such session, or when it is too busy to be told.
pub fn by_app(broker: &Broker, cookie: Cookie, act: Act) -> Option<Told> {
    let entry = broker.session_of(cookie)?;
    let command = match act {
        Act::Look => None,
        Act::Suspend => entry.held.lock().suspend().then_some(Command::Suspend { lasts: None }),
        Act::Resume => entry.held.lock().resume().is_ok().then_some(Command::Resume),
        Act::Abort => Some(Command::Abort { code: code::USER }),
    };
    if let Some(command) = command {
        entry.inbox.try_send(command).ok()?;
    }
    Some(Told { told: entry.told(), server: entry.server().unwrap_or_default() })
}

/// What the ends of a program's own session are called.
pub fn names(broker: &Broker, cookie: Cookie) -> Option<Names> {
    let entry = broker.session_of(cookie)?;
    let (service, server) = (entry.service.name.clone(), entry.server().unwrap_or_default());
    Some(Names { service, server, endpoint: entry.service.endpoint.to_string() })
}

/// What a program writes may be unacknowledged for so many milliseconds; 0: as long as it must.
pub fn user_timeout(broker: &Broker, cookie: Cookie, ms: u32) {
    if let Some(entry) = broker.session_of(cookie) {
        let said = (ms > 0).then(|| Duration::from_millis(ms.into()));
        let most = entry.patience(said);
        let _just_ended = entry.inbox.try_send(Command::UserTimeout(most));
    }
}

/// Suspends or resumes every session.
async fn all(broker: &Broker, action: &str, lasts: Option<Duration>) -> Result<Value, ActError> {
    let mut done = 0;
    for entry in broker.sessions() {
        let result = match action {
            "suspend" => suspend(&entry, lasts).await.map(drop),
            "resume" => resume(&entry).await,
            _ => return Err(ActError::not_found(format!("nobody can {action} all sessions"))),
        };
        // One that has just ended needs nothing any more.
        done += usize::from(result.is_ok());
    }
    Ok(json!({ "action": action, "sessions": done }))
}

/// Which route a connection would take to the first of some hosts that has one. A host is the name
/// that the app asks for, or an address.
fn route(broker: &Broker, body: &Value) -> Result<Value, ActError> {
    let wrong = |what: &str| ActError::bad_request(what.to_owned());
    let hosts = body["hosts"].as_array().ok_or_else(|| wrong("no hosts"))?;
    let port = body["port"].as_u64().and_then(|port| u16::try_from(port).ok());
    let port = port.ok_or_else(|| wrong("no port"))?;
    let tables = broker.tables();
    let mut in_directory = false;
    for host in hosts {
        let host = host.as_str().ok_or_else(|| wrong("a host that is no text"))?;
        let ip: Option<IpAddr> = host.parse().ok();
        let name = ip.is_none().then(|| host_name(host)).transpose();
        let name = name.map_err(ActError::bad_request)?;
        let nowhere = IpAddr::from([0, 0, 0, 0]);
        if let Some(route) = tables.config.routes.find(name.as_deref(), ip.unwrap_or(nowhere), port)
        {
            let service = &tables.services[route.service].1;
            return Ok(json!({
                "host": host,
                "rule": &*route.written,
                "service": &service.name,
                "direct": service.direct.is_some(),
            }));
        }
        if let Some(name) = &name
            && let Some(at) = tables.called(name)
        {
            let service = &tables.services[at].1.name;
            return Ok(json!({ "host": host, "rule": name, "service": service, "direct": false }));
        }
        in_directory |= name.is_some_and(|name| Directory::may_know(&name));
    }
    Ok(json!({ "directory": in_directory }))
}

fn just_ended(entry: &Entry) -> ActError {
    ActError::conflict(format!("session {} has just ended", entry.id))
}

async fn send(entry: &Entry, command: Command) -> Result<(), ActError> {
    entry.inbox.send(command).await.map_err(|_| just_ended(entry))
}

/// Suspends a session, for so long if that is said; for how long then, as its server keeps it no
/// longer.
async fn suspend(entry: &Entry, lasts: Option<Duration>) -> Result<Option<Duration>, ActError> {
    let now = entry.status.snapshot();
    let is_news = {
        let mut held = entry.held.lock();
        if lasts.is_some() && (now.state == State::Suspended || !held.is_free()) {
            return Err(ActError::conflict("it is suspended already; resume it first"));
        }
        held.suspend()
    };
    if is_news {
        send(entry, Command::Suspend { lasts }).await?;
    }
    Ok(lasts.map(|lasts| lasts.min(Duration::from_secs(now.suspendable_s))))
}

/// Resumes a session, unless its policy holds it.
async fn resume(entry: &Entry) -> Result<(), ActError> {
    let resumed = entry.held.lock().resume();
    resumed.map_err(ActError::conflict)?;
    send(entry, Command::Resume).await
}

/// The session is to go to another server, or to this one.
async fn move_session(entry: &Entry, to: Option<&str>) -> Result<(), ActError> {
    let to = to.map(|to| rank(entry, to)).transpose()?;
    let (answer, answered) = oneshot::channel();
    let sent = entry.orders.send(Order::Move { to, answer }).await;
    sent.map_err(|_| just_ended(entry))?;
    match answered.await {
        Ok(moved) => moved.map_err(|why| ActError::conflict(why.to_string())),
        Err(_) => Err(just_ended(entry)),
    }
}

/// The server of this name or address.
fn rank(entry: &Entry, to: &str) -> Result<Rank, ActError> {
    let servers = &entry.service.servers;
    let called = |server: &Arc<Server>| {
        let places = server.reach.dialer().places();
        server.name() == to || places.all().iter().any(|place| place.to_string() == to)
    };
    servers.iter().position(called).ok_or_else(|| {
        let names: Vec<String> = servers.iter().map(|server| server.name()).collect();
        ActError::bad_request(format!("no server is called {to}; there are {}", names.join(", ")))
    })
}
