//! The keeper as the app side of the broker sees it: what it holds of each app's socket, and what
//! comes back from it when a broker begins where another one died.

use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;
use std::sync::Arc;

use stp_keeper::holding::{Holding, Keepsake, Left, Lent, Next};
use stp_keeper::lease::Held;
use stp_net::kept::Kept;
use stp_proto::local::wire::{Open, Request as Asked};
use tokio::net::UnixStream;
use tracing::info;

use super::info::AppInfo;

/// How a keeper is started, and how much of a session is kept.
#[derive(Clone, Debug)]
pub struct KeepWith {
    /// The next broker.
    pub next: Next,
    /// Bytes of an app that are kept until they are acknowledged.
    pub send_buffer: usize,
    /// Bytes for an app that are kept until it takes them.
    pub receive_buffer: usize,
}

/// The keeper, and how much of a session is kept.
#[derive(Debug)]
pub struct Keeping {
    holding: Arc<Holding>,
    send_buffer: usize,
    receive_buffer: usize,
}

impl Keeping {
    /// Takes over from a broker that died, or starts a keeper.
    pub(super) fn begin(dir: &Path, with: KeepWith) -> io::Result<(Keeping, Left)> {
        let KeepWith { next, send_buffer, receive_buffer } = with;
        let (holding, left) = Holding::begin(dir, next)?;
        Ok((Keeping { holding, send_buffer, receive_buffer }, left))
    }

    /// The keeper holds the socket that apps connect to.
    pub(super) fn hold_door(&self, door: OwnedFd) -> io::Result<()> {
        self.holding.hold_door(door)
    }

    /// The broker ends in order, and the keeper with it.
    pub(super) fn end(&self) {
        self.holding.end();
    }

    /// A socket of an app, which the keeper holds from now on, with who is at its other end.
    pub(super) fn hold(
        &self,
        stream: UnixStream,
        reserved: Option<&OwnedFd>,
        face: &Face,
    ) -> io::Result<Arc<KeptStream>> {
        let kept = Kept::new(self.send_buffer, self.receive_buffer)?;
        kept.put_face(&face.encode());
        let reserved = reserved.map(OwnedFd::try_clone).transpose()?;
        Ok(self.holding.hold(|keepsake| KeptStream {
            stream,
            kept: Some(kept),
            reserved,
            _keepsake: Some(keepsake),
        }))
    }

    /// A socket that the keeper held for the broker before.
    pub(super) fn take_up(&self, (number, descriptors): Held) -> io::Result<Found> {
        let mut descriptors = descriptors.into_iter();
        let (Some(socket), Some(memory)) = (descriptors.next(), descriptors.next()) else {
            return Err(io::ErrorKind::InvalidData.into());
        };
        let stream = std::os::unix::net::UnixStream::from(socket);
        stream.set_nonblocking(true)?;
        let stream = UnixStream::from_std(stream)?;
        let kept = Kept::open(memory)?;
        let face = kept.face().as_deref().and_then(Face::decode);
        let face = face.ok_or(io::ErrorKind::InvalidData)?;
        let reserved = descriptors.next();
        let other = reserved.as_ref().map(OwnedFd::try_clone).transpose()?;
        let stream = self.holding.keep_on(number, |keepsake| KeptStream {
            stream,
            kept: Some(kept),
            reserved: other,
            _keepsake: Some(keepsake),
        });
        Ok(Found { stream, face, reserved })
    }
}

/// A socket that was found with the keeper.
pub(super) struct Found {
    pub(super) stream: Arc<KeptStream>,
    pub(super) face: Face,
    pub(super) reserved: Option<OwnedFd>,
}

/// An app's socket, and what is kept of it.
#[derive(Debug)]
pub(super) struct KeptStream {
    stream: UnixStream,
    kept: Option<Kept>,
    reserved: Option<OwnedFd>,
    /// Dropped last: the app sees the close when the keeper lets go as well.
    _keepsake: Option<Keepsake>,
}

impl KeptStream {
    /// One that ends with the broker.
    pub(super) fn alone(stream: UnixStream) -> Arc<KeptStream> {
        Arc::new(KeptStream { stream, kept: None, reserved: None, _keepsake: None })
    }

    pub(super) fn kept(&self) -> Option<&Kept> {
        self.kept.as_ref()
    }
}

impl Lent for KeptStream {
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        let Some(kept) = &self.kept else { return Vec::new() };
        let both = [self.stream.as_fd(), kept.file()];
        both.into_iter().chain(self.reserved.as_ref().map(AsFd::as_fd)).collect()
    }
}

impl AsFd for KeptStream {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

impl Deref for KeptStream {
    type Target = UnixStream;

    fn deref(&self) -> &UnixStream {
        &self.stream
    }
}

/// Who is at the other end of a socket.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Face {
    pub(super) open: Open,
    pub(super) info: AppInfo,
}

impl Face {
    fn encode(&self) -> Vec<u8> {
        let AppInfo { pid, uid, comm, is_elsewhere } = &self.info;
        let mut bytes = Vec::new();
        bytes.extend(pid.to_le_bytes());
        bytes.extend(uid.to_le_bytes());
        bytes.push(u8::from(*is_elsewhere));
        let comm = &comm.as_bytes()[..comm.len().min(64)];
        bytes.push(comm.len() as u8);
        bytes.extend(comm);
        if let Some(open) = Asked::Open(self.open).encode() {
            bytes.extend(open.as_bytes());
        }
        bytes
    }

    fn decode(bytes: &[u8]) -> Option<Face> {
        let (pid, rest) = bytes.split_first_chunk()?;
        let (uid, rest) = rest.split_first_chunk()?;
        let (elsewhere, rest) = rest.split_first()?;
        let (length, rest) = rest.split_first()?;
        let (comm, rest) = rest.split_at_checked(usize::from(*length))?;
        let Ok(Some((Asked::Open(open), _))) = Asked::decode(rest) else { return None };
        let info = AppInfo {
            pid: i32::from_le_bytes(*pid),
            uid: u32::from_le_bytes(*uid),
            comm: String::from_utf8_lossy(comm).into_owned(),
            is_elsewhere: *elsewhere == 1,
        };
        Some(Face { open, info })
    }
}

/// Says what was found with the keeper.
pub(super) fn say(left: &Left) {
    if left.door.is_some() {
        info!(sockets = left.held.len(), "goes on where the broker before was ended");
    }
}
