//! How the broker makes links: the network's edge, as [`crate::reach`] sees it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use stp_net::key::PublicKey;
use stp_net::link::{DialError, Dialed, Link, LinkOptions, Through, Tls};
use stp_net::place::Places;
use stp_proto::course::{Failure, FailureKind};

use crate::reach::{Dialer, Dialing};

/// Makes links to one server.
pub struct ServerDialer {
    way: Arc<Mutex<Way>>,
    /// The key it must show.
    pub key: PublicKey,
    /// The key that the broker shows.
    pub tls: Arc<Tls>,
    /// How links are to be.
    pub options: LinkOptions,
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
        ServerDialer { way, key, tls, options }
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
        Box::pin(async move {
            let dialed = Link::dial_any(&places, known, &key, &tls, &options).await;
            let Dialed { link, address, through } = dialed.map_err(|error| Failure {
                kind: kind(&error),
                why: why(&error),
                errno: error.errno(),
            })?;
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
