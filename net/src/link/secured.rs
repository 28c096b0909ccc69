//! The secured link itself, once its handshake is over.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::AsFd;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use rustls::Error;
use tokio::net::TcpStream;

use super::TcpInfo;
use super::buffer::{Inbox, Outbox};
use super::channel::Channel;
use super::handshake::{Done, blames_key};
use super::pool::ROOM;
use super::record::RECORD_MAX;
use super::{socket, tcp_info};
use crate::key::PublicKey;

/// A lingering close waits this long for the peer's end.
pub(super) const LINGER_MAX: Duration = Duration::from_secs(2);
/// How long a link that starts slowly does so: some round trips, so that the congestion control has
/// found its way; and the least rate, at which nobody's queue overflows.
pub(super) const PACED: Duration = Duration::from_secs(2);
pub(super) const PACED_MIN: u64 = 1 << 20;

/// How a running link failed; the source of the [`io::Error`]s of [`Link::try_read`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LinkError {
    /// The peer, or somebody between, sent what cannot be.
    #[error("peer misbehaved: {0}")]
    Misbehaved(String),
    /// The peer does not want our key.
    #[error("the peer refused our key {ours} (alert {alert})")]
    KeyRefused {
        /// Our key, to be compared with the peer's configuration.
        ours: PublicKey,
        /// The alert's name.
        alert: String,
    },
    /// The peer gave up.
    #[error("the peer ended the link with alert {0}")]
    Alert(String),
    /// The connection ended in the middle: not a clean end.
    #[error("the connection was closed without a close_notify")]
    Truncated,
}

impl From<LinkError> for io::Error {
    fn from(error: LinkError) -> Self {
        let kind = match error {
            LinkError::Misbehaved(_) => io::ErrorKind::InvalidData,
            LinkError::KeyRefused { .. } => io::ErrorKind::PermissionDenied,
            LinkError::Alert(_) => io::ErrorKind::ConnectionAborted,
            LinkError::Truncated => io::ErrorKind::UnexpectedEof,
        };
        Self::new(kind, error)
    }
}

/// One TCP connection with TLS 1.3 in it.
pub struct Link {
    pub(super) tcp: TcpStream,
    pub(super) local: SocketAddr,
    pub(super) remote: SocketAddr,
    pub(super) ours: PublicKey,
    pub(super) peer: PublicKey,
    pub(super) channel: Channel,

    pub(super) inbox: Inbox,
    /// Nothing was read yet: bytes that came with the handshake may hold records.
    pub(super) fresh: bool,
    /// The peer's close_notify came.
    pub(super) closed: bool,
    /// Why nothing can be read any more.
    pub(super) failed: Option<LinkError>,

    pub(super) out: Outbox,
    /// Nothing more is sent.
    pub(super) shut: bool,
    /// It starts slowly, until then.
    pub(super) paced_until: Option<Instant>,
}

/// The records of one read; valid until the next call on the link.
#[derive(Debug, Clone, Copy)]
pub struct Records<'a> {
    bytes: &'a [u8],
    ranges: &'a [Range<u32>],
    closed: bool,
}

impl<'a> Records<'a> {
    /// Records that stand in `bytes` at these `ranges`; `closed` if nothing more will come.
    #[must_use]
    pub fn new(bytes: &'a [u8], ranges: &'a [Range<u32>], closed: bool) -> Records<'a> {
        Records { bytes, ranges, closed }
    }

    /// The plaintext of each record, in order; never an empty one.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + use<'a> {
        let bytes = self.bytes;
        self.ranges.iter().map(move |range| &bytes[range.start as usize..range.end as usize])
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.ranges.len()
    }

    /// No whole record was there yet.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    /// The peer has said that it sends nothing more, and nothing more will come.
    #[must_use]
    pub fn closed(&self) -> bool {
        self.closed
    }
}

impl fmt::Debug for Link {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Link")
            .field("local", &self.local)
            .field("remote", &self.remote)
            .field("peer", &self.peer)
            .field("unsent", &self.unsent())
            .field("closed", &self.closed)
            .field("failed", &self.failed)
            .finish_non_exhaustive()
    }
}

impl Link {
    /// A link over a connection that has shaken hands.
    pub(super) fn new(tcp: TcpStream, ours: PublicKey, done: Done) -> io::Result<Self> {
        let Done { peer, channel, rest } = done;
        let (local, remote) = (tcp.local_addr()?, tcp.peer_addr()?);
        let mut inbox = Inbox::default();
        inbox.begin(&rest);
        Ok(Self {
            tcp,
            local,
            remote,
            ours,
            peer,
            channel,
            fresh: inbox.is_pending(),
            inbox,
            closed: false,
            failed: None,
            out: Outbox::default(),
            shut: false,
            paced_until: None,
        })
    }

    /// The key the peer proved in the handshake.
    #[must_use]
    pub fn peer_key(&self) -> PublicKey {
        self.peer
    }

    /// Our end of the TCP connection.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The peer's end of the TCP connection.
    #[must_use]
    pub fn peer_addr(&self) -> SocketAddr {
        self.remote
    }

    /// What the kernel knows of the connection now.
    pub fn tcp_info(&self) -> io::Result<TcpInfo> {
        tcp_info::sample(self.tcp.as_fd())
    }

    /// Waits until [`Self::try_read`] may have something to say. A waiting link holds no buffer
    /// unless part of a record is in it.
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.fresh || self.failed.is_some() {
            return Poll::Ready(Ok(()));
        }
        let ready = self.tcp.poll_read_ready(cx);
        if ready.is_pending() {
            self.inbox.rest();
        }
        ready
    }

    /// Waits until [`Self::try_flush`] may make progress. Ask only with something unsent.
    pub fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.tcp.poll_write_ready(cx)
    }

    /// Reads once (up to 256 KiB), and opens all whole records. They are valid until the next call.
    /// [`io::ErrorKind::WouldBlock`] when nothing came; no records when only a part of one came;
    /// [`Records::closed`] after the peer's close_notify, when there is no more reason to wait for
    /// input; any other error (a [`LinkError`] or the system's) is final.
    pub fn try_read(&mut self) -> io::Result<Records<'_>> {
        self.inbox.forget();
        if let Some(failed) = &self.failed {
            return Err(failed.clone().into());
        }
        if !self.closed {
            if !self.fresh {
                self.receive()?;
            }
            self.fresh = false;
            match self.channel.open_all(&mut self.inbox, &mut self.out) {
                Ok(closed) => self.closed = closed,
                Err(error) => self.fail(error)?,
            }
        }
        let (bytes, ranges) = self.inbox.lent();
        Ok(Records::new(bytes, ranges, self.closed))
    }

    /// Seals one record of at most [`RECORD_MAX`] bytes into the out-buffer; none if `frame` is
    /// empty. After [`Self::shut`], or the link's failure, nothing is sent.
    ///
    /// # Panics
    /// If `frame` is longer than that.
    pub fn send(&mut self, frame: &[u8]) {
        let length = frame.len();
        assert!(length <= RECORD_MAX, "{length} bytes are more than one record takes");
        if length == 0 || self.shut {
            return;
        }
        if let Err(error) = self.channel.seal(frame, self.inbox.seen(), &mut self.out) {
            self.shut = true;
            self.failed.get_or_insert(LinkError::Misbehaved(error.to_string()));
        }
    }

    /// Lets `write` append at most [`RECORD_MAX`] bytes to an empty buffer, and sends them as
    /// [`Self::send`] does.
    ///
    /// # Panics
    /// If `write` appends more.
    pub fn compose<T>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        let mut plain = self.out.compose();
        let result = write(&mut plain);
        self.send(&plain);
        self.out.composed(plain);
        result
    }

    /// Sealed bytes the kernel has not taken.
    #[must_use]
    pub fn unsent(&self) -> usize {
        self.out.unsent().len()
    }

    /// Memory that its buffers hold: none while nothing comes and nothing waits.
    #[must_use]
    pub fn memory(&self) -> usize {
        self.inbox.memory() + self.out.memory()
    }

    /// There is room for more to be sent: less than [`ROOM`] bytes wait.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.unsent() < ROOM
    }

    /// Sends no more than `rate` bytes a second at first. Whoever knows what the peer is used to
    /// need not find out by filling a queue until it overflows, which is felt as a pause.
    ///
    /// # Errors
    /// What the system says.
    pub fn start_slowly(&mut self, rate: u64) -> io::Result<()> {
        socket::pace(&self.tcp, Some(rate.max(PACED_MIN)))?;
        self.paced_until = Some(Instant::now() + PACED);
        Ok(())
    }

    /// Gives the kernel as much as it takes; true when nothing is left.
    pub fn try_flush(&mut self) -> io::Result<bool> {
        if self.paced_until.is_some_and(|until| Instant::now() >= until) {
            self.paced_until = None;
            socket::pace(&self.tcp, None)?;
        }
        while !self.out.unsent().is_empty() {
            match socket::send(&self.tcp, self.out.unsent()) {
                Ok(taken) => self.out.take(taken),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        self.out.rest();
        Ok(true)
    }

    /// The TCP connection, when both ends have agreed that their records end here and other bytes
    /// follow (PROTOCOL.md R81).
    ///
    /// # Errors
    /// When something of the link is still on its way, or it has failed.
    pub fn into_tcp(self) -> io::Result<TcpStream> {
        let busy = self.fresh || self.inbox.is_pending() || self.unsent() > 0;
        if busy || self.closed || self.shut || self.failed.is_some() {
            return Err(io::Error::other("the link has not come to rest"));
        }
        Ok(self.tcp)
    }

    /// Waits until the kernel has taken everything.
    ///
    /// # Errors
    /// When the connection is broken.
    pub async fn flush(&mut self) -> io::Result<()> {
        while !self.try_flush()? {
            std::future::poll_fn(|cx| self.poll_writable(cx)).await?;
        }
        Ok(())
    }

    /// Says that nothing more will be sent (close_notify); what comes can still be read.
    pub fn shut(&mut self) {
        if !self.shut {
            self.shut = true;
            if let Err(error) = self.channel.close(self.inbox.seen(), &mut self.out) {
                self.failed.get_or_insert(LinkError::Misbehaved(error.to_string()));
            }
        }
    }

    /// Closes so that everything sent arrives: in a task of its own, flush, say the end, wait for
    /// the peer's end, at most 2 s. A plain drop may reset the connection and destroy what the
    /// peer has not read yet. Needs a tokio runtime.
    pub fn linger(mut self) {
        tokio::spawn(async move {
            self.shut();
            let _ = tokio::time::timeout(LINGER_MAX, self.part()).await;
        });
    }

    async fn part(&mut self) -> io::Result<()> {
        self.flush().await?;
        socket::shut_write(&self.tcp)?;
        let mut dropped = [0; 8 * 1024];
        loop {
            self.tcp.readable().await?;
            match self.tcp.try_read(&mut dropped) {
                Ok(0) => return Ok(()),
                Err(error) if error.kind() != io::ErrorKind::WouldBlock => return Err(error),
                _ => {}
            }
        }
    }

    /// One read behind what is pending.
    pub(super) fn receive(&mut self) -> io::Result<()> {
        let Some(room) = self.inbox.room() else {
            return Ok(self.fail(Error::General("a message without end".into()))?);
        };
        match socket::receive(&self.tcp, room)? {
            0 => {
                self.failed = Some(LinkError::Truncated);
                Err(LinkError::Truncated.into())
            }
            received => {
                self.inbox.fill(received);
                Ok(())
            }
        }
    }

    /// Keeps the reason for good, and tells the peer. What was opened before is still lent: the
    /// reason is then told by the next call.
    pub(super) fn fail(&mut self, error: Error) -> Result<(), LinkError> {
        let error = match error {
            Error::AlertReceived(alert) if blames_key(alert) => {
                LinkError::KeyRefused { ours: self.ours, alert: format!("{alert:?}") }
            }
            Error::AlertReceived(alert) => LinkError::Alert(format!("{alert:?}")),
            error => LinkError::Misbehaved(error.to_string()),
        };
        if !self.shut {
            self.shut = true;
            self.channel.put_alert(self.inbox.seen(), &mut self.out);
            let _ = self.try_flush();
        }
        self.failed = Some(error.clone());
        if self.inbox.lent().1.is_empty() { Err(error) } else { Ok(()) }
    }
}
