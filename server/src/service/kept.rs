//! A TCP connection to a service, which outlives this process.

use std::io::{self, IoSlice, IoSliceMut};
use std::net::Shutdown;
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};

use stp_keeper::holding::{Keepsake, Lent};
use stp_net::kept::Kept;
use stp_net::link::tcp_info_of;
use stp_net::urgent;
use tokio::io::Interest;
use tokio::net::TcpStream;

/// A socket to a service, which the keeper holds as well.
#[derive(Debug)]
pub struct KeptStream {
    tcp: TcpStream,
    kept: Kept,
    /// What is sent was ended.
    shut: AtomicBool,
    /// Dropped last: the service sees the close when the keeper lets go as well.
    _keepsake: Keepsake,
}

impl Lent for KeptStream {
    fn descriptors(&self) -> Vec<BorrowedFd<'_>> {
        vec![self.tcp.as_fd(), self.kept.file()]
    }
}

impl KeptStream {
    /// Of these.
    #[must_use]
    pub fn new(tcp: TcpStream, kept: Kept, keepsake: Keepsake) -> KeptStream {
        KeptStream { tcp, kept, shut: AtomicBool::new(false), _keepsake: keepsake }
    }

    /// The socket.
    #[must_use]
    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// What outlives this process.
    #[must_use]
    pub fn kept(&self) -> &Kept {
        &self.kept
    }

    /// Reads, never waiting, up to an urgent byte, or that byte alone; says whether it was that
    /// one.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing now. An end that is none is a reset.
    pub fn try_read_marked(&self, slices: &mut [IoSliceMut<'_>]) -> io::Result<(usize, bool)> {
        let kept = &self.kept;
        let (count, urgent) = self.tcp.try_io(Interest::READABLE, || {
            urgent::read(self.tcp.as_fd(), slices, |slices| {
                let room = slices.iter().map(|slice| slice.len()).sum();
                let at = kept.taken();
                let count = kept.read(self.tcp.as_fd(), 0, at, room)?;
                kept.copy_up(at, count, slices);
                Ok(count)
            })
        })?;
        let ended = count == 0 && slices.iter().any(|slice| !slice.is_empty());
        if ended && !self.shut.load(Ordering::Relaxed) && self.is_closed() {
            return Err(io::ErrorKind::ConnectionReset.into());
        }
        Ok((count, urgent))
    }

    /// Ends what is sent; what comes can still be read.
    pub fn shut_write(&self) {
        self.shut.store(true, Ordering::Relaxed);
        if let Err(error) = socket2::SockRef::from(&self.tcp).shutdown(Shutdown::Write) {
            tracing::trace!(%error, "the service has gone already");
        }
    }

    /// Writes what fits, as urgent if so said.
    ///
    /// # Errors
    /// `WouldBlock` when nothing fits now.
    pub fn try_write(&self, slices: &[IoSlice<'_>], urgent: bool) -> io::Result<usize> {
        self.tcp
            .try_io(Interest::WRITABLE, || Ok(self.kept.write(self.tcp.as_fd(), slices, urgent)?))
    }

    /// Whether both directions have ended. If this end has ended none, it was a reset, which the
    /// process before may have read and not told.
    fn is_closed(&self) -> bool {
        tcp_info_of(self.tcp.as_fd()).is_ok_and(|info| info.is_closed)
    }
}
