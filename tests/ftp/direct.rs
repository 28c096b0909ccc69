//! FTP without a far end: the broker's own server logs in at the FTP server itself.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, ensure};
use stp_tests::daemon;
use stp_tests::emulator::Shape;
use stp_tests::file::{self, Payload};
use stp_tests::process::{Plan, Process};
use stp_tests::scene::{Scene, play};
use stp_tests::topology::Topology;
use stp_tests::vsftpd::Vsftpd;
use stp_tests::wait;

use crate::world::{CLIENT, CLIENT_MAX};

const ORIGIN: usize = 1;
const CONFIG: &str = "[[service]]\nkind = \"direct\"\n[[route]]\nto = \"*:21\"\n\
    service = \"http.direct@localhost\"\n";

/// A client with a broker, and an FTP server somewhere.
struct Ground {
    broker: Process,
    dir: PathBuf,
    ftp: Vsftpd,
    topology: Topology,
    payload: Payload,
}

impl Ground {
    fn lay(scene: &Scene) -> Result<Ground> {
        let topology = Topology::build(&[("client", 1), ("origin", 1)])?;
        topology.shape(CLIENT, 0, Shape::of(100, 20))?;
        let payload = Payload::make(30, 1)?;
        // vsftpd keeps a file locked for an upload whose address is gone, until it misses it.
        let more = "lock_upload_files=NO";
        let ftp = Vsftpd::start(scene, "vsftpd", &topology.hosts[ORIGIN].namespace, more)?;
        payload.link(&ftp.root.join("big"))?;
        ftp.close_root()?;
        let (config, dir) = (scene.path("broker.toml"), scene.path("session"));
        std::fs::write(&config, format!("key_file = {:?}\n{CONFIG}", scene.path("client.key")))?;
        let mut broker = Plan::new(daemon::programs()?.join("stp-broker"))
            .called("broker")
            .env("SESSION_DIR", &dir)
            .arg("--config")
            .arg(&config)
            .start(scene, Some(&topology.hosts[CLIENT].namespace))?;
        wait::until("the broker", Duration::from_secs(20), || {
            broker.must_run()?;
            Ok(dir.join("status.sock").exists().then_some(()))
        })?;
        Ok(Ground { broker, dir, ftp, topology, payload })
    }

    fn curl(&self, scene: &Scene, arguments: &[&str], path: &str) -> Result<Process> {
        let url = format!("ftp://{}/{path}", self.topology.hosts[ORIGIN].address());
        let curl = Plan::new("curl")
            .args(&["-sS", "--fail"])
            .args(arguments)
            .arg(url)
            .env("LD_PRELOAD", daemon::shim()?)
            .env("SESSION_DIR", &self.dir);
        curl.start(scene, Some(&self.topology.hosts[CLIENT].namespace))
    }

    /// Waits until a third is there, and lets it happen.
    fn then(&self, file: &Path, happens: impl FnOnce() -> Result<()>) -> Result<()> {
        wait::until("a third of it", CLIENT_MAX, || {
            let length = std::fs::metadata(file).map_or(0, |meta| meta.len());
            Ok((length > self.payload.len / 3).then_some(()))
        })?;
        happens()
    }

    fn must_be_right(&mut self, curl: Process, file: &Path) -> Result<()> {
        curl.end(CLIENT_MAX)?.ok()?;
        ensure!(file::sha256(file)? == self.payload.sha256, "wrong bytes");
        self.broker.must_run()?;
        Ok(())
    }

    fn cut(&self) -> Result<()> {
        self.topology.cut(CLIENT, 0, true)?;
        std::thread::sleep(Duration::from_secs(5));
        self.topology.cut(CLIENT, 0, false)
    }
}

fn gets(name: &str, more: &[&str], happens: impl Fn(&Scene, &mut Ground) -> Result<()>) {
    play(name, |scene| {
        let mut ground = Ground::lay(scene)?;
        let got = scene.path("got");
        let text = got.display().to_string();
        let arguments = [more, &["-o", &text]].concat();
        let curl = ground.curl(scene, &arguments, "big")?;
        ground.then(&got, || Ok(()))?;
        happens(scene, &mut ground)?;
        ground.must_be_right(curl, &got)
    });
}

#[test]
fn a_download_outlives_a_cut() {
    gets("ftp-direct-cut", &[], |_, ground| ground.cut());
}

#[test]
fn a_download_outlives_a_new_address() {
    gets("ftp-direct-address", &[], |_, ground| ground.topology.hosts[CLIENT].replace_address(0));
}

#[test]
fn a_download_in_active_mode_outlives_a_cut() {
    gets("ftp-direct-active", &["-P", "-"], |_, ground| ground.cut());
}

#[test]
fn a_download_outlives_the_ftp_server() {
    gets("ftp-direct-server", &[], restart);
}

fn restart(scene: &Scene, ground: &mut Ground) -> Result<()> {
    ground.ftp.kill()?;
    std::thread::sleep(Duration::from_secs(1));
    ground.ftp.restart(scene, &ground.topology.hosts[ORIGIN].namespace)
}

fn puts(name: &str, happens: impl Fn(&Scene, &mut Ground) -> Result<()>) {
    play(name, |scene| {
        let mut ground = Ground::lay(scene)?;
        let local = scene.path("put");
        ground.payload.link(&local)?;
        let text = local.display().to_string();
        let curl = ground.curl(scene, &["-T", &text], "in/put")?;
        let there = ground.ftp.root.join("in/put");
        ground.then(&there, || Ok(()))?;
        happens(scene, &mut ground)?;
        ground.must_be_right(curl, &there)
    });
}

#[test]
fn an_upload_outlives_a_cut() {
    puts("ftp-direct-upload", |_, ground| ground.cut());
}

#[test]
fn an_upload_outlives_the_ftp_server() {
    puts("ftp-direct-upload-server", restart);
}

#[test]
fn an_upload_outlives_a_new_address() {
    puts("ftp-direct-upload-address", |_, ground| ground.topology.hosts[CLIENT].replace_address(0));
}
