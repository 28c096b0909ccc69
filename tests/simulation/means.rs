//! The means of a broker's session in the simulation: the questions of its far side become events,
//! and the futures that it polls are filled when these events have happened.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use stp_broker::far::{Found, Learned, Means, Note, Stands};
use stp_proto::course::{Around, Dial, Relay, Standing, Target, Ways};
use stp_proto::rise::Way;
use stp_proto::select::Rank;
use stp_proto::session::LostCause;
use stp_proto::time::Instant;
use stp_proto::wire::{Close, Connect, ResetFrame};

use crate::broker::Broker;
use crate::link::SimLink;
use crate::ways::rank_of;
use crate::world::Ev;

/// How often a session that is led through a relay looks at the straight way.
const LOOK_EVERY: Duration = Duration::from_secs(3);

/// A result that comes later, for a future that waits for it.
pub struct Slot<T>(Rc<RefCell<Option<T>>>);

impl<T> Slot<T> {
    pub fn fill(&self, outcome: T) {
        *self.0.borrow_mut() = Some(outcome);
    }
}

impl<T> Default for Slot<T> {
    fn default() -> Slot<T> {
        Slot(Rc::default())
    }
}

impl<T> Clone for Slot<T> {
    fn clone(&self) -> Slot<T> {
        Slot(Rc::clone(&self.0))
    }
}

impl<T> Future for Slot<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, _cx: &mut Context<'_>) -> Poll<T> {
        self.0.borrow_mut().take().map_or(Poll::Pending, Poll::Ready)
    }
}

/// The means of one session's far side.
pub struct SimMeans {
    pub broker: Rc<RefCell<Broker>>,
    pub number: u64,
}

impl SimMeans {
    /// The place of a server among all.
    fn place(&self, server: Rank) -> Rank {
        self.broker.borrow_mut().seat(self.number).ranks[server]
    }
}

impl Ways for SimMeans {
    fn standing(&self, server: Rank) -> Standing {
        self.broker.borrow_mut().show(self.number, |offered| offered.standing(server))
    }

    fn last_link(&self, server: Rank) -> Option<Duration> {
        self.broker.borrow_mut().show(self.number, |offered| offered.last_link(server))
    }
}

impl Around for SimMeans {
    fn server_name(&self, server: Rank) -> String {
        self.broker.borrow_mut().show(self.number, |offered| offered.server_name(server))
    }

    fn relay_name(&self, relay: Relay) -> String {
        format!("server {}", rank_of(relay))
    }

    fn listed_until(&self, now: Instant, server: Rank) -> Option<Instant> {
        self.broker.borrow_mut().show(self.number, |offered| offered.listed_until(now, server))
    }

    fn round_trip(&self, server: Rank) -> Option<Duration> {
        self.broker.borrow_mut().show(self.number, |offered| offered.round_trip(server))
    }

    fn take_exit(&self, now: Instant, server: Rank) -> bool {
        self.broker.borrow_mut().show(self.number, |offered| offered.take_exit(now, server))
    }
}

impl Means for SimMeans {
    type Link = SimLink;
    type Dialing = Slot<Found<SimLink>>;
    type Measuring = Slot<Learned>;
    type Looking = Slot<(Way, Way)>;

    fn dial(&self, now: Instant, dial: Dial, pass: Option<Arc<[u8]>>) -> Self::Dialing {
        let mut broker = self.broker.borrow_mut();
        broker.now = now;
        broker.dial(self.number, dial, pass.is_some())
    }

    fn measure(&self, now: Instant, home: Rank, others: Vec<Rank>) -> Self::Measuring {
        let mut broker = self.broker.borrow_mut();
        let (seat, number) = (broker.seat(self.number), self.number);
        seat.question += 1;
        seat.measuring = Slot::default();
        let (slot, question) = (seat.measuring.clone(), seat.question);
        let all = std::iter::once(home).chain(others).collect();
        broker.todo.push((now, Ev::Measure(number, question, all)));
        slot
    }

    fn measure_ways(&self, now: Instant, home: Rank) -> Self::Measuring {
        let mut broker = self.broker.borrow_mut();
        let (seat, number) = (broker.seat(self.number), self.number);
        seat.question += 1;
        seat.measuring = Slot::default();
        let (slot, question, home) = (seat.measuring.clone(), seat.question, seat.ranks[home]);
        broker.todo.push((now, Ev::MeasureWays(number, question, home)));
        slot
    }

    fn look(&self, now: Instant, via: Relay, home: Rank) -> Self::Looking {
        let mut broker = self.broker.borrow_mut();
        let (seat, number) = (broker.seat(self.number), self.number);
        seat.look += 1;
        seat.looked = Slot::default();
        let (slot, look) = (seat.looked.clone(), seat.look);
        let ways = (rank_of(via), seat.ranks[home]);
        broker.todo.push((now + LOOK_EVERY, Ev::Look(number, look, ways)));
        slot
    }

    fn link_round_trip(&self) -> Duration {
        let mut broker = self.broker.borrow_mut();
        let seat = broker.seat(self.number);
        let server = seat.stands.server.map(|server| seat.ranks[server]);
        server.and_then(|server| broker.servers.list[server].measured.base).unwrap_or_default()
    }

    fn list(&self, now: Instant, server: Rank, asked: Duration) {
        let server = self.place(server);
        self.broker.borrow_mut().servers.overloaded.add(now, server, asked);
    }

    fn unlist(&self, server: Rank) {
        let server = self.place(server);
        self.broker.borrow_mut().servers.overloaded.remove(&server);
    }

    fn doubt(&self, target: Target, cause: LostCause, _loses_long: bool) {
        let server = target.via.map_or_else(|| self.place(target.rank), rank_of);
        self.broker.borrow_mut().doubt(server, cause);
    }

    fn heard(&self, now: Instant, link: Option<(Rank, Instant)>) {
        if let Some((server, since)) = link {
            let server = self.place(server);
            self.broker.borrow_mut().servers.list[server].heard.note(now, since);
        }
    }

    fn speaks(&self, now: Instant, server: Rank) -> bool {
        let server = self.place(server);
        self.broker.borrow().servers.list[server].heard.lately(now)
    }

    fn keep(&self, now: Instant, link: SimLink, _last: Option<Rank>) {
        self.broker.borrow_mut().reuse(now, link.give_back());
    }

    fn prepare(&self, server: Rank, connect: Connect<'_>) {
        let mut broker = self.broker.borrow_mut();
        let now = broker.now;
        let seat = broker.seat(self.number);
        let (server, service) = (seat.ranks[server], seat.script.service());
        let mut frame = Vec::new();
        Connect { service, ..connect }.encode(&mut frame);
        broker.todo.push((now, Ev::Prepare(server, frame)));
    }

    fn take_leave(&self, now: Instant, server: Rank, reset: ResetFrame) {
        let server = self.place(server);
        let mut frame = Vec::new();
        Close::ResetFirst(reset).encode(&mut frame);
        self.broker.borrow_mut().todo.push((now, Ev::Leave(server, frame, 0)));
    }

    fn publish(&self, stands: Stands) {
        self.broker.borrow_mut().seat(self.number).stands = stands;
    }

    fn note(&self, _at_byte: u64, note: Note) {
        let mut broker = self.broker.borrow_mut();
        match note {
            Note::Log(what, cause) => {
                let leaves = what == "leaves its server";
                broker.decided += u64::from(leaves && cause.starts_with("congested"));
            }
            Note::Happened(what, cause) => {
                broker.cooled += u64::from(what == "stays" && cause.contains("lately"));
            }
            Note::GaveUp(_, why) => {
                broker.seat(self.number).facts.gave_up.get_or_insert(why);
            }
            Note::Linked { .. } | Note::Refused(_) => {}
        }
    }
}
