//! The gateway (STP 1, 2): it checks who a user is, tells which servers have a file or a service,
//! and gives the ticket for them.
//!
//! A log-in is a challenge and a signature over it; the gateway never has the password. A client
//! cannot find out whether a user exists: an unknown name gets a challenge that is always the same
//! for that name, and a proof for it is checked against a key that nobody has. Failed attempts are
//! limited ([`crate::attempts`]), for unknown names as well.

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
use stp_proto::scope::Scope;

use crate::sns::{Caller, LoggedIn, Sns, too_many, unix_now};
use crate::tables::{Held, HeldFile};

/// A challenge that waits for its proof.
#[derive(Debug)]
pub struct Pending {
    user: String,
    nonce: [u8; 32],
    verifier: Verifier,
    /// The version of the user's record; `None` if there is no such user.
    version: Option<u64>,
}

/// What was found for a client.
struct Hit {
    service: Name,
    path: Option<stp_proto::lookup::FilePath>,
    /// The part of the service that the ticket is for.
    scope: Option<Scope>,
    file: HeldFile,
    servers: Vec<Server>,
    /// The key that the list of servers is sealed with.
    list_key: [u8; 32],
    /// Tickets of this second and of earlier ones are not valid.
    until: u64,
}

impl Sns {
    /// The challenge for a user, known or not.
    pub fn login(&self, login: &Login) -> (Body, Pending) {
        let known = self.tables.read(|held| {
            let user = held.users.get(login.user.as_str());
            let known = user.and_then(|user| Some((user.value.verifier()?, user.version)));
            (known, held.guise)
        });
        let (known, guise) = known;
        // The disguise is made for known users as well, so that both cases take the same time.
        self.counters.disguised.fetch_add(1, Ordering::Relaxed);
        let nobody = disguise(guise.unwrap_or_default(), &login.user);
        let (verifier, version) = match known {
            Some((verifier, version)) => (verifier, Some(version)),
            None => (nobody, None),
        };
        let nonce = stp_lookup::password::random();
        let challenge = Challenge { nonce, salt: verifier.salt, cost: verifier.cost };
        let pending = Pending { user: login.user.clone(), nonce, verifier, version };
        (Body::Challenge(challenge), pending)
    }

    /// Checks the proof. Returns the user if it is right.
    pub fn prove(
        &self,
        caller: &Caller,
        pending: &Pending,
        prove: &Prove,
    ) -> (Body, Option<LoggedIn>) {
        let user = &pending.user;
        if let Err(wait) = self.attempts.begin(user, (caller.key, caller.address), Instant::now()) {
            tracing::warn!(user, from = %caller.address, "too many failed log-ins");
            return (too_many(wait, "too many failed attempts to log in"), None);
        }
        let statement = login_statement(&pending.nonce, &self.key.0, &caller.key.0, user);
        self.counters.checked.fetch_add(1, Ordering::Relaxed);
        let right = pending.verifier.accepts(&statement, &prove.signature);
        let logged_in = pending.version.map(|version| LoggedIn { name: user.clone(), version });
        let logged_in = logged_in.filter(|one| self.tables.read(|held| one.record(held).is_some()));
        if right && logged_in.is_some() {
            self.attempts.succeeded(user, (caller.key, caller.address));
            tracing::info!(user, from = %caller.address, client = %caller.key, "logged in");
            let cluster = self.cluster.name().to_owned();
            return (Body::Welcome(Welcome { now: unix_now(), cluster }), logged_in);
        }
        tracing::warn!(user, from = %caller.address, "log-in refused");
        let text = "user and password do not fit";
        (Body::refused(Refusal::LoginRefused, text), None)
    }

    /// Answers which servers have a file or a service, with a ticket for them.
    #[must_use]
    pub fn locate(&self, caller: &Caller, locate: &Locate) -> Body {
        let Some(user) = &caller.user else {
            return Body::refused(Refusal::NotLoggedIn, "tickets are for users who are logged in");
        };
        match self.tables.read(|held| self.find(held, caller, user, locate)) {
            Ok(found) => self.located(caller, &user.name, locate.from, &found),
            Err((why, text)) => Body::refused(why, text),
        }
    }

    fn find(
        &self,
        held: &Held,
        caller: &Caller,
        user: &LoggedIn,
        locate: &Locate,
    ) -> Result<Hit, (Refusal, String)> {
        let known = user.record(held).and_then(|known| Some((known, known.verifier()?.list)));
        let Some((known, list_key)) = known else {
            let text = "the password was changed, or this user taken away; log in again";
            return Err((Refusal::NotLoggedIn, text.into()));
        };
        let not_yours = |service: &Name| {
            let text = format!("{service}: this user may not have this service");
            Err((Refusal::NotAllowed, text))
        };
        if let Some(service) = &locate.service
            && !known.may_have(service.as_str())
        {
            return not_yours(service);
        }
        let until = held.revoked.get(user.name.as_str()).copied().unwrap_or(0);
        let Some(path) = &locate.path else {
            let service = locate.service.clone().expect("a request without both is refused");
            let servers = self.servers_for(held, caller, &service)?;
            let file = HeldFile { size: 0, sha256: [0; 32] };
            let scope = Scope::of_tree(&known.tree);
            return Ok(Hit { service, path: None, scope, file, servers, list_key, until });
        };
        let full = path.below(&known.tree);
        let full = full.ok_or((Refusal::BadRequest, "the path is too long".to_owned()))?;
        let may_be = |service: &str| {
            known.may_have(service)
                && locate.service.as_ref().is_none_or(|wanted| wanted.as_str() == service)
        };
        let holders = held.holders(may_be, full.as_str());
        let servers = holders.as_ref().map(|it| self.ranked(held, &it.servers, caller.address));
        let (Some(holders), Some(servers)) = (holders, servers.filter(|list| !list.is_empty()))
        else {
            let (why, text) = match held.is_known(may_be, full.as_str()) {
                true => (Refusal::NoServer, "the servers that have it are not there now"),
                false => (Refusal::NotFound, "no server has it"),
            };
            return Err((why, format!("{}: {text}", path.as_str())));
        };
        let (service, file) = (holders.service, holders.file);
        let scope = Some(Scope::Path(full.as_str().to_owned()));
        Ok(Hit { service, path: Some(full), scope, file, servers, list_key, until })
    }

    /// The servers that announce a service, and its endpoint's own place.
    fn servers_for(
        &self,
        held: &Held,
        caller: &Caller,
        service: &Name,
    ) -> Result<Vec<Server>, (Refusal, String)> {
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
        Ok(servers)
    }

    fn located(&self, caller: &Caller, user: &str, from: u64, found: &Hit) -> Body {
        let tickets = &self.config.tickets;
        let what = GrantFor {
            audience: self.cluster.name(),
            user,
            service: found.service.as_str(),
            scope: found.scope.clone(),
            byte: from,
            client: &caller.key.0,
            address: tickets.bind_address.then(|| caller.address.to_canonical()),
        };
        let life_s = u32::try_from(tickets.life.as_secs()).unwrap_or(u32::MAX);
        let id = stp_lookup::password::random();
        // The ticket must be later than those that a change of the password has ended, even if both
        // happen within the same second.
        let now = unix_now().max(found.until.saturating_add(1));
        let grant = Grant::new(&what, id, (now, life_s.into()));
        let ticket = seal::seal(&self.cluster.key(), &grant.encode(), &caller.key);
        let list = found.servers.clone().into();
        let Some(servers) = stp_lookup::sealed::seal(&found.list_key, &ticket, &list) else {
            return Body::refused(Refusal::Full, "the list of servers is too long");
        };
        let path = found.path.as_ref().map(stp_proto::lookup::FilePath::as_str);
        tracing::info!(
            user, service = %found.service, path,
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

/// The record that an unknown user seems to have. It is always the same for the same name.
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
