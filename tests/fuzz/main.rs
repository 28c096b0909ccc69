//! Every decoder with the inputs of the corpus, and with those that a seeded mutator makes of them.
//!
//! ```text
//! cargo test --workspace --test fuzz -- --nocapture
//! FUZZ_SEED=7 FUZZ_SECONDS=600 cargo test --release --workspace --test fuzz -- --nocapture
//! FUZZ_INPUT=crash-1234 cargo test --workspace --test fuzz input_from_outside
//! ```
//! An input that fails is written to the directory of temporary files and named; with its bug
//! repaired it belongs into `corpus/<target>/`. `fuzz/` drives the same targets by cargo-fuzz.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "the figures are what people look at")]

mod mutate;
mod targets;

use std::panic::{self, AssertUnwindSafe};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use targets::{ALL, Target};

/// How many inputs are made for every target. They are always the same ones, unless FUZZ_SECONDS
/// says how long to go on.
const RUNS: u64 = 50_000;
/// The longest input made.
const INPUT_MAX: usize = 2_048;

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

fn corpus(target: &Target) -> Vec<(PathBuf, Vec<u8>)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target.name);
    let entries = std::fs::read_dir(&folder).expect("every target has a corpus");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("it can be listed").path()).collect();
    paths.sort();
    let read = |path: PathBuf| {
        let bytes = std::fs::read(&path).expect("it can be read");
        (path, bytes)
    };
    paths.into_iter().map(read).collect()
}

/// Runs a target, and on failure keeps the input.
fn run(target: &Target, input: &[u8], origin: &str) {
    let ran = panic::catch_unwind(AssertUnwindSafe(|| (target.run)(input)));
    if let Err(cause) = ran {
        let file = std::env::temp_dir().join(format!("fuzz-{}-{origin}", target.name));
        let kept = std::fs::write(&file, input);
        println!("{}: {origin} fails; the input: {} ({kept:?})", target.name, file.display());
        panic::resume_unwind(cause);
    }
}

#[test]
fn everything_in_the_corpus_is_survived() {
    for target in &ALL {
        for (path, input) in corpus(target) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            run(target, &input, &name);
        }
    }
}

#[test]
fn what_a_seed_makes_of_the_corpus_is_survived() {
    let seed = variable("FUZZ_SEED").unwrap_or(1);
    let seconds = variable("FUZZ_SECONDS");
    let each = seconds.map(|seconds| Duration::from_secs(seconds) / ALL.len() as u32);
    println!("seed {seed}\n{:<12}{:>8}{:>14}", "target", "corpus", "executions");
    let mut sum = 0;
    for target in &ALL {
        let kept: Vec<_> = corpus(target).into_iter().map(|(_, input)| input).collect();
        let mut random = fastrand::Rng::with_seed(seed);
        let (begun, mut executions) = (Instant::now(), 0_u64);
        while each.map_or(executions < RUNS, |each| begun.elapsed() < each) {
            let input = mutate::make(&mut random, &kept, INPUT_MAX);
            run(target, &input, &format!("{seed}-{executions}"));
            executions += 1;
        }
        println!("{:<12}{:>8}{executions:>14}", target.name, kept.len());
        sum += executions;
    }
    println!("{:<12}{sum:>22}", "all");
}

/// One input, for every target or for that of FUZZ_TARGET.
#[test]
fn input_from_outside() {
    let Ok(path) = std::env::var("FUZZ_INPUT") else { return };
    let input = std::fs::read(path).expect("it can be read");
    match std::env::var("FUZZ_TARGET") {
        Ok(name) => targets::run(&name, &input),
        Err(_) => ALL.iter().for_each(|target| (target.run)(&input)),
    }
}
