//! The `http` and `file` services: an HTTP/1 server whose exchanges can be continued.
//!
//! A pure observer (`stp_proto::replay`) follows the bytes; they pass unchanged. What this file
//! adds: a ticket goes out before the first byte of a response and after an exchange that had
//! none; a response that the server breaks off (nginx, when the app's side was away longer than
//! `send_timeout`) is asked for again and joined at the byte the session has; and a request that
//! may have been executed at another server, and may not be executed twice, ends the session.
//!
//! **Invariant:** no byte of a response head is in the session before its ticket is.

use std::future::Future;
use std::io::{self, IoSlice, IoSliceMut};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use stp_drive::{Near, Pulled};
use stp_proto::replay::http::{Down, Ending, Flow, Observer, Plan, Up};
use stp_proto::replay::{Again, Exchange, Policy};
use stp_proto::session::{Event, Session, ShutNear, TicketOffer};
use stp_proto::time::Instant;

use super::beginning::Beginning;
use super::buffer::{Waiting, at_most, beyond, copy};
use super::replay::{JoinError, Joined, rejoin, reopen};
use super::upstream::{Target, Upstream};
use crate::ticket::Mint;

/// A ticket is refreshed at most this often.
const REFRESH: Duration = Duration::from_secs(5);
/// Heads are read in pieces of this size.
const HEAD_PIECE: usize = 16 * 1024;

/// A stream being opened.
type Opening = Pin<Box<dyn Future<Output = Result<Opened, JoinError>> + Send>>;

/// What was opened.
enum Opened {
    Fresh(Upstream),
    Joined(Box<Joined>),
}

/// What [`Near::pull`] will say when all is through.
#[derive(Debug)]
enum End {
    Fin,
    Failed(io::Error),
}

/// One session's exchanges with its service.
pub struct Http {
    target: Target,
    policy: Policy,
    mint: Option<Mint>,
    observer: Observer,
    upstream: Option<Upstream>,
    opening: Option<Opening>,
    /// To the service: heads that are whole.
    unsent: Waiting,
    /// From the service, not yet seen by the observer.
    ahead: Waiting,
    /// For the session, already observed.
    out: Waiting,
    /// The stream can carry another request.
    reusable: bool,
    /// The stream has carried an exchange.
    used: bool,
    /// The service takes nothing more; what the app sends is dropped.
    deaf: bool,
    /// Requests that begin below may have been executed by another server.
    guard: u64,
    /// The response under way can be continued with the newest ticket.
    ticketed: bool,
    /// The broker knows that the exchange under way cannot be continued.
    disclaimed: bool,
    /// An exchange without a ticket is over: a ticket is due.
    due: bool,
    refreshed: Instant,
    again: Again,
    fin: bool,
    end: Option<End>,
    /// The service ended its stream where another would have gone on.
    early: bool,
    /// The end was told: nothing more is asked of the service.
    over: bool,
}

impl Http {
    /// Goes on from `beginning`. Without a mint there are no tickets.
    #[must_use]
    pub fn new(target: Target, policy: Policy, mint: Option<Mint>, beginning: Beginning) -> Self {
        let mut http = Self {
            target,
            policy,
            mint,
            observer: beginning.observer,
            upstream: beginning.upstream,
            opening: None,
            unsent: beginning.unsent.into(),
            ahead: beginning.ahead.into(),
            out: beginning.out.into(),
            reusable: beginning.reusable,
            used: false,
            deaf: false,
            guard: beginning.guard,
            ticketed: beginning.ticketed,
            disclaimed: false,
            due: false,
            refreshed: Instant::default(),
            again: Again::default(),
            fin: false,
            end: None,
            early: false,
            over: false,
        };
        if http.observer.closing() {
            http.end = Some(End::Fin);
        }
        http.settle();
        http
    }

    /// Acknowledgements wait for tickets.
    #[must_use]
    pub fn holds_acks(&self) -> bool {
        self.mint.is_some()
    }

    // Towards the service.

    /// Takes bytes of the app.
    fn accept(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.over {
            return Ok(slices.iter().map(|slice| slice.len()).sum());
        }
        let mut total = 0;
        loop {
            let pieces = beyond(slices, total);
            let Some(first) = pieces.first() else { break };
            let before = self.observer.up_flow();
            let taken = match before {
                Flow::Wait => break,
                Flow::Head => {
                    let (taken, event) = self.observer.up(first);
                    self.up_event(event);
                    taken
                }
                Flow::Body(_) | Flow::Opaque => self.pass(&pieces),
            };
            total += taken;
            if self.end.is_some() || (taken == 0 && self.observer.up_flow() == before) {
                break;
            }
        }
        self.flush();
        if total == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(total) }
    }

    fn up_event(&mut self, event: Up) {
        match event {
            Up::More => {}
            Up::Head { begin, repeatable } => {
                if begin < self.guard && !repeatable {
                    self.fail("a request that may not be repeated may have been executed before");
                    return;
                }
                if !self.may_ask() {
                    self.fail("the ticket is for another path");
                    return;
                }
                self.unsent.push(self.observer.request_head());
            }
            Up::Opaque if self.mint.as_ref().is_some_and(|mint| mint.scope().is_some()) => {
                self.fail("the ticket is for a path, and this is no request for one");
                return;
            }
            Up::Opaque => {
                if self.observer.positions().0 < self.guard {
                    self.fail("bytes that are not HTTP may have been sent before");
                    return;
                }
                let held = self.observer.take_held_up();
                self.unsent.push(&held);
            }
        }
        if self.upstream.is_none() && self.opening.is_none() && !self.unsent.is_empty() {
            self.open();
        }
    }

    /// Whether the gateway's ticket allows the request whose head has just come.
    fn may_ask(&self) -> bool {
        let scope = self.mint.as_ref().and_then(Mint::scope);
        scope.is_none_or(|scope| scope.allows(self.observer.request_head()))
    }

    /// Writes body bytes through; says how many are dealt with.
    fn pass(&mut self, pieces: &[&[u8]]) -> usize {
        let opaque = self.observer.up_flow() == Flow::Opaque;
        let room = if opaque { usize::MAX } else { self.observer.up_room(pieces) };
        if room == 0 {
            let (taken, event) = self.observer.up(pieces[0]);
            self.up_event(event);
            return taken;
        }
        self.flush();
        let written = match &self.upstream {
            _ if self.deaf => room.min(pieces.iter().map(|piece| piece.len()).sum()),
            None if self.opening.is_some() => 0,
            None => room.min(pieces.iter().map(|piece| piece.len()).sum()),
            Some(_) if !self.unsent.is_empty() => 0,
            Some(upstream) => match upstream.try_write(&at_most(pieces, room)) {
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(_) => {
                    // What the service said before it closed is still to be read.
                    self.deaf = true;
                    0
                }
            },
        };
        let mut left = written;
        for piece in pieces {
            let mut seen = &piece[..piece.len().min(left)];
            left -= seen.len();
            while !seen.is_empty() {
                let (taken, event) = self.observer.up(seen);
                self.up_event(event);
                seen = &seen[taken..];
            }
        }
        self.settle();
        written
    }

    /// Writes heads, and the end of the app's stream behind them.
    fn flush(&mut self) {
        let Some(upstream) = &self.upstream else { return };
        while !self.unsent.is_empty() && !self.deaf {
            match upstream.try_write(&[IoSlice::new(self.unsent.rest())]) {
                Ok(written) => self.unsent.advance(written),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.deaf = true,
            }
        }
        if self.fin && self.unsent.is_empty() {
            upstream.shut_write();
        }
    }

    // From the service.

    /// Passes observed bytes on until something has to happen first.
    fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.observer.holds_head() {
            if self.observer.idle() && !self.reusable {
                // The rest of an answer that was longer than needed.
                return;
            }
            let head = self.observer.down_flow() == Flow::Head;
            let (taken, event) = self.observer.down(bytes);
            match event {
                Down::More if head => {}
                Down::More => self.out.push(&bytes[..taken]),
                Down::Head => {}
                Down::Interim => {
                    let held = self.observer.take_held_down();
                    self.out.push(&held);
                }
                Down::Opaque if head => {
                    let held = self.observer.take_held_down();
                    self.out.push(&held);
                }
                Down::Opaque => self.out.push(&bytes[..taken]),
            }
            bytes = &bytes[taken..];
            self.settle();
        }
        if !bytes.is_empty() {
            self.ahead = bytes.to_vec().into();
        }
    }

    /// After every step of the observer.
    fn settle(&mut self) {
        if !self.observer.take_ended() {
            return;
        }
        self.used = true;
        self.again = Again::default();
        self.due |= !self.ticketed;
        self.ticketed = false;
        if self.observer.closing() {
            self.upstream = None;
            self.end.get_or_insert(End::Fin);
        } else if !self.reusable {
            self.upstream = None;
        }
    }

    /// Reads body bytes straight into the session; `None` at the end of the stream.
    fn read_through(
        &mut self,
        now: Instant,
        session: &mut Session,
        limit: u64,
    ) -> io::Result<Option<usize>> {
        let Some(upstream) = &self.upstream else { return Err(io::ErrorKind::WouldBlock.into()) };
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let (observer, mut ended) = (&mut self.observer, false);
        let taken = session.fill(now, |slices| {
            let mut views = Vec::with_capacity(slices.len());
            let mut left = limit;
            for slice in slices.iter_mut() {
                let length = slice.len().min(left);
                left -= length;
                views.push(IoSliceMut::new(&mut slice[..length]));
            }
            let read = upstream.try_read(&mut views)?;
            ended = read == 0 && views.iter().any(|view| !view.is_empty());
            let mut left = read;
            for view in &views {
                let mut seen = &view[..view.len().min(left)];
                left -= seen.len();
                while !seen.is_empty() {
                    seen = &seen[observer.down(seen).0..];
                }
            }
            Ok(read)
        })?;
        self.settle();
        Ok((!ended).then_some(taken))
    }

    /// Reads what may hold a head.
    fn read_head(&mut self) -> io::Result<()> {
        let Some(upstream) = &self.upstream else { return Err(io::ErrorKind::WouldBlock.into()) };
        let mut piece = [0; HEAD_PIECE];
        let read = upstream.try_read(&mut [IoSliceMut::new(&mut piece)]);
        match read {
            Ok(0) => self.service_ended(None),
            Ok(read) => self.feed(&piece[..read]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
            Err(error) => self.service_ended(Some(error)),
        }
        Ok(())
    }

    /// The service closed its side, or reset the stream.
    fn service_ended(&mut self, error: Option<io::Error>) {
        self.upstream = None;
        match self.observer.ending() {
            // A service may close when its client has ended its side: plain TCP shows that as well.
            Ending::Cut if self.fin => self.end_short("the app had ended its side"),
            Ending::Cut => self.rejoin(),
            Ending::Unanswered if self.used => {
                tracing::debug!("the service closed between two requests: asking again");
                self.unsent = self.observer.request_head().to_vec().into();
                self.open();
            }
            Ending::Fair | Ending::Unanswered | Ending::Lost => {
                self.early = !(self.fin && self.observer.idle());
                let held = self.observer.take_held_down();
                self.out.push(&held);
                self.end = Some(error.map_or(End::Fin, End::Failed));
            }
        }
    }

    // Opening again.

    fn open(&mut self) {
        let target = self.target.clone();
        (self.deaf, self.used, self.reusable) = (false, false, true);
        self.opening = Some(Box::pin(async move { reopen(&target).await.map(Opened::Fresh) }));
    }

    /// A response was cut: go on with it on another stream.
    fn rejoin(&mut self) {
        let have = self.observer.positions().1;
        let Some(pause) = self.again.ask(have) else {
            return self.end_short("the service gives no more of it");
        };
        let plan = self
            .observer
            .exchange()
            .map(|exchange| Plan::make(&exchange, have, have, self.observer.proof(), self.policy));
        match plan {
            Some(Ok(Plan::Ask(ask))) => {
                tracing::info!(at = have, "the service broke a response off: asking for the rest");
                self.deaf = false;
                let target = self.target.clone();
                self.opening = Some(Box::pin(async move {
                    tokio::time::sleep(pause).await;
                    rejoin(&target, &ask).await.map(|joined| Opened::Joined(Box::new(joined)))
                }));
            }
            Some(Err(refusal)) => self.end_short(&refusal.text),
            _ => self.end_short("it cannot be continued"),
        }
    }

    /// A response was cut and nobody has the rest: the app gets what came of it, then the end of
    /// the stream, which is short of what the head promised.
    fn end_short(&mut self, why: &str) {
        tracing::warn!(why, at = self.observer.positions().1, "a response ends short");
        self.upstream = None;
        self.opening = None;
        self.early = true;
        self.end = Some(End::Fin);
    }

    fn poll_opening(&mut self, cx: &mut Context<'_>) {
        let Some(opening) = &mut self.opening else { return };
        let Poll::Ready(opened) = opening.as_mut().poll(cx) else { return };
        self.opening = None;
        match opened {
            Ok(Opened::Fresh(upstream)) => self.upstream = Some(upstream),
            Ok(Opened::Joined(joined)) => {
                self.upstream = Some(joined.upstream);
                self.ahead = joined.ahead.into();
                self.reusable = joined.reusable;
            }
            Err(error) if self.observer.response_under_way() => self.end_short(&error.to_string()),
            Err(error) => self.fail(&error.to_string()),
        }
    }

    fn fail(&mut self, why: &str) {
        tracing::warn!(why, "the session cannot go on");
        self.upstream = None;
        self.opening = None;
        self.end = Some(End::Failed(io::Error::other(why.to_owned())));
    }

    // Tickets.

    /// Offers a ticket for the present moment. All that was observed is in the session.
    fn ticket(&mut self, now: Instant, session: &mut Session) {
        let Some(mint) = &self.mint else { return };
        let (covers, at) = (self.observer.covers(), self.observer.positions().1);
        debug_assert_eq!(at, session.positions().end, "nothing waits before a ticket");
        let Some(exchange) = self.observer.exchange() else { return };
        let ticket = mint.seal((covers, at), Exchange::Http(exchange));
        if ticket.is_empty() {
            return self.disclaim(session);
        }
        self.ticketed = self.observer.response_under_way();
        self.disclaimed = false;
        self.refreshed = now;
        let seam_from = self.observer.seam_from();
        session.offer_ticket(TicketOffer { at, covers, seam_from, transferable: true, ticket });
    }

    /// Says that the exchange under way cannot be continued.
    fn disclaim(&mut self, session: &mut Session) {
        if self.mint.is_none() || self.disclaimed {
            return;
        }
        self.disclaimed = true;
        let at = session.positions().end;
        session.offer_ticket(TicketOffer {
            at,
            covers: self.observer.covers(),
            seam_from: at,
            transferable: false,
            ticket: Vec::new(),
        });
    }

    /// Everything observed is in the session.
    fn through(&self) -> bool {
        self.out.is_empty() && !self.observer.holds_head()
    }

    /// Nothing more can come.
    fn finished(&self) -> bool {
        self.fin
            && self.upstream.is_none()
            && self.opening.is_none()
            && self.unsent.is_empty()
            && self.ahead.is_empty()
            && self.observer.idle()
    }
}

impl Near for Http {
    fn poll_readable(&mut self, _now: Instant, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_opening(cx);
        if !self.unsent.is_empty()
            && let Some(upstream) = &self.upstream
            && !self.deaf
            && upstream.poll_writable(cx).is_ready()
        {
            self.flush();
        }
        let ready = self.end.is_some() || !self.out.is_empty() || !self.ahead.is_empty();
        if ready || self.observer.holds_head() || self.due || self.finished() {
            return Poll::Ready(());
        }
        self.upstream.as_ref().map_or(Poll::Pending, |upstream| upstream.poll_readable(cx))
    }

    fn poll_writable(&mut self, _now: Instant, cx: &mut Context<'_>) -> Poll<()> {
        self.poll_opening(cx);
        match (self.observer.up_flow(), &self.upstream) {
            _ if self.over => Poll::Ready(()),
            (Flow::Wait, _) => Poll::Pending,
            (Flow::Head, _) => Poll::Ready(()),
            _ if self.deaf => Poll::Ready(()),
            (_, Some(upstream)) => upstream.poll_writable(cx),
            (_, None) if self.opening.is_some() => Poll::Pending,
            (_, None) => Poll::Ready(()),
        }
    }

    fn pull(&mut self, now: Instant, session: &mut Session) -> io::Result<Pulled> {
        let mut total = 0;
        loop {
            if !self.out.is_empty() {
                let filled = session.fill(now, |slices| Ok(copy(self.out.rest(), slices)))?;
                self.out.advance(filled);
                total += filled;
                if !self.out.is_empty() {
                    break;
                }
            }
            if self.observer.holds_head() {
                self.ticket(now, session);
                let head = self.observer.release_head();
                self.out.push(&head);
                self.settle();
                continue;
            }
            if std::mem::take(&mut self.due) {
                self.ticket(now, session);
            }
            if !self.ahead.is_empty() {
                let ahead = self.ahead.take();
                self.feed(&ahead);
                continue;
            }
            if total > 0 {
                break;
            }
            if self.end.is_some() || self.finished() {
                // The app sees the end: no other server may say more behind it.
                if self.early {
                    self.disclaim(session);
                }
                self.over = true;
                return match self.end.take() {
                    Some(End::Failed(error)) => Err(error),
                    Some(End::Fin) | None => Ok(Pulled::Fin),
                };
            }
            match self.observer.down_flow() {
                Flow::Head => self.read_head()?,
                Flow::Wait => break,
                flow @ (Flow::Body(_) | Flow::Opaque) => {
                    let limit = if let Flow::Body(limit) = flow { limit } else { u64::MAX };
                    match self.read_through(now, session, limit) {
                        Ok(Some(0)) => break,
                        Ok(Some(taken)) => total += taken,
                        Ok(None) => self.service_ended(None),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                        Err(error) => self.service_ended(Some(error)),
                    }
                }
            }
        }
        if total == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(Pulled::Bytes(total)) }
    }

    fn push(
        &mut self,
        now: Instant,
        session: &mut Session,
        arrived: &[&[u8]],
    ) -> io::Result<usize> {
        let taken = session.deliver(now, arrived, |slices| self.accept(slices));
        if self.over {
            return taken;
        }
        if self.observer.unsafe_request() || self.observer.opaque().is_some() {
            self.disclaim(session);
            if self.mint.is_some() {
                session.release_acks(self.observer.covers());
            }
        }
        taken
    }

    fn shut(&mut self, _now: Instant, how: ShutNear) {
        match how {
            ShutNear::Fin => {
                self.fin = true;
                let held = self.observer.take_held_up();
                self.unsent.push(&held);
                if !held.is_empty() && self.upstream.is_none() && self.opening.is_none() {
                    self.open();
                }
                self.flush();
            }
            ShutNear::Reset { .. } => {
                if let Some(upstream) = self.upstream.take() {
                    upstream.reset_on_close();
                }
                self.opening = None;
                self.over = true;
            }
        }
    }

    fn event(&mut self, now: Instant, session: &mut Session, event: &Event) {
        if !matches!(event, Event::Acknowledged(_)) || self.mint.is_none() || !self.through() {
            return;
        }
        if self.observer.exchange().is_some() {
            let moved = self.observer.response_under_way();
            if moved && now.since(self.refreshed) >= REFRESH {
                self.ticket(now, session);
            }
        } else {
            self.disclaim(session);
        }
    }
}
