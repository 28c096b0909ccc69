//! Several directories on one store, and tickets over days and cluster keys.

use std::time::Duration;

use crate::world::{Special, World, big_curl, noise, sha256, status, until};

const PATH: &str = "/big.iso";

fn cluster(special: Special, megabytes: usize, more: &str) -> (World, Vec<u8>) {
    let mut world = World::with(special);
    let content = noise(5, megabytes << 20);
    for name in ["a", "b"] {
        world.add_server(name, &[("alice/big.iso", &content)], more);
    }
    world.wait_for_file("/alice/big.iso", 2);
    world.login();
    world.start_broker();
    (world, content)
}

/// The server at which the broker's only session is.
fn serving(world: &World) -> usize {
    let servers = &world.servers;
    until("a server that serves", || {
        servers.iter().position(|server| {
            status(server.status).is_some_and(|status| {
                status["sessions"].as_array().is_some_and(|all| !all.is_empty())
            })
        })
    })
}

#[test]
fn one_of_two_directories_is_killed_during_a_session_and_nobody_notices() {
    let tables = "[limits]\nserver_lease = \"5s\"\n";
    let (mut world, content) =
        cluster(Special { etcd: true, tables, ..Special::default() }, 32, "");
    let mut curl = big_curl(&world, "8M");
    world.sns = None;
    let second = world.second.as_ref().expect("there are two").1.to_string();
    // A file is located, and a name looked up, while the other session goes on.
    let got = world.get_file(PATH, "got");
    assert!(got.status.success(), "{}", String::from_utf8_lossy(&got.stderr));
    for server in &world.servers {
        until("the server is announced to the other", || {
            let status = status(server.status)?;
            (status["directory"]["at"].as_str() == Some(&second)).then_some(())
        });
    }
    assert!(curl.wait().expect("it ends").success(), "{}", world.log("broker.log"));
    assert_eq!(sha256(&std::fs::read(world.path("f")).expect("there")), sha256(&content));
    // Longer than a lease: the servers are still known.
    std::thread::sleep(Duration::from_secs(6));
    assert!(world.get_file(PATH, "again").status.success());
    let all = world.log("sns2.log");
    assert!(!all.contains("list of files"), "no server had to tell its files again: {all}");
}

#[test]
fn a_session_outlives_the_tickets_it_was_opened_with() {
    // The daemons' calendar runs ahead, by Debian's libfaketime; their timers do not.
    let library = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";
    let library = std::path::Path::new(library);
    assert!(library.exists(), "apt install faketime");
    let folder = tempfile::tempdir().expect("a folder");
    let clock = folder.path().join("clock");
    std::fs::write(&clock, "+0").expect("ours");
    let env = vec![
        ("LD_PRELOAD", library.to_owned()),
        ("FAKETIME_TIMESTAMP_FILE", clock.clone()),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1".into()),
        ("FAKETIME_CACHE_DURATION", "1".into()),
        ("NO_FAKE_STAT", "1".into()),
    ];
    let tables = "[limits]\nserver_lease = \"5s\"\n";
    let (mut world, content) = cluster(
        Special { tables, env, ..Special::default() },
        80,
        "[limits]\nticket_life = \"1h\"\n",
    );
    let mut curl = big_curl(&world, "2M");
    for day in 1..=2 {
        // A ticket is made anew when it is five seconds old and bytes arrive; the daemons see the
        // other date a second later, and a busy machine takes its time.
        std::thread::sleep(Duration::from_secs(9));
        std::fs::write(&clock, format!("+{day}d")).expect("ours");
    }
    std::thread::sleep(Duration::from_secs(9));
    let place = serving(&world);
    world.servers[place].running = None;
    assert!(curl.wait().expect("it ends").success(), "{}", world.log("broker.log"));
    assert_eq!(sha256(&std::fs::read(world.path("f")).expect("there")), sha256(&content));
    assert!(world.log("broker.log").contains("transferred"), "{}", world.log("broker.log"));
    // What the broker has kept of the gateway is two days old: it asks again by itself.
    std::fs::write(&clock, "+4d").expect("ours");
    // The servers are given the new day's key with the answer to their next announcement.
    std::thread::sleep(Duration::from_secs(9));
    let got = world.curl(&["-o", "g", "http://www.web.at.demo.example.stp/alice/big.iso"]);
    assert!(got.status.success(), "{}", world.log("broker.log"));
}

#[test]
fn a_ticket_for_one_address_is_good_from_there() {
    let tables = "[tickets]\nbind_address = true\n[limits]\nserver_lease = \"2s\"\n";
    let (world, content) = cluster(Special { tables, ..Special::default() }, 1, "");
    assert!(world.get_file(PATH, "got").status.success(), "{}", world.log("broker.log"));
    assert_eq!(sha256(&std::fs::read(world.path("got")).expect("there")), sha256(&content));
}
