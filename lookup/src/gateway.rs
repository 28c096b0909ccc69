//! Logging in at a gateway and locating files and services through it (STP 1, 2).

use std::net::SocketAddr;
use std::time::Duration;

use stp_net::key::PublicKey;
use stp_net::link::{DialError, LinkOptions, Tls};
use stp_proto::lookup::{
    Ask, Body, Challenge, FilePath, List, Locate, Login, Prove, Server, login_statement,
};
use stp_proto::name::Name;

use crate::address::DirectoryAddress;
use crate::connection::{AskError, Connection};
use crate::credential::Credential;
use crate::password::{Keys, PasswordError};
use crate::sealed;

/// A link on which the gateway knows the user.
#[derive(Clone, Debug)]
pub struct Gateway {
    connection: Connection,
    keys: Keys,
    cluster: String,
    /// The gateway's clock minus ours, in seconds.
    skew_s: i64,
}

/// Servers and a ticket for them.
#[derive(Clone, Debug)]
pub struct Referral {
    /// The service.
    pub service: Name,
    /// The file, in the service's tree.
    pub path: Option<FilePath>,
    /// Its length.
    pub size: u64,
    /// SHA-256 of its content.
    pub sha256: [u8; 32],
    /// The ticket.
    pub ticket: Vec<u8>,
    /// How long it is good for.
    pub life: Duration,
    /// The servers, nearest first.
    pub servers: List<Server>,
}

/// Why nobody is logged in.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    /// The gateway's name has no address.
    #[error("{place}: {source}")]
    Resolve {
        /// The gateway.
        place: DirectoryAddress,
        /// What the system said.
        source: std::io::Error,
    },
    /// The gateway cannot be reached.
    #[error(transparent)]
    Dial(#[from] DialError),
    /// It says no.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The password cannot be used.
    #[error(transparent)]
    Password(#[from] PasswordError),
}

/// Connects to the first address of a place that answers with the right key.
pub async fn connect(
    place: &DirectoryAddress,
    key: &PublicKey,
    tls: &Tls,
    options: &LinkOptions,
) -> Result<Connection, LoginError> {
    let addresses = place
        .resolve()
        .await
        .map_err(|source| LoginError::Resolve { place: place.clone(), source })?;
    connect_any(&addresses, key, tls, options).await
}

/// Connects to the first of some addresses that answers with the right key.
pub async fn connect_any(
    addresses: &[SocketAddr],
    key: &PublicKey,
    tls: &Tls,
    options: &LinkOptions,
) -> Result<Connection, LoginError> {
    let mut last = None;
    for address in addresses {
        match Connection::open(*address, key, tls, options).await {
            Ok(connection) => return Ok(connection),
            Err(error) => last = Some(error),
        }
    }
    let none = AskError::Lost("no address".to_owned());
    Err(last.map_or(LoginError::Ask(none), LoginError::Dial))
}

fn unexpected(body: &Body) -> AskError {
    AskError::Misbehaved(format!("unexpected answer {}", kind(body)))
}

fn kind(body: &Body) -> &'static str {
    match body {
        Body::Refused(_) => "refused",
        Body::Done(_) => "done",
        Body::Created(_) => "created",
        Body::Endpoint(_) => "endpoint",
        Body::Service(_) => "service",
        Body::Changed(_) => "changed",
        Body::Announced(_) => "announced",
        Body::Challenge(_) => "challenge",
        Body::Welcome(_) => "welcome",
        Body::Located(_) => "located",
    }
}

async fn challenge(connection: &Connection, user: &str) -> Result<Challenge, AskError> {
    match connection.ask(Ask::Login(Login { user: user.to_owned() })).await? {
        Body::Challenge(challenge) => Ok(challenge),
        other => Err(unexpected(&other)),
    }
}

impl Gateway {
    /// Logs in with what was derived before.
    pub async fn login(
        connection: Connection,
        credential: &Credential,
        now: u64,
    ) -> Result<Gateway, LoginError> {
        let challenge = challenge(&connection, &credential.user).await?;
        let gateway =
            Gateway::prove(connection, &credential.user, &credential.keys, &challenge, now);
        Ok(gateway.await?)
    }

    /// Logs in with a password; gives what was derived from it, for the credential.
    pub async fn login_with_password(
        connection: Connection,
        user: &str,
        password: String,
        now: u64,
    ) -> Result<(Gateway, Keys), LoginError> {
        let challenge = challenge(&connection, user).await?;
        let (salt, cost) = (challenge.salt, challenge.cost);
        let derived =
            tokio::task::spawn_blocking(move || Keys::derive(&password, &salt, cost)).await;
        let keys = derived.map_err(|error| PasswordError::Argon2(error.to_string()))??;
        let gateway = Gateway::prove(connection, user, &keys, &challenge, now).await?;
        Ok((gateway, keys))
    }

    async fn prove(
        connection: Connection,
        user: &str,
        keys: &Keys,
        challenge: &Challenge,
        now: u64,
    ) -> Result<Gateway, AskError> {
        let (gateway, client) = (connection.directory_key().0, connection.our_key().0);
        let statement = login_statement(&challenge.nonce, &gateway, &client, user);
        let signature = keys.prove(&statement);
        match connection.ask(Ask::Prove(Prove { signature })).await? {
            Body::Welcome(welcome) => Ok(Gateway {
                connection,
                keys: keys.clone(),
                cluster: welcome.cluster,
                skew_s: welcome.now.cast_signed().wrapping_sub(now.cast_signed()),
            }),
            other => Err(unexpected(&other)),
        }
    }

    /// The link itself.
    #[must_use]
    pub fn connection(&self) -> &Connection {
        &self.connection
    }

    /// The cluster whose servers its tickets open.
    #[must_use]
    pub fn cluster(&self) -> &str {
        &self.cluster
    }

    /// The gateway's clock minus ours, in seconds.
    #[must_use]
    pub fn skew_s(&self) -> i64 {
        self.skew_s
    }

    /// Which servers have it, nearest first, and a ticket for them.
    pub async fn locate(
        &self,
        service: Option<Name>,
        path: Option<FilePath>,
        from: u64,
    ) -> Result<Referral, AskError> {
        let ask = Ask::Locate(Locate { service, path, from });
        let located = match self.connection.ask(ask).await? {
            Body::Located(located) => located,
            other => return Err(unexpected(&other)),
        };
        let servers = sealed::open(&self.keys.list_key(), &located.ticket, &located.servers)
            .map_err(|error| AskError::Misbehaved(error.to_string()))?;
        Ok(Referral {
            service: located.service,
            path: located.path,
            size: located.size,
            sha256: located.sha256,
            ticket: located.ticket,
            life: Duration::from_secs(located.life_s.into()),
            servers,
        })
    }
}
