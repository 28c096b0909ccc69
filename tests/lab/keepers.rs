//! Servers and brokers are killed at random moments, and upgraded, under programs that are not to
//! notice: both have a keeper.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use stp_net::kept::Kept;
use stp_tests::daemon::{self, SERVER_STATUS, Server};
use stp_tests::file::{self, Payload};
use stp_tests::growth::Growth;
use stp_tests::keepers::Leftovers;
use stp_tests::process::{Plan, Process};
use stp_tests::scene::{Scene, play};
use stp_tests::wait;

use crate::kept::{CLIENT, Ground, PATIENCE, PROGRAMS};

/// So many kills of each daemon if nothing else is said: enough for every program to meet some.
const KILLS: usize = 20;
/// Connections that do nothing meanwhile.
const IDLE: usize = 200;
/// What the programs fetch: about a second on this path.
const MEGABYTES: u64 = 6;
const MBIT: u64 = 60;
/// An answer that was on its way already comes within the path's round trip.
const ON_ITS_WAY: f64 = 0.015;

/// Numbers that look random, the same in every run.
struct Random(u64);

impl Random {
    fn below(&mut self, most: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963);
        (self.0 >> 33) % most
    }
}

fn seconds() -> Result<f64> {
    Ok(SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64())
}

fn number(name: &str, usual: u64) -> Result<u64> {
    match std::env::var(name) {
        Ok(text) => text.parse().with_context(|| format!("{name}={text}: a number is expected")),
        Err(_) => Ok(usual),
    }
}

/// How long nothing came after each of these moments, in milliseconds, shortest first.
fn gaps(kills: &[f64], beats: &str) -> Result<Vec<u64>> {
    let beats: Vec<f64> = beats.lines().map(str::parse).collect::<Result<_, _>>()?;
    let gap = |kill: &f64| {
        let next = beats.partition_point(|beat| *beat < kill + ON_ITS_WAY);
        beats.get(next).map(|beat| ((beat - kill) * 1e3) as u64)
    };
    let mut gaps: Vec<u64> = kills.iter().filter_map(gap).collect();
    gaps.sort_unstable();
    Ok(gaps)
}

/// Programs that work until there is a file.
struct Crowd {
    stop: std::path::PathBuf,
    loops: Vec<Process>,
    ssh: Process,
    beats: Process,
    idle: Process,
    words: std::fs::File,
}

impl Crowd {
    fn start(scene: &Scene, ground: &Ground) -> Result<Crowd> {
        let stop = scene.path("stop");
        let (until, payload) = (stop.display(), Payload::make(MEGABYTES, 9)?);
        payload.link(&ground.web.root.join("small"))?;
        let (small, sha) = (payload.path.display(), &payload.sha256);
        let check = |file: &str| {
            format!("echo '{sha}  {file}' | sha256sum --check --status || exit 9; echo one")
        };
        let again = |name: &str, line: String| {
            let line = format!("while [ ! -e {until} ]; do {line}; done");
            ground.start(scene, Plan::new("sh").called(name).args(&["-ec", &line]))
        };
        let to = |name: &str| scene.path(name).display().to_string();
        let uploaded = ground.web.root.join("upload/up").display().to_string();
        let loops = vec![
            again("curl-tcp", {
                let to = to("one");
                format!("curl -sS --fail -o {to} http://raw.lab/small; {}", check(&to))
            })?,
            again("wget", {
                let to = to("three");
                format!("wget -q --tries=1 -O {to} http://raw.lab/small; {}", check(&to))
            })?,
            again("curl-up", {
                let up = format!("curl -sS --fail -T {small} http://raw.lab/upload/up");
                format!("{up}; {}", check(&uploaded))
            })?,
        ];
        let mut ssh = Plan::new("ssh").called("ssh-count");
        for option in ground.ssh_options.split(' ') {
            ssh = ssh.arg(option);
        }
        let count =
            format!("i=0; while [ ! -e {until} ]; do i=$((i+1)); echo $i; sleep 0.05; done");
        let ssh = ground.start(scene, ssh.arg("box.lab").arg(count))?;
        let beats = Plan::new("python3").called("beats");
        let beats = beats.args(&[PROGRAMS, "beats", "box.lab"]).arg(&stop);
        let beats = ground.start(scene, beats)?;
        let fifo = scene.path("asked");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU)?;
        let line = format!("exec python3 {PROGRAMS} idle box.lab {IDLE} <{}", fifo.display());
        let idle = ground.start(scene, Plan::new("sh").called("idle").args(&["-c", &line]))?;
        let words = std::fs::OpenOptions::new().write(true).open(&fifo)?;
        let mut crowd = Crowd { stop, loops, ssh, beats, idle, words };
        wait::until("all connections", PATIENCE, || {
            crowd.must_run()?;
            Ok(crowd.idle.printed().contains("connected").then_some(()))
        })?;
        Ok(crowd)
    }

    fn must_run(&mut self) -> Result<()> {
        self.loops.iter_mut().try_for_each(Process::must_run)?;
        [&mut self.ssh, &mut self.beats, &mut self.idle].into_iter().try_for_each(Process::must_run)
    }

    /// All end well. Returns the times of the answers.
    fn end(mut self, scene: &Scene) -> Result<String> {
        self.must_run()?;
        std::io::Write::write_all(&mut self.words, b"go\n")?;
        wait::until("an answer on each idle connection", PATIENCE, || {
            self.idle.must_run()?;
            Ok(self.idle.printed().contains("all answered").then_some(()))
        })?;
        drop(self.words);
        self.idle.end(PATIENCE)?.ok()?;
        std::fs::write(&self.stop, "")?;
        let mut done = Vec::new();
        for process in self.loops {
            done.push(process.end(PATIENCE)?.ok()?.out.lines().count());
        }
        let [curl, wget, up] = done[..] else { anyhow::bail!("{done:?}") };
        scene.say(&format!(
            "whole and right: {curl} downloads by curl, {wget} by wget, {up} uploads"
        ));
        ensure!(done.iter().all(|count| *count > 0), "one of them came to nothing");
        let lines = self.ssh.end(PATIENCE)?.ok()?.out;
        let right = lines.lines().enumerate().all(|(at, line)| *line == (at + 1).to_string());
        ensure!(right, "ssh: other lines");
        scene.say(&format!(
            "ssh: {} lines, none missing; {IDLE} idle answered",
            lines.lines().count()
        ));
        Ok(self.beats.end(PATIENCE)?.ok()?.out)
    }
}

/// STP_KILLS kills of the broker and as many of the server, in a sequence that STP_SEED chooses; a
/// quarter of them while the path is cut.
#[test]
fn random_kills() {
    play("keepers.random_kills", |scene| {
        let most = number("STP_KILLS", KILLS as u64)? as usize;
        let mut random = Random(number("STP_SEED", 1)?);
        let ground = Ground::lay_with(scene, MBIT, |plan| plan, Server::kept)?;
        let mut crowd = Crowd::start(scene, &ground)?;
        let (mut brokers, mut servers, mut cuts) = (Vec::new(), Vec::new(), 0);
        let mut left = [most; 2];
        while left != [0, 0] {
            std::thread::sleep(Duration::from_millis(100 + random.below(500)));
            crowd.must_run()?;
            let cut = random.below(4) == 0;
            if cut {
                ground.topology.cut(CLIENT, 0, true)?;
            }
            let whom = match left {
                [0, _] => 1,
                [_, 0] => 0,
                _ => random.below(2) as usize,
            };
            left[whom] -= 1;
            let (what, times) = match whom {
                0 => (&ground.leftovers, &mut brokers),
                _ => (&ground.servers, &mut servers),
            };
            kill(what.one(false)?, Signal::SIGKILL)?;
            match cut {
                true => cuts += 1,
                false => times.push(seconds()?),
            }
            if cut {
                std::thread::sleep(Duration::from_millis(200));
                ground.topology.cut(CLIENT, 0, false)?;
            }
        }
        let beats = crowd.end(scene)?;
        scene.say(&format!(
            "killed {most} times each, {cuts} of them while the path was cut; broker {}, server {} \
             otherwise",
            brokers.len(),
            servers.len()
        ));
        for (what, kills) in [("broker", brokers), ("server", servers)] {
            let gaps = gaps(&kills, &beats)?;
            ensure!(!gaps.is_empty(), "no answer after any kill of the {what}");
            let at = |share: usize| gaps[(gaps.len() - 1) * share / 100];
            let text =
                format!("{what}: gap p50 {} ms, p95 {} ms, longest {} ms", at(50), at(95), at(100));
            scene.say(&text);
        }
        Ok(())
    });
}

/// Waits until another daemon than `before` is there.
fn another(what: &Leftovers, before: Pid) -> Result<()> {
    wait::until_true("the next one", PATIENCE, || what.one(false).is_ok_and(|now| now != before))
}

/// Keepers of servers die, alone and with their server.
#[test]
fn server_keeper_killed() {
    play("keepers.server_keeper_killed", |scene| {
        let ground = Ground::lay_with(scene, 200, |plan| plan, Server::kept)?;
        let mut process = ground.program(scene, "stream", 40)?;
        for _ in 0..3 {
            std::thread::sleep(Duration::from_millis(300));
            let keeper = ground.servers.one(true)?;
            kill(keeper, Signal::SIGKILL)?;
            wait::until_true("another keeper", PATIENCE, || {
                ground.servers.one(true).is_ok_and(|now| now != keeper)
            })?;
            std::thread::sleep(Duration::from_millis(200));
            process.must_run()?;
            kill(ground.servers.one(false)?, Signal::SIGKILL)?;
        }
        process.end(PATIENCE)?.ok()?;
        scene.say("three keepers killed, and each time the server after that: every byte right");
        let plan = Plan::new("python3").called("again");
        let plan = plan.args(&[PROGRAMS, "stream", "box.lab", "400"]);
        let mut process = ground.start(scene, plan)?;
        wait::until("bytes", PATIENCE, || {
            process.must_run()?;
            Ok((process.printed().lines().count() > 30).then_some(()))
        })?;
        // Stopped first: none must see the other's end.
        let both = ground.servers.find();
        for signal in [Signal::SIGSTOP, Signal::SIGKILL] {
            both.iter().try_for_each(|(pid, _)| kill(*pid, signal))?;
        }
        let mut server = ground.server;
        server.restart(scene, &ground.topology.hosts[1].namespace)?;
        let ended = process.end(PATIENCE)?;
        ensure!(ended.err.contains("ConnectionResetError"), "not a reset: {}", ended.err);
        scene.say("both killed, and another server started: a reset");
        Ok(())
    });
}

/// The server's program is replaced and told so; one that does not read the state is not let in.
#[test]
fn server_upgrade() {
    play("keepers.server_upgrade", |scene| {
        let installed = scene.path("stp-server");
        let built = daemon::programs()?.join("stp-server");
        std::fs::copy(&built, &installed)?;
        let ground =
            Ground::lay_with(scene, 200, |plan| plan, |server| server.kept().run_from(&installed))?;
        let process = ground.program(scene, "turns", 14)?;
        let replace = |with: &std::path::Path| -> Result<()> {
            let fresh = scene.path("fresh");
            std::fs::copy(with, &fresh)?;
            Ok(std::fs::rename(&fresh, &installed)?)
        };
        for _ in 0..10 {
            std::thread::sleep(Duration::from_millis(300));
            replace(&built)?;
            let before = ground.servers.one(false)?;
            kill(before, Signal::SIGUSR2)?;
            another(&ground.servers, before)?;
            let there = &ground.topology.hosts[1].namespace;
            wait::until_true("its status", PATIENCE, || {
                daemon::status(there, SERVER_STATUS).is_ok()
            })?;
        }
        scene.say("upgraded ten times");
        let other = scene.path("other");
        std::fs::write(&other, "#!/bin/sh\necho 99\n")?;
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        std::fs::set_permissions(&other, mode)?;
        replace(&other)?;
        let before = ground.servers.one(false)?;
        kill(before, Signal::SIGUSR2)?;
        let mut server = ground.server;
        wait::until("the refusal", PATIENCE, || {
            Ok(server.process()?.log().contains("no upgrade").then_some(()))
        })?;
        ensure!(ground.servers.one(false)? == before, "the server is another");
        replace(&built)?;
        let ended = process.end(PATIENCE)?.ok()?;
        scene.say(ended.out.trim());
        Ok(())
    });
}

/// Ends the daemon while it works for the session that has moved most.
fn die_at_work(victims: &Leftovers, daemon: Pid) -> Result<()> {
    let keeper = victims.one(true)?;
    let mut sockets = Vec::new();
    for file in std::fs::read_dir(format!("/proc/{keeper}/fd"))? {
        let path = file?.path();
        if std::fs::read_link(&path)?.to_string_lossy().contains("memfd:session") {
            let file = std::fs::File::options().read(true).write(true).open(&path)?;
            sockets.push(Kept::open(file.into())?);
        }
    }
    let busiest = sockets.iter().max_by_key(|kept| kept.taken() + kept.given());
    let busiest = busiest.context("the keeper holds no session")?;
    for _ in 0..5_000 {
        kill(daemon, Signal::SIGSTOP)?;
        std::thread::sleep(Duration::from_millis(2));
        let found = busiest.was_at_work();
        if found {
            kill(daemon, Signal::SIGUSR1)?;
        }
        kill(daemon, Signal::SIGCONT)?;
        if found {
            return Ok(());
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    anyhow::bail!("it never worked for it")
}

/// A daemon dies by itself again and again while it works for one session: that one is given up
/// with a reset, and the others go on.
fn deadly(scene: &Scene, victims: impl Fn(&Ground) -> &Leftovers) -> Result<()> {
    let ground = Ground::lay_with(scene, 1000, |plan| plan, Server::kept)?;
    let quiet = ground.program(scene, "turns", 25)?;
    let plan = Plan::new("python3").called("busy");
    let mut busy = ground.start(scene, plan.args(&[PROGRAMS, "stream", "box.lab", "9000"]))?;
    let victims = victims(&ground);
    let mut deaths = 0;
    while busy.ended()?.is_none() {
        ensure!(deaths < 6, "{deaths} deaths, and it goes on");
        // One that lives for less than a second makes its keeper wait.
        std::thread::sleep(Duration::from_millis(1_200));
        let before = victims.one(false)?;
        die_at_work(victims, before)?;
        deaths += 1;
        another(victims, before)?;
    }
    let ended = busy.end(PATIENCE)?;
    ensure!(ended.err.contains("ConnectionResetError"), "not a reset: {}", ended.err);
    ensure!(deaths >= 3, "after {deaths} deaths");
    quiet.end(PATIENCE)?.ok()?;
    scene.say(&format!("given up after {deaths} deaths; the session beside it goes on"));
    Ok(())
}

#[test]
fn deadly_for_the_server() {
    play("keepers.deadly_for_the_server", |scene| deadly(scene, |ground| &ground.servers));
}

#[test]
fn deadly_for_the_broker() {
    play("keepers.deadly_for_the_broker", |scene| deadly(scene, |ground| &ground.leftovers));
}

/// One long download through many servers.
#[test]
fn server_download() {
    play("keepers.server_download", |scene| {
        let ground = Ground::lay_with(scene, 100, |plan| plan, Server::kept)?;
        let to = scene.path("big");
        let plan = Plan::new("curl").args(&["-sS", "--fail", "-o"]).arg(&to);
        let mut curl = ground.start(scene, plan.arg("http://raw.lab/big"))?;
        let mut kills = 0;
        while curl.ended()?.is_none() {
            std::thread::sleep(Duration::from_millis(350));
            kill(ground.servers.one(false)?, Signal::SIGKILL)?;
            kills += 1;
        }
        curl.end(PATIENCE)?.ok()?;
        ensure!(file::sha256(&to)? == ground.payload.sha256, "wrong bytes");
        scene.say(&format!("{kills} kills of the server under one download by tcp"));
        Ok(())
    });
}

/// An upload by PUT through an `http` service: it may not be repeated, so its stream is kept.
#[test]
fn server_put() {
    play("keepers.server_put", |scene| {
        let ground = Ground::lay_with(scene, 100, |plan| plan, Server::kept)?;
        let payload = Payload::make(80, 2)?;
        let plan = Plan::new("curl").args(&["-sS", "--fail", "-T"]).arg(&payload.path);
        let mut curl = ground.start(scene, plan.arg("http://web.lab/upload/put"))?;
        let mut kills = 0;
        while curl.ended()?.is_none() {
            std::thread::sleep(Duration::from_millis(450));
            let signal = if kills % 3 == 2 { Signal::SIGUSR2 } else { Signal::SIGKILL };
            kill(ground.servers.one(false)?, signal)?;
            kills += 1;
        }
        curl.end(PATIENCE)?.ok()?;
        ensure!(kills >= 5, "only {kills} kills");
        let got = file::sha256(&ground.web.root.join("upload/put"))?;
        ensure!(got == payload.sha256, "wrong bytes were uploaded");
        scene.say(&format!("{kills} kills and upgrades of the server under one PUT"));
        Ok(())
    });
}

/// R38: what is in a server's spool when it is killed is lost, and the program is told so.
#[test]
fn server_with_a_spool() {
    play("keepers.server_with_a_spool", |scene| {
        let ground = Ground::lay_with(scene, 100, |plan| plan, Server::kept)?;
        let to = scene.path("big");
        let growth = Growth::watch(&to);
        let plan = Plan::new("curl").args(&["-sS", "--fail", "-o"]).arg(&to);
        let curl = ground.start(scene, plan.arg("http://hasty.lab/big"))?;
        growth.reach(1_000_000, PATIENCE)?;
        let there = &ground.topology.hosts[1].namespace;
        ground.topology.cut(CLIENT, 0, true)?;
        wait::until("more in the spool than the session may hold", PATIENCE, || {
            let status = daemon::status(there, SERVER_STATUS)?;
            let spooled = status["sessions"][0]["spool"].as_u64().unwrap_or_default();
            Ok((spooled > 24 << 20).then_some(()))
        })?;
        kill(ground.servers.one(false)?, Signal::SIGKILL)?;
        std::thread::sleep(Duration::from_millis(300));
        ground.topology.cut(CLIENT, 0, false)?;
        let ended = curl.end(PATIENCE)?;
        ensure!(!ended.status.success(), "a spool that was lost is no success");
        ensure!(ended.err.contains("reset"), "not a reset: {}", ended.err);
        let status = daemon::status(there, SERVER_STATUS)?;
        let why = status["ended"][0]["reason"].as_str().unwrap_or_default();
        ensure!(why.contains("does not fit the byte counts"), "{status}");
        scene.say(&format!("a reset: {why}"));
        Ok(())
    });
}
