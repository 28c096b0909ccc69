//! Spools of many sessions that are away at once: the bounds of one and of all.

use std::sync::atomic::Ordering;
use std::time::Duration;

use stp_drive::Command;
use stp_net::key::Identity;
use stp_net::link::{Link, LinkOptions, Tls};
use stp_proto::session::code;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::time::timeout;

use crate::fixture::{TestServer, cluster_key, port_service};
use crate::{answer_to, plain_connect};

const LONG: Duration = Duration::from_secs(60);
const SESSIONS: usize = 200;
const EACH: u64 = 1 << 20;
const ALL: u64 = 20 << 20;

/// A service that sends to each of its clients as fast as it is taken.
async fn flood() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut client, _)) = listener.accept().await {
            tokio::spawn(async move {
                let bytes = vec![7; 64 << 10];
                while client.write_all(&bytes).await.is_ok() {}
            });
        }
    });
    port
}

/// R38: what is taken of the services of 200 sessions that are away is never more than may be, of
/// one or of all, and all of it is given back when they end.
#[tokio::test(flavor = "multi_thread")]
async fn the_spools_of_two_hundred_sessions_stay_within_their_bounds() {
    let service = port_service("tcp", flood().await);
    let (_keep, key) = cluster_key();
    let more = "patience = \"1s\"\n[limits]\nspool = \"1MiB\"\nspool_total = \"20MiB\"";
    let server = TestServer::start("a", &key, &format!("{service}\n{more}"));
    let (tls, options) = (Tls::new(&Identity::generate()), LinkOptions::default());
    let mut links = Vec::new();
    for _ in 0..SESSIONS {
        let dialed = Link::dial(server.address, &server.key, &tls, &options);
        let mut link = dialed.await.unwrap();
        answer_to(&mut link, plain_connect()).await.unwrap();
        links.push(link);
    }
    let registry = &server.server.registry;
    assert_eq!(registry.len(), SESSIONS);
    drop(links);
    let spools = &server.server.config.limits.spools;
    let (mut most, mut seen_full, mut more) = (0, false, 100);
    let look = async {
        // And for some time more, in which they want more than there is.
        while more > 0 {
            let (used, bound) = spools.used();
            assert_eq!(bound, ALL);
            assert!(used <= ALL, "{used} bytes in all spools");
            for (_, entry) in registry.running() {
                let view = entry.spool.as_ref().expect("a tcp service has one");
                let bytes = view.bytes.load(Ordering::Relaxed);
                assert!(bytes <= EACH, "{bytes} bytes in a spool");
                seen_full |= view.full.load(Ordering::Relaxed);
            }
            most = most.max(used);
            more -= i32::from(seen_full && most > ALL / 2);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LONG, look).await.expect("they fill, and say that they are full");
    for (_, entry) in registry.running() {
        entry.inbox.send(Command::Abort { code: code::USER }).await.unwrap();
    }
    let empty = async {
        while spools.used().0 > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(LONG, empty).await.expect("what they held is given back");
}
