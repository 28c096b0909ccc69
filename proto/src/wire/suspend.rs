//! SUSPEND: the user stopped the session (KTH 3.7.4).

use super::WireError;
use super::frame::{Fields, Put, Raw, kind, write};

/// SUSPEND.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct Suspend {
    /// The epoch in force.
    pub epoch: u32,
}

impl Suspend {
    pub(crate) fn read(raw: Raw<'_>) -> Result<Suspend, WireError> {
        raw.check_flags(0)?;
        let mut f = Fields(raw.payload);
        let epoch = f.u32("epoch")?;
        f.end()?;
        Ok(Suspend { epoch })
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        write(out, kind::SUSPEND, 0, |p| p.put_u32(self.epoch));
    }
}
