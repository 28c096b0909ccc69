//! Many sessions at once, and one that does nothing.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use stp_tests::emulator::Shape;
use stp_tests::file::Payload;
use stp_tests::process::Process;
use stp_tests::scene::{Scene, play};
use stp_tests::wait;

use crate::world::{CLIENT, Layout, World};

const SESSIONS: u64 = 1_000;
/// A response larger than what sockets on the way hold.
const PIECE: u64 = 600_000;
const PHASE_MAX: Duration = Duration::from_secs(150);
/// The Debian one: a version manager's wrapper would be a shell script.
const PYTHON: &str = "/usr/bin/python3";

#[test]
fn a_thousand_sessions_survive_a_server_restart_and_a_cut() {
    play("thousand_sessions", |scene| {
        let access = Shape { queue: 8 << 20, ..Shape::of(1000, 5) };
        let mut world = World::lay(scene, &Layout { megabytes: 1, access, ..Layout::default() })?;
        let piece = Payload::make_bytes(PIECE, 4)?;
        piece.link(&world.nginx[0].root.join("piece"))?;
        let mut crowd = world
            .app(PYTHON)?
            .called("crowd")
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("lab/crowd.py"))
            .args(&[&SESSIONS.to_string(), "mirror.lab", "80", "/piece"])
            .args(&[&PIECE.to_string(), &piece.sha256])
            .arg(scene.dir())
            .arg("3")
            .start(scene, Some(&world.topology.hosts[CLIENT].namespace))?;
        phase(scene, &mut crowd, 0, Instant::now())?;
        let sessions = world.broker_status()?["sessions"].as_array().map_or(0, Vec::len);
        ensure!(sessions as u64 == SESSIONS, "the broker has {sessions} sessions");

        scene.say(&format!(
            "resident: broker {} KiB, server {} KiB",
            world.broker.process.resident_kib()?,
            world.servers[0].process()?.resident_kib()?
        ));

        let at = Instant::now();
        world.kill_server(0)?;
        world.restart_server(scene, 0)?;
        scene.say(&format!("server killed and restarted in {} ms", at.elapsed().as_millis()));
        std::fs::write(scene.path("go-1"), "")?;
        phase(scene, &mut crowd, 1, Instant::now())?;

        world.topology.cut(CLIENT, 0, true)?;
        std::fs::write(scene.path("go-2"), "")?;
        scene.say("the wire is cut for 5 s");
        std::thread::sleep(Duration::from_secs(5));
        world.topology.cut(CLIENT, 0, false)?;
        phase(scene, &mut crowd, 2, Instant::now())?;
        crowd.end(Duration::from_secs(20))?.ok()?;
        Ok(())
    });
}

/// Waits for the line that ends a phase; every session must be well.
fn phase(scene: &Scene, crowd: &mut Process, phase: usize, since: Instant) -> Result<()> {
    let line = wait::until(&format!("phase {phase} of the crowd"), PHASE_MAX, || {
        let printed = crowd.printed();
        if let Some(line) = printed.lines().nth(phase) {
            return Ok(Some(line.to_owned()));
        }
        crowd.must_run()?;
        Ok(None)
    })?;
    let told: Value = serde_json::from_str(&line)?;
    scene.say(&format!("phase {phase}: {line} in {} ms", since.elapsed().as_millis()));
    ensure!(told["ok"] == SESSIONS, "phase {phase}: {line}");
    Ok(())
}

/// Sends a line, is idle for the time given, and sends another on the same connection.
const IDLER: &str = "
import socket, sys, time
s = socket.create_connection(('raw.lab', 80))
s.sendall(b'one\\n')
assert s.recv(100) == b'one\\n'
print('idle', flush=True)
time.sleep(float(sys.argv[1]))
s.sendall(b'two\\n')
assert s.recv(100) == b'two\\n'
";

#[test]
fn an_idle_session_costs_only_keep_alives() {
    play("idle", |scene| {
        let minutes: f64 = match std::env::var("STP_IDLE_MINUTES") {
            Ok(text) => text.parse().context("STP_IDLE_MINUTES")?,
            Err(_) => 1.0,
        };
        let mut world = World::lay(scene, &Layout { megabytes: 1, ..Layout::default() })?;
        // The service must not be nginx, which would close the connection after 75 s.
        world.nginx[0].process.signal(nix::sys::signal::Signal::SIGTERM)?;
        let gone = |world: &mut World| world.nginx[0].process.ended();
        wait::until("nginx to end", Duration::from_secs(5), || gone(&mut world))?;
        let server = &world.topology.hosts[1].namespace;
        let listener = server.inside(|| TcpListener::bind("127.0.0.1:80"))??;
        let echo = std::thread::spawn(move || -> std::io::Result<()> {
            let (mut stream, _) = listener.accept()?;
            let mut buffer = [0; 100];
            loop {
                match stream.read(&mut buffer)? {
                    0 => return Ok(()),
                    n => stream.write_all(&buffer[..n])?,
                }
            }
        });
        let mut idler = world
            .app(PYTHON)?
            .called("idler")
            .args(&["-c", IDLER, &format!("{}", minutes * 60.0 + 43.0)])
            .start(scene, Some(&world.topology.hosts[CLIENT].namespace))?;
        wait::until("the session", Duration::from_secs(20), || {
            idler.must_run()?;
            Ok(idler.printed().contains("idle").then_some(()))
        })?;
        // A session is busy, and its link watched closely, until 30 s after its last byte; a busy
        // machine takes its time.
        std::thread::sleep(Duration::from_secs(40));
        let count = || world.topology.emulator.counters().map(|all| all[CLIENT]);
        let before = count()?;
        std::thread::sleep(Duration::from_secs_f64(minutes * 60.0));
        let after = count()?;
        let packets: u64 = (0..2).map(|way| after[way].packets - before[way].packets).sum();
        let bytes: u64 = (0..2).map(|way| after[way].bytes - before[way].bytes).sum();
        scene.say(&format!("{packets} packets, {bytes} bytes in {minutes} min, both ways"));
        idler.end(Duration::from_secs(30))?.ok()?;
        echo.join().expect("the echo does not panic")?;
        // Every 10 s a question and an answer with what TCP adds, asked by both ends; and once
        // the links that were kept warm are closed.
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "small")]
        let allowed = (minutes * 6.0 + 1.0) as u64 * 8 + 20;
        ensure!(packets <= allowed, "{packets} packets, {allowed} are enough");
        Ok(())
    });
}
