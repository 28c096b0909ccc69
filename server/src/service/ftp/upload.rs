//! An upload under way: what of it is in the FTP server's file is looked at beside it, and what is
//! not is kept for another connection.

use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use stp_proto::replay::ftp::{File, Login, Look, Upload};
use stp_proto::seam::{BLOCK, Seam};
use tokio::time::Instant;

use super::connection::Connection;
use crate::service::join::JoinError;
use crate::service::upstream::Upstream;

/// The file is seen to grow in this time, or it is not where it should be (a hidden name, say), and
/// nobody can go on with the upload elsewhere.
const LOOK_MAX: Duration = Duration::from_secs(2);
/// The pause between two looks.
const LOOK_AGAIN: Duration = Duration::from_millis(20);

/// What a look has shown.
struct Seen {
    connection: Connection,
    size: u64,
}

type Looking = Pin<Box<dyn Future<Output = Option<Seen>> + Send>>;

/// See the module.
pub struct Upward {
    address: SocketAddr,
    look: Look,
    upload: Upload,
    /// A login of its own, for SIZE.
    beside: Option<Connection>,
    looking: Option<Looking>,
    /// The client has sent everything.
    fin: bool,
    /// The connection was told so.
    shut: bool,
    /// The size that the file has in the end.
    expected: Arc<AtomicU64>,
}

impl Upward {
    /// Of a file at this server.
    pub fn new(address: SocketAddr, login: &Login, file: &File) -> Self {
        Self {
            address,
            look: Look::at(login, file),
            upload: Upload::new(Seam::new(0, BLOCK)),
            beside: None,
            looking: None,
            fin: false,
            shut: false,
            expected: Arc::default(),
        }
    }

    /// What is known of it.
    pub fn upload(&self) -> &Upload {
        &self.upload
    }

    /// How to look at the file, and the size it has in the end, once that is known.
    pub fn last_look(&self) -> (Look, Arc<AtomicU64>) {
        (self.look.clone(), Arc::clone(&self.expected))
    }

    /// Another connection goes on behind what was read back.
    pub fn reconnected(&mut self, seam: Seam) {
        if seam.position() > self.upload.covers() {
            self.upload = Upload::new(seam);
        }
        self.upload.reconnected();
        self.shut = false;
    }

    /// Nobody looks while there is no connection.
    pub fn disconnected(&mut self) {
        (self.looking, self.beside) = (None, None);
    }

    /// Writes new bytes; says how many.
    pub fn write(&mut self, source: &Upstream, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        let mut room = self.upload.room();
        if room == 0 {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        let mut some = Vec::with_capacity(slices.len());
        for slice in slices {
            let count = slice.len().min(room);
            room -= count;
            some.push(IoSlice::new(&slice[..count]));
        }
        let written = source.try_write(&some)?;
        let mut left = written;
        for slice in &some {
            let count = slice.len().min(left);
            left -= count;
            self.upload.take(&slice[..count]);
        }
        Ok(written)
    }

    /// The client has sent everything.
    pub fn end(&mut self) {
        self.fin = true;
    }

    /// Whether new bytes can be written.
    pub fn has_room(&self) -> bool {
        self.upload.room() > 0
    }

    /// Gives the connection what it lacks, and the end.
    pub fn poll_give(&mut self, source: &Upstream, cx: &mut Context<'_>) -> io::Result<()> {
        while !self.upload.ungiven().is_empty() {
            match source.try_write(&[IoSlice::new(self.upload.ungiven())]) {
                Ok(count) => self.upload.gave(count),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if source.poll_writable(cx).is_pending() {
                        return Ok(());
                    }
                }
                Err(error) => return Err(error),
            }
        }
        if self.fin && !self.shut {
            self.shut = true;
            self.expected.store(self.upload.end(), Ordering::Release);
            source.shut_write();
        }
        Ok(())
    }

    /// Looks at the file when it is worth it. True: more of it is proven. False: it cannot be seen.
    pub fn poll_look(&mut self, cx: &mut Context<'_>) -> Poll<bool> {
        if !self.upload.ungiven().is_empty() {
            return Poll::Pending;
        }
        if self.looking.is_none()
            && let Some(wanted) = self.upload.due()
        {
            let looking = look(self.address, self.look.clone(), self.beside.take(), wanted);
            self.looking = Some(Box::pin(looking));
        }
        let Some(looking) = &mut self.looking else { return Poll::Pending };
        let Poll::Ready(seen) = looking.as_mut().poll(cx) else { return Poll::Pending };
        self.looking = None;
        let Some(Seen { connection, size }) = seen else { return Poll::Ready(false) };
        self.beside = Some(connection);
        Poll::Ready(self.upload.seen(size))
    }
}

/// Looks until the file has the size that is wanted.
async fn look(
    address: SocketAddr,
    look: Look,
    mut beside: Option<Connection>,
    wanted: u64,
) -> Option<Seen> {
    let until = Instant::now() + LOOK_MAX;
    loop {
        match seen(address, &look, &mut beside, wanted).await {
            Ok(Some(size)) => return Some(Seen { connection: beside?, size }),
            Ok(None) => {}
            Err(error) => tracing::debug!(%error, "an uploaded file cannot be looked at"),
        }
        if Instant::now() > until {
            tracing::info!("what is uploaded cannot be seen in its file");
            return None;
        }
        tokio::time::sleep(LOOK_AGAIN).await;
    }
}

/// The size of the file, if it is as large as that.
async fn seen(
    address: SocketAddr,
    look: &Look,
    beside: &mut Option<Connection>,
    wanted: u64,
) -> Result<Option<u64>, JoinError> {
    let mut connection = match beside.take() {
        Some(connection) => connection,
        None => Connection::log_in(address, &look.login).await?,
    };
    let size = connection.ask(&look.size).await?.size();
    *beside = Some(connection);
    Ok(size.filter(|size| *size >= wanted))
}
