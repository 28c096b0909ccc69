//! The daemon's side of the lease.

use std::ffi::OsStr;
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use rustix::event::{PollFd, PollFlags};
use rustix::net::sockopt::{self, Timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::message::{self, Word};

/// The keeper's socket, in the session directory.
pub const KEEPER_FILE: &str = "keeper.sock";
/// The argument with which a daemon's program becomes the keeper.
pub const KEEPER_FLAG: &str = "--keeper";
/// A daemon that was started by its keeper has this in its environment.
pub const KEPT: &str = "STP_KEPT";
/// What it says if the daemon before died by itself: nobody killed it, and it did not end in order
/// for the sake of another program.
pub(crate) const DIED: &str = "died";
/// The keeper's directory, in the environment of the daemons that it starts.
const DIR: &str = "STP_KEEPER_DIR";
/// How long a keeper may take: it does nothing but move descriptors.
const ANSWER_MAX: std::time::Duration = std::time::Duration::from_secs(10);

/// What the keeper holds under one number.
pub type Held = (u64, Vec<OwnedFd>);

/// A daemon's connection to its keeper.
#[derive(Debug)]
pub struct Lease(OwnedFd);

/// Whether the daemon before this one died by itself.
#[must_use]
pub fn predecessor_died() -> bool {
    std::env::var_os(KEPT).is_some_and(|how| how == DIED)
}

/// The directory of the keeper that has started this process.
#[must_use]
pub fn given_dir() -> Option<PathBuf> {
    std::env::var_os(KEPT)?;
    std::env::var_os(DIR).map(PathBuf::from)
}

/// What a daemon is told by its keeper.
pub(crate) fn told(command: &mut Command, dir: &Path, before: &str) {
    command.env(KEPT, before).env(DIR, dir);
}

impl Lease {
    /// Takes the lease of the keeper in this directory, and what it holds. Nothing when there is no
    /// keeper. Waits for the daemon that has the lease to end.
    ///
    /// # Errors
    /// The keeper does not answer.
    pub fn take(dir: &Path) -> io::Result<Option<(Lease, Vec<Held>)>> {
        let flags = SocketFlags::CLOEXEC;
        let kind = SocketType::SEQPACKET;
        let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)?;
        patience(&socket)?;
        let address = SocketAddrUnix::new(dir.join(KEEPER_FILE))?;
        match rustix::net::connect(&socket, &address) {
            Ok(()) => {}
            Err(error) => {
                return match io::Error::from(error).kind() {
                    ErrorKind::NotFound | ErrorKind::ConnectionRefused => Ok(None),
                    _ => Err(error.into()),
                };
            }
        }
        let mut held = Vec::new();
        loop {
            match message::receive(socket.as_fd())? {
                Some((Word::Hold(number), descriptors)) => held.push((number, descriptors)),
                Some((Word::End, _)) => return Ok(Some((Lease(socket), held))),
                Some((Word::Drop(_), _)) => {}
                None => return Ok(None),
            }
        }
    }

    /// Whether a keeper is there that could be asked.
    pub(crate) fn is_there(dir: &Path) -> bool {
        let connected = || {
            let kind = SocketType::SEQPACKET;
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None)?;
            rustix::net::connect(&socket, &SocketAddrUnix::new(dir.join(KEEPER_FILE))?)
        };
        connected().is_ok()
    }

    /// Starts a keeper for this directory, which holds nothing yet. `program` with `arguments` is
    /// the next daemon.
    ///
    /// # Errors
    /// It cannot be started.
    pub fn start(
        dir: &Path,
        program: &Path,
        arguments: impl IntoIterator<Item = impl AsRef<OsStr>>,
    ) -> io::Result<Lease> {
        let flags = SocketFlags::CLOEXEC;
        let kind = SocketType::SEQPACKET;
        let (ours, its) = rustix::net::socketpair(AddressFamily::UNIX, kind, flags, None)?;
        patience(&ours)?;
        let mut keeper = Command::new(program);
        keeper.arg(KEEPER_FLAG).arg(dir).arg(program).args(arguments);
        let mut child = keeper.stdin(Stdio::from(its)).stdout(Stdio::null()).spawn()?;
        // It outlives this process; if it does not, its end is seen on the lease.
        std::thread::spawn(move || child.wait());
        Ok(Lease(ours))
    }

    /// The keeper holds these from now on.
    ///
    /// # Errors
    /// It is gone.
    pub fn hold(&self, number: u64, descriptors: &[BorrowedFd<'_>]) -> io::Result<()> {
        message::send(self.0.as_fd(), Word::Hold(number), descriptors)
    }

    /// The keeper lets go of what it holds under this number.
    ///
    /// # Errors
    /// It is gone.
    pub fn let_go(&self, number: u64) -> io::Result<()> {
        message::send(self.0.as_fd(), Word::Drop(number), &[])
    }

    /// The daemon has ended, and the keeper ends too.
    ///
    /// # Errors
    /// It is gone already.
    pub fn end(&self) -> io::Result<()> {
        message::send(self.0.as_fd(), Word::End, &[])
    }

    /// Calls `then`, on a thread of its own, when the keeper has ended.
    ///
    /// # Errors
    /// There is no descriptor or no thread left.
    pub fn watch(&self, then: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let lease = self.0.try_clone()?;
        let watch = move || {
            let mut polled = [PollFd::new(&lease, PollFlags::RDHUP)];
            while rustix::event::poll(&mut polled, None) == Err(rustix::io::Errno::INTR) {}
            drop(lease);
            then();
        };
        std::thread::Builder::new().name("keeper".to_owned()).spawn(watch).map(drop)
    }
}

fn patience(socket: &OwnedFd) -> io::Result<()> {
    sockopt::set_socket_timeout(socket, Timeout::Recv, Some(ANSWER_MAX))?;
    sockopt::set_socket_timeout(socket, Timeout::Send, Some(ANSWER_MAX))?;
    Ok(())
}

/// The keeper's socket in this directory.
pub(crate) fn socket_path(dir: &Path) -> PathBuf {
    dir.join(KEEPER_FILE)
}
