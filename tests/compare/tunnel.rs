//! `--tunnels`: curl through what people put between a program and a server, and in sessions. Each
//! has daemons at the user's machine, at a far one, or both; they are killed as well. The file is
//! on a third machine.

use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::sys::signal::{Signal, kill};
use stp_tests::certificate::certificate;
use stp_tests::daemon::{self, Broker, Server};
use stp_tests::emulator::Shape;
use stp_tests::file::Payload;
use stp_tests::growth::Growth;
use stp_tests::keepers::Leftovers;
use stp_tests::namespace::Namespace;
use stp_tests::nginx::Nginx;
use stp_tests::process::{Plan, Process};
use stp_tests::scene::Scene;
use stp_tests::sshd;
use stp_tests::topology::Topology;
use stp_tests::wait;

use crate::fault::MEGABYTES;
use crate::run::{Outcome, outcome, played};
use crate::table::Row;
use crate::world::reach;

const CLIENT: usize = 0;
const FAR: usize = 1;
const WEB: usize = 2;
const ACCESS_MBIT: u64 = 40;
/// Where a near daemon listens, on the loopback.
const NEAR_PORT: u16 = 8080;
/// A supervisor waits so long before it starts a daemon again.
const SUPERVISOR: Duration = Duration::from_secs(1);
const START_MAX: Duration = Duration::from_secs(20);

/// What curl goes through.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    Nothing,
    SshForward,
    SshSocks,
    Stunnel,
    Haproxy,
    Socks,
    /// A session without a far end.
    Alone,
    /// A session through a service of kind `egress`, as `session via add` sets it up.
    Via,
    /// A session through a service of kind `http`.
    Http,
}

const WAYS: [(Way, &str); 9] = [
    (Way::Nothing, "curl"),
    (Way::SshForward, "curl, ssh -L"),
    (Way::SshSocks, "curl, ssh -D"),
    (Way::Stunnel, "curl, two stunnels"),
    (Way::Haproxy, "curl, two haproxies"),
    (Way::Socks, "curl, proxychains, microsocks"),
    (Way::Alone, "**curl, session, no far end**"),
    (Way::Via, "**curl, session, via**"),
    (Way::Http, "**curl, session**"),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    Down(u64),
    Address,
    /// The daemon at the user's machine is killed.
    Near,
    /// The one at the far machine is.
    Far,
}

const FAULTS: [Fault; 5] =
    [Fault::Down(5), Fault::Down(70), Fault::Address, Fault::Near, Fault::Far];

impl Fault {
    fn name(self) -> String {
        match self {
            Fault::None => "undisturbed".to_owned(),
            Fault::Down(seconds) => format!("link down {seconds} s"),
            Fault::Address => "new address".to_owned(),
            Fault::Near => "own daemon killed".to_owned(),
            Fault::Far => "far daemon killed".to_owned(),
        }
    }
}

/// The heading of each fault.
pub fn headings() -> Vec<String> {
    FAULTS.map(Fault::name).to_vec()
}

/// A line for each way whose name has `only` in it, `beside` runs at a time.
pub fn rows(only: &str, beside: usize) -> Result<Vec<Row>> {
    let ways: Vec<_> = WAYS.into_iter().filter(|(_, name)| name.contains(only)).collect();
    let mut jobs = Vec::new();
    for (number, (way, _)) in ways.iter().enumerate() {
        for fault in std::iter::once(Fault::None).chain(FAULTS) {
            let name = format!("tunnel-{}.{number}", fault.name().replace(' ', "-"));
            let way = *way;
            jobs.push(move || played(&name, |scene| run(scene, way, fault)));
        }
    }
    let outcomes = crate::all(jobs, beside)?;
    let row = |((_, name), outcomes): (&(Way, &'static str), &[Option<Outcome>])| {
        let (plain, under) = outcomes.split_first().context("no runs")?;
        let plain = plain.with_context(|| format!("{name} without a fault"))?;
        Ok(Row { name, plain, under: under.to_vec() })
    };
    ways.iter().zip(outcomes.chunks(FAULTS.len() + 1)).map(row).collect()
}

/// How a daemon is started, in its namespace.
type Start = Box<dyn Fn(&Scene, &Namespace) -> Result<Process>>;

/// A daemon that is started again after it was killed.
enum Daemon {
    /// By a supervisor, with the same command.
    Supervised { process: Process, start: Start },
    /// By its keeper.
    Kept(Leftovers),
}

impl Daemon {
    fn supervised(scene: &Scene, at: &Namespace, start: Start) -> Result<Option<Daemon>> {
        Ok(Some(Daemon::Supervised { process: start(scene, at)?, start }))
    }

    fn kill(&mut self, scene: &Scene, at: &Namespace) -> Result<()> {
        match self {
            Daemon::Supervised { process, start } => {
                process.kill()?;
                sleep(SUPERVISOR);
                *process = start(scene, at)?;
            }
            Daemon::Kept(all) => kill(all.one(false)?, Signal::SIGKILL)?,
        }
        Ok(())
    }
}

/// The machines, and what is between curl and the file. Programs fall first.
struct Ground {
    near: Option<Daemon>,
    far: Option<Daemon>,
    /// The processes that were started first. When they are killed their keepers start others.
    _broker: Option<Broker>,
    _server: Option<Server>,
    _web: Nginx,
    /// Until it is started.
    curl: Option<Plan>,
    topology: Topology,
    payload: Payload,
}

fn run(scene: &Scene, way: Way, fault: Fault) -> Result<Option<Outcome>> {
    let mut ground = Ground::lay(scene, way)?;
    let there = match fault {
        Fault::Near => ground.near.is_some(),
        Fault::Far => ground.far.is_some(),
        Fault::None | Fault::Down(_) | Fault::Address => true,
    };
    there.then(|| ground.download(scene, fault)).transpose()
}

impl Ground {
    fn lay(scene: &Scene, way: Way) -> Result<Ground> {
        let topology = Topology::build(&[("client", 1), ("far", 1), ("web", 1)])?;
        topology.shape(CLIENT, 0, Shape::of(ACCESS_MBIT, 10))?;
        let web = Nginx::start(scene, "nginx", &topology.hosts[WEB].namespace)?;
        let payload = Payload::make(MEGABYTES, 1)?;
        payload.link(&web.root.join("big"))?;
        let curl = Plan::new("curl").called("app").args(&["-sS", "--fail", "-o"]);
        let curl = Some(curl.arg(scene.path("big")));
        let (near, far) = (None, None);
        let (_broker, _server) = (None, None);
        let mut ground = Ground { near, far, _broker, _server, _web: web, curl, topology, payload };
        ground.put_between(scene, way)?;
        Ok(ground)
    }

    fn address(&self, place: usize) -> String {
        self.topology.hosts[place].address()
    }

    fn put_between(&mut self, scene: &Scene, way: Way) -> Result<()> {
        let straight = format!("http://{}/big", self.address(WEB));
        let url = match way {
            Way::SshForward | Way::Stunnel | Way::Haproxy => {
                format!("http://127.0.0.1:{NEAR_PORT}/big")
            }
            Way::Http => "http://mirror.lab/big".to_owned(),
            Way::Nothing | Way::SshSocks | Way::Socks | Way::Alone | Way::Via => straight,
        };
        match way {
            Way::Nothing => {}
            Way::SshForward | Way::SshSocks => self.ssh(scene, way == Way::SshSocks)?,
            Way::Stunnel => self.stunnel(scene)?,
            Way::Haproxy => self.haproxy(scene)?,
            Way::Socks => self.socks(scene)?,
            Way::Alone | Way::Via | Way::Http => self.session(scene, way)?,
        }
        self.change_curl(|curl| Ok(curl.arg(url)))
    }

    /// A near daemon that listens at [`NEAR_PORT`].
    fn near(&mut self, scene: &Scene, plan: impl Fn() -> Plan + 'static) -> Result<()> {
        let start: Start = Box::new(move |scene, at| listening(scene, at, plan()));
        self.near = Daemon::supervised(scene, &self.topology.hosts[CLIENT].namespace, start)?;
        Ok(())
    }

    fn far(&mut self, scene: &Scene, start: Start) -> Result<()> {
        self.far = Daemon::supervised(scene, &self.topology.hosts[FAR].namespace, start)?;
        Ok(())
    }

    fn ssh(&mut self, scene: &Scene, socks: bool) -> Result<()> {
        let far = &self.topology.hosts[FAR].namespace;
        let (process, options) = sshd::start_at(scene, far, "far.lab", "0.0.0.0:22")?;
        let start: Start = Box::new(|scene, at| {
            sshd::start_at(scene, at, "far.lab", "0.0.0.0:22").map(|(process, _)| process)
        });
        self.far = Some(Daemon::Supervised { process, start });
        let way = match socks {
            true => format!("-D 127.0.0.1:{NEAR_PORT}"),
            false => format!("-L 127.0.0.1:{NEAR_PORT}:{}:80", self.address(WEB)),
        };
        let line = format!("{options} -N {way} root@{}", self.address(FAR));
        self.near(scene, move || {
            let words: Vec<&str> = line.split(' ').collect();
            Plan::new("ssh").called("ssh").args(&words)
        })?;
        if socks {
            let at = format!("127.0.0.1:{NEAR_PORT}");
            self.change_curl(|curl| Ok(curl.args(&["--socks5", &at])))?;
        }
        Ok(())
    }

    fn stunnel(&mut self, scene: &Scene) -> Result<()> {
        certificate(scene.dir(), "far", "far.lab", "now");
        let (pem, key) = (scene.path("far.pem"), scene.path("far.key"));
        let common = "foreground = yes\npid =\n[big]\n";
        let (near, far) = (scene.path("near.conf"), scene.path("far.conf"));
        let text = format!(
            "{common}accept = 4430\nconnect = {}:80\ncert = {}\nkey = {}\n",
            self.address(WEB),
            pem.display(),
            key.display()
        );
        std::fs::write(&far, text)?;
        let text = format!(
            "{common}client = yes\naccept = 127.0.0.1:{NEAR_PORT}\nconnect = {}:4430\n\
             CAfile = {}\nverifyPeer = yes\n",
            self.address(FAR),
            pem.display()
        );
        std::fs::write(&near, text)?;
        let plan = |name, file: PathBuf| move || Plan::new("stunnel4").called(name).arg(&file);
        let far = plan("stunnel-far", far);
        self.far(scene, Box::new(move |scene, at| far().start(scene, Some(at))))?;
        self.near(scene, plan("stunnel-near", near))
    }

    fn haproxy(&mut self, scene: &Scene) -> Result<()> {
        let config = |listen: &str, to: &str| {
            format!(
                "defaults\n mode tcp\n timeout connect 10s\n timeout client 1h\n \
                 timeout server 1h\nlisten big\n bind {listen}\n server next {to}\n"
            )
        };
        let (near, far) = (scene.path("near.cfg"), scene.path("far.cfg"));
        std::fs::write(&far, config(":8080", &format!("{}:80", self.address(WEB))))?;
        let listen = format!("127.0.0.1:{NEAR_PORT}");
        std::fs::write(&near, config(&listen, &format!("{}:8080", self.address(FAR))))?;
        let plan = |name, file: PathBuf| {
            move || Plan::new("haproxy").called(name).args(&["-db", "-f"]).arg(&file)
        };
        let far = plan("haproxy-far", far);
        self.far(scene, Box::new(move |scene, at| far().start(scene, Some(at))))?;
        self.near(scene, plan("haproxy-near", near))
    }

    fn socks(&mut self, scene: &Scene) -> Result<()> {
        let port = NEAR_PORT.to_string();
        self.near(scene, move || Plan::new("microsocks").args(&["-i", "127.0.0.1", "-p", &port]))?;
        let config = scene.path("proxychains.conf");
        let text = format!("strict_chain\n[ProxyList]\nsocks5 127.0.0.1 {NEAR_PORT}\n");
        std::fs::write(&config, text)?;
        let to = scene.path("big");
        let chained = Plan::new("proxychains4").called("app").args(&["-q", "-f"]).arg(config);
        self.curl = Some(chained.args(&["curl", "-sS", "--fail", "-o"]).arg(to));
        Ok(())
    }

    fn change_curl(&mut self, change: impl FnOnce(Plan) -> Result<Plan>) -> Result<()> {
        self.curl = self.curl.take().map(change).transpose()?;
        Ok(())
    }

    /// A broker, and for all but [`Way::Alone`] a server at the far machine, with keepers.
    fn session(&mut self, scene: &Scene, way: Way) -> Result<()> {
        let hosts = &self.topology.hosts;
        let mut broker = match way {
            Way::Alone => "[[service]]\nkind = \"direct\"\n\
                           [[route]]\nto = \"*:80\"\nservice = \"http.direct@localhost\"\n"
                .to_owned(),
            _ => String::new(),
        };
        if way != Way::Alone {
            let (name, route) = match way {
                Way::Http => ("www.big@lab.example", "mirror.lab:80"),
                _ => ("egress.far@lab.example", "*:80"),
            };
            let (kind, to) = match way {
                Way::Http => ("http", format!("to = \"{}:80\"", hosts[WEB].address())),
                _ => ("egress", format!("clients = [{:?}]", client_key(scene)?)),
            };
            let service = format!("\n[[service]]\nname = {name:?}\nkind = {kind:?}\n{to}\n");
            let key = daemon::cluster_key(scene, "cluster.key")?;
            let server = Server::prepare(scene, "a", &hosts[FAR].address(), &key, &service)?;
            let mut server = server.kept();
            server.restart(scene, &hosts[FAR].namespace)?;
            let kind = if way == Way::Via { "kind = \"egress\"\n" } else { "" };
            broker = format!(
                "[[service]]\nname = {name:?}\n{kind}[[service.server]]\nname = \"a\"\n\
                 address = {:?}\nkey = {:?}\n[[route]]\nto = {route:?}\nservice = {name:?}\n",
                server.address, server.key
            );
            self._server = Some(server);
            let word = scene.path("a.toml").display().to_string();
            self.far = Some(Daemon::Kept(Leftovers::of("stp-server", word)?));
        }
        let near = &hosts[CLIENT].namespace;
        let kept = |plan: Plan| plan.env("SESSION_NO_KEEPER", "");
        let broker = Broker::start_as(scene, near, &[], &broker, kept)?;
        let word = format!("SESSION_DIR={}", broker.dir.display());
        self.near = Some(Daemon::Kept(Leftovers::of("stp-broker", word)?));
        self.change_curl(|curl| broker.with_shim(curl))?;
        self._broker = Some(broker);
        Ok(())
    }

    fn download(&mut self, scene: &Scene, fault: Fault) -> Result<Outcome> {
        let to = scene.path("big");
        let (growth, begun) = (Growth::watch(&to), Instant::now());
        let curl = self.curl.take().context("it has run already")?;
        let mut app = curl.start(scene, Some(&self.topology.hosts[CLIENT].namespace))?;
        if fault != Fault::None {
            reach(&growth, &mut app, self.payload.len / 3)?;
        }
        match fault {
            Fault::None => {}
            Fault::Down(seconds) => {
                self.topology.hosts[CLIENT].link_down(0)?;
                sleep(Duration::from_secs(seconds));
                self.topology.hosts[CLIENT].link_up(0)?;
            }
            Fault::Address => self.topology.hosts[CLIENT].replace_address(0)?,
            Fault::Near => strike(scene, &mut self.near, &self.topology, CLIENT)?,
            Fault::Far => strike(scene, &mut self.far, &self.topology, FAR)?,
        }
        outcome(scene, &mut app, begun, &to, &self.payload)
    }
}

fn strike(
    scene: &Scene,
    daemon: &mut Option<Daemon>,
    topology: &Topology,
    place: usize,
) -> Result<()> {
    let daemon = daemon.as_mut().context("no daemon there")?;
    daemon.kill(scene, &topology.hosts[place].namespace)
}

/// Starts a near daemon, and waits until it listens.
fn listening(scene: &Scene, at: &Namespace, plan: Plan) -> Result<Process> {
    let mut process = plan.start(scene, Some(at))?;
    let probe = || std::net::TcpStream::connect(("127.0.0.1", NEAR_PORT)).is_ok();
    wait::until("a daemon to listen", START_MAX, || {
        process.must_run()?;
        Ok(at.inside(probe)?.then_some(()))
    })?;
    Ok(process)
}

/// The broker's public key, before the broker has its configuration.
fn client_key(scene: &Scene) -> Result<String> {
    let (config, file) = (scene.path("key.toml"), scene.path("client.key"));
    std::fs::write(&config, format!("key_file = {file:?}\n"))?;
    daemon::key_of(scene, "stp-broker", &config)
}
