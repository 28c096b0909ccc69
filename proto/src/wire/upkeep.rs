//! How a session is to be kept: the end of CONNECT and of CONNECT_OK (R74).

use core::time::Duration;

use super::WireError;
use super::frame::{Fields, Put, seconds};
use crate::class::Class;

/// How a session is kept while it has no link, as one end asks and the other one grants (R74).
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Upkeep {
    /// How well.
    pub class: Class,
    /// The longest suspension by the other end that this one keeps the session through (R75).
    pub suspended: Duration,
}

impl Upkeep {
    pub(super) fn read(f: &mut Fields<'_>) -> Result<Upkeep, WireError> {
        let class = Class::from_number(f.u8("class")?).ok_or(WireError::BadValue("class"))?;
        Ok(Upkeep { class, suspended: Duration::from_secs(f.u32("suspended")?.into()) })
    }

    pub(super) fn put(self, p: &mut Vec<u8>) {
        p.put_u8(self.class.number());
        p.put_u32(seconds(self.suspended));
    }
}
