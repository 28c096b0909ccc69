//! Relaying (R80 to R83): a client whose way to its server is bad is led there through this one.
//!
//! Its link ends in agreement, and what follows is passed on byte by byte: the client shakes hands
//! with its own server through here, so this server sees neither keys nor contents. It leads only
//! to the servers of its configuration, which a client names by key and never by address, and only
//! clients with a pass that such a server has sealed with the key of the cluster both belong to. So
//! it is of no use to anybody else.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use stp_net::key::PublicKey;
use stp_net::link::{Link, LinkOptions, connect_plain};
use stp_net::seal;
use stp_proto::pass::{Pass, PassError};
use stp_proto::wire::{Connect, ConnectOk, DenyReason, RelayRequest};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf, copy_bidirectional_with_sizes};
use tokio::net::TcpStream;

use crate::denial::Denial;
use crate::listener::Server;
use crate::relays::Home;
use crate::ticket::{Cluster, random_handle, unix_now};

/// For the connection to the server to be reached.
const DIAL_MAX: Duration = Duration::from_secs(3);
/// Bytes read at once, each way.
const PIECE: usize = 64 << 10;
impl Server {
    /// Leads a client on to the server it has named, until one of them ends it.
    pub async fn relay(&self, mut link: Link, connect: &Connect<'_>, request: &RelayRequest<'_>) {
        let client = link.peer_key();
        let asked = match self.may_relay(&link, connect, request) {
            Ok((home, place)) => self.reach(home).await.map(|tcp| (home, place, tcp)),
            Err(denial) => Err(denial),
        };
        let (home, _place, onward) = match asked {
            Ok(asked) => asked,
            Err(denial) => return self.deny(link, connect, &denial),
        };
        let mut frame = Vec::new();
        ConnectOk {
            initiator: connect.handle,
            acceptor: random_handle(),
            epoch: connect.epoch,
            features: 0,
            up: 0,
            down: 0,
            limit: 0,
            hold: Duration::ZERO,
            tombstone: Duration::ZERO,
            server: &self.config.name,
            upkeep: None,
        }
        .encode(&mut frame);
        link.send(&frame);
        let Ok(()) = link.flush().await else { return };
        let Ok(tcp) = link.into_tcp() else { return };
        self.relays.begun.fetch_add(1, Ordering::Relaxed);
        tracing::info!(%client, to = %home.key, "relays");
        let mut near = Counted { tcp, bytes: &self.relays.bytes };
        let mut far = Counted { tcp: onward, bytes: &self.relays.bytes };
        let ended = copy_bidirectional_with_sizes(&mut near, &mut far, PIECE, PIECE).await;
        match ended {
            Ok((up, down)) => tracing::info!(%client, to = %home.key, up, down, "relayed"),
            Err(error) => tracing::info!(%client, to = %home.key, %error, "relayed"),
        }
    }

    fn may_relay(
        &self,
        link: &Link,
        connect: &Connect<'_>,
        request: &RelayRequest<'_>,
    ) -> Result<(&Home, tokio::sync::OwnedSemaphorePermit), Denial> {
        self.welcome(&link.peer_key(), connect)?;
        let wanted = PublicKey(request.home);
        let home = self.relays.find(&wanted).ok_or_else(|| {
            Denial::new(DenyReason::NotHere, format!("nothing is relayed to {wanted} here"))
        })?;
        let cluster = self.config.cluster.as_ref().ok_or_else(|| {
            Denial::new(DenyReason::Unauthorized, "this server belongs to no cluster")
        })?;
        check(cluster, request, &link.peer_key())?;
        self.has_egress(connect.rate.unwrap_or(0))?;
        let place = Arc::clone(&self.relays.places).try_acquire_owned().map_err(|_| {
            let text = format!("{} links are relayed", self.relays.places_max);
            Denial::new(DenyReason::Overloaded, text)
        })?;
        Ok((home, place))
    }

    async fn reach(&self, home: &Home) -> Result<TcpStream, Denial> {
        let congestion = self.config.limits.congestion.clone();
        let options = LinkOptions { timeout: DIAL_MAX, congestion, ..LinkOptions::default() };
        connect_plain(home.address, &options).await.map_err(|error| {
            let errno = u16::try_from(error.errno()).unwrap_or_default();
            Denial::new(DenyReason::Refused(errno), error.to_string())
        })
    }
}

/// R81: sealed by a server of this cluster, for this client, by the server that is named.
fn check(cluster: &Cluster, request: &RelayRequest<'_>, client: &PublicKey) -> Result<(), Denial> {
    let unauthorized = |text: String| Denial::new(DenyReason::Unauthorized, text);
    let claims = seal::open(&cluster.key(), request.pass, client)
        .map_err(|error| unauthorized(error.to_string()))?;
    let pass = Pass::decode(&claims).map_err(|error| unauthorized(error.to_string()))?;
    pass.check(&cluster.name, &request.home, unix_now()).map_err(|error| match error {
        PassError::Expired(_) => Denial::new(DenyReason::Expired, error.to_string()),
        error => unauthorized(error.to_string()),
    })
}

/// A connection whose received bytes are counted.
struct Counted<'a> {
    tcp: TcpStream,
    bytes: &'a AtomicU64,
}

impl AsyncRead for Counted<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let ready = Pin::new(&mut self.tcp).poll_read(cx, into);
        let read = into.filled().len() - before;
        self.bytes.fetch_add(read as u64, Ordering::Relaxed);
        ready
    }
}

impl AsyncWrite for Counted<'_> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.tcp).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.tcp).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use stp_net::cluster_key::ClusterKey;
    use stp_net::key::Identity;

    use super::*;

    fn sealed(key: &ClusterKey, audience: &str, home: [u8; 32], client: &PublicKey) -> Vec<u8> {
        let pass = Pass::new(audience, home, (unix_now(), 60));
        seal::seal(key, &pass.encode(), client)
    }

    /// R80.
    #[test]
    fn only_a_pass_of_the_named_server_for_this_client_helps() {
        let key = ClusterKey::generate();
        let cluster = Cluster::fixed("lab", key.clone(), Duration::from_secs(60));
        let client = Identity::generate().public_key();
        let home = [7; 32];
        let refused = |pass: &[u8], home| {
            let request = RelayRequest { home, pass };
            check(&cluster, &request, &client).expect_err("no good").why
        };
        let good = sealed(&key, "lab", home, &client);
        let request = RelayRequest { home, pass: &good };
        assert_eq!(check(&cluster, &request, &client), Ok(()));
        // Stolen, for another server, of another cluster by key or by name, old, none, altered.
        let thief = Identity::generate().public_key();
        assert_eq!(
            check(&cluster, &request, &thief).expect_err("stolen").why,
            DenyReason::Unauthorized
        );
        let unauthorized = [
            (good.clone(), [8; 32]),
            (sealed(&ClusterKey::generate(), "lab", home, &client), home),
            (sealed(&key, "other", home, &client), home),
            (Vec::new(), home),
            (good[..good.len() - 1].to_vec(), home),
            (seal::seal(&key, b"{}", &client), home),
        ];
        for (pass, home) in unauthorized {
            assert_eq!(refused(&pass, home), DenyReason::Unauthorized);
        }
        let old = Pass::new("lab", home, (unix_now() - 1_000, 60)).encode();
        assert_eq!(refused(&seal::seal(&key, &old, &client), home), DenyReason::Expired);
    }
}
