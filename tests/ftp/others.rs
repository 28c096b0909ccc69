//! Other FTP servers than vsftpd: ProFTPD and Pure-FTPd, each behind two STP servers. Debian lets
//! only one FTP server be installed, so these two are unpacked by scripts/test.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use stp_tests::daemon::{self, BROKER_STATUS, Broker, Offer, Server, Wanted};
use stp_tests::emulator::Shape;
use stp_tests::file::{self, Payload};
use stp_tests::namespace::Namespace;
use stp_tests::process::{Plan, Process};
use stp_tests::scene::{Scene, play};
use stp_tests::topology::Topology;
use stp_tests::wait;

use crate::client::{Account, CLIENTS, Client, HOST, Mode, Operation, Order};
use crate::world::{CLIENT, CLIENT_MAX};

const SERVICE: &str = "ftp.mirror@lab.example";
const NAMES: [&str; 2] = ["a", "b"];
const LISTED: usize = 2_000;
/// The password that the client has.
const SECRET: &str = "secret";

#[derive(Clone, Copy)]
enum Kind {
    Proftpd,
    Pure,
}

/// A file of a package that scripts/test has unpacked.
fn unpacked(file: &str) -> Result<PathBuf> {
    let target = daemon::programs()?.parent().context("programs are in a folder")?;
    let path = target.join("unpacked").join(file);
    ensure!(path.exists(), "{} is missing: scripts/ftp --unpack makes it", path.display());
    Ok(path)
}

impl Kind {
    /// Starts one on loopback, port 21, for the user ann.
    fn start(
        self,
        scene: &Scene,
        (name, password): (&str, &str),
        at: &Namespace,
        root: &Path,
    ) -> Result<Process> {
        let dir = scene.subdir(&format!("ftpd-{name}"))?;
        let plan = match self {
            Kind::Proftpd => proftpd(&dir, root, password)?,
            Kind::Pure => pure(scene, &dir, root, password)?,
        };
        let mut process = plan.called(&format!("ftpd-{name}")).start(scene, Some(at))?;
        let probe = || std::net::TcpStream::connect(("127.0.0.1", 21)).is_ok();
        wait::until("the FTP server to listen", Duration::from_secs(20), || {
            process.must_run()?;
            Ok(at.inside(probe)?.then_some(()))
        })?;
        Ok(process)
    }
}

/// A user, with a password as crypt(3) has it.
const ANN: &str = "ann:HASH:65534:65534::ROOT:/bin/false\n";

fn proftpd(dir: &Path, root: &Path, password: &str) -> Result<Plan> {
    let users = dir.join("users");
    let hashed = std::process::Command::new("openssl").args(["passwd", "-6", password]).output()?;
    let hash = String::from_utf8(hashed.stdout)?;
    let line = ANN.replace("HASH", hash.trim()).replace("ROOT", &root.display().to_string());
    std::fs::write(&users, line)?;
    std::fs::set_permissions(&users, std::fs::Permissions::from_mode(0o600))?;
    let (at, modules) = (dir.display(), unpacked("proftpd-core/usr/lib/proftpd")?);
    let text = format!(
        "ServerType standalone\nDefaultServer on\nPort 21\nDefaultAddress 127.0.0.1\n\
         UseIPv6 off\nUseReverseDNS off\nUser nobody\nGroup nogroup\nWtmpLog off\n\
         ScoreboardFile {at}/score\nPidFile {at}/pid\nSystemLog {at}/log\nDelayEngine off\n\
         AuthOrder mod_auth_file.c\nAuthUserFile {at}/users\nRequireValidShell off\n\
         DefaultRoot ~\nAllowStoreRestart on\nAllowOverwrite on\nModulePath {}\n",
        modules.display()
    );
    let config = dir.join("proftpd.conf");
    std::fs::write(&config, text)?;
    let program = unpacked("proftpd-core/usr/sbin/proftpd")?;
    Ok(Plan::new(program).args(&["-n", "-q", "-c"]).arg(config))
}

fn pure(scene: &Scene, dir: &Path, root: &Path, password: &str) -> Result<Plan> {
    let (users, table) = (dir.join("users"), dir.join("users.pdb"));
    let make = Plan::new(unpacked("pure-ftpd/usr/bin/pure-pw")?)
        .args(&["useradd", "ann", "-u", "nobody", "-g", "nogroup", "-m", "-d"])
        .arg(root)
        .arg("-f")
        .arg(users)
        .arg("-F")
        .arg(&table)
        .input(&format!("{password}\n{password}\n"));
    make.run(scene, None, Duration::from_secs(20))?.ok()?;
    let program = unpacked("pure-ftpd/usr/sbin/pure-ftpd")?;
    let table = format!("puredb:{}", table.display());
    let plan = Plan::new(program).args(&["-S", "127.0.0.1,21", "-E", "-4", "-H", "-l", &table]);
    Ok(plan)
}

/// Programs fall first.
struct Ground {
    broker: Broker,
    servers: Vec<Server>,
    ftp: Vec<Process>,
    kind: Kind,
    roots: Vec<PathBuf>,
    topology: Topology,
    payload: Payload,
}

impl Ground {
    fn lay(scene: &Scene, kind: Kind, passwords: [&str; 2]) -> Result<Ground> {
        daemon::programs()?;
        let topology = Topology::build(&[("client", 1), ("a", 1), ("b", 1)])?;
        topology.shape(CLIENT, 0, Shape::of(100, 20))?;
        let payload = Payload::make(30, 1)?;
        let key = daemon::cluster_key(scene, "cluster.key")?;
        let (mut servers, mut ftp, mut roots) = (Vec::new(), Vec::new(), Vec::new());
        for (place, &name) in NAMES.iter().enumerate() {
            let host = &topology.hosts[place + 1];
            let root = scene.subdir(&format!("{name}-root"))?;
            std::fs::create_dir_all(root.join("in"))?;
            std::fs::create_dir_all(root.join("names"))?;
            std::fs::set_permissions(root.join("in"), std::fs::Permissions::from_mode(0o777))?;
            payload.link(&root.join("big"))?;
            for number in 0..LISTED {
                std::fs::File::create(root.join(format!("names/name-{number:05}")))?;
            }
            ftp.push(kind.start(scene, (name, passwords[place]), &host.namespace, &root)?);
            roots.push(root);
            let offer = Offer::new(SERVICE, "ftp", "127.0.0.1:21");
            let at = (&host.namespace, &*host.address());
            servers.push(Server::start(scene, name, at, &key, &[offer], "")?);
        }
        let all = servers.iter().map(|s| (s.name.clone(), s.address.clone(), s.key.clone()));
        let route = format!("{HOST}:21");
        let wanted = [Wanted { name: SERVICE, route: &route, servers: all.collect() }];
        let broker = Broker::start(scene, &topology.hosts[CLIENT].namespace, &wanted, "")?;
        Ok(Ground { broker, servers, ftp, kind, roots, topology, payload })
    }

    fn curl(&self, scene: &Scene, arguments: &[&str], path: &str) -> Result<Process> {
        let url = format!("ftp://{HOST}/{path}");
        let curl = self.broker.app("curl")?.args(&["-sS", "--fail", "-u", "ann:secret"]);
        let client = &self.topology.hosts[CLIENT].namespace;
        curl.args(arguments).arg(url).start(scene, Some(client))
    }

    /// A client of the table, as ann.
    fn get(&self, scene: &Scene, client: Client) -> Result<(Process, PathBuf)> {
        let dir = scene.subdir(client.name())?;
        let local = dir.join(if client == Client::Ncftp { "big" } else { "got" });
        let account = Account { host: HOST, user: "ann", password: SECRET };
        let (mode, operation) = (Mode::Passive, Operation::Retr);
        let order = Order { account, mode, operation, local: &local, idle: 0 };
        let plan = client.plan(Some(&self.broker), &order)?;
        let process = plan.start(scene, Some(&self.topology.hosts[CLIENT].namespace))?;
        Ok((process, local))
    }

    /// `kill -9` of an FTP server and of its logins, and a new one a second later.
    fn kill_ftp(&mut self, scene: &Scene, place: usize) -> Result<()> {
        stp_tests::vsftpd::kill_tree(&mut self.ftp[place])?;
        std::thread::sleep(Duration::from_secs(1));
        let at = &self.topology.hosts[place + 1].namespace;
        let again = format!("{}-again", NAMES[place]);
        self.ftp[place] = self.kind.start(scene, (&again, SECRET), at, &self.roots[place])?;
        Ok(())
    }

    fn wait_for_a_third(&self, files: &[PathBuf]) -> Result<()> {
        wait::until("a third of it", CLIENT_MAX, || {
            let length = |file: &PathBuf| std::fs::metadata(file).map_or(0, |meta| meta.len());
            let most = files.iter().map(length).max().unwrap_or(0);
            Ok((most > self.payload.len / 3).then_some(()))
        })
    }

    fn serving(&self) -> Result<usize> {
        let status = daemon::status(&self.topology.hosts[CLIENT].namespace, BROKER_STATUS)?;
        let server = status["sessions"][0]["server"].as_str().context("no session")?;
        NAMES.iter().position(|name| *name == server).context("an unknown server")
    }

    fn must_be_right(&self, files: &[PathBuf]) -> Result<()> {
        let right = |file: &PathBuf| file::sha256(file).is_ok_and(|sum| sum == self.payload.sha256);
        ensure!(files.iter().any(right), "wrong bytes");
        Ok(())
    }
}

fn works(name: &str, kind: Kind) {
    play(name, |scene| {
        let mut ground = Ground::lay(scene, kind, [SECRET; 2])?;
        let list = ground.curl(scene, &["-l"], "names/")?.end(CLIENT_MAX)?.ok()?;
        let names = list.out.lines().filter(|line| line.starts_with("name-")).count();
        ensure!(names == LISTED, "{names} names");
        scene.say("an upload, and a new address");
        let local = scene.path("put");
        ground.payload.link(&local)?;
        let text = local.display().to_string();
        let curl = ground.curl(scene, &["-T", &text], "in/put")?;
        let there: Vec<PathBuf> = ground.roots.iter().map(|root| root.join("in/put")).collect();
        ground.wait_for_a_third(&there)?;
        ground.topology.hosts[CLIENT].replace_address(0)?;
        curl.end(CLIENT_MAX)?.ok()?;
        ground.must_be_right(&there)?;
        scene.say("a download, and the death of its server");
        let got = scene.path("got");
        let text = got.display().to_string();
        let curl = ground.curl(scene, &["-o", &text], "big")?;
        ground.wait_for_a_third(std::slice::from_ref(&got))?;
        let place = ground.serving()?;
        ground.servers[place].kill()?;
        curl.end(CLIENT_MAX)?.ok()?;
        ground.must_be_right(&[got])
    });
}

/// Every client gets its file: nothing happens, the path is cut, the FTP server is killed.
fn others_get(name: &str, kind: Kind, clients: &[Client]) {
    for client in clients {
        for fault in ["none", "cut", "ftp"] {
            play(&format!("{name}-{}-{fault}", client.name()), |scene| {
                let mut ground = Ground::lay(scene, kind, [SECRET; 2])?;
                let (process, got) = ground.get(scene, *client)?;
                ground.wait_for_a_third(std::slice::from_ref(&got))?;
                match fault {
                    "cut" => {
                        ground.topology.cut(CLIENT, 0, true)?;
                        std::thread::sleep(Duration::from_secs(5));
                        ground.topology.cut(CLIENT, 0, false)?;
                    }
                    "ftp" => {
                        let place = ground.serving()?;
                        ground.kill_ftp(scene, place)?;
                    }
                    _ => {}
                }
                let ended = process.end(CLIENT_MAX)?;
                ensure!(ended.status.success(), "{}{}", ended.out, ended.err);
                ground.must_be_right(&[got])
            });
        }
    }
}

#[test]
fn proftpd_before_lftp() {
    others_get("ftp-proftpd", Kind::Proftpd, &[Client::Lftp]);
}

#[test]
fn pure_ftpd_before_tnftp() {
    others_get("ftp-pure", Kind::Pure, &[Client::Tnftp]);
}

#[test]
#[ignore = "takes long: scripts/ftp"]
fn proftpd_before_everybody() {
    others_get("ftp-proftpd-all", Kind::Proftpd, &CLIENTS);
}

#[test]
#[ignore = "takes long: scripts/ftp"]
fn pure_ftpd_before_everybody() {
    others_get("ftp-pure-all", Kind::Pure, &CLIENTS);
}

#[test]
fn proftpd_before_curl() {
    works("ftp-proftpd", Kind::Proftpd);
}

#[test]
fn pure_ftpd_before_curl() {
    works("ftp-pure", Kind::Pure);
}

/// Another password on the replica: the login is not made there, and the client is told.
#[test]
fn a_replica_with_another_password_is_an_error_and_no_success() {
    play("ftp-other-password", |scene| {
        let mut ground = Ground::lay(scene, Kind::Proftpd, [SECRET, "other"])?;
        let got = scene.path("got");
        let text = got.display().to_string();
        let curl = ground.curl(scene, &["-o", &text], "big")?;
        ground.wait_for_a_third(std::slice::from_ref(&got))?;
        ensure!(ground.serving()? == 0, "the first server was to be taken");
        ground.servers[0].kill()?;
        let ended = curl.end(CLIENT_MAX)?;
        ensure!(!ended.status.success(), "told of success");
        // Whoever has the password of that server is served.
        let client = &ground.topology.hosts[CLIENT].namespace;
        let url = format!("ftp://{HOST}/big");
        let curl = ground.broker.app("curl")?.args(&["-sS", "--fail", "-u", "ann:other", "-o"]);
        curl.arg(&got).arg(url).start(scene, Some(client))?.end(CLIENT_MAX)?.ok()?;
        ground.must_be_right(&[got])
    });
}
