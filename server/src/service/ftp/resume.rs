//! Going on with a transfer to the client: the whole is asked for again, and what the client has
//! already is compared with it.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use stp_proto::replay::ftp::{DataState, Resumption};
use stp_proto::replay::{NoReplay, NoReplayKind};
use stp_proto::seam::{BLOCK, Seam, SeamProof, Verifier};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::connection::Connection;
use crate::service::join::JoinError;

/// This long between two pieces of the data.
const SILENCE_MAX: Duration = Duration::from_secs(20);
/// A server that is down is asked again for this long.
const PATIENCE: Duration = Duration::from_secs(60);
/// The pause between attempts.
const PAUSE: Duration = Duration::from_millis(500);
/// Data are compared in pieces of this size.
const PIECE: usize = 256 * 1024;

/// A data connection that stands where the client stands.
#[derive(Debug)]
pub struct Resumed {
    /// The control connection on which it was asked for; its last reply is still to come.
    pub control: Connection,
    /// The data connection.
    pub data: TcpStream,
    /// What was read of it beyond that place.
    pub ahead: Vec<u8>,
    /// The digest of what the client has.
    pub seam: Seam,
}

/// Asks for the whole again and goes to where the client stands.
pub async fn resume(
    address: SocketAddr,
    state: &DataState,
    proof: Option<SeamProof>,
) -> Result<Resumed, JoinError> {
    let plan = Resumption::make(&state.login, &state.running).ok_or_else(|| {
        NoReplay::new(NoReplayKind::Unsafe, "this transfer cannot be asked for again")
    })?;
    let mut control = Connection::log_in(address, &plan.login).await?;
    let data = control.data(plan.only_extended).await?;
    if let Some(rest) = &plan.rest {
        let reply = control.ask(rest).await?;
        if !rest.accepts(&reply) {
            let text = format!("REST was answered by {}", reply.text());
            return Err(NoReplay::new(NoReplayKind::NotHere, text).into());
        }
    }
    control.say(&plan.command.line).await?;
    let reply = control.reply().await?;
    if !reply.is_preliminary() {
        let text = format!("{} was answered by {}", plan.command.verb(), reply.text());
        return Err(NoReplay::new(NoReplayKind::NotHere, text).into());
    }
    let (ahead, seam) = go_to(&data, proof).await?;
    Ok(Resumed { control, data, ahead, seam })
}

/// As [`resume`], again and again while the server is down.
pub async fn resume_patiently(
    address: SocketAddr,
    state: DataState,
    proof: Option<SeamProof>,
    pause: Duration,
) -> Result<Resumed, JoinError> {
    let begun = tokio::time::Instant::now();
    tokio::time::sleep(pause).await;
    loop {
        match resume(address, &state, proof.clone()).await {
            Err(JoinError::Service { action, source }) if begun.elapsed() < PATIENCE => {
                tracing::debug!(action, %source, "the FTP server is down: waiting");
                tokio::time::sleep(PAUSE).await;
            }
            done => return done,
        }
    }
}

/// Reads up to where the client stands, and compares.
async fn go_to(data: &TcpStream, proof: Option<SeamProof>) -> Result<(Vec<u8>, Seam), JoinError> {
    let Some(proof) = proof.filter(|proof| proof.until > proof.from) else {
        return Ok((Vec::new(), Seam::new(0, BLOCK)));
    };
    if (proof.from, proof.block) != (0, BLOCK) {
        let text = format!("the digest begins at {} by {}", proof.from, proof.block);
        return Err(NoReplay::new(NoReplayKind::Mismatch, text).into());
    }
    let differs = |error: stp_proto::seam::SeamMismatch| {
        JoinError::from(NoReplay::new(NoReplayKind::Seam, error.to_string()))
    };
    let mut check = Verifier::new(proof);
    let mut piece = vec![0; PIECE];
    let mut data = Peek(data);
    let ahead = loop {
        if check.missing() == 0 {
            break Vec::new();
        }
        let read = timeout(SILENCE_MAX, data.read(&mut piece)).await;
        let read = read.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        let read = read.map_err(|source| JoinError::Service { action: "read from", source })?;
        if read == 0 {
            break Vec::new();
        }
        let taken = check.push(&piece[..read]).map_err(differs)?;
        if taken < read {
            break piece[taken..read].to_vec();
        }
    };
    let seam = check.continued();
    check.finish().map_err(differs)?;
    Ok((ahead, seam))
}

/// Reads from a stream that is only borrowed.
struct Peek<'a>(&'a TcpStream);

impl Peek<'_> {
    async fn read(&mut self, bytes: &mut [u8]) -> io::Result<usize> {
        loop {
            self.0.readable().await?;
            match self.0.try_read(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                done => return done,
            }
        }
    }
}
