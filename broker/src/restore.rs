//! Goes on with the sessions of a broker that died.

use std::sync::Arc;

use nix::errno::Errno;
use stp_drive::keep::{Counted, is_deadly};
use stp_keeper::lease::predecessor_died;
use stp_net::kept::Kept;
use stp_proto::course::Relay;
use stp_proto::name::Name;
use stp_proto::session::{NotRestored, Session};
use stp_proto::wire::Belongs;

use crate::accept::{Begun, Door, kept_limits, tell_destination};
use crate::app::AppSocket;
use crate::endpoints::{self, Endpoint};
use crate::entry::App;
use crate::goal::Goal;
use crate::group;
use crate::group::awaited::Member;
use crate::lookup::Directory;
use crate::near::AppNear;
use crate::remains::{HERE, Record};
use crate::routes::Freeze;
use crate::service::Service;
use crate::upkeep::Upkeep;

/// Why a session cannot be gone on with.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("{0}")]
    State(#[from] NotRestored),
    #[error("service {0} is not in the configuration any more")]
    NoService(String),
    #[error("service {0} is not found in the directory: {1}")]
    NotFound(String, String),
    #[error("the server that had it is no server of {0} any more")]
    NoServer(String),
    #[error("{0}")]
    Policy(String),
    #[error("the endpoint {0} is not here any more")]
    NoEndpoint(String),
    #[error("its socket is not kept")]
    NotKept,
    #[error("its server was a part of that broker")]
    Alone,
    #[error("three brokers died within a minute while they worked for it")]
    Deadly,
}

impl Door {
    /// A socket that the broker before this one had.
    pub(crate) fn found(&self, socket: AppSocket) {
        if socket.kept().is_some_and(|kept| is_deadly(kept, predecessor_died(), self.0.now())) {
            return self.lose(socket, &Lost::Deadly);
        }
        let Some(record) = socket.kept().and_then(Kept::record) else {
            let untouched = |kept: &Kept| (kept.taken(), kept.given()) == (0, 0);
            if socket.kept().is_some_and(untouched) {
                // No byte has moved: it is begun anew, and its app, if it waits, still waits.
                return self.open(socket);
            }
            return self.lose(socket, &Lost::Alone);
        };
        let record = match Record::decode(&record) {
            Ok(record) => record,
            Err(why) => return self.lose(socket, &why.into()),
        };
        // At once: a connection that was announced in its stream may come next.
        match self.known_goal(&socket, &record) {
            Some(Ok(goal)) => return self.go_on(socket, &record, goal),
            Some(Err(why)) => return self.lose(socket, &why),
            None => {}
        }
        let door = self.clone();
        tokio::spawn(async move {
            match door.goal(&socket, &record).await {
                Ok(goal) => door.go_on(socket, &record, goal),
                Err(why) => door.lose(socket, &why),
            }
        });
    }

    fn lose(&self, socket: AppSocket, why: &Lost) {
        let why = format!("it was not taken over from the broker before: {why}");
        self.turn_away(socket, None, Errno::ECONNRESET, &why);
    }

    /// The name behind the address that the app has connected to.
    fn host_of(&self, socket: &AppSocket) -> Option<String> {
        let ip = socket.open().destination.ip().to_canonical();
        self.0.virtual_addresses.lock().name_of(ip).map(str::to_owned)
    }

    /// That service, as the route to it says.
    fn led_to(
        &self,
        (service, number): (Arc<Service>, usize),
        socket: &AppSocket,
        endpoint: Option<&Endpoint>,
    ) -> Result<Goal, Lost> {
        let (tables, to) = (self.0.tables(), socket.open().destination);
        let host = self.host_of(socket);
        let route = tables.config.routes.find(host.as_deref(), to.ip().to_canonical(), to.port());
        let freeze = route.map_or(Freeze::Waits, |route| route.freeze);
        let own = || tables.config.services.iter().find(|known| known.name == service.name);
        let (policy, upkeep) = match route {
            Some(route) => (route.policy.as_deref(), route.upkeep),
            None => own()
                .map_or((None, Upkeep::default()), |known| (known.policy.as_deref(), known.upkeep)),
        };
        let goal = Goal { service, number, grant: None, freeze, upkeep };
        let goal = match endpoint {
            Some(endpoint) if *goal.service.endpoint != *endpoint.name().as_str() => {
                goal.owned_by(&self.0, endpoint)
            }
            _ => goal,
        };
        goal.under(&self.0, socket.info().pid, policy).map_err(Lost::Policy)
    }

    /// Where it goes, if its service is in the configuration.
    fn known_goal(&self, socket: &AppSocket, record: &Record) -> Option<Result<Goal, Lost>> {
        let tables = self.0.tables();
        let named = tables.services.iter().find(|(_, service)| service.name == record.service);
        let (number, service) = named.cloned()?;
        let led = self.endpoint_of(record);
        Some(led.and_then(|endpoint| self.led_to((service, number), socket, endpoint.as_deref())))
    }

    /// The endpoint with whose key it was opened.
    fn endpoint_of(&self, record: &Record) -> Result<Option<Arc<Endpoint>>, Lost> {
        if record.endpoint.is_empty() {
            return Ok(None);
        }
        let found = self.0.endpoints.find(&record.endpoint);
        found.map(Some).ok_or_else(|| Lost::NoEndpoint(record.endpoint.clone()))
    }

    /// Where it goes, if the directory knows its service.
    async fn goal(&self, socket: &AppSocket, record: &Record) -> Result<Goal, Lost> {
        let host = self.host_of(socket);
        // A session that was saved is known by its service alone.
        let by_service = || {
            let name: Option<Name> = record.service.parse().ok();
            name.map(|name| name.to_host())
        };
        let is_saved = host.as_deref().is_some_and(|host| endpoints::saved(host).is_some());
        let host = if is_saved { by_service() } else { host };
        let host = host.filter(|host| Directory::may_know(host));
        let host = host.ok_or_else(|| Lost::NoService(record.service.clone()))?;
        let endpoint = self.endpoint_of(record)?;
        let directory = endpoint.as_ref().map_or(&self.0.directory, |one| &one.directory);
        let found = directory.find(&host).await;
        let found = found.map_err(|lacking| Lost::NotFound(record.service.clone(), lacking.why))?;
        self.led_to((Arc::clone(&found.service), found.number), socket, endpoint.as_deref())
    }

    fn go_on(&self, mut socket: AppSocket, record: &Record, goal: Goal) {
        let has_it = |server: &Arc<crate::service::Server>| {
            Relay(server.reach.dialer().key.0) == record.home
        };
        let home = goal.service.servers.iter().position(has_it);
        if home.is_none() && (record.home != HERE || goal.service.direct.is_none()) {
            return self.lose(socket, &Lost::NoServer(record.service.clone()));
        }
        let Some(kept) = socket.kept() else { return self.lose(socket, &Lost::NotKept) };
        // The first byte of the queue is the last one of the filler; it is taken with the next.
        let taken = kept.taken();
        let counted = Counted::of(kept, &record.remains, taken.saturating_sub(1));
        let Counted { at, looked_at, up, down } = counted;
        let looked_at = looked_at || taken == 0;
        // The app knows of its connect if it has sent something.
        let told = record.told || taken > 0;
        kept.set_at_work(true);
        let limits = kept_limits(&self.0, goal.upkeep, Some((kept.up_max(), kept.down_max())));
        let now = self.0.now();
        let bytes = (up.as_slice(), down.as_slice());
        let restored = Session::restore(now, limits, &record.service, &record.remains, at, bytes);
        let mut session = match restored {
            Ok(session) => session,
            Err(why) => return self.lose(socket, &why.into()),
        };
        let taken_up = kept.note().filter(|note| !note.is_empty());
        if let Some(Err(why)) = taken_up.map(|note| session.take_up_ticket(&note)) {
            tracing::warn!(session = record.id, "bound to its server until the next ticket: {why}");
        }
        let app = App { pid: socket.info().pid, comm: socket.info().comm.clone() };
        let host = self.host_of(&socket);
        if let Some(host) = &host {
            self.0.virtual_addresses.lock().used(host);
        }
        self.0.ids_from(record.id + 1);
        let peer = socket.open().destination;
        let lead = record.lead.and_then(|(lead, token)| Some((self.0.session(lead)?, token)));
        let member = lead.map(|(lead, token)| Member { lead, token });
        let token = member.as_ref().map(|member| member.token);
        session.belongs(Belongs { token, peer: Some(peer) });
        session.of_endpoint(&record.endpoint);
        let freeze = goal.freeze;
        let listed = self.list(record.id, app, (peer, host), goal, member.as_ref());
        let entry = Arc::clone(&listed.entry);
        if let Some(member) = member {
            member.has_begun(&entry);
        }
        let _once = entry.cookie.set(socket.open().cookie);
        tell_destination(&mut session, &entry);
        if let Some(pauses) = self.0.pauses.get() {
            entry.tell_pauses(pauses.enter(&socket.open().cookie, freeze));
        }
        session.set_user_timeout(entry.patience(socket.user_timeout()));
        if told {
            socket.go_on((at.end, record.remains.has_ended()), at.delivered, looked_at);
        }
        socket.set_abortive(record.abortive);
        let text = format!("at byte {} of the app, {} for it", at.end, at.delivered);
        tracing::info!(session = record.id, "goes on after a restart, {text}");
        entry.record("restored", text, at.held);
        entry.note_linked();
        if let Some(awaits) = record.awaits {
            group::await_again(&self.0, &entry, awaits);
        }
        let near = AppNear::found(socket, entry, told, record.remains.end_given());
        self.start(Begun::new(listed, session, home), near);
    }
}
