//! `session serve`: a laptop offers a service by a name of its user's own, and moves; whoever uses
//! it moves as well (KTH 3.2.2, use cases 4, 7, 9 and 11).

use std::io::Write;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use stp_tests::daemon;
use stp_tests::process::{Plan, Process};
use stp_tests::scene::{Scene, play};
use stp_tests::sns::{SNS_PORT, Sns};
use stp_tests::sshd;
use stp_tests::topology::Topology;
use stp_tests::user::User;
use stp_tests::wait;

const SOON: Duration = Duration::from_secs(60);
const CLIENT: usize = 0;
const LAPTOP: usize = 1;
const NAMES: usize = 2;
/// The service, and what its host is called.
const NAME: &str = "ssh.laptop@demo.example";
const HOST: &str = "ssh.laptop.at.demo.example.stp";

/// A client, a laptop with an sshd of its own, and a name server. Programs end first, the network
/// last.
struct Ground {
    client: User,
    laptop: User,
    _sshd: Process,
    /// Options of an ssh that this sshd lets in.
    ssh: String,
    sns: Sns,
    topology: Topology,
}

impl Ground {
    fn lay(scene: &Scene, creators: &str) -> Result<Ground> {
        let topology = Topology::build(&[("client", 1), ("laptop", 1), ("names", 1)])?;
        let cluster_key = daemon::cluster_key(scene, "cluster.key")?;
        let tables = format!(
            "[store]\npath = {:?}\n[[domain]]\nname = \"demo.example\"\ncreators = {creators}\n\
             [limits]\nlease_max = \"3s\"\n",
            scene.path("sns.redb"),
        );
        let names = &topology.hosts[NAMES];
        let sns = Sns::start(scene, "sns", &names.namespace, &cluster_key, &tables)?;
        let config = format!(
            "[[directory]]\ndomain = \"demo.example\"\naddress = \"{}\"\nkey = \"{}\"\n",
            names.address(),
            sns.key
        );
        let (sshd, ssh) = sshd::start(scene, &topology.hosts[LAPTOP].namespace)?;
        let client = User::with_config(scene, &config)?;
        let laptop = User::in_home(scene, "laptop", "")?;
        Ok(Ground { client, laptop, _sshd: sshd, ssh, sns, topology })
    }

    /// `session serve`, by this user.
    fn serve(&self, user: &User, called: &str, more: &[&str]) -> Result<Plan> {
        let place = format!("{}:{SNS_PORT}", self.topology.hosts[NAMES].address());
        let told = ["--name-server", &place, "--key", &self.sns.key];
        Ok(user.plan("session")?.called(called).args(&["serve", NAME]).args(&told).args(more))
    }

    /// An ssh to that name which says every line that it is told, and the file into which those go.
    fn ssh(&self, scene: &Scene, command: &str) -> Result<Process> {
        let ssh = format!("ssh {} root@{HOST} '{command}'", self.ssh);
        let plan = self.client.app("sh")?.args(&["-c", &ssh]);
        plan.start(scene, Some(&self.topology.hosts[CLIENT].namespace))
    }
}

/// The words of a running program grow, by at least two lines from now on.
fn goes_on(ssh: &mut Process) -> Result<Duration> {
    let (begun, before) = (Instant::now(), ssh.printed().lines().count());
    wait::until("the next words of the ssh", SOON, || {
        ssh.must_run()?;
        Ok((ssh.printed().lines().count() >= before + 2).then_some(()))
    })?;
    Ok(begun.elapsed())
}

#[test]
fn serve_keeps_a_client_through_every_move() {
    play("serve.moves", |scene| {
        let mut ground = Ground::lay(scene, "\"any\"")?;
        let serve = ground.serve(&ground.laptop, "serve", &["--to", "22"])?;
        let mut serve = serve.start(scene, Some(&ground.topology.hosts[LAPTOP].namespace))?;
        wait::until("the name to be known", SOON, || {
            serve.must_run()?;
            Ok(serve.log().contains("announced to the directory").then_some(()))
        })?;
        ground.client.start_broker(scene, &ground.topology.hosts[CLIENT].namespace)?;
        let words = "i=0; while [ -e /proc/self ]; do i=$((i+1)); echo word $i; sleep 0.2; done";
        let mut ssh = ground.ssh(scene, words)?;
        goes_on(&mut ssh)?;
        let tell = |what: &str, ssh: &mut Process| -> Result<()> {
            let gap = goes_on(ssh)?;
            scene.say(&format!("{what}: goes on after {} ms", gap.as_millis()));
            Ok(())
        };
        ground.topology.hosts[LAPTOP].replace_address(0)?;
        tell("the laptop's address", &mut ssh)?;
        ground.topology.hosts[CLIENT].replace_address(0)?;
        tell("the client's address", &mut ssh)?;
        for host in [LAPTOP, CLIENT] {
            ground.topology.hosts[host].replace_address(0)?;
        }
        tell("both at once", &mut ssh)?;
        // Asleep: nothing of it runs, and nothing comes from it.
        ground.topology.cut(LAPTOP, 0, true)?;
        let asleep = std::env::var("STP_IDLE_S").unwrap_or_else(|_| "20".to_owned());
        std::thread::sleep(Duration::from_secs(asleep.parse().context("STP_IDLE_S")?));
        ground.topology.hosts[LAPTOP].replace_address(0)?;
        ground.topology.cut(LAPTOP, 0, false)?;
        tell("the laptop's sleep, and another address afterwards", &mut ssh)?;
        let said = ssh.printed();
        let numbers: Vec<u64> =
            said.lines().filter_map(|line| line.strip_prefix("word ")?.parse().ok()).collect();
        let right: Vec<u64> = (1..=numbers.len() as u64).collect();
        ensure!(numbers == right, "not every word once, in order: {said}");
        // Ctrl-C takes the name back, and a new connection is refused as one to an unknown name.
        serve.signal(Signal::SIGINT)?;
        serve.end(SOON)?.ok()?;
        wait::until("the name to be gone", SOON, || {
            let again = ground.ssh(scene, "true")?.end(SOON)?;
            ensure!(!again.status.success(), "it is still served");
            Ok(ground.client.broker_log().contains("does not exist").then_some(()))
        })
    });
}

/// Use cases 7 and 9, the alternatives: the name is somebody else's, or may not be made; and a
/// folder is served as well as a port.
#[test]
fn serve_says_why_a_name_cannot_be_had() {
    play("serve.refused", |scene| {
        let mut ground = Ground::lay(scene, "\"any\"")?;
        let here = &ground.topology.hosts[LAPTOP].namespace;
        let folder = scene.subdir("shared")?;
        std::fs::File::create(folder.join("page"))?.write_all(b"a page")?;
        let to = folder.display().to_string();
        let mut first =
            ground.serve(&ground.laptop, "first", &["--to", &to])?.start(scene, Some(here))?;
        wait::until("the name to be known", SOON, || {
            first.must_run()?;
            Ok(first.log().contains("announced to the directory").then_some(()))
        })?;
        let other = User::in_home(scene, "other", "")?;
        let second = ground.serve(&other, "second", &["--to", "22"])?;
        let second = second.run(scene, Some(&ground.topology.hosts[CLIENT].namespace), SOON)?;
        let said = format!("{}{}", second.out, second.err);
        ensure!(second.status.code() == Some(125), "it ended with {}: {said}", second.status);
        ensure!(said.contains("the name is taken"), "it says {said}");
        let none = ground.serve(&other, "none", &["--to", "/no/such/folder"])?;
        let none = none.run(scene, Some(here), SOON)?;
        ensure!(!none.status.success() && none.err.contains("no folder"), "it says {}", none.err);
        ground.client.start_broker(scene, &ground.topology.hosts[CLIENT].namespace)?;
        let got =
            ground.client.app("curl")?.args(&["-sS", "--fail", &format!("http://{HOST}/page")]);
        let got = got.run(scene, Some(&ground.topology.hosts[CLIENT].namespace), SOON)?.ok()?;
        ensure!(got.out == "a page", "curl got {:?}", got.out);
        Ok(())
    });
}

/// A domain that lists who may make names says so to everybody else.
#[test]
fn serve_is_refused_where_only_others_may_make_names() {
    play("serve.not_allowed", |scene| {
        let ground = Ground::lay(scene, "[]")?;
        let serve = ground.serve(&ground.laptop, "serve", &["--to", "22"])?;
        let serve = serve.run(scene, Some(&ground.topology.hosts[LAPTOP].namespace), SOON)?;
        let said = format!("{}{}", serve.out, serve.err);
        ensure!(serve.status.code() == Some(125), "it ended with {}: {said}", serve.status);
        ensure!(said.contains("may not make names") && said.contains("creators"), "{said}");
        Ok(())
    });
}
