//! What the app sends: records in, plaintext out, and where another server would have to begin.

use std::collections::VecDeque;

use crate::alert::Alert;
use crate::record::{self, HEADER, Kind, Opener};
use crate::secret::Direction;

/// The message that changes keys, and the two things it may say.
const KEY_UPDATE: [u8; 4] = [24, 0, 0, 1];
/// Changes of keys in a row, without data between them, that are followed: each costs three hashes.
const UPDATES_MAX: u32 = 32;
/// So many plaintext bytes are between two marks at least, so that an app that sends a byte in each
/// record does not cost a mark for each.
pub(crate) const MARK_EVERY: u64 = 1_024;
/// The alert that nothing more is sent.
const CLOSE_NOTIFY: u8 = 0;
/// An alert that tells of nothing wrong.
const USER_CANCELED: u8 = 90;

/// What a record held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Came {
    /// Nothing to be done: the record is not whole, or it was empty.
    Nothing,
    /// Data.
    Data,
    /// Other keys. `asked`: ours are to be changed as well.
    Update {
        /// The app wants it.
        asked: bool,
    },
    /// The app sends nothing more; nothing is read any more.
    Closed,
    /// The app has given up, for this reason; nothing is read any more.
    Failed(u8),
}

/// Where a record begins.
#[derive(Debug, Clone)]
pub(crate) struct Mark {
    /// Its up position.
    at: u64,
    /// The plaintext position of its first byte.
    plain: u64,
    direction: Direction,
}

/// From where another server reads on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The up position at which a record begins.
    pub at: u64,
    /// Plaintext bytes of it that are not needed.
    pub skip: u64,
    /// What opens it.
    pub direction: Direction,
}

/// Opens what the app sends.
pub struct Reader {
    opener: Opener,
    /// The record under way, as far as it has come.
    partial: Vec<u8>,
    /// The up position of its first byte.
    at: u64,
    /// The plaintext position of what it holds.
    plain: u64,
    /// Plaintext bytes that another server had already.
    skip: u64,
    /// Where records begin, as many as are needed: none is far behind the one before it, and the
    /// first one after a change of keys always has one, so that no change is read twice because of
    /// a mark that is missing.
    pub(crate) marks: VecDeque<Mark>,
    updates: u32,
    closed: bool,
}

impl Reader {
    /// Begins at the place, which another server has told, or which follows the handshake.
    /// `covers` is the plaintext position of the first byte that is needed.
    #[must_use]
    pub fn new(place: Place, covers: u64) -> Self {
        let Place { at, skip, direction } = place;
        Self {
            opener: Opener::new(direction),
            partial: Vec::new(),
            at,
            plain: covers.saturating_sub(skip),
            skip,
            marks: VecDeque::new(),
            updates: 0,
            closed: false,
        }
    }

    /// The up position of the record under way, and the plaintext position of what it holds.
    #[must_use]
    pub fn positions(&self) -> (u64, u64) {
        (self.at, self.plain)
    }

    /// Takes bytes of at most one record; its data is added to `data`.
    ///
    /// # Errors
    /// What the app is to be told; nothing more can be read then.
    pub fn take(&mut self, bytes: &[u8], data: &mut Vec<u8>) -> Result<(usize, Came), Alert> {
        if self.closed {
            self.at += bytes.len() as u64;
            return Ok((bytes.len(), Came::Nothing));
        }
        let mut taken = 0;
        let whole = loop {
            let known = record::length(&self.partial)?;
            let wanted = known.unwrap_or(HEADER) - self.partial.len();
            let part = &bytes[taken..bytes.len().min(taken + wanted)];
            self.partial.extend_from_slice(part);
            taken += part.len();
            if part.len() < wanted {
                return Ok((taken, Came::Nothing));
            }
            if known.is_some() {
                break std::mem::take(&mut self.partial);
            }
        };
        let came = self.open(whole, data)?;
        Ok((taken, came))
    }

    fn open(&mut self, mut whole: Vec<u8>, data: &mut Vec<u8>) -> Result<Came, Alert> {
        let direction = self.opener.direction().clone();
        let (begin, length) = (self.at, whole.len() as u64);
        let (kind, plain) = self.opener.open(&mut whole)?;
        self.at += length;
        match kind {
            Kind::Data if plain.is_empty() => Ok(Came::Nothing),
            Kind::Data => {
                let due = self
                    .marks
                    .back()
                    .is_none_or(|last| self.updates > 0 || self.plain - last.plain >= MARK_EVERY);
                if due {
                    self.marks.push_back(Mark { at: begin, plain: self.plain, direction });
                }
                let skipped = usize::try_from(self.skip).unwrap_or(usize::MAX).min(plain.len());
                self.skip -= skipped as u64;
                self.plain += plain.len() as u64;
                self.updates = 0;
                data.extend_from_slice(&plain[skipped..]);
                Ok(Came::Data)
            }
            Kind::Alert => {
                let &[_, code] = plain else { return Err(Alert::DecodeError) };
                if code == USER_CANCELED {
                    return Ok(Came::Nothing);
                }
                self.closed = true;
                Ok(if code == CLOSE_NOTIFY { Came::Closed } else { Came::Failed(code) })
            }
            Kind::Handshake => {
                let asked = match plain.strip_prefix(&KEY_UPDATE) {
                    Some([0]) => false,
                    Some([1]) => true,
                    Some(_) => return Err(Alert::DecodeError),
                    None => return Err(Alert::UnexpectedMessage),
                };
                self.updates += 1;
                if self.updates > UPDATES_MAX {
                    return Err(Alert::UnexpectedMessage);
                }
                self.opener.change();
                Ok(Came::Update { asked })
            }
        }
    }

    /// From where another server reads on that needs the plaintext from this position on.
    #[must_use]
    pub fn place(&self, covers: u64) -> Place {
        let now = || (self.at, self.plain, self.opener.direction().clone());
        let before = self.marks.partition_point(|mark| mark.plain <= covers).checked_sub(1);
        let (at, plain, direction) = match before.map(|place| &self.marks[place]) {
            Some(mark) if covers < self.plain => (mark.at, mark.plain, mark.direction.clone()),
            _ => now(),
        };
        Place { at, skip: covers.saturating_sub(plain), direction }
    }

    /// Nothing before this plaintext position is asked for again.
    pub fn forget(&mut self, covers: u64) {
        while self.marks.get(1).map_or(self.plain, |next| next.plain) <= covers
            && self.marks.pop_front().is_some()
        {}
    }
}
