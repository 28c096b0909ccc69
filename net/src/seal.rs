//! Sealed tickets: PASETO v4.local, the client's key as implicit assertion.
//!
//! A ticket is made by one server and opened by any server of the cluster. It is bound to the key
//! the client proves in the TLS handshake, so that a stolen ticket opens for nobody else. What
//! the claims mean, and whether they are past their time, is the caller's business
//! (`stp_proto::ticket`): here they are text, as PASETO wants it. The footer names the sealing
//! key (PASERK `k4.lid`), which lets keys overlap while they are changed.

use pasetors::Local;
use pasetors::keys::SymmetricKey;
use pasetors::paserk::{FormatAsPaserk, Id};
use pasetors::token::UntrustedToken;
use pasetors::version4::{LocalToken, V4};
use serde::{Deserialize, Serialize};

use crate::cluster_key::ClusterKey;
use crate::key::PublicKey;

/// The longest sealed ticket that is looked at.
pub const TICKET_MAX: usize = 15_000;

/// Why a ticket was not opened.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// It is longer than any ticket.
    #[error("the ticket has {0} bytes, more than {TICKET_MAX}")]
    TooLong(usize),
    /// It is not a `v4.local` token with a key id.
    #[error("not a sealed ticket: {0}")]
    Malformed(&'static str),
    /// No key of this cluster has that id.
    #[error("the ticket is sealed with key {0}, which this cluster does not know")]
    ForeignKey(String),
    /// Forged, damaged, or another client's.
    #[error("the ticket was altered, or belongs to another client than {0}")]
    Refused(PublicKey),
}

/// The footer, readable by all and authentic once the ticket is open.
#[derive(Serialize, Deserialize)]
struct KeyId {
    kid: String,
}

/// Seals `claims`, which are JSON, for the holder of `client`, with the first of the cluster's
/// keys.
#[must_use]
pub fn seal(cluster: &ClusterKey, claims: &[u8], client: &PublicKey) -> Vec<u8> {
    let key = symmetric(&cluster.keys()[0]);
    let footer = footer_of(&key);
    LocalToken::encrypt(&key, claims, Some(&footer), Some(&assertion(client)))
        .expect("the claims are not empty and the system's randomness does not fail")
        .into_bytes()
}

/// Opens a ticket presented by the holder of `client`, sealed with any of the cluster's keys.
pub fn open(cluster: &ClusterKey, ticket: &[u8], client: &PublicKey) -> Result<Vec<u8>, OpenError> {
    if ticket.len() > TICKET_MAX {
        return Err(OpenError::TooLong(ticket.len()));
    }
    let text = std::str::from_utf8(ticket).map_err(|_| OpenError::Malformed("it is not text"))?;
    let token = UntrustedToken::<Local, V4>::try_from(text)
        .map_err(|_| OpenError::Malformed("it is not a v4.local token"))?;
    let footer = token.untrusted_footer();
    let key = cluster
        .keys()
        .iter()
        .map(|key| symmetric(key))
        .find(|key| footer_of(key) == footer)
        .ok_or_else(|| OpenError::ForeignKey(key_id_in(footer)))?;
    let opened = LocalToken::decrypt(&key, &token, Some(footer), Some(&assertion(client)))
        .map_err(|_| OpenError::Refused(*client))?;
    Ok(opened.payload().as_bytes().to_vec())
}

fn symmetric(key: &[u8; 32]) -> SymmetricKey<V4> {
    SymmetricKey::from(key).expect("a v4.local key is 32 bytes")
}

fn footer_of(key: &SymmetricKey<V4>) -> Vec<u8> {
    let mut kid = String::new();
    Id::from(key).fmt(&mut kid).expect("writing to a string does not fail");
    json(&KeyId { kid })
}

fn key_id_in(footer: &[u8]) -> String {
    let named = serde_json::from_slice::<KeyId>(footer).map(|footer| footer.kid);
    named.unwrap_or_else(|_| "without a name".into()).chars().take(64).collect()
}

/// What a ticket is bound to beside its key: the purpose and the client.
fn assertion(client: &PublicKey) -> Vec<u8> {
    [b"session ticket for ".as_slice(), &client.0].concat()
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("strings in a struct are always JSON")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::key::Identity;

    fn client() -> PublicKey {
        Identity::generate().public_key()
    }

    #[test]
    fn claims_come_back_as_they_were() {
        let (cluster, client) = (ClusterKey::generate(), client());
        for claims in [&b"{}"[..], "\u{0}\u{ff}".as_bytes(), &[7; 4_000]] {
            let ticket = seal(&cluster, claims, &client);
            assert!(ticket.starts_with(b"v4.local."));
            assert_eq!(open(&cluster, &ticket, &client).expect("its own ticket"), claims);
        }
        assert!(seal(&cluster, &[1; 11_000], &client).len() <= TICKET_MAX);
    }

    #[test]
    fn a_stolen_ticket_opens_for_nobody_else() {
        let (cluster, owner, thief) = (ClusterKey::generate(), client(), client());
        let ticket = seal(&cluster, b"claims", &owner);
        assert_eq!(open(&cluster, &ticket, &thief), Err(OpenError::Refused(thief)));
    }

    #[test]
    fn a_foreign_cluster_is_named_as_such() {
        let (client, ours, theirs) = (client(), ClusterKey::generate(), ClusterKey::generate());
        let refused = open(&ours, &seal(&theirs, b"claims", &client), &client);
        assert!(
            matches!(&refused, Err(OpenError::ForeignKey(id)) if id.starts_with("k4.lid.")),
            "{refused:?}"
        );
    }

    #[test]
    fn an_older_key_opens_while_the_key_is_changed() {
        let (client, old) = (client(), ClusterKey::generate());
        let ticket = seal(&old, b"claims", &client);
        let new = ClusterKey::generate().with_older(&old);
        assert_eq!(open(&new, &ticket, &client).expect("the older key"), b"claims");
        assert!(open(&old, &seal(&new, b"claims", &client), &client).is_err(), "the first seals");
    }

    #[test]
    fn no_altered_ticket_opens() {
        let (cluster, client) = (ClusterKey::generate(), client());
        let ticket = seal(&cluster, b"some claims", &client);
        for at in 0..ticket.len() {
            let mut altered = ticket.clone();
            altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
            assert!(open(&cluster, &altered, &client).is_err(), "byte {at}");
        }
        for length in 0..ticket.len() {
            assert!(open(&cluster, &ticket[..length], &client).is_err(), "cut at {length}");
        }
        assert_eq!(
            open(&cluster, &vec![b'a'; TICKET_MAX + 1], &client),
            Err(OpenError::TooLong(TICKET_MAX + 1))
        );
    }
}
