//! The broker's configuration file: its keys, their defaults and what is wrong with them.
//!
//! Every error names the file, the line and the key. Values are checked while they are read, so
//! what is here after [`load`] can be used as it is.

mod destination;
pub mod doubt;
pub mod found;
pub mod policy;
mod room;
mod route;
mod service;
mod text;
mod upkeep;

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use stp_net::config::{ByteSize, ConfigError, Loaded, Span};
use stp_net::key::PublicKey;
use stp_net::link::{ProxyWish, SshWay};
use stp_net::machine;
use stp_net::place::Places;
use stp_net::status::StatusAddr;
use stp_proto::class::Class;
use stp_proto::local::routes::{VIRTUAL_V4, VIRTUAL_V6};
use stp_proto::lookup::EndpointName;
use stp_proto::name::Name;
use stp_proto::pattern::Prefix;
use stp_proto::session;

use self::route::FileRoute;
pub use self::service::{Direct, Server, Service};
use self::text::{FromText, TIME_MIN};
use crate::direct::Mirror;
use crate::routes::Routes;
use crate::virtual_addresses::VirtualAddresses;

/// The least and the most that a session's buffer may be configured to, in bytes.
const BUFFER_MIN: usize = 64 << 10;
const BUFFER_MAX: usize = 1 << 30;
/// The most links kept ready that may be configured.
const WARM_LINKS_MAX: usize = 64;

/// What becomes of programs in other network namespaces than the broker's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OtherNamespaces {
    /// They are not served: a namespace without a network stays without one.
    #[default]
    Refuse,
    /// They are served as all others.
    Serve,
}

/// What programs do when the broker is not running.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WhenAbsent {
    /// Connect as if there were no route.
    #[default]
    Pass,
    /// Refuse routed connections.
    Fail,
}

/// What becomes of sessions before the machine sleeps, where logind says so.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BeforeSleep {
    /// They are suspended, and go on when it is awake.
    #[default]
    Suspend,
    /// Nothing: their links fall silent.
    Nothing,
}

/// What a broker without a configuration file does: every plain HTTP destination is asked directly.
pub const DEFAULT: &str = "\
[[service]]
kind = \"direct\"
[[route]]
to = \"*:80\"
service = \"http.direct@localhost\"
";

/// What a `direct` service is called unless it has a name.
const DIRECT_NAME: &str = "http.direct@localhost";

/// Bounds and times.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a session kept for the server until it has them.
    pub send_buffer: usize,
    /// Bytes of a session kept for the app until it takes them.
    pub receive_buffer: usize,
    /// How long a session without a link is kept.
    pub hold: Duration,
    /// The longest suspension by a server that a session is kept through.
    pub suspend_max: Duration,
    /// How often an idle session asks whether its link lives.
    pub heartbeat: Duration,
    /// How long a busy session's link may be silent.
    pub silence: Duration,
    /// How long a new session looks for a server.
    pub connect: Duration,
    /// How long a session that no other server can go on with waits for its own when nobody
    /// listens there.
    pub refused: Duration,
    /// The same, when it is silent while other servers answer.
    pub gone: Duration,
    /// Bytes that all sessions together hold, and have promised to take.
    pub memory: u64,
    /// Sessions at once.
    pub sessions_max: usize,
    /// Secured links kept ready per server that was used lately.
    pub warm_links: usize,
}

/// The whole configuration.
#[derive(Clone, Debug)]
pub struct Config {
    /// The file it came from.
    pub file: PathBuf,
    /// Where the status is shown, besides the socket in the session directory.
    pub status: StatusAddr,
    /// This user's key; none means the default place.
    pub key_file: Option<PathBuf>,
    /// What programs do when the broker is not running.
    pub when_absent: WhenAbsent,
    /// What becomes of programs in other network namespaces.
    pub other_namespaces: OtherNamespaces,
    /// What becomes of sessions before the machine sleeps.
    pub before_sleep: BeforeSleep,
    /// The endpoint whose sessions are those of all programs and routes that name none.
    pub endpoint: Option<String>,
    /// A keeper holds the programs' sockets, so that sessions outlive the broker.
    pub keeper: bool,
    /// The pool of virtual IPv4 addresses.
    pub virtual_ipv4: Prefix,
    /// The pool of virtual IPv6 addresses.
    pub virtual_ipv6: Prefix,
    /// The congestion control asked for on links.
    pub congestion: Option<String>,
    /// Whether links go through a proxy.
    pub proxy: ProxyWish,
    /// The services.
    pub services: Vec<Service>,
    /// The routes, first match wins.
    pub routes: Routes,
    /// Over what links may leave, by name.
    pub policies: Vec<policy::Named>,
    /// What the file says of interfaces.
    pub interfaces: Vec<policy::Told>,
    /// Servers that lead to others and are in no service.
    pub relays: Vec<Server>,
    /// Where names and files are known.
    pub directory: DirectoryConfig,
    /// Bounds and times.
    pub limits: Limits,
}

/// Where names and files are known.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct DirectoryConfig {
    /// The gateway, and whom it knows us as.
    pub gateway: Option<GatewayConfig>,
    /// Session Name Servers of domains; others are found by DNS.
    pub domains: Vec<DomainConfig>,
}

/// A gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayConfig {
    /// Where; any of them. The first is the one that `session login` was told.
    pub places: Vec<stp_lookup::DirectoryAddress>,
    /// The user.
    pub user: String,
    /// Its key; none: that of the credential.
    pub key: Option<PublicKey>,
}

/// The Session Name Server of a domain.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DomainConfig {
    /// The domain.
    pub domain: String,
    /// The address of its name server.
    pub address: stp_lookup::DirectoryAddress,
    /// Its key.
    pub key: PublicKey,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    status: Option<StatusAddr>,
    #[serde(default)]
    key_file: Option<PathBuf>,
    #[serde(default)]
    when_absent: WhenAbsent,
    #[serde(default)]
    other_namespaces: OtherNamespaces,
    #[serde(default)]
    before_sleep: BeforeSleep,
    endpoint: Option<FromText<EndpointName>>,
    #[serde(default = "yes")]
    keeper: bool,
    #[serde(default)]
    virtual_ipv4: Option<FromText<Prefix>>,
    #[serde(default)]
    virtual_ipv6: Option<FromText<Prefix>>,
    #[serde(default)]
    congestion: Option<String>,
    #[serde(default)]
    proxy: ProxyWish,
    #[serde(default)]
    service: Vec<FileService>,
    #[serde(default)]
    route: Vec<FileRoute>,
    #[serde(default)]
    policy: Vec<policy::FilePolicy>,
    #[serde(default)]
    interface: Vec<policy::FileInterface>,
    #[serde(default)]
    relay: Vec<FileServer>,
    gateway: Option<FileGateway>,
    #[serde(default)]
    directory: Vec<DomainConfig>,
    #[serde(default)]
    limits: FileLimits,
}

fn yes() -> bool {
    true
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileGateway {
    address: GatewayPlaces,
    user: String,
    #[serde(default)]
    key: Option<PublicKey>,
}

#[derive(Deserialize)]
#[serde(
    untagged,
    expecting = "expected a place such as \"gateway.example.org\", or a list of them"
)]
enum GatewayPlaces {
    One(stp_lookup::DirectoryAddress),
    Many(Vec<stp_lookup::DirectoryAddress>),
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileService {
    name: Option<String>,
    #[serde(default)]
    kind: Kind,
    #[serde(default)]
    server: Vec<FileServer>,
    #[serde(default)]
    mirrors: Vec<FromText<Mirror>>,
    policy: Option<String>,
    class: Option<FromText<Class>>,
    hold: Option<Span>,
    idle: Option<Span>,
}

/// What is at the far end of a service's sessions.
#[derive(Copy, Clone, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    /// STP servers.
    #[default]
    Servers,
    /// Nothing: the broker asks the app's destination itself.
    Direct,
    /// STP servers that lead to whatever destination the app names.
    Egress,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct FileServer {
    #[serde(default)]
    name: Option<String>,
    address: Places,
    key: PublicKey,
    #[serde(default)]
    ssh: Option<Vec<String>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields, default)]
struct FileLimits {
    send_buffer: Option<ByteSize>,
    receive_buffer: Option<ByteSize>,
    hold: Option<Span>,
    suspend_max: Option<Span>,
    heartbeat: Option<Span>,
    silence: Option<Span>,
    connect: Option<Span>,
    refused: Option<Span>,
    gone: Option<Span>,
    memory: Option<ByteSize>,
    sessions_max: Option<usize>,
    warm_links: Option<usize>,
}

impl Limits {
    fn from_file(file: &FileLimits) -> Limits {
        let size = |given: Option<ByteSize>, default: usize| {
            given.map_or(default, |size| usize::try_from(size.0).unwrap_or(usize::MAX))
        };
        let span = |given: Option<Span>, default: Duration| given.map_or(default, |span| span.0);
        let default = Limits::default();
        Limits {
            send_buffer: size(file.send_buffer, default.send_buffer),
            receive_buffer: size(file.receive_buffer, default.receive_buffer),
            hold: span(file.hold, default.hold),
            suspend_max: span(file.suspend_max, default.suspend_max),
            heartbeat: span(file.heartbeat, default.heartbeat),
            silence: span(file.silence, default.silence),
            connect: span(file.connect, default.connect),
            refused: span(file.refused, default.refused),
            gone: span(file.gone, default.gone),
            memory: file.memory.map_or(default.memory, |size| size.0),
            sessions_max: file.sessions_max.unwrap_or(default.sessions_max),
            warm_links: file.warm_links.unwrap_or(default.warm_links),
        }
    }
}

impl Limits {
    fn check(&self) -> Result<(), (&'static str, String)> {
        let buffers = [("send_buffer", self.send_buffer), ("receive_buffer", self.receive_buffer)];
        for (key, bytes) in buffers {
            if !(BUFFER_MIN..=BUFFER_MAX).contains(&bytes) {
                return Err((key, format!("{bytes} bytes are not between 64KiB and 1GiB")));
            }
        }
        let times = [
            ("hold", self.hold),
            ("heartbeat", self.heartbeat),
            ("silence", self.silence),
            ("connect", self.connect),
            ("refused", self.refused),
            ("gone", self.gone),
        ];
        for (key, time) in times {
            if time < TIME_MIN {
                return Err((
                    key,
                    format!("{} ms are too short; 100ms is least", time.as_millis()),
                ));
            }
        }
        if self.sessions_max == 0 {
            return Err(("sessions_max", "without any session there is no broker".to_owned()));
        }
        if self.warm_links > WARM_LINKS_MAX {
            return Err(("warm_links", format!("more than {WARM_LINKS_MAX} do no good")));
        }
        Ok(())
    }
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            send_buffer: 8 << 20,
            receive_buffer: 8 << 20,
            hold: Duration::from_secs(72 * 3_600),
            suspend_max: session::Limits::default().suspended_max,
            heartbeat: Duration::from_secs(10),
            silence: Duration::from_secs(3),
            connect: Duration::from_secs(30),
            refused: Duration::from_secs(20),
            gone: Duration::from_secs(300),
            memory: machine::memory(),
            sessions_max: 10_000,
            warm_links: 4,
        }
    }
}

/// Reads and checks a configuration file.
///
/// # Errors
/// Names the file, and where it can the line and the key.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    check(stp_net::config::load(path)?)
}

/// Checks the text of a configuration file.
///
/// # Errors
/// As [`load`].
pub fn parse(path: &Path, text: &str) -> Result<Config, ConfigError> {
    check(stp_net::config::parse(path, text)?)
}

fn check(loaded: Loaded<File>) -> Result<Config, ConfigError> {
    let file = &loaded.config;
    if let Some(StatusAddr::Tcp(at)) = &file.status
        && !at.ip().is_loopback()
    {
        let what = format!("{at} is not a loopback address: the status is for this machine only");
        return Err(loaded.error("status", what));
    }
    let default = "a constant prefix is right";
    let ipv4_default = Prefix::new(VIRTUAL_V4.0.into(), VIRTUAL_V4.1).expect(default);
    let ipv6_default = Prefix::new(VIRTUAL_V6.0.into(), VIRTUAL_V6.1).expect(default);
    let virtual_ipv4 = file.virtual_ipv4.as_ref().map_or(ipv4_default, |given| given.0);
    let virtual_ipv6 = file.virtual_ipv6.as_ref().map_or(ipv6_default, |given| given.0);
    VirtualAddresses::new(virtual_ipv4, ipv6_default)
        .map_err(|e| loaded.error("virtual_ipv4", e))?;
    VirtualAddresses::new(ipv4_default, virtual_ipv6)
        .map_err(|e| loaded.error("virtual_ipv6", e))?;
    let mut limits = Limits::from_file(&file.limits);
    let fitted = limits.fit(file.limits.sessions_max);
    fitted.map_err(|(key, what)| loaded.error(&format!("limits.{key}"), what))?;
    limits.check().map_err(|(key, what)| loaded.error(&format!("limits.{key}"), what))?;
    let policies = policy::policies(&loaded, &file.policy)?;
    let via = |name: &str| via(loaded.file(), name);
    let (routes, services) = route::read(&loaded, &file.route, services(&loaded)?, via)?;
    known_policies(&loaded, &policies, &services)?;
    Ok(Config {
        file: loaded.file().to_owned(),
        status: file.status.clone().unwrap_or(StatusAddr::Off),
        key_file: file.key_file.clone(),
        when_absent: file.when_absent,
        other_namespaces: file.other_namespaces,
        before_sleep: file.before_sleep,
        endpoint: file.endpoint.as_ref().map(|name| name.0.to_string()),
        keeper: file.keeper,
        virtual_ipv4,
        virtual_ipv6,
        congestion: stp_net::link::congestion(file.congestion.clone()),
        proxy: file.proxy.clone(),
        routes,
        services,
        policies,
        interfaces: policy::interfaces(&loaded, &file.interface)?,
        relays: servers(&loaded, "relay", &file.relay)?,
        directory: directory(&loaded)?,
        limits,
    })
}

fn directory(loaded: &Loaded<File>) -> Result<DirectoryConfig, ConfigError> {
    let file = &loaded.config;
    let gateway = file.gateway.as_ref().map(|gateway| {
        let places = match &gateway.address {
            GatewayPlaces::One(place) => vec![place.clone()],
            GatewayPlaces::Many(places) => places.clone(),
        };
        if places.is_empty() {
            return Err(loaded.error("gateway.address", "at least one place is needed"));
        }
        if !stp_proto::lookup::user_is_good(&gateway.user) {
            let what = format!("{:?} is no user's name", gateway.user);
            return Err(loaded.error("gateway.user", what));
        }
        Ok(GatewayConfig { places, user: gateway.user.clone(), key: gateway.key })
    });
    Ok(DirectoryConfig { gateway: gateway.transpose()?, domains: file.directory.clone() })
}

fn services(loaded: &Loaded<File>) -> Result<Vec<Service>, ConfigError> {
    let mut services: Vec<Service> = Vec::new();
    for (i, service) in loaded.config.service.iter().enumerate() {
        let direct = service.kind == Kind::Direct;
        let name_key = format!("service[{i}].name");
        let default = direct.then(|| DIRECT_NAME.to_owned());
        let Some(name) = &service.name.clone().or(default) else {
            return Err(loaded.error(&name_key, "a service needs a name"));
        };
        name.parse::<Name>().map_err(|e| {
            let what = format!("\"{name}\" is no service name like www.mirror@example.org: {e}");
            loaded.error(&name_key, what)
        })?;
        if services.iter().any(|s| s.name == *name) {
            let what = format!("the service \"{name}\" is there twice");
            return Err(loaded.error(&name_key, what));
        }
        if service.server.is_empty() && !direct {
            let what = format!("the service \"{name}\" has no [[service.server]]");
            return Err(loaded.error(&name_key, what));
        }
        if direct && !service.server.is_empty() {
            let what = "a direct service has no servers: remove them, or kind = \"direct\"";
            return Err(loaded.error(&format!("service[{i}].server"), what));
        }
        if !direct && !service.mirrors.is_empty() {
            let what = "only a service with kind = \"direct\" has mirrors";
            return Err(loaded.error(&format!("service[{i}].mirrors"), what));
        }
        let servers = servers(loaded, &format!("service[{i}].server"), &service.server)?;
        let mirrors = service.mirrors.iter().map(|mirror| mirror.0.clone()).collect();
        let direct = direct.then_some(Direct { mirrors });
        let egress = service.kind == Kind::Egress;
        let (policy, name) = (service.policy.clone(), name.clone());
        let upkeep = upkeep::read(service.class.as_ref(), service.hold, service.idle);
        let upkeep =
            upkeep.map_err(|(key, what)| loaded.error(&format!("service[{i}].{key}"), what))?;
        services.push(Service { name, servers, direct, egress, policy, upkeep });
    }
    Ok(services)
}

/// That every policy that a service or a route names is there.
fn known_policies(
    loaded: &Loaded<File>,
    policies: &[policy::Named],
    services: &[Service],
) -> Result<(), ConfigError> {
    for (i, service) in services.iter().enumerate() {
        if let Some(name) = &service.policy {
            let key = format!("service[{i}].policy");
            policy::known(loaded, policies, (&key, name))?;
        }
    }
    for (i, route) in loaded.config.route.iter().enumerate() {
        if let Some(name) = route.policy() {
            let key = format!("route[{i}].policy");
            policy::known(loaded, policies, (&key, name))?;
        }
    }
    Ok(())
}

/// The service of a far end that `session via add` has made, for the configuration in `file`: its
/// profile is a configuration of its own beside that one.
fn via(file: &Path, name: &str) -> Result<Service, String> {
    if !stp_proto::name::is_label(name) {
        return Err(format!("{name:?} is no name such as \"home\""));
    }
    let folder = file.parent().unwrap_or(Path::new("")).join("via");
    let path = folder.join(format!("{name}.toml"));
    if !path.exists() {
        return Err(format!(
            "there is no {}: \"session via add USER@HOST --name {name}\" makes it",
            path.display()
        ));
    }
    let loaded = stp_net::config::load::<File>(&path).map_err(|error| error.to_string())?;
    let found = services(&loaded).map_err(|error| error.to_string())?;
    let egress = found.into_iter().find(|service| service.egress);
    egress.ok_or_else(|| format!("{}: no [[service]] has kind = \"egress\"", path.display()))
}

fn servers(
    loaded: &Loaded<File>,
    place: &str,
    given: &[FileServer],
) -> Result<Vec<Server>, ConfigError> {
    let mut servers: Vec<Server> = Vec::new();
    for (k, server) in given.iter().enumerate() {
        let places = server.address.clone();
        let key = format!("{place}[{k}].address");
        if servers.iter().any(|other| other.places.meets(&places)) {
            return Err(loaded.error(&key, format!("the server {places} is there twice")));
        }
        let ssh = server.ssh.clone().map(SshWay::new).transpose();
        let ssh = ssh.map_err(|what| loaded.error(&format!("{place}[{k}].ssh"), what))?;
        servers.push(Server { places, key: server.key, name: server.name.clone(), ssh });
    }
    Ok(servers)
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "ed25519:11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";

    fn service() -> String {
        format!(
            "[[service]]\nname = \"www.m@e.org\"\n[[service.server]]\n\
             address = \"192.0.2.1:4433\"\nkey = \"{KEY}\"\n"
        )
    }

    fn error(text: &str) -> String {
        parse(Path::new("broker.toml"), text).expect_err(text).to_string()
    }

    #[test]
    fn a_whole_file_is_read() {
        let text = format!(
            "status = \"127.0.0.1:7070\"\nwhen_absent = \"fail\"\n{}\n\
             [[route]]\nto = [\"a.b:80\", \"10.0.0.0/8:*\"]\nservice = \"www.m@e.org\"\n\
             every_port = true\n\
             [limits]\nsend_buffer = \"1MiB\"\nhold = \"5m\"\nsessions_max = 7\n",
            service()
        );
        let config = parse(Path::new("broker.toml"), &text).expect("a good file");
        assert_eq!(config.status, StatusAddr::Tcp("127.0.0.1:7070".parse().expect("an address")));
        assert_eq!(config.when_absent, WhenAbsent::Fail);
        assert_eq!(config.routes.iter().count(), 2);
        assert_eq!(config.services[0].servers[0].key.to_string(), KEY);
        assert_eq!(config.limits.send_buffer, 1 << 20);
        assert_eq!(config.limits.hold, Duration::from_secs(300));
        assert_eq!(config.limits.sessions_max, 7);
        assert_eq!(config.limits.receive_buffer, 8 << 20);
    }

    #[test]
    fn an_empty_file_is_right_and_routes_nothing() {
        let config = parse(Path::new("broker.toml"), "").expect("nothing is required");
        assert_eq!(config.routes.iter().count(), 0);
        assert_eq!(config.status, StatusAddr::Off);
    }

    #[test]
    fn every_mistake_is_named_with_file_line_and_key() {
        let s = service();
        let bad_key = s.replace(KEY, "ed25519:AAAA");
        let bad_address = s.replace("192.0.2.1:4433", "example.org:http");
        let lone = "[[service]]\nname = \"www.m@e.org\"\n".to_owned();
        for (text, line, key) in [
            ("colour = \"red\"\n".to_owned(), 1, "colour"),
            (format!("{s}colour = 1\n"), 6, "colour"),
            (bad_key, 5, "key"),
            (bad_address, 4, "address"),
            ("status = 7070\n".to_owned(), 1, "status"),
            ("\nstatus = \"0.0.0.0:7070\"\n".to_owned(), 2, "status"),
            ("when_absent = \"perhaps\"\n".to_owned(), 1, "when_absent"),
            ("virtual_ipv4 = \"127.192.0.0/30\"\n".to_owned(), 1, "virtual_ipv4"),
            (format!("{s}[[route]]\nto = \"a.b:80\"\nservice = \"x@y\"\n"), 8, "service"),
            (format!("{s}[[route]]\nto = \"a.b\"\nservice = \"x@y\"\n"), 7, "to"),
            (format!("{s}[[route]]\nto = \"a.b:*\"\nservice = \"www.m@e.org\"\n"), 7, "every_port"),
            (format!("{s}{s}"), 7, "name"),
            (lone, 2, "name"),
            ("[limits]\nhold = \"long\"\n".to_owned(), 2, "hold"),
            ("[limits]\nsend_buffer = 5\n".to_owned(), 2, "send_buffer"),
            ("[limits]\nwarm_links = 1000\n".to_owned(), 2, "warm_links"),
            ("[limits]\nsilence = \"1ms\"\n".to_owned(), 2, "silence"),
            ("[limits]\nsend_buffer = true\n".to_owned(), 2, "send_buffer"),
            ("[limits]\nsessions_max = -1\n".to_owned(), 2, "sessions_max"),
            ("[[route]]\nto = \"a.b:80\"\n".to_owned(), 1, "service"),
            ("\nendpoint = \"laptop\"\n".to_owned(), 2, "endpoint"),
            (
                format!(
                    "{s}[[route]]\nto = \"a.b:80\"\nservice = \"www.m@e.org\"\nendpoint = \"\"\n"
                ),
                9,
                "endpoint",
            ),
        ] {
            let error = error(&text);
            let place = format!("broker.toml:{line}: ");
            assert!(error.starts_with(&place), "{text}\n-> {error}");
            assert!(error.contains(key), "{text}\n-> {error}");
        }
    }

    #[test]
    fn without_a_file_every_host_is_asked_directly_but_not_this_machine() {
        let config = parse(Path::new(stp_net::config::BUILT_IN), DEFAULT)
            .expect("the built-in text is right");
        assert_eq!(config.services[0].direct, Some(Direct::default()));
        let routed = |ip: &str, port| {
            config.routes.find(None, ip.parse().expect("an address"), port).is_some()
        };
        assert!(routed("192.0.2.7", 80) && routed("10.1.2.3", 80) && routed("2001:db8::1", 80));
        assert!(!routed("192.0.2.7", 443));
        for here in ["127.0.0.1", "127.9.9.9", "::1", "0.0.0.0", "169.254.1.1", "fe80::1"] {
            assert!(!routed(here, 80), "{here}");
        }
    }

    #[test]
    fn a_route_may_leave_addresses_out() {
        let text = "[[service]]\nkind = \"direct\"\nname = \"a.b@c.org\"\n\
                    mirrors = [\"http://m.org/x\"]\n[[route]]\nto = [\"*:*\", \"10.0.0.0/8:22\"]\n\
                    except = [\"10.1.0.0/16\", \"localhost\"]\nservice = \"a.b@c.org\"\n";
        let config = parse(Path::new("broker.toml"), text).expect("a good file");
        let routed = |ip: &str, port| {
            config.routes.find(None, ip.parse().expect("an address"), port).is_some()
        };
        assert!(routed("10.2.0.1", 22) && routed("192.0.2.1", 9));
        assert!(!routed("10.1.0.1", 22) && !routed("10.1.0.1", 80) && !routed("127.0.0.1", 9));
        let name = text.replace("*:*", "host.org:80");
        assert!(error(&name).contains("except"), "{}", error(&name));
        let name = text.replace("10.1.0.0/16", "*.corp.org");
        assert!(error(&name).contains("egress"), "{}", error(&name));
        for (wrong, line) in [
            (
                "[[service]]\nkind = \"direct\"\n[[service.server]]\n\
                 address = \"192.0.2.1:1\"\nkey = \"KEY\"\n",
                3,
            ),
            ("[[service]]\nkind = \"direct\"\nmirrors = [\"ftp://a\"]\n", 3),
            ("[[service]]\nkind = \"indirect\"\n", 2),
            ("[[service]]\nserver = []\n", 1),
        ] {
            let error = error(&wrong.replace("KEY", KEY));
            assert!(error.starts_with(&format!("broker.toml:{line}: ")), "{wrong}\n-> {error}");
        }
    }

    #[test]
    fn an_egress_is_led_to_by_name_and_leaves_names_out() {
        let text = service().replace("name = \"www", "kind = \"egress\"\nname = \"www")
            + "[[route]]\nto = \"*:*\"\nexcept = [\"10.0.0.0/8\", \"*.corp.org\"]\n\
               service = \"www.m@e.org\"\n";
        let config = parse(Path::new("broker.toml"), &text).expect("a good file");
        assert!(config.services[0].egress);
        let ip = |text: &str| text.parse().expect("an address");
        let named = |name| config.routes.find(Some(name), ip("0.0.0.0"), 443).is_some();
        assert!(named("db.internal") && named("corp.org"));
        for name in ["localhost", "a.localhost", "printer.local", "git.corp.org", "www.stp"] {
            assert!(!named(name), "{name}");
        }
        let routed = |text| config.routes.find(None, ip(text), 443).is_some();
        assert!(routed("192.0.2.1") && routed("2001:db8::1"));
        for here in ["10.1.2.3", "127.0.0.1", "::1", "169.254.1.1", "198.18.0.9"] {
            assert!(!routed(here), "{here}");
        }
    }

    #[test]
    fn a_route_leads_through_a_via_that_was_added() {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("broker.toml");
        let route = "[[route]]\nto = \"db.internal:5432\"\nvia = \"home\"\n";
        let wrong = parse(&file, route).expect_err("there is none").to_string();
        assert!(
            wrong.contains("broker.toml:3: route[0].via: ") && wrong.contains("session via add")
        );
        std::fs::create_dir(folder.path().join("via")).expect("a folder");
        let profile = service().replace("name = \"www", "kind = \"egress\"\nname = \"www");
        std::fs::write(folder.path().join("via/home.toml"), profile).expect("a file");
        let config = parse(&file, &route.repeat(2)).expect("a good file");
        assert_eq!(config.services.len(), 1);
        assert!(config.services[0].egress && config.routes.iter().count() == 2);
        let both = format!("{route}service = \"www.m@e.org\"\n");
        assert!(parse(&file, &both).expect_err("two").to_string().contains("service, or via"));
    }

    #[test]
    fn broken_toml_is_named_with_its_line() {
        assert!(error("\n\nstatus = \n").starts_with("broker.toml:3: "));
    }

    #[test]
    fn a_missing_file_is_named() {
        let error = load(Path::new("/nowhere/broker.toml")).expect_err("no such file");
        assert!(error.to_string().contains("/nowhere/broker.toml"));
    }

    #[test]
    fn the_same_server_twice_is_a_mistake() {
        let s = service();
        let (_, server) = s.split_once("[[").expect("two tables").1.split_once("[[").expect("two");
        let error = error(&format!("{s}[[{server}"));
        assert!(error.starts_with("broker.toml:7: "), "{error}");
    }
}
