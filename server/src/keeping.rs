//! The keeper as the server sees it: it holds the socket that links come to, and the sockets to
//! `tcp` services, so that their sessions outlive this process.

use std::fs::{DirBuilder, File};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use stp_keeper::holding::{Holding, Left, Next};
use stp_keeper::lease::{Held, given_dir};
use stp_net::kept::Kept;
use stp_net::link::listen;
use stp_proto::session::Limits;
use stp_proto::ticket::Granted;
use tokio::net::{TcpListener, TcpStream};

use crate::config::Config;
use crate::service::kept::KeptStream;
use crate::service::upstream::Upstream;

/// Who serves a directory holds its lock, and has written its process id there.
const LOCK_FILE: &str = "server.lock";

/// The keeper, and how much of a session is kept.
#[derive(Debug)]
pub struct Keeping {
    holding: Arc<Holding>,
    up: usize,
    down: usize,
    _lock: File,
}

impl Keeping {
    /// Takes over from a server that died, or starts a keeper. What was left comes back.
    ///
    /// # Errors
    /// The directory cannot be used, or another server of the same key runs.
    pub fn begin(config: &Config) -> io::Result<(Keeping, Left)> {
        let dir = given_dir().unwrap_or_else(|| config.key_file.with_extension("kept"));
        let in_dir = |error| io::Error::other(format!("{}: {error}", dir.display()));
        DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(in_dir)?;
        let lock = lock(&dir).map_err(in_dir)?;
        let (holding, left) = Holding::begin(&dir, Next::like_this_one()?).map_err(in_dir)?;
        let Limits { send_buffer_max: up, receive_buffer_max: down, .. } = config.limits.session;
        Ok((Keeping { holding, up, down, _lock: lock }, left))
    }

    /// The socket that links come to: that of the server before, or a new one.
    ///
    /// # Errors
    /// The address cannot be had.
    pub fn door(&self, left: &mut Left, at: SocketAddr) -> io::Result<TcpListener> {
        let before = left.door.take().map(std::net::TcpListener::from);
        let same = before.filter(|door| door.local_addr().is_ok_and(|is| is == at));
        let door = match same {
            Some(door) => {
                door.set_nonblocking(true)?;
                TcpListener::from_std(door)?
            }
            None => listen(at)?,
        };
        self.holding.hold_door(door.as_fd().try_clone_to_owned()?)?;
        Ok(door)
    }

    /// The server ends in order, and the keeper with it.
    pub fn end(&self) {
        self.holding.end();
    }

    /// A socket to a service, which the keeper holds from now on, and whose session it is. Without
    /// memory for that it is as if there were no keeper.
    #[must_use]
    pub fn hold(&self, tcp: TcpStream, face: &Face) -> Upstream {
        match Kept::new(self.up, self.down) {
            Ok(kept) => {
                kept.put_face(&face.encode());
                let lend = |keepsake| KeptStream::new(tcp, kept, keepsake);
                Upstream::Kept(self.holding.hold(lend))
            }
            Err(error) => {
                tracing::warn!(%error, "a session will end if this process is killed");
                Upstream::Tcp(tcp)
            }
        }
    }

    /// A socket that the keeper held for the server before.
    ///
    /// # Errors
    /// It is of no use.
    pub fn take_up(&self, (number, descriptors): Held) -> io::Result<(Arc<KeptStream>, Face)> {
        let mut descriptors = descriptors.into_iter();
        let (Some(socket), Some(memory)) = (descriptors.next(), descriptors.next()) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let tcp = std::net::TcpStream::from(socket);
        tcp.set_nonblocking(true)?;
        let (tcp, kept) = (TcpStream::from_std(tcp)?, Kept::open(memory)?);
        let face = kept.face().as_deref().and_then(Face::decode);
        let face = face.ok_or(io::ErrorKind::InvalidData)?;
        let lend = |keepsake| KeptStream::new(tcp, kept, keepsake);
        Ok((self.holding.keep_on(number, lend), face))
    }
}

fn lock(dir: &Path) -> io::Result<File> {
    let lock =
        File::options().write(true).create(true).truncate(false).open(dir.join(LOCK_FILE))?;
    lock.try_lock().map_err(|error| match error {
        std::fs::TryLockError::WouldBlock => io::Error::other("another server runs with this key"),
        std::fs::TryLockError::Error(error) => error,
    })?;
    lock.set_len(0)?;
    (&lock).write_all(format!("{}\n", std::process::id()).as_bytes())?;
    Ok(lock)
}

/// Whose session a socket belongs to: what never changes of it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Face {
    /// The client's public key.
    pub client: [u8; 32],
    /// The service.
    pub service: String,
    /// The endpoint that opened it, as its broker says.
    pub endpoint: String,
    /// The epoch of the CONNECT that opened it.
    pub epoch: u32,
    /// What the gateway has granted.
    pub granted: Option<Granted>,
    /// It is an exchange of HTTP that may not be repeated.
    #[serde(default)]
    pub bound: bool,
}

impl Face {
    fn encode(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    fn decode(bytes: &[u8]) -> Option<Face> {
        serde_json::from_slice(bytes).ok()
    }
}
