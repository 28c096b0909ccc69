//! The clock of the pure core, and waiting for it.

pub use stp_drive::clock::now;
use stp_proto::time::Instant;

/// Waits until then; for ever, if there is no such time.
pub async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep(at - now()).await,
        None => std::future::pending().await,
    }
}
