//! The clock of the pure core, and waiting for it.

use stp_proto::time::Instant;

/// The time on the clock that counts sleep.
#[must_use]
pub fn now() -> Instant {
    Instant(stp_net::clock::now_us())
}

/// Waits until then; for ever, if there is no such time.
pub async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep(at - now()).await,
        None => std::future::pending().await,
    }
}
