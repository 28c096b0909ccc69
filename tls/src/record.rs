//! One record at a time (RFC 8446, 5).

use aws_lc_rs::aead::{Aad, LessSafeKey, Nonce};

use crate::alert::Alert;
use crate::secret::{Direction, NONCE, Secret};

/// The most plaintext of a record.
pub const PLAIN_MAX: usize = 16_384;
/// A record's header.
pub const HEADER: usize = 5;
/// The tag that ends a record, in all suites.
const TAG: usize = 16;
/// What a record adds to its plaintext: header, kind, tag.
pub const OVERHEAD: usize = HEADER + 1 + TAG;
/// The most that may follow a header.
const SEALED_MAX: usize = PLAIN_MAX + 256;
/// Every sealed record says that it is one of data, of TLS 1.2.
const FRONT: [u8; 3] = [23, 3, 3];

/// What a record holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An alert.
    Alert = 21,
    /// A message of the handshake, or one that comes later.
    Handshake = 22,
    /// What the app sends or receives.
    Data = 23,
}

/// One direction's key at work.
struct Cipher {
    direction: Direction,
    key: LessSafeKey,
    iv: [u8; NONCE],
}

impl Cipher {
    fn new(direction: Direction) -> Self {
        let (key, iv) = direction.secret.keys();
        Self { direction, key, iv }
    }

    /// The nonce of the next record: no two records under a key have the same.
    fn nonce(&mut self) -> Nonce {
        let mut nonce = self.iv;
        for (byte, number) in nonce[4..].iter_mut().zip(self.direction.number.to_be_bytes()) {
            *byte ^= number;
        }
        self.direction.number += 1;
        Nonce::assume_unique_for_key(nonce)
    }

    fn change(&mut self) {
        *self = Self::new(Direction { secret: self.direction.secret.next(), number: 0 });
    }
}

/// Seals records.
pub struct Sealer(Cipher);

impl Sealer {
    /// Goes on with this direction.
    #[must_use]
    pub fn new(direction: Direction) -> Self {
        Self(Cipher::new(direction))
    }

    /// Where it stands.
    #[must_use]
    pub fn direction(&self) -> &Direction {
        &self.0.direction
    }

    /// Makes a record of `record`: its plaintext, behind room for the header.
    pub fn seal(&mut self, kind: Kind, record: &mut Vec<u8>) {
        record.push(kind as u8);
        let length = u16::try_from(record.len() - HEADER + TAG).expect("a record is short");
        record[..3].copy_from_slice(&FRONT);
        record[3..HEADER].copy_from_slice(&length.to_be_bytes());
        let nonce = self.0.nonce();
        let (header, plain) = record.split_at_mut(HEADER);
        let sealed = self.0.key.seal_in_place_separate_tag(nonce, Aad::from(&*header), plain);
        let tag = sealed.expect("a record is shorter than what a key seals at once");
        record.extend_from_slice(tag.as_ref());
    }

    /// A record of this message.
    #[must_use]
    pub fn message(&mut self, kind: Kind, message: &[u8]) -> Vec<u8> {
        let mut record = Vec::with_capacity(message.len() + OVERHEAD);
        record.extend_from_slice(&[0; HEADER]);
        record.extend_from_slice(message);
        self.seal(kind, &mut record);
        record
    }

    /// The next secret's turn.
    pub fn change(&mut self) {
        self.0.change();
    }
}

/// Opens records.
pub struct Opener(Cipher);

impl Opener {
    /// Goes on with this direction.
    #[must_use]
    pub fn new(direction: Direction) -> Self {
        Self(Cipher::new(direction))
    }

    /// Where it stands.
    #[must_use]
    pub fn direction(&self) -> &Direction {
        &self.0.direction
    }

    /// Opens a whole record in its place.
    ///
    /// # Errors
    /// What the peer is to be told.
    pub fn open<'a>(&mut self, record: &'a mut [u8]) -> Result<(Kind, &'a [u8]), Alert> {
        let (header, sealed) = record.split_at_mut_checked(HEADER).ok_or(Alert::DecodeError)?;
        let nonce = self.0.nonce();
        let plain = self.0.key.open_in_place(nonce, Aad::from(&*header), sealed);
        let plain = plain.map_err(|_| Alert::BadRecordMac)?;
        // Zeros behind the kind are padding.
        let end = plain.iter().rposition(|byte| *byte != 0).ok_or(Alert::UnexpectedMessage)?;
        if end > PLAIN_MAX {
            return Err(Alert::RecordOverflow);
        }
        let kind = match plain[end] {
            21 => Kind::Alert,
            22 => Kind::Handshake,
            23 => Kind::Data,
            _ => return Err(Alert::UnexpectedMessage),
        };
        Ok((kind, &plain[..end]))
    }

    /// The next secret's turn.
    pub fn change(&mut self) {
        self.0.change();
    }

    /// The secret in use.
    #[must_use]
    pub fn secret(&self) -> &Secret {
        &self.0.direction.secret
    }
}

/// How long the record is that begins with these bytes; none while its header is not whole.
///
/// # Errors
/// When no record begins so.
pub fn length(bytes: &[u8]) -> Result<Option<usize>, Alert> {
    let Some(&[kind, major, minor, high, low]) = bytes.first_chunk::<HEADER>() else {
        return Ok(None);
    };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if [kind, major, minor] != FRONT {
        return Err(Alert::UnexpectedMessage);
    }
    if length > SEALED_MAX {
        return Err(Alert::RecordOverflow);
    }
    Ok(Some(HEADER + length))
}
