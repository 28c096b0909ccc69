//! A far end out of an ssh account: `session via` against a real sshd, on a machine whose root has
//! nothing but busybox, for a user without privileges; and what programs see through it.

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
use stp_tests::process::{Ended, Plan, Process};
use stp_tests::scene::{Scene, play};
use stp_tests::sshd;
use stp_tests::topology::Topology;
use stp_tests::user::User;
use stp_tests::wait;

use crate::world::reach;

const CLIENT: usize = 0;
const FAR: usize = 1;
/// Where the services are, whose names only the far machine knows. A proxy runs there as well.
const INNER: usize = 2;
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
echo 'hosts: files' > etc/nsswitch.conf
for each in null:3 random:8 urandom:9; do mknod -m 666 dev/${each%:*} c 1 ${each#*:}; done
chmod 1777 tmp
ssh-keygen -qt ed25519 -N '' -f etc/ssh/host
ssh-keygen -qt ed25519 -N '' -f ../user
cp ../user.pub home/me/.ssh/authorized_keys
chown -R 1000:1000 home/me
chmod -R go= home/me
"#;

struct Ground {
    topology: Topology,
    user: User,
    root: PathBuf,
    payload: Payload,
    ssh: String,
    broker: Option<Process>,
    sshd: Option<Process>,
    _web: Nginx,
    _git: (Process, String),
}

impl Ground {
    fn lay(scene: &Scene) -> Result<Ground> {
        let topology = Topology::build(&[("client", 1), ("far", 1), ("inner", 1)])?;
        let payload = Payload::make(MEGABYTES, 1)?;
        let user = User::with_config(scene, "")?;
        let root = scene.subdir("root")?;
        let make = Plan::new("bash")
            .called("root")
            .args(&["-euc", &format!("cd {}\n{ROOT}", root.display())]);
        make.run(scene, None, SOON)?.ok()?;
        let inner = &topology.hosts[INNER];
        let names = format!("127.0.0.1 localhost\n{} web.internal git.internal\n", inner.address());
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
        let secure = format!(
            "server {{ listen 443 ssl; root {}; ssl_certificate {}; ssl_certificate_key {}; }}",
            www.display(),
            scene.path("web.pem").display(),
            scene.path("web.key").display()
        );
        let web = Nginx::start_at(scene, "web", &inner.namespace, 80, &www, &secure)?;
        payload.link(&www.join("big"))?;
        std::fs::write(www.join("small"), "small\n")?;
        let git = sshd::start_at(scene, &inner.namespace, "git.internal", "0.0.0.0:22")?;
        let mut ground = Ground {
            topology,
            user,
            root,
            payload,
            ssh: String::new(),
            broker: None,
            sshd: None,
            _web: web,
            _git: git,
        };
        ground.ssh = ground.ssh_config(scene)?;
        ground.start_sshd(scene)?;
        Ok(ground)
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

    fn client(&self) -> &Namespace {
        &self.topology.hosts[CLIENT].namespace
    }

    fn home(&self, name: &str) -> PathBuf {
        self.root.join("home/me/.local/share/session/via").join(name)
    }

    /// `session …`, with the user's ssh and the server for the far machine.
    fn plan(&self, arguments: &[&str]) -> Result<Plan> {
        let plan = self.user.plan("session")?.called(&arguments[..2].join("-")).args(arguments);
        Ok(plan.env("SESSION_SSH", &self.ssh).env("SESSION_SERVER", daemon::static_server()?))
    }

    fn session(&self, scene: &Scene, arguments: &[&str]) -> Result<Ended> {
        self.plan(arguments)?.run(scene, Some(self.client()), Duration::from_secs(60))
    }

    /// A command on the far machine, by the user's ssh.
    fn there(&self, scene: &Scene, command: &str) -> Result<Ended> {
        let words: Vec<&str> = self.ssh.split(' ').collect();
        let plan = Plan::new(words[0]).called("there").args(&words[1..]).arg("far.example");
        plan.arg(command).run(scene, Some(self.client()), SOON)
    }

    /// The broker that leads through the far end alone, with more variables.
    fn start_broker(&mut self, scene: &Scene, more: &[(&str, &str)]) -> Result<()> {
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

    fn status(&self, scene: &Scene) -> Result<Value> {
        let ended = self.session(scene, &["status", "--json", "--via", "far"])?.ok()?;
        let last = ended.out.rfind("\n{").map_or(0, |at| at + 1);
        Ok(serde_json::from_str(&ended.out[last..])?)
    }

    /// What links to the server go through.
    fn through(&self, scene: &Scene) -> Result<Option<String>> {
        let status = self.status(scene)?;
        Ok(status["services"][0]["servers"][0]["through"].as_str().map(str::to_owned))
    }

    fn app(&self, name: &str, command: &[&str]) -> Result<Plan> {
        let run = ["run", "--via", "far", "--no-broker", "--"];
        Ok(self.plan(&run)?.called(name).args(command))
    }

    /// curl begins to fetch the big file; it has a sixth of it when this returns.
    fn curl(&self, scene: &Scene, name: &str, url: &str) -> Result<(Process, PathBuf)> {
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
        let expected = if is_program { 0o700 } else { 0o600 };
        ensure!(mode == expected, "{} has mode {mode:04o}", entry.path().display());
    }
    Ok(())
}

/// An ssh that says a line every half second, for as long as it is let.
fn idle_ssh(ground: &Ground, scene: &Scene) -> Result<Process> {
    let options: Vec<&str> = ground._git.1.split(' ').filter(|word| !word.is_empty()).collect();
    let ticks = "while echo tick; do sleep 0.5; done";
    let command = [&["ssh"][..], &options, &["root@git.internal", ticks]].concat();
    let mut ssh = ground.app("idle", &command)?.start(scene, Some(ground.client()))?;
    wait::until_true("ssh to say something", SOON, || {
        ssh.must_run().is_ok() && ssh.printed().contains("tick")
    })?;
    Ok(ssh)
}

/// It goes on saying things.
fn must_tick(ssh: &mut Process) -> Result<()> {
    let before = ssh.printed().len();
    wait::until("ssh to go on", SOON, || {
        ssh.must_run()?;
        Ok((ssh.printed().len() > before).then_some(()))
    })
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
    let plan = plan.env("GIT_SSH_COMMAND", format!("ssh {}", ground._git.1));
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

        scene.say("link cut, then another address");
        let mut ssh = idle_ssh(&ground, scene)?;
        let secure = ground.curl(scene, "secure", "https://web.internal/big")?;
        let git = clone(&ground, scene, "cloned")?;
        ground.topology.cut(CLIENT, 0, true)?;
        std::thread::sleep(Duration::from_secs(5));
        ground.topology.cut(CLIENT, 0, false)?;
        must_tick(&mut ssh)?;
        ground.topology.hosts[CLIENT].replace_address(0)?;
        ground.must_be_right(scene, secure)?;
        git.end(Duration::from_secs(90))?.ok()?;
        must_tick(&mut ssh)?;

        scene.say("all ports but 22 are closed");
        let secure = ground.curl(scene, "secure", "https://web.internal/big")?;
        ground.close_all_but(scene, "22")?;
        ground.must_be_right(scene, secure)?;
        ensure!(ground.through(scene)?.as_deref() == Some("ssh"), "not through ssh");
        must_tick(&mut ssh)?;
        let git = clone(&ground, scene, "cloned-by-ssh")?;
        git.end(Duration::from_secs(90))?.ok()?;
        let check = ground.session(scene, &["via", "check", "far"])?;
        let told = check.out.contains("TROUBLE  port") && check.out.contains("port is closed");
        ensure!(told && !check.status.success(), "{}", check.out);
        ground.open_all(scene)?;

        scene.say("the far server is killed: what it has by HTTP goes on");
        let plain = ground.curl(scene, "plain", "http://web.internal/big")?;
        ground.there(scene, "kill -9 $(cat .local/share/session/via/server.pid)")?.ok()?;
        ground.must_be_right(scene, plain)?;
        let ended = ssh.end(SOON)?;
        ensure!(!ended.status.success(), "its connection died with the server");

        ground.session(scene, &["via", "upgrade", "far"])?.ok()?;
        private(&ground.home(""))?;
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
        let mut ssh = idle_ssh(&ground, scene)?;
        let secure = ground.curl(scene, "secure", "https://web.internal/big")?;
        ground.topology.hosts[CLIENT].replace_address(0)?;
        ground.must_be_right(scene, secure)?;
        ensure!(ground.through(scene)?.as_deref() == Some("proxy"), "not through the proxy");
        must_tick(&mut ssh)
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
