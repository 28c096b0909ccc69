//! The program itself: its flags, its errors, its status, its end.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

#[path = "fixture/port.rs"]
mod port;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use port::free_port;

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_stp-server"));
    command.env_remove("SESSION_LOG").env_remove("SESSION_SERVER_CONFIG");
    command
}

fn run(arguments: &[&str]) -> Output {
    program().args(arguments).stdin(Stdio::null()).output().unwrap()
}

/// Writes a configuration; `(file, listen, status)`.
fn configure(folder: &Path, more: &str) -> (String, u16, u16) {
    let (listen, status) = (free_port(), free_port());
    let file = folder.join("server.toml");
    let text = format!(
        "name = \"a\"\nlisten = \"127.0.0.1:{listen}\"\nstatus = \"127.0.0.1:{status}\"\n\
         key_file = \"{}/server.key\"\n{more}\n[[service]]\nname = \"www.x@example.org\"\n\
         kind = \"file\"\nroot = \"{}\"\n",
        folder.display(),
        folder.display()
    );
    std::fs::write(&file, text).unwrap();
    (file.display().to_string(), listen, status)
}

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn get(port: u16, path: &str) -> String {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut stream = loop {
        match TcpStream::connect(("127.0.0.1", port)) {
            Ok(stream) => break stream,
            Err(error) => assert!(Instant::now() < deadline, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn a_mistake_is_told_with_file_line_and_key() {
    let folder = tempfile::tempdir().unwrap();
    let (file, ..) = configure(folder.path(), "colour = \"red\"");
    let output = run(&["--config", &file, "--check"]);
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("server.toml:5: colour: "), "{said}");
    let output = run(&["--config", "/no/such/file"]);
    assert!(!output.status.success());
    assert!(String::from_utf8(output.stderr).unwrap().contains("/no/such/file"));
}

#[test]
fn keys_are_made_once_and_printed() {
    let folder = tempfile::tempdir().unwrap();
    let (file, ..) = configure(folder.path(), "");
    let first = run(&["--config", &file, "--print-key"]);
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
    assert!(first.stdout.starts_with(b"ed25519:"));
    assert_eq!(run(&["--config", &file, "--print-key"]).stdout, first.stdout);
    let cluster = folder.path().join("cluster.key").display().to_string();
    assert!(run(&["--new-cluster-key", &cluster]).status.success());
    let again = run(&["--new-cluster-key", &cluster]);
    assert!(!again.status.success(), "an existing key is not lost");
    let more = format!("cluster = \"x\"\ncluster_key_file = \"{cluster}\"");
    let (file, ..) = configure(folder.path(), &more);
    let checked = run(&["--config", &file, "--check"]);
    assert!(checked.status.success(), "{}", String::from_utf8_lossy(&checked.stderr));
}

#[test]
fn the_server_shows_its_status_and_ends_cleanly() {
    let folder = tempfile::tempdir().unwrap();
    let (file, listen, status) = configure(folder.path(), "");
    let child = program().args(["--config", &file]).stderr(Stdio::null()).spawn().unwrap();
    let mut running = Running(child);
    let answer = get(status, "/status");
    let json = answer.split("\r\n\r\n").nth(1).unwrap();
    let value: serde_json::Value = serde_json::from_str(json).unwrap();
    assert_eq!(value["server"]["name"], "a");
    assert_eq!(value["services"][0]["kind"], "file");
    let mut stranger = TcpStream::connect(("127.0.0.1", listen)).unwrap();
    stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    stranger.set_read_timeout(Some(Duration::from_secs(15))).unwrap();
    let _ = stranger.read_to_end(&mut Vec::new());
    let counted = "stp_server_refused_total{reason=\"handshake_garbage\"} 1";
    let deadline = Instant::now() + Duration::from_secs(5);
    while !get(status, "/metrics").contains(counted) {
        assert!(Instant::now() < deadline, "{}", get(status, "/metrics"));
        std::thread::sleep(Duration::from_millis(20));
    }
    assert!(get(status, "/plain").contains("www.x@example.org"));
    let pid = nix::unistd::Pid::from_raw(i32::try_from(running.0.id()).unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    let deadline = Instant::now() + Duration::from_secs(5);
    let ended = loop {
        if let Some(ended) = running.0.try_wait().unwrap() {
            break ended;
        }
        assert!(Instant::now() < deadline, "it does not end");
        std::thread::sleep(Duration::from_millis(10));
    };
    assert!(ended.success());
}

#[test]
fn a_port_that_is_taken_is_told() {
    let folder = tempfile::tempdir().unwrap();
    let (file, listen, _) = configure(folder.path(), "");
    let _taken = TcpListener::bind(("127.0.0.1", listen)).unwrap();
    let output = run(&["--config", &file]);
    assert!(!output.status.success());
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains(&format!("cannot listen on 127.0.0.1:{listen}")), "{said}");
}
