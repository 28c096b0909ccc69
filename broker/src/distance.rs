//! How far the servers are: measured by echo, kept for a while, and asked for once at a time.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use stp_net::echo;
use stp_net::key::PublicKey;
use stp_proto::rise::Way;
use tokio::time::timeout;

use crate::leave::Leave;

/// Echo requests of one measurement (STP 3).
const QUESTIONS: u32 = 4;
/// For how long the least round trip counts.
const BASE_AGE: Duration = Duration::from_secs(600);
/// Measurements kept.
const KEPT_MAX: usize = 64;
/// How long a measurement is good for a first choice; a server's silence is asked about sooner.
const FRESH: Duration = Duration::from_secs(60);
const FRESH_SILENT: Duration = Duration::from_secs(10);

#[derive(Clone, Copy)]
struct Measured {
    at: Instant,
    rtt: Option<Duration>,
}

/// The distance of one server.
#[derive(Default)]
pub struct Distance {
    kept: Mutex<VecDeque<Measured>>,
    /// Held while it is measured: others wait for that one's result.
    turn: tokio::sync::Mutex<()>,
    /// The policy that says over what it is measured, if there is one.
    leave: Option<Arc<Leave>>,
}

impl Distance {
    /// Of a server that is reached over what a policy allows.
    #[must_use]
    pub fn under(leave: Arc<Leave>) -> Distance {
        Distance { leave: Some(leave), ..Distance::default() }
    }

    fn last(&self) -> Option<Measured> {
        self.kept.lock().back().copied()
    }

    /// The last measurement, and the least of the last while.
    #[must_use]
    pub fn way(&self) -> Way {
        let kept = self.kept.lock();
        let fresh = kept.iter().filter(|measured| measured.at.elapsed() < BASE_AGE);
        Way {
            now: kept.back().and_then(|measured| measured.rtt),
            base: fresh.filter_map(|measured| measured.rtt).min(),
        }
    }

    /// Whether a first choice can do without measuring.
    #[must_use]
    pub fn is_fresh(&self) -> bool {
        self.last().is_some_and(|last| {
            let good = if last.rtt.is_some() { FRESH } else { FRESH_SILENT };
            last.at.elapsed() < good
        })
    }

    /// Measures, unless somebody has done so within `age`.
    pub async fn measure(
        &self,
        server: impl Future<Output = Option<SocketAddr>>,
        age: Duration,
        patience: Duration,
    ) -> Way {
        let asking = async {
            let device = match &self.leave {
                None => None,
                // Where nothing is allowed nothing is asked.
                Some(leave) => Some(leave.best()?),
            };
            let address = timeout(patience, server).await.ok()??;
            echo::measure(address, QUESTIONS, patience, device.as_deref()).await
        };
        self.ask(age, asking).await
    }

    /// The same of the way to `home` through `relay`.
    pub async fn measure_through(
        &self,
        relay: impl Future<Output = Option<SocketAddr>>,
        home: &PublicKey,
        age: Duration,
        patience: Duration,
    ) -> Way {
        let asking = async {
            let address = timeout(patience, relay).await.ok()??;
            echo::measure_through(address, home, QUESTIONS, patience).await
        };
        self.ask(age, asking).await
    }

    async fn ask(&self, age: Duration, asking: impl Future<Output = Option<Duration>>) -> Way {
        let _turn = self.turn.lock().await;
        if self.last().is_none_or(|last| last.at.elapsed() > age) {
            let rtt = asking.await;
            let mut kept = self.kept.lock();
            if kept.len() == KEPT_MAX {
                kept.pop_front();
            }
            kept.push_back(Measured { at: Instant::now(), rtt });
        }
        self.way()
    }

    /// The network has changed: what was measured is of other paths.
    pub fn forget(&self) {
        self.kept.lock().clear();
    }
}
