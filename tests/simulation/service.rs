//! What the shipped HTTP service reaches in the simulation: connections to a simulated file server,
//! and tickets without a seal.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io::{self, IoSlice, IoSliceMut};
use std::pin::Pin;
use std::rc::{Rc, Weak};
use std::task::{Context, Poll};
use std::time::Duration;

use stp_proto::handle::Handle;
use stp_proto::replay::Exchange;
use stp_proto::ticket::{Claims, Granted, Holder};
use stp_proto::time::Instant;
use stp_server::service::http::Http;
use stp_server::service::join::Join;
use stp_server::service::takeover::Takeover;
use stp_server::service::upstream::{Stream, Streams};
use stp_server::ticket::{BadTicket, Seal};

use crate::origin::{Origin, Upstream};

/// The simulation begins at this second since 1970, by a clock that is right.
pub const EPOCH_S: u64 = 1_700_000_000;

/// The shipped service, over simulated connections.
pub type SimHttp = Http<Connections, Mint>;
/// The shipped taking over of sessions, over simulated connections.
pub type SimTakeover = Takeover<Connections, Mint>;
/// The shipped joining and following of responses, over simulated connections.
pub type SimJoin = Join<Connections>;

/// Makes and opens tickets: the claims as they are, without a seal.
#[derive(Clone)]
pub struct Mint {
    pub holder: Holder,
    pub life: Duration,
    /// What the machine's clock showed when the simulation began.
    pub clock: Rc<Cell<u64>>,
    pub now: Rc<Cell<Instant>>,
    pub granted: Option<Granted>,
}

impl Mint {
    /// Seconds since 1970, as this machine has it.
    fn unix(&self) -> u64 {
        self.clock.get() + self.now.get().0 / 1_000_000
    }
}

impl Seal for Mint {
    fn restrict(&mut self, granted: Option<Granted>) {
        self.granted = granted;
    }

    fn granted(&self) -> Option<&Granted> {
        self.granted.as_ref()
    }

    fn seal(&self, at: (u64, u64), exchange: Exchange) -> Vec<u8> {
        let times = (self.unix(), self.life.as_secs());
        let mut claims = Claims::new(&self.holder, Handle([1; 16]), times, at, exchange);
        claims.granted.clone_from(&self.granted);
        claims.encode().unwrap_or_default()
    }

    fn open(&self, ticket: &[u8], have: u64, up_from: u64) -> Result<Claims, BadTicket> {
        let claims = Claims::decode(ticket)?;
        claims.check(&self.holder, self.unix(), (have, up_from))?;
        Ok(claims)
    }
}

/// The connections of one session to its service.
#[derive(Clone)]
pub struct Connections {
    origin: Rc<Origin>,
    now: Rc<Cell<Instant>>,
    open: Rc<RefCell<Vec<Weak<RefCell<Upstream>>>>>,
    /// When those that are being opened will be.
    opening: Rc<RefCell<Vec<Instant>>>,
}

impl Connections {
    pub fn new(origin: &Rc<Origin>, now: &Rc<Cell<Instant>>) -> Connections {
        Connections {
            origin: Rc::clone(origin),
            now: Rc::clone(now),
            open: Rc::default(),
            opening: Rc::default(),
        }
    }

    /// When one of them may have new bytes.
    pub fn due(&self) -> Option<Instant> {
        let now = self.now.get();
        let mut open = self.open.borrow_mut();
        open.retain(|upstream| upstream.strong_count() > 0);
        let ready = |upstream: &Weak<RefCell<Upstream>>| upstream.upgrade()?.borrow().ready_at(now);
        self.opening.borrow_mut().retain(|at| *at > now);
        let opening = self.opening.borrow();
        open.iter().filter_map(ready).chain(opening.iter().copied()).filter(|at| *at > now).min()
    }
}

impl Streams for Connections {
    type Stream = Connection;
    type Opening = Opening;

    fn open(&self) -> Opening {
        let at = self.now.get() + self.origin.accepts_after();
        self.opening.borrow_mut().push(at);
        Opening { connections: self.clone(), at }
    }
}

/// A connection that is being opened.
pub struct Opening {
    connections: Connections,
    at: Instant,
}

impl Future for Opening {
    type Output = io::Result<Connection>;

    fn poll(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<io::Result<Connection>> {
        let now = self.connections.now.get();
        if now < self.at {
            return Poll::Pending;
        }
        let upstream = Upstream::open(now, &self.connections.origin)?;
        let upstream = Rc::new(RefCell::new(upstream));
        self.connections.open.borrow_mut().push(Rc::downgrade(&upstream));
        Poll::Ready(Ok(Connection { upstream, now: Rc::clone(&self.connections.now) }))
    }
}

/// A connection to the file server.
pub struct Connection {
    upstream: Rc<RefCell<Upstream>>,
    now: Rc<Cell<Instant>>,
}

impl Stream for Connection {
    fn poll_readable(&self, _cx: &mut Context<'_>) -> Poll<()> {
        let now = self.now.get();
        let ready = self.upstream.borrow().ready_at(now).is_some_and(|at| at <= now);
        if ready { Poll::Ready(()) } else { Poll::Pending }
    }

    fn poll_writable(&self, _cx: &mut Context<'_>) -> Poll<()> {
        Poll::Ready(())
    }

    fn try_read(&self, slices: &mut [IoSliceMut<'_>]) -> io::Result<usize> {
        self.upstream.borrow_mut().try_read(self.now.get(), slices)
    }

    fn try_write(&self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.upstream.borrow_mut().try_write(self.now.get(), slices)
    }

    fn shut_write(&self) {
        self.upstream.borrow_mut().shut_write();
    }

    fn reset_on_close(&self) {}
}
