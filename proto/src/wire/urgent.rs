//! URGENT: which byte of the stream is urgent (R12).

use super::WireError;
use super::frame::{Fields, Put, Raw, kind, write};

/// URGENT, before the DATA that holds the byte.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct Urgent {
    /// Position of the urgent byte.
    pub position: u64,
}

impl Urgent {
    pub(crate) fn read(raw: Raw<'_>) -> Result<Urgent, WireError> {
        raw.check_flags(0)?;
        let mut f = Fields(raw.payload);
        let position = f.u64("position")?;
        f.end()?;
        Ok(Urgent { position })
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        write(out, kind::URGENT, 0, |p| p.put_u64(self.position));
    }
}
