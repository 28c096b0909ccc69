//! One session's exchanges with its service, in TLS.

use std::io::{self, IoSlice};
use std::task::{Context, Poll};
use std::time::Duration;

use stp_drive::{Near, Pulled};
use stp_proto::replay::http::{
    Exchange, FLUSH_BUSY, FLUSH_EVERY, FLUSH_LEAVING, LEAVING_MAX, Waiting, copy,
};
use stp_proto::session::{Event, Session, ShutNear, TicketOffer};
use stp_proto::ticket::Granted;
use stp_proto::time::Instant;
use stp_tls::handshake::{Handshake, Step};
use stp_tls::reader::{Came, Place, Reader};
use stp_tls::writer::{Standing, Writer};

use super::side::{Open, Sealed};
use crate::service::http::{Http, behind};
use crate::service::upstream::Streams;
use crate::ticket::{Seal, unix_now};

/// A record that is not full goes out when the service has paused for this long. Less would cut
/// what a service writes in two pieces, such as a head and its body.
const PAUSE: Duration = Duration::from_millis(2);
/// That is much, bytes: what a link takes at once.
const MUCH: u64 = 256 * 1024;

/// One session's exchanges with its service, in TLS.
pub struct Https<S: Streams, M> {
    pub(super) http: Http<S, M>,
    pub(super) stage: Stage,
    /// For the app, from the handshake.
    greeting: Waiting,
    /// Of the app, opened, and not taken by the exchanges.
    held: Waiting,
    /// Requests that begin below this up position may have been executed by another server.
    pub(super) guard: Option<u64>,
    /// The app sends nothing more.
    app: App,
    /// Nothing more goes to the app when all that was made has gone.
    pub(super) over: bool,
    /// The record under way, by its down position, is to go out at this time.
    flush: Option<(u64, Instant)>,
    flushed: Option<Instant>,
    /// Until when the session is expected to go to another server.
    leaving: Option<Instant>,
    /// Tickets that were made before there was a session.
    pub(super) tickets: Vec<TicketOffer>,
    /// The exchanges took something, and have not said what need not be kept.
    took: bool,
    /// Bytes of the app that the handshake has taken.
    shaken: u64,
}

pub(super) enum Stage {
    Handshake(Box<Handshake>),
    Open(Box<Open>),
}

/// What the app does.
#[derive(Clone, Copy, PartialEq, Eq)]
enum App {
    Sends,
    /// It has ended its side; the exchanges are told when they have taken everything.
    Ended,
    /// They were told.
    Told,
}

impl<S: Streams, M: Seal> Https<S, M> {
    pub(super) fn new(http: Http<S, M>, stage: Stage) -> Self {
        Self {
            http,
            stage,
            greeting: Waiting::default(),
            held: Waiting::default(),
            guard: None,
            app: App::Sends,
            over: false,
            flush: None,
            flushed: None,
            leaving: None,
            tickets: Vec::new(),
            took: false,
            shaken: 0,
        }
    }

    /// What the gateway has granted to the session.
    #[must_use]
    pub fn granted(&self) -> Option<&Granted> {
        self.http.granted()
    }

    /// Acknowledgements wait for tickets.
    #[must_use]
    pub fn holds_acks(&self) -> bool {
        self.http.holds_acks()
    }

    /// Takes bytes of the app; says how many. What was made before them ends at `end`.
    fn take(&mut self, now: Instant, end: u64, slices: &[IoSlice<'_>]) -> usize {
        let mut total = 0;
        for slice in slices {
            let mut rest = &slice[..];
            while !rest.is_empty() {
                self.feed(now);
                if !self.held.is_empty() {
                    return total;
                }
                let taken = if self.over { rest.len() } else { self.take_some(end, rest) };
                rest = &rest[taken..];
                total += taken;
            }
        }
        self.feed(now);
        total
    }

    /// Takes bytes of at most one record.
    fn take_some(&mut self, end: u64, bytes: &[u8]) -> usize {
        let outcome = match &mut self.stage {
            Stage::Handshake(handshake) => {
                let outcome = handshake.take(bytes);
                self.greeting.push(&handshake.take_out());
                outcome.map_err(|error| tracing::info!(%error, "no TLS with the app"))
            }
            Stage::Open(_) => return self.open(bytes),
        };
        match outcome {
            Ok((taken, Step::More)) => {
                self.shaken += taken as u64;
                taken
            }
            Ok((taken, Step::Done(keys))) => {
                self.shaken += taken as u64;
                let at = end + self.greeting.rest().len() as u64;
                let place = Place { at: self.shaken, skip: 0, direction: keys.up };
                let (reader, writer) = (Reader::new(place, 0), Writer::new(keys.down, at));
                self.stage = Stage::Open(Box::new(Open { reader, writer }));
                taken
            }
            Err(()) => {
                self.give_up();
                bytes.len()
            }
        }
    }

    /// Opens bytes of at most one record.
    fn open(&mut self, bytes: &[u8]) -> usize {
        let Stage::Open(open) = &mut self.stage else { return 0 };
        let (at, plain) = open.reader.positions();
        if self.guard.is_some_and(|guard| at >= guard) {
            self.guard = None;
            self.http.machine().guard(plain);
        }
        let mut data = Vec::new();
        let (taken, came) = match open.reader.take(bytes, &mut data) {
            Ok(done) => done,
            Err(alert) => {
                tracing::info!(%alert, "TLS with the app cannot go on");
                open.writer.end(&alert.message());
                self.give_up();
                return bytes.len();
            }
        };
        match came {
            Came::Nothing => {}
            Came::Data => self.held.push(&data),
            Came::Update { asked } => {
                if asked {
                    open.writer.want_update();
                }
            }
            Came::Closed => self.app_ended(),
            Came::Failed(alert) => {
                tracing::info!(alert, "the app has ended TLS");
                self.give_up();
            }
        }
        taken
    }

    /// Nothing more is asked of the service; the app gets what was made, and the end.
    fn give_up(&mut self) {
        self.over = true;
        self.held = Waiting::default();
        self.http.machine().told_the_end();
    }

    fn app_ended(&mut self) {
        if self.app == App::Sends {
            self.app = App::Ended;
        }
    }

    /// Hands the exchanges what was opened.
    fn feed(&mut self, now: Instant) {
        while !self.held.is_empty() {
            let taken = self.http.take(now, &[IoSlice::new(self.held.rest())]);
            if taken == 0 {
                return;
            }
            self.took = true;
            self.held.advance(taken);
        }
        if self.app == App::Ended {
            self.app = App::Told;
            self.http.shut(now, ShutNear::Fin);
        }
    }

    /// Moves what was made into the session; says how much.
    fn drain(&mut self, now: Instant, session: &mut Session) -> io::Result<usize> {
        let mut total = 0;
        while self.made() > 0 {
            let (greeting, stage) = (&mut self.greeting, &mut self.stage);
            let moved = session.fill(now, |slices| {
                if !greeting.is_empty() {
                    let copied = copy(greeting.rest(), slices);
                    greeting.advance(copied);
                    return Ok(copied);
                }
                Ok(match stage {
                    Stage::Open(open) => open.writer.copy(slices),
                    Stage::Handshake(_) => 0,
                })
            })?;
            if moved == 0 {
                break;
            }
            total += moved;
        }
        Ok(total)
    }

    /// Bytes that were made and have not gone.
    fn made(&self) -> usize {
        let records = match &self.stage {
            Stage::Open(open) => open.writer.made(),
            Stage::Handshake(_) => 0,
        };
        records + self.greeting.rest().len()
    }

    /// Lets the exchanges make more.
    fn pull_more(&mut self, now: Instant, session: &mut Session) -> io::Result<()> {
        let Stage::Open(open) = &mut self.stage else { return Ok(()) };
        let mut side = Sealed { open, session: Some((now, session)), tickets: &mut self.tickets };
        if std::mem::take(&mut self.took) {
            self.http.taken(now, &mut side);
        }
        let pulled = self.http.pull_to(now, &mut side);
        if self.http.machine().is_between() {
            side.complete(self.http.mint());
        }
        match pulled {
            Ok(Pulled::Bytes(_)) => {}
            Ok(Pulled::Fin | Pulled::Gone) => {
                side.close(self.http.mint());
                self.over = true;
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                if self.flush.is_some_and(|(_, at)| at <= now) {
                    side.flush(self.http.mint());
                    (self.flush, self.flushed) = (None, Some(now));
                }
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// The service pauses: says whether what waits is to go out now.
    fn pauses(&mut self, now: Instant, behind: u64) -> bool {
        let Stage::Open(open) = &self.stage else { return false };
        if !open.writer.waits() {
            self.flush = None;
            return false;
        }
        let every = if behind > MUCH { FLUSH_BUSY } else { FLUSH_EVERY };
        let leaves = self.leaving.is_some_and(|until| now < until);
        let next = match (open.writer.standing(), self.flushed) {
            (Some(_), _) if leaves => now + FLUSH_LEAVING,
            // Nobody goes on with this: it costs no ticket.
            (None, _) | (_, None) => now + PAUSE,
            (Some(_), Some(flushed)) => (flushed + every).max(now + PAUSE),
        };
        let at = open.writer.at();
        match self.flush {
            Some((of, due)) if of == at => due <= now,
            _ => {
                self.flush = Some((at, next));
                false
            }
        }
    }

    /// The handshake is over: the first ticket.
    fn established(&mut self, now: Instant, session: &mut Session) {
        let Stage::Open(open) = &mut self.stage else { return };
        let mut side = Sealed { open, session: Some((now, session)), tickets: &mut self.tickets };
        let http = Exchange::Idle { close: false };
        let standing = Standing { at: 0, covers: 0, from: 0, http };
        if let Some(mint) = self.http.mint() {
            side.stand(mint, standing);
        }
    }
}

impl<S: Streams, M: Seal> Near for Https<S, M> {
    fn poll_readable(&mut self, now: Instant, cx: &mut Context<'_>) -> Poll<()> {
        if self.made() > 0 || self.over || !self.tickets.is_empty() {
            return Poll::Ready(());
        }
        if matches!(self.stage, Stage::Handshake(_)) {
            return Poll::Pending;
        }
        if !self.held.is_empty() && self.http.poll_writable(now, cx).is_ready() {
            self.feed(now);
        }
        let readable = self.http.poll_readable(now, cx);
        let behind = self.http.behind();
        if self.took || readable.is_ready() || self.pauses(now, behind) {
            return Poll::Ready(());
        }
        Poll::Pending
    }

    fn poll_writable(&mut self, now: Instant, cx: &mut Context<'_>) -> Poll<()> {
        if self.held.is_empty() || self.over {
            return Poll::Ready(());
        }
        self.http.poll_writable(now, cx)
    }

    fn due(&self) -> Option<Instant> {
        self.http.due().into_iter().chain(self.flush.map(|(_, at)| at)).min()
    }

    fn pull(&mut self, now: Instant, session: &mut Session) -> io::Result<Pulled> {
        for offer in self.tickets.drain(..) {
            session.offer_ticket(offer);
        }
        let mut moved = self.drain(now, session)?;
        if self.made() == 0 && !self.over {
            self.pull_more(now, session)?;
            self.feed(now);
            moved += self.drain(now, session)?;
        }
        self.http.set_behind(behind(session));
        match moved {
            0 if self.over && self.made() == 0 => Ok(Pulled::Fin),
            0 => Err(io::ErrorKind::WouldBlock.into()),
            moved => Ok(Pulled::Bytes(moved)),
        }
    }

    fn push(
        &mut self,
        now: Instant,
        session: &mut Session,
        arrived: &[&[u8]],
    ) -> io::Result<usize> {
        let before = matches!(self.stage, Stage::Handshake(_));
        let end = session.positions().end;
        let taken = session.deliver(now, arrived, |slices| match self.take(now, end, slices) {
            0 => Err(io::ErrorKind::WouldBlock.into()),
            taken => Ok(taken),
        });
        if before {
            self.established(now, session);
        }
        if let Stage::Open(open) = &mut self.stage
            && std::mem::take(&mut self.took)
        {
            if self.http.mint().is_none() {
                open.reader.forget(open.reader.positions().1);
            }
            let mut side =
                Sealed { open, session: Some((now, session)), tickets: &mut self.tickets };
            self.http.taken(now, &mut side);
        }
        taken
    }

    fn shut(&mut self, now: Instant, how: ShutNear) {
        match how {
            ShutNear::Fin if matches!(self.stage, Stage::Handshake(_)) => self.give_up(),
            ShutNear::Fin => {
                self.app_ended();
                self.feed(now);
            }
            ShutNear::Reset { .. } => {
                self.over = true;
                self.http.shut(now, how);
            }
        }
    }

    fn event(&mut self, now: Instant, session: &mut Session, event: &Event) {
        self.http.set_behind(behind(session));
        if *event == Event::LeaveAsked {
            self.leaving = Some(now + LEAVING_MAX);
        }
        let Stage::Open(open) = &mut self.stage else { return };
        if *event == Event::LeaveAsked {
            open.writer.leaves(unix_now() + LEAVING_MAX.as_secs());
        }
        let mut side = Sealed { open, session: Some((now, session)), tickets: &mut self.tickets };
        self.http.happened(now, &mut side, event);
    }
}
