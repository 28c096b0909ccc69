//! What an egress leads nobody to, whatever a real name server says, from one question to the
//! next, and whatever a web server redirects to.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use nix::sys::signal::Signal;
use stp_tests::emulator::Shape;
use stp_tests::file;
use stp_tests::nginx::Nginx;
use stp_tests::process::{Plan, Process};
use stp_tests::scene::{Scene, play};
use stp_tests::wait;

use crate::via::{CLIENT, FAR, Ground, INNER};

/// Clouds' metadata, which nobody is led to; and what the configuration denies. Brokers do not lead
/// to the first one as an address: it is on the link of their own machine.
const METADATA: &str = "169.254.169.254";
const CLOUD: &str = "100.100.100.200";
const DENIED: &str = "10.9.0.1";
const SOON: Duration = Duration::from_secs(30);

/// A real name server for the far machine.
struct Names {
    process: Process,
    file: PathBuf,
}

impl Names {
    fn start(ground: &Ground, scene: &Scene) -> Result<Names> {
        let inner = &ground.topology.hosts[INNER];
        let file = scene.path("names");
        std::fs::write(&file, "")?;
        let plan = Plan::new("dnsmasq")
            .args(&["--keep-in-foreground", "--no-resolv", "--no-hosts", "--local-ttl=0"])
            .args(&["--conf-file=/dev/null", "--user=root", "--log-facility=-", "--log-queries"])
            .args(&["--cname=alias.dns,meta.dns", "--local=/dns/"])
            .arg(format!("--pid-file={}", scene.path("dnsmasq.pid").display()))
            .arg(format!("--addn-hosts={}", file.display()));
        let mut process = plan.start(scene, Some(&inner.namespace))?;
        wait::until_true("dnsmasq", SOON, || {
            process.must_run().is_ok() && process.log().contains("started")
        })?;
        let etc = ground.root.join("etc");
        let resolver = format!("nameserver {}\noptions timeout:1\n", inner.address());
        std::fs::write(etc.join("resolv.conf"), resolver)?;
        Ok(Names { process, file })
    }

    /// It answers this from now on, with nothing for anybody to keep.
    fn say(&self, lines: &[(&str, &str)]) -> Result<()> {
        let lines = lines.iter().map(|(name, address)| format!("{address} {name}\n"));
        std::fs::write(&self.file, lines.collect::<String>())?;
        let reads = || self.process.log().matches(&*self.file.to_string_lossy()).count();
        let before = reads();
        self.process.signal(Signal::SIGHUP)?;
        wait::until_true("the names to be read", SOON, || reads() > before)
    }
}

/// The far machine with these addresses, a web server at them that nobody may reach, and the
/// rule that says so of one of them.
fn guarded(ground: &Ground, scene: &Scene) -> Result<Nginx> {
    let far = &ground.topology.hosts[FAR].namespace;
    for address in [METADATA, CLOUD, DENIED] {
        far.ip(&["address", "add", &format!("{address}/32"), "dev", "lo"])?;
    }
    let secrets = Nginx::start(scene, "secrets", far)?;
    for name in ["small", "big"] {
        std::fs::write(secrets.root.join(name), "secret\n".repeat(5_000_000))?;
    }
    let config = ground.home("server.toml");
    let rule = format!("deny = [\"{DENIED}:*\"]\n");
    std::fs::write(&config, std::fs::read_to_string(&config)? + &rule)?;
    ground.session(scene, &["via", "upgrade", "far"])?.ok()?;
    Ok(secrets)
}

struct Scenery {
    ground: Ground,
    names: Names,
    secrets: Nginx,
}

impl Scenery {
    fn set(scene: &Scene) -> Result<Scenery> {
        let mut ground = Ground::lay(scene)?;
        let names = Names::start(&ground, scene)?;
        ground.session(scene, &["via", "add", "far.example"])?.ok()?;
        let secrets = guarded(&ground, scene)?;
        ground.topology.shape(CLIENT, 0, Shape::of(40, 10))?;
        ground.start_broker(scene, &[])?;
        Ok(Scenery { ground, names, secrets })
    }

    /// What curl gets there.
    fn gets(&self, scene: &Scene, url: &str) -> Result<Option<String>> {
        let curl = self.ground.app("get", &["curl", "-sSL", "--fail", "-m", "20", url])?;
        let to = scene.path("get.out");
        let _none = std::fs::remove_file(&to);
        let ended = curl.run(scene, Some(self.ground.client()), SOON)?;
        Ok(ended.status.success().then_some(ended.out))
    }

    /// curl is refused at `last`, where `url` leads in the end.
    fn must_refuse(&self, scene: &Scene, url: &str, last: &str) -> Result<()> {
        let begun = Instant::now();
        let got = self.gets(scene, url)?;
        scene.say(&format!("{url}: refused after {:.1?}", begun.elapsed()));
        ensure!(got.is_none(), "{url} led to {:?}", got.map(|text| text[..20].to_owned()));
        let ended = &self.ground.status(scene)?["ended"];
        let ended = &ended[ended.as_array().map_or(0, Vec::len) - 1];
        // EACCES, and the address that it led to.
        let reason = ended["reason"].to_string();
        let address = [METADATA, CLOUD, DENIED, "a9fe:a9fe"];
        let told = reason.contains("errno 13") && address.iter().any(|it| reason.contains(it));
        ensure!(told && ended["destination"] == format!("{last}:80"), "{url}: {ended}");
        Ok(())
    }

    /// Nobody has asked the web server that nobody may reach.
    fn must_be_untouched(&self) -> Result<()> {
        let asked = self.secrets.access_log()?;
        ensure!(asked.is_empty(), "somebody was led there: {asked}");
        Ok(())
    }
}

#[test]
fn no_name_and_no_redirect_leads_where_nobody_may_go() {
    play("egress_denied", |scene| {
        let scenery = Scenery::set(scene)?;
        let inner = scenery.ground.topology.hosts[INNER].address();
        scenery.names.say(&[
            ("web.dns", &inner),
            ("both.dns", &inner),
            ("both.dns", METADATA),
            ("both.dns", DENIED),
            ("meta.dns", METADATA),
            ("denied.dns", DENIED),
            ("mapped.dns", "::ffff:169.254.169.254"),
            ("nat64.dns", "64:ff9b::a9fe:a9fe"),
            ("turns.dns", &inner),
        ])?;
        ensure!(scenery.gets(scene, "http://web.dns/small")?.as_deref() == Some("small\n"));
        for _ in 0..8 {
            let got = scenery.gets(scene, "http://both.dns/small")?;
            ensure!(got.as_deref() == Some("small\n"), "one of its addresses is good: {got:?}");
        }
        for name in ["meta", "alias", "denied", "mapped", "nat64"] {
            let host = format!("{name}.dns");
            scenery.must_refuse(scene, &format!("http://{host}/small"), &host)?;
        }
        scenery.must_refuse(scene, &format!("http://{CLOUD}/small"), CLOUD)?;
        // Its own answer is allowed, what it leads to is not.
        scenery.must_refuse(scene, "http://web.dns:8085/", CLOUD)?;
        // The same name a moment later.
        ensure!(scenery.gets(scene, "http://turns.dns/small")?.is_some());
        scenery.names.say(&[("turns.dns", METADATA)])?;
        scenery.must_refuse(scene, "http://turns.dns/small", "turns.dns")?;
        scenery.must_be_untouched()
    });
}

/// The rest of a response is asked for at an address that was looked up and decided on anew.
#[test]
fn a_download_is_not_continued_where_its_name_leads_now() {
    play("egress_rebinding", |scene| {
        let mut scenery = Scenery::set(scene)?;
        let inner = scenery.ground.topology.hosts[INNER].address();
        scenery.names.say(&[("turns.dns", &inner)])?;
        let (mut curl, to) = scenery.ground.curl(scene, "turns", "http://turns.dns/big")?;
        scenery.names.say(&[("turns.dns", METADATA)])?;
        scenery.ground.restart_web(scene)?;
        std::thread::sleep(Duration::from_secs(5));
        curl.must_run()?;
        scenery.must_be_untouched()?;
        scenery.names.say(&[("turns.dns", &inner)])?;
        curl.end(SOON)?.ok()?;
        ensure!(file::sha256(&to)? == scenery.ground.payload.sha256, "other bytes");
        scenery.must_be_untouched()
    });
}
