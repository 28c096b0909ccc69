//! Opening the service of a session: a new one, or one that comes from another server.

use std::net::SocketAddr;
use std::sync::Arc;

use stp_drive::clock::now;
use stp_net::key::PublicKey;
use stp_proto::session::StartAt;
use stp_proto::ticket::{Claims, Granted};
use stp_proto::wire::{Connect, ConnectMode, DenyReason, FEATURE_VERIFYING};

use crate::comparing::Comparings;
use crate::config::{Kind, ServiceConfig};
use crate::denial::Denial;
use crate::following::Followings;
use crate::grant::Revocations;
use crate::service::Service;
use crate::service::ahead::Ahead;
use crate::service::coming::Coming;
use crate::service::ftp::{self, Groups};
use crate::service::https;
use crate::service::takeover::Takeover;
use crate::service::tcp::Tcp;
use crate::service::upstream::Target;
use crate::ticket::{Mint, Seal};

/// A service that is open for a session.
pub struct Opened {
    /// The service.
    pub service: Service,
    /// Where the session's streams begin.
    pub at: StartAt,
    /// What the gateway has granted.
    pub granted: Option<Granted>,
}

/// Opens the service as the CONNECT wants it.
pub async fn open(
    config: &ServiceConfig,
    connect: &Connect<'_>,
    (client, groups): (PublicKey, &Arc<Groups>),
    mint: Option<Mint>,
    revocations: &Revocations,
    (comparings, followings): (&Arc<Comparings>, &Followings),
) -> Result<Opened, Denial> {
    let mode = &connect.mode;
    if let (Kind::Ftp, Target::Address(address)) = (config.kind, &config.target) {
        return open_ftp((config, *address), connect, (client, groups), mint, revocations).await;
    }
    if config.kind == Kind::Tcp {
        return open_tcp(config, mode, mint).await;
    }
    let request = match mode {
        ConnectMode::New | ConnectMode::Relay(_) | ConnectMode::Prepare(_) => None,
        ConnectMode::Transfer(request) => Some(request),
    };
    let admit = |claims: &Claims| admit(config, claims, revocations);
    let key = (client, connect.handle);
    let (service, at) = match request {
        Some(request) if comparings.has(&key, request) => comparings.go_on(key, request).await?,
        _ => {
            let (target, policy) = (config.target.clone(), config.policy);
            let mut coming = match &config.tls {
                None => Coming::Http(Takeover::new(now(), target, policy, mint, request, &admit)?),
                Some(tls) => {
                    let how = (policy, Arc::clone(&tls.handshakes));
                    let coming = https::Takeover::new(now(), target, how, mint, request, &admit)?;
                    Coming::Https(coming)
                }
            };
            if request.is_some()
                && let Some(followed) = followings.take(&key).await
            {
                coming.go_on_with(now(), followed);
            }
            let told = request.filter(|_| connect.features & FEATURE_VERIFYING != 0);
            comparings.open(key, told, coming).await?
        }
    };
    let granted = service.granted().cloned();
    Ok(Opened { service, at, granted })
}

async fn open_tcp(
    config: &ServiceConfig,
    mode: &ConnectMode<'_>,
    mint: Option<Mint>,
) -> Result<Opened, Denial> {
    if mint.as_ref().is_some_and(|mint| mint.scope().is_some()) {
        let text = "the ticket is for a file, and this service has none";
        return Err(Denial::new(DenyReason::Mismatch, text));
    }
    if let ConnectMode::Transfer(request) = mode
        && (request.up_sent > 0 || request.down > 0)
    {
        let text = "a session of a tcp service cannot be continued at another server";
        return Err(Denial::new(DenyReason::Unsafe, text));
    }
    let upstream = config.target.connect().await.map_err(|error| Denial::unreachable(&error))?;
    let granted = mint.as_ref().and_then(|mint| mint.granted().cloned());
    let service = Service::Tcp(Tcp::new(upstream, config.ahead.as_ref().map(Ahead::of)));
    Ok(Opened { service, at: StartAt::default(), granted })
}

/// The same for an FTP service: the connections of a login belong together.
async fn open_ftp(
    (config, address): (&ServiceConfig, SocketAddr),
    connect: &Connect<'_>,
    (client, groups): (PublicKey, &Arc<Groups>),
    mut mint: Option<Mint>,
    revocations: &Revocations,
) -> Result<Opened, Denial> {
    // A member of a group has nothing but what its lead, who was admitted, lets it have.
    if let (ConnectMode::Transfer(request), Some(mint)) = (&connect.mode, mint.as_mut())
        && let (Some(sealed), None) = (request.ticket, connect.belongs.token)
    {
        let claims = mint.open(sealed, request.down, request.up_from)?;
        admit(config, &claims, revocations)?;
        mint.restrict(claims.granted.clone());
    }
    if mint.as_ref().is_some_and(|mint| mint.scope().is_some()) {
        let text = "the ticket is for files by HTTP, and this is an FTP service";
        return Err(Denial::new(DenyReason::Mismatch, text));
    }
    let granted = mint.as_ref().and_then(|mint| mint.granted().cloned());
    let (belongs, groups) = (connect.belongs, Arc::clone(groups));
    let secret_ports = config.passive_ports;
    let asked = ftp::Asked { address, client, belongs, groups, secret_ports };
    let (service, at) = ftp::open(asked, &connect.mode, mint).await?;
    Ok(Opened { service, at, granted })
}

/// Whether a session that comes over may go on with what its ticket says was granted.
pub(crate) fn admit(
    config: &ServiceConfig,
    claims: &Claims,
    revocations: &Revocations,
) -> Result<(), Denial> {
    if config.tickets && claims.granted.is_none() {
        let text = "this service is for those with a ticket of the gateway";
        return Err(Denial::new(DenyReason::Unauthorized, text));
    }
    match &claims.granted {
        Some(granted) => revocations.check(granted),
        None => Ok(()),
    }
}
