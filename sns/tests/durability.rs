//! Everything that was answered survives a kill -9 of the daemon at any moment.

mod fixture;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use fixture::*;
use parking_lot::Mutex;
use stp_proto::lookup::*;

/// Eight owners register names as fast as they are answered. Meanwhile the daemon is killed and
/// started again, until 1,000 names are registered. Every name that was answered must be there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kill_9_during_1000_registrations_loses_none_that_was_answered() {
    let mut daemon = Daemon::start();
    let answered: Arc<Mutex<BTreeSet<String>>> = Arc::default();
    let mut next = 0;
    let mut kills = 0;
    while answered.lock().len() < 1_000 {
        let mut workers = Vec::new();
        for _ in 0..8 {
            let client = daemon.client().await;
            let answered = Arc::clone(&answered);
            let from = next;
            next += 10_000;
            workers.push(tokio::spawn(async move {
                for number in from.. {
                    let object = format!("e{number}@example.com");
                    if client.ask(new_endpoint(&object, "192.0.2.1", 0)).await.is_err() {
                        return;
                    }
                    if client.ask(new_service(&format!("www.{object}"), 80)).await.is_err() {
                        return;
                    }
                    answered.lock().insert(object);
                }
            }));
        }
        tokio::time::sleep(Duration::from_millis(150 + 37 * kills)).await;
        daemon.kill();
        for worker in workers {
            worker.await.expect("no panic");
        }
        kills += 1;
        assert!(kills < 60, "no progress: {} after {kills} kills", answered.lock().len());
        daemon.restart();
    }
    let client = daemon.client().await;
    let answered = answered.lock().clone();
    eprintln!("{} answered, {kills} kills", answered.len());
    for object in &answered {
        let found = places(&client, &format!("www.{object}")).await;
        assert_eq!(found, ["192.0.2.1:80".parse().expect("an address")], "{object} is lost");
    }
}

#[tokio::test]
async fn users_servers_lists_and_owners_survive_and_leases_begin_anew() {
    let mut daemon = Daemon::start();
    daemon.add_user("alice", "/");
    let tls = stp_net::link::Tls::new(&stp_net::key::Identity::generate());
    daemon.allow("a", tls.public_key(), &["file.m@example.com"]);
    let server = daemon.connect(&tls).await;
    server.ask(announce("a", 4431, &["file.m@example.com"], 5)).await.expect("allowed");
    send_files(&server, "a", "file.m@example.com", 5, &[file("/f", 9, 1)]).await;
    server.ask(new_endpoint("e@example.com", "192.0.2.1", 3)).await.expect("made");
    daemon.kill();
    daemon.restart();
    let server = daemon.connect(&tls).await;
    let alice = daemon.login(&tls, "alice").await;
    let path = FilePath::new("/f").expect("a path");
    assert_eq!(alice.locate(None, Some(path), 0).await.expect("it is there").servers.len(), 1);
    let other = daemon.client().await;
    let delete = || Ask::DeleteEndpoint(OneEndpoint { name: endpoint("e@example.com") });
    assert_eq!(refusal(&other, delete()).await, Refusal::NotOwner);
    server.ask(Ask::Renew(OneEndpoint { name: endpoint("e@example.com") })).await.expect("alive");
    until("the lease runs out after the restart", async || {
        let get = Ask::GetEndpoint(OneEndpoint { name: endpoint("e@example.com") });
        other.ask(get).await.is_err()
    })
    .await;
}
