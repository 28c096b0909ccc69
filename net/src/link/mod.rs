//! A link: one TCP connection with TLS 1.3 in it, by which two known keys exchange records.
//!
//! A link carries whole records of at most [`RECORD_MAX`] bytes and knows nothing of what is in
//! them. It is made for one task that waits for several things at once: `poll_readable` and
//! `poll_writable` wait, `try_read` and `try_flush` never do. Received records are decrypted where
//! the kernel put them and lent to the caller; records to be sent are composed and encrypted in
//! the buffer the kernel takes them from. A link that waits holds no buffer.
//!
//! Where to start: [`Link::dial`] and [`Acceptor`] (`dial.rs`, `accept.rs`), the handshake
//! (`handshake.rs`, `tls.rs`), the records (`record.rs`).
//!
//! **Invariant:** what was handed to [`Link::send`] leaves in that order, whole, or the link is
//! broken; what [`Link::try_read`] lends was authenticated, in order, and is lent once.

mod accept;
mod dial;
mod handshake;
mod pool;
mod record;
mod socket;
mod tcp_info;
mod tls;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::ops::Range;
use std::os::fd::AsFd;
use std::task::{Context, Poll};
use std::time::Duration;

use rustls::AlertDescription;
use tokio::net::TcpStream;

use crate::key::PublicKey;
use handshake::{Done, Keys};
use record::{BadRecord, HEADER, Opener, Sealer, kind};

pub use accept::{AcceptError, Acceptor, listen};
pub use dial::{Blame, DialError};
pub use pool::ROOM;
pub use record::RECORD_MAX;
pub use socket::{Bind, LinkOptions};
pub use tcp_info::TcpInfo;
pub use tls::Tls;

/// A key seals at most this many records before it is changed: half of what rustls allows
/// AES-GCM, 128 GiB of full records.
const REKEY_AFTER: u64 = 1 << 23;
/// A lingering close waits this long for the peer's end.
const LINGER_MAX: Duration = Duration::from_secs(2);
/// The only post-handshake message that is expected, and its one byte (RFC 8446, 4.6.3).
const KEY_UPDATE: u8 = 24;

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

impl From<BadRecord> for LinkError {
    fn from(bad: BadRecord) -> Self {
        Self::Misbehaved(bad.to_string())
    }
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

/// Why one of our keys must be changed before the next record.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Owed {
    Nothing,
    KeyUpdate,
}

/// One TCP connection with TLS 1.3 in it.
pub struct Link {
    tcp: TcpStream,
    local: SocketAddr,
    remote: SocketAddr,
    ours: PublicKey,
    peer: PublicKey,
    keys: Box<Keys>,
    sealer: Sealer,
    opener: Opener,
    rekey_after: u64,
    owed: Owed,

    inbox: Inbox,
    /// Nothing was read yet: bytes that came with the handshake may hold records.
    fresh: bool,
    /// The peer's close_notify came.
    closed: bool,
    /// Why nothing can be read any more.
    failed: Option<LinkError>,

    /// Sealed records; those before `sent` are the kernel's.
    out: Vec<u8>,
    sent: usize,
    shut: bool,
}

/// What was read and not yet opened, and what the last read opened.
#[derive(Default)]
struct Inbox {
    /// Empty, or a buffer of the pool.
    bytes: Box<[u8]>,
    /// Ciphertext that waits for the rest of its record.
    pending: Range<usize>,
    /// Plaintext lent to the caller.
    records: Vec<Range<u32>>,
}

/// The records of one read; valid until the next call on the link.
#[derive(Debug, Clone, Copy)]
pub struct Records<'a> {
    bytes: &'a [u8],
    ranges: &'a [Range<u32>],
    closed: bool,
}

impl<'a> Records<'a> {
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
    fn new(tcp: TcpStream, ours: PublicKey, done: Done) -> io::Result<Self> {
        let Done { peer, secrets, keys, rest } = done;
        let (local, remote) = (tcp.local_addr()?, tcp.peer_addr()?);
        let mut inbox = Inbox::default();
        if !rest.is_empty() {
            inbox.bytes = pool::take_in();
            inbox.bytes[..rest.len()].copy_from_slice(&rest);
            inbox.pending = 0..rest.len();
        }
        Ok(Self {
            tcp,
            local,
            remote,
            ours,
            peer,
            keys: Box::new(keys),
            sealer: Sealer::new((secrets.tx.0, &secrets.tx.1)),
            opener: Opener::new((secrets.rx.0, &secrets.rx.1)),
            rekey_after: REKEY_AFTER,
            owed: Owed::Nothing,
            fresh: !inbox.pending.is_empty(),
            inbox,
            closed: false,
            failed: None,
            out: Vec::new(),
            sent: 0,
            shut: false,
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

    /// Reads once (up to 256 KiB), and opens all whole records in place. They are valid until the
    /// next call. [`io::ErrorKind::WouldBlock`] when nothing came; no records when only a part of
    /// one came; [`Records::closed`] after the peer's close_notify, when there is no more reason to
    /// wait for input; any other error (a [`LinkError`] or the system's) is final.
    pub fn try_read(&mut self) -> io::Result<Records<'_>> {
        self.inbox.records.clear();
        if let Some(failed) = &self.failed {
            return Err(failed.clone().into());
        }
        if !self.closed {
            self.inbox.make_room();
            if !self.fresh && self.receive()? == 0 {
                self.failed = Some(LinkError::Truncated);
                return Err(LinkError::Truncated.into());
            }
            self.fresh = false;
            if let Err(error) = self.open_all() {
                self.fail(error)?;
            }
        }
        Ok(Records { bytes: &self.inbox.bytes, ranges: &self.inbox.records, closed: self.closed })
    }

    /// Seals one record of at most [`RECORD_MAX`] bytes into the out-buffer.
    ///
    /// # Panics
    /// If `frame` is longer than that.
    pub fn send(&mut self, frame: &[u8]) {
        self.compose(|out| out.extend_from_slice(frame));
    }

    /// Lets `write` append at most [`RECORD_MAX`] bytes to the out-buffer and seals them there, as
    /// one record; none if nothing was appended. `write` must only append.
    ///
    /// # Panics
    /// If `write` takes away from the buffer, or appends more.
    pub fn compose<T>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        if self.owed == Owed::KeyUpdate || self.sealer.count() >= self.rekey_after {
            self.update_our_key();
        }
        self.seal(kind::DATA, write)
    }

    /// Sealed bytes the kernel has not taken.
    #[must_use]
    pub fn unsent(&self) -> usize {
        self.out.len() - self.sent
    }

    /// There is room for more to be sent: less than [`ROOM`] bytes wait.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.unsent() < ROOM
    }

    /// Gives the kernel as much as it takes; true when nothing is left.
    pub fn try_flush(&mut self) -> io::Result<bool> {
        while self.sent < self.out.len() {
            match socket::send(&self.tcp, &self.out[self.sent..]) {
                Ok(taken) => self.sent += taken,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
                Err(error) => return Err(error),
            }
        }
        if self.out.capacity() > 0 {
            pool::give_out(std::mem::take(&mut self.out));
            self.sent = 0;
        }
        Ok(true)
    }

    /// Says that nothing more will be sent (close_notify); what comes can still be read.
    pub fn shut(&mut self) {
        if !self.shut {
            self.shut = true;
            self.alert(1, AlertDescription::CloseNotify);
        }
    }

    /// Tells the peer that its key is not welcome, and closes.
    pub fn refuse(mut self) {
        if !self.shut {
            self.shut = true;
            self.alert(2, AlertDescription::AccessDenied);
        }
        self.linger();
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
        while !self.try_flush()? {
            self.tcp.writable().await?;
        }
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
    fn receive(&mut self) -> io::Result<usize> {
        let start = self.inbox.pending.end;
        let end = start + pool::READ_MAX;
        let received = socket::receive(&self.tcp, &mut self.inbox.bytes[start..end])?;
        self.inbox.pending.end += received;
        Ok(received)
    }

    /// Opens every whole record that is pending.
    fn open_all(&mut self) -> Result<(), LinkError> {
        while !self.closed {
            let Range { start, end } = self.inbox.pending;
            let Some(length) = record::whole_record(&self.inbox.bytes[start..end])? else {
                return Ok(());
            };
            self.inbox.pending.start += length;
            let record = &mut self.inbox.bytes[start..start + length];
            let (kind, length) = self.opener.open(record)?;
            let plain = start + HEADER..start + HEADER + length;
            match kind {
                kind::DATA if length == 0 => {}
                kind::DATA => self.inbox.lend(plain),
                _ => self.handle_control(kind, plain)?,
            }
        }
        Ok(())
    }

    fn handle_control(&mut self, kind: u8, plain: Range<usize>) -> Result<(), LinkError> {
        match (kind, &self.inbox.bytes[plain]) {
            (kind::ALERT, &[_, code]) => self.handle_alert(AlertDescription::from(code)),
            (kind::HANDSHAKE, &[KEY_UPDATE, 0, 0, 1, wants @ (0 | 1)]) => {
                let next = self.keys.next_to_receive();
                let (count, secrets) = next.map_err(|e| LinkError::Misbehaved(e.to_string()))?;
                self.opener = Opener::new((count, &secrets));
                if wants == 1 {
                    self.owed = Owed::KeyUpdate;
                }
                Ok(())
            }
            (kind, body) => {
                let what =
                    format!("a record of type {kind} and {} bytes is not expected", body.len());
                Err(LinkError::Misbehaved(what))
            }
        }
    }

    fn handle_alert(&mut self, alert: AlertDescription) -> Result<(), LinkError> {
        if alert == AlertDescription::CloseNotify {
            self.closed = true;
            return Ok(());
        }
        let name = format!("{alert:?}");
        Err(if dial::blames_key(alert) {
            LinkError::KeyRefused { ours: self.ours, alert: name }
        } else {
            LinkError::Alert(name)
        })
    }

    /// Keeps the reason for good. What was opened before is still lent: the reason is then told by
    /// the next call.
    fn fail(&mut self, error: LinkError) -> Result<(), LinkError> {
        if matches!(error, LinkError::Misbehaved(_)) && !self.shut {
            self.shut = true;
            self.alert(2, AlertDescription::UnexpectedMessage);
            let _ = self.try_flush();
        }
        self.failed = Some(error.clone());
        if self.inbox.records.is_empty() { Err(error) } else { Ok(()) }
    }

    fn alert(&mut self, level: u8, alert: AlertDescription) {
        self.seal(kind::ALERT, |out| out.extend_from_slice(&[level, alert.into()]));
    }

    /// Changes the key of our direction (RFC 8446, 4.6.3).
    fn update_our_key(&mut self) {
        self.owed = Owed::Nothing;
        self.seal(kind::HANDSHAKE, |out| out.extend_from_slice(&[KEY_UPDATE, 0, 0, 1, 0]));
        let next = self.keys.next_to_send();
        let (count, secrets) = next.expect("TLS 1.3 derives the next key from the last");
        self.sealer = Sealer::new((count, &secrets));
    }

    fn seal<T>(&mut self, kind: u8, write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        if self.out.capacity() == 0 {
            self.out = pool::take_out();
        } else if self.sent > self.out.len() - self.sent {
            self.out.drain(..self.sent);
            self.sent = 0;
        }
        let start = self.out.len();
        self.out.extend_from_slice(&[0; HEADER]);
        let result = write(&mut self.out);
        let body = self.out.len().checked_sub(start + HEADER);
        match body.expect("the writer only appends") {
            0 => self.out.truncate(start),
            length => {
                assert!(length <= RECORD_MAX, "{length} bytes are more than one record takes");
                self.sealer.seal(&mut self.out, start, kind);
            }
        }
        result
    }
}

impl Inbox {
    /// Moves what is pending to the front of a buffer, so that a whole read fits behind it.
    fn make_room(&mut self) {
        if self.bytes.is_empty() {
            self.bytes = pool::take_in();
        }
        if self.pending.start > 0 {
            self.bytes.copy_within(self.pending.clone(), 0);
            self.pending = 0..self.pending.len();
        }
    }

    fn lend(&mut self, plain: Range<usize>) {
        let at = |index: usize| u32::try_from(index).expect("buffers are far below 4 GiB");
        self.records.push(at(plain.start)..at(plain.end));
    }

    /// Gives the buffer back if nothing is pending in it.
    fn rest(&mut self) {
        self.records.clear();
        if self.pending.is_empty() && !self.bytes.is_empty() {
            pool::give_in(std::mem::take(&mut self.bytes));
            self.pending = 0..0;
        }
        if self.records.capacity() > 64 {
            self.records = Vec::new();
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        if !self.inbox.bytes.is_empty() {
            pool::give_in(std::mem::take(&mut self.inbox.bytes));
        }
        if self.out.capacity() > 0 {
            pool::give_out(std::mem::take(&mut self.out));
        }
    }
}

#[cfg(test)]
mod tests;
