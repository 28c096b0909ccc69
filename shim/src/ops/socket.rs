//! Facts about a socket, asked of the kernel and, where the kernel cannot know, of the broker.

use stp_proto::local::socket_name::SocketName;
use stp_proto::local::wire::SocketState;

use super::broker;
use crate::raw::{self, Fd};

/// The bytes that the broker has not read, as the kernel counts them.
pub const SIOCOUTQ: core::ffi::c_long = 0x5411;

/// The name of a session's socket, which is all that is known of it; nothing for other sockets.
pub fn ours(fd: Fd) -> Option<SocketName> {
    const PATH_AT: usize = 2;
    let name = raw::getsockname(fd).ok()?;
    if name.family() != libc::AF_UNIX || name.as_bytes().get(PATH_AT) != Some(&0) {
        return None;
    }
    SocketName::decode(name.as_bytes().get(PATH_AT + 1..)?)
}

/// Whether both directions have ended.
pub fn hung_up(fd: Fd) -> bool {
    raw::poll(fd, 0).is_ok_and(|events| events & libc::POLLHUP != 0)
}

/// Whether both ends have closed, after which there is no connection any more. A socket whose own
/// end alone has shut both directions is still connected.
pub fn is_over(fd: Fd, name: &SocketName) -> bool {
    hung_up(fd)
        && !matches!(broker::socket_state(name.cookie), Some(SocketState::Established { .. }))
}

/// Whether the connect is still under way. The broker is asked only when the filler may lie unread.
pub fn is_pending(fd: Fd, name: &SocketName) -> bool {
    let queued = raw::ioctl_number(fd, SIOCOUTQ).unwrap_or(0);
    let room = raw::option(fd, libc::SOL_SOCKET, libc::SO_SNDBUF).unwrap_or(0);
    queued.saturating_mul(4) > room
        && broker::socket_state(name.cookie) == Some(SocketState::Pending)
}
