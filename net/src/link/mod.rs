//! stub: signatures only
#![expect(
    clippy::unimplemented,
    unused_variables,
    missing_docs,
    reason = "signatures first, bodies follow"
)]
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::net::TcpStream;

use crate::key::{Identity, PublicKey};

/// What a process needs to begin and to accept links: its identity, made ready for TLS.
#[derive(Debug)]
pub struct Tls;
impl Tls {
    pub fn new(identity: &Identity) -> Arc<Self> {
        unimplemented!()
    }
    pub fn public_key(&self) -> PublicKey {
        unimplemented!()
    }
}

/// Where a link is to leave the machine.
#[derive(Debug, Clone, Default)]
pub struct Bind {
    pub address: Option<IpAddr>,
    pub interface: Option<String>,
}

/// Options of both ends.
#[derive(Debug, Clone)]
pub struct LinkOptions {
    /// For connect and handshake together. Default 10 s.
    pub timeout: Duration,
    /// TCP_USER_TIMEOUT. Default 10 s.
    pub user_timeout: Duration,
    /// Congestion control by name; `None` = the system's.
    pub congestion: Option<String>,
    /// Dial only.
    pub bind: Option<Bind>,
}
impl Default for LinkOptions {
    fn default() -> Self {
        unimplemented!()
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Blame {
    Path,
    Peer,
    Local,
}

#[derive(Debug, thiserror::Error)]
#[error("stub")]
pub enum DialError {
    Unreachable {
        addr: SocketAddr,
        source: io::Error,
    },
    Refused {
        addr: SocketAddr,
    },
    TimedOut {
        addr: SocketAddr,
        during: &'static str,
        after: Duration,
    },
    Lost {
        addr: SocketAddr,
        source: io::Error,
    },
    WrongKey {
        addr: SocketAddr,
        expected: PublicKey,
        found: PublicKey,
    },
    PeerRefused {
        addr: SocketAddr,
        alert: String,
        ours: PublicKey,
    },
    Misbehaved {
        addr: SocketAddr,
        what: String,
    },
    Local {
        addr: SocketAddr,
        action: &'static str,
        source: io::Error,
    },
}
impl DialError {
    pub fn blame(&self) -> Blame {
        unimplemented!()
    }
    /// The errno an app's connect() deserves.
    pub fn errno(&self) -> i32 {
        unimplemented!()
    }
}

#[derive(Debug, thiserror::Error)]
#[error("stub")]
pub enum AcceptError {
    TimedOut { after: Duration },
    Lost { source: io::Error },
    Garbage { what: String },
    NoKey,
    PeerRefused { alert: String },
    Overloaded { pending: usize },
}
impl AcceptError {
    /// One word per kind, for counters and the status.
    pub fn reason(&self) -> &'static str {
        unimplemented!()
    }
}

/// Accepts links for a server: bounds the handshakes under way, counts refusals by reason.
#[derive(Debug)]
pub struct Acceptor;
impl Acceptor {
    pub fn new(tls: Arc<Tls>, options: LinkOptions, pending_max: usize) -> Self {
        unimplemented!()
    }
    pub async fn accept(&self, tcp: TcpStream) -> Result<Link, AcceptError> {
        unimplemented!()
    }
    /// Refusals so far, by reason.
    pub fn refused(&self) -> Vec<(&'static str, u64)> {
        unimplemented!()
    }
    pub fn accepted(&self) -> u64 {
        unimplemented!()
    }
}

/// Listens on `addr` with the options links need.
pub fn listen(addr: SocketAddr) -> io::Result<tokio::net::TcpListener> {
    unimplemented!()
}

/// The largest plaintext of one record.
pub const RECORD_MAX: usize = 16_384;
/// `has_room` says no above this many unsent bytes.
pub const ROOM: usize = 256 * 1024;

#[derive(Debug)]
pub struct Link;
impl Link {
    pub async fn dial(
        addr: SocketAddr,
        expect: &PublicKey,
        tls: &Tls,
        options: &LinkOptions,
    ) -> Result<Link, DialError> {
        unimplemented!()
    }
    pub async fn accept(
        tcp: TcpStream,
        tls: &Tls,
        options: &LinkOptions,
    ) -> Result<Link, AcceptError> {
        unimplemented!()
    }
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        unimplemented!()
    }
    pub fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        unimplemented!()
    }
    /// Reads once and decrypts all complete records in place.
    pub fn try_read(&mut self) -> io::Result<Records<'_>> {
        unimplemented!()
    }
    /// Encrypts one record (<= RECORD_MAX) into the out buffer.
    pub fn send(&mut self, frame: &[u8]) {
        unimplemented!()
    }
    /// Lets `write` append at most RECORD_MAX bytes to the out buffer, and encrypts them where they
    /// are, as one record (none, if nothing was appended): the way without a copy.
    pub fn compose<T>(&mut self, write: impl FnOnce(&mut Vec<u8>) -> T) -> T {
        unimplemented!()
    }
    pub fn unsent(&self) -> usize {
        unimplemented!()
    }
    pub fn has_room(&self) -> bool {
        unimplemented!()
    }
    /// Writes what the socket takes; true when nothing is left.
    pub fn try_flush(&mut self) -> io::Result<bool> {
        unimplemented!()
    }
    pub fn tcp_info(&self) -> io::Result<TcpInfo> {
        unimplemented!()
    }
    pub fn local_addr(&self) -> SocketAddr {
        unimplemented!()
    }
    pub fn peer_addr(&self) -> SocketAddr {
        unimplemented!()
    }
    pub fn peer_key(&self) -> PublicKey {
        unimplemented!()
    }
    /// Tells the peer that its key is not welcome, and lingers.
    pub fn refuse(self) {
        unimplemented!()
    }
    /// Flush, close_notify, shutdown(WR), read to EOF (2 s at most), close: in a task of its own.
    pub fn linger(self) {
        unimplemented!()
    }
}

/// The decrypted records of one read; valid until the next call on the link.
#[derive(Debug, Clone, Copy)]
pub struct Records<'a> {
    bytes: &'a [u8],
    ranges: &'a [Range<u32>],
    closed: bool,
}
impl<'a> Records<'a> {
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &'a [u8]> + use<'a> {
        let bytes = self.bytes;
        self.ranges
            .iter()
            .map(move |r| &bytes[r.start as usize..r.end as usize])
    }
    pub fn len(&self) -> usize {
        self.ranges.len()
    }
    pub fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }
    /// The peer has said that it sends no more (close_notify).
    pub fn closed(&self) -> bool {
        self.closed
    }
}

/// A sample of TCP_INFO.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct TcpInfo {
    pub rtt_us: u32,
    pub rtt_var_us: u32,
    pub min_rtt_us: u32,
    /// Bytes per second.
    pub delivery_rate: u64,
    pub app_limited: bool,
    pub retrans: u32,
    pub lost: u32,
    pub cwnd: u32,
    pub mss: u32,
    pub unacked: u32,
    pub notsent: u32,
    pub bytes_acked: u64,
    pub bytes_received: u64,
    pub bytes_sent: u64,
    pub bytes_retrans: u64,
}
