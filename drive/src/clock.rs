//! The machine's clock, as the pure core has it.

use stp_proto::time::Instant;

/// The time on the clock that counts sleep.
#[must_use]
pub fn now() -> Instant {
    Instant(stp_net::clock::now_us())
}
