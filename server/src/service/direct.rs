//! Streams to an app's own destination, for the server that a broker runs inside itself.
//!
//! There is no far end here: the stream goes from this machine to the origin, so it dies with this
//! machine's address and with the path. What a link notices by its heartbeat is noticed here by the
//! kernel's own questions (keep-alive) and by looking whether the stream's address is still ours.
//! While the origin cannot be reached, several attempts are under way at once, so that one of them
//! gets through soon after the path is back.

use std::future::Future;
use std::io::{self, IoSlice, IoSliceMut};
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

pub use stp_proto::local::mirror::Mirror;
use stp_proto::replay::http::Locator;
use tokio::net::TcpStream;
use tokio::task::JoinSet;

use super::dial::connect_over;
use super::upstream::{Stream, Streams, Upstream};
use super::watch;

/// A further attempt is begun after this time: the kernel sends a lost SYN again only after 1 s.
const ATTEMPT_EVERY: Duration = Duration::from_millis(500);
/// This many attempts are under way at once at most.
const ATTEMPTS_MAX: usize = 16;
/// An origin that accepts no connection in this time cannot be reached. It is tried again.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// The same where a mirror waits for its turn: they take turns until one answers.
const TURN_MAX: Duration = Duration::from_secs(2);

/// Where the streams of one session go: the app's destination, and mirrors of it.
#[derive(Clone, Debug)]
pub struct Direct(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    host: String,
    port: u16,
    mirrors: Vec<Mirror>,
    /// Which one is asked: 0 is the destination, then the mirrors.
    at: AtomicUsize,
    notes: Box<dyn Note>,
}

/// What a session says of its streams, and is told of them.
pub trait Note: Send + Sync {
    /// Takes down what happens to them: what, why, and at which byte.
    fn note(&self, what: &'static str, cause: &str, at: u64);

    /// Over which interfaces they may leave, best first; none: as the system's routes say.
    fn ways(&self) -> Option<Vec<String>> {
        None
    }

    /// Why a stream that leaves from this address is not to go on.
    fn forbids(&self, _from: IpAddr) -> Option<String> {
        None
    }

    /// There is one, from this address.
    fn connected(&self, _from: SocketAddr) {}
}

impl std::fmt::Debug for dyn Note {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Note")
    }
}

impl Direct {
    /// Streams to this destination, and to mirrors when it gives no more.
    #[must_use]
    pub fn new(host: String, port: u16, mirrors: Vec<Mirror>, notes: Box<dyn Note>) -> Direct {
        Direct(Arc::new(Inner { host, port, mirrors, at: AtomicUsize::new(0), notes }))
    }

    /// The mirror that is asked now; none: the app's own destination.
    fn mirror(&self) -> Option<&Mirror> {
        let at = self.0.at.load(Ordering::Relaxed);
        at.checked_sub(1).and_then(|at| self.0.mirrors.get(at))
    }

    async fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        let (host, port) = match self.mirror() {
            None => (&self.0.host, self.0.port),
            Some(Mirror { host, port, .. }) => (host, *port),
        };
        Ok(tokio::net::lookup_host((host.as_str(), port)).await?.collect())
    }

    /// What is tried in turn: all addresses over the best way, and then over the others.
    async fn turns(&self) -> io::Result<Vec<(SocketAddr, Option<String>)>> {
        let ways = match self.0.notes.ways() {
            None => vec![None],
            Some(ways) if ways.is_empty() => {
                let what = "its policy allows none of the interfaces that there are";
                return Err(io::Error::new(io::ErrorKind::NetworkUnreachable, what));
            }
            Some(ways) => ways.into_iter().map(Some).collect(),
        };
        let addresses = self.addresses().await?;
        let over = |way: Option<String>| addresses.iter().map(move |to| (*to, way.clone()));
        Ok(ways.into_iter().flat_map(over).collect())
    }

    /// A stream to whoever of the addresses accepts first.
    async fn connect(&self) -> io::Result<DirectStream> {
        let all = self.turns().await?;
        let (mut turns, mut untried) = (all.iter().cycle(), all.len());
        let mut under_way = JoinSet::new();
        let mut last = io::Error::from(io::ErrorKind::AddrNotAvailable);
        let mut tick = tokio::time::interval(ATTEMPT_EVERY);
        loop {
            tokio::select! {
                _ = tick.tick(), if under_way.len() < ATTEMPTS_MAX => {
                    let Some((to, way)) = turns.next().cloned() else { return Err(last) };
                    untried = untried.saturating_sub(1);
                    under_way.spawn(async move { connect_over(to, way.as_deref()).await });
                }
                Some(connected) = under_way.join_next() => {
                    match connected.unwrap_or_else(|ended| Err(io::Error::other(ended))) {
                        Ok(tcp) => return DirectStream::new(tcp, self.clone()),
                        // Somebody answered, or there is no path: the machine knows when to try
                        // again.
                        Err(error) if under_way.is_empty() && untried == 0 => return Err(error),
                        Err(error) => {
                            last = error;
                            if under_way.is_empty() {
                                tick.reset_immediately();
                            }
                        }
                    }
                }
            }
        }
    }
}

impl Streams for Direct {
    type Stream = DirectStream;
    type Opening = Pin<Box<dyn Future<Output = io::Result<DirectStream>> + Send>>;

    fn open(&self) -> Self::Opening {
        // Requests go where the app wants them. Only the rest of a response may come from a mirror.
        self.0.at.store(0, Ordering::Relaxed);
        self.reopen()
    }

    fn reopen(&self) -> Self::Opening {
        let direct = self.clone();
        Box::pin(async move {
            let most = if direct.0.mirrors.is_empty() { CONNECT_MAX } else { TURN_MAX };
            let connected = tokio::time::timeout(most, direct.connect()).await;
            connected.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
        })
    }

    fn place(&self) -> Option<Locator> {
        let Mirror { host, port, path } = self.mirror()?;
        let host = if host.contains(':') { format!("[{host}]") } else { host.clone() };
        let host = if *port == 80 { host } else { format!("{host}:{port}") };
        Some(Locator { host, path: path.clone() })
    }

    fn note(&self, what: &'static str, cause: &str, at: u64) {
        self.0.notes.note(what, cause, at);
    }

    fn another(&self) -> bool {
        let count = self.0.mirrors.len() + 1;
        let at = (self.0.at.load(Ordering::Relaxed) + 1) % count;
        self.0.at.store(at, Ordering::Relaxed);
        at != 0
    }
}

/// A stream to an origin.
#[derive(Debug)]
pub struct DirectStream {
    upstream: Upstream,
    of: Direct,
}

impl DirectStream {
    fn new(tcp: TcpStream, of: Direct) -> io::Result<DirectStream> {
        watch::ask_often(&tcp)?;
        of.0.notes.connected(tcp.local_addr()?);
        Ok(DirectStream { upstream: Upstream::Tcp(tcp), of })
    }
}

impl Stream for DirectStream {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.upstream.poll_readable(cx)
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<()> {
        self.upstream.poll_writable(cx)
    }

    fn try_read(&self, slices: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.upstream.try_read(slices)
    }

    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.upstream.try_write(slices)
    }

    fn shut_write(&self) {
        self.upstream.shut_write();
    }

    fn reset_on_close(&self) {
        self.upstream.reset_on_close();
    }

    fn is_watched(&self) -> bool {
        true
    }

    fn lost(&self) -> Option<String> {
        let Upstream::Tcp(tcp) = &self.upstream else { return None };
        let forbidden = || self.of.0.notes.forbids(tcp.local_addr().ok()?.ip());
        watch::lost(tcp).or_else(forbidden)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mirror_has_its_turn_once() {
        let mirrors = vec!["http://a/x".parse().unwrap(), "http://b:81".parse().unwrap()];
        struct Nobody;
        impl Note for Nobody {
            fn note(&self, _what: &'static str, _cause: &str, _at: u64) {}
        }
        let direct = Direct::new("192.0.2.1".into(), 80, mirrors, Box::new(Nobody));
        assert_eq!(direct.place(), None);
        assert!(direct.another());
        assert_eq!(direct.place(), Some(Locator { host: "a".into(), path: "/x".into() }));
        assert!(direct.another());
        assert_eq!(direct.place(), Some(Locator { host: "b:81".into(), path: "".into() }));
        assert!(!direct.another(), "all have had their turn");
        assert_eq!(direct.place(), None);
    }
}
