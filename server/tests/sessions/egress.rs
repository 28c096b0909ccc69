//! A service of kind `egress` in this process: who is led where, and who is not.

use std::time::Duration;

use stp_net::key::Identity;
use stp_net::link::{Link, LinkOptions, Tls};
use stp_proto::wire::{Connect, DenyReason, Destination};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::timeout;

use crate::fixture::{Nginx, SERVICE, TestServer, TestSession, cluster_key, content, folder_with};
use crate::{answer_to, plain_connect};

const LONG: Duration = Duration::from_secs(60);
const EACCES: DenyReason = DenyReason::Refused(13);
const ENOBUFS: DenyReason = DenyReason::Refused(105);

fn egress(owner: &Identity, client: &Identity, more: &str) -> String {
    format!(
        "[[service]]\nname = {SERVICE:?}\nkind = \"egress\"\nowner = \"{}\"\nclients = [\"{}\"]\n\
         {more}\n",
        owner.public_key(),
        client.public_key()
    )
}

/// Asks for a destination by a bare CONNECT; the link stays open with its session.
async fn ask(
    server: &TestServer,
    identity: &Identity,
    destination: Option<(&str, u16)>,
) -> Result<Link, (DenyReason, String)> {
    let (tls, options) = (Tls::new(identity), LinkOptions::default());
    let mut link = Link::dial(server.address, &server.key, &tls, &options).await.unwrap();
    let destination = destination.map(|(host, port)| Destination { host, port });
    answer_to(&mut link, Connect { destination, ..plain_connect() }).await.map(|()| link)
}

/// R110: HTTP through an egress goes on at another one, which asks the same origin for the rest.
#[tokio::test(flavor = "multi_thread")]
async fn r110_a_response_through_an_egress_goes_on_at_another_one() {
    let file = content(40 << 20);
    let folder = folder_with(&file);
    let nginx = Nginx::start(folder.path(), "");
    let (_keep, key) = cluster_key();
    let (owner, client) = (Identity::generate(), Identity::generate());
    let services = egress(&owner, &client, &format!("http = [{}]", nginx.port));
    let mut a = TestServer::start("a", &key, &services);
    let b = TestServer::start("b", &key, &services);
    let to = Destination { host: "localhost", port: nginx.port };
    let mut session = TestSession::open_to(&[a.at(), b.at()], &owner, Some(to));
    session.app.write_all(b"GET /f HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
    let mut bytes = vec![0; 1 << 20];
    timeout(LONG, session.app.read_exact(&mut bytes)).await.expect("in time").unwrap();
    a.kill();
    let head = bytes.windows(4).position(|four| four == b"\r\n\r\n").expect("a head") + 4;
    let had = bytes.len();
    bytes.resize(head + file.len(), 0);
    timeout(LONG, session.app.read_exact(&mut bytes[had..])).await.expect("in time").unwrap();
    assert!(bytes[head..] == file[..], "other bytes");
    assert_eq!(b.server.registry.running().len(), 1, "the second one has it");
}

/// R111.
#[tokio::test(flavor = "multi_thread")]
async fn r111_nobody_is_led_where_the_rules_do_not_let_him() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let other = tokio::net::TcpListener::bind("127.0.0.2:0").await.unwrap();
    let denied = other.local_addr().unwrap().port();
    let (_keep, key) = cluster_key();
    let [owner, client, foreign] = [(); 3].map(|()| Identity::generate());
    let more = "deny = [\"127.0.0.2:*\", \"*.denied.example:*\"]";
    let server = TestServer::start("a", &key, &egress(&owner, &client, more));
    for (who, host, port, why, says) in [
        (&foreign, "192.0.2.1", port, DenyReason::Unauthorized, "not among the clients"),
        (&foreign, "localhost", port, DenyReason::Unauthorized, "not among the clients"),
        (&client, "localhost", port, EACCES, "only its owner"),
        (&client, "127.0.0.1", port, EACCES, "only its owner"),
        // Other notations of the same address, which the resolver takes for it.
        (&client, "127.1", port, EACCES, "only its owner"),
        (&client, "2130706433", port, EACCES, "only its owner"),
        (&client, "0x7f000001", port, EACCES, "only its owner"),
        (&client, "::ffff:127.0.0.1", port, EACCES, "only its owner"),
        (&client, "64:ff9b::7f00:1", port, EACCES, "only its owner"),
        (&client, "0.0.0.0", port, EACCES, "nobody is led"),
        (&owner, "0", port, EACCES, "nobody is led"),
        (&owner, "169.254.169.254", 80, EACCES, "nobody is led"),
        (&owner, "::ffff:a9fe:a9fe", 80, EACCES, "nobody is led"),
        (&owner, "fe80::1", 80, EACCES, "nobody is led"),
        (&owner, "127.0.0.2", denied, EACCES, "denied by \"127.0.0.2:*\""),
        (&owner, "127.2", denied, EACCES, "denied by \"127.0.0.2:*\""),
        (&owner, "no.such.host.invalid", 80, DenyReason::Refused(113), "has no address here"),
        (&owner, "a..b", 80, DenyReason::Mismatch, "is not a host name"),
        (&owner, "a b", 80, DenyReason::Mismatch, "is not a host name"),
    ] {
        let (found, text) = ask(&server, who, Some((host, port))).await.expect_err(host);
        assert!(found == why && text.contains(says), "{host}: {found}: {text}");
    }
    let (why, text) = ask(&server, &owner, None).await.expect_err("no destination");
    assert!(why == DenyReason::Mismatch && text.contains("old version"), "{text}");
    assert_eq!(server.refused("egress_denied"), 14);
    let told = server.server.registry.ended();
    let metadata = told.iter().find(|ended| ended.reason.contains("169.254.169.254:80"));
    assert!(metadata.unwrap().reason.contains("errno 13"), "in the status as well");
    for host in ["localhost", "127.0.0.1", "127.1"] {
        assert!(ask(&server, &owner, Some((host, port))).await.is_ok(), "{host}");
    }
}

/// R112.
#[tokio::test(flavor = "multi_thread")]
async fn r112_a_client_has_no_more_than_its_share() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (_keep, key) = cluster_key();
    let [owner, client] = [(); 2].map(|()| Identity::generate());
    let more = "sessions_per_client = 2\nnew_per_second = 1";
    let server = TestServer::start("a", &key, &egress(&owner, &client, more));
    let to = Some(("127.0.0.1", port));
    let _two = [ask(&server, &owner, to).await.unwrap(), ask(&server, &owner, to).await.unwrap()];
    let (why, text) = ask(&server, &owner, to).await.expect_err("a third one");
    assert!(why == ENOBUFS && text.contains("2 sessions"), "{text}");
    let mut last = text;
    for _ in 0..12 {
        last = ask(&server, &owner, to).await.expect_err("still").1;
    }
    assert!(last.contains("1 sessions a second"), "{last}");
    // Another client has its own share: it is refused for its destination, not for that.
    let (why, text) = ask(&server, &client, to).await.expect_err("not the owner");
    assert!(why == EACCES, "{text}");
    assert!(server.refused("egress_share") >= 3);
}
