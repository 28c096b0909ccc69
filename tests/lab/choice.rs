//! Which server a session goes to: the nearest, also where UDP does not pass; the one that its user
//! names; and none that may not have it.

use std::net::UdpSocket;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use stp_tests::daemon;
use stp_tests::emulator::Shape;
use stp_tests::process::{Ended, Plan};
use stp_tests::scene::{Scene, play};
use stp_tests::wait;

use crate::world::{CLIENT, Layout, Tool, World, reach};

/// The events of the only session.
fn events(world: &World, what: &str) -> Result<Vec<Value>> {
    let status = world.broker_status()?;
    let session = status["sessions"].get(0).or(status["ended"].get(0)).context("no session")?;
    let events = session["events"].as_array().into_iter().flatten();
    Ok(events.filter(|event| event["what"] == what).cloned().collect())
}

/// `session move 1 SERVER`.
fn move_to(scene: &Scene, world: &World, server: &str) -> Result<Ended> {
    Plan::new(daemon::programs()?.join("session"))
        .called(&format!("move-{server}"))
        .env("SESSION_DIR", &world.broker.dir)
        .args(&["move", "1", server])
        .run(scene, Some(&world.topology.hosts[CLIENT].namespace), Duration::from_secs(20))
}

#[test]
fn a_running_download_goes_where_its_user_says() {
    play("session_move", |scene| {
        // `c` has the file and another cluster's key: it cannot open the ticket.
        let layout = Layout { servers: 3, megabytes: 200, foreign: vec![2], ..Layout::default() };
        let world = World::lay(scene, &layout)?;
        let (mut process, growth, path) = world.download(scene, Tool::Curl)?;
        reach(&growth, &mut process, 10_000_000)?;
        ensure!(world.serving()? == 0, "the first server is not the first choice");

        let unknown = move_to(scene, &world, "nowhere")?;
        scene.say(&format!("nowhere: {}", unknown.err.trim()));
        ensure!(!unknown.status.success() && unknown.err.contains("no server is called nowhere"));
        let same = move_to(scene, &world, "a")?;
        scene.say(&format!("a: {}", same.err.trim()));
        ensure!(!same.status.success() && same.err.contains("it is at a already"));

        move_to(scene, &world, "c")?.ok()?;
        let stays = wait::until("the refusal", Duration::from_secs(20), || {
            process.must_run()?;
            Ok(events(&world, "stays")?.pop())
        })?;
        scene.say(&format!("c: stays: {}", stays["cause"]));
        let refused = events(&world, "refused")?.pop().context("nobody refused")?;
        scene.say(&format!("c: refused: {}", refused["cause"]));

        move_to(scene, &world, "b")?.ok()?;
        let moved = wait::until("the move", Duration::from_secs(20), || {
            process.must_run()?;
            Ok(events(&world, "transferred")?.pop())
        })?;
        scene.say(&format!("b: moved: {}, gap {} ms", moved["cause"], moved["gap_ms"]));
        ensure!(moved["to_server"] == "b" && moved["gap_ms"] == 0, "{moved}");
        ensure!(moved["cause"].as_str().is_some_and(|why| why.contains("by the user")), "{moved}");
        world.must_be_right(process, &path)?;
        scene.say("exit code 0, right SHA-256");
        Ok(())
    });
}

#[test]
fn where_udp_does_not_pass_the_nearest_server_is_found_all_the_same() {
    play("no_udp", |scene| {
        let layout = Layout { servers: 3, megabytes: 5, ..Layout::default() };
        let world = World::lay(scene, &layout)?;
        for (server, delay) in [60, 5, 30].into_iter().enumerate() {
            world.topology.shape(server + 1, 0, Shape::of(1000, delay))?;
            let namespace = &world.topology.hosts[server + 1].namespace;
            namespace.ip(&["rule", "add", "priority", "1", "ipproto", "udp", "blackhole"])?;
            let client = format!("{}:9", world.topology.hosts[CLIENT].address());
            let sent = namespace.inside(|| UdpSocket::bind("0.0.0.0:0")?.send_to(b"x", &client))?;
            ensure!(sent.is_err(), "UDP passes");
        }
        let (process, _growth, path) = world.download(scene, Tool::Curl)?;
        world.must_be_right(process, &path)?;
        let served = events(&world, "connected")?.pop().context("it never connected")?;
        scene.say(&format!("served by {}", served["to_server"]));
        let status = world.broker_status()?;
        for server in status["services"][0]["servers"].as_array().into_iter().flatten() {
            scene.say(&format!("  {}: {} ms", server["name"], server["rtt_ms"]));
        }
        ensure!(served["to_server"] == "b", "not the nearest: {served}");
        Ok(())
    });
}

/// What Python's connect() says; it waits for the answer, curl polls for it.
const CONNECT: &str = "import errno, socket, sys
try:
    socket.create_connection(('mirror.lab', 80), 20)
except OSError as error:
    sys.exit(errno.errorcode[error.errno])
";

#[test]
fn an_app_is_told_that_there_is_no_path_to_any_server() {
    play("no_path", |scene| {
        let broker = "[limits]\nconnect = \"2s\"";
        let layout = Layout { servers: 2, megabytes: 1, broker, ..Layout::default() };
        let world = World::lay(scene, &layout)?;
        let client = &world.topology.hosts[CLIENT].namespace;
        let routes = |change: &str| {
            let hosts = &world.topology.hosts[1..];
            hosts
                .iter()
                .try_for_each(|host| client.ip(&["route", change, "unreachable", &host.address()]))
        };
        routes("add")?;
        let bound = Duration::from_secs(30);
        let python =
            world.app("python3")?.args(&["-c", CONNECT]).run(scene, Some(client), bound)?;
        scene.say(&format!("python: {}", python.err.trim()));
        ensure!(python.err.trim() == "EHOSTUNREACH", "python: {}{}", python.out, python.err);
        let curl = world.app("curl")?.args(&["-sSv", "-o", "/dev/null", "http://mirror.lab/big"]);
        let curl = curl.run(scene, Some(client), bound)?;
        let said = curl.err.lines().filter(|line| line.contains("No route to host"));
        scene.say(&format!("curl: {}", said.clone().next().unwrap_or("nothing of a route")));
        ensure!(curl.status.code() == Some(7) && said.count() > 0, "curl: {}", curl.err);
        let ended = world.broker_status()?["ended"].clone();
        let ended = ended.as_array().context("no list of those that ended")?;
        ensure!(ended.len() == 2, "{ended:?}");
        for session in ended {
            let reason = session["reason"].as_str().unwrap_or_default();
            scene.say(&format!("status: {reason}"));
            ensure!(reason.matches("No route to host").count() == 2, "{session}");
        }
        routes("del")?;
        let (process, _growth, path) = world.download(scene, Tool::Curl)?;
        world.must_be_right(process, &path)
    });
}
