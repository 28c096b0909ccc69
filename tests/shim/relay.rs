//! A broker without sessions: its app side joined straight to TCP, so that the shim can be tested
//! alone, against what plain TCP does.
//!
//! Destinations in the documentation prefixes (RFC 5737) play fates instead of being dialled:
//! `192.0.2.0/24` is refused at once, `198.51.100.0/24` after 300 ms, each with the port number as
//! errno, and `203.0.113.0/24` never answers.

use std::collections::HashMap;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpStream};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use nix::sys::socket::MsgFlags;
use stp_broker::app::{AppEnd, AppSocket, Listener, Request, Shut, publish_routes};
use stp_broker::pauses::{Pause, Pauses};
use stp_broker::routes::Freeze;
use stp_net::urgent;
use stp_proto::local::routes::{Builder, Ports, WhenAbsent};
use stp_proto::local::wire::{PassedWhy, Resolved};
use stp_proto::session::Limits;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::TcpSocket;

const PIECE: usize = 256 << 10;

/// The routes, and the addresses that names lead to.
pub struct Rules {
    /// Address prefixes, on every port.
    pub prefixes: Vec<(IpAddr, u8)>,
    /// Host names and the addresses behind them, on every port.
    pub hosts: Vec<(String, IpAddr)>,
    /// For programs that find no broker.
    pub when_absent: WhenAbsent,
    /// The broker tells of pauses, of which there are none, and would have clocks stand still.
    pub stops_clock: bool,
    /// The reasons why connects went to the kernel although these rules give them to the broker.
    pub passed: Arc<Mutex<Vec<PassedWhy>>>,
}

impl Rules {
    /// All of loopback, the fates, and some names for loopback.
    pub fn loopback() -> Rules {
        let v4 = |text: &str| text.parse().expect("a literal");
        let local = |host: &str| (host.to_owned(), IpAddr::V4(Ipv4Addr::LOCALHOST));
        Rules {
            prefixes: vec![
                (v4("127.0.0.0"), 16),
                (v4("::1"), 128),
                (v4("192.0.2.0"), 24),
                (v4("198.51.100.0"), 24),
                (v4("203.0.113.0"), 24),
            ],
            hosts: vec![local("mirror.test"), local("www.web.at.example.com.stp")],
            when_absent: WhenAbsent::Pass,
            stops_clock: false,
            passed: Arc::default(),
        }
    }

    /// Writes the route map these rules make.
    pub fn publish(&self, dir: &Path) -> io::Result<()> {
        let wrong = |error| io::Error::new(ErrorKind::InvalidInput, error);
        let mut map = Builder::new(self.when_absent);
        for (ip, prefix) in &self.prefixes {
            map.address(*ip, *prefix, Ports::ALL).map_err(wrong)?;
        }
        for (host, _) in &self.hosts {
            // Not every port, to see that the others are reached directly.
            map.name(host, Ports { low: 1_024, high: u16::MAX }).map_err(wrong)?;
        }
        publish_routes(dir, &map.build().map_err(wrong)?)
    }
}

/// Serves until the listener ends.
pub async fn serve(dir: &Path, rules: Rules) -> io::Result<()> {
    let mut listener = Listener::bind(dir, None).map_err(io::Error::other)?;
    rules.publish(dir)?;
    let pauses = rules.stops_clock.then(|| Pauses::open(dir, &Limits::default())).transpose()?;
    let virtual_ips: HashMap<IpAddr, IpAddr> = (1..)
        .zip(&rules.hosts)
        .map(|(number, (_, ip))| (IpAddr::V4(Ipv4Addr::new(198, 18, 0, number)), *ip))
        .collect();
    while let Some(request) = listener.next().await {
        match request {
            Request::Open(app) => {
                let asked = app.open().destination;
                let ip = asked.ip().to_canonical();
                let ip = virtual_ips.get(&ip).copied().unwrap_or(ip);
                let pause = pauses.as_ref().map(|it| it.enter(&app.open().cookie, Freeze::Clock));
                tokio::spawn(async move {
                    tokio::select! {
                        () = relay(app, SocketAddr::new(ip, asked.port())) => {}
                        () = heard(pause.unwrap_or_default()) => {}
                    }
                });
            }
            // It has no keeper.
            Request::Found(_) => {}
            Request::Resolve(request) => {
                let host = request.host.trim_end_matches('.').to_ascii_lowercase();
                let at = rules.hosts.iter().position(|(known, _)| *known == host);
                request.answer(match at {
                    Some(at) => {
                        Resolved::Virtual { v4: Ipv4Addr::new(198, 18, 0, at as u8 + 1), v6: None }
                    }
                    None => Resolved::Unknown,
                });
            }
            Request::Name(request) => {
                let at = match request.address {
                    IpAddr::V4(ip) => usize::from(ip.octets()[3]).checked_sub(1),
                    IpAddr::V6(_) => None,
                };
                let host = at.and_then(|at| rules.hosts.get(at));
                request.answer(host.map(|(host, _)| host.clone()));
            }
            Request::Accepted(request) => request.answer(None),
            Request::Act(request) => request.answer(None),
            Request::Names(request) => request.answer(None),
            Request::Watch(request) => request.answer(None),
            Request::UserTimeout(..) => {}
            Request::Passed(connect) => {
                rules.passed.lock().expect("nobody panics").push(connect.passed.why);
            }
        }
    }
    Ok(())
}

/// What a destination in a documentation prefix plays, if it is one: delay and errno.
fn fate(destination: SocketAddr) -> Option<(Duration, i32)> {
    let IpAddr::V4(ip) = destination.ip() else { return None };
    let errno = i32::from(destination.port());
    match ip.octets() {
        [192, 0, 2, _] => Some((Duration::ZERO, errno)),
        [198, 51, 100, _] => Some((Duration::from_millis(300), errno)),
        [203, 0, 113, _] => Some((Duration::from_secs(3_600), errno)),
        _ => None,
    }
}

/// The link is heard of all the time.
async fn heard(pause: Pause) {
    loop {
        pause.heard();
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
}

async fn relay(mut app: AppSocket, destination: SocketAddr) {
    if let Some((delay, errno)) = fate(destination) {
        tokio::time::sleep(delay).await;
        return app.refuse(errno);
    }
    let tcp = match dial(app.take_reserved(), destination).await {
        Ok(tcp) => tcp,
        Err(error) => return app.refuse(error.raw_os_error().unwrap_or(libc::ECONNREFUSED)),
    };
    if app.establish().await.is_err() {
        return;
    }
    join(app, tcp).await;
}

/// From the very address and port that the app believes to have.
async fn dial(reserved: Option<OwnedFd>, mut to: SocketAddr) -> io::Result<tokio::net::TcpStream> {
    let socket = match reserved {
        Some(reserved) => {
            let stream = TcpStream::from(reserved);
            stream.set_nonblocking(true)?;
            // It is the app's own file: what happens to it is told by the socket that took its
            // place.
            stp_tests::kernel::disown(stream.as_fd())?;
            if stream.local_addr().is_ok_and(|local| local.is_ipv6())
                && let IpAddr::V4(v4) = to.ip()
            {
                to.set_ip(v4.to_ipv6_mapped().into());
            }
            TcpSocket::from_std_stream(stream)
        }
        None if to.is_ipv4() => TcpSocket::new_v4()?,
        None => TcpSocket::new_v6()?,
    };
    urgent::in_line(&socket)?;
    socket.connect(to).await
}

/// One direction: bytes on their way, whether they are an urgent one, and whether its end has been
/// seen and passed on.
struct Way {
    bytes: Vec<u8>,
    begin: usize,
    end: usize,
    urgent: bool,
    ended: bool,
    passed: bool,
    /// Why its bytes are not taken any more.
    broken: Option<i32>,
}

impl Way {
    fn new() -> Way {
        Way {
            bytes: vec![0; PIECE],
            begin: 0,
            end: 0,
            urgent: false,
            ended: false,
            passed: false,
            broken: None,
        }
    }

    fn is_empty(&self) -> bool {
        self.begin == self.end
    }

    fn read(
        &mut self,
        read: impl FnOnce(&mut [u8]) -> io::Result<(usize, bool)>,
    ) -> io::Result<()> {
        (self.begin, self.end) = (0, 0);
        (self.end, self.urgent) = read(&mut self.bytes)?;
        self.ended = self.end == 0;
        Ok(())
    }

    fn write(&mut self, write: impl FnOnce(&[u8], bool) -> io::Result<usize>) -> io::Result<()> {
        self.begin += write(&self.bytes[self.begin..self.end], self.urgent)?;
        Ok(())
    }
}

enum Over {
    Closed,
    FarReset(i32),
    AppReset,
}

async fn join(mut app: AppSocket, mut tcp: tokio::net::TcpStream) {
    let (mut up, mut down) = (Way::new(), Way::new());
    let over = loop {
        let step = std::future::poll_fn(|cx| step(cx, &mut app, &tcp, &mut up, &mut down)).await;
        match step {
            Err(over) => break over,
            Ok(()) if up.ended && up.is_empty() && !up.passed => {
                up.passed = true;
                if app.end() == AppEnd::Reset {
                    break Over::AppReset;
                }
                let _far_gone = tcp.shutdown().await;
            }
            Ok(()) => {}
        }
        if let Some(errno) = up.broken
            && down.ended
            && down.is_empty()
        {
            break Over::FarReset(errno);
        }
        if down.ended && down.is_empty() && !down.passed {
            down.passed = true;
            app.shut(Shut::Fin);
        }
        if up.passed && down.passed {
            break Over::Closed;
        }
    };
    match over {
        Over::Closed => app.close(),
        Over::FarReset(errno) => app.shut(Shut::Reset { errno }),
        Over::AppReset => {
            let _closed_anyway = tcp.set_zero_linger();
        }
    }
}

fn step(
    cx: &mut Context<'_>,
    app: &mut AppSocket,
    tcp: &tokio::net::TcpStream,
    up: &mut Way,
    down: &mut Way,
) -> Poll<Result<(), Over>> {
    // Whatever was ready and has now moved, or turned out not to be ready, is to be asked again.
    let mut moved = false;
    let mut attempt = |result: io::Result<()>, far: bool| match result {
        Ok(()) => {
            moved = true;
            Ok(())
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            moved = true;
            Ok(())
        }
        Err(error) if far => Err(Over::FarReset(error.raw_os_error().unwrap_or(libc::EIO))),
        Err(_) => Err(Over::AppReset),
    };
    if !up.ended && up.is_empty() && up.broken.is_none() && app.poll_readable(cx).is_ready() {
        let read = up.read(|buf| {
            let count = app.try_read(&mut [IoSliceMut::new(buf)])?;
            Ok((count, app.is_urgent()))
        });
        attempt(read, false)?;
    }
    if !up.is_empty() && up.broken.is_none() && tcp.poll_write_ready(cx).is_ready() {
        let written = up.write(|buf, urgent| match urgent {
            true => tcp.try_io(Interest::WRITABLE, || urgent::send(tcp, buf[0])),
            false => tcp.try_write(buf),
        });
        let failed = written.as_ref().err().filter(|e| e.kind() != ErrorKind::WouldBlock);
        // The bytes that the far end sent before it went can still be read.
        up.broken = failed.map(|error| error.raw_os_error().unwrap_or(libc::EIO));
        attempt(if up.broken.is_some() { Ok(()) } else { written }, true)?;
    }
    if !down.ended && down.is_empty() && tcp.poll_read_ready(cx).is_ready() {
        let read = down.read(|buf| {
            tcp.try_io(Interest::READABLE, || {
                urgent::read(tcp.as_fd(), &mut [IoSliceMut::new(buf)], |slices| {
                    let flags = MsgFlags::MSG_DONTWAIT;
                    Ok(nix::sys::socket::recv(tcp.as_raw_fd(), &mut slices[0], flags)?)
                })
            })
        });
        attempt(read, true)?;
    }
    if !down.is_empty() && app.poll_writable(cx).is_ready() {
        let written = down.write(|buf, urgent| match urgent {
            true => app.try_write_urgent(buf[0]),
            false => app.try_write(&[IoSlice::new(buf)]),
        });
        attempt(written, false)?;
    }
    let to_do = (up.ended && up.is_empty() && !up.passed)
        || (up.broken.is_some() && down.ended && down.is_empty())
        || (down.ended && down.is_empty() && !down.passed);
    if moved || to_do { Poll::Ready(Ok(())) } else { Poll::Pending }
}
