//! Short questions to the broker: one fresh connection each, because a program may close any
//! descriptor at any time.

use core::ffi::CStr;
use core::net::{IpAddr, SocketAddr};

use stp_proto::local::Cookie;
use stp_proto::local::wire::{
    Accepted, Act, HOST_BYTES_MAX, MESSAGE_BYTES_MAX, Names, Passed, Reply, Request, Resolved,
    SocketState, Told, WATCHED_BYTES,
};

use crate::raw::{self, Errno, Fd, Result};
use crate::surroundings::known;

const PATH_AT: usize = 2;
/// A question over which a broker dies is asked so often again.
const BROKERS_MAX: usize = 2;
/// How long a question about a socket may take.
const STATE_SECONDS: i64 = 2;
/// How long a question that the broker may have to think about may take.
const RESOLVE_SECONDS: i64 = 10;
/// Interrupted waits that are taken up again.
const INTERRUPTED_MAX: usize = 64;

/// A connection to the broker. An error when none runs there, or one that is not this user's.
pub fn dial() -> Result<Fd> {
    let fd = raw::socket(libc::AF_UNIX, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0)?;
    match reach(fd) {
        Ok(()) => Ok(fd),
        Err(errno) => {
            raw::close(fd);
            Err(errno)
        }
    }
}

fn reach(fd: Fd) -> Result<()> {
    let path = known().ok_or(libc::ENOENT)?.socket.as_bytes_with_nul();
    let mut address = [0; PATH_AT + stp_proto::local::path::PATH_BYTES_MAX];
    address[..PATH_AT].copy_from_slice(&(libc::AF_UNIX as u16).to_ne_bytes());
    address[PATH_AT..PATH_AT + path.len()].copy_from_slice(path);
    set_patience(fd, libc::SO_SNDTIMEO, STATE_SECONDS)?;
    let address = &address[..PATH_AT + path.len()];
    patiently(|| raw::connect(fd, address))?;
    let mut peer = [0; 12];
    raw::getsockopt(fd, libc::SOL_SOCKET, libc::SO_PEERCRED, &mut peer)?;
    let [_, _, _, _, uid @ .., _, _, _, _] = peer;
    let uid = u32::from_ne_bytes(uid);
    if uid == raw::euid() || uid == 0 { Ok(()) } else { Err(libc::EACCES) }
}

/// How long receives (`SO_RCVTIMEO`), or sends and connects (`SO_SNDTIMEO`), wait on a connection
/// to the broker; 0 is for ever.
pub fn set_patience(fd: Fd, which: core::ffi::c_int, seconds: i64) -> Result<()> {
    let mut time = [0; 16];
    time[..8].copy_from_slice(&seconds.to_ne_bytes());
    raw::setsockopt(fd, libc::SOL_SOCKET, which, &time)
}

fn patiently<T>(mut call: impl FnMut() -> Result<T>) -> Result<T> {
    let mut result = call();
    for _ in 0..INTERRUPTED_MAX {
        match result {
            Err(libc::EINTR) => result = call(),
            other => return other,
        }
    }
    result
}

/// Asks, and hands the answer to `read`. Nothing when no broker answers in time.
fn ask<T>(
    question: &Request<'_>,
    seconds: i64,
    read: impl FnOnce(Reply<'_>) -> Option<T>,
) -> Option<T> {
    let message = question.encode()?;
    let mut answer = [0; MESSAGE_BYTES_MAX];
    let mut once = || {
        let fd = dial()?;
        let length = exchange(fd, message.as_bytes(), seconds, &mut answer);
        raw::close(fd);
        length
    };
    let mut length = once();
    for _ in 0..BROKERS_MAX {
        // The broker has died over it; the next one is there in a moment.
        if !matches!(length, Err(libc::ECONNRESET | libc::EPIPE)) {
            break;
        }
        length = once();
    }
    let (reply, _) = Reply::decode(&answer[..length.ok()?]).ok()??;
    read(reply)
}

fn exchange(fd: Fd, question: &[u8], seconds: i64, answer: &mut [u8]) -> Result<usize> {
    set_patience(fd, libc::SO_RCVTIMEO, seconds)?;
    raw::send(fd, question)?;
    let mut length = 0;
    while let Ok(None) = Reply::decode(&answer[..length]) {
        match patiently(|| raw::recv(fd, &mut answer[length..]))? {
            0 => return Err(libc::ECONNRESET),
            count => length += count,
        }
    }
    Ok(length)
}

/// How one of our sockets fares; nothing when no broker answers.
pub fn socket_state(cookie: Cookie) -> Option<SocketState> {
    ask(&Request::SocketState(cookie), STATE_SECONDS, |reply| match reply {
        Reply::SocketState(state) => Some(state),
        _ => None,
    })
}

/// Has the broker do something to a session, and hands what it tells of it to `read`: nothing when
/// there is no such session. Nothing at all when no broker answers.
pub fn act<T>(cookie: Cookie, act: Act, read: impl FnOnce(Told<'_>) -> T) -> Option<Option<T>> {
    ask(&Request::Act(cookie, act), STATE_SECONDS, |reply| match reply {
        Reply::Told(told) => Some(told.map(read)),
        _ => None,
    })
}

/// What the ends of a session are called, handed to `read`, as [`act`] does it.
pub fn names<T>(cookie: Cookie, read: impl FnOnce(Names<'_>) -> T) -> Option<Option<T>> {
    ask(&Request::Names(cookie), STATE_SECONDS, |reply| match reply {
        Reply::Names(names) => Some(names.map(read)),
        _ => None,
    })
}

/// A connection by which the broker tells of each change of a session's state, for the program to
/// read: not blocking, and closed by exec.
pub fn watch(cookie: Cookie) -> Result<Fd> {
    let message = Request::Watch(cookie).encode().ok_or(libc::EINVAL)?;
    let fd = dial().map_err(|_| libc::EHOSTDOWN)?;
    // What follows the answer is the program's to read.
    let mut answer = [0; WATCHED_BYTES];
    let told = exchange(fd, message.as_bytes(), STATE_SECONDS, &mut answer);
    let granted = match told.map(|length| Reply::decode(&answer[..length])) {
        Ok(Ok(Some((Reply::Watched(0), _)))) => Ok(()),
        Ok(Ok(Some((Reply::Watched(errno), _)))) => Err(errno),
        _ => Err(libc::EHOSTDOWN),
    };
    let ready = granted.and_then(|()| {
        set_patience(fd, libc::SO_RCVTIMEO, 0)?;
        raw::fcntl(fd, libc::F_SETFL, libc::O_NONBLOCK.into())
    });
    ready.map(|_| fd).inspect_err(|_| raw::close(fd))
}

/// The errno for a connect that the kernel says was reset: without a word of the broker's, nobody
/// is there.
pub fn refused_errno(cookie: Cookie) -> Errno {
    match socket_state(cookie) {
        Some(SocketState::Refused(errno) | SocketState::Reset(errno)) => errno,
        _ => libc::ECONNREFUSED,
    }
}

/// The errno for a socket that the kernel says was reset.
pub fn reset_errno(cookie: Cookie) -> Errno {
    match socket_state(cookie) {
        Some(SocketState::Refused(errno) | SocketState::Reset(errno)) => errno,
        // The broker went away while the connect was under way: nobody is there.
        Some(SocketState::Pending) => libc::ECONNREFUSED,
        _ => libc::ECONNRESET,
    }
}

/// What stands for a name.
pub fn resolve(question: stp_proto::local::wire::Resolve<'_>) -> Option<Resolved> {
    ask(&Request::Resolve(question), RESOLVE_SECONDS, |reply| match reply {
        Reply::Resolved(resolved) => Some(resolved),
        _ => None,
    })
}

/// The name behind a virtual address; copied out, as the answer's memory goes.
pub fn name_of(ip: IpAddr) -> Option<Host> {
    ask(&Request::Name(ip), RESOLVE_SECONDS, |reply| match reply {
        Reply::Name(Some(name)) => Host::new(name),
        _ => None,
    })
}

/// A host name in a fixed place, NUL at the end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Host([u8; HOST_BYTES_MAX + 1]);

impl Host {
    /// A name, if it is not too long.
    pub fn new(name: &str) -> Option<Host> {
        let mut host = Host([0; HOST_BYTES_MAX + 1]);
        host.0[..HOST_BYTES_MAX].get_mut(..name.len())?.copy_from_slice(name.as_bytes());
        Some(host)
    }

    /// The name as C has it.
    pub fn as_c_str(&self) -> &CStr {
        CStr::from_bytes_until_nul(&self.0).unwrap_or_default()
    }
}

/// Who stands behind a connection that the program has accepted from this machine; nothing if the
/// broker has not made it.
pub fn peer_of(accepted: Accepted) -> Option<SocketAddr> {
    ask(&Request::Accepted(accepted), STATE_SECONDS, |reply| match reply {
        Reply::Peer(peer) => peer,
        _ => None,
    })
}

/// Tells the broker of a routed connect that goes to the kernel, and why.
pub fn passed(passed: Passed) {
    let _none = ask(&Request::Passed(passed), STATE_SECONDS, |_| Some(()));
}

/// Tells the broker how long what the program writes may be unacknowledged, in milliseconds.
pub fn user_timeout(cookie: Cookie, ms: u32) {
    let _none = ask(&Request::UserTimeout(cookie, ms), STATE_SECONDS, |_| Some(()));
}

/// Tells the broker that closing this socket means abort, or no longer does.
pub fn linger(cookie: Cookie, abortive: bool) {
    let _none = ask(&Request::Linger(cookie, abortive), STATE_SECONDS, |_| Some(()));
}
