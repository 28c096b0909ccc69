//! Whole sessions against servers in this process: the broker's end is the real session core on
//! real links, the service a real nginx or the embedded origin.

#![expect(clippy::unwrap_used, reason = "a test ends at the first surprise")]

#[path = "sessions/egress.rs"]
mod egress;
mod fixture;
#[path = "sessions/spools.rs"]
mod spools;
#[path = "sessions/upkeep.rs"]
mod upkeep;

use std::time::Duration;

use fixture::{
    Nginx, SERVICE, TestServer, TestSession, cluster_key, content, file_service, folder_with,
    free_port, port_service,
};
use stp_net::key::{Identity, PublicKey};
use stp_net::link::{Link, LinkOptions, Tls};
use stp_proto::handle::Handle;
use stp_proto::wire::{
    Belongs, Connect, ConnectMode, DenyReason, Frame, RelayRequest, TransferRequest, VERSION,
    frames,
};
use stp_server::ticket::random_handle;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::time::timeout;

const MIB: usize = 1 << 20;
const LONG: Duration = Duration::from_secs(60);

/// Reads a response head; `(head, first body bytes)`.
async fn head(app: &mut UnixStream) -> (String, Vec<u8>) {
    let mut bytes = Vec::new();
    loop {
        let mut piece = [0; 4096];
        let read = timeout(LONG, app.read(&mut piece)).await.expect("in time").unwrap();
        assert!(read > 0, "ended in the head: {:?}", String::from_utf8_lossy(&bytes));
        bytes.extend_from_slice(&piece[..read]);
        if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
            let body = bytes.split_off(end + 4);
            return (String::from_utf8(bytes).unwrap(), body);
        }
    }
}

async fn exactly(app: &mut UnixStream, mut have: Vec<u8>, length: usize) -> Vec<u8> {
    let start = have.len();
    assert!(start <= length, "{start} bytes, more than {length}");
    have.resize(length, 0);
    timeout(LONG, app.read_exact(&mut have[start..])).await.expect("in time").unwrap();
    have
}

async fn ask(app: &mut UnixStream, request: &str) {
    app.write_all(format!("{request}\r\nHost: x\r\n\r\n").as_bytes()).await.unwrap();
}

async fn get(app: &mut UnixStream, request: &str, length: usize) -> (String, Vec<u8>) {
    ask(app, request).await;
    let (head, first) = head(app).await;
    let body = exactly(app, first, length).await;
    (head, body)
}

fn equal(left: &[u8], right: &[u8]) {
    let differs = left.iter().zip(right).position(|(left, right)| left != right);
    assert!(left.len() == right.len() && differs.is_none(), "differ at {differs:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_serves_through_a_session() {
    let file = content(20 * MIB + 5);
    let folder = folder_with(&file);
    let nginx = Nginx::start(folder.path(), "");
    let (_keep, key) = cluster_key();
    let server = TestServer::start("a", &key, &port_service("http", nginx.port));
    let mut session = TestSession::open(&[server.at()]);
    for _ in 0..2 {
        let (head, body) = get(&mut session.app, "GET /f HTTP/1.1", file.len()).await;
        assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{head}");
        equal(&body, &file);
    }
    let (head, body) = get(&mut session.app, "GET /f HTTP/1.1\r\nRange: bytes=7-10", 4).await;
    assert!(head.starts_with("HTTP/1.1 206 "), "{head}");
    equal(&body, &file[7..11]);
    ask(&mut session.app, "HEAD /f HTTP/1.1\r\nConnection: close").await;
    let mut rest = Vec::new();
    timeout(LONG, session.app.read_to_end(&mut rest)).await.expect("in time").unwrap();
    assert!(rest.starts_with(b"HTTP/1.1 200 OK\r\n") && rest.ends_with(b"\r\n\r\n"));
    drop(session.app);
    let reason = timeout(LONG, session.over).await.expect("in time").unwrap();
    assert!(!reason.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_is_told_who_comes_if_it_wants_to_know() {
    let folder = folder_with(&content(1));
    let port = free_port();
    // nginx refuses whoever does not say it.
    let more = format!(
        "server {{ listen 127.0.0.1:{port} proxy_protocol; \
         location / {{ return 200 \"from $proxy_protocol_addr\"; }} }}"
    );
    let _nginx = Nginx::start(folder.path(), &more);
    let (_keep, key) = cluster_key();
    for kind in ["http", "tcp"] {
        let told = format!("{}\nproxy_protocol = true", port_service(kind, port));
        let server = TestServer::start("a", &key, &told);
        let mut session = TestSession::open(&[server.at()]);
        for _ in 0..2 {
            let (head, body) = get(&mut session.app, "GET / HTTP/1.1", 14).await;
            assert!(head.starts_with("HTTP/1.1 200 OK\r\n"), "{kind}: {head}");
            assert_eq!(body, b"from 127.0.0.1", "{kind}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_embedded_origin_serves_files_and_hides_what_is_hidden() {
    let file = content(3 * MIB);
    let folder = folder_with(&file);
    std::fs::write(folder.path().join(".secret"), "x").unwrap();
    std::fs::create_dir(folder.path().join("sub")).unwrap();
    std::os::unix::fs::symlink("/etc", folder.path().join("out")).unwrap();
    let (_keep, key) = cluster_key();
    let server = TestServer::start("a", &key, &file_service(folder.path()));
    let mut session = TestSession::open(&[server.at()]);
    let (head_text, body) = get(&mut session.app, "GET /f HTTP/1.1", file.len()).await;
    assert!(head_text.to_ascii_lowercase().contains("\r\netag: \""), "{head_text}");
    equal(&body, &file);
    for path in [
        "/.secret",
        "/sub/../.secret",
        "/%2esecret",
        "/../etc/passwd",
        "/out/passwd",
        "/sub/",
        "/%2e%2e/x",
        "/a%00b",
    ] {
        ask(&mut session.app, &format!("GET {path} HTTP/1.1")).await;
        let (head_text, first) = head(&mut session.app).await;
        assert!(head_text.starts_with("HTTP/1.1 404 "), "{path}: {head_text}");
        assert!(first.is_empty());
    }
    let etag = head_text.to_ascii_lowercase();
    let etag = etag.split("\r\netag: ").nth(1).unwrap().split("\r\n").next().unwrap().to_owned();
    let request = format!("GET /f HTTP/1.1\r\nRange: bytes=5-9\r\nIf-Range: {etag}");
    let (head_text, body) = get(&mut session.app, &request, 5).await;
    assert!(head_text.starts_with("HTTP/1.1 206 "), "{head_text}");
    equal(&body, &file[5..10]);
    let request = "GET /f HTTP/1.1\r\nRange: bytes=5-9\r\nIf-Range: \"other\"";
    let (head_text, body) = get(&mut session.app, request, file.len()).await;
    assert!(head_text.starts_with("HTTP/1.1 200 "), "{head_text}");
    equal(&body, &file);
}

/// Downloads half, kills the first server, and goes on at the others.
async fn killed_in_the_middle(
    servers: &mut [TestServer],
    file: &[u8],
) -> (Result<(), String>, TestSession) {
    let at: Vec<_> = servers.iter().map(TestServer::at).collect();
    let mut session = TestSession::open(&at);
    ask(&mut session.app, "GET /f HTTP/1.1").await;
    let (_, first) = head(&mut session.app).await;
    let half = exactly(&mut session.app, first, file.len() / 2).await;
    servers[0].kill();
    let mut all = half;
    let result = loop {
        let mut piece = vec![0; 256 << 10];
        match timeout(LONG, session.app.read(&mut piece)).await.expect("in time") {
            Ok(0) => break Err("the end came early".to_owned()),
            Ok(read) => all.extend_from_slice(&piece[..read]),
            Err(error) => break Err(error.to_string()),
        }
        if all.len() >= file.len() {
            break Ok(());
        }
    };
    equal(&all, &file[..all.len()]);
    (result, session)
}

#[tokio::test(flavor = "multi_thread")]
async fn another_server_goes_on_when_one_is_killed() {
    let file = content(48 * MIB + 77);
    let (one, two) = (folder_with(&file), folder_with(&file));
    let nginx = [Nginx::start(one.path(), ""), Nginx::start(two.path(), "")];
    let (_keep, key) = cluster_key();
    let mut servers = [
        TestServer::start("a", &key, &port_service("http", nginx[0].port)),
        TestServer::start("b", &key, &port_service("http", nginx[1].port)),
    ];
    let (result, mut session) = killed_in_the_middle(&mut servers, &file).await;
    result.unwrap_or_else(|error| panic!("{error}: {:?}", session.seen.lock()));
    assert!(session.seen.lock().attached.iter().any(|how| how == "Transfer b"));
    let (_, body) = get(&mut session.app, "GET /f HTTP/1.1", file.len()).await;
    equal(&body, &file);
}

#[tokio::test(flavor = "multi_thread")]
async fn files_go_on_at_another_server_too() {
    let file = content(48 * MIB + 77);
    let (one, two) = (folder_with(&file), folder_with(&file));
    let (_keep, key) = cluster_key();
    let mut servers = [
        TestServer::start("a", &key, &file_service(one.path())),
        TestServer::start("b", &key, &file_service(two.path())),
    ];
    let (result, session) = killed_in_the_middle(&mut servers, &file).await;
    result.unwrap_or_else(|error| panic!("{error}: {:?}", session.seen.lock()));
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_replicas_are_refused_and_the_third_is_right() {
    let file = content(48 * MIB + 77);
    let mut other = file.clone();
    for byte in other.iter_mut().skip(20 * MIB).step_by(60_000) {
        *byte ^= 1;
    }
    let short = &file[..file.len() - 1];
    let folders = [&file[..], &other, short, &file].map(folder_with);
    let (_keep, key) = cluster_key();
    let names = ["a", "b", "c", "d"];
    let start =
        |index: usize| TestServer::start(names[index], &key, &file_service(folders[index].path()));
    let mut servers = [start(0), start(1), start(2), start(3)];
    let (result, session) = killed_in_the_middle(&mut servers, &file).await;
    result.unwrap_or_else(|error| panic!("{error}: {:?}", session.seen.lock()));
    assert!(servers[1].refused("seam") > 0 && servers[2].refused("not_here") > 0);
    assert!(session.seen.lock().attached.iter().any(|how| how == "Transfer d"));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_right_replica_the_app_gets_an_error_and_no_wrong_byte() {
    let file = content(48 * MIB + 77);
    let other: Vec<u8> = file.iter().map(|byte| byte ^ 1).collect();
    let folders = [&file[..], &other].map(folder_with);
    let (_keep, key) = cluster_key();
    let mut servers = [
        TestServer::start("a", &key, &file_service(folders[0].path())),
        TestServer::start("b", &key, &file_service(folders[1].path())),
    ];
    let (result, session) = killed_in_the_middle(&mut servers, &file).await;
    assert!(result.is_err());
    let reason = timeout(LONG, session.over).await.expect("in time").unwrap();
    assert!(reason.contains("Seam"), "{reason}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_ticket_of_another_cluster_is_refused() {
    let file = content(48 * MIB + 77);
    let folder = folder_with(&file);
    let ((_keep, key), (_keep_other, other)) = (cluster_key(), cluster_key());
    let mut servers = [
        TestServer::start("a", &key, &file_service(folder.path())),
        TestServer::start("b", &other, &file_service(folder.path())),
    ];
    let (result, _session) = killed_in_the_middle(&mut servers, &file).await;
    assert!(result.is_err());
    assert!(servers[1].refused("unauthorized") > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_server_goes_on_from_the_ticket() {
    let file = content(48 * MIB + 77);
    let folder = folder_with(&file);
    let (_keep, key) = cluster_key();
    let mut first = TestServer::start("a", &key, &file_service(folder.path()));
    let mut session = TestSession::open(&[first.at()]);
    // A server that never restarts with another identity would be refused: the key is pinned.
    ask(&mut session.app, "GET /f HTTP/1.1").await;
    let (_, begun) = head(&mut session.app).await;
    let half = exactly(&mut session.app, begun, file.len() / 2).await;
    let again = first.restart(&key, &file_service(folder.path()));
    let body = exactly(&mut session.app, half, file.len()).await;
    equal(&body, &file);
    assert!(again.server.registry.len() == 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn nginx_may_give_up_a_reader_that_stalls() {
    let file = content(96 * MIB + 5);
    let folder = folder_with(&file);
    let nginx = Nginx::start(folder.path(), "send_timeout 1s;");
    let (_keep, key) = cluster_key();
    let server = TestServer::start("a", &key, &port_service("http", nginx.port));
    let mut session = TestSession::open(&[server.at()]);
    ask(&mut session.app, "GET /f HTTP/1.1").await;
    let (_, mut all) = head(&mut session.app).await;
    for part in 1..=3 {
        all = exactly(&mut session.app, all, part * 24 * MIB).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
    }
    let body = exactly(&mut session.app, all, file.len()).await;
    equal(&body, &file);
    assert!(nginx.answered(200) > 1, "nginx broke off, and was asked again");
}

#[tokio::test(flavor = "multi_thread")]
async fn any_protocol_passes_and_both_ends_of_stream_with_it() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let (mut read, mut write) = stream.split();
            let _ = tokio::io::copy(&mut read, &mut write).await;
            let _ = write.shutdown().await;
        }
    });
    let (_keep, key) = cluster_key();
    let server = TestServer::start("a", &key, &port_service("tcp", port));
    let session = TestSession::open(&[server.at()]);
    let sent = content(30 * MIB);
    let (mut read, mut write) = session.app.into_split();
    let expected = sent.clone();
    let writer = tokio::spawn(async move {
        write.write_all(&sent).await.unwrap();
        write.shutdown().await.unwrap();
    });
    let mut echoed = Vec::new();
    timeout(LONG, read.read_to_end(&mut echoed)).await.expect("in time").unwrap();
    equal(&echoed, &expected);
    writer.await.unwrap();
    let reason = timeout(LONG, session.over).await.expect("in time").unwrap();
    assert!(!reason.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_down_is_an_errno() {
    let (_keep, key) = cluster_key();
    let server = TestServer::start("a", &key, &port_service("tcp", free_port()));
    let session = TestSession::open(&[server.at()]);
    let reason = timeout(LONG, session.over).await.expect("in time").unwrap();
    assert!(reason.contains("Refused(111)"), "{reason}");
    assert_eq!(server.refused("service_refused"), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upload_under_way_is_never_repeated() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let posts = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let counted = std::sync::Arc::clone(&posts);
    tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut bytes = [0; 1000];
            let counted = std::sync::Arc::clone(&counted);
            kept.push(tokio::spawn(async move {
                if stream.read(&mut bytes).await.is_ok_and(|read| read > 0) {
                    counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                }
                let _ = stream.read(&mut bytes).await;
            }));
        }
    });
    let (_keep, key) = cluster_key();
    let mut servers = [
        TestServer::start("a", &key, &port_service("http", port)),
        TestServer::start("b", &key, &port_service("http", port)),
    ];
    let at: Vec<_> = servers.iter().map(TestServer::at).collect();
    let mut session = TestSession::open(&at);
    session.app.write_all(b"POST /f HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello").await.unwrap();
    while posts.load(std::sync::atomic::Ordering::SeqCst) == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    servers[0].kill();
    let mut nothing = [0; 10];
    // Depending on what the broker had heard it gives up or waits for the first server.
    let read = timeout(Duration::from_secs(5), session.app.read(&mut nothing)).await;
    assert!(!matches!(read, Ok(Ok(1..))), "no answer can come");
    assert_eq!(posts.load(std::sync::atomic::Ordering::SeqCst), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unanswered_get_is_asked_again_elsewhere() {
    let file = content(1000);
    let folder = folder_with(&file);
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = silent.local_addr().unwrap().port();
    let (_keep, key) = cluster_key();
    let mut servers = [
        TestServer::start("a", &key, &port_service("http", port)),
        TestServer::start("b", &key, &file_service(folder.path())),
    ];
    let at: Vec<_> = servers.iter().map(TestServer::at).collect();
    let mut session = TestSession::open(&at);
    ask(&mut session.app, "GET /f HTTP/1.1").await;
    let (mut stream, _) = silent.accept().await.unwrap();
    let mut bytes = [0; 100];
    assert!(stream.read(&mut bytes).await.unwrap() > 0);
    servers[0].kill();
    let (head_text, first) = head(&mut session.app).await;
    assert!(head_text.starts_with("HTTP/1.1 200 "), "{head_text}");
    equal(&exactly(&mut session.app, first, 1000).await, &file);
}

#[tokio::test(flavor = "multi_thread")]
async fn garbage_is_closed_and_counted_and_harms_nobody() {
    let file = content(100);
    let folder = folder_with(&file);
    let (_keep, key) = cluster_key();
    let server = TestServer::start("a", &key, &file_service(folder.path()));
    for garbage in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[0; 5000], b"\x16\x03\x01\xff\xff"] {
        let mut stream = tokio::net::TcpStream::connect(server.address).await.unwrap();
        stream.write_all(garbage).await.unwrap();
        let mut rest = Vec::new();
        stream.shutdown().await.unwrap();
        let _ = timeout(LONG, stream.read_to_end(&mut rest)).await.expect("closed");
    }
    let refused: u64 = server.server.acceptor.refused().iter().map(|(_, count)| count).sum();
    assert!(refused >= 2, "{:?}", server.server.acceptor.refused());
    let mut session = TestSession::open(&[server.at()]);
    let (_, body) = get(&mut session.app, "GET /f HTTP/1.1", 100).await;
    equal(&body, &file);
    assert_eq!(server.server.registry.running()[0].1.service, SERVICE);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_is_not_allowed_is_told_so() {
    let folder = folder_with(b"x");
    let (_keep, key) = cluster_key();
    let somebody = stp_net::key::Identity::generate().public_key();
    let services = format!("clients = [\"{somebody}\"]\n{}", file_service(folder.path()));
    let server = TestServer::start("a", &key, &services);
    let session = TestSession::open(&[server.at()]);
    let reason = timeout(LONG, session.over).await.expect("in time").unwrap();
    assert!(reason.contains("Unauthorized"), "{reason}");
    assert!(server.refused("unauthorized") > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_http_passes_an_http_service_untouched() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (_keep, key) = cluster_key();
    let server = TestServer::start("a", &key, &port_service("http", port));
    let mut session = TestSession::open(&[server.at()]);
    session.app.write_all(b"\x16\x03\x01\x00\x05hello").await.unwrap();
    let (mut stream, _) = listener.accept().await.unwrap();
    let mut bytes = [0; 10];
    timeout(LONG, stream.read_exact(&mut bytes)).await.expect("in time").unwrap();
    assert_eq!(&bytes, b"\x16\x03\x01\x00\x05hello");
    stream.write_all(b"\x15\x03\x03 back").await.unwrap();
    drop(stream);
    let mut back = Vec::new();
    timeout(LONG, session.app.read_to_end(&mut back)).await.expect("in time").unwrap();
    assert_eq!(back, b"\x15\x03\x03 back");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_hundred_sessions_are_served_at_once() {
    let file = content(10_000);
    let folder = folder_with(&file);
    let (_keep, key) = cluster_key();
    let server = TestServer::start("a", &key, &file_service(folder.path()));
    let mut sessions: Vec<_> = (0..200).map(|_| TestSession::open(&[server.at()])).collect();
    for session in &mut sessions {
        let (_, body) = get(&mut session.app, "GET /f HTTP/1.1", file.len()).await;
        equal(&body, &file);
    }
    assert_eq!(server.server.registry.len(), 200);
}

/// Says CONNECT on a link; yes, or why not.
async fn connect(link: &mut Link, mode: ConnectMode<'_>) -> Result<(), DenyReason> {
    connect_as(link, mode, Belongs::default()).await
}

async fn connect_as(
    link: &mut Link,
    mode: ConnectMode<'_>,
    belongs: Belongs,
) -> Result<(), DenyReason> {
    let handle = Handle([9; 16]);
    let connect = Connect { handle, mode, belongs, ..plain_connect() };
    answer_to(link, connect).await.map_err(|(why, _)| why)
}

/// A CONNECT for a new session that asks for nothing special.
fn plain_connect() -> Connect<'static> {
    Connect {
        version: VERSION,
        handle: random_handle(),
        epoch: 1,
        features: 0,
        window: 1 << 20,
        service: SERVICE,
        endpoint: "",
        mode: ConnectMode::New,
        grant: None,
        rate: None,
        hold: None,
        upkeep: None,
        belongs: Belongs::default(),
        destination: None,
    }
}

/// Sends a CONNECT; yes, or why not, also in words.
async fn answer_to(link: &mut Link, connect: Connect<'_>) -> Result<(), (DenyReason, String)> {
    let mut frame = Vec::new();
    connect.encode(&mut frame);
    link.send(&frame);
    link.flush().await.unwrap();
    loop {
        timeout(LONG, std::future::poll_fn(|cx| link.poll_readable(cx))).await.unwrap().unwrap();
        let Ok(records) = link.try_read() else { continue };
        let Some(record) = records.iter().next() else { continue };
        return match frames(record).next() {
            Some(Ok(Frame::ConnectOk(_))) => Ok(()),
            Some(Ok(Frame::ConnectDenied(denied))) => Err((denied.why, denied.text.to_owned())),
            other => panic!("{other:?}"),
        };
    }
}

/// R92: a new member comes only with a token that its server has announced, to this client; one
/// that was brought over comes also before its lead.
#[tokio::test(flavor = "multi_thread")]
async fn a_member_that_was_not_announced_is_refused_unless_it_is_brought_over() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (_keep, key) = cluster_key();
    let service = port_service("ftp", listener.local_addr().unwrap().port());
    let server = TestServer::start("home", &key, &service);
    let (tls, options) = (Tls::new(&Identity::generate()), LinkOptions::default());
    let member = Belongs { token: Some(Handle([3; 16])), peer: None };
    let asked = async |mode| {
        let mut link = Link::dial(server.address, &server.key, &tls, &options).await.unwrap();
        connect_as(&mut link, mode, member).await
    };
    assert_eq!(asked(ConnectMode::New).await, Err(DenyReason::NotHere));
    let request = TransferRequest {
        ticket: None,
        covers: 0,
        down: 0,
        up_from: 0,
        up_sent: 0,
        up_fin: false,
        epoch: 1,
        seam: None,
    };
    assert_eq!(asked(ConnectMode::Transfer(request)).await, Ok(()));
}

/// R81.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_leads_to_those_it_knows_for_clients_with_their_pass_and_to_nobody_else() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (_keep, key) = cluster_key();
    let home = TestServer::start("home", &key, &port_service("tcp", port));
    let dead = PublicKey([7; 32]);
    let relay = TestServer::start(
        "relay",
        &key,
        &format!(
            "[[relay]]\naddress = \"{}\"\nkey = \"{}\"\n[[relay]]\naddress = \
             \"127.0.0.1:1\"\nkey = \"{dead}\"\n[limits]\nrelayed_max = 1",
            home.address, home.key
        ),
    );
    let mut session = TestSession::open(&[home.at()]);
    session.app.write_all(b"hello").await.unwrap();
    let (mut service, _) = timeout(LONG, listener.accept()).await.unwrap().unwrap();
    assert_eq!(exactly_tcp(&mut service, 5).await, b"hello");
    service.write_all(b"there").await.unwrap();
    assert_eq!(exactly(&mut session.app, Vec::new(), 5).await, b"there");
    let pass = session.seen.lock().pass.clone();
    assert!(!pass.is_empty(), "no pass was given");

    let options = LinkOptions::default();
    let asked = async |tls: &Tls, to: PublicKey, pass: &[u8]| {
        let mut link = Link::dial(relay.address, &relay.key, tls, &options).await.unwrap();
        let request = RelayRequest { home: to.0, pass };
        let answer = connect(&mut link, ConnectMode::Relay(request)).await;
        (link, answer)
    };
    let refused = async |tls: &Tls, to, pass: &[u8]| asked(tls, to, pass).await.1.unwrap_err();
    let thief = Tls::new(&Identity::generate());
    assert_eq!(refused(&session.tls, home.key, b"").await, DenyReason::Unauthorized);
    assert_eq!(refused(&thief, home.key, &pass).await, DenyReason::Unauthorized);
    assert_eq!(refused(&session.tls, relay.key, &pass).await, DenyReason::NotHere);
    assert_eq!(refused(&session.tls, PublicKey([8; 32]), &pass).await, DenyReason::NotHere);
    // The pass is of another server than the one that is named.
    assert_eq!(refused(&session.tls, dead, &pass).await, DenyReason::Unauthorized);

    let (link, answer) = asked(&session.tls, home.key, &pass).await;
    assert_eq!(answer, Ok(()));
    let mut led = link.through(&home.key, &session.tls, &options).await.unwrap();
    assert_eq!(led.peer_key(), home.key);
    // It is a link like any other: a session can be opened on it.
    assert_eq!(connect(&mut led, ConnectMode::New).await, Ok(()));
    assert_eq!(relay.server.relays.json()["now"], 1);
    assert_eq!(refused(&session.tls, home.key, &pass).await, DenyReason::Overloaded);
    drop(led);
    let ended = async {
        while relay.server.relays.json()["now"] != 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(LONG, ended).await.expect("the place is given back");
    // Whoever pretends to be the home is found out.
    let (link, answer) = asked(&session.tls, home.key, &pass).await;
    assert_eq!(answer, Ok(()));
    let wrong = link.through(&relay.key, &session.tls, &options).await.unwrap_err();
    assert!(wrong.to_string().contains("has the key"), "{wrong}");
}

/// STP 10: a server takes no session whose rate it cannot serve, and says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_used_to_more_than_is_left_goes_to_who_has_more() {
    let file = content(40 * MIB);
    let folder = folder_with(&file);
    let (_keep, key) = cluster_key();
    let service = file_service(folder.path());
    let mut first = TestServer::start("first", &key, &service);
    let small = format!("{service}\n[limits]\negress = \"80kbit/s\"");
    let small = TestServer::start("small", &key, &small);
    let large = TestServer::start("large", &key, &service);
    let mut session = TestSession::open(&[first.at(), small.at(), large.at()]);
    ask(&mut session.app, "GET /f HTTP/1.1").await;
    let (_, body) = head(&mut session.app).await;
    let body = exactly(&mut session.app, body, 5 * MIB).await;
    // Until its rate has been published.
    tokio::time::sleep(Duration::from_millis(500)).await;
    first.kill();
    let body = exactly(&mut session.app, body, file.len()).await;
    equal(&body, &file);
    let seen = session.seen.lock();
    let denied = seen.denied.iter().find(|denied| denied.contains("of 10000 bytes a second"));
    assert!(denied.is_some_and(|why| why.contains("more are wanted")), "{:?}", seen.denied);
    assert!(small.refused("overloaded") > 0);
    assert_eq!(seen.attached.last().map(String::as_str), Some("Transfer large"));
    let running = large.server.registry.running();
    assert!(running[0].1.wanted > 10_000, "{}", running[0].1.wanted);
}

async fn exactly_tcp(stream: &mut tokio::net::TcpStream, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    timeout(LONG, stream.read_exact(&mut bytes)).await.expect("in time").unwrap();
    bytes
}
