//! Sessions that come over and take long to compare (R69): the broker is told how far it is, may
//! ask other servers meanwhile, and finds what was compared when it asks again.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use stp_drive::clock::now;
use stp_proto::wire::{DenyReason, TransferRequest};
use tokio::task::JoinHandle;

use crate::denial::Denial;
use crate::registry::Key;
use crate::service::coming::{Coming, Opened};

/// What is not compared by then is answered with how far it is.
const ANSWER_AFTER: Duration = Duration::from_secs(2);
/// What nobody asks for is dropped after this time.
const KEPT: Duration = Duration::from_secs(60);
/// Takeovers that are compared for brokers that ask again. Others are compared while the broker
/// waits.
const MOST: usize = 64;

type Result = std::result::Result<Opened, Denial>;

/// How far one is.
#[derive(Debug, Default)]
struct Progress {
    done: AtomicU64,
    total: AtomicU64,
}

/// One that is compared.
struct One {
    /// The ticket, the position and the proof that it is compared with.
    request: (Vec<u8>, u64, Option<stp_proto::seam::SeamProof>),
    progress: Arc<Progress>,
    running: JoinHandle<Result>,
    asked: Instant,
}

impl Drop for One {
    fn drop(&mut self) {
        self.running.abort();
    }
}

/// Those that are compared.
#[derive(Default)]
pub struct Comparings(Mutex<HashMap<Key, One>>);

impl Comparings {
    /// What is under way for this very request.
    fn take(&self, key: &Key, request: &TransferRequest<'_>) -> Option<One> {
        let one = self.0.lock().remove(key)?;
        (one.request == identity(request)).then_some(one)
    }

    /// Whether this very request is being compared.
    #[must_use]
    pub fn has(&self, key: &Key, request: &TransferRequest<'_>) -> bool {
        self.0.lock().get(key).is_some_and(|one| one.request == identity(request))
    }

    /// Goes on with what is under way.
    pub async fn go_on(self: &Arc<Self>, key: Key, request: &TransferRequest<'_>) -> Result {
        let Some(mut one) = self.take(&key, request) else {
            return Err(Denial::new(DenyReason::Internal, "another attempt has it"));
        };
        match tokio::time::timeout(ANSWER_AFTER, &mut one.running).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(error)) => Err(Denial::new(DenyReason::Internal, error.to_string())),
            Err(_) => Err(self.keep(key, one)),
        }
    }

    /// Opens, for at most a while if the broker can be told how far it is.
    pub async fn open(
        self: &Arc<Self>,
        key: Key,
        request: Option<&TransferRequest<'_>>,
        mut takeover: Coming,
    ) -> Result {
        let begun = Instant::now();
        loop {
            let request = request.filter(|_| self.0.lock().len() < MOST);
            let left = ANSWER_AFTER.saturating_sub(begun.elapsed());
            let wait = if request.is_some() { left } else { Duration::MAX };
            if let Some(opened) = poll(&mut takeover, wait).await {
                return opened;
            }
            let (Some(request), true) = (request, begun.elapsed() >= ANSWER_AFTER) else {
                continue;
            };
            let Some((done, total)) = takeover.progress() else { continue };
            let progress = Arc::new(Progress { done: done.into(), total: total.into() });
            let (request, asked) = (identity(request), Instant::now());
            let running = tokio::spawn(drive(takeover, Arc::clone(&progress)));
            return Err(self.keep(key, One { request, progress, running, asked }));
        }
    }

    /// Keeps one for the next time its broker asks, and says how far it is.
    fn keep(self: &Arc<Self>, key: Key, mut one: One) -> Denial {
        let progress = Arc::clone(&one.progress);
        one.asked = Instant::now();
        self.0.lock().insert(key, one);
        let all = Arc::clone(self);
        tokio::spawn(async move {
            tokio::time::sleep(KEPT).await;
            let mut all = all.0.lock();
            if all.get(&key).is_some_and(|one| one.asked.elapsed() >= KEPT) {
                all.remove(&key);
            }
        });
        let (done, total) =
            (progress.done.load(Ordering::Relaxed), progress.total.load(Ordering::Relaxed));
        Denial::new(DenyReason::Verifying, text(done, total))
    }
}

/// "verifying 3.1 of 10.0 GB".
fn text(done: u64, total: u64) -> String {
    let (unit, name) = if total >= 1_000_000_000 { (1e9, "GB") } else { (1e6, "MB") };
    format!("verifying {:.1} of {:.1} {name}", done as f64 / unit, total as f64 / unit)
}

fn identity(request: &TransferRequest<'_>) -> (Vec<u8>, u64, Option<stp_proto::seam::SeamProof>) {
    (request.ticket.unwrap_or_default().to_vec(), request.down, request.seam.clone())
}

async fn drive(mut takeover: Coming, progress: Arc<Progress>) -> Result {
    loop {
        if let Some(opened) = poll(&mut takeover, Duration::from_millis(100)).await {
            return opened;
        }
        if let Some((done, _)) = takeover.progress() {
            progress.done.store(done, Ordering::Relaxed);
        }
    }
}

/// Polls for at most this long, and at most until it is due.
async fn poll(takeover: &mut Coming, most: Duration) -> Option<Result> {
    let due = takeover.due().map_or(Duration::MAX, |due| due - now());
    let opened = std::future::poll_fn(|cx| takeover.poll(now(), cx));
    // A time-out is a reason to poll again: then the silence is seen.
    tokio::time::timeout(due.min(most), opened).await.ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_far_it_is_is_said_in_words() {
        assert_eq!(text(3_140_000_000, 10_000_000_000), "verifying 3.1 of 10.0 GB");
        assert_eq!(text(5_000_000, 800_000_000), "verifying 5.0 of 800.0 MB");
    }
}
