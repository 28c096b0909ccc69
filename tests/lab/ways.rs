//! More than one way to a server: several addresses of both families, a name whose address changes,
//! and proxies where nothing else leads out of a network.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use stp_tests::daemon::{self, BROKER_STATUS, Offer, Server};
use stp_tests::emulator::Shape;
use stp_tests::file::{self, Payload};
use stp_tests::growth::Growth;
use stp_tests::namespace::Namespace;
use stp_tests::nginx::Nginx;
use stp_tests::process::{Plan, Process};
use stp_tests::scene::{Scene, play};
use stp_tests::topology::Topology;
use stp_tests::wait;

use crate::portal::Portal;
use crate::world::reach;

const CLIENT: usize = 0;
const SERVER: usize = 1;
const PROXY: usize = 2;
const MEGABYTES: u64 = 60;
const PORT: u16 = 8888;

/// A client, a server before nginx that listens at all its addresses, and one more host.
struct Ground {
    broker: Option<Process>,
    server: Server,
    _nginx: Nginx,
    topology: Topology,
    payload: Payload,
}

impl Ground {
    fn lay(scene: &Scene) -> Result<Ground> {
        let topology = Topology::build(&[("client", 1), ("server", 1), ("proxy", 1)])?;
        topology.shape(CLIENT, 0, Shape::of(40, 10))?;
        let payload = Payload::make(MEGABYTES, 1)?;
        let host = &topology.hosts[SERVER];
        let nginx = Nginx::start(scene, "nginx", &host.namespace)?;
        payload.link(&nginx.root.join("big"))?;
        let key = daemon::cluster_key(scene, "cluster.key")?;
        let offer = |name: &str, kind| Offer::new(name, kind, nginx.local());
        let [web, raw] = [offer("www.m@lab.example", "http"), offer("raw.m@lab.example", "tcp")];
        let table = |Offer { name, kind, to, .. }: Offer| {
            format!("[[service]]\nname = {name:?}\nkind = {kind:?}\nto = {to:?}\n")
        };
        let tables = format!("{}{}", table(web), table(raw));
        let mut server = Server::prepare(scene, "a", &host.address(), &key, &tables)?;
        let config = scene.path("a.toml");
        let text = std::fs::read_to_string(&config)?.replace("\"0.0.0.0:", "\"[::]:");
        std::fs::write(&config, text)?;
        server.restart(scene, &host.namespace)?;
        Ok(Ground { broker: None, server, _nginx: nginx, topology, payload })
    }

    fn client(&self) -> &Namespace {
        &self.topology.hosts[CLIENT].namespace
    }

    /// A program asks for the file, and there is no way to it.
    fn asks_in_vain(&self, scene: &Scene) -> Result<()> {
        let curl = Plan::new("curl")
            .args(&["-sS", "-m", "20", "http://raw.lab/big"])
            .env("LD_PRELOAD", daemon::shim()?)
            .env("SESSION_DIR", scene.path("session"))
            .start(scene, Some(self.client()))?;
        let ended = curl.end(Duration::from_secs(30))?;
        ensure!(ended.ok().is_err(), "it cannot succeed");
        Ok(())
    }

    /// Starts a broker that finds the server at `address`, as that is written; `plan` changes how
    /// it is started.
    fn broker(
        &mut self,
        scene: &Scene,
        (address, more): (&str, &str),
        plan: impl FnOnce(Plan) -> Plan,
    ) -> Result<()> {
        let (config, key_file) = (scene.path("broker.toml"), scene.path("client.key"));
        let key = &self.server.key;
        let mut text =
            format!("status = \"127.0.0.1:{BROKER_STATUS}\"\nkey_file = {key_file:?}\n{more}\n");
        for (name, host) in [("www.m@lab.example", "web.lab"), ("raw.m@lab.example", "raw.lab")] {
            text += &format!(
                "[[service]]\nname = {name:?}\n[[service.server]]\nname = \"a\"\n\
                 address = {address}\nkey = {key:?}\n[[route]]\nto = \"{host}:80\"\n\
                 service = {name:?}\n"
            );
        }
        std::fs::write(&config, text)?;
        let broker = Plan::new(daemon::programs()?.join("stp-broker"))
            .called("broker")
            .arg("--config")
            .arg(&config)
            .env("SESSION_DIR", scene.path("session"));
        let mut broker = plan(broker).start(scene, Some(self.client()))?;
        wait::until("the broker's status", Duration::from_secs(20), || {
            broker.must_run()?;
            Ok(self.status().ok())
        })?;
        self.broker = Some(broker);
        Ok(())
    }

    fn status(&self) -> Result<Value> {
        daemon::status(self.client(), BROKER_STATUS)
    }

    /// Where the server was met.
    fn at(&self) -> Result<String> {
        let status = self.status()?;
        let at = status["services"][0]["servers"][0]["at"].as_str();
        Ok(at.context("it was met somewhere")?.to_owned())
    }

    /// Begins a download of the big file; it has a third when this returns.
    fn download(&self, scene: &Scene, host: &str) -> Result<(Process, PathBuf)> {
        let to = scene.path("big");
        let growth = Growth::watch(&to);
        let mut curl = Plan::new("curl")
            .args(&["-sS", "--fail", "-o"])
            .arg(&to)
            .arg(format!("http://{host}/big"))
            .env("LD_PRELOAD", daemon::shim()?)
            .env("SESSION_DIR", scene.path("session"))
            .start(scene, Some(self.client()))?;
        reach(&growth, &mut curl, self.payload.len / 3)?;
        Ok((curl, to))
    }

    /// The download ends well, in one session.
    fn must_be_right(&self, (curl, to): (Process, PathBuf)) -> Result<()> {
        curl.end(Duration::from_secs(90))?.ok().with_context(|| {
            let told = self.status().map(|status| daemon::happenings(&status).join("; "));
            told.unwrap_or_else(|error| error.to_string())
        })?;
        ensure!(file::sha256(&to)? == self.payload.sha256, "other bytes");
        Ok(())
    }

    /// The client's packets for the server are thrown away from now on, without a word.
    fn close_the_straight_way(&self, scene: &Scene) -> Result<()> {
        let server = &self.topology.hosts[SERVER].interfaces[0];
        let rules = format!(
            "add table inet lab\nadd chain inet lab out {{ type filter hook output priority 0; }}\n\
             add rule inet lab out ip daddr {} drop\nadd rule inet lab out ip6 daddr {} drop\n",
            server.v4(),
            server.v6()
        );
        let nft = Plan::new("nft").args(&["-f", "-"]).input(&rules);
        nft.run(scene, Some(self.client()), Duration::from_secs(10))?.ok()?;
        Ok(())
    }
}

#[test]
fn a_session_goes_from_one_family_to_the_other() {
    play("a_session_goes_from_one_family_to_the_other", |scene| {
        let mut ground = Ground::lay(scene)?;
        let server = &ground.topology.hosts[SERVER].interfaces[0];
        let (v4, v6) = (format!("{}:4433", server.v4()), format!("[{}]:4433", server.v6()));
        ground.broker(scene, (&format!("[{v4:?}, {v6:?}]"), ""), |plan| plan)?;
        // Nothing is known of its bytes: no other server could go on with it.
        let download = ground.download(scene, "raw.lab")?;
        // IPv4 is tried a quarter of a second earlier, which a busy machine may lose.
        let by_v4 = ground.at()? == v4;
        let own = &ground.topology.hosts[CLIENT].interfaces[0];
        let (gone, other) = match by_v4 {
            true => (format!("{}/24", own.v4()), v6),
            false => (format!("{}/64", own.v6()), v4),
        };
        ground.client().ip(&["address", "del", &gone, "dev", &own.device])?;
        wait::until("the other family", Duration::from_secs(30), || {
            Ok((ground.at()? == other).then_some(()))
        })?;
        ground.must_be_right(download)
    });
}

#[test]
fn a_server_that_is_known_by_name_is_found_where_the_name_leads_now() {
    play("a_server_that_is_known_by_name_is_found_where_the_name_leads_now", |scene| {
        let mut ground = Ground::lay(scene)?;
        let hosts = scene.path("hosts");
        let tell = |ground: &Ground| -> Result<String> {
            let address = ground.topology.hosts[SERVER].address();
            // In place: it is mounted.
            std::fs::write(&hosts, format!("127.0.0.1 localhost\n{address} home.lab\n"))?;
            Ok(format!("{address}:4433"))
        };
        let first = tell(&ground)?;
        ground.broker(scene, ("\"home.lab:4433\"", ""), |plan| {
            plan.with_file(&scene.path("hosts"), "/etc/hosts")
        })?;
        let download = ground.download(scene, "raw.lab")?;
        ensure!(ground.at()? == first, "{}", ground.at()?);
        ground.topology.hosts[SERVER].replace_address(0)?;
        let second = tell(&ground)?;
        ground.must_be_right(download)?;
        ensure!(ground.at()? == second, "{}", ground.at()?);
        Ok(())
    });
}

/// An HTTP proxy that wants a log-in, on the host between.
fn tinyproxy(scene: &Scene, host: &Namespace) -> Result<Process> {
    let config = scene.path("tinyproxy.conf");
    let text = format!(
        "Port {PORT}\nListen 0.0.0.0\nTimeout 600\nMaxClients 50\nBasicAuth me secret\n\
         ConnectPort 4433\nLogLevel Connect\n"
    );
    std::fs::write(&config, text)?;
    proxy(scene, host, Plan::new("tinyproxy").arg("-d").arg("-c").arg(&config))
}

/// A SOCKS5 proxy that wants a log-in.
fn microsocks(scene: &Scene, host: &Namespace) -> Result<Process> {
    let port = PORT.to_string();
    proxy(scene, host, Plan::new("microsocks").args(&["-p", &port, "-u", "me", "-P", "s@cret"]))
}

fn proxy(scene: &Scene, host: &Namespace, plan: Plan) -> Result<Process> {
    let mut process = plan.start(scene, Some(host))?;
    wait::until_true("the proxy", Duration::from_secs(10), || {
        let connect = || std::net::TcpStream::connect(("127.0.0.1", PORT)).is_ok();
        process.must_run().is_ok() && host.inside(connect).unwrap_or(false)
    })?;
    Ok(process)
}

/// Only the proxy is reachable; a download goes through it, and survives its client's new address.
fn by_proxy(
    scene: &Scene,
    proxy: impl FnOnce(&Scene, &Namespace) -> Result<Process>,
    broker: impl FnOnce(&Scene, &mut Ground, String) -> Result<()>,
) -> Result<()> {
    let mut ground = Ground::lay(scene)?;
    ground.close_the_straight_way(scene)?;
    let host = &ground.topology.hosts[PROXY];
    let place = format!("{}:{PORT}", host.address());
    let proxy = proxy(scene, &host.namespace)?;
    broker(scene, &mut ground, place)?;
    let download = ground.download(scene, "raw.lab")?;
    ground.topology.hosts[CLIENT].replace_address(0)?;
    ground.must_be_right(download)?;
    drop(proxy);
    Ok(())
}

/// How the server is written down for a broker.
fn address(ground: &Ground) -> String {
    format!("{:?}", ground.server.address)
}

#[test]
fn links_go_through_an_http_proxy_that_is_configured() {
    play("links_go_through_an_http_proxy_that_is_configured", |scene| {
        by_proxy(scene, tinyproxy, |scene, ground, place| {
            let more = format!("proxy = \"http://me:secret@{place}\"");
            ground.broker(scene, (&address(ground), &more), |plan| plan)
        })
    });
}

/// The straight way is silent; nobody has to configure anything.
#[test]
fn links_go_through_the_proxy_of_the_environment_where_nothing_else_leads_out() {
    play("links_go_through_the_proxy_of_the_environment", |scene| {
        by_proxy(scene, microsocks, |scene, ground, place| {
            let proxy = format!("socks5h://me:s%40cret@{place}");
            ground.broker(scene, (&address(ground), ""), |plan| plan.env("all_proxy", proxy))
        })
    });
}

/// The name means something only to the proxy.
#[test]
fn a_proxy_may_know_the_name_that_nobody_else_knows() {
    play("a_proxy_may_know_the_name_that_nobody_else_knows", |scene| {
        let hosts = scene.path("hosts");
        let start = |scene: &Scene, host: &Namespace| {
            let address = "10.2.0.1 home.lab\n127.0.0.1 localhost\n";
            std::fs::write(&hosts, address)?;
            let config = scene.path("tinyproxy.conf");
            std::fs::write(&config, format!("Port {PORT}\nListen 0.0.0.0\nLogLevel Connect\n"))?;
            let plan = Plan::new("tinyproxy").arg("-d").arg("-c").arg(&config);
            proxy(scene, host, plan.with_file(&hosts, "/etc/hosts"))
        };
        by_proxy(scene, start, |scene, ground, place| {
            let at = ground.topology.hosts[SERVER].address();
            ensure!(at == "10.2.0.1", "the server is at {at}");
            let more = format!("proxy = \"http://{place}\"");
            ground.broker(scene, ("\"home.lab:4433\"", &more), |plan| plan)
        })
    });
}

/// A proxy that wants another log-in is said to.
#[test]
fn what_a_proxy_says_is_told() {
    play("what_a_proxy_says_is_told", |scene| {
        let mut ground = Ground::lay(scene)?;
        ground.close_the_straight_way(scene)?;
        let host = &ground.topology.hosts[PROXY];
        let place = format!("{}:{PORT}", host.address());
        let _proxy = tinyproxy(scene, &host.namespace)?;
        let more = format!("proxy = \"http://me:wrong@{place}\"\n[limits]\nconnect = \"2s\"\n");
        let at = address(&ground);
        ground.broker(scene, (&at, &more), |plan| plan)?;
        ground.asks_in_vain(scene)?;
        let why = ground.status()?["services"][0]["servers"][0]["why"].to_string();
        let told = why.contains("it wants another log-in (401)") && !why.contains("wrong");
        ensure!(told, "{why}");
        Ok(())
    });
}

/// Who is named in `no_proxy` is not looked for behind it.
#[test]
fn no_proxy_is_heeded() {
    play("no_proxy_is_heeded", |scene| {
        let mut ground = Ground::lay(scene)?;
        ground.close_the_straight_way(scene)?;
        let host = &ground.topology.hosts[PROXY];
        let proxy = format!("http://me:secret@{}:{PORT}", host.address());
        let proxies = tinyproxy(scene, &host.namespace)?;
        let at = address(&ground);
        ground.broker(scene, (&at, "[limits]\nconnect = \"4s\"\n"), |plan| {
            plan.env("all_proxy", proxy).env("no_proxy", "example.org,10.2.0.0/16")
        })?;
        ground.asks_in_vain(scene)?;
        let said = proxies.log() + &proxies.printed();
        ensure!(!said.contains("10.2.0.1"), "the proxy was asked: {said}");
        Ok(())
    });
}

/// A path that loses packets of more than 1,280 bytes, as tunnels do that somebody has set up
/// wrong, and lets no notice of it through. 1,280 is the least that IPv6 needs.
fn black_hole() -> Shape {
    Shape { longest: 1_280, ..Shape::of(40, 10) }
}

/// The session's own path begins to lose long packets.
#[test]
fn a_path_that_loses_long_packets_is_passed_by_short_ones() {
    play("a_path_that_loses_long_packets_is_passed_by_short_ones", |scene| {
        let mut ground = Ground::lay(scene)?;
        let at = address(&ground);
        ground.broker(scene, (&at, ""), |plan| plan)?;
        let (curl, to) = ground.download(scene, "raw.lab")?;
        let growth = Growth::watch(&to);
        ground.topology.shape(CLIENT, 0, black_hole())?;
        let at = Instant::now();
        growth.grow_after(at + Duration::from_secs(1), Duration::from_secs(20))?;
        ground.must_be_right((curl, to))?;
        let pause = (growth.pause_after(at)?.to - at).as_millis();
        scene.say(&format!("long packets lost in mid-download: next byte after {pause} ms"));
        let log = std::fs::read_to_string(scene.path("broker.err"))?;
        ensure!(log.contains("loses long packets"), "it says nothing of it: {log}");
        Ok(())
    });
}

#[test]
fn a_path_that_has_always_lost_long_packets_is_passed() {
    play("a_path_that_has_always_lost_long_packets_is_passed", |scene| {
        let mut ground = Ground::lay(scene)?;
        ground.topology.shape(CLIENT, 0, black_hole())?;
        let at = address(&ground);
        ground.broker(scene, (&at, ""), |plan| plan)?;
        let begun = Instant::now();
        let download = ground.download(scene, "web.lab")?;
        scene.say(&format!("a third of it is there after {} ms", begun.elapsed().as_millis()));
        // An upload as well: both ends send short packets.
        let sent = Plan::new("curl")
            .called("upload")
            .args(&["-sS", "--fail", "-T"])
            .arg(&ground.payload.path)
            .arg("http://raw.lab/upload/up")
            .env("LD_PRELOAD", daemon::shim()?)
            .env("SESSION_DIR", scene.path("session"));
        sent.run(scene, Some(ground.client()), Duration::from_secs(90))?.ok()?;
        let there = file::sha256(&ground._nginx.root.join("upload/up"))?;
        ensure!(there == ground.payload.sha256, "other bytes went up");
        ground.must_be_right(download)
    });
}

/// A session waits longer for a port that refuses than it takes to log in; a new one waits as if
/// nothing answered.
#[test]
fn a_network_that_wants_a_log_in_is_waited_for() {
    play("a_network_that_wants_a_log_in_is_waited_for", |scene| {
        let mut ground = Ground::lay(scene)?;
        let at = address(&ground);
        ground.broker(scene, (&at, ""), |plan| plan)?;
        let _portal = Portal::start(scene, ground.client())?;
        let download = ground.download(scene, "raw.lab")?;
        let growth = Growth::watch(&download.1);
        Portal::catch(scene, ground.client(), Portal::PLAIN)?;
        ground.topology.hosts[CLIENT].replace_address(0)?;
        // Longer than a closed port would be asked for the sake of a running session.
        std::thread::sleep(Duration::from_secs(22));
        Portal::catch(scene, ground.client(), Portal::SECURE)?;
        let to = scene.path("later");
        let mut later = Plan::new("curl")
            .called("later")
            .args(&["-sS", "--fail", "-r", "0-99", "-o"])
            .arg(&to)
            .arg("http://web.lab/big")
            .env("LD_PRELOAD", daemon::shim()?)
            .env("SESSION_DIR", scene.path("session"))
            .start(scene, Some(ground.client()))?;
        std::thread::sleep(Duration::from_secs(7));
        later.must_run()?;
        let told = ground.status()?["services"][0]["servers"][0].to_string();
        ensure!(told.contains("log-in page"), "{told}");
        Portal::let_go(scene, ground.client())?;
        let over = Instant::now();
        growth.grow_after(over, Duration::from_secs(10))?;
        let after = growth.pause_after(over)?.to.saturating_duration_since(over).as_millis();
        scene.say(&format!("29 s of a log-in page: next byte {after} ms after it"));
        later.end(Duration::from_secs(20))?.ok()?;
        ensure!(std::fs::read(&to)?.len() == 100, "not what was asked for");
        ground.must_be_right(download)
    });
}
