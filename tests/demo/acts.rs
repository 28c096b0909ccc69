//! The clients that download, and what happens to them.

use std::time::{Duration, Instant};

use anyhow::Result;
use stp_tests::cluster::{CLIENT, Cluster, PASSWORD, URL};
use stp_tests::scene::Scene;
use stp_tests::user::User;

use crate::download::Download;

/// The other machine of the same person is in the network of server b.
const THERE: usize = 2;

/// A link cut, another address, a server killed.
pub fn curl(scene: &Scene, cluster: &mut Cluster) -> Result<()> {
    let plan = cluster.user.app("curl")?.args(&["-sS", "--fail", "-o", "big.curl", URL]);
    let command = format!("session run -- curl -o big.curl {URL}");
    let download = Download::begin(scene, cluster, plan, &command, ("big.curl", "big.curl"))?;
    cut_move_kill(scene, cluster, download)
}

/// Both servers killed, one comes back; the path falls silent.
pub fn wget(scene: &Scene, cluster: &mut Cluster) -> Result<()> {
    let plan = cluster.user.app("wget")?;
    let plan = plan.args(&["-nv", "--tries=1", "-O", "big.wget", URL]);
    let command = format!("session run -- wget -O big.wget {URL}");
    let mut download = Download::begin(scene, cluster, plan, &command, ("big.wget", "big.wget"))?;
    download.reach(cluster, 30)?;
    for place in 0..2 {
        cluster.kill_server(place)?;
    }
    download.tell("☠ kill -9 of both servers");
    std::thread::sleep(Duration::from_secs(2));
    cluster.restart_server(scene, 1)?;
    download.tell("  server b runs again, after 2 s; it remembers nothing");
    download.goes_on(cluster, Instant::now())?;

    download.reach(cluster, 60)?;
    cluster.topology.cut(CLIENT, 0, true)?;
    download.tell("✂ the path goes silent: packets vanish, nobody is told");
    std::thread::sleep(Duration::from_secs(4));
    cluster.topology.cut(CLIENT, 0, false)?;
    download.tell("  the path is back, after 4 s");
    download.goes_on(cluster, Instant::now())?;
    download.tell_rtt(cluster)?;
    download.end(cluster)?;
    cluster.restart_server(scene, 0)?;
    cluster.all_there()
}

/// The same faults as for curl, for `session get`, which needs no shim: it asks for the file by
/// user and path.
pub fn get(scene: &Scene, cluster: &mut Cluster) -> Result<()> {
    let url = cluster.file_url();
    let plan = cluster.user.plan("session")?.called("session-get");
    let plan = plan.args(&["get", &url, "-o", "big.get"]);
    let command = format!("session get {url} -o big.get");
    let files = ("big.get.part", "big.get");
    let download = Download::begin(scene, cluster, plan, &command, files)?;
    cut_move_kill(scene, cluster, download)
}

fn cut_move_kill(scene: &Scene, cluster: &mut Cluster, mut download: Download) -> Result<()> {
    download.reach(cluster, 20)?;
    download.link_down(cluster, Duration::from_secs(3))?;
    download.reach(cluster, 45)?;
    download.new_address(cluster)?;
    download.reach(cluster, 70)?;
    let place = download.kill_serving(cluster)?;
    download.end(cluster)?;
    cluster.restart_server(scene, place)?;
    cluster.all_there()
}

/// A download that is begun on one machine and ends on another: it is carried there on a stick.
pub fn stick(scene: &Scene, cluster: &mut Cluster) -> Result<()> {
    const NAME: &str = "ada@demo.example";
    let config = std::fs::read_to_string(cluster.user.path(".config/session/broker.toml"))?;
    let mut there = User::in_home(scene, "home-there", &config)?;
    let (account, key) = (cluster.account(), cluster.sns.key.clone());
    let network = &cluster.topology.hosts[THERE].namespace;
    let login = ["login", &account, "--key", &key, "--password-stdin"];
    there.session(scene, network, &login, PASSWORD)?.ok()?;
    there.start_broker(scene, network)?;
    let here = |arguments: &[&str]| {
        let told = cluster.user.session(scene, cluster.client(), arguments, "")?.ok()?;
        anyhow::Ok(told.out.lines().next_back().unwrap_or_default().to_owned())
    };
    here(&["endpoint", "create", NAME])?;
    println!("        $ session endpoint create {NAME}");

    let url = cluster.file_url();
    let plan = cluster.user.plan("session")?.called("session-carried");
    let plan = plan.args(&["get", "--endpoint", NAME, &url, "-o", "big.stick"]);
    let command = format!("session get --endpoint {NAME} {url} -o big.stick");
    let files = ("big.stick.part", "big.stick");
    let mut download = Download::begin(scene, cluster, plan, &command, files)?;
    download.reach(cluster, 40)?;
    let stick = scene.path("stick");
    let place = stick.display().to_string();
    here(&["endpoint", "save", NAME, &place])?;
    download.tell(&format!("⇥ session endpoint save {NAME} STICK: this machine forgets it"));
    std::thread::sleep(Duration::from_secs(2));
    download.tell("  the stick is in a pocket, for 2 s; then in a machine in another network");
    let load = there.plan("session")?.called("session-load");
    let load = load.args(&["endpoint", "load", &place]).start(scene, Some(network))?;
    download.tell("$ session endpoint load STICK");
    download.end_elsewhere(cluster, load, &there.path("big.stick"))
}
