//! Opening a session of an `ftp` service: a control connection or a data connection, a new one or
//! one that comes from another server.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use stp_net::key::PublicKey;
use stp_proto::handle::Handle;
use stp_proto::replay::ftp::{self, ControlState, DataNews, DataState, Exchange, Transfer};
use stp_proto::session::StartAt;
use stp_proto::wire::{Belongs, ConnectMode, DenyReason, TransferRequest};
use tokio::time::Instant;

use super::connection::{Connection, connect};
use super::resume::resume;
use super::{Control, Data, Groups, Slot};
use crate::denial::Denial;
use crate::service::Service;
use crate::service::join::JoinError;
use crate::service::tcp::Tcp;
use crate::service::upstream::Upstream;
use crate::ticket::{Mint, Seal, random_handle};

/// A login that comes from another server is here within this time after its data connection.
const LEAD_MAX: Duration = Duration::from_secs(1);
/// The pause between two looks for it.
const LEAD_AGAIN: Duration = Duration::from_millis(50);

/// Who asks, and what is known of the connection at the app.
pub struct Asked {
    /// Where the FTP server is.
    pub address: SocketAddr,
    /// The client.
    pub client: PublicKey,
    /// What its CONNECT says.
    pub belongs: Belongs,
    /// Where control and data connections meet.
    pub groups: Arc<Groups>,
    /// The server's passive ports, first and last, for encrypted logins.
    pub secret_ports: Option<(u16, u16)>,
}

/// Opens the session; says where its streams begin.
pub async fn open(
    asked: Asked,
    mode: &ConnectMode<'_>,
    mint: Option<Mint>,
) -> Result<(Service, StartAt), Denial> {
    let request = match mode {
        ConnectMode::Transfer(request) => Some(request),
        ConnectMode::New | ConnectMode::Relay(_) | ConnectMode::Prepare(_) => None,
    };
    let ticket = request.map(|request| ticket(request, mint.as_ref())).transpose()?.flatten();
    match (asked.belongs.token, ticket) {
        (Some(token), ticket) => asked.data(token, request, ticket, mint).await,
        (None, None) => asked.control(mint).await,
        (None, Some(ticket)) => asked.control_again(ticket, mint).await,
    }
}

/// What a ticket says, and where.
struct Ticket {
    exchange: Exchange,
    /// Up, as it covers; down, as it was sent; down, as the client has it.
    covers: u64,
    at: u64,
    have: u64,
    /// The end of what other servers were sent.
    sent: u64,
}

fn mismatch(text: impl Into<String>) -> Denial {
    Denial::new(DenyReason::Mismatch, text)
}

fn ticket(request: &TransferRequest<'_>, mint: Option<&Mint>) -> Result<Option<Ticket>, Denial> {
    let Some(sealed) = request.ticket else {
        if request.down > 0 || request.up_from > 0 || request.covers > 0 {
            let (down, up) = (request.down, request.up_from);
            return Err(mismatch(format!("no ticket, but {down} received and {up} freed")));
        }
        return Ok(None);
    };
    let mint = mint.ok_or_else(|| {
        Denial::new(DenyReason::Unauthorized, "this server belongs to no cluster")
    })?;
    let claims = mint.open(sealed, request.down, request.up_from)?;
    if claims.up != request.covers {
        return Err(mismatch(format!("the ticket covers {}, not {}", claims.up, request.covers)));
    }
    let exchange = claims.exchange.ftp().cloned();
    let exchange = exchange.ok_or_else(|| mismatch("the ticket is for another protocol"))?;
    let (covers, at, have) = (claims.up, claims.down, request.down);
    Ok(Some(Ticket { exchange, covers, at, have, sent: request.up_sent }))
}

impl Asked {
    /// The server's address as the client knows it.
    fn host(&self) -> IpAddr {
        self.belongs.peer.map_or(Ipv4Addr::LOCALHOST.into(), |peer| peer.ip())
    }

    fn begin(&self) -> ftp::Control {
        ftp::Control::new(self.host(), random_handle(), self.address.is_ipv6())
            .with_secret_ports(self.secret_ports)
    }

    fn service(
        self,
        control: ftp::Control,
        stream: Option<tokio::net::TcpStream>,
        mint: Option<Mint>,
    ) -> Result<Service, Denial> {
        let (groups, client) = (self.groups, self.client);
        let control = Control::new(control, (self.address, stream), (groups, client), mint);
        let control = control.map_err(|error| Denial::unreachable(&error))?;
        Ok(Service::Ftp(Box::new(control)))
    }

    async fn control(self, mint: Option<Mint>) -> Result<(Service, StartAt), Denial> {
        let stream = connect(self.address).await.map_err(|error| Denial::unreachable(&error))?;
        let control = self.begin();
        Ok((self.service(control, Some(stream), mint)?, StartAt::default()))
    }

    async fn control_again(
        self,
        ticket: Ticket,
        mint: Option<Mint>,
    ) -> Result<(Service, StartAt), Denial> {
        let Exchange::Control(state) = ticket.exchange else {
            return Err(mismatch("the ticket is for a data connection"));
        };
        let at = StartAt { up: ticket.covers, down: ticket.have };
        let control = self.begin().restored(&state, ticket.covers, ticket.have - ticket.at);
        let control = control.ok_or_else(|| mismatch("more was received than the reply has"))?;
        let control = control.guarded(ticket.sent);
        let stream = log_in(self.address, &state).await?;
        Ok((self.service(control, stream, mint)?, at))
    }

    /// A data connection of an encrypted login: nothing is known of it but its port.
    async fn secret(self, (first, last): (u16, u16)) -> Result<(Service, StartAt), Denial> {
        let port = self.belongs.peer.map_or(0, |peer| peer.port());
        if !(first..=last).contains(&port) {
            let text = format!("port {port} is none of {first} to {last}");
            return Err(Denial::new(DenyReason::NotHere, text));
        }
        let stream = connect(SocketAddr::new(self.address.ip(), port)).await;
        let stream = stream.map_err(|error| Denial::unreachable(&error))?;
        Ok((Service::Tcp(Tcp::new(Upstream::Tcp(stream), None)), StartAt::default()))
    }

    /// What was announced to this client. Its login may be on its way here from another server.
    async fn announced(&self, token: Handle) -> Option<Arc<Slot>> {
        let until = Instant::now() + LEAD_MAX;
        loop {
            let found = self.groups.find(self.client, token);
            if found.is_some() || Instant::now() > until {
                return found;
            }
            tokio::time::sleep(LEAD_AGAIN).await;
        }
    }

    async fn data(
        self,
        token: Handle,
        request: Option<&TransferRequest<'_>>,
        ticket: Option<Ticket>,
        mint: Option<Mint>,
    ) -> Result<(Service, StartAt), Denial> {
        let Some(ticket) = ticket else {
            let slot = match request {
                None => self.announced(token).await.ok_or_else(|| {
                    Denial::new(DenyReason::NotHere, "nobody waits for this connection")
                })?,
                Some(_) => self.groups.slot(self.client, token),
            };
            if let Some(range) = slot.range() {
                return self.secret(range).await;
            }
            let data = Data::new(self.address, slot, self.groups, mint);
            return Ok((Service::FtpData(Box::new(data)), StartAt::default()));
        };
        let Exchange::Data(state) = ticket.exchange else {
            return Err(mismatch("the ticket is for a control connection"));
        };
        let state: DataState = *state;
        if state.running.token != token {
            return Err(mismatch("the ticket is for another data connection"));
        }
        let proof = request.and_then(|request| request.seam.clone());
        let proven = proof.as_ref().map_or(0, |proof| proof.until);
        if proven != ticket.have {
            return Err(mismatch(format!("{} received, {proven} proven", ticket.have)));
        }
        let slot = self.groups.slot(self.client, token);
        let resumed = match resume(self.address, &state, proof).await {
            Err(JoinError::Refused(why)) if state.running.transfer == Transfer::Up => {
                // Its control connection, which comes here as well, does not wait for it.
                slot.tell(DataNews::Failed);
                self.groups.keep(slot);
                return Err(JoinError::Refused(why).into());
            }
            resumed => resumed?,
        };
        let data = Data::new(self.address, slot, self.groups, mint).resumed(state, resumed);
        let at = StartAt { up: ticket.covers, down: ticket.have };
        Ok((Service::FtpData(Box::new(data)), at))
    }
}

/// The login of a control connection that comes over.
async fn log_in(
    address: SocketAddr,
    state: &ControlState,
) -> Result<Option<tokio::net::TcpStream>, Denial> {
    if state.over {
        return Ok(None);
    }
    let connection = Connection::log_in(address, &state.login.steps()).await?;
    Ok(Some(connection.into_stream()))
}
