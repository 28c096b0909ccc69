//! A user's tree is a boundary, at the gateway and at every server, for as long as a session lives;
//! and a changed password ends what the old one opened.

use std::process::Output;

use crate::world::{PASSWORD, World, big_curl, noise, sha256, status, until};

const SECRET: &[u8] = b"bob's secret";
const SIZE: usize = 32 << 20;

/// The user alice has the tree `/alice`; both servers hold files of hers, and one of bob's.
fn cluster() -> (World, Vec<u8>) {
    let mut world = World::new();
    let content = noise(4, SIZE);
    for name in ["a", "b"] {
        world.add_server(name, &[("alice/big.iso", &content), ("bob/secret", SECRET)], "");
    }
    world.wait_for_file("/alice/big.iso", 2);
    world.login();
    world.start_broker();
    (world, content)
}

fn url(path: &str) -> String {
    format!("http://www.web.at.demo.example.stp{path}")
}

/// Checks that no byte of bob's files has come.
fn assert_refused(world: &World, path: &str, got: &Output, file: &str) {
    assert!(!got.status.success(), "{path} was answered");
    let came = std::fs::read(world.path(file)).unwrap_or_default();
    assert!(!came.windows(SECRET.len()).any(|window| window == SECRET), "{path} leads to it");
}

#[test]
fn a_user_reaches_nothing_outside_of_the_own_tree() {
    let (world, content) = cluster();
    let own = world.curl(&["-o", "own", &url("/alice/big.iso")]);
    assert!(own.status.success(), "{}", String::from_utf8_lossy(&own.stderr));
    assert_eq!(sha256(&std::fs::read(world.path("own")).expect("there")), sha256(&content));
    for path in [
        "/bob/secret",
        "/",
        "/alice/../bob/secret",
        "/alice/%2e%2e/bob/secret",
        "/alice/..%2fbob/secret",
        "//bob/secret",
        "/alicebob/secret",
    ] {
        let got = world.curl(&["--path-as-is", "-o", "other", &url(path)]);
        assert_refused(&world, path, &got, "other");
    }
    // What changes something is refused as well, in the own tree too.
    let got = world.curl(&["-X", "DELETE", "-o", "other", &url("/alice/big.iso")]);
    assert_refused(&world, "DELETE", &got, "other");
}

#[test]
fn the_boundary_holds_when_another_server_goes_on_with_the_session() {
    let (mut world, content) = cluster();
    // Two requests on one connection: the second comes after the session was taken over.
    let mut curl = world.app("curl");
    curl.args(["-sS", "--noproxy", "*", "--limit-rate", "8M", "--max-time", "60"]);
    curl.args(["-o", "f", &url("/alice/big.iso"), "-o", "g", &url("/bob/secret")]);
    let curl = curl.spawn().expect("curl is installed");
    let file = world.path("f");
    until("some bytes", || (std::fs::metadata(&file).ok()?.len() > 1 << 20).then_some(()));
    let serves = |at| {
        let status = status(at)?;
        (!status["sessions"].as_array()?.is_empty()).then_some(())
    };
    let place = until("a server that serves", || {
        world.servers.iter().position(|server| serves(server.status).is_some())
    });
    world.servers[place].running = None;
    let got = curl.wait_with_output().expect("it ends");
    assert_eq!(sha256(&std::fs::read(&file).expect("there")), sha256(&content));
    assert!(world.log("broker.log").contains("transferred"), "{}", world.log("broker.log"));
    assert_refused(&world, "/bob/secret", &got, "g");
}

#[test]
fn a_changed_password_ends_the_sessions_that_the_old_one_opened() {
    let (world, _) = cluster();
    let mut curl = big_curl(&world, "1M");
    let new = "another password of hers";
    world.admin(&["user", "password", "alice", "--password-stdin"], new);
    // The servers are told with their next announcement, each at its time, and end it; the broker
    // cannot go on.
    assert!(!curl.wait().expect("it ends").success(), "it went on");
    until("the old log-in is good for nothing", || {
        let got = world.curl(&["-r", "0-9", "-o", "g", &url("/alice/big.iso")]);
        (!got.status.success()).then_some(())
    });
    // The tree has stayed as it was; the new password opens it again.
    let list = world.admin(&["user", "list"], "");
    assert!(list.contains("/alice"), "{list}");
    let (account, key) = (format!("alice@{}", world.sns_address), world.key_of_sns());
    let login = ["login", &account, "--key", &key, "--password-stdin"];
    assert!(!world.try_run("session", &login, PASSWORD).status.success(), "the old password");
    world.run("session", &login, new);
    until("the new log-in opens sessions", || {
        let small = ["-r", "0-9", "-o", "h", &url("/alice/big.iso")];
        world.curl(&small).status.success().then_some(())
    });
}
