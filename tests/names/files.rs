//! `session get` (STP steps 1 to 5), and which user may have which file.

use std::time::Duration;

use crate::world::{FILES, World, noise, sha256, status, until};

const SIZE: usize = 24 << 20;

/// Servers a and b hold the file, c another one.
fn cluster() -> (World, Vec<u8>) {
    let mut world = World::new();
    let content = noise(1, SIZE);
    for name in ["a", "b"] {
        world.add_server(name, &[("alice/big.iso", &content)], "");
    }
    world.add_server("c", &[("alice/other", b"other"), ("bob/secret", b"secret")], "");
    world.wait_for_file("/alice/big.iso", 2);
    world.login();
    world.start_broker();
    (world, content)
}

#[test]
fn a_file_is_had_from_those_that_hold_it_and_the_third_is_never_asked() {
    let (world, content) = cluster();
    let got = world.get_file("/big.iso", "big.iso");
    let said = String::from_utf8_lossy(&got.stderr).into_owned();
    assert!(got.status.success(), "{said}\n{}", world.log("broker.log"));
    let file = std::fs::read(world.path("big.iso")).expect("it is there");
    assert_eq!(sha256(&file), sha256(&content));
    let said = String::from_utf8_lossy(&got.stdout);
    assert!(said.contains(&sha256(&content)), "{said}");
    assert!(!world.path("big.iso.part").exists());
    let third = status(world.servers[2].status).expect("it runs");
    assert_eq!(third["counters"]["sessions_opened"], 0, "{third}");
    assert_eq!(third["counters"]["links_accepted"], 0, "{third}");
    // Again: it is there and right.
    let again = world.get_file("/big.iso", "big.iso");
    assert!(String::from_utf8_lossy(&again.stdout).contains("there already"));
    // A file that no server has, and one in the tree of another user.
    for path in ["/none", "/bob/secret", "/../bob/secret"] {
        let refused = world.get_file(path, "x");
        assert!(!refused.status.success(), "{path}");
        assert!(!world.path("x").exists());
    }
}

#[test]
fn an_interrupted_file_is_resumed_and_a_wrong_one_is_never_kept() {
    let (world, content) = cluster();
    // What an earlier attempt left.
    std::fs::write(world.path("big.iso.part"), &content[..SIZE / 2 + 77]).expect("ours");
    let got = world.get_file("/big.iso", "big.iso");
    assert!(got.status.success(), "{}", String::from_utf8_lossy(&got.stderr));
    let file = std::fs::read(world.path("big.iso")).expect("it is there");
    assert_eq!(sha256(&file), sha256(&content));
    let sent: u64 = world.servers[..2]
        .iter()
        .filter_map(|server| {
            let status = status(server.status)?;
            let ended = status["ended"].as_array()?.clone();
            Some(ended.len() as u64 + status["sessions"].as_array()?.len() as u64)
        })
        .sum();
    assert_eq!(sent, 1, "one session for the rest");

    // A part that is not of this file: noticed, and gone.
    let mut wrong = content[..SIZE / 2].to_vec();
    wrong[1_000] ^= 1;
    std::fs::write(world.path("again.iso.part"), &wrong).expect("ours");
    let again = world.get_file("/big.iso", "again.iso");
    let said = String::from_utf8_lossy(&again.stderr);
    assert!(again.status.success() && said.contains("SHA-256"), "{said}");
    let file = std::fs::read(world.path("again.iso")).expect("it is there");
    assert_eq!(sha256(&file), sha256(&content));
    // A part that was begun with another SHA-256 of the gateway is not even hashed.
    std::fs::write(world.path("third.iso.part"), &content[..SIZE / 2]).expect("ours");
    std::fs::write(world.path("third.iso.part.sha256"), "0123\n").expect("ours");
    let third = world.get_file("/big.iso", "third.iso");
    let said = String::from_utf8_lossy(&third.stderr);
    assert!(third.status.success() && said.contains("was changed"), "{said}");
    assert!(!world.path("third.iso.part.sha256").exists());
    // To stdout.
    let out = world.get_file("/big.iso", "-");
    assert!(out.status.success() && sha256(&out.stdout) == sha256(&content));
}

#[test]
fn ctrl_c_keeps_what_has_come_and_says_so() {
    let (world, content) = cluster();
    let url = format!("stp://alice@{}/big.iso", world.sns_address);
    let mut get = world.command("session");
    let get = get.args(["get", &url, "-o", "f"]).stderr(std::process::Stdio::piped());
    let get = get.spawn().expect("it was built");
    let part = world.path("f.part");
    until("some bytes", || (std::fs::metadata(&part).ok()?.len() > 0).then_some(()));
    let pid = get.id().to_string();
    let told = std::process::Command::new("kill").args(["-INT", &pid]).status();
    assert!(told.expect("kill is there").success());
    let ended = get.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(130), "{said}");
    assert!(said.contains("is kept"), "{said}");
    assert!(part.exists() && !world.path("f").exists());
    until("its session is over", || {
        world.broker_status()["sessions"].as_array()?.is_empty().then_some(())
    });
    assert!(world.get_file("/big.iso", "f").status.success());
    assert_eq!(sha256(&std::fs::read(world.path("f")).expect("there")), sha256(&content));
}

#[test]
fn a_server_that_dies_in_the_middle_is_not_noticed() {
    let (mut world, content) = cluster();
    let url = format!("stp://alice@{}/big.iso", world.sns_address);
    let part = world.path("f.part");
    let mut get = world.command("session");
    let mut done = get.args(["get", &url, "-o", "f", "-q"]).spawn().expect("it was built");
    until("some bytes", || {
        let length = std::fs::metadata(&part).ok()?.len();
        (length > 0 || world.path("f").exists()).then_some(())
    });
    let server = until("a server that serves, or the end", || {
        if world.path("f").exists() {
            return Some(usize::MAX);
        }
        world.servers[..2].iter().position(|server| {
            status(server.status).is_some_and(|status| {
                status["sessions"].as_array().is_some_and(|all| !all.is_empty())
            })
        })
    });
    if server != usize::MAX {
        world.servers[server].running = None;
    }
    assert!(done.wait().expect("it ends").success(), "{}", world.log("broker.log"));
    let file = std::fs::read(world.path("f")).expect("it is there");
    assert_eq!(sha256(&file), sha256(&content));
}

#[test]
fn a_refusing_server_is_skipped_and_shown_and_with_none_left_the_app_is_refused() {
    let mut world = World::new();
    let content = noise(2, 1 << 20);
    // Server a takes no session at all.
    world.add_server("a", &[("alice/f", &content)], "[limits]\nsessions_max = 0\n");
    world.add_server("b", &[("alice/f", &content)], "");
    world.wait_for_file("/alice/f", 2);
    world.login();
    world.start_broker();
    let url = "http://www.web.at.demo.example.stp/alice/f";
    let got = world.curl(&["-o", "f", url]);
    assert!(got.status.success(), "{}", String::from_utf8_lossy(&got.stderr));
    let status = world.broker_status();
    let shown = status["services"].to_string();
    assert!(shown.contains("overloaded"), "{shown}");
    assert!(status["refused"]["overloaded"].as_u64() >= Some(1), "{status}");
    // No server is left.
    world.servers[1].running = None;
    let refused = world.curl(&["-o", "g", url]);
    assert_eq!(refused.status.code(), Some(7), "{}", String::from_utf8_lossy(&refused.stderr));
    let ended = world.broker_status()["ended"].to_string();
    assert!(ended.contains("gave up") && ended.contains("nobody listens there"), "{ended}");
}

#[test]
fn tickets_are_honoured_and_asked_for_at_the_server_itself() {
    let (world, _) = cluster();
    // A broker that knows the servers and has no ticket.
    let text = format!(
        "status = \"off\"\nkey_file = {:?}\n[[service]]\nname = \"{FILES}\"\n[[service.server]]\n\
         address = \"{}\"\nkey = \"{}\"\n[[route]]\nto = \"files.example:80\"\nservice = \
             \"{FILES}\"\n\
         [limits]\nconnect = \"3s\"\n",
        world.path("other.key"),
        world.servers[0].address,
        world.servers[0].key
    );
    std::fs::write(world.path("other.toml"), text).expect("ours");
    let program = stp_tests::daemon::programs().expect("built").join("stp-broker");
    let other = world.path("other-session");
    let mut broker = std::process::Command::new(program)
        .arg("--config")
        .arg(world.path("other.toml"))
        .env("SESSION_DIR", &other)
        .stderr(std::process::Stdio::null())
        .spawn()
        .expect("it was built");
    until("the other broker", || other.join("routes").exists().then_some(()));
    let mut curl = world.app("curl");
    curl.env("SESSION_DIR", &other).args(["-sS", "--max-time", "10", "-o", "x"]);
    let refused = curl.arg("http://files.example/alice/big.iso").output().expect("installed");
    let _ = broker.kill();
    let _ = broker.wait();
    assert!(!refused.status.success());
    let log = world.log("server-a.log");
    assert!(log.contains("ticket of the gateway"), "the reason is in the log: {log}");
    assert!(!log.contains("v4.local."), "no ticket is");
}

#[test]
fn a_wrong_password_leaves_nothing_behind() {
    let world = World::new();
    let account = format!("alice@{}", world.sns_address);
    let key = world.key_of_sns();
    let arguments = ["login", &account, "--key", &key, "--password-stdin"];
    let refused = world.try_run("session", &arguments, "wrong password");
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && said.contains("refuses the log-in"), "{said}");
    assert!(!world.path("config/session/credentials").exists());
    // Not the known key: refused before any password is asked for.
    let wrong = "ed25519:11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
    let arguments = ["login", &account, "--key", wrong, "--password-stdin"];
    let refused = world.try_run("session", &arguments, "x");
    assert!(!refused.status.success());
    std::thread::sleep(Duration::from_millis(1));
}
