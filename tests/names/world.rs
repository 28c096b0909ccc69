//! A cluster on loopback: a directory, servers, a broker, and the programs that use them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;
use sha2::{Digest, Sha256};
use stp_tests::daemon::{programs, shim};
use stp_tests::loopback::{Etcd, Running, free_address};

pub const PASSWORD: &str = "correct horse battery";
pub const FILES: &str = "file.mirror@demo.example";
pub const WEB: &str = "www.web@demo.example";

pub struct Server {
    pub name: &'static str,
    pub address: SocketAddr,
    pub status: SocketAddr,
    pub key: String,
    pub config: PathBuf,
    pub running: Option<Running>,
}

pub struct World {
    pub dir: tempfile::TempDir,
    pub sns: Option<Running>,
    pub sns_address: SocketAddr,
    /// Another directory on the same store.
    pub second: Option<(Running, SocketAddr)>,
    etcd: Option<Etcd>,
    /// Variables of all daemons.
    pub env: Vec<(&'static str, PathBuf)>,
    pub servers: Vec<Server>,
    pub broker: Option<Running>,
    pub broker_status: SocketAddr,
    /// Further limits of the broker's configuration.
    pub broker_limits: &'static str,
}

fn program(name: &str) -> PathBuf {
    programs().expect("they are built").join(name)
}

fn start(program: &Path, config: &Path, log: &Path, env: &[(&'static str, PathBuf)]) -> Running {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(log).expect("ours");
    let mut command = Command::new(program);
    command.arg("--config").arg(config).envs(env.iter().cloned());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
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
    let stream = std::net::TcpStream::connect(address).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    ask(stream, path)
}

/// The same from a status that is at a Unix socket.
pub fn get_unix(socket: &Path, path: &str) -> Option<String> {
    let stream = std::os::unix::net::UnixStream::connect(socket).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(5))).ok()?;
    ask(stream, path)
}

fn ask(mut stream: impl std::io::Read + std::io::Write, path: &str) -> Option<String> {
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).ok()?;
    let mut text = String::new();
    stream.read_to_string(&mut text).ok()?;
    text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
}

pub fn status(address: SocketAddr) -> Option<Value> {
    serde_json::from_str(&get(address, "/status")?).ok()
}

/// curl that downloads `big.iso` to `f` slowly; a part of it is there when this returns.
pub fn big_curl(world: &World, rate: &str) -> std::process::Child {
    const URL: &str = "http://www.web.at.demo.example.stp/alice/big.iso";
    let mut curl = world.app("curl");
    curl.args(["-sS", "--noproxy", "*", "--limit-rate", rate, "--max-time", "60", "-o", "f", URL]);
    let curl = curl.spawn().expect("curl is installed");
    let file = world.path("f");
    until("some bytes", || (std::fs::metadata(&file).ok()?.len() > 1 << 20).then_some(()));
    curl
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

/// Options in which worlds differ.
#[derive(Default)]
pub struct Special {
    /// The directory's store is etcd, and there are two directories on it.
    pub etcd: bool,
    /// Further tables of the directory's configuration, its `[limits]` at the end.
    pub tables: &'static str,
    /// Variables of all daemons.
    pub env: Vec<(&'static str, PathBuf)>,
}

impl World {
    /// A directory with the user alice, whose tree is `/alice`.
    pub fn new() -> World {
        World::with(Special { tables: "[limits]\nserver_lease = \"2s\"\n", ..Special::default() })
    }

    pub fn with(special: Special) -> World {
        let dir = tempfile::tempdir().expect("a folder");
        let data = dir.path().join("etcd");
        let etcd = special.etcd.then(|| Etcd::start(&data).expect("etcd is installed"));
        let mut world = World {
            dir,
            sns: None,
            sns_address: free_address(),
            second: None,
            etcd,
            env: special.env,
            servers: Vec::new(),
            broker: None,
            broker_status: free_address(),
            broker_limits: "",
        };
        let cluster_key = world.path("cluster.key");
        world.run("stp-sns", &["cluster-key", "add", cluster_key.to_str().expect("text")], "");
        world.write_sns("sns", world.sns_address, special.tables);
        world.start_sns();
        if special.etcd {
            let address = free_address();
            world.write_sns("sns2", address, special.tables);
            world.second = Some((world.run_sns("sns2"), address));
        }
        world.admin(&["user", "add", "alice", "--tree", "/alice", "--password-stdin"], PASSWORD);
        world
    }

    fn write_sns(&self, name: &str, address: SocketAddr, tables: &str) {
        let store = match &self.etcd {
            Some(etcd) => format!("etcd = [\"{}\"]", etcd.address),
            None => format!("path = {:?}", self.path("sns.redb")),
        };
        let text = format!(
            "listen = \"{address}\"\nkey_file = {:?}\ncluster = \"demo\"\n\
             cluster_key_file = {:?}\nstatus = \"unix:{}\"\nadmin = {:?}\n\
             [[domain]]\nname = \"demo.example\"\ncreators = \"any\"\n[store]\n{store}\n{tables}",
            self.path("sns.key"),
            self.path("cluster.key"),
            self.path(&format!("{name}.status")).display(),
            self.path(&format!("{name}.sock")),
        );
        std::fs::write(self.path(&format!("{name}.toml")), text).expect("ours");
    }

    /// All places of the directory, as a configuration has them.
    fn places(&self) -> String {
        let all = std::iter::once(self.sns_address).chain(self.second.as_ref().map(|two| two.1));
        let all: Vec<String> = all.map(|place| place.to_string()).collect();
        format!("{all:?}")
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn start_sns(&mut self) {
        self.sns = Some(self.run_sns("sns"));
    }

    fn run_sns(&self, name: &str) -> Running {
        let (config, log) = (self.path(&format!("{name}.toml")), self.path(&format!("{name}.log")));
        let running = start(&program("stp-sns"), &config, &log, &self.env);
        let socket = self.path(&format!("{name}.sock"));
        until("the directory", || std::os::unix::net::UnixStream::connect(&socket).ok().map(drop));
        running
    }

    /// Runs a program to its end; it must succeed.
    pub fn run(&self, name: &str, arguments: &[&str], input: &str) -> String {
        let output = self.try_run(name, arguments, input);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{name} {arguments:?}: {said}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// One of our programs with the environment of this world's user.
    pub fn command(&self, name: &str) -> Command {
        let mut command = Command::new(program(name));
        command
            .env("HOME", self.dir.path())
            .env("XDG_CONFIG_HOME", self.path("config"))
            .env("SESSION_DIR", self.path("session"))
            .env("SESSION_CONFIG", self.path("broker.toml"))
            .env_remove("LD_PRELOAD")
            .current_dir(self.dir.path());
        command
    }

    pub fn try_run(&self, name: &str, arguments: &[&str], input: &str) -> Output {
        use std::io::Write;
        let mut command = self.command(name);
        command.args(arguments);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("it was built");
        let mut stdin = child.stdin.take().expect("piped");
        // A program that finds a mistake ends without reading; its exit code is what counts.
        if let Err(error) = stdin.write_all(input.as_bytes()) {
            assert_eq!(error.kind(), std::io::ErrorKind::BrokenPipe, "{name} reads");
        }
        drop(stdin);
        child.wait_with_output().expect("it ends")
    }

    pub fn admin(&self, arguments: &[&str], input: &str) -> String {
        let socket = self.path("sns.sock");
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
            // Replicas are of the same second, as `rsync -a` leaves them.
            let time = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
            let mut file = std::fs::File::create(path).expect("ours");
            std::io::Write::write_all(&mut file, content).expect("ours");
            file.set_modified(time).expect("ours");
        }
        std::fs::create_dir_all(&root).expect("ours");
        let (address, status) = (free_address(), free_address());
        let config = self.path(&format!("server-{name}.toml"));
        let text = format!(
            "name = {name:?}\nlisten = \"{address}\"\nkey_file = {:?}\ncluster = \"demo\"\n\
             cluster_key_file = {:?}\nstatus = \"{status}\"\n\
             [[service]]\nname = \"{FILES}\"\nkind = \"file\"\nroot = {root:?}\ntickets = true\n\
             [[service]]\nname = \"{WEB}\"\nkind = \"file\"\nroot = {root:?}\ntickets = true\n\
             [directory]\naddress = {}\nkey = \"{}\"\nlook = \"1s\"\n{more}",
            self.path(&format!("server-{name}.key")),
            self.path("cluster.key"),
            self.places(),
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
        server.running = Some(start(&program("stp-server"), &server.config, &log, &self.env));
        let at = server.status;
        until("the server is announced", || {
            let status = status(at)?;
            status["directory"]["announced_ago_s"].as_u64().map(drop)
        });
    }

    /// Moves a server to another port; its name and key stay.
    pub fn move_server(&mut self, index: usize) {
        let server = &mut self.servers[index];
        server.running = None;
        let new = free_address();
        let text = std::fs::read_to_string(&server.config).expect("ours");
        let old = std::mem::replace(&mut server.address, new).to_string();
        std::fs::write(&server.config, text.replace(&old, &new.to_string())).expect("ours");
        self.restart_server(index);
    }

    /// Whether the directory has a file at this many servers.
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
            "status = \"{}\"\nkey_file = {:?}\n[gateway]\naddress = {}\nuser = \"alice\"\n\
             [limits]\nconnect = \"8s\"\n{}",
            self.broker_status,
            self.path("client.key"),
            self.places(),
            self.broker_limits,
        );
        std::fs::write(self.path("broker.toml"), text).expect("ours");
        let config = self.path("broker.toml");
        let ours =
            [("SESSION_DIR", self.path("session")), ("XDG_CONFIG_HOME", self.path("config"))];
        let env: Vec<_> = self.env.iter().cloned().chain(ours).collect();
        let log = self.path("broker.log");
        self.broker = Some(start(&program("stp-broker"), &config, &log, &env));
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
