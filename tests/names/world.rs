//! A cluster on loopback: a directory, servers, a broker, and the programs that use them.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use sha2::{Digest, Sha256};
use stp_tests::daemon::{programs, shim};

pub const PASSWORD: &str = "correct horse battery";
pub const FILES: &str = "file.mirror@demo.example";
pub const WEB: &str = "www.web@demo.example";

/// Kills its process when it goes out of scope.
pub struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub struct Server {
    pub name: &'static str,
    pub address: SocketAddr,
    pub status: SocketAddr,
    pub key: String,
    config: PathBuf,
    pub running: Option<Running>,
}

pub struct World {
    pub dir: tempfile::TempDir,
    pub sns: Option<Running>,
    pub sns_address: SocketAddr,
    pub servers: Vec<Server>,
    pub broker: Option<Running>,
    pub broker_status: SocketAddr,
}

pub fn free_address() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], free_port()))
}

fn free_port() -> u16 {
    // Below the range that outgoing connections are given ports from.
    static NEXT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let start = std::process::id().wrapping_mul(131);
    (0..20_000)
        .map(|_| {
            let next = NEXT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            10_000 + u16::try_from(start.wrapping_add(next) % 20_000).expect("below 20,000")
        })
        .find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok())
        .expect("a port is free")
}

fn program(name: &str) -> PathBuf {
    programs().expect("they are built").join(name)
}

fn start(program: &Path, arguments: &[&str], log: &Path, env: &[(&str, &Path)]) -> Running {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(log).expect("ours");
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    for (name, value) in env {
        command.env(name, value);
    }
    Running(command.spawn().expect("it was built"))
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

pub fn get(address: SocketAddr, path: &str) -> Option<String> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
}

pub fn status(address: SocketAddr) -> Option<Value> {
    serde_json::from_str(&get(address, "/status")?).ok()
}

pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    std::iter::repeat_with(next).take(length).collect()
}

pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

impl World {
    /// A directory with the user alice, whose tree is `/alice`.
    pub fn new() -> World {
        let dir = tempfile::tempdir().expect("a folder");
        let sns_address = free_address();
        let mut world = World {
            dir,
            sns: None,
            sns_address,
            servers: Vec::new(),
            broker: None,
            broker_status: free_address(),
        };
        let cluster_key = world.path("cluster.key");
        world.run("stp-sns", &["cluster-key", "add", cluster_key.to_str().expect("text")], "");
        let text = format!(
            "listen = \"{sns_address}\"\nkey_file = {:?}\ncluster = \"demo\"\n\
             cluster_key_file = {cluster_key:?}\nstatus = \"off\"\nadmin = {:?}\n\
             [[domain]]\nname = \"demo.example\"\ncreators = \"any\"\n[store]\npath = {:?}\n\
             [limits]\nserver_lease = \"2s\"\n",
            world.path("sns.key"),
            world.path("admin.sock"),
            world.path("sns.redb"),
        );
        std::fs::write(world.path("sns.toml"), text).expect("ours");
        world.start_sns();
        world.admin(&["user", "add", "alice", "--tree", "/alice", "--password-stdin"], PASSWORD);
        world
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn start_sns(&mut self) {
        let config = self.path("sns.toml");
        let arguments = ["--config", config.to_str().expect("text")];
        self.sns = Some(start(&program("stp-sns"), &arguments, &self.path("sns.log"), &[]));
        let socket = self.path("admin.sock");
        until("the directory", || std::os::unix::net::UnixStream::connect(&socket).ok().map(drop));
    }

    /// Runs a program to its end; it must succeed.
    pub fn run(&self, name: &str, arguments: &[&str], input: &str) -> String {
        let output = self.try_run(name, arguments, input);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name} {arguments:?}: {said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    pub fn try_run(&self, name: &str, arguments: &[&str], input: &str) -> Output {
        use std::io::Write;
        let mut command = Command::new(program(name));
        command
            .args(arguments)
            .env("HOME", self.dir.path())
            .env("XDG_CONFIG_HOME", self.path("config"))
            .env("SESSION_DIR", self.path("session"))
            .env("SESSION_CONFIG", self.path("broker.toml"))
            .env_remove("LD_PRELOAD")
            .current_dir(self.dir.path())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().expect("it was built");
        child.stdin.take().expect("piped").write_all(input.as_bytes()).expect("it reads");
        child.wait_with_output().expect("it ends")
    }

    pub fn admin(&self, arguments: &[&str], input: &str) -> String {
        let socket = self.path("admin.sock");
        let socket = socket.to_str().expect("text");
        self.run("stp-sns", &[&["admin", "--socket", socket], arguments].concat(), input)
    }

    pub fn key_of_sns(&self) -> String {
        let config = self.path("sns.toml");
        let config = config.to_str().expect("text");
        let text = self.run("stp-sns", &["--config", config, "--print-key"], "");
        text.trim().to_owned()
    }

    /// Starts a server that offers `FILES` and `WEB` from its own root, for tickets only; `more`
    /// goes to the end of its configuration.
    pub fn add_server(&mut self, name: &'static str, files: &[(&str, &[u8])], more: &str) {
        let root = self.path(&format!("root-{name}"));
        for (path, content) in files {
            let path = root.join(path);
            std::fs::create_dir_all(path.parent().expect("below the root")).expect("ours");
            std::fs::write(path, content).expect("ours");
        }
        std::fs::create_dir_all(&root).expect("ours");
        let (address, status) = (free_address(), free_address());
        let config = self.path(&format!("server-{name}.toml"));
        let text = format!(
            "name = {name:?}\nlisten = \"{address}\"\nkey_file = {:?}\ncluster = \"demo\"\n\
             cluster_key_file = {:?}\nstatus = \"{status}\"\n\
             [[service]]\nname = \"{FILES}\"\nkind = \"file\"\nroot = {root:?}\ntickets = true\n\
             [[service]]\nname = \"{WEB}\"\nkind = \"file\"\nroot = {root:?}\ntickets = true\n\
             [directory]\naddress = \"{}\"\nkey = \"{}\"\nlook = \"1s\"\n{more}",
            self.path(&format!("server-{name}.key")),
            self.path("cluster.key"),
            self.sns_address,
            self.key_of_sns(),
        );
        std::fs::write(&config, text).expect("ours");
        let path = config.to_str().expect("text");
        let key = self.run("stp-server", &["--config", path, "--print-key"], "");
        let key = key.trim().to_owned();
        self.admin(&["server", "allow", name, &key, FILES, WEB], "");
        self.servers.push(Server { name, address, status, key, config, running: None });
        self.restart_server(self.servers.len() - 1);
    }

    pub fn restart_server(&mut self, index: usize) {
        let log = self.path(&format!("server-{}.log", self.servers[index].name));
        let server = &mut self.servers[index];
        let config = server.config.to_str().expect("text").to_owned();
        let running = start(&program("stp-server"), &["--config", &config], &log, &[]);
        server.running = Some(running);
        let at = server.status;
        until("the server is announced", || {
            let status = status(at)?;
            status["directory"]["announced_ago_s"].as_u64().map(drop)
        });
    }

    /// Moves a server to another port; it stays who it is.
    pub fn move_server(&mut self, index: usize) {
        let server = &mut self.servers[index];
        server.running = None;
        let new = free_address();
        let text = std::fs::read_to_string(&server.config).expect("ours");
        let old = std::mem::replace(&mut server.address, new).to_string();
        std::fs::write(&server.config, text.replace(&old, &new.to_string())).expect("ours");
        self.restart_server(index);
    }

    /// Whether the directory has a file at so many servers.
    pub fn wait_for_file(&self, path: &str, servers: usize) {
        until("the directory has the file", || {
            let text = self.admin(&["files", "--service", FILES, path], "");
            let held = text.split("servers=").nth(1)?.split_whitespace().next()?;
            (held.split(',').count() == servers).then_some(())
        });
    }

    pub fn login(&self) {
        let account = format!("alice@{}", self.sns_address);
        let key = self.key_of_sns();
        self.run("session", &["login", &account, "--key", &key, "--password-stdin"], PASSWORD);
    }

    /// The broker knows the gateway's address and a user, nothing else.
    pub fn start_broker(&mut self) {
        let text = format!(
            "status = \"{}\"\nkey_file = {:?}\n[gateway]\naddress = \"{}\"\nuser = \"alice\"\n\
             [limits]\nconnect = \"8s\"\n",
            self.broker_status,
            self.path("client.key"),
            self.sns_address,
        );
        std::fs::write(self.path("broker.toml"), text).expect("ours");
        let config = self.path("broker.toml");
        let env = [("SESSION_DIR", self.path("session")), ("XDG_CONFIG_HOME", self.path("config"))];
        let env: Vec<_> = env.iter().map(|(name, path)| (*name, path.as_path())).collect();
        let arguments = ["--config", config.to_str().expect("text")];
        self.broker =
            Some(start(&program("stp-broker"), &arguments, &self.path("broker.log"), &env));
        let at = self.broker_status;
        until("the broker", || status(at));
    }

    /// An unmodified program whose connections become sessions.
    pub fn app(&self, name: &str) -> Command {
        let mut command = Command::new(name);
        command
            .env("LD_PRELOAD", shim().expect("it is built"))
            .env("SESSION_DIR", self.path("session"))
            .env_remove("http_proxy")
            .current_dir(self.dir.path());
        command
    }

    pub fn curl(&self, arguments: &[&str]) -> Output {
        let mut curl = self.app("curl");
        curl.args(["-sS", "--noproxy", "*", "--max-time", "60"]).args(arguments);
        curl.output().expect("curl is installed")
    }

    pub fn get_file(&self, path: &str, output: &str) -> Output {
        let url = format!("stp://alice@{}{path}", self.sns_address);
        self.try_run("session", &["get", &url, "-o", output], "")
    }

    pub fn broker_status(&self) -> Value {
        status(self.broker_status).expect("the broker runs")
    }

    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.path(name)).unwrap_or_default()
    }
}
