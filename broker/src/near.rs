//! The near side of a session: the app's socket.

use std::io::{self, ErrorKind};
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use nix::errno::Errno;
use stp_drive::keep::Keep;
use stp_drive::{Near, Pulled};
use stp_net::kept::Kept;
use stp_proto::course::Relay;
use stp_proto::session::{Event, Session, ShutNear, code};
use stp_proto::time::Instant;
use tokio::time::{Interval, MissedTickBehavior, interval};

use crate::app::{AppEnd, AppSocket, Shut};
use crate::broker::Broker;
use crate::entry::Entry;
use crate::redirect::Redirect;
use crate::remains::{HERE, Record};

/// How often an app that waits for its connect is looked at: it may have given up.
const LOOK_EVERY: Duration = Duration::from_millis(500);

/// How far the app's connect has come.
enum Connect {
    /// The session is not established.
    Waiting(Interval),
    /// It is; the app is being told.
    Telling,
    /// The app knows.
    Done,
}

/// The app of one session.
pub struct AppNear {
    /// There until it is reset.
    socket: Option<AppSocket>,
    connect: Connect,
    failed: Option<io::Error>,
    fin: bool,
    entry: Arc<Entry>,
    keep: Keep,
    /// What knows the routes, until the first bytes for the app have come.
    routes: Option<Arc<Broker>>,
}

impl AppNear {
    /// An app that waits for its connect.
    #[must_use]
    pub fn new(broker: Arc<Broker>, socket: AppSocket, entry: Arc<Entry>) -> AppNear {
        let mut look = interval(LOOK_EVERY);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let connect = Connect::Waiting(look);
        let mut near = AppNear::with(socket, connect, entry);
        near.routes = Some(broker);
        near
    }

    /// An app whose session was begun by a broker before this one; `told` says whether it knows
    /// that its connect has succeeded.
    #[must_use]
    pub fn found(socket: AppSocket, entry: Arc<Entry>, told: bool, end_given: bool) -> AppNear {
        let connect = if told { Connect::Done } else { Connect::Telling };
        let mut near = AppNear::with(socket, connect, entry);
        near.keep = Keep::found();
        if let Some(socket) = near.socket.as_mut().filter(|_| end_given) {
            socket.shut(Shut::Fin);
            near.fin = true;
        }
        near
    }

    /// An app that goes on with a session that was saved; it still waits for its connect. What the
    /// next broker needs is put by at once.
    #[must_use]
    pub fn attached(socket: AppSocket, entry: Arc<Entry>, session: &Session) -> AppNear {
        let mut near = AppNear::with(socket, Connect::Telling, entry);
        near.keep = Keep::found();
        near.keep(session);
        near
    }

    fn with(socket: AppSocket, connect: Connect, entry: Arc<Entry>) -> AppNear {
        let keep = Keep::default();
        let socket = Some(socket);
        AppNear { socket, connect, failed: None, fin: false, entry, keep, routes: None }
    }

    /// Takes down where the first response leads, if no route does. These are its first bytes.
    fn tell_redirect(&mut self, first: &[u8]) {
        let Some(broker) = self.routes.take() else { return };
        let Some(to) = Redirect::of_response(first) else { return };
        if !broker.tables().config.routes.may_lead(&to.host, to.port) {
            let text =
                format!("to {to}, which no route covers: what comes from there is no session");
            self.entry.record("redirected", text, 0);
        }
    }

    /// The session as the next broker needs it; nothing if that could not go on with it.
    fn record(&self, session: &Session) -> Option<Record> {
        let socket = self.socket.as_ref()?;
        let remains = session.remains()?;
        let servers = &self.entry.service.servers;
        let home = match self.entry.service.direct {
            Some(_) => HERE,
            None => {
                let home = self.entry.view.lock().server?;
                Relay(servers.get(home)?.reach.dialer().key.0)
            }
        };
        Some(Record {
            id: self.entry.id,
            told: matches!(self.connect, Connect::Done),
            abortive: socket.is_abortive(),
            home,
            service: self.entry.service.name.clone(),
            endpoint: self.entry.service.endpoint.to_string(),
            awaits: *self.entry.awaits.lock(),
            lead: self.entry.led_by(),
            remains,
        })
    }

    /// R103.
    fn put_ticket(&mut self, session: &Session) {
        if let Some(kept) = self.socket.as_ref().and_then(AppSocket::kept) {
            self.keep.put_ticket(kept, session);
        }
    }

    /// Ready when bytes may flow, or when it has failed.
    fn poll_connected(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(socket) = &mut self.socket else { return Poll::Pending };
        if self.failed.is_some() {
            return Poll::Ready(());
        }
        match &mut self.connect {
            Connect::Done => Poll::Ready(()),
            Connect::Waiting(look) => {
                ready!(look.poll_tick(cx));
                while look.poll_tick(cx).is_ready() {}
                if socket.has_given_up() {
                    self.failed = Some(ErrorKind::ConnectionAborted.into());
                    return Poll::Ready(());
                }
                Poll::Pending
            }
            Connect::Telling => {
                let told = ready!(socket.poll_establish(cx));
                self.connect = Connect::Done;
                self.failed = told.err();
                Poll::Ready(())
            }
        }
    }

    fn errno(&self, code: u32) -> i32 {
        if let Some((errno, _)) = self.entry.gave_up() {
            return *errno;
        }
        let established = matches!(self.connect, Connect::Done);
        match code {
            code::HOLD | code::IDLE | code::USER_TIMEOUT => Errno::ETIMEDOUT as i32,
            code::USER if !established => Errno::ECONNABORTED as i32,
            _ if !established => Errno::ECONNREFUSED as i32,
            _ => Errno::ECONNRESET as i32,
        }
    }
}

impl Near for AppNear {
    fn poll_readable(&mut self, _now: Instant, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.poll_connected(cx));
        if self.failed.is_some() {
            return Poll::Ready(());
        }
        match &mut self.socket {
            Some(socket) => socket.poll_readable(cx).map(|_| ()),
            None => Poll::Pending,
        }
    }

    fn poll_writable(&mut self, _now: Instant, cx: &mut Context<'_>) -> Poll<()> {
        ready!(self.poll_connected(cx));
        match &mut self.socket {
            Some(socket) if self.failed.is_none() => socket.poll_writable(cx).map(|_| ()),
            _ => Poll::Pending,
        }
    }

    fn pull(&mut self, now: Instant, session: &mut Session) -> io::Result<Pulled> {
        if let Some(error) = self.failed.take() {
            return Err(error);
        }
        let Some(socket) = &mut self.socket else { return Err(ErrorKind::WouldBlock.into()) };
        match session.fill(now, |bufs| socket.try_read(bufs))? {
            0 => match socket.end() {
                AppEnd::Open => Err(ErrorKind::WouldBlock.into()),
                AppEnd::Fin => Ok(Pulled::Fin),
                AppEnd::Gone => Ok(Pulled::Gone),
                AppEnd::Reset => Err(ErrorKind::ConnectionReset.into()),
            },
            count => {
                self.entry.pause().wrote();
                self.keep.moved();
                if socket.is_urgent() {
                    session.mark_urgent();
                }
                Ok(Pulled::Bytes(count))
            }
        }
    }

    fn push(
        &mut self,
        now: Instant,
        session: &mut Session,
        arrived: &[&[u8]],
    ) -> io::Result<usize> {
        if let Some(first) = arrived.first() {
            self.entry.pause().flows();
            self.tell_redirect(first);
        }
        self.put_ticket(session);
        let socket = &mut self.socket;
        let pushed = session.deliver_marked(now, arrived, |bufs, urgent| match socket {
            Some(socket) if urgent => socket.try_write_urgent(bufs[0][0]),
            Some(socket) => socket.try_write(bufs),
            None => Err(ErrorKind::BrokenPipe.into()),
        });
        if session.undelivered() > 0
            && let Some(kept) = self.socket.as_ref().and_then(AppSocket::kept)
        {
            self.keep.hold(kept, session);
        }
        pushed
    }

    fn keep(&mut self, session: &Session) {
        self.put_ticket(session);
        let Some(kept) = self.socket.as_ref().and_then(AppSocket::kept) else { return };
        let Some(record) = self.record(session) else { return };
        if !self.keep.put(kept, session, |out| record.encode(out)) {
            let session = self.entry.id;
            tracing::warn!(session, "its names are too long: it ends if the broker is killed");
        }
    }

    fn memory(&self) -> usize {
        self.socket.as_ref().and_then(AppSocket::kept).map_or(0, Kept::in_use)
    }

    fn at_work(&self, at_work: bool) {
        if let Some(kept) = self.socket.as_ref().and_then(AppSocket::kept) {
            kept.set_at_work(at_work);
        }
    }

    fn shut(&mut self, _now: Instant, how: ShutNear) {
        match how {
            ShutNear::Fin => {
                self.fin = true;
                if let Some(socket) = &mut self.socket {
                    socket.shut(Shut::Fin);
                }
            }
            ShutNear::Reset { code } => {
                let errno = self.errno(code);
                if let Some(mut socket) = self.socket.take() {
                    socket.shut(Shut::Reset { errno });
                }
            }
        }
    }

    fn event(&mut self, _now: Instant, session: &mut Session, event: &Event) {
        self.entry.pause().event(event, session.link().is_some());
        match event {
            Event::Established { .. } => self.connect = Connect::Telling,
            Event::TicketStored { .. } => self.keep.ticket_came(),
            Event::Acknowledged(_) => {
                let at = session.positions();
                let rtt_us = self.entry.status.snapshot().rtt_ms.unwrap_or(0.0) * 1e3;
                if let Some(socket) = &self.socket {
                    let unacknowledged = u32::try_from(at.end - at.una).unwrap_or(u32::MAX);
                    socket.report(rtt_us as u32, unacknowledged);
                }
            }
            _ => {}
        }
    }
}

impl Drop for AppNear {
    /// After both ends of stream the app must see an end, not an abort.
    fn drop(&mut self) {
        if let Some(socket) = self.socket.take()
            && self.fin
            && socket.end() != AppEnd::Open
        {
            socket.close();
        }
    }
}
