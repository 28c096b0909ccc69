//! Names, log-in and tickets between machines: which servers are asked and which are skipped, what
//! an app is told when no server is left, and two ends that move at the same time.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use stp_tests::cluster::{CLIENT, Cluster, Layout, Member, URL};
use stp_tests::daemon;
use stp_tests::emulator::Shape;
use stp_tests::file;
use stp_tests::growth::Growth;
use stp_tests::namespace::Namespace;
use stp_tests::process::{Ended, Plan, Process};
use stp_tests::scene::{Scene, play};
use stp_tests::sns::SNS_STATUS;
use stp_tests::user::User;
use stp_tests::wait;

const SOON: Duration = Duration::from_secs(60);

fn layout(members: &[Member]) -> Layout {
    let access = Shape::of(200, 20);
    Layout { members: members.to_vec(), megabytes: 20, access, gateway: "", broker: "" }
}

fn curl(scene: &Scene, cluster: &Cluster, to: &str) -> Result<Ended> {
    let curl = cluster.user.app("curl")?.args(&["-sS", "--fail", "-o", to, URL]);
    curl.run(scene, Some(cluster.client()), SOON)
}

fn right(cluster: &Cluster, name: &str) -> Result<()> {
    let sha256 = file::sha256(&cluster.user.path(name))?;
    ensure!(sha256 == cluster.payload.sha256, "{name} is not the file");
    Ok(())
}

/// STP 1–5: two of three servers have it.
#[test]
fn the_third_server_is_never_asked() {
    play("names.third", |scene| {
        let third = Member { holds: false, web: None, ..Member::full("c") };
        let mut cluster =
            Cluster::lay(scene, &layout(&[Member::full("a"), Member::full("b"), third]))?;
        cluster.log_in(scene)?;
        let url = cluster.file_url();
        let get = ["get", &url, "-o", "got"];
        let got = cluster.user.session(scene, cluster.client(), &get, "")?.ok()?;
        ensure!(got.out.contains(&cluster.payload.sha256), "it says {:?}", got.out);
        right(&cluster, "got")?;
        curl(scene, &cluster, "curled")?.ok()?;
        right(&cluster, "curled")?;
        let opened = |place| -> Result<u64> {
            let counters = &cluster.server_status(place)?["counters"];
            counters["sessions_opened"].as_u64().context("no counter")
        };
        ensure!(opened(0)? + opened(1)? == 2, "two sessions at a and b");
        let third = cluster.server_status(2)?["counters"].clone();
        scene.say(&format!("the third server: {third}"));
        ensure!(third["links_accepted"] == 0 && third["sessions_opened"] == 0, "it was asked");
        Ok(())
    });
}

/// STP 5, 8: the overloaded list; and the errno when no server is left.
#[test]
fn a_refusing_server_is_skipped_and_with_none_left_the_app_is_told_why() {
    play("names.refusing", |scene| {
        let full = Member { more: "[limits]\nsessions_max = 0\n", ..Member::full("a") };
        let broker = "[limits]\nconnect = \"8s\"\n";
        let layout = Layout { broker, ..layout(&[full, Member::full("b")]) };
        let mut cluster = Cluster::lay(scene, &layout)?;
        cluster.log_in(scene)?;
        curl(scene, &cluster, "got")?.ok()?;
        right(&cluster, "got")?;
        let status = cluster.user.status()?;
        let listed = overloaded(&status);
        scene.say(&format!("overloaded: {listed:?}"));
        ensure!(listed == ["a"], "the status shows {}", status["services"]);

        // No server is left: a refuses, b is dead.
        cluster.kill_server(1)?;
        let refused = curl(scene, &cluster, "x")?;
        ensure!(refused.status.code() == Some(7), "curl ended with {}", refused.status);
        errno_is(scene, &cluster, "ECONNREFUSED", "nobody listens there")?;

        // No server can be reached at all. The links that are kept ready are no way out either.
        cluster.restart_server(scene, 1)?;
        curl(scene, &cluster, "between")?.ok()?;
        cluster.topology.hosts[CLIENT].link_down(0)?;
        errno_is(scene, &cluster, "ENETUNREACH", "unreachable")?;
        cluster.topology.hosts[CLIENT].link_up(0)?;
        curl(scene, &cluster, "again")?.ok()?;
        right(&cluster, "again")
    });
}

/// Servers that the status shows as overloaded.
fn overloaded(status: &Value) -> Vec<String> {
    let services = status["services"].as_array().into_iter().flatten();
    let servers = services.flat_map(|service| service["servers"].as_array().into_iter().flatten());
    let listed = servers.filter(|server| server["state"] == "overloaded");
    listed.filter_map(|server| server["name"].as_str().map(str::to_owned)).collect()
}

/// What a program's connect() to the web service says, and that the reason is in the status.
fn errno_is(scene: &Scene, cluster: &Cluster, errno: &str, reason: &str) -> Result<()> {
    const PROGRAM: &str = "import errno, socket, sys\n\
        try: socket.create_connection((sys.argv[1], 80))\n\
        except OSError as error: print(errno.errorcode.get(error.errno, error))\n";
    let host = URL.split('/').nth(2).context("a URL has a host")?;
    let told = cluster.user.app("python3")?.args(&["-c", PROGRAM, host]);
    let told = told.run(scene, Some(cluster.client()), SOON)?.ok()?.out;
    let told = told.lines().last().unwrap_or_default().to_owned();
    let status = cluster.user.status()?;
    let ended = status["ended"].as_array().context("no list of ended sessions")?;
    let why = ended.last().map(|last| last["reason"].to_string()).unwrap_or_default();
    scene.say(&format!("connect(): {told}; status: {why}"));
    ensure!(told == errno, "the program was told {told}, not {errno}");
    ensure!(why.contains(reason), "the status says {why}");
    ensure!(cluster.user.broker_log().contains(reason), "the log does not say {reason:?}");
    Ok(())
}

/// KTH use case 4: neither side knows where the other has gone, but the directory does. The service
/// is `tcp`, so this very session must go on.
#[test]
fn use_case_4_both_ends_move_at_once() {
    play("names.both_move", |scene| {
        let only = Member { web: Some("tcp"), ..Member::full("a") };
        let layout = Layout { megabytes: 80, access: Shape::of(40, 20), ..layout(&[only]) };
        let mut cluster = Cluster::lay(scene, &layout)?;
        cluster.log_in(scene)?;
        let path = cluster.user.path("big");
        let growth = Growth::watch(&path);
        let curl = cluster.user.app("curl")?.args(&["-sS", "--fail", "-o", "big", URL]);
        let mut curl = curl.start(scene, Some(cluster.client()))?;
        for round in 1..=2 {
            let len = cluster.payload.len / 4 * round;
            wait::until("a part of the file", SOON, || {
                curl.must_run()?;
                Ok((growth.len() >= len).then_some(()))
            })?;
            let [client, server, ..] = &mut cluster.topology.hosts[..] else {
                unreachable!("a client, a server and a gateway");
            };
            client.replace_address(0)?;
            server.replace_address(0)?;
            let moved = Instant::now();
            scene.say(&format!("client {}, server {}", client.address(), server.address()));
            growth.grow_after(moved + Duration::from_millis(200), SOON)?;
            scene.say(&format!("next byte within {} ms", moved.elapsed().as_millis()));
        }
        cluster.must_be_right(curl, &path)?;
        let counters = cluster.server_status(0)?["counters"].clone();
        ensure!(counters["sessions_opened"] == 1, "not the same session: {counters}");
        ensure!(cluster.user.broker_log().contains("a server has moved"), "nobody has told");
        Ok(())
    });
}

/// A broker that goes from address to address leaves half of a link at the gateway each time. The
/// gateway finds that nobody is there any more, and forgets what that link watched.
#[test]
fn a_broker_that_roams_leaves_nothing_at_the_gateway() {
    play("names.roams", |scene| {
        let only = Member { web: Some("tcp"), ..Member::full("a") };
        let mut cluster = Cluster::lay(scene, &layout(&[only]))?;
        cluster.log_in(scene)?;
        let path = cluster.user.path("big");
        let growth = Growth::watch(&path);
        let slow = ["-sS", "--fail", "--limit-rate", "500k", "-o", "big", URL];
        let mut curl =
            cluster.user.app("curl")?.args(&slow).start(scene, Some(cluster.client()))?;
        let held = |cluster: &Cluster| -> Result<[f64; 2]> {
            let status = daemon::status(&cluster.gateway().namespace, SNS_STATUS)?;
            let of =
                |name| status["sizes"][name].as_f64().with_context(|| format!("{name}: {status}"));
            Ok([of("links")?, of("watches")?])
        };
        let first = wait::until("the session and its watch", SOON, || {
            curl.must_run()?;
            let held = held(&cluster)?;
            Ok((!growth.is_empty() && held[1] > 0.0).then_some(held))
        })?;
        let mut most = first;
        for round in 1..=3 {
            cluster.topology.hosts[CLIENT].replace_address(0)?;
            most = wait::until("the watch from another address", SOON, || {
                let held = held(&cluster)?;
                Ok((held[1] >= first[1] + f64::from(round)).then_some(held))
            })?;
        }
        growth.grow_after(Instant::now(), SOON)?;
        scene.say(&format!("links and watches: {first:?} at first, {most:?} at most"));
        // The kernel asks after a minute of silence, and for 15 s.
        let begun = Instant::now();
        wait::until("the gateway to find out", Duration::from_secs(150), || {
            let now = held(&cluster)?;
            Ok((now[0] <= first[0] && now[1] <= first[1]).then_some(()))
        })?;
        scene.say(&format!("forgotten after {} s", begun.elapsed().as_secs()));
        cluster.must_be_right(curl, &path)
    });
}

/// KTH 3.3.4, figure 7: the domain's address by DNS, the service from the name server there. Its
/// key is asked about once, as ssh does it, and another one is refused from then on.
#[test]
fn a_domain_is_found_by_dns_and_its_key_is_pinned() {
    play("names.dns", |scene| {
        // A broker that knows no gateway and no server; what needs a ticket it cannot have.
        let open = Member { tickets: false, ..Member::full("a") };
        let mut cluster = Cluster::lay(scene, &layout(&[open]))?;
        cluster.user = User::with_config(scene, "[limits]\nconnect = \"5s\"\n")?;
        let gateway = cluster.gateway();
        let _dns = dns(scene, &gateway.namespace, "demo.example", &gateway.address())?;
        let resolv = scene.path("resolv.conf");
        std::fs::write(&resolv, format!("nameserver {}\n", gateway.address()))?;
        let client = |plan: Plan| plan.with_file(&resolv, "/etc/resolv.conf");

        let broker = client(cluster.user.plan("stp-broker")?);
        cluster.user.run_broker(broker, scene, &cluster.topology.hosts[CLIENT].namespace)?;
        let refused = curl(scene, &cluster, "x")?;
        ensure!(refused.status.code() == Some(6), "an unknown key was trusted: {}", refused.status);
        let log = cluster.user.broker_log();
        ensure!(
            log.contains("run: session trust demo.example"),
            "it does not say what to do: {log}"
        );

        let trust = |cluster: &Cluster, answer: &str| -> Result<Ended> {
            // A terminal of its own, because the question is for a person.
            let typed = format!("sleep 1; echo {answer}");
            let program = daemon::programs()?.join("session");
            let ask = format!("{} trust demo.example", program.display());
            let terminal = format!("({typed}) | script -qec '{ask}' /dev/null");
            let _ = std::fs::remove_file(scene.path("trust.out"));
            let plan = cluster.user.plan("sh")?.called("trust").args(&["-c", &terminal]);
            client(plan).run(scene, Some(cluster.client()), SOON)
        };
        let asked = trust(&cluster, "no")?;
        ensure!(asked.out.contains("Is that right (yes/no)?"), "it does not ask: {}", asked.out);
        ensure!(asked.out.contains(&cluster.sns.key), "it does not show the key: {}", asked.out);
        ensure!(curl(scene, &cluster, "x")?.status.code() == Some(6), "no means no");
        let asked = trust(&cluster, "yes")?;
        ensure!(asked.status.success(), "{}", asked.out);
        curl(scene, &cluster, "got")?.ok()?;
        right(&cluster, "got")?;
        scene.say("found by DNS and the name server, with the key that was agreed to");

        // Another machine answers at that address.
        cluster.sns.kill()?;
        std::fs::remove_file(scene.path("sns.key"))?;
        let namespace = &cluster.topology.hosts[2].namespace;
        cluster.sns.restart(scene, namespace)?;
        let changed = trust(&cluster, "yes")?;
        scene.say(changed.out.lines().last().unwrap_or_default());
        ensure!(
            changed.out.contains("has changed") && !changed.out.contains("yes/no"),
            "{}",
            changed.out
        );
        wait::until("the changed key to be refused", SOON, || {
            curl(scene, &cluster, "x")?;
            Ok(cluster.user.broker_log().contains("has the key").then_some(()))
        })
    });
}

/// Debian's dnsmasq, which knows one domain.
fn dns(scene: &Scene, namespace: &Namespace, domain: &str, address: &str) -> Result<Process> {
    Plan::new("dnsmasq")
        .args(&["--keep-in-foreground", "--no-resolv", "--no-hosts", "--user=root", "--pid-file"])
        .args(&["--conf-file=/dev/null", &format!("--address=/{domain}/{address}")])
        .start(scene, Some(namespace))
}
