//! The records in the store. Each key has one JSON value, so that it can be read with `etcdctl`.
//!
//! | key | value |
//! |---|---|
//! | `ep/OBJECT@DOMAIN` | [`Endpoint`]; holds the lease |
//! | `sv/OBJECT@DOMAIN/SERVICE` | [`Service`]; kept by its endpoint's lease |
//! | `up/SERVER` | [`Announced`]: a server that is there now; leased |
//! | `srv/SERVER` | [`Server`]: what an operator allows a server |
//! | `inv/SERVER/SERVICE` | [`Inventory`]: which list of files holds |
//! | `invp/SERVER/SERVICE/DIGEST/N` | [`Page`]: a part of that list |
//! | `user/USER` | [`User`] |
//! | `rev/USER` | [`Revoked`]: since when the user's older tickets are good for nothing; leased |
//! | `secret/guise` | what unknown users' salts are made from |

use std::net::{IpAddr, SocketAddr};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};
use stp_lookup::Verifier;
use stp_net::key::PublicKey;
use stp_proto::lookup::{EndpointName, FileEntry, KdfCost, SALT_BYTES};
use stp_proto::name::Name;

/// An endpoint: something with a name that may move.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Endpoint {
    /// The key that made it; no other key may change it.
    pub owner: PublicKey,
    /// Where it is.
    pub addresses: Vec<IpAddr>,
    /// How many seconds it lives without a renewal; 0 stands for ever.
    pub lease_s: u32,
}

/// A service of an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    /// The port at the endpoint's addresses.
    pub port: u16,
    /// The public key that it shows.
    pub key: PublicKey,
}

/// A server that is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Announced {
    /// Its key.
    pub key: PublicKey,
    /// Where it listens.
    pub addresses: Vec<SocketAddr>,
    /// What it offers.
    pub services: Vec<String>,
    /// Its version, and public ids of its cluster keys.
    #[serde(default)]
    pub told: ([u8; 3], [u32; 3]),
}

/// What an operator allows a server.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Server {
    /// The key it must have.
    pub key: PublicKey,
    /// The services it may offer.
    pub services: Vec<String>,
}

/// Which list of a server's files is the valid one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Inventory {
    /// The digest of the whole announcement's inventory, in base64url.
    pub digest: String,
    /// How many pages it has.
    pub pages: u32,
    /// How many files.
    pub files: u64,
}

/// A part of a list of files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Page {
    /// Path, size, SHA-256 in base64url.
    pub files: Vec<(String, u64, String)>,
}

/// Somebody who may log in.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// Salt, in base64url.
    salt: String,
    memory_kib: u32,
    passes: u32,
    lanes: u32,
    /// The public half of the proving key, in base64url.
    proof: String,
    /// The list key, in base64url.
    list: String,
    /// The root of the user's files in the services' trees: nothing outside of it is the user's.
    pub tree: String,
    /// The services that the user may have; empty: all.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub services: Vec<String>,
}

impl std::fmt::Debug for User {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("User").field("tree", &self.tree).finish_non_exhaustive()
    }
}

/// Bytes in the form in which they are kept.
#[must_use]
pub fn text(bytes: &[u8]) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

/// Bytes out of the form in which they are kept.
#[must_use]
pub fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()
}

impl User {
    /// A user with this verifier and tree, who may have every service.
    #[must_use]
    pub fn new(verifier: &Verifier, tree: &str) -> User {
        User {
            salt: text(&verifier.salt),
            memory_kib: verifier.cost.memory_kib,
            passes: verifier.cost.passes,
            lanes: verifier.cost.lanes,
            proof: text(&verifier.proof),
            list: text(&verifier.list),
            tree: tree.to_owned(),
            services: Vec::new(),
        }
    }

    /// The same user with the password of another record.
    #[must_use]
    pub fn with_password_of(self, other: User) -> User {
        User { tree: self.tree, services: self.services, ..other }
    }

    /// Whether the user may have a service.
    #[must_use]
    pub fn may_have(&self, service: &str) -> bool {
        self.services.is_empty() || self.services.iter().any(|one| one == service)
    }

    /// What checks the user's proof.
    #[must_use]
    pub fn verifier(&self) -> Option<Verifier> {
        let cost = KdfCost { memory_kib: self.memory_kib, passes: self.passes, lanes: self.lanes };
        let salt: [u8; SALT_BYTES] = bytes(&self.salt)?;
        let verifier =
            Verifier { salt, cost, proof: bytes(&self.proof)?, list: bytes(&self.list)? };
        cost.is_acceptable().then_some(verifier)
    }
}

/// A user whose password was changed, or who was deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Revoked {
    /// Everything that was granted in this second or earlier has ended; in seconds since 1970.
    pub until: u64,
}

impl Page {
    /// A page of these files.
    #[must_use]
    pub fn new(files: &[FileEntry]) -> Page {
        let one = |file: &FileEntry| (file.path.as_str().to_owned(), file.size, text(&file.sha256));
        Page { files: files.iter().map(one).collect() }
    }
}

/// The key of an endpoint.
#[must_use]
pub fn endpoint_key(name: &EndpointName) -> String {
    format!("ep/{name}")
}

/// The key of a service.
#[must_use]
pub fn service_key(name: &Name) -> String {
    format!("sv/{}/{}", name.endpoint(), name.service())
}

/// The prefix of the keys of all services of an endpoint.
#[must_use]
pub fn services_below(name: &EndpointName) -> String {
    format!("sv/{name}/")
}

/// A value as it is written.
pub fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("plain data is always JSON")
}
