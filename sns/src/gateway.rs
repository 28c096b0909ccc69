//! The gateway (STP 1, 2): who somebody is, which servers have what, and the ticket for them.
//!
//! A log-in is a challenge and a signature over it; the password is never here. Whether a user
//! exists cannot be told from outside: unknown names get a challenge that is always the same for
//! the name, and their proofs are checked against a key that nobody has. Failed attempts are
//! counted per name and per network, for unknown names as well.

use std::net::IpAddr;
use std::sync::atomic::Ordering;
use std::time::Instant;

use aws_lc_rs::hmac;
use stp_lookup::{Keys, Verifier};
use stp_net::seal;
use stp_proto::lookup::{
    Body, Challenge, Grant, GrantFor, KdfCost, Locate, Located, Login, Prove, Refusal, Server,
    Welcome, login_statement,
};
use stp_proto::name::Name;

use crate::config::Limits;
use crate::limit::{Limiter, Rate, network};
use crate::sns::{Caller, Sns, too_many, unix_now};
use crate::tables::{Held, HeldFile};

/// A challenge that waits for its proof.
#[derive(Debug)]
pub struct Pending {
    user: String,
    nonce: [u8; 32],
    verifier: Verifier,
    real: bool,
}

/// Failed attempts: per name and network, per name, per network.
#[derive(Debug)]
pub struct Attempts {
    both: Limiter<(String, IpAddr)>,
    user: Limiter<String>,
    network: Limiter<IpAddr>,
}

impl Attempts {
    /// Limits as configured.
    #[must_use]
    pub fn new(limits: &Limits) -> Attempts {
        let Rate { per_s, burst } = limits.attempts;
        Attempts {
            both: Limiter::new(Rate { per_s, burst }),
            // From many networks at once somebody gets a few more, and from one for many names.
            user: Limiter::new(Rate { per_s: per_s * 10.0, burst: burst * 10.0 }),
            network: Limiter::new(Rate { per_s: per_s * 10.0, burst: burst * 10.0 }),
        }
    }

    fn begin(&self, user: &str, from: IpAddr) -> Result<(), std::time::Duration> {
        let (from, now) = (network(from), Instant::now());
        self.both.take((user.to_owned(), from), 1.0, now)?;
        self.user.take(user.to_owned(), 1.0, now)?;
        self.network.take(from, 1.0, now)
    }

    fn succeeded(&self, user: &str, from: IpAddr) {
        let from = network(from);
        self.both.give(&(user.to_owned(), from), 1.0);
        self.user.give(&user.to_owned(), 1.0);
        self.network.give(&from, 1.0);
    }
}

/// What was found for a client.
struct Hit {
    service: Name,
    path: Option<stp_proto::lookup::FilePath>,
    file: HeldFile,
    servers: Vec<Server>,
}

impl Sns {
    /// The challenge for a user, known or not.
    pub fn login(&self, login: &Login) -> (Body, Pending) {
        let known = self.tables.read(|held| {
            let user = held.users.get(login.user.as_str());
            (user.and_then(|user| user.value.verifier()), held.guise)
        });
        let (known, guise) = known;
        // Made for known users as well, so that both take as long.
        self.counters.disguised.fetch_add(1, Ordering::Relaxed);
        let nobody = disguise(guise.unwrap_or_default(), &login.user);
        let real = known.is_some();
        let verifier = known.unwrap_or(nobody);
        let nonce = stp_lookup::password::random();
        let challenge = Challenge { nonce, salt: verifier.salt, cost: verifier.cost };
        let pending = Pending { user: login.user.clone(), nonce, verifier, real };
        (Body::Challenge(challenge), pending)
    }

    /// Checks the proof. Gives the user if it is right.
    pub fn prove(
        &self,
        caller: &Caller,
        pending: &Pending,
        prove: &Prove,
    ) -> (Body, Option<String>) {
        let user = &pending.user;
        if let Err(wait) = self.attempts.begin(user, caller.address) {
            tracing::warn!(user, from = %caller.address, "too many failed log-ins");
            return (too_many(wait, "too many failed attempts to log in"), None);
        }
        let statement = login_statement(&pending.nonce, &self.key.0, &caller.key.0, user);
        self.counters.checked.fetch_add(1, Ordering::Relaxed);
        let right = pending.verifier.accepts(&statement, &prove.signature);
        if right && pending.real {
            self.attempts.succeeded(user, caller.address);
            tracing::info!(user, from = %caller.address, client = %caller.key, "logged in");
            let cluster = self.cluster.name().to_owned();
            return (Body::Welcome(Welcome { now: unix_now(), cluster }), Some(user.clone()));
        }
        tracing::warn!(user, from = %caller.address, "log-in refused");
        let text = "user and password do not fit";
        (Body::refused(Refusal::LoginRefused, text), None)
    }

    /// Which servers have it, and a ticket for them.
    #[must_use]
    pub fn locate(&self, caller: &Caller, locate: &Locate) -> Body {
        let Some(user) = &caller.user else {
            return Body::refused(Refusal::NotLoggedIn, "tickets are for users who are logged in");
        };
        match self.tables.read(|held| self.find(held, caller, user, locate)) {
            Ok((found, list_key)) => self.located(caller, user, locate.from, &found, &list_key),
            Err((why, text)) => Body::refused(why, text),
        }
    }

    fn find(
        &self,
        held: &Held,
        caller: &Caller,
        user: &str,
        locate: &Locate,
    ) -> Result<(Hit, [u8; 32]), (Refusal, String)> {
        let known = held
            .users
            .get(user)
            .and_then(|known| Some((known.value.verifier()?.list, known.value.tree.clone())));
        let Some((list_key, tree)) = known else {
            return Err((Refusal::NotLoggedIn, "this user does not exist any more".into()));
        };
        let Some(path) = &locate.path else {
            let service = locate.service.clone().expect("a request without both is refused");
            return self.find_service_for(held, caller, service).map(|found| (found, list_key));
        };
        let full = path.below(&tree);
        let full = full.ok_or((Refusal::BadRequest, "the path is too long".to_owned()))?;
        let Some(holders) = held.holders(locate.service.as_ref(), full.as_str()) else {
            let known = held.is_known(locate.service.as_ref(), full.as_str());
            let (why, text) = match known {
                true => (Refusal::NoServer, "the servers that have it are not there now"),
                false => (Refusal::NotFound, "no server has it"),
            };
            return Err((why, format!("{}: {text}", path.as_str())));
        };
        let servers = self.ranked(held, &holders.servers, caller.address);
        if servers.is_empty() {
            let text = format!("{}: the servers that have it are not there now", path.as_str());
            return Err((Refusal::NoServer, text));
        }
        let (service, file) = (holders.service, holders.file);
        Ok((Hit { service, path: Some(full), file, servers }, list_key))
    }

    /// A service as a whole: the servers that announce it, and its endpoint's own place.
    fn find_service_for(
        &self,
        held: &Held,
        caller: &Caller,
        service: Name,
    ) -> Result<Hit, (Refusal, String)> {
        let offered = held.offered.get(service.as_str()).cloned().unwrap_or_default();
        let mut servers = self.ranked(held, &offered, caller.address);
        let own =
            held.services.get(format!("{}/{}", service.endpoint(), service.service()).as_str());
        if !held.clustered.contains(service.as_str())
            && let (Some(own), Some(endpoint)) = (own, held.endpoints.get(service.endpoint()))
            && self.endpoint_is_alive(service.endpoint(), endpoint.value.lease_s)
        {
            let place = |address: &IpAddr| (*address, own.value.port).into();
            let addresses: Vec<_> = endpoint.value.addresses.iter().map(place).collect();
            servers.push(Server {
                name: service.endpoint().to_owned(),
                addresses: addresses.into(),
                key: own.value.key.0,
                hops: stp_proto::lookup::UNKNOWN_HOPS,
            });
        }
        if servers.is_empty() {
            let known = held
                .servers
                .values()
                .any(|server| server.value.services.iter().any(|one| one == service.as_str()));
            let why = if known { Refusal::NoServer } else { Refusal::NotFound };
            let text = format!("{service}: no server is there for it");
            return Err((why, text));
        }
        let file = HeldFile { size: 0, sha256: [0; 32] };
        Ok(Hit { service, path: None, file, servers })
    }

    fn located(
        &self,
        caller: &Caller,
        user: &str,
        from: u64,
        found: &Hit,
        list_key: &[u8; 32],
    ) -> Body {
        let tickets = &self.config.tickets;
        let what = GrantFor {
            audience: self.cluster.name(),
            user,
            service: found.service.as_str(),
            path: found.path.as_ref().map(|path| (path, from)),
            client: &caller.key.0,
            address: tickets.bind_address.then(|| caller.address.to_canonical()),
        };
        let life_s = u32::try_from(tickets.life.as_secs()).unwrap_or(u32::MAX);
        let id = stp_lookup::password::random();
        let grant = Grant::new(&what, id, (unix_now(), life_s.into()));
        let ticket = seal::seal(&self.cluster.key(), &grant.encode(), &caller.key);
        let list = found.servers.clone().into();
        let Some(servers) = stp_lookup::sealed::seal(list_key, &ticket, &list) else {
            return Body::refused(Refusal::Full, "the list of servers is too long");
        };
        tracing::info!(
            user, service = %found.service, path = found.path.as_ref().map(|path| path.as_str()),
            servers = found.servers.len(), ticket = grant.id, "located"
        );
        Body::Located(Located {
            service: found.service.clone(),
            path: found.path.clone(),
            size: found.file.size,
            sha256: found.file.sha256,
            ticket,
            life_s,
            servers,
        })
    }
}

/// What an unknown user looks like: always the same for the same name.
fn disguise(secret: [u8; 32], user: &str) -> Verifier {
    let key = hmac::Key::new(hmac::HMAC_SHA256, &secret);
    let of = |purpose: &[u8]| -> [u8; 32] {
        let mut context = hmac::Context::with_key(&key);
        context.update(purpose);
        context.update(user.as_bytes());
        context.sign().as_ref().try_into().expect("HMAC-SHA256 gives 32 bytes")
    };
    let salt = of(b"salt ");
    let keys = Keys::from_root(of(b"keys "));
    Verifier {
        salt: salt[..16].try_into().expect("half of it"),
        cost: KdfCost::default(),
        proof: keys.proof_key(),
        list: [0; 32],
    }
}
