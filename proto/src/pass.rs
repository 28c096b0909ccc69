//! What a pass says (R80). With it a server lets the client of one of its sessions come to it
//! through other servers of its cluster.
//!
//! A pass is sealed with the cluster's key and bound to the client's key, like a ticket. So the
//! server that relays knows that the other one belongs to its own cluster, and has admitted this
//! client.

use serde::{Deserialize, Serialize};

use crate::ticket::LEEWAY_S;

/// The longest claims, in bytes.
pub const CLAIMS_MAX: usize = 400;
const KIND: &str = "pass/1";

/// The claims of a pass.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pass {
    #[serde(rename = "typ")]
    kind: String,
    /// The cluster whose servers may open it.
    #[serde(rename = "aud")]
    audience: String,
    /// The key of the server to be reached.
    home: [u8; 32],
    /// When it was made, in seconds since 1970.
    #[serde(rename = "iat")]
    issued: u64,
    /// When it ends.
    #[serde(rename = "exp")]
    expires: u64,
}

/// Why a pass does not help.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PassError {
    /// The bytes are no pass.
    #[error("not the claims of a pass: {0}")]
    Malformed(String),
    /// Its time is over.
    #[error("the pass expired {0} s ago")]
    Expired(u64),
    /// It was made by a clock that is ahead.
    #[error("the pass is from {0} s in the future")]
    Future(u64),
    /// It is for another cluster or another server.
    #[error("the pass is for another {0}")]
    Foreign(&'static str),
}

impl Pass {
    /// Makes a pass that leads to `home` in the cluster `audience`, for `life` seconds from `now`.
    #[must_use]
    pub fn new(audience: &str, home: [u8; 32], (now, life): (u64, u64)) -> Pass {
        let expires = now.saturating_add(life);
        Pass { kind: KIND.to_owned(), audience: audience.to_owned(), home, issued: now, expires }
    }

    /// The bytes to be sealed.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("plain data is always JSON")
    }

    /// Reads what was sealed.
    pub fn decode(bytes: &[u8]) -> Result<Pass, PassError> {
        if bytes.len() > CLAIMS_MAX {
            let what = format!("{} bytes, more than {CLAIMS_MAX}", bytes.len());
            return Err(PassError::Malformed(what));
        }
        let pass: Pass =
            serde_json::from_slice(bytes).map_err(|e| PassError::Malformed(e.to_string()))?;
        let kind = &pass.kind;
        if kind == KIND { Ok(pass) } else { Err(PassError::Malformed(format!("type {kind:?}"))) }
    }

    /// Whether it leads to `home` in the cluster `audience` now.
    pub fn check(&self, audience: &str, home: &[u8; 32], now: u64) -> Result<(), PassError> {
        if now > self.expires.saturating_add(LEEWAY_S) {
            return Err(PassError::Expired(now - self.expires));
        }
        if self.issued > now.saturating_add(LEEWAY_S) {
            return Err(PassError::Future(self.issued - now));
        }
        if self.audience != audience {
            return Err(PassError::Foreign("cluster"));
        }
        if self.home == *home { Ok(()) } else { Err(PassError::Foreign("server")) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pass_leads_to_one_server_of_one_cluster_for_a_time() {
        let pass = Pass::new("lab", [7; 32], (1_000, 60));
        let again = Pass::decode(&pass.encode()).expect("it was just made");
        assert_eq!(again, pass);
        assert_eq!(pass.check("lab", &[7; 32], 1_000), Ok(()));
        assert_eq!(pass.check("lab", &[7; 32], 1_060 + LEEWAY_S), Ok(()));
        assert_eq!(pass.check("lab", &[7; 32], 1_061 + LEEWAY_S), Err(PassError::Expired(121)));
        assert_eq!(pass.check("lab", &[7; 32], 1_000 - LEEWAY_S - 1), Err(PassError::Future(121)));
        assert_eq!(pass.check("lab", &[8; 32], 1_000), Err(PassError::Foreign("server")));
        assert_eq!(pass.check("other", &[7; 32], 1_000), Err(PassError::Foreign("cluster")));
    }

    #[test]
    fn the_longest_pass_fits_and_other_claims_are_none() {
        let pass = Pass::new(&"c".repeat(64), [255; 32], (u64::MAX, 0));
        assert!(pass.encode().len() <= CLAIMS_MAX);
        for bad in [&b"{}"[..], b"", br#"{"typ":"grant/1","aud":"a","home":[],"iat":1,"exp":2}"#] {
            assert!(matches!(Pass::decode(bad), Err(PassError::Malformed(_))));
        }
        let other = String::from_utf8(pass.encode()).expect("JSON").replace(KIND, "grant/1");
        assert!(matches!(Pass::decode(other.as_bytes()), Err(PassError::Malformed(_))));
    }
}
