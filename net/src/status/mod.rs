//! The status server: a page, JSON and metrics about a daemon, on loopback or a Unix socket.
//!
//! It shows what the daemon published ([`Source`]) and never reaches into the data path. A web
//! page the user happens to visit must learn and change nothing: requests must name this host by
//! address or as `localhost` (a page elsewhere cannot, DNS rebinding or not), and whatever changes
//! something needs the bearer [`Token`]. Connections are bounded in number and time.

mod feed;
mod live;
mod metrics;
mod page;
mod token;
mod words;

use std::fmt;
use std::future::Future;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{RawQuery, Request, State};
use axum::http::header::{
    AUTHORIZATION, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HOST,
    X_CONTENT_TYPE_OPTIONS,
};
use axum::http::{HeaderValue, Method, StatusCode};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::sse::{KeepAlive, Sse};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::get;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::{Deserialize, Deserializer};
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, UnixListener};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

pub use feed::Feed;
pub use metrics::Metrics;
pub use page::{Page, page};
pub use token::Token;
pub use words::state_text;

/// Connections to the status at a time.
const CONNECTIONS_MAX: usize = 64;
/// A request's body is not longer than this, in bytes.
const BODY_MAX: usize = 64 * 1024;
/// How long the head of a request may take.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);
/// Answers under way at the end get this long.
const DRAIN_MAX: Duration = Duration::from_secs(1);
const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; frame-ancestors 'none'";

/// Where the status is offered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StatusAddr {
    /// `127.0.0.1:7070`
    Tcp(SocketAddr),
    /// `unix:/run/session/status.sock`
    Unix(PathBuf),
    /// `off`
    Off,
}

impl FromStr for StatusAddr {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self::Off);
        }
        match text.strip_prefix("unix:") {
            Some(path) if !path.is_empty() => Ok(Self::Unix(path.into())),
            _ => text.parse().map(Self::Tcp).map_err(|_| {
                format!(
                    "{text:?} is no place for the status; write \"127.0.0.1:7070\", \
                    \"unix:/path\" or \"off\""
                )
            }),
        }
    }
}

impl fmt::Display for StatusAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(addr) => write!(f, "{addr}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
            Self::Off => f.write_str("off"),
        }
    }
}

impl<'de> Deserialize<'de> for StatusAddr {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// What an action comes to.
pub type Acting = Pin<Box<dyn Future<Output = Result<Value, ActError>> + Send>>;

/// Whose status it is. The daemons implement it over what they have published; none of the first
/// three may wait.
pub trait Source: Send + Sync + 'static {
    /// `GET /status`
    fn status(&self) -> Value;
    /// `GET /metrics`, as [`Metrics`] makes it.
    fn metrics(&self) -> String;
    /// `GET /plain`, as [`page()`] makes it: for browsers without scripts.
    fn page(&self) -> String;
    /// What happens, for `GET /events`; none: there is no such page.
    fn feed(&self) -> Option<&Feed> {
        None
    }
    /// `POST /path` with the token. `path` is without its first slash, such as
    /// `sessions/ab12/suspend`; `body` is JSON, `Null` if there was none.
    fn act(self: Arc<Self>, path: String, body: Value) -> Acting;
}

/// Why an action was not done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ActError {
    /// The HTTP status, 4xx or 5xx.
    pub status: u16,
    /// What is wrong, and what to do.
    pub text: String,
}

impl ActError {
    /// There is no such action, or nothing to act upon.
    #[must_use]
    pub fn not_found(text: impl Into<String>) -> Self {
        Self { status: 404, text: text.into() }
    }

    /// It is there, and its state does not allow it.
    #[must_use]
    pub fn conflict(text: impl Into<String>) -> Self {
        Self { status: 409, text: text.into() }
    }

    /// The request makes no sense.
    #[must_use]
    pub fn bad_request(text: impl Into<String>) -> Self {
        Self { status: 400, text: text.into() }
    }
}

impl IntoResponse for ActError {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        (status, axum::Json(json!({ "error": self.text }))).into_response()
    }
}

/// A status address that is bound and not served yet.
#[derive(Debug)]
pub struct StatusServer {
    listener: Listener,
    addr: StatusAddr,
}

#[derive(Debug)]
enum Listener {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl StatusServer {
    /// Binds `addr`; none for `off`. A socket file that nobody serves any more is replaced.
    pub async fn bind(addr: &StatusAddr) -> io::Result<Option<Self>> {
        match addr {
            StatusAddr::Off => Ok(None),
            StatusAddr::Tcp(addr) => {
                let listener = TcpListener::bind(addr).await?;
                let addr = StatusAddr::Tcp(listener.local_addr()?);
                Ok(Some(Self { listener: Listener::Tcp(listener), addr }))
            }
            StatusAddr::Unix(path) => {
                if tokio::net::UnixStream::connect(path).await.is_ok() {
                    return Err(io::ErrorKind::AddrInUse.into());
                }
                let _ = std::fs::remove_file(path);
                let listener = Listener::Unix(UnixListener::bind(path)?);
                Ok(Some(Self { listener, addr: addr.clone() }))
            }
        }
    }

    /// Where it is: the port is known even if 0 was asked for.
    #[must_use]
    pub fn addr(&self) -> &StatusAddr {
        &self.addr
    }

    /// Serves until `stop` completes. Without a token nothing can be changed.
    pub async fn serve(
        self,
        source: Arc<dyn Source>,
        token: Option<Token>,
        stop: impl Future<Output = ()> + Send,
    ) {
        let check_host = matches!(self.listener, Listener::Tcp(_));
        let router = router(source, Guard { token, check_host });
        let slots = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        let mut running = JoinSet::new();
        let mut stop = pin!(stop);
        loop {
            let slot = slots.clone().acquire_owned();
            let accepted = async {
                let slot = slot.await;
                (self.listener.accept().await, slot)
            };
            let (accepted, slot) = tokio::select! {
                accepted = accepted => accepted,
                () = &mut stop => break,
            };
            while running.try_join_next().is_some() {}
            match accepted {
                Ok(io) => {
                    let answered = answer(io, router.clone());
                    running.spawn(async move {
                        let _slot = slot;
                        answered.await;
                    });
                }
                // Out of descriptors, mostly: others must get a chance to give some back.
                Err(error) => {
                    tracing::warn!(%error, "the status server cannot accept");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
        }
        let drained = async { while running.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(DRAIN_MAX, drained).await;
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<S: AsyncRead + AsyncWrite + Send + Unpin> Stream for S {}

impl Listener {
    async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        match self {
            Self::Tcp(listener) => listener.accept().await.map(|(io, _)| Box::new(io) as _),
            Self::Unix(listener) => listener.accept().await.map(|(io, _)| Box::new(io) as _),
        }
    }
}

async fn answer(io: Box<dyn Stream>, router: Router) {
    let answered = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_TIMEOUT)
        .serve_connection(TokioIo::new(io), TowerToHyperService::new(router))
        .await;
    if let Err(error) = answered {
        tracing::debug!(%error, "a status connection ended early");
    }
}

/// What a request must satisfy before it reaches the source.
#[derive(Clone)]
struct Guard {
    token: Option<Token>,
    check_host: bool,
}

fn router(source: Arc<dyn Source>, guard: Guard) -> Router {
    Router::new()
        .route("/", get(live::live))
        .route("/plain", get(|State(source): Shared| async move { Html(source.page()) }))
        .route("/status", get(status))
        .route("/metrics", get(metrics_text))
        .route("/events", get(events))
        .method_not_allowed_fallback(other)
        .fallback(other)
        .with_state(source)
        .layer(from_fn_with_state(guard, check))
}

type Shared = State<Arc<dyn Source>>;

/// The status; `?brief` leaves out what only grows: events and samples of sessions, ended sessions.
async fn status(State(source): Shared, RawQuery(query): RawQuery) -> Response {
    let mut status = source.status();
    if query.as_deref() == Some("brief")
        && let Value::Object(all) = &mut status
    {
        all.remove("ended");
        let sessions = all.get_mut("sessions").and_then(Value::as_array_mut);
        for session in sessions.into_iter().flatten().filter_map(Value::as_object_mut) {
            session.remove("events");
            session.remove("series");
        }
    }
    axum::Json(status).into_response()
}

async fn metrics_text(State(source): Shared) -> Response {
    let kind = HeaderValue::from_static(metrics::MEDIA_TYPE);
    ([(CONTENT_TYPE, kind)], source.metrics()).into_response()
}

async fn events(State(source): Shared) -> Response {
    match source.feed().cloned() {
        Some(feed) => {
            let happenings = feed.listen(move || source.status());
            Sse::new(happenings).keep_alive(KeepAlive::default()).into_response()
        }
        None => ActError::not_found("there is no /events here").into_response(),
    }
}

/// Everything but the pages: actions, and what does not exist.
async fn other(State(source): Shared, request: Request) -> Response {
    let path = request.uri().path().trim_start_matches('/').to_owned();
    if request.method() != Method::POST {
        let pages = ["", "plain", "status", "metrics", "events"];
        return if pages.contains(&path.as_str()) {
            ActError { status: 405, text: "only GET is answered here".into() }.into_response()
        } else {
            let text = format!("there is no /{path}; there are /, /status, /metrics and /events");
            ActError::not_found(text).into_response()
        };
    }
    let body = match to_bytes(request.into_body(), BODY_MAX).await {
        Ok(body) => parse_body(&body),
        Err(_) => Err(ActError { status: 413, text: format!("more than {BODY_MAX} bytes") }),
    };
    let acted = match body {
        Ok(body) => source.act(path, body).await,
        Err(refusal) => Err(refusal),
    };
    acted.map_or_else(IntoResponse::into_response, |done| axum::Json(done).into_response())
}

fn parse_body(body: &Bytes) -> Result<Value, ActError> {
    if body.is_empty() {
        return Ok(Value::Null);
    }
    serde_json::from_slice(body)
        .map_err(|error| ActError::bad_request(format!("the body is not JSON: {error}")))
}

async fn check(State(guard): State<Guard>, request: Request<Body>, next: Next) -> Response {
    let mut response = match guard.admit(&request) {
        Ok(()) => next.run(request).await,
        Err(refusal) => refusal.into_response(),
    };
    let headers = response.headers_mut();
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    // The live page brings a policy of its own.
    headers.entry(CONTENT_SECURITY_POLICY).or_insert(HeaderValue::from_static(POLICY));
    response
}

impl Guard {
    fn admit(&self, request: &Request<Body>) -> Result<(), ActError> {
        let header = |name| request.headers().get(name).and_then(|v: &HeaderValue| v.to_str().ok());
        if self.check_host && !header(HOST).is_some_and(names_an_address) {
            let text = "the Host header must be an address or localhost";
            return Err(ActError { status: 403, text: text.into() });
        }
        if matches!(*request.method(), Method::GET | Method::HEAD) {
            return Ok(());
        }
        let Some(token) = &self.token else {
            let text = "this daemon offers no actions";
            return Err(ActError { status: 403, text: text.into() });
        };
        let shown = header(AUTHORIZATION).and_then(|value| value.strip_prefix("Bearer "));
        if shown.is_some_and(|shown| token.matches(shown)) {
            Ok(())
        } else {
            let text = "this needs \"Authorization: Bearer\" and the daemon's token";
            Err(ActError { status: 401, text: text.into() })
        }
    }
}

/// A page elsewhere can make a browser send any name as Host, by pointing that name here; an
/// address or `localhost` it cannot.
fn names_an_address(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => name,
        _ => host,
    };
    let bare = name.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(name);
    name.eq_ignore_ascii_case("localhost") || bare.parse::<IpAddr>().is_ok()
}

#[cfg(test)]
mod tests;
