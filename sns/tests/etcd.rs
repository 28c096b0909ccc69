//! Two daemons on one real etcd (Debian's `etcd-server`): the same names, and when one is killed
//! nobody notices.

mod fixture;

use std::sync::Arc;
use std::time::{Duration, Instant};

use fixture::*;
use stp_lookup::gateway::connect_any;
use stp_net::key::Identity;
use stp_net::link::{LinkOptions, Tls};
use stp_proto::lookup::*;
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
