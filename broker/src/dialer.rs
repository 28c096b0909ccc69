//! How the broker makes links: the network's edge, as [`crate::reach`] sees it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use parking_lot::Mutex;
use stp_net::key::PublicKey;
use stp_net::link::{DialError, Dialed, Link, LinkOptions, Through, Tls};
use stp_net::place::Places;
use stp_proto::course::{Failure, FailureKind};

use crate::leave::Leave;
use crate::reach::{Dialer, Dialing};

/// A link has this much time over one interface before the next one is tried beside it.
const NEXT_AFTER: Duration = Duration::from_secs(1);

/// Makes links to one server.
pub struct ServerDialer {
    way: Arc<Mutex<Way>>,
    /// The key it must show.
    pub key: PublicKey,
    /// The key that the broker shows.
    pub tls: Arc<Tls>,
    /// How links are to be.
    pub options: LinkOptions,
    /// The policy that says over what they leave, if there is one.
    pub leave: Option<Arc<Leave>>,
}

/// Where a server is.
struct Way {
    /// Where it listens; a server may move.
    places: Places,
    /// Where it was met last, or its name was found to lead.
    met: Option<SocketAddr>,
    /// To whom the last link's connection went: to it, or to a proxy.
    peer: Option<SocketAddr>,
    /// What the last link goes through.
    through: Option<Through>,
    /// Only short segments pass on the way there.
    short_segments: bool,
}

impl ServerDialer {
    /// Makes links to the server at one of these places.
    #[must_use]
    pub fn new(
        places: Places,
        key: PublicKey,
        tls: Arc<Tls>,
        options: LinkOptions,
    ) -> ServerDialer {
        let way = Way { places, met: None, peer: None, through: None, short_segments: false };
        let way = Arc::new(Mutex::new(way));
        ServerDialer { way, key, tls, options, leave: None }
    }

    /// Makes links to the same server over what a policy allows. The user's ssh goes where it
    /// likes, so it is left out.
    #[must_use]
    pub fn under(&self, leave: Arc<Leave>) -> ServerDialer {
        let options = LinkOptions { ssh: None, ..self.options.clone() };
        let (way, tls) = (Arc::clone(&self.way), Arc::clone(&self.tls));
        ServerDialer { way, key: self.key, tls, options, leave: Some(leave) }
    }

    /// Makes links to the same server, and shows another key there.
    #[must_use]
    pub fn with_key(&self, tls: &Arc<Tls>) -> ServerDialer {
        let (way, tls) = (Arc::clone(&self.way), Arc::clone(tls));
        ServerDialer { way, key: self.key, tls, options: self.options.clone(), leave: None }
    }

    /// Where it listens, by name or by address.
    #[must_use]
    pub fn places(&self) -> Places {
        self.way.lock().places.clone()
    }

    /// The address at which it was met, or else the first one that is written down; none while its
    /// names have not been looked up.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        let way = self.way.lock();
        way.met.or_else(|| way.places.addresses().next())
    }

    /// The same; names are looked up if need be.
    pub async fn find(&self) -> Option<SocketAddr> {
        if let Some(address) = self.address() {
            return Some(address);
        }
        let found = self.places().resolve().await.ok()?.first().copied();
        self.way.lock().met = found;
        found
    }

    /// Whether the last link to it went to this address.
    #[must_use]
    pub fn is_at(&self, peer: SocketAddr) -> bool {
        let way = self.way.lock();
        way.peer == Some(peer) || way.met == Some(peer)
    }

    /// What the last link to it goes through, if not straight there.
    #[must_use]
    pub fn through(&self) -> Option<Through> {
        self.way.lock().through
    }

    /// It listens elsewhere now.
    pub fn moved(&self, places: Places) {
        let mut way = self.way.lock();
        let stays = way.met.filter(|met| places.addresses().any(|address| address == *met));
        let peer = way.peer.filter(|_| stays.is_some());
        let short_segments = way.short_segments;
        *way = Way { places, met: stays, peer, through: None, short_segments };
    }
}

impl ServerDialer {
    /// The path loses long packets, without a word.
    pub fn loses_long(&self) {
        let mut way = self.way.lock();
        if !std::mem::replace(&mut way.short_segments, true) {
            tracing::info!(to = %way.places, "the path loses long packets: links have short \
                segments from now on, until the network changes");
        }
    }
}

impl Dialer for ServerDialer {
    type Link = Link;

    fn dial(&self) -> Dialing<Link> {
        let (key, tls, mut options) = (self.key, Arc::clone(&self.tls), self.options.clone());
        let (places, known) = {
            let way = self.way.lock();
            options.short_segments = way.short_segments;
            (way.places.clone(), way.met)
        };
        let way = Arc::clone(&self.way);
        let leave = self.leave.clone();
        Box::pin(async move {
            let over = |device: Option<String>| {
                let (places, tls) = (&places, &tls);
                let options = LinkOptions { device, ..options.clone() };
                async move { Link::dial_any(places, known, &key, tls, &options).await }
            };
            let dialed = match leave {
                None => over(None).await.map_err(failure),
                Some(leave) => over_one(leave.ways(), over).await.unwrap_or_else(|| {
                    let (kind, errno) = (FailureKind::Silent, libc::ENETUNREACH);
                    Err(Failure { kind, why: leave.why_not(), errno })
                }),
            };
            let Dialed { link, address, through } = dialed?;
            let mut way = way.lock();
            way.peer = Some(link.peer_addr());
            way.met = address.or(way.met);
            way.through = through;
            Ok(link)
        })
    }

    fn network_changed(&self) {
        self.way.lock().short_segments = false;
    }

    /// A server says nothing on a link before it is asked, so a link that can be read is dead.
    fn alive(&self, link: &mut Link) -> bool {
        let mut cx = Context::from_waker(Waker::noop());
        match link.poll_readable(&mut cx) {
            Poll::Pending => true,
            Poll::Ready(Err(_)) => false,
            // Session tickets and the like may have come; anything else is not welcome.
            Poll::Ready(Ok(())) => match link.try_read() {
                Ok(records) => records.is_empty() && !records.closed(),
                Err(error) => error.kind() == std::io::ErrorKind::WouldBlock,
            },
        }
    }
}

fn why(error: &DialError) -> String {
    match error {
        DialError::Misbehaved { .. } => {
            format!("somebody else answers, this network's log-in page perhaps: {error}")
        }
        _ => error.to_string(),
    }
}

/// A link over the first interface that gives one, each tried a little after the one before; of
/// failures the first interface's. Nothing where there is no interface.
async fn over_one<F>(
    ways: Vec<String>,
    over: impl Fn(Option<String>) -> F,
) -> Option<Result<Dialed, Failure>>
where
    F: Future<Output = Result<Dialed, DialError>>,
{
    let (mut ways, mut failed) = (ways.into_iter(), None);
    let mut under_way = FuturesUnordered::new();
    loop {
        let is_last = match ways.next() {
            Some(way) => {
                under_way.push(over(Some(way)));
                false
            }
            None if under_way.is_empty() => return failed.map(Err),
            None => true,
        };
        let next = tokio::time::timeout(NEXT_AFTER, under_way.next());
        let done = if is_last { under_way.next().await } else { next.await.unwrap_or(None) };
        match done {
            Some(Ok(dialed)) => return Some(Ok(dialed)),
            Some(Err(error)) => failed = failed.or(Some(failure(error))),
            None => {}
        }
    }
}

fn failure(error: DialError) -> Failure {
    Failure { kind: kind(&error), why: why(&error), errno: error.errno() }
}

fn kind(error: &DialError) -> FailureKind {
    match error {
        DialError::Refused { .. } => FailureKind::Refused,
        DialError::WrongKey { .. } => FailureKind::WrongKey,
        DialError::PeerRefused { .. } => FailureKind::Unauthorized,
        DialError::Unreachable { .. }
        | DialError::TimedOut { .. }
        | DialError::Lost { .. }
        | DialError::Misbehaved { .. }
        | DialError::Proxy { .. }
        | DialError::Unknown { .. }
        | DialError::Local { .. } => FailureKind::Silent,
    }
}
