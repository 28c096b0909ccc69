//! Services by names of one's own (KTH 3.2.2, use cases 7 to 11): a server's key makes the endpoint
//! at the name server, or moves it here, and offers the services there. Nobody has to list the
//! server. Names belong to the key, so a server that moves keeps them, also with another
//! address, and brokers that watch a name dial the new one.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use stp_net::key::PublicKey;
use stp_proto::lookup::{
    Ask, Body, ChangeEndpoint, ChangeService, EndpointName, NewEndpoint, NewService, OneEndpoint,
    OneService, Protocol, Refusal,
};
use stp_proto::name::Name;

use crate::connection::{AskError, Connection};

/// For how long the names are known without a word from here, in seconds.
const LEASE_S: u32 = 60;
/// Attempts to take a name back while something else is done with it, and the pause between them.
const TRIES_MAX: u32 = 5;
const CONFLICT_PAUSE: Duration = Duration::from_millis(100);

/// The names of a server's services, and what is said of them.
#[derive(Debug)]
pub struct OwnNames {
    endpoints: BTreeMap<EndpointName, Vec<Name>>,
    /// Where it listens; unspecified addresses stand for the one that the name server is reached
    /// from.
    at: Vec<SocketAddr>,
    key: PublicKey,
}

/// Whether it is there, or was not.
fn if_found(answer: Result<Body, AskError>) -> Result<bool, AskError> {
    match answer {
        Ok(_) => Ok(true),
        Err(AskError::Refused(refused)) if refused.why == Refusal::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Says that an endpoint is at these addresses: moves it, or makes it if it is not there, for
/// `lease_s` seconds. Gives its lease, in seconds, which the name server may make shorter; 0: for
/// good.
///
/// # Errors
/// When the name server cannot be reached, or refuses.
pub async fn make_or_move(
    connection: &Connection,
    name: &EndpointName,
    addresses: Vec<IpAddr>,
    lease_s: u32,
) -> Result<u32, AskError> {
    let moved = ChangeEndpoint { name: name.clone(), addresses: addresses.clone().into() };
    let name = name.clone();
    // Both say for how long it is known.
    let ask = match if_found(connection.ask(Ask::ChangeEndpoint(moved)).await)? {
        true => Ask::Renew(OneEndpoint { name }),
        false => Ask::NewEndpoint(NewEndpoint { name, addresses: addresses.into(), lease_s }),
    };
    match connection.ask(ask).await? {
        Body::Created(made) => Ok(made.lease_s),
        _ => Err(AskError::Misbehaved("an unexpected answer".to_owned())),
    }
}

/// The lease of an endpoint begins anew; false if it is not there any more.
///
/// # Errors
/// As for [`make_or_move`].
pub async fn renew(connection: &Connection, name: &EndpointName) -> Result<bool, AskError> {
    if_found(connection.ask(Ask::Renew(OneEndpoint { name: name.clone() })).await)
}

impl OwnNames {
    /// For these services, at a server of this key.
    #[must_use]
    pub fn new(services: &[Name], at: &[SocketAddr], key: PublicKey) -> OwnNames {
        let mut endpoints: BTreeMap<EndpointName, Vec<Name>> = BTreeMap::new();
        for service in services {
            endpoints.entry(EndpointName::of(service)).or_default().push(service.clone());
        }
        OwnNames { endpoints, at: at.to_vec(), key }
    }

    /// Keeps the names known over one link, until that is lost or the name server refuses. `told`
    /// is called whenever all of them are known.
    ///
    /// # Errors
    /// Why they are not known any more; a name that belongs to somebody else is
    /// [`Refusal::NotOwner`].
    pub async fn keep(
        &self,
        connection: &Connection,
        mut told: impl FnMut(),
    ) -> Result<Infallible, AskError> {
        let mut lease_s = self.offer(connection).await?;
        loop {
            told();
            tokio::time::sleep(Duration::from_secs(u64::from(lease_s.max(2))) / 3).await;
            for endpoint in self.endpoints.keys() {
                if !renew(connection, endpoint).await? {
                    lease_s = self.offer(connection).await?;
                }
            }
        }
    }

    /// Makes or moves all of them. Gives the lease, in seconds.
    ///
    /// # Errors
    /// When the name server cannot be reached, or refuses.
    pub async fn offer(&self, connection: &Connection) -> Result<u32, AskError> {
        let mut lease_s = LEASE_S;
        let addresses = self.addresses(connection.local_address().ip());
        for (endpoint, services) in &self.endpoints {
            match make_or_move(connection, endpoint, addresses.clone(), LEASE_S).await? {
                0 => {}
                granted => lease_s = lease_s.min(granted),
            }
            for service in services {
                self.offer_one(connection, service).await?;
            }
        }
        Ok(lease_s)
    }

    async fn offer_one(&self, connection: &Connection, service: &Name) -> Result<(), AskError> {
        let port = self.at.first().map_or(0, SocketAddr::port);
        let (protocol, key) = (Protocol::Session, self.key.0);
        let changed = ChangeService { name: service.clone(), port, protocol, key };
        if !if_found(connection.ask(Ask::ChangeService(changed)).await)? {
            let new = NewService { name: service.clone(), port, protocol, key };
            connection.ask(Ask::NewService(new)).await?;
        }
        Ok(())
    }

    fn addresses(&self, local: IpAddr) -> Vec<IpAddr> {
        let here = |at: &SocketAddr| match at.ip() {
            ip if ip.is_unspecified() => local.to_canonical(),
            ip => ip,
        };
        let mut addresses: Vec<IpAddr> = self.at.iter().map(here).collect();
        addresses.dedup();
        addresses
    }

    /// Takes the services back. The endpoints stay until their leases are over: they may have
    /// services elsewhere.
    pub async fn withdraw(&self, connection: &Connection) {
        for name in self.endpoints.values().flatten() {
            for _ in 0..TRIES_MAX {
                let gone = Ask::DeleteService(OneService { name: name.clone() });
                match connection.ask(gone).await {
                    // The last thing that was said of it is still being written.
                    Err(AskError::Refused(refused)) if refused.retry_after_ms > 0 => {
                        tokio::time::sleep(CONFLICT_PAUSE).await;
                    }
                    Err(error) => {
                        tracing::info!(%name, %error, "not taken back");
                        break;
                    }
                    Ok(_) => break,
                }
            }
        }
    }
}

/// A refusal for the person who wants to have the name.
#[must_use]
pub fn in_words(error: &AskError) -> String {
    match error {
        AskError::Refused(refused) if refused.why == Refusal::NotOwner => {
            format!("the name is taken: {}", refused.text)
        }
        AskError::Refused(refused) if refused.why == Refusal::NotAllowed => {
            let text = &refused.text;
            format!("{text}: whoever runs the name server has to list it (creators)")
        }
        error => error.to_string(),
    }
}
