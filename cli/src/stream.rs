//! A session for this command itself, opened at the broker as the shim does it for an app.

use std::io::{self, Read, Write};
use std::net::SocketAddr;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use stp_lookup::here;
use stp_proto::local::path::SOCKET_FILE;
use stp_proto::local::wire::{FILLER_END, Open, OpenFlags, Reply, Request, SocketState};
use stp_proto::local::{Cookie, Family};

/// Opens a session to a virtual address. It may still be refused: then reading ends at once, and
/// [`socket_state`] says why.
pub fn open(dir: &Path, to: SocketAddr, silence: Duration) -> io::Result<(UnixStream, Cookie)> {
    let cookie = Cookie(stp_lookup::password::random());
    let open = Request::Open(Open {
        cookie,
        family: if to.is_ipv4() { Family::V4 } else { Family::V6 },
        destination: to,
        local: SocketAddr::from(([127, 0, 0, 1], 1)),
        pid: std::process::id(),
        flags: OpenFlags::default(),
    });
    let message = open.encode().ok_or(io::ErrorKind::InvalidInput)?;
    let mut stream = here::connect(dir, SOCKET_FILE).map_err(io::Error::other)?;
    stream.set_read_timeout(Some(silence))?;
    stream.write_all(message.as_bytes())?;
    stream.write_all(&[FILLER_END])?;
    Ok((stream, cookie))
}

/// The state of such a session.
pub fn socket_state(dir: &Path, cookie: Cookie) -> Option<SocketState> {
    let mut stream = here::connect(dir, SOCKET_FILE).ok()?;
    stream.set_read_timeout(Some(Duration::from_secs(3))).ok()?;
    stream.write_all(Request::SocketState(cookie).encode()?.as_bytes()).ok()?;
    let mut bytes = Vec::new();
    stream.take(1_024).read_to_end(&mut bytes).ok()?;
    match Reply::decode(&bytes) {
        Ok(Some((Reply::SocketState(state), _))) => Some(state),
        _ => None,
    }
}
