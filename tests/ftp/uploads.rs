//! Uploads whose server dies: they go on where the file begins as it should, and are an error
//! anywhere else.

use std::path::Path;

use anyhow::{Result, ensure};
use stp_tests::process::{Plan, Process};
use stp_tests::scene::{Scene, play};
use stp_tests::wait;

use crate::client::{Client, HOST, Mode, Operation};
use crate::fault::Fault;
use crate::world::{CLIENT, CLIENT_MAX, Layout, World};

/// What `session.py` exits with when its client was told of an error.
const TOLD: i32 = 3;
/// The upload is well under way, and far from its end (60 MB).
const BEGUN: u64 = 20_000_000;

const APART: Layout<'_> = Layout { megabytes: 40, ..Layout::PLAIN };
const SHARED: Layout<'_> = Layout { shared: true, ..APART };

/// Begins an upload with `session.py`, and waits until some of it is in a file.
fn begin(scene: &Scene, world: &World, command: &str) -> Result<Process> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/ftp/session.py");
    let plan = Plan::new("/usr/bin/python3").called("session.py").arg(script).arg(HOST);
    let plan = world.broker.with_shim(plan.args(&[command, "0"]))?;
    let mut process = plan.start(scene, Some(&world.topology.hosts[CLIENT].namespace))?;
    wait::until("a third of it", CLIENT_MAX, || {
        process.must_run()?;
        Ok((largest(&world.ftp[0].root.join("in")) >= BEGUN).then_some(()))
    })?;
    ensure!(world.serving()? == 0, "the first server is the best one");
    Ok(process)
}

fn largest(dir: &Path) -> u64 {
    let entries = std::fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|meta| meta.len()).max().unwrap_or(0)
}

fn goes_on(name: &str, command: &str, layout: &Layout<'_>, fault: Fault) {
    play(name, |scene| {
        let mut world = World::lay_as(scene, layout)?;
        let process = begin(scene, &world, command)?;
        fault.happen(scene, &mut world)?;
        let ended = process.end(CLIENT_MAX)?;
        for line in stp_tests::daemon::happenings(&world.broker_status()?) {
            scene.say(&format!("  broker: {line}"));
        }
        ended.ok().map(drop)
    });
}

#[test]
fn a_file_that_both_servers_have_is_stored_on_at_the_other() {
    goes_on("ftp-upload-shared-stor", "STOR", &SHARED, Fault::Server);
}

#[test]
fn what_is_appended_goes_on_at_the_other_server() {
    goes_on("ftp-upload-shared-appe", "APPE", &SHARED, Fault::Server);
}

#[test]
fn a_file_with_a_name_of_the_servers_goes_on_at_the_other() {
    goes_on("ftp-upload-shared-stou", "STOU", &SHARED, Fault::Server);
}

/// The vsftpd that was left still has its lock, as both run on one machine here.
#[test]
fn an_upload_goes_on_from_a_silent_machine() {
    let layout = Layout { vsftpd: "lock_upload_files=NO", ..SHARED };
    goes_on("ftp-upload-shared-silent", "STOR", &layout, Fault::Silent);
}

#[test]
fn an_upload_goes_on_at_its_own_ftp_server_after_it_died() {
    goes_on("ftp-upload-own", "APPE", &APART, Fault::Ftp);
}

fn is_an_error(name: &str, command: &str) {
    play(name, |scene| {
        let mut world = World::lay_as(scene, &APART)?;
        let process = begin(scene, &world, command)?;
        Fault::Server.happen(scene, &mut world)?;
        let ended = process.end(CLIENT_MAX)?;
        ensure!(ended.status.code() == Some(TOLD), "{:?}: {}", ended.status, ended.err);
        scene.say(&format!("{command}: {}", ended.out.trim()));
        Ok(())
    });
}

#[test]
fn a_server_without_the_beginning_of_the_file_is_an_error_and_no_success() {
    is_an_error("ftp-upload-apart-stor", "STOR");
}

#[test]
fn a_server_without_the_file_that_was_named_is_an_error_and_no_success() {
    is_an_error("ftp-upload-apart-stou", "STOU");
}

/// The other server's file has the right length and other bytes.
#[test]
fn a_file_that_begins_otherwise_is_not_gone_on_with() {
    play("ftp-upload-other", |scene| {
        let mut world = World::lay_as(scene, &APART)?;
        let other = world.ftp[1].root.join("in/file");
        std::fs::write(&other, vec![7; 60_000_000])?;
        std::os::unix::fs::chown(&other, Some(ftp_user()?), None)?;
        let process = begin(scene, &world, "STOR")?;
        Fault::Server.happen(scene, &mut world)?;
        let ended = process.end(CLIENT_MAX)?;
        ensure!(ended.status.code() == Some(TOLD), "{:?}: {}", ended.status, ended.err);
        ensure!(std::fs::read(&other)? == vec![7; 60_000_000], "it was written to");
        Ok(())
    });
}

/// The user whose files anonymous clients may replace.
fn ftp_user() -> Result<u32> {
    let user = nix::unistd::User::from_name("ftp")?;
    user.map(|user| user.uid.as_raw()).ok_or_else(|| anyhow::anyhow!("no user ftp"))
}

#[test]
fn curl_stores_on_at_another_server() {
    play("ftp-upload-curl", |scene| {
        let mut world = World::lay_as(scene, &SHARED)?;
        let work = world.start(scene, Client::Curl, Mode::Active, Operation::Stor, 0)?;
        wait::until("a part of it", CLIENT_MAX, || {
            Ok((world.progress(&work) > world.payload.len / 3).then_some(()))
        })?;
        Fault::Server.happen(scene, &mut world)?;
        world.outcome(work)?.must_be_good()
    });
}
