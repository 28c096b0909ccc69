//! An endpoint is known at the Session Name Server of its domain, where it is and for as long as
//! its broker says that it lives (KTH 3.2.2, use cases 7 and 8).

use std::net::IpAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use serde_json::{Value, json};
use stp_lookup::{AskError, Connection, own_names};
use stp_proto::lookup::{Ask, EndpointName, OneEndpoint, Refusal};
use tokio::sync::watch;

use crate::lookup::Directory;

/// For how long it is known without a word from here, in seconds.
const LEASE_S: u32 = 300;
/// From one attempt to reach the name server to the next.
const AGAIN: Duration = Duration::from_secs(10);

/// How an endpoint is known at its name server.
#[derive(Clone, Debug, Default)]
struct Known {
    /// Where it is said to be.
    at: Option<IpAddr>,
    /// For how long, in seconds, as the name server allows it; 0: for good.
    lease_s: u32,
    /// Why it is not known, if it should be.
    why: Option<String>,
}

/// An endpoint, as its name server is to know it.
pub(super) struct Registration {
    name: EndpointName,
    directory: Arc<Directory>,
    known: Mutex<Known>,
    /// Two who make it known at once would meet each other's name.
    turn: tokio::sync::Mutex<()>,
}

/// Why it is not known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Unknown {
    /// In words.
    pub(super) why: String,
    /// The name server does not want this key to have the name: asking again does not help.
    pub(super) refused: bool,
}

impl Unknown {
    fn unasked(why: String) -> Unknown {
        Unknown { why, refused: false }
    }

    fn of(name: &EndpointName, error: &AskError) -> Unknown {
        let AskError::Refused(said) = error else { return Unknown::unasked(error.to_string()) };
        match said.why {
            Refusal::Exists | Refusal::NotOwner => {
                let why = format!("{name} is taken: at its name server it belongs to another key");
                Unknown { why, refused: true }
            }
            Refusal::NotAllowed => {
                let text = &said.text;
                let why = format!("the name server does not let this key make {name}: {text}");
                Unknown { why, refused: true }
            }
            _ => Unknown::unasked(error.to_string()),
        }
    }
}

impl Registration {
    pub(super) fn new(name: EndpointName, directory: Arc<Directory>) -> Arc<Registration> {
        Arc::new(Registration {
            name,
            directory,
            known: Mutex::default(),
            turn: Default::default(),
        })
    }

    pub(super) fn json(&self) -> Value {
        let Known { at, why, .. } = self.known.lock().clone();
        json!({ "at": at.map(|at| at.to_string()), "why": why })
    }

    pub(super) fn trouble(&self) -> Option<String> {
        self.known.lock().why.clone()
    }

    /// The link to the name server of its domain; nothing if the configuration names none.
    async fn name_server(&self) -> Result<Option<Connection>, Unknown> {
        let domain = self.name.domain();
        if !self.directory.has_server_of(domain) {
            return Ok(None);
        }
        let connection = self.directory.of_domain(domain).await;
        connection.map(Some).map_err(|lacking| Unknown::unasked(lacking.why))
    }

    /// Says that it is here: moves it, or makes it if it is not there. False if no name server is
    /// configured for its domain.
    ///
    /// # Errors
    /// Says why not.
    pub(super) async fn register(&self) -> Result<bool, Unknown> {
        let _one_at_a_time = self.turn.lock().await;
        let Some(connection) = self.name_server().await? else { return Ok(false) };
        let at = connection.local_address().ip().to_canonical();
        let asked = own_names::make_or_move(&connection, &self.name, vec![at], LEASE_S).await;
        let lease_s = asked.map_err(|error| Unknown::of(&self.name, &error))?;
        *self.known.lock() = Known { at: Some(at), lease_s, why: None };
        tracing::info!(endpoint = %self.name, %at, "is known at its name server");
        Ok(true)
    }

    /// Says that it is gone, and with it its services.
    ///
    /// # Errors
    /// Says why not. One that is not known there is gone.
    pub(super) async fn withdraw(&self) -> Result<(), Unknown> {
        let Some(connection) = self.name_server().await? else { return Ok(()) };
        let name = self.name.clone();
        match connection.ask(Ask::DeleteEndpoint(OneEndpoint { name })).await {
            Ok(_) => Ok(()),
            Err(AskError::Refused(refused)) if refused.why == Refusal::NotFound => Ok(()),
            Err(error) => Err(Unknown::of(&self.name, &error)),
        }
    }

    /// A third of its lease, which the name server may have made shorter than what was asked for.
    fn renewed_after(&self) -> Duration {
        let lease_s = match self.known.lock().lease_s {
            0 => LEASE_S,
            lease_s => lease_s,
        };
        Duration::from_secs(lease_s.into()) / 3
    }

    /// Its lease begins anew; false if it has to be registered again.
    async fn renew(&self) -> Result<bool, Unknown> {
        let Some(connection) = self.name_server().await? else { return Ok(true) };
        let at = Some(connection.local_address().ip().to_canonical());
        if self.known.lock().at != at {
            return Ok(false);
        }
        let renewed = own_names::renew(&connection, &self.name).await;
        renewed.map_err(|error| Unknown::of(&self.name, &error))
    }
}

/// Sees to it that the endpoint is known for as long as it is here.
pub(super) fn begin(registration: &Arc<Registration>) {
    let network = registration.directory.changes();
    tokio::spawn(look_after(Arc::downgrade(registration), network));
}

async fn look_after(weak: Weak<Registration>, mut network: watch::Receiver<u64>) {
    let mut known = false;
    loop {
        let Some(registration) = weak.upgrade() else { return };
        let done = match known {
            true => registration.renew().await,
            false => registration.register().await.map(|_| true),
        };
        let pause = match &done {
            Ok(true) => registration.renewed_after(),
            Ok(false) => Duration::ZERO,
            Err(_) => AGAIN,
        };
        known = done == Ok(true);
        if let Err(Unknown { why, .. }) = done {
            let is_news = Some(&why) != registration.known.lock().why.as_ref();
            if is_news {
                let endpoint = &registration.name;
                tracing::warn!(%endpoint, "is not known at its name server: {why}");
            }
            *registration.known.lock() = Known { why: Some(why), ..Known::default() };
        }
        drop(registration);
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            gone = network.changed() => if gone.is_err() { return },
        }
    }
}
