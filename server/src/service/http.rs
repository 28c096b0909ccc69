//! The `http` and `file` services: an HTTP/1 server whose exchanges can be continued.
//!
//! What happens is decided by [`Machine`]. Here its bytes are read and written, its tickets are
//! sealed, and streams are opened as it says.

use std::future::Future;
use std::io::{self, IoSlice, IoSliceMut};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use stp_drive::{Near, Pulled};
use stp_proto::mutant;
use stp_proto::replay::Exchange;
use stp_proto::replay::http::{
    Action, Ended, Failure, How, Joined, Machine, Next, Offer, Wants, copy,
};
use stp_proto::session::{Event, Session, ShutNear, TicketOffer};
use stp_proto::state::State;
use stp_proto::ticket::Granted;
use stp_proto::time::Instant;
use stp_proto::wire::TransferReason;

use super::join::Join;
use super::upstream::{Stream, Streams};
use crate::ticket::Seal;

/// What must be looked at byte by byte is read in pieces of this size.
const PIECE: usize = 16 * 1024;

/// How often a stream that is watched is looked at while a response is under way.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What is being brought up to the service.
enum Opening<S: Streams> {
    Stream(S::Opening),
    Rest(Box<Join<S>>),
}

/// Where what goes to the app's side is put: into its session, or into TLS before that.
pub trait Side<M> {
    /// Lets `read` fill spare room; 0 if there is none. `mint` makes what tickets that needs.
    ///
    /// # Errors
    /// Those of `read`.
    fn fill(&mut self, mint: Option<&M>, read: &mut Read<'_>) -> io::Result<usize>;

    /// Sends a ticket, or the word that there is none; says whether it could be made.
    fn offer(&mut self, mint: &M, offer: Offer) -> bool;

    /// The app's bytes up to this position need not be kept.
    fn release(&mut self, covers: u64);

    /// Asks the broker to take the session elsewhere; says whether there is a link to it.
    fn leave(&mut self, text: &str) -> bool;
}

/// Fills room; says how much of it.
pub type Read<'a> = dyn FnMut(&mut [IoSliceMut<'_>]) -> io::Result<usize> + 'a;

/// The session itself.
struct Plain<'a> {
    now: Instant,
    session: &'a mut Session,
}

impl<M: Seal> Side<M> for Plain<'_> {
    fn fill(&mut self, _mint: Option<&M>, read: &mut Read<'_>) -> io::Result<usize> {
        self.session.fill(self.now, read)
    }

    fn offer(&mut self, mint: &M, offer: Offer) -> bool {
        let Offer { at, covers, seam_from, exchange } = offer;
        let exchange = match exchange {
            Ok(exchange) => exchange,
            Err(why) => {
                // What waits for room in the session comes after it.
                let at = self.session.positions().end;
                let (seam_from, ticket) = (at, why.into_bytes());
                let offer = TicketOffer { at, covers, seam_from, transferable: false, ticket };
                self.session.offer_ticket(offer);
                return true;
            }
        };
        debug_assert_eq!(at, self.session.positions().end, "nothing waits before a ticket");
        let mut ticket = mint.seal((covers, at), Exchange::Http(exchange.clone()));
        if ticket.is_empty()
            && let Some(short) = exchange.shortened()
        {
            ticket = mint.seal((covers, at), Exchange::Http(short));
        }
        let made = !ticket.is_empty();
        if made {
            let offer = TicketOffer { at, covers, seam_from, transferable: true, ticket };
            self.session.offer_ticket(offer);
        }
        made
    }

    fn release(&mut self, covers: u64) {
        self.session.release_acks(covers);
    }

    fn leave(&mut self, text: &str) -> bool {
        self.session.request_transfer(TransferReason::ServiceFailed, text);
        self.session.state() == State::Active
    }
}

/// One session's exchanges with its service.
pub struct Http<S: Streams, M> {
    streams: S,
    /// Makes tickets; without it there are none.
    mint: Option<M>,
    machine: Machine,
    stream: Option<S::Stream>,
    opening: Option<Opening<S>>,
    /// When the stream is to be looked at next.
    look_at: Option<Instant>,
    /// Bytes given to the session that its other end has not received.
    behind: u64,
}

impl<S: Streams, M: Seal> Http<S, M> {
    /// Goes on as the machine says, on this stream if it has one.
    #[must_use]
    pub fn new(streams: S, mint: Option<M>, machine: Machine, stream: Option<S::Stream>) -> Self {
        Self { streams, mint, machine, stream, opening: None, look_at: None, behind: 0 }
    }

    /// What the gateway has granted to the session.
    #[must_use]
    pub fn granted(&self) -> Option<&Granted> {
        self.mint.as_ref().and_then(Seal::granted)
    }

    /// Acknowledgements wait for tickets.
    #[must_use]
    pub fn holds_acks(&self) -> bool {
        self.mint.is_some()
    }

    /// A service that cannot be reached is tried again for this long.
    pub fn bear(&mut self, patience: Duration) {
        self.machine.bear(patience);
    }

    /// What happens, as far as it is decided.
    #[must_use]
    pub fn machine(&mut self) -> &mut Machine {
        &mut self.machine
    }

    /// The stream to the service.
    pub fn stream(&mut self) -> &mut Option<S::Stream> {
        &mut self.stream
    }

    /// What makes tickets.
    #[must_use]
    pub fn mint(&self) -> Option<&M> {
        self.mint.as_ref()
    }

    /// The other end has not received so many bytes that were given.
    pub fn set_behind(&mut self, behind: u64) {
        self.behind = behind;
    }

    /// So many bytes that were given have not been received at the other end.
    #[must_use]
    pub fn behind(&self) -> u64 {
        self.behind
    }

    /// Ready when [`Http::pull_to`] may make progress. Does not tell the machine of a pause.
    pub fn poll_service(&mut self, now: Instant, cx: &mut Context<'_>) -> Poll<()> {
        self.work(now, cx);
        if self.machine.is_ready() {
            return Poll::Ready(());
        }
        self.stream.as_ref().map_or(Poll::Pending, |stream| stream.poll_readable(cx))
    }

    /// Whether a stream that has lost its path is given up for a new one.
    fn watches(&self) -> bool {
        self.stream.as_ref().is_some_and(Stream::is_watched) && self.machine.would_ask_again()
    }

    /// Looks whether the stream has lost its path.
    fn look(&mut self, now: Instant) {
        if !self.watches() || self.look_at.is_some_and(|at| at > now) {
            return;
        }
        self.look_at = Some(now + LOOK_EVERY);
        if let Some(why) = self.stream.as_ref().and_then(Stream::lost) {
            tracing::info!(why, "the stream to the service has lost its path");
            self.streams.note("lost", &why, self.machine.positions().1);
            self.machine.path_lost(now);
        }
    }

    /// Opens what is wanted, and drops what is not.
    fn work(&mut self, now: Instant, cx: &mut Context<'_>) {
        self.look(now);
        loop {
            self.drop_what_is_over();
            match self.machine.tick(now) {
                None => {}
                Some(Action::Open) => self.opening = Some(Opening::Stream(self.streams.open())),
                Some(Action::Rejoin(ask)) => {
                    let at = self.machine.positions().1;
                    tracing::info!(at, "the service broke a response off: asking for the rest");
                    let join = Join::new(now, &self.streams, *ask);
                    self.opening = Some(Opening::Rest(Box::new(join)));
                }
            }
            let failure = match &mut self.opening {
                None => break,
                Some(Opening::Stream(opening)) => match Pin::new(opening).poll(cx) {
                    Poll::Pending => break,
                    Poll::Ready(Ok(stream)) => {
                        self.stream = Some(stream);
                        self.machine.opened();
                        None
                    }
                    Poll::Ready(Err(error)) => {
                        Some(Failure::Down(format!("its service cannot be reached: {error}")))
                    }
                },
                Some(Opening::Rest(join)) => match join.poll(now, cx) {
                    Poll::Pending => break,
                    Poll::Ready(Ok((stream, joined))) => {
                        self.joined(stream, joined);
                        None
                    }
                    Poll::Ready(Err(error)) => Some(error.into()),
                },
            };
            self.opening = None;
            if let Some(failure) = failure {
                tracing::info!(?failure, "the service gives no more");
                self.streams.note("waits", failure.text(), self.machine.positions().1);
                // Another place for the rest has its chance at once, unless the path is away.
                if self.streams.another() && !matches!(failure, Failure::Down(_)) {
                    self.machine.path_lost(now);
                } else {
                    self.machine.failed(now, failure);
                }
            }
        }
        self.flush(cx);
    }

    fn joined(&mut self, stream: S::Stream, mut joined: Joined) {
        // What the app asks for next is not a mirror's.
        let place = self.streams.place();
        joined.reusable &= place.is_none();
        let from = place.map_or_else(|| "the same origin".to_owned(), |place| place.host);
        self.streams.note("goes on", &format!("asked again at {from}"), self.machine.positions().1);
        self.stream = Some(stream);
        self.machine.joined(joined);
    }

    /// Writes heads that wait as soon as the stream takes them.
    fn flush(&mut self, cx: &mut Context<'_>) {
        while self.machine.has_unsent()
            && let Some(stream) = &self.stream
            && stream.poll_writable(cx).is_ready()
        {
            self.flush_now();
        }
    }

    fn flush_now(&mut self) {
        let Some(stream) = &self.stream else { return };
        if self.machine.flush(|slices| stream.try_write(slices)) {
            stream.shut_write();
        }
    }

    fn drop_what_is_over(&mut self) {
        if !self.machine.has_stream() {
            self.stream = None;
            self.opening = None;
        }
    }

    /// Reads what must be looked at byte by byte.
    fn read(&mut self, now: Instant) -> io::Result<()> {
        let Some(stream) = &self.stream else { return Err(io::ErrorKind::WouldBlock.into()) };
        let mut piece = [0; PIECE];
        match stream.try_read(&mut [IoSliceMut::new(&mut piece)]) {
            Ok(0) => self.machine.service_ended(now, Ended::Closed),
            Ok(read) => self.machine.feed(&piece[..read]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
            Err(error) => self.broke(now, &error),
        }
        Ok(())
    }

    /// The stream has failed. One that ended without TLS's own end was cut; when nothing was under
    /// way, nothing of it is missing.
    fn broke(&mut self, now: Instant, error: &io::Error) {
        let unsaid = error.kind() == io::ErrorKind::ConnectionAborted;
        let ended = match unsaid && self.machine.is_between() {
            true => Ended::Closed,
            false => Ended::Broken(error.to_string()),
        };
        self.machine.service_ended(now, ended);
    }

    /// Reads body bytes straight into the session; 0 when there are none now.
    fn pass(&mut self, now: Instant, side: &mut impl Side<M>, most: u64) -> io::Result<usize> {
        let Some(stream) = &self.stream else { return Ok(0) };
        let most = usize::try_from(most).unwrap_or(usize::MAX);
        let (machine, mut ended) = (&mut self.machine, false);
        let taken = side.fill(self.mint.as_ref(), &mut |slices| {
            let mut views = Vec::with_capacity(slices.len());
            let mut left = most;
            for slice in slices.iter_mut() {
                let length = slice.len().min(left);
                left -= length;
                views.push(IoSliceMut::new(&mut slice[..length]));
            }
            let read = stream.try_read(&mut views)?;
            ended = read == 0 && views.iter().any(|view| !view.is_empty());
            let mut left = read;
            for view in &views {
                let seen = view.len().min(left);
                left -= seen;
                machine.passed(&view[..seen]);
            }
            Ok(read)
        });
        match taken {
            Ok(_) if ended => self.machine.service_ended(now, Ended::Closed),
            Ok(taken) => return Ok(taken),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(0),
            Err(error) => self.broke(now, &error),
        }
        // What is to be done now is known to the machine.
        Err(io::ErrorKind::Interrupted.into())
    }

    /// Sends a ticket, or the word that there is none.
    fn offer(&mut self, now: Instant, side: &mut impl Side<M>, offer: Offer) {
        let Some(mint) = &self.mint else { return };
        let is_ticket = offer.exchange.is_ok();
        let made = side.offer(mint, offer);
        if is_ticket && let Some(instead) = self.machine.offered(now, made) {
            self.offer(now, side, instead);
        }
    }

    /// Asks the broker to take the session elsewhere.
    fn ask_to_be_left(&mut self, now: Instant, side: &mut impl Side<M>, text: &str) {
        tracing::info!(text, "asks to be left: the service gives no more");
        let linked = side.leave(text);
        self.machine.asked_to_be_left(now, linked);
    }

    /// Moves bytes of the service to the app's side.
    ///
    /// # Errors
    /// `WouldBlock` when there is nothing now; anything else is a reset.
    pub fn pull_to(&mut self, now: Instant, side: &mut impl Side<M>) -> io::Result<Pulled> {
        let mut total = 0;
        loop {
            match self.machine.step() {
                Next::Give => {
                    let out = self.machine.out();
                    let filled =
                        side.fill(self.mint.as_ref(), &mut |slices| Ok(copy(out, slices)))?;
                    self.machine.given(filled);
                    total += filled;
                    if !self.machine.out().is_empty() {
                        break;
                    }
                }
                Next::Ticket(offer) => self.offer(now, side, offer),
                Next::Leave(text) => self.ask_to_be_left(now, side, &text),
                _ if total > 0 => break,
                Next::Read => self.read(now)?,
                Next::Pass(most) => match self.pass(now, side, most) {
                    Ok(0) => break,
                    Ok(taken) => total += taken,
                    Err(_) => {}
                },
                Next::Wait => break,
                Next::End(how) => return self.end(how),
            }
        }
        self.drop_what_is_over();
        if total == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(Pulled::Bytes(total)) }
    }

    /// Takes bytes of the app, as many as can go on now; says how many.
    pub fn take(&mut self, now: Instant, slices: &[IoSlice<'_>]) -> usize {
        let (machine, stream) = (&mut self.machine, &self.stream);
        machine.take(now, slices, |slices| match stream {
            Some(stream) => stream.try_write(slices),
            None => Err(io::ErrorKind::WouldBlock.into()),
        })
    }

    /// Bytes of the app were taken: says what need not be kept of them.
    pub fn taken(&mut self, now: Instant, side: &mut impl Side<M>) {
        if let Some((covers, offer)) = self.machine.unrepeatable() {
            if let Some(offer) = offer {
                self.offer(now, side, offer);
            }
            side.release(covers);
        }
    }

    /// Something happened to the session.
    pub fn happened(&mut self, now: Instant, side: &mut impl Side<M>, event: &Event) {
        match event {
            Event::Acknowledged(_) => {
                if let Some(offer) = self.machine.acknowledged(now) {
                    self.offer(now, side, offer);
                }
            }
            Event::LeaveAsked => self.machine.leaves(now),
            Event::Stays { .. } => self.machine.stays(now),
            Event::Attached { .. } => self.machine.linked(),
            Event::Lost { .. } => self.machine.unlinked(),
            _ => {}
        }
    }

    fn end(&mut self, how: How) -> io::Result<Pulled> {
        self.machine.told_the_end();
        self.drop_what_is_over();
        match how {
            How::Fin => Ok(Pulled::Fin),
            How::Failed(why) => {
                tracing::warn!(why, "the session cannot go on");
                Err(io::Error::other(why))
            }
        }
    }
}

impl<S: Streams, M: Seal> Near for Http<S, M> {
    fn poll_readable(&mut self, now: Instant, cx: &mut Context<'_>) -> Poll<()> {
        match self.poll_service(now, cx) {
            Poll::Pending if self.machine.service_pauses(now, self.behind) => Poll::Ready(()),
            readable => readable,
        }
    }

    fn poll_writable(&mut self, now: Instant, cx: &mut Context<'_>) -> Poll<()> {
        self.work(now, cx);
        match (self.machine.wants(), &self.stream) {
            (Wants::More, _) => Poll::Ready(()),
            (Wants::Room, Some(stream)) => stream.poll_writable(cx),
            (Wants::Room, None) | (Wants::Nothing, _) => Poll::Pending,
        }
    }

    fn due(&self) -> Option<Instant> {
        let join = match &self.opening {
            Some(Opening::Rest(join)) => Some(join.due()),
            Some(Opening::Stream(_)) | None => None,
        };
        let look = self.look_at.filter(|_| self.watches());
        join.into_iter().chain(self.machine.due()).chain(look).min()
    }

    fn pull(&mut self, now: Instant, session: &mut Session) -> io::Result<Pulled> {
        let pulled = self.pull_to(now, &mut Plain { now, session });
        self.behind = behind(session);
        pulled
    }

    fn push(
        &mut self,
        now: Instant,
        session: &mut Session,
        arrived: &[&[u8]],
    ) -> io::Result<usize> {
        let taken = session.deliver(now, arrived, |slices| match self.take(now, slices) {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            taken => Ok(taken),
        });
        mutant!(AckBeforeTicket => session.release_acks(session.positions().received));
        self.taken(now, &mut Plain { now, session });
        taken
    }

    fn shut(&mut self, now: Instant, how: ShutNear) {
        match how {
            ShutNear::Fin => {
                self.machine.app_ended(now);
                self.flush_now();
            }
            ShutNear::Reset { .. } => {
                if let Some(stream) = self.stream.take() {
                    stream.reset_on_close();
                }
                self.machine.told_the_end();
                self.drop_what_is_over();
            }
        }
    }

    fn event(&mut self, now: Instant, session: &mut Session, event: &Event) {
        self.behind = behind(session);
        self.happened(now, &mut Plain { now, session }, event);
    }
}

/// Bytes of the session that its other end has not received.
pub(super) fn behind(session: &Session) -> u64 {
    let positions = session.positions();
    positions.end.saturating_sub(positions.heard)
}
