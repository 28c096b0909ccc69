//! The broker's end of one app's socket.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::{Duration, Instant};

use rustix::net::RecvFlags;
use stp_net::kept::Kept;
use stp_proto::local::Cookie;
use stp_proto::local::wire::{FILLER, FILLER_END, Open, SocketState};
use tokio::io::Interest;
use tokio::net::UnixStream;

use super::info::AppInfo;
use super::keeping::{Face, Found, KeptStream};
use super::read::{self, Ended, Got, Sink};
use super::socket_state::SocketStates;

/// More filler than this nobody sends: the largest send buffer the kernel gives.
const FILLER_BYTES_MAX: usize = 64 << 20;
/// The shim sends the filler right after its request.
const FILLER_LATE: Duration = Duration::from_secs(1);
const FILLER_PIECE: usize = 16 << 10;

/// Whether the app's direction has ended, and how.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum AppEnd {
    /// It goes on.
    Open,
    /// The app has shut its writing side; it may still read.
    Fin,
    /// The app closed in order: nobody reads any more either.
    Gone,
    /// The app aborted: closed with bytes unread, or with `SO_LINGER` {1, 0}.
    Reset,
}

/// How the direction towards the app ends.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Shut {
    /// In order; the app may go on writing.
    Fin,
    /// Both directions at once, and the app learns this errno.
    Reset {
        /// What its calls fail with.
        errno: i32,
    },
}

/// The broker's end of what an app believes to be a TCP connection.
///
/// It begins with the connect under way: the app waits until [`AppSocket::poll_establish`] has
/// gone through, or until [`AppSocket::refuse`]. Dropped at any time, it is an abort.
#[derive(Debug)]
pub struct AppSocket {
    stream: Option<Arc<KeptStream>>,
    open: Open,
    info: AppInfo,
    reserved: Option<OwnedFd>,
    ledger: Ledger,
    filler: usize,
    established: bool,
    held: bool,
    split: bool,
    urgent: bool,
    end: AppEnd,
    fin_sent: bool,
    taken: u64,
    delivered: u64,
}

/// This socket's line in the table of states; closed once.
struct Ledger {
    states: SocketStates,
    cookie: Cookie,
    closed: bool,
}

impl Ledger {
    fn close(&mut self, state: SocketState) {
        if !std::mem::replace(&mut self.closed, true) {
            self.states.end(self.cookie, state, Instant::now());
        }
    }
}

impl std::fmt::Debug for Ledger {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ledger").field("cookie", &self.cookie).finish_non_exhaustive()
    }
}

impl AppSocket {
    /// Nothing when the cookie is in use, which no honest shim brings about.
    pub(super) fn new(
        stream: Arc<KeptStream>,
        Face { open, info }: Face,
        reserved: Option<OwnedFd>,
        states: &SocketStates,
    ) -> Option<AppSocket> {
        let ledger = Ledger { states: states.clone(), cookie: open.cookie, closed: false };
        states.open(open.cookie, open.flags.abortive).then(|| AppSocket {
            stream: Some(stream),
            open,
            info,
            reserved,
            ledger,
            filler: 0,
            established: false,
            held: false,
            split: false,
            urgent: false,
            end: AppEnd::Open,
            fin_sent: false,
            taken: 0,
            delivered: 0,
        })
    }

    /// One that a broker before this one had. Its app waits for its connect, unless
    /// [`AppSocket::go_on`] comes next.
    pub(super) fn found(found: Found, states: &SocketStates) -> Option<AppSocket> {
        let Found { stream, face, reserved } = found;
        let mut socket = AppSocket::new(stream, face, reserved, states)?;
        // The rest of a large piece may be there.
        socket.split = true;
        Some(socket)
    }

    /// What of it outlives the broker; nothing if it ends with the broker.
    #[must_use]
    pub fn kept(&self) -> Option<&Kept> {
        self.stream.as_ref()?.kept()
    }

    /// It goes on where the broker before was: its app knows of the connect, this much was taken of
    /// it, `looked_at` says whether the last byte of that is still in the queue, and `ended`
    /// whether the end came behind it.
    pub fn go_on(&mut self, (taken, ended): (u64, bool), delivered: u64, looked_at: bool) {
        (self.established, self.held) = (true, looked_at);
        (self.taken, self.delivered) = (taken, delivered);
        if ended {
            self.end = AppEnd::Fin;
        }
        self.report(0, 0);
    }

    /// Its app goes on with a session of which this much was taken and given elsewhere; `ended`
    /// says whether the end came behind it. It still waits for its connect.
    pub fn begins_at(&mut self, (taken, ended): (u64, bool), delivered: u64) {
        (self.taken, self.delivered) = (taken, delivered);
        if ended {
            self.end = AppEnd::Fin;
        }
    }

    /// Whether closing means abort, as the app has said.
    #[must_use]
    pub fn is_abortive(&self) -> bool {
        self.ledger.states.is_abortive(self.ledger.cookie)
    }

    /// Says whether closing means abort.
    pub fn set_abortive(&self, abortive: bool) {
        self.ledger.states.set_abortive(self.ledger.cookie, abortive);
    }

    /// What the app asked for.
    #[must_use]
    pub fn open(&self) -> &Open {
        &self.open
    }

    /// The program that asks.
    #[must_use]
    pub fn info(&self) -> &AppInfo {
        &self.info
    }

    /// The TCP socket the app had made, bound to the address and port it believes to have. It
    /// keeps the port from being given to others for as long as this socket lives, unless taken.
    pub fn take_reserved(&mut self) -> Option<OwnedFd> {
        self.reserved.take()
    }

    /// How long what the app writes may be unacknowledged, if it had said so when it connected.
    #[must_use]
    pub fn user_timeout(&self) -> Option<Duration> {
        let ms = rustix::net::sockopt::tcp_user_timeout(self.reserved.as_ref()?).ok()?;
        (ms > 0).then(|| Duration::from_millis(ms.into()))
    }

    /// Whether the app's direction has ended. Bytes before the end have all been read then.
    #[must_use]
    pub fn end(&self) -> AppEnd {
        self.end
    }

    /// Bytes taken from the app, and bytes its socket has accepted.
    #[must_use]
    pub fn positions(&self) -> (u64, u64) {
        (self.taken, self.delivered)
    }

    /// Tells the app that its connect has succeeded: reads the filler away.
    ///
    /// Ready with an error when the app has gone meanwhile or sent something else; the socket is
    /// of no use then. Nothing is lost when the caller stops polling.
    pub fn poll_establish(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.established {
            return Poll::Ready(Ok(()));
        }
        self.report(0, 0);
        loop {
            let stream = self.stream.as_ref().ok_or(ErrorKind::NotConnected)?;
            ready!(stream.poll_read_ready(cx))?;
            match stream.try_io(Interest::READABLE, || eat_filler(stream)) {
                Ok((eaten, end)) => {
                    self.filler += eaten;
                    if end {
                        // The end byte stays in the queue, as the first byte held back.
                        (self.established, self.held) = (true, true);
                        return Poll::Ready(Ok(()));
                    }
                    if self.filler > FILLER_BYTES_MAX {
                        return Poll::Ready(Err(ErrorKind::InvalidData.into()));
                    }
                }
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
    }

    /// As [`AppSocket::poll_establish`].
    ///
    /// # Errors
    /// The app has gone meanwhile, or sent something else than filler.
    pub async fn establish(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_establish(cx)).await
    }

    /// Whether the app has given up its connect; to be asked while the session is being set up.
    #[must_use]
    pub fn has_given_up(&self) -> bool {
        let Some(stream) = &self.stream else { return true };
        matches!(read::ended(stream.as_fd()), Ok(Some(Ended::Gone | Ended::Reset)) | Err(_))
    }

    /// Tells the app that its connect has failed.
    pub fn refuse(mut self, errno: i32) {
        self.shut(Shut::Reset { errno });
    }

    /// Keeps what the app may ask of the session from time to time: the link's smoothed round-trip
    /// time, 0 when there is no link, and the bytes not acknowledged by the far end.
    pub fn report(&self, rtt_us: u32, unacknowledged: u32) {
        let state = SocketState::Established { rtt_us, unacknowledged };
        if !self.ledger.closed {
            self.ledger.states.set(self.ledger.cookie, state);
        }
    }

    /// Ready when [`AppSocket::try_read`] may make progress. After the app's end it never is.
    /// A task that finds `WouldBlock` after this said ready must ask again to be woken.
    pub fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.stream {
            Some(stream) if self.established && self.end == AppEnd::Open => {
                stream.poll_read_ready(cx)
            }
            _ => Poll::Pending,
        }
    }

    /// Ready when [`AppSocket::try_write`] may make progress.
    pub fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &self.stream {
            Some(stream) if self.established => stream.poll_write_ready(cx),
            _ => Poll::Pending,
        }
    }

    /// Reads some of what the app wrote, never waiting. `Ok(0)` means the app's direction has
    /// ended: [`AppSocket::end`] says how.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing now; readiness is cleared then.
    pub fn try_read(&mut self, bufs: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        let Some(stream) = &self.stream else { return Ok(0) };
        if !self.established {
            return Err(ErrorKind::WouldBlock.into());
        }
        if self.end != AppEnd::Open {
            return Ok(0);
        }
        let (held, split) = (&mut self.held, &mut self.split);
        let room = bufs.iter().map(|buf| buf.len()).sum();
        let mut into = match stream.kept() {
            Some(kept) => Sink::Ring(kept, self.taken, room),
            None => Sink::Slices(bufs),
        };
        let got = stream.try_io(Interest::READABLE, || {
            match read::fresh(stream.as_fd(), held, split, &mut into)? {
                Got::Nothing => Err(ErrorKind::WouldBlock.into()),
                got => Ok(got),
            }
        })?;
        if let (Some(kept), Got::Bytes(_) | Got::Urgent) = (stream.kept(), &got) {
            let count = if let Got::Bytes(count) = got { count } else { 1 };
            kept.copy_up(self.taken, count, bufs);
        }
        self.urgent = matches!(got, Got::Urgent);
        match got {
            Got::Bytes(count) => {
                self.taken += count as u64;
                Ok(count)
            }
            Got::Urgent => {
                self.taken += 1;
                Ok(1)
            }
            Got::Nothing => Err(ErrorKind::WouldBlock.into()),
            Got::End(end) => {
                let abortive = self.ledger.states.is_abortive(self.ledger.cookie);
                self.end = match end {
                    Ended::Fin => AppEnd::Fin,
                    Ended::Gone if !abortive => AppEnd::Gone,
                    Ended::Gone | Ended::Reset => AppEnd::Reset,
                };
                Ok(0)
            }
        }
    }

    /// Whether the byte that [`AppSocket::try_read`] gave last was sent as urgent.
    #[must_use]
    pub fn is_urgent(&self) -> bool {
        self.urgent
    }

    /// Gives the app one byte as urgent, never waiting; in line where the kernel knows no other
    /// way.
    ///
    /// # Errors
    /// As [`AppSocket::try_write`].
    pub fn try_write_urgent(&mut self, byte: u8) -> io::Result<usize> {
        let Some(stream) = self.stream.as_ref().filter(|_| self.established) else {
            return self.try_write(&[IoSlice::new(&[byte])]);
        };
        let sent = stream.try_io(Interest::WRITABLE, || match stream.kept() {
            Some(kept) => Ok(kept.write(stream.as_fd(), &[IoSlice::new(&[byte])], true)?),
            None => stp_net::urgent::send(stream, byte),
        });
        match sent {
            Ok(count) => {
                self.delivered += count as u64;
                Ok(count)
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => Err(error),
            // No urgent bytes, or nobody who reads them.
            Err(_) => self.try_write(&[IoSlice::new(&[byte])]),
        }
    }

    /// Gives the app some bytes, never waiting.
    ///
    /// # Errors
    /// `WouldBlock` when its queue is full; `BrokenPipe` when nobody reads any more.
    pub fn try_write(&mut self, bufs: &[IoSlice<'_>]) -> io::Result<usize> {
        if !self.established {
            return Err(ErrorKind::WouldBlock.into());
        }
        let stream = self.stream.as_ref().ok_or(ErrorKind::BrokenPipe)?;
        let written = match stream.kept() {
            Some(kept) => {
                stream.try_io(Interest::WRITABLE, || Ok(kept.write(stream.as_fd(), bufs, false)?))
            }
            None => stream.try_write_vectored(bufs),
        };
        let count = match written {
            // The app has shut its reading side alone: a TCP peer may go on sending.
            Err(error) if error.kind() == ErrorKind::BrokenPipe && self.still_speaks() => {
                let count = bufs.iter().map(|buf| buf.len()).sum();
                if let Some(kept) = stream.kept() {
                    kept.skip(count as u64);
                }
                count
            }
            other => other?,
        };
        self.delivered += count as u64;
        Ok(count)
    }

    /// Whether the app may still write, though it does not read any more.
    fn still_speaks(&self) -> bool {
        let ended = self.stream.as_ref().map(|stream| read::ended(stream.as_fd()));
        matches!(ended, Some(Ok(None)))
    }

    /// Ends the direction towards the app.
    pub fn shut(&mut self, how: Shut) {
        match how {
            Shut::Fin => {
                let Some(stream) = &self.stream else { return };
                // Only this direction: the app may go on writing, as with TCP. The descriptor is
                // kept, because closing it would look like an abort.
                if !std::mem::replace(&mut self.fin_sent, true) {
                    let how = rustix::net::Shutdown::Write;
                    let _gone_already = rustix::net::shutdown(stream, how);
                }
            }
            Shut::Reset { errno } if self.established => {
                self.ledger.close(SocketState::Reset(errno));
                self.stream = None;
                self.reserved = None;
            }
            Shut::Reset { errno } => {
                self.ledger.close(SocketState::Refused(errno));
                self.reserved = None;
                if let Some(stream) = self.stream.take() {
                    close_on_filler(stream);
                }
            }
        }
    }

    /// Ends both directions in order: all has been read, all has been delivered.
    pub fn close(mut self) {
        self.shut(Shut::Fin);
        if let Some(stream) = &self.stream {
            read::drop_held(stream.as_fd(), &mut self.held);
        }
        self.ledger.close(SocketState::Closed);
    }
}

impl Drop for AppSocket {
    fn drop(&mut self) {
        let state = match (self.established, self.end) {
            (false, _) => SocketState::Refused(rustix::io::Errno::CONNREFUSED.raw_os_error()),
            (true, _) if self.fin_sent && self.end != AppEnd::Open => SocketState::Closed,
            (true, _) => SocketState::Reset(rustix::io::Errno::CONNRESET.raw_os_error()),
        };
        self.ledger.close(state);
    }
}

/// Closes when there is filler to be left unread, without which the app would see no error but an
/// end. It is on its way: a refusal may overtake it.
fn close_on_filler(stream: Arc<KeptStream>) {
    let came = |stream: &UnixStream| {
        let queued = rustix::io::ioctl_fionread(stream).is_ok_and(|queued| queued > 0);
        queued || !matches!(read::ended(stream.as_fd()), Ok(None))
    };
    if !came(&stream)
        && let Ok(runtime) = tokio::runtime::Handle::try_current()
    {
        runtime.spawn(tokio::time::timeout(FILLER_LATE, async move {
            while stream.readable().await.is_ok() && !came(&stream) {
                // Readiness that is left over from the request.
                let cleared = stream.try_io(Interest::READABLE, || match came(&stream) {
                    true => Ok(()),
                    false => Err(ErrorKind::WouldBlock.into()),
                });
                if cleared.is_ok() {
                    break;
                }
            }
        }));
    }
}

/// Eats filler up to the end byte, which stays; says how many bytes and whether the end is there.
fn eat_filler(stream: &UnixStream) -> io::Result<(usize, bool)> {
    let mut piece = [0; FILLER_PIECE];
    let flags = RecvFlags::DONTWAIT;
    let (_, seen) = rustix::net::recv(stream, &mut piece[..], flags | RecvFlags::PEEK)?;
    let filler = piece[..seen].iter().take_while(|byte| **byte == FILLER).count();
    let end = match piece[..seen].get(filler) {
        None if seen == 0 => return Err(ErrorKind::ConnectionAborted.into()),
        None => false,
        Some(&FILLER_END) => true,
        Some(_) => return Err(ErrorKind::InvalidData.into()),
    };
    if filler > 0 {
        let (_, eaten) = rustix::net::recv(stream, &mut piece[..filler], flags)?;
        debug_assert_eq!(eaten, filler, "what was looked at is still there");
    }
    Ok((filler, end))
}
