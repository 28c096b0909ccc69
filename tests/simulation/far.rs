//! The far sides of sessions: at the broker, where links are looked for, and at a server, to which
//! they come.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use stp_drive::{Act, DialFailed, Dialed, path_sample};
use stp_net::link::TcpInfo;
use stp_proto::course::{GaveUp, Target};
use stp_proto::handle::Handle;
use stp_proto::rise::{RiseWatch, Rule};
use stp_proto::select::Rank;
use stp_proto::session::{Attempt, ClosedWhy, Event, Session};
use stp_proto::time::Instant;
use stp_proto::wire::{ResumeDenial, TransferReason};

use crate::broker::Broker;
use crate::check::Tickets;
use crate::link::{SimLink, Wire};
use crate::net::SERVER;

/// What a dial came to.
pub enum Found {
    Link(Target, SimLink),
    /// No link to the server that it would move to, or by the other way.
    Unreached(Rank),
    TurnFailed,
    NoServer(GaveUp),
}

/// A dial under way: what it came to, when it has.
#[derive(Clone, Default)]
pub struct Slot(Rc<RefCell<Option<Found>>>);

impl Slot {
    pub fn fill(&self, found: Found) {
        *self.0.borrow_mut() = Some(found);
    }
}

impl Future for Slot {
    type Output = Found;

    fn poll(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.0.borrow_mut().take().map_or(Poll::Pending, Poll::Ready)
    }
}

/// How sessions of a server ended, for those who ask later.
pub type Tombs = Rc<RefCell<BTreeMap<(Handle, Handle), (u32, ResumeDenial)>>>;

/// Whose far side it is.
pub enum Place {
    /// The broker's, of the session with this number.
    Broker(Rc<RefCell<Broker>>, u64),
    /// A server's.
    Server(Tombs),
}

/// A far side.
pub struct Far {
    place: Place,
    net: Wire,
    watch: RiseWatch,
    tickets: Tickets,
    /// A server's session has a link on which no pass was given.
    pass_due: bool,
    pub closed: Option<ClosedWhy>,
    pub resumed: u64,
    pub moved: u64,
}

impl Far {
    pub fn new(place: Place, net: &Wire) -> Far {
        Far {
            place,
            net: Rc::clone(net),
            watch: RiseWatch::new(Rule::default()),
            tickets: Tickets::default(),
            pass_due: false,
            closed: None,
            resumed: 0,
            moved: 0,
        }
    }

    fn note(&mut self, session: &Session, event: &Event) {
        self.tickets.event(session, event);
        match event {
            Event::Closed { why } => self.closed = Some(*why),
            Event::Attached { attempt, .. } => {
                self.watch.forget();
                self.pass_due = true;
                if let Place::Broker(..) = self.place {
                    self.resumed += u64::from(*attempt == Attempt::Resume);
                    self.moved += u64::from(*attempt == Attempt::Transfer);
                }
            }
            _ => {}
        }
    }
}

impl stp_drive::Far for Far {
    type Link = SimLink;
    type Found = Found;
    type Dialing = Slot;

    fn dial(&mut self, now: Instant, session: &Session) -> Slot {
        let Place::Broker(broker, number) = &self.place else { panic!("a server dials") };
        broker.borrow_mut().dial(now, *number, session)
    }

    fn dialed(
        &mut self,
        now: Instant,
        session: &mut Session,
        found: Found,
    ) -> Result<Dialed<SimLink>, DialFailed> {
        let Place::Broker(broker, number) = &self.place else { panic!("a server dials") };
        broker.borrow_mut().dial_ended(now, *number, session, found)
    }

    fn event(&mut self, now: Instant, session: &mut Session, event: &Event) -> Act {
        crate::trace::say(now, || format!("{:?}: {event:?}", session.handles()));
        self.note(session, event);
        match &self.place {
            Place::Broker(broker, number) => {
                broker.borrow_mut().event(now, *number, session, event)
            }
            Place::Server(tombs) => {
                if let Event::Closed { .. } = event
                    && let Some(epitaph) = session.epitaph()
                {
                    tombs.borrow_mut().insert(session.handles(), epitaph);
                }
                Act::Nothing
            }
        }
    }

    fn poll_act(
        &mut self,
        _now: Instant,
        _session: &mut Session,
        _cx: &mut Context<'_>,
    ) -> Poll<Act> {
        match &self.place {
            Place::Broker(broker, number) => {
                let act = broker.borrow_mut().seat(*number).acts.pop_front();
                act.map_or(Poll::Pending, Poll::Ready)
            }
            Place::Server(_) => Poll::Pending,
        }
    }

    fn wants_sample(&self, now: Instant) -> bool {
        self.watch.is_due(now)
    }

    fn sample(&mut self, now: Instant, session: &mut Session, info: &TcpInfo) -> Act {
        if let Place::Server(_) = self.place
            && self.pass_due
        {
            self.pass_due = !session.give_pass(&[1; 16]);
        }
        let Some(rise) = self.watch.sample(now, path_sample(session, info)) else {
            return Act::Nothing;
        };
        match &self.place {
            Place::Broker(broker, number) => {
                broker.borrow_mut().slow_path(now, *number, session, &rise.to_string())
            }
            Place::Server(_) => {
                session.request_transfer(TransferReason::Congested, &rise.to_string());
                Act::Nothing
            }
        }
    }

    fn heard(&mut self, now: Instant) {
        if let Place::Broker(broker, number) = &self.place {
            broker.borrow_mut().heard(now, *number);
        }
    }

    fn speaks_elsewhere(&self, now: Instant) -> bool {
        match &self.place {
            Place::Broker(broker, number) => broker.borrow_mut().speaks_elsewhere(now, *number),
            Place::Server(_) => false,
        }
    }

    fn reuse(&mut self, now: Instant, link: SimLink, first: Option<Vec<u8>>) {
        match &self.place {
            // A server speaks only when asked; one that does not is no good for another session.
            Place::Broker(broker, _) => {
                if first.is_none() {
                    broker.borrow_mut().reuse(now, link.give_back());
                }
            }
            Place::Server(_) => {
                let conn = link.give_back();
                if let Some(record) = first {
                    self.net.borrow_mut().put_back(conn, 1 - SERVER, record);
                }
            }
        }
    }
}
