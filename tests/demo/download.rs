//! One download, and its part of the timeline.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use stp_tests::cluster::{CLIENT, Cluster};
use stp_tests::growth::Growth;
use stp_tests::process::{Plan, Process};
use stp_tests::scene::Scene;
use stp_tests::wait;

const PATIENCE: Duration = Duration::from_secs(60);
/// The exit code of a `session get` whose endpoint was saved.
const MOVED: i32 = 75;

/// A program that downloads the file.
pub struct Download {
    process: Process,
    growth: Growth,
    path: PathBuf,
    begun: Instant,
    /// How many of the session's events have been told.
    told: usize,
}

impl Download {
    /// Starts `plan`, which writes to `growing` and leaves the file at `path`.
    pub fn begin(
        scene: &Scene,
        cluster: &Cluster,
        plan: Plan,
        command: &str,
        (growing, path): (&str, &str),
    ) -> Result<Download> {
        let growth = Growth::watch(&cluster.user.path(growing));
        let path = cluster.user.path(path);
        let process = plan.start(scene, Some(cluster.client()))?;
        let download = Download { process, growth, path, begun: Instant::now(), told: 0 };
        download.tell(&format!("$ {command}"));
        Ok(download)
    }

    /// A line of the timeline.
    pub fn tell(&self, text: &str) {
        println!("{:>7.1} s  {text}", self.begun.elapsed().as_secs_f64());
    }

    /// Waits until this much of the file is there.
    pub fn reach(&mut self, cluster: &Cluster, percent: u64) -> Result<()> {
        let len = cluster.payload.len / 100 * percent;
        wait::until(&format!("{len} bytes"), PATIENCE, || {
            self.process.must_run()?;
            Ok((self.growth.len() >= len).then_some(()))
        })
    }

    /// The client's link goes down, and comes up again.
    pub fn link_down(&mut self, cluster: &Cluster, pause: Duration) -> Result<()> {
        cluster.topology.hosts[CLIENT].link_down(0)?;
        self.tell("✂ the client's link goes down");
        std::thread::sleep(pause);
        cluster.topology.hosts[CLIENT].link_up(0)?;
        self.tell(&format!("  the link is up again, after {} s", pause.as_secs()));
        self.goes_on(cluster, Instant::now())
    }

    /// The client gets another address.
    pub fn new_address(&mut self, cluster: &mut Cluster) -> Result<()> {
        let changed = Instant::now();
        cluster.topology.hosts[CLIENT].replace_address(0)?;
        let address = cluster.topology.hosts[CLIENT].address();
        self.tell(&format!("⇄ the client's address is now {address}"));
        self.goes_on(cluster, changed)
    }

    /// Kills the server that serves. Returns which one that was.
    pub fn kill_serving(&mut self, cluster: &mut Cluster) -> Result<usize> {
        let place = cluster.serving()?;
        let killed = Instant::now();
        cluster.kill_server(place)?;
        self.tell(&format!("☠ kill -9 of server {}", cluster.servers[place].name));
        self.goes_on(cluster, killed)?;
        Ok(place)
    }

    /// Waits until the session goes on after a fault and tells how, as the broker saw it.
    pub fn goes_on(&mut self, cluster: &Cluster, over: Instant) -> Result<()> {
        let event = wait::until("the session to go on", PATIENCE, || {
            self.process.must_run()?;
            let status = cluster.user.status()?;
            let events = status["sessions"][0]["events"].as_array().map_or(&[][..], Vec::as_slice);
            let news = events.iter().skip(self.told).find(|event| event["gap_ms"].is_u64());
            if news.is_some() {
                self.told = events.len();
            }
            Ok(news.cloned())
        })?;
        self.growth.grow_after(over, PATIENCE)?;
        let word = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
        let server = match (word("from_server"), word("to_server")) {
            (from, to) if from == to => format!("same server {to}"),
            (from, to) => format!("server {to} takes over from {from}, seam verified"),
        };
        let (byte, gap) = (&event["at_byte"], &event["gap_ms"]);
        self.tell(&format!("  goes on at byte {byte}, {server}; gap {gap} ms"));
        Ok(())
    }

    /// The way to the server, as the broker's status shows it.
    pub fn tell_rtt(&self, cluster: &Cluster) -> Result<()> {
        let status: Value = cluster.user.status()?;
        let rtt = status["sessions"][0]["rtt_ms"].as_f64().context("no session in the status")?;
        self.tell(&format!("  the broker's status says: round trip {rtt:.0} ms"));
        Ok(())
    }

    /// Waits for the end of what goes on with it on another machine, by the same session.
    pub fn end_elsewhere(self, cluster: &Cluster, load: Process, path: &Path) -> Result<()> {
        let Download { process, begun, .. } = self;
        let moved = process.end(PATIENCE)?;
        ensure!(moved.status.code() == Some(MOVED), "it ended with {}", moved.status);
        cluster.must_be_right(load, &path.to_owned())?;
        let (took, sha256) = (begun.elapsed().as_secs_f64(), &cluster.payload.sha256);
        println!("{took:>7.1} s  the same session, on another machine; SHA-256 equal: {sha256}\n");
        Ok(())
    }

    /// Waits for the end, which must be a success with every byte right.
    pub fn end(self, cluster: &Cluster) -> Result<()> {
        let Download { process, path, begun, .. } = self;
        cluster.must_be_right(process, &path)?;
        let (took, sha256) = (begun.elapsed().as_secs_f64(), &cluster.payload.sha256);
        println!("{took:>7.1} s  exit code 0, SHA-256 equal: {sha256}\n");
        Ok(())
    }
}
