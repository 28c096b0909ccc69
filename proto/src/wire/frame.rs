//! The frame header, and the bounded reader and writer every format is built on.
//!
//! `type:u8 flags:u8 len:u16`, big endian, then `len` bytes of payload. Header and payload
//! together are at most one TLS record (R3).

use core::time::Duration;

use super::WireError;
use crate::handle::Handle;
use crate::steps;

/// Bytes of a frame header.
pub const HEADER: usize = 4;
/// Most bytes of header and payload together: the plaintext of one TLS record (R3).
pub const FRAME_MAX: usize = 16_384;

/// Frame types (R4).
pub(crate) mod kind {
    pub const CONNECT: u8 = 1;
    pub const CONNECT_OK: u8 = 2;
    pub const CONNECT_DENIED: u8 = 3;
    pub const DATA: u8 = 4;
    pub const CHECKPOINT: u8 = 5;
    pub const CLOSE: u8 = 6;
    pub const SUSPEND: u8 = 7;
    pub const RESUME: u8 = 8;
    pub const RESUME_OK: u8 = 9;
    pub const RESUME_DENIED: u8 = 10;
    pub const TICKET: u8 = 11;
    pub const TRANSFER: u8 = 12;
    pub const STAY: u8 = 13;
    pub const PASS: u8 = 14;
    pub const URGENT: u8 = 15;
    pub const ANNOUNCE: u8 = 16;
}

/// One frame, header taken apart, payload not yet.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub(crate) struct Raw<'a> {
    pub kind: u8,
    pub flags: u8,
    pub payload: &'a [u8],
}

/// Takes the first frame off `record`.
pub(crate) fn take<'a>(record: &mut &'a [u8]) -> Result<Raw<'a>, WireError> {
    let Some((header, rest)) = record.split_first_chunk::<HEADER>() else {
        return Err(WireError::NoHeader(record.len()));
    };
    steps::note(0);
    let [kind, flags, high, low] = *header;
    let length = usize::from(u16::from_be_bytes([high, low]));
    let Some((payload, rest)) = rest.split_at_checked(length) else {
        return Err(WireError::CutShort { kind, length, present: rest.len() });
    };
    *record = rest;
    Ok(Raw { kind, flags, payload })
}

impl Raw<'_> {
    /// Refuses flags outside `allowed`.
    pub fn check_flags(&self, allowed: u8) -> Result<(), WireError> {
        if self.flags & !allowed == 0 {
            Ok(())
        } else {
            Err(WireError::BadFlags { kind: self.kind, flags: self.flags })
        }
    }
}

/// Writes one frame: the header now, its length when the payload is complete.
pub(crate) fn write(out: &mut Vec<u8>, kind: u8, flags: u8, payload: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[kind, flags, 0, 0]);
    payload(out);
    let length = out.len() - start - HEADER;
    assert!(length <= FRAME_MAX - HEADER, "every field is bounded so that a frame fits a record");
    let bytes = u16::try_from(length).expect("bounded just above").to_be_bytes();
    out[start + 2..start + 4].copy_from_slice(&bytes);
}

/// Appends fields to a payload.
pub(crate) trait Put {
    fn put_u8(&mut self, value: u8);
    fn put_u16(&mut self, value: u16);
    fn put_u32(&mut self, value: u32);
    fn put_u64(&mut self, value: u64);
    fn put_handle(&mut self, value: Handle);
    /// Length as u16, then the bytes.
    fn put_bytes(&mut self, value: &[u8]);
}

impl Put for Vec<u8> {
    fn put_u8(&mut self, value: u8) {
        self.push(value);
    }

    fn put_u16(&mut self, value: u16) {
        self.extend_from_slice(&value.to_be_bytes());
    }

    fn put_u32(&mut self, value: u32) {
        self.extend_from_slice(&value.to_be_bytes());
    }

    fn put_u64(&mut self, value: u64) {
        self.extend_from_slice(&value.to_be_bytes());
    }

    fn put_handle(&mut self, value: Handle) {
        self.extend_from_slice(&value.0);
    }

    fn put_bytes(&mut self, value: &[u8]) {
        let length = u16::try_from(value.len()).expect("callers bound what they put");
        self.put_u16(length);
        self.extend_from_slice(value);
    }
}

/// Cuts `text` to at most `max` bytes at a character boundary.
pub(crate) fn bounded(text: &str, max: usize) -> &str {
    &text[..text.floor_char_boundary(max)]
}

/// Whole seconds, rounded up.
pub(crate) fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_millis().div_ceil(1_000)).unwrap_or(u32::MAX)
}

/// Reads fields off a payload.
pub(crate) struct Fields<'a>(pub &'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self, name: &'static str) -> Result<[u8; N], WireError> {
        steps::note(N);
        let (value, rest) = self.0.split_first_chunk().ok_or(WireError::FieldCut(name))?;
        self.0 = rest;
        Ok(*value)
    }

    pub fn u8(&mut self, name: &'static str) -> Result<u8, WireError> {
        Ok(self.take::<1>(name)?[0])
    }

    pub fn u16(&mut self, name: &'static str) -> Result<u16, WireError> {
        self.take(name).map(u16::from_be_bytes)
    }

    pub fn u32(&mut self, name: &'static str) -> Result<u32, WireError> {
        self.take(name).map(u32::from_be_bytes)
    }

    pub fn u64(&mut self, name: &'static str) -> Result<u64, WireError> {
        self.take(name).map(u64::from_be_bytes)
    }

    pub fn array<const N: usize>(&mut self, name: &'static str) -> Result<[u8; N], WireError> {
        self.take(name)
    }

    pub fn handle(&mut self, name: &'static str) -> Result<Handle, WireError> {
        self.take(name).map(Handle)
    }

    /// A flag: 0 or 1, nothing else.
    pub fn bool(&mut self, name: &'static str) -> Result<bool, WireError> {
        match self.u8(name)? {
            0 => Ok(false),
            1 => Ok(true),
            _ => Err(WireError::BadValue(name)),
        }
    }

    /// A length as u16 and that many bytes, at most `max`.
    pub fn bytes(&mut self, name: &'static str, max: usize) -> Result<&'a [u8], WireError> {
        let length = usize::from(self.u16(name)?);
        if length > max {
            return Err(WireError::BadValue(name));
        }
        let (value, rest) = self.0.split_at_checked(length).ok_or(WireError::FieldCut(name))?;
        self.0 = rest;
        Ok(value)
    }

    /// Text in UTF-8 without control characters.
    pub fn text(&mut self, name: &'static str, max: usize) -> Result<&'a str, WireError> {
        let text =
            core::str::from_utf8(self.bytes(name, max)?).map_err(|_| WireError::BadValue(name))?;
        if text.chars().any(char::is_control) {
            return Err(WireError::BadValue(name));
        }
        Ok(text)
    }

    /// Everything that is left.
    pub fn rest(&mut self) -> &'a [u8] {
        core::mem::take(&mut self.0)
    }

    pub fn end(self) -> Result<(), WireError> {
        if self.0.is_empty() { Ok(()) } else { Err(WireError::Trailing(self.0.len())) }
    }
}
