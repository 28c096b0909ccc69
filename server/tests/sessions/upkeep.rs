//! How well a server keeps sessions: classes when it is full, and the idle limit.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use stp_net::key::Identity;
use stp_net::link::{Link, LinkOptions, Tls};
use stp_proto::class::Class;
use stp_proto::handle::Handle;
use stp_proto::wire::{Connect, DenyReason, Upkeep};
use stp_server::ticket::random_handle;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::time::timeout;

use crate::fixture::{TestServer, TestSession, cluster_key, port_service};
use crate::{answer_to, exactly, exactly_tcp, plain_connect};

const LONG: Duration = Duration::from_secs(60);
/// A session that has lost its link just now makes room for nobody.
const AWAY: Duration = Duration::from_millis(3_300);

/// A way to the server from another address of this machine: for the server, another network.
async fn way(from: &str, to: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let here = listener.local_addr().unwrap();
    let from: SocketAddr = format!("{from}:0").parse().unwrap();
    tokio::spawn(async move {
        while let Ok((mut near, _)) = listener.accept().await {
            tokio::spawn(async move {
                let socket = TcpSocket::new_v4().unwrap();
                socket.bind(from).unwrap();
                let mut far = socket.connect(to).await.unwrap();
                let _one_has_ended = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    here
}

/// A client, and how it reaches the server.
struct Client<'a> {
    server: &'a TestServer,
    at: SocketAddr,
    tls: Arc<Tls>,
}

impl<'a> Client<'a> {
    async fn from(server: &'a TestServer, address: &str) -> Client<'a> {
        let (at, tls) = (way(address, server.address).await, Tls::new(&Identity::generate()));
        Client { server, at, tls }
    }

    /// Asks for a session of this class.
    async fn open(&self, class: Class) -> Result<(Link, Handle), (DenyReason, String)> {
        let options = LinkOptions::default();
        let dialed = Link::dial(self.at, &self.server.key, &self.tls, &options);
        let mut link = dialed.await.unwrap();
        let (handle, suspended) = (random_handle(), Duration::ZERO);
        let upkeep = Some(Upkeep { class, suspended });
        answer_to(&mut link, Connect { handle, upkeep, ..plain_connect() }).await?;
        Ok((link, handle))
    }
}

fn runs(server: &TestServer, handle: Handle) -> bool {
    server.server.registry.running().iter().any(|(key, _)| key.1 == handle)
}

/// R74: of eight sessions, four have no link.
#[tokio::test(flavor = "multi_thread")]
async fn a_full_server_gives_up_temporary_sessions_without_a_link_and_no_others() {
    use Class::{Critical, Suspended, Temporary};
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let service = port_service("tcp", listener.local_addr().unwrap().port());
    let (_keep, key) = cluster_key();
    let text = format!("{service}\nclass = \"critical\"\n[limits]\nsessions_max = 8");
    let server = TestServer::start("a", &key, &text);
    let (many, few) =
        (Client::from(&server, "127.0.0.2").await, Client::from(&server, "127.0.0.3").await);
    let mut open: Vec<(Option<Link>, Handle, TcpStream)> = Vec::new();
    let accepted = async || timeout(LONG, listener.accept()).await.unwrap().unwrap().0;
    for class in [Critical, Suspended, Temporary, Temporary, Temporary, Temporary, Temporary] {
        let (link, handle) = many.open(class).await.unwrap();
        open.push((Some(link), handle, accepted().await));
    }
    let first = few.open(Temporary).await.unwrap();
    drop(accepted().await);
    // The third one is away for longest of the temporary ones.
    for gone in [0, 1, 3, 2] {
        open[gone].0 = None;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let (why, text) = few.open(Temporary).await.unwrap_err();
    assert_eq!((why, &*text), (DenyReason::Overloaded, "8 sessions are served"), "too early");
    tokio::time::sleep(AWAY).await;

    let second = few.open(Temporary).await.unwrap();
    assert!(!runs(&server, open[3].1), "the one that was away for longest has gone");
    let mut rest = [0; 1];
    let end = timeout(LONG, open[3].2.read(&mut rest)).await.expect("its service sees it end");
    assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    for (number, (_, handle, _)) in open.iter().enumerate().filter(|(number, _)| *number != 3) {
        assert!(runs(&server, *handle), "{number}");
    }
    // Who has as much as is fair takes nobody's place.
    let (why, text) = few.open(Critical).await.unwrap_err();
    assert_eq!(why, DenyReason::Overloaded, "{text}");
    assert!(runs(&server, open[2].1) && text.contains("this client has 2"), "{text}");

    let third = Client::from(&server, "127.0.0.4").await;
    let _third = third.open(Temporary).await.unwrap();
    assert!(!runs(&server, open[2].1));
    let fourth = Client::from(&server, "127.0.0.5").await;
    let (_, text) = fourth.open(Critical).await.unwrap_err();
    assert_eq!(text, "8 sessions are served", "what is left is linked, or not temporary");
    assert!(runs(&server, open[0].1) && runs(&server, open[1].1));
    let made_room = server.server.registry.counters.made_room.load(Ordering::Relaxed);
    assert_eq!(made_room, 2);
    drop((first, second));
}

/// R76.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_on_which_nothing_passes_ends_if_its_service_says_so() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let service = port_service("tcp", listener.local_addr().unwrap().port());
    let (_keep, key) = cluster_key();
    let server = TestServer::start("a", &key, &format!("{service}\nidle = \"2s\""));
    let mut session = TestSession::open(&[server.at()]);
    session.app.write_all(b"hello").await.unwrap();
    let (mut service, _) = timeout(LONG, listener.accept()).await.unwrap().unwrap();
    assert_eq!(exactly_tcp(&mut service, 5).await, b"hello");
    // As long as something does, it goes on.
    for _ in 0..4 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        service.write_all(b"x").await.unwrap();
        assert_eq!(exactly(&mut session.app, Vec::new(), 1).await, b"x");
    }
    let reason = timeout(LONG, session.over).await.expect("in time").unwrap();
    assert!(reason.contains("longer than the idle limit"), "{reason}");
}
