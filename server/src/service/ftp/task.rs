//! The task beside a control connection: it carries out what the control connection decides.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use stp_net::key::PublicKey;
use stp_proto::handle::Handle;
use stp_proto::replay::ftp::{self, Act, Answer, DataNews, DataState, Verdict};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::connection::{self, Connection, connect};
use super::slot::Begun;
use super::{Groups, Slot};
use crate::service::join::JoinError;
use crate::service::watch;

/// A server that is down is asked again for this long.
const PATIENCE: Duration = Duration::from_secs(60);
/// The pause between attempts.
const PAUSE: Duration = Duration::from_millis(500);
/// A data connection that belongs to a transfer under way is here after this time.
const ABSENT_MAX: Duration = Duration::from_secs(30);
/// Bytes read at once.
const PIECE: usize = 4 * 1024;

/// For the session, in this order.
#[derive(Debug)]
pub enum Out {
    /// A reply, with its ticket and announcement before it.
    Answer(Box<Answer>),
    /// Bytes, as they are.
    Pass(Vec<u8>),
    /// From here on nothing can be continued elsewhere.
    Opaque,
    /// The data went to another server.
    AskToMove,
}

/// The data connection that matters now; the session's end looks after it as well.
pub type Current = Arc<Mutex<Option<(Handle, Arc<Slot>)>>>;

/// The task.
pub struct Task {
    /// What decides.
    pub control: ftp::Control,
    /// Where the server is.
    pub address: SocketAddr,
    /// The connection to it.
    pub stream: Option<TcpStream>,
    /// From the client.
    pub client: UnixStream,
    /// To it.
    pub out: mpsc::Sender<Out>,
    /// Where data connections are met.
    pub groups: Arc<Groups>,
    /// Whose they are.
    pub key: PublicKey,
    /// The one that matters now.
    pub current: Current,
    /// The one that stands for all connections of an encrypted login.
    pub range: Option<Arc<Slot>>,
}

impl Task {
    /// Runs until either side has ended.
    pub async fn run(mut self) {
        let mut held = Vec::new();
        let mut ended = false;
        let (mut up, mut down) = ([0; PIECE], [0; PIECE]);
        let mut ready = None;
        let mut absent_at = Instant::now() + ABSENT_MAX;
        loop {
            while let Some(act) = self.control.poll_act() {
                if matches!(act, Act::Begin { .. }) {
                    absent_at = Instant::now() + ABSENT_MAX;
                }
                if !self.carry_out(act, &mut ready).await {
                    return;
                }
            }
            if !held.is_empty() && self.control.wants_client() {
                let taken = self.control.client(&held);
                held.drain(..taken);
                if taken > 0 {
                    continue;
                }
            }
            let running = self.control.running().and_then(|token| self.slot_of(token));
            let absent = running.as_ref().is_some_and(|(_, slot)| !slot.is_present());
            if !absent {
                absent_at = Instant::now() + ABSENT_MAX;
            }
            let waits = self.control.waits_for_its_path();
            tokio::select! {
                read = self.client.read(&mut up), if held.is_empty() && !ended => match read {
                    Ok(count) if count > 0 => held.extend_from_slice(&up[..count]),
                    _ => {
                        ended = true;
                        self.control.client_ended();
                    }
                },
                read = hear(self.stream.as_mut(), &mut down, waits) => match read {
                    Some(count) => self.control.server(&down[..count]),
                    None => self.control.server_lost(),
                },
                (token, news) = news(running.as_ref()) => self.control.data(token, news),
                () = tokio::time::sleep_until(absent_at), if absent => {
                    // It may have come meanwhile.
                    if let Some((token, slot)) = running.filter(|(_, slot)| !slot.is_present()) {
                        slot.stop();
                        self.control.data(token, DataNews::Failed);
                    }
                }
                () = self.out.closed() => return,
            }
        }
    }

    fn slot_of(&self, token: Handle) -> Option<(Handle, Arc<Slot>)> {
        self.current.lock().clone().filter(|(known, _)| *known == token)
    }

    /// False when the session is over.
    async fn carry_out(&mut self, act: Act, ready: &mut Option<TcpStream>) -> bool {
        match act {
            Act::Send(bytes) => {
                let Some(stream) = &mut self.stream else { return true };
                if stream.write_all(&bytes).await.is_err() {
                    self.control.server_lost();
                }
            }
            Act::Answer(answer) => return self.out.send(Out::Answer(answer)).await.is_ok(),
            Act::Pass(bytes) => return self.out.send(Out::Pass(bytes)).await.is_ok(),
            Act::Opaque => return self.out.send(Out::Opaque).await.is_ok(),
            Act::AskToMove => return self.out.send(Out::AskToMove).await.is_ok(),
            Act::HangUp => self.stream = None,
            Act::LogIn => self.log_in().await,
            Act::Expect(token) => {
                let slot = self.groups.slot(self.key, token);
                *self.current.lock() = Some((token, slot));
            }
            Act::Range { token, first, last } => {
                let slot = self.groups.slot(self.key, token);
                slot.open_range(first, last);
                self.range = Some(slot);
            }
            Act::Forget(token) => {
                if let Some((_, slot)) = self.slot_of(token) {
                    slot.stop();
                    *self.current.lock() = None;
                }
            }
            Act::Connect(port) => {
                let host = self.address.ip();
                *ready = connect(SocketAddr::new(host, port)).await.ok();
                self.control.connected(ready.is_some());
            }
            Act::Begin { running, connected } => {
                if let Some((_, slot)) = self.slot_of(running.token) {
                    let login = self.control.login().clone();
                    let state = DataState { login, running, stored: None };
                    let stream = if connected { ready.take() } else { None };
                    slot.begin(Begun { state, stream });
                }
            }
            Act::Judge(token, verdict) => {
                if let Some((_, slot)) = self.slot_of(token) {
                    match verdict {
                        Verdict::Failed => slot.stop(),
                        verdict => slot.judge(verdict),
                    }
                }
            }
            Act::End => return false,
        }
        true
    }

    /// The login once more; a server that is down is waited for.
    async fn log_in(&mut self) {
        let begun = Instant::now();
        let login = self.control.login().clone();
        if !login.can_be_repeated() {
            return self.control.server_failed("the login has too many steps to be repeated");
        }
        loop {
            match Connection::log_in(self.address, &login.steps()).await {
                Ok(connection) => {
                    let extended = connection.is_extended();
                    self.stream = Some(connection.into_stream());
                    return self.control.server_ready(extended);
                }
                Err(JoinError::Service { action, source }) if begun.elapsed() < PATIENCE => {
                    tracing::debug!(action, %source, "the FTP server is down: waiting");
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => {
                    tracing::warn!(%error, "the login cannot be made again");
                    return self.control.server_failed(&error.to_string());
                }
            }
        }
    }
}

/// Bytes of the server; `None` when it has gone. What cannot be asked for again waits for its path.
async fn hear(stream: Option<&mut TcpStream>, bytes: &mut [u8], waits: bool) -> Option<usize> {
    let Some(stream) = stream else { return std::future::pending().await };
    let lost = if waits { watch::homeless } else { watch::lost };
    connection::hear(stream, bytes, lost).await.ok().filter(|count| *count > 0)
}

/// News of the transfer under way.
async fn news(running: Option<&(Handle, Arc<Slot>)>) -> (Handle, DataNews) {
    match running {
        Some((token, slot)) => (*token, slot.news().await),
        None => std::future::pending().await,
    }
}
