//! The stream behind a service: a TCP connection to a real server, or one end of a private socket
//! pair whose other end is the embedded origin.
//!
//! What a service needs of a stream is the trait [`Stream`], and where streams come from is
//! [`Streams`], so that a simulation runs the same services over streams of its own.

use std::future::Future;
use std::io::{self, IoSlice, IoSliceMut, Read};
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use ppp::v2::{Builder, Command as PpCommand, Protocol, Version};
use stp_net::urgent;
use stp_proto::replay::http::Locator;
use tokio::io::{AsyncWriteExt, Interest};
use tokio::net::{TcpStream, UnixStream};

use super::chains::Known;
use super::dial::connect_to;
use super::egress::{Egress, Toward};
use super::kept::KeptStream;
use super::origin::Origin;
use super::secured::{Secured, SecuredStream};

/// A stream to a service, read and written without waiting.
pub trait Stream {
    /// Ready when [`Stream::try_read`] may make progress.
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()>;

    /// Ready when [`Stream::try_write`] may make progress.
    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<()>;

    /// Reads what is there; 0 is the end of the stream.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing now; anything else means that the stream is gone.
    fn try_read(&self, slices: &mut [IoSliceMut<'_>]) -> io::Result<usize>;

    /// Writes what fits.
    ///
    /// # Errors
    /// `WouldBlock` when nothing fits now; anything else means that the stream is gone.
    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize>;

    /// Ends what is sent; what comes can still be read.
    fn shut_write(&self);

    /// Makes the coming close abortive: the service sees a reset.
    fn reset_on_close(&self);

    /// Whether [`Stream::lost`] may know something.
    fn is_watched(&self) -> bool {
        false
    }

    /// Why nothing more will come on it, if that is known before the kernel ends it.
    fn lost(&self) -> Option<String> {
        None
    }
}

/// Where the streams of a service come from.
pub trait Streams {
    /// What comes.
    type Stream: Stream;
    /// A stream that is being opened.
    type Opening: Future<Output = io::Result<Self::Stream>> + Unpin;

    /// Begins to open a stream.
    fn open(&self) -> Self::Opening;

    /// Begins to open a stream for the rest of a response: to the place that [`Streams::place`]
    /// names.
    fn reopen(&self) -> Self::Opening {
        self.open()
    }

    /// Where the rest of a response is asked for, if not where the response came from.
    fn place(&self) -> Option<Locator> {
        None
    }

    /// Turns to the next place for the rest of a response. False when all have had their turn.
    fn another(&self) -> bool {
        false
    }

    /// What is known of the file that this request asks for and helps to prove its first `have`
    /// bytes. It looks at the file system.
    fn known(&self, _request: &[u8], _have: u64) -> Option<Known> {
        None
    }

    /// Something happened to the stream at this down position, for this reason.
    fn note(&self, _what: &'static str, _cause: &str, _at: u64) {}
}

/// Where the streams of a service of this server come from.
#[derive(Debug, Clone)]
pub enum Target {
    /// A server at this address.
    Address(SocketAddr),
    /// The same, told first who comes: these bytes.
    Announced(SocketAddr, Arc<[u8]>),
    /// A server that speaks TLS.
    Secured(Secured),
    /// The embedded origin.
    Origin(Arc<Origin>),
    /// Whatever destination an app names.
    Egress(Arc<Egress>),
    /// The destination that a session's app has named.
    Toward(Toward),
}

impl Target {
    /// The same server, told by the PROXY protocol (version 2) of a client at `from` who came to
    /// `to`.
    #[must_use]
    pub fn announced(&self, from: SocketAddr, to: SocketAddr) -> Target {
        let canonical = |at: SocketAddr| SocketAddr::new(at.ip().to_canonical(), at.port());
        let header = Builder::with_addresses(
            Version::Two | PpCommand::Proxy,
            Protocol::Stream,
            (canonical(from), canonical(to)),
        );
        let header = header.build().expect("addresses without further fields fit into a header");
        match self {
            Self::Address(address) | Self::Announced(address, _) => {
                Self::Announced(*address, header.into())
            }
            Self::Secured(secured) => {
                Self::Secured(Secured { header: Some(header.into()), ..secured.clone() })
            }
            Self::Origin(_) | Self::Egress(_) | Self::Toward(_) => self.clone(),
        }
    }

    /// Opens a stream.
    pub async fn connect(&self) -> io::Result<Upstream> {
        match self {
            Self::Address(address) => Ok(Upstream::Tcp(connect_to(*address).await?)),
            Self::Announced(address, header) => {
                let mut tcp = connect_to(*address).await?;
                // It fits into the send buffer of a new connection.
                tcp.write_all(header).await?;
                Ok(Upstream::Tcp(tcp))
            }
            Self::Secured(secured) => Ok(Upstream::Secured(Box::new(secured.connect().await?))),
            Self::Origin(origin) => {
                let (ours, theirs) = UnixStream::pair()?;
                origin.serve(theirs);
                Ok(Upstream::Pair(ours))
            }
            Self::Egress(_) => Err(io::Error::other("no destination was named")),
            Self::Toward(toward) => Ok(Upstream::Tcp(toward.connect().await?)),
        }
    }
}

impl Streams for Target {
    type Stream = Upstream;
    type Opening = Pin<Box<dyn Future<Output = io::Result<Upstream>> + Send>>;

    fn open(&self) -> Self::Opening {
        let target = self.clone();
        Box::pin(async move { target.connect().await })
    }

    fn known(&self, request: &[u8], have: u64) -> Option<Known> {
        match self {
            Self::Address(_) | Self::Announced(..) | Self::Secured(_) => None,
            Self::Egress(_) | Self::Toward(_) => None,
            Self::Origin(origin) => origin.known(request, have),
        }
    }
}

impl std::fmt::Display for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Address(address) | Self::Announced(address, _) => address.fmt(f),
            Self::Secured(secured) => secured.fmt(f),
            Self::Origin(origin) => origin.root().display().fmt(f),
            Self::Egress(_) => f.write_str("wherever its clients want"),
            Self::Toward(toward) => toward.fmt(f),
        }
    }
}

/// The stream. It is read and written without waiting, by the session's loop.
#[derive(Debug)]
pub enum Upstream {
    /// To a real server.
    Tcp(TcpStream),
    /// To a real server, in TLS.
    Secured(Box<SecuredStream>),
    /// To a real server, and held by the keeper as well.
    Kept(Arc<KeptStream>),
    /// To the embedded origin.
    Pair(UnixStream),
}

impl Upstream {
    /// Waits until [`Self::try_read`] may make progress.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Tcp(tcp) => tcp.poll_read_ready(cx).map(drop),
            Self::Kept(kept) => kept.tcp().poll_read_ready(cx).map(drop),
            Self::Secured(secured) => secured.poll_readable(cx),
            Self::Pair(pair) => pair.poll_read_ready(cx).map(drop),
        }
    }

    /// Waits until [`Self::try_write`] may make progress.
    pub fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<()> {
        match self {
            Self::Tcp(tcp) => tcp.poll_write_ready(cx).map(drop),
            Self::Kept(kept) => kept.tcp().poll_write_ready(cx).map(drop),
            Self::Secured(secured) => secured.poll_writable(cx),
            Self::Pair(pair) => pair.poll_write_ready(cx).map(drop),
        }
    }

    /// Reads what is there; 0 is the end of the stream.
    pub fn try_read(&self, slices: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(tcp) => tcp.try_read_vectored(slices),
            Self::Kept(kept) => Ok(kept.try_read_marked(slices)?.0),
            Self::Secured(secured) => secured.try_read(slices),
            Self::Pair(pair) => pair.try_read_vectored(slices),
        }
    }

    /// As [`Self::try_read`], up to an urgent byte, or that byte alone; says whether it was that
    /// one.
    pub fn try_read_marked(&self, slices: &mut [IoSliceMut<'_>]) -> io::Result<(usize, bool)> {
        match self {
            Self::Tcp(tcp) => tcp.try_io(Interest::READABLE, || {
                let socket = socket2::SockRef::from(tcp);
                urgent::read(tcp.as_fd(), slices, |slices| (&*socket).read_vectored(slices))
            }),
            Self::Kept(kept) => kept.try_read_marked(slices),
            Self::Secured(secured) => Ok((secured.try_read(slices)?, false)),
            Self::Pair(pair) => Ok((pair.try_read_vectored(slices)?, false)),
        }
    }

    /// Writes one byte as urgent.
    pub fn try_write_urgent(&self, byte: u8) -> io::Result<usize> {
        match self {
            Self::Tcp(tcp) => tcp.try_io(Interest::WRITABLE, || urgent::send(tcp, byte)),
            Self::Kept(kept) => kept.try_write(&[IoSlice::new(&[byte])], true),
            Self::Secured(secured) => secured.try_write(&[IoSlice::new(&[byte])]),
            Self::Pair(pair) => pair.try_write(&[byte]),
        }
    }

    /// Writes what fits.
    pub fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        match self {
            Self::Tcp(tcp) => tcp.try_write_vectored(slices),
            Self::Kept(kept) => kept.try_write(slices, false),
            Self::Secured(secured) => secured.try_write(slices),
            Self::Pair(pair) => pair.try_write_vectored(slices),
        }
    }

    /// Ends what is sent; what comes can still be read.
    pub fn shut_write(&self) {
        use std::net::Shutdown;
        let shut = match self {
            Self::Tcp(tcp) => socket2::SockRef::from(tcp).shutdown(Shutdown::Write),
            Self::Kept(kept) => return kept.shut_write(),
            Self::Secured(secured) => return secured.shut_write(),
            Self::Pair(pair) => socket2::SockRef::from(pair).shutdown(Shutdown::Write),
        };
        if let Err(error) = shut {
            tracing::trace!(%error, "the service has gone already");
        }
    }

    /// Makes the coming close abortive: the service sees a reset.
    pub fn reset_on_close(&self) {
        let tcp = match self {
            Self::Tcp(tcp) => tcp,
            Self::Kept(kept) => kept.tcp(),
            Self::Secured(secured) => secured.tcp(),
            Self::Pair(_) => return,
        };
        if let Err(error) = socket2::SockRef::from(tcp).set_linger(Some(Duration::ZERO)) {
            tracing::trace!(%error, "the service has gone already");
        }
    }
}

impl Stream for Upstream {
    fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        Self::poll_readable(self, cx)
    }

    fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<()> {
        Self::poll_writable(self, cx)
    }

    fn try_read(&self, slices: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        Self::try_read(self, slices)
    }

    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        Self::try_write(self, slices)
    }

    fn shut_write(&self) {
        Self::shut_write(self);
    }

    fn reset_on_close(&self) {
        Self::reset_on_close(self);
    }
}
