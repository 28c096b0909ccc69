//! What a session reaches at this server: the near side of the server's sessions.
//!
//! A service is opened before its session exists (so that a denial reaches the app as the errno
//! of its connect), and then moved into the session's loop, which reads and writes it only when
//! the session has room: back-pressure needs nothing else.

pub mod ahead;
pub mod bound;
pub mod chains;
pub mod coming;
pub mod dial;
pub mod direct;
pub mod egress;
pub mod ftp;
pub mod http;
pub mod https;
pub mod join;
pub mod kept;
pub mod origin;
pub mod secured;
pub mod takeover;
pub mod tcp;
pub mod upstream;
pub mod watch;

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use stp_drive::{Near, Pulled};
use stp_net::spool::View;
use stp_proto::session::{Event, Session, ShutNear};
use stp_proto::ticket::Granted;
use stp_proto::time::Instant;

use crate::keeping::{Face, Keeping};
use crate::ticket::Mint;

/// The service of one session.
pub enum Service {
    /// Any protocol; cannot be continued elsewhere.
    Tcp(tcp::Tcp),
    /// HTTP/1: a real server, or the embedded origin.
    Http(Box<bound::BoundHttp>),
    /// The same, in TLS.
    Https(Box<https::Https<upstream::Target, Mint>>),
    /// The control connection of an FTP login.
    Ftp(Box<ftp::Control>),
    /// A data connection of one.
    FtpData(Box<ftp::Data>),
}

impl Service {
    /// What the gateway has granted, if the service has to do with that.
    #[must_use]
    pub fn granted(&self) -> Option<&Granted> {
        match self {
            Self::Http(http) => http.http().granted(),
            Self::Https(https) => https.granted(),
            Self::Tcp(_) | Self::Ftp(_) | Self::FtpData(_) => None,
        }
    }

    /// What its spool tells of itself, if it has one.
    #[must_use]
    pub fn spool(&self) -> Option<Arc<View>> {
        match self {
            Self::Tcp(tcp) => tcp.spool(),
            Self::Http(_) | Self::Https(_) | Self::Ftp(_) | Self::FtpData(_) => None,
        }
    }

    /// Acknowledgements wait for tickets.
    #[must_use]
    pub fn holds_acks(&self) -> bool {
        match self {
            Self::Tcp(_) => false,
            Self::Http(http) => http.http().holds_acks(),
            Self::Https(https) => https.holds_acks(),
            Self::Ftp(ftp) => ftp.holds_acks(),
            Self::FtpData(data) => data.holds_acks(),
        }
    }
}

impl Service {
    /// Has a keeper hold what can go on in another process.
    #[must_use]
    pub fn kept_by(self, keeping: &Arc<Keeping>, face: impl FnOnce() -> Face) -> Service {
        match self {
            Self::Tcp(tcp) => Self::Tcp(tcp.kept_by(keeping, &face())),
            Self::Http(http) => {
                let face = Face { bound: true, ..face() };
                Self::Http(Box::new(http.kept_by(keeping, face)))
            }
            other => other,
        }
    }
}

impl Near for Service {
    fn poll_readable(&mut self, now: Instant, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Tcp(tcp) => tcp.poll_readable(now, cx),
            Self::Http(http) => http.poll_readable(now, cx),
            Self::Https(https) => https.poll_readable(now, cx),
            Self::Ftp(ftp) => ftp.poll_readable(now, cx),
            Self::FtpData(data) => data.poll_readable(now, cx),
        }
    }

    fn poll_writable(&mut self, now: Instant, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Tcp(tcp) => tcp.poll_writable(now, cx),
            Self::Http(http) => http.poll_writable(now, cx),
            Self::Https(https) => https.poll_writable(now, cx),
            Self::Ftp(ftp) => ftp.poll_writable(now, cx),
            Self::FtpData(data) => data.poll_writable(now, cx),
        }
    }

    fn due(&self) -> Option<Instant> {
        match self {
            Self::Tcp(tcp) => tcp.due(),
            Self::Http(_) | Self::Https(_) | Self::Ftp(_) | Self::FtpData(_) => None,
        }
    }

    fn take_ahead(&mut self, now: Instant, session: &Session) {
        if let Self::Tcp(tcp) = self {
            tcp.take_ahead(now, session);
        }
    }

    fn memory(&self) -> usize {
        match self {
            Self::Tcp(tcp) => tcp.memory(),
            Self::Http(_) | Self::Https(_) | Self::Ftp(_) | Self::FtpData(_) => 0,
        }
    }

    fn pull(&mut self, now: Instant, session: &mut Session) -> io::Result<Pulled> {
        match self {
            Self::Tcp(tcp) => tcp.pull(now, session),
            Self::Http(http) => http.pull(now, session),
            Self::Https(https) => https.pull(now, session),
            Self::Ftp(ftp) => ftp.pull(now, session),
            Self::FtpData(data) => data.pull(now, session),
        }
    }

    fn push(
        &mut self,
        now: Instant,
        session: &mut Session,
        arrived: &[&[u8]],
    ) -> io::Result<usize> {
        match self {
            Self::Tcp(tcp) => tcp.push(now, session, arrived),
            Self::Http(http) => http.push(now, session, arrived),
            Self::Https(https) => https.push(now, session, arrived),
            Self::Ftp(ftp) => ftp.push(now, session, arrived),
            Self::FtpData(data) => data.push(now, session, arrived),
        }
    }

    fn keep(&mut self, session: &Session) {
        match self {
            Self::Tcp(tcp) => tcp.keep(session),
            Self::Http(http) => http.keep(session),
            Self::Https(_) | Self::Ftp(_) | Self::FtpData(_) => {}
        }
    }

    fn at_work(&self, at_work: bool) {
        match self {
            Self::Tcp(tcp) => tcp.at_work(at_work),
            Self::Http(http) => http.at_work(at_work),
            Self::Https(_) | Self::Ftp(_) | Self::FtpData(_) => {}
        }
    }

    fn shut(&mut self, now: Instant, how: ShutNear) {
        match self {
            Self::Tcp(tcp) => tcp.shut(now, how),
            Self::Http(http) => http.shut(now, how),
            Self::Https(https) => https.shut(now, how),
            Self::Ftp(ftp) => ftp.shut(now, how),
            Self::FtpData(data) => data.shut(now, how),
        }
    }

    fn event(&mut self, now: Instant, session: &mut Session, event: &Event) {
        match self {
            Self::Tcp(tcp) => tcp.event(now, session, event),
            Self::Http(http) => http.event(now, session, event),
            Self::Https(https) => https.event(now, session, event),
            Self::Ftp(ftp) => ftp.event(now, session, event),
            Self::FtpData(data) => data.event(now, session, event),
        }
    }
}
