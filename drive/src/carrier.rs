//! What the frames of a session travel on, as the loop sees it.

use std::io;
use std::task::{Context, Poll};

use stp_net::link::{Link, Records, TcpInfo};

/// A connection that carries the frames of one session at a time, in order, to the peer.
///
/// [`Link`] (TLS over TCP) is the one that the daemons use. The simulation has one in memory, and
/// another transport would be a third. No method blocks: `poll_*` registers the waker of its
/// context.
pub trait Carrier {
    /// Ready when [`Carrier::try_read`] may have something to say.
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// Ready when [`Carrier::try_flush`] may make progress. Asked only with something unsent.
    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<()>;

    /// The records that have come, valid until the next call. A record holds one or more frames.
    ///
    /// # Errors
    /// `WouldBlock` when nothing came; anything else means that the connection is lost.
    fn try_read(&mut self) -> io::Result<Records<'_>>;

    /// Queues one frame. It leaves whole and in order, or the connection is lost.
    fn send(&mut self, frame: &[u8]);

    /// Hands on as much of what is queued as can be taken now; true when nothing is left.
    ///
    /// # Errors
    /// The connection is lost.
    fn try_flush(&mut self) -> io::Result<bool>;

    /// Bytes that are queued and not handed on.
    fn unsent(&self) -> usize;

    /// Memory that its buffers hold.
    fn memory(&self) -> usize {
        self.unsent()
    }

    /// Whether more data should be queued now.
    fn has_room(&self) -> bool;

    /// What the kernel knows of the connection now.
    ///
    /// # Errors
    /// When it cannot be asked.
    fn tcp_info(&self) -> io::Result<TcpInfo>;

    /// Both ends of the connection, for the status: `here → there`.
    fn ends(&self) -> String;

    /// Closes in such a way that everything sent arrives. A plain drop may destroy what the peer
    /// has not read yet.
    fn linger(self);
}

impl Carrier for Link {
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Link::poll_readable(self, cx).map(drop)
    }

    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        Link::poll_writable(self, cx).map(drop)
    }

    fn try_read(&mut self) -> io::Result<Records<'_>> {
        Link::try_read(self)
    }

    fn send(&mut self, frame: &[u8]) {
        Link::send(self, frame);
    }

    fn try_flush(&mut self) -> io::Result<bool> {
        Link::try_flush(self)
    }

    fn unsent(&self) -> usize {
        Link::unsent(self)
    }

    fn memory(&self) -> usize {
        Link::memory(self)
    }

    fn has_room(&self) -> bool {
        Link::has_room(self)
    }

    fn tcp_info(&self) -> io::Result<TcpInfo> {
        Link::tcp_info(self)
    }

    fn ends(&self) -> String {
        format!("{} → {}", self.local_addr(), self.peer_addr())
    }

    fn linger(self) {
        Link::linger(self);
    }
}
