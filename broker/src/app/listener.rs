//! The broker's Unix socket: who may come in, and what the first message says.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use nix::errno::Errno;
use rustix::fs::FlockOperation;
use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags};
use stp_keeper::holding::Left;
use stp_proto::local::Cookie;
use stp_proto::local::path::SOCKET_FILE;
use stp_proto::local::wire::{self, MESSAGE_BYTES_MAX, Open, Reply, Request as Asked, Resolved};
use stp_proto::local::wire::{SocketState, WireError};
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing::{debug, warn};

use super::info::comm;
use super::keeping::{self, Face, KeepWith, Keeping, KeptStream};
use super::socket_state::SocketStates;
use super::{AcceptedRequest, ActRequest, AppInfo, AppSocket, NameRequest, OfSession};
use super::{PassedConnect, Request, ResolveRequest, watch};

/// How long a connection may take to say what it is for.
const FIRST_MESSAGE: Duration = Duration::from_secs(3);
/// How long the broker may take to answer a question.
const ANSWER: Duration = Duration::from_secs(8);
/// Connections that have not said yet what they are for.
const SPEECHLESS_MAX: usize = 1_024;
/// Connections over which programs see the states of their sessions.
const WATCHES_MAX: usize = 1_024;
/// Requests that wait for the broker.
const REQUESTS_MAX: usize = 1_024;
const LOCK_FILE: &str = "broker.lock";

/// Why the socket cannot be offered.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// Another broker serves this directory.
    #[error("another broker is running for {0}")]
    AlreadyRunning(PathBuf),
    /// The directory belongs to somebody else, or is no directory.
    #[error("{0} is not a directory of this user's own")]
    NotOurs(PathBuf),
    /// The system refused something.
    #[error("{0}: {1}")]
    Io(PathBuf, #[source] io::Error),
}

/// What has come in so far.
#[derive(Debug, Default)]
pub struct Counters {
    /// Connects.
    pub opened: AtomicU64,
    /// Names asked for, in either direction.
    pub resolved: AtomicU64,
    /// Questions about the state of a socket.
    pub states: AtomicU64,
    /// Routed connects that the shim left to the kernel.
    pub passed: AtomicU64,
    /// Connections of other users, turned away.
    pub strangers: AtomicU64,
    /// Connections that sent something else than a message.
    pub garbage: AtomicU64,
    /// Connections that said nothing, or too slowly.
    pub silent: AtomicU64,
}

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The broker's Unix socket. Dropped, it stops listening and removes the socket's name.
#[derive(Debug)]
pub struct Listener {
    requests: mpsc::Receiver<Request>,
    counters: Arc<Counters>,
    accepting: JoinHandle<()>,
    path: PathBuf,
    keeping: Option<Arc<Keeping>>,
    goes_on: bool,
    _lock: File,
}

impl Listener {
    /// Makes the directory, takes its lock, and listens; with a keeper if so wanted, and then also
    /// on the sockets of a broker that died. Must be called in a tokio runtime.
    ///
    /// # Errors
    /// Another broker runs there, or the directory is not safely ours.
    pub fn bind(dir: &Path, keep: Option<KeepWith>) -> Result<Listener, BindError> {
        own_directory(dir)?;
        let lock = take_lock(dir)?;
        let path = dir.join(SOCKET_FILE);
        let wrong = |error| BindError::Io(path.clone(), error);
        let begun = keep.map(|with| Keeping::begin(dir, with)).transpose();
        let (keeping, mut left) = match begun {
            Ok(begun) => begun.map_or_else(Default::default, |(keeping, left)| {
                keeping::say(&left);
                (Some(Arc::new(keeping)), left)
            }),
            Err(error) => {
                warn!(%error, "no keeper: sessions end if this broker is killed");
                (None, Left::default())
            }
        };
        let goes_on = left.door.is_some();
        let listener = door(&path, left.door.take()).map_err(wrong)?;
        if let Some(keeping) = &keeping {
            let held = listener.as_fd().try_clone_to_owned();
            held.and_then(|door| keeping.hold_door(door)).map_err(wrong)?;
        }
        let (sender, requests) = mpsc::channel(REQUESTS_MAX);
        let counters = Arc::new(Counters::default());
        let porter = Porter {
            sender,
            counters: Arc::clone(&counters),
            states: SocketStates::default(),
            speechless: Arc::new(Semaphore::new(SPEECHLESS_MAX)),
            watches: Arc::new(Semaphore::new(WATCHES_MAX)),
            uid: rustix::process::geteuid().as_raw(),
            network: network(std::process::id().cast_signed()),
            keeping: keeping.clone(),
        };
        let accepting = tokio::spawn(async move {
            porter.take_up(left).await;
            porter.accept(listener).await;
        });
        Ok(Listener { requests, counters, accepting, path, keeping, goes_on, _lock: lock })
    }

    /// The broker is about to end in order, and the keeper with it.
    pub fn end(&self) {
        if let Some(keeping) = &self.keeping {
            keeping.end();
        }
    }

    /// Whether the broker before this one was killed.
    #[must_use]
    pub fn goes_on(&self) -> bool {
        self.goes_on
    }

    /// The next request that the broker has to decide. Nothing when the listener is finished.
    pub async fn next(&mut self) -> Option<Request> {
        self.requests.recv().await
    }

    /// What has come in so far.
    #[must_use]
    pub fn counters(&self) -> &Arc<Counters> {
        &self.counters
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        self.accepting.abort();
        let _gone_already = fs::remove_file(&self.path);
        // In order, whatever the reason: a broker that is killed comes nowhere near.
        self.end();
    }
}

fn own_directory(dir: &Path) -> Result<(), BindError> {
    let wrong = |error| BindError::Io(dir.to_owned(), error);
    DirBuilder::new().recursive(true).mode(0o700).create(dir).map_err(wrong)?;
    let found = fs::symlink_metadata(dir).map_err(wrong)?;
    if !found.is_dir() || found.uid() != rustix::process::geteuid().as_raw() {
        return Err(BindError::NotOurs(dir.to_owned()));
    }
    if found.mode() & 0o077 != 0 {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o700)).map_err(wrong)?;
    }
    Ok(())
}

/// The socket that apps connect to: that of the broker before, or a new one.
fn door(path: &Path, left: Option<OwnedFd>) -> io::Result<UnixListener> {
    if let Some(door) = left {
        let door = std::os::unix::net::UnixListener::from(door);
        door.set_nonblocking(true)?;
        return UnixListener::from_std(door);
    }
    // With the lock in hand, a socket that is there was left behind by a broker that died.
    match fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
    Ok(listener)
}

fn take_lock(dir: &Path) -> Result<File, BindError> {
    let path = dir.join(LOCK_FILE);
    let mut options = OpenOptions::new();
    options.write(true).create(true).truncate(false).mode(0o600);
    let lock = options.open(&path).map_err(|error| BindError::Io(path.clone(), error))?;
    match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(BindError::AlreadyRunning(dir.to_owned())),
        Err(error) => Err(BindError::Io(path, error.into())),
    }
}

/// Stands at the door: one short task per connection until it is known what it is for.
#[derive(Clone)]
struct Porter {
    sender: mpsc::Sender<Request>,
    counters: Arc<Counters>,
    states: SocketStates,
    speechless: Arc<Semaphore>,
    watches: Arc<Semaphore>,
    uid: u32,
    /// The broker's own network namespace.
    network: Option<PathBuf>,
    keeping: Option<Arc<Keeping>>,
}

impl Porter {
    /// The sockets that the broker before this one had.
    async fn take_up(&self, left: Left) {
        let Some(keeping) = &self.keeping else { return };
        for held in left.held {
            let number = held.0;
            let found = keeping.take_up(held);
            let socket = found.map(|found| AppSocket::found(found, &self.states));
            match socket {
                Ok(Some(socket)) => drop(self.sender.send(Request::Found(socket)).await),
                Ok(None) => warn!(number, "a program's socket was kept twice"),
                Err(error) => warn!(number, %error, "a program's socket cannot be taken over"),
            }
        }
    }

    async fn accept(self, listener: UnixListener) {
        loop {
            let Ok(permit) = Arc::clone(&self.speechless).acquire_owned().await else { return };
            match listener.accept().await {
                Ok((stream, _)) => {
                    let porter = self.clone();
                    tokio::spawn(async move {
                        porter.receive(stream).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    // Out of descriptors, most likely: the app waits in the queue meanwhile.
                    warn!(%error, "cannot accept a program's connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    }

    async fn receive(&self, stream: UnixStream) {
        let Some(info) = self.known(&stream) else { return count(&self.counters.strangers) };
        let first = match timeout(FIRST_MESSAGE, First::read(&stream)).await {
            Ok(Ok(first)) => first,
            Ok(Err(error)) if error.kind() == ErrorKind::UnexpectedEof => {
                return count(&self.counters.silent);
            }
            Ok(Err(error)) => {
                debug!(%error, pid = info.pid, "not a message");
                return count(&self.counters.garbage);
            }
            Err(_late) => return count(&self.counters.silent),
        };
        match Asked::decode(&first.bytes) {
            Ok(Some((Asked::Open(open), _))) => {
                count(&self.counters.opened);
                self.open(stream, open, info, first.reserved).await;
            }
            Ok(Some((Asked::Watch(cookie), _))) => {
                let porter = self.clone();
                tokio::spawn(async move { porter.watch(stream, cookie).await });
            }
            Ok(Some((question, _))) => self.answer(stream, info, question).await,
            Ok(None) | Err(_) => count(&self.counters.garbage),
        }
    }

    /// The peer, if it is this user or root.
    fn known(&self, stream: &UnixStream) -> Option<AppInfo> {
        let peer = stream.peer_cred().ok()?;
        let (uid, pid) = (peer.uid(), peer.pid().unwrap_or(0));
        let is_elsewhere =
            || self.network.is_some() && network(pid).is_some_and(|its| Some(its) != self.network);
        (uid == self.uid || uid == 0).then(|| AppInfo {
            pid,
            uid,
            comm: comm(pid),
            is_elsewhere: is_elsewhere(),
        })
    }

    async fn open(&self, stream: UnixStream, open: Open, info: AppInfo, tcp: Option<OwnedFd>) {
        // An urgent byte keeps its place here, and must not be lost.
        let _then_it_is = stp_net::urgent::in_line(&stream);
        let face = Face { open, info };
        let stream = match &self.keeping {
            None => KeptStream::alone(stream),
            Some(keeping) => match keeping.hold(stream, tcp.as_ref(), &face) {
                Ok(stream) => stream,
                // Out of descriptors or memory; the app's connect is refused.
                Err(error) => return warn!(%error, "a program's socket cannot be kept"),
            },
        };
        match AppSocket::new(stream, face, tcp, &self.states) {
            // Dropped with the request when the broker is ending: the app's connect is refused.
            Some(socket) => drop(self.sender.send(Request::Open(socket)).await),
            None => count(&self.counters.garbage),
        }
    }

    async fn answer(&self, mut stream: UnixStream, info: AppInfo, question: Asked<'_>) {
        let (name, told, names);
        let reply = match question {
            Asked::Resolve(resolve) => {
                count(&self.counters.resolved);
                let (reply, answer) = oneshot::channel();
                let host = resolve.host.to_owned();
                let request = ResolveRequest { host, port: resolve.port, info, reply };
                let resolved = self.ask(Request::Resolve(request), answer).await;
                Reply::Resolved(resolved.unwrap_or(Resolved::TryAgain))
            }
            Asked::Name(address) => {
                count(&self.counters.resolved);
                let (reply, answer) = oneshot::channel();
                let request = Request::Name(NameRequest { address, reply });
                name = self.ask(request, answer).await.flatten();
                Reply::Name(name.as_deref())
            }
            Asked::SocketState(cookie) => {
                count(&self.counters.states);
                Reply::SocketState(self.states.ask(cookie))
            }
            Asked::Linger(cookie, abortive) => {
                self.states.set_abortive(cookie, abortive);
                Reply::Done
            }
            Asked::UserTimeout(cookie, ms) => {
                // An ending broker has nobody left to tell.
                drop(self.sender.send(Request::UserTimeout(cookie, ms)).await);
                Reply::Done
            }
            Asked::Passed(passed) => {
                count(&self.counters.passed);
                let told = self.sender.send(Request::Passed(PassedConnect { info, passed })).await;
                // An ending broker has nobody left to tell.
                drop(told);
                Reply::Done
            }
            Asked::Accepted(accepted) => {
                let (reply, answer) = oneshot::channel();
                let request = Request::Accepted(AcceptedRequest { accepted, reply });
                Reply::Peer(self.ask(request, answer).await.flatten())
            }
            Asked::Act(cookie, act) => {
                let (reply, answer) = oneshot::channel();
                let request = Request::Act(ActRequest { cookie, act, reply });
                told = self.ask(request, answer).await.flatten();
                Reply::Told(told.as_ref().map(|it| wire::Told { server: &it.server, ..it.told }))
            }
            Asked::Names(cookie) => {
                let (reply, answer) = oneshot::channel();
                let request = Request::Names(OfSession { cookie, reply });
                names = self.ask(request, answer).await.flatten();
                Reply::Names(names.as_ref().map(|it| wire::Names {
                    service: &it.service,
                    server: &it.server,
                    endpoint: &it.endpoint,
                }))
            }
            Asked::Hello => Reply::Hello { pid: std::process::id() },
            // They are no questions.
            Asked::Open(_) | Asked::Watch(_) => Reply::SocketState(SocketState::Unknown),
        };
        if let Some(message) = reply.encode() {
            let _asker_gone = stream.write_all(message.as_bytes()).await;
        }
    }

    /// Tells a program of the states of its session over this connection, until one of them ends.
    async fn watch(&self, mut stream: UnixStream, cookie: Cookie) {
        let permit = self.watches.try_acquire();
        let (reply, answer) = oneshot::channel();
        let states = match &permit {
            Ok(_) => {
                let wanted = OfSession { cookie, reply };
                let states = self.ask(Request::Watch(wanted), answer).await.flatten();
                states.ok_or(Errno::ESHUTDOWN)
            }
            Err(_) => Err(Errno::ENOBUFS),
        };
        let errno = states.as_ref().map_or_else(|errno| *errno as i32, |_| 0);
        let Some(told) = Reply::Watched(errno).encode() else { return };
        if stream.write_all(told.as_bytes()).await.is_ok()
            && let Ok(states) = states
        {
            watch::tell(stream, states).await;
        }
    }

    async fn ask<T>(&self, request: Request, answer: oneshot::Receiver<T>) -> Option<T> {
        self.sender.send(request).await.ok()?;
        timeout(ANSWER, answer).await.ok()?.ok()
    }
}

/// The network namespace of a process, as the kernel calls it; none if it may not be known.
fn network(pid: i32) -> Option<PathBuf> {
    fs::read_link(format!("/proc/{pid}/ns/net")).ok()
}

/// The first message of a connection, read without touching what follows it.
struct First {
    bytes: Vec<u8>,
    reserved: Option<OwnedFd>,
}

impl First {
    async fn read(stream: &UnixStream) -> io::Result<First> {
        let mut first = First { bytes: Vec::with_capacity(128), reserved: None };
        loop {
            let wanted = match Asked::decode(&first.bytes) {
                Ok(Some(_)) => return Ok(first),
                Ok(None) => missing(&first.bytes),
                Err(error) => return Err(invalid(error)),
            };
            stream.ready(Interest::READABLE).await?;
            match stream.try_io(Interest::READABLE, || first.read_some(stream, wanted)) {
                Err(error) if error.kind() != ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
    }

    fn read_some(&mut self, stream: &UnixStream, wanted: usize) -> io::Result<()> {
        let mut piece = [0; MESSAGE_BYTES_MAX];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [io::IoSliceMut::new(&mut piece[..wanted])];
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let got = rustix::net::recvmsg(stream, &mut slices, &mut control, flags)?;
        for message in control.drain() {
            if let RecvAncillaryMessage::ScmRights(descriptors) = message {
                self.reserved = descriptors.last().or(self.reserved.take());
            }
        }
        if got.bytes == 0 {
            return Err(ErrorKind::UnexpectedEof.into());
        }
        self.bytes.extend_from_slice(&piece[..got.bytes]);
        Ok(())
    }
}

/// How many bytes of the message are certainly still to come.
fn missing(have: &[u8]) -> usize {
    const HEAD: usize = 8;
    match have.first_chunk::<HEAD>() {
        None => HEAD - have.len(),
        Some(head) => {
            let length = HEAD + usize::from(u16::from_le_bytes([head[6], head[7]]));
            length.saturating_sub(have.len()).clamp(1, MESSAGE_BYTES_MAX)
        }
    }
}

fn invalid(error: WireError) -> io::Error {
    io::Error::new(ErrorKind::InvalidData, error)
}
