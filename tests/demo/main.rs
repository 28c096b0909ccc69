//! `scripts/demo`: an unmodified curl and an unmodified wget download through sessions while links
//! are cut, the client's address changes and servers are killed. A timeline for a person.
#![allow(clippy::print_stdout, reason = "the timeline is what this program is for")]

use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use serde_json::Value;
use stp_tests::growth::Growth;
use stp_tests::process::Process;
use stp_tests::scene::{self, Scene};
use stp_tests::wait;

#[path = "../lab/world.rs"]
#[allow(dead_code, reason = "the lab uses all of it")]
mod world;

use world::{CLIENT, Layout, Tool, World, reach};

fn main() -> ExitCode {
    if !nix::unistd::geteuid().is_root() {
        println!("the demo makes network namespaces: run it as root (scripts/demo uses sudo)");
        return ExitCode::FAILURE;
    }
    match std::panic::catch_unwind(|| scene::play("demo", show)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

/// A clock and the timeline.
struct Story {
    start: Instant,
}

impl Story {
    fn tell(&self, text: &str) {
        println!("{:>7.1} s  {text}", self.start.elapsed().as_secs_f64());
    }
}

fn show(scene: &Scene) -> Result<()> {
    let layout = Layout { servers: 2, ..Layout::default() };
    println!(
        "\nTwo STP servers, a and b, each with its own nginx and the same {} MB file.\n\
         A client whose access link has 200 Mbit/s and 40 ms. Programs as Debian ships them.\n",
        layout.megabytes
    );
    let mut world = World::lay(scene, &layout)?;
    curl(scene, &mut world)?;
    println!();
    wget(scene, &mut world)?;
    println!("\nBoth programs ended with exit code 0 and the right SHA-256, and never noticed.\n");
    Ok(())
}

/// One download, and what the story needs of it.
struct Download {
    process: Process,
    growth: Growth,
    path: std::path::PathBuf,
    story: Story,
    /// How many of the session's events have been told.
    told: usize,
}

impl Download {
    fn begin(scene: &Scene, world: &World, tool: Tool) -> Result<Download> {
        let (process, growth, path) = world.download(scene, tool)?;
        let story = Story { start: Instant::now() };
        story.tell(&format!("$ session run -- {} http://mirror.lab/big", tool.name()));
        Ok(Download { process, growth, path, story, told: 0 })
    }

    fn reach(&mut self, world: &World, percent: u64) -> Result<()> {
        reach(&self.growth, &mut self.process, world.payload.len / 100 * percent)
    }

    /// Waits until the session goes on after a fault and tells how, as the broker saw it.
    fn goes_on(&mut self, world: &World, over: Instant) -> Result<()> {
        let event = wait::until("the session to go on", Duration::from_secs(60), || {
            self.process.must_run()?;
            let status = world.broker_status()?;
            let session = &status["sessions"][0];
            let events = session["events"].as_array().map_or(&[][..], Vec::as_slice);
            let known = self.told;
            let news = events.iter().skip(known).find(|event| event["gap_ms"].is_u64());
            if news.is_some() {
                self.told = events.len();
            }
            Ok(news.cloned())
        })?;
        self.growth.grow_after(over, Duration::from_secs(60))?;
        let word = |key: &str| event[key].as_str().unwrap_or_default().to_owned();
        let server = match (word("from_server"), word("to_server")) {
            (from, to) if from == to => format!("same server {to}"),
            (from, to) => format!("server {to} takes over from {from}, seam verified"),
        };
        let (byte, gap) = (&event["at_byte"], &event["gap_ms"]);
        self.story.tell(&format!("  goes on at byte {byte}, {server}; gap {gap} ms"));
        Ok(())
    }

    fn end(self, world: &World) -> Result<()> {
        world.must_be_right(self.process, &self.path)?;
        self.story.tell(&format!("exit code 0, SHA-256 equal: {}", world.payload.sha256));
        Ok(())
    }
}

fn curl(scene: &Scene, world: &mut World) -> Result<()> {
    let mut download = Download::begin(scene, world, Tool::Curl)?;
    download.reach(world, 20)?;
    world.topology.hosts[CLIENT].link_down(0)?;
    download.story.tell("✂ the client's link goes down");
    std::thread::sleep(Duration::from_secs(3));
    world.topology.hosts[CLIENT].link_up(0)?;
    download.story.tell("  the link is up again, after 3 s");
    download.goes_on(world, Instant::now())?;

    download.reach(world, 45)?;
    let changed = Instant::now();
    world.topology.hosts[CLIENT].replace_address(0)?;
    download
        .story
        .tell(&format!("⇄ the client's address is now {}", world.topology.hosts[CLIENT].address()));
    download.goes_on(world, changed)?;

    download.reach(world, 70)?;
    let place = world.serving()?;
    let killed = Instant::now();
    world.kill_server(place)?;
    download.story.tell(&format!("☠ kill -9 of server {}", world.servers[place].name));
    download.goes_on(world, killed)?;
    download.end(world)?;
    world.restart_server(scene, place)
}

fn wget(scene: &Scene, world: &mut World) -> Result<()> {
    let mut download = Download::begin(scene, world, Tool::Wget)?;
    download.reach(world, 30)?;
    for place in 0..2 {
        world.kill_server(place)?;
    }
    download.story.tell("☠ kill -9 of both servers");
    std::thread::sleep(Duration::from_secs(2));
    world.restart_server(scene, 1)?;
    download.story.tell("  server b runs again, after 2 s; it remembers nothing");
    download.goes_on(world, Instant::now())?;

    download.reach(world, 60)?;
    world.topology.cut(CLIENT, 0, true)?;
    download.story.tell("✂ the path goes silent: packets vanish, nobody is told");
    std::thread::sleep(Duration::from_secs(4));
    world.topology.cut(CLIENT, 0, false)?;
    download.story.tell("  the path is back, after 4 s");
    download.goes_on(world, Instant::now())?;
    let rtt = rtt(&world.broker_status()?).context("no session in the status")?;
    download.story.tell(&format!("  the broker's status says: round trip {rtt:.0} ms"));
    download.end(world)
}

fn rtt(status: &Value) -> Option<f64> {
    status["sessions"].get(0)?["rtt_ms"].as_f64()
}
