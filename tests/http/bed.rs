//! Two servers of Session in one cluster, each before a service, a broker, and curl.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use stp_tests::daemon::{programs, shim, talk};
use stp_tests::loopback::{Running, free_port};

/// A host name that leads to both servers.
pub const HOST: &str = "mirror.lab";

/// A program that is ended with the test.
pub fn start(command: &mut Command, log: &Path) -> Running {
    let open = || std::fs::File::options().create(true).append(true).open(log).expect("ours");
    command.stdin(Stdio::null()).stdout(open()).stderr(open());
    Running(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}")))
}

/// Waits until something is there, at most 20 s.
pub fn until<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(begun.elapsed() < Duration::from_secs(20), "never: {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until somebody listens on a port.
pub fn until_open(port: u16) {
    let connect = || std::net::TcpStream::connect(("127.0.0.1", port)).ok();
    until("a service that listens", connect);
}

/// The cluster, the broker and their folder.
pub struct Bed {
    pub dir: tempfile::TempDir,
    /// The ports of the two services.
    pub ports: [u16; 2],
    servers: [Option<Running>; 2],
    /// The ports of their statuses.
    shown: [u16; 2],
    status: u16,
    _broker: Running,
}

impl Bed {
    /// Servers a and b before services at two free ports. `env` is set for b.
    pub fn new(env: &[(&str, &str)]) -> Bed {
        Self::with(env, |_, port| format!("kind = \"http\"\nto = \"127.0.0.1:{port}\"\n"))
    }

    /// Servers a and b before services of this kind: what is to be said of each, by its place and
    /// the port that it may have.
    pub fn with(env: &[(&str, &str)], kind: impl Fn(usize, u16) -> String) -> Bed {
        Self::with_each([&[], env], kind)
    }

    /// The same, with what is set for each server.
    pub fn with_each(env: [&[(&str, &str)]; 2], kind: impl Fn(usize, u16) -> String) -> Bed {
        let dir = tempfile::tempdir().expect("a folder");
        let path = |name: &str| dir.path().join(name);
        let bin = |name: &str| programs().expect("they are built").join(name);
        let made = Command::new(bin("stp-server")).arg("--new-cluster-key").arg(path("k")).output();
        assert!(made.expect("it runs").status.success());
        let ports = [free_port(), free_port()];
        let shown = [free_port(), free_port()];
        let mut broker = String::new();
        let status = free_port();
        write!(broker, "status = \"127.0.0.1:{status}\"\nkey_file = {:?}\n", path("c.key"))
            .expect("a string takes everything");
        write!(broker, "[[service]]\nname = \"www.m@l.example\"\n")
            .expect("a string takes everything");
        let mut servers = [None, None];
        for (place, name) in ["a", "b"].into_iter().enumerate() {
            let (listen, config) = (free_port(), path(&format!("{name}.toml")));
            let (key, to) = (path(&format!("{name}.key")), ports[place]);
            let (cluster, shown) = (path(&format!("{name}.cluster")), shown[place]);
            std::fs::copy(path("k"), &cluster).expect("ours");
            let text = format!(
                "name = {name:?}\nlisten = \"127.0.0.1:{listen}\"\nkey_file = {key:?}\n\
                 cluster = \"l\"\ncluster_key_file = {cluster:?}\nstatus = \"127.0.0.1:{shown}\"\n\
                 [[service]]\nname = \"www.m@l.example\"\n{}",
                kind(place, to)
            );
            std::fs::write(&config, text).expect("ours");
            let mut command = Command::new(bin("stp-server"));
            let printed = command.arg("--config").arg(&config).arg("--print-key").output();
            let printed = String::from_utf8(printed.expect("it runs").stdout).expect("text");
            let key = printed.split_whitespace().last().expect("a key");
            write!(
                broker,
                "[[service.server]]\nname = {name:?}\naddress = \"127.0.0.1:{listen}\"\nkey = \
                    {key:?}\n"
            )
            .expect("a string takes everything");
            let mut command = Command::new(bin("stp-server"));
            command.arg("--config").arg(&config);
            command.envs(env[place].iter().copied());
            servers[place] = Some(start(&mut command, &path(&format!("{name}.log"))));
            until_open(listen);
        }
        for port in [80, 443] {
            let route = format!("to = \"{HOST}:{port}\"\nservice = \"www.m@l.example\"");
            writeln!(broker, "[[route]]\n{route}").expect("a string takes everything");
        }
        std::fs::write(path("broker.toml"), broker).expect("ours");
        let mut command = Command::new(bin("stp-broker"));
        command.arg("--config").arg(path("broker.toml")).env("SESSION_DIR", path("run"));
        let running = start(&mut command, &path("broker.log"));
        until_open(status);
        Bed { dir, ports, servers, shown, status, _broker: running }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Kills a server of Session.
    pub fn kill(&mut self, place: usize) {
        drop(self.servers[place].take().expect("it runs"));
    }

    /// Starts a server of Session that was killed.
    pub fn restart(&mut self, place: usize) {
        let name = ["a", "b"][place];
        let mut command = Command::new(programs().expect("they are built").join("stp-server"));
        command.arg("--config").arg(self.path(&format!("{name}.toml")));
        self.servers[place] = Some(start(&mut command, &self.path(&format!("{name}.log"))));
    }

    /// The process of a server of Session.
    pub fn pid(&self, place: usize) -> u32 {
        self.servers[place].as_ref().expect("it runs").0.id()
    }

    /// Sends a signal to a server of Session.
    pub fn signal(&self, place: usize, signal: nix::sys::signal::Signal) {
        let server = self.servers[place].as_ref().expect("it runs");
        let pid = i32::try_from(server.0.id()).expect("a process");
        nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).expect("it is ours");
    }

    /// What the broker shows.
    pub fn status(&self) -> Value {
        Self::status_at(self.status)
    }

    /// What a server of Session shows.
    pub fn server_status(&self, place: usize) -> Value {
        Self::status_at(self.shown[place])
    }

    fn status_at(port: u16) -> Value {
        let request =
            format!("GET /status HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nConnection: close\r\n\r\n");
        let answer = talk(port, request.as_bytes()).expect("the broker answers");
        let text = String::from_utf8_lossy(&answer).into_owned();
        let body = text.split_once("\r\n\r\n").expect("an answer").1;
        serde_json::from_str(body).expect("JSON")
    }

    /// How often a session has gone to another server.
    pub fn moved(&self) -> u64 {
        self.status()["counters"]["transferred"].as_u64().expect("a number")
    }

    /// The whole of the broker's status, as text.
    pub fn said(&self) -> String {
        self.status().to_string()
    }

    /// curl through a session, its result in `to`.
    pub fn curl(&self, path: &str, to: &str, more: &[&str]) -> Running {
        let mut command = Command::new("curl");
        command.args(["-sS", "-m", "90", "-o"]).arg(self.path(to)).args(more);
        command.arg(format!("http://{HOST}{path}"));
        command.env("LD_PRELOAD", shim().expect("it is built"));
        command.env("SESSION_DIR", self.path("run"));
        start(&mut command, &self.path(&format!("{to}.err")))
    }

    /// What curl has written.
    pub fn got(&self, to: &str) -> Vec<u8> {
        std::fs::read(self.path(to)).unwrap_or_default()
    }
}

/// Waits for the end of a program; its exit code.
pub fn code(mut running: Running, bound: Duration) -> i32 {
    let begun = Instant::now();
    loop {
        if let Some(status) = running.0.try_wait().expect("it is ours") {
            return status.code().unwrap_or(-1);
        }
        assert!(begun.elapsed() < bound, "it does not end");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Bytes that are different everywhere, by a seed.
pub fn content(seed: u64, length: usize) -> Vec<u8> {
    let word = |i: u64| {
        let x = (i / 8).wrapping_add(seed << 32).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        ((x ^ (x >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9) >> (8 * (i % 8))) as u8
    };
    (0..length as u64).map(word).collect()
}
