//! DATA: bytes of the stream at their position.

use super::WireError;
use super::frame::{FRAME_MAX, Fields, HEADER, Put, Raw, kind, write};

/// Most bytes of the stream in one frame.
pub const DATA_MAX: usize = FRAME_MAX - HEADER - 8;

/// DATA.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct Data<'a> {
    /// Position of the first byte.
    pub position: u64,
    /// At least one byte.
    pub bytes: &'a [u8],
}

impl<'a> Data<'a> {
    pub(crate) fn read(raw: Raw<'a>) -> Result<Data<'a>, WireError> {
        raw.check_flags(0)?;
        let mut f = Fields(raw.payload);
        let position = f.u64("position")?;
        let bytes = f.rest();
        if bytes.is_empty() || position.checked_add(bytes.len() as u64).is_none() {
            return Err(WireError::BadValue("bytes"));
        }
        Ok(Data { position, bytes })
    }

    /// Appends the frame; at most [`DATA_MAX`] bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        encode_data(self.position, [self.bytes], out);
    }
}

/// Appends a DATA frame whose bytes lie in several pieces.
pub(crate) fn encode_data<'a>(
    position: u64,
    pieces: impl IntoIterator<Item = &'a [u8]>,
    out: &mut Vec<u8>,
) {
    write(out, kind::DATA, 0, |p| {
        p.put_u64(position);
        pieces.into_iter().for_each(|piece| p.extend_from_slice(piece));
    });
}
