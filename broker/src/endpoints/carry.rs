//! Saves the sessions of an endpoint (KTH 4.3.2), so that they go on wherever its directory is
//! carried.
//!
//! A session is suspended, which its server is told; then nobody touches its app's socket any more,
//! what there is of it is written, and only when that is on the disk the app learns that it has
//! moved. It has until then been given a certain number of bytes, and finds them all in its socket
//! before the error. Programs that know nothing of this get a reset.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use stp_drive::state_name;
use stp_lookup::endpoint::EndpointError;
use stp_net::key::PublicKey;
use stp_proto::course::AppError;
use stp_proto::local::wire::EMOVED;
use stp_proto::session::{Frozen, NotRestored, code};
use tokio::sync::oneshot;

use super::{Endpoint, Moved};
use crate::any_link::Command;
use crate::broker::Broker;
use crate::entry::Entry;

/// How long a session's loop may take to answer.
const ANSWER_MAX: Duration = Duration::from_secs(10);
/// The longest text in front of a session's own state, in bytes.
const FACE_MAX: usize = 4 << 10;

/// What is saved of a session beside its own state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Face {
    pub(super) service: String,
    /// The key of the server that has it.
    pub(super) home: PublicKey,
    /// The name that its app asked for, and the address that it has connected to.
    pub(super) host: Option<String>,
    pub(super) peer: SocketAddr,
    /// When it was saved, in milliseconds since 1970.
    pub(super) saved_ms: u64,
}

/// A session that was saved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Saved {
    pub(super) face: Face,
    pub(super) frozen: Frozen,
}

/// Why a file is no session that was saved.
#[derive(Debug, thiserror::Error)]
pub(super) enum BadSave {
    #[error("what stands in front of it is damaged")]
    Face,
    #[error(transparent)]
    State(#[from] NotRestored),
}

impl Saved {
    pub(super) fn encode(&self) -> Vec<u8> {
        let face = serde_json::to_vec(&self.face).unwrap_or_default();
        let mut all = (face.len() as u32).to_le_bytes().to_vec();
        all.extend(face);
        self.frozen.encode(&mut all);
        all
    }

    pub(super) fn decode(bytes: &[u8]) -> Result<Saved, BadSave> {
        let (length, rest) = bytes.split_first_chunk().ok_or(BadSave::Face)?;
        let length = u32::from_le_bytes(*length) as usize;
        let (face, rest) = rest.split_at_checked(length.min(FACE_MAX)).ok_or(BadSave::Face)?;
        let face = serde_json::from_slice(face).map_err(|_| BadSave::Face)?;
        Ok(Saved { face, frozen: Frozen::decode(rest)? })
    }

    /// How long ago it was saved, as far as the clocks of two machines agree.
    pub(super) fn away(&self) -> Duration {
        Duration::from_millis(unix_ms().saturating_sub(self.face.saved_ms))
    }
}

fn unix_ms() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(now.as_millis()).unwrap_or(u64::MAX)
}

/// What has become of the sessions of an endpoint that is being saved.
#[derive(Debug, Default)]
pub(super) struct SavedAll {
    pub(super) saved: usize,
    pub(super) reset: usize,
}

/// Saves every session of an endpoint. New ones are refused from now on, unless there is an error.
///
/// # Errors
/// A session cannot be written, such as on a full disk. Those that were not written yet go on.
pub(super) async fn save_all(broker: &Broker, endpoint: &Endpoint) -> Result<SavedAll, String> {
    endpoint.leaving.store(true, Ordering::Relaxed);
    let mut all = SavedAll::default();
    for entry in broker.sessions_of(endpoint.name().as_str()) {
        match save(endpoint, &entry).await {
            Ok(true) => all.saved += 1,
            Ok(false) => all.reset += 1,
            Err(error) => {
                endpoint.leaving.store(false, Ordering::Relaxed);
                return Err(format!("session {} cannot be saved: {error}", entry.id));
            }
        }
    }
    Ok(all)
}

/// Saves a session; false if it was reset, because its program cannot go on with it.
async fn save(endpoint: &Endpoint, entry: &Arc<Entry>) -> Result<bool, EndpointError> {
    let frozen = match entry.aware.load(Ordering::Relaxed) {
        true => freeze(entry).await,
        false => Err("its program cannot go on elsewhere".to_owned()),
    };
    let saved = frozen.and_then(|frozen| with_face(entry, frozen));
    let saved = match saved {
        Ok(saved) => saved,
        Err(why) => {
            let why = format!("its endpoint {} was saved: {why}", endpoint.name());
            entry.give_up(AppError::Reset, &why);
            let _ended_already = entry.inbox.send(Command::Abort { code: code::USER }).await;
            return Ok(false);
        }
    };
    let number = free_number(endpoint, entry.id);
    if let Err(error) = endpoint.disk.put_session(number, &saved.encode()) {
        let _ended_already = entry.inbox.send(Command::Thaw).await;
        if entry.held.lock().resume().is_ok() {
            let _ended_already = entry.inbox.send(Command::Resume).await;
        }
        return Err(error);
    }
    if let Some(cookie) = entry.cookie.get() {
        let moved = Moved { session: number, pid: entry.app.pid };
        endpoint.moved.lock().insert(*cookie, moved);
    }
    let (end, delivered) = saved.frozen.positions();
    let text = format!("with its endpoint {}, at byte {delivered} for its app", endpoint.name());
    tracing::info!(session = entry.id, end, delivered, "saved {text}");
    entry.give_up(AppError::Number(EMOVED), &format!("saved {text}"));
    let _ended_already = entry.inbox.send(Command::Leave).await;
    Ok(true)
}

/// Another session of that number may be there, of another machine.
fn free_number(endpoint: &Endpoint, id: u64) -> u64 {
    let taken = endpoint.disk.sessions();
    if taken.contains(&id) { taken.last().map_or(id, |last| last + 1) } else { id }
}

async fn freeze(entry: &Entry) -> Result<Frozen, String> {
    if entry.lead.is_some() || entry.awaits.lock().is_some() {
        return Err("it belongs to a group of sessions".to_owned());
    }
    let gone = |_| "it has just ended".to_owned();
    entry.held.lock().suspend();
    entry.inbox.send(Command::Suspend { lasts: None }).await.map_err(|_| gone(()))?;
    let (answer, answered) = oneshot::channel();
    entry.inbox.send(Command::Freeze(answer)).await.map_err(|_| gone(()))?;
    let frozen = tokio::time::timeout(ANSWER_MAX, answered).await;
    let frozen = frozen.map_err(|_| "its loop does not answer".to_owned())?;
    let frozen = frozen.map_err(|_| gone(()))?;
    frozen.map_err(|why| {
        let state = state_name(entry.status.snapshot().state);
        format!("{why} ({state})")
    })
}

fn with_face(entry: &Entry, frozen: Frozen) -> Result<Saved, String> {
    let home = entry.view.lock().server.and_then(|rank| entry.service.servers.get(rank).cloned());
    let home = home.ok_or("no server has it")?;
    let face = Face {
        service: entry.service.name.clone(),
        home: home.reach.dialer().key,
        host: entry.host.clone(),
        peer: entry.peer,
        saved_ms: unix_ms(),
    };
    Ok(Saved { face, frozen })
}
