//! etcd as the store, for several daemons that serve the same names.
//!
//! The crate `etcd-client` speaks gRPC to it, with TLS, a client certificate and a user as the
//! configuration says. Guards are comparisons of a transaction; leases and watches are etcd's own.
//! The sink holds all keys below the configured prefix in memory: they are read once and then
//! followed by a watch. A commit is answered when the watch has brought it back, so that a client
//! can read what it has written.
//!
//! **Invariant:** every request ends: it has a time limit, and no answer may be longer than
//! [`ANSWER_BYTES_MAX`]. The watch is asked for a sign of life after [`PROGRESS`] of silence.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use etcd_client::{
    Certificate, Client, Compare, CompareOp, ConnectOptions, DeleteOptions, Error, EventType,
    GetOptions, Identity, KeyValue, PutOptions, TlsOptions, Txn, TxnOp, TxnOpResponse,
    WatchOptions, WatchResponse,
};
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use tokio::time::timeout;

use super::{Applied, Change, CommitError, Guard, Later, Lease, Sink, Store};
use crate::config::{EtcdConfig, EtcdTls};

/// A request that has no answer after this time has failed.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// An endpoint that takes longer to connect is passed over.
const CONNECT_MAX: Duration = Duration::from_secs(2);
/// A commit waits this long for the watch to bring it back.
const BACK_MAX: Duration = Duration::from_secs(2);
/// A watch that was silent for this time is asked for its progress. The time is shorter than the
/// shortest lease of a server, so that a lost store is noticed before servers seem to be lost.
const PROGRESS: Duration = Duration::from_secs(1);
/// How many keys are read at once in the beginning.
const PAGE: i64 = 1_000;
/// The longest answer: far more than a page of keys, each of which is below 64 KiB.
const ANSWER_BYTES_MAX: usize = 64 << 20;
/// The first pause before another watch is begun, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(2));

/// etcd as a store.
pub struct Etcd {
    shared: Arc<Shared>,
    /// Ends the watch when the store is dropped.
    _alive: oneshot::Sender<()>,
}

/// One member of the cluster, and the connection to it once there is one.
struct Endpoint {
    address: String,
    client: tokio::sync::Mutex<Option<Client>>,
}

struct Shared {
    endpoints: Vec<Endpoint>,
    /// The endpoint that answered last.
    preferred: AtomicUsize,
    options: ConnectOptions,
    prefix: String,
    /// The leases of keys, as the watch has told them.
    leases: Mutex<HashMap<String, i64>>,
    /// The newest revision that the sink has.
    revision: watch::Sender<i64>,
    works: AtomicBool,
    /// When etcd answered last.
    answered: Mutex<Instant>,
}

impl std::fmt::Debug for Etcd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Etcd").field("endpoints", &self.shared.names()).finish_non_exhaustive()
    }
}

impl Etcd {
    /// Connects to one of the endpoints, tells the sink all that is below the prefix, and then
    /// follows all changes for ever.
    pub async fn open(config: &EtcdConfig, sink: Arc<dyn Sink>) -> anyhow::Result<Etcd> {
        let endpoint = |address: &String| Endpoint {
            address: address.clone(),
            client: tokio::sync::Mutex::default(),
        };
        let shared = Arc::new(Shared {
            endpoints: config.endpoints.iter().map(endpoint).collect(),
            preferred: AtomicUsize::new(0),
            options: options(config)?,
            prefix: config.prefix.clone(),
            leases: Mutex::default(),
            revision: watch::channel(0).0,
            works: AtomicBool::new(false),
            answered: Mutex::new(Instant::now()),
        });
        let loaded = shared.load(&*sink).await?;
        shared.works.store(true, Ordering::Relaxed);
        let (alive, ended) = oneshot::channel();
        tokio::spawn(Arc::clone(&shared).follow(loaded, sink, ended));
        Ok(Etcd { shared, _alive: alive })
    }
}

/// The options of connections to the cluster. Reads the files that the configuration names.
fn options(config: &EtcdConfig) -> anyhow::Result<ConnectOptions> {
    let mut options = ConnectOptions::new()
        .with_connect_timeout(CONNECT_MAX)
        .with_keep_alive(ANSWER_MAX, ANSWER_MAX)
        .with_require_leader(true)
        .with_auto_token_refresh(true);
    if let Some(tls) = &config.tls {
        options = options.with_tls(tls_options(tls)?);
    }
    if let Some((user, password_file)) = &config.user {
        let password = stp_net::key::read_secret(password_file)?;
        options = options.with_user(user, password.trim_end_matches(['\r', '\n']));
    }
    Ok(options)
}

fn tls_options(config: &EtcdTls) -> anyhow::Result<TlsOptions> {
    let read = |path: &Path| {
        std::fs::read(path).map_err(|error| anyhow::anyhow!("{}: {error}", path.display()))
    };
    let options = TlsOptions::new().ca_certificate(Certificate::from_pem(read(&config.ca_file)?));
    let Some((cert, key)) = &config.identity else { return Ok(options) };
    let key = stp_net::key::read_secret(key)?;
    Ok(options.identity(Identity::from_pem(read(cert)?, key)))
}

impl Store for Etcd {
    fn commit(&self, guards: Vec<Guard>, changes: Vec<Change>) -> Later<Result<(), CommitError>> {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move { shared.commit(guards, changes).await })
    }

    fn renew(&self, key: String) -> Later<Result<bool, CommitError>> {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move { shared.renew(&key).await })
    }

    fn health(&self) -> (String, bool) {
        let what = format!("etcd {} {}", self.shared.names(), self.shared.prefix);
        (what, self.shared.works.load(Ordering::Relaxed))
    }

    fn silent_for(&self) -> Duration {
        if self.shared.works.load(Ordering::Relaxed) {
            return Duration::ZERO;
        }
        self.shared.answered.lock().elapsed()
    }
}

fn unavailable(error: impl std::fmt::Display) -> CommitError {
    CommitError::Unavailable(error.to_string())
}

/// An error with its causes, because "transport error" alone helps nobody. Of a gRPC status only
/// the message is taken: its own text repeats all causes in the notation of a debugger.
fn told(error: &Error) -> String {
    let (mut text, mut cause) = match error {
        Error::GRpcStatus(status) => {
            (status.message().to_owned(), std::error::Error::source(status))
        }
        other => (other.to_string(), std::error::Error::source(other)),
    };
    while let Some(inner) = cause {
        let inner_text = inner.to_string();
        if !text.contains(&inner_text) {
            text = format!("{text}: {inner_text}");
        }
        cause = inner.source();
    }
    text
}

impl Shared {
    fn names(&self) -> String {
        let names: Vec<_> = self.endpoints.iter().map(|one| one.address.as_str()).collect();
        names.join(",")
    }

    fn key(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// The connection to an endpoint. Logs in if there is a user.
    async fn client(&self, index: usize) -> Result<Client, Error> {
        let endpoint = &self.endpoints[index];
        let mut kept = endpoint.client.lock().await;
        if let Some(client) = &*kept {
            return Ok(client.clone());
        }
        let client = Client::connect([&endpoint.address], Some(self.options.clone())).await?;
        Ok(kept.insert(client).clone())
    }

    /// Asks the endpoint that answered last. If it does not answer, the next one is asked.
    async fn ask<T, F>(&self, request: impl Fn(Client) -> F) -> Result<T, String>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let first = self.preferred.load(Ordering::Relaxed);
        let mut last = String::from("no endpoint");
        for turn in 0..self.endpoints.len() {
            let index = (first + turn) % self.endpoints.len();
            let exchange = async { request(self.client(index).await?).await };
            match timeout(ANSWER_MAX, exchange).await {
                Ok(Ok(answer)) => {
                    self.preferred.store(index, Ordering::Relaxed);
                    *self.answered.lock() = Instant::now();
                    return Ok(answer);
                }
                Ok(Err(error)) => last = told(&error),
                Err(_) => last = format!("no answer within {} s", ANSWER_MAX.as_secs()),
            }
            last = format!("{}: {last}", self.endpoints[index].address);
        }
        Err(last)
    }

    /// Reads everything. Returns the revision at which it was read.
    async fn load(&self, sink: &dyn Sink) -> anyhow::Result<i64> {
        let mut from = self.prefix.clone().into_bytes();
        let end = end_of(&self.prefix);
        let (mut revision, mut all) = (0, Vec::new());
        let mut leases = HashMap::new();
        loop {
            let range =
                GetOptions::new().with_range(end.clone()).with_limit(PAGE).with_revision(revision);
            let answer = self.ask(|client| {
                let (from, range) = (from.clone(), range.clone());
                let mut kv = client.kv_client().max_decoding_message_size(ANSWER_BYTES_MAX);
                async move { kv.get(from, Some(range)).await }
            });
            let answer = answer.await.map_err(|error| anyhow::anyhow!("etcd: {error}"))?;
            if revision == 0 {
                revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
            }
            for kv in answer.kvs() {
                if let Some((key, applied)) = self.read(kv) {
                    if kv.lease() != 0 {
                        leases.insert(key, kv.lease());
                    }
                    all.push(applied);
                }
            }
            match answer.kvs().last() {
                Some(last) if answer.more() => from = [last.key(), &[0]].concat(),
                _ => break,
            }
        }
        *self.leases.lock() = leases;
        sink.reset(all);
        self.revision.send_replace(revision);
        Ok(revision)
    }

    fn read(&self, kv: &KeyValue) -> Option<(String, Applied)> {
        let key = std::str::from_utf8(kv.key()).ok()?.strip_prefix(&self.prefix)?.to_owned();
        let version = u64::try_from(kv.mod_revision()).ok()?;
        Some((key.clone(), Applied::Put { key, value: kv.value().to_vec(), version }))
    }

    /// Follows all changes for ever. If the history is gone, it reads everything anew.
    async fn follow(
        self: Arc<Self>,
        loaded: i64,
        sink: Arc<dyn Sink>,
        mut ended: oneshot::Receiver<()>,
    ) {
        let mut next = loaded + 1;
        let mut pause = PAUSE.0;
        loop {
            let before = next;
            let lost = tokio::select! {
                lost = self.watch(&mut next, &*sink) => lost,
                _ = &mut ended => return,
            };
            tracing::warn!(store = "etcd", why = lost.text, "the watch ended, beginning another");
            if next > before {
                pause = PAUSE.0;
            }
            self.works.store(false, Ordering::Relaxed);
            self.preferred.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(PAUSE.1);
            if lost.history {
                match self.load(&*sink).await {
                    Ok(revision) => next = revision + 1,
                    Err(error) => tracing::warn!(%error, "cannot read the store"),
                }
            }
        }
    }

    /// One watch, until it ends. It is asked for its progress when it is silent.
    async fn watch(&self, next: &mut i64, sink: &dyn Sink) -> Lost {
        let index = self.preferred.load(Ordering::Relaxed) % self.endpoints.len();
        let wanted = WatchOptions::new().with_prefix().with_start_revision(*next);
        let begin = async {
            let client = self.client(index).await?;
            let mut client = client.watch_client().max_decoding_message_size(ANSWER_BYTES_MAX);
            client.watch(self.prefix.as_str(), Some(wanted)).await
        };
        let mut stream = match timeout(ANSWER_MAX, begin).await {
            Err(_) => return Lost::new("it did not begin in time"),
            Ok(Err(error)) => return Lost::new(told(&error)),
            Ok(Ok(stream)) => stream,
        };
        // Whether the watch was asked for its progress and has not answered yet.
        let mut asked = false;
        loop {
            let patience = if asked { ANSWER_MAX } else { PROGRESS };
            let response = match timeout(patience, stream.message()).await {
                Err(_) if asked => return Lost::new("no answer in time"),
                Err(_) => {
                    if let Err(error) = stream.request_progress().await {
                        return Lost::new(told(&error));
                    }
                    asked = true;
                    continue;
                }
                Ok(Ok(Some(response))) => response,
                Ok(Ok(None)) => return Lost::new("the stream ended"),
                Ok(Err(error)) => return Lost::new(told(&error)),
            };
            asked = false;
            if let Err(lost) = self.take(&response, next, sink) {
                return lost;
            }
        }
    }

    /// One message of a watch.
    fn take(&self, response: &WatchResponse, next: &mut i64, sink: &dyn Sink) -> Result<(), Lost> {
        if response.canceled() {
            let (why, compacted) = (response.cancel_reason(), response.compact_revision());
            let text = format!("cancelled: {why}; history from {compacted}");
            return Err(Lost { text, history: compacted > 0 });
        }
        *self.answered.lock() = Instant::now();
        self.works.store(true, Ordering::Relaxed);
        let mut applied = Vec::new();
        let mut newest = 0;
        for event in response.events() {
            let Some(kv) = event.kv() else { continue };
            newest = newest.max(kv.mod_revision());
            let Some((key, put)) = self.read(kv) else { continue };
            let mut leases = self.leases.lock();
            match (event.event_type(), kv.lease()) {
                (EventType::Delete, _) | (_, 0) => leases.remove(&key),
                (_, lease) => leases.insert(key.clone(), lease),
            };
            let gone = event.event_type() == EventType::Delete;
            applied.push(if gone { Applied::Gone(key) } else { put });
        }
        if newest > 0 {
            sink.apply(applied);
            *next = newest + 1;
            self.revision.send_replace(newest);
        }
        Ok(())
    }

    async fn commit(&self, guards: Vec<Guard>, changes: Vec<Change>) -> Result<(), CommitError> {
        let mut operations = Vec::new();
        for change in changes {
            operations.push(self.operation(change).await?);
        }
        let compare: Vec<Compare> = guards.iter().map(|guard| self.comparison(guard)).collect();
        let txn = Txn::new().when(compare).and_then(operations);
        let answer = self.ask(|client| {
            let txn = txn.clone();
            let mut kv = client.kv_client().max_decoding_message_size(ANSWER_BYTES_MAX);
            async move { kv.txn(txn).await }
        });
        let answer = answer.await.map_err(unavailable)?;
        if !answer.succeeded() {
            return Err(CommitError::Conflict);
        }
        let changed = |response: &TxnOpResponse| match response {
            TxnOpResponse::Delete(delete) => delete.deleted() > 0,
            _ => true,
        };
        if answer.op_responses().iter().any(changed) {
            let revision = answer.header().map_or(0, etcd_client::ResponseHeader::revision);
            let mut seen = self.revision.subscribe();
            let _ = timeout(BACK_MAX, seen.wait_for(|seen| *seen >= revision)).await;
        }
        Ok(())
    }

    async fn operation(&self, change: Change) -> Result<TxnOp, CommitError> {
        Ok(match change {
            Change::Put { key, value, lease } => {
                let lease = match lease {
                    Lease::None => 0,
                    Lease::New(seconds) => self.grant(seconds).await?,
                    Lease::SameAs(other) => self.lease_of(&other),
                };
                TxnOp::put(self.key(&key), value, Some(PutOptions::new().with_lease(lease)))
            }
            Change::Delete(key) => TxnOp::delete(self.key(&key), None),
            Change::DeleteBelow(below) => {
                TxnOp::delete(self.key(&below), Some(DeleteOptions::new().with_prefix()))
            }
        })
    }

    fn comparison(&self, guard: &Guard) -> Compare {
        match guard {
            Guard::Absent(key) => Compare::create_revision(self.key(key), CompareOp::Equal, 0),
            Guard::Version(key, version) => {
                // A version came from etcd as a positive number of 63 bits.
                let version = i64::try_from(*version).unwrap_or(i64::MAX);
                Compare::mod_revision(self.key(key), CompareOp::Equal, version)
            }
        }
    }

    fn lease_of(&self, key: &str) -> i64 {
        self.leases.lock().get(key).copied().unwrap_or(0)
    }

    async fn grant(&self, seconds: u32) -> Result<i64, CommitError> {
        let granted = self.ask(|client| {
            let mut leases = client.lease_client();
            async move { leases.grant(seconds.into(), None).await }
        });
        Ok(granted.await.map_err(unavailable)?.id())
    }

    async fn renew(&self, key: &str) -> Result<bool, CommitError> {
        let lease = self.lease_of(key);
        if lease == 0 {
            let key = self.key(key);
            let counted = self.ask(|client| {
                let (key, mut kv) = (key.clone(), client.kv_client());
                async move { kv.get(key, Some(GetOptions::new().with_count_only())).await }
            });
            return Ok(counted.await.map_err(unavailable)?.count() > 0);
        }
        let renewed = self.ask(|client| {
            let mut leases = client.lease_client();
            async move {
                match leases.keep_alive(lease).await {
                    Ok(_) => Ok(true),
                    // This kind of error has only one cause here: the lease does not exist any
                    // more.
                    Err(Error::LeaseKeepAliveError(_)) => Ok(false),
                    Err(error) => Err(error),
                }
            }
        });
        renewed.await.map_err(unavailable)
    }
}

/// The end of the range of all keys that begin with `prefix`.
fn end_of(prefix: &str) -> Vec<u8> {
    let mut end = prefix.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < 0xFF {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}

/// How a watch ended.
struct Lost {
    text: String,
    /// The history that the watch would have to begin with is gone.
    history: bool,
}

impl Lost {
    fn new(text: impl Into<String>) -> Lost {
        Lost { text: text.into(), history: false }
    }
}
