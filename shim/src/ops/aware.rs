//! What a program that knows of sessions asks of its own (`session.h`).

use core::ffi::{c_char, c_int};

use stp_proto::local::wire::{Act, SERVER_BYTES_MAX, Told};

use super::broker;
use super::socket::ours;
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
    server: [c_char; SERVER_BYTES_MAX + 1],
}

impl Status {
    fn of(told: &Told<'_>) -> Status {
        let mut server = [0; SERVER_BYTES_MAX + 1];
        for (to, from) in server.iter_mut().zip(told.server.as_bytes()) {
            *to = from.cast_signed();
        }
        Status {
            state: told.state_number().into(),
            rtt_us: told.rtt_us,
            paused_ms: told.paused_ms,
            taken: told.taken,
            acknowledged: told.acknowledged,
            received: told.received,
            delivered: told.delivered,
            server,
        }
    }
}

/// Does what is wanted of the session of a socket; how it fared before that.
pub fn act(fd: Fd, act: Act) -> Result<Status, Errno> {
    let name = ours(fd).ok_or_else(|| match raw::getsockname(fd) {
        Err(libc::EBADF) => libc::EBADF,
        _ => libc::ENOTCONN,
    })?;
    let told = broker::act(name.cookie, act, |told| Status::of(&told));
    told.ok_or(libc::EHOSTDOWN)?.ok_or(libc::ESHUTDOWN)
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
