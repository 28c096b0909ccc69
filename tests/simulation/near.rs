//! The near sides of sessions: the app at the broker, the services at the servers.

use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::task::{Context, Poll};

use stp_drive::{Near, Pulled};
use stp_proto::session::{Event, Limits, Session, ShutNear};
use stp_proto::time::Instant;

use crate::app::App;
use crate::kept::KeptSide;
use crate::plan::Pace;
use crate::random::{pattern, pattern_at, urgent_at};
use crate::service::{Connections, SimHttp};

/// The kinds of near sides.
pub enum Kind {
    App(Box<App>),
    /// The shipped HTTP service.
    Http(Box<SimHttp>, Connections),
    Tcp(Box<Tcp>),
}

/// A near side. An app, or a service that is simulated, is ready as a kernel would say: until it
/// has blocked, and again when something has happened or its time has come.
pub struct NearSide {
    kind: Kind,
    readable: bool,
    writable: bool,
    wake_at: Option<Instant>,
    /// What outlives its session's process.
    kept: Option<KeptSide>,
}

impl NearSide {
    pub fn new(kind: Kind) -> NearSide {
        NearSide { kind, readable: true, writable: true, wake_at: None, kept: None }
    }

    /// Something that goes on in another process. Only what nothing is known of does at a server.
    pub fn kept(mut self, limits: &Limits) -> NearSide {
        if !matches!(self.kind, Kind::Http(..)) {
            self.kept = Some(KeptSide::new(limits));
        }
        self
    }

    /// In the place of one that goes on elsewhere.
    pub fn gone() -> NearSide {
        NearSide::new(Kind::Tcp(Box::new(Tcp::new((0, 0), (0, 0), false, Pace::FREE))))
    }

    /// The session again, in another process.
    pub fn restore(&mut self, now: Instant, limits: &Limits, service: &str) -> Option<Session> {
        self.poke();
        self.kept.as_mut()?.restore(now, limits, service)
    }

    pub fn is_kept(&self) -> bool {
        self.kept.is_some()
    }

    /// Something has happened to it from outside.
    pub fn poke(&mut self) {
        (self.readable, self.writable) = (true, true);
    }

    pub fn app(&mut self) -> Option<&mut App> {
        match &mut self.kind {
            Kind::App(app) => Some(app),
            Kind::Http(..) | Kind::Tcp(_) => None,
        }
    }

    pub fn violation(&mut self) -> Option<String> {
        match &mut self.kind {
            Kind::App(app) => app.violation.take(),
            Kind::Tcp(tcp) => tcp.violation.take(),
            Kind::Http(..) => None,
        }
    }

    fn look_at_clock(&mut self, now: Instant) {
        if self.wake_at.take_if(|at| *at <= now).is_some() {
            self.poke();
        }
    }

    fn rest(&mut self, now: Instant, session: &Session) {
        self.wake_at = match &self.kind {
            Kind::App(app) => app.wake_at(session, now),
            Kind::Http(..) => None,
            Kind::Tcp(tcp) => tcp.wake_at(session, now),
        };
    }
}

fn would_block<T>(result: &io::Result<T>) -> bool {
    result.as_ref().is_err_and(|error| error.kind() == ErrorKind::WouldBlock)
}

fn ready(is_ready: bool) -> Poll<()> {
    if is_ready { Poll::Ready(()) } else { Poll::Pending }
}

impl Near for NearSide {
    fn poll_readable(&mut self, now: Instant, cx: &mut Context<'_>) -> Poll<()> {
        if let Kind::Http(http, _) = &mut self.kind {
            return http.poll_readable(now, cx);
        }
        self.look_at_clock(now);
        ready(self.readable)
    }

    fn poll_writable(&mut self, now: Instant, cx: &mut Context<'_>) -> Poll<()> {
        if let Kind::Http(http, _) = &mut self.kind {
            return http.poll_writable(now, cx);
        }
        self.look_at_clock(now);
        ready(self.writable)
    }

    fn due(&self) -> Option<Instant> {
        match &self.kind {
            Kind::Http(http, connections) => http.due().into_iter().chain(connections.due()).min(),
            Kind::App(_) | Kind::Tcp(_) => self.wake_at,
        }
    }

    fn pull(&mut self, now: Instant, session: &mut Session) -> io::Result<Pulled> {
        let pulled = match &mut self.kind {
            Kind::App(app) => app.pull(now, session, self.kept.as_ref()),
            Kind::Http(http, _) => http.pull(now, session),
            Kind::Tcp(tcp) => tcp.pull(now, session, self.kept.as_ref()),
        };
        if let Some(kept) = &mut self.kept {
            kept.moved();
        }
        self.readable = !would_block(&pulled);
        self.rest(now, session);
        pulled
    }

    fn push(
        &mut self,
        now: Instant,
        session: &mut Session,
        arrived: &[&[u8]],
    ) -> io::Result<usize> {
        if let Some(kept) = &mut self.kept {
            kept.put_ticket(session);
        }
        let kept = self.kept.as_ref();
        let count = |taken: io::Result<usize>| {
            if let (Ok(count), Some(kept)) = (&taken, kept) {
                kept.took(*count);
            }
            taken
        };
        let pushed = match &mut self.kind {
            Kind::App(app) => session.deliver_marked(now, arrived, |slices, urgent| {
                count(app.take(now, slices, urgent))
            }),
            Kind::Http(http, _) => http.push(now, session, arrived),
            Kind::Tcp(tcp) => session.deliver_marked(now, arrived, |slices, urgent| {
                count(tcp.take(now, slices, urgent))
            }),
        };
        if let Some(kept) = &mut self.kept {
            kept.hold(session);
        }
        (self.readable, self.writable) = (true, !would_block(&pushed));
        self.rest(now, session);
        pushed
    }

    fn keep(&mut self, session: &Session) {
        if let Some(kept) = &mut self.kept {
            kept.put(session);
        }
    }

    fn shut(&mut self, now: Instant, how: ShutNear) {
        match &mut self.kind {
            Kind::App(app) => app.shut(how),
            Kind::Http(http, _) => http.shut(now, how),
            Kind::Tcp(tcp) => tcp.shut(how),
        }
        self.poke();
    }

    fn event(&mut self, now: Instant, session: &mut Session, event: &Event) {
        if let Some(kept) = &mut self.kept {
            kept.event(event);
        }
        match &mut self.kind {
            Kind::App(app) => app.event(event),
            Kind::Http(http, _) => http.event(now, session, event),
            Kind::Tcp(_) => (),
        }
        self.poke();
    }
}

/// A service that Session knows nothing of: it sends a pattern and expects one.
pub struct Tcp {
    up: (u64, u64),
    down: (u64, u64),
    written: u64,
    seen: u64,
    /// It ends its stream only after the app's.
    waits: bool,
    pace: Pace,
    write_at: Instant,
    read_at: Instant,
    told_end: bool,
    shut: Option<ShutNear>,
    violation: Option<String>,
}

impl Tcp {
    pub fn new(up: (u64, u64), down: (u64, u64), waits: bool, pace: Pace) -> Tcp {
        Tcp {
            up,
            down,
            written: 0,
            seen: 0,
            waits,
            pace,
            write_at: Instant::default(),
            read_at: Instant::default(),
            told_end: false,
            shut: None,
            violation: None,
        }
    }

    fn is_paused(&self, now: Instant, last: Instant) -> bool {
        last > Instant::default() && now < last + self.pace.pause
    }

    fn pull(
        &mut self,
        now: Instant,
        session: &mut Session,
        kept: Option<&KeptSide>,
    ) -> io::Result<Pulled> {
        if self.told_end || session.send_room() == 0 || self.is_paused(now, self.write_at) {
            return Err(ErrorKind::WouldBlock.into());
        }
        let (down, written, burst) = (self.down, &mut self.written, self.pace.burst);
        let filled = session.fill(now, |slices| {
            let mut count = 0;
            for slice in slices.iter_mut() {
                let left = usize::try_from(down.1 - *written).unwrap_or(usize::MAX);
                let here = slice.len().min(left).min(burst - count);
                pattern(down.0, *written, &mut slice[..here]);
                *written += here as u64;
                count += here;
            }
            if let Some(kept) = kept {
                kept.sent(slices, count);
            }
            Ok(count)
        });
        let filled = filled.expect("a pattern does not fail");
        if filled > 0 {
            self.write_at = now;
            if urgent_at(self.down.0, self.written - 1) {
                session.mark_urgent();
            }
            return Ok(Pulled::Bytes(filled));
        }
        let may_end = self.written == self.down.1 && (!self.waits || self.shut.is_some());
        if !may_end {
            return Err(ErrorKind::WouldBlock.into());
        }
        self.told_end = true;
        Ok(Pulled::Fin)
    }

    fn take(&mut self, now: Instant, slices: &[IoSlice<'_>], urgent: bool) -> io::Result<usize> {
        if self.is_paused(now, self.read_at) {
            return Err(io::ErrorKind::WouldBlock.into());
        }
        if urgent && !urgent_at(self.up.0, self.seen) {
            self.violation.get_or_insert(format!("up byte {} is not urgent", self.seen));
        }
        self.read_at = now;
        let mut left = self.pace.burst;
        let mut total = 0;
        for slice in slices {
            let piece = &slice[..slice.len().min(left)];
            left -= piece.len();
            total += piece.len();
            for byte in piece {
                if self.seen == self.up.1 || *byte != pattern_at(self.up.0, self.seen) {
                    let text = format!("up byte {} of {} is wrong", self.seen, self.up.1);
                    self.violation.get_or_insert(text);
                }
                self.seen += 1;
            }
        }
        Ok(total)
    }

    fn shut(&mut self, how: ShutNear) {
        self.shut = Some(how);
        if how == ShutNear::Fin && self.seen > self.up.1 {
            self.violation.get_or_insert("too many bytes".to_owned());
        }
    }

    fn wake_at(&self, session: &Session, now: Instant) -> Option<Instant> {
        let read = (session.undelivered() > 0).then(|| self.read_at + self.pace.pause);
        let writes = !self.told_end && session.send_room() > 0;
        let write = writes.then(|| self.write_at + self.pace.pause);
        read.into_iter().chain(write).filter(|at| *at > now).min()
    }
}

/// Copies what fits into `slices` behind `skip` bytes.
pub fn copy(mut bytes: &[u8], slices: &mut [IoSliceMut<'_>], mut skip: usize) -> usize {
    let mut copied = 0;
    for slice in slices {
        let start = skip.min(slice.len());
        skip -= start;
        let length = (slice.len() - start).min(bytes.len());
        slice[start..start + length].copy_from_slice(&bytes[..length]);
        bytes = &bytes[length..];
        copied += length;
    }
    copied
}
