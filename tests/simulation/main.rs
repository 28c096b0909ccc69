//! Sessions between a broker and servers, their apps and services, and the directory, in one
//! virtual clock under random faults. What decides and what drives sessions is shipped code; the
//! README beside this says what is simulated.
//!
//! `STP_SEED=n` runs one seed and prints its trace, `STP_SEEDS=n` says how many are run (from
//! `STP_FIRST` on; `scripts/simulate`). Everything a run does follows from its seed.

#![expect(clippy::print_stdout, reason = "the table of mutants is what people look at")]

mod app;
mod broker;
mod check;
mod directory;
mod disk;
mod ends;
mod far;
mod fault;
mod kept;
mod link;
mod means;
#[cfg(feature = "model")]
mod mutants;
mod names;
mod near;
mod net;
mod origin;
mod plan;
mod random;
mod scenario;
mod server;
mod service;
mod trace;
mod ways;
mod work;
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use world::{Counts, World};

/// Seeds of a run in CI.
const SEEDS: u64 = 500;
/// Failing seeds shown.
const SHOWN: usize = 12;
/// How often a long run says how far it is.
const SAY_EVERY: Duration = Duration::from_secs(10);

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

fn run(seed: u64, loud: bool) -> Counts {
    trace::set_loud(loud);
    let mut world = World::new(seed);
    world.run();
    world.counts
}

/// The results of all seeds so far.
#[derive(Default)]
struct Sum {
    done: u64,
    counts: Counts,
    /// Seeds that failed, and how.
    failed: Vec<(u64, String)>,
    said: Duration,
}

impl Sum {
    #[expect(clippy::print_stderr, reason = "a long run says how far it is")]
    fn add(&mut self, seed: u64, result: Result<Counts, String>, (seeds, begun): (u64, Instant)) {
        self.done += 1;
        match result {
            Ok(counts) => self.counts.add(&counts),
            Err(text) => self.failed.push((seed, text)),
        }
        if begun.elapsed() >= self.said + SAY_EVERY {
            self.said = begun.elapsed();
            let seconds = self.said.as_secs();
            eprintln!("{} of {seeds} seeds, {} failed, {seconds} s", self.done, self.failed.len());
        }
    }
}

/// Runs seeds on all processors.
fn run_all(first: u64, seeds: u64) -> Sum {
    let (next, begun) = (AtomicU64::new(first), Instant::now());
    let sum = Mutex::new(Sum::default());
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    let work = || {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= first + seeds {
                break;
            }
            let result = catch_unwind(AssertUnwindSafe(|| run(seed, false))).map_err(|error| {
                let text = error.downcast_ref::<String>().cloned();
                let text = text.or(error.downcast_ref::<&str>().map(ToString::to_string));
                text.unwrap_or_default()
            });
            sum.lock().expect("no panic").add(seed, result, (seeds, begun));
        }
    };
    std::thread::scope(|scope| (0..threads).for_each(|_| drop(scope.spawn(work))));
    let mut sum = sum.into_inner().expect("no panic");
    sum.failed.sort();
    sum
}

impl Counts {
    fn add(&mut self, other: &Counts) {
        self.steps += other.steps;
        self.virtual_time += other.virtual_time;
        self.faults += other.faults;
        self.sessions += other.sessions;
        self.goals += other.goals;
        self.resets += other.resets;
        self.resumed += other.resumed;
        self.moved += other.moved;
        self.decided += other.decided;
        self.cooled += other.cooled;
        self.led += other.led;
        self.full += other.full;
        self.bytes += other.bytes;
        self.answers += other.answers;
        self.lapses += other.lapses;
        self.followed += other.followed;
    }
}

#[expect(clippy::print_stderr, reason = "the figures are for whoever runs it")]
#[test]
fn sessions_survive_what_may_happen() {
    if let Some(seed) = number("STP_SEED") {
        let counts = run(seed, true);
        eprintln!("seed {seed}: {counts:?}");
        return;
    }
    std::panic::set_hook(Box::new(|_| ()));
    let (first, seeds) = (number("STP_FIRST").unwrap_or(0), number("STP_SEEDS").unwrap_or(SEEDS));
    let begun = Instant::now();
    let Sum { counts: sum, failed, .. } = run_all(first, seeds);
    let _ = std::panic::take_hook();
    let took = begun.elapsed();
    let hours = sum.virtual_time.as_secs() / 3600;
    eprintln!(
        "{seeds} seeds in {:.1} s ({:.0} a second): {hours} virtual hours, {} steps, {} faults, \
         {} sessions ({} reached their goal, {} ended otherwise), {} resumed, {} moved \
         ({} for speed, {} times not so soon again), {} led through relays, {} MB; \
         the directory answered {} times, {} leases ran out, servers were followed {} times",
        took.as_secs_f64(),
        seeds as f64 / took.max(Duration::from_millis(1)).as_secs_f64(),
        sum.steps,
        sum.faults,
        sum.sessions,
        sum.goals,
        sum.resets,
        sum.resumed,
        sum.moved,
        sum.decided,
        sum.cooled,
        sum.led,
        sum.bytes / 1_000_000,
        sum.answers,
        sum.lapses,
        sum.followed,
    );
    for (seed, text) in failed.iter().take(SHOWN) {
        eprintln!("STP_SEED={seed}: {text}");
    }
    assert!(failed.is_empty(), "{} seeds failed; STP_SEED=n shows the trace", failed.len());
}
