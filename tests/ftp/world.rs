//! One client machine and two servers, each an STP server before a vsftpd of its own.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use stp_tests::daemon::{self, BROKER_STATUS, Broker, Server, Wanted};
use stp_tests::emulator::Shape;
use stp_tests::file::{self, Payload};
use stp_tests::process::{Plan, Process};
use stp_tests::scene::Scene;
use stp_tests::topology::Topology;
use stp_tests::vsftpd::Vsftpd;

use crate::client::{ANONYMOUS, Client, HOST, Mode, Operation, Order};

/// The client's place among the hosts; server n is host n + 1.
pub const CLIENT: usize = 0;
const NAMES: [&str; 2] = ["a", "b"];
const SERVICE: &str = "ftp.mirror@lab.example";
/// A client has this long, faults included.
pub const CLIENT_MAX: Duration = Duration::from_secs(90);
/// Names in the directory that is listed.
const LISTED: usize = 2_000;

/// See the module. Fields fall in order: programs first, the network last.
pub struct World {
    pub broker: Broker,
    pub servers: Vec<Server>,
    pub ftp: Vec<Vsftpd>,
    pub topology: Topology,
    /// `big`, and what is put.
    pub payload: Payload,
}

/// How a world is laid out.
#[derive(Clone, Copy)]
pub struct Layout<'a> {
    /// Size of `big`, and of what is put.
    pub megabytes: u64,
    /// For the configuration of both vsftpd.
    pub vsftpd: &'a str,
    /// For the service, and after it, in the configuration of both servers.
    pub service: &'a str,
    /// Both vsftpd serve the same directory.
    pub shared: bool,
    /// Another service of the servers, and the route to it.
    pub other: Option<(&'a str, &'a str)>,
    /// The broker has a keeper.
    pub kept: bool,
    /// The servers have one each.
    pub servers_kept: bool,
}

impl Layout<'_> {
    /// A small file, and nothing special.
    pub const PLAIN: Layout<'static> = Layout {
        megabytes: 1,
        vsftpd: "",
        service: "",
        shared: false,
        other: None,
        kept: false,
        servers_kept: false,
    };
}

impl Default for Layout<'_> {
    fn default() -> Self {
        Layout::PLAIN
    }
}

/// A client at work.
pub struct Work {
    pub process: Process,
    pub client: Client,
    pub operation: Operation,
    /// What it makes, or sends.
    pub local: PathBuf,
}

impl World {
    /// Lays it out, with a file of this many megabytes; `vsftpd` goes into both configurations.
    pub fn lay(scene: &Scene, megabytes: u64, vsftpd: &str) -> Result<World> {
        World::lay_as(scene, &Layout { megabytes, vsftpd, ..Layout::default() })
    }

    /// Lays it out.
    pub fn lay_as(scene: &Scene, layout: &Layout<'_>) -> Result<World> {
        let Layout { megabytes, vsftpd, service, shared, other, kept, servers_kept } = *layout;
        daemon::programs()?;
        let topology = Topology::build(&[("client", 1), ("a", 1), ("b", 1)])?;
        topology.shape(CLIENT, 0, Shape::of(200, 20))?;
        let payload = Payload::make(megabytes, 1)?;
        let cluster_key = daemon::cluster_key(scene, "cluster.key")?;
        let (mut servers, mut ftp) = (Vec::new(), Vec::new());
        for (place, &name) in NAMES.iter().enumerate() {
            let host = &topology.hosts[place + 1];
            let owner = if shared { NAMES[0] } else { name };
            let root = scene.subdir(&format!("vsftpd-{owner}-root"))?;
            let called = format!("vsftpd-{name}");
            if owner == name {
                furnish(&root, &payload)?;
            }
            let one = Vsftpd::start_at(scene, &called, &host.namespace, root, vsftpd)?;
            one.close_root()?;
            let tables = format!(
                "\n[[service]]\nname = {SERVICE:?}\nkind = \"ftp\"\n\
                 to = \"127.0.0.1:21\"\n{service}\n"
            );
            let mut server = Server::prepare(scene, name, &host.address(), &cluster_key, &tables)?;
            if servers_kept {
                server = server.kept();
            }
            server.restart(scene, &host.namespace)?;
            servers.push(server);
            ftp.push(one);
        }
        let all: Vec<_> =
            servers.iter().map(|s| (s.name.clone(), s.address.clone(), s.key.clone())).collect();
        let route = format!("{HOST}:21");
        let mut wanted = vec![Wanted { name: SERVICE, route: &route, servers: all.clone() }];
        if let Some((name, route)) = other {
            wanted.push(Wanted { name, route, servers: all });
        }
        let keep = |plan: Plan| if kept { plan.env("SESSION_NO_KEEPER", "") } else { plan };
        let client = &topology.hosts[CLIENT].namespace;
        let broker = Broker::start_as(scene, client, &wanted, "", keep)?;
        Ok(World { broker, servers, ftp, topology, payload })
    }

    /// Starts a client. Each has a directory of its own, `number` tells them apart.
    pub fn start(
        &self,
        scene: &Scene,
        client: Client,
        mode: Mode,
        operation: Operation,
        number: usize,
    ) -> Result<Work> {
        self.start_after(scene, client, (mode, operation), number, Duration::ZERO)
    }

    /// The same; it does nothing for a while after its login.
    pub fn start_after(
        &self,
        scene: &Scene,
        client: Client,
        (mode, operation): (Mode, Operation),
        number: usize,
        idle: Duration,
    ) -> Result<Work> {
        let dir = scene.subdir(&format!("{}-{number}", client.name()))?;
        let local = match (client, operation) {
            (Client::Ncftp, Operation::Retr) => dir.join("big"),
            (Client::Wget, Operation::List) => dir.join(".listing"),
            (_, Operation::Stor) => {
                let local = dir.join("put");
                self.payload.link(&local)?;
                local
            }
            _ => dir.join("got"),
        };
        let (account, idle) = (ANONYMOUS, idle.as_secs());
        let order = Order { account, mode, operation, local: &local, idle };
        let plan = client.plan(Some(&self.broker), &order)?;
        let process = plan.start(scene, Some(&self.topology.hosts[CLIENT].namespace))?;
        Ok(Work { process, client, operation, local })
    }

    /// The name of the server at this place.
    pub fn name(place: usize) -> &'static str {
        NAMES[place]
    }

    /// The place of the server at which the sessions are.
    pub fn serving(&self) -> Result<usize> {
        let status = self.broker_status()?;
        let server = status["sessions"][0]["server"].as_str().context("no session")?.to_owned();
        NAMES.iter().position(|name| *name == server).context("an unknown server")
    }

    pub fn broker_status(&self) -> Result<Value> {
        daemon::status(&self.topology.hosts[CLIENT].namespace, BROKER_STATUS)
    }

    /// How far a client is, in bytes.
    pub fn progress(&self, work: &Work) -> u64 {
        let length = |path: PathBuf| std::fs::metadata(path).map_or(0, |meta| meta.len());
        match work.operation {
            Operation::Stor => {
                let put = |ftp: &Vsftpd| length(ftp.root.join("in/put"));
                self.ftp.iter().map(put).max().unwrap_or(0)
            }
            Operation::Retr | Operation::List => length(work.local.clone()),
        }
    }

    /// Waits for the end of a client; says how it ended and whether what it did is right.
    pub fn outcome(&self, work: Work) -> Result<Outcome> {
        let ended = work.process.end(CLIENT_MAX)?;
        let right = match work.operation {
            Operation::Retr => {
                file::sha256(&work.local).is_ok_and(|sum| sum == self.payload.sha256)
            }
            Operation::Stor => self.ftp.iter().any(|ftp| {
                let put = ftp.root.join("in/put");
                file::sha256(&put).is_ok_and(|sum| sum == self.payload.sha256)
            }),
            Operation::List => {
                let made = std::fs::read_to_string(&work.local).unwrap_or_default();
                let text = if work.client == Client::Ncftp { ended.out.clone() } else { made };
                (0..LISTED).all(|number| text.contains(&listed(number)))
                    && text.lines().filter(|line| line.contains("name-")).count() == LISTED
            }
        };
        let said = [ended.out.as_str(), ended.err.as_str()].concat();
        let success = ended.status.success();
        let told = work.client.exit_code_counts() && success;
        // What a client says that has no exit code worth reading.
        let told = told || (!work.client.exit_code_counts() && said.contains("226"));
        // tnftp takes its own timer for the end of a listing that pauses, bare as well; it says so.
        let told = told && !said.contains("Interrupted system call");
        Ok(Outcome { right, told, said })
    }
}

/// How a client ended.
#[derive(Debug)]
pub struct Outcome {
    /// Every byte, and nothing else.
    pub right: bool,
    /// It was told, or believes, that it was a success.
    pub told: bool,
    /// What it printed.
    pub said: String,
}

impl Outcome {
    /// Success, and rightly so.
    pub fn must_be_good(&self) -> Result<()> {
        let tail: String = self.said.chars().rev().take(600).collect();
        let tail: String = tail.chars().rev().collect();
        ensure!(self.right && self.told, "right: {}, told: {}: {tail}", self.right, self.told);
        Ok(())
    }
}

/// Puts in what is got and listed.
fn furnish(root: &Path, payload: &Payload) -> Result<()> {
    payload.link(&root.join("big"))?;
    let names = root.join("names");
    std::fs::create_dir(&names)?;
    for number in 0..LISTED {
        std::fs::File::create(names.join(listed(number)))?;
    }
    Ok(())
}

fn listed(number: usize) -> String {
    format!("name-{number:05}")
}
