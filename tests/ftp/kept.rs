//! Brokers, or servers' processes, are killed while FTP clients are at work; the keeper starts the
//! next ones.

use std::time::Duration;

use anyhow::Result;
use nix::sys::signal::{Signal, kill};
use stp_tests::daemon;
use stp_tests::keepers::Leftovers;
use stp_tests::process::Plan;
use stp_tests::scene::{Scene, play};
use stp_tests::wait;

use crate::client::{Client, HOST, Mode, Operation};
use crate::world::{CLIENT, CLIENT_MAX, Layout, Work, World};

/// So many brokers are killed under one transfer.
const KILLS: u64 = 5;

fn lay(scene: &Scene) -> Result<(World, Leftovers)> {
    let layout = Layout { megabytes: 80, kept: true, ..Layout::default() };
    let word = format!("SESSION_DIR={}", scene.path("session").display());
    let brokers = Leftovers::of("stp-broker", word)?;
    Ok((World::lay_as(scene, &layout)?, brokers))
}

/// Kills with `kill` whenever another part of the transfer is done.
fn killing(world: &World, work: &Work, mut kill: impl FnMut() -> Result<()>) -> Result<()> {
    for part in 1..=KILLS {
        wait::until("a part of it", CLIENT_MAX, || {
            let enough = world.payload.len * part / (KILLS + 1);
            Ok((world.progress(work) > enough).then_some(()))
        })?;
        kill()?;
    }
    Ok(())
}

fn transfers(name: &str, client: Client, operation: Operation) {
    play(name, |scene| {
        let (world, brokers) = lay(scene)?;
        let work = world.start(scene, client, Mode::Passive, operation, 0)?;
        killing(&world, &work, || Ok(kill(brokers.one(false)?, Signal::SIGKILL)?))?;
        world.outcome(work)?.must_be_good()?;
        scene.say(&format!("{KILLS} brokers killed under it, every byte right"));
        Ok(())
    });
}

#[test]
fn a_download_outlives_its_brokers() {
    transfers("ftp-kept-retr", Client::Curl, Operation::Retr);
}

#[test]
fn an_upload_outlives_its_brokers() {
    transfers("ftp-kept-stor", Client::Curl, Operation::Stor);
}

#[test]
fn lftp_outlives_its_brokers() {
    transfers("ftp-kept-lftp", Client::Lftp, Operation::Retr);
}

/// The process of the server that has the login is killed, again and again. Both servers have the
/// same directory: which of them goes on is theirs to find out.
fn outlives_server_processes(name: &str, client: Client, operation: Operation) {
    play(name, |scene| {
        let word = |name: &str| scene.path(&format!("{name}.toml")).display().to_string();
        let a = Leftovers::of("stp-server", word("a"))?;
        let b = Leftovers::of("stp-server", word("b"))?;
        let world = World::lay_as(
            scene,
            &Layout { megabytes: 80, shared: true, servers_kept: true, ..Layout::default() },
        )?;
        let work = world.start(scene, client, Mode::Passive, operation, 0)?;
        killing(&world, &work, || {
            let which = if world.serving()? == 0 { &a } else { &b };
            Ok(kill(which.one(false)?, Signal::SIGKILL)?)
        })?;
        let outcome = world.outcome(work)?;
        for line in daemon::happenings(&world.broker_status()?) {
            scene.say(&line);
        }
        outcome.must_be_good()?;
        scene.say(&format!("{KILLS} processes killed under it, every byte right"));
        Ok(())
    });
}

#[test]
fn a_download_outlives_its_servers_processes() {
    outlives_server_processes("ftp-kept-server-retr", Client::Curl, Operation::Retr);
}

#[test]
fn an_upload_outlives_its_servers_processes() {
    outlives_server_processes("ftp-kept-server-stor", Client::Curl, Operation::Stor);
}

/// A session that was announced and not begun: the connection comes to the next broker.
#[test]
fn a_program_connects_to_the_next_broker_where_the_last_one_was_told_to_wait_for_it() {
    meanwhile("ftp-kept-announced", "announced");
}

/// The server connects only after the next broker is there.
#[test]
fn a_program_that_waits_in_accept_is_connected_to_by_the_next_broker() {
    meanwhile("ftp-kept-accept", "accepts");
}

/// The broker is killed while the path is cut, when `session.py` says that it is time to.
fn meanwhile(name: &str, what: &str) {
    play(name, |scene| {
        let (world, brokers) = lay(scene)?;
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/ftp/session.py");
        let plan = Plan::new("/usr/bin/python3").called("session.py").arg(script).arg(HOST);
        let plan = world.broker.with_shim(plan.args(&[what, "2"]))?;
        let mut process = plan.start(scene, Some(&world.topology.hosts[CLIENT].namespace))?;
        wait::until("the time to cut", CLIENT_MAX, || {
            process.must_run()?;
            Ok(process.printed().contains("cut").then_some(()))
        })?;
        world.topology.cut(CLIENT, 0, true)?;
        wait::until("the time to kill", CLIENT_MAX, || {
            process.must_run()?;
            Ok(process.printed().contains("kill").then_some(()))
        })?;
        std::thread::sleep(Duration::from_millis(300));
        kill(brokers.one(false)?, Signal::SIGKILL)?;
        std::thread::sleep(Duration::from_millis(500));
        world.topology.cut(CLIENT, 0, false)?;
        process.end(CLIENT_MAX)?.ok().map(drop)
    });
}
