//! `POST /endpoints/…`: what `session endpoint` wants done.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use serde_json::{Value, json};
use stp_lookup::endpoint::{self, EndpointError, states};
use stp_net::status::ActError;
use stp_proto::local::Cookie;
use stp_proto::local::wire::Resolved;
use stp_proto::session::code;

use super::{Endpoint, carry, host};
use crate::any_link::Command;
use crate::broker::Broker;

/// How long the sessions of an endpoint that is closed may take to end.
const END_MAX: Duration = Duration::from_secs(5);
const KNOWN: &str = "there is only endpoints/create, close, save, waiting, leave, take, attach, \
     aware, moved and done";

fn told(error: EndpointError) -> ActError {
    let text = error.to_string();
    match error {
        EndpointError::Absent(_) => ActError::not_found(&text),
        EndpointError::Name(..) => ActError::bad_request(text),
        _ => ActError::conflict(text),
    }
}

/// Does what is asked for.
///
/// # Errors
/// When it cannot be done; says why.
pub async fn act(broker: &Arc<Broker>, action: &str, body: &Value) -> Result<Value, ActError> {
    match action {
        "create" => create(broker, body).await,
        "close" => close(broker, body).await,
        "save" => save(broker, body).await,
        "waiting" => waiting(broker, body),
        "leave" => leave(broker, body),
        "take" => take(broker, body),
        "attach" => attach(broker, body),
        "aware" => aware(broker, body),
        "moved" => moved(broker, body),
        "done" => done(broker, body),
        _ => Err(ActError::not_found(KNOWN)),
    }
}

fn name_in(body: &Value) -> Result<&str, ActError> {
    let name = body["name"].as_str();
    name.ok_or_else(|| ActError::bad_request("no name".to_owned()))
}

fn here(broker: &Broker, body: &Value) -> Result<Arc<Endpoint>, ActError> {
    let name = name_in(body)?;
    let found = broker.endpoints.find(name);
    found.ok_or_else(|| told(EndpointError::Absent(name.to_owned())))
}

/// A cookie as 32 hexadecimal digits.
fn cookie_in(body: &Value) -> Result<Cookie, ActError> {
    let digits = body["cookie"].as_str().unwrap_or_default();
    let number = u128::from_str_radix(digits, 16).ok().filter(|_| digits.len() == 32);
    let wrong = || ActError::bad_request("no cookie".to_owned());
    Ok(Cookie(number.ok_or_else(wrong)?.to_be_bytes()))
}

/// Use case 7. A name that is taken at its name server is not made here either.
async fn create(broker: &Arc<Broker>, body: &Value) -> Result<Value, ActError> {
    let name = endpoint::name(name_in(body)?).map_err(told)?;
    let disk =
        endpoint::Endpoint::create(&endpoint::folder().map_err(told)?, &name).map_err(told)?;
    let made = broker.endpoints.take(disk).map_err(told)?;
    if let Err(unknown) = made.registration.register().await
        && unknown.refused
    {
        broker.endpoints.let_go(name.as_str());
        made.disk.remove().map_err(told)?;
        return Err(ActError::conflict(unknown.why));
    }
    Ok(made.json(0))
}

/// Use case 8: its sessions and services go with it.
async fn close(broker: &Arc<Broker>, body: &Value) -> Result<Value, ActError> {
    let endpoint = here(broker, body)?;
    let name = endpoint.name().as_str();
    let own = || broker.sessions_of(name);
    endpoint.leaving.store(true, Ordering::Relaxed);
    let ended = own().len();
    for entry in own() {
        let _ended_already = entry.inbox.send(Command::Abort { code: code::USER }).await;
    }
    let until = std::time::Instant::now() + END_MAX;
    while !own().is_empty() && std::time::Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let withdrawn = endpoint.registration.withdraw().await;
    broker.endpoints.let_go(name);
    endpoint.disk.remove().map_err(told)?;
    let left = withdrawn.err().map(|unknown| {
        format!("its name server still knows it until its lease is over (5 min): {}", unknown.why)
    });
    Ok(json!({ "name": name, "ended": ended, "warning": left }))
}

async fn save(broker: &Arc<Broker>, body: &Value) -> Result<Value, ActError> {
    let endpoint = here(broker, body)?;
    let all = carry::save_all(broker, &endpoint).await.map_err(ActError::conflict)?;
    Ok(json!({ "name": endpoint.name().as_str(), "saved": all.saved, "reset": all.reset }))
}

/// How many programs are still saving their state. One that has died does not any more.
fn waiting(broker: &Arc<Broker>, body: &Value) -> Result<Value, ActError> {
    let endpoint = here(broker, body)?;
    let mut moved = endpoint.moved.lock();
    moved.retain(|_, one| std::path::Path::new(&format!("/proc/{}", one.pid)).exists());
    Ok(json!({ "waiting": moved.len() }))
}

/// The broker forgets it; its directory is carried away.
fn leave(broker: &Arc<Broker>, body: &Value) -> Result<Value, ActError> {
    let endpoint = here(broker, body)?;
    let left = !broker.sessions_of(endpoint.name().as_str()).is_empty();
    if left || !endpoint.leaving.load(Ordering::Relaxed) {
        return Err(ActError::conflict(format!(
            "{} still has sessions: save it first",
            endpoint.name()
        )));
    }
    broker.endpoints.let_go(endpoint.name().as_str());
    Ok(json!({ "directory": endpoint.disk.dir.display().to_string() }))
}

/// It is in this machine's folder: the broker has it from now on.
fn take(broker: &Arc<Broker>, body: &Value) -> Result<Value, ActError> {
    let name = endpoint::name(name_in(body)?).map_err(told)?;
    let folder = endpoint::folder().map_err(told)?;
    let taken = match broker.endpoints.find(name.as_str()) {
        Some(known) => {
            known.leaving.store(false, Ordering::Relaxed);
            known
        }
        None => {
            let dir = folder.join(name.as_str());
            if !dir.exists() {
                return Err(told(EndpointError::Absent(name.to_string())));
            }
            let disk = endpoint::Endpoint::open(&dir).map_err(told)?;
            broker.endpoints.take(disk).map_err(told)?
        }
    };
    Ok(taken.json(broker.sessions_of(name.as_str()).len()))
}

/// The address by which a program goes on with a saved session.
fn attach(broker: &Arc<Broker>, body: &Value) -> Result<Value, ActError> {
    let endpoint = here(broker, body)?;
    let wrong = || ActError::bad_request("no session".to_owned());
    let number = body["session"].as_u64().ok_or_else(wrong)?;
    if !endpoint.disk.sessions().contains(&number) {
        let text = format!(
            "session {number} of {} is not here any more: a program has gone on with it",
            endpoint.name()
        );
        return Err(ActError::not_found(&text));
    }
    match broker.address(&host(endpoint.name().as_str(), number)) {
        Resolved::Virtual { v4, .. } => Ok(json!({ "address": format!("{v4}:80") })),
        _ => Err(ActError::conflict("all virtual addresses are in use".to_owned())),
    }
}

/// A program says that it can go on elsewhere with its session.
fn aware(broker: &Arc<Broker>, body: &Value) -> Result<Value, ActError> {
    let cookie = cookie_in(body)?;
    let sessions = broker.sessions();
    let entry = sessions.iter().find(|entry| entry.cookie.get() == Some(&cookie));
    let entry = entry.ok_or_else(|| ActError::not_found("there is no such session"))?;
    entry.aware.store(true, Ordering::Relaxed);
    Ok(json!({ "session": entry.id, "endpoint": &*entry.service.endpoint }))
}

/// A program whose session was saved asks where its state is to be.
fn moved(broker: &Arc<Broker>, body: &Value) -> Result<Value, ActError> {
    let cookie = cookie_in(body)?;
    let program = body["program"].as_str().unwrap_or_default();
    let is_plain = !program.is_empty() && program.bytes().all(|b| b.is_ascii_alphanumeric());
    if !is_plain {
        return Err(ActError::bad_request("no program".to_owned()));
    }
    let all = broker.endpoints.all();
    let of = |endpoint: &Arc<Endpoint>| Some(endpoint.moved.lock().get(&cookie)?.session);
    let found = all.iter().find_map(|endpoint| Some((endpoint, of(endpoint)?)));
    let (endpoint, session) =
        found.ok_or_else(|| ActError::not_found("no endpoint has saved such a session"))?;
    let state = endpoint.disk.free_state(program);
    Ok(json!({
        "name": endpoint.name().as_str(),
        "session": session,
        "state": state.display().to_string(),
        "states": states(&endpoint.disk.dir).len(),
    }))
}

/// A program has saved its state.
fn done(broker: &Arc<Broker>, body: &Value) -> Result<Value, ActError> {
    let cookie = cookie_in(body)?;
    for endpoint in broker.endpoints.all() {
        endpoint.moved.lock().remove(&cookie);
    }
    Ok(json!({}))
}
