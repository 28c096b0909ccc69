//! How the broker makes links: the network's edge, as [`crate::reach`] sees it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::Mutex;
use stp_net::key::PublicKey;
use stp_net::link::{DialError, Link, LinkOptions, Tls};
use stp_proto::course::{Failure, FailureKind};

use crate::reach::{Dialer, Dialing};

/// Makes links to one server.
pub struct ServerDialer {
    /// Where it listens; a server may move.
    address: Mutex<SocketAddr>,
    /// The key it must show.
    pub key: PublicKey,
    /// The key that the broker shows.
    pub tls: Arc<Tls>,
    /// How links are to be.
    pub options: LinkOptions,
}

impl ServerDialer {
    /// Makes links to the server at `address`.
    #[must_use]
    pub fn new(
        address: SocketAddr,
        key: PublicKey,
        tls: Arc<Tls>,
        options: LinkOptions,
    ) -> ServerDialer {
        ServerDialer { address: Mutex::new(address), key, tls, options }
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        *self.address.lock()
    }

    /// It listens elsewhere now.
    pub fn moved(&self, address: SocketAddr) {
        *self.address.lock() = address;
    }
}

impl Dialer for ServerDialer {
    type Link = Link;

    fn dial(&self) -> Dialing<Link> {
        let (address, key, tls) = (self.address(), self.key, Arc::clone(&self.tls));
        let options = self.options.clone();
        Box::pin(async move {
            Link::dial(address, &key, &tls, &options).await.map_err(|error| Failure {
                kind: kind(&error),
                why: error.to_string(),
                errno: error.errno(),
            })
        })
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

fn kind(error: &DialError) -> FailureKind {
    match error {
        DialError::Refused { .. } | DialError::Misbehaved { .. } => FailureKind::Refused,
        DialError::WrongKey { .. } => FailureKind::WrongKey,
        DialError::PeerRefused { .. } => FailureKind::Unauthorized,
        DialError::Unreachable { .. }
        | DialError::TimedOut { .. }
        | DialError::Lost { .. }
        | DialError::Local { .. } => FailureKind::Silent,
    }
}
