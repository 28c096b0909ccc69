//! An exchange that may not be repeated (POST, PUT) goes on in another process as bytes of which
//! nothing is known, like a session of a `tcp` service (R104).
//!
//! While such an exchange is under way, what the app sends goes to its service as it is, and what
//! the service answers goes to the app as it is. So all that the next process needs is the stream,
//! and how far it is. As long as the broker may have to be told of this exchange, the keeper holds
//! the stream, and the session's end is put by with the positions at which the stream's counts
//! began. Every other exchange goes on with its ticket.

use std::io;
use std::sync::Arc;
use std::task::{Context, Poll};

use stp_drive::keep::{Base, Keep};
use stp_drive::{Near, Pulled};
use stp_proto::session::{Event, Session, ShutNear};
use stp_proto::time::Instant;

use super::http::Http;
use super::kept::KeptStream;
use super::upstream::{Target, Upstream};
use crate::keeping::{Face, Keeping};
use crate::ticket::Mint;

/// HTTP, and what of it outlives this process.
pub struct BoundHttp {
    http: Http<Target, Mint>,
    keeper: Option<(Arc<Keeping>, Face)>,
    bound: Option<Bound>,
    keep: Keep,
}

/// An exchange that may not be repeated, on a stream that is kept.
struct Bound {
    stream: Arc<KeptStream>,
    base: Base,
    /// Where the answer ends in the session's stream, as far as it has come.
    until: u64,
}

impl BoundHttp {
    /// One that ends with this process.
    #[must_use]
    pub fn new(http: Http<Target, Mint>) -> BoundHttp {
        BoundHttp { http, keeper: None, bound: None, keep: Keep::default() }
    }

    /// Has a keeper hold what can go on in another process.
    #[must_use]
    pub fn kept_by(self, keeping: &Arc<Keeping>, face: Face) -> BoundHttp {
        BoundHttp { keeper: Some((Arc::clone(keeping), face)), ..self }
    }

    /// The exchanges.
    #[must_use]
    pub fn http(&self) -> &Http<Target, Mint> {
        &self.http
    }

    /// If an exchange that may not be repeated has just gone to the service, and nothing else is on
    /// its way, the stream and the session go in step from here on.
    fn bind(&mut self, session: &Session) {
        let Some((keeping, face)) = &self.keeper else { return };
        if self.bound.is_some() || !self.http.machine().has_just_asked_for_good() {
            return;
        }
        let Some(stream) = self.http.stream().take() else { return };
        let stream = match stream {
            Upstream::Tcp(tcp) => keeping.hold(tcp, face),
            other => other,
        };
        if let Upstream::Kept(stream) = &stream {
            let (at, kept) = (session.positions(), stream.kept());
            let base = at.delivered.checked_sub(kept.given()).zip(at.end.checked_sub(kept.taken()));
            self.bound = base.map(|(up, down)| {
                let (stream, base) = (Arc::clone(stream), Base { up, down });
                Bound { stream, base, until: at.end }
            });
        }
        *self.http.stream() = Some(stream);
    }

    /// Whether the stream and the session go in step still, and the next process is to go on so.
    fn is_bound(&mut self, session: &Session) -> bool {
        let Some(bound) = &mut self.bound else { return false };
        let at = session.positions();
        let same = match self.http.stream() {
            Some(Upstream::Kept(stream)) => Arc::ptr_eq(stream, &bound.stream),
            // It has ended, in order.
            None => true,
            Some(_) => false,
        };
        if !same || !self.http.machine().is_in_step() {
            return false;
        }
        if self.http.machine().asks_for_good() {
            bound.until = at.end;
            return true;
        }
        // Its last bytes, and the ticket behind them, are surely there from then on.
        at.heard < bound.until
    }
}

impl Near for BoundHttp {
    fn poll_readable(&mut self, now: Instant, cx: &mut Context<'_>) -> Poll<()> {
        self.http.poll_readable(now, cx)
    }

    fn poll_writable(&mut self, now: Instant, cx: &mut Context<'_>) -> Poll<()> {
        self.http.poll_writable(now, cx)
    }

    fn due(&self) -> Option<Instant> {
        self.http.due()
    }

    fn pull(&mut self, now: Instant, session: &mut Session) -> io::Result<Pulled> {
        self.http.pull(now, session)
    }

    fn push(
        &mut self,
        now: Instant,
        session: &mut Session,
        arrived: &[&[u8]],
    ) -> io::Result<usize> {
        let pushed = self.http.push(now, session, arrived);
        self.bind(session);
        if let Some(bound) = &self.bound
            && session.undelivered() > 0
        {
            self.keep.hold(bound.stream.kept(), session);
        }
        pushed
    }

    fn keep(&mut self, session: &Session) {
        let goes_on = self.is_bound(session);
        let Some(bound) = &self.bound else { return };
        let remains = if goes_on { session.remains_without_tickets() } else { None };
        self.keep.moved();
        let encode = |out: &mut Vec<u8>| {
            if let Some(remains) = remains {
                bound.base.encode(out);
                remains.encode(out);
            }
        };
        let fits = self.keep.put(bound.stream.kept(), session, encode);
        debug_assert!(fits, "the name of a server is short");
        if !goes_on {
            self.bound = None;
        }
    }

    fn at_work(&self, at_work: bool) {
        if let Some(bound) = &self.bound {
            bound.stream.kept().set_at_work(at_work);
        }
    }

    fn shut(&mut self, now: Instant, how: ShutNear) {
        self.http.shut(now, how);
    }

    fn event(&mut self, now: Instant, session: &mut Session, event: &Event) {
        self.http.event(now, session, event);
    }
}
