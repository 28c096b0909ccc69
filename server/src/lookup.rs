//! Announcing this server to the directory, again and again: where it is, what it offers, and
//! which files it holds. What it serves does not depend on it.

use std::convert::Infallible;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use stp_lookup::Connection;
use stp_lookup::connection::AskError;
use stp_lookup::gateway::{self, LoginError};
use stp_lookup::own_names::{OwnNames, in_words};
use stp_net::echo;
use stp_net::link::{LinkOptions, Tls};
use stp_net::paths::{PathWatch, is_here};
use stp_proto::lookup::{Announce, Announced, Ask, Body, Files, LIST_MAX, MESSAGE_MAX, Told};
use stp_proto::name::Name;
use tokio::task::JoinHandle;

use crate::config::{Directory, ServiceConfig};
use crate::inventory::{Inventory, Looker, Root};
use crate::listener::Server;
use crate::service::upstream::Target;
use crate::trouble;

/// The pause before another attempt to reach the directory, at least and at most.
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(15);
/// A link that lasted as long as this was good: the pauses begin anew.
const GOOD_AFTER: Duration = Duration::from_secs(1);
/// A look through the document roots that takes longer is waited for later.
const LOOK_MAX: Duration = Duration::from_millis(500);
/// A server that ends takes its own names back for at most this long.
const WITHDRAW_MAX: Duration = Duration::from_secs(2);
/// Bytes of files in one message, besides its head.
const FILES_BYTES_MAX: usize = MESSAGE_MAX - 1_024;

/// Waits until the machine has lost an address.
async fn gone(network: &mut Option<PathWatch>, address: IpAddr) {
    while let Some(watch) = network {
        match watch.changed().await {
            Ok(()) if is_here(address) => {}
            Ok(()) => return,
            Err(error) => {
                tracing::warn!(%error, "changes of the network cannot be watched any more");
                *network = None;
            }
        }
    }
    std::future::pending::<()>().await;
}

/// A link to the directory, at whichever of its places answers.
async fn connect(directory: &Directory, tls: &Tls) -> Result<Connection, LoginError> {
    let options = LinkOptions { timeout: Duration::from_secs(5), ..LinkOptions::default() };
    let mut last = LoginError::Ask(AskError::Lost("no place".to_owned()));
    for place in &directory.places {
        match gateway::connect(place, &directory.key, tls, &options).await {
            Ok(connection) => return Ok(connection),
            Err(error) => last = error,
        }
    }
    Err(last)
}

fn names(server: &Server) -> Vec<Name> {
    let services = server.config.services.iter();
    services.filter_map(|service| service.name.parse().ok()).collect()
}

fn own_names(server: &Server) -> Option<OwnNames> {
    let directory = server.config.directory.as_ref().filter(|directory| directory.own_names)?;
    Some(OwnNames::new(&names(server), &directory.advertise, server.key))
}

/// The announcing of a server that has a directory.
pub struct Announcing(Option<(JoinHandle<()>, Arc<Server>, Arc<Tls>)>);

impl Announcing {
    /// Begins it.
    #[must_use]
    pub fn begin(server: &Arc<Server>, tls: &Arc<Tls>) -> Announcing {
        Announcing(server.config.directory.as_ref().map(|_| {
            let task = tokio::spawn(announce(Arc::clone(server), Arc::clone(tls)));
            (task, Arc::clone(server), Arc::clone(tls))
        }))
    }

    /// Ends it, and takes names of one's own back. The directory forgets the rest by itself.
    pub async fn end(self) {
        let Some((task, server, tls)) = self.0 else { return };
        task.abort();
        let (Some(directory), Some(names)) = (&server.config.directory, own_names(&server)) else {
            return;
        };
        let taken = async {
            if let Ok(connection) = connect(directory, &tls).await {
                names.withdraw(&connection).await;
            }
        };
        // Otherwise their lease ends.
        let _ = tokio::time::timeout(WITHDRAW_MAX, taken).await;
    }
}

struct Announcer {
    server: Arc<Server>,
    directory: Directory,
    tls: Arc<Tls>,
    looker: Looker,
    inventory: Arc<Inventory>,
    looked: Option<Instant>,
    services: Vec<Name>,
    own_names: Option<OwnNames>,
}

/// Announces the server for ever.
async fn announce(server: Arc<Server>, tls: Arc<Tls>) {
    let Some(directory) = server.config.directory.clone() else { return };
    server.directory.lock().configured = true;
    let services = &server.config.services;
    let root = |service: &ServiceConfig| {
        let Target::Origin(origin) = &service.target else { return None };
        let chains = Arc::clone(origin.chains());
        Some(Root { service: service.name.clone(), folder: service.root.clone()?, chains })
    };
    let is_listed = !directory.own_names;
    let roots: Vec<Root> = services.iter().filter(|_| is_listed).filter_map(root).collect();
    let memory = server.config.key_file.with_extension("inventory");
    let looker = match Looker::start(roots, memory) {
        Ok(looker) => looker,
        Err(error) => return tracing::error!(%error, "no thread for the inventory"),
    };
    let names = names(&server);
    let own_names = own_names(&server);
    let mut announcer = Announcer {
        server,
        directory,
        tls,
        looker,
        inventory: Arc::default(),
        looked: None,
        services: names,
        own_names,
    };
    let mut network = match PathWatch::new() {
        Ok(watch) => Some(watch),
        Err(error) => {
            tracing::warn!(%error, "changes of the network cannot be watched; timers must do");
            None
        }
    };
    let mut wait = RETRY_MIN;
    loop {
        let begun = Instant::now();
        let Err(error) = announcer.run(&mut network).await;
        let text = match &error {
            LoginError::Ask(error) if announcer.own_names.is_some() => in_words(error),
            error => error.to_string(),
        };
        announcer.server.directory.lock().fail(text);
        if begun.elapsed() > GOOD_AFTER {
            wait = RETRY_MIN;
        }
        tokio::time::sleep(wait).await;
        wait = (wait * 2).min(RETRY_MAX);
    }
}

impl Announcer {
    /// Announces over one link until it is lost or refused, or leaves from an address that is gone.
    async fn run(&mut self, network: &mut Option<PathWatch>) -> Result<Infallible, LoginError> {
        let connection = connect(&self.directory, &self.tls).await?;
        let local = connection.local_address();
        let telling = async {
            match &self.own_names {
                Some(names) => names.keep(&connection, || self.is_known(&connection)).await,
                None => self.keep_telling(&connection).await,
            }
        };
        tokio::select! {
            Err(error) = telling => Err(error.into()),
            () = gone(network, local.ip()) => {
                let why = format!("this machine has not {} any more", local.ip());
                Err(AskError::Lost(why).into())
            }
        }
    }

    async fn keep_telling(&mut self, connection: &Connection) -> Result<Infallible, AskError> {
        loop {
            self.look().await;
            let announced = self.tell(connection).await?;
            self.server.revoke(&announced.revoked);
            if announced.files_wanted {
                self.send_files(connection).await?;
                self.tell(connection).await?;
            }
            self.is_known(connection);
            {
                let mut standing = self.server.directory.lock();
                let told = &announced.told;
                let ahead_ms =
                    told.unix_ms.cast_signed().wrapping_sub(echo::unix_ms().cast_signed());
                standing.heard = Some((ahead_ms, told.profile()));
                standing.files = self.inventory.files();
            }
            let lease = Duration::from_secs(announced.lease_s.max(2).into());
            tokio::time::sleep((lease / 3).min(self.directory.look)).await;
        }
    }

    /// It is known at the directory, again or still.
    fn is_known(&self, connection: &Connection) {
        let mut standing = self.server.directory.lock();
        if standing.trouble.take().is_some() || standing.announced.is_none() {
            tracing::info!(directory = %connection.address(), "announced to the directory");
        }
        standing.at = Some(connection.address().to_string());
        standing.announced = Some(Instant::now());
    }

    /// Looks through the document roots from time to time. The first look may take long: until
    /// then the server is there without files.
    async fn look(&mut self) {
        if self.looked.is_some_and(|at| at.elapsed() < self.directory.look) {
            return;
        }
        let patience = if self.looked.is_none() { Duration::from_secs(2) } else { LOOK_MAX };
        if let Ok(Some(found)) = tokio::time::timeout(patience, self.looker.look()).await {
            self.inventory = found;
            self.looked = Some(Instant::now());
        }
    }

    async fn tell(&self, connection: &Connection) -> Result<Announced, AskError> {
        let announce = Ask::Announce(Announce {
            server: self.server.config.name.clone(),
            addresses: self.directory.advertise.clone().into(),
            services: self.services.clone().into(),
            inventory: self.inventory.digest,
            told: Told::new(&trouble::profile(&self.server), echo::unix_ms()),
        });
        match connection.ask(announce).await? {
            Body::Announced(announced) => Ok(announced),
            _ => Err(AskError::Misbehaved("an unexpected answer".to_owned())),
        }
    }

    async fn send_files(&self, connection: &Connection) -> Result<(), AskError> {
        for service in &self.services {
            let none = Vec::new();
            let files = self.inventory.services.get(service.as_str()).unwrap_or(&none);
            let mut rest = files.as_slice();
            let mut first = true;
            loop {
                let mut bytes = 0;
                let fits = rest.iter().take(LIST_MAX).take_while(|file| {
                    bytes += file.path.as_str().len() + 42;
                    bytes <= FILES_BYTES_MAX
                });
                let (part, after) = rest.split_at(fits.count());
                rest = after;
                let ask = Ask::Files(Files {
                    server: self.server.config.name.clone(),
                    service: service.clone(),
                    first,
                    last: rest.is_empty(),
                    inventory: self.inventory.digest,
                    files: part.to_vec().into(),
                });
                connection.ask(ask).await?;
                first = false;
                if rest.is_empty() {
                    break;
                }
            }
        }
        Ok(())
    }
}
