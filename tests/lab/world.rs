//! A client, servers with their own nginx each, and the daemons between them.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use stp_tests::certificate::certificate;
use stp_tests::daemon::{self, BROKER_STATUS, Broker, Offer, SERVER_STATUS, Server, Wanted};
use stp_tests::emulator::Shape;
use stp_tests::file::{self, Payload};
use stp_tests::growth::Growth;
use stp_tests::namespace::Namespace;
use stp_tests::nginx::Nginx;
use stp_tests::process::{Plan, Process};
use stp_tests::scene::Scene;
use stp_tests::topology::Topology;
use stp_tests::wait;

/// The client's place among the hosts; server n is host n + 1.
pub const CLIENT: usize = 0;
/// Longest time a download of the lab may take besides the fault itself.
pub const DOWNLOAD_MAX: Duration = Duration::from_secs(90);

const NAMES: [&str; 3] = ["a", "b", "c"];
const HTTP: &str = "www.mirror@lab.example";
const TCP: &str = "raw.mirror@lab.example";
/// The port of nginx behind an `https` service; it gives up a reader that stalls for 2 s.
const HASTY: u16 = 81;

/// A real program that downloads and uploads.
#[derive(Debug, Clone, Copy)]
pub enum Tool {
    /// curl, with its usual options.
    Curl,
    /// wget, without the retries that would hide a broken session.
    Wget,
}

impl Tool {
    pub fn name(self) -> &'static str {
        match self {
            Tool::Curl => "curl",
            Tool::Wget => "wget",
        }
    }
}

/// See the module. Rust drops fields in their order, so programs end first and the network last.
pub struct World {
    pub broker: Broker,
    pub servers: Vec<Server>,
    pub nginx: Vec<Nginx>,
    pub topology: Topology,
    pub payload: Payload,
    /// What makes a program trust the site, if it speaks TLS.
    roots: Option<PathBuf>,
}

/// The machines and their properties.
pub struct Layout {
    /// Number of servers, each with its nginx.
    pub servers: usize,
    /// Size of the file, 10⁶ bytes.
    pub megabytes: u64,
    /// The client's access link.
    pub access: Shape,
    /// Servers (by place) with a cluster key of their own.
    pub foreign: Vec<usize>,
    /// Top of the broker's configuration.
    pub broker: &'static str,
    /// One more host, for the traffic of others.
    pub crowd: bool,
    /// Congestion control of the servers' links; if empty, the servers choose it.
    pub congestion: &'static str,
    /// `mirror.lab` is an `https` service, at port 443.
    pub tls: bool,
    /// The broker has a keeper.
    pub kept: bool,
}

impl Default for Layout {
    /// 300 MB at 200 Mbit/s, 40 ms.
    fn default() -> Layout {
        let access = Shape::of(200, 20);
        Layout {
            servers: 1,
            megabytes: 300,
            access,
            foreign: Vec::new(),
            broker: "",
            crowd: false,
            congestion: "",
            tls: false,
            kept: false,
        }
    }
}

impl World {
    /// Lays it out; `mirror.lab:80` is the `http` service, `raw.lab:80` the same as `tcp`.
    pub fn lay(scene: &Scene, layout: &Layout) -> Result<World> {
        daemon::programs()?;
        let mut hosts = vec![("client", 1)];
        hosts.extend(NAMES[..layout.servers].iter().map(|name| (*name, 1)));
        if layout.crowd {
            hosts.push(("crowd", 1));
        }
        let topology = Topology::build(&hosts)?;
        topology.shape(CLIENT, 0, layout.access)?;
        let payload = Payload::make(layout.megabytes, 1)?;
        let cluster_key = daemon::cluster_key(scene, "cluster.key")?;
        let roots = layout.tls.then(|| {
            certificate(scene.dir(), "site", "mirror.lab", "now");
            scene.path("site.pem")
        });
        let (mut servers, mut nginx) = (Vec::new(), Vec::new());
        for (place, &name) in NAMES[..layout.servers].iter().enumerate() {
            let host = &topology.hosts[place + 1];
            let web = start_nginx(scene, name, &host.namespace, roots.as_deref())?;
            payload.link(&web.root.join("big"))?;
            let key = if layout.foreign.contains(&place) {
                daemon::cluster_key(scene, &format!("foreign-{name}.key"))?
            } else {
                cluster_key.clone()
            };
            let http = match &roots {
                None => Offer::new(HTTP, "http", web.local()),
                Some(roots) => {
                    let key = roots.with_extension("key");
                    let more = format!("certificate = {roots:?}\nkey = {key:?}");
                    Offer { more, ..Offer::new(HTTP, "https", format!("127.0.0.1:{HASTY}")) }
                }
            };
            let offers = [http, Offer::new(TCP, "tcp", web.local())];
            let at = (&host.namespace, &*host.address());
            let limits = match layout.congestion {
                "" => String::new(),
                name => format!("congestion = {name:?}"),
            };
            servers.push(Server::start(scene, name, at, &key, &offers, &limits)?);
            nginx.push(web);
        }
        let client = &topology.hosts[CLIENT].namespace;
        let wanted = wanted(&servers, layout.tls);
        let keep = |plan: Plan| match layout.kept {
            true => plan.env("SESSION_NO_KEEPER", ""),
            false => plan,
        };
        let broker = Broker::start_as(scene, client, &wanted, layout.broker, keep)?;
        Ok(World { broker, servers, nginx, topology, payload, roots })
    }

    /// Starts the download of the big file through a session.
    pub fn download(&self, scene: &Scene, tool: Tool) -> Result<(Process, Growth, PathBuf)> {
        let to = scene.path(&format!("big.{}", tool.name()));
        let growth = Growth::watch(&to);
        let app = self.broker.app(tool.name())?;
        let app = match tool {
            Tool::Curl => app.args(&["-sS", "--fail", "-o"]),
            Tool::Wget => app.args(&["-nv", "--tries=1", "-O"]),
        };
        let app = self.trusting(app.arg(&to), tool.name());
        let app = match (&self.roots, tool) {
            (None, _) => app.arg("http://mirror.lab/big"),
            (Some(_), Tool::Curl) => app.args(&["-v", "https://mirror.lab/big"]),
            (Some(_), Tool::Wget) => app.arg("https://mirror.lab/big"),
        };
        Ok((app.start(scene, Some(&self.topology.hosts[CLIENT].namespace))?, growth, to))
    }

    /// A plan for a program of the user's, with the shim.
    pub fn app(&self, program: &str) -> Result<Plan> {
        self.broker.app(program)
    }

    /// A program that trusts the site, if that speaks TLS.
    pub fn trusting(&self, app: Plan, program: &str) -> Plan {
        match &self.roots {
            Some(roots) if program == "wget" => {
                app.arg(format!("--ca-certificate={}", roots.display()))
            }
            Some(roots) => app.arg("--cacert").arg(roots),
            None => app,
        }
    }

    /// Waits for the end of a download, which must be a success with every byte right.
    pub fn must_be_right(&self, process: Process, path: &PathBuf) -> Result<()> {
        let ended = process.end(DOWNLOAD_MAX)?.ok()?;
        if self.roots.is_some() && path.ends_with("big.curl") {
            let shaken = ended.err.matches("SSL connection using TLSv1.3").count();
            ensure!(shaken == 1, "{shaken} TLS connections:\n{}", ended.err);
        }
        let len = std::fs::metadata(path)?.len();
        ensure!(len == self.payload.len, "{len} bytes instead of {}", self.payload.len);
        let sha256 = file::sha256(path)?;
        ensure!(sha256 == self.payload.sha256, "right length, wrong bytes");
        Ok(())
    }

    /// The broker's `/status`.
    pub fn broker_status(&self) -> Result<Value> {
        daemon::status(&self.topology.hosts[CLIENT].namespace, BROKER_STATUS)
    }

    /// A server's `/status`.
    pub fn server_status(&self, place: usize) -> Result<Value> {
        daemon::status(&self.topology.hosts[place + 1].namespace, SERVER_STATUS)
    }

    /// Prints what the broker says has happened to its sessions.
    pub fn tell(&self, scene: &Scene) -> Result<()> {
        for line in daemon::happenings(&self.broker_status()?) {
            scene.say(&format!("  broker: {line}"));
        }
        Ok(())
    }

    /// The place of the host that has nothing to do with Session.
    pub fn crowd(&self) -> Result<usize> {
        let place = self.servers.len() + 1;
        ensure!(place < self.topology.hosts.len(), "the layout has no crowd");
        Ok(place)
    }

    /// `kill -9` of a server.
    pub fn kill_server(&mut self, place: usize) -> Result<()> {
        self.servers[place].kill()
    }

    /// Starts a killed server again, where it was.
    pub fn restart_server(&mut self, scene: &Scene, place: usize) -> Result<()> {
        self.servers[place].restart(scene, &self.topology.hosts[place + 1].namespace)
    }

    /// The place of the server at which the only session is.
    pub fn serving(&self) -> Result<usize> {
        let status = self.broker_status()?;
        let server = status["sessions"][0]["server"].as_str().context("no session")?.to_owned();
        let known = |one: &Server| server == one.name || server == one.address;
        match self.servers.iter().position(known) {
            Some(place) => Ok(place),
            None => bail!("no server is called {server}"),
        }
    }
}

/// Besides its port 80 it is there for a service, and by HTTPS if there is a certificate.
fn start_nginx(
    scene: &Scene,
    name: &str,
    namespace: &Namespace,
    certificate: Option<&Path>,
) -> Result<Nginx> {
    let name = format!("nginx-{name}");
    let root = scene.subdir(&format!("{name}-root"))?;
    let (place, mut more) = (root.display(), String::new());
    if let Some(certificate) = certificate {
        let key = certificate.with_extension("key");
        let (certificate, key) = (certificate.display(), key.display());
        more = format!(
            "server {{ listen 127.0.0.1:{HASTY}; root {place}; send_timeout 2s; }}
             server {{ listen 443 ssl; root {place};
                       ssl_certificate {certificate}; ssl_certificate_key {key}; }}"
        );
    }
    Nginx::start_at(scene, &name, namespace, 80, &root, &more)
}

fn wanted(servers: &[Server], tls: bool) -> Vec<Wanted<'static>> {
    let all: Vec<_> = servers
        .iter()
        .map(|server| (server.name.clone(), server.address.clone(), server.key.clone()))
        .collect();
    vec![
        Wanted {
            name: HTTP,
            route: if tls { "mirror.lab:443" } else { "mirror.lab:80" },
            servers: all.clone(),
        },
        Wanted { name: TCP, route: "raw.lab:80", servers: all },
    ]
}

/// The moment something broke and the moment from which it could go on.
pub struct Fault {
    pub at: Instant,
    pub over: Instant,
}

/// Waits until a download has `len` bytes; it must not end before.
pub fn reach(growth: &Growth, process: &mut Process, len: u64) -> Result<()> {
    wait::until(&format!("{len} bytes"), DOWNLOAD_MAX, || {
        if growth.len() < len {
            process.must_run()?;
            return Ok(None);
        }
        Ok(Some(()))
    })
}

/// A download during which `fault` happens, at a third of the file; it must end well.
pub fn survive(
    scene: &Scene,
    tool: Tool,
    layout: &Layout,
    fault: impl FnOnce(&mut World) -> Result<Fault>,
) -> Result<World> {
    let mut world = World::lay(scene, layout)?;
    let (mut process, growth, path) = world.download(scene, tool)?;
    reach(&growth, &mut process, world.payload.len / 3)?;
    scene.say(&format!("{} has {} MB", tool.name(), growth.len() / 1_000_000));
    let fault = fault(&mut world)?;
    growth.grow_after(fault.over, Duration::from_secs(60)).with_context(|| {
        let told = world.broker_status().map(|status| daemon::happenings(&status).join("; "));
        format!("after the fault; the broker says: {}", told.unwrap_or_else(|e| e.to_string()))
    })?;
    world.must_be_right(process, &path)?;
    // Only now: what was on its way still arrives for a while after a fault.
    let pause = growth.pause_after(fault.at)?;
    let recovery = pause.to.saturating_duration_since(fault.over);
    scene.say(&format!(
        "next byte {} ms after it could be; {} ms without a byte, at byte {}",
        recovery.as_millis(),
        (pause.to - pause.from).as_millis(),
        pause.at
    ));
    scene.say("exit code 0, right SHA-256");
    world.tell(scene)?;
    Ok(world)
}
