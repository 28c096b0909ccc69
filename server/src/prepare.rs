//! Getting ready for sessions of other servers (R69): a broker tells what one of its sessions is
//! receiving elsewhere, and the file is read ahead here, one file at a time, at a bounded rate.
//! What a real HTTP server sends is followed instead (`following.rs`).

use std::sync::Arc;

use stp_net::link::Link;
use stp_proto::replay::http::{Ask, Exchange};
use stp_proto::wire::{Connect, PrepareRequest};

use crate::denial::Denial;
use crate::listener::Server;
use crate::open::admit;
use crate::service::upstream::Target;
use crate::ticket::Seal;

impl Server {
    /// Reads ahead what the request says, if that can be done here. The link is of no further use.
    pub(crate) fn prepare(&self, link: Link, connect: &Connect<'_>, request: &PrepareRequest<'_>) {
        if let Err(denial) = self.read_ahead(&link, connect, request) {
            tracing::debug!(client = %link.peer_key(), %denial, "nothing is read ahead");
        }
        link.linger();
    }

    fn read_ahead(
        &self,
        link: &Link,
        connect: &Connect<'_>,
        request: &PrepareRequest<'_>,
    ) -> Result<(), Denial> {
        let client = link.peer_key();
        self.welcome(&client, connect)?;
        let service = self.config.services.iter().find(|known| known.name == connect.service);
        let (Some(service), Some(cluster)) = (service, &self.config.cluster) else {
            return Ok(());
        };
        // Whatever the kind of the service: a key that differs is to be known before it is needed.
        let mint = cluster.mint(&service.name, client, connect.handle);
        let claims = mint.open(request.ticket, request.down, 0)?;
        admit(service, &claims, &self.revocations)?;
        let rate = self.config.limits.read_ahead;
        let Some(exchange) = claims.exchange.http().filter(|_| rate > 0) else { return Ok(()) };
        let Target::Origin(origin) = &service.target else {
            let have = claims.exchange.received(request.down);
            if let Some(ask) = Ask::follow(exchange, have, service.policy) {
                let led = service.toward(client, connect)?;
                let told = led.told_of(link.peer_addr(), link.local_addr());
                self.followings.tell((client, connect.handle), &told.target, ask, rate);
            }
            return Ok(());
        };
        let Exchange::Response { request, .. } = exchange else { return Ok(()) };
        let Some(path) = origin.file(request) else { return Ok(()) };
        // Another file is being read: the broker will ask again.
        let Ok(turn) = Arc::clone(&self.reading).try_acquire_owned() else { return Ok(()) };
        let chains = Arc::clone(origin.chains());
        tokio::task::spawn_blocking(move || {
            match chains.read_ahead(&path, rate) {
                Ok(()) => tracing::debug!(path = %path.display(), "read ahead"),
                Err(error) => tracing::debug!(%error, path = %path.display(), "not read"),
            }
            drop(turn);
        });
        Ok(())
    }
}
