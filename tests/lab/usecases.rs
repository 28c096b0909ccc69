//! The use cases of the session layer (KTH 3.2.2), on hosts with two interfaces, with policies: a
//! download and an upload each by a real curl, which must end well, with the right bytes.
//!
//! Use case 4 with a directory is in `names.rs`.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use nix::sys::signal::{Signal, kill};
use serde_json::Value;
use stp_tests::daemon::{self, BROKER_STATUS, Offer, Server};
use stp_tests::emulator::Shape;
use stp_tests::file::{self, Payload};
use stp_tests::growth::Growth;
use stp_tests::keepers::Leftovers;
use stp_tests::namespace::Namespace;
use stp_tests::nginx::Nginx;
use stp_tests::process::{Plan, Process};
use stp_tests::scene::{Scene, play};
use stp_tests::topology::Topology;
use stp_tests::wait;

const CLIENT: usize = 0;
const SERVER: usize = 1;
const MEGABYTES: u64 = 40;
/// How long an end of a transfer may take.
const END_MAX: Duration = Duration::from_secs(90);
/// How long it may take until what has happened is in the status.
const SEEN_MAX: Duration = Duration::from_secs(20);
/// What is said of the two interfaces of the client, and the policies that programs choose from.
const POLICIES: &str = "\
[[interface]]
name = \"net0\"
kind = \"wired\"
[[interface]]
name = \"net1\"
kind = \"mobile\"
[[policy]]
name = \"best\"
prefer = [\"wired\", \"mobile\"]
[[policy]]
name = \"cable\"
only = [\"wired\"]
[[policy]]
name = \"unpaid\"
never = [\"metered\"]
[[policy]]
name = \"modem\"
prefer = [\"net1\"]
";

/// A client and a server with two interfaces each, and nginx behind the server.
struct Ground {
    broker: Process,
    _server: Server,
    nginx: Nginx,
    topology: Topology,
    payload: Payload,
}

/// A download and an upload under way.
struct Both {
    down: Process,
    up: Process,
    growth: Growth,
    to: PathBuf,
}

impl Ground {
    fn lay(scene: &Scene) -> Result<Ground> {
        Ground::lay_with(scene, "", |plan| plan)
    }

    /// With these limits at the server; `change` says how the broker is started.
    fn lay_with(scene: &Scene, limits: &str, change: impl FnOnce(Plan) -> Plan) -> Result<Ground> {
        let topology = Topology::build(&[("client", 2), ("server", 2)])?;
        for interface in 0..2 {
            topology.shape(CLIENT, interface, Shape::of(24, 10))?;
        }
        let payload = Payload::make(MEGABYTES, 1)?;
        let host = &topology.hosts[SERVER];
        let nginx = Nginx::start(scene, "nginx", &host.namespace)?;
        payload.link(&nginx.root.join("big"))?;
        let key = daemon::cluster_key(scene, "cluster.key")?;
        let services = [("www.m@lab.example", "http"), ("raw.m@lab.example", "tcp")];
        let offers = services.map(|(name, kind)| Offer::new(name, kind, nginx.local()));
        let server =
            Server::start(scene, "a", (&host.namespace, "0.0.0.0"), &key, &offers, limits)?;
        let broker = broker(scene, &topology, &server.key, change)?;
        Ok(Ground { broker, _server: server, nginx, topology, payload })
    }

    fn client(&self) -> &Namespace {
        &self.topology.hosts[CLIENT].namespace
    }

    fn up(&self, interface: usize) -> Result<()> {
        self.topology.hosts[CLIENT].link_up(interface)
    }

    fn down(&self, interface: usize) -> Result<()> {
        self.topology.hosts[CLIENT].link_down(interface)
    }

    /// A program with sessions, under a policy.
    fn app(&self, scene: &Scene, program: &str, policy: &str) -> Result<Plan> {
        let plan = Plan::new(program).env("LD_PRELOAD", daemon::shim()?);
        Ok(plan.env("SESSION_DIR", scene.path("session")).env("SESSION_POLICY", policy))
    }

    /// Begins both; a quarter of each is through when this returns.
    fn begin(&mut self, scene: &Scene, policy: &str) -> Result<Both> {
        let to = scene.path("big");
        let growth = Growth::watch(&to);
        let curl = |name: &str| -> Result<Plan> {
            Ok(self.app(scene, "curl", policy)?.called(name).args(&["-sS", "--fail"]))
        };
        let down = curl("down")?.arg("-o").arg(&to).arg("http://web.lab/big");
        let up = curl("up")?.arg("-T").arg(&self.payload.path).arg("http://raw.lab/upload/big");
        let down = down.start(scene, Some(self.client()))?;
        let up = up.start(scene, Some(self.client()))?;
        let mut both = Both { down, up, growth, to };
        let quarter = self.payload.len / 4;
        wait::until("a quarter of both", END_MAX, || {
            both.down.must_run()?;
            both.up.must_run()?;
            let sent = self.positions("raw.lab:80", "una")?;
            Ok((both.growth.len() >= quarter && sent >= quarter).then_some(()))
        })?;
        Ok(both)
    }

    fn status(&self) -> Result<Value> {
        daemon::status(self.client(), BROKER_STATUS)
    }

    fn sessions(&self) -> Result<Vec<Value>> {
        Ok(self.status()?["sessions"].as_array().cloned().unwrap_or_default())
    }

    fn positions(&self, destination: &str, which: &str) -> Result<u64> {
        let sessions = self.sessions()?;
        let found = sessions.iter().find(|session| session["destination"] == destination);
        Ok(found.and_then(|session| session["positions"][which].as_u64()).unwrap_or(0))
    }

    /// Waits until both sessions are in this state, over this interface.
    fn wait_for(&self, state: &str, interface: Option<&str>) -> Result<()> {
        let what = format!("both {state} over {interface:?}");
        let seen = wait::until(&what, SEEN_MAX, || {
            let sessions = self.sessions()?;
            let is = |session: &Value| {
                session["state"] == state && session["policy"]["interface"].as_str() == interface
            };
            Ok((sessions.len() == 2 && sessions.iter().all(is)).then_some(()))
        });
        seen.with_context(|| match self.sessions() {
            Ok(sessions) => {
                let told = sessions.iter().map(|one| format!("{} {}", one["state"], one["policy"]));
                let told: Vec<_> =
                    told.chain(daemon::happenings(&self.status().unwrap_or_default())).collect();
                told.join("; ")
            }
            Err(error) => error.to_string(),
        })
    }

    /// Nothing moves for this long.
    fn must_stand_still(&self, both: &mut Both, time: Duration) -> Result<()> {
        // What has arrived already is still handed on.
        std::thread::sleep(Duration::from_millis(500));
        let now =
            || Ok::<_, anyhow::Error>((both.growth.len(), self.positions("raw.lab:80", "una")?));
        let before = now()?;
        std::thread::sleep(time);
        ensure!(now()? == before, "bytes moved: {:?} after {before:?}", now()?);
        both.down.must_run()?;
        both.up.must_run()
    }

    /// Both end well, and the broker has not.
    fn must_be_right(&mut self, both: Both) -> Result<()> {
        self.must_end_right(both)?;
        self.broker.must_run()
    }

    fn must_end_right(&self, both: Both) -> Result<()> {
        both.down.end(END_MAX)?.ok()?;
        both.up.end(END_MAX)?.ok()?;
        ensure!(file::sha256(&both.to)? == self.payload.sha256, "other bytes came down");
        self.uploaded()
    }

    fn uploaded(&self) -> Result<()> {
        let got = file::sha256(&self.nginx.root.join("upload/big"))?;
        ensure!(got == self.payload.sha256, "other bytes went up");
        Ok(())
    }

    /// Has the server do something with all sessions; what it answers.
    fn at_server(&self, scene: &Scene, action: &str, body: &str) -> Result<String> {
        let token = std::fs::read_to_string(scene.path("a.token"))?;
        let told = Plan::new("curl")
            .args(&["-sS", "--fail", "--json", body, "-H"])
            .arg(format!("Authorization: Bearer {}", token.trim()))
            .arg(format!("http://127.0.0.1:{}/sessions/all/{action}", daemon::SERVER_STATUS))
            .run(scene, Some(&self.topology.hosts[SERVER].namespace), SEEN_MAX)?;
        Ok(told.ok()?.out)
    }

    /// The server's sessions.
    fn served(&self) -> Result<Vec<Value>> {
        let status = daemon::status(&self.topology.hosts[SERVER].namespace, daemon::SERVER_STATUS)?;
        Ok(status["sessions"].as_array().cloned().unwrap_or_default())
    }

    /// A command of the user's; what it says, and whether it has worked.
    fn session(&self, scene: &Scene, arguments: &[&str]) -> Result<(bool, String)> {
        let plan = Plan::new(daemon::programs()?.join("session")).args(arguments);
        let plan = plan.env("SESSION_DIR", scene.path("session"));
        let ended = plan.run(scene, Some(self.client()), Duration::from_secs(20))?;
        Ok((ended.status.success(), format!("{}{}", ended.out, ended.err)))
    }
}

/// A broker that knows both addresses of the server, and the policies.
fn broker(
    scene: &Scene,
    topology: &Topology,
    key: &str,
    change: impl FnOnce(Plan) -> Plan,
) -> Result<Process> {
    let (config, key_file) = (scene.path("broker.toml"), scene.path("client.key"));
    let places = &topology.hosts[SERVER].interfaces;
    let places: Vec<_> = places.iter().map(|one| format!("{}:4433", one.v4())).collect();
    let mut text =
        format!("status = \"127.0.0.1:{BROKER_STATUS}\"\nkey_file = {key_file:?}\n{POLICIES}");
    for (name, host) in [("www.m@lab.example", "web.lab"), ("raw.m@lab.example", "raw.lab")] {
        text += &format!(
            "[[service]]\nname = {name:?}\n[[service.server]]\nname = \"a\"\n\
             address = {places:?}\nkey = {key:?}\n[[route]]\nto = \"{host}:80\"\n\
             service = {name:?}\n"
        );
    }
    std::fs::write(&config, text)?;
    let client = &topology.hosts[CLIENT].namespace;
    let plan = Plan::new(daemon::programs()?.join("stp-broker"))
        .called("broker")
        .arg("--config")
        .arg(&config)
        .env("SESSION_DIR", scene.path("session"));
    let mut broker = change(plan).start(scene, Some(client))?;
    wait::until("the broker's status", SEEN_MAX, || {
        broker.must_run()?;
        Ok(daemon::status(client, BROKER_STATUS).ok())
    })?;
    Ok(broker)
}

#[test]
fn use_case_1_unexpected_disconnection() {
    play("use_case_1_unexpected_disconnection", |scene| {
        let mut ground = Ground::lay(scene)?;
        let mut both = ground.begin(scene, "best")?;
        ground.wait_for("active", Some("net0"))?;
        ground.down(0)?;
        ground.down(1)?;
        // No send and no receive returns until there is an interface.
        ground.wait_for("suspended", None)?;
        ground.must_stand_still(&mut both, Duration::from_secs(3))?;
        ground.up(0)?;
        ground.must_be_right(both)
    });
}

#[test]
fn use_case_2_new_interface_where_there_was_none() {
    play("use_case_2_new_interface_where_there_was_none", |scene| {
        let mut ground = Ground::lay(scene)?;
        ground.down(1)?;
        let both = ground.begin(scene, "best")?;
        ground.wait_for("active", Some("net0"))?;
        ground.down(0)?;
        ground.wait_for("suspended", None)?;
        ground.up(1)?;
        ground.wait_for("active", Some("net1"))?;
        ground.must_be_right(both)
    });
}

/// The only interface that comes up is one that the policy does not allow.
fn held(scene: &Scene, policy: &str, why: &str) -> Result<()> {
    let mut ground = Ground::lay(scene)?;
    ground.down(1)?;
    let mut both = ground.begin(scene, policy)?;
    ground.down(0)?;
    ground.up(1)?;
    ground.wait_for("suspended", None)?;
    ground.must_stand_still(&mut both, Duration::from_secs(3))?;
    let sessions = ground.sessions()?;
    let told = sessions[0]["policy"]["rule"].as_str().unwrap_or_default();
    ensure!(told.contains("net1") && told.contains(why), "{told}");
    let (_, table) = ground.session(scene, &["status"])?;
    ensure!(table.contains(why), "{table}");
    ground.up(0)?;
    ground.wait_for("active", Some("net0"))?;
    ground.must_be_right(both)
}

#[test]
fn use_case_2_alternative_only_another_kind_is_allowed() {
    play("use_case_2_alternative_only_another_kind_is_allowed", |scene| {
        held(scene, "cable", "not one of \"only\"")
    });
}

#[test]
fn use_case_2_alternative_never_over_what_is_paid_for() {
    play("use_case_2_alternative_never_over_what_is_paid_for", |scene| {
        held(scene, "unpaid", "never over \"metered\"")
    });
}

#[test]
fn use_case_3_new_interface_beside_another() {
    play("use_case_3_new_interface_beside_another", |scene| {
        let mut ground = Ground::lay(scene)?;
        ground.down(0)?;
        let both = ground.begin(scene, "best")?;
        ground.wait_for("active", Some("net1"))?;
        let new = Instant::now();
        ground.up(0)?;
        ground.wait_for("active", Some("net0"))?;
        let pause = both.growth.pause_after(new)?;
        let pause = pause.to - pause.from;
        scene.say(&format!("{} ms without a byte on the way to the better one", pause.as_millis()));
        // The new link was there before the old one went.
        ensure!(pause < Duration::from_secs(1), "{pause:?} without a byte");
        ground.must_be_right(both)
    });
}

#[test]
fn use_case_3_alternative_the_new_interface_is_no_better() {
    play("use_case_3_alternative_the_new_interface_is_no_better", |scene| {
        let mut ground = Ground::lay(scene)?;
        ground.down(1)?;
        let both = ground.begin(scene, "best")?;
        ground.up(1)?;
        std::thread::sleep(Duration::from_secs(1));
        ground.wait_for("active", Some("net0"))?;
        let told = daemon::happenings(&ground.status()?).join("; ");
        ensure!(!told.contains("resumed"), "{told}");
        ground.must_be_right(both)
    });
}

#[test]
fn use_case_4_both_peers_rebind() {
    play("use_case_4_both_peers_rebind", |scene| {
        let mut ground = Ground::lay(scene)?;
        ground.down(1)?;
        ground.topology.hosts[SERVER].link_down(1)?;
        let both = ground.begin(scene, "best")?;
        ground.down(0)?;
        ground.topology.hosts[SERVER].link_down(0)?;
        std::thread::sleep(Duration::from_secs(2));
        ground.topology.hosts[SERVER].link_up(1)?;
        ground.up(1)?;
        ground.wait_for("active", Some("net1"))?;
        ground.must_be_right(both)
    });
}

/// Runs the program that suspends and resumes its sessions itself.
fn aware(scene: &Scene, ground: &Ground, policy: &str) -> Result<Process> {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/lab/usecase.py");
    let size = ground.payload.len.to_string();
    let plan = ground.app(scene, "python3", policy)?.arg(script).args(&["raw.lab", &size]);
    plan.arg(&ground.payload.path).arg("5").start(scene, Some(ground.client()))
}

#[test]
fn use_case_5_and_6_application_suspends_and_resumes() {
    play("use_case_5_and_6_application_suspends_and_resumes", |scene| {
        let ground = Ground::lay(scene)?;
        let app = aware(scene, &ground, "best")?;
        ground.wait_for("suspended", None)?;
        // What its user has suspended, no new interface wakes.
        ground.down(0)?;
        ground.up(0)?;
        std::thread::sleep(Duration::from_secs(2));
        ground.wait_for("suspended", None)?;
        let ended = app.end(END_MAX)?.ok()?;
        ensure!(ended.out.contains(&format!("down {}", ground.payload.sha256)), "{}", ended.out);
        ground.uploaded()
    });
}

#[test]
fn use_case_5_alternative_the_server_suspends() {
    play("use_case_5_alternative_the_server_suspends", |scene| {
        let mut ground = Ground::lay(scene)?;
        let mut both = ground.begin(scene, "best")?;
        for (state, action) in [("suspended", "suspend"), ("active", "resume")] {
            let told = ground.at_server(scene, action, "{}")?;
            scene.say(&format!("the server: {told}"));
            if action == "resume" {
                // The broker asks a server that has suspended once a minute; its user need not
                // wait so long.
                ground.session(scene, &["suspend", "--all"])?;
                ground.session(scene, &["resume", "--all"])?;
                ground.wait_for(state, Some("net0"))?;
            } else {
                ground.must_stand_still(&mut both, Duration::from_secs(3))?;
            }
        }
        ground.must_be_right(both)
    });
}

#[test]
fn use_case_6_alternative_the_policy_does_not_let_it_resume() {
    play("use_case_6_alternative_the_policy_does_not_let_it_resume", |scene| {
        let mut ground = Ground::lay(scene)?;
        let mut both = ground.begin(scene, "cable")?;
        ground.session(scene, &["suspend", "--all"])?;
        ground.wait_for("suspended", None)?;
        ground.down(0)?;
        std::thread::sleep(Duration::from_secs(3));
        let id = ground.sessions()?[0]["id"].to_string();
        let (worked, said) = ground.session(scene, &["resume", &id])?;
        ensure!(!worked && said.contains("allows no interface"), "{said}");
        ground.session(scene, &["resume", "--all"])?;
        ground.must_stand_still(&mut both, Duration::from_secs(2))?;
        ground.up(0)?;
        ground.wait_for("active", Some("net0"))?;
        ground.must_be_right(both)
    });
}

#[test]
fn a_policy_that_changes_moves_the_sessions_that_have_it() {
    play("a_policy_that_changes_moves_the_sessions_that_have_it", |scene| {
        let mut ground = Ground::lay(scene)?;
        let both = ground.begin(scene, "modem")?;
        ground.wait_for("active", Some("net1"))?;
        let config = scene.path("broker.toml");
        let text = std::fs::read_to_string(&config)?;
        std::fs::write(&config, text.replace("prefer = [\"net1\"]", "never = [\"net1\"]"))?;
        let (worked, said) = ground.session(scene, &["reload"])?;
        ensure!(worked, "{said}");
        ground.wait_for("active", Some("net0"))?;
        let told = daemon::happenings(&ground.status()?).join("; ");
        ensure!(told.contains("forbids net1"), "{told}");
        // A program that names a policy that nobody has written is told so.
        let (worked, said) = ground.session(scene, &["run", "--policy", "none", "true"])?;
        ensure!(!worked && said.contains("no [[policy]]") && said.contains("cable"), "{said}");
        ground.must_be_right(both)
    });
}

/// R75: the server keeps a session without a link for 3 s, and through a suspension of 9 s.
#[test]
fn use_case_5_suspended_for_longer_than_a_lost_session_is_kept() {
    play("use_case_5_suspended_for_longer_than_a_lost_session_is_kept", |scene| {
        let limits = "hold = \"3s\"\nsuspend_max = \"9s\"";
        let mut ground = Ground::lay_with(scene, limits, |plan| plan)?;
        let mut both = ground.begin(scene, "best")?;
        let begun = Instant::now();
        let (worked, said) = ground.session(scene, &["suspend", "--all", "--for", "8s"])?;
        ensure!(worked, "{said}");
        ground.wait_for("suspended", None)?;
        let seen = |one: &Value| one["suspended_s"].as_u64().is_some_and(|left| left <= 8);
        ensure!(ground.sessions()?.iter().all(seen), "the broker does not say for how long");
        wait::until("the server's word", SEEN_MAX, || {
            let told = ground.served()?;
            let kept = |one: &Value| one["kept_s"].as_u64().is_some_and(|left| left > 3);
            Ok((told.len() == 2 && told.iter().all(|one| seen(one) && kept(one))).then_some(()))
        })?;
        ground.must_stand_still(&mut both, Duration::from_secs(5))?;
        // Nobody resumes it: its time is over.
        ground.wait_for("active", Some("net0"))?;
        scene.say(&format!("active {} ms after it was suspended", begun.elapsed().as_millis()));
        let told = daemon::happenings(&ground.status()?).join("; ");
        ensure!(told.contains("woken"), "{told}");

        // What is too long for the server is said; so is a session that is suspended already.
        let id = ground.sessions()?[0]["id"].to_string();
        let (worked, said) = ground.session(scene, &["suspend", &id, "--for", "3d"])?;
        ensure!(worked && said.contains("for 9 s: its server keeps it no longer"), "{said}");
        let (worked, said) = ground.session(scene, &["suspend", &id, "--for", "5s"])?;
        ensure!(!worked && said.contains("suspended already"), "{said}");
        let (worked, said) = ground.session(scene, &["resume", &id])?;
        ensure!(worked, "{said}");
        ground.wait_for("active", Some("net0"))?;

        // The same by the server, whose broker has been told, too.
        let said = ground.at_server(scene, "suspend", r#"{"for_s": 4}"#)?;
        ensure!(said.contains("\"sessions\":2"), "{said}");
        wait::until("the broker's word", SEEN_MAX, || {
            let told = ground.sessions()?;
            Ok(told.iter().all(|one| one["suspended_s"].is_u64()).then_some(()))
        })?;
        ground.must_be_right(both)
    });
}

/// A broker is killed under a policy: the next one goes by it from the beginning.
#[test]
fn a_broker_that_is_killed_leaves_its_policies_in_force() {
    play("a_broker_that_is_killed_leaves_its_policies_in_force", |scene| {
        let word = format!("SESSION_DIR={}", scene.path("session").display());
        let leftovers = Leftovers::of("stp-broker", word)?;
        let mut ground = Ground::lay_with(scene, "", |plan| plan.env("SESSION_NO_KEEPER", ""))?;
        let mut both = ground.begin(scene, "cable")?;
        ground.wait_for("active", Some("net0"))?;
        let kill_it = |ground: &Ground| -> Result<()> {
            let before = leftovers.one(false)?;
            kill(before, Signal::SIGKILL)?;
            wait::until("the next broker", SEEN_MAX, || {
                let is_new = leftovers.find().iter().any(|(pid, keeper)| !keeper && *pid != before);
                Ok((is_new && ground.status().is_ok()).then_some(()))
            })
        };
        kill_it(&ground)?;
        ground.wait_for("active", Some("net0"))?;
        ensure!(
            ground.sessions()?.iter().all(|one| one["policy"]["name"] == "cable"),
            "the policy was forgotten"
        );
        // The other interface is not for them; nor for those of a broker that begins without any
        // that is.
        ground.down(0)?;
        ground.wait_for("suspended", None)?;
        kill_it(&ground)?;
        ground.wait_for("suspended", None)?;
        ground.must_stand_still(&mut both, Duration::from_secs(3))?;
        let told = ground.sessions()?[0]["policy"]["rule"].as_str().unwrap_or_default().to_owned();
        ensure!(told.contains("allows no interface"), "{told}");
        ground.up(0)?;
        ground.wait_for("active", Some("net0"))?;
        ground.must_end_right(both)
    });
}

/// A bus of its own with as much of logind on it as a broker needs.
struct Logind {
    process: Process,
    _bus: Process,
    address: String,
}

impl Logind {
    fn start(scene: &Scene) -> Result<Logind> {
        let socket = scene.path("bus");
        let address = format!("unix:path={}", socket.display());
        let mut bus = Plan::new("dbus-daemon")
            .args(&["--session", "--nofork", "--nopidfile", "--address", &address])
            .start(scene, None)?;
        wait::until("the bus", SEEN_MAX, || {
            bus.must_run()?;
            Ok(socket.exists().then_some(()))
        })?;
        let mut process = Plan::new("/usr/bin/python3")
            .called("logind")
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/lab/logind.py"))
            .env("DBUS_SYSTEM_BUS_ADDRESS", &address)
            .start(scene, None)?;
        wait::until("logind", SEEN_MAX, || {
            process.must_run()?;
            Ok(process.printed().contains("here").then_some(()))
        })?;
        Ok(Logind { process, _bus: bus, address })
    }

    /// Waits until it has said this so many times.
    fn must_say(&mut self, what: &str, times: usize) -> Result<()> {
        wait::until(what, SEEN_MAX, || {
            self.process.must_run()?;
            Ok((self.process.printed().matches(what).count() == times).then_some(()))
        })
    }
}

/// R75: the machine sleeps for longer than the server keeps a lost session. What its user had
/// suspended stays so.
#[test]
fn sessions_are_suspended_before_the_machine_sleeps() {
    play("sessions_are_suspended_before_the_machine_sleeps", |scene| {
        let mut logind = Logind::start(scene)?;
        let address = logind.address.clone();
        let mut ground = Ground::lay_with(scene, "hold = \"3s\"", |plan| {
            plan.env("DBUS_SYSTEM_BUS_ADDRESS", &address)
        })?;
        logind.must_say("inhibited sleep session delay", 1)?;
        let mut both = ground.begin(scene, "best")?;
        let users = ground.sessions()?[1]["id"].clone();
        let id = users.to_string();
        let (worked, said) = ground.session(scene, &["suspend", &id, "--for", "1h"])?;
        ensure!(worked, "{said}");
        logind.process.signal(Signal::SIGUSR1)?;
        logind.must_say("asleep after", 1)?;
        ground.wait_for("suspended", None)?;
        wait::until("the server's word", SEEN_MAX, || {
            let told = |one: &Value| one["suspended_s"].as_u64().is_some_and(|left| left > 3_000);
            Ok(ground.served()?.iter().all(told).then_some(()))
        })?;
        ground.must_stand_still(&mut both, Duration::from_secs(5))?;
        logind.process.signal(Signal::SIGUSR2)?;
        logind.must_say("inhibited sleep session delay", 2)?;
        wait::until("the other one goes on", SEEN_MAX, || {
            let states = ground.sessions()?;
            let is = |one: &Value, state: &str| one["state"] == state;
            let stays = |one: &Value| one["id"] == users && is(one, "suspended");
            Ok((states.iter().any(stays) && states.iter().any(|one| is(one, "active")))
                .then_some(()))
        })?;
        let (worked, said) = ground.session(scene, &["resume", &id])?;
        ensure!(worked, "{said}");
        scene.say(logind.process.printed().trim());
        // A bus that goes away keeps nobody suspended.
        drop(logind);
        ground.must_be_right(both)
    });
}

/// R77: TCP_USER_TIMEOUT is a wish that is heeded; keep-alive options, which many programs set
/// without a word of their user's, are none.
#[test]
fn a_program_says_by_its_options_how_long_it_waits() {
    play("a_program_says_by_its_options_how_long_it_waits", |scene| {
        let ground = Ground::lay(scene)?;
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/lab/patience.py");
        let mut programs = Vec::new();
        for mode in ["before", "after", "keepalive"] {
            let plan = ground.app(scene, "/usr/bin/python3", "")?.called(mode);
            let plan = plan.args(&[script, mode, "raw.lab"]).arg(&ground.payload.path);
            programs.push(plan.start(scene, Some(ground.client()))?);
        }
        wait::until("bytes of all", SEEN_MAX, || {
            let sent = |one: &Value| one["positions"]["una"].as_u64().unwrap_or(0) > 500_000;
            let sessions = ground.sessions()?;
            Ok((sessions.len() == 3 && sessions.iter().all(sent)).then_some(()))
        })?;
        ground.down(0)?;
        ground.down(1)?;
        let lasting = programs.pop().context("three were started")?;
        for program in programs {
            let ended = program.end(END_MAX)?.ok()?;
            ensure!(ended.out.contains("ended ETIMEDOUT"), "{}", ended.out);
            scene.say(ended.out.trim());
        }
        std::thread::sleep(Duration::from_secs(3));
        ground.up(0)?;
        let ended = lasting.end(END_MAX)?.ok()?;
        ensure!(ended.out.contains("ended HTTP/1.1 201"), "{}", ended.out);
        let got = file::sha256(&ground.nginx.root.join("upload/keepalive"))?;
        ensure!(got == ground.payload.sha256, "other bytes went up");
        Ok(())
    });
}

/// Without a far end: the broker asks the origin itself, over what the policy allows.
#[test]
fn a_policy_holds_without_a_far_end() {
    play("a_policy_holds_without_a_far_end", |scene| {
        let ground = Ground::lay(scene)?;
        let config = scene.path("broker.toml");
        let text = std::fs::read_to_string(&config)?;
        let places = &ground.topology.hosts[SERVER].interfaces;
        let origin = places[0].v4();
        let direct = "[[service]]\nname = \"d.d@lab.example\"\nkind = \"direct\"\n[[route]]\n\
             to = \"10.0.0.0/8:PORT\"\nservice = \"d.d@lab.example\"\npolicy = \"cable\"\n";
        let local = ground.nginx.local();
        let port = local.rsplit(':').next().unwrap_or_default();
        std::fs::write(&config, text + &direct.replace("PORT", port))?;
        let (worked, said) = ground.session(scene, &["reload"])?;
        ensure!(worked, "{said}");
        let to = scene.path("direct");
        let growth = Growth::watch(&to);
        let curl = |url: &str| -> Result<Plan> {
            let plan = ground.app(scene, "curl", "")?.args(&["-sS", "--fail", "-o"]).arg(&to);
            Ok(plan.arg(url))
        };
        let url = format!("http://{origin}:{port}/big");
        let mut down = curl(&url)?.start(scene, Some(ground.client()))?;
        growth.reach(ground.payload.len / 4, END_MAX)?;
        let told = |ground: &Ground| -> Result<Value> {
            Ok(ground.sessions()?.first().map(|one| one["policy"].clone()).unwrap_or_default())
        };
        let policy = told(&ground)?;
        ensure!(policy["name"] == "cable" && policy["interface"] == "net0", "{policy}");
        // The other interface leads there as well, and is not for it.
        ground.down(0)?;
        std::thread::sleep(Duration::from_secs(6));
        let before = growth.len();
        std::thread::sleep(Duration::from_secs(2));
        ensure!(growth.len() == before, "bytes came over what is forbidden");
        down.must_run()?;
        ground.up(0)?;
        down.end(END_MAX)?.ok()?;
        ensure!(file::sha256(&to)? == ground.payload.sha256, "other bytes came down");
        Ok(())
    });
}
