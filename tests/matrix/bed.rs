//! What every case uses: the user's machine and the server's, each a namespace with nothing but
//! loopback; services, an STP server, a broker; and the wire between the two, which is cut.

use std::cell::Cell;
use std::fmt::Write as _;
use std::io::Write as _;
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use stp_tests::daemon::{self, BROKER_STATUS, Broker, Offer, SERVER_PORT, Server, Wanted};
use stp_tests::file::{self, Payload};
use stp_tests::namespace::Namespace;
use stp_tests::nginx::Nginx;
use stp_tests::process::{Ended, Plan, Process};
use stp_tests::scene::{self, Scene};
use stp_tests::wait;

use crate::wire::{Cuts, Wire};

/// Longest time a program may take.
const PROGRAM_MAX: Duration = Duration::from_secs(120);
/// Longest time a service may take to listen.
const START_MAX: Duration = Duration::from_secs(20);
/// Lines of each log that a failure shows.
const LOG_LINES: usize = 30;
/// A lost link is noticed sooner than by default, to save time.
const LIMITS: &str = "[limits]\nsilence = \"1s\"\nheartbeat = \"1s\"\n";
/// Bytes of the payload that most programs move, 10⁶.
const PAYLOAD_MB: u64 = 8;

/// One row of the table.
pub struct Row {
    /// The program.
    pub program: &'static str,
    /// What it does over the session.
    pub does: &'static str,
    /// Bytes carried when the link is cut: by a reset, silently, and so on in turn.
    pub cuts: &'static [u64],
}

/// Where a program that moves the payload loses its link.
pub const BULK: &[u64] = &[2_000_000, 5_000_000];

/// A service of the server's machine and the destination that leads to it.
pub struct Door {
    to: String,
    kind: &'static str,
    port: u16,
    /// More lines of the service's configuration.
    more: String,
    /// The program's clock stands still while its session has no link.
    stops_clock: bool,
}

impl Door {
    /// Its service waits for so many seconds.
    pub fn patient(self, seconds: u64) -> Door {
        Door { more: format!("patience = \"{seconds}s\"\n"), ..self }
    }

    /// The program's clock stands still while its session has no link.
    pub fn stops_clock(self) -> Door {
        Door { stops_clock: true, ..self }
    }
}

/// A `tcp` service: `to` (`HOST:PORT`) leads to `port` of the server's machine.
pub fn tcp(to: impl Into<String>, port: u16) -> Door {
    Door { to: to.into(), kind: "tcp", port, more: String::new(), stops_clock: false }
}

/// The same of kind `http`.
pub fn http(to: impl Into<String>, port: u16) -> Door {
    Door { kind: "http", ..tcp(to, port) }
}

/// See the module. Rust drops fields in their order, so programs end first and the namespaces
/// last.
pub struct Bed<'a> {
    session: Option<Way>,
    services: Vec<Process>,
    web: Option<Nginx>,
    payload: Payload,
    cuts: Cuts,
    runs: Cell<usize>,
    scene: &'a Scene,
    client: Namespace,
    server: Namespace,
}

/// What carries the sessions.
struct Way {
    broker: Broker,
    wire: Wire,
    _server: Server,
}

/// Plays one case: `act` must succeed, the link must have been cut as the row says, and the broker
/// must tell of the same number of resumed sessions. Then the row is printed.
pub fn play(row: &Row, act: impl FnOnce(&mut Bed<'_>) -> Result<()>) {
    play_cut(row, Cuts { at: row.cuts, away: None }, act);
}

/// As [`play`], with a link that is silently away for this long, and with the broker's own
/// patience.
pub fn play_away(row: &Row, away: Duration, act: impl FnOnce(&mut Bed<'_>) -> Result<()>) {
    play_cut(row, Cuts { at: row.cuts, away: Some(away) }, act);
}

fn play_cut(row: &Row, cuts: Cuts, act: impl FnOnce(&mut Bed<'_>) -> Result<()>) {
    // Short enough for the paths of Unix sockets below.
    let plain = |c: char| if c.is_ascii_alphanumeric() { c } else { '-' };
    let name: String =
        row.program.chars().chain([' ']).chain(row.does.chars()).map(plain).take(40).collect();
    scene::play(&name, |scene| {
        let mut bed = Bed::make(scene, cuts)?;
        let result = act(&mut bed).and_then(|()| bed.must_have_resumed());
        match &result {
            Ok(()) => print(&format!("| {} | {} |", row.program, row.does)),
            Err(_) => bed.tell(),
        }
        result
    });
}

impl<'a> Bed<'a> {
    fn make(scene: &'a Scene, cuts: Cuts) -> Result<Bed<'a>> {
        daemon::programs()?;
        scene.subdir("home")?;
        Ok(Bed {
            session: None,
            services: Vec::new(),
            web: None,
            payload: Payload::make(PAYLOAD_MB, 1)?,
            cuts,
            runs: Cell::new(0),
            scene,
            client: Namespace::create("user")?,
            server: Namespace::create("service")?,
        })
    }

    /// A path in the directory where the program runs.
    pub fn home(&self, name: &str) -> PathBuf {
        self.scene.path("home").join(name)
    }

    /// A directory for a service's files.
    pub fn dir(&self, name: &str) -> Result<PathBuf> {
        self.scene.subdir(name)
    }

    /// The file with what the server wants to be shown when something is to be done.
    pub fn token(&self) -> PathBuf {
        self.scene.path("server.token")
    }

    /// A program without the shim, with an environment and logs of its own.
    fn plan(&self, program: &str, arguments: &[&str]) -> Plan {
        let number = self.runs.get() + 1;
        self.runs.set(number);
        let name = Path::new(program).file_name().unwrap_or_default().display();
        let plan = Plan::new(program).called(&format!("{number}-{name}"));
        plan.alone_in(&self.scene.path("home")).args(arguments)
    }

    /// Starts nginx on the server's machine, port 80, with the payload as `/big` and the first
    /// 100 kB of it as `/small`; `more` goes into its `http` block. Its root is the answer.
    pub fn web(&mut self, more: &str) -> Result<PathBuf> {
        let root = self.dir("www")?;
        self.payload.link(&root.join("big"))?;
        std::fs::write(root.join("small"), &std::fs::read(&self.payload.path)?[..100_000])?;
        self.web = Some(Nginx::start_at(self.scene, "nginx", &self.server, 80, &root, more)?);
        Ok(root)
    }

    /// Starts a daemon on the server's machine and waits until it listens at `port`. All that it
    /// starts itself ends with it.
    pub fn serve(&mut self, program: &str, arguments: &[&str], port: u16) -> Result<()> {
        let mut process = self.start(program, arguments)?;
        listens(&self.server, &mut process, port)?;
        self.services.push(process);
        Ok(())
    }

    /// Starts a daemon on the server's machine that listens at no TCP port.
    pub fn start(&self, program: &str, arguments: &[&str]) -> Result<Process> {
        // As the first process of its own process namespace the shell takes all others with it.
        let around = ["--pid", "--fork", "--kill-child", "sh", "-c", "\"$@\"; exit $?", "sh"];
        let plan = self.plan("unshare", &[&around[..], &[program], arguments].concat());
        plan.start(self.scene, Some(&self.server))
    }

    /// Starts a daemon with the shim on the user's machine that listens at `port`.
    pub fn start_routed(&self, program: &str, arguments: &[&str], port: u16) -> Result<Process> {
        let plan = self.way()?.broker.with_shim(self.plan(program, arguments))?;
        let mut process = plan.start(self.scene, Some(&self.client))?;
        listens(&self.client, &mut process, port)?;
        Ok(process)
    }

    /// Starts the STP server, the wire and the broker.
    pub fn open(&mut self, doors: &[Door]) -> Result<()> {
        let names = (0..doors.len()).map(|number| format!("door{number}.box@lab.example"));
        let names: Vec<String> = names.collect();
        let offer = |(door, name): (&Door, &String)| {
            let to = format!("127.0.0.1:{}", door.port);
            Offer { more: door.more.clone(), ..Offer::new(name, door.kind, to) }
        };
        let offers: Vec<Offer> = doors.iter().zip(&names).map(offer).collect();
        let key = daemon::cluster_key(self.scene, "cluster.key")?;
        let at = (&self.server, "127.0.0.1");
        let server = Server::start(self.scene, "server", at, &key, &offers, "")?;
        let wire = Wire::lay(&self.client, &self.server, SERVER_PORT, self.cuts)?;
        let mut more = if self.cuts.away.is_some() { "" } else { LIMITS }.to_owned();
        for (door, name) in doors.iter().zip(&names).filter(|(door, _)| door.stops_clock) {
            let to = &door.to;
            write!(more, "[[route]]\nto = {to:?}\nservice = {name:?}\nfreeze = \"clock\"\n")?;
        }
        let one = (server.name.clone(), server.address.clone(), server.key.clone());
        let mut wanted = Vec::new();
        for (door, name) in doors.iter().zip(&names) {
            wanted.push(Wanted { name, route: &door.to, servers: vec![one.clone()] });
        }
        let broker = Broker::start(self.scene, &self.client, &wanted, &more)?;
        self.session = Some(Way { broker, wire, _server: server });
        Ok(())
    }

    /// Runs a program with the shim on the user's machine; it must end with exit code 0.
    pub fn run(&self, program: &str, arguments: &[&str]) -> Result<Ended> {
        let plan = self.way()?.broker.with_shim(self.plan(program, arguments))?;
        plan.run(self.scene, Some(&self.client), PROGRAM_MAX)?.ok()
    }

    /// Runs lines of bash, as [`Bed::run`].
    pub fn bash(&self, lines: &str) -> Result<Ended> {
        self.run("bash", &["-euo", "pipefail", "-c", lines])
    }

    /// Runs a file of `programs/` by its interpreter, as [`Bed::run`].
    pub fn script(&self, interpreter: &str, name: &str, arguments: &[&str]) -> Result<Ended> {
        self.run(interpreter, &[&[Bed::program(name).as_str()], arguments].concat())
    }

    /// The path of a file of `programs/`.
    pub fn program(name: &str) -> String {
        format!("{}/matrix/programs/{name}", env!("CARGO_MANIFEST_DIR"))
    }

    /// Runs a program without the shim, to prepare something; it must end with exit code 0.
    pub fn prepare(&self, program: &str, arguments: &[&str]) -> Result<Ended> {
        self.plan(program, arguments).run(self.scene, None, PROGRAM_MAX)?.ok()
    }

    /// The payload.
    pub fn payload(&self) -> &Path {
        &self.payload.path
    }

    /// This file must be the payload.
    pub fn must_be_payload(&self, path: &Path) -> Result<()> {
        let len = std::fs::metadata(path).with_context(|| path.display().to_string())?.len();
        ensure!(len == self.payload.len, "{}: {len} bytes", path.display());
        ensure!(file::sha256(path)? == self.payload.sha256, "{}: wrong bytes", path.display());
        Ok(())
    }

    /// The program must have made this file, and it must be the payload.
    pub fn got(&self, name: &str) -> Result<()> {
        self.must_be_payload(&self.home(name))
    }

    fn way(&self) -> Result<&Way> {
        self.session.as_ref().context("no session can be made before Bed::open")
    }

    fn must_have_resumed(&self) -> Result<()> {
        let way = self.way()?;
        let (cuts, planned, carried) = (way.wire.cuts(), self.cuts.at.len(), way.wire.carried());
        ensure!(cuts == planned, "{cuts} cuts of {planned}, {carried} bytes carried");
        let status = daemon::status(&self.client, BROKER_STATUS)?;
        let resumed = status["counters"]["resumed"].as_u64().unwrap_or_default();
        ensure!(resumed >= planned as u64, "{resumed} resumed after {planned} cuts");
        self.scene.say(&format!("{cuts} cuts, {resumed} resumed, {carried} bytes"));
        Ok(())
    }

    /// Shows what was printed and what the broker knows.
    fn tell(&self) {
        if let Ok(status) = daemon::status(&self.client, BROKER_STATUS) {
            for line in daemon::happenings(&status) {
                self.scene.say(&format!("  broker: {line}"));
            }
        }
        for entry in std::fs::read_dir(self.scene.dir()).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.extension().is_some_and(|end| end == "out" || end == "err") {
                let text = std::fs::read(&path).unwrap_or_default();
                let text = String::from_utf8_lossy(&text);
                let lines: Vec<&str> = text.lines().collect();
                for line in &lines[lines.len().saturating_sub(LOG_LINES)..] {
                    self.scene.say(&format!("  {}: {line}", entry.file_name().display()));
                }
            }
        }
    }
}

/// Waits until a process listens at `port` of its machine.
fn listens(machine: &Namespace, process: &mut Process, port: u16) -> Result<()> {
    let probe = || TcpStream::connect(("127.0.0.1", port)).is_ok();
    wait::until(&format!("a listener at port {port}"), START_MAX, || {
        process.must_run()?;
        Ok(machine.inside(probe)?.then_some(()))
    })
}

/// Past the capture of the test harness: scripts/matrix reads it.
fn print(row: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{row}");
}
