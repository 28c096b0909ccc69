//! A far end out of an ssh account: `session via` against a real sshd, on a machine whose root has
//! nothing but busybox, for a user without privileges; and what programs see through it.

use std::fs::File;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use serde_json::Value;
use stp_tests::daemon;
use stp_tests::emulator::Shape;
use stp_tests::file::{self, Payload};
use stp_tests::growth::Growth;
use stp_tests::namespace::Namespace;
use stp_tests::nginx::Nginx;
use stp_tests::postgres;
use stp_tests::process::{Ended, Plan, Process};
use stp_tests::scene::{Scene, play};
use stp_tests::sshd;
use stp_tests::topology::Topology;
use stp_tests::user::User;
use stp_tests::wait;

use crate::world::reach;

pub(crate) const CLIENT: usize = 0;
pub(crate) const FAR: usize = 1;
/// Where the services are, whose names only the far machine knows. A proxy runs there as well.
pub(crate) const INNER: usize = 2;
const MEGABYTES: u64 = 24;
const PROXY_PORT: u16 = 8888;
const SOON: Duration = Duration::from_secs(30);

/// A machine with nothing on it: busybox, sshd, and an account.
const ROOT: &str = r#"
mkdir -p bin usr/sbin etc/ssh run/sshd proc dev tmp home/me/.ssh var/empty
cp /bin/busybox bin/ || cp /usr/bin/busybox bin/
for applet in sh cat chmod cut date df dirname echo grep head id kill mkdir mv nohup od rm rmdir \
  sed setsid sleep tail tr uname; do ln -s busybox bin/$applet; done
cp /usr/sbin/sshd usr/sbin/
ldd /usr/sbin/sshd | grep -o '/[^ ]*' | while read -r each; do
  mkdir -p ".${each%/*}"; cp -L "$each" ".$each"
done
echo 'root:x:0:0::/:/bin/sh
sshd:x:33:33::/run/sshd:/bin/false
me:x:1000:1000::/home/me:/bin/sh' > etc/passwd
echo 'root:x:0:
sshd:x:33:
me:x:1000:' > etc/group
# As desktops have it; whoever loads a module that is not for its own C library ends.
echo 'hosts: files mdns4_minimal [NOTFOUND=return] dns' > etc/nsswitch.conf
libraries=$(dirname "$(find . -name 'libc.so.6' | head -n 1)")
echo '__attribute__((constructor)) void end(void) { __builtin_trap(); }' |
  cc -shared -nostdlib -fPIC -x c -o $libraries/libnss_mdns4_minimal.so.2 -
for each in null:3 random:8 urandom:9; do mknod -m 666 dev/${each%:*} c 1 ${each#*:}; done
chmod 1777 tmp
ssh-keygen -qt ed25519 -N '' -f etc/ssh/host
ssh-keygen -qt ed25519 -N '' -f ../user
cp ../user.pub home/me/.ssh/authorized_keys
chown -R 1000:1000 home/me
chmod -R go= home/me
"#;

pub(crate) struct Ground {
    pub(crate) topology: Topology,
    user: User,
    pub(crate) root: PathBuf,
    pub(crate) payload: Payload,
    ssh: String,
    broker: Option<Process>,
    sshd: Option<Process>,
    web: Option<Nginx>,
    git: (Process, String),
    _database: Process,
}

impl Ground {
    pub(crate) fn lay(scene: &Scene) -> Result<Ground> {
        let topology = Topology::build(&[("client", 1), ("far", 1), ("inner", 1)])?;
        let payload = Payload::make(MEGABYTES, 1)?;
        let user = User::with_config(scene, "")?;
        let root = scene.subdir("root")?;
        let make = Plan::new("bash")
            .called("root")
            .args(&["-euc", &format!("cd {}\n{ROOT}", root.display())]);
        make.run(scene, None, SOON)?.ok()?;
        let inner = &topology.hosts[INNER];
        let names = "web.internal git.internal db.internal";
        let names = format!("127.0.0.1 localhost\n{} {names}\n", inner.address());
        std::fs::write(root.join("etc/hosts"), names)?;
        let certificate = format!(
            "cd {}; openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes \
             -days 2 -subj /CN=web.internal -addext subjectAltName=DNS:web.internal \
             -keyout web.key -out web.pem",
            scene.dir().display()
        );
        let certificate = Plan::new("bash").called("openssl").args(&["-euc", &certificate]);
        certificate.run(scene, None, SOON)?.ok()?;
        let www = scene.subdir("www")?;
        payload.link(&www.join("big"))?;
        std::fs::write(www.join("small"), "small\n")?;
        let git = sshd::start_at(scene, &inner.namespace, "git.internal", "0.0.0.0:22")?;
        let database = database(scene, &inner.namespace)?;
        let mut ground = Ground {
            topology,
            user,
            root,
            payload,
            ssh: String::new(),
            broker: None,
            sshd: None,
            web: None,
            git,
            _database: database,
        };
        ground.restart_web(scene)?;
        ground.ssh = ground.ssh_config(scene)?;
        ground.start_sshd(scene)?;
        Ok(ground)
    }

    /// The web server of the network behind the far machine; whatever it had ends.
    pub(crate) fn restart_web(&mut self, scene: &Scene) -> Result<()> {
        self.web = None;
        let www = scene.subdir("www")?;
        let servers = format!(
            "server {{ listen 443 ssl; root {}; ssl_certificate {}; ssl_certificate_key {}; }}\n\
             server {{ listen 8085; return 302 http://100.100.100.200/small; }}",
            www.display(),
            scene.path("web.pem").display(),
            scene.path("web.key").display()
        );
        let inner = &self.topology.hosts[INNER].namespace;
        self.web = Some(Nginx::start_at(scene, "web", inner, 80, &www, &servers)?);
        Ok(())
    }

    /// The user's ssh: the host's key is known.
    fn ssh_config(&self, scene: &Scene) -> Result<String> {
        let (config, known) = (scene.path("ssh_config"), scene.path("known"));
        let address = self.topology.hosts[FAR].address();
        let key = std::fs::read_to_string(self.root.join("etc/ssh/host.pub"))?;
        std::fs::write(&known, format!("{address} {key}"))?;
        let text = format!(
            "Host far.example\n  HostName {address}\n  User me\n  IdentityFile {}\n  \
             UserKnownHostsFile {}\n  IdentitiesOnly yes\n",
            scene.path("user").display(),
            known.display()
        );
        std::fs::write(&config, text)?;
        Ok(format!("ssh -F {}", config.display()))
    }

    /// The sshd of the far machine, with all processes that it starts in a namespace of their own.
    fn start_sshd(&mut self, scene: &Scene) -> Result<()> {
        let root = self.root.display().to_string();
        let options = [
            "HostKey=/etc/ssh/host",
            "ListenAddress=0.0.0.0:22",
            "PidFile=none",
            "UsePAM=no",
            "PasswordAuthentication=no",
        ];
        let mut arguments = vec!["--mount", "--pid", "--fork", "--kill-child"];
        let proc = format!("--mount-proc={root}/proc");
        arguments.extend([proc.as_str(), "chroot", &root, "/usr/sbin/sshd", "-D", "-e"]);
        arguments.extend(["-f", "/dev/null"]);
        arguments.extend(options.iter().flat_map(|option| ["-o", option]));
        let far = &self.topology.hosts[FAR].namespace;
        let mut sshd =
            Plan::new("unshare").called("far").args(&arguments).start(scene, Some(far))?;
        wait::until_true("sshd", SOON, || {
            sshd.must_run().is_ok() && sshd.log().contains("Server listening")
        })?;
        self.sshd = Some(sshd);
        Ok(())
    }

    pub(crate) fn client(&self) -> &Namespace {
        &self.topology.hosts[CLIENT].namespace
    }

    pub(crate) fn home(&self, name: &str) -> PathBuf {
        self.root.join("home/me/.local/share/session/via").join(name)
    }

    /// `session …`, with the user's ssh and the server for the far machine.
    fn plan(&self, arguments: &[&str]) -> Result<Plan> {
        let plan = self.user.plan("session")?.called(&arguments[..2].join("-")).args(arguments);
        Ok(plan.env("SESSION_SSH", &self.ssh).env("SESSION_SERVER", daemon::static_server()?))
    }

    pub(crate) fn session(&self, scene: &Scene, arguments: &[&str]) -> Result<Ended> {
        self.plan(arguments)?.run(scene, Some(self.client()), Duration::from_secs(60))
    }

    /// A command on the far machine, by the user's ssh from another machine.
    fn there(&self, scene: &Scene, command: &str) -> Result<Ended> {
        let words: Vec<&str> = self.ssh.split(' ').collect();
        let plan = Plan::new(words[0]).called("there").args(&words[1..]).arg("far.example");
        plan.arg(command).run(scene, Some(&self.topology.hosts[INNER].namespace), SOON)
    }

    /// The far server's process, as `kill -9` ends it; its keeper starts the next one.
    fn kill_server(&self, scene: &Scene) -> Result<()> {
        let lock = ".local/share/session/via/server.kept/server.lock";
        self.there(scene, &format!("kill -9 $(cat {lock})"))?.ok()?;
        Ok(())
    }

    /// The broker that leads through the far end alone, with more variables.
    pub(crate) fn start_broker(&mut self, scene: &Scene, more: &[(&str, &str)]) -> Result<()> {
        let profile = self.user.path(".config/session/via/far.toml");
        let mut plan = self.user.plan("stp-broker")?.arg("--config").arg(&profile);
        plan = plan.env("SESSION_DIR", self.user.path("run/via/far"));
        for (name, value) in more {
            plan = plan.env(name, value);
        }
        let mut broker = plan.called("broker").start(scene, Some(self.client()))?;
        wait::until_true("the broker", SOON, || {
            broker.must_run().is_ok() && broker.log().contains("the broker is ready")
        })?;
        self.broker = Some(broker);
        Ok(())
    }

    pub(crate) fn status(&self, scene: &Scene) -> Result<Value> {
        let ended = self.session(scene, &["status", "--json", "--via", "far"])?.ok()?;
        let last = ended.out.rfind("\n{").map_or(0, |at| at + 1);
        Ok(serde_json::from_str(&ended.out[last..])?)
    }

    /// What links to the server go through.
    fn through(&self, scene: &Scene) -> Result<Option<String>> {
        let status = self.status(scene)?;
        Ok(status["services"][0]["servers"][0]["through"].as_str().map(str::to_owned))
    }

    pub(crate) fn app(&self, name: &str, command: &[&str]) -> Result<Plan> {
        let run = ["run", "--via", "far", "--no-broker", "--"];
        Ok(self.plan(&run)?.called(name).args(command))
    }

    /// curl begins to fetch the big file; it has a sixth of it when this returns.
    pub(crate) fn curl(&self, scene: &Scene, name: &str, url: &str) -> Result<(Process, PathBuf)> {
        let to = scene.path(&format!("{name}.got"));
        // A file of before is not this one's growth.
        let _none = std::fs::remove_file(&to);
        let growth = Growth::watch(&to);
        let ca = scene.path("web.pem").display().to_string();
        let command = ["curl", "-sS", "--fail", "--cacert", &ca, url, "-o"];
        let plan = self.app(name, &command)?.arg(&to);
        let mut curl = plan.start(scene, Some(self.client()))?;
        reach(&growth, &mut curl, self.payload.len / 6)?;
        Ok((curl, to))
    }

    fn must_be_right(&self, scene: &Scene, (curl, to): (Process, PathBuf)) -> Result<()> {
        curl.end(Duration::from_secs(90))?.ok().with_context(|| {
            let told = self.status(scene).map(|status| daemon::happenings(&status).join("; "));
            told.unwrap_or_else(|error| error.to_string())
        })?;
        ensure!(file::sha256(&to)? == self.payload.sha256, "other bytes");
        Ok(())
    }

    /// The client's packets for the far machine are thrown away, without a word, unless for these
    /// ports.
    fn close_all_but(&self, scene: &Scene, ports: &str) -> Result<()> {
        let far = &self.topology.hosts[FAR].interfaces[0];
        let rules = format!(
            "add table inet lab\nadd chain inet lab out {{ type filter hook output priority 0; }}\n\
             add rule inet lab out ip daddr {v4} tcp dport != {{ {ports} }} drop\n\
             add rule inet lab out ip daddr {v4} udp dport 1-65535 drop\n\
             add rule inet lab out ip6 daddr {v6} drop\n",
            v4 = far.v4(),
            v6 = far.v6()
        );
        let nft = Plan::new("nft").args(&["-f", "-"]).input(&rules);
        nft.run(scene, Some(self.client()), SOON)?.ok()?;
        Ok(())
    }

    fn open_all(&self, scene: &Scene) -> Result<()> {
        let nft = Plan::new("nft").args(&["delete", "table", "inet", "lab"]);
        nft.run(scene, Some(self.client()), SOON)?.ok()?;
        Ok(())
    }
}

/// Nobody but the user may read or run anything that was left.
fn private(folder: &Path) -> Result<()> {
    for entry in std::fs::read_dir(folder).with_context(|| folder.display().to_string())? {
        let entry = entry?;
        let mode = entry.metadata()?.permissions().mode() & 0o777;
        let is_program = entry.file_name() == "stp-server";
        let kind = entry.file_type()?;
        let expected = if is_program || !kind.is_file() { 0o700 } else { 0o600 };
        if kind.is_dir() {
            private(&entry.path())?;
        }
        ensure!(mode == expected, "{} has mode {mode:04o}", entry.path().display());
    }
    Ok(())
}

/// A database that lets everybody in.
fn database(scene: &Scene, host: &Namespace) -> Result<Process> {
    let (make, serve) = postgres::commands(&scene.subdir("database")?);
    let make = Plan::new("bash").called("initdb").args(&["-euc", &make]);
    make.run(scene, None, Duration::from_secs(60))?.ok()?;
    // As the first process of its own process namespace the shell takes all others with it.
    let around = ["--pid", "--fork", "--kill-child", "sh", "-c", "\"$@\"; exit $?", "sh"];
    let serve: Vec<&str> = serve.iter().map(String::as_str).collect();
    let plan = Plan::new("unshare").called("postgres").args(&around).args(&serve);
    let mut server = plan.args(&["-c", "listen_addresses=*"]).start(scene, Some(host))?;
    let table = "create table rows (number serial primary key)";
    let at = ["-XqAt", "-h", "127.0.0.1", "-U", "postgres", "-c"];
    wait::until("the database", SOON, || {
        server.must_run()?;
        let psql = Plan::new("psql").called("table").args(&at).arg(table);
        Ok(psql.run(scene, Some(host), SOON)?.status.success().then_some(()))
    })?;
    Ok(server)
}

/// Programs that have one connection each for as long as they are let.
struct Company {
    /// An ssh that says a line every half second.
    ticks: Process,
    /// An ssh that says nothing but what it is told.
    idle: Process,
    words: File,
    asked: usize,
    /// A psql that puts in a row five times a second, and says its number.
    rows: Process,
    stop: PathBuf,
}

impl Company {
    fn meet(ground: &Ground, scene: &Scene) -> Result<Company> {
        let (fifo, stop) = (scene.path("words"), scene.path("stop"));
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU)?;
        let ssh = format!("ssh {} root@git.internal", ground.git.1);
        let ticks = format!("exec {ssh} 'while echo tick; do sleep 0.5; done'");
        let idle = format!("exec {ssh} cat < {}", fifo.display());
        let rows = format!(
            "while [ ! -e {} ]; do echo 'insert into rows default values returning number;'; \
             sleep 0.2; done | psql -XqAt -v ON_ERROR_STOP=1 -h db.internal -U postgres",
            stop.display()
        );
        let start = |name: &str, line: &str| {
            ground.app(name, &["sh", "-c", line])?.start(scene, Some(ground.client()))
        };
        let ticks = start("ticks", &ticks)?;
        let (idle, rows) = (start("idle", &idle)?, start("rows", &rows)?);
        let words = File::options().write(true).open(&fifo)?;
        let mut company = Company { ticks, idle, words, asked: 0, rows, stop };
        company.must_go_on()?;
        company.must_answer()?;
        Ok(company)
    }

    /// What talks goes on to talk.
    fn must_go_on(&mut self) -> Result<()> {
        for (name, program) in [("ssh", &mut self.ticks), ("psql", &mut self.rows)] {
            let before = program.printed().len();
            wait::until(&format!("{name} to go on"), SOON, || {
                program.must_run()?;
                Ok((program.printed().len() > before).then_some(()))
            })?;
        }
        Ok(())
    }

    /// What is idle answers when it is spoken to.
    fn must_answer(&mut self) -> Result<()> {
        self.asked += 1;
        let word = format!("word {}\n", self.asked);
        self.words.write_all(word.as_bytes())?;
        wait::until("the idle ssh's answer", SOON, || {
            self.idle.must_run()?;
            Ok(self.idle.printed().ends_with(&word).then_some(()))
        })
    }

    /// Each ends well, and each row is there once.
    fn part(self, ground: &Ground, scene: &Scene) -> Result<()> {
        std::fs::write(&self.stop, "")?;
        let said = self.rows.end(SOON)?.ok()?.out;
        let count = said.lines().count();
        let right = said.lines().enumerate().all(|(at, line)| *line == (at + 1).to_string());
        ensure!(right && count > 0, "psql: other rows: {said}");
        let sql = "select count(*) from rows";
        let at = ["-XqAt", "-h", "127.0.0.1", "-U", "postgres", "-c"];
        let psql = Plan::new("psql").called("count").args(&at).arg(sql);
        let inner = &ground.topology.hosts[INNER].namespace;
        let there = psql.run(scene, Some(inner), SOON)?.ok()?.out;
        ensure!(there.trim() == count.to_string(), "{count} rows were put in, {there} are there");
        drop(self.words);
        self.idle.end(SOON)?.ok()?;
        scene.say(&format!("{count} rows, each once"));
        Ok(())
    }
}

/// What happens, in words and in deed.
type Trouble<'a> = (&'a str, &'a dyn Fn(&mut Ground) -> Result<()>);

/// Something happens while a file comes by https and a repository by ssh, beside what is there
/// already; nobody notices. STP_IDLE_S is how long the idle ssh says nothing after it.
fn under(
    ground: &mut Ground,
    scene: &Scene,
    company: &mut Company,
    (what, event): Trouble<'_>,
) -> Result<()> {
    scene.say(what);
    let git = clone(ground, scene, &format!("cloned {what}"))?;
    let secure = ground.curl(scene, "secure", "https://web.internal/big")?;
    event(ground)?;
    company.must_go_on()?;
    ground.must_be_right(scene, secure)?;
    git.end(Duration::from_secs(90))?.ok()?;
    if let Ok(idle) = std::env::var("STP_IDLE_S") {
        std::thread::sleep(Duration::from_secs(idle.parse().context("STP_IDLE_S")?));
    }
    company.must_answer()
}

/// Longer than any time-out of a link.
fn cut(ground: &mut Ground) -> Result<()> {
    ground.topology.cut(CLIENT, 0, true)?;
    std::thread::sleep(Duration::from_secs(15));
    ground.topology.cut(CLIENT, 0, false)
}

fn new_address(ground: &mut Ground) -> Result<()> {
    ground.topology.hosts[CLIENT].replace_address(0)
}

/// A repository behind the far machine, which is cloned.
fn clone(ground: &Ground, scene: &Scene, to: &str) -> Result<Process> {
    let here = scene.dir().display();
    let make = format!(
        "[ -d {here}/repo ] || {{ git init -q {here}/repo; cd {here}/repo; \
         head -c 12000000 /dev/urandom > random; git add .; \
         git -c user.name=a -c user.email=a@b commit -qm a; }}"
    );
    let make = Plan::new("bash").called("repo").args(&["-euc", &make]);
    make.run(scene, None, SOON)?.ok()?;
    let url = format!("ssh://root@git.internal{here}/repo");
    let command = ["git", "clone", "-q", &url];
    let plan = ground.app("git", &command)?.arg(scene.path(to));
    let plan = plan.env("GIT_SSH_COMMAND", format!("ssh {}", ground.git.1));
    plan.start(scene, Some(ground.client()))
}

#[test]
fn via_add() {
    play("via_add", |scene| {
        let mut ground = Ground::lay(scene)?;
        // Not part of what is measured.
        daemon::static_server()?;
        let begun = Instant::now();
        ground.session(scene, &["via", "add", "far.example"])?.ok()?;
        let added = begun.elapsed();
        ground.start_broker(scene, &[])?;
        let small = ground.app("small", &["curl", "-sS", "--fail", "http://web.internal/small"])?;
        let small = small.run(scene, Some(ground.client()), SOON)?.ok()?;
        ensure!(small.out == "small\n", "{}", small.out);
        let first = begun.elapsed();
        scene.say(&format!("added after {added:.1?}, the first bytes after {first:.1?}"));
        ground.topology.shape(CLIENT, 0, Shape::of(40, 10))?;
        private(&ground.home(""))?;
        private(&ground.user.path(".config/session/via"))?;
        let check = ground.session(scene, &["via", "check", "far"])?.ok()?;
        ensure!(!check.out.contains("TROUBLE"), "{}", check.out);

        let mut company = Company::meet(&ground, scene)?;
        under(&mut ground, scene, &mut company, ("link cut", &cut))?;
        under(&mut ground, scene, &mut company, ("another address", &new_address))?;
        let killed = |ground: &mut Ground| {
            let plain = ground.curl(scene, "plain", "http://web.internal/big")?;
            ground.kill_server(scene)?;
            ground.must_be_right(scene, plain)
        };
        under(&mut ground, scene, &mut company, ("far server killed", &killed))?;
        let upgraded = |ground: &mut Ground| {
            ground.session(scene, &["via", "upgrade", "far"])?.ok()?;
            private(&ground.home(""))
        };
        under(&mut ground, scene, &mut company, ("far server upgraded", &upgraded))?;
        let closed = |ground: &mut Ground| ground.close_all_but(scene, "22");
        under(&mut ground, scene, &mut company, ("all ports but 22 closed", &closed))?;
        ensure!(ground.through(scene)?.as_deref() == Some("ssh"), "not through ssh");
        under(&mut ground, scene, &mut company, ("far server killed behind ssh", &killed))?;
        let check = ground.session(scene, &["via", "check", "far"])?;
        let told = check.out.contains("TROUBLE  port") && check.out.contains("port is closed");
        ensure!(told && !check.status.success(), "{}", check.out);
        ground.open_all(scene)?;
        company.part(&ground, scene)?;

        let list = ground.session(scene, &["via", "list"])?.ok()?;
        ensure!(list.out.contains("far.example"), "{}", list.out);
        ground.session(scene, &["via", "remove", "far"])?.ok()?;
        ensure!(!ground.home("").exists(), "something is left there");
        ensure!(!ground.user.path(".config/session/via/far.toml").exists(), "and here");
        Ok(())
    });
}

#[test]
fn via_proxy() {
    play("via_proxy", |scene| {
        let mut ground = Ground::lay(scene)?;
        ground.session(scene, &["via", "add", "far.example"])?.ok()?;
        ground.topology.shape(CLIENT, 0, Shape::of(40, 10))?;
        let inner = &ground.topology.hosts[INNER];
        let config = scene.path("tinyproxy.conf");
        std::fs::write(&config, format!("Port {PROXY_PORT}\nListen 0.0.0.0\nConnectPort 4433\n"))?;
        let _proxy = Plan::new("tinyproxy")
            .arg("-d")
            .arg("-c")
            .arg(&config)
            .start(scene, Some(&inner.namespace))?;
        let proxy = format!("http://{}:{PROXY_PORT}", inner.address());
        // No port of the far machine is reached, that of ssh included.
        ground.close_all_but(scene, "1")?;
        ground.start_broker(scene, &[("https_proxy", &proxy)])?;
        let mut company = Company::meet(&ground, scene)?;
        under(&mut ground, scene, &mut company, ("another address", &new_address))?;
        ensure!(ground.through(scene)?.as_deref() == Some("proxy"), "not through the proxy");
        under(&mut ground, scene, &mut company, ("link cut", &cut))?;
        let killed = |ground: &mut Ground| ground.kill_server(scene);
        under(&mut ground, scene, &mut company, ("far server killed", &killed))?;
        company.part(&ground, scene)
    });
}

/// What is wrong is said in words, and nothing is left of what failed.
#[test]
fn via_words() {
    play("via_words", |scene| {
        let mut ground = Ground::lay(scene)?;
        let said = |ended: Ended, words: &str| {
            let all = format!("{}{}", ended.out, ended.err);
            ensure!(!ended.status.success() && all.contains(words), "not {words:?} in {all}");
            Ok(())
        };
        let add = ["via", "add", "far.example"];
        let tool = ground.root.join("bin/uname");
        let tell = |text: &str| -> Result<()> {
            std::fs::remove_file(&tool)?;
            std::fs::write(&tool, format!("#!/bin/sh\n{text}\n"))?;
            Ok(std::fs::set_permissions(&tool, PermissionsExt::from_mode(0o755))?)
        };
        tell("[ \"$1\" = -m ] && echo pdp11 || echo Linux")?;
        let wrong = ground.plan(&add)?.env("SESSION_SERVER", "");
        said(wrong.run(scene, Some(ground.client()), SOON)?, "wrong architecture")?;
        // A program that does not run there is as good as none.
        tell("[ \"$1\" = -m ] && echo x86_64 || echo Linux")?;
        let broken = scene.path("broken");
        std::fs::write(&broken, "\u{7f}ELF of another machine")?;
        let other = ground.plan(&add)?.env("SESSION_SERVER", &broken);
        said(other.run(scene, Some(ground.client()), SOON)?, "does not run there")?;
        // Whoever has another key than the known one is not talked to.
        let known = std::fs::read_to_string(scene.path("known"))?;
        std::fs::write(scene.path("known"), "")?;
        said(ground.session(scene, &add)?, "Host key verification failed")?;
        std::fs::write(scene.path("known"), known)?;
        ensure!(!ground.user.path(".config/session/via/far.toml").exists(), "a profile is left");

        ground.session(scene, &add)?.ok()?;
        said(ground.session(scene, &add)?, "already")?;
        let check = ["via", "check", "far"];
        ground.session(scene, &check)?.ok()?;
        let late = Plan::new("faketime").called("late").arg("+10 minutes");
        let late = late.arg(daemon::programs()?.join("session")).args(&check);
        let late = late.env("SESSION_SSH", &ground.ssh).env("HOME", ground.user.path(""));
        let late = late.run(scene, Some(ground.client()), SOON)?;
        said(late, "behind this machine's")?;
        let server = ground.home("stp-server");
        std::fs::rename(&server, ground.home("kept"))?;
        std::fs::write(&server, "#!/bin/sh\necho stp-server 0.0.9\n")?;
        std::fs::set_permissions(&server, PermissionsExt::from_mode(0o755))?;
        said(ground.session(scene, &check)?, "stp-server 0.0.9 is there")?;
        std::fs::remove_file(&server)?;
        std::fs::rename(ground.home("kept"), &server)?;
        std::os::unix::fs::symlink("busybox", ground.root.join("bin/df.new"))?;
        std::fs::remove_file(ground.root.join("bin/df"))?;
        let full = "#!/bin/sh\necho Filesystem\necho disk 100 90 10 90% /\n";
        std::fs::write(ground.root.join("bin/df"), full)?;
        std::fs::set_permissions(ground.root.join("bin/df"), PermissionsExt::from_mode(0o755))?;
        said(ground.session(scene, &check)?, "no space: 10 KiB")?;
        said(ground.session(scene, &["via", "upgrade", "far"])?, "no space: 10 KiB")?;
        ground.sshd = None;
        said(ground.session(scene, &check)?, "ssh does not get to far.example")?;
        Ok(())
    });
}
