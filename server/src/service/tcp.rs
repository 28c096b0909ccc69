//! The `tcp` service: any protocol. Bytes go through; nothing is known of them, so the session
//! survives every change of the app's side and none of the service's.

use std::io;
use std::task::{Context, Poll};

use stp_drive::{Near, Pulled};
use stp_proto::session::{Event, Session, ShutNear};
use stp_proto::time::Instant;

use super::upstream::Upstream;

/// The stream of one session to its service.
#[derive(Debug)]
pub struct Tcp {
    upstream: Option<Upstream>,
}

impl Tcp {
    /// Around an open stream.
    #[must_use]
    pub fn new(upstream: Upstream) -> Self {
        Self { upstream: Some(upstream) }
    }
}

impl Near for Tcp {
    fn poll_readable(&mut self, _now: Instant, cx: &mut Context<'_>) -> Poll<()> {
        self.upstream.as_ref().map_or(Poll::Pending, |upstream| upstream.poll_readable(cx))
    }

    fn poll_writable(&mut self, _now: Instant, cx: &mut Context<'_>) -> Poll<()> {
        self.upstream.as_ref().map_or(Poll::Pending, |upstream| upstream.poll_writable(cx))
    }

    fn pull(&mut self, now: Instant, session: &mut Session) -> io::Result<Pulled> {
        let Some(upstream) = &self.upstream else { return Err(io::ErrorKind::WouldBlock.into()) };
        let (mut ended, mut urgent) = (false, false);
        let taken = session.fill(now, |slices| {
            let read;
            (read, urgent) = upstream.try_read_marked(slices)?;
            ended = read == 0 && slices.iter().any(|slice| !slice.is_empty());
            Ok(read)
        })?;
        match taken {
            0 if ended => Ok(Pulled::Fin),
            0 => Err(io::ErrorKind::WouldBlock.into()),
            taken => {
                if urgent {
                    session.mark_urgent();
                }
                Ok(Pulled::Bytes(taken))
            }
        }
    }

    fn push(
        &mut self,
        now: Instant,
        session: &mut Session,
        arrived: &[&[u8]],
    ) -> io::Result<usize> {
        session.deliver_marked(now, arrived, |slices, urgent| match &self.upstream {
            Some(upstream) if urgent => upstream.try_write_urgent(slices[0][0]),
            Some(upstream) => upstream.try_write(slices),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        })
    }

    fn shut(&mut self, _now: Instant, how: ShutNear) {
        match (how, &self.upstream) {
            (ShutNear::Fin, Some(upstream)) => upstream.shut_write(),
            (ShutNear::Reset { .. }, Some(upstream)) => {
                upstream.reset_on_close();
                self.upstream = None;
            }
            (_, None) => {}
        }
    }

    fn event(&mut self, _now: Instant, _session: &mut Session, _event: &Event) {}
}
