//! stub: signatures only
#![expect(
    clippy::unimplemented,
    unused_variables,
    missing_docs,
    reason = "signatures first, bodies follow"
)]
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

/// Where the status is offered: "127.0.0.1:7070", "unix:/run/…", "off". (Deserialize, FromStr)
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StatusAddr {
    Tcp(SocketAddr),
    Unix(PathBuf),
    Off,
}

/// Whose status it is; implemented by the daemons, from published snapshots only.
pub trait Source: Send + Sync + 'static {
    /// GET /status
    fn status(&self) -> serde_json::Value;
    /// GET /metrics (Prometheus text); see [`Metrics`]
    fn metrics(&self) -> String;
    /// GET / ; see [`page`]
    fn page(&self) -> String;
    /// POST /<path> with the bearer token; path without the leading slash, e.g. "sessions/ab12/suspend".
    fn act(
        self: Arc<Self>,
        path: String,
        body: serde_json::Value,
    ) -> Pin<Box<dyn Future<Output = Result<serde_json::Value, Refusal>> + Send>>;
}
/// Why an action was not done.
#[derive(Debug, Clone)]
pub struct Refusal {
    pub status: u16,
    pub text: String,
}

/// The secret that POST needs; a file of mode 0600.
#[derive(Clone)]
pub struct Token(String);
impl Token {
    pub fn load_or_create(path: &Path) -> Result<Self, crate::key::KeyError> {
        unimplemented!()
    }
    pub fn generate() -> Self {
        unimplemented!()
    }
    pub fn as_str(&self) -> &str {
        &self.0
    }
}
/// A bound, not yet served status address.
pub struct StatusServer;
impl StatusServer {
    pub async fn bind(addr: &StatusAddr) -> io::Result<Option<Self>> {
        unimplemented!()
    }
    pub fn local_addr(&self) -> String {
        unimplemented!()
    }
    /// Serves until `stop` completes.
    pub async fn serve(
        self,
        source: Arc<dyn Source>,
        token: Option<Token>,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> io::Result<()> {
        unimplemented!()
    }
}
/// Builds a plain page: title, paragraphs and tables; escapes everything.
pub fn page(title: &str) -> Page {
    unimplemented!()
}
pub struct Page;
impl Page {
    pub fn text(self, paragraph: &str) -> Self {
        unimplemented!()
    }
    pub fn table(self, caption: &str, head: &[&str], rows: &[Vec<String>]) -> Self {
        unimplemented!()
    }
    pub fn finish(self) -> String {
        unimplemented!()
    }
}
/// Builds the text of /metrics.
#[derive(Default)]
pub struct Metrics;
impl Metrics {
    pub fn gauge(&mut self, name: &str, help: &str, value: f64) -> &mut Self {
        unimplemented!()
    }
    pub fn counter(&mut self, name: &str, help: &str, value: u64) -> &mut Self {
        unimplemented!()
    }
    pub fn counters(
        &mut self,
        name: &str,
        help: &str,
        label: &str,
        values: &[(String, u64)],
    ) -> &mut Self {
        unimplemented!()
    }
    pub fn finish(&mut self) -> String {
        unimplemented!()
    }
}
