//! The near side of a member that the broker itself has made: a connection to the app's listener.

use std::io::{self, IoSliceMut};
use std::task::{Context, Poll};
use std::time::Duration;

use rustix::net::Shutdown;
use rustix::net::sockopt::set_socket_linger;
use stp_drive::{Near, Pulled};
use stp_proto::session::{Event, Session, ShutNear};
use stp_proto::time::Instant;
use tokio::net::TcpStream;

use super::listener::ToListener;

/// The app, behind its listener.
pub struct ReachedNear {
    /// There until it is reset.
    reached: Option<ToListener>,
    /// The end was told; until then a close is an abort.
    fin: bool,
    /// There is no app: the server is told as soon as the session is there.
    unreached: bool,
    established: bool,
}

impl ReachedNear {
    /// Around a connection to it.
    #[must_use]
    pub fn new(reached: ToListener) -> ReachedNear {
        ReachedNear { reached: Some(reached), fin: false, unreached: false, established: false }
    }

    /// Instead of one that could not be made: its session ends with an error.
    #[must_use]
    pub fn unreached() -> ReachedNear {
        ReachedNear { reached: None, fin: false, unreached: true, established: false }
    }

    fn stream(&self) -> Option<&TcpStream> {
        self.reached.as_ref().map(|reached| &reached.stream)
    }
}

fn abort(reached: ToListener) {
    if let Err(error) = set_socket_linger(&reached.stream, Some(Duration::ZERO)) {
        tracing::trace!(%error, "the app has gone already");
    }
}

impl Near for ReachedNear {
    fn poll_readable(&mut self, _now: Instant, cx: &mut Context<'_>) -> Poll<()> {
        if self.unreached && self.established {
            return Poll::Ready(());
        }
        self.stream().map_or(Poll::Pending, |stream| stream.poll_read_ready(cx).map(drop))
    }

    fn poll_writable(&mut self, _now: Instant, cx: &mut Context<'_>) -> Poll<()> {
        self.stream().map_or(Poll::Pending, |stream| stream.poll_write_ready(cx).map(drop))
    }

    fn pull(&mut self, now: Instant, session: &mut Session) -> io::Result<Pulled> {
        if self.unreached && self.established {
            self.unreached = false;
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let Some(stream) = self.stream() else { return Err(io::ErrorKind::WouldBlock.into()) };
        let mut ended = false;
        let taken = session.fill(now, |slices: &mut [IoSliceMut<'_>]| {
            let read = stream.try_read_vectored(slices)?;
            ended = read == 0 && slices.iter().any(|slice| !slice.is_empty());
            Ok(read)
        })?;
        match taken {
            0 if ended => Ok(Pulled::Fin),
            0 => Err(io::ErrorKind::WouldBlock.into()),
            taken => Ok(Pulled::Bytes(taken)),
        }
    }

    fn push(
        &mut self,
        now: Instant,
        session: &mut Session,
        arrived: &[&[u8]],
    ) -> io::Result<usize> {
        session.deliver(now, arrived, |slices| match self.stream() {
            Some(stream) => stream.try_write_vectored(slices),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        })
    }

    fn shut(&mut self, _now: Instant, how: ShutNear) {
        match (how, &self.reached) {
            (ShutNear::Fin, Some(reached)) => {
                self.fin = true;
                if let Err(error) = rustix::net::shutdown(&reached.stream, Shutdown::Write) {
                    tracing::trace!(%error, "the app has gone already");
                }
            }
            (ShutNear::Reset { .. }, Some(_)) => self.reached.take().into_iter().for_each(abort),
            (_, None) => {}
        }
    }

    fn event(&mut self, _now: Instant, _session: &mut Session, event: &Event) {
        self.established |= matches!(event, Event::Established { .. });
    }
}

impl Drop for ReachedNear {
    /// Without an orderly end the app sees an abort: the end of a file is told by the end of this.
    fn drop(&mut self) {
        if !self.fin
            && let Some(reached) = self.reached.take()
        {
            abort(reached);
        }
    }
}
