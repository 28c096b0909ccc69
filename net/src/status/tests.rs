use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::oneshot;

use super::*;

#[derive(Default)]
struct Daemon(Feed);

impl Source for Daemon {
    fn status(&self) -> Value {
        json!({
            "sessions": [{ "id": 1, "events": [{ "what": "lost" }], "series": [1] }],
            "ended": [{ "id": 0 }],
        })
    }

    fn metrics(&self) -> String {
        Metrics::new().gauge("up", "Up.", 1.0).finish()
    }

    fn page(&self) -> String {
        page("daemon").text("works").finish()
    }

    fn feed(&self) -> Option<&Feed> {
        Some(&self.0)
    }

    fn act(self: Arc<Self>, path: String, body: Value) -> Acting {
        Box::pin(async move {
            match path.as_str() {
                "sessions/1/suspend" => Ok(json!({ "done": body })),
                _ => Err(ActError::not_found(format!("no action {path}"))),
            }
        })
    }
}

struct Served {
    addr: StatusAddr,
    token: Token,
    feed: Feed,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

async fn served(addr: &str) -> Served {
    let addr: StatusAddr = addr.parse().expect("an address");
    let server = StatusServer::bind(&addr).await.expect("free").expect("not off");
    let (addr, token) = (server.addr().clone(), Token::generate());
    let (stop, stopped) = oneshot::channel();
    let daemon = Daemon::default();
    let feed = daemon.0.clone();
    let serving = server.serve(Arc::new(daemon), Some(token.clone()), async {
        let _ = stopped.await;
    });
    Served { addr, token, feed, stop, task: tokio::spawn(serving) }
}

impl Served {
    async fn ask(&self, request: &str) -> String {
        let mut answer = Vec::new();
        match &self.addr {
            StatusAddr::Tcp(addr) => {
                let mut io = TcpStream::connect(addr).await.expect("it listens");
                io.write_all(request.as_bytes()).await.expect("it reads");
                io.read_to_end(&mut answer).await.expect("it answers");
            }
            StatusAddr::Unix(path) => {
                let mut io = UnixStream::connect(path).await.expect("it listens");
                io.write_all(request.as_bytes()).await.expect("it reads");
                io.read_to_end(&mut answer).await.expect("it answers");
            }
            StatusAddr::Off => unreachable!("never served"),
        }
        String::from_utf8(answer).expect("text")
    }

    async fn get(&self, path: &str, host: &str) -> String {
        self.ask(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")).await
    }

    async fn post(&self, path: &str, token: &str, body: &str) -> String {
        let length = body.len();
        self.ask(&format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\
             Authorization: Bearer {token}\r\nContent-Length: {length}\r\n\r\n{body}"
        ))
        .await
    }
}

#[tokio::test]
async fn the_pages_are_there() {
    let served = served("127.0.0.1:0").await;
    let page = served.get("/plain", "localhost").await;
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("<p>works</p>"), "{page}");
    assert!(page.contains("style-src 'unsafe-inline'"), "{page}");
    let page = served.get("/", "localhost").await;
    assert!(page.starts_with("HTTP/1.1 200") && page.contains("EventSource"), "{page}");
    assert!(page.contains("script-src 'sha256-") && !page.contains("unsafe-inline"));
    let status = served.get("/status", "127.0.0.1:7070").await;
    assert!(status.contains("\"lost\"") && status.contains("no-store"), "{status}");
    let brief = served.get("/status?brief", "127.0.0.1:7070").await;
    assert!(brief.contains("{\"sessions\":[{\"id\":1}]}"), "{brief}");
    let metrics = served.get("/metrics", "[::1]:7070").await;
    assert!(metrics.contains("\nup 1.0\n") && metrics.contains("openmetrics-text"), "{metrics}");
    let nothing = served.get("/etc/passwd", "localhost").await;
    assert!(nothing.starts_with("HTTP/1.1 404") && nothing.contains("/status"), "{nothing}");
}

#[tokio::test]
async fn a_name_pointed_at_loopback_learns_nothing() {
    let served = served("127.0.0.1:0").await;
    for host in ["evil.example", "localhost.evil.example:7070", "127.0.0.1.nip.io", ""] {
        let answer = served.get("/status", host).await;
        assert!(answer.starts_with("HTTP/1.1 403"), "{host}: {answer}");
        assert!(!answer.contains("sessions"), "{host}: {answer}");
    }
    let answer = served.ask("GET /status HTTP/1.0\r\n\r\n").await;
    assert!(answer.contains(" 403 "), "{answer}");
}

#[tokio::test]
async fn an_action_needs_the_token() {
    let served = served("127.0.0.1:0").await;
    let token = served.token.as_str();
    let path = "/sessions/1/suspend";
    let refused = served.post(path, "guess", "").await;
    assert!(refused.starts_with("HTTP/1.1 401"), "{refused}");
    let done = served.post(path, token, "{\"for\":1}").await;
    assert!(done.starts_with("HTTP/1.1 200") && done.contains("{\"done\":{\"for\":1}}"), "{done}");
    let done = served.post(path, token, "").await;
    assert!(done.contains("{\"done\":null}"), "{done}");
    let unknown = served.post("/sessions/1/launch", token, "").await;
    assert!(unknown.starts_with("HTTP/1.1 404"), "{unknown}");
    let odd = served.post(path, token, "{").await;
    assert!(odd.starts_with("HTTP/1.1 400"), "{odd}");
    let read_only = served.post("/status", token, "").await;
    assert!(read_only.starts_with("HTTP/1.1 404"), "{read_only}");
    let large = served.post(path, token, &" ".repeat(BODY_MAX + 1)).await;
    assert!(large.starts_with("HTTP/1.1 413"), "{large}");
}

#[tokio::test]
async fn garbage_harms_nobody_else_and_the_end_is_clean() {
    let served = served("127.0.0.1:0").await;
    let answer = served.ask("\x16\x03\x01 this is no HTTP\r\n\r\n").await;
    assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 400"), "{answer}");
    assert!(served.get("/status", "localhost").await.starts_with("HTTP/1.1 200"));
    served.stop.send(()).expect("it serves");
    served.task.await.expect("no panic");
}

#[tokio::test]
async fn a_unix_socket_needs_no_host_and_replaces_a_dead_one() {
    let folder = tempfile::tempdir().expect("a folder");
    let addr = format!("unix:{}", folder.path().join("status.sock").display());
    for _ in 0..2 {
        let served = served(&addr).await;
        let answer = served.get("/status", "session").await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        let taken = StatusServer::bind(&served.addr).await;
        assert_eq!(taken.expect_err("it is served").kind(), io::ErrorKind::AddrInUse);
        served.stop.send(()).expect("it serves");
        served.task.await.expect("no panic");
    }
}

#[test]
fn places_are_read_and_written() {
    for text in ["127.0.0.1:7070", "[::1]:7070", "unix:/run/s.sock", "off"] {
        assert_eq!(text.parse::<StatusAddr>().expect("a place").to_string(), text);
    }
    for bad in ["localhost:7070", "unix:", "7070", "on"] {
        assert!(bad.parse::<StatusAddr>().is_err(), "{bad}");
    }
}

#[tokio::test]
async fn happenings_are_streamed_after_the_status() {
    let served = served("127.0.0.1:0").await;
    let StatusAddr::Tcp(addr) = &served.addr else { panic!("it is TCP") };
    // Nobody listens yet.
    served.feed.tell("happening", || json!({ "what": "unheard" }));
    let mut io = TcpStream::connect(addr).await.expect("it listens");
    io.write_all(b"GET /events HTTP/1.1\r\nHost: localhost\r\n\r\n").await.expect("it reads");
    let mut text = String::new();
    for wanted in ["event: status", "event: happening"] {
        while !text.contains(wanted) || !text.ends_with("\n\r\n") {
            let mut piece = [0; 4096];
            let read = io.read(&mut piece).await.expect("it answers");
            assert!(read > 0, "it ended: {text}");
            text += std::str::from_utf8(&piece[..read]).expect("text");
        }
        served.feed.tell("happening", || json!({ "what": "stays" }));
    }
    assert!(text.contains("content-type: text/event-stream"), "{text}");
    assert!(text.contains(r#"data: {"ended":[{"id":0}],"sessions":["#), "{text}");
    assert!(text.contains(r#"data: {"what":"stays"}"#) && !text.contains("unheard"), "{text}");
}
