//! Bad FTP servers and bad FTP clients: what they do is refused or bounded, and a download beside
//! them is not harmed.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use stp_tests::process::{Plan, Process};
use stp_tests::scene::{Scene, play};
use stp_tests::wait;

use crate::client::{Client, HOST, Mode, Operation};
use crate::world::{CLIENT, CLIENT_MAX, Layout, World};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/ftp/hostile.py");
/// Where the bad server listens, beside vsftpd.
const PORT: u16 = 2121;
const SERVICE: &str = "ftp.bad@lab.example";
const BAD: &str = "bad.lab";
/// A server of ours has no need for more memory than this, whatever is sent to it.
const MEMORY_MAX_KB: u64 = 120_000;

fn python(arguments: &[&str]) -> Plan {
    Plan::new("/usr/bin/python3").called(arguments[0]).arg(SCRIPT).args(arguments)
}

/// A world whose servers stand before a bad FTP server as well.
fn lay(scene: &Scene) -> Result<(World, Vec<Process>)> {
    let service =
        format!("[[service]]\nname = {SERVICE:?}\nkind = \"ftp\"\nto = \"127.0.0.1:{PORT}\"\n");
    let route = format!("{BAD}:{PORT}");
    let world = World::lay_as(
        scene,
        &Layout {
            megabytes: 40,
            vsftpd: "anon_max_rate=5000000",
            service: &service,
            other: Some((SERVICE, &route)),
            ..Layout::default()
        },
    )?;
    let mut bad = Vec::new();
    for host in &world.topology.hosts[CLIENT + 1..] {
        let mut process =
            python(&["serve", &PORT.to_string()]).start(scene, Some(&host.namespace))?;
        let probe = || std::net::TcpStream::connect(("127.0.0.1", PORT)).is_ok();
        wait::until("the bad server to listen", Duration::from_secs(10), || {
            process.must_run()?;
            Ok(host.namespace.inside(probe)?.then_some(()))
        })?;
        bad.push(process);
    }
    Ok((world, bad))
}

/// Memory of a process, in kB.
fn memory(pid: u32) -> Result<u64> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).context("VmHWM")?;
    line.trim().trim_end_matches(" kB").trim().parse().context("a number")
}

#[test]
fn bad_servers_and_clients_are_bounded_and_harm_nobody_else() {
    play("ftp-hostile", |scene| {
        let (mut world, _bad) = lay(scene)?;
        let good = world.start(scene, Client::Curl, Mode::Passive, Operation::Retr, 0)?;
        let client = &world.topology.hosts[CLIENT].namespace;
        let port = PORT.to_string();
        let asks = ["endless", "unending", "binary", "storm", "telnet", "nowhere", "mute"];
        let asks = asks.iter().map(|what| vec!["ask", BAD, &port, what]);
        for arguments in asks.chain([vec!["storm", HOST], vec!["flood", HOST]]) {
            let plan = world.broker.with_shim(python(&arguments))?;
            let ended = plan.run(scene, Some(client), CLIENT_MAX)?;
            let said = ended.ok().with_context(|| format!("{arguments:?}"))?;
            scene.say(&format!("{}: {}", arguments.join(" "), said.out.trim()));
        }
        world.outcome(good)?.must_be_good()?;
        world.broker.process.must_run()?;
        for server in &mut world.servers {
            let process = server.process()?;
            process.must_run()?;
            let used = memory(process.pid())?;
            scene.say(&format!("{used} kB at most"));
            ensure!(used < MEMORY_MAX_KB, "{used} kB of memory");
        }
        Ok(())
    });
}
