//! How far an ending is (R50 to R55); what it does is in `close`.

use super::{ClosedWhy, ShutNear};

/// How far an ending is.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, Default)]
pub(super) struct Ending {
    /// How it ended.
    pub why: Option<ClosedWhy>,
    /// Initiator: this reset is still to be told.
    pub farewell: Option<u32>,
    /// For the near side once it has taken all that was received.
    pub shut: Option<ShutNear>,
    /// The near side is gone: how much the peer had received when that was looked at last.
    pub heard: u64,
    /// Closed was given out.
    pub over: bool,
}
