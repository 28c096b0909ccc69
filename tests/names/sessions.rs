//! Sessions by name: KTH use cases 9, 11 and 12, and endpoints that move (use case 4).
//! (7, 8 and 10, which are about names alone, are in `sns/tests/names.rs`.)

use std::io::Write;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::world::{World, big_curl, get_unix, noise, sha256, status, until};

const URL: &str = "http://www.web.at.demo.example.stp/alice/big.iso";

fn cluster(size: usize) -> (World, Vec<u8>) {
    let mut world = World::new();
    let content = noise(3, size);
    world.add_server("a", &[("alice/big.iso", &content)], "");
    world.wait_for_file("/alice/big.iso", 1);
    world.login();
    world.start_broker();
    (world, content)
}

#[test]
fn use_case_9_create_session_and_11_accept_it_and_12_close_it() {
    let (world, content) = cluster(4 << 20);
    let got = world.curl(&["-o", "f", URL]);
    let said = String::from_utf8_lossy(&got.stderr).into_owned();
    assert!(got.status.success(), "{said}\n{}", world.log("broker.log"));
    let file = std::fs::read(world.path("f")).expect("it is there");
    assert_eq!(sha256(&file), sha256(&content));
    // 11: the server has accepted it for the user that the ticket names.
    let log = world.log("server-a.log");
    assert!(log.contains("admitted") && log.contains("alice"), "{log}");
    // 12: closed and gone at both ends.
    until("gone at both ends", || {
        let here = world.broker_status()["sessions"].as_array()?.is_empty();
        let there = status(world.servers[0].status)?["sessions"].as_array()?.is_empty();
        (here && there).then_some(())
    });
    // 9, the alternative path: a service that does not exist is an error.
    let refused = world.curl(&["-o", "g", "http://www.nobody.at.demo.example.stp/"]);
    assert_eq!(refused.status.code(), Some(6), "{}", String::from_utf8_lossy(&refused.stderr));
}

/// A program that knows of sessions (`session.h`).
#[test]
fn a_program_connects_by_the_name_itself() {
    const CODE: &str = "import ctypes, errno, socket\n\
        connect = ctypes.CDLL(None).session_connect\n\
        assert connect(b'www.nobody@demo.example', 0) == -errno.ENOENT\n\
        s = socket.socket(fileno=connect(b'www.web@demo.example', 0))\n\
        s.sendall(b'GET /alice/big.iso HTTP/1.1\\r\\nHost: h\\r\\nConnection: close\\r\\n\\r\\n')\n\
        open('f', 'wb').write(s.makefile('rb').read().partition(b'\\r\\n\\r\\n')[2])\n";
    let (world, content) = cluster(100_000);
    let got = world.app("python3").args(["-c", CODE]).output().expect("it is installed");
    let said = String::from_utf8_lossy(&got.stderr).into_owned();
    assert!(got.status.success(), "{said}\n{}", world.log("broker.log"));
    assert_eq!(sha256(&std::fs::read(world.path("f")).expect("it is there")), sha256(&content));
}

#[test]
fn the_virtual_address_of_a_name_stays_and_its_route_is_the_names() {
    let (world, _) = cluster(1 << 10);
    let address = || {
        let got = world.curl(&["-o", "/dev/null", "-w", "%{remote_ip}", URL]);
        assert!(got.status.success(), "{}", String::from_utf8_lossy(&got.stderr));
        String::from_utf8(got.stdout).expect("text")
    };
    let first = address();
    assert!(first.starts_with("198.18.") || first.starts_with("198.19."), "{first}");
    assert_eq!(address(), first);
    assert_eq!(world.broker_status()["gateway"]["names"], 1);
    // Names without a service of ours are the system's, and routes of others stay as they are.
    let mut getent = world.app("getent");
    let local = getent.args(["ahostsv4", "localhost"]).output().expect("it is installed");
    assert!(String::from_utf8_lossy(&local.stdout).contains("127.0.0.1"));
}

#[test]
fn a_server_that_moves_in_the_middle_of_a_session_is_found() {
    let (mut world, content) = cluster(64 << 20);
    let mut curl = big_curl(&world, "16M");
    let file = world.path("f");
    let begun = Instant::now();
    world.move_server(0);
    let moved = begun.elapsed();
    assert!(curl.wait().expect("it ends").success(), "{}", world.log("broker.log"));
    assert_eq!(sha256(&std::fs::read(&file).expect("it is there")), sha256(&content));
    assert!(world.log("broker.log").contains("a server has moved"));
    eprintln!("moved within {moved:?}");
}

/// No other server can go on with it, so it waits for its own; and the gateway answers, so that it
/// is not the network.
#[test]
fn a_server_that_is_silent_while_the_gateway_answers_is_gone() {
    let mut world = World::new();
    let content = noise(4, 64 << 20);
    world.add_server("a", &[("alice/big.iso", &content)], "");
    world.wait_for_file("/alice/big.iso", 1);
    world.login();
    world.broker_limits = "gone = \"8s\"\n";
    world.start_broker();
    let mut curl = world.app("curl");
    curl.args(["-sS", "--noproxy", "*", "--limit-rate", "8M", "--max-time", "60", "-o", "f"]);
    // A request with a body is never sent twice.
    let mut curl = curl.args(["-X", "GET", "--data", "x", URL]).spawn().expect("it is installed");
    let file = world.path("f");
    until("some bytes", || (std::fs::metadata(&file).ok()?.len() > 1 << 20).then_some(()));
    let server = world.servers[0].running.as_ref().expect("it runs");
    let pid = Pid::from_raw(i32::try_from(server.0.id()).expect("a process"));
    kill(pid, Signal::SIGSTOP).expect("it is ours");
    let begun = Instant::now();
    let ended = curl.wait().expect("it ends");
    let took = begun.elapsed().as_secs();
    kill(pid, Signal::SIGCONT).expect("it is ours");
    let status = world.broker_status();
    let reason = status["ended"][0]["reason"].as_str().unwrap_or_default().to_owned();
    assert!(!ended.success() && (6..30).contains(&took), "{ended} after {took} s: {reason}");
    assert!(reason.contains("server a is gone") && reason.contains("silent for 8 s"), "{reason}");
}

#[test]
fn what_is_known_serves_while_the_directory_is_away() {
    let (mut world, _) = cluster(1 << 10);
    assert!(world.curl(&["-o", "f", URL]).status.success());
    world.sns = None;
    let begun = Instant::now();
    let got = world.curl(&["-o", "f", URL]);
    assert!(got.status.success(), "{}", String::from_utf8_lossy(&got.stderr));
    assert!(begun.elapsed() < Duration::from_secs(2), "{:?}", begun.elapsed());
    // It comes back, and all go on by themselves.
    world.start_sns();
    let at = world.servers[0].status;
    until("announced again", || {
        let status = status(at)?;
        status["directory"]["trouble"].is_null().then_some(())
    });
    assert!(world.curl(&["-o", "f", URL]).status.success());
}

/// A server with another key than its cluster's is named at the gateway and at the server, at once.
#[test]
fn a_server_with_another_cluster_key_is_named() {
    let mut world = World::new();
    world.add_server("a", &[], "");
    world.add_server("b", &[], "");
    let other = world.path("other.key");
    world.run("stp-sns", &["cluster-key", "add", other.to_str().expect("text")], "");
    let config = world.servers[1].config.clone();
    world.servers[1].running = None;
    let text = std::fs::read_to_string(&config).expect("it was written");
    assert!(text.contains("cluster.key"), "{text}");
    std::fs::write(&config, text.replace("cluster.key", "other.key")).expect("ours");
    world.restart_server(1);
    let trouble = |status: Value| status["trouble"].to_string();
    until("the gateway says so", || {
        let shown = get_unix(&world.path("sns.status"), "/status")?;
        let said = trouble(serde_json::from_str(&shown).ok()?);
        said.contains("server b has another cluster key than this gateway: ").then_some(())
    });
    let at = world.servers[1].status;
    until("the server says so", || {
        let said = trouble(status(at)?);
        said.contains("b has another cluster key than the gateway: ").then_some(())
    });
    assert_eq!(trouble(status(world.servers[0].status).expect("it is there")), "[]");
}

#[test]
fn the_cluster_key_is_changed_under_a_session_that_lives() {
    let (world, content) = cluster(48 << 20);
    let mut curl = big_curl(&world, "12M");
    let file = world.path("f");
    let key = world.path("cluster.key");
    for step in ["add", "promote", "retire"] {
        world.run("stp-sns", &["cluster-key", step, key.to_str().expect("text")], "");
        std::thread::sleep(Duration::from_millis(1_100));
    }
    assert!(curl.wait().expect("it ends").success());
    assert_eq!(sha256(&std::fs::read(&file).expect("it is there")), sha256(&content));
    // The ticket that the broker still has is of the retired key; it gets a new one.
    until("a session with a ticket of the new key", || {
        world.curl(&["-o", "g", URL]).status.success().then_some(())
    });
    std::io::stdout().flush().expect("stdout");
}
