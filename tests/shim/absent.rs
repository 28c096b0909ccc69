//! No broker, a broker that dies, and garbage on its socket: a clear failure or pass-through, never
//! a hang.

use std::fs;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, TcpListener};
use std::os::unix::net::UnixStream;
use std::process::Stdio;
use std::thread;
use std::time::{Duration, Instant};

use stp_proto::local::routes::WhenAbsent;

use crate::bed::{Bed, Origin, run};
use crate::relay::Rules;

#[expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]
fn orphaned(when_absent: WhenAbsent) -> (Bed, Origin) {
    let rules = Rules { when_absent, ..Rules::loopback() };
    let mut bed = Bed::new(rules);
    let served = bed.path().join("served");
    fs::create_dir(&served).unwrap();
    fs::write(served.join("small"), "small\n").unwrap();
    bed.kill_broker();
    (bed, Origin::new(&served))
}

#[test]
fn without_a_broker_programs_pass_or_fail_as_configured() {
    let (bed, origin) = orphaned(WhenAbsent::Pass);
    let url = origin.url("127.0.0.1", "small");
    assert_eq!(bed.run("curl", &["-sS", &url]).out, "small\n");
    let mut strict = bed.shimmed("curl");
    assert_eq!(run(strict.env("SESSION_WHEN_ABSENT", "fail").args(["-sS", &url])).code, Some(7));

    let (bed, origin) = orphaned(WhenAbsent::Fail);
    let url = origin.url("127.0.0.1", "small");
    assert_eq!(bed.run("curl", &["-sS", &url]).code, Some(7));
    let mut lax = bed.shimmed("curl");
    assert_eq!(run(lax.env("SESSION_WHEN_ABSENT", "pass").args(["-sS", &url])).out, "small\n");
}

#[test]
fn without_a_broker_our_names_and_addresses_fail_clearly() {
    let (bed, origin) = orphaned(WhenAbsent::Pass);
    let ours = origin.url("www.web.at.example.com.stp", "small");
    assert_eq!(bed.run("curl", &["-sS", &ours]).code, Some(6));
    assert_eq!(bed.run("curl", &["-sS", &origin.url("198.18.0.1", "small")]).code, Some(7));
}

/// A program that asked for a name while the broker lived is led to the host itself.
#[test]
fn a_virtual_address_of_a_dead_broker_leads_to_its_host_or_fails_as_configured() {
    for (when_absent, expected) in [(WhenAbsent::Pass, "200\n"), (WhenAbsent::Fail, "111\n")] {
        let mut rules = Rules { when_absent, ..Rules::loopback() };
        rules.hosts.push(("localhost".to_owned(), IpAddr::V4(Ipv4Addr::LOCALHOST)));
        let mut bed = Bed::new(rules);
        let served = bed.path().join("served");
        fs::create_dir(&served).unwrap();
        fs::write(served.join("small"), "small\n").unwrap();
        let origin = Origin::new(&served);
        let url = origin.url("localhost", "small");
        let port = url.split(['/', ':']).nth(4).unwrap();
        let code = format!(
            "import socket, sys\n\
             at = socket.getaddrinfo('localhost', {port}, socket.AF_INET, socket.SOCK_STREAM)\n\
             assert at[0][4][0] != '127.0.0.1', at\n\
             print('ready', flush=True)\n\
             sys.stdin.readline()\n\
             s = socket.socket()\n\
             try:\n\
             \x20 s.connect(at[0][4]); s.sendall(b'GET /small HTTP/1.0\\r\\n\\r\\n')\n\
             \x20 print(s.recv(100).split()[1].decode())\n\
             except OSError as e: print(e.errno)\n"
        );
        let mut command = bed.shimmed("/usr/bin/python3");
        command.args(["-c", &code]).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().unwrap();
        let (mut out, mut first) = (child.stdout.take().unwrap(), [0; 6]);
        out.read_exact(&mut first).unwrap();
        bed.kill_broker();
        child.stdin.take().unwrap().write_all(b"\n").unwrap();
        let mut said = String::new();
        out.read_to_string(&mut said).unwrap();
        child.wait().unwrap();
        assert_eq!(said, expected, "{when_absent:?}");
    }
}

#[test]
fn a_program_without_any_session_directory_is_left_alone() {
    let (bed, origin) = orphaned(WhenAbsent::Fail);
    let url = origin.url("127.0.0.1", "small");
    let mut alone = bed.shimmed("curl");
    alone.env("SESSION_DIR", "/nonexistent").args(["-sS", &url]);
    assert_eq!(run(&mut alone).out, "small\n");
}

#[test]
fn a_broker_that_dies_resets_its_programs() {
    let mut bed = Bed::loopback();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let code = format!(
        "import socket\n\
         a = socket.create_connection(('127.0.0.1', {port}))\n\
         b = socket.create_connection(('127.0.0.1', {port})); b.send(b'x')\n\
         print('ready', flush=True)\n\
         for s in a, b:\n\
         \x20 try: print(s.recv(5))\n\
         \x20 except OSError as e: print(e.errno)\n"
    );
    let mut command = bed.shimmed("/usr/bin/python3");
    command.args(["-c", &code]).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut first = [0; 6];
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut first).unwrap();
    thread::sleep(Duration::from_millis(100));
    bed.kill_broker();
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    child.wait().unwrap();
    assert_eq!(rest, "104\n104\n");
}

#[test]
fn garbage_on_the_socket_harms_nobody() {
    let bed = Bed::loopback();
    let path = bed.session_dir().join("broker.sock");
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 4096], b"stL\x01\x63\0\0\0", b"stL"] {
        let mut stream = UnixStream::connect(&path).unwrap();
        // The listener may close as soon as it has seen enough.
        let _closed_already = stream.write_all(garbage);
        let _closed_already = stream.shutdown(std::net::Shutdown::Write);
        let started = Instant::now();
        let mut answer = Vec::new();
        let _reset = stream.read_to_end(&mut answer);
        assert!(answer.is_empty() && started.elapsed() < Duration::from_secs(2));
    }
    assert_eq!(bed.run("curl", &["-sS", "http://192.0.2.1:111/"]).code, Some(7));
}

/// Runs Python that prints a line when it is ready for the broker to die, and what it saw then.
#[expect(clippy::unwrap_used, reason = "a test that cannot be set up fails")]
fn seen_when_the_broker_dies(code: &str) -> (String, Option<i32>) {
    let mut bed = Bed::loopback();
    let mut command = bed.shimmed("/usr/bin/python3");
    command.args(["-c", code]).stdout(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut [0; 6]).unwrap();
    // What is said to be under way is, once the program sleeps in it.
    thread::sleep(Duration::from_millis(200));
    bed.kill_broker();
    let mut rest = String::new();
    out.read_to_string(&mut rest).unwrap();
    (rest, child.wait().unwrap().code())
}

const READY: &str = "import errno, select, socket, sys\n\
    def ready(): print('ready', flush=True)\n\
    def told(call):\n\
    \x20 try: print(call())\n\
    \x20 except OSError as e: print(errno.errorcode.get(e.errno, e))\n\
    never = ('203.0.113.1', 80)\n";

#[test]
fn a_broker_that_dies_during_a_connect_refuses_it() {
    let blocking = "s = socket.socket(); ready(); told(lambda: s.connect(never))\n";
    let seen = seen_when_the_broker_dies(&format!("{READY}{blocking}"));
    assert_eq!(seen, ("ECONNREFUSED\n".to_owned(), Some(0)));
    let background = "s = socket.socket(); s.setblocking(False)\n\
        told(lambda: s.connect(never)); p = select.poll(); p.register(s, select.POLLOUT); ready()\n\
        print(bool(p.poll(9000)))\n\
        print(errno.errorcode[s.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)])\n";
    let seen = seen_when_the_broker_dies(&format!("{READY}{background}"));
    // It cannot be told any more whether it was established already.
    let failed = ["True\nECONNREFUSED\n", "True\nECONNRESET\n"];
    assert!(failed.iter().any(|end| seen.0.ends_with(end)) && seen.1 == Some(0), "{seen:?}");
}

/// With `when_absent = "pass"` the host itself is wanted, and the system knows no such host.
#[test]
fn a_broker_that_dies_between_name_and_connect_leaves_a_host_that_is_not_there() {
    let code = "a = socket.getaddrinfo('mirror.test', 2000, 0, socket.SOCK_STREAM)[0][4]; ready()\n\
        sys.stdin.read(); import time; time.sleep(0.6)\n\
        told(lambda: socket.create_connection(a, 5))\n\
        told(lambda: socket.getaddrinfo('mirror.test', 2000))\n";
    let (seen, code) = seen_when_the_broker_dies(&format!("{READY}{code}"));
    assert!(seen.starts_with("EHOSTUNREACH\n") && code == Some(0), "{seen}");
}

#[test]
fn a_broker_that_dies_ends_blocked_senders_and_waiters() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let connected = format!("{READY}s = socket.create_connection(('127.0.0.1', {port}))\n");
    let sender = "ready()\ntold(lambda: s.sendall(bytes(1 << 26)))\n\
        told(lambda: s.send(b'x'))\ns.close()\n";
    let (seen, code) = seen_when_the_broker_dies(&format!("{connected}{sender}"));
    let failed = |line: &str| ["EPIPE", "ECONNRESET"].contains(&line);
    assert!(seen.lines().count() == 2 && seen.lines().all(failed) && code == Some(0), "{seen}");
    let waiter = "p = select.poll(); p.register(s, select.POLLIN); ready(); \
        print(len(p.poll(9000)))\n\
        told(lambda: s.recv(5)); told(s.getpeername); s.close()\n";
    let (seen, code) = seen_when_the_broker_dies(&format!("{connected}{waiter}"));
    assert_eq!((seen.as_str(), code), ("1\nECONNRESET\nENOTCONN\n", Some(0)));
}

#[test]
fn a_program_can_end_after_its_broker() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let code = format!(
        "{READY}s = socket.create_connection(('127.0.0.1', {port})); s.send(b'x'); ready()\n\
         import time; time.sleep(0.6)\n\
         told(lambda: s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1))\n\
         told(lambda: s.getsockname()[0]); s.close()\n\
         told(lambda: socket.create_connection(('127.0.0.1', {port})).getpeername()[0])\n"
    );
    let seen = seen_when_the_broker_dies(&code);
    assert_eq!(seen, ("None\n127.0.0.1\n127.0.0.1\n".to_owned(), Some(0)));
}
