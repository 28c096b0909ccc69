//! News of network paths: which links, addresses and routes this machine has.
//!
//! The kernel tells of every change through rtnetlink. Changes come in bursts (link up, address,
//! route), and news may be lost when the queue overruns. So what they say is not read: after each
//! burst a broker looks itself, at the interfaces ([`crate::interfaces`]) and at the addresses that
//! its links leave from ([`is_here`]), and compares.

use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::{AsRawFd, OwnedFd};
use std::time::Duration;

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, socket,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

/// How long the network must be quiet after a change before it is reported.
const QUIET: Duration = Duration::from_millis(50);
/// A burst is reported after this long even if it goes on.
const BURST_MAX: Duration = Duration::from_millis(500);

/// Tells of changes of links, addresses and routes.
#[derive(Debug)]
pub struct PathWatch {
    socket: AsyncFd<OwnedFd>,
    /// When the burst under way is reported at the latest.
    burst_end: Option<tokio::time::Instant>,
}

impl PathWatch {
    /// Begins to watch the network namespace this thread is in. Needs a tokio runtime.
    pub fn new() -> io::Result<Self> {
        let groups = libc::RTMGRP_LINK
            | libc::RTMGRP_IPV4_IFADDR
            | libc::RTMGRP_IPV6_IFADDR
            | libc::RTMGRP_IPV4_ROUTE
            | libc::RTMGRP_IPV6_ROUTE;
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let route = SockProtocol::NetlinkRoute;
        let fd = socket(AddressFamily::Netlink, SockType::Raw, flags, route)?;
        bind(fd.as_raw_fd(), &NetlinkAddr::new(0, groups.cast_unsigned()))?;
        // SAFETY: the `OwnedFd` owns an open descriptor, and nobody closes or replaces it while it
        // is inside.
        let socket = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE) };
        Ok(Self { socket: socket?, burst_end: None })
    }

    /// Waits for a change, and then until the burst it belongs to is over (50 ms of quiet). No
    /// change is lost when the future is dropped: the next call reports it.
    pub async fn changed(&mut self) -> io::Result<()> {
        let burst_end = match self.burst_end {
            Some(burst_end) => burst_end,
            None => {
                self.news().await?;
                *self.burst_end.insert(tokio::time::Instant::now() + BURST_MAX)
            }
        };
        loop {
            let quiet = tokio::time::Instant::now() + QUIET;
            match tokio::time::timeout_at(quiet.min(burst_end), self.news()).await {
                Ok(news) => news?,
                Err(_) => {
                    self.burst_end = None;
                    return Ok(());
                }
            }
        }
    }

    /// Waits for messages and drops them all.
    async fn news(&self) -> io::Result<()> {
        let mut ready = self.socket.readable().await?;
        let mut message = [0; 8192];
        for _ in 0..256 {
            let taken = ready.try_io(|socket| {
                match recv(socket.as_raw_fd(), &mut message, MsgFlags::MSG_DONTWAIT) {
                    // The queue overran: something changed, and that is all we want to know.
                    Ok(_) | Err(Errno::ENOBUFS | Errno::EINTR) => Ok(()),
                    Err(errno) => Err(errno.into()),
                }
            });
            match taken {
                Ok(result) => result?,
                Err(_would_block) => break,
            }
        }
        Ok(())
    }
}

/// Whether this machine has an address now.
#[must_use]
pub fn is_here(ip: IpAddr) -> bool {
    match UdpSocket::bind((ip, 0)) {
        Ok(_) => true,
        Err(error) => error.kind() != io::ErrorKind::AddrNotAvailable,
    }
}

/// Whether anything leads from one of this machine's addresses to a peer: a link between them may
/// say nothing for long when its route is gone. Nothing is sent.
#[must_use]
pub fn leads(from: IpAddr, to: SocketAddr) -> bool {
    match UdpSocket::bind((from, 0)).and_then(|socket| socket.connect(to)) {
        Ok(()) => true,
        Err(error) => !matches!(
            error.kind(),
            io::ErrorKind::AddrNotAvailable
                | io::ErrorKind::NetworkUnreachable
                | io::ErrorKind::HostUnreachable
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_leads_from_an_address_that_is_not_here() {
        let to = "127.0.0.1:9".parse().unwrap();
        assert!(leads(IpAddr::from([127, 0, 0, 1]), to));
        assert!(!leads(IpAddr::from([192, 0, 2, 77]), to));
    }

    #[test]
    fn an_address_is_here_if_it_can_be_bound() {
        assert!(is_here(IpAddr::from([127, 0, 0, 1])));
        assert!(!is_here(IpAddr::from([192, 0, 2, 77])));
    }

    #[tokio::test]
    async fn a_quiet_network_reports_nothing() {
        let mut watch = PathWatch::new().expect("rtnetlink needs no rights");
        let news = tokio::time::timeout(Duration::from_millis(20), watch.changed()).await;
        assert!(news.is_err() || news.is_ok_and(|news| news.is_ok()));
    }

    #[test]
    fn a_link_that_comes_up_is_reported() {
        // A network namespace of this thread's own; without the right to have one there is
        // nothing to try.
        let thread = std::thread::spawn(|| {
            if nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).is_err() {
                return;
            }
            let probe = UdpSocket::bind("0.0.0.0:0").expect("any port");
            assert!(probe.connect("127.0.0.1:9").is_err(), "no path yet");
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("a runtime").block_on(async {
                let mut watch = PathWatch::new().expect("rtnetlink needs no rights");
                let up =
                    std::process::Command::new("ip").args(["link", "set", "lo", "up"]).status();
                assert!(up.is_ok_and(|status| status.success()), "iproute2 is installed");
                // A call that is interrupted while the burst goes on hears of it the next time.
                let cut = tokio::time::timeout(QUIET / 5, watch.changed()).await;
                assert!(cut.is_err(), "the burst is not over yet");
                let news = tokio::time::timeout(Duration::from_secs(5), watch.changed()).await;
                news.expect("told in time").expect("the socket works");
                probe.connect("127.0.0.1:9").expect("a path, now that it was told");
            });
        });
        thread.join().expect("no panic");
    }
}
