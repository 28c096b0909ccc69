//! The far sides of sessions: the shipped one of a broker, the shipped one of a server, and the
//! facts about both that the checkers need.

use std::task::{Context, Poll};
use std::time::Duration;

use stp_broker::far::{Found, SessionFar};
use stp_drive::{Act, DialFailed, Dialed};
use stp_net::link::TcpInfo;
use stp_proto::handle::Handle;
use stp_proto::rise::{RiseWatch, Rule};
use stp_proto::select::Rank;
use stp_proto::session::{Attempt, ClosedWhy, Event, Session};
use stp_proto::time::Instant;
use stp_proto::wire::{Announcement, ResumeDenial};
use stp_server::far::{Host, ServerFar};

use crate::check::Tickets;
use crate::link::{SimLink, Wire};
use crate::means::{SimMeans, Slot};
use crate::net::SERVER;
use crate::server::Shared;

/// What is around one session of a server.
pub struct AtServer {
    pub roster: Shared,
    pub net: Wire,
    /// Whose session it is, and the handle that the server chose.
    pub key: (Handle, Handle),
    pub tombstone: Duration,
    /// The session has a link on which no pass was given.
    pub pass_due: bool,
}

impl Host for AtServer {
    type Link = SimLink;

    fn bury(&mut self, now: Instant, epitaph: (u32, ResumeDenial)) {
        self.roster.borrow_mut().bury(now, self.key, epitaph, self.tombstone);
    }

    fn give_back(&mut self, link: SimLink, first: Option<Vec<u8>>) {
        let conn = link.give_back();
        if let Some(record) = first {
            self.net.borrow_mut().put_back(conn, 1 - SERVER, record);
        }
    }

    fn give_pass(&mut self, _now: Instant, session: &mut Session) {
        if self.pass_due {
            self.pass_due = !session.give_pass(&[1; 16]);
        }
    }

    fn pass_again(&mut self) {
        self.pass_due = true;
    }

    fn stays(&mut self, _fixed: bool) {}

    fn record(&self, _: &Session, _: &'static str, _: String, _: Option<Duration>) {}
}

enum Side {
    Broker(Box<SessionFar<SimMeans>>),
    Server(Box<ServerFar<AtServer>>),
}

macro_rules! either {
    ($self:expr, $far:ident => $what:expr) => {
        match $self {
            Side::Broker($far) => $what,
            Side::Server($far) => $what,
        }
    };
}

/// A far side.
pub struct Far {
    side: Side,
    pub tickets: Tickets,
    pub closed: Option<ClosedWhy>,
    pub resumed: u64,
    pub moved: u64,
}

impl Far {
    pub fn of_broker(far: SessionFar<SimMeans>) -> Far {
        Far::new(Side::Broker(Box::new(far)))
    }

    pub fn of_server(around: AtServer) -> Far {
        Far::new(Side::Server(Box::new(ServerFar::new(around, RiseWatch::new(Rule::default())))))
    }

    /// The session goes on in another process; this server has it.
    pub fn restored(&mut self, now: Instant, home: Rank) {
        self.dials().restored(now, home);
    }

    fn new(side: Side) -> Far {
        Far { side, tickets: Tickets::default(), closed: None, resumed: 0, moved: 0 }
    }

    fn dials(&mut self) -> &mut SessionFar<SimMeans> {
        match &mut self.side {
            Side::Broker(far) => far,
            Side::Server(_) => panic!("a server dials"),
        }
    }

    fn note(&mut self, session: &Session, event: &Event) {
        self.tickets.event(session, event);
        match event {
            Event::Closed { why } => self.closed = Some(*why),
            Event::Attached { attempt, .. } if matches!(self.side, Side::Broker(_)) => {
                self.resumed += u64::from(*attempt == Attempt::Resume);
                self.moved += u64::from(*attempt == Attempt::Transfer);
            }
            _ => {}
        }
    }
}

impl stp_drive::Far for Far {
    type Link = SimLink;
    type Found = Found<SimLink>;
    type Dialing = Slot<Found<SimLink>>;

    fn dial(&mut self, now: Instant, session: &Session) -> Self::Dialing {
        self.dials().dial(now, session)
    }

    fn dialed(
        &mut self,
        now: Instant,
        session: &mut Session,
        found: Self::Found,
    ) -> Result<Dialed<SimLink>, DialFailed> {
        self.dials().dialed(now, session, found)
    }

    fn event(&mut self, now: Instant, session: &mut Session, event: &Event) -> Act {
        crate::trace::say(now, || format!("{:?}: {event:?}", session.handles()));
        self.note(session, event);
        either!(&mut self.side, far => far.event(now, session, event))
    }

    fn announced(&mut self, session: &Session, announcement: &Announcement) {
        either!(&mut self.side, far => far.announced(session, announcement));
    }

    fn poll_act(&mut self, now: Instant, session: &mut Session, cx: &mut Context<'_>) -> Poll<Act> {
        either!(&mut self.side, far => far.poll_act(now, session, cx))
    }

    fn wants_sample(&self, now: Instant) -> bool {
        either!(&self.side, far => far.wants_sample(now))
    }

    fn sample(&mut self, now: Instant, session: &mut Session, info: &TcpInfo) -> Act {
        either!(&mut self.side, far => far.sample(now, session, info))
    }

    fn heard(&mut self, now: Instant) {
        either!(&mut self.side, far => far.heard(now));
    }

    fn speaks_elsewhere(&self, now: Instant) -> bool {
        either!(&self.side, far => far.speaks_elsewhere(now))
    }

    fn reuse(&mut self, now: Instant, link: SimLink, first: Option<Vec<u8>>) {
        either!(&mut self.side, far => far.reuse(now, link, first));
    }
}
