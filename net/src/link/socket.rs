//! The TCP socket of a link: its options, and reads and writes that never wait.

use std::io::{self, Read};
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::time::Duration;

use parking_lot::Mutex;
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::io::Interest;
use tokio::net::TcpStream;

use super::proxy::Detour;
use super::ssh::SshWay;
use crate::place::Places;

/// More unsent bytes than this wait with us, where they can still be replaced, and not in the
/// kernel.
const NOTSENT_LOWAT: u32 = 256 * 1024;
/// Bytes of a segment that passes everywhere: every path of IPv6 takes packets of 1,280 bytes (RFC
/// 8200, 5), of which IP and TCP with their options take up to 100.
const SHORT_SEGMENT: u32 = 1_180;
/// A connection that is silent for this long is asked whether it lives. Links of sessions never
/// are; those that wait for a session, or for news of a name, mostly.
const KEEPALIVE: Duration = Duration::from_secs(60);

/// The congestion control of links, by what a configuration says of it. Nothing means BBR: it does
/// not take every lost packet for congestion, and leaves no long queue of its own behind which the
/// traffic of others could not be seen. `system` is what the kernel does for everybody.
#[must_use]
pub fn congestion(configured: Option<String>) -> Option<String> {
    match configured.as_deref() {
        None => Some("bbr".to_owned()),
        Some("system") => None,
        Some(_) => configured,
    }
}

/// How links are made, at either end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkOptions {
    /// For the connection and the handshake together.
    pub timeout: Duration,
    /// How long the kernel waits for an acknowledgement before it gives the link up
    /// (TCP_USER_TIMEOUT): the last resort behind the session's own heartbeat. A peer that does
    /// not read for this long loses the link as well; sessions always read, and say how much more
    /// they take.
    pub user_timeout: Duration,
    /// The congestion control by name, if the kernel has it; otherwise the kernel's own choice.
    pub congestion: Option<String>,
    /// Segments that pass on every path, in both directions.
    pub short_segments: bool,
    /// A proxy that leads out of this network.
    pub detour: Option<Detour>,
    /// The user's ssh, which leads to the server's machine where nothing else does.
    pub ssh: Option<SshWay>,
    /// The interface over which it leaves, by name; none: what the routes say. A peer on this
    /// machine is reached all the same.
    pub device: Option<String>,
}

impl LinkOptions {
    /// The same for a server at one of these places: without the proxy, if that spares one.
    pub(super) fn sparing(&self, places: &Places) -> Self {
        let spared = |detour: &Detour| places.all().iter().any(|place| detour.spares(place));
        let detour = self.detour.clone().filter(|detour| !spared(detour));
        Self { detour, ..self.clone() }
    }
}

impl Default for LinkOptions {
    fn default() -> Self {
        Self {
            timeout: Duration::from_secs(10),
            user_timeout: Duration::from_secs(10),
            congestion: None,
            short_segments: false,
            detour: None,
            ssh: None,
            device: None,
        }
    }
}

/// Sets what every link needs.
pub(super) fn prepare(socket: &SockRef<'_>, options: &LinkOptions) -> io::Result<()> {
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_user_timeout(Some(options.user_timeout))?;
    socket.set_tcp_notsent_lowat(NOTSENT_LOWAT)?;
    let asking = TcpKeepalive::new().with_time(KEEPALIVE).with_interval(KEEPALIVE / 4);
    socket.set_tcp_keepalive(&asking)?;
    if let Some(name) = &options.congestion
        && let Err(error) = socket.set_tcp_congestion(name.as_bytes())
    {
        say_once(name, &error);
    }
    Ok(())
}

/// Limits how many bytes a second leave; none: no limit. There is no safe wrapper at hand.
pub(super) fn pace(tcp: &TcpStream, rate: Option<u64>) -> io::Result<()> {
    let rate = rate.unwrap_or(u64::MAX);
    let length = libc::socklen_t::try_from(size_of_val(&rate)).expect("8 fits");
    // SAFETY: the descriptor is open while `tcp` lives; `rate` is `length` readable bytes, which
    // the kernel copies.
    let answer = unsafe {
        libc::setsockopt(
            tcp.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_MAX_PACING_RATE,
            (&raw const rate).cast(),
            length,
        )
    };
    if answer == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// A kernel without the congestion control asked for is no reason to have no link.
fn say_once(name: &str, error: &io::Error) {
    static SAID: Mutex<Vec<String>> = Mutex::new(Vec::new());
    let mut said = SAID.lock();
    if said.len() < 16 && !said.iter().any(|known| known == name) {
        said.push(name.to_owned());
        tracing::info!(congestion = name, %error, "congestion control not available, using the \
            system's");
    }
}

/// A socket that is ready to connect to `addr`.
pub(super) fn outgoing(addr: SocketAddr, options: &LinkOptions) -> io::Result<Socket> {
    let domain = Domain::for_address(addr);
    let socket = Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?;
    prepare(&SockRef::from(&socket), options)?;
    if options.short_segments {
        // Before the connect, so that the other end is told of it as well.
        socket.set_tcp_mss(SHORT_SEGMENT)?;
    }
    if let Some(device) = options.device.as_ref().filter(|_| !addr.ip().is_loopback()) {
        socket.bind_device(Some(device.as_bytes()))?;
    }
    Ok(socket)
}

/// Reads once. `WouldBlock` when nothing is there; 0 at the end.
pub(super) fn receive(tcp: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    let mut received = 0;
    // As tokio's own reads do: a short read has emptied the socket, so the next wait needs no
    // further call to find that out. An end of the stream is never forgotten.
    let once = tcp.try_io(Interest::READABLE, || {
        received = (&*SockRef::from(tcp)).read(buffer)?;
        let emptied = received > 0 && received < buffer.len();
        if emptied { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    if received > 0 { Ok(received) } else { once.map(|()| 0) }
}

/// Writes once. `WouldBlock` when nothing was taken.
pub(super) fn send(tcp: &TcpStream, bytes: &[u8]) -> io::Result<usize> {
    let mut taken = 0;
    let once = tcp.try_io(Interest::WRITABLE, || {
        taken = SockRef::from(tcp).send_with_flags(bytes, libc::MSG_NOSIGNAL)?;
        if taken < bytes.len() { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(()) }
    });
    if taken > 0 { Ok(taken) } else { once.map(|()| 0) }
}

pub(super) fn shut_write(tcp: &TcpStream) -> io::Result<()> {
    SockRef::from(tcp).shutdown(std::net::Shutdown::Write)
}
