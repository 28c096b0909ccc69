//! What users want done: `POST` requests to the status, such as `session move` makes.

use std::sync::Arc;

use serde_json::{Value, json};
use stp_net::status::ActError;
use stp_proto::select::Rank;
use stp_proto::session::code;
use tokio::sync::oneshot;

use crate::any_link::Command;
use crate::broker::Broker;
use crate::config::found;
use crate::entry::{Entry, Order};
use crate::reload;
use crate::service::Server;

const KNOWN: &str =
    "there is only files, reload, stop, and sessions/ID/suspend, resume, close and move";

/// Does what is asked for.
///
/// # Errors
/// When it cannot be done; says why.
pub async fn act(broker: &Broker, path: &str, body: &Value) -> Result<Value, ActError> {
    if path == "files" {
        let address = |host: &str| broker.address(host);
        return broker.directory.offer_file(body, address).await;
    }
    if path == "reload" {
        let read = found::read_again(&broker.tables().config.file);
        let read = read.map_err(|error| error.to_string());
        return reload::apply(broker, read).map(|done| done.json()).map_err(ActError::conflict);
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
    let number: u64 =
        id.parse().map_err(|_| ActError::bad_request(format!("{id} is no session number")))?;
    let entry = broker.session(number);
    let entry = entry.ok_or_else(|| ActError::not_found(format!("there is no session {id}")))?;
    match action {
        "suspend" => send(&entry, Command::Suspend).await?,
        "resume" => send(&entry, Command::Resume).await?,
        "close" => send(&entry, Command::Abort { code: code::USER }).await?,
        "move" => move_session(&entry, body["server"].as_str()).await?,
        _ => return Err(ActError::not_found(format!("nobody can {action} a session"))),
    }
    Ok(json!({ "session": entry.id, "action": action }))
}

fn just_ended(entry: &Entry) -> ActError {
    ActError::conflict(format!("session {} has just ended", entry.id))
}

async fn send(entry: &Entry, command: Command) -> Result<(), ActError> {
    entry.inbox.send(command).await.map_err(|_| just_ended(entry))
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
        server.name() == to || server.reach.dialer().address().to_string() == to
    };
    servers.iter().position(called).ok_or_else(|| {
        let names: Vec<String> = servers.iter().map(|server| server.name()).collect();
        ActError::bad_request(format!("no server is called {to}; there are {}", names.join(", ")))
    })
}
