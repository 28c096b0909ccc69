//! What honest users do meanwhile.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use stp_lookup::Gateway;
use stp_lookup::gateway::connect_any;
use stp_net::key::Identity;
use stp_net::link::{LinkOptions, Tls};
use stp_tests::file;
use stp_tests::scene::Scene;

use crate::attack::Target;
use crate::bed::{Bed, CLIENT, PASSWORD, PIECE, USER};

/// The longest that a download of a piece may take.
const PIECE_MAX: Duration = Duration::from_secs(60);
/// The pause between two log-ins: each takes a second of computing.
const LOGIN_EVERY: Duration = Duration::from_secs(10);
/// How long the path of the long download is cut.
const CUT: Duration = Duration::from_secs(3);

/// Downloads the piece so often, evenly over this time; seconds of each.
pub fn downloads(
    scene: &Scene,
    bed: &Bed,
    name: &str,
    count: usize,
    over: Duration,
) -> Result<Vec<f64>> {
    let pause = over / u32::try_from(count)?;
    std::thread::scope(|threads| {
        let running: Vec<_> = (0..count)
            .map(|number| {
                let started =
                    threads.spawn(move || download(scene, bed, &format!("{name}-{number}")));
                std::thread::sleep(pause);
                started
            })
            .collect();
        running.into_iter().map(|one| one.join().expect("no panic")).collect()
    })
}

fn download(scene: &Scene, bed: &Bed, name: &str) -> Result<f64> {
    let (begun, to) = (Instant::now(), scene.path(name));
    let curl = bed.broker.app("curl")?.called(name).args(&["-sS", "--fail", "-o"]).arg(&to);
    let curl = curl.arg("http://mirror.lab/piece");
    curl.run(scene, Some(&bed.client().namespace), PIECE_MAX)?.ok().context(name.to_owned())?;
    let seconds = begun.elapsed().as_secs_f64();
    ensure!(fs::metadata(&to)?.len() == PIECE, "{name} is not whole");
    ensure!(file::sha256(&to)? == bed.piece.sha256, "{name} has wrong bytes");
    fs::remove_file(&to)?;
    Ok(seconds)
}

/// A download that lasts for most of the flood, and whose path is cut in the middle: it comes back
/// on a new link while the flood goes on. Says how long it took.
pub fn long(scene: &Scene, bed: &Bed, lasts: Duration) -> Result<f64> {
    let rate = bed.big.len / lasts.as_secs().max(10) * 10 / 8;
    let (begun, to) = (Instant::now(), scene.path("long"));
    let curl = bed.broker.app("curl")?.called("long").args(&["-sS", "--fail", "--limit-rate"]);
    let curl = curl.arg(rate.to_string()).arg("-o").arg(&to).arg("http://mirror.lab/big");
    let running = curl.start(scene, Some(&bed.client().namespace))?;
    std::thread::sleep(lasts / 3);
    bed.topology.cut(CLIENT, 0, true)?;
    std::thread::sleep(CUT);
    bed.topology.cut(CLIENT, 0, false)?;
    running.end(lasts * 3)?.ok().context("the long download")?;
    ensure!(file::sha256(&to)? == bed.big.sha256, "the long download has wrong bytes");
    fs::remove_file(&to)?;
    Ok(begun.elapsed().as_secs_f64())
}

/// The user logs in from time to time; how often.
pub fn logins(bed: &Bed, target: &Target, over: &AtomicBool) -> Result<usize> {
    let work = || -> Result<usize> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let mut count = 0;
        while !over.load(Ordering::Relaxed) {
            runtime.block_on(async {
                let (tls, options) = (Tls::new(&Identity::generate()), LinkOptions::default());
                let (at, key) = target.gateway;
                let connection = connect_any(&[at], &key, &tls, &options).await?;
                Gateway::login_with_password(connection, USER, PASSWORD.to_owned(), 0).await?;
                anyhow::Ok(())
            })?;
            count += 1;
            let next = Instant::now() + LOGIN_EVERY;
            while Instant::now() < next && !over.load(Ordering::Relaxed) {
                std::thread::sleep(Duration::from_millis(100));
            }
        }
        Ok(count)
    };
    bed.client().namespace.inside(work)?
}

pub fn median(seconds: &[f64]) -> f64 {
    let mut sorted = seconds.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}

pub fn slowest(seconds: &[f64]) -> f64 {
    seconds.iter().copied().fold(0.0, f64::max)
}
