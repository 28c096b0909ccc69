//! What the broker puts by of a session, so that the next broker can go on with it.

use stp_proto::course::Relay;
use stp_proto::session::{NotRestored, Remains};

/// The app knows that its connect has succeeded.
const TOLD: u8 = 1;
/// Closing means abort, as the app has said.
const ABORTIVE: u8 = 2;

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
    /// The session's end.
    pub remains: Remains,
}

impl Record {
    /// Appends it to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.extend(self.id.to_le_bytes());
        out.push((u8::from(self.told) * TOLD) | (u8::from(self.abortive) * ABORTIVE));
        out.extend(self.home.0);
        let service = self.service.as_bytes();
        out.extend((service.len() as u16).to_le_bytes());
        out.extend(service);
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
            Some((u64::from_le_bytes(*id), *flags, Relay(*home), service.to_owned(), rest))
        };
        let (id, flags, home, service, rest) = front().ok_or(NotRestored::Damaged)?;
        let remains = Remains::decode(rest)?;
        let (told, abortive) = (flags & TOLD != 0, flags & ABORTIVE != 0);
        Ok(Record { id, told, abortive, home, service, remains })
    }
}
