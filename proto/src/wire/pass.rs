//! PASS: with it the broker may be led to this server through others of the cluster (R80).

use super::WireError;
use super::connect::PASS_MAX;
use super::frame::{Fields, Put, Raw, kind, write};

/// PASS, from the server of a session to its broker.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct PassFrame<'a> {
    /// The sealed bytes, at most [`PASS_MAX`].
    pub pass: &'a [u8],
}

impl<'a> PassFrame<'a> {
    pub(crate) fn read(raw: Raw<'a>) -> Result<PassFrame<'a>, WireError> {
        raw.check_flags(0)?;
        let mut f = Fields(raw.payload);
        let pass = f.bytes("pass", PASS_MAX)?;
        f.end()?;
        Ok(PassFrame { pass })
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        write(out, kind::PASS, 0, |p| p.put_bytes(self.pass));
    }
}
