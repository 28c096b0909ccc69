//! Brokers are killed, and upgraded, under programs that are not to notice: the next one finds with
//! the keeper what the last one had.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use stp_tests::daemon::{self, BROKER_STATUS, Broker, Offer, Server, Wanted};
use stp_tests::emulator::Shape;
use stp_tests::file::{self, Payload};
use stp_tests::growth::Growth;
use stp_tests::keepers::Leftovers;
use stp_tests::nginx::Nginx;
use stp_tests::process::{Plan, Process};
use stp_tests::scene::{Scene, play};
use stp_tests::sshd;
use stp_tests::topology::Topology;
use stp_tests::wait;

use crate::world::{Layout, Tool, World, reach};

pub(crate) const CLIENT: usize = 0;
const SERVER: usize = 1;
const ECHO: &str = "echo.box@lab.example";
const WEB: &str = "www.box@lab.example";
const RAW: &str = "raw.box@lab.example";
const HASTY: &str = "hasty.box@lab.example";
const SSH: &str = "ssh.box@lab.example";
pub(crate) const PROGRAMS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/lab/kept.py");
/// Longest time that a program may take besides the faults.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

/// A client, a server with services, and a broker that has a keeper; the server may have one too.
pub(crate) struct Ground {
    pub(crate) leftovers: Leftovers,
    pub(crate) servers: Leftovers,
    pub(crate) broker: Broker,
    pub(crate) server: Server,
    _echo: Process,
    _sshd: Process,
    pub(crate) ssh_options: String,
    pub(crate) web: Nginx,
    pub(crate) payload: Payload,
    pub(crate) topology: Topology,
}

impl Ground {
    fn lay(scene: &Scene, change: impl FnOnce(Plan) -> Plan) -> Result<Ground> {
        Ground::lay_with(scene, 200, change, |server| server)
    }

    /// A path of so many Mbit/s; `change_server` says how the server is started.
    pub(crate) fn lay_with(
        scene: &Scene,
        mbit: u64,
        change: impl FnOnce(Plan) -> Plan,
        change_server: impl FnOnce(Server) -> Server,
    ) -> Result<Ground> {
        let topology = Topology::build(&[("client", 1), ("box", 1)])?;
        topology.shape(CLIENT, 0, Shape::of(mbit, 5))?;
        let there = &topology.hosts[SERVER].namespace;
        let mut echo = Plan::new("python3")
            .called("echo")
            .args(&[PROGRAMS, "serve", "7"])
            .start(scene, Some(there))?;
        wait::until("the service", PATIENCE, || {
            echo.must_run()?;
            Ok(echo.printed().contains("listening").then_some(()))
        })?;
        let (sshd, ssh_options) = sshd::start(scene, there)?;
        let web = Nginx::start(scene, "nginx", there)?;
        let payload = Payload::make(150, 1)?;
        payload.link(&web.root.join("big"))?;
        let key = daemon::cluster_key(scene, "cluster.key")?;
        let offer = |name: &str, kind, to: &str| Offer::new(name, kind, to);
        let offers = [
            offer(ECHO, "tcp", "127.0.0.1:7"),
            offer(SSH, "tcp", "127.0.0.1:22"),
            offer(WEB, "http", &web.local()),
            offer(RAW, "tcp", &web.local()),
            Offer { more: "patience = \"1s\"".to_owned(), ..offer(HASTY, "tcp", &web.local()) },
        ];
        let at = (there, &*topology.hosts[SERVER].address());
        let servers = Leftovers::of("stp-server", scene.path("a.toml").display().to_string())?;
        let server = Server::start_as(scene, "a", at, &key, (&offers, ""), change_server)?;
        let to = |name, route| Wanted {
            name,
            route,
            servers: vec![(server.name.clone(), server.address.clone(), server.key.clone())],
        };
        let wanted = [
            to(ECHO, "box.lab:7"),
            to(SSH, "box.lab:22"),
            to(WEB, "web.lab:80"),
            to(RAW, "raw.lab:80"),
            to(HASTY, "hasty.lab:80"),
        ];
        let client = &topology.hosts[CLIENT].namespace;
        let word = format!("SESSION_DIR={}", scene.path("session").display());
        let leftovers = Leftovers::of("stp-broker", word)?;
        let broker = Broker::start_as(scene, client, &wanted, "", |plan| {
            change(plan.env("SESSION_NO_KEEPER", ""))
        })?;
        Ok(Ground {
            leftovers,
            servers,
            broker,
            server,
            _echo: echo,
            _sshd: sshd,
            ssh_options,
            web,
            payload,
            topology,
        })
    }

    pub(crate) fn start(&self, scene: &Scene, plan: Plan) -> Result<Process> {
        self.broker.with_shim(plan)?.start(scene, Some(&self.topology.hosts[CLIENT].namespace))
    }

    pub(crate) fn program(&self, scene: &Scene, mode: &str, amount: u32) -> Result<Process> {
        let plan = Plan::new("python3").called(mode);
        self.start(scene, plan.args(&[PROGRAMS, mode, "box.lab", &amount.to_string()]))
    }

    fn kill_broker(&self, signal: Signal) -> Result<()> {
        Ok(kill(self.leftovers.one(false)?, signal)?)
    }

    /// Waits until another broker than `before` answers.
    fn next_broker(&self, before: Pid) -> Result<()> {
        wait::until("the next broker", PATIENCE, || {
            let now = self.leftovers.find();
            let is_new = now.iter().any(|(pid, keeper)| !keeper && *pid != before);
            let client = &self.topology.hosts[CLIENT].namespace;
            Ok((is_new && daemon::status(client, BROKER_STATUS).is_ok()).then_some(()))
        })
    }

    pub(crate) fn log(&self) -> String {
        self.broker.process.log()
    }
}

/// Pauses that are the same in every run, and unlike each other.
fn pauses() -> impl Iterator<Item = Duration> {
    (1u64..).map(|n| Duration::from_millis(100 + n.wrapping_mul(0x9e37_79b9) % 700))
}

/// Kills the broker until the program has ended, or `most` times; every fourth time while the path
/// is cut.
fn kill_under(ground: &Ground, program: &mut Process, most: usize) -> Result<usize> {
    let mut kills = 0;
    for (number, pause) in pauses().take(most).enumerate() {
        std::thread::sleep(pause);
        if program.ended()?.is_some() {
            break;
        }
        let cut = number % 4 == 3;
        if cut {
            ground.topology.cut(CLIENT, 0, true)?;
        }
        ground.kill_broker(Signal::SIGKILL)?;
        kills += 1;
        if cut {
            std::thread::sleep(Duration::from_millis(300));
            ground.topology.cut(CLIENT, 0, false)?;
        }
    }
    Ok(kills)
}

/// How long nothing came, as the brokers say: the median, and what one in twenty exceeds.
fn tell_gaps(scene: &Scene, log: &str) -> Result<()> {
    let restarted = |line: &&str| line.contains("the broker was restarted");
    let gap = |line: &str| line.split("gap_ms=").nth(1)?.split_whitespace().next()?.parse().ok();
    let mut gaps: Vec<u64> = log.lines().filter(restarted).filter_map(gap).collect();
    ensure!(!gaps.is_empty(), "no broker went on with anything");
    gaps.sort_unstable();
    let at = |share: usize| gaps[(gaps.len() - 1) * share / 100];
    let (median, most) = (at(50), at(95));
    scene.say(&format!("{} restarts, gap p50 {median} ms, p95 {most} ms", gaps.len()));
    Ok(())
}

fn download(scene: &Scene, tool: &str, before: &[&str]) -> Result<()> {
    let ground = Ground::lay(scene, |plan| plan)?;
    let to = scene.path("big");
    let growth = Growth::watch(&to);
    let plan = Plan::new(tool).args(before).arg(&to).arg("http://web.lab/big");
    let mut process = ground.start(scene, plan)?;
    growth.reach(1_000_000, PATIENCE)?;
    let kills = kill_under(&ground, &mut process, 30)?;
    process.end(PATIENCE)?.ok()?;
    ensure!(kills >= 5, "only {kills} kills");
    ensure!(file::sha256(&to)? == ground.payload.sha256, "wrong bytes");
    scene.say(&format!("{kills} kills, exit code 0, right SHA-256"));
    tell_gaps(scene, &ground.log())
}

#[test]
fn download_curl() {
    play("kept.download_curl", |scene| download(scene, "curl", &["-sS", "--fail", "-o"]));
}

#[test]
fn download_wget() {
    play("kept.download_wget", |scene| download(scene, "wget", &["-nv", "--tries=1", "-O"]));
}

#[test]
fn upload_curl() {
    play("kept.upload_curl", |scene| {
        let ground = Ground::lay(scene, |plan| plan)?;
        let payload = Payload::make(100, 2)?;
        let plan = Plan::new("curl").args(&["-sS", "--fail", "-T"]).arg(&payload.path);
        let mut process = ground.start(scene, plan.arg("http://raw.lab/upload/big"))?;
        let kills = kill_under(&ground, &mut process, 30)?;
        process.end(PATIENCE)?.ok()?;
        ensure!(kills >= 3, "only {kills} kills");
        let got = file::sha256(&ground.web.root.join("upload/big"))?;
        ensure!(got == payload.sha256, "wrong bytes were uploaded");
        scene.say(&format!("{kills} kills, right SHA-256 at nginx"));
        tell_gaps(scene, &ground.log())
    });
}

#[test]
fn both_ways_at_once() {
    play("kept.both_ways", |scene| {
        let ground = Ground::lay(scene, |plan| plan)?;
        let mut process = ground.program(scene, "stream", 60)?;
        let kills = kill_under(&ground, &mut process, 40)?;
        process.end(PATIENCE)?.ok()?;
        scene.say(&format!("{kills} kills, every byte right"));
        tell_gaps(scene, &ground.log())
    });
}

/// Programs that wait in all the ways there are, and a shell on another machine.
#[test]
fn programs_that_wait() {
    play("kept.programs_that_wait", |scene| {
        let ground = Ground::lay(scene, |plan| plan)?;
        let mut ssh = Plan::new("ssh");
        for option in ground.ssh_options.split(' ') {
            ssh = ssh.arg(option);
        }
        let count = "for i in $(seq 400); do echo line $i; sleep 0.05; done";
        let all = [
            ground.program(scene, "poll", 18)?,
            ground.program(scene, "turns", 18)?,
            ground.program(scene, "connects", 18)?,
        ];
        let mut ssh = ground.start(scene, ssh.arg("box.lab").arg(count))?;
        std::thread::sleep(Duration::from_secs(1));
        let kills = kill_under(&ground, &mut ssh, 30)?;
        let ended = ssh.end(PATIENCE)?.ok()?;
        let lines: Vec<String> = (1..=400).map(|i| format!("line {i}")).collect();
        ensure!(ended.out.lines().eq(lines.iter()), "ssh: other lines");
        for program in all {
            let ended = program.end(PATIENCE)?.ok()?;
            scene.say(ended.out.trim());
        }
        scene.say(&format!("{kills} kills"));
        tell_gaps(scene, &ground.log())
    });
}

/// Keepers die, alone and with the broker.
#[test]
fn keeper_killed() {
    play("kept.keeper_killed", |scene| {
        let ground = Ground::lay(scene, |plan| plan)?;
        let mut process = ground.program(scene, "stream", 40)?;
        for pause in pauses().take(4) {
            std::thread::sleep(pause);
            let keeper = ground.leftovers.one(true)?;
            kill(keeper, Signal::SIGKILL)?;
            wait::until_true("another keeper", PATIENCE, || {
                ground.leftovers.one(true).is_ok_and(|now| now != keeper)
            })?;
            std::thread::sleep(Duration::from_millis(200));
            process.must_run()?;
            ground.kill_broker(Signal::SIGKILL)?;
        }
        process.end(PATIENCE)?.ok()?;
        scene.say("four keepers killed, and each time the broker after that: every byte right");
        let plan =
            Plan::new("python3").called("again").args(&[PROGRAMS, "stream", "box.lab", "400"]);
        let mut process = ground.start(scene, plan)?;
        wait::until("bytes", PATIENCE, || {
            process.must_run()?;
            Ok((process.printed().lines().count() > 30).then_some(()))
        })?;
        // Stopped first: none must see the other's end.
        let both = ground.leftovers.find();
        for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
            both.iter().try_for_each(|(pid, _)| kill(*pid, signal))?;
        }
        let ended = process.end(PATIENCE)?;
        ensure!(ended.err.contains("ConnectionResetError"), "not a reset: {}", ended.err);
        scene.say("both killed: a reset");
        Ok(())
    });
}

/// 200 connections that do nothing.
/// A descriptor of `session_events` ends with its broker, and the next broker gives another.
#[test]
fn events_of_a_session() {
    play("kept.events_of_a_session", |scene| {
        const BROKERS: u32 = 3;
        let ground = Ground::lay(scene, |plan| plan)?;
        let mut process = ground.program(scene, "events", BROKERS)?;
        for count in 1..=BROKERS as usize {
            wait::until("it watches", PATIENCE, || {
                process.must_run()?;
                Ok((process.printed().matches("watches").count() == count).then_some(()))
            })?;
            kill(ground.leftovers.one(false)?, Signal::SIGKILL)?;
        }
        let ended = process.end(PATIENCE)?.ok()?;
        ensure!(ended.out.contains("went on"), "{}", ended.out);
        let brokers = ground.log().matches("goes on after a restart").count();
        ensure!(brokers == BROKERS as usize, "{brokers} brokers went on");
        Ok(())
    });
}

#[test]
fn idle_sessions() {
    play("kept.idle_sessions", |scene| {
        let ground = Ground::lay(scene, |plan| plan)?;
        let fifo = scene.path("asked");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU)?;
        let line = format!("exec python3 {PROGRAMS} idle box.lab 200 <{}", fifo.display());
        let mut process =
            ground.start(scene, Plan::new("sh").called("idle").args(&["-c", &line]))?;
        let mut words = std::fs::OpenOptions::new().write(true).open(&fifo)?;
        let say = |process: &mut Process, count: usize, word: &str| {
            wait::until(word, PATIENCE, || {
                process.must_run()?;
                Ok((process.printed().matches(word).count() == count).then_some(()))
            })
        };
        say(&mut process, 1, "connected")?;
        for count in 1..=3 {
            let before = ground.leftovers.one(false)?;
            kill(before, Signal::SIGKILL)?;
            let begun = Instant::now();
            std::io::Write::write_all(&mut words, b"go\n")?;
            say(&mut process, count, "all answered")?;
            scene.say(&format!("200 answered {} ms after the kill", begun.elapsed().as_millis()));
        }
        // They are idle again: what is left of each is a page of memory and its descriptors.
        std::thread::sleep(Duration::from_secs(3));
        let kib = ground.shared_kib()?;
        scene.say(&format!("{kib} KiB of shared memory for 200 sessions"));
        ensure!(kib <= 200 * 8, "{kib} KiB");
        drop(words);
        process.end(PATIENCE)?.ok()?;
        tell_gaps(scene, &ground.log())
    });
}

impl Ground {
    /// Memory of the files that the keeper holds.
    fn shared_kib(&self) -> Result<u64> {
        use std::os::unix::fs::MetadataExt;
        let keeper = self.leftovers.one(true)?;
        let mut blocks = 0;
        for file in std::fs::read_dir(format!("/proc/{keeper}/fd"))? {
            let path = file?.path();
            if std::fs::read_link(&path)?.to_string_lossy().contains("memfd:session") {
                blocks += std::fs::metadata(&path)?.blocks();
            }
        }
        Ok(blocks / 2)
    }
}

/// The broker is killed, and then the server, which does not come back: the next broker has the
/// ticket. An idle session costs the keeper two pages.
fn goes_elsewhere(name: &str, tls: bool) {
    play(name, |scene| {
        let layout = Layout { servers: 2, megabytes: 150, tls, kept: true, ..Layout::default() };
        let word = format!("SESSION_DIR={}", scene.path("session").display());
        let brokers = Leftovers::of("stp-broker", word)?;
        let mut world = World::lay(scene, &layout)?;
        let (mut process, growth, path) = world.download(scene, Tool::Curl)?;
        reach(&growth, &mut process, 20_000_000)?;
        kill(brokers.one(false)?, Signal::SIGKILL)?;
        reach(&growth, &mut process, 60_000_000)?;
        let server = world.serving()?;
        world.kill_server(server)?;
        world.must_be_right(process, &path)?;
        ensure!(
            world.server_status(1 - server)?["counters"]["sessions_transferred"] != 0,
            "not moved"
        );
        scene.say("the broker killed, then its server: every byte right from the other one");
        Ok(())
    });
}

#[test]
fn a_restored_session_goes_to_another_server() {
    goes_elsewhere("kept.elsewhere", false);
}

#[test]
fn a_restored_session_in_tls_goes_to_another_server() {
    goes_elsewhere("kept.elsewhere_tls", true);
}

/// The program is replaced and told so; one that does not read the state is not let in.
#[test]
fn upgrade() {
    play("kept.upgrade", |scene| {
        let installed = scene.path("stp-broker");
        let built = daemon::programs()?.join("stp-broker");
        std::fs::copy(&built, &installed)?;
        let ground = Ground::lay(scene, |plan| plan.instead(&installed))?;
        let process = ground.program(scene, "turns", 12)?;
        let replace = |with: &std::path::Path| -> Result<()> {
            let fresh = scene.path("fresh");
            std::fs::copy(with, &fresh)?;
            Ok(std::fs::rename(&fresh, &installed)?)
        };
        for pause in pauses().take(5) {
            std::thread::sleep(pause);
            replace(&built)?;
            let before = ground.leftovers.one(false)?;
            kill(before, Signal::SIGUSR2)?;
            ground.next_broker(before)?;
        }
        scene.say("upgraded five times");
        let before = ground.leftovers.one(false)?;
        let plan = Plan::new(daemon::programs()?.join("session")).called("upgrade").arg("upgrade");
        let client = &ground.topology.hosts[CLIENT].namespace;
        let plan = plan.env("SESSION_DIR", &ground.broker.dir);
        let ended = plan.run(scene, Some(client), PATIENCE)?.ok()?;
        ensure!(ended.out.contains("goes on with 1 session"), "{}", ended.out);
        ensure!(ground.leftovers.one(false)? != before, "the broker is the same");
        let other = scene.path("other");
        std::fs::write(&other, "#!/bin/sh\necho 99\n")?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&other, mode)?;
        replace(&other)?;
        let before = ground.leftovers.one(false)?;
        kill(before, Signal::SIGUSR2)?;
        wait::until_true("the refusal", PATIENCE, || ground.log().contains("no upgrade"))?;
        ensure!(ground.leftovers.one(false)? == before, "the broker is another");
        let line = ground.log().lines().find(|line| line.contains("no upgrade")).map(str::to_owned);
        scene.say(line.context("it was there")?.trim());
        replace(&built)?;
        let ended = process.end(PATIENCE)?.ok()?;
        scene.say(ended.out.trim());
        if !ended.out.contains("answers") {
            bail!("no answers");
        }
        tell_gaps(scene, &ground.log())
    });
}
