//! Going on with a transfer. What goes to the client is asked for again as a whole, and what the
//! client has already is compared with it. Of an upload the beginning of the file is read back.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use stp_proto::replay::ftp::{Continuation, DataState, Look, Resumption, Step, Transfer};
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
    /// The digest of what the client has, or of what is in the file already.
    pub seam: Seam,
}

/// Goes on where the client stands: with what it has of a download, as `proof` says, or behind what
/// is proven to be in the file of an upload.
pub async fn resume(
    address: SocketAddr,
    state: &DataState,
    proof: Option<SeamProof>,
) -> Result<Resumed, JoinError> {
    let unsafe_now =
        || NoReplay::new(NoReplayKind::Unsafe, "nobody can tell whether this transfer can go on");
    if state.running.transfer == Transfer::Up {
        return go_on(address, &Continuation::make(state).ok_or_else(unsafe_now)?).await;
    }
    let plan = Resumption::make(&state.login, &state.running).ok_or_else(unsafe_now)?;
    let mut control = Connection::log_in(address, &plan.login).await?;
    let data = begin(&mut control, plan.only_extended, plan.rest.as_ref(), &plan.command).await?;
    let (ahead, seam) = go_to(&data, proof).await?;
    Ok(Resumed { control, data, ahead, seam })
}

/// Begins a transfer on this control connection.
async fn begin(
    control: &mut Connection,
    only_extended: bool,
    rest: Option<&Step>,
    command: &Step,
) -> Result<TcpStream, JoinError> {
    let data = control.data(only_extended).await?;
    if let Some(rest) = rest {
        let reply = control.ask(rest).await?;
        if !rest.accepts(&reply) {
            let text = format!("REST was answered by {}", reply.text());
            return Err(NoReplay::new(NoReplayKind::NotHere, text).into());
        }
    }
    control.say(&command.line).await?;
    let reply = control.reply().await?;
    if !reply.is_preliminary() {
        let text = format!("{} was answered by {}", command.verb(), reply.text());
        return Err(NoReplay::new(NoReplayKind::NotHere, text).into());
    }
    Ok(data)
}

/// Goes on with an upload, if the file begins as it should.
async fn go_on(address: SocketAddr, plan: &Continuation) -> Result<Resumed, JoinError> {
    let seam = match &plan.stored {
        None => Seam::new(0, BLOCK),
        Some(stored) => {
            let seam = read_back(address, &plan.look, stored.until).await?;
            if !stored.is(&seam) {
                let text = format!("the first {} bytes of the file differ here", stored.until);
                return Err(NoReplay::new(NoReplayKind::Seam, text).into());
            }
            seam
        }
    };
    let mut control = Connection::log_in(address, &plan.look.login).await?;
    let (only_extended, rest) = (plan.look.only_extended, plan.rest.as_ref());
    let data = begin(&mut control, only_extended, rest, &plan.command).await?;
    Ok(Resumed { control, data, ahead: Vec::new(), seam })
}

/// The digest of the beginning of a file at the server.
async fn read_back(address: SocketAddr, look: &Look, until: u64) -> Result<Seam, JoinError> {
    let mut control = Connection::log_in(address, &look.login).await?;
    let data = begin(&mut control, look.only_extended, None, &look.read).await?;
    let (mut data, mut seam, mut piece) = (Peek(&data), Seam::new(0, BLOCK), vec![0; PIECE]);
    while seam.position() < until {
        let read = data.piece(&mut piece).await?;
        if read == 0 {
            let text = format!("the file has {} bytes here, {until} are there", seam.position());
            return Err(NoReplay::new(NoReplayKind::NotHere, text).into());
        }
        let missing = usize::try_from(until - seam.position()).unwrap_or(usize::MAX);
        seam.update(seam.position(), &piece[..read.min(missing)]);
    }
    Ok(seam)
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
        let read = data.piece(&mut piece).await?;
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
    /// Some bytes; 0 at the end.
    async fn piece(&mut self, piece: &mut [u8]) -> Result<usize, JoinError> {
        let read = timeout(SILENCE_MAX, self.read(piece)).await;
        let read = read.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        read.map_err(|source| JoinError::Service { action: "read from", source })
    }

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
