//! What the gateway's ticket says (STP 2): which user may have which service or file, from which
//! cluster, and until when.
//!
//! A broker shows it with the first CONNECT of a session. From then on the session's own tickets
//! ([`crate::ticket`]), which the servers renew, carry it from server to server, for days if need
//! be. The claims are JSON, sealed elsewhere and bound to the client's key in place of its address:
//! an address in the ticket would forbid roaming. A gateway may still be told to write the address
//! in.

use core::net::IpAddr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::scope::Scope;
use crate::ticket::{Granted, LEEWAY_S};

/// The longest claims, in bytes.
pub const GRANT_MAX: usize = 2_000;
const KIND: &str = "grant/1";

/// The claims of a gateway's ticket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Grant {
    #[serde(rename = "typ")]
    kind: String,
    /// The cluster whose servers may open it.
    #[serde(rename = "aud")]
    pub audience: String,
    /// The user.
    #[serde(rename = "sub")]
    pub user: String,
    /// The service, `service.object@domain`.
    pub service: String,
    /// What of the service may be asked for; none: the whole service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
    /// The first byte wanted.
    #[serde(default)]
    pub byte: u64,
    /// The client's public key, in base64url.
    #[serde(rename = "cnf")]
    client: String,
    /// The client's address, if the gateway insists on it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<IpAddr>,
    /// When it was made, in seconds since 1970.
    #[serde(rename = "iat")]
    pub issued: u64,
    /// When it ends.
    #[serde(rename = "exp")]
    pub expires: u64,
    /// A number that no other ticket has.
    #[serde(rename = "jti")]
    pub id: String,
}

/// Why a gateway's ticket is not accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum GrantError {
    /// It is not one.
    #[error("not the claims of a gateway's ticket: {0}")]
    Malformed(String),
    /// Its time is over.
    #[error("the ticket expired {0} s ago")]
    Expired(u64),
    /// It was made by a clock that is ahead.
    #[error("the ticket is from {0} s in the future")]
    Future(u64),
    /// It is for another cluster, client, address or service.
    #[error("the ticket is for another {0}")]
    Foreign(&'static str),
    /// Used by another session.
    #[error("the ticket was used before, by another session")]
    Replayed,
}

/// What a ticket is made for.
#[derive(Debug, Clone)]
pub struct GrantFor<'a> {
    /// The cluster.
    pub audience: &'a str,
    /// The user.
    pub user: &'a str,
    /// The service.
    pub service: &'a str,
    /// What of the service may be asked for; none: the whole service.
    pub scope: Option<Scope>,
    /// The first byte wanted of a file.
    pub byte: u64,
    /// The client's public key.
    pub client: &'a [u8; 32],
    /// The client's address, if the ticket is to be bound to it.
    pub address: Option<IpAddr>,
}

impl Grant {
    /// Claims with the unique `id`, valid for `life` seconds from `now`.
    #[must_use]
    pub fn new(what: &GrantFor<'_>, id: [u8; 16], (now, life): (u64, u64)) -> Grant {
        Grant {
            kind: KIND.to_owned(),
            audience: what.audience.to_owned(),
            user: what.user.to_owned(),
            service: what.service.to_owned(),
            scope: what.scope.clone(),
            byte: what.byte,
            client: URL_SAFE_NO_PAD.encode(what.client),
            address: what.address,
            issued: now,
            expires: now.saturating_add(life),
            id: URL_SAFE_NO_PAD.encode(id),
        }
    }

    /// The bytes to be sealed.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain data is always JSON")
    }

    /// Reads what was sealed.
    pub fn decode(bytes: &[u8]) -> Result<Grant, GrantError> {
        let malformed = |what: String| GrantError::Malformed(what);
        if bytes.len() > GRANT_MAX {
            return Err(malformed(format!("{} bytes, more than {GRANT_MAX}", bytes.len())));
        }
        let grant: Grant = serde_json::from_slice(bytes).map_err(|e| malformed(e.to_string()))?;
        if grant.kind != KIND {
            return Err(malformed(format!("type {:?}", grant.kind)));
        }
        Ok(grant)
    }

    /// Checks the ticket against the session that is asked for: its client, address and service.
    pub fn check(
        &self,
        audience: &str,
        service: &str,
        (client, address): (&[u8; 32], IpAddr),
        now: u64,
    ) -> Result<(), GrantError> {
        if now > self.expires.saturating_add(LEEWAY_S) {
            return Err(GrantError::Expired(now - self.expires));
        }
        if self.issued > now.saturating_add(LEEWAY_S) {
            return Err(GrantError::Future(self.issued - now));
        }
        let elsewhere = |bound: IpAddr| bound.to_canonical() != address.to_canonical();
        let foreign = [
            (self.audience != audience, "cluster"),
            (self.service != service, "service"),
            (self.client != URL_SAFE_NO_PAD.encode(client), "client"),
            (self.address.is_some_and(elsewhere), "address"),
        ];
        match foreign.iter().find(|(differs, _)| *differs) {
            Some((_, what)) => Err(GrantError::Foreign(what)),
            None => Ok(()),
        }
    }

    /// What the servers' own tickets repeat of it.
    #[must_use]
    pub fn granted(&self) -> Granted {
        Granted { user: self.user.clone(), at: self.issued, scope: self.scope.clone() }
    }
}
