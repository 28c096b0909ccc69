//! A program goes on with a session that was saved: it connects to the address that stands for it.

use std::sync::Arc;

use nix::errno::Errno;
use stp_proto::select::Rank;
use stp_proto::session::Session;

use super::Endpoint;
use super::carry::Saved;
use crate::accept::{Begun, Door, kept_limits, tell_destination};
use crate::app::AppSocket;
use crate::entry::App;
use crate::goal::Goal;
use crate::lookup::Directory;
use crate::near::AppNear;
use crate::routes::Freeze;
use crate::service::Server;
use crate::upkeep::Upkeep;

/// A saved session, and where it goes.
struct Ready {
    endpoint: Arc<Endpoint>,
    number: u64,
    saved: Saved,
    goal: Goal,
}

impl Door {
    /// An app connects to go on with a session that was saved.
    pub(crate) async fn attach(self, socket: AppSocket, host: String) {
        let ready = self.ready(&host).await;
        let thawed = ready.and_then(|ready| Ok((self.thaw(&socket, &ready)?, ready)));
        match thawed {
            Ok((thawed, ready)) => self.go_on_with(socket, ready, thawed),
            Err(why) => self.turn_away(socket, Some(&host), Errno::ECONNRESET, &why),
        }
    }

    async fn ready(&self, host: &str) -> Result<Ready, String> {
        let (name, number) = super::saved(host).ok_or("no saved session is called so")?;
        let endpoint = self.0.endpoints.find(name);
        let endpoint = endpoint.ok_or_else(|| format!("no endpoint {name} is here"))?;
        let bytes = endpoint.disk.session(number).map_err(|error| error.to_string())?;
        let saved = Saved::decode(&bytes).map_err(|error| format!("session {number}: {error}"))?;
        let goal = self.goal_of(&endpoint, &saved).await?;
        Ok(Ready { endpoint, number, saved, goal })
    }

    /// Its service, of the configuration or of the directory.
    async fn goal_of(&self, endpoint: &Arc<Endpoint>, saved: &Saved) -> Result<Goal, String> {
        let (tables, wanted) = (self.0.tables(), &saved.face.service);
        let named = tables.services.iter().find(|(_, service)| service.name == *wanted);
        let (service, number) = if let Some((number, base)) = named {
            (endpoint.service(&self.0.maker.lock(), base), *number)
        } else {
            let name: Option<stp_proto::name::Name> = wanted.parse().ok();
            let host = name.map(|name| name.to_host()).filter(|host| Directory::may_know(host));
            let host =
                host.ok_or_else(|| format!("the service {wanted} is not configured here"))?;
            let found = endpoint.directory.find(&host).await;
            let found = found.map_err(|lacking| format!("{wanted}: {}", lacking.why))?;
            (Arc::clone(&found.service), found.number)
        };
        Ok(Goal { service, number, grant: None, freeze: Freeze::Waits, upkeep: Upkeep::default() })
    }

    /// Its session, and the server that has it. What is kept of the socket begins where the saved
    /// one was.
    fn thaw(&self, socket: &AppSocket, ready: &Ready) -> Result<(Session, Rank), String> {
        let Ready { saved: Saved { face, frozen }, goal, endpoint, .. } = ready;
        let has_it = |server: &Arc<Server>| server.reach.dialer().key == face.home;
        let home = goal.service.servers.iter().position(has_it);
        let home =
            home.ok_or_else(|| format!("the server that has it is none of {} here", face.service))?;
        let ((end, delivered), (up, down)) = (frozen.positions(), frozen.bytes());
        let mut rings = None;
        if let Some(kept) = socket.kept() {
            // The last byte of the filler, which is still in the queue, stands for the last byte
            // that was taken.
            if !kept.begin_at((end, up), (delivered, down)) {
                let why = "send_buffer or receive_buffer is smaller here than where it was saved";
                return Err(why.to_owned());
            }
            rings = Some((kept.up_max(), kept.down_max()));
        }
        let limits = kept_limits(&self.0, goal.upkeep, rings);
        let away = ready.saved.away();
        let thawed = Session::thaw(self.0.now(), limits, &face.service, away, frozen);
        let mut session = thawed.map_err(|why| why.to_string())?;
        session.of_endpoint(endpoint.name().as_str());
        Ok((session, home))
    }

    fn go_on_with(
        &self,
        mut socket: AppSocket,
        ready: Ready,
        (mut session, home): (Session, Rank),
    ) {
        let Ready { endpoint, number, saved: Saved { face, frozen }, goal } = ready;
        let (end, delivered) = frozen.positions();
        socket.begins_at((end, frozen.has_ended()), delivered);
        let info = socket.info();
        let app = App { pid: info.pid, comm: info.comm.clone() };
        let whither = (face.peer, face.host.clone());
        let listed = self.list(self.0.next_id(), app, whither, goal, None);
        let entry = Arc::clone(&listed.entry);
        let _once = entry.cookie.set(socket.open().cookie);
        entry.aware.store(true, std::sync::atomic::Ordering::Relaxed);
        tell_destination(&mut session, &entry);
        if let Some(pauses) = self.0.pauses.get() {
            entry.tell_pauses(pauses.enter(&socket.open().cookie, Freeze::Waits));
        }
        entry.view.lock().server = Some(home);
        entry.note_linked();
        let text =
            format!("session {number} of {}, at byte {delivered} for its app", endpoint.name());
        tracing::info!(session = entry.id, "loaded: {text}");
        entry.record("loaded", text, delivered);
        let near = AppNear::attached(socket, entry, &session);
        // From here on the keeper has it.
        if let Err(error) = endpoint.disk.drop_session(number) {
            tracing::warn!(%error, "a session that goes on cannot be taken out of its endpoint");
        }
        self.start(Begun::new(listed, session, Some(home)), near);
    }
}
