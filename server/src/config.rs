//! The server's configuration file: its keys, their defaults and what is wrong with them.
//!
//! Every error names the file, the line and the key. What is here after [`load`] can be used as
//! it is: document roots exist, keys are read, names are not taken twice.

mod behind;
pub mod doubt;
mod egress;
mod kind;
mod limits;
mod tls;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use serde::Deserialize;
use stp_lookup::DirectoryAddress;
use stp_net::config::{Address, ConfigError, FromText, Loaded, Span};
use stp_net::key::PublicKey;
use stp_net::status::StatusAddr;
use stp_proto::class::Class;
use stp_proto::name::Name;
use stp_proto::replay::Policy;
use stp_proto::session;
use stp_proto::wire::RANGE_MAX;

use crate::service::ahead::Terms;
use crate::service::origin::Origin;
use crate::service::upstream::Target;
use crate::ticket::Cluster;

use egress::{FileEgress, Texts};

pub use kind::Kind;
use limits::FileLimits;
pub use limits::Limits;
use tls::Files;
pub use tls::TlsConfig;

/// A service that waits for less is given up before anybody can know that its session is away.
const PATIENCE_MIN: Duration = Duration::from_secs(1);

/// The best class that is granted where nothing is said: what nobody may give up is for the
/// operator to decide.
const CLASS: Class = Class::Suspended;

/// Where the file is looked for after `--config` and `$SESSION_SERVER_CONFIG`.
pub const PLACES: [&str; 1] = ["/etc/session/server.toml"];

/// The whole configuration, checked.
#[derive(Debug)]
pub struct Config {
    /// What this server calls itself.
    pub name: String,
    /// Where links come in.
    pub listen: SocketAddr,
    /// Where the key pair is kept.
    pub key_file: PathBuf,
    /// What seals tickets; without it no session can go to another server.
    pub cluster: Option<Arc<Cluster>>,
    /// Where the status is shown.
    pub status: StatusAddr,
    /// The clients that may open sessions; none: any client may.
    pub clients: Option<BTreeSet<PublicKey>>,
    /// What is offered.
    pub services: Vec<ServiceConfig>,
    /// Other servers of the cluster, to which it relays (PROTOCOL.md R81).
    pub relays: Vec<RelayConfig>,
    /// Where this server announces itself.
    pub directory: Option<Directory>,
    /// A keeper holds the sockets to `tcp` services, so that their sessions outlive this process.
    pub keeper: bool,
    /// Bounds and times.
    pub limits: Limits,
}

/// The Session Name Server and gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Directory {
    /// Where; any of them.
    pub places: Vec<DirectoryAddress>,
    /// The key it must show.
    pub key: PublicKey,
    /// Where brokers find this server; the directory fills in what is unspecified.
    pub advertise: Vec<SocketAddr>,
    /// How often document roots are looked through.
    pub look: Duration,
    /// The services are names of this server's own key, and not offered as by one of the servers
    /// that the directory's operator has listed.
    pub own_names: bool,
}

/// A server to which this one relays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RelayConfig {
    /// Where it is, from here.
    pub address: Address,
    /// Its key, by which brokers name it.
    pub key: PublicKey,
}

/// One service.
#[derive(Debug, Clone)]
pub struct ServiceConfig {
    /// `service.object@domain`.
    pub name: String,
    /// What it is.
    pub kind: Kind,
    /// Where its streams come from.
    pub target: Target,
    /// What may be continued from another server.
    pub policy: Policy,
    /// Only for those with a ticket of the gateway.
    pub tickets: bool,
    /// Whether the service is told who comes, by the PROXY protocol, version 2.
    pub proxy_protocol: bool,
    /// The document root, whose files the directory is told.
    pub root: Option<PathBuf>,
    /// The passive ports of a real FTP server, first and last, for logins that are encrypted.
    pub passive_ports: Option<(u16, u16)>,
    /// How TLS with the apps is done, if it is.
    pub tls: Option<Arc<TlsConfig>>,
    /// What is taken of it while a session is away; none: it waits.
    pub ahead: Option<Terms>,
    /// The best class that its sessions are granted.
    pub class: Class,
    /// A session on which nothing passed for so long ends; none: it stays.
    pub idle: Option<Duration>,
}

impl ServiceConfig {
    /// Bounds of a session of it: `limits`, as far as the service says nothing else.
    #[must_use]
    pub fn limits(&self, limits: &session::Limits) -> session::Limits {
        session::Limits { class: self.class, idle: self.idle, ..limits.clone() }
    }

    /// The same service for a client at `from`, who came to `to`: its streams say so if the service
    /// is to be told.
    #[must_use]
    pub fn told_of(&self, from: SocketAddr, to: SocketAddr) -> Cow<'_, ServiceConfig> {
        match &self.target {
            target @ (Target::Address(_) | Target::Secured(_)) if self.proxy_protocol => {
                let target = target.announced(from, to);
                Cow::Owned(ServiceConfig { target, ..self.clone() })
            }
            _ => Cow::Borrowed(self),
        }
    }
}

/// The file as it is written.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    listen: Address,
    key_file: Option<PathBuf>,
    cluster: Option<String>,
    cluster_key_file: Option<PathBuf>,
    status: Option<StatusAddr>,
    clients: Option<Clients>,
    #[serde(default)]
    service: Vec<FileService>,
    #[serde(default)]
    relay: Vec<RelayConfig>,
    directory: Option<FileDirectory>,
    #[serde(default = "yes")]
    keeper: bool,
    #[serde(default)]
    limits: FileLimits,
}

const fn yes() -> bool {
    true
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileDirectory {
    address: Places,
    key: PublicKey,
    #[serde(default)]
    advertise: Vec<Address>,
    look: Option<Span>,
    #[serde(default)]
    own_names: bool,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected a place such as \"192.0.2.1:4480\", or a list of them")]
enum Places {
    One(DirectoryAddress),
    Many(Vec<DirectoryAddress>),
}

#[derive(Debug, Deserialize)]
#[serde(untagged)]
enum Clients {
    Word(String),
    Keys(Vec<String>),
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileService {
    name: String,
    kind: Kind,
    to: Option<String>,
    root: Option<PathBuf>,
    compare: Option<Compare>,
    /// Was replaced by `compare`; kept for the sake of its error message.
    compare_prefix: Option<bool>,
    tickets: Option<bool>,
    #[serde(default)]
    proxy_protocol: bool,
    passive_ports: Option<String>,
    patience: Option<Span>,
    class: Option<FromText<Class>>,
    idle: Option<Span>,
    certificate: Option<Files>,
    key: Option<Files>,
    /// Whose certificate the service behind has, if it is not the host's.
    to_name: Option<String>,
    /// Who may have made that certificate.
    ca: Option<PathBuf>,
    /// Of an egress: who may use it, and who may reach this machine through it.
    clients: Option<Texts>,
    owner: Option<Texts>,
    /// Of an egress: where to.
    allow: Option<Texts>,
    deny: Option<Texts>,
    /// Of an egress: ports of HTTP.
    http: Option<Vec<u16>>,
    sessions_per_client: Option<usize>,
    new_per_second: Option<f64>,
}

impl FileService {
    /// There is a server behind it that the PROXY protocol can tell who comes.
    fn may_be_told(&self) -> bool {
        match self.kind {
            Kind::Http | Kind::Tcp => true,
            Kind::Https => self.root.is_none(),
            Kind::File | Kind::Ftp | Kind::Egress => false,
        }
    }

    fn egress(&self) -> FileEgress<'_> {
        FileEgress {
            clients: self.clients.as_ref().map(Texts::all),
            owner: self.owner.as_ref().map(Texts::all),
            allow: self.allow.as_ref().map(Texts::all),
            deny: self.deny.as_ref().map(Texts::all),
            http: self.http.as_deref(),
            sessions_per_client: self.sessions_per_client,
            new_per_second: self.new_per_second,
        }
    }
}

/// What must be equal before a response is continued.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Compare {
    #[default]
    Prefix,
    Validators,
}

impl From<Compare> for Policy {
    fn from(compare: Compare) -> Self {
        match compare {
            Compare::Prefix => Self::Prefix,
            Compare::Validators => Self::Validators,
        }
    }
}

/// Reads and checks the file at `path`.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    check(&stp_net::config::load::<File>(path)?)
}

fn check(loaded: &Loaded<File>) -> Result<Config, ConfigError> {
    let file = &loaded.config;
    let limits = limits::check(loaded, &file.limits)?;
    if file.name.is_empty() || file.name.len() > 64 {
        return Err(loaded.error("name", "a name of 1 to 64 bytes is expected"));
    }
    let ticket_life = file.limits.ticket_life.map_or(limits.session.hold, |span| span.0);
    Ok(Config {
        name: file.name.clone(),
        listen: file.listen.0,
        key_file: file
            .key_file
            .as_deref()
            .map_or_else(default_key_file, |path| resolve(loaded, path)),
        cluster: cluster(loaded, ticket_life)?,
        status: file.status.clone().unwrap_or(StatusAddr::Tcp(([127, 0, 0, 1], 7071).into())),
        clients: clients(loaded)?,
        services: services(loaded, &limits)?,
        relays: relays(loaded)?,
        directory: directory(loaded)?,
        keeper: file.keeper,
        limits,
    })
}

/// A path as it is meant: from the file's own folder, or from home.
fn resolve(loaded: &Loaded<File>, path: &Path) -> PathBuf {
    match (path.strip_prefix("~"), std::env::var_os("HOME")) {
        (Ok(rest), Some(home)) => Path::new(&home).join(rest),
        _ => loaded.file().parent().unwrap_or(Path::new("")).join(path),
    }
}

fn default_key_file() -> PathBuf {
    let state = std::env::var_os("XDG_STATE_HOME")
        .map(PathBuf::from)
        .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".local/state")));
    state.unwrap_or_else(|| "/var/lib".into()).join("session/server.key")
}

fn cluster(loaded: &Loaded<File>, life: Duration) -> Result<Option<Arc<Cluster>>, ConfigError> {
    match (&loaded.config.cluster, &loaded.config.cluster_key_file) {
        (None, None) => Ok(None),
        (Some(name), Some(path)) => {
            let cluster = Cluster::load(name, &resolve(loaded, path), life)
                .map_err(|e| loaded.error("cluster_key_file", e))?;
            Ok(Some(Arc::new(cluster)))
        }
        (Some(_), None) => Err(loaded.error(
            "cluster",
            "needs cluster_key_file (\"stp-server --new-cluster-key FILE\" makes one)",
        )),
        (None, Some(_)) => {
            Err(loaded.error("cluster_key_file", "needs the cluster's name in cluster"))
        }
    }
}

fn directory(loaded: &Loaded<File>) -> Result<Option<Directory>, ConfigError> {
    let Some(file) = &loaded.config.directory else { return Ok(None) };
    let places = match &file.address {
        Places::One(place) => vec![place.clone()],
        Places::Many(places) => places.clone(),
    };
    if places.is_empty() {
        return Err(loaded.error("directory.address", "at least one place is needed"));
    }
    let advertise = match file.advertise.as_slice() {
        [] => vec![loaded.config.listen.0],
        given => given.iter().map(|address| address.0).collect(),
    };
    if advertise.len() > 8 || advertise.iter().any(|address| address.port() == 0) {
        let what = "one to eight addresses with a port are expected";
        return Err(loaded.error("directory.advertise", what));
    }
    let is_one_port = advertise.iter().all(|address| address.port() == advertise[0].port());
    if file.own_names && !is_one_port {
        let what = "a name of one's own has one port: the same at all addresses is expected";
        return Err(loaded.error("directory.advertise", what));
    }
    let look = file.look.map_or(Duration::from_secs(10), |span| span.0);
    let own_names = file.own_names;
    Ok(Some(Directory { places, key: file.key, advertise, look, own_names }))
}

fn relays(loaded: &Loaded<File>) -> Result<Vec<RelayConfig>, ConfigError> {
    let relays = &loaded.config.relay;
    if !relays.is_empty() && loaded.config.cluster.is_none() {
        let what = "needs cluster and cluster_key_file: only passes of the cluster are accepted";
        return Err(loaded.error("relay", what));
    }
    for (index, relay) in relays.iter().enumerate() {
        if relay.address.0.port() == 0 {
            let what = "an address with a port is expected";
            return Err(loaded.error(&format!("relay[{index}].address"), what));
        }
        if relays[..index].iter().any(|other| other.key == relay.key) {
            return Err(loaded.error(&format!("relay[{index}].key"), "this server is there twice"));
        }
    }
    Ok(relays.clone())
}

fn clients(loaded: &Loaded<File>) -> Result<Option<BTreeSet<PublicKey>>, ConfigError> {
    let keys = match &loaded.config.clients {
        None => return Ok(None),
        Some(Clients::Word(word)) if word == "any" => return Ok(None),
        Some(Clients::Word(word)) => {
            let what = format!("\"any\" or a list of public keys is expected, not {word:?}");
            return Err(loaded.error("clients", what));
        }
        Some(Clients::Keys(keys)) => keys,
    };
    let read = |(index, key): (usize, &String)| {
        key.parse().map_err(|error| loaded.error(&format!("clients[{index}]"), error))
    };
    keys.iter().enumerate().map(read).collect::<Result<_, _>>().map(Some)
}

/// `FIRST-LAST` of a service of kind ftp.
fn passive_ports(service: &FileService) -> Result<Option<(u16, u16)>, String> {
    let Some(text) = &service.passive_ports else { return Ok(None) };
    if service.kind != Kind::Ftp {
        return Err("only a service of kind ftp has passive ports".to_owned());
    }
    let wrong =
        || format!("\"{text}\" is no range of at most {RANGE_MAX} ports, such as 40000-40009");
    let (first, last) = text.split_once('-').ok_or_else(wrong)?;
    let first: u16 = first.trim().parse().map_err(|_| wrong())?;
    let last: u16 = last.trim().parse().map_err(|_| wrong())?;
    let fits = first > 0 && (first..first.saturating_add(RANGE_MAX)).contains(&last);
    fits.then_some(Some((first, last))).ok_or_else(wrong)
}

/// Where the service's streams come from.
fn target(
    loaded: &Loaded<File>,
    index: usize,
    service: &FileService,
) -> Result<Target, ConfigError> {
    let key = |name: &str| format!("service[{index}].{name}");
    let kind = service.kind.as_str();
    let egress = service.egress().check(service.kind);
    if let Some(egress) = egress.map_err(|(name, what)| loaded.error(&key(name), what))? {
        let given = [("to", service.to.is_some()), ("root", service.root.is_some())];
        if let Some((name, _)) = given.iter().find(|(_, is_there)| *is_there) {
            let what = "an egress leads wherever the app wants, as far as allow and deny let it";
            return Err(loaded.error(&key(name), what));
        }
        return Ok(Target::Egress(Arc::new(egress)));
    }
    let is_root = match service.kind {
        Kind::File => true,
        Kind::Http | Kind::Tcp | Kind::Ftp | Kind::Egress => false,
        Kind::Https => service.root.is_some() && service.to.is_none(),
    };
    let (has, lacks) = if is_root {
        ("root", service.to.is_some().then_some("to"))
    } else {
        ("to", service.root.is_some().then_some("root"))
    };
    if let Some(lacks) = lacks {
        let what = format!("a service of kind {kind} has {has} instead");
        return Err(loaded.error(&key(lacks), what));
    }
    let missing = || {
        let or = if service.kind == Kind::Https { ", or root" } else { "" };
        let what = format!("is missing: a service of kind {kind} needs it{or}");
        loaded.error(&key(has), what)
    };
    let behind = behind::read(
        service.to.as_deref().unwrap_or_default(),
        service.to_name.as_deref(),
        service.ca.as_ref(),
        |path| resolve(loaded, path),
    )
    .map_err(|(name, what)| loaded.error(&key(name), what))?;
    if let Some(secured) = behind {
        if !matches!(service.kind, Kind::Http | Kind::Https) {
            let what = format!("a service of kind {kind} takes what comes as it is: an address");
            return Err(loaded.error(&key("to"), what));
        }
        return Ok(Target::Secured(secured));
    }
    if is_root {
        let root = service.root.as_ref().ok_or_else(missing)?;
        let root = resolve(loaded, root);
        let origin = Origin::new(&root)
            .map_err(|e| loaded.error(&key("root"), format!("{}: {e}", root.display())))?;
        Ok(Target::Origin(Arc::new(origin)))
    } else {
        let to = service.to.as_ref().ok_or_else(missing)?;
        let address = to.parse::<Address>().map_err(|e| loaded.error(&key("to"), e))?;
        Ok(Target::Address(address.0))
    }
}

/// TLS with the apps: certificates and keys of a service of kind https.
fn tls(
    loaded: &Loaded<File>,
    index: usize,
    service: &FileService,
) -> Result<Option<Arc<TlsConfig>>, ConfigError> {
    let (given, is_wanted) = ((&service.certificate, &service.key), service.kind == Kind::Https);
    tls::read(given, is_wanted, |path| resolve(loaded, path))
        .map_err(|(key, what)| loaded.error(&format!("service[{index}].{key}"), what))
}

/// What is taken of a service while a session of it is away.
fn ahead(service: &FileService, limits: &Limits) -> Result<Option<Terms>, &'static str> {
    let patience = service.patience.map(|span| span.0);
    if service.kind != Kind::Tcp {
        let what = "only a service of kind tcp is kept waiting: others are asked again";
        return if patience.is_some() { Err(what) } else { Ok(None) };
    }
    if patience.is_some_and(|patience| patience < PATIENCE_MIN) {
        return Err("at least 1s is needed");
    }
    let (most, room) = (limits.spool, Arc::clone(&limits.spools));
    Ok((most > 0).then_some(Terms { most, room, patience }))
}

/// A session on which nothing passed for so long ends.
fn idle(service: &FileService) -> Result<Option<Duration>, &'static str> {
    match service.idle {
        Some(Span(idle)) if idle < Duration::from_secs(1) => Err("at least 1s is needed"),
        given => Ok(given.map(|span| span.0)),
    }
}

fn services(loaded: &Loaded<File>, limits: &Limits) -> Result<Vec<ServiceConfig>, ConfigError> {
    if loaded.config.service.is_empty() && loaded.config.relay.is_empty() {
        return Err(loaded.error("service", "at least one [[service]] is needed"));
    }
    let mut names = BTreeSet::new();
    let mut services = Vec::new();
    for (index, service) in loaded.config.service.iter().enumerate() {
        let key = |name: &str| format!("service[{index}].{name}");
        let name = service.name.parse::<Name>().map_err(|e| loaded.error(&key("name"), e))?;
        if !names.insert(name.as_str().to_owned()) {
            return Err(loaded.error(&key("name"), "this service is offered twice"));
        }
        let target = target(loaded, index, service)?;
        let tickets = service.tickets.unwrap_or(false);
        if tickets && loaded.config.cluster.is_none() {
            let what = "tickets are opened with the key of a cluster: set cluster";
            return Err(loaded.error(&key("tickets"), what));
        }
        if service.proxy_protocol && !service.may_be_told() {
            let kind = service.kind.as_str();
            let what = format!("a service of kind {kind} has no server that could be told");
            return Err(loaded.error(&key("proxy_protocol"), what));
        }
        let root = match &target {
            Target::Origin(origin) => Some(origin.root().to_owned()),
            _ => None,
        };
        if let Some(old) = service.compare_prefix {
            let instead = if old { "prefix" } else { "validators" };
            let what = format!(
                "was replaced: every byte the app has is compared now; write compare = {instead:?} \
                 (\"prefix\", the default, compares length and bytes; \"validators\" demands equal \
                 strong ETags as well)"
            );
            return Err(loaded.error(&key("compare_prefix"), what));
        }
        services.push(ServiceConfig {
            name: name.as_str().to_owned(),
            kind: service.kind,
            target,
            policy: service.compare.unwrap_or_default().into(),
            tickets,
            proxy_protocol: service.proxy_protocol,
            root,
            passive_ports: passive_ports(service)
                .map_err(|e| loaded.error(&key("passive_ports"), e))?,
            tls: tls(loaded, index, service)?,
            ahead: ahead(service, limits).map_err(|e| loaded.error(&key("patience"), e))?,
            class: service.class.as_ref().map_or(CLASS, |class| class.0),
            idle: idle(service).map_err(|e| loaded.error(&key("idle"), e))?,
        });
    }
    Ok(services)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Config, ConfigError> {
        check(&stp_net::config::parse::<File>(Path::new("server.toml"), text)?)
    }

    fn wrong(text: &str) -> String {
        read(text).expect_err("something is wrong").to_string()
    }

    const HEAD: &str = "name = \"a\"\nlisten = \"127.0.0.1:4433\"\n";
    const SERVICE: &str =
        "[[service]]\nname = \"ssh.home@example.org\"\nkind = \"tcp\"\nto = \"127.0.0.1:22\"\n";

    #[test]
    fn a_small_file_is_enough() {
        let config = read(&format!("{HEAD}{SERVICE}")).unwrap();
        assert_eq!(config.services[0].name, "ssh.home@example.org");
        assert!(config.cluster.is_none() && config.clients.is_none());
        assert_eq!(config.limits.session.hold, Duration::from_secs(72 * 3600));
    }

    #[test]
    fn errors_name_file_line_and_key() {
        let error = wrong(&format!("{HEAD}colour = 1\n{SERVICE}"));
        assert!(error.starts_with("server.toml:3: colour: "), "{error}");
        let error = wrong("name = \"a\"\nlisten = \"here\"\n");
        assert!(error.starts_with("server.toml:2: listen: "), "{error}");
        let error = wrong(HEAD);
        assert!(error.contains("service"), "{error}");
        let error = wrong(&format!("{HEAD}cluster = \"x\"\n{SERVICE}"));
        assert!(error.starts_with("server.toml:3: cluster: "), "{error}");
        let error = wrong(&format!("{HEAD}clients = [\"ed25519:x\"]\n{SERVICE}"));
        assert!(error.starts_with("server.toml:3: clients[0]: "), "{error}");
        let error = wrong(&format!("{HEAD}clients = \"none\"\n{SERVICE}"));
        assert!(error.starts_with("server.toml:3: clients: "), "{error}");
        let error = wrong(&format!("{HEAD}{SERVICE}{SERVICE}"));
        assert!(error.starts_with("server.toml:8: service[1].name: "), "{error}");
        let error = wrong(&format!("{HEAD}{SERVICE}[limits]\nhold = \"10ms\"\n"));
        assert!(error.starts_with("server.toml:8: limits.hold: "), "{error}");
    }

    #[test]
    fn what_does_not_fit_into_memory_or_descriptors_is_refused() {
        let limits = |text: &str| read(&format!("{HEAD}{SERVICE}[limits]\n{text}\n"));
        let limits = |text: &str| limits(text).map(|config| config.limits);
        let small = limits("memory = \"64MiB\"").unwrap();
        assert_eq!((small.memory, small.sessions), (64 << 20, 256));
        let error = limits("memory = \"64MiB\"\nsessions_max = 300").unwrap_err().to_string();
        assert!(error.starts_with("server.toml:9: limits.sessions_max: 300 sessions need 75 MiB"));
        let error = limits("memory = \"1MiB\"").unwrap_err().to_string();
        assert!(error.starts_with("server.toml:8: limits.memory: at least 16MiB"), "{error}");
        let error = limits("links_max = 1000000000000").unwrap_err().to_string();
        assert!(error.starts_with("server.toml:8: limits.links_max: "), "{error}");
        assert!(error.contains("descriptors would be needed"), "{error}");
    }

    #[test]
    fn a_relay_needs_a_cluster_and_knows_each_server_once() {
        let key = PublicKey([9; 32]);
        let relay = format!("[[relay]]\naddress = \"192.0.2.1:4433\"\nkey = \"{key}\"\n");
        let error = wrong(&format!("{HEAD}{relay}"));
        assert!(error.contains("relay: needs cluster"), "{error}");
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("cluster.key");
        stp_lookup::live_key::create(&file).unwrap();
        let head = format!("{HEAD}cluster = \"x\"\ncluster_key_file = {file:?}\n");
        let config = read(&format!("{head}{relay}")).unwrap();
        assert!(config.services.is_empty() && config.relays[0].key == key);
        let error = wrong(&format!("{head}{relay}{relay}"));
        assert!(error.starts_with("server.toml:10: relay[1].key: "), "{error}");
        let error = wrong(&format!("{head}{}", relay.replace(":4433", ":0")));
        assert!(error.starts_with("server.toml:6: relay[0].address: "), "{error}");
    }

    #[test]
    fn what_is_compared_can_be_chosen_and_the_old_key_says_what_to_write_now() {
        let service = SERVICE.replace("tcp", "http");
        let policy = |line: &str| {
            read(&format!("{HEAD}{service}{line}\n")).map(|config| config.services[0].policy)
        };
        assert_eq!(policy("").unwrap(), Policy::Prefix);
        assert_eq!(policy("compare = \"prefix\"").unwrap(), Policy::Prefix);
        assert_eq!(policy("compare = \"validators\"").unwrap(), Policy::Validators);
        let error = policy("compare = \"tail\"").unwrap_err().to_string();
        assert!(error.contains("prefix") && error.contains("validators"), "{error}");
        for (old, new) in [("true", "prefix"), ("false", "validators")] {
            let error = policy(&format!("compare_prefix = {old}")).unwrap_err().to_string();
            assert!(error.starts_with("server.toml:7: service[0].compare_prefix: "), "{error}");
            assert!(error.contains(&format!("write compare = {new:?}")), "{error}");
        }
    }

    #[test]
    fn a_service_has_what_its_kind_needs() {
        let error = wrong(&format!("{HEAD}{}", SERVICE.replace("to =", "root =")));
        assert!(error.starts_with("server.toml:6: service[0].root: "), "{error}");
        let error = wrong(&format!("{HEAD}{}", SERVICE.replace("tcp", "file")));
        assert!(error.starts_with("server.toml:6: service[0].to: "), "{error}");
        let https = SERVICE.replace("tcp", "https");
        let error = wrong(&format!("{HEAD}{https}"));
        assert!(error.contains("service[0].certificate: is missing"), "{error}");
        let error = wrong(&format!("{HEAD}{https}certificate = \"/none.pem\"\n"));
        assert!(error.contains("service[0].key: is missing"), "{error}");
        let files = "certificate = [\"/none.pem\"]\nkey = \"/none.key\"\n";
        let error = wrong(&format!("{HEAD}{https}{files}"));
        assert!(error.starts_with("server.toml:7: service[0].certificate: /none.pem: "), "{error}");
        let error = wrong(&format!("{HEAD}{SERVICE}{files}"));
        assert!(error.contains("only a service of kind https has one"), "{error}");
        let text = "[[service]]\nname = \"www.x@example.org\"\nkind = \"file\"\n";
        let error = wrong(&format!("{HEAD}{text}"));
        assert!(error.contains("service[0].root: is missing"), "{error}");
        let error = wrong(&format!("{HEAD}{text}root = \"/no/such/folder\"\n"));
        assert!(error.starts_with("server.toml:6: service[0].root: "), "{error}");
    }
}
