//! The machines: an honest user, a server with few descriptors and little memory, a gateway, and
//! those who flood them.

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use stp_net::key::PublicKey;
use stp_tests::daemon::{self, Broker, SERVER_STATUS, START_MAX, Server, Wanted};
use stp_tests::emulator::Shape;
use stp_tests::file::Payload;
use stp_tests::nginx::Nginx;
use stp_tests::process::{Plan, Process};
use stp_tests::scene::Scene;
use stp_tests::sns::Sns;
use stp_tests::topology::{Host, Topology};
use stp_tests::wait;

/// The places of the hosts; attackers follow.
pub const CLIENT: usize = 0;
const SERVER: usize = 1;
const GATEWAY: usize = 2;
const ATTACKERS: usize = 3;
/// The server's descriptors.
pub const DESCRIPTORS: usize = 256;
/// A piece that is downloaded again and again, bytes.
pub const PIECE: u64 = 1_000_000;
/// The long download, 10⁶ bytes.
const BIG_MB: u64 = 100;
/// The service that is attacked.
pub const SERVICE: &str = "www.mirror@lab.example";
/// The user of the gateway.
pub const USER: &str = "alice";
pub const PASSWORD: &str = "correct horse battery";

/// Rust drops fields in their order, so programs end first and the network last.
pub struct Bed {
    pub broker: Broker,
    server: Process,
    pub sns: Sns,
    _nginx: Nginx,
    pub server_key: PublicKey,
    pub topology: Topology,
    pub big: Payload,
    pub piece: Payload,
}

impl Bed {
    pub fn lay(scene: &Scene) -> Result<Bed> {
        daemon::programs()?;
        let mut hosts = vec![("client", 1), ("a", 1), ("gateway", 1)];
        hosts.extend(["m0", "m1", "m2"].map(|name| (name, 1)));
        ensure!(hosts.len() == ATTACKERS + 3);
        let topology = Topology::build(&hosts)?;
        topology.shape(CLIENT, 0, Shape::of(200, 10))?;
        let (big, piece) = (Payload::make(BIG_MB, 1)?, Payload::make_bytes(PIECE, 4)?);
        let host = &topology.hosts[SERVER];
        let nginx = Nginx::start(scene, "nginx", &host.namespace)?;
        big.link(&nginx.root.join("big"))?;
        piece.link(&nginx.root.join("piece"))?;
        let cluster_key = daemon::cluster_key(scene, "cluster.key")?;
        let tables = format!(
            "[[service]]\nname = \"{SERVICE}\"\nkind = \"http\"\nto = {:?}\n\
             [limits]\nmemory = \"32MiB\"\n",
            nginx.local()
        );
        let known = Server::prepare(scene, "a", &host.address(), &cluster_key, &tables)?;
        let mut server = Plan::new("prlimit")
            .called("a")
            .arg(format!("--nofile={DESCRIPTORS}:{DESCRIPTORS}"))
            // Address space, of which a program takes much more than memory.
            .arg(format!("--as={}", 3_u64 << 30))
            .arg(daemon::programs()?.join("stp-server"))
            .arg("--config")
            .arg(scene.path("a.toml"))
            .start(scene, Some(&host.namespace))?;
        wait::until("the server's status", START_MAX, || {
            server.must_run()?;
            Ok(daemon::status(&host.namespace, SERVER_STATUS).ok())
        })?;
        let gateway = &topology.hosts[GATEWAY];
        let tables = format!(
            "[store]\npath = {:?}\n[[domain]]\nname = \"demo.example\"\ncreators = \"any\"\n",
            scene.path("sns.redb")
        );
        let sns = Sns::start(scene, "sns", &gateway.namespace, &cluster_key, &tables)?;
        sns.admin(scene, &["user", "add", USER, "--password-stdin"], PASSWORD)?;
        let server_key = known.key.parse().ok().context("the server's key")?;
        let servers = vec![(known.name, known.address, known.key)];
        let wanted = [Wanted { name: SERVICE, route: "mirror.lab:80", servers }];
        let broker = Broker::start(scene, &topology.hosts[CLIENT].namespace, &wanted, "")?;
        Ok(Bed { broker, server, sns, _nginx: nginx, server_key, topology, big, piece })
    }

    pub fn client(&self) -> &Host {
        &self.topology.hosts[CLIENT]
    }

    pub fn server_host(&self) -> &Host {
        &self.topology.hosts[SERVER]
    }

    pub fn gateway_host(&self) -> &Host {
        &self.topology.hosts[GATEWAY]
    }

    /// Those who flood.
    pub fn attackers(&self) -> &[Host] {
        &self.topology.hosts[ATTACKERS..]
    }

    /// The daemons, by name and process id.
    pub fn daemons(&mut self) -> Result<[(&'static str, u32); 3]> {
        let sns = self.sns.process()?.pid();
        Ok([("broker", self.broker.process.pid()), ("server", self.server.pid()), ("sns", sns)])
    }

    pub fn must_run(&mut self) -> Result<()> {
        self.broker.process.must_run()?;
        self.server.must_run()?;
        self.sns.process()?.must_run()
    }

    pub fn server_status(&self) -> Result<Value> {
        daemon::status(&self.server_host().namespace, SERVER_STATUS)
    }

    pub fn server_log(&self) -> String {
        self.server.log()
    }
}
