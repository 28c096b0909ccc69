//! What a ticket says (STP 7): everything that a server needs to go on with a session which it has
//! never seen.
//!
//! A ticket is plain data here. It is sealed and opened elsewhere, bound to the client's key: the
//! client can neither read nor change it, and nobody else can use it. The claims are JSON.
//!
//! Deliberately not here: cryptography, and the clock. Times are seconds since 1970, given by
//! the caller.

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::{Deserialize, Serialize};

use crate::handle::Handle;
use crate::replay::Exchange;
use crate::scope::Scope;

/// The clocks of the cluster's servers may differ by this many seconds when a log-in is judged.
pub const LEEWAY_S: u64 = 120;

/// A session's own ticket is good for this many seconds after its end. It lives for days, and a
/// server whose clock is ahead must not end a session for that; the order of tickets is that of
/// their positions.
pub const TICKET_LEEWAY_S: u64 = 3_600;

/// The longest claims: sealing encodes them as base64 and adds about 200 bytes, so that a sealed
/// ticket has at most [`crate::wire::TICKET_MAX`].
pub const CLAIMS_MAX: usize = 11_000;

/// The version written into tickets.
const VERSION: u8 = 2;

/// The claims of a ticket.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Claims {
    /// Format of the claims.
    #[serde(rename = "v")]
    version: u8,
    /// The cluster whose servers may open it.
    #[serde(rename = "aud")]
    pub audience: String,
    /// The service, `service.object@domain`.
    pub service: String,
    /// The client's public key.
    #[serde(with = "key")]
    pub client: [u8; 32],
    /// The handle that the broker chose for the session.
    #[serde(with = "handle")]
    pub handle: Handle,
    /// When it was made.
    #[serde(rename = "iat")]
    pub issued: u64,
    /// When it ends.
    #[serde(rename = "exp")]
    pub expires: u64,
    /// A number that no other ticket has.
    #[serde(rename = "jti", with = "handle")]
    pub id: Handle,
    /// The up position that the ticket covers: no byte below it is needed any more.
    pub up: u64,
    /// The down position before whose data the ticket was sent.
    pub down: u64,
    /// The exchange that is under way at that position.
    pub exchange: Exchange,
    /// What the gateway has granted, if the session began with a ticket of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub granted: Option<Granted>,
}

/// What a gateway has granted, and to whom: it holds as long as the session does.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Granted {
    /// The user.
    #[serde(rename = "sub")]
    pub user: String,
    /// When, in seconds since 1970. A later change of the user's password ends it.
    pub at: u64,
    /// What may be asked for; none: the whole service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scope: Option<Scope>,
}

/// The part of the claims that never changes: whose session it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The cluster.
    pub audience: String,
    /// The service.
    pub service: String,
    /// The client's public key.
    pub client: [u8; 32],
    /// The broker's handle of the session.
    pub handle: Handle,
}

/// Why claims cannot be written, read or accepted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    /// The heads are too long.
    #[error("the claims have {0} bytes, more than {CLAIMS_MAX}")]
    TooLong(usize),
    /// The bytes are no ticket.
    #[error("not the claims of a ticket: {0}")]
    Malformed(String),
    /// The ticket has another format.
    #[error("ticket format {0}, not {VERSION}")]
    Version(u8),
    /// Its time is over.
    #[error("the ticket expired {0} s ago")]
    Expired(u64),
    /// It is for another cluster, service, client or session.
    #[error("the ticket is for another {0}")]
    Foreign(&'static str),
    /// The positions do not fit.
    #[error("{0}")]
    Positions(String),
}

impl Claims {
    /// Claims for `holder`, valid for `life` seconds.
    #[must_use]
    pub fn new(
        holder: &Holder,
        id: Handle,
        (now, life): (u64, u64),
        (up, down): (u64, u64),
        exchange: Exchange,
    ) -> Self {
        Self {
            version: VERSION,
            audience: holder.audience.clone(),
            service: holder.service.clone(),
            client: holder.client,
            handle: holder.handle,
            issued: now,
            expires: now.saturating_add(life),
            id,
            up,
            down,
            exchange,
            granted: None,
        }
    }

    /// The bytes to be sealed.
    ///
    /// # Errors
    /// [`TicketError::TooLong`]: the exchange then cannot be continued elsewhere.
    pub fn encode(&self) -> Result<Vec<u8>, TicketError> {
        let bytes = serde_json::to_vec(self).expect("plain data is always JSON");
        if bytes.len() > CLAIMS_MAX {
            return Err(TicketError::TooLong(bytes.len()));
        }
        Ok(bytes)
    }

    /// Reads what was sealed.
    pub fn decode(bytes: &[u8]) -> Result<Self, TicketError> {
        if bytes.len() > CLAIMS_MAX {
            return Err(TicketError::TooLong(bytes.len()));
        }
        let claims: Self = serde_json::from_slice(bytes)
            .map_err(|error| TicketError::Malformed(error.to_string()))?;
        if claims.version != VERSION {
            return Err(TicketError::Version(claims.version));
        }
        Ok(claims)
    }

    /// Checks the ticket against the request (STP 10): holder, time and positions.
    ///
    /// `have` is the broker's down position, `up_from` the first up byte that it can send again.
    pub fn check(
        &self,
        holder: &Holder,
        now: u64,
        (have, up_from): (u64, u64),
    ) -> Result<(), TicketError> {
        if now > self.expires.saturating_add(TICKET_LEEWAY_S) {
            return Err(TicketError::Expired(now - self.expires));
        }
        let foreign = [
            (self.audience != holder.audience, "cluster"),
            (self.service != holder.service, "service"),
            (self.client != holder.client, "client"),
            (self.handle != holder.handle, "session"),
        ];
        if let Some((_, what)) = foreign.iter().find(|(differs, _)| *differs) {
            return Err(TicketError::Foreign(what));
        }
        if have < self.down {
            let text = format!("received {have}, but the ticket was sent at {}", self.down);
            return Err(TicketError::Positions(text));
        }
        if up_from > self.up {
            let text = format!(
                "the app's bytes {}..{up_from} are gone and no ticket covers them",
                self.up
            );
            return Err(TicketError::Positions(text));
        }
        Ok(())
    }
}

mod key {
    use super::{Engine, URL_SAFE_NO_PAD};
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    pub fn serialize<S: Serializer>(key: &[u8; 32], serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&URL_SAFE_NO_PAD.encode(key))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<[u8; 32], D::Error> {
        let text = String::deserialize(deserializer)?;
        let bytes = URL_SAFE_NO_PAD.decode(text).map_err(Error::custom)?;
        bytes.try_into().map_err(|_| Error::custom("a key has 32 bytes"))
    }
}

mod handle {
    use super::Handle;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    /// As 32 hexadecimal digits; what is shown to people is shorter.
    pub fn serialize<S: Serializer>(handle: &Handle, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&format_args!("{:032x}", u128::from_be_bytes(handle.0)))
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Handle, D::Error> {
        let text = String::deserialize(deserializer)?;
        let is_one = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
        let bits = is_one.then(|| u128::from_str_radix(&text, 16).ok()).flatten();
        let bits = bits.ok_or_else(|| D::Error::custom("a handle is 32 hexadecimal digits"))?;
        Ok(Handle(bits.to_be_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replay::http;

    fn holder() -> Holder {
        Holder {
            audience: "example".into(),
            service: "www.mirror@example.org".into(),
            client: [7; 32],
            handle: Handle([1; 16]),
        }
    }

    fn claims(response: usize) -> Claims {
        claims_of(vec![b'x'; response])
    }

    fn claims_of(response: Vec<u8>) -> Claims {
        let exchange = Exchange::Http(http::Exchange::Response {
            request: b"GET /\xff HTTP/1.1\r\n\r\n".to_vec(),
            response,
            head_at: 5,
            shortened: false,
            chunks: None,
        });
        Claims::new(&holder(), Handle([2; 16]), (1_000_000, 3600), (20, 5), exchange)
    }

    #[test]
    fn claims_come_back_as_they_were() {
        let claims = claims(300);
        assert_eq!(Claims::decode(&claims.encode().unwrap()), Ok(claims));
    }

    #[test]
    fn what_cannot_be_sealed_in_time_is_refused() {
        assert!(claims(7_000).encode().is_ok());
        // Long heads are compressed; these bytes cannot be.
        assert!(claims(60_000).encode().is_ok());
        let mut state = 1_u64;
        let noise = std::iter::repeat_with(|| {
            state = state.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
            (state >> 56) as u8
        });
        let too_long = claims_of(noise.take(12_000).collect()).encode();
        assert!(matches!(too_long, Err(TicketError::TooLong(12_000..))), "{too_long:?}");
        assert!(matches!(Claims::decode(&[b' '; 12_000]), Err(TicketError::TooLong(12_000))));
    }

    #[test]
    fn unknown_fields_and_versions_are_refused() {
        let text = String::from_utf8(claims(0).encode().unwrap()).unwrap();
        let other = text.replace("\"v\":2", "\"v\":1");
        assert_eq!(Claims::decode(other.as_bytes()), Err(TicketError::Version(1)));
        let more = text.replace("\"v\":2", "\"v\":2,\"x\":1");
        assert!(matches!(Claims::decode(more.as_bytes()), Err(TicketError::Malformed(_))));
        assert!(matches!(Claims::decode(b"{}"), Err(TicketError::Malformed(_))));
    }

    #[test]
    fn a_ticket_serves_only_its_holder() {
        let check = |holder: &Holder| claims(0).check(holder, 1_000_000, (5, 20));
        assert_eq!(check(&holder()), Ok(()));
        let other = Holder { audience: "other".into(), ..holder() };
        assert_eq!(check(&other), Err(TicketError::Foreign("cluster")));
        let other = Holder { service: "ftp.mirror@example.org".into(), ..holder() };
        assert_eq!(check(&other), Err(TicketError::Foreign("service")));
        let other = Holder { client: [8; 32], ..holder() };
        assert_eq!(check(&other), Err(TicketError::Foreign("client")));
        let other = Holder { handle: Handle([9; 16]), ..holder() };
        assert_eq!(check(&other), Err(TicketError::Foreign("session")));
    }

    #[test]
    fn a_clock_that_is_behind_is_no_reason_and_one_that_is_ahead_has_its_leeway() {
        let check = |now| claims(0).check(&holder(), now, (5, 20));
        assert_eq!(check(1_000_000 - 86_400), Ok(()), "a ticket from the future");
        assert_eq!(check(1_003_600 + TICKET_LEEWAY_S), Ok(()));
        assert_eq!(check(1_003_600 + TICKET_LEEWAY_S + 1), Err(TicketError::Expired(3_601)));
    }

    #[test]
    fn positions_must_be_covered() {
        let check = |positions| claims(0).check(&holder(), 1_000_000, positions);
        assert_eq!(check((500, 0)), Ok(()));
        assert!(matches!(check((4, 20)), Err(TicketError::Positions(_))));
        assert!(matches!(check((5, 21)), Err(TicketError::Positions(_))));
    }
}
