//! Wrong files, wrong keys and garbage: refused with a reason, and nothing else harmed.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use stp_tests::daemon::{self, BROKER_STATUS, Broker, SERVER_PORT, SERVER_STATUS, Wanted};
use stp_tests::emulator::{Dice, Shape};
use stp_tests::file;
use stp_tests::process::Plan;
use stp_tests::scene::{Scene, play};

use crate::world::{CLIENT, DOWNLOAD_MAX, Layout, Tool, World, reach};

const SOON: Duration = Duration::from_secs(20);

#[test]
fn a_wrong_configuration_names_file_line_and_key() {
    play("wrong_config", |scene| {
        let cases = [
            ("stp-broker", "status = \"off\"\nwhen_absnet = \"pass\"\n", 2, "when_absnet"),
            (
                "stp-broker",
                "[[service]]\nname = \"w.m@e\"\n[[service.server]]\naddress = \
                    \"300.1.1.1:1\"\nkey = \"ed25519:AAAA\"\n",
                4,
                "address",
            ),
            ("stp-server", "name = \"a\"\nlisten = \"0.0.0.0\"\n", 2, "listen"),
            ("stp-server", "name = \"a\"\nlisten = \"0.0.0.0:1\"\ncolour = \"red\"\n", 3, "colour"),
        ];
        for (program, text, line, key) in cases {
            let config = scene.path("wrong.toml");
            std::fs::write(&config, text)?;
            let error = check(scene, program, &config)?;
            let place = format!("wrong.toml:{line}");
            ensure!(error.contains(&place), "{program} does not name {place}: {error}");
            ensure!(error.contains(key), "{program} does not name {key}: {error}");
            scene.say(error.trim());
        }
        let missing = scene.path("missing.toml");
        for program in ["stp-broker", "stp-server"] {
            let error = check(scene, program, &missing)?;
            ensure!(error.contains("missing.toml"), "{program} does not name the file: {error}");
        }
        Ok(())
    });
}

fn check(scene: &Scene, program: &str, config: &std::path::Path) -> Result<String> {
    let path = daemon::programs()?.join(program);
    // The log of one run only.
    let _ = std::fs::remove_file(scene.path(&format!("{program}.err")));
    let plan = Plan::new(path).arg("--config").arg(config).arg("--check");
    let ended = plan.env("SESSION_DIR", scene.path("dir")).run(scene, None, SOON)?;
    ensure!(!ended.status.success(), "{program} accepts {}", config.display());
    Ok(ended.err)
}

#[test]
fn a_server_with_another_key_is_not_trusted() {
    play("wrong_key", |scene| {
        let world = World::lay(scene, &Layout { megabytes: 1, ..Layout::default() })?;
        let World { broker, servers, nginx, topology, payload, .. } = world;
        drop(broker);
        let other = Plan::new(daemon::programs()?.join("stp-server"))
            .called("other-key")
            .arg("--config")
            .arg(other_config(scene)?)
            .arg("--print-key")
            .run(scene, None, SOON)?
            .ok()?;
        let key = other.out.trim().to_owned();
        let one = vec![("a".to_owned(), servers[0].address.clone(), key)];
        let name = "www.mirror@lab.example";
        let wanted = [Wanted { name, route: "mirror.lab:80", servers: one }];
        let client = &topology.hosts[CLIENT].namespace;
        let limits = "[limits]\nconnect = \"5s\"\n";
        // The table comes after the top of the file, and before the services.
        let broker = Broker::start(scene, client, &wanted, limits)?;
        let start = Instant::now();
        let ended = broker.app("curl")?.args(&["-sS", "http://mirror.lab/big"]).run(
            scene,
            Some(client),
            DOWNLOAD_MAX,
        )?;
        let (took, said) = (start.elapsed().as_secs_f64(), ended.err.trim());
        scene.say(&format!("curl: {} after {took:.1} s: {said}", ended.status));
        ensure!(!ended.status.success(), "the wrong server was trusted");
        let asked = nginx[0].access_log()?;
        ensure!(asked.is_empty(), "the request went to a server that is not trusted: {asked}");
        let log = broker.process.log().to_lowercase();
        ensure!(log.contains("key"), "the broker's log does not say that the key is wrong");
        drop((servers, payload));
        Ok(())
    });
}

fn other_config(scene: &Scene) -> Result<std::path::PathBuf> {
    let text = std::fs::read_to_string(scene.path("a.toml"))?;
    let key = format!("{:?}", scene.path("a.key"));
    ensure!(text.contains(&key), "a.toml does not name its key file");
    let path = scene.path("other.toml");
    std::fs::write(&path, text.replace(&key, &format!("{:?}", scene.path("other.key"))))?;
    Ok(path)
}

#[test]
fn a_server_of_another_cluster_gets_no_session() {
    play("foreign_cluster", |scene| {
        let access = Shape::of(40, 20);
        let layout =
            Layout { servers: 2, foreign: vec![1], megabytes: 30, access, ..Layout::default() };
        let mut world = World::lay(scene, &layout)?;
        let (mut process, growth, path) = world.download(scene, Tool::Curl)?;
        reach(&growth, &mut process, world.payload.len / 3)?;
        ensure!(world.serving()? == 0, "the first server is not the first choice");
        world.kill_server(0)?;
        scene.say("kill -9 of server a; b cannot open its tickets");
        let ended = process.end(DOWNLOAD_MAX)?;
        ensure!(!ended.status.success(), "a foreign server has continued the session");
        let len = std::fs::metadata(&path)?.len();
        let of_right = file::sha256_of_first(&world.payload.path, len)?;
        ensure!(file::sha256(&path)? == of_right, "wrong bytes were delivered");
        world.tell(scene)?;
        let status = world.server_status(1)?;
        scene.say(&format!("server b refused: {}", status["refused"]));
        let refused = status["refused"].as_object().context("no \"refused\" in the status")?;
        ensure!(refused.values().any(|count| count != 0), "server b has counted no refusal");
        Ok(())
    });
}

/// A namespace without a network stays without one, unless the user wants it otherwise.
#[test]
fn a_program_in_another_network_namespace_reaches_nothing_unless_it_may() {
    for (others, name) in [("refuse", "refused"), ("serve", "served")] {
        play(&format!("other_namespace.{others}"), |scene| {
            let broker = if others == "serve" { "other_namespaces = \"serve\"" } else { "" };
            let world = World::lay(scene, &Layout { megabytes: 1, broker, ..Layout::default() })?;
            let client = &world.topology.hosts[CLIENT].namespace;
            let to = scene.path(name);
            let curl =
                world.app("unshare")?.called(name).args(&["--net", "curl", "-sS", "-m", "9"]);
            let curl = curl.arg("-o").arg(&to).arg("http://mirror.lab/big");
            let ended = curl.run(scene, Some(client), SOON)?;
            scene.say(&format!("{others}: {} {}", ended.status, ended.err.trim()));
            if others == "serve" {
                ensure!(ended.status.success(), "it is not served");
                ensure!(file::sha256(&to)? == world.payload.sha256, "wrong bytes");
            } else {
                ensure!(!ended.status.success() && !to.exists(), "it is served");
                let asked = world.nginx[0].access_log()?;
                ensure!(asked.is_empty(), "the request left the namespace: {asked}");
            }
            Ok(())
        });
    }
}

#[test]
fn garbage_on_any_port_harms_nobody() {
    play("garbage", |scene| {
        let world = World::lay(scene, &Layout { megabytes: 60, ..Layout::default() })?;
        let (process, _growth, path) = world.download(scene, Tool::Curl)?;
        let client = &world.topology.hosts[CLIENT].namespace;
        let server = &world.topology.hosts[1].namespace;
        let mut dice = Dice(99);
        let mut closed = 0;
        for round in 0..40 {
            let bytes: Vec<u8> =
                (0..(round * 97) % 5000).map(|_| dice.roll().to_le_bytes()[0]).collect();
            for (space, port) in
                [(server, SERVER_PORT), (server, SERVER_STATUS), (client, BROKER_STATUS)]
            {
                closed += usize::from(space.inside(|| spit(port, &bytes))??);
            }
            let mut socket = UnixStream::connect(world.broker.dir.join("broker.sock"))?;
            // It may be closed before it is written.
            let _ = socket.write_all(&bytes);
        }
        scene.say(&format!("{closed} of 120 were closed by the other side at once"));
        world.must_be_right(process, &path)?;
        let refused = world.server_status(0)?["refused"].clone();
        scene.say(&format!("the download ended well; server: refused {refused}"));
        let counted = refused.as_object().is_some_and(|all| all.values().any(|count| count != 0));
        ensure!(counted, "garbage is not counted");
        Ok(())
    });
}

/// Sends garbage to a loopback port and half-closes; true if the other side closes.
fn spit(port: u16, bytes: &[u8]) -> Result<bool> {
    let mut stream = TcpStream::connect(("127.0.0.1", port))?;
    stream.set_read_timeout(Some(Duration::from_millis(500)))?;
    // It may be closed before it is written.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut answer = [0; 4096];
    for _ in 0..100 {
        match stream.read(&mut answer) {
            Ok(0) => return Ok(true),
            Ok(_) => {}
            Err(error) => return Ok(error.kind() == std::io::ErrorKind::ConnectionReset),
        }
    }
    bail!("port {port} answers garbage without end")
}

#[test]
fn a_program_without_a_route_is_left_alone() {
    play("no_route", |scene| {
        let world = World::lay(scene, &Layout { megabytes: 20, ..Layout::default() })?;
        let client = &world.topology.hosts[CLIENT].namespace;
        let url = format!("http://{}/big", world.topology.hosts[1].address());
        for tool in ["curl", "wget"] {
            let to = scene.path(tool);
            let (quiet, out) = if tool == "curl" { ("-sS", "-o") } else { ("-nv", "-O") };
            let plan = world.app(tool)?.args(&[quiet, out]).arg(&to).arg(&url);
            plan.run(scene, Some(client), DOWNLOAD_MAX)?.ok()?;
            ensure!(file::sha256(&to)? == world.payload.sha256, "{tool}: wrong bytes");
        }
        let sessions = world.broker_status()?["counters"].clone();
        scene.say(&format!("broker counters: {sessions}"));
        let log = world.nginx[0].access_log()?;
        ensure!(log.lines().count() == 2, "nginx saw {log}");
        Ok(())
    });
}
