//! KTH 5.2.4, the tests of reliability at once: both ends suspend and resume their session with a
//! chance of 1/128 after each call that moves bytes, while both machines' links come and go and the
//! client's address changes. No byte may be wrong, and the end must come.

use std::time::{Duration, Instant};

use anyhow::ensure;
use stp_tests::daemon::{self, Broker, Offer, SERVER_STATUS, Server, Wanted};
use stp_tests::emulator::Shape;
use stp_tests::process::Plan;
use stp_tests::scene::play;
use stp_tests::topology::Topology;
use stp_tests::wait;

const CLIENT: usize = 0;
const BOX: usize = 1;
const PROGRAM: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/lab/suspends.py");
/// The Debian one: a version manager's wrapper would be a shell script.
const PYTHON: &str = "/usr/bin/python3";
const ECHO: &str = "echo.box@lab.example";
/// How long it lasts; `STP_SUSPENDS_SECONDS` says otherwise.
const SECONDS: u64 = 60;
const SOON: Duration = Duration::from_secs(60);

/// Lengths that look random, the same in every run, in milliseconds.
fn lengths() -> impl Iterator<Item = u64> {
    (1u64..).map(|n| 50 + n.wrapping_mul(0x9e37_79b9) % 700)
}

#[test]
fn both_ends_suspend_and_resume_while_links_come_and_go() {
    play("suspends", |scene| {
        let seconds = match std::env::var("STP_SUSPENDS_SECONDS") {
            Ok(text) => text.parse()?,
            Err(_) => SECONDS,
        };
        let mut topology = Topology::build(&[("client", 1), ("box", 1)])?;
        topology.shape(CLIENT, 0, Shape::of(100, 5))?;
        let there = &topology.hosts[BOX].namespace;
        let key = daemon::cluster_key(scene, "cluster.key")?;
        let at = (there, &*topology.hosts[BOX].address());
        let offers = [Offer::new(ECHO, "tcp", "127.0.0.1:7")];
        let server = Server::start(scene, "a", at, &key, &offers, "")?;
        let mut echo = Plan::new(PYTHON)
            .called("echo")
            .args(&[PROGRAM, "serve", "7", &SERVER_STATUS.to_string()])
            .arg(scene.path("a.token"))
            .start(scene, Some(there))?;
        wait::until("the service", SOON, || {
            echo.must_run()?;
            Ok(echo.printed().contains("listening").then_some(()))
        })?;
        let servers = vec![(server.name.clone(), server.address.clone(), server.key.clone())];
        let wanted = [Wanted { name: ECHO, route: "box.lab:7", servers }];
        let broker = Broker::start(scene, &topology.hosts[CLIENT].namespace, &wanted, "")?;
        let talk = broker.app(PYTHON)?.called("talk");
        let talk = talk.args(&[PROGRAM, "talk", "box.lab", "7", &seconds.to_string()]);
        let mut talk = talk.start(scene, Some(&topology.hosts[CLIENT].namespace))?;
        let (begun, mut faults) = (Instant::now(), 0);
        for length in lengths() {
            if begun.elapsed() >= Duration::from_secs(seconds) {
                break;
            }
            std::thread::sleep(Duration::from_millis(length));
            talk.must_run()?;
            echo.must_run()?;
            match length % 5 {
                0 => topology.hosts[CLIENT].replace_address(0)?,
                even => {
                    let host = &topology.hosts[if even % 2 == 0 { CLIENT } else { BOX }];
                    host.link_down(0)?;
                    std::thread::sleep(Duration::from_millis(length / 2));
                    host.link_up(0)?;
                }
            }
            faults += 1;
        }
        let said = talk.end(SOON)?.ok()?.out + &echo.end(SOON)?.ok()?.out;
        scene.say(&format!("{faults} times a link or an address; {}", said.replace('\n', "; ")));
        let events = daemon::happenings(&daemon::status(
            &topology.hosts[CLIENT].namespace,
            daemon::BROKER_STATUS,
        )?);
        ensure!(events.iter().any(|event| event.contains("ended in order")), "{events:?}");
        drop(server);
        Ok(())
    });
}
