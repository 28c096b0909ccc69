//! What every message has in common: a version, a number, a body, and nothing behind it.

use super::MESSAGE_MAX;
use super::MessageError;
use super::field::{Field, List, Reader};
use super::record::Server;

/// First byte of every message: the version of these formats.
const VERSION: u8 = 0xD1;

pub(super) fn encode(id: u32, body: &impl Field) -> Result<Vec<u8>, MessageError> {
    let mut out = vec![VERSION];
    id.put(&mut out);
    body.put(&mut out);
    if out.len() > MESSAGE_MAX { Err(MessageError::TooLong(out.len())) } else { Ok(out) }
}

pub(super) fn decode<T: Field>(bytes: &[u8]) -> Result<(u32, T), MessageError> {
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
