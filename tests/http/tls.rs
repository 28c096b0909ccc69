//! Services of kind `https`: the app's TLS goes on at another server, in the middle of a record,
//! and the app, which has its own TLS library, notices nothing.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::{Deref, DerefMut};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use stp_tests::certificate::certificate;
use stp_tests::daemon::shim;
use stp_tests::loopback::Running;

use crate::bed::{Bed, HOST, code, content, until};

const LONG: Duration = Duration::from_secs(90);
const SIZE: usize = 20_000_000;

/// Two servers with one certificate.
pub struct Site {
    bed: Bed,
    /// The certificate, its key, and what the servers serve.
    files: tempfile::TempDir,
}

impl Deref for Site {
    type Target = Bed;

    fn deref(&self) -> &Bed {
        &self.bed
    }
}

impl DerefMut for Site {
    fn deref_mut(&mut self) -> &mut Bed {
        &mut self.bed
    }
}

impl Site {
    /// Both servers ask the service at a port, or serve a folder each.
    pub fn new(port: Option<u16>) -> Site {
        Self::with(port, &[])
    }

    /// The same, with this set for both servers.
    fn with(port: Option<u16>, env: &[(&str, &str)]) -> Site {
        let files = tempfile::tempdir().expect("a folder");
        certificate(files.path(), "tls", HOST, "now");
        let root = |place: usize| files.path().join(format!("root-{place}"));
        for place in 0..2 {
            std::fs::create_dir(root(place)).expect("ours");
        }
        let bed = Bed::with_each([env, env], |place, _| {
            let behind = match port {
                Some(port) => format!("to = \"127.0.0.1:{port}\""),
                None => format!("root = {:?}", root(place)),
            };
            let (certificate, key) = (files.path().join("tls.pem"), files.path().join("tls.key"));
            format!("kind = \"https\"\n{behind}\ncertificate = {certificate:?}\nkey = {key:?}\n")
        });
        Site { bed, files }
    }

    /// Gives each server its file.
    pub fn put(&self, name: &str, files: [&[u8]; 2]) {
        for (place, bytes) in files.into_iter().enumerate() {
            let path = self.files.path().join(format!("root-{place}")).join(name);
            std::fs::write(path, bytes).expect("ours");
        }
    }

    /// What a server serves.
    pub fn folder(&self, place: usize) -> PathBuf {
        self.files.path().join(format!("root-{place}"))
    }

    /// What makes a program trust the site.
    pub fn roots(&self) -> PathBuf {
        self.files.path().join("tls.pem")
    }
}

/// A program in a session, its output in `to`, which knows the certificate.
pub fn run(site: &Site, program: &str, arguments: &[&str], to: &str) -> Running {
    let mut command = Command::new(program);
    command.args(arguments).env("LD_PRELOAD", shim().expect("it is built"));
    command.env("SESSION_DIR", site.path("run"));
    let roots = site.roots();
    let names = ["CURL_CA_BUNDLE", "SSL_CERT_FILE", "REQUESTS_CA_BUNDLE", "NODE_EXTRA_CA_CERTS"];
    for name in names.into_iter().chain(["GIT_SSL_CAINFO"]) {
        command.env(name, &roots);
    }
    let log = site.path(&format!("{to}.err"));
    let open = |path: PathBuf| std::fs::File::create(path).expect("ours");
    command.stdin(Stdio::null()).stdout(open(site.path(to))).stderr(open(log));
    Running(command.spawn().expect("it is installed"))
}

fn curl(site: &Site, path: &str, to: &str, more: &[&str]) -> Running {
    let url = format!("https://{HOST}{path}");
    let all = [&["-sSv", "-m", "90", &url][..], more].concat();
    run(site, "curl", &all, to)
}

/// The server that the first session runs at.
fn place(site: &Site) -> usize {
    let status = site.status();
    let server = status["sessions"][0]["server"].as_str().expect("a server").to_owned();
    usize::from(server.starts_with('b'))
}

pub fn said(site: &Site, to: &str) -> String {
    let err = std::fs::read_to_string(site.path(&format!("{to}.err"))).unwrap_or_default();
    format!("{}\n{}", site.said(), &err[err.len().saturating_sub(2_000)..])
}

#[test]
fn a_download_goes_on_at_another_server_in_the_middle_of_a_record() {
    let python = format!(
        "import urllib.request as u, sys, time\n\
         r = u.urlopen('https://{HOST}/f')\n\
         while True:\n  d = r.read(65536); time.sleep(.004); sys.stdout.buffer.write(d)\n  \
         sys.stdout.buffer.flush()\n  if not d: break\n"
    );
    let url = format!("https://{HOST}/f");
    let limited = ["-sSv", "--limit-rate", "8M", &url];
    let wget = |roots: &str| ["-q", "--limit-rate=8M", "-O", "-", roots, &url].map(str::to_owned);
    for (program, fault) in [
        ("curl", Signal::SIGKILL),
        ("wget", Signal::SIGKILL),
        ("python3", Signal::SIGKILL),
        ("curl", Signal::SIGSTOP),
        ("wget", Signal::SIGTERM),
    ] {
        let site = Site::new(None);
        let file = content(30, SIZE);
        site.put("f", [&file, &file]);
        let roots = format!("--ca-certificate={}", site.roots().display());
        let running = match program {
            "curl" => run(&site, "curl", &limited, "got"),
            "wget" => {
                let all = wget(&roots);
                run(&site, "wget", &all.each_ref().map(String::as_str), "got")
            }
            _ => run(&site, "python3", &["-c", &python], "got"),
        };
        until("a third of the file", || (site.got("got").len() > SIZE / 3).then_some(()));
        let at = place(&site);
        site.signal(at, fault);
        let case = format!("{program}, {fault}");
        assert_eq!(code(running, LONG), 0, "{case}: {}", said(&site, "got"));
        assert!(site.got("got") == file, "{case}");
        assert_eq!(site.moved(), 1, "{case}: {}", site.said());
        if program == "curl" {
            let err = std::fs::read_to_string(site.path("got.err")).expect("it said something");
            assert_eq!(err.matches("SSL connection using TLSv1.3").count(), 1, "{err}");
        }
        if fault == Signal::SIGSTOP {
            site.signal(at, Signal::SIGCONT);
        }
    }
}

#[test]
fn a_file_that_differs_is_never_mixed_in() {
    for at in [100_000, SIZE - 1] {
        let mut site = Site::new(None);
        let file = content(31, SIZE);
        let mut other = file.clone();
        other[100] ^= 1;
        other[at] ^= 1;
        site.put("f", [&file, &other]);
        let running = curl(&site, "/f", "got", &["--limit-rate", "8M"]);
        until("a third of the file", || (site.got("got").len() > SIZE / 3).then_some(()));
        let place = place(&site);
        site.kill(place);
        let (ended, got) = (code(running, LONG), site.got("got"));
        let files = [&file, &other];
        assert!(files[place].starts_with(&got), "{ended}");
        assert_eq!(ended == 0, got.len() == SIZE, "{ended}: {}", said(&site, "got"));
    }
}

/// An HTTP server that answers what it is asked for after a while, in pieces.
fn slow_service() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    let port = listener.local_addr().expect("it has one").port();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            std::thread::spawn(move || serve(stream.expect("a client")));
        }
    });
    port
}

fn serve(mut stream: TcpStream) {
    let mut held = Vec::new();
    loop {
        let mut piece = [0; 4096];
        while let Some(end) = held.windows(4).position(|four| four == b"\r\n\r\n") {
            let head: Vec<u8> = held.drain(..end + 4).collect();
            let line = String::from_utf8_lossy(&head).lines().next().expect("a line").to_owned();
            let path = line.split(' ').nth(1).expect("a path").to_owned();
            if answer(&mut stream, &path).is_err() {
                return;
            }
        }
        match stream.read(&mut piece) {
            Ok(read) if read > 0 => held.extend_from_slice(&piece[..read]),
            _ => return,
        }
    }
}

fn answer(stream: &mut TcpStream, path: &str) -> std::io::Result<()> {
    let body = match path {
        "/chunks" => {
            stream.write_all(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")?;
            for piece in content(32, 300_000).chunks(7_777) {
                stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes())?;
                stream.write_all(piece)?;
                stream.write_all(b"\r\n")?;
                std::thread::sleep(Duration::from_millis(60));
            }
            return stream.write_all(b"0\r\n\r\n");
        }
        "/pieces" => content(32, 300_000),
        path => format!("this is {path}").into_bytes(),
    };
    std::thread::sleep(Duration::from_millis(300));
    stream.write_all(
        format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()).as_bytes(),
    )?;
    for piece in body.chunks(5_555) {
        stream.write_all(piece)?;
        std::thread::sleep(Duration::from_millis(40));
    }
    Ok(())
}

#[test]
fn a_response_that_comes_in_pieces_goes_on_at_any_of_them() {
    let port = slow_service();
    for (path, wait) in [("/chunks", 700), ("/chunks", 1_500), ("/pieces", 900)] {
        let mut site = Site::new(Some(port));
        let running = curl(&site, path, "got", &["-N"]);
        std::thread::sleep(Duration::from_millis(wait));
        assert!(!site.got("got").is_empty() || wait < 900, "what comes slowly is not held back");
        let place = place(&site);
        site.kill(place);
        assert_eq!(code(running, LONG), 0, "{path}: {}", said(&site, "got"));
        assert!(site.got("got") == content(32, 300_000), "{path}");
    }
}

/// `openssl s_client`, spoken with.
struct Client {
    child: Child,
    site: Site,
}

impl Client {
    fn new(site: Site) -> Client {
        let mut command = Command::new("openssl");
        command.args(["s_client", "-connect", &format!("{HOST}:443"), "-servername", HOST]);
        command.arg("-CAfile").arg(site.roots());
        command.env("LD_PRELOAD", shim().expect("it is built"));
        command.env("SESSION_DIR", site.path("run")).stdin(Stdio::piped());
        let open = |name: &str| std::fs::File::create(site.path(name)).expect("ours");
        command.stdout(open("got")).stderr(open("got.err"));
        let child = command.spawn().expect("openssl runs");
        let client = Client { child, site };
        client.hears("Verify return code: 0");
        client
    }

    fn says(&mut self, words: &str) {
        let stdin = self.child.stdin.as_mut().expect("it is ours");
        stdin.write_all(words.as_bytes()).expect("it reads");
        stdin.flush().expect("it reads");
    }

    fn hears(&self, words: &str) {
        let heard = || {
            let got = self.site.got("got");
            got.windows(words.len()).any(|some| some == words.as_bytes()).then_some(())
        };
        until(words, heard);
    }

    fn asks(&mut self, path: &str) {
        self.says(&format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n"));
        self.hears(&format!("this is {path}"));
    }
}

impl Drop for Client {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn one_connection_of_openssl_stays_open_over_two_takeovers_and_changes_of_keys() {
    let mut client = Client::new(Site::new(Some(slow_service())));
    client.asks("/one");
    let first = place(&client.site);
    client.site.kill(first);
    // It goes over while it is idle, and then is used.
    std::thread::sleep(Duration::from_millis(700));
    client.asks("/two");
    // "k" changes the client's keys, "K" asks for ours as well.
    for (number, word) in ["k\n", "K\n", "K\n"].into_iter().enumerate() {
        client.says(word);
        std::thread::sleep(Duration::from_millis(200));
        client.asks(&format!("/key{number}"));
    }
    client.site.restart(first);
    let second = place(&client.site);
    assert_ne!(first, second);
    client.site.kill(second);
    client.says("K\n");
    std::thread::sleep(Duration::from_millis(300));
    client.asks("/three");
    client.asks("/four");
    let err = std::fs::read_to_string(client.site.path("got.err")).expect("it is there");
    assert_eq!(err.matches("KEYUPDATE").count(), 4, "{err}");
}

/// How long a process has computed.
fn computed(pid: u32) -> Duration {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("it runs");
    let fields: Vec<&str> = stat.rsplit(')').next().expect("fields").split_whitespace().collect();
    let ticks = |at: usize| fields[at].parse::<u64>().expect("a number");
    // Linux counts it in hundredths of a second.
    Duration::from_millis(10 * (ticks(11) + ticks(12)))
}

#[test]
fn a_request_that_waits_costs_nothing() {
    let mut client = Client::new(Site::new(Some(slow_service())));
    client.asks("/first");
    let (pid, begun) = (client.site.pid(place(&client.site)), Instant::now());
    let before = computed(pid);
    // Both in one record: the second waits for the first, whose response takes its time.
    let ask = |path: &str| format!("GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n");
    client.says(&[ask("/pieces"), ask("/second")].concat());
    client.hears("this is /second");
    assert!(begun.elapsed() > Duration::from_secs(2), "it takes its time");
    let spent = computed(pid).saturating_sub(before);
    assert!(spent < begun.elapsed() / 4, "{spent:?} of {:?}", begun.elapsed());
}

#[test]
fn what_is_not_welcome_is_told_so_by_tls() {
    let site = Site::new(None);
    site.put("f", [b"hello", b"hello"]);
    for (arguments, wanted, words) in [
        (&["--tls-max", "1.2"][..], 35, "alert protocol version"),
        (&["--cacert", "/dev/null"], 77, ""),
        (&["--http2"], 0, "ALPN: server accepted http/1.1"),
        (&["--tls13-ciphers", "TLS_CHACHA20_POLY1305_SHA256"], 0, "TLS_CHACHA20_POLY1305"),
    ] {
        let ended = code(curl(&site, "/f", "got", arguments), LONG);
        let err = std::fs::read_to_string(site.path("got.err")).expect("it said something");
        assert_eq!(ended, wanted, "{arguments:?}: {err}");
        assert!(err.contains(words), "{arguments:?}: {err}");
    }
    // HTTP without TLS at the port for TLS is not answered.
    let url = format!("http://{HOST}:443/f");
    assert_eq!(code(run(&site, "curl", &["-sS", "-m", "20", &url], "got"), LONG), 52);
}

#[test]
fn the_app_judges_the_certificate_and_a_new_one_is_shown_at_once() {
    let site = Site::new(None);
    site.put("f", [b"hello", b"hello"]);
    assert_eq!(code(curl(&site, "/f", "got", &[]), LONG), 0, "{}", said(&site, "got"));
    let folder = site.files.path();
    std::fs::copy(site.roots(), folder.join("first.pem")).expect("ours");
    for (host, time, words) in [
        ("other.lab", "now", "SSL: no alternative certificate subject name"),
        (HOST, "2020-01-01", "certificate has expired"),
    ] {
        certificate(folder, "next", host, time);
        for end in ["key", "pem"] {
            let [next, now] = ["next", "tls"].map(|name| folder.join(format!("{name}.{end}")));
            std::fs::rename(next, now).expect("ours");
        }
        // Files are looked at once a second.
        until(words, || {
            let ended = code(curl(&site, "/f", "got", &[]), LONG);
            let err = std::fs::read_to_string(site.path("got.err")).expect("it said something");
            (ended == 60 && err.contains(words)).then_some(())
        });
    }
}

#[test]
fn many_requests_share_a_connection() {
    let site = Site::new(Some(slow_service()));
    let urls: Vec<String> = (0..5).map(|n| format!("https://{HOST}/{n}")).collect();
    let all: Vec<&str> = ["-sSv"].into_iter().chain(urls.iter().map(String::as_str)).collect();
    assert_eq!(code(run(&site, "curl", &all, "got"), LONG), 0, "{}", said(&site, "got"));
    let got = String::from_utf8(site.got("got")).expect("text");
    assert_eq!(got, "this is /0this is /1this is /2this is /3this is /4");
    let err = std::fs::read_to_string(site.path("got.err")).expect("it said something");
    assert_eq!(err.matches("SSL connection using").count(), 1, "{err}");
}

/// The two servers believe that it is so long before midnight, UTC.
fn before_midnight(left: Duration) -> Site {
    let now = std::time::UNIX_EPOCH.elapsed().expect("after 1970").as_secs();
    let ahead = 86_400 - now % 86_400 + 86_400 - left.as_secs();
    let offset = format!("+{ahead}");
    let library = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";
    let library = library.replace("x86_64", std::env::consts::ARCH);
    let env = [
        ("LD_PRELOAD", &*library),
        ("FAKETIME", &*offset),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("DONT_FAKE_MONOTONIC", "1"),
    ];
    Site::with(None, &env)
}

/// R97: a ticket that was sealed yesterday opens at another server today.
#[test]
fn a_download_goes_on_at_another_server_over_midnight() {
    let site = before_midnight(Duration::from_secs(12));
    let begun = Instant::now();
    let (last, midnight) = (begun + Duration::from_secs(10), begun + Duration::from_secs(12));
    let file = content(36, SIZE);
    site.put("f", [&file, &file]);
    let running = curl(&site, "/f", "got", &["--limit-rate", "1M"]);
    until("some of the file", || (site.got("got").len() > 1_000_000).then_some(()));
    std::thread::sleep(last.saturating_duration_since(Instant::now()));
    // It is missed after 3 s, which is a second after midnight.
    let at = place(&site);
    site.signal(at, Signal::SIGSTOP);
    until("the other server", || (site.moved() > 0).then_some(()));
    assert!(Instant::now() > midnight, "it was still yesterday");
    assert_eq!(code(running, LONG), 0, "{}", said(&site, "got"));
    assert!(site.got("got") == file);
    site.signal(at, Signal::SIGCONT);
}

/// What `openssl s_client` says of a handshake, and whether there was one.
fn shake(site: &Site, arguments: &[&str]) -> (bool, String) {
    let roots = site.roots().display().to_string();
    let to = format!("{HOST}:443");
    let all = ["s_client", "-connect", &to, "-servername", HOST, "-CAfile", &roots];
    let all = [&all[..], &["-verify_return_error", "-no_ign_eof"], arguments].concat();
    let ended = code(run(site, "openssl", &all, "shaken"), LONG);
    let text = [site.got("shaken"), site.got("shaken.err")].concat();
    (ended == 0, String::from_utf8_lossy(&text).into_owned())
}

#[test]
fn nothing_that_is_old_or_weak_is_spoken() {
    let site = Site::new(None);
    for suite in
        ["TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"]
    {
        let (shaken, said) = shake(&site, &["-tls1_3", "-ciphersuites", suite]);
        assert!(shaken && said.contains(&format!("Cipher is {suite}")), "{suite}: {said}");
        assert!(said.contains("Verify return code: 0 (ok)"), "{said}");
        assert!(!said.contains("New Session Ticket"), "nobody could use it: {said}");
    }
    let (shaken, said) = shake(&site, &["-tls1_3", "-ciphersuites", "TLS_AES_128_CCM_SHA256"]);
    assert!(!shaken && said.contains("handshake failure"), "{said}");
    for version in ["-tls1", "-tls1_1", "-tls1_2"] {
        let (shaken, said) = shake(&site, &[version, "-cipher", "ALL:@SECLEVEL=0"]);
        assert!(!shaken && said.contains("SSL alert number"), "{version}: {said}");
    }
    for (groups, good) in [("X25519", true), ("P-256:P-384", true), ("ffdhe2048", false)] {
        let (shaken, said) = shake(&site, &["-tls1_3", "-groups", groups]);
        assert_eq!(shaken, good, "{groups}: {said}");
    }
}
