//! The keeper as the app side of the broker sees it: what it holds of each app's socket, and what
//! comes back from it when a broker begins where another one died.

use std::collections::BTreeMap;
use std::io;
use std::ops::Deref;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Weak};

use parking_lot::Mutex;
use stp_keeper::lease::{Held, Lease};
use stp_net::kept::Kept;
use stp_proto::local::wire::{Open, Request as Asked};
use tokio::net::UnixStream;
use tracing::{info, warn};

use super::info::AppInfo;

/// The number under which the socket that apps connect to is held.
const DOOR: u64 = 0;

/// How a keeper is started, and how much of a session is kept.
#[derive(Clone, Debug)]
pub struct KeepWith {
    /// The broker's program, and what it was started with.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<std::ffi::OsString>,
    /// Bytes of an app that are kept until they are acknowledged.
    pub send_buffer: usize,
    /// Bytes for an app that are kept until it takes them.
    pub receive_buffer: usize,
}

/// The keeper, and all that it holds.
#[derive(Debug)]
pub struct Keeping {
    dir: PathBuf,
    with: KeepWith,
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    /// None while no keeper can be had: then sessions end with the broker.
    lease: Option<Lease>,
    next: u64,
    door: Option<OwnedFd>,
    held: BTreeMap<u64, Weak<KeptStream>>,
}

/// What a broker that died has left.
#[derive(Debug, Default)]
pub(super) struct Left {
    pub(super) door: Option<OwnedFd>,
    pub(super) sockets: Vec<Held>,
}

impl Keeping {
    /// Takes over from a broker that died, or starts a keeper.
    pub(super) fn begin(dir: &Path, with: KeepWith) -> io::Result<(Arc<Keeping>, Left)> {
        let (lease, held) = match Lease::take(dir)? {
            Some((lease, held)) => (lease, held),
            None => (Lease::start(dir, &with.program, &with.arguments)?, Vec::new()),
        };
        let mut left = Left::default();
        let next = held.iter().map(|(number, _)| number + 1).max().unwrap_or(DOOR + 1);
        for (number, mut descriptors) in held {
            match number {
                DOOR => left.door = descriptors.pop(),
                _ => left.sockets.push((number, descriptors)),
            }
        }
        let inner = Inner { lease: Some(lease), next, door: None, held: BTreeMap::new() };
        let keeping = Keeping { dir: dir.to_owned(), with, inner: Mutex::new(inner) };
        let keeping = Arc::new(keeping);
        keeping.watch();
        Ok((keeping, left))
    }

    /// Sees the keeper end, and starts another one, which gets everything anew.
    fn watch(self: &Arc<Keeping>) {
        let inner = self.inner.lock();
        let keeping = Arc::downgrade(self);
        let watched = inner.lease.as_ref().map(|lease| {
            lease.watch(move || {
                if let Some(keeping) = keeping.upgrade() {
                    keeping.start_again();
                }
            })
        });
        if let Some(Err(error)) = watched {
            warn!(%error, "the keeper is not watched");
        }
    }

    fn start_again(self: &Arc<Keeping>) {
        let mut inner = self.inner.lock();
        if inner.lease.take().is_none() {
            return;
        }
        warn!("the keeper has ended; another one is started");
        let lease = Lease::start(&self.dir, &self.with.program, &self.with.arguments);
        let put = lease.and_then(|lease| {
            if let Some(door) = &inner.door {
                lease.hold(DOOR, &[door.as_fd()])?;
            }
            for (number, stream) in &inner.held {
                if let Some(stream) = stream.upgrade() {
                    stream.put(&lease, *number)?;
                }
            }
            Ok(lease)
        });
        match put {
            Ok(lease) => {
                inner.lease = Some(lease);
                drop(inner);
                self.watch();
            }
            Err(error) => warn!(%error, "no keeper: sessions end if this broker is killed"),
        }
    }

    /// The keeper holds the socket that apps connect to.
    pub(super) fn hold_door(&self, door: OwnedFd) -> io::Result<()> {
        let mut inner = self.inner.lock();
        let door = inner.door.insert(door).try_clone()?;
        inner.lease.as_ref().map_or(Ok(()), |lease| lease.hold(DOOR, &[door.as_fd()]))
    }

    /// The broker ends in order, and the keeper with it.
    pub(super) fn end(&self) {
        if let Some(lease) = self.inner.lock().lease.take() {
            let _gone_already = lease.end();
        }
    }

    /// A socket of an app, which the keeper holds from now on, with who is at its other end.
    pub(super) fn hold(
        self: &Arc<Keeping>,
        stream: UnixStream,
        reserved: Option<&OwnedFd>,
        face: &Face,
    ) -> io::Result<Arc<KeptStream>> {
        let kept = Kept::new(self.with.send_buffer, self.with.receive_buffer)?;
        kept.put_face(&face.encode());
        let reserved = reserved.map(OwnedFd::try_clone).transpose()?;
        let mut inner = self.inner.lock();
        let number = inner.next;
        inner.next += 1;
        let keepsake = Keepsake { keeping: Arc::clone(self), number };
        let stream =
            Arc::new(KeptStream { stream, kept: Some(kept), reserved, _keepsake: Some(keepsake) });
        if let Some(lease) = &inner.lease {
            stream.put(lease, number)?;
        }
        inner.held.insert(number, Arc::downgrade(&stream));
        Ok(stream)
    }

    /// A socket that the keeper held for the broker before.
    pub(super) fn take_up(self: &Arc<Keeping>, (number, descriptors): Held) -> io::Result<Found> {
        let keepsake = Keepsake { keeping: Arc::clone(self), number };
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
        let stream = Arc::new(KeptStream {
            stream,
            kept: Some(kept),
            reserved: other,
            _keepsake: Some(keepsake),
        });
        self.inner.lock().held.insert(number, Arc::downgrade(&stream));
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

    fn put(&self, lease: &Lease, number: u64) -> io::Result<()> {
        let Some(kept) = &self.kept else { return Ok(()) };
        let both = [self.stream.as_fd(), kept.file()];
        match &self.reserved {
            Some(reserved) => lease.hold(number, &[both[0], both[1], reserved.as_fd()]),
            None => lease.hold(number, &both),
        }
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

/// Has the keeper let go when it is dropped.
#[derive(Debug)]
struct Keepsake {
    keeping: Arc<Keeping>,
    number: u64,
}

impl Drop for Keepsake {
    fn drop(&mut self) {
        let mut inner = self.keeping.inner.lock();
        inner.held.remove(&self.number);
        if let Some(lease) = &inner.lease {
            let _gone_already = lease.let_go(self.number);
        }
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
        info!(sockets = left.sockets.len(), "goes on where the broker before was ended");
    }
}
