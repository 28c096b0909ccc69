//! etcd as the store, for several daemons that serve the same names.
//!
//! Spoken to by its JSON gateway over HTTP/1 (the crates that speak its gRPC want `protoc` to be
//! built). Guards are comparisons of a transaction, leases and watches are etcd's own. All keys
//! below our prefix are held in the sink's memory: read once, then followed by a watch. A commit
//! is answered when the watch has brought it back, so that what was written is also read.
//! Plain HTTP: etcd belongs on the same machine or on a network of its own.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::{Method, Request, Response};
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use parking_lot::Mutex;
use serde_json::{Value, json};
use tokio::sync::{oneshot, watch};

use super::{Applied, Change, CommitError, Guard, Later, Lease, Sink, Store};

/// An answer that takes longer is none.
const ANSWER_MAX: Duration = Duration::from_secs(5);
/// A commit waits this long for the watch to bring it back.
const BACK_MAX: Duration = Duration::from_secs(2);
/// A watch that says nothing for so long is asked for its progress; twice, and it is dead.
const PROGRESS: Duration = Duration::from_secs(10);
/// Keys read at once in the beginning.
const PAGE: u32 = 1_000;
/// The longest answer, and the longest line of a watch.
const BODY_MAX: usize = 64 << 20;

/// etcd as a store.
pub struct Etcd {
    shared: Arc<Shared>,
    /// Ends the watch when the store is dropped.
    _alive: oneshot::Sender<()>,
}

struct Shared {
    client: Client<HttpConnector, Full<Bytes>>,
    endpoints: Vec<String>,
    preferred: AtomicUsize,
    prefix: String,
    /// The leases of keys, as the watch tells them.
    leases: Mutex<HashMap<String, i64>>,
    revision: watch::Sender<i64>,
    works: AtomicBool,
}

impl std::fmt::Debug for Etcd {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Etcd").field("endpoints", &self.shared.endpoints).finish_non_exhaustive()
    }
}

impl Etcd {
    /// Connects to one of `endpoints` (`host:port`), and tells the sink all that is below
    /// `prefix`; then follows it for ever.
    pub async fn open(
        endpoints: Vec<String>,
        prefix: String,
        sink: Arc<dyn Sink>,
    ) -> anyhow::Result<Etcd> {
        let mut connector = HttpConnector::new();
        connector.set_connect_timeout(Some(Duration::from_secs(2)));
        connector.set_nodelay(true);
        let shared = Arc::new(Shared {
            client: Client::builder(TokioExecutor::new()).build(connector),
            endpoints,
            preferred: AtomicUsize::new(0),
            prefix,
            leases: Mutex::default(),
            revision: watch::channel(0).0,
            works: AtomicBool::new(false),
        });
        let loaded = shared.load(&*sink).await?;
        shared.works.store(true, Ordering::Relaxed);
        let (alive, ended) = oneshot::channel();
        tokio::spawn(Arc::clone(&shared).follow(loaded, sink, ended));
        Ok(Etcd { shared, _alive: alive })
    }
}

impl Store for Etcd {
    fn commit(&self, guards: Vec<Guard>, changes: Vec<Change>) -> Later<Result<(), CommitError>> {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move { shared.commit(&guards, changes).await })
    }

    fn renew(&self, key: String) -> Later<Result<bool, CommitError>> {
        let shared = Arc::clone(&self.shared);
        Box::pin(async move { shared.renew(&key).await })
    }

    fn health(&self) -> (String, bool) {
        let what = format!("etcd {} {}", self.shared.endpoints.join(","), self.shared.prefix);
        (what, self.shared.works.load(Ordering::Relaxed))
    }
}

fn unavailable(error: impl std::fmt::Display) -> CommitError {
    CommitError::Unavailable(error.to_string())
}

/// Numbers are strings in etcd's JSON, and zeros are left out.
fn number(value: &Value) -> i64 {
    value.as_str().and_then(|text| text.parse().ok()).or_else(|| value.as_i64()).unwrap_or(0)
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

impl Shared {
    fn key(&self, key: &str) -> String {
        STANDARD.encode(format!("{}{key}", self.prefix))
    }

    /// Posts to the endpoint that worked last; to the next one if it does not answer.
    async fn post(&self, path: &str, body: &Value) -> Result<Value, String> {
        let first = self.preferred.load(Ordering::Relaxed);
        let mut last = String::from("no endpoint");
        for turn in 0..self.endpoints.len() {
            let index = (first + turn) % self.endpoints.len();
            let exchange = async {
                let response = self.request(index, path, body).await?;
                let status = response.status();
                let limited = http_body_util::Limited::new(response.into_body(), BODY_MAX);
                let bytes = limited.collect().await.map_err(|e| e.to_string())?.to_bytes();
                let value: Value = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
                if status.is_success() { Ok(value) } else { Err(format!("{status}: {value}")) }
            };
            match tokio::time::timeout(ANSWER_MAX, exchange).await {
                Ok(Ok(value)) => {
                    self.preferred.store(index, Ordering::Relaxed);
                    return Ok(value);
                }
                Ok(Err(error)) => last = error,
                Err(_) => last = "no answer in time".to_owned(),
            }
            last = format!("{}: {last}", self.endpoints[index]);
        }
        Err(last)
    }

    async fn request(
        &self,
        index: usize,
        path: &str,
        body: &Value,
    ) -> Result<Response<Incoming>, String> {
        let uri = format!("http://{}{path}", self.endpoints[index]);
        let request = Request::builder()
            .method(Method::POST)
            .uri(uri)
            .body(Full::new(Bytes::from(body.to_string())))
            .map_err(|error| error.to_string())?;
        self.client.request(request).await.map_err(|error| {
            let source = std::error::Error::source(&error).map(ToString::to_string);
            source.unwrap_or_else(|| error.to_string())
        })
    }

    /// Reads everything; gives the revision it was read at.
    async fn load(&self, sink: &dyn Sink) -> anyhow::Result<i64> {
        let mut from = self.prefix.as_bytes().to_vec();
        let end = STANDARD.encode(end_of(&self.prefix));
        let (mut revision, mut all) = (0, Vec::new());
        let mut leases = HashMap::new();
        loop {
            let ask = json!({
                "key": STANDARD.encode(&from), "range_end": end, "limit": PAGE,
                "revision": revision,
            });
            let answer = self.post("/v3/kv/range", &ask).await;
            let answer = answer.map_err(|error| anyhow::anyhow!("etcd: {error}"))?;
            if revision == 0 {
                revision = number(&answer["header"]["revision"]);
            }
            let kvs = answer["kvs"].as_array().map(Vec::as_slice).unwrap_or_default();
            for kv in kvs {
                if let Some((key, applied, lease)) = self.read(kv) {
                    if lease != 0 {
                        leases.insert(key, lease);
                    }
                    all.push(applied);
                }
            }
            let more = answer["more"].as_bool().unwrap_or(false);
            let last = kvs.last().and_then(|kv| STANDARD.decode(kv["key"].as_str()?).ok());
            match last {
                Some(last) if more => from = [last, vec![0]].concat(),
                _ => break,
            }
        }
        *self.leases.lock() = leases;
        sink.reset(all);
        self.revision.send_replace(revision);
        Ok(revision)
    }

    fn read(&self, kv: &Value) -> Option<(String, Applied, i64)> {
        let key = String::from_utf8(STANDARD.decode(kv["key"].as_str()?).ok()?).ok()?;
        let key = key.strip_prefix(&self.prefix)?.to_owned();
        let value = STANDARD.decode(kv["value"].as_str().unwrap_or_default()).ok()?;
        let version = u64::try_from(number(&kv["mod_revision"])).ok()?;
        Some((key.clone(), Applied::Put { key, value, version }, number(&kv["lease"])))
    }

    /// Follows all changes for ever; reads everything anew where the history is gone.
    async fn follow(
        self: Arc<Self>,
        loaded: i64,
        sink: Arc<dyn Sink>,
        mut ended: oneshot::Receiver<()>,
    ) {
        let mut next = loaded + 1;
        let mut wait = Duration::from_millis(50);
        loop {
            let before = next;
            let lost = tokio::select! {
                lost = self.watch(&mut next, &*sink) => lost,
                _ = &mut ended => return,
            };
            tracing::warn!(store = "etcd", why = lost.text, "the watch ended, beginning another");
            if next > before {
                wait = Duration::from_millis(50);
            }
            self.works.store(false, Ordering::Relaxed);
            self.preferred.fetch_add(1, Ordering::Relaxed);
            tokio::time::sleep(wait).await;
            wait = (wait * 2).min(Duration::from_secs(2));
            if lost.history {
                match self.load(&*sink).await {
                    Ok(revision) => next = revision + 1,
                    Err(error) => tracing::warn!(%error, "cannot read the store"),
                }
            }
        }
    }

    async fn watch(&self, next: &mut i64, sink: &dyn Sink) -> Lost {
        let lost = |text: String| Lost { text, history: false };
        let create = json!({ "create_request": {
            "key": STANDARD.encode(&self.prefix),
            "range_end": STANDARD.encode(end_of(&self.prefix)),
            "start_revision": *next,
        }});
        let index = self.preferred.load(Ordering::Relaxed) % self.endpoints.len();
        let begun = tokio::time::timeout(ANSWER_MAX, self.request(index, "/v3/watch", &create));
        let mut body = match begun.await {
            Err(_) => return lost("no answer in time".into()),
            Ok(Err(error)) => return lost(error),
            Ok(Ok(response)) => response.into_body(),
        };
        let mut line = Vec::new();
        loop {
            let frame = match tokio::time::timeout(PROGRESS, body.frame()).await {
                // Silence is normal; whether etcd lives is asked on another connection.
                Err(_) => match self.is_alive(index, *next - 1).await {
                    Ok(()) => continue,
                    Err(error) => return lost(error),
                },
                Ok(None) => return lost("the stream ended".into()),
                Ok(Some(Err(error))) => return lost(error.to_string()),
                Ok(Some(Ok(frame))) => frame,
            };
            let Ok(data) = frame.into_data() else { continue };
            line.extend_from_slice(&data);
            while let Some(end) = line.iter().position(|byte| *byte == b'\n') {
                let one: Vec<u8> = line.drain(..=end).collect();
                if let Err(lost) = self.take(&one, next, sink) {
                    return lost;
                }
            }
            if line.len() > BODY_MAX {
                return lost("a line without an end".into());
            }
        }
    }

    /// Whether the endpoint answers, and has told all that it has. A watch that is silent while
    /// the store moves on below our prefix is as good as dead.
    async fn is_alive(&self, index: usize, known: i64) -> Result<(), String> {
        let ask = json!({
            "key": STANDARD.encode(&self.prefix),
            "range_end": STANDARD.encode(end_of(&self.prefix)),
            "keys_only": true, "limit": 1, "sort_order": "DESCEND", "sort_target": "MOD",
        });
        let response = tokio::time::timeout(ANSWER_MAX, self.request(index, "/v3/kv/range", &ask));
        let response = response.await.map_err(|_| "no answer in time".to_owned())??;
        let body = response.into_body().collect().await.map_err(|e| e.to_string())?.to_bytes();
        let value: Value = serde_json::from_slice(&body).map_err(|e| e.to_string())?;
        let newest = number(&value["kvs"][0]["mod_revision"]);
        // If it is only just under way, beginning anew costs little.
        if newest > known { Err("the watch is behind".into()) } else { Ok(()) }
    }

    /// One line of a watch.
    fn take(&self, line: &[u8], next: &mut i64, sink: &dyn Sink) -> Result<(), Lost> {
        let lost = |text: String| Lost { text, history: false };
        let value: Value = serde_json::from_slice(line).map_err(|e| lost(e.to_string()))?;
        let result = &value["result"];
        if result["canceled"].as_bool() == Some(true) {
            let compacted = number(&result["compact_revision"]);
            let text = format!("cancelled, history from {compacted}");
            return Err(Lost { text, history: compacted > 0 });
        }
        if result.is_null() {
            return Err(lost(value.to_string()));
        }
        self.works.store(true, Ordering::Relaxed);
        let mut applied = Vec::new();
        let events = result["events"].as_array().map(Vec::as_slice).unwrap_or_default();
        let mut newest = 0;
        for event in events {
            let kv = &event["kv"];
            newest = newest.max(number(&kv["mod_revision"]));
            let Some((key, put, lease)) = self.read(kv) else { continue };
            let mut leases = self.leases.lock();
            if event["type"].as_str() == Some("DELETE") {
                leases.remove(&key);
                applied.push(Applied::Gone(key));
            } else {
                match lease {
                    0 => leases.remove(&key),
                    lease => leases.insert(key, lease),
                };
                applied.push(put);
            }
        }
        if newest > 0 {
            sink.apply(applied);
            *next = newest + 1;
            self.revision.send_replace(newest);
        }
        Ok(())
    }

    async fn commit(&self, guards: &[Guard], changes: Vec<Change>) -> Result<(), CommitError> {
        let mut operations = Vec::new();
        for change in changes {
            operations.push(match change {
                Change::Put { key, value, lease } => {
                    let lease = match lease {
                        Lease::None => 0,
                        Lease::New(seconds) => self.grant(seconds).await?,
                        Lease::SameAs(other) => self.lease_of(&other),
                    };
                    json!({ "requestPut": {
                        "key": self.key(&key), "value": STANDARD.encode(value),
                        "lease": lease.to_string(),
                    }})
                }
                Change::Delete(key) => json!({ "requestDeleteRange": { "key": self.key(&key) } }),
                Change::DeleteBelow(below) => {
                    let prefix = format!("{}{below}", self.prefix);
                    json!({ "requestDeleteRange": {
                        "key": STANDARD.encode(&prefix),
                        "range_end": STANDARD.encode(end_of(&prefix)),
                    }})
                }
            });
        }
        let compare: Vec<Value> = guards
            .iter()
            .map(|guard| match guard {
                Guard::Absent(key) => json!({
                    "key": self.key(key), "target": "CREATE", "result": "EQUAL",
                    "create_revision": "0",
                }),
                Guard::Version(key, version) => json!({
                    "key": self.key(key), "target": "MOD", "result": "EQUAL",
                    "mod_revision": version.to_string(),
                }),
            })
            .collect();
        let ask = json!({ "compare": compare, "success": operations });
        let answer = self.post("/v3/kv/txn", &ask).await.map_err(unavailable)?;
        if answer["succeeded"].as_bool() != Some(true) {
            return Err(CommitError::Conflict);
        }
        let revision = number(&answer["header"]["revision"]);
        let changed = |response: &Value| {
            response.get("response_put").is_some()
                || number(&response["response_delete_range"]["deleted"]) > 0
        };
        let responses = answer["responses"].as_array().map(Vec::as_slice).unwrap_or_default();
        if responses.iter().any(changed) {
            let mut seen = self.revision.subscribe();
            let back = seen.wait_for(|seen| *seen >= revision);
            let _ = tokio::time::timeout(BACK_MAX, back).await;
        }
        Ok(())
    }

    fn lease_of(&self, key: &str) -> i64 {
        self.leases.lock().get(key).copied().unwrap_or(0)
    }

    async fn grant(&self, seconds: u32) -> Result<i64, CommitError> {
        let ask = json!({ "TTL": seconds.to_string() });
        let answer = self.post("/v3/lease/grant", &ask).await.map_err(unavailable)?;
        match number(&answer["ID"]) {
            0 => Err(unavailable(format!("no lease: {answer}"))),
            lease => Ok(lease),
        }
    }

    async fn renew(&self, key: &str) -> Result<bool, CommitError> {
        let lease = self.lease_of(key);
        if lease == 0 {
            let ask = json!({ "key": self.key(key), "count_only": true });
            let answer = self.post("/v3/kv/range", &ask).await.map_err(unavailable)?;
            return Ok(number(&answer["count"]) > 0);
        }
        let ask = json!({ "ID": lease.to_string() });
        let answer = self.post("/v3/lease/keepalive", &ask).await.map_err(unavailable)?;
        Ok(number(&answer["result"]["TTL"]) > 0)
    }
}

/// How a watch ended.
struct Lost {
    text: String,
    /// The history it would have to begin with is gone.
    history: bool,
}
