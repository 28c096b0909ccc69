//! What the broker puts by of a session, so that the next broker can go on with it.

use stp_proto::course::Relay;
use stp_proto::handle::Handle;
use stp_proto::session::{NotRestored, Remains};

/// The app knows that its connect has succeeded.
const TOLD: u8 = 1;
/// Closing means abort, as the app has said.
const ABORTIVE: u8 = 2;
/// A connection of the app was announced and not made yet.
const AWAITS: u8 = 4;
/// It belongs to another session.
const LED: u8 = 8;

/// It was opened with the key of an endpoint.
const OWNED: u8 = 16;

/// In the place of a server's key: the broker's own server has it.
pub const HERE: Relay = Relay([0; 32]);

/// A session's end, and what the broker knows beside it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Record {
    /// The session's number.
    pub id: u64,
    /// Whether the app knows that its connect has succeeded.
    pub told: bool,
    /// Whether closing means abort, as the app has said.
    pub abortive: bool,
    /// The key of the server that has the session.
    pub home: Relay,
    /// The service, by name.
    pub service: String,
    /// The endpoint with whose key it was opened, by name; empty: this user's own.
    pub endpoint: String,
    /// The connection that was announced in its stream and not made yet (R90).
    pub awaits: Option<Awaits>,
    /// The number of the session to which it belongs, and the token under which it was announced.
    pub lead: Option<Lead>,
    /// The session's end.
    pub remains: Remains,
}

/// A connection of the app, or all to these ports, under this token.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Awaits {
    /// The first port, and the last one.
    pub ports: (u16, u16),
    /// As long as the session lives, and not only once.
    pub lasting: bool,
    /// Names the other session.
    pub token: Handle,
}

impl Record {
    /// Appends it to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.id.to_le_bytes());
        let flags = [
            (self.told, TOLD),
            (self.abortive, ABORTIVE),
            (self.awaits.is_some(), AWAITS),
            (self.lead.is_some(), LED),
            (!self.endpoint.is_empty(), OWNED),
        ];
        out.push(flags.iter().map(|(is, flag)| u8::from(*is) * flag).sum());
        out.extend(self.home.0);
        let service = self.service.as_bytes();
        out.extend((service.len() as u16).to_le_bytes());
        out.extend(service);
        if let Some(Awaits { ports: (first, last), lasting, token }) = self.awaits {
            out.extend(first.to_le_bytes());
            out.extend(last.to_le_bytes());
            out.push(u8::from(lasting));
            out.extend(token.0);
        }
        if let Some((lead, token)) = self.lead {
            out.extend(lead.to_le_bytes());
            out.extend(token.0);
        }
        if !self.endpoint.is_empty() {
            let endpoint = self.endpoint.as_bytes();
            out.push(endpoint.len() as u8);
            out.extend(&endpoint[..endpoint.len().min(255)]);
        }
        self.remains.encode(out);
    }

    /// Reads what [`Record::encode`] wrote.
    ///
    /// # Errors
    /// It is damaged, or of another version.
    pub fn decode(bytes: &[u8]) -> Result<Record, NotRestored> {
        let front = || {
            let (id, rest) = bytes.split_first_chunk()?;
            let ([flags], rest) = rest.split_first_chunk()?;
            let (home, rest) = rest.split_first_chunk()?;
            let (length, rest) = rest.split_first_chunk()?;
            let (service, rest) =
                rest.split_at_checked(usize::from(u16::from_le_bytes(*length)))?;
            let service = std::str::from_utf8(service).ok()?;
            let (awaits, rest) = match flags & AWAITS {
                0 => (None, rest),
                _ => awaits(rest)?,
            };
            let (lead, rest) = match flags & LED {
                0 => (None, rest),
                _ => lead(rest)?,
            };
            let (endpoint, rest) = match flags & OWNED {
                0 => ("", rest),
                _ => endpoint(rest)?,
            };
            let home = (Relay(*home), service.to_owned(), endpoint.to_owned());
            Some(((u64::from_le_bytes(*id), *flags), home, (awaits, lead), rest))
        };
        let front = front().ok_or(NotRestored::Damaged)?;
        let ((id, flags), (home, service, endpoint), (awaits, lead), rest) = front;
        let remains = Remains::decode(rest)?;
        let (told, abortive) = (flags & TOLD != 0, flags & ABORTIVE != 0);
        Ok(Record { id, told, abortive, home, service, endpoint, awaits, lead, remains })
    }
}

/// The number of a session, and the token under which another one belongs to it.
type Lead = (u64, Handle);

fn lead(bytes: &[u8]) -> Option<(Option<Lead>, &[u8])> {
    let (lead, rest) = bytes.split_first_chunk()?;
    let (token, rest) = rest.split_first_chunk()?;
    Some((Some((u64::from_le_bytes(*lead), Handle(*token))), rest))
}

fn endpoint(bytes: &[u8]) -> Option<(&str, &[u8])> {
    let (length, rest) = bytes.split_first()?;
    let (endpoint, rest) = rest.split_at_checked(usize::from(*length))?;
    Some((std::str::from_utf8(endpoint).ok()?, rest))
}

fn awaits(bytes: &[u8]) -> Option<(Option<Awaits>, &[u8])> {
    let (first, rest) = bytes.split_first_chunk()?;
    let (last, rest) = rest.split_first_chunk()?;
    let ([lasting], rest) = rest.split_first_chunk()?;
    let (token, rest) = rest.split_first_chunk()?;
    let ports = (u16::from_le_bytes(*first), u16::from_le_bytes(*last));
    Some((Some(Awaits { ports, lasting: *lasting == 1, token: Handle(*token) }), rest))
}
