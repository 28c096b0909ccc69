//! What a session has published already.

use stp_proto::state::State;
use stp_proto::time::Instant;

/// What was published last, and when.
#[derive(Default)]
pub(crate) struct Published {
    pub(crate) at: Instant,
    pub(crate) delivered: u64,
    pub(crate) taken: u64,
    pub(crate) state: Option<State>,
    /// Something has happened since.
    pub(crate) stale: bool,
}
