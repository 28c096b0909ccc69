//! Endpoints (KTH 3.1.1, 4.3): made and closed at a name server, saved with a session under way,
//! carried to another machine in another network, and loaded there, once.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;
use stp_tests::cluster::{CLIENT, Cluster, Layout, Member, PASSWORD, USER};
use stp_tests::daemon;
use stp_tests::emulator::Shape;
use stp_tests::file;
use stp_tests::growth::Growth;
use stp_tests::keepers::Leftovers;
use stp_tests::namespace::Namespace;
use stp_tests::process::{Ended, Process};
use stp_tests::scene::{Scene, play};
use stp_tests::sns::{SNS_PORT, SNS_STATUS};
use stp_tests::user::User;
use stp_tests::wait;

const NAME: &str = "ada@demo.example";
const WORDS: &str = "four words and more";
const SOON: Duration = Duration::from_secs(60);
/// The longest that a download takes.
const DOWNLOAD_MAX: Duration = Duration::from_secs(180);
/// The exit code of a `session get` whose endpoint was saved.
const MOVED: i32 = 75;
/// Bytes that may come twice: what was on its way when it was saved. Headers and records come to
/// less than a twentieth.
const TWICE_MAX: u64 = 20 << 20;

/// A cluster whose second host is a machine of the same person in another network. The broker there
/// has a keeper.
struct Ground {
    leftovers: Leftovers,
    there: User,
    cluster: Cluster,
}

const THERE: usize = 2;

impl Ground {
    fn lay(scene: &Scene, megabytes: u64) -> Result<Ground> {
        let second = Member { holds: false, web: None, ..Member::full("b") };
        let members = vec![Member::full("a"), second];
        let access = Shape::of(100, 10);
        let layout = Layout { members, megabytes, access, gateway: "", broker: "" };
        let mut cluster = Cluster::lay(scene, &layout)?;
        let (gateway, key) = (cluster.gateway().address(), cluster.sns.key.clone());
        let config = format!(
            "[gateway]\naddress = \"{gateway}\"\nuser = \"{USER}\"\n[[directory]]\n\
             domain = \"demo.example\"\naddress = \"{gateway}:{SNS_PORT}\"\nkey = \"{key}\"\n"
        );
        std::fs::write(cluster.user.path(".config/session/broker.toml"), &config)?;
        cluster.log_in(scene)?;
        let mut there = User::in_home(scene, "home-there", &config)?;
        let network = &cluster.topology.hosts[THERE].namespace;
        let login = ["login", &cluster.account(), "--key", &key, "--password-stdin"];
        there.session(scene, network, &login, PASSWORD)?.ok()?;
        let word = format!("SESSION_DIR={}", there.path("run").display());
        let leftovers = Leftovers::of("stp-broker", word)?;
        let kept = there.plan("stp-broker")?.env("SESSION_NO_KEEPER", "");
        there.run_broker(kept, scene, network)?;
        Ok(Ground { leftovers, there, cluster })
    }

    fn network_there(&self) -> &Namespace {
        &self.cluster.topology.hosts[THERE].namespace
    }

    fn here(&self, scene: &Scene, arguments: &[&str], input: &str) -> Result<Ended> {
        let all = [&["endpoint"], arguments].concat();
        fresh(scene);
        self.cluster.user.session(scene, self.cluster.client(), &all, input)
    }

    fn there(&self, scene: &Scene, arguments: &[&str], input: &str) -> Result<Ended> {
        let all = [&["endpoint"], arguments].concat();
        fresh(scene);
        self.there.session(scene, self.network_there(), &all, input)
    }

    /// A download under way, of which that part has come.
    fn download(&self, scene: &Scene, percent: u64) -> Result<Process> {
        let url = self.cluster.file_url();
        let get = self.cluster.user.plan("session")?.called("get");
        let get = get.args(&["get", "--endpoint", NAME, &url, "-o", "big.iso"]);
        let growth = Growth::watch(&self.cluster.user.path("big.iso.part"));
        let mut get = get.start(scene, Some(self.cluster.client()))?;
        let part = self.cluster.payload.len * percent / 100;
        wait::until("a part of the file", SOON, || {
            get.must_run()?;
            Ok((growth.len() >= part).then_some(()))
        })?;
        let services = self.cluster.user.status()?["services"].clone();
        let mut shown = services.as_array().into_iter().flatten();
        let is_ours =
            |service: &Value| service["endpoint"] == NAME && service["servers"][0]["state"] == "ok";
        ensure!(shown.any(is_ours), "the status does not show its service: {services}");
        Ok(get)
    }

    /// Goes on there with what was carried in this directory.
    fn load(&self, scene: &Scene, stick: &Path, input: &str) -> Result<Process> {
        let load = self.there.plan("session")?.called("load").input(input);
        let load = load.args(&["endpoint", "load", "--passphrase-stdin"]).arg(stick);
        load.start(scene, Some(self.network_there()))
    }

    fn is_right(&self, path: &Path) -> Result<()> {
        ensure!(file::sha256(path)? == self.cluster.payload.sha256, "other bytes");
        Ok(())
    }

    /// Sessions that the servers have seen begin, and bytes that have left the one which has the
    /// file.
    fn sent(&self) -> Result<(u64, u64)> {
        let mut sessions = 0;
        for place in 0..2 {
            let counters = &self.cluster.server_status(place)?["counters"];
            let opened = counters["sessions_opened"].as_u64();
            sessions += opened.with_context(|| format!("{counters}"))?;
        }
        let host = &self.cluster.topology.hosts[1];
        let device = &host.interfaces[0].device;
        let seen = host.namespace.inside(|| std::fs::read_to_string("/proc/thread-self/net/dev"));
        let seen = seen??;
        let line = seen.lines().find_map(|line| line.trim().strip_prefix(&format!("{device}:")));
        let sent = line.and_then(|line| line.split_whitespace().nth(8)?.parse().ok());
        Ok((sessions, sent.with_context(|| format!("no {device} in {seen}"))?))
    }
}

/// What an earlier command of that name has said is not read again.
fn fresh(scene: &Scene) {
    for ending in ["out", "err"] {
        let _ = std::fs::remove_file(scene.path(&format!("session-endpoint.{ending}")));
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    let done = std::process::Command::new("cp").arg("-a").args([from, to]).status()?;
    ensure!(done.success(), "cp: {done}");
    Ok(())
}

fn refused(ended: &Ended, why: &str) -> Result<()> {
    let said = format!("{}{}", ended.out, ended.err);
    ensure!(!ended.status.success(), "it was not refused: {said}");
    ensure!(said.contains(why), "it does not say {why:?}: {said}");
    Ok(())
}

/// Use cases 7 and 8 with their alternatives, and a download that is begun on one machine and ends
/// on another: the same session, each byte once.
#[test]
fn an_endpoint_is_carried_with_its_download() {
    play("endpoints.carried", |scene| {
        let ground = Ground::lay(scene, 150)?;
        let made = ground.here(scene, &["create", NAME], "")?.ok()?.out;
        let address = ground.cluster.topology.hosts[CLIENT].address();
        ensure!(made.contains(&format!("at {address}")), "it says {made}");
        refused(&ground.here(scene, &["create", NAME], "")?, "is there already")?;
        refused(&ground.there(scene, &["create", NAME], "")?, "is taken")?;
        refused(&ground.here(scene, &["create", "ada"], "")?, "is no endpoint name")?;
        refused(&ground.there(scene, &["close", NAME], "")?, "there is no endpoint")?;

        let get = ground.download(scene, 40)?;
        let stick = scene.path("stick");
        let stick_text = stick.display().to_string();
        let save = ["save", NAME, &stick_text, "--passphrase-stdin"];
        scene.say(&ground.here(scene, &save, WORDS)?.ok()?.out);
        let ended = get.end(SOON)?;
        ensure!(ended.status.code() == Some(MOVED), "the download ended with {}", ended.status);
        ensure!(!ground.cluster.user.path("big.iso.part").exists(), "the part was left behind");
        let list = ground.here(scene, &["list"], "")?.ok()?.out;
        ensure!(list.contains("no endpoints"), "it is still here: {list}");
        let copies = [scene.path("second"), scene.path("third")];
        for to in &copies {
            copy(&stick, to)?;
        }

        let wrong = ground.load(scene, &stick, "other words")?.end(SOON)?;
        refused(&wrong, "that is not its passphrase")?;
        let mut load = ground.load(scene, &stick, WORDS)?;
        let growth = Growth::watch(&ground.there.path("big.iso.part"));
        let len = ground.cluster.payload.len;
        wait::until("most of the file, there", DOWNLOAD_MAX, || {
            load.must_run()?;
            Ok((growth.len() >= len * 6 / 10).then_some(()))
        })?;
        second_load(scene, &ground, &copies[0])?;
        scene.say(&load.end(DOWNLOAD_MAX)?.ok()?.out);
        ground.is_right(&ground.there.path("big.iso"))?;
        ensure!(!stick.exists(), "the stick still has it");
        second_load(scene, &ground, &copies[1])?;
        let (sessions, bytes) = ground.sent()?;
        scene.say(&format!("{sessions} session, {bytes} bytes sent for a file of {len}"));
        ensure!(sessions == 1, "another session began");
        ensure!(bytes >= len && bytes <= len + len / 20 + TWICE_MAX, "fetched twice: {bytes}");

        let list = ground.there(scene, &["list"], "")?.ok()?.out;
        let address = ground.cluster.topology.hosts[THERE].address();
        ensure!(list.contains(&address), "the name server does not know where it is: {list}");
        ground.there(scene, &["close", NAME], "")?.ok()?;
        ground.here(scene, &["create", NAME], "")?.ok()?;
        Ok(())
    });
}

/// A copy is loaded on the first machine, and its session is refused in words.
fn second_load(scene: &Scene, ground: &Ground, copied: &PathBuf) -> Result<()> {
    let user = &ground.cluster.user;
    let load = user.plan("session")?.called("again").input(WORDS);
    let load = load.args(&["endpoint", "load", "--passphrase-stdin"]).arg(copied);
    let _ = std::fs::remove_file(scene.path("again.err"));
    let again = load.run(scene, Some(ground.cluster.client()), SOON)?;
    refused(&again, "another copy of it went on elsewhere")?;
    for name in ["big.iso.part", "big.iso.part.sha256"] {
        std::fs::remove_file(user.path(name)).with_context(|| name.to_owned())?;
    }
    ground.here(scene, &["close", NAME], "")?.ok()?;
    Ok(())
}

/// The power is cut while it is saved: whatever has ended by then, a second attempt ends well, or
/// the download goes on where it was saved.
#[test]
fn saving_is_interrupted_and_nothing_is_lost() {
    play("endpoints.interrupted", |scene| {
        let mut ground = Ground::lay(scene, 60)?;
        ground.here(scene, &["create", NAME], "")?.ok()?;
        let get = ground.download(scene, 30)?;
        let stick = scene.path("no").join("such").join("place");
        let save = ["save", NAME, &stick.display().to_string()];
        // A file where the stick should be: nothing can be written there.
        std::fs::write(scene.path("no"), "")?;
        let failed = ground.here(scene, &save, "")?;
        refused(&failed, "is still here, with what was saved")?;
        let ended = get.end(SOON)?;
        ensure!(ended.status.code() == Some(MOVED), "the download ended with {}", ended.status);

        // The broker is killed. What was saved is there for the next one.
        let network = &ground.cluster.topology.hosts[CLIENT].namespace;
        ground.cluster.user.kill_broker()?;
        ground.cluster.user.start_broker(scene, network)?;
        let user = &ground.cluster.user;
        let load = user.plan("session")?.called("load").args(&["endpoint", "load", NAME]);
        let mut load = load.start(scene, Some(network))?;
        let growth = Growth::watch(&user.path("big.iso.part"));
        let len = ground.cluster.payload.len;
        wait::until("more than half of the file", DOWNLOAD_MAX, || {
            load.must_run()?;
            Ok((growth.len() >= len * 6 / 10).then_some(()))
        })?;

        // It is saved again, and the command is killed at any moment.
        let stick = scene.path("stick");
        let mut save = user.plan("session")?.called("save");
        save = save.args(&["endpoint", "save", NAME]).arg(&stick);
        let mut save = save.start(scene, Some(network))?;
        std::thread::sleep(Duration::from_millis(30));
        let _ended_already = save.kill();
        let home = user.path(".local/share/session/endpoints").join(NAME);
        ensure!(home.exists() || stick.exists(), "neither the old directory nor the new one");
        if !stick.exists() {
            ground.here(scene, &["save", NAME, &stick.display().to_string()], "")?.ok()?;
        }
        let ended = load.end(SOON)?;
        ensure!(ended.status.code() == Some(MOVED), "the load ended with {}", ended.status);
        let growth = Growth::watch(&ground.there.path("big.iso.part"));
        let mut load = ground.load(scene, &stick, "")?;
        wait::until("three quarters of the file, there", DOWNLOAD_MAX, || {
            load.must_run()?;
            Ok((growth.len() >= len * 3 / 4).then_some(()))
        })?;
        // The next broker goes on with what was carried as with any other session.
        kill(ground.leftovers.one(false)?, Signal::SIGKILL)?;
        scene.say(&load.end(DOWNLOAD_MAX)?.ok()?.out);
        ground.is_right(&ground.there.path("big.iso"))
    });
}

/// The name server makes its lease short: it is renewed in time, and ends with the broker.
#[test]
fn an_endpoint_is_known_for_as_long_as_its_broker_is_there() {
    play("endpoints.lease", |scene| {
        let gateway = "[limits]\nlease_max = \"3s\"\n";
        let access = Shape::of(100, 10);
        let members = vec![Member::full("a")];
        let layout = Layout { members, megabytes: 1, access, gateway, broker: "" };
        let mut cluster = Cluster::lay(scene, &layout)?;
        let config = format!(
            "[[directory]]\ndomain = \"demo.example\"\naddress = \"{}:{SNS_PORT}\"\n\
             key = \"{}\"\n",
            cluster.gateway().address(),
            cluster.sns.key
        );
        std::fs::write(cluster.user.path(".config/session/broker.toml"), config)?;
        cluster.user.start_broker(scene, &cluster.topology.hosts[CLIENT].namespace)?;
        let create = ["endpoint", "create", NAME];
        cluster.user.session(scene, cluster.client(), &create, "")?.ok()?;
        let known = |cluster: &Cluster| -> Result<bool> {
            let status = daemon::status(&cluster.gateway().namespace, SNS_STATUS)?;
            Ok(status["sizes"]["endpoints"].as_f64() == Some(1.0))
        };
        let begun = Instant::now();
        while begun.elapsed() < Duration::from_secs(8) {
            ensure!(known(&cluster)?, "forgotten after {:?}", begun.elapsed());
            std::thread::sleep(Duration::from_millis(200));
        }
        cluster.user.session(scene, cluster.client(), &["stop", "--force"], "")?.ok()?;
        wait::until("its lease to end", SOON, || Ok((!known(&cluster)?).then_some(())))
    });
}
