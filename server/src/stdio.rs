//! `stp-server --stdio`: joins its own input and output with the server that runs on this machine,
//! so that a link can go through whatever started it, such as ssh.

use std::fs::File;
use std::io::{self, Read, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpStream};
use std::os::fd::{AsFd, BorrowedFd};

/// Read at once, bytes: four records.
const PIECE: usize = 64 * 1024;

/// Joins them until the server has ended the link. What the other side does not send any more is
/// the end of the link as well.
pub(crate) fn join(listen: SocketAddr) -> io::Result<()> {
    let server = TcpStream::connect(near(listen))?;
    server.set_nodelay(true)?;
    let mut up = server.try_clone()?;
    std::thread::spawn(move || {
        let copied = bare(io::stdin().as_fd()).and_then(|input| copy(input, &mut up));
        if let Err(error) = copied {
            tracing::debug!(%error, "the input has ended");
        }
        let _gone_already = up.shutdown(Shutdown::Write);
    });
    copy(server, bare(io::stdout().as_fd())?)
}

/// Copies at once whatever comes. `io::copy` would have the kernel splice it, which holds back what
/// is short, for it may be followed by more.
fn copy(mut from: impl Read, mut to: impl Write) -> io::Result<()> {
    let mut piece = vec![0; PIECE];
    loop {
        match from.read(&mut piece) {
            Ok(0) => return Ok(()),
            Ok(count) => to.write_all(&piece[..count])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// The same without a buffer: what has come goes on at once, and not at the end of a line.
fn bare(fd: BorrowedFd<'_>) -> io::Result<File> {
    Ok(fd.try_clone_to_owned()?.into())
}

/// Where the server is met from its own machine.
fn near(listen: SocketAddr) -> SocketAddr {
    let ip = match listen.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, listen.port())
}
