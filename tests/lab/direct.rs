//! No far end: the broker's own server asks the origin, on a machine without any configuration and
//! with mirrors in it. 60 MB at 40 Mbit/s and 40 ms, real curl, real nginx.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;
use stp_tests::daemon;
use stp_tests::emulator::Shape;
use stp_tests::file::{self, Payload};
use stp_tests::growth::Growth;
use stp_tests::keepers::Leftovers;
use stp_tests::nginx::Nginx;
use stp_tests::process::{Plan, Process};
use stp_tests::scene::{Scene, play};
use stp_tests::topology::Topology;
use stp_tests::wait;

use crate::portal::Portal;

const CLIENT: usize = 0;
/// The whole download, without the fault, and time to spare on a busy machine.
const DOWNLOAD_MAX: Duration = Duration::from_secs(90);

/// A client with a broker, and two origins with the same file. Programs fall first.
struct Ground {
    broker: Process,
    dir: PathBuf,
    origins: Vec<Nginx>,
    topology: Topology,
    payload: Payload,
}

impl Ground {
    /// `config` is the broker's configuration; empty: it has none. `MIRROR` in it is the second
    /// origin's address.
    fn lay(scene: &Scene, config: &str) -> Result<Ground> {
        Ground::lay_as(scene, config, |plan| plan)
    }

    /// The same; `change` says what else is to be known of how the broker is started.
    fn lay_as(scene: &Scene, config: &str, change: impl FnOnce(Plan) -> Plan) -> Result<Ground> {
        let topology = Topology::build(&[("client", 1), ("origin", 1), ("mirror", 1)])?;
        topology.shape(CLIENT, 0, Shape::of(40, 20))?;
        let payload = Payload::make(60, 1)?;
        let mut origins = Vec::new();
        for (place, name) in [(1, "origin"), (2, "mirror")] {
            let namespace = &topology.hosts[place].namespace;
            let nginx = Nginx::start(scene, &format!("nginx-{name}"), namespace)?;
            let folder =
                if name == "mirror" { nginx.root.join("tree") } else { nginx.root.clone() };
            std::fs::create_dir_all(&folder)?;
            payload.link(&folder.join("big"))?;
            origins.push(nginx);
        }
        let (home, dir) = (scene.path("home"), scene.path("session"));
        std::fs::create_dir_all(&home)?;
        let mut plan = Plan::new(daemon::programs()?.join("stp-broker"))
            .called("broker")
            .alone_in(&home)
            .env("SESSION_DIR", &dir);
        if !config.is_empty() {
            let file = scene.path("broker.toml");
            std::fs::write(&file, config.replace("MIRROR", &topology.hosts[2].address()))?;
            plan = plan.arg("--config").arg(file);
        }
        let client = &topology.hosts[CLIENT].namespace;
        let mut broker = change(plan).start(scene, Some(client))?;
        wait::until("the broker", Duration::from_secs(20), || {
            broker.must_run()?;
            Ok(dir.join("status.sock").exists().then_some(()))
        })?;
        Ok(Ground { broker, dir, origins, topology, payload })
    }

    fn curl(&self, scene: &Scene, more: &[&str]) -> Result<(Process, Growth, PathBuf)> {
        let to = scene.path("big");
        let growth = Growth::watch(&to);
        let url = format!("http://{}/big", self.topology.hosts[1].address());
        let curl = Plan::new("curl")
            .args(&["-sS", "--fail", "-o"])
            .arg(&to)
            .args(more)
            .arg(url)
            .env("LD_PRELOAD", daemon::shim()?)
            .env("SESSION_DIR", &self.dir);
        let client = &self.topology.hosts[CLIENT].namespace;
        Ok((curl.start(scene, Some(client))?, growth, to))
    }

    fn must_be_right(&self, curl: Process, path: &std::path::Path) -> Result<()> {
        curl.end(DOWNLOAD_MAX)?.ok()?;
        ensure!(file::sha256(path)? == self.payload.sha256, "wrong bytes");
        Ok(())
    }

    fn status(&self, scene: &Scene) -> Result<Value> {
        let session = daemon::programs()?.join("session");
        let status = Plan::new(session).args(&["status", "--json"]).env("SESSION_DIR", &self.dir);
        let client = &self.topology.hosts[CLIENT].namespace;
        let said = status.run(scene, Some(client), DOWNLOAD_MAX)?.ok()?.out;
        Ok(serde_json::from_str(&said)?)
    }

    fn requests(&self, origin: usize) -> Result<usize> {
        Ok(self.origins[origin].access_log()?.lines().count())
    }
}

#[test]
fn without_any_configuration_a_download_outlives_a_new_address_and_a_long_outage() {
    play("direct_unconfigured", |scene| {
        let mut ground = Ground::lay(scene, "")?;
        let (curl, growth, path) = ground.curl(scene, &[])?;
        growth.reach(10_000_000, Duration::from_secs(30))?;
        let at = Instant::now();
        ground.topology.hosts[CLIENT].replace_address(0)?;
        growth.grow_after(Instant::now() + Duration::from_millis(1), Duration::from_secs(20))?;
        growth.reach(20_000_000, Duration::from_secs(30))?;
        let pause = growth.pause_after(at)?;
        scene.say(&format!(
            "new address: {} ms without a byte",
            (pause.to - pause.from).as_millis()
        ));
        let at = Instant::now();
        ground.topology.cut(CLIENT, 0, true)?;
        std::thread::sleep(Duration::from_secs(70));
        ground.topology.cut(CLIENT, 0, false)?;
        let over = Instant::now();
        growth.grow_after(over, Duration::from_secs(20))?;
        ground.must_be_right(curl, &path)?;
        let pause = growth.pause_after(at)?;
        let after = pause.to.saturating_duration_since(over);
        scene.say(&format!("70 s without a path: next byte {} ms after it", after.as_millis()));
        ensure!(ground.requests(1)? == 0, "nobody named a mirror");
        ground.broker.must_run()
    });
}

#[test]
fn a_mirror_goes_on_when_the_origin_is_gone() {
    let config = "[[service]]\nkind = \"direct\"\nmirrors = [\"http://MIRROR/tree\"]\n\
                  [[route]]\nto = \"*:80\"\nservice = \"http.direct@localhost\"\n";
    play("direct_mirror", |scene| {
        let mut ground = Ground::lay(scene, config)?;
        let (curl, growth, path) = ground.curl(scene, &[])?;
        growth.reach(10_000_000, Duration::from_secs(30))?;
        let at = Instant::now();
        ground.origins.remove(0);
        scene.say("the origin is gone");
        ground.must_be_right(curl, &path)?;
        let pause = growth.pause_after(at)?;
        scene.say(&format!("{} ms without a byte", (pause.to - pause.from).as_millis()));
        Ok(())
    });
}

#[test]
fn a_mirror_that_the_program_itself_names_goes_on() {
    play("direct_own_mirror", |scene| {
        let mut ground = Ground::lay(scene, "")?;
        let mirror = format!("http://{}/tree", ground.topology.hosts[2].address());
        let (to, growth) = (scene.path("big"), Growth::watch(&scene.path("big")));
        let url = format!("http://{}/big", ground.topology.hosts[1].address());
        let session = daemon::programs()?.join("session");
        let curl = Plan::new(session)
            .args(&["run", "--no-broker", "--mirror", &mirror, "--", "sh", "-c"])
            // The one that downloads is a child: it inherits what was said.
            .arg(format!("curl -sS --fail -o {} {url}; exit $?", to.display()))
            .env("SESSION_DIR", &ground.dir)
            .start(scene, Some(&ground.topology.hosts[CLIENT].namespace))?;
        growth.reach(10_000_000, Duration::from_secs(30))?;
        ground.origins.remove(0);
        scene.say("the origin is gone");
        ground.must_be_right(curl, &to)?;
        ensure!(ground.requests(0)? > 0, "the mirror was asked");
        ground.broker.must_run()
    });
}

#[test]
fn a_file_that_changes_under_a_download_is_never_mixed() {
    play("direct_changed", |scene| {
        let ground = Ground::lay(scene, "")?;
        let (curl, growth, path) = ground.curl(scene, &[])?;
        growth.reach(10_000_000, Duration::from_secs(30))?;
        ground.topology.cut(CLIENT, 0, true)?;
        let other = ground.origins[0].root.join("other");
        let mut bytes = std::fs::read(ground.origins[0].root.join("big"))?;
        bytes[1_000_000] ^= 1;
        std::fs::write(&other, &bytes)?;
        std::fs::rename(&other, ground.origins[0].root.join("big"))?;
        // Until the stream has been given up: the origin's own send buffer holds the old file.
        std::thread::sleep(Duration::from_secs(6));
        ground.topology.cut(CLIENT, 0, false)?;
        let ended = curl.end(DOWNLOAD_MAX)?;
        ensure!(!ended.status.success(), "curl must learn that the file is not whole");
        let got = std::fs::read(&path)?;
        bytes[1_000_000] ^= 1;
        ensure!(got.len() > 9_000_000 && bytes.starts_with(&got), "bytes of two files");
        Ok(())
    });
}

/// The network's log-in page answers the question for the rest. It has not the file, so nothing of
/// it gets in, and the origin is asked on.
#[test]
fn a_log_in_page_is_not_the_origins_answer() {
    play("direct_portal", |scene| {
        let mut ground = Ground::lay(scene, "")?;
        let host = &ground.topology.hosts[CLIENT].namespace;
        let _portal = Portal::start(scene, host)?;
        let (curl, growth, path) = ground.curl(scene, &[])?;
        growth.reach(10_000_000, Duration::from_secs(30))?;
        Portal::catch(scene, host, Portal::PLAIN)?;
        ground.topology.hosts[CLIENT].replace_address(0)?;
        std::thread::sleep(Duration::from_secs(30));
        Portal::let_go(scene, &ground.topology.hosts[CLIENT].namespace)?;
        let over = Instant::now();
        growth.grow_after(over, Duration::from_secs(20))?;
        let after = growth.pause_after(over)?.to.saturating_duration_since(over).as_millis();
        scene.say(&format!("30 s of a log-in page: next byte {after} ms after it"));
        ground.must_be_right(curl, &path)?;
        ground.broker.must_run()
    });
}

/// A program that chose one of this machine's addresses: where a session's links leave from that
/// address too, it gets a session, and else the kernel's own connection, and why is said.
#[test]
fn a_source_address_that_the_program_chose_is_kept_to() {
    play("direct_source", |scene| {
        let ground = Ground::lay(scene, "")?;
        let client = &ground.topology.hosts[CLIENT];
        let (first, second) = (client.address(), "10.1.0.77");
        let device = &client.interfaces[0].device;
        client.namespace.ip(&["address", "add", &format!("{second}/24"), "dev", device])?;
        for (place, source) in [&first[..], second].into_iter().enumerate() {
            let (curl, _, path) = ground.curl(scene, &["--interface", source])?;
            ground.must_be_right(curl, &path)?;
            let log = ground.origins[0].access_log()?;
            let line = log.lines().nth(place).unwrap_or_default();
            ensure!(line.contains(&format!("from={source} ")), "it came from elsewhere: {line}");
        }
        let status = ground.status(scene)?;
        let ended = status["ended"].as_array().cloned().unwrap_or_default();
        let reasons: Vec<&str> = ended.iter().filter_map(|one| one["reason"].as_str()).collect();
        scene.say(&format!("{reasons:?}"));
        let kernel = "connected without a session: the program bound its socket to another source \
                      address";
        ensure!(reasons.len() == 2 && reasons.contains(&kernel), "{reasons:?}");
        Ok(())
    });
}

/// curl follows a redirect to where no route leads: it works as without Session, and is told.
#[test]
fn a_redirect_that_leaves_the_routes_is_told() {
    let config = "[[service]]\nkind = \"direct\"\n\
                  [[route]]\nto = \"*:82\"\nservice = \"http.direct@localhost\"\n";
    play("direct_redirected", |scene| {
        let ground = Ground::lay(scene, config)?;
        let hosts = &ground.topology.hosts;
        let to = format!("{}:80", hosts[2].address());
        let moved = format!("server {{ listen 82; return 302 http://{to}/tree/big; }}");
        let root = scene.subdir("moved-root")?;
        let _moved = Nginx::start_at(scene, "moved", &hosts[1].namespace, 83, &root, &moved)?;
        let path = scene.path("big");
        let from = format!("http://{}:82/", hosts[1].address());
        let curl = Plan::new("curl").args(&["-sSL", "--fail", "-o"]).arg(&path).arg(from);
        let curl = curl.env("LD_PRELOAD", daemon::shim()?).env("SESSION_DIR", &ground.dir);
        let curl = curl.start(scene, Some(&hosts[CLIENT].namespace))?;
        ground.must_be_right(curl, &path)?;
        let told = daemon::happenings(&ground.status(scene)?);
        let redirected = told.iter().find(|line| line.contains("what=redirected"));
        let line = redirected.with_context(|| format!("{told:?}"))?;
        scene.say(line);
        ensure!(line.contains(&format!("to {to}, which no route covers")), "{line}");
        Ok(())
    });
}

/// The server inside the broker dies with it. The next broker begins another one with the ticket.
#[test]
fn without_any_configuration_a_download_outlives_its_brokers() {
    play("direct_kept", |scene| {
        let word = format!("SESSION_DIR={}", scene.path("session").display());
        let brokers = Leftovers::of("stp-broker", word)?;
        let ground = Ground::lay_as(scene, "", |plan| plan.env("SESSION_NO_KEEPER", ""))?;
        let (mut curl, growth, path) = ground.curl(scene, &[])?;
        for at in [10_000_000, 11_000_000, 30_000_000] {
            growth.reach(at, Duration::from_secs(60))?;
            curl.must_run()?;
            kill(brokers.one(false)?, Signal::SIGKILL)?;
        }
        ground.must_be_right(curl, &path)?;
        scene.say(&format!("three brokers killed, {} requests", ground.requests(0)?));
        Ok(())
    });
}
