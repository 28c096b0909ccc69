//! Streams to whatever destination an app names, for a service of kind `egress` (R110-R112).
//!
//! A name is resolved here, so that the names of this machine's network mean what they mean there.
//! Each address that comes of it is decided on, and exactly those that are allowed are dialled: a
//! name that leads elsewhere a moment later changes nothing. The rest of a response is asked for at
//! a place that was resolved and decided on anew.

use std::collections::BTreeSet;
use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use stp_net::admission::{Share as Place, Shares};
use stp_net::key::PublicKey;
use stp_net::limit::{Limiter, Rate};
use stp_net::link::{Lost, race};
use stp_net::paths;
use stp_net::place;
use stp_proto::egress::{Asked, Refusal, Rules, Share, Spent};
use stp_proto::pattern::host_name;
use stp_proto::wire::Destination;
use tokio::net::TcpStream;

use super::dial::connect_to;

/// A name that nobody has resolved in this time leads nowhere.
const RESOLVE_MAX: Duration = Duration::from_secs(10);
/// A client's new sessions are counted over this time.
const RATE_OVER: Duration = Duration::from_secs(10);

/// Why a client is not led anywhere.
#[derive(Debug, thiserror::Error)]
pub enum NotLed {
    /// It is not listed.
    #[error("{0} is not among the clients of this egress")]
    Stranger(PublicKey),
    /// It does not say where to.
    #[error("an egress wants to know the destination; this broker is of an old version")]
    NoDestination,
    /// What it says is no host.
    #[error("{0}")]
    NoHost(String),
    /// It has all that it may have.
    #[error("{0}")]
    Spent(Spent),
}

/// A service of kind `egress`: who may go where.
pub struct Egress {
    /// Who may use it.
    pub clients: BTreeSet<PublicKey>,
    /// Who may reach this machine itself through it.
    pub owners: BTreeSet<PublicKey>,
    /// Where to.
    pub rules: Rules,
    /// Ports at which HTTP is spoken: responses are continued by another egress.
    pub http: BTreeSet<u16>,
    /// How much one client may have.
    pub share: Share,
    places: Arc<Shares<PublicKey>>,
    begun: Limiter<PublicKey>,
}

impl fmt::Debug for Egress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Egress").field("rules", &self.rules).finish_non_exhaustive()
    }
}

impl Egress {
    /// An egress for these clients, of whom `owners` may reach this machine itself.
    #[must_use]
    pub fn new(
        (clients, owners): (BTreeSet<PublicKey>, BTreeSet<PublicKey>),
        rules: Rules,
        http: BTreeSet<u16>,
        share: Share,
    ) -> Egress {
        let rate = Rate { per_s: share.rate, burst: share.rate * RATE_OVER.as_secs_f64() };
        let (places, begun) = (Shares::new(usize::MAX), Limiter::new(rate));
        Egress { clients, owners, rules, http, share, places, begun }
    }

    /// The way of this client to where it wants.
    ///
    /// # Errors
    /// When it may not use this egress, has all that it may have, or says nothing of use.
    pub fn toward(
        self: &Arc<Self>,
        client: PublicKey,
        destination: Option<Destination<'_>>,
    ) -> Result<Toward, NotLed> {
        self.admit(client)?;
        let Destination { host, port } = destination.ok_or(NotLed::NoDestination)?;
        let host = match host.parse::<IpAddr>() {
            Ok(ip) => Host::Address(ip),
            Err(_) => Host::Name(host_name(host).map_err(NotLed::NoHost)?),
        };
        let begun = self.begun.take(&client, 1.0, Instant::now());
        begun.map_err(|_| NotLed::Spent(Spent::Rate(self.share.rate)))?;
        let place = self.places.take(client, self.share.sessions);
        let place = place.ok_or(NotLed::Spent(Spent::Sessions(self.share.sessions)))?;
        Ok(self.way(client, host, port, place))
    }

    /// The way of a session that the process before this one led to this peer: it stays, and
    /// counts, unless its client may not use this egress any more.
    ///
    /// # Errors
    /// As [`Self::toward`].
    pub fn again(self: &Arc<Self>, client: PublicKey, peer: SocketAddr) -> Result<Toward, NotLed> {
        self.admit(client)?;
        let place = self.places.take(client, usize::MAX).expect("there is room for all");
        Ok(self.way(client, Host::Address(peer.ip()), peer.port(), place))
    }

    fn admit(&self, client: PublicKey) -> Result<(), NotLed> {
        let listed = self.clients.contains(&client) || self.owners.contains(&client);
        listed.then_some(()).ok_or(NotLed::Stranger(client))
    }

    fn way(
        self: &Arc<Self>,
        client: PublicKey,
        host: Host,
        port: u16,
        place: Place<PublicKey>,
    ) -> Toward {
        let is_owner = self.owners.contains(&client);
        Toward(Arc::new(Way { egress: Arc::clone(self), host, port, is_owner, _place: place }))
    }

    /// Whether HTTP is spoken where this way leads.
    #[must_use]
    pub fn speaks_http(&self, toward: &Toward) -> bool {
        self.http.contains(&toward.0.port)
    }
}

/// Where a session's streams go.
#[derive(Debug, Clone)]
pub struct Toward(Arc<Way>);

#[derive(Debug)]
struct Way {
    egress: Arc<Egress>,
    host: Host,
    port: u16,
    is_owner: bool,
    /// The session counts as long as anything of it may ask for a stream.
    _place: Place<PublicKey>,
}

#[derive(Debug)]
enum Host {
    Name(String),
    Address(IpAddr),
}

impl fmt::Display for Toward {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let port = self.0.port;
        match &self.0.host {
            Host::Name(name) => write!(f, "{name}:{port}"),
            Host::Address(ip) => SocketAddr::new(*ip, port).fmt(f),
        }
    }
}

impl Toward {
    /// A stream there.
    ///
    /// # Errors
    /// The refusal, if no address may be reached; what the network says otherwise.
    pub async fn connect(&self) -> io::Result<TcpStream> {
        let addresses = self.allowed().await?;
        let known = addresses.into_iter().map(place::Place::from).collect();
        let attempt = |at: place::Place| async move {
            match at.address() {
                Some(address) => connect_to(address).await,
                None => Err(ErrorKind::AddrNotAvailable.into()),
            }
        };
        let nothing = async { Ok(Vec::new()) };
        race(known, nothing, attempt, |_| false).await.map_err(|lost| match lost {
            Lost::NoPlace(error) | Lost::Failed(error) => error,
        })
    }

    /// Its addresses, as far as they may be reached.
    async fn allowed(&self) -> io::Result<Vec<SocketAddr>> {
        let (mut allowed, mut refused) = (Vec::new(), None);
        for address in self.addresses().await? {
            match self.decide(address.ip()) {
                Ok(()) => allowed.push(address),
                Err(refusal) => refused = refused.or(Some(refusal)),
            }
        }
        match refused {
            Some(refusal) if allowed.is_empty() => {
                Err(io::Error::new(ErrorKind::PermissionDenied, refusal))
            }
            _ => Ok(allowed),
        }
    }

    async fn addresses(&self) -> io::Result<Vec<SocketAddr>> {
        let name = match &self.0.host {
            Host::Address(ip) => return Ok(vec![SocketAddr::new(*ip, self.0.port)]),
            Host::Name(name) => name.clone(),
        };
        let nowhere = |why: String| {
            io::Error::new(ErrorKind::HostUnreachable, format!("{name} has no address here: {why}"))
        };
        let place = place::Place { host: name.clone(), port: self.0.port };
        match tokio::time::timeout(RESOLVE_MAX, place.resolve()).await {
            Ok(Ok(found)) => Ok(found),
            Ok(Err(error)) => Err(nowhere(error.to_string())),
            Err(_) => Err(nowhere("its name server does not answer".to_owned())),
        }
    }

    fn decide(&self, address: IpAddr) -> Result<(), Refusal> {
        let Way { egress, host, port, is_owner, .. } = &*self.0;
        let name = match host {
            Host::Name(name) => Some(name.as_str()),
            Host::Address(_) => None,
        };
        let is_here = paths::is_here(address);
        egress.rules.decide(&Asked { name, address, port: *port, is_here, is_owner: *is_owner })
    }
}
