//! A control connection of our own to the real FTP server.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use stp_proto::replay::ftp::{Replies, Reply, Step, port_of_reply};
use stp_proto::replay::{NoReplay, NoReplayKind};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::service::join::JoinError;
use crate::service::watch;

/// A connection is there after this time, or the server is down.
const CONNECT_MAX: Duration = Duration::from_secs(10);
/// A stream that is silent is looked at so often.
pub const LOOK_EVERY: Duration = Duration::from_millis(500);
/// A reply is there after this time. Log-ins are slow on purpose here and there.
const REPLY_MAX: Duration = Duration::from_secs(30);

/// The connection, and what was read of it.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    replies: Replies,
    ahead: Vec<u8>,
}

fn service(action: &'static str) -> impl FnOnce(io::Error) -> JoinError {
    move |source| JoinError::Service { action, source }
}

fn refused(kind: NoReplayKind, text: String) -> JoinError {
    JoinError::Refused(NoReplay::new(kind, text))
}

/// Connects within bounds of time.
pub async fn connect(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = timeout(CONNECT_MAX, TcpStream::connect(address)).await;
    let stream = stream.map_err(|_| io::ErrorKind::TimedOut)??;
    stream.set_nodelay(true)?;
    watch::ask_often(&stream)?;
    Ok(stream)
}

/// Reads some bytes; an error when `lost` says that none can come.
pub async fn hear(
    stream: &mut TcpStream,
    bytes: &mut [u8],
    lost: fn(&TcpStream) -> Option<String>,
) -> io::Result<usize> {
    loop {
        if let Ok(read) = timeout(LOOK_EVERY, stream.read(bytes)).await {
            return read;
        }
        if let Some(why) = lost(stream) {
            return Err(io::Error::new(io::ErrorKind::ConnectionAborted, why));
        }
    }
}

impl Connection {
    /// Connects, waits for the greeting, and says these steps.
    pub async fn log_in(address: SocketAddr, steps: &[Step]) -> Result<Self, JoinError> {
        let stream = connect(address).await.map_err(service("connect to"))?;
        let mut connection = Self { stream, replies: Replies::default(), ahead: Vec::new() };
        let greeting = connection.last_reply().await?;
        if !greeting.is_done() {
            let source = io::Error::other(greeting.text());
            return Err(JoinError::Service { action: "be greeted by", source });
        }
        for step in steps {
            let reply = connection.ask(step).await?;
            if !step.accepts(&reply) {
                let text = format!("{} was answered by {}", step.verb(), reply.text());
                return Err(match reply.code {
                    421 => {
                        let source = io::Error::other(text);
                        JoinError::Service { action: "log in at", source }
                    }
                    _ => refused(NoReplayKind::NotHere, text),
                });
            }
        }
        Ok(connection)
    }

    /// Says a step and waits for its last reply.
    pub async fn ask(&mut self, step: &Step) -> Result<Reply, JoinError> {
        self.say(&step.line).await?;
        self.last_reply().await
    }

    /// Says a line.
    pub async fn say(&mut self, line: &[u8]) -> Result<(), JoinError> {
        self.stream.write_all(line).await.map_err(service("write to"))
    }

    async fn last_reply(&mut self) -> Result<Reply, JoinError> {
        loop {
            let reply = self.reply().await?;
            if !reply.is_preliminary() {
                return Ok(reply);
            }
        }
    }

    /// The next reply.
    pub async fn reply(&mut self) -> Result<Reply, JoinError> {
        let reply = timeout(REPLY_MAX, self.reply_at_last()).await;
        reply.unwrap_or_else(|_| Err(service("hear")(io::ErrorKind::TimedOut.into())))
    }

    /// The next reply, however long it takes: a transfer is under way.
    pub async fn reply_at_last(&mut self) -> Result<Reply, JoinError> {
        let mut piece = [0; 2048];
        loop {
            let (taken, reply) = self
                .replies
                .take(&self.ahead)
                .map_err(|error| refused(NoReplayKind::Mismatch, error.to_string()))?;
            self.ahead.drain(..taken);
            if let Some(reply) = reply {
                return Ok(reply);
            }
            match hear(&mut self.stream, &mut piece, watch::lost).await.map_err(service("hear"))? {
                0 => return Err(service("hear")(io::ErrorKind::UnexpectedEof.into())),
                count => self.ahead.extend_from_slice(&piece[..count]),
            }
        }
    }

    /// Whether the server has to be asked by EPSV.
    pub fn is_extended(&self) -> bool {
        self.stream.peer_addr().is_ok_and(|address| address.is_ipv6())
    }

    /// A data connection, passive.
    pub async fn data(&mut self, only_extended: bool) -> Result<TcpStream, JoinError> {
        let line = if only_extended || self.is_extended() { "EPSV\r\n" } else { "PASV\r\n" };
        self.say(line.as_bytes()).await?;
        let reply = self.last_reply().await?;
        let Some(port) = port_of_reply(&reply) else {
            let source = io::Error::other(reply.text());
            return Err(JoinError::Service { action: "agree on data with", source });
        };
        let host = self.stream.peer_addr().map_err(service("look at"))?.ip();
        let data = connect(SocketAddr::new(host, port)).await;
        data.map_err(service("connect for data to"))
    }

    /// The stream, at the place where the login ends.
    pub fn into_stream(self) -> TcpStream {
        self.stream
    }
}
