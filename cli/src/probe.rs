//! The contacts that `session doctor` makes: whether the servers of a service answer with their
//! keys, and whether the gateway does.
//!
//! A running broker tells which servers there are, and what trouble it has had with them. If none
//! runs, its configuration is read. The handshake with a server uses a key made for the occasion,
//! so that the server keeps nothing.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;
use stp_lookup::gateway::connect;
use stp_lookup::known::Known;
use stp_lookup::{Credential, DirectoryAddress, KNOWN_FILE};
use stp_net::key::{Identity, PublicKey};
use stp_net::link::{DialError, Link, LinkOptions, ProxyWish, Tls};
use stp_net::place::Places;

/// A server or gateway that takes longer does not answer.
const DIAL_MAX: Duration = Duration::from_secs(3);
/// Servers tried at most, all at once.
const TRIED_MAX: usize = 64;

/// A server and the service it is tried for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Candidate {
    /// The service.
    pub service: String,
    /// The server's name or address.
    pub name: String,
    places: Places,
    key: PublicKey,
    /// The trouble that the broker has had with it, if any.
    met: Option<String>,
}

/// The result of a contact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tried {
    /// What was contacted, in words.
    pub what: String,
    /// The service, if it is a server.
    pub service: Option<String>,
    /// Why it cannot be used, and what to do.
    pub trouble: Option<(String, String)>,
}

/// The part of the broker's configuration that is needed here.
#[derive(Debug, Default, Deserialize)]
struct File {
    #[serde(default)]
    service: Vec<FileService>,
    gateway: Option<FileGateway>,
    #[serde(default)]
    proxy: ProxyWish,
}

#[derive(Debug, Deserialize)]
struct FileService {
    name: String,
    #[serde(default)]
    server: Vec<FileServer>,
}

#[derive(Debug, Deserialize)]
struct FileServer {
    name: Option<String>,
    address: Places,
    key: PublicKey,
}

#[derive(Debug, Deserialize)]
struct FileGateway {
    address: OneOrMore,
    user: String,
    key: Option<PublicKey>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum OneOrMore {
    One(DirectoryAddress),
    More(Vec<DirectoryAddress>),
}

impl OneOrMore {
    fn all(&self) -> &[DirectoryAddress] {
        match self {
            OneOrMore::One(one) => std::slice::from_ref(one),
            OneOrMore::More(all) => all,
        }
    }
}

/// The configuration that the broker runs with, or would be started with. Mistakes in it are
/// reported by the broker, not here.
fn configuration(broker: Option<&Value>) -> File {
    let used = broker.and_then(|status| status["broker"]["config"].as_str()).map(Into::into);
    let given = std::env::var_os("SESSION_CONFIG").map(Into::into);
    let found = || stp_net::config::broker_files().into_iter().find(|path| path.is_file());
    let path = used.or(given).or_else(found);
    let loaded = path.and_then(|path| stp_net::config::load::<File>(&path).ok());
    loaded.map(|loaded| loaded.config).unwrap_or_default()
}

/// The servers of the services for which `wanted` holds.
fn candidates(
    config: &File,
    broker: Option<&Value>,
    wanted: &dyn Fn(&str) -> bool,
) -> Vec<Candidate> {
    let met = |service: &str, places: &Places| {
        let all = broker?["services"].as_array()?;
        let service = all.iter().find(|one| one["name"] == service)?;
        let servers = service["servers"].as_array()?;
        let server = servers.iter().find(|one| one["address"] == places.to_string())?;
        (server["state"] == "not authorized").then(|| server["why"].as_str().map(str::to_owned))?
    };
    let of_service = |service: &FileService| -> Vec<Candidate> {
        let one = |server: &FileServer| Candidate {
            service: service.name.clone(),
            name: server.name.clone().unwrap_or_else(|| server.address.to_string()),
            places: server.address.clone(),
            key: server.key,
            met: met(&service.name, &server.address),
        };
        service.server.iter().map(one).collect()
    };
    let services = config.service.iter().filter(|service| wanted(&service.name));
    services.flat_map(of_service).take(TRIED_MAX).collect()
}

/// Contacts the servers of the services for which `wanted` holds, and the gateway if there is one.
#[must_use]
pub fn try_all(broker: Option<&Value>, wanted: &dyn Fn(&str) -> bool) -> Vec<Tried> {
    let config = configuration(broker);
    let servers = candidates(&config, broker, wanted);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else { return Vec::new() };
    runtime.block_on(async {
        let tls = Tls::new(&Identity::generate());
        let detour = config.proxy.detour();
        let options = LinkOptions { timeout: DIAL_MAX, detour, ..LinkOptions::default() };
        let mut tasks = Vec::new();
        for server in servers {
            let (tls, options) = (tls.clone(), options.clone());
            tasks.push(tokio::spawn(async move { try_server(server, &tls, &options).await }));
        }
        let mut all = Vec::new();
        for task in tasks {
            all.extend(task.await);
        }
        if let Some(gateway) = &config.gateway {
            all.push(try_gateway(gateway, &tls, &options).await);
        }
        all
    })
}

async fn try_server(server: Candidate, tls: &Tls, options: &LinkOptions) -> Tried {
    let dialed = Link::dial_any(&server.places, None, &server.key, tls, options).await;
    let trouble = match (dialed, server.met) {
        (Err(error), _) => Some(explain(&error)),
        (Ok(_), Some(why)) => {
            let advice = "add this broker's key (stp-broker --print-key) to the server's clients";
            Some((why, advice.to_owned()))
        }
        (Ok(_), None) => None,
    };
    let what = format!("server {} of {}", server.name, server.service);
    Tried { what, service: Some(server.service), trouble }
}

/// Why a server cannot be used, and what to do.
fn explain(error: &DialError) -> (String, String) {
    let advice = match error {
        DialError::WrongKey { .. } => {
            "compare with what `stp-server --print-key` says there, and correct key in broker.toml"
        }
        DialError::Misbehaved { .. } => {
            "if this network wants a log-in, log in with a browser; else correct address in \
             broker.toml"
        }
        DialError::Refused { .. } => "start stp-server there, or correct address in broker.toml",
        DialError::PeerRefused { .. } => {
            "is this key of the server's the newest? compare `stp-server --print-key`"
        }
        DialError::Proxy { .. } => "see whether `proxy` in broker.toml, or https_proxy, is right",
        DialError::Unknown { .. } => "correct the name in broker.toml, or see whether DNS answers",
        _ => "see whether a firewall is in between, and whether the address is right",
    };
    (error.to_string(), advice.to_owned())
}

async fn try_gateway(gateway: &FileGateway, tls: &Tls, options: &LinkOptions) -> Tried {
    let first = gateway.address.all().first().map(ToString::to_string).unwrap_or_default();
    let account = format!("{}@{first}", gateway.user);
    let what = format!("gateway {account}");
    let trouble = gateway_trouble(gateway, &account, tls, options).await.err();
    Tried { what, service: None, trouble }
}

async fn gateway_trouble(
    gateway: &FileGateway,
    account: &str,
    tls: &Tls,
    options: &LinkOptions,
) -> Result<(), (String, String)> {
    let log_in = || format!("session login {account}");
    let folder = stp_lookup::folder().ok_or(("HOME is not set".to_owned(), "set it".to_owned()))?;
    let places = gateway.address.all();
    let Some(first) = places.first() else { return Ok(()) };
    let credential = Credential::load(&folder, &gateway.user, first)
        .map_err(|error| (error.to_string(), log_in()))?;
    let known = Known::at(&folder.join(KNOWN_FILE)).key(first).ok().flatten();
    let key = gateway.key.or(known).unwrap_or(credential.key);
    let mut last = (format!("{account} has no address"), "correct broker.toml".to_owned());
    for place in places {
        let connection = match connect(place, &key, tls, options).await {
            Ok(connection) => connection,
            Err(error) => {
                let advice = "see whether the gateway runs, and what its key is";
                last = (error.to_string(), advice.to_owned());
                continue;
            }
        };
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        let now = now.map_or(0, |since| since.as_secs());
        let login = stp_lookup::Gateway::login(connection, &credential, now).await;
        return login.map(drop).map_err(|error| (error.to_string(), log_in()));
    }
    Err(last)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ed25519:11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";

    #[test]
    fn the_servers_of_the_services_in_question_are_found() {
        let text = format!(
            "status = \"off\"\n[[service]]\nname = \"a.b@c\"\n[[service.server]]\nname = \"one\"\n\
             address = \"192.0.2.1:1\"\nkey = \"{KEY}\"\n[[service.server]]\n\
             address = \"192.0.2.2:2\"\nkey = \"{KEY}\"\n[[service]]\nname = \"d.e@f\"\n"
        );
        let path = std::path::Path::new("broker.toml");
        let config = stp_net::config::parse::<File>(path, &text).expect("a good file").config;
        let broker = serde_json::json!({ "services": [{ "name": "a.b@c", "servers": [
            { "address": "192.0.2.2:2", "state": "not authorized", "why": "not listed" }] }] });
        let found = candidates(&config, Some(&broker), &|name| name == "a.b@c");
        let names: Vec<_> = found.iter().map(|one| one.name.as_str()).collect();
        assert_eq!(names, ["one", "192.0.2.2:2"]);
        assert_eq!(found[0].met, None);
        assert_eq!(found[1].met.as_deref(), Some("not listed"));
        assert!(candidates(&config, None, &|_| false).is_empty());
    }

    #[test]
    fn a_closed_port_is_said_with_what_to_do() {
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let address = free.local_addr().expect("bound");
        drop(free);
        let server = Candidate {
            service: "a.b@c".into(),
            name: "one".into(),
            places: address.into(),
            key: KEY.parse().expect("a key"),
            met: None,
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let tried = runtime.expect("a runtime").block_on(async {
            let tls = Tls::new(&Identity::generate());
            try_server(server, &tls, &LinkOptions::default()).await
        });
        let (why, advice) = tried.trouble.expect("nobody listens");
        assert!(why.contains("nobody listens") && advice.contains("stp-server"), "{why} {advice}");
    }
}
