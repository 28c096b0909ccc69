//! The directory: the shipped Session Name Server, with its shipped store, over a disk that may be
//! full, in virtual time. Servers announce themselves, the owner of an endpoint renews its lease
//! and tells when it moves, the broker looks names up and watches them.
//!
//! What must hold: a client that was told that something is done finds it there, whatever happens
//! to the directory, until its lease has run out. And no client is told of a place whose lease has
//! run out.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use redb::Database;
use stp_net::cluster_key::ClusterKey;
use stp_net::key::PublicKey;
use stp_net::limit::Rate;
use stp_net::status::StatusAddr;
use stp_proto::lookup::{Answer, Ask, Body, Networks, Refusal, Request};
use stp_proto::time::Instant;
use stp_sns::cluster_key::Cluster;
use stp_sns::config::{Config, Creators, Domain, Limits, StoreConfig, Tickets};
use stp_sns::link::Client;
use stp_sns::record::{self, json};
use stp_sns::sns::{Caller, Sns};
use stp_sns::store::keeper::Keeper;
use stp_sns::store::{Change, CommitError, Guard, Later, Lease, Store};
use stp_sns::tables::Tables;

use crate::disk::{Disk, File, Full};
use crate::random::Random;

/// The service that all servers offer.
pub const FILES: &str = "www.files@example.org";
/// The service of an endpoint.
pub const HOST: &str = "ssh.host@example.org";
/// How late a lease may be noticed to have run out.
const SWEEP: Duration = Duration::from_millis(250);

/// Zero of the virtual clock, by the clock that the store reads.
static ZERO: LazyLock<std::time::Instant> = LazyLock::new(std::time::Instant::now);
static CLUSTER: LazyLock<Mutex<ClusterKey>> = LazyLock::new(|| Mutex::new(ClusterKey::generate()));

/// An asker.
#[derive(Copy, Clone, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub enum Asker {
    Broker,
    Server(usize),
    /// The owner of the endpoint, at the first server's machine.
    Owner,
}

impl Asker {
    /// The key it shows.
    pub fn key(self) -> PublicKey {
        PublicKey(match self {
            Asker::Broker => [100; 32],
            Asker::Owner => [101; 32],
            Asker::Server(server) => server_key(server),
        })
    }
}

pub fn server_key(server: usize) -> [u8; 32] {
    [u8::try_from(server + 1).expect("a few"); 32]
}

pub fn server_name(server: usize) -> &'static str {
    ["a", "b", "c"][server]
}

/// The keeper of the store, told what time it is.
struct Shelf {
    keeper: Mutex<Keeper>,
    clock: Arc<AtomicU64>,
}

impl Shelf {
    fn now(&self) -> std::time::Instant {
        *ZERO + Duration::from_micros(self.clock.load(Ordering::Relaxed))
    }

    fn with<T>(&self, work: impl FnOnce(std::time::Instant, &mut Keeper) -> T) -> T {
        work(self.now(), &mut self.keeper.lock().expect("no panic holds it"))
    }
}

impl Store for Shelf {
    fn commit(&self, guards: Vec<Guard>, changes: Vec<Change>) -> Later<Result<(), CommitError>> {
        let done = self.with(|now, keeper| keeper.commit(now, &[(guards, changes)]).pop());
        Box::pin(async { done.expect("one commit, one result") })
    }

    fn renew(&self, key: String) -> Later<Result<bool, CommitError>> {
        let known = self.with(|now, keeper| keeper.renew(now, &key));
        Box::pin(async move { Ok(known) })
    }

    fn health(&self) -> (String, bool) {
        ("simulated".to_owned(), self.with(|_, keeper| keeper.works()))
    }
}

/// What the directory said was done: the client, the time and the address.
#[derive(Clone, Debug)]
struct Promise {
    at: Instant,
    address: SocketAddr,
}

/// A link of an asker; `client` is the directory's end of it.
struct Line {
    asker: Asker,
    /// Where the asker was when it was made.
    place: SocketAddr,
    client: Client,
}

/// The process.
struct Daemon {
    sns: Arc<Sns>,
    tables: Arc<Tables>,
    store: Arc<Shelf>,
    since: Instant,
}

/// The directory.
pub struct Directory {
    disk: Arc<Disk>,
    clock: Arc<AtomicU64>,
    daemon: Option<Daemon>,
    lines: BTreeMap<u64, Line>,
    next_line: u64,
    /// Nothing comes through until then.
    pub down_until: Instant,
    /// The last word to a server that announced itself, and the address it said.
    promises: BTreeMap<Asker, Promise>,
    /// Requests that, by the answer, could not be carried out, or may have been.
    doubts: BTreeMap<Asker, SocketAddr>,
    /// How long an announcement holds, and how long an endpoint's lease is.
    pub lease_s: u32,
    pub answers: u64,
    pub lapses: u64,
}

impl Directory {
    pub fn new(now: Instant, servers: usize, lease_s: u32) -> Directory {
        let mut directory = Directory {
            disk: Arc::default(),
            clock: Arc::default(),
            daemon: None,
            lines: BTreeMap::new(),
            next_line: 0,
            down_until: Instant::default(),
            promises: BTreeMap::new(),
            doubts: BTreeMap::new(),
            lease_s,
            answers: 0,
            lapses: 0,
        };
        directory.start(now);
        directory.allow(servers);
        directory
    }

    /// An operator says which servers there are.
    fn allow(&self, servers: usize) {
        let Some(daemon) = &self.daemon else { return };
        for server in 0..servers {
            let key = PublicKey(server_key(server));
            let value = json(&record::Server { key, services: vec![FILES.to_owned()] });
            let key = format!("srv/{}", server_name(server));
            let put = Change::Put { key, value, lease: Lease::None };
            let done = ready(daemon.sns.commit(Vec::new(), vec![put]));
            done.expect("the disk is empty");
        }
    }

    /// Whether the process runs.
    pub fn runs(&self) -> bool {
        self.daemon.is_some()
    }

    /// Starts the process; it may fail, with a full disk.
    pub fn start(&mut self, now: Instant) -> bool {
        self.clock.store(now.0, Ordering::Relaxed);
        let tables: Arc<Tables> = Arc::default();
        let disk = Arc::clone(&self.disk);
        let open = move |_first| {
            let mut builder = Database::builder();
            builder.set_cache_size(1 << 20);
            Ok(builder.create_with_backend(File(Arc::clone(&disk)))?)
        };
        let at = *ZERO + Duration::from_micros(now.0);
        let sink: Arc<Tables> = Arc::clone(&tables);
        let Ok(keeper) = Keeper::open(at, Box::new(open), sink) else { return false };
        let clock = Arc::clone(&self.clock);
        let store = Arc::new(Shelf { keeper: Mutex::new(keeper), clock });
        let cluster = Cluster::fixed("cluster", CLUSTER.lock().expect("no panic").clone());
        let any: Arc<dyn Store> = Arc::clone(&store) as Arc<dyn Store>;
        let made =
            Sns::new(config(self.lease_s), Arc::clone(&tables), any, cluster, PublicKey([99; 32]));
        let Ok(sns) = ready(made) else { return false };
        self.daemon = Some(Daemon { sns, tables, store, since: now });
        true
    }

    /// The process dies, or the machine loses its power.
    pub fn die(&mut self, power: Option<&mut Random>) {
        self.daemon = None;
        self.lines.clear();
        if let Some(random) = power {
            self.disk.lose_power(random);
        }
    }

    pub fn fill(&self, full: Option<Full>) {
        self.disk.fill(full);
    }

    /// A link comes up.
    pub fn connect(&mut self, asker: Asker, place: SocketAddr) -> Option<u64> {
        let daemon = self.daemon.as_ref()?;
        let caller = Caller { key: asker.key(), address: place.ip(), user: None };
        let client = Client::new(Arc::clone(&daemon.sns), caller);
        self.next_line += 1;
        self.lines.insert(self.next_line, Line { asker, place, client });
        Some(self.next_line)
    }

    /// Whether a link still leads to where its asker is.
    pub fn leads(&self, line: u64, place: SocketAddr) -> bool {
        self.lines.get(&line).is_some_and(|line| line.place == place)
    }

    pub fn hang_up(&mut self, line: u64) {
        self.lines.remove(&line);
    }

    /// All links break, and no end is told.
    pub fn break_all(&mut self) {
        self.lines.clear();
    }

    /// A request; its answer.
    pub fn request(&mut self, now: Instant, line: u64, bytes: &[u8]) -> Option<Vec<u8>> {
        self.sweep(now);
        let works = self.works();
        let asker = self.asker(line)?;
        let request = Request::decode(bytes).expect("askers ask what can be read");
        let (id, address) = (request.id, self.address_in(asker, &request.ask));
        let at = self.lines.get_mut(&line)?;
        let body = ready(at.client.answer(request));
        self.note(now, works);
        self.answers += 1;
        if let Some(address) = address {
            self.promise(now, asker, address, &body);
        }
        Some(Answer { id, body }.encode().expect("an answer of a few places"))
    }

    /// Where an asker wants to be found.
    fn address_in(&self, asker: Asker, ask: &Ask) -> Option<SocketAddr> {
        match ask {
            Ask::Announce(announce) => Some(announce.addresses[0]),
            Ask::NewEndpoint(new) => Some(SocketAddr::new(new.addresses[0], 22)),
            Ask::ChangeEndpoint(change) => Some(SocketAddr::new(change.addresses[0], 22)),
            Ask::Renew(_) => self.promises.get(&asker).map(|promise| promise.address),
            _ => None,
        }
    }

    fn promise(&mut self, now: Instant, asker: Asker, address: SocketAddr, said: &Body) {
        match said {
            // A changed endpoint keeps its lease as it runs.
            Body::Done(_) => {
                if let Some(promise) = self.promises.get_mut(&asker) {
                    promise.address = address;
                }
            }
            Body::Created(_) | Body::Announced(_) => {
                self.doubts.remove(&asker);
                self.promises.insert(asker, Promise { at: now, address });
            }
            Body::Refused(refused) if refused.why == Refusal::Unavailable => {
                self.doubts.insert(asker, address);
            }
            Body::Refused(refused) if refused.why == Refusal::NotFound => {
                self.promises.remove(&asker);
            }
            _ => {}
        }
    }

    fn works(&self) -> bool {
        self.daemon.as_ref().is_some_and(|daemon| daemon.store.with(|_, keeper| keeper.works()))
    }

    /// A store that was opened again begins all leases anew.
    fn note(&mut self, now: Instant, worked: bool) {
        let works = self.works();
        if let (Some(daemon), false, true) = (&mut self.daemon, worked, works) {
            daemon.since = now;
        }
    }

    /// The changes that must be told to the links that watch.
    pub fn changes(&mut self) -> Vec<(u64, Vec<u8>)> {
        let mut told = Vec::new();
        for (number, line) in &mut self.lines {
            while let Some(answer) = line.client.next_change() {
                told.push((*number, answer.encode().expect("an answer of a few places")));
            }
        }
        told
    }

    pub fn asker(&self, line: u64) -> Option<Asker> {
        self.lines.get(&line).map(|line| line.asker)
    }

    /// Takes away what has lapsed, as the store's thread does.
    pub fn sweep(&mut self, now: Instant) {
        self.clock.store(now.0, Ordering::Relaxed);
        let worked = self.works();
        if let Some(daemon) = &self.daemon {
            let there =
                |tables: &Tables| tables.read(|held| held.announced.len() + held.endpoints.len());
            let before = there(&daemon.tables);
            daemon.store.with(|at, keeper| keeper.sweep(at));
            self.lapses += before.saturating_sub(there(&daemon.tables)) as u64;
        }
        self.note(now, worked);
    }

    /// When the next lease runs out, as the store's thread notices.
    pub fn next_lapse(&self) -> Option<Instant> {
        let daemon = self.daemon.as_ref()?;
        let until = daemon.store.with(|_, keeper| keeper.next_lapse())?;
        let micros = until.saturating_duration_since(*ZERO) + SWEEP;
        Some(Instant(u64::try_from(micros.as_micros()).expect("days")))
    }

    /// What must hold for the tables at any time.
    pub fn check(&self, now: Instant) {
        let Some(daemon) = &self.daemon else { return };
        let lease = Duration::from_secs(self.lease_s.into());
        let works = self.works();
        let told: BTreeMap<Asker, SocketAddr> = daemon.tables.read(|held| {
            let servers = held.announced.values().map(|one| {
                let server = usize::from(one.value.key.0[0]) - 1;
                (Asker::Server(server), one.value.addresses[0])
            });
            let hosts = held
                .endpoints
                .values()
                .map(|one| (Asker::Owner, SocketAddr::new(one.value.addresses[0], 22)));
            servers.chain(hosts).collect()
        });
        for (asker, promise) in &self.promises {
            let holds = now < promise.at + lease;
            let address = told.get(asker);
            let known = address == Some(&promise.address)
                || address.is_some() && address == self.doubts.get(asker);
            assert!(!holds || known, "{asker:?} was promised {promise:?}, found {address:?}");
        }
        for (asker, address) in &told {
            let last = self.promises.get(asker).map_or(Instant::default(), |promise| promise.at);
            let since = last.max(daemon.since);
            let fresh = now <= since + lease + SWEEP + SWEEP;
            // What could not be deleted is still there.
            assert!(fresh || !works, "{asker:?} is told at {address}, long after its lease");
        }
    }
}

/// What is ready at once.
pub fn ready<T>(work: impl Future<Output = T>) -> T {
    match pin!(work).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("nothing here waits"),
    }
}

fn config(lease_s: u32) -> Config {
    let plenty = Rate { per_s: 1e12, burst: 1e12 };
    let hour = Duration::from_secs(3_600);
    Config {
        name: "directory".to_owned(),
        listen: SocketAddr::new(IpAddr::from([10, 0, 9, 1]), 4480),
        key_file: PathBuf::new(),
        cluster: "cluster".to_owned(),
        cluster_key_file: PathBuf::new(),
        status: StatusAddr::Off,
        admin: PathBuf::new(),
        domains: vec![Domain { name: "example.org".to_owned(), creators: Creators::Any }],
        store: StoreConfig::Embedded(PathBuf::new()),
        networks: Networks::default(),
        tickets: Tickets { life: hour, bind_address: false },
        limits: Limits {
            links: 100,
            handshakes: 100,
            links_per_network: 100,
            requests: plenty,
            attempts: plenty,
            endpoints_per_key: 10,
            watches_per_link: 10,
            files_per_server: 10,
            lease_max: hour,
            server_lease: Duration::from_secs(lease_s.into()),
            fresh: Duration::from_secs(30),
            idle: hour,
        },
    }
}
