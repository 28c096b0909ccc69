//! The stream to a service that speaks TLS itself.
//!
//! The service's certificate is checked, by the roots of this machine or by those that the
//! configuration names. A stream that ends without TLS's own end is one that was cut: the response
//! on it is not taken for whole.

use std::fmt;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut, Read, Write};
use std::net::{IpAddr, Shutdown, SocketAddr};
use std::sync::Arc;
use std::task::{Context, Poll};

use parking_lot::Mutex;
use rustls::pki_types::ServerName;
use rustls::{ClientConfig, ClientConnection};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;

use super::dial::{CONNECT_MAX, connect_to};

/// Read of the socket at once before what came is opened: a record and a half.
const READ_MAX: usize = 24 * 1024;

/// Where such a service is, and how it is known.
#[derive(Clone)]
pub struct Secured {
    /// A name, or an address.
    pub host: String,
    /// The port.
    pub port: u16,
    /// What its certificate must be for.
    pub name: ServerName<'static>,
    /// How handshakes are done.
    pub config: Arc<ClientConfig>,
    /// What it is told first, without TLS: who comes, by the PROXY protocol.
    pub header: Option<Arc<[u8]>>,
}

impl fmt::Debug for Secured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Secured {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.parse::<IpAddr>() {
            Ok(address) => write!(f, "https://{}", SocketAddr::new(address, self.port)),
            Err(_) => write!(f, "https://{}:{}", self.host, self.port),
        }
    }
}

impl Secured {
    /// Opens a stream and shakes hands.
    ///
    /// # Errors
    /// When nobody is there, or it is somebody else.
    pub async fn connect(&self) -> io::Result<SecuredStream> {
        let shaken = tokio::time::timeout(CONNECT_MAX, self.shake());
        let shaken = shaken.await.map_err(|_| io::Error::from(ErrorKind::TimedOut))?;
        shaken.map_err(|error| io::Error::new(error.kind(), format!("{self}: {error}")))
    }

    async fn shake(&self) -> io::Result<SecuredStream> {
        let mut tcp = self.open().await?;
        if let Some(header) = &self.header {
            // It fits into the send buffer of a new connection.
            tcp.write_all(header).await?;
        }
        let tls = ClientConnection::new(Arc::clone(&self.config), self.name.clone());
        let stream = SecuredStream { tcp, tls: Mutex::new(tls.map_err(io::Error::other)?) };
        std::future::poll_fn(|cx| stream.poll_shaken(cx)).await?;
        Ok(stream)
    }

    /// To any of the addresses that the host has now.
    async fn open(&self) -> io::Result<TcpStream> {
        let mut failed = io::Error::new(ErrorKind::NotFound, "the name has no address");
        for address in tokio::net::lookup_host((&*self.host, self.port)).await? {
            match connect_to(address).await {
                Ok(tcp) => return Ok(tcp),
                Err(error) => failed = error,
            }
        }
        Err(failed)
    }
}

/// The stream.
#[derive(Debug)]
pub struct SecuredStream {
    tcp: TcpStream,
    tls: Mutex<ClientConnection>,
}

/// The socket, as rustls wants it.
struct Socket<'a>(&'a TcpStream);

impl Read for Socket<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(buf)
    }
}

impl Write for Socket<'_> {
    fn write(&mut self, buf: &[u8]) -> io::Result<usize> {
        self.0.try_write(buf)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// What was opened. A stream that ends without a word of it is not one that is over.
fn plain(tls: &mut ClientConnection, buf: &mut [u8]) -> io::Result<usize> {
    tls.reader().read(buf).map_err(|error| match error.kind() {
        ErrorKind::UnexpectedEof => {
            io::Error::new(ErrorKind::ConnectionAborted, "it ended without TLS's own end")
        }
        _ => error,
    })
}

impl SecuredStream {
    fn poll_shaken(&self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            if self.poll_writable(cx).is_pending() {
                return Poll::Pending;
            }
            let mut tls = self.tls.lock();
            if !tls.is_handshaking() {
                return Poll::Ready(Ok(()));
            }
            match self.receive(&mut tls) {
                Ok(0) => return Poll::Ready(Err(ErrorKind::ConnectionAborted.into())),
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    drop(tls);
                    if self.tcp.poll_read_ready(cx).is_pending() {
                        return Poll::Pending;
                    }
                }
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// Ready when [`Self::try_read`] may make progress.
    pub fn poll_readable(&self, cx: &mut Context<'_>) -> Poll<()> {
        // What rustls wants to say goes out even if nothing more is written here.
        let _ = self.poll_writable(cx);
        let mut tls = self.tls.lock();
        match tls.process_new_packets() {
            Ok(held) if held.plaintext_bytes_to_read() == 0 && !held.peer_has_closed() => {
                self.tcp.poll_read_ready(cx).map(drop)
            }
            _ => Poll::Ready(()),
        }
    }

    /// Ready when [`Self::try_write`] may make progress.
    pub fn poll_writable(&self, cx: &mut Context<'_>) -> Poll<()> {
        let mut tls = self.tls.lock();
        while tls.wants_write() {
            match self.tcp.poll_write_ready(cx) {
                Poll::Pending => return Poll::Pending,
                // Whoever writes is told of it.
                Poll::Ready(_) if self.send(&mut tls).is_err() => break,
                Poll::Ready(_) => {}
            }
        }
        Poll::Ready(())
    }

    /// Reads what is there; 0 is the end of the stream, as the service has said it.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing now; anything else means that the stream is gone.
    pub fn try_read(&self, slices: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let mut tls = self.tls.lock();
        let mut total = 0;
        for slice in slices {
            let mut read = 0;
            while read < slice.len() {
                match plain(&mut tls, &mut slice[read..]) {
                    Ok(0) => return Ok(total + read),
                    Ok(more) => read += more,
                    Err(error) if error.kind() == ErrorKind::WouldBlock => {
                        match self.receive(&mut tls) {
                            Ok(_) => {}
                            // What was had already comes first.
                            Err(_) if total + read > 0 => return Ok(total + read),
                            Err(error) => return Err(error),
                        }
                    }
                    Err(_) if total + read > 0 => return Ok(total + read),
                    Err(error) => return Err(error),
                }
            }
            total += read;
        }
        Ok(total)
    }

    /// Writes what fits.
    ///
    /// # Errors
    /// `WouldBlock` when nothing fits now; anything else means that the stream is gone.
    pub fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut tls = self.tls.lock();
        self.send(&mut tls)?;
        let written = tls.writer().write_vectored(slices)?;
        self.send(&mut tls)?;
        if written == 0 && slices.iter().any(|slice| !slice.is_empty()) {
            return Err(ErrorKind::WouldBlock.into());
        }
        Ok(written)
    }

    /// Ends what is sent; what comes can still be read.
    pub fn shut_write(&self) {
        let mut tls = self.tls.lock();
        tls.send_close_notify();
        if self.send(&mut tls).is_err() || tls.wants_write() {
            return;
        }
        if let Err(error) = socket2::SockRef::from(&self.tcp).shutdown(Shutdown::Write) {
            tracing::trace!(%error, "the service has gone already");
        }
    }

    /// The connection under it.
    #[must_use]
    pub fn tcp(&self) -> &TcpStream {
        &self.tcp
    }

    /// Reads of the socket, and opens what came; says how much.
    fn receive(&self, tls: &mut ClientConnection) -> io::Result<usize> {
        let mut total = 0;
        let mut end = Ok(());
        while total < READ_MAX && tls.wants_read() {
            match tls.read_tls(&mut Socket(&self.tcp)) {
                Ok(0) => break,
                Ok(read) => total += read,
                Err(error) => {
                    end = Err(error);
                    break;
                }
            }
        }
        let opened = tls.process_new_packets();
        // An alert says why.
        self.send(tls)?;
        opened.map_err(|error| io::Error::new(ErrorKind::InvalidData, error))?;
        match end {
            Err(error) if total == 0 => Err(error),
            _ => Ok(total),
        }
    }

    /// Sends what fits of what waits.
    fn send(&self, tls: &mut ClientConnection) -> io::Result<()> {
        while tls.wants_write() {
            match tls.write_tls(&mut Socket(&self.tcp)) {
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}
