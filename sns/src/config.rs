//! The configuration file: its keys, their defaults, and the checks.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Deserialize;
use stp_net::config::{Address, ConfigError, Loaded, Span};
use stp_net::key::PublicKey;
use stp_net::machine;
use stp_net::status::StatusAddr;
use stp_proto::budget::{self, Seats};
use stp_proto::lookup::{EndpointName, Networks, user_is_good};

use stp_net::limit::Rate;

/// The places where the file is looked for if neither `--config` nor `$SESSION_SNS_CONFIG` names
/// it.
pub const PLACES: [&str; 1] = ["/etc/session/sns.toml"];

/// Links and handshakes at once, if there are descriptors enough.
const LINKS: usize = 10_000;
const HANDSHAKES_MAX: usize = 256;

/// The whole configuration, checked.
#[derive(Debug)]
pub struct Config {
    /// The name of this daemon.
    pub name: String,
    /// The address at which links are accepted.
    pub listen: SocketAddr,
    /// Where the key pair is kept; daemons that serve the same names share it.
    pub key_file: PathBuf,
    /// The cluster whose servers open the tickets.
    pub cluster: String,
    /// The file of the keys that seal them.
    pub cluster_key_file: PathBuf,
    /// The address at which the status is shown.
    pub status: StatusAddr,
    /// The socket of `stp-sns admin`.
    pub admin: PathBuf,
    /// The domains whose names are kept here.
    pub domains: Vec<Domain>,
    /// Where names are kept.
    pub store: StoreConfig,
    /// The distances between networks.
    pub networks: Networks,
    /// What tickets are like.
    pub tickets: Tickets,
    /// Bounds and rates.
    pub limits: Limits,
}

/// A domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    /// Its name.
    pub name: String,
    /// The clients that may make names in it.
    pub creators: Creators,
}

/// The clients that may make names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Creators {
    /// Every client.
    Any,
    /// Clients with these keys, and clients that are logged in as one of these users.
    These {
        /// Keys.
        keys: BTreeSet<PublicKey>,
        /// Users.
        users: BTreeSet<String>,
    },
}

/// Where names are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StoreConfig {
    /// In a file.
    Embedded(PathBuf),
    /// In etcd.
    Etcd(EtcdConfig),
}

/// An etcd cluster, and how to connect to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdConfig {
    /// Its members as `host:port`; one that answers is enough.
    pub endpoints: Vec<String>,
    /// The prefix of all keys.
    pub prefix: String,
    /// TLS to its members. Without it, the connections are not encrypted.
    pub tls: Option<EtcdTls>,
    /// The user as which the daemon logs in to it, and the file of the password.
    pub user: Option<(String, PathBuf)>,
}

/// TLS to etcd: files in PEM.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EtcdTls {
    /// The certificate authority that has signed etcd's certificates.
    pub ca_file: PathBuf,
    /// The daemon's own certificate and its key, if etcd wants one.
    pub identity: Option<(PathBuf, PathBuf)>,
}

/// What tickets are like.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tickets {
    /// How long a ticket can open a session. Sessions live longer, because their servers give them
    /// new tickets.
    pub life: Duration,
    /// Whether a ticket is valid only from the address that it was given to. This forbids roaming
    /// before the first CONNECT.
    pub bind_address: bool,
}

/// Bounds and rates.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Limits {
    /// Links at once.
    pub links: usize,
    /// Handshakes at once.
    pub handshakes: usize,
    /// Links at once from one network.
    pub links_per_network: usize,
    /// Requests of one network.
    pub requests: Rate,
    /// Failed log-ins of one network for one user.
    pub attempts: Rate,
    /// Endpoints of one key.
    pub endpoints_per_key: u32,
    /// Watches of one link.
    pub watches_per_link: usize,
    /// Files of one server and service.
    pub files_per_server: u64,
    /// The longest lease.
    pub lease_max: Duration,
    /// How long a server counts as present after it has announced itself.
    pub server_lease: Duration,
    /// How long a client may use the answer to a look-up.
    pub fresh: Duration,
    /// How long a link may be silent.
    pub idle: Duration,
}

impl Config {
    /// A domain kept here.
    #[must_use]
    pub fn domain(&self, name: &str) -> Option<&Domain> {
        self.domains.iter().find(|domain| domain.name == name)
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default = "default_name")]
    name: String,
    listen: Address,
    key_file: Option<PathBuf>,
    cluster: String,
    cluster_key_file: PathBuf,
    status: Option<StatusAddr>,
    admin: Option<PathBuf>,
    #[serde(default)]
    domain: Vec<FileDomain>,
    store: Option<FileStore>,
    #[serde(default)]
    network: Vec<FileNetwork>,
    #[serde(default)]
    distance: Vec<FileDistance>,
    #[serde(default)]
    tickets: FileTickets,
    #[serde(default)]
    limits: FileLimits,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileDomain {
    name: String,
    #[serde(default)]
    creators: FileCreators,
    #[serde(default)]
    users: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(untagged, expecting = "expected \"any\", or a list of public keys")]
enum FileCreators {
    Word(String),
    Keys(Vec<String>),
}

impl Default for FileCreators {
    fn default() -> Self {
        FileCreators::Keys(Vec::new())
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileStore {
    path: Option<PathBuf>,
    etcd: Option<Vec<String>>,
    prefix: Option<String>,
    ca_file: Option<PathBuf>,
    cert_file: Option<PathBuf>,
    key_file: Option<PathBuf>,
    user: Option<String>,
    password_file: Option<PathBuf>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileNetwork {
    name: String,
    prefixes: Vec<String>,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileDistance {
    between: [String; 2],
    hops: u8,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileTickets {
    life: Option<Span>,
    bind_address: bool,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct FileLimits {
    links_max: Option<usize>,
    links_per_network: Option<usize>,
    requests_per_s: Option<u32>,
    attempts: Option<u32>,
    attempts_per_minute: Option<u32>,
    endpoints_per_key: Option<u32>,
    watches_per_link: Option<usize>,
    files_per_server: Option<u64>,
    lease_max: Option<Span>,
    server_lease: Option<Span>,
    fresh: Option<Span>,
    idle: Option<Span>,
}

fn default_name() -> String {
    "sns".to_owned()
}

/// Reads and checks the file at `path`.
pub fn load(path: &Path) -> Result<Config, ConfigError> {
    check(&stp_net::config::load::<File>(path)?)
}

/// Checks `text` as if it were the file at `path`.
pub fn parse(path: &Path, text: &str) -> Result<Config, ConfigError> {
    check(&stp_net::config::parse::<File>(path, text)?)
}

fn check(loaded: &Loaded<File>) -> Result<Config, ConfigError> {
    let file = &loaded.config;
    if let Some(StatusAddr::Tcp(at)) = &file.status
        && !at.ip().is_loopback()
    {
        let what = format!("{at} is not a loopback address: the status is for this machine only");
        return Err(loaded.error("status", what));
    }
    if file.cluster.is_empty() || file.cluster.len() > 64 {
        return Err(loaded.error("cluster", "a name of 1 to 64 bytes is expected"));
    }
    let state = Path::new("/var/lib/session");
    Ok(Config {
        name: file.name.clone(),
        listen: file.listen.0,
        key_file: file.key_file.clone().unwrap_or_else(|| state.join("sns.key")),
        cluster: file.cluster.clone(),
        cluster_key_file: file.cluster_key_file.clone(),
        status: file.status.clone().unwrap_or(StatusAddr::Tcp(([127, 0, 0, 1], 7072).into())),
        admin: file.admin.clone().unwrap_or_else(|| "/run/session/sns-admin.sock".into()),
        domains: domains(loaded)?,
        store: store(loaded, state)?,
        networks: networks(loaded)?,
        tickets: Tickets {
            life: at_least(loaded, "tickets.life", file.tickets.life, 600, 10)?,
            bind_address: file.tickets.bind_address,
        },
        limits: limits(loaded)?,
    })
}

fn at_least(
    loaded: &Loaded<File>,
    key: &str,
    given: Option<Span>,
    default_s: u64,
    min_s: u64,
) -> Result<Duration, ConfigError> {
    let span = given.map_or(Duration::from_secs(default_s), |span| span.0);
    if span < Duration::from_secs(min_s) {
        return Err(loaded.error(key, format!("at least {min_s}s is needed")));
    }
    Ok(span)
}

fn domains(loaded: &Loaded<File>) -> Result<Vec<Domain>, ConfigError> {
    let mut domains: Vec<Domain> = Vec::new();
    for (index, domain) in loaded.config.domain.iter().enumerate() {
        let key = |name: &str| format!("domain[{index}].{name}");
        format!("x@{}", domain.name)
            .parse::<EndpointName>()
            .map_err(|error| loaded.error(&key("name"), error))?;
        if domains.iter().any(|known| known.name == domain.name) {
            return Err(loaded.error(&key("name"), "this domain is there twice"));
        }
        if let Some(user) = domain.users.iter().find(|user| !user_is_good(user)) {
            return Err(loaded.error(&key("users"), format!("{user:?} is no user's name")));
        }
        let creators = match &domain.creators {
            FileCreators::Word(word) if word == "any" => Creators::Any,
            FileCreators::Word(word) => {
                let what = format!("\"any\" or a list of public keys is expected, not {word:?}");
                return Err(loaded.error(&key("creators"), what));
            }
            FileCreators::Keys(keys) => {
                let read = |text: &String| {
                    text.parse().map_err(|error| loaded.error(&key("creators"), error))
                };
                Creators::These {
                    keys: keys.iter().map(read).collect::<Result<_, _>>()?,
                    users: domain.users.iter().cloned().collect(),
                }
            }
        };
        domains.push(Domain { name: domain.name.clone(), creators });
    }
    Ok(domains)
}

fn store(loaded: &Loaded<File>, state: &Path) -> Result<StoreConfig, ConfigError> {
    let Some(file) = &loaded.config.store else {
        return Ok(StoreConfig::Embedded(state.join("sns.redb")));
    };
    let Some(endpoints) = &file.etcd else {
        if let Some(key) = for_etcd_only(file) {
            return Err(loaded.error(&format!("store.{key}"), "is for etcd only"));
        }
        let path = file.path.clone().unwrap_or_else(|| state.join("sns.redb"));
        return Ok(StoreConfig::Embedded(path));
    };
    if file.path.is_some() {
        return Err(loaded.error("store.etcd", "a store has a path or is etcd, not both"));
    }
    etcd(loaded, file, endpoints).map(StoreConfig::Etcd)
}

/// Reports a key that has no meaning for the embedded store.
fn for_etcd_only(file: &FileStore) -> Option<&'static str> {
    let given = [
        (file.prefix.is_some(), "prefix"),
        (file.ca_file.is_some(), "ca_file"),
        (file.cert_file.is_some(), "cert_file"),
        (file.key_file.is_some(), "key_file"),
        (file.user.is_some(), "user"),
        (file.password_file.is_some(), "password_file"),
    ];
    given.into_iter().find(|(is_given, _)| *is_given).map(|(_, key)| key)
}

fn etcd(
    loaded: &Loaded<File>,
    file: &FileStore,
    endpoints: &[String],
) -> Result<EtcdConfig, ConfigError> {
    let wrong = |key: &str, what: &str| Err(loaded.error(&format!("store.{key}"), what));
    let is_bad =
        |one: &&String| one.rsplit_once(':').is_none_or(|(_, port)| port.parse::<u16>().is_err());
    if let Some(bad) = endpoints.iter().find(is_bad) {
        return wrong("etcd", &format!("{bad:?} is no endpoint such as \"127.0.0.1:2379\""));
    }
    if endpoints.is_empty() {
        return wrong("etcd", "at least one endpoint is needed");
    }
    let prefix = file.prefix.clone().unwrap_or_else(|| "/session/".to_owned());
    if prefix.is_empty() || prefix.len() > 100 {
        return wrong("prefix", "1 to 100 bytes are expected");
    }
    let identity = match (&file.cert_file, &file.key_file) {
        (Some(cert), Some(key)) => Some((cert.clone(), key.clone())),
        (None, None) => None,
        (Some(_), None) => return wrong("cert_file", "needs its key_file beside it"),
        (None, Some(_)) => return wrong("key_file", "needs its cert_file beside it"),
    };
    let tls = match &file.ca_file {
        Some(ca_file) => Some(EtcdTls { ca_file: ca_file.clone(), identity }),
        None if identity.is_some() => {
            return wrong(
                "cert_file",
                "needs the ca_file that etcd's own certificate is checked by",
            );
        }
        None => None,
    };
    let user = match (&file.user, &file.password_file) {
        (Some(user), Some(file)) => Some((user.clone(), file.clone())),
        (None, None) => None,
        (Some(_), None) => return wrong("user", "needs a password_file"),
        (None, Some(_)) => return wrong("password_file", "needs the user that it is for"),
    };
    let is_here = |one: &String| one.parse::<SocketAddr>().is_ok_and(|at| at.ip().is_loopback());
    if user.is_some() && tls.is_none() && !endpoints.iter().all(is_here) {
        return wrong("user", "the password would cross the network in the clear; give a ca_file");
    }
    Ok(EtcdConfig { endpoints: endpoints.to_vec(), prefix, tls, user })
}

fn networks(loaded: &Loaded<File>) -> Result<Networks, ConfigError> {
    let mut networks = Networks::default();
    for (index, network) in loaded.config.network.iter().enumerate() {
        for prefix in &network.prefixes {
            let key = format!("network[{index}].prefixes");
            networks
                .name(&network.name, prefix.parse().map_err(|e: String| loaded.error(&key, e))?);
        }
    }
    for (index, distance) in loaded.config.distance.iter().enumerate() {
        let [a, b] = &distance.between;
        let known = |name: &String| loaded.config.network.iter().any(|one| one.name == *name);
        if let Some(unknown) = [a, b].into_iter().find(|name| !known(name)) {
            let what = format!("no [[network]] is called {unknown:?}");
            return Err(loaded.error(&format!("distance[{index}].between"), what));
        }
        networks.distance(a, b, distance.hops);
    }
    Ok(networks)
}

fn limits(loaded: &Loaded<File>) -> Result<Limits, ConfigError> {
    let file = &loaded.config.limits;
    let positive = |key: &str, given: Option<u32>, default: u32| match given {
        Some(0) => Err(loaded.error(&format!("limits.{key}"), "0 would let nobody in")),
        given => Ok(f64::from(given.unwrap_or(default))),
    };
    let per_s = positive("requests_per_s", file.requests_per_s, 1_000)?;
    let burst = positive("attempts", file.attempts, 5)?;
    let per_minute = positive("attempts_per_minute", file.attempts_per_minute, 2)?;
    let span = |key: &str, given, default_s, min_s| {
        at_least(loaded, &format!("limits.{key}"), given, default_s, min_s)
    };
    let wanted = (file.links_max.unwrap_or(LINKS), file.links_max.is_some());
    let links = Seats { key: "limits.links_max", wanted, each: 1, share: 3 };
    let handshakes = Seats { key: "", wanted: (HANDSHAKES_MAX, false), each: 1, share: 1 };
    let fitted = budget::fit(machine::descriptors(), [links, handshakes]);
    let [links, handshakes] = fitted.map_err(|error| loaded.error(error.key, &error))?;
    Ok(Limits {
        links,
        handshakes,
        links_per_network: file.links_per_network.unwrap_or(256),
        requests: Rate { per_s, burst: per_s * 2.0 },
        attempts: Rate { per_s: per_minute / 60.0, burst },
        endpoints_per_key: file.endpoints_per_key.unwrap_or(10_000),
        watches_per_link: file.watches_per_link.unwrap_or(256),
        files_per_server: file.files_per_server.unwrap_or(200_000),
        lease_max: span("lease_max", file.lease_max, 7 * 86_400, 2)?,
        server_lease: span("server_lease", file.server_lease, 15, 2)?,
        fresh: span("fresh", file.fresh, 30, 1)?,
        idle: span("idle", file.idle, 3_600, 5)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "listen = \"127.0.0.1:4480\"\ncluster = \"c\"\ncluster_key_file = \"/k\"\n";

    fn wrong(text: &str) -> String {
        parse(Path::new("sns.toml"), &format!("{HEAD}{text}")).expect_err(text).to_string()
    }

    #[test]
    fn a_small_file_is_enough_and_a_whole_one_is_read() {
        let config = parse(Path::new("sns.toml"), HEAD).expect("enough");
        assert_eq!(config.store, StoreConfig::Embedded("/var/lib/session/sns.redb".into()));
        let text = format!(
            "{HEAD}[[domain]]\nname = \"example.com\"\ncreators = \"any\"\n\
             [[domain]]\nname = \"example.org\"\nusers = [\"alice\"]\n\
             [store]\netcd = [\"127.0.0.1:2379\"]\nprefix = \"/x/\"\n\
             [[network]]\nname = \"a\"\nprefixes = [\"10.0.0.0/8\"]\n\
             [[network]]\nname = \"b\"\nprefixes = [\"192.0.2.0/24\", \"2001:db8::/32\"]\n\
             [[distance]]\nbetween = [\"a\", \"b\"]\nhops = 4\n\
             [tickets]\nlife = \"1h\"\nbind_address = true\n\
             [limits]\nrequests_per_s = 5\nserver_lease = \"3s\"\n"
        );
        let config = parse(Path::new("sns.toml"), &text).expect("a whole one");
        assert_eq!(config.domain("example.com").expect("kept").creators, Creators::Any);
        let (a, b) = ("10.1.1.1".parse(), "192.0.2.1".parse());
        assert_eq!(config.networks.hops(a.expect("ip"), b.expect("ip")), 4);
        assert_eq!(config.limits.server_lease, Duration::from_secs(3));
    }

    #[test]
    fn every_mistake_is_named_with_file_line_and_key() {
        for (text, line, key) in [
            ("colour = 1\n", 4, "colour"),
            ("status = \"0.0.0.0:1\"\n", 4, "status"),
            ("[[domain]]\nname = \"a b\"\n", 5, "domain[0].name"),
            ("[[domain]]\nname = \"a\"\ncreators = \"some\"\n", 6, "domain[0].creators"),
            ("[[domain]]\nname = \"a\"\ncreators = [\"x\"]\n", 6, "domain[0].creators"),
            ("[store]\npath = \"/x\"\netcd = [\"a:1\"]\n", 6, "store.etcd"),
            ("[store]\netcd = [\"a\"]\n", 5, "store.etcd"),
            ("[store]\nprefix = \"/x/\"\n", 5, "store.prefix"),
            ("[store]\nuser = \"u\"\n", 5, "store.user"),
            ("[store]\netcd = [\"a:1\"]\ncert_file = \"/c\"\n", 6, "store.cert_file"),
            ("[store]\netcd = [\"a:1\"]\nuser = \"u\"\n", 6, "store.user"),
            ("[store]\netcd = [\"a:1\"]\nuser = \"u\"\npassword_file = \"/p\"\n", 6, "store.user"),
            ("[[network]]\nname = \"a\"\nprefixes = [\"x\"]\n", 6, "network[0].prefixes"),
            ("[[distance]]\nbetween = [\"a\", \"b\"]\nhops = 1\n", 5, "distance[0].between"),
            ("[tickets]\nlife = \"1s\"\n", 5, "tickets.life"),
            ("[limits]\nrequests_per_s = 0\n", 5, "limits.requests_per_s"),
        ] {
            let error = wrong(text);
            assert!(error.starts_with(&format!("sns.toml:{line}: {key}: ")), "{text} -> {error}");
        }
    }
}
