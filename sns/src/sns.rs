//! The daemon's state, and the client that asks.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use parking_lot::Mutex;
use stp_net::admission::Shares;
use stp_net::key::PublicKey;
use stp_proto::lookup::{Body, Refusal, Refused};

use crate::attempts::Attempts;
use crate::cluster_key::Cluster;
use crate::config::Config;
use crate::record::{User, json, text};
use crate::store::{AnyStore, Change, CommitError, Guard, Lease};
use crate::tables::{Held, Tables};
use stp_net::limit::{Limiter, network};

/// Servers whose announcement is refused come again within this time.
const ANNOUNCED_AGAIN: Duration = Duration::from_secs(15);

/// The state of the daemon.
#[derive(Debug)]
pub struct Sns {
    /// The configuration.
    pub config: Config,
    /// The tables in memory, from which requests are answered.
    pub tables: Arc<Tables>,
    /// The store, for everything that must survive.
    pub store: Stored,
    /// The key that seals tickets.
    pub cluster: Cluster,
    /// The gateway's own key. It is part of a proof, so that a proof for this gateway is useless at
    /// another one.
    pub key: PublicKey,
    /// Requests per network.
    pub requests: Limiter<IpAddr>,
    /// Attempts to log in.
    pub attempts: Attempts,
    /// Links, shared by network.
    pub links: Arc<Shares>,
    /// The servers that announced themselves while the store was out of reach, by their keys in the
    /// store.
    heard: Mutex<HashMap<String, Instant>>,
    /// Counts of what was done.
    pub counters: Counters,
    /// When it was started.
    pub since: Instant,
}

/// The store, in a form that can be printed.
pub struct Stored(pub AnyStore);

impl std::fmt::Debug for Stored {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0.health().0)
    }
}

/// Counts since the start.
#[derive(Debug, Default)]
pub struct Counters {
    asked: Mutex<std::collections::BTreeMap<&'static str, u64>>,
    refused: Mutex<std::collections::BTreeMap<String, u64>>,
    /// Log-ins for which a disguise was made, and proofs that were checked against a key.
    pub disguised: AtomicU64,
    /// See above.
    pub checked: AtomicU64,
    /// Look-ups are counted apart: there are many.
    pub looked_up: AtomicU64,
    /// Changes told to links that watch a name.
    pub told: AtomicU64,
}

impl Counters {
    /// A request was made.
    pub fn asked(&self, what: &'static str) {
        *self.asked.lock().entry(what).or_default() += 1;
    }

    /// A request was refused.
    pub fn refused(&self, why: Refusal) {
        *self.refused.lock().entry(why.to_string()).or_default() += 1;
    }

    /// Requests by kind.
    #[must_use]
    pub fn all_asked(&self) -> Vec<(String, u64)> {
        let mut all: Vec<_> =
            self.asked.lock().iter().map(|(what, count)| ((*what).to_owned(), *count)).collect();
        all.push(("look_up".to_owned(), self.looked_up.load(Ordering::Relaxed)));
        all
    }

    /// Refusals by reason.
    #[must_use]
    pub fn all_refused(&self) -> Vec<(String, u64)> {
        self.refused.lock().iter().map(|(why, count)| (why.clone(), *count)).collect()
    }
}

/// The client that asks.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The key the link has proved.
    pub key: PublicKey,
    /// Where the link comes from.
    pub address: IpAddr,
    /// The user that is logged in on it.
    pub user: Option<LoggedIn>,
}

/// A user that has logged in, and the version of the record: when that changes, the log-in ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedIn {
    /// The user.
    pub name: String,
    /// The version of the record whose password was proved.
    pub version: u64,
}

impl LoggedIn {
    /// The record, unless it was changed or deleted since.
    #[must_use]
    pub fn record<'a>(&self, held: &'a Held) -> Option<&'a User> {
        let user = held.users.get(self.name.as_str())?;
        (user.version == self.version).then_some(&user.value)
    }
}

impl Caller {
    /// The client's network, for limits that count by network.
    #[must_use]
    pub fn network(&self) -> IpAddr {
        network(self.address)
    }
}

impl Sns {
    /// A daemon over a store whose sink is `tables`.
    pub async fn new(
        config: Config,
        tables: Arc<Tables>,
        store: AnyStore,
        cluster: Cluster,
        key: PublicKey,
    ) -> anyhow::Result<Arc<Sns>> {
        let limits = &config.limits;
        let sns = Sns {
            requests: Limiter::new(limits.requests),
            attempts: Attempts::new(limits),
            links: Shares::new(limits.links),
            heard: Mutex::default(),
            counters: Counters::default(),
            since: Instant::now(),
            store: Stored(store),
            tables,
            cluster,
            key,
            config,
        };
        sns.have_guise().await?;
        Ok(Arc::new(sns))
    }

    /// The secret behind unknown users' salts is made once, for all daemons on the store.
    async fn have_guise(&self) -> anyhow::Result<()> {
        if self.tables.read(|held| held.guise.is_some()) {
            return Ok(());
        }
        let key = "secret/guise".to_owned();
        let value = json(&text(&stp_lookup::password::random::<32>()));
        let put = Change::Put { key: key.clone(), value, lease: Lease::None };
        match self.commit(vec![Guard::Absent(key)], vec![put]).await {
            Ok(()) | Err(CommitError::Conflict) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Begins the lease of a key anew. While the store is not reachable, the key's owner counts as
    /// alive because this daemon has heard of it.
    pub async fn renew_lease(&self, key: String) -> Result<bool, CommitError> {
        let silent = self.store.0.silent_for();
        if silent > Duration::ZERO {
            self.heard.lock().insert(key, Instant::now());
            let text = format!("nothing was heard of it for {} s", silent.as_secs());
            return Err(CommitError::Unavailable(text));
        }
        self.heard.lock().clear();
        self.store.0.renew(key).await
    }

    /// Whether clients may be told what the tables hold under a leased key. A store that was silent
    /// for longer than the lease could not say that the lease has run out. Then only owners that
    /// this daemon has heard of meanwhile count.
    #[must_use]
    pub fn is_alive(&self, key: &str, lease: Duration) -> bool {
        if self.store.0.silent_for() <= lease {
            return true;
        }
        let heard = self.heard.lock().get(key).copied();
        heard.is_some_and(|heard| heard.elapsed() <= lease + ANNOUNCED_AGAIN)
    }

    /// Whether clients may be told of an endpoint in the tables. One without a lease stays for
    /// good.
    #[must_use]
    pub fn endpoint_is_alive(&self, name: &str, lease_s: u32) -> bool {
        lease_s == 0 || self.is_alive(&format!("ep/{name}"), Duration::from_secs(lease_s.into()))
    }

    /// Commits to the store.
    pub async fn commit(
        &self,
        guards: Vec<Guard>,
        changes: Vec<Change>,
    ) -> Result<(), CommitError> {
        self.store.0.commit(guards, changes).await
    }
}

/// The answer to a commit that was not done.
#[must_use]
pub fn not_committed(error: &CommitError) -> Body {
    match error {
        CommitError::Conflict => {
            let text = "it was changed by somebody else meanwhile; ask again";
            Body::Refused(Refused { why: Refusal::TooMany, retry_after_ms: 10, text: text.into() })
        }
        CommitError::Unavailable(_) => {
            tracing::warn!(%error, "a request could not be done");
            Body::refused(Refusal::Unavailable, "the store does not answer")
        }
    }
}

/// Too many requests of a kind.
#[must_use]
pub fn too_many(wait: Duration, text: &str) -> Body {
    let retry_after_ms = u32::try_from(wait.as_millis()).unwrap_or(u32::MAX).max(1);
    Body::Refused(Refused { why: Refusal::TooMany, retry_after_ms, text: text.to_owned() })
}

/// Seconds since 1970.
#[must_use]
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
