//! The broker as a process: what it says of its configuration, who may run, what it refuses, and
//! what it leaves behind.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use stp_proto::local::wire::{FILLER, FILLER_END, Open, OpenFlags, Reply, Request, Resolve};
use stp_proto::local::wire::{Resolved, SocketState};
use stp_proto::local::{Cookie, Family};
use tempfile::TempDir;

const BROKER: &str = env!("CARGO_BIN_EXE_stp-broker");
const KEY: &str = "ed25519:11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";
const PATIENCE: Duration = Duration::from_secs(20);

struct Broker {
    child: Child,
    dir: TempDir,
}

impl Drop for Broker {
    fn drop(&mut self) {
        let _gone_already = self.child.kill();
        let _reaped_already = self.child.wait();
    }
}

fn command(dir: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(BROKER);
    command.arg("--config").arg(dir.join("broker.toml")).arg("--socket-dir").arg(dir.join("s"));
    command.args(arguments).env_remove("SESSION_LOG").env("HOME", dir);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    command
}

fn output(dir: &Path, arguments: &[&str]) -> Output {
    command(dir, arguments).output().expect("the broker is built")
}

fn folder(config: &str) -> TempDir {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::write(dir.path().join("broker.toml"), config).expect("written");
    dir
}

fn config(server: SocketAddr) -> String {
    format!(
        "[[service]]\nname = \"x.y@z.org\"\n[[service.server]]\naddress = \"{server}\"\n\
         key = \"{KEY}\"\n[[route]]\nto = [\"10.9.8.7:80\", \"web.z.org:80\"]\n\
         service = \"x.y@z.org\"\n"
    )
}

/// An address where nobody listens.
fn nobody() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address")
}

fn start(config: &str) -> Broker {
    let dir = folder(config);
    let mut command = command(dir.path(), &[]);
    let child = command.stderr(Stdio::null()).spawn().expect("the broker is built");
    let broker = Broker { child, dir };
    let routes = broker.file("routes");
    until("the route map is there", || routes.exists());
    broker
}

fn until(what: &str, done: impl Fn() -> bool) {
    let begun = Instant::now();
    while !done() {
        assert!(begun.elapsed() < PATIENCE, "waited too long: {what}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

impl Broker {
    fn file(&self, name: &str) -> std::path::PathBuf {
        self.dir.path().join("s").join(name)
    }

    fn send(&self, request: &Request<'_>) -> UnixStream {
        let mut stream = UnixStream::connect(self.file("broker.sock")).expect("it listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        let message = request.encode().expect("it fits");
        stream.write_all(message.as_bytes()).expect("it reads");
        stream
    }

    /// Asks, and hands the answer to `read`.
    fn ask<T>(&self, request: &Request<'_>, read: impl FnOnce(Reply<'_>) -> T) -> T {
        let mut bytes = Vec::new();
        self.send(request).read_to_end(&mut bytes).expect("it answers and closes");
        read(Reply::decode(&bytes).expect("a reply").expect("a whole one").0)
    }

    /// Connects as the shim does; returns when the broker has closed.
    fn refused(&self, number: u8, to: &str) -> SocketState {
        let cookie = Cookie([number; 16]);
        let open = Open {
            cookie,
            family: Family::V4,
            destination: to.parse().expect("an address"),
            local: "127.0.0.1:40000".parse().expect("an address"),
            pid: std::process::id(),
            flags: OpenFlags::default(),
        };
        let mut stream = self.send(&Request::Open(open));
        stream.write_all(&[FILLER, FILLER, FILLER_END]).expect("it reads");
        let mut rest = Vec::new();
        let _reset_or_end = stream.read_to_end(&mut rest);
        assert!(rest.is_empty());
        self.ask(&Request::SocketState(cookie), |reply| match reply {
            Reply::SocketState(state) => state,
            other => panic!("asked for a state, got {other:?}"),
        })
    }

    fn status(&self) -> String {
        let mut stream = UnixStream::connect(self.file("status.sock")).expect("it listens");
        let request = "GET /status HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n";
        stream.write_all(request.as_bytes()).expect("it reads");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("it answers");
        answer
    }

    fn stop(&mut self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().cast_signed());
        nix::sys::signal::kill(pid, nix::sys::signal::SIGTERM).expect("it lives");
        assert!(self.child.wait().expect("it ends").success());
    }
}

#[test]
fn check_says_good_or_where_the_mistake_is() {
    let good = folder(&config(nobody()));
    let said = output(good.path(), &["--check"]);
    assert!(said.status.success());
    assert!(String::from_utf8_lossy(&said.stdout).contains("1 service(s), 2 route(s)"));
    let bad = folder("\ncolour = 1\n");
    let said = output(bad.path(), &["--check"]);
    assert!(!said.status.success());
    let error = String::from_utf8_lossy(&said.stderr);
    assert!(error.contains("broker.toml:2: colour"), "{error}");
}

#[test]
fn a_second_broker_in_the_same_directory_says_so_and_harms_nothing() {
    let broker = start(&config(nobody()));
    let said = output(broker.dir.path(), &[]);
    assert!(!said.status.success());
    let error = String::from_utf8_lossy(&said.stderr);
    assert!(error.contains("another broker is running"), "{error}");
    broker.ask(&Request::Hello, |reply| {
        assert!(matches!(reply, Reply::Hello { pid } if pid == broker.child.id()));
    });
}

#[test]
fn what_is_not_routed_and_what_nobody_serves_is_refused_with_a_reason() {
    let broker = start(&config(nobody()));
    assert_eq!(broker.refused(1, "10.9.8.7:81"), SocketState::Refused(111));
    assert!(broker.status().contains("no route for this destination"));
    assert_eq!(broker.refused(2, "10.9.8.7:80"), SocketState::Refused(111));
    until("the session is shown as ended", || broker.status().contains("nobody listens there"));
}

#[test]
fn a_routed_name_has_a_virtual_address_and_others_have_none() {
    let broker = start(&config(nobody()));
    let resolve = |host, port| {
        let question = Request::Resolve(Resolve { host, port });
        broker.ask(&question, |reply| match reply {
            Reply::Resolved(resolved) => resolved,
            other => panic!("asked for an address, got {other:?}"),
        })
    };
    let Resolved::Virtual { v4, .. } = resolve("Web.Z.org", Some(80)) else {
        panic!("it is routed");
    };
    assert_eq!(v4.octets()[..2], [198, 18]);
    assert_eq!(resolve("web.z.org", Some(81)), Resolved::NotRouted);
    assert_eq!(resolve("other.org", Some(80)), Resolved::NotRouted);
    assert_eq!(resolve("www.web.at.z.org.stp", None), Resolved::Unknown);
}

#[test]
fn garbage_on_the_socket_harms_nobody_and_a_clean_end_leaves_no_socket() {
    let mut broker = start(&config(nobody()));
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0xff; 4096], b"", b"stL"] {
        let mut stream = UnixStream::connect(broker.file("broker.sock")).expect("it listens");
        let _closed_early = stream.write_all(garbage);
    }
    until("it is counted", || broker.status().contains("\"app_garbage\":2"));
    broker.ask(&Request::Hello, |reply| assert!(matches!(reply, Reply::Hello { .. })));
    broker.stop();
    for name in ["broker.sock", "status.sock", "routes"] {
        assert!(!broker.file(name).exists(), "{name} is left");
    }
}

#[test]
fn programs_that_shall_fail_without_a_broker_keep_their_routes() {
    let mut broker = start(&format!("when_absent = \"fail\"\n{}", config(nobody())));
    broker.stop();
    assert!(broker.file("routes").exists());
}
