//! The `tcp` service: any protocol. Bytes go through; nothing is known of them, so the session
//! survives every change of the app's side, the death of this process if there is a keeper, and
//! none of the service's. While it is away the service is kept from giving it up
//! ([`super::ahead`]).

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use stp_drive::keep::{Base, Keep};
use stp_drive::{Near, Pulled};
use stp_net::kept::Kept;
use stp_net::spool::View;
use stp_proto::session::{Event, Session, ShutNear};
use stp_proto::time::Instant;

use super::ahead::Ahead;
use super::kept::KeptStream;
use super::upstream::Upstream;
use crate::keeping::{Face, Keeping};

/// The stream of one session to its service.
#[derive(Debug)]
pub struct Tcp {
    upstream: Option<Upstream>,
    ahead: Option<Box<Ahead>>,
    keep: Keep,
    /// Where the counts of its stream began, if that was an exchange of HTTP.
    base: Option<Base>,
}

impl Tcp {
    /// Around an open stream; without `ahead` the service waits while the session is away.
    #[must_use]
    pub fn new(upstream: Upstream, ahead: Option<Ahead>) -> Self {
        let (keep, ahead) = (Keep::default(), ahead.map(Box::new));
        Self { upstream: Some(upstream), ahead, keep, base: None }
    }

    /// Around a stream that the process before this one had, and had ended if `shut`.
    #[must_use]
    pub fn found(
        stream: Arc<KeptStream>,
        shut: bool,
        ahead: Option<Ahead>,
        base: Option<Base>,
    ) -> Self {
        if shut {
            stream.shut_write();
        }
        Self { keep: Keep::found(), base, ..Self::new(Upstream::Kept(stream), ahead) }
    }

    /// Has a keeper hold it, for this session.
    #[must_use]
    pub fn kept_by(self, keeping: &Keeping, face: &Face) -> Self {
        let upstream = match self.upstream {
            Some(Upstream::Tcp(tcp)) => Some(keeping.hold(tcp, face)),
            other => other,
        };
        Self { upstream, ..self }
    }

    fn kept(&self) -> Option<&Kept> {
        match &self.upstream {
            Some(Upstream::Kept(stream)) => Some(stream.kept()),
            _ => None,
        }
    }

    /// What its spool tells of itself, if it has one.
    #[must_use]
    pub fn spool(&self) -> Option<Arc<View>> {
        self.ahead.as_ref().map(|ahead| ahead.view())
    }

    /// Reads the service itself; what came, and whether its last byte is urgent. 0 is the end.
    fn read(&mut self, now: Instant, session: &mut Session) -> io::Result<(usize, bool)> {
        let Some(upstream) = &self.upstream else { return Err(io::ErrorKind::WouldBlock.into()) };
        let (mut ended, mut urgent) = (false, false);
        let taken = session.fill(now, |slices| {
            let read;
            (read, urgent) = upstream.try_read_marked(slices)?;
            ended = read == 0 && slices.iter().any(|slice| !slice.is_empty());
            Ok(read)
        })?;
        if taken == 0 && !ended {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if let Some(ahead) = &mut self.ahead {
            ahead.flows();
        }
        self.keep.moved();
        Ok((taken, urgent))
    }
}

impl Near for Tcp {
    fn poll_readable(&mut self, _now: Instant, cx: &mut Context<'_>) -> Poll<()> {
        if self.ahead.as_ref().is_some_and(|ahead| ahead.has_some()) {
            return Poll::Ready(());
        }
        self.upstream.as_ref().map_or(Poll::Pending, |upstream| upstream.poll_readable(cx))
    }

    fn poll_writable(&mut self, _now: Instant, cx: &mut Context<'_>) -> Poll<()> {
        self.upstream.as_ref().map_or(Poll::Pending, |upstream| upstream.poll_writable(cx))
    }

    fn due(&self) -> Option<Instant> {
        self.ahead.as_ref().and_then(|ahead| ahead.due())
    }

    fn take_ahead(&mut self, now: Instant, session: &Session) {
        if let (Some(ahead), Some(upstream)) = (&mut self.ahead, &self.upstream) {
            ahead.look(now, session, upstream);
        }
    }

    fn memory(&self) -> usize {
        let ahead = self.ahead.as_ref().map_or(0, |ahead| ahead.memory());
        ahead + self.kept().map_or(0, Kept::in_use)
    }

    fn keep(&mut self, session: &Session) {
        let Some(Upstream::Kept(stream)) = &self.upstream else { return };
        // None when it has ended: then the next process must not go on with it.
        let remains = session.remains();
        let base = self.base;
        let encode = |out: &mut Vec<u8>| {
            if let Some(remains) = remains {
                base.iter().for_each(|base| base.encode(out));
                remains.encode(out);
            }
        };
        let fits = self.keep.put(stream.kept(), session, encode);
        debug_assert!(fits, "the name of a server is short");
    }

    fn at_work(&self, at_work: bool) {
        if let Some(kept) = self.kept() {
            kept.set_at_work(at_work);
        }
    }

    fn pull(&mut self, now: Instant, session: &mut Session) -> io::Result<Pulled> {
        let (taken, urgent) = match self.ahead.as_mut().filter(|ahead| ahead.has_some()) {
            Some(ahead) => ahead.pull(now, session)?,
            None => self.read(now, session)?,
        };
        if urgent {
            session.mark_urgent();
        }
        Ok(if taken == 0 { Pulled::Fin } else { Pulled::Bytes(taken) })
    }

    fn push(
        &mut self,
        now: Instant,
        session: &mut Session,
        arrived: &[&[u8]],
    ) -> io::Result<usize> {
        let pushed = session.deliver_marked(now, arrived, |slices, urgent| match &self.upstream {
            Some(upstream) if urgent => upstream.try_write_urgent(slices[0][0]),
            Some(upstream) => upstream.try_write(slices),
            None => Err(io::ErrorKind::BrokenPipe.into()),
        });
        if let Some(Upstream::Kept(stream)) = &self.upstream
            && session.undelivered() > 0
        {
            self.keep.hold(stream.kept(), session);
        }
        pushed
    }

    fn shut(&mut self, _now: Instant, how: ShutNear) {
        match (how, &self.upstream) {
            (ShutNear::Fin, Some(upstream)) => upstream.shut_write(),
            (ShutNear::Reset { .. }, Some(upstream)) => {
                upstream.reset_on_close();
                (self.upstream, self.ahead) = (None, None);
            }
            (_, None) => {}
        }
    }

    fn event(&mut self, _now: Instant, _session: &mut Session, _event: &Event) {}
}
