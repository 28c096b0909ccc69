//! Measures a daemon with 100,000 names: look-ups per second, memory, and the time of a refused
//! log-in.
//!
//! `cargo run --release -p stp-sns --example lookups [NAMES]`: fills a store, starts `stp-sns`
//! (beside this program) on it, and asks over several links with many requests under way.
#![allow(clippy::print_stdout, clippy::unwrap_used, reason = "a measurement, run by hand")]

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use stp_lookup::{Connection, Verifier};
use stp_net::key::{Identity, PublicKey};
use stp_net::link::{LinkOptions, Tls};
use stp_proto::lookup::{Ask, Body, KdfCost, Login, OneService, Prove};
use stp_sns::record::{Endpoint, Service, User, json};
use stp_sns::store::embedded::Embedded;
use stp_sns::store::{Change, Lease, Store};
use stp_sns::tables::Tables;

const LINKS: usize = 8;
const UNDER_WAY: usize = 128;
const TIME: Duration = Duration::from_secs(5);
const LOGINS: usize = 400;

fn resident_kib(pid: u32) -> u64 {
    let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = text.lines().find(|line| line.starts_with("VmRSS")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

async fn fill(path: &Path, names: usize) {
    let tables: Arc<Tables> = Arc::default();
    let store = Embedded::open(path, tables).unwrap();
    let owner = Identity::generate().public_key();
    for first in (0..names).step_by(1_000) {
        let mut changes = Vec::new();
        for number in first..(first + 1_000).min(names) {
            let endpoint =
                Endpoint { owner, addresses: vec!["192.0.2.1".parse().unwrap()], lease_s: 0 };
            let put = |key, value| Change::Put { key, value, lease: Lease::None };
            changes.push(put(format!("ep/host{number}@example.com"), json(&endpoint)));
            let service = Service { port: 4433, key: owner };
            changes.push(put(format!("sv/host{number}@example.com/www"), json(&service)));
        }
        store.commit(Vec::new(), changes).await.unwrap();
    }
    let verifier = Verifier::new("a password", KdfCost::default()).unwrap();
    let value = json(&User::new(&verifier, "/"));
    let put = Change::Put { key: "user/alice".into(), value, lease: Lease::None };
    store.commit(Vec::new(), vec![put]).await.unwrap();
}

fn start(folder: &Path, port: u16) -> Child {
    let cluster = folder.join("cluster.key");
    stp_sns::cluster_key::step(&cluster, stp_sns::cluster_key::Step::Add).unwrap();
    let config = folder.join("sns.toml");
    let text = format!(
        "listen = \"127.0.0.1:{port}\"\nkey_file = {:?}\ncluster = \"c\"\n\
         cluster_key_file = {cluster:?}\nstatus = \"off\"\nadmin = {:?}\n\
         [store]\npath = {:?}\n[limits]\nrequests_per_s = 100000000\nattempts = 100000\n",
        folder.join("sns.key"),
        folder.join("sock"),
        folder.join("sns.redb")
    );
    std::fs::write(&config, text).unwrap();
    let here = std::env::current_exe().unwrap();
    let program: PathBuf = here.parent().unwrap().parent().unwrap().join("stp-sns");
    let mut command = Command::new(program);
    command.arg("--config").arg(config).args(["--log", "warn"]).stdin(Stdio::null());
    command.spawn().unwrap()
}

async fn ask(connection: Connection, names: usize, seed: usize, until: Instant) -> u64 {
    let mut workers = Vec::new();
    for worker in 0..UNDER_WAY {
        let connection = connection.clone();
        workers.push(tokio::spawn(async move {
            let mut at = (seed * 7_919 + worker * 104_729) % names;
            let mut count = 0;
            while Instant::now() < until {
                at = (at * 31 + 17) % names;
                let name = format!("www.host{at}@example.com").parse().unwrap();
                let answer = connection.ask(Ask::GetService(OneService { name })).await.unwrap();
                assert!(matches!(answer, Body::Service(_)));
                count += 1;
            }
            count
        }));
    }
    let mut all = 0;
    for worker in workers {
        all += worker.await.unwrap();
    }
    all
}

#[tokio::main]
async fn main() {
    let names = std::env::args().nth(1).map_or(100_000, |text| text.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let begun = Instant::now();
    fill(&folder.path().join("sns.redb"), names).await;
    let filled = begun.elapsed();
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let begun = Instant::now();
    let mut daemon = start(folder.path(), port);
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(begun.elapsed() < Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let ready = begun.elapsed();
    let memory = resident_kib(daemon.id());
    let key = Identity::load_or_create(&folder.path().join("sns.key")).unwrap().public_key();
    let address = format!("127.0.0.1:{port}").parse().unwrap();
    let mut links = Vec::new();
    for _ in 0..LINKS {
        let tls = Tls::new(&Identity::generate());
        let options = LinkOptions::default();
        links.push(Connection::open(address, &key, &tls, &options).await.unwrap());
    }
    let begun = Instant::now();
    let until = begun + TIME;
    let asking: Vec<_> = links
        .into_iter()
        .enumerate()
        .map(|(seed, link)| tokio::spawn(ask(link, names, seed, until)))
        .collect();
    let mut all = 0;
    for asking in asking {
        all += asking.await.unwrap();
    }
    let per_s = all as f64 / begun.elapsed().as_secs_f64();
    let after = resident_kib(daemon.id());
    println!(
        "names {names}: filled in {:.1} s, ready after {:.2} s",
        filled.as_secs_f64(),
        ready.as_secs_f64()
    );
    println!(
        "memory {:.1} MiB ready, {:.1} MiB after the look-ups",
        memory as f64 / 1024.0,
        after as f64 / 1024.0
    );
    println!(
        "look-ups {per_s:.0}/s over {LINKS} links, {UNDER_WAY} under way on each; \
         asking and answering on the same cores"
    );
    let [known, unknown] = log_ins(address, &key).await;
    println!("refused log-in {known:.0} us for a known user, {unknown:.0} us for an unknown one");
    let _ = daemon.kill();
    let _ = daemon.wait();
}

/// Median times of a refused log-in, in microseconds: for a known user, and for an unknown one. A
/// link ends after three failures, so each attempt has a link of its own, one after the other.
async fn log_ins(address: SocketAddr, key: &PublicKey) -> [f64; 2] {
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..LOGINS {
        let tls = Tls::new(&Identity::generate());
        let link = Connection::open(address, key, &tls, &LinkOptions::default()).await.unwrap();
        // The first answer on a link takes longer than later ones, so it is not counted.
        let name = "www.host1@example.com".parse().unwrap();
        link.ask(Ask::GetService(OneService { name })).await.unwrap();
        let user = ["alice", "mallory"][round % 2].to_owned();
        let begun = Instant::now();
        link.ask(Ask::Login(Login { user })).await.unwrap();
        link.ask(Ask::Prove(Prove { signature: [7; 64] })).await.unwrap_err();
        times[round % 2].push(begun.elapsed().as_secs_f64() * 1e6);
    }
    times.map(|mut times| {
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    })
}
