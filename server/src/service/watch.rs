//! Noticing that a stream to a service is lost: this machine has left its address, or the other end
//! answers nothing any more.

use std::io;
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use stp_net::link::tcp_info_of;
use stp_net::paths::is_here;
use tokio::net::TcpStream;

/// The kernel asks a silent peer after this time whether it is there, then every second.
const ASK_AFTER: Duration = Duration::from_secs(1);
const ASK_EVERY: Duration = Duration::from_secs(1);
/// The kernel itself gives the stream up after this many questions: what cannot be asked for again
/// must be able to wait for its path.
const ASK_MAX: u32 = 127;
/// A stream is taken for lost after this many unanswered questions.
const UNANSWERED: u8 = 2;
/// A stream is taken for lost when what it sent had to be sent again this often.
const SENT_AGAIN: u8 = 3;

/// Has the kernel ask from time to time whether the peer is there.
///
/// # Errors
/// When the kernel refuses.
pub fn ask_often(stream: &TcpStream) -> io::Result<()> {
    let keepalive =
        TcpKeepalive::new().with_time(ASK_AFTER).with_interval(ASK_EVERY).with_retries(ASK_MAX);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

/// Why it can carry nothing any more: its address is gone.
#[must_use]
pub fn homeless(stream: &TcpStream) -> Option<String> {
    let local = stream.local_addr().ok()?.ip();
    (!is_here(local)).then(|| format!("this machine has left the address {local}"))
}

/// Why it is taken for lost. What waits for its path must ask [`homeless`] instead.
#[must_use]
pub fn lost(stream: &TcpStream) -> Option<String> {
    homeless(stream).or_else(|| {
        let info = tcp_info_of(stream.as_fd()).ok()?;
        let silent = info.probes >= UNANSWERED || info.timeouts >= SENT_AGAIN;
        silent.then(|| "the origin does not answer".to_owned())
    })
}
