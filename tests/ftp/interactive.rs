//! Logins that last: idle for longer than the server likes, on IPv6, many at once.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use stp_tests::daemon;
use stp_tests::process::Plan;
use stp_tests::scene::{Scene, play};
use stp_tests::wait;

use crate::client::{CLIENTS, Client, HOST, Mode, Operation};
use crate::fault::Fault;
use crate::table::idle;
use crate::world::{CLIENT, CLIENT_MAX, World};

/// Runs `session.py` with these arguments in the client's machine.
fn session(scene: &Scene, world: &World, arguments: &[&str]) -> Result<()> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/ftp/session.py");
    let plan = Plan::new("/usr/bin/python3").called("session.py").arg(script).arg(HOST);
    let plan = world.broker.with_shim(plan.args(arguments))?;
    let namespace = &world.topology.hosts[CLIENT].namespace;
    plan.run(scene, Some(namespace), CLIENT_MAX)?.ok().map(drop)
}

#[test]
fn a_login_outlives_the_servers_patience() {
    play("ftp-idle", |scene| {
        let world = World::lay(scene, 1, "idle_session_timeout=3")?;
        session(scene, &world, &["idle", "8"])
    });
}

#[test]
fn a_login_keeps_its_directory_and_its_rest_at_another_server() {
    play("ftp-idle-server", |scene| {
        let mut world = World::lay(scene, 1, "")?;
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/ftp/session.py");
        let plan = Plan::new("/usr/bin/python3").called("session.py").arg(script).arg(HOST);
        let plan = world.broker.with_shim(plan.args(&["idle", "6"]))?;
        let process = plan.start(scene, Some(&world.topology.hosts[CLIENT].namespace))?;
        std::thread::sleep(Duration::from_secs(3));
        Fault::Server.happen(scene, &mut world)?;
        process.end(CLIENT_MAX)?.ok().map(drop)
    });
}

#[test]
fn a_client_that_aborts_goes_on() {
    play("ftp-abort", |scene| {
        let world = World::lay(scene, 40, "")?;
        session(scene, &world, &["abort", "0"])
    });
}

/// R93.
#[test]
fn nobody_is_made_to_connect_elsewhere() {
    play("ftp-bounce", |scene| {
        let world = World::lay(scene, 1, "")?;
        session(scene, &world, &["bounce", "0"])
    });
}

/// R93: what was announced to one program is not for another, and serves once.
#[test]
fn another_program_does_not_get_the_data() {
    play("ftp-steal", |scene| {
        let world = World::lay(scene, 1, "")?;
        session(scene, &world, &["steal", "0"])
    });
}

/// R94.
#[test]
fn all_of_a_login_is_at_one_server() {
    play("ftp-together", |scene| {
        let mut world = World::lay(scene, 40, "anon_max_rate=2000000")?;
        let work = world.start(scene, Client::Curl, Mode::Passive, Operation::Retr, 0)?;
        wait::until("a part of it", CLIENT_MAX, || {
            Ok((world.progress(&work) > 4_000_000).then_some(()))
        })?;
        let home = world.serving()?;
        Fault::Server.happen(scene, &mut world)?;
        wait::until("all of it at the other server", CLIENT_MAX, || {
            let status = world.broker_status()?;
            let sessions = status["sessions"].as_array().context("a list")?;
            ensure!(sessions.len() == 2, "control and data: {status}");
            ensure!(sessions[0]["group"] == sessions[1]["group"], "one group: {status}");
            let elsewhere = |one: &Value| one["server"] != World::name(home);
            Ok(sessions.iter().all(elsewhere).then_some(()))
        })?;
        world.outcome(work)?.must_be_good()
    });
}

/// A 227 that leads elsewhere: the server's own address is used.
#[test]
fn an_address_that_the_server_names_is_not_used() {
    play("ftp-foreign-227", |scene| {
        let world = World::lay(scene, 5, "pasv_address=192.0.2.1")?;
        world
            .start(scene, Client::Ncftp, Mode::Passive, Operation::Retr, 0)
            .and_then(|work| world.outcome(work)?.must_be_good())
    });
}

/// Appended, stored under a new name, and stored over what was there.
#[test]
fn uploads_of_every_kind_outlive_a_cut() {
    play("ftp-uploads", |scene| {
        let mut world = World::lay(scene, 1, "")?;
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/ftp/session.py");
        let plan = Plan::new("/usr/bin/python3").called("session.py").arg(script).arg(HOST);
        let plan = world.broker.with_shim(plan.args(&["uploads", "0"]))?;
        let process = plan.start(scene, Some(&world.topology.hosts[CLIENT].namespace))?;
        for fault in [Fault::Cut, Fault::Address] {
            std::thread::sleep(Duration::from_millis(1_500));
            fault.happen(scene, &mut world)?;
        }
        process.end(CLIENT_MAX)?.ok().map(drop)
    });
}

/// Commands that come at once, with Telnet codes among them, are answered one by one.
#[test]
fn commands_that_come_at_once_are_answered_in_order() {
    play("ftp-pipelined", |scene| {
        let world = World::lay(scene, 1, "")?;
        session(scene, &world, &["pipelined", "0"])
    });
}

/// R93: accept and getpeername say that the data come from the server.
#[test]
fn active_data_come_from_the_server_and_its_port() {
    play("ftp-active", |scene| {
        let world = World::lay(scene, 1, "")?;
        session(scene, &world, &["active", "0"])
    });
}

/// The column of the table that takes six minutes, in seconds.
#[test]
fn a_client_that_was_idle_for_too_long_gets_its_file() {
    play("ftp-idle-client", |scene| {
        let world = World::lay(scene, 5, "idle_session_timeout=3")?;
        let what = (Client::Tnftp, Mode::Active, Operation::Retr);
        idle(scene, &world, what, Duration::from_secs(6))?.must_be_good()
    });
}

/// EPSV ALL, kept over the death of the server.
#[test]
fn a_client_that_uses_epsv_alone_is_asked_nothing_else() {
    play("ftp-extended", |scene| {
        let mut world = World::lay(scene, 1, "")?;
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/ftp/session.py");
        let plan = Plan::new("/usr/bin/python3").called("session.py").arg(script).arg(HOST);
        let plan = world.broker.with_shim(plan.args(&["extended", "6"]))?;
        let process = plan.start(scene, Some(&world.topology.hosts[CLIENT].namespace))?;
        std::thread::sleep(Duration::from_secs(3));
        Fault::Server.happen(scene, &mut world)?;
        process.end(CLIENT_MAX)?.ok().map(drop)
    });
}

/// `session doctor` says what will be covered, of every client.
#[test]
fn doctor_says_what_will_be_covered() {
    play("ftp-doctor", |scene| {
        let world = World::lay(scene, 1, "")?;
        let client = &world.topology.hosts[CLIENT].namespace;
        let url = format!("ftp://{HOST}/big");
        let clients: [&[&str]; 9] = [
            &["curl", &url],
            &["tnftp", HOST],
            &["ncftpget", HOST, ".", "big"],
            &["ncftpput", HOST, "in", "put"],
            &["lftp", HOST],
            &["wget", &url],
            &["/usr/bin/python3", &url],
            &["inetutils-ftp", HOST],
            &["busybox", "ftpget", &format!("{HOST}:21"), "big"],
        ];
        for words in clients {
            let plan = Plan::new(daemon::programs()?.join("session"))
                .called("doctor")
                .env("SESSION_DIR", &world.broker.dir)
                .env("SESSION_LIB", daemon::shim()?)
                .arg("doctor")
                .args(words);
            let ended = plan.run(scene, Some(client), CLIENT_MAX)?;
            let said = ended.ok().with_context(|| format!("{words:?}"))?.out;
            let service = format!("{HOST} port 21: by a session to ftp.mirror@lab.example");
            for part in ["will be covered", &service, ": answers", "passive_ports"] {
                ensure!(said.contains(part), "{words:?}: {part:?} is missing: {said}");
            }
        }
        Ok(())
    });
}

#[test]
fn ipv6_with_epsv_and_eprt() {
    play("ftp-ipv6", |scene| {
        let world = World::lay(scene, 5, "")?;
        session(scene, &world, &["ipv6", "0"])
    });
}

/// Ten at once through one broker, and everything happens to them.
#[test]
fn ten_clients_through_many_faults_are_never_told_a_lie() {
    play("ftp-crowd", |scene| crowd(scene).context("ten clients"));
}

fn crowd(scene: &Scene) -> Result<()> {
    let mut world = World::lay(scene, 40, "")?;
    let mut works = Vec::new();
    for (number, client) in CLIENTS.iter().chain(&CLIENTS[..2]).enumerate() {
        let mode = if number % 3 == 1 && *client != Client::Busybox {
            Mode::Active
        } else {
            Mode::Passive
        };
        works.push(world.start(scene, *client, mode, Operation::Retr, number)?);
    }
    let begun = Instant::now();
    let faults = [Fault::Address, Fault::Ftp, Fault::Cut, Fault::Server];
    for fault in faults {
        std::thread::sleep(Duration::from_millis(1_700));
        scene.say(fault.name());
        if let Err(error) = fault.happen(scene, &mut world) {
            scene.say(&format!("  not any more: {error}"));
        }
    }
    let (mut right, mut lies) = (0, Vec::new());
    for work in works {
        let client = work.client.name();
        match world.outcome(work) {
            Ok(outcome) if outcome.right => right += 1,
            Ok(outcome) if outcome.told => lies.push(format!("{client}: {}", outcome.said)),
            Ok(_) => scene.say(&format!("{client} was told of an error")),
            Err(error) => scene.say(&format!("{client}: {error}")),
        }
    }
    scene.say(&format!("{right} of 10 whole after {:.1} s", begun.elapsed().as_secs_f64()));
    ensure!(lies.is_empty(), "told of success without the file: {lies:?}");
    ensure!(right >= 9, "only {right} of 10 files are whole");
    Ok(())
}
