//! What is said to a Session Name Server and its gateway (DESIGN 3.4; KTH 3.3.6; STP 1, 2).
//!
//! A client holds one secured link to the SNS and sends requests over it, each a record of its
//! own with a number; the answer carries the same number, so several may be under way. The eight
//! requests of the thesis are all answered, with an error that says why not (the thesis answers
//! two of them). Beside them: renewing a lease, watching a name, a server announcing itself and
//! its files, and the gateway's log-in and look-up.
//!
//! **Invariant:** every field is bounded, a message fits one record, and nothing follows it. Who
//! asks is not in the messages: it is the key that the link has proved.
//!
//! Deliberately not here: storage, clocks, cryptography.

mod answer;
mod field;
mod grant;
mod login;
mod rank;
mod record;
mod request;
#[cfg(test)]
mod tests;

pub use answer::{
    Announced, Answer, Body, Challenge, Changed, Created, Done, EndpointFound, Located, Refusal,
    Refused, ServiceFound, Welcome,
};
pub use field::{BYTES_MAX, FilePath, LIST_MAX, List, PATH_MAX, TEXT_MAX};
pub use grant::{GRANT_MAX, Grant, GrantError, GrantFor};
pub use login::{KdfCost, SALT_BYTES, login_statement, user_is_good};
pub use rank::{Network, Networks, UNKNOWN_HOPS};
pub use record::{EndpointName, FileEntry, Location, Protocol, Server};
pub use request::{
    Announce, Ask, ChangeEndpoint, ChangeService, Files, Locate, Login, NewEndpoint, NewService,
    OneEndpoint, OneName, OneService, Prove, Request, Unwatch,
};

use field::{Field, Reader};

/// Most bytes of a message: one record of a link.
pub const MESSAGE_MAX: usize = 16_384;

/// First byte of every message: the version of these formats.
const VERSION: u8 = 0xD1;

/// Why bytes are no message.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum MessageError {
    /// It is longer than a record, or a field does not fit.
    #[error("the message has {0} bytes, more than {MESSAGE_MAX}")]
    TooLong(usize),
    /// It does not begin as one.
    #[error("version {0:#04x} of the directory is not spoken")]
    Version(u8),
    /// It ends in a field.
    #[error("the message ends in its field `{0}`")]
    Cut(&'static str),
    /// A field cannot be.
    #[error("the field `{0}` cannot have this value")]
    BadValue(&'static str),
    /// A kind that is not known.
    #[error("kind {0} of message is not known")]
    Unknown(u8),
    /// Something stands behind it.
    #[error("{0} bytes follow the message")]
    Trailing(usize),
}

fn encode(id: u32, body: &impl Field) -> Result<Vec<u8>, MessageError> {
    let mut out = vec![VERSION];
    id.put(&mut out);
    body.put(&mut out);
    if out.len() > MESSAGE_MAX { Err(MessageError::TooLong(out.len())) } else { Ok(out) }
}

fn decode<T: Field>(bytes: &[u8]) -> Result<(u32, T), MessageError> {
    if bytes.len() > MESSAGE_MAX {
        return Err(MessageError::TooLong(bytes.len()));
    }
    let mut from = Reader(bytes);
    match u8::read(&mut from, "version")? {
        VERSION => {}
        other => return Err(MessageError::Version(other)),
    }
    let id = u32::read(&mut from, "id")?;
    let body = T::read(&mut from, "kind")?;
    if from.0.is_empty() { Ok((id, body)) } else { Err(MessageError::Trailing(from.0.len())) }
}

/// The gateway's list of servers, to be sealed with the user's list key.
pub fn encode_servers(servers: &List<Server>) -> Result<Vec<u8>, MessageError> {
    encode(0, servers)
}

/// Reads such a list.
pub fn decode_servers(bytes: &[u8]) -> Result<List<Server>, MessageError> {
    decode(bytes).map(|(_, servers)| servers)
}
