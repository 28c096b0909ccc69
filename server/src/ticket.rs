//! Tickets at this server: filled in by `stp_proto::ticket`, sealed and opened by `stp_net::seal`.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::{SecureRandom, SystemRandom};
use parking_lot::Mutex;
use stp_lookup::live_key::LiveKey;
use stp_net::cluster_key::ClusterKey;
use stp_net::key::{KeyError, PublicKey};
use stp_net::seal;
use stp_proto::handle::Handle;
use stp_proto::profile::Profile;
use stp_proto::replay::Exchange;
use stp_proto::scope::Scope;
use stp_proto::ticket::{Claims, Granted, Holder, TicketError};
use zeroize::Zeroizing;

/// The cluster this server belongs to.
#[derive(Debug)]
pub struct Cluster {
    /// Its name, the audience of its tickets.
    pub name: String,
    /// What seals them.
    key: LiveKey,
    /// How long they are valid.
    pub life: Duration,
    /// The last ticket that was sealed with a key that this server does not have.
    foreign: Mutex<Option<Foreign>>,
}

/// A ticket of another cluster, or of a server of this one whose key file differs.
#[derive(Debug, Clone)]
pub struct Foreign {
    /// The public id of the key that sealed it, as PASERK writes it.
    pub key: String,
    /// Who showed it.
    pub client: PublicKey,
    /// The time of its last use here.
    pub at: Instant,
}

/// Makes the tickets of one session.
#[derive(Debug)]
pub struct Mint {
    cluster: Arc<Cluster>,
    holder: Holder,
    /// What the gateway has granted; every ticket repeats it.
    granted: Option<Granted>,
}

/// Why a ticket was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum BadTicket {
    /// It cannot be opened here by this client.
    #[error(transparent)]
    Sealed(#[from] seal::OpenError),
    /// It does not fit.
    #[error(transparent)]
    Claims(#[from] TicketError),
}

impl Cluster {
    /// A cluster whose key is in a file.
    pub fn load(name: &str, path: &Path, life: Duration) -> Result<Cluster, KeyError> {
        Ok(Cluster::new(name, LiveKey::load(path, life)?, life))
    }

    /// A cluster with a key that does not change.
    #[must_use]
    pub fn fixed(name: &str, key: ClusterKey, life: Duration) -> Cluster {
        Cluster::new(name, LiveKey::fixed(key), life)
    }

    fn new(name: &str, key: LiveKey, life: Duration) -> Cluster {
        Cluster { name: name.to_owned(), key, life, foreign: Mutex::default() }
    }

    /// The last ticket that was sealed with a key that this server does not have.
    #[must_use]
    pub fn foreign(&self) -> Option<Foreign> {
        self.foreign.lock().clone()
    }

    /// What an operator should know of the key.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        self.key.warnings()
    }

    /// Sees to it that past days are forgotten. It never ends.
    pub async fn follow(&self) {
        self.key.follow().await;
    }

    /// What a server of this cluster says of itself.
    #[must_use]
    pub fn profile(&self) -> Profile {
        self.key.profile()
    }

    fn unseal(&self, ticket: &[u8], client: &PublicKey) -> Result<Vec<u8>, seal::OpenError> {
        let opened = seal::open(&self.key(), ticket, client);
        if let Err(seal::OpenError::ForeignKey(key)) = &opened {
            let (key, client, at) = (key.clone(), *client, Instant::now());
            *self.foreign.lock() = Some(Foreign { key, client, at });
        }
        opened
    }

    /// The key as it is now.
    #[must_use]
    pub fn key(&self) -> Arc<ClusterKey> {
        self.key.now()
    }

    /// The mint of a session.
    #[must_use]
    pub fn mint(self: &Arc<Self>, service: &str, client: PublicKey, handle: Handle) -> Mint {
        let holder = Holder {
            audience: self.name.clone(),
            service: service.to_owned(),
            client: client.0,
            handle,
        };
        Mint { cluster: Arc::clone(self), holder, granted: None }
    }
}

/// Seals and opens the tickets of one session.
pub trait Seal {
    /// Only what was granted may be asked for.
    fn restrict(&mut self, granted: Option<Granted>);

    /// What the gateway has granted.
    fn granted(&self) -> Option<&Granted>;

    /// What may be asked for, if that is not the whole service.
    fn scope(&self) -> Option<&Scope> {
        self.granted()?.scope.as_ref()
    }

    /// Seals a ticket for these positions; empty if the exchange does not fit into one.
    fn seal(&self, at: (u64, u64), exchange: Exchange) -> Vec<u8>;

    /// Opens a ticket of this session and checks it against the request's positions: the app's
    /// side has `have` down bytes, and will send again from up byte `up_from`.
    ///
    /// # Errors
    /// When the ticket is not good for that.
    fn open(&self, ticket: &[u8], have: u64, up_from: u64) -> Result<Claims, BadTicket>;
}

impl Seal for Mint {
    fn restrict(&mut self, granted: Option<Granted>) {
        self.granted = granted;
    }

    fn granted(&self) -> Option<&Granted> {
        self.granted.as_ref()
    }

    fn seal(&self, (up, down): (u64, u64), exchange: Exchange) -> Vec<u8> {
        let times = (unix_now(), self.cluster.life.as_secs());
        let mut claims = Claims::new(&self.holder, random_handle(), times, (up, down), exchange);
        claims.granted.clone_from(&self.granted);
        match claims.encode() {
            Ok(bytes) => {
                // There may be secrets of TLS in it.
                let bytes = Zeroizing::new(bytes);
                seal::seal(&self.cluster.key(), &bytes, &PublicKey(self.holder.client))
            }
            Err(error) => {
                tracing::debug!(%error, "no ticket for this exchange");
                Vec::new()
            }
        }
    }

    fn open(&self, ticket: &[u8], have: u64, up_from: u64) -> Result<Claims, BadTicket> {
        let client = PublicKey(self.holder.client);
        let bytes = Zeroizing::new(self.cluster.unseal(ticket, &client)?);
        let claims = Claims::decode(&bytes)?;
        claims.check(&self.holder, unix_now(), (have, up_from))?;
        Ok(claims)
    }
}

/// A handle nobody can guess.
#[must_use]
pub fn random_handle() -> Handle {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).expect("the system's randomness does not fail");
    Handle(bytes)
}

/// Seconds since 1970.
#[must_use]
pub fn unix_now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine;
    use base64::engine::general_purpose::{STANDARD, STANDARD_NO_PAD, URL_SAFE_NO_PAD};
    use stp_net::key::Identity;
    use stp_proto::replay::{http, https};

    const LIFE: Duration = Duration::from_secs(3_600);

    fn in_tls(keys: &[u8]) -> Exchange {
        Exchange::Https(Box::new(https::Exchange {
            http: http::Exchange::Idle { close: false },
            at: 0,
            covers: 0,
            skip: 0,
            plain: 0,
            from: 0,
            digest: None,
            first: 16_384,
            update: false,
            updated: 0,
            keys: https::Hidden::new(Zeroizing::new(keys.to_vec())),
        }))
    }

    #[test]
    fn a_stolen_ticket_opens_no_tls_without_the_clusters_key() {
        let secrets = [0xab; 82];
        let key = ClusterKey::generate();
        let cluster = |key: &ClusterKey| Arc::new(Cluster::fixed("example", key.clone(), LIFE));
        let (owner, handle) = (Identity::generate().public_key(), Handle([1; 16]));
        let mint = |key: &ClusterKey, client| cluster(key).mint("www.m@example", client, handle);
        let ticket = mint(&key, owner).seal((0, 0), in_tls(&secrets));
        let text = String::from_utf8(ticket.clone()).expect("PASETO is text");
        let body = URL_SAFE_NO_PAD.decode(text.split('.').nth(2).expect("three parts or more"));
        let body = body.expect("base64");
        for shown in [&ticket, &body] {
            for secret in [
                secrets[..16].to_vec(),
                STANDARD.encode(&secrets[..12]).into_bytes(),
                STANDARD_NO_PAD.encode(&secrets[2..14]).into_bytes(),
                b"abababab".to_vec(),
            ] {
                assert!(!shown.windows(secret.len()).any(|part| part == secret));
            }
        }
        // Of another cluster, for another client, and for another session of the same one.
        let refused = |mint: Mint| mint.open(&ticket, 0, 0).expect_err("not his").to_string();
        let other = refused(mint(&ClusterKey::generate(), owner));
        assert!(other.contains("which this cluster does not know"), "{other}");
        let thief = refused(mint(&key, Identity::generate().public_key()));
        assert!(thief.contains("belongs to another client"), "{thief}");
        let another = refused(cluster(&key).mint("www.m@example", owner, Handle([2; 16])));
        assert!(another.contains("another session"), "{another}");
        let claims = mint(&key, owner).open(&ticket, 0, 0).expect("its own");
        let Exchange::Https(exchange) = claims.exchange else { panic!("of TLS") };
        assert_eq!(exchange.keys.bytes(), secrets);
    }
}
