//! A real ssh to a server whose straight path is first congested by the traffic of others and then
//! cut: the session is led to it through another server of the cluster, and goes straight again.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use stp_tests::daemon::{self, BROKER_STATUS, Broker, Offer, SERVER_STATUS, Server, Wanted};
use stp_tests::emulator::Shape;
use stp_tests::file::Payload;
use stp_tests::growth::Growth;
use stp_tests::nginx::Nginx;
use stp_tests::process::{Plan, Process};
use stp_tests::scene::{Scene, play};
use stp_tests::sshd;
use stp_tests::topology::Topology;
use stp_tests::wait;

const SSH: &str = "ssh.home@lab.example";
/// The hosts.
const CLIENT: usize = 0;
const A: usize = 1;
const B: usize = 2;
const CROWD: usize = 3;
/// The way round, there and back: 2 (5 + 10) + 2 · 10 ms. The straight one is 30 ms.
const THROUGH_MS: u64 = 50;

/// What the broker says of the only session.
fn session(topology: &Topology) -> Result<Value> {
    let status = daemon::status(&topology.hosts[CLIENT].namespace, BROKER_STATUS)?;
    Ok(status["sessions"][0].clone())
}

/// Waits until the session goes `via` somewhere; the event that says so.
fn goes(topology: &Topology, ssh: &mut Process, via: Option<&str>, bound: u64) -> Result<Value> {
    let what = format!("the way {}", via.map_or("straight".to_owned(), |via| format!("by {via}")));
    let found = wait::until(&what, Duration::from_secs(bound), || {
        ssh.must_run()?;
        let now = session(topology)?;
        let here = now["via"].as_str() == via && now["state"] == "active";
        let resumed = |event: &&Value| event["what"] == "resumed";
        let last =
            now["events"].as_array().and_then(|events| events.iter().rfind(resumed)).cloned();
        Ok(last.filter(|_| here))
    });
    found.with_context(|| {
        let told = daemon::status(&topology.hosts[CLIENT].namespace, BROKER_STATUS);
        told.map(|told| daemon::happenings(&told).join("\n  ")).unwrap_or_default()
    })
}

fn deep(mbit: u64, delay_ms: u64) -> Shape {
    let queue = usize::try_from(mbit * 1_000_000 / 8 / 10).expect("fits");
    Shape { queue, ..Shape::of(mbit, delay_ms) }
}

/// The machines and programs of the test.
struct Ground {
    topology: Topology,
    /// Only keeps the program running, as do the other fields whose names begin with an underscore.
    _a: Server,
    _b: Server,
    broker: Broker,
    ssh_options: String,
    _sshd: Process,
    _web: Nginx,
}

/// `a` with an sshd and a large file, `b` with a way of its own to `a`, a client, and a crowd.
fn ground(scene: &Scene) -> Result<Ground> {
    // The second wire of `a` is the one that `b` has to it.
    let topology = Topology::build(&[("client", 1), ("a", 2), ("b", 1), ("crowd", 1)])?;
    let ip = |host: usize, wire: usize| topology.hosts[host].interfaces[wire].v4();
    let to_b = format!("{}/32", ip(B, 0));
    topology.hosts[A].namespace.ip(&["route", "add", &to_b, "dev", "net1"])?;
    topology.shape(CLIENT, 0, Shape { queue: 8 << 20, ..Shape::of(1000, 5) })?;
    topology.shape(A, 0, deep(50, 10))?;
    topology.shape(B, 0, Shape::of(1000, 10))?;
    let key = daemon::cluster_key(scene, "cluster.key")?;
    let home = &topology.hosts[A].namespace;
    let (sshd, ssh_options) = sshd::start(scene, home)?;
    let web = Nginx::start(scene, "nginx", home)?;
    Payload::make(200, 1)?.link(&web.root.join("big"))?;
    let offer = |name: &str, to: &str| Offer::new(name, "tcp", to);
    let offers = [offer(SSH, "127.0.0.1:22")];
    let a = Server::start(scene, "a", (home, &ip(A, 0)), &key, &offers, "")?;
    let (to_a, port) = (ip(A, 1), daemon::SERVER_PORT);
    let relay = format!("[[relay]]\naddress = \"{to_a}:{port}\"\nkey = {:?}", a.key);
    let elsewhere = &topology.hosts[B].namespace;
    let offers = [offer("other.home@lab.example", "127.0.0.1:22")];
    let b = Server::start(scene, "b", (elsewhere, &ip(B, 0)), &key, &offers, &relay)?;
    let servers = vec![(a.name.clone(), a.address.clone(), a.key.clone())];
    let wanted = [Wanted { name: SSH, route: "box.lab:22", servers }];
    let relays = format!("[[relay]]\nname = \"b\"\naddress = {:?}\nkey = {:?}\n", b.address, b.key);
    let broker = Broker::start(scene, &topology.hosts[CLIENT].namespace, &wanted, &relays)?;
    Ok(Ground { topology, _a: a, _b: b, broker, ssh_options, _sshd: sshd, _web: web })
}

/// An ssh that prints a line every 5 ms until `stop` is there; its output as it grows.
fn talk(scene: &Scene, ground: &Ground, stop: &Path) -> Result<(Process, Growth)> {
    let count = format!(
        "i=0; while [ ! -e {} ]; do echo line $i; i=$((i+1)); sleep 0.005; done; echo end $i",
        stop.display()
    );
    let mut plan = ground.broker.app("ssh")?;
    for option in ground.ssh_options.split(' ') {
        plan = plan.arg(option);
    }
    let growth = Growth::watch(&scene.path("ssh.out"));
    let client = &ground.topology.hosts[CLIENT].namespace;
    let ssh = plan.arg("box.lab").arg(count).start(scene, Some(client))?;
    growth.reach(3_000, Duration::from_secs(60))?;
    ensure!(session(&ground.topology)?["via"].is_null(), "it did not begin straight");
    Ok((ssh, growth))
}

/// Others download from the machine that ssh is on; then they stop.
fn congest(scene: &Scene, ground: &Ground, ssh: &mut Process) -> Result<()> {
    let topology = &ground.topology;
    let begun = Instant::now();
    let url = format!("http://{}/big", topology.hosts[A].interfaces[0].v4());
    let flow = |number: usize| {
        Plan::new("curl")
            .called(&format!("cross-{number}"))
            .args(&["-sS", "-o", "/dev/null", &url, &url, &url])
            .start(scene, Some(&topology.hosts[CROWD].namespace))
    };
    let others = (0..8).map(flow).collect::<Result<Vec<_>>>()?;
    let led = goes(topology, ssh, Some("b"), 15)?;
    scene.say(&format!("led round {} ms after the others came", begun.elapsed().as_millis()));
    scene.say(&format!("  {}", led["cause"].as_str().unwrap_or_default()));
    scene.say(&format!("  gap {} ms", led["gap_ms"]));
    ensure!(led["cause"].as_str().is_some_and(|why| why.contains("round trip")), "{led}");
    let gap = led["gap_ms"].as_u64().context("no gap")?;
    ensure!(gap <= THROUGH_MS + 50, "a gap of {gap} ms");
    let elsewhere = &topology.hosts[B].namespace;
    let relayed = daemon::status(elsewhere, SERVER_STATUS)?["relay"].clone();
    ensure!(relayed["now"] == 1 && relayed["begun"] == 1, "{relayed}");

    drop(others);
    let straight = goes(topology, ssh, None, 30)?;
    scene.say(&format!("straight again: {}", straight["cause"].as_str().unwrap_or_default()));
    scene.say(&format!("  gap {} ms", straight["gap_ms"]));
    Ok(())
}

/// The straight way is cut; then it is there again.
fn cut(scene: &Scene, ground: &Ground, (ssh, growth): (&mut Process, &Growth)) -> Result<()> {
    let topology = &ground.topology;
    let cut = Instant::now();
    topology.cut(A, 0, true)?;
    let led = goes(topology, ssh, Some("b"), 20)?;
    growth.grow_after(cut + Duration::from_secs(1), Duration::from_secs(10))?;
    let pause = growth.pause_after(cut)?;
    scene.say(&format!(
        "led round {} ms after the cut: {}; {} ms without a byte",
        cut.elapsed().as_millis(),
        led["cause"].as_str().unwrap_or_default(),
        (pause.to - pause.from).as_millis()
    ));
    topology.cut(A, 0, false)?;
    let straight = goes(topology, ssh, None, 30)?;
    scene.say(&format!("straight again: {}", straight["cause"].as_str().unwrap_or_default()));
    Ok(())
}

/// R80 to R83.
#[test]
fn an_ssh_session_is_led_round_what_is_congested_or_cut() {
    play("relay", |scene| {
        daemon::programs()?;
        let ground = ground(scene)?;
        let client = &ground.topology.hosts[CLIENT].namespace;
        let url = format!("http://127.0.0.1:{BROKER_STATUS}/events");
        let events = Plan::new("curl").called("events").args(&["-sN", &url]);
        let events = events.start(scene, Some(client))?;
        let stop = scene.path("stop");
        let (mut ssh, growth) = talk(scene, &ground, &stop)?;
        congest(scene, &ground, &mut ssh)?;
        cut(scene, &ground, (&mut ssh, &growth))?;

        let now = session(&ground.topology)?;
        let moments = now["series"].as_array().context("no series")?;
        let high = moments.iter().filter(|one| one["rtt_ms"].as_f64() > Some(60.0)).count();
        scene.say(&format!("{} moments, {high} with more than 60 ms", moments.len()));
        ensure!(moments.iter().all(|one| one["rtt_ms_min"].as_f64() <= one["rtt_ms"].as_f64()));

        std::fs::write(&stop, "")?;
        let ended = ssh.end(Duration::from_secs(60))?.ok()?;
        let lines: Vec<&str> = ended.out.lines().collect();
        let (end, lines) = lines.split_last().context("no line")?;
        ensure!(*end == format!("end {}", lines.len()), "{end} after {} lines", lines.len());
        let wrong = lines.iter().enumerate().find(|(n, line)| **line != format!("line {n}"));
        ensure!(wrong.is_none(), "wrong: {wrong:?}");
        scene.say(&format!("{} lines, every one, in order", lines.len()));
        wait::until_true("the end to be told", Duration::from_secs(10), || {
            events.printed().contains("event: ended")
        })?;
        let told = events.printed();
        for part in ["event: status", "event: sample", "\"delivery_rate\":", "through b"] {
            ensure!(told.contains(part), "/events does not tell {part}:\n{told}");
        }
        Ok(())
    });
}
