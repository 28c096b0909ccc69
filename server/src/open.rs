//! Opening the service of a session: a new one, or one that comes from another server (STP 10).
//!
//! A session that comes over is taken only when its next byte is at hand: the ticket has been
//! checked against the request, the service asked for the rest, and the seam compared.

use std::net::SocketAddr;
use std::sync::Arc;

use stp_net::key::PublicKey;
use stp_proto::replay::http::{self, Observer, Plan};
use stp_proto::session::StartAt;
use stp_proto::ticket::{Claims, Granted};
use stp_proto::wire::{Connect, ConnectMode, DenyReason, TransferRequest};

use crate::config::{Kind, ServiceConfig};
use crate::denial::Denial;
use crate::grant::Revocations;
use crate::service::Service;
use crate::service::beginning::Beginning;
use crate::service::ftp::{self, Groups};
use crate::service::http::Http;
use crate::service::replay::join;
use crate::service::tcp::Tcp;
use crate::service::upstream::{Target, Upstream};
use crate::ticket::Mint;

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
    mut mint: Option<Mint>,
    revocations: &Revocations,
) -> Result<Opened, Denial> {
    let mode = &connect.mode;
    if let (Kind::Ftp, Target::Address(address)) = (config.kind, &config.target) {
        return open_ftp((config, *address), connect, (client, groups), mint, revocations).await;
    }
    let request = match mode {
        ConnectMode::New | ConnectMode::Relay(_) => None,
        ConnectMode::Transfer(request) => Some(request),
    };
    if config.kind == Kind::Tcp {
        if mint.as_ref().is_some_and(|mint| mint.scope().is_some()) {
            let text = "the ticket is for files, and this service has none";
            return Err(Denial::new(DenyReason::Mismatch, text));
        }
        if request.is_some_and(|request| request.up_sent > 0 || request.down > 0) {
            let text = "a session of a tcp service cannot be continued at another server";
            return Err(Denial::new(DenyReason::Unsafe, text));
        }
        let upstream = upstream(config).await?;
        let granted = mint.as_ref().and_then(|mint| mint.granted().cloned());
        let service = Service::Tcp(Tcp::new(upstream));
        return Ok(Opened { service, at: StartAt::default(), granted });
    }
    let (beginning, at) = match request {
        None => (Beginning::new(upstream(config).await?), StartAt::default()),
        Some(request) => transfer(config, request, mint.as_mut(), revocations).await?,
    };
    let granted = mint.as_ref().and_then(|mint| mint.granted().cloned());
    let http = Http::new(config.target.clone(), config.policy, mint, beginning);
    Ok(Opened { service: Service::Http(Box::new(http)), at, granted })
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
        take_grant(config, mint, &claims, revocations)?;
    }
    if mint.as_ref().is_some_and(|mint| mint.scope().is_some()) {
        let text = "the ticket is for files by HTTP, and this is an FTP service";
        return Err(Denial::new(DenyReason::Mismatch, text));
    }
    let granted = mint.as_ref().and_then(|mint| mint.granted().cloned());
    let (belongs, groups) = (connect.belongs, Arc::clone(groups));
    let asked = ftp::Asked { address, client, belongs, groups };
    let (service, at) = ftp::open(asked, &connect.mode, mint).await?;
    Ok(Opened { service, at, granted })
}

/// What the gateway has granted to a session that comes over is what its ticket repeats.
fn take_grant(
    config: &ServiceConfig,
    mint: &mut Mint,
    claims: &Claims,
    revocations: &Revocations,
) -> Result<(), Denial> {
    if config.tickets && claims.granted.is_none() {
        let text = "this service is for those with a ticket of the gateway";
        return Err(Denial::new(DenyReason::Unauthorized, text));
    }
    if let Some(granted) = &claims.granted {
        revocations.check(granted)?;
    }
    mint.restrict(claims.granted.clone());
    Ok(())
}

async fn upstream(config: &ServiceConfig) -> Result<Upstream, Denial> {
    config.target.open().await.map_err(|error| Denial::unreachable(&error))
}

async fn transfer(
    config: &ServiceConfig,
    request: &TransferRequest<'_>,
    mint: Option<&mut Mint>,
    revocations: &Revocations,
) -> Result<(Beginning, StartAt), Denial> {
    let Some(sealed) = request.ticket else {
        if request.down > 0 || request.up_from > 0 || request.covers > 0 {
            let text = format!(
                "no ticket, but {} bytes were received and {} freed",
                request.down, request.up_from
            );
            return Err(Denial::new(DenyReason::Mismatch, text));
        }
        let beginning = Beginning::new(upstream(config).await?);
        let beginning = Beginning { guard: request.up_sent, ..beginning };
        return Ok((beginning, StartAt::default()));
    };
    let mint = mint.ok_or_else(|| {
        Denial::new(DenyReason::Unauthorized, "this server belongs to no cluster")
    })?;
    let claims = mint.open(sealed, request.down, request.up_from)?;
    if claims.up != request.covers {
        let text = format!("the ticket covers {}, not {}", claims.up, request.covers);
        return Err(Denial::new(DenyReason::Mismatch, text));
    }
    take_grant(config, mint, &claims, revocations)?;
    let beginning = carry_out(config, &claims, request).await?;
    let at = StartAt { up: claims.up, down: request.down };
    Ok((Beginning { guard: request.up_sent, ..beginning }, at))
}

/// Does what the plan says, up to the byte before the session's next.
async fn carry_out(
    config: &ServiceConfig,
    claims: &Claims,
    request: &TransferRequest<'_>,
) -> Result<Beginning, Denial> {
    let (up, have) = (claims.up, request.down);
    let broken = || Denial::new(DenyReason::Mismatch, "the ticket's exchange cannot be followed");
    let proof = request.seam.clone();
    let exchange = claims.exchange.http().ok_or_else(broken)?;
    match Plan::make(exchange, claims.down, have, proof, config.policy)? {
        Plan::Fresh => Ok(Beginning::at(Observer::new(up, have), Some(upstream(config).await?))),
        Plan::Closed => Ok(Beginning::at(Observer::closed(up, have), None)),
        Plan::Again { request } => {
            let observer = Observer::asked(up, have, &request).ok_or_else(broken)?;
            let beginning = Beginning::at(observer, Some(upstream(config).await?));
            Ok(Beginning { unsent: request, ..beginning })
        }
        Plan::Complete { head_rest, close } => {
            let reached = have + u64::try_from(head_rest.len()).unwrap_or(0);
            let beginning = if close {
                Beginning::at(Observer::closed(up, reached), None)
            } else {
                Beginning::at(Observer::new(up, reached), Some(upstream(config).await?))
            };
            Ok(Beginning { out: head_rest, ..beginning })
        }
        Plan::Ask(ask) => {
            let http::Exchange::Response { request, response, head_at } = exchange else {
                return Err(broken());
            };
            let joined = join(&config.target, &ask).await?;
            let reached = have + u64::try_from(ask.head_rest.len()).unwrap_or(0);
            let exchange = (request.as_slice(), response.as_slice(), *head_at);
            let observer =
                Observer::inside(up, reached, exchange, joined.seam).ok_or_else(broken)?;
            let beginning = Beginning::at(observer, Some(joined.upstream));
            Ok(Beginning {
                out: ask.head_rest,
                ahead: joined.ahead,
                reusable: joined.reusable,
                ticketed: true,
                ..beginning
            })
        }
    }
}
