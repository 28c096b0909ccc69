//! The replayable service: the rules of `server/src/service/http.rs` over simulated connections to
//! a simulated file server. The observer is the shipped one.

use std::io::{self, IoSlice, IoSliceMut};
use std::rc::Rc;
use std::time::Duration;

use stp_drive::Pulled;
use stp_proto::replay::http::{Ask, Down, Ending, Flow, Observer, Plan, Up};
use stp_proto::replay::{Again, Exchange, Policy};
use stp_proto::session::{Event, Session, ShutNear, TicketOffer};
use stp_proto::time::Instant;

use crate::near::copy;
use crate::opening::{Beginning, JoinError, Mint, join};
use crate::origin::{Origin, Upstream};

const REFRESH: Duration = Duration::from_secs(5);
const PATIENCE: Duration = Duration::from_secs(60);
const PAUSE_MIN: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(2);
const HEAD_PIECE: usize = 16 * 1024;

enum Opening {
    Fresh,
    Join(Box<Ask>),
}

enum End {
    Fin,
    Failed,
}

/// One session's exchanges with its service.
pub struct Http {
    origin: Rc<Origin>,
    policy: Policy,
    mint: Mint,
    observer: Observer,
    upstream: Option<Upstream>,
    /// What is opened again, when it is tried next, the pause before that and all pauses.
    opening: Option<(Opening, Instant, Duration, Duration)>,
    unsent: Vec<u8>,
    ahead: Vec<u8>,
    out: Vec<u8>,
    reusable: bool,
    used: bool,
    deaf: bool,
    guard: u64,
    ticketed: bool,
    disclaimed: bool,
    due: bool,
    refreshed: Instant,
    again: Again,
    fin: bool,
    end: Option<End>,
    over: bool,
    /// The service has ended its stream early.
    early: bool,
    now: Instant,
}

impl Http {
    pub fn new(origin: Rc<Origin>, policy: Policy, mint: Mint, beginning: Beginning) -> Http {
        let mut http = Http {
            origin,
            policy,
            mint,
            observer: beginning.observer,
            upstream: beginning.upstream,
            opening: None,
            unsent: beginning.unsent,
            ahead: beginning.ahead,
            out: beginning.out,
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
            over: false,
            early: false,
            now: Instant::default(),
        };
        if http.observer.closing() {
            http.end = Some(End::Fin);
        }
        http.settle();
        http
    }

    fn accept(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        if self.over {
            return Ok(slices.iter().map(|slice| slice.len()).sum());
        }
        let mut total = 0;
        'all: for slice in slices {
            let mut rest: &[u8] = slice;
            while !rest.is_empty() {
                let before = self.observer.up_flow();
                let taken = match before {
                    Flow::Wait => break 'all,
                    Flow::Head => {
                        let (taken, event) = self.observer.up(rest);
                        self.up_event(event);
                        taken
                    }
                    Flow::Body(_) | Flow::Opaque => self.pass(rest),
                };
                total += taken;
                rest = &rest[taken..];
                if self.end.is_some() || (taken == 0 && self.observer.up_flow() == before) {
                    break 'all;
                }
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
                    return self.fail();
                }
                self.unsent.extend_from_slice(self.observer.request_head());
            }
            Up::Opaque => {
                if self.observer.positions().0 < self.guard {
                    return self.fail();
                }
                let held = self.observer.take_held_up();
                self.unsent.extend_from_slice(&held);
            }
        }
        if self.upstream.is_none() && self.opening.is_none() && !self.unsent.is_empty() {
            self.open();
        }
    }

    /// Writes body bytes through; says how many are dealt with.
    fn pass(&mut self, piece: &[u8]) -> usize {
        let opaque = self.observer.up_flow() == Flow::Opaque;
        let room = if opaque { usize::MAX } else { self.observer.up_room(&[piece]) };
        if room == 0 {
            let (taken, event) = self.observer.up(piece);
            self.up_event(event);
            return taken;
        }
        self.flush();
        let all = room.min(piece.len());
        let written = match &mut self.upstream {
            _ if self.deaf => all,
            None if self.opening.is_some() => 0,
            None => all,
            Some(_) if !self.unsent.is_empty() => 0,
            Some(upstream) => match upstream.try_write(self.now, &[IoSlice::new(&piece[..all])]) {
                Ok(written) => written,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => 0,
                Err(_) => {
                    self.deaf = true;
                    0
                }
            },
        };
        let mut seen = &piece[..written];
        while !seen.is_empty() {
            let (taken, event) = self.observer.up(seen);
            self.up_event(event);
            seen = &seen[taken..];
        }
        self.settle();
        written
    }

    fn flush(&mut self) {
        let Some(upstream) = &mut self.upstream else { return };
        while !self.unsent.is_empty() && !self.deaf {
            match upstream.try_write(self.now, &[IoSlice::new(&self.unsent)]) {
                Ok(written) => drop(self.unsent.drain(..written)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.deaf = true,
            }
        }
        if self.fin && self.unsent.is_empty() {
            upstream.shut_write();
        }
    }

    fn feed(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() && !self.observer.holds_head() {
            if self.observer.idle() && !self.reusable {
                return;
            }
            let head = self.observer.down_flow() == Flow::Head;
            let (taken, event) = self.observer.down(bytes);
            match event {
                Down::More if head => {}
                Down::More => self.out.extend_from_slice(&bytes[..taken]),
                Down::Head => {}
                Down::Interim => self.out.extend_from_slice(&self.observer.take_held_down()),
                Down::Opaque if head => {
                    self.out.extend_from_slice(&self.observer.take_held_down());
                }
                Down::Opaque => self.out.extend_from_slice(&bytes[..taken]),
            }
            bytes = &bytes[taken..];
            self.settle();
        }
        if !bytes.is_empty() {
            self.ahead = bytes.to_vec();
        }
    }

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

    fn read_through(
        &mut self,
        now: Instant,
        session: &mut Session,
        limit: u64,
    ) -> io::Result<Option<usize>> {
        let Some(upstream) = &mut self.upstream else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
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
            let read = upstream.try_read(now, &mut views)?;
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

    fn read_head(&mut self) -> io::Result<()> {
        let Some(upstream) = &mut self.upstream else {
            return Err(io::ErrorKind::WouldBlock.into());
        };
        let mut piece = [0; HEAD_PIECE];
        match upstream.try_read(self.now, &mut [IoSliceMut::new(&mut piece)]) {
            Ok(0) => self.service_ended(false),
            Ok(read) => self.feed(&piece[..read]),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Err(error),
            Err(_) => self.service_ended(true),
        }
        Ok(())
    }

    fn service_ended(&mut self, reset: bool) {
        self.upstream = None;
        match self.observer.ending() {
            Ending::Cut if self.fin => self.end_short(),
            Ending::Cut => self.rejoin(),
            Ending::Unanswered if self.used => {
                self.unsent = self.observer.request_head().to_vec();
                self.open();
            }
            Ending::Fair | Ending::Unanswered | Ending::Lost => {
                self.early = !(self.fin && self.observer.idle());
                let held = self.observer.take_held_down();
                self.out.extend_from_slice(&held);
                self.end = Some(if reset { End::Failed } else { End::Fin });
            }
        }
    }

    fn open(&mut self) {
        (self.deaf, self.used, self.reusable) = (false, false, true);
        self.opening = Some((Opening::Fresh, self.now, Duration::ZERO, Duration::ZERO));
    }

    fn rejoin(&mut self) {
        let have = self.observer.positions().1;
        let Some(pause) = self.again.ask(have) else { return self.end_short() };
        let plan = self
            .observer
            .exchange()
            .map(|exchange| Plan::make(&exchange, have, have, self.observer.proof(), self.policy));
        match plan {
            Some(Ok(Plan::Ask(ask))) => {
                self.deaf = false;
                let zero = Duration::ZERO;
                self.opening = Some((Opening::Join(ask), self.now + pause, zero, zero));
            }
            Some(_) | None => self.end_short(),
        }
    }

    fn end_short(&mut self) {
        (self.upstream, self.opening, self.early) = (None, None, true);
        self.end = Some(End::Fin);
    }

    fn poll_opening(&mut self) {
        let Some((opening, at, pause, waited)) = self.opening.take() else { return };
        if self.now < at {
            self.opening = Some((opening, at, pause, waited));
            return;
        }
        let failed = match &opening {
            Opening::Fresh => match Upstream::open(self.now, &self.origin) {
                Ok(upstream) => {
                    self.upstream = Some(upstream);
                    None
                }
                Err(_) => Some(JoinError::Service),
            },
            Opening::Join(ask) => match join(self.now, &self.origin, ask) {
                Ok(joined) => {
                    self.upstream = Some(joined.upstream);
                    self.ahead = joined.ahead;
                    self.reusable = joined.reusable;
                    None
                }
                Err(error) => Some(error),
            },
        };
        match failed {
            None => {}
            Some(JoinError::Service) if waited < PATIENCE => {
                let pause = (pause * 2).clamp(PAUSE_MIN, PAUSE_MAX);
                self.opening = Some((opening, self.now + pause, pause, waited + pause));
            }
            Some(_) if self.observer.response_under_way() => self.end_short(),
            Some(JoinError::Service | JoinError::Refused(_)) => self.fail(),
        }
    }

    fn fail(&mut self) {
        self.upstream = None;
        self.opening = None;
        self.end = Some(End::Failed);
    }

    fn ticket(&mut self, now: Instant, session: &mut Session) {
        let (covers, at) = (self.observer.covers(), self.observer.positions().1);
        assert_eq!(at, session.positions().end, "nothing waits before a ticket");
        let Some(exchange) = self.observer.exchange() else { return };
        let ticket = self.mint.seal(now, (covers, at), Exchange::Http(exchange));
        if ticket.is_empty() {
            return self.disclaim(session);
        }
        self.ticketed = self.observer.response_under_way();
        self.disclaimed = false;
        self.refreshed = now;
        let seam_from = self.observer.seam_from();
        session.offer_ticket(TicketOffer { at, covers, seam_from, transferable: true, ticket });
    }

    fn disclaim(&mut self, session: &mut Session) {
        if self.disclaimed {
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

    fn through(&self) -> bool {
        self.out.is_empty() && !self.observer.holds_head()
    }

    fn finished(&self) -> bool {
        self.fin
            && self.upstream.is_none()
            && self.opening.is_none()
            && self.unsent.is_empty()
            && self.ahead.is_empty()
            && self.observer.idle()
    }

    /// When it may go on by itself.
    pub fn wake_at(&self, session: &Session, now: Instant) -> Option<Instant> {
        if let Some((_, at, ..)) = &self.opening {
            return Some(*at);
        }
        if session.send_room() == 0 || self.over {
            return None;
        }
        self.upstream.as_ref().and_then(|upstream| upstream.ready_at(now)).filter(|at| *at > now)
    }

    pub fn pull(&mut self, now: Instant, session: &mut Session) -> io::Result<Pulled> {
        self.now = now;
        self.poll_opening();
        self.flush();
        let mut total = 0;
        loop {
            if !self.out.is_empty() {
                let filled = session.fill(now, |slices| Ok(copy(&self.out, slices, 0)))?;
                self.out.drain(..filled);
                total += filled;
                if !self.out.is_empty() {
                    break;
                }
            }
            if self.observer.holds_head() {
                self.ticket(now, session);
                let head = self.observer.release_head();
                self.out.extend_from_slice(&head);
                self.settle();
                continue;
            }
            if std::mem::take(&mut self.due) {
                self.ticket(now, session);
            }
            if !self.ahead.is_empty() {
                let ahead = std::mem::take(&mut self.ahead);
                self.feed(&ahead);
                continue;
            }
            if total > 0 {
                break;
            }
            if self.end.is_some() || self.finished() {
                if self.early {
                    // The app has seen the end: no other server may go on behind it.
                    self.disclaim(session);
                }
                self.over = true;
                return match self.end.take() {
                    Some(End::Failed) => Err(io::ErrorKind::Other.into()),
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
                        Ok(None) => self.service_ended(false),
                        Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                        Err(_) => self.service_ended(true),
                    }
                }
            }
        }
        if total == 0 { Err(io::ErrorKind::WouldBlock.into()) } else { Ok(Pulled::Bytes(total)) }
    }

    pub fn push(
        &mut self,
        now: Instant,
        session: &mut Session,
        arrived: &[&[u8]],
    ) -> io::Result<usize> {
        self.now = now;
        self.poll_opening();
        let taken = session.deliver(now, arrived, |slices| self.accept(slices));
        if self.over {
            return taken;
        }
        if self.observer.unsafe_request() || self.observer.opaque().is_some() {
            self.disclaim(session);
            session.release_acks(self.observer.covers());
        }
        taken
    }

    pub fn shut(&mut self, now: Instant, how: ShutNear) {
        self.now = now;
        match how {
            ShutNear::Fin => {
                self.fin = true;
                let held = self.observer.take_held_up();
                self.unsent.extend_from_slice(&held);
                if !held.is_empty() && self.upstream.is_none() && self.opening.is_none() {
                    self.open();
                }
                self.flush();
            }
            ShutNear::Reset { .. } => {
                self.upstream = None;
                self.opening = None;
            }
        }
    }

    pub fn event(&mut self, now: Instant, session: &mut Session, event: &Event) {
        if !matches!(event, Event::Acknowledged(_)) || !self.through() {
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
