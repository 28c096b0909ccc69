//! SUSPEND: the user stopped the session (KTH 3.7.4).

use core::time::Duration;

use super::WireError;
use super::frame::{Fields, Put, Raw, kind, seconds, write};

/// The flag: how long stands behind the epoch.
const LASTS: u8 = 1;

/// SUSPEND.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct Suspend {
    /// The epoch in force.
    pub epoch: u32,
    /// How long, in whole seconds; none: nobody knows, or the receiver knows no such time (R75).
    pub lasts: Option<Duration>,
}

impl Suspend {
    pub(crate) fn read(raw: Raw<'_>) -> Result<Suspend, WireError> {
        raw.check_flags(LASTS)?;
        let mut f = Fields(raw.payload);
        let epoch = f.u32("epoch")?;
        let lasts = match raw.flags & LASTS {
            0 => None,
            _ => Some(Duration::from_secs(f.u32("lasts")?.into())),
        };
        f.end()?;
        Ok(Suspend { epoch, lasts })
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let flags = if self.lasts.is_some() { LASTS } else { 0 };
        write(out, kind::SUSPEND, flags, |p| {
            p.put_u32(self.epoch);
            if let Some(lasts) = self.lasts {
                p.put_u32(seconds(lasts));
            }
        });
    }
}
