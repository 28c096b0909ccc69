//! What an operator does with a broker that runs: another configuration, an end, a new start.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::process::{Command, Output, Stdio};

use serde_json::Value;
use stp_tests::daemon::programs;

use crate::world::{World, noise, until};

/// The environment of a user who has no gateway and no server, only `direct` services.
struct Desk(tempfile::TempDir);

impl Desk {
    fn new() -> Desk {
        Desk(tempfile::tempdir().expect("a folder"))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn configure(&self, text: &str) {
        let text = format!("key_file = {:?}\n{text}", self.path("client.key"));
        std::fs::write(self.path("broker.toml"), text).expect("ours");
    }

    fn session(&self, words: &[&str]) -> Command {
        let mut command = Command::new(programs().expect("built").join("session"));
        command
            .args(words)
            .env("HOME", self.0.path())
            .env("SESSION_DIR", self.path("session"))
            .env("SESSION_CONFIG", self.path("broker.toml"))
            .env_remove("LD_PRELOAD")
            .current_dir(self.0.path())
            .stdin(Stdio::null());
        command
    }

    fn run(&self, words: &[&str]) -> Output {
        self.session(words).output().expect("it was built")
    }

    fn succeeds(&self, words: &[&str]) -> String {
        let output = self.run(words);
        let (out, err) = (text(&output.stdout), text(&output.stderr));
        assert!(output.status.success(), "{words:?}: {out}{err}");
        out + &err
    }

    fn status(&self) -> Value {
        let output = self.run(&["status", "--json"]);
        serde_json::from_slice(&output.stdout).unwrap_or_default()
    }

    fn trouble(&self) -> String {
        self.status()["trouble"].to_string()
    }

    fn curl(&self, address: SocketAddr) -> String {
        let url = format!("http://{address}/");
        self.succeeds(&["run", "--", "curl", "-sS", "--noproxy", "*", "--max-time", "20", &url])
    }
}

impl Drop for Desk {
    fn drop(&mut self) {
        let _none_runs = self.run(&["stop", "--force"]);
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A host that answers every request with a word, and the next one only after the last was read.
fn origin(word: &'static str) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = listener.local_addr().expect("bound");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let mut stream = stream;
            let mut request = [0; 4096];
            if stream.read(&mut request).is_ok_and(|got| got > 0) {
                let length = word.len();
                let answer = format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\n\r\n{word}");
                let _the_client_is_gone = stream.write_all(answer.as_bytes());
            }
        }
    });
    address
}

fn direct_to(addresses: &[SocketAddr]) -> String {
    let route = |address| format!("[[route]]\nto = \"{address}\"\nservice = \"web.direct@home\"\n");
    let routes: String = addresses.iter().map(route).collect();
    format!("[[service]]\nname = \"web.direct@home\"\nkind = \"direct\"\n{routes}")
}

#[test]
fn another_configuration_is_put_in_use_while_the_broker_runs() {
    let (desk, first, second) = (Desk::new(), origin("first"), origin("second"));
    desk.configure(&direct_to(&[first]));
    assert_eq!(desk.curl(first), "first");
    let opened = |desk: &Desk| desk.status()["counters"]["sessions_opened"].as_u64();
    assert_eq!(opened(&desk), Some(1));
    assert_eq!(desk.curl(second), "second", "without a route it is asked plainly");
    assert_eq!(opened(&desk), Some(1));

    // The file says something else: that is told, and how to use it.
    std::thread::sleep(std::time::Duration::from_millis(20));
    desk.configure(&direct_to(&[first, second]));
    assert!(desk.trouble().contains("session reload"), "{}", desk.trouble());
    let said = desk.succeeds(&["reload"]);
    assert!(said.contains("2 route(s)"), "{said}");
    assert_eq!(desk.trouble(), "[]");
    assert_eq!(desk.curl(second), "second");
    assert_eq!(opened(&desk), Some(2), "it is a session now");

    // A configuration with a mistake is refused with its place; the one before goes on.
    desk.configure("[[route]]\nto = \"nowhere\"\nservice = \"web.direct@home\"\n");
    let refused = desk.run(&["reload"]);
    let said = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(125));
    assert!(said.contains("broker.toml:3: route[0].to"), "{said}");
    assert!(desk.trouble().contains("what was read before goes on"), "{}", desk.trouble());
    assert_eq!(desk.curl(second), "second");
    assert_eq!(opened(&desk), Some(3));

    // What only a new start can change is named.
    desk.configure(&format!("virtual_ipv4 = \"198.18.64.0/18\"\n{}", direct_to(&[first])));
    let said = desk.succeeds(&["reload"]);
    assert!(said.contains("virtual_ipv4") && said.contains("1 route(s)"), "{said}");
    assert!(desk.trouble().contains("virtual_ipv4"), "{}", desk.trouble());

    // SIGHUP does the same.
    desk.configure(&direct_to(&[first, second]));
    let pid = desk.status()["broker"]["pid"].as_i64().expect("it runs");
    let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).expect("a process"));
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGHUP).expect("it runs");
    until("two routes", || {
        (desk.status()["routes"].as_array().map(Vec::len) == Some(2)).then_some(())
    });
    assert_eq!(desk.trouble(), "[]");
}

/// `session` on a desk that may have no configuration: its exit code, and all that it says.
fn bare(desk: &Desk, words: &[&str]) -> (Option<i32>, String) {
    let mut command = desk.session(words);
    command.env_remove("SESSION_CONFIG").env_remove("XDG_CONFIG_HOME");
    let output = command.output().expect("it was built");
    (output.status.code(), text(&output.stdout) + &text(&output.stderr))
}

#[test]
fn a_first_configuration_is_used_and_of_a_changed_one_is_told() {
    let desk = Desk::new();
    let run = || bare(&desk, &["run", "--", "true"]);
    assert_eq!(run(), (Some(0), String::new()));
    let file = desk.path(".config/session/broker.toml");
    std::fs::create_dir_all(file.parent().expect("a folder")).expect("ours");
    std::fs::write(&file, direct_to(&[])).expect("ours");
    let (_, said) = bare(&desk, &["doctor", "true"]);
    assert!(said.contains("was not there yet") && said.contains("session reload"), "{said}");
    let (code, said) = run();
    assert!(code == Some(0) && said.contains("broker.toml is used from now on"), "{said}");
    assert_eq!(run(), (Some(0), String::new()));

    std::fs::write(&file, direct_to(&[]) + "\n").expect("ours");
    let (code, said) = run();
    assert!(code == Some(0) && said.contains("to use it: session reload"), "{said}");
    assert_eq!(bare(&desk, &["reload"]).0, Some(0));
    assert_eq!(run(), (Some(0), String::new()));
}

#[test]
fn routes_are_shown_tried_and_added() {
    let (desk, host) = (Desk::new(), origin("here"));
    let session = |words: &[&str]| bare(&desk, words);
    let (code, said) = session(&["run", "--", "true"]);
    assert_eq!(code, Some(0), "{said}");
    // A broker without a configuration shows one route, although it consists of many prefixes.
    let (_, said) = session(&["route", "list"]);
    assert!(said.contains("*:80") && said.contains("(built in)"), "{said}");
    let lines = said.lines().filter(|line| line.contains("http.direct@localhost"));
    assert_eq!(lines.count(), 1, "{said}");
    let to = host.to_string();
    let (code, said) = session(&["route", "test", &to]);
    assert_eq!(code, Some(3), "{said}");
    let (code, said) = session(&["route", "test", "192.0.2.1:80"]);
    assert!(code == Some(0) && said.contains("\"*:80\""), "{said}");

    // The first route that is added makes the file, with what was built in.
    let (code, said) = session(&["route", "add", &to]);
    assert_eq!(code, Some(0), "{said}");
    let file = desk.path(".config/session/broker.toml");
    let written = std::fs::read_to_string(&file).expect("it was made");
    assert!(written.contains("to = \"*:80\"") && written.contains(&to), "{written}");
    let (code, said) = session(&["route", "test", &to]);
    assert!(code == Some(0) && said.contains(&to), "{said}");
    let (code, said) = session(&["route", "test", "localhost:80"]);
    assert_eq!(code, Some(3), "{said}");

    // What would be wrong changes nothing, and says why.
    let (code, said) = session(&["route", "add", "nowhere"]);
    assert!(code == Some(125) && said.contains("nothing was changed"), "{said}");
    assert!(said.contains("has no port"), "{said}");
    let (code, said) = session(&["route", "add", "m.e.org:80", "--service", "none@e.org"]);
    assert!(code == Some(125) && said.contains("no [[service]]"), "{said}");
    assert_eq!(std::fs::read_to_string(&file).expect("it is there"), written);
}

#[test]
fn a_person_who_waits_is_told_on_the_terminal_and_the_line_is_taken_back() {
    let mut world = World::new();
    world.add_server("a", &[("alice/big.iso", &noise(11, 120 << 20))], "");
    world.wait_for_file("/alice/big.iso", 1);
    world.login();
    world.start_broker();
    // `script` is the terminal, and curl writes nothing to it.
    let session = programs().expect("built").join("session");
    let curl = "curl -sS --noproxy '*' --limit-rate 10M --max-time 60 -o f \
                http://www.web.at.demo.example.stp/alice/big.iso";
    let line = format!("{} run --no-broker --notify line -- {curl}", session.display());
    let mut terminal = Command::new("script");
    terminal.args(["-qefc", &line, "terminal"]).current_dir(world.dir.path());
    terminal.env("SESSION_DIR", world.path("session")).stdin(Stdio::null());
    let mut terminal = terminal.stdout(Stdio::null()).spawn().expect("util-linux is installed");
    let (file, typed) = (world.path("f"), world.path("terminal"));
    let shown = || text(&std::fs::read(&typed).unwrap_or_default());
    until("some bytes", || (std::fs::metadata(&file).ok()?.len() > 1 << 20).then_some(()));
    assert!(!shown().contains("waiting for the network"), "{}", shown());
    world.servers[0].running = None;
    let told = || shown().contains("waiting for the network, 3 s; nothing is lost").then_some(());
    until("it is told", told);
    world.restart_server(0);
    assert!(terminal.wait().expect("ours").success(), "{}", shown());
    let end = shown();
    let after = end.rsplit("nothing is lost").next().unwrap_or_default();
    assert!(after.contains("\x1b[2K"), "the line is erased: {end:?}");
    assert_eq!(std::fs::metadata(&file).expect("it is there").len(), 120 << 20);
}

#[test]
fn a_broker_is_stopped_when_it_is_told_to_and_the_next_one_waits_for_its_end() {
    let (desk, host) = (Desk::new(), origin("here"));
    desk.configure(&direct_to(&[host]));
    let refused = desk.run(&["stop"]);
    assert_eq!(refused.status.code(), Some(125), "none runs: {}", text(&refused.stderr));
    assert_eq!(desk.curl(host), "here");
    desk.succeeds(&["stop"]);
    assert!(desk.status().is_null(), "it is gone");
    for _ in 0..5 {
        assert_eq!(desk.curl(host), "here");
        // The next start does not wait until this one is gone.
        let pid = desk.status()["broker"]["pid"].as_i64().expect("it runs");
        let pid = nix::unistd::Pid::from_raw(i32::try_from(pid).expect("a process"));
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).expect("it runs");
        until("it has heard the signal", || {
            let status = desk.status();
            (status.is_null() || status["broker"]["ending"] == true).then_some(())
        });
    }
    assert_eq!(desk.curl(host), "here");

    // A session is not ended by mistake.
    let silent = TcpListener::bind("127.0.0.1:0").expect("loopback");
    let address = silent.local_addr().expect("bound");
    desk.configure(&direct_to(&[host, address]));
    desk.succeeds(&["reload"]);
    let url = format!("http://{address}/");
    let mut waits = desk.session(&["run", "--quiet", "--", "curl", "-sS", "--noproxy", "*", &url]);
    let mut waits = waits.stderr(Stdio::null()).spawn().expect("curl is installed");
    until("a session", || {
        (desk.status()["sessions"].as_array().map(Vec::len) == Some(1)).then_some(())
    });
    let refused = desk.run(&["stop"]);
    assert_eq!(refused.status.code(), Some(125));
    assert!(text(&refused.stderr).contains("stop --force"), "{}", text(&refused.stderr));
    desk.succeeds(&["stop", "--force"]);
    let ended = waits.wait().expect("ours");
    assert!(!ended.success(), "curl sees a reset");
}
