//! A program of ours floods a real broker, a real server and a real gateway with all that strangers
//! and clients can think of, while honest downloads go on: they must end with the right bytes.
//!
//! `STP_HOSTILE_SECONDS` says how long, a minute by default. Printed are how much slower the
//! downloads are, and what the daemons hold at most.

mod attack;
mod bed;
mod honest;
mod watch;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use stp_tests::scene::{Scene, play};

use crate::attack::{Attack, Target};
use crate::bed::Bed;
use crate::watch::Peak;

/// Honest downloads while the flood lasts.
const DOWNLOADS: usize = 50;
/// Before it, to compare with.
const QUIET: usize = 5;
/// The most memory that the server may ever have: its sessions' budget, and what the program, its
/// handshakes and its links take.
const SERVER_KIB_MAX: u64 = 320 << 10;
/// The most lines that a daemon may log a second, on average, and a first burst.
const LINES_PER_S_MAX: f64 = 150.0;

#[test]
fn nobody_can_take_it_down() {
    play("flood", |scene| {
        let seconds = std::env::var("STP_HOSTILE_SECONDS").unwrap_or_else(|_| "60".to_owned());
        let seconds: u64 = seconds.parse().context("STP_HOSTILE_SECONDS")?;
        flood(scene, Duration::from_secs(seconds))
    });
}

fn flood(scene: &Scene, lasts: Duration) -> Result<()> {
    let mut bed = Bed::lay(scene)?;
    let quiet = honest::downloads(scene, &bed, "quiet", QUIET, Duration::from_secs(1))?;
    let (over, peaks) = (AtomicBool::new(false), Peak::of(&mut bed)?);
    let target = Target::of(&bed)?;
    let begun = Instant::now();
    let (loud, long, logins, done) = std::thread::scope(|threads| -> Result<_> {
        let attackers: Vec<_> = bed
            .attackers()
            .iter()
            .map(|host| {
                let (target, over) = (&target, &over);
                threads.spawn(move || attack::run(host, target, over))
            })
            .collect();
        let watched = threads.spawn(|| peaks.watch(&over));
        let long = threads.spawn(|| honest::long(scene, &bed, lasts));
        let logins = threads.spawn(|| honest::logins(&bed, &target, &over));
        let loud = honest::downloads(scene, &bed, "loud", DOWNLOADS, lasts);
        let long = long.join().expect("no panic");
        over.store(true, Ordering::Relaxed);
        let mut done = Attack::default();
        for attacker in attackers {
            done.add(&attacker.join().expect("no panic")?);
        }
        watched.join().expect("no panic")?;
        Ok((loud?, long?, logins.join().expect("no panic")?, done))
    })?;
    let took = begun.elapsed();
    scene.say(&format!("for {} s: {done}", took.as_secs()));
    let (quiet_s, loud_s) = (honest::median(&quiet), honest::median(&loud));
    scene.say(&format!(
        "{DOWNLOADS} downloads with the right bytes: {loud_s:.2} s each, {quiet_s:.2} s without \
         the flood; the slowest {:.2} s; one that lasted, through a cut of its path, {long:.1} s; \
         {logins} log-ins",
        honest::slowest(&loud),
    ));
    scene.say(&format!("the server refused: {}", bed.server_status()?["refused"]));
    scene.say("| daemon | memory, MiB | descriptors | log lines a second |");
    scene.say("|---|---|---|---|");
    for row in peaks.rows(took)? {
        scene.say(&format!(
            "| {} | {} | {} | {:.1} |",
            row.name,
            row.kib >> 10,
            row.descriptors,
            row.lines_per_s
        ));
        ensure!(row.lines_per_s <= LINES_PER_S_MAX, "{} fills its log", row.name);
        if row.name == "server" {
            ensure!(row.kib <= SERVER_KIB_MAX, "the server takes {} KiB", row.kib);
            ensure!(row.descriptors <= bed::DESCRIPTORS, "{} descriptors", row.descriptors);
        }
    }
    bed.must_run()?;
    let log = bed.server_log();
    ensure!(!log.contains("cannot accept"), "the server had no descriptor for a connection");
    ensure!(logins > 0, "nobody could log in");
    Ok(())
}
