//! The servers to which this one relays: how far they are, and what is passed on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use serde_json::{Value, json};
use stp_net::echo::{self, About};
use stp_net::key::PublicKey;
use stp_proto::clocks;
use tokio::sync::Semaphore;

use crate::config::RelayConfig;

/// How often the way to each of the servers is measured.
const MEASURE_EVERY: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_millis(500);
const QUESTIONS: u32 = 4;

/// A server to which this one relays.
pub(crate) struct Home {
    pub(crate) key: PublicKey,
    pub(crate) address: std::net::SocketAddr,
    /// How far it is.
    pub(crate) rtt: Mutex<Option<Duration>>,
    /// What it says of itself.
    about: Mutex<Option<About>>,
}

impl Home {
    /// Notes what it says of itself, and warns when its clock is found to be off.
    fn heard(&self, about: Option<About>) {
        let Some(about) = about else { return };
        let say =
            |about: About| clocks::warnings(&[(self.address.to_string(), about.ahead_ms)]).pop();
        let before = self.about.lock().replace(about).and_then(say);
        if let (None, Some(warning)) = (before, say(about)) {
            tracing::warn!("{warning}");
        }
    }
}

/// Everything this server relays.
pub struct Relays {
    pub(crate) homes: Vec<Home>,
    pub(crate) places: Arc<Semaphore>,
    pub(crate) places_max: usize,
    pub(crate) begun: AtomicU64,
    pub(crate) bytes: AtomicU64,
    /// Passed on lately, bytes a second, both ways together.
    pub(crate) rate: AtomicU64,
}

impl Relays {
    /// Nothing is relayed yet.
    #[must_use]
    pub fn new(homes: &[RelayConfig], places_max: usize) -> Relays {
        let home = |config: &RelayConfig| Home {
            key: config.key,
            address: config.address.0,
            rtt: Mutex::default(),
            about: Mutex::default(),
        };
        Relays {
            homes: homes.iter().map(home).collect(),
            places: Arc::new(Semaphore::new(places_max)),
            places_max,
            begun: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            rate: AtomicU64::new(0),
        }
    }

    /// How far it is to the server with this key: none if it is not relayed to, or is silent.
    #[must_use]
    pub fn onward(&self, key: &PublicKey) -> Option<Duration> {
        *self.find(key)?.rtt.lock()
    }

    /// What the servers said of themselves, with their addresses.
    pub(crate) fn heard(&self) -> Vec<(String, About)> {
        let one = |home: &Home| Some((home.address.to_string(), (*home.about.lock())?));
        self.homes.iter().filter_map(one).collect()
    }

    /// What is passed on now, bytes a second.
    #[must_use]
    pub fn rate(&self) -> u64 {
        self.rate.load(Ordering::Relaxed)
    }

    pub(crate) fn find(&self, key: &PublicKey) -> Option<&Home> {
        self.homes.iter().find(|home| home.key == *key)
    }

    /// Measures the ways to the servers for ever.
    pub async fn measure(self: Arc<Self>) {
        if self.homes.is_empty() {
            return;
        }
        let (mut last, mut at) = (0, Instant::now());
        loop {
            let asked = self.homes.iter().enumerate().map(|(place, home)| {
                let address = home.address;
                async move {
                    let measured = echo::measure(address, QUESTIONS, PATIENCE, None);
                    (place, tokio::join!(measured, echo::about(address, PATIENCE)))
                }
            });
            let asked: tokio::task::JoinSet<_> = asked.collect();
            for (place, (rtt, about)) in asked.join_all().await {
                let home = &self.homes[place];
                *home.rtt.lock() = rtt;
                home.heard(about);
            }
            let (bytes, elapsed) = (self.bytes.load(Ordering::Relaxed), at.elapsed());
            let rate = (bytes - last) as f64 / elapsed.as_secs_f64().max(1e-3);
            self.rate.store(rate as u64, Ordering::Relaxed);
            (last, at) = (bytes, Instant::now());
            tokio::time::sleep(MEASURE_EVERY).await;
        }
    }

    /// For the status.
    #[must_use]
    pub fn json(&self) -> Value {
        let home = |home: &Home| {
            json!({
                "key": home.key.to_string(),
                "address": home.address.to_string(),
                "clock_ahead_ms": home.about.lock().map(|about| about.ahead_ms),
                "rtt_ms": home.rtt.lock().map(|rtt| rtt.as_secs_f64() * 1e3),
            })
        };
        json!({
            "to": self.homes.iter().map(home).collect::<Vec<_>>(),
            "now": self.places_max - self.places.available_permits(),
            "max": self.places_max,
            "begun": self.begun.load(Ordering::Relaxed),
            "bytes": self.bytes.load(Ordering::Relaxed),
            "rate": self.rate(),
        })
    }
}
