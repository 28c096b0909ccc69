//! `--crowd`: a server dies under many sessions, with another one present, as in table 1 of the
//! paper on SecureJeebs: how many go on, and after what time.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Result, ensure};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;
use stp_tests::daemon::{self, Broker, Offer, SERVER_STATUS, Server, Wanted};
use stp_tests::emulator::Shape;
use stp_tests::keepers::Leftovers;
use stp_tests::nginx::Nginx;
use stp_tests::scene::Scene;
use stp_tests::topology::Topology;
use stp_tests::vsftpd::Vsftpd;
use stp_tests::wait;

use crate::run::played;

/// Sessions at once: the paper's sizes, and larger ones.
const SIZES: [usize; 6] = [5, 10, 20, 70, 300, 1_000];
/// The paper's.
const QUICK: usize = 4;
const WORK: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/compare/crowd.py");
/// The Debian one: a version manager's wrapper would be a shell script.
const PYTHON: &str = "/usr/bin/python3";
const START_MAX: Duration = Duration::from_secs(120);
const END_MAX: Duration = Duration::from_secs(200);
const WEB: &str = "www.crowd@lab.example";
const RAW: &str = "raw.crowd@lab.example";
const FTP: &str = "ftp.crowd@lab.example";

/// A line of the table.
#[derive(Clone, Copy)]
enum Way {
    Http,
    Ftp,
    /// Any protocol, and the process dies instead of the machine.
    Tcp,
}

impl Way {
    const ALL: [Way; 3] = [Way::Http, Way::Ftp, Way::Tcp];

    fn name(self) -> &'static str {
        match self {
            Way::Http => "http, machine dies",
            Way::Ftp => "ftp, machine dies",
            Way::Tcp => "tcp, process is killed",
        }
    }

    /// What [`WORK`] is told: what to speak, and the host.
    fn words(self) -> [&'static str; 2] {
        match self {
            Way::Http => ["http", "web.lab"],
            Way::Ftp => ["ftp", "ftp.lab"],
            Way::Tcp => ["http", "raw.lab"],
        }
    }
}

/// All of it, as Markdown.
pub fn table(quick: bool) -> Result<String> {
    let sizes = if quick { &SIZES[..QUICK] } else { &SIZES[..] };
    let mut text = "| sessions | | recovered | mean | deviation | median | shortest | longest |\n\
                    |--:|---|--:|--:|--:|--:|--:|--:|\n"
        .to_owned();
    for size in sizes {
        for way in Way::ALL {
            let name = format!("crowd-{size}-{}", way.words()[1]);
            let times = played(&name, |scene| run(scene, way, *size))?;
            writeln!(text, "{}", line(*size, way, times))?;
        }
    }
    Ok(text)
}

fn line(size: usize, way: Way, mut times: Vec<f64>) -> String {
    times.sort_unstable_by(f64::total_cmp);
    let count = times.len() as f64;
    let share = 100.0 * count / size as f64;
    let Some((shortest, longest)) = times.first().zip(times.last()) else {
        return format!("| {size} | {} | {share:.0} % | | | | | |", way.name());
    };
    let mean = times.iter().sum::<f64>() / count;
    let spread = times.iter().map(|time| (time - mean).powi(2)).sum::<f64>() / count;
    let middle = (times[(times.len() - 1) / 2] + times[times.len() / 2]) / 2.0;
    format!(
        "| {size} | {} | {share:.0} % | {mean:.2} s | {:.2} s | {middle:.2} s | {shortest:.2} s | \
         {longest:.2} s |",
        way.name(),
        spread.sqrt()
    )
}

/// Seconds until each session that went on had its next answer.
fn run(scene: &Scene, way: Way, size: usize) -> Result<Vec<f64>> {
    let topology = Topology::build(&[("client", 1), ("a", 1), ("b", 1)])?;
    topology.shape(0, 0, Shape { queue: 8 << 20, ..Shape::of(1000, 5) })?;
    // The second one is farther, so that all sessions begin at the first.
    topology.shape(2, 0, Shape { queue: 8 << 20, ..Shape::of(1000, 15) })?;
    let key = daemon::cluster_key(scene, "cluster.key")?;
    let word = scene.path("a.toml").display().to_string();
    let kept = Leftovers::of("stp-server", word)?;
    let (mut servers, mut behind, mut offered) = (Vec::new(), Vec::new(), Vec::new());
    for (host, name) in topology.hosts.iter().skip(1).zip(["a", "b"]) {
        let web = Nginx::start(scene, &format!("nginx-{name}"), &host.namespace)?;
        // It would take 50 logins of one address, and all come from the server beside it.
        let more = "max_per_ip=0\nmax_clients=0\n";
        let ftp = Vsftpd::start(scene, &format!("vsftpd-{name}"), &host.namespace, more)?;
        for number in 0..7 {
            let text = format!("piece {number}\n").repeat(100);
            for root in [&web.root, &ftp.root] {
                let path = root.join(format!("piece-{number}"));
                std::fs::write(&path, &text)?;
                let time = UNIX_EPOCH + Duration::from_secs(1_234_567_890);
                std::fs::File::options().write(true).open(path)?.set_modified(time)?;
            }
        }
        ftp.close_root()?;
        let offers = [
            Offer::new(WEB, "http", web.local()),
            Offer::new(RAW, "tcp", web.local()),
            Offer::new(FTP, "ftp", "127.0.0.1:21"),
        ];
        let at = (&host.namespace, &*host.address());
        let server = Server::start_as(scene, name, at, &key, (&offers, ""), |server| match way {
            Way::Tcp if name == "a" => server.kept(),
            Way::Http | Way::Ftp | Way::Tcp => server,
        })?;
        offered.push((server.name.clone(), server.address.clone(), server.key.clone()));
        servers.push(server);
        behind.push((web, ftp));
    }
    let wanted = [(WEB, "web.lab:80"), (RAW, "raw.lab:80"), (FTP, "ftp.lab:21")];
    let wanted = wanted.map(|(name, route)| Wanted { name, route, servers: offered.clone() });
    let client = &topology.hosts[0].namespace;
    let broker = Broker::start(scene, client, &wanted, "")?;
    let [kind, host] = way.words();
    let plan = broker.app(PYTHON)?.called("crowd");
    let plan = plan.args(&[WORK, kind, &size.to_string(), host]).arg(scene.dir());
    let mut crowd = plan.start(scene, Some(client))?;
    wait::until("all sessions", START_MAX, || {
        crowd.must_run()?;
        Ok(crowd.printed().contains("connected").then_some(()))
    })?;
    let there = &topology.hosts[1].namespace;
    let status = daemon::status(there, SERVER_STATUS)?;
    let here = status["sessions"].as_array().map_or(0, Vec::len);
    ensure!(here == size, "{here} of {size} sessions are at the first server");
    crowd.must_run()?;
    let died = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs_f64();
    match way {
        Way::Http | Way::Ftp => topology.cut(1, 0, true)?,
        Way::Tcp => kill(kept.one(false)?, Signal::SIGKILL)?,
    }
    // It is there as a whole, or not at all.
    std::fs::write(scene.path("died.new"), died.to_string())?;
    std::fs::rename(scene.path("died.new"), scene.path("died"))?;
    let printed = crowd.end(END_MAX)?.ok()?.out;
    let all: Vec<Value> = serde_json::from_str(printed.lines().last().unwrap_or_default())?;
    let errors = all.iter().filter(|one| !one.is_number());
    for error in errors.take(3) {
        scene.say(&format!("not recovered: {error}"));
    }
    Ok(all.iter().filter_map(Value::as_f64).collect())
}
