//! Going on with an exchange: carries out what a [`Plan`] says on a fresh stream to the service,
//! before the first byte reaches the app's side.

use std::io;
use std::time::Duration;

use stp_proto::replay::http::{Ask, HEAD_MAX, Judged, SpliceStep};
use stp_proto::replay::{NoReplay, NoReplayKind};
use stp_proto::seam::Seam;

use super::upstream::{Target, Upstream};

/// The service must answer within this time; then, this long between two pieces.
const SILENCE_MAX: Duration = Duration::from_secs(20);
/// A service that is down is asked again for this long, with growing pauses.
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// Bodies are compared in pieces of this size.
const PIECE: usize = 256 * 1024;

/// A stream that stands at the seam.
#[derive(Debug)]
pub struct Joined {
    /// The stream.
    pub upstream: Upstream,
    /// What was read of it beyond the seam.
    pub ahead: Vec<u8>,
    /// The digest of what the app has.
    pub seam: Option<Seam>,
    /// Another request may follow on this stream after the response.
    pub reusable: bool,
}

/// Why a stream could not be brought to the seam.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The service cannot be reached now.
    #[error("{action} the service: {source}")]
    Service {
        /// What was tried.
        action: &'static str,
        /// What the system said.
        source: io::Error,
    },
    /// It answers, but not so that it can be joined.
    #[error(transparent)]
    Refused(#[from] NoReplay),
}

fn service(action: &'static str) -> impl FnOnce(io::Error) -> JoinError {
    move |source| JoinError::Service { action, source }
}

/// Asks for the rest and brings the answer to the seam.
pub async fn join(target: &Target, ask: &Ask) -> Result<Joined, JoinError> {
    let upstream = target.open().await.map_err(service("connect to"))?;
    upstream.write_all(&ask.request).await.map_err(service("ask"))?;
    let mut held = Vec::new();
    let mut splice = loop {
        match ask.judge(&held)? {
            Judged::Partial => read_more(&upstream, &mut held, HEAD_MAX).await?,
            Judged::Interim(length) => drop(held.drain(..length)),
            Judged::Splice(length, splice) => {
                held.drain(..length);
                break splice;
            }
        }
    };
    loop {
        match splice.feed(&held)? {
            SpliceStep::More => {
                held.clear();
                read_more(&upstream, &mut held, PIECE).await?;
            }
            SpliceStep::Joined(needed) => {
                held.drain(..needed);
                break;
            }
        }
    }
    let left = usize::try_from(splice.left).unwrap_or(usize::MAX);
    if held.len() > left && splice.excess == 0 {
        let text = "the service sent more than it said";
        return Err(NoReplay::new(NoReplayKind::Mismatch, text).into());
    }
    held.truncate(left);
    let reusable = splice.keep_alive && splice.excess == 0;
    Ok(Joined { upstream, ahead: held, seam: splice.take_seam(), reusable })
}

/// Opens a fresh stream, again and again while the service is down.
pub async fn reopen(target: &Target) -> Result<Upstream, JoinError> {
    let mut patience = Patience::default();
    loop {
        match target.open().await.map_err(service("connect to")) {
            Err(error) => patience.bear(error).await?,
            done => return done,
        }
    }
}

/// As [`join`], again and again while the service is down.
pub async fn rejoin(target: &Target, ask: &Ask) -> Result<Joined, JoinError> {
    let mut patience = Patience::default();
    loop {
        match join(target, ask).await {
            Err(error) => patience.bear(error).await?,
            done => return done,
        }
    }
}

/// Pauses between attempts at a service that is down.
#[derive(Default)]
struct Patience {
    waited: Duration,
    pause: Duration,
}

impl Patience {
    async fn bear(&mut self, error: JoinError) -> Result<(), JoinError> {
        if self.waited >= PATIENCE || matches!(error, JoinError::Refused(_)) {
            return Err(error);
        }
        tracing::debug!(%error, "the service is down: waiting");
        self.pause = (self.pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
        self.waited += self.pause;
        tokio::time::sleep(self.pause).await;
        Ok(())
    }
}

async fn read_more(upstream: &Upstream, held: &mut Vec<u8>, most: usize) -> Result<(), JoinError> {
    let start = held.len();
    held.resize(start + most.min(PIECE), 0);
    let read = tokio::time::timeout(SILENCE_MAX, upstream.read(&mut held[start..])).await;
    let read = read.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
    held.truncate(start + *read.as_ref().unwrap_or(&0));
    match read.map_err(service("read from"))? {
        0 => Err(service("read from")(io::ErrorKind::UnexpectedEof.into())),
        _ => Ok(()),
    }
}
