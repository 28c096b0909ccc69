//! What a program that knows of sessions asks of its own (`session.h`).

use core::ffi::{c_char, c_int};
use core::net::SocketAddr;

use stp_proto::local::Cookie;
use stp_proto::local::wire::{
    Act, EMOVED, NAMED_BYTES_MAX, Names as NamesTold, Resolve, Resolved, SocketState, Told,
    state_number,
};

use super::socket::ours;
use super::{broker, process};
use crate::raw::{self, Errno, Fd};

/// How often a state that a program waits for is looked at.
const LOOK_EVERY_MS: u64 = 50;

/// `struct session_status`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Status {
    state: i32,
    rtt_us: u32,
    paused_ms: u64,
    taken: u64,
    acknowledged: u64,
    received: u64,
    delivered: u64,
    server: Text,
}

/// A text as C has it.
type Text = [c_char; NAMED_BYTES_MAX + 1];

fn text(from: &str) -> Text {
    let mut text = [0; NAMED_BYTES_MAX + 1];
    for (to, from) in text[..NAMED_BYTES_MAX].iter_mut().zip(from.as_bytes()) {
        *to = from.cast_signed();
    }
    text
}

/// `struct session_names`.
#[repr(C)]
#[derive(Clone, Copy)]
pub struct Names {
    service: Text,
    server: Text,
    endpoint: Text,
}

impl Names {
    fn of(told: &NamesTold<'_>) -> Names {
        let NamesTold { service, server, endpoint } = told;
        Names { service: text(service), server: text(server), endpoint: text(endpoint) }
    }
}

impl Status {
    fn of(told: &Told<'_>) -> Status {
        Status {
            state: state_number(told.state).into(),
            rtt_us: told.rtt_us,
            paused_ms: told.paused_ms,
            taken: told.taken,
            acknowledged: told.acknowledged,
            received: told.received,
            delivered: told.delivered,
            server: text(told.server),
        }
    }
}

/// Does what is wanted of the session of a socket; how it fared before that.
pub fn act(fd: Fd, act: Act) -> Result<Status, Errno> {
    let cookie = session_of(fd)?;
    let told = broker::act(cookie, act, |told| Status::of(&told));
    told.ok_or(libc::EHOSTDOWN)?.ok_or_else(|| why_over(cookie))
}

/// What the ends of the session of a socket are called.
pub fn names(fd: Fd) -> Result<Names, Errno> {
    let cookie = session_of(fd)?;
    let told = broker::names(cookie, |told| Names::of(&told));
    told.ok_or(libc::EHOSTDOWN)?.ok_or_else(|| why_over(cookie))
}

/// A descriptor from which a byte can be read for each change of the session's state.
pub fn events(fd: Fd) -> Result<Fd, Errno> {
    let cookie = session_of(fd)?;
    broker::watch(cookie).map_err(|errno| match errno {
        libc::ESHUTDOWN => why_over(cookie),
        other => other,
    })
}

/// The session of a socket.
fn session_of(fd: Fd) -> Result<Cookie, Errno> {
    let name = ours(fd).ok_or_else(|| match raw::getsockname(fd) {
        Err(libc::EBADF) => libc::EBADF,
        _ => libc::ENOTCONN,
    })?;
    Ok(name.cookie)
}

/// Why there is no such session any more.
fn why_over(cookie: Cookie) -> Errno {
    match broker::socket_state(cookie) {
        Some(SocketState::Reset(EMOVED)) => EMOVED,
        _ => libc::ESHUTDOWN,
    }
}

/// The port of connects by name: a name says which service is meant.
const ANY_PORT: u16 = 1;

/// A new socket for a service, and where it is to be connected to.
pub fn begin(name: &[u8], flags: c_int) -> Result<(Fd, SocketAddr), Errno> {
    if flags & !(libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC) != 0 || !name.contains(&b'@') {
        return Err(libc::EINVAL);
    }
    let host = core::str::from_utf8(name).map_err(|_| libc::EINVAL)?;
    let v4 = match broker::resolve(Resolve { host, port: None }) {
        Some(Resolved::Virtual { v4, .. }) => v4,
        Some(Resolved::TryAgain) => return Err(libc::EAGAIN),
        Some(Resolved::NotRouted | Resolved::Unknown) => return Err(libc::ENOENT),
        None => return Err(libc::EHOSTDOWN),
    };
    process::knows_virtual_now();
    let fd = raw::socket(libc::AF_INET, libc::SOCK_STREAM | flags, 0)?;
    process::made_socket(fd);
    Ok((fd, (v4, ANY_PORT).into()))
}

/// Waits until a session's state is another one.
pub fn wait(fd: Fd, state: c_int, timeout_ms: c_int) -> Result<Status, Errno> {
    let until = raw::now_ms().saturating_add(u64::try_from(timeout_ms).unwrap_or(0));
    loop {
        let status = act(fd, Act::Look)?;
        if status.state != state {
            return Ok(status);
        }
        let now = raw::now_ms();
        if now >= until {
            return Err(libc::ETIMEDOUT);
        }
        raw::sleep_ms(LOOK_EVERY_MS.min(until - now));
    }
}
