//! What the daemons hold at most.

use std::fs;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};

use crate::bed::Bed;

const EVERY: Duration = Duration::from_millis(200);

/// One daemon under observation.
struct Watched {
    name: &'static str,
    pid: u32,
    log: PathBuf,
    lines_before: usize,
    descriptors: AtomicUsize,
}

/// All of them.
pub struct Peak(Vec<Watched>);

/// The most that a daemon held.
pub struct Row {
    pub name: &'static str,
    pub kib: u64,
    pub descriptors: usize,
    pub lines_per_s: f64,
}

impl Peak {
    pub fn of(bed: &mut Bed) -> Result<Peak> {
        let watched = bed.daemons()?.map(|(name, pid)| {
            // Standard error is the log.
            let log = fs::read_link(format!("/proc/{pid}/fd/2"))?;
            let lines_before = lines(&log)?;
            let descriptors = AtomicUsize::new(0);
            Ok(Watched { name, pid, log, lines_before, descriptors })
        });
        Ok(Peak(watched.into_iter().collect::<Result<_>>()?))
    }

    pub fn watch(&self, over: &AtomicBool) -> Result<()> {
        while !over.load(Ordering::Relaxed) {
            for watched in &self.0 {
                let open = fs::read_dir(format!("/proc/{}/fd", watched.pid))?.count();
                watched.descriptors.fetch_max(open, Ordering::Relaxed);
            }
            std::thread::sleep(EVERY);
        }
        Ok(())
    }

    pub fn rows(&self, took: Duration) -> Result<Vec<Row>> {
        let row = |watched: &Watched| {
            let status = fs::read_to_string(format!("/proc/{}/status", watched.pid))?;
            let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kib = peak.and_then(|peak| peak.split_whitespace().next());
            let written = lines(&watched.log)? - watched.lines_before;
            Ok(Row {
                name: watched.name,
                kib: kib.context("VmHWM")?.parse()?,
                descriptors: watched.descriptors.load(Ordering::Relaxed),
                lines_per_s: written as f64 / took.as_secs_f64(),
            })
        };
        self.0.iter().map(row).collect()
    }
}

fn lines(log: &PathBuf) -> Result<usize> {
    Ok(fs::read(log)?.iter().filter(|byte| **byte == b'\n').count())
}
