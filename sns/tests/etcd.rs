//! Daemons on one real etcd (Debian's `etcd-server`): they have the same names, clients do not
//! notice when one of them is killed, TLS and users work, and so do the daemons when etcd does not
//! answer any more.

mod fixture;

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use fixture::*;
use stp_lookup::AskError;
use stp_lookup::gateway::connect_any;
use stp_net::key::Identity;
use stp_net::link::{LinkOptions, Tls};
use stp_proto::lookup::*;
use stp_sns::config::{EtcdConfig, EtcdTls};
use stp_sns::tables::Tables;
use stp_tests::loopback::Etcd;

/// etcd, and the folder of its data.
fn etcd() -> (Etcd, tempfile::TempDir) {
    let folder = tempfile::tempdir().expect("a folder");
    let etcd = Etcd::start(&folder.path().join("data")).expect("etcd is installed");
    (etcd, folder)
}

fn pair(etcd: &Etcd) -> (Daemon, Daemon) {
    let folder = Arc::new(tempfile::tempdir().expect("a folder"));
    let store = format!("etcd = [\"127.0.0.1:1\", \"{}\"]", etcd.address);
    let extra = Extra { store: &store, limits: "server_lease = \"3s\"", ..Extra::default() };
    let first = Daemon::start_in(Arc::clone(&folder), "first", &extra);
    (first, Daemon::start_in(folder, "second", &extra))
}

#[tokio::test]
async fn two_daemons_on_one_etcd_serve_the_same_names() {
    let (etcd, _folder) = etcd();
    let (first, second) = pair(&etcd);
    let tls = Tls::new(&Identity::generate());
    let (a, b) = (first.connect(&tls).await, second.connect(&tls).await);
    a.ask(new_endpoint("web@example.com", "192.0.2.1", 0)).await.expect("made");
    a.ask(new_service("www.web@example.com", 80)).await.expect("made");
    assert_eq!(places(&a, "www.web@example.com").await.len(), 1, "one reads what one wrote");
    until("the other has it", async || places(&b, "www.web@example.com").await.len() == 1).await;
    let again = new_endpoint("web@example.com", "192.0.2.1", 0);
    assert_eq!(refusal(&b, again).await, Refusal::Exists);

    // Both at once make the same name: one of them gets it.
    for round in 0..20 {
        let ask = || new_endpoint(&format!("race{round}@example.com"), "192.0.2.1", 0);
        let (x, y) = tokio::join!(a.ask(ask()), b.ask(ask()));
        assert!(x.is_ok() != y.is_ok(), "{x:?} {y:?}");
    }

    // A change at one is told by the other.
    let watched = OneName { name: "www.web@example.com".into(), endpoint: false };
    let mut watch = b.watch(Ask::Watch(watched)).await.expect("anybody may");
    let addresses = vec!["192.0.2.77".parse().expect("an address")].into();
    let moved = ChangeEndpoint { name: endpoint("web@example.com"), addresses };
    a.ask(Ask::ChangeEndpoint(moved)).await.expect("ours");
    let told = watch.changed().await.expect("told").service.expect("a service");
    assert_eq!(told.places[0].address, "192.0.2.77:80".parse().expect("an address"));

    // Leases are etcd's own: renewed at either, over at both.
    a.ask(new_endpoint("short@example.com", "192.0.2.1", 2)).await.expect("made");
    a.ask(new_service("www.short@example.com", 80)).await.expect("made");
    until("the other has it", async || places(&b, "www.short@example.com").await.len() == 1).await;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(4) {
        let renew = Ask::Renew(OneEndpoint { name: endpoint("short@example.com") });
        b.ask(renew).await.expect("it lives");
        tokio::time::sleep(Duration::from_millis(400)).await;
    }
    assert_eq!(places(&a, "www.short@example.com").await.len(), 1);
    until("over at both", async || {
        places(&a, "www.short@example.com").await.is_empty()
            && places(&b, "www.short@example.com").await.is_empty()
    })
    .await;
    // Delete with services.
    a.ask(Ask::DeleteEndpoint(OneEndpoint { name: endpoint("web@example.com") }))
        .await
        .expect("ours");
    assert!(places(&a, "www.web@example.com").await.is_empty());
}

#[tokio::test]
async fn one_of_two_is_killed_and_nobody_notices() {
    let (etcd, _folder) = etcd();
    let (mut first, second) = pair(&etcd);
    first.add_user("alice", "/");
    let server = Tls::new(&Identity::generate());
    first.allow("a", server.public_key(), &["file.m@example.com"]);
    let both = [first.address, second.address];
    let key = first.key;
    assert_eq!(key, second.key, "they share it");
    let to = |tls: Arc<Tls>| async move {
        connect_any(&both, &key, &tls, &LinkOptions::default()).await.expect("one of them")
    };
    let link = to(Arc::clone(&server)).await;
    link.ask(announce("a", 4431, &["file.m@example.com"], 5)).await.expect("allowed");
    send_files(&link, "a", "file.m@example.com", 5, &[file("/f", 9, 1)]).await;
    link.ask(new_endpoint("e@example.com", "192.0.2.1", 0)).await.expect("made");
    first.kill();
    let begun = Instant::now();
    let link = to(Arc::clone(&server)).await;
    link.ask(announce("a", 4431, &["file.m@example.com"], 5)).await.expect("known there as well");
    assert!(begun.elapsed() < Duration::from_secs(1), "{:?}", begun.elapsed());
    let alice = second.login(&Tls::new(&Identity::generate()), "alice").await;
    let path = FilePath::new("/f").expect("a path");
    assert_eq!(alice.locate(None, Some(path), 0).await.expect("it is there").servers.len(), 1);
    let delete = Ask::DeleteEndpoint(OneEndpoint { name: endpoint("e@example.com") });
    link.ask(delete).await.expect("the owner is the owner everywhere");
}

fn openssl(folder: &Path, line: &str) {
    let mut command = Command::new("openssl");
    command.args(line.split(' ')).current_dir(folder).stdout(Stdio::null());
    let output = command.output().expect("openssl is installed");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "openssl {line}: {said}");
}

/// A certificate authority, and certificates of it for etcd and for a client.
fn certificates(folder: &Path) {
    const NEW: &str = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    for ca in ["ca", "other-ca"] {
        let out = format!("-subj /CN={ca} -keyout {ca}.key -out {ca}.pem");
        openssl(folder, &format!("req -x509 {NEW} -days 2 {out}"));
    }
    let usages =
        [("etcd", "subjectAltName=IP:127.0.0.1"), ("client", "extendedKeyUsage=clientAuth")];
    for (name, extension) in usages {
        openssl(folder, &format!("req {NEW} -subj /CN={name} -keyout {name}.key -out {name}.csr"));
        std::fs::write(folder.join("extensions"), extension).expect("our folder");
        openssl(
            folder,
            &format!(
                "x509 -req -in {name}.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
                 -extfile extensions -out {name}.pem"
            ),
        );
    }
}

/// From now on etcd wants a user; `session` has one for our keys alone.
async fn enable_users(config: &EtcdConfig) {
    use etcd_client::{Certificate, Client, ConnectOptions, Identity, Permission, TlsOptions};
    let tls = config.tls.as_ref().expect("with TLS");
    let read = |path: &Path| std::fs::read(path).expect("made before");
    let (cert, key) = tls.identity.as_ref().expect("with a certificate");
    let options = TlsOptions::new()
        .ca_certificate(Certificate::from_pem(read(&tls.ca_file)))
        .identity(Identity::from_pem(read(cert), read(key)));
    let options = ConnectOptions::new().with_tls(options);
    let client = Client::connect(&config.endpoints, Some(options)).await.expect("it listens");
    let mut auth = client.auth_client();
    auth.user_add("root", "of no use here", None).await.expect("new");
    auth.role_add("root").await.expect("new");
    auth.user_grant_role("root", "root").await.expect("both are there");
    auth.user_add("session", PASSWORD, None).await.expect("new");
    auth.role_add("names").await.expect("new");
    let ours = Permission::read_write("/session/").with_prefix();
    auth.role_grant_permission("names", ours).await.expect("new");
    auth.user_grant_role("session", "names").await.expect("both are there");
    auth.auth_enable().await.expect("root is there");
}

#[tokio::test]
async fn etcd_is_spoken_to_with_tls_a_client_certificate_and_a_user() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    certificates(folder.path());
    let text = |name: &str| path(name).display().to_string();
    let (ca, cert, key) = (text("ca.pem"), text("etcd.pem"), text("etcd.key"));
    let etcd = Etcd::start_as(
        &path("data"),
        "https",
        &["--cert-file", &cert, "--key-file", &key, "--client-cert-auth", "--trusted-ca-file", &ca],
    );
    let etcd = etcd.expect("etcd is installed");
    std::fs::write(path("password"), format!("{PASSWORD}\n")).expect("our folder");
    for private in ["password", "client.key"] {
        std::fs::set_permissions(path(private), std::fs::Permissions::from_mode(0o600))
            .expect("ours");
    }
    let good = EtcdConfig {
        endpoints: vec![etcd.address.to_string()],
        prefix: "/session/".into(),
        tls: Some(EtcdTls {
            ca_file: path("ca.pem"),
            identity: Some((path("client.pem"), path("client.key"))),
        }),
        user: Some(("session".into(), path("password"))),
    };
    enable_users(&good).await;
    let store = format!(
        "etcd = [\"127.0.0.1:1\", \"{}\"]\nca_file = {ca:?}\ncert_file = {:?}\nkey_file = {:?}\n\
         user = \"session\"\npassword_file = {:?}",
        etcd.address,
        path("client.pem"),
        path("client.key"),
        path("password"),
    );
    let extra = Extra { store: &store, ..Extra::default() };
    let shared = Arc::new(tempfile::tempdir().expect("a folder"));
    let first = Daemon::start_in(Arc::clone(&shared), "first", &extra);
    let second = Daemon::start_in(shared, "second", &extra);
    let (a, b) = (first.client().await, second.client().await);
    a.ask(new_endpoint("web@example.com", "192.0.2.1", 60)).await.expect("made");
    a.ask(new_service("www.web@example.com", 80)).await.expect("made");
    until("the other has it", async || places(&b, "www.web@example.com").await.len() == 1).await;
    a.ask(Ask::Renew(OneEndpoint { name: endpoint("web@example.com") })).await.expect("it lives");

    // Whoever lacks one of the three is refused, and told why.
    let tls = good.tls.clone().expect("above");
    let with = |tls: Option<EtcdTls>| EtcdConfig { tls, ..good.clone() };
    std::fs::write(path("wrong"), "of somebody else").expect("our folder");
    std::fs::set_permissions(path("wrong"), std::fs::Permissions::from_mode(0o600)).expect("ours");
    for (lacking, config) in [
        ("TLS", EtcdConfig { user: None, ..with(None) }),
        ("authority", with(Some(EtcdTls { ca_file: path("other-ca.pem"), ..tls.clone() }))),
        ("certificate", with(Some(EtcdTls { identity: None, ..tls.clone() }))),
        ("user", EtcdConfig { user: None, ..good.clone() }),
        ("password", EtcdConfig { user: Some(("session".into(), path("wrong"))), ..good.clone() }),
    ] {
        let begun = Instant::now();
        let sink: Arc<Tables> = Arc::default();
        let refused = stp_sns::store::etcd::Etcd::open(&config, sink).await;
        let error = refused.expect_err(lacking).to_string();
        assert!(error.contains(&etcd.address.to_string()), "{lacking}: {error}");
        assert!(begun.elapsed() < Duration::from_secs(10), "{lacking}: {:?}", begun.elapsed());
        eprintln!("without {lacking}: {error}");
    }
}

fn signal(pid: u32, signal: &str) {
    let sent = Command::new("kill").args([signal, &pid.to_string()]).status();
    assert!(sent.expect("kill is there").success());
    // A thread that is in the kernel when the signal is sent goes on for a moment.
    while signal == "-STOP" && !stands_still(pid) {
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Whether every thread of a process is stopped.
fn stands_still(pid: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).expect("it runs");
    let is_stopped = |folder: std::path::PathBuf| {
        let stat = std::fs::read_to_string(folder.join("stat")).unwrap_or_default();
        stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
    };
    threads.flatten().all(|thread| is_stopped(thread.path()))
}

/// etcd is there and says nothing: requests end, servers that are heard of here are told, those
/// that may be dead are not, and all is well when it is back.
#[tokio::test]
async fn a_store_that_is_silent_for_longer_than_a_lease_vouches_for_nobody() {
    let (etcd, _folder) = etcd();
    let (first, _second) = pair(&etcd);
    let (here, gone) = (Tls::new(&Identity::generate()), Tls::new(&Identity::generate()));
    first.allow("here", here.public_key(), &["www.m@example.com"]);
    first.allow("gone", gone.public_key(), &["www.m@example.com"]);
    let (link, client) = (first.connect(&here).await, first.client().await);
    let announce_here = || announce("here", 4431, &["www.m@example.com"], 0);
    link.ask(announce_here()).await.expect("allowed");
    let other = first.connect(&gone).await;
    other.ask(announce("gone", 4432, &["www.m@example.com"], 0)).await.expect("allowed");
    assert_eq!(places(&client, "www.m@example.com").await.len(), 2);
    drop(other);

    signal(etcd.pid(), "-STOP");
    let begun = Instant::now();
    let made = client.ask(new_endpoint("late@example.com", "192.0.2.1", 0)).await;
    assert!(made.is_err(), "it cannot have been written");
    assert!(begun.elapsed() < Duration::from_secs(15), "{:?}", begun.elapsed());
    let only_here = async || {
        let _ = link.ask(announce_here()).await;
        let found = places(&client, "www.m@example.com").await;
        found == ["127.0.0.1:4431".parse().expect("an address")]
    };
    until("the one that may be dead is not told", only_here).await;
    signal(etcd.pid(), "-CONT");
    // etcd may carry out now a request that it got while it stood still, though the client does not
    // wait for its answer any more.
    until("it is written again", async || {
        let made = client.ask(new_endpoint("late@example.com", "192.0.2.1", 0)).await;
        let is_there = match made {
            Ok(_) => true,
            Err(AskError::Refused(refused)) => refused.why == Refusal::Exists,
            Err(_) => false,
        };
        is_there && link.ask(announce_here()).await.is_ok()
    })
    .await;
}
