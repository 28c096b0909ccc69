//! The broker's ways to the servers: the shipped pacing over simulated dials, and measurements.

use std::cell::RefCell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use stp_proto::course::{
    Around, DialId, Failure, FailureKind, Pace, Pacing, Pulse, Relay, Standing, Ways,
};
use stp_proto::liveness::Heard;
use stp_proto::rise::{self, Exits};
use stp_proto::select::{Overloaded, Rank};
use stp_proto::time::Instant;

use crate::broker::{Broker, Looking};
use crate::link::Wire;
use crate::net::{BROKER, ConnId, Owner};
use crate::world::{Ev, World};

/// A dial that is not answered for this long has failed.
const DIAL_MAX: Duration = Duration::from_secs(10);

/// A link that is kept for a session to come.
pub struct Spare {
    net: Wire,
    pub conn: ConnId,
}

impl Spare {
    fn lives(&self) -> bool {
        let net = self.net.borrow();
        net.conns.get(&self.conn).is_some_and(|conn| conn.owner[BROKER] == Owner::Spare)
    }
}

impl Drop for Spare {
    fn drop(&mut self) {
        if self.lives() {
            self.net.borrow_mut().close(self.conn, BROKER, false);
        }
    }
}

/// The way to one server.
pub struct Way {
    pub pacing: Pacing<Spare>,
    /// Where the server is, as far as the broker knows.
    pub address: Option<SocketAddr>,
    pub heard: Heard,
    exits: RefCell<Exits>,
    armed: Option<Instant>,
    /// The last round trip that was measured, and the least one.
    pub measured: rise::Way,
}

/// The servers, as courses and searches look at them.
pub struct Servers {
    pub list: Vec<Way>,
    pub overloaded: Overloaded<Rank>,
}

impl Servers {
    pub fn new(count: usize, warm: usize) -> Servers {
        let pace = Pace { warm_max: warm, ..Pace::default() };
        let way = |_| Way {
            pacing: Pacing::new(pace),
            address: None,
            heard: Heard::default(),
            exits: RefCell::default(),
            armed: None,
            measured: rise::Way { now: None, base: None },
        };
        Servers { list: (0..count).map(way).collect(), overloaded: Overloaded::default() }
    }
}

/// The key of a server that relays.
pub fn relay(server: Rank) -> Relay {
    Relay([u8::try_from(server).expect("a few servers") + 1; 32])
}

/// The server that has this key.
pub fn rank_of(relay: Relay) -> Rank {
    usize::from(relay.0[0]) - 1
}

/// The servers of one session's service, in the order of its list.
pub struct Offered<'a> {
    pub servers: &'a Servers,
    pub ranks: &'a [Rank],
}

impl Offered<'_> {
    fn way(&self, server: Rank) -> &Way {
        &self.servers.list[self.ranks[server]]
    }
}

impl Ways for Offered<'_> {
    fn standing(&self, server: Rank) -> Standing {
        self.way(server).pacing.standing().clone()
    }

    fn last_link(&self, server: Rank) -> Option<Duration> {
        self.way(server).pacing.last_link()
    }
}

impl Around for Offered<'_> {
    fn server_name(&self, server: Rank) -> String {
        format!("server {}", self.ranks[server])
    }

    fn relay_name(&self, relay: Relay) -> String {
        format!("server {}", rank_of(relay))
    }

    fn listed_until(&self, now: Instant, server: Rank) -> Option<Instant> {
        self.servers.overloaded.until(now, &self.ranks[server])
    }

    fn round_trip(&self, server: Rank) -> Option<Duration> {
        self.way(server).measured.now
    }

    fn take_exit(&self, now: Instant, server: Rank) -> bool {
        self.way(server).exits.borrow_mut().take(now)
    }
}

/// What a dial is for.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub enum For {
    /// Any session.
    Pacing(DialId),
    /// A session that is led to its server by another one, and its dial.
    Led { number: u64, dial: u64, via: Rank },
}

/// A dial under way.
#[derive(Copy, Clone, Debug)]
pub struct Dial {
    pub rank: Rank,
    pub purpose: For,
    /// Where it leads to.
    to: Option<SocketAddr>,
    /// The broker's own address.
    pub address: u32,
}

impl Dial {
    /// The server to which the broker's packets go.
    fn path(&self) -> Rank {
        match self.purpose {
            For::Pacing(_) => self.rank,
            For::Led { via, .. } => via,
        }
    }
}

impl Broker {
    /// A link to this server, if one is ready.
    pub fn take_spare(&mut self, rank: Rank) -> Option<Spare> {
        let now = self.now;
        let spare = self.servers.list[rank].pacing.take(now, |spare| spare.lives());
        if spare.is_some() {
            self.attend(rank);
        }
        spare
    }

    /// Keeps a link for the next session.
    pub fn keep(&mut self, rank: Rank, spare: Spare) {
        let now = self.now;
        if spare.lives() && self.servers.list[rank].pacing.keep(now, spare).is_none() {
            self.news();
        }
    }

    /// A link that a session gave back: for those at the server it leads to. That is not always the
    /// session's own: an attempt at another may have ended before it attached.
    pub fn reuse(&mut self, now: Instant, conn: ConnId) {
        self.now = now;
        let spare = Spare { net: Rc::clone(&self.net), conn };
        let leads_to = {
            let net = self.net.borrow();
            let known = net.conns.get(&conn);
            known
                .filter(|known| known.path == known.server && known.address == net.address)
                .map(|known| known.server)
        };
        if let Some(rank) = leads_to {
            self.keep(rank, spare);
        }
    }

    /// Does what the pacing of a server wants.
    pub fn attend(&mut self, rank: Rank) {
        let now = self.now;
        let before = self.servers.list[rank].pacing.changes();
        let wake_at = loop {
            match self.servers.list[rank].pacing.poll(now) {
                Pulse::Dial(id) => self.begin_dial(rank, For::Pacing(id)),
                Pulse::Abandon(id) => self
                    .dials
                    .retain(|_, dial| dial.rank != rank || dial.purpose != For::Pacing(id)),
                Pulse::Wait(at) => break at,
                Pulse::Idle => break None,
            }
        };
        let way = &mut self.servers.list[rank];
        if let Some(at) = wake_at.filter(|at| way.armed.is_none_or(|armed| armed > *at)) {
            way.armed = Some(at);
            self.todo.push((at, Ev::Pace(rank)));
        }
        if self.servers.list[rank].pacing.changes() != before {
            self.news();
        }
    }

    /// It is time to look at the pacing of a server.
    pub fn pace(&mut self, rank: Rank) {
        let now = self.now;
        self.servers.list[rank].armed.take_if(|at| *at <= now);
        self.attend(rank);
    }

    pub fn begin_dial(&mut self, rank: Rank, purpose: For) {
        self.next_dial += 1;
        let id = self.next_dial;
        let address = self.net.borrow().address;
        let to = self.servers.list[rank].address;
        let dial = Dial { rank, purpose, to, address };
        self.dials.insert(id, dial);
        let delay = {
            let mut net = self.net.borrow_mut();
            let (now, path) = (net.now, dial.path());
            net.is_up(now, path).then(|| net.delay(now, path))
        };
        if let Some(delay) = delay {
            self.todo.push((self.now + delay, Ev::Syn(id)));
        }
        self.todo.push((self.now + DIAL_MAX, Ev::DialOver(id)));
    }

    /// A dial came to an end.
    pub fn dialed(&mut self, id: u64, result: Result<ConnId, FailureKind>) {
        let now = self.now;
        let Some(dial) = self.dials.remove(&id) else { return };
        let result = result.map(|conn| Spare { net: Rc::clone(&self.net), conn });
        if result.is_err() {
            self.seats.iter_mut().for_each(|seat| seat.facts.unreachable |= !seat.over);
        }
        match dial.purpose {
            For::Pacing(pacing) => {
                let why = |kind| Failure { kind, why: format!("{kind:?}"), errno: 0 };
                let way = &mut self.servers.list[dial.rank];
                let before = way.pacing.changes();
                let ready = way.pacing.handle_dialed(now, pacing, result.map_err(why));
                if ready || way.pacing.changes() != before {
                    self.news();
                }
                self.attend(dial.rank);
            }
            For::Led { number, dial: of, via } => self.led(number, of, via, result.ok()),
        }
    }

    /// Every session that looks for a link looks again.
    pub fn news(&mut self) {
        for (number, seat) in self.seats.iter().enumerate() {
            if !matches!(seat.looking, Looking::Nothing) {
                self.todo.push((self.now, Ev::Search(number as u64)));
            }
        }
    }

    /// A spare link has ended, or its server spoke unasked.
    pub fn lose_spare(&mut self, conn: ConnId) {
        for way in &mut self.servers.list {
            way.pacing.retain(|spare| spare.conn != conn);
        }
        for seat in &mut self.seats {
            seat.looking.lose(conn);
        }
        self.net.borrow_mut().close(conn, BROKER, false);
        self.news();
    }

    /// The broker's daemon learns that the network has changed.
    pub fn network_changed(&mut self) {
        let now = self.now;
        let address = self.net.borrow().address;
        for rank in 0..self.servers.list.len() {
            let net = Rc::clone(&self.net);
            let leaves = |spare: &Spare| {
                net.borrow().conns.get(&spare.conn).is_some_and(|conn| conn.address == address)
            };
            self.servers.list[rank].pacing.handle_network_changed(now, leaves);
            self.servers.list[rank].measured = rise::Way { now: None, base: None };
            self.attend(rank);
        }
        self.news();
    }

    /// A server is somewhere else: what leads to where it was is of no use.
    pub fn server_moved(&mut self, rank: Rank) {
        let now = self.now;
        let way = &mut self.servers.list[rank];
        way.pacing.handle_network_changed(now, |_| false);
        self.attend(rank);
        self.news();
    }
}

impl World {
    /// A dial reaches the server's machine.
    pub fn syn(&mut self, id: u64) {
        let Some(dial) = self.broker.borrow().dials.get(&id).copied() else { return };
        let path = dial.path();
        let lost = !self.net().is_up(self.now, path)
            || !self.is_known(dial.rank, dial.to)
            || dial.address != self.net().address
            || self.servers[path].asleep_until > self.now
            || self.servers[path].gone;
        if lost {
            return;
        }
        let taken = self.servers[path].alive;
        let mut delay = self.net().delay(self.now, path);
        if taken {
            // TLS: one more round trip; by a relay it is a second one, and its answer.
            let trips = if path == dial.rank { 2 } else { 6 };
            for _ in 0..trips {
                delay += self.net().delay(self.now, path);
            }
        }
        self.after(delay, Ev::Dialed(id, taken));
    }

    /// The broker learns how a dial ended.
    pub fn dialed(&mut self, id: u64, taken: bool) {
        let Some(dial) = self.broker.borrow().dials.get(&id).copied() else { return };
        let path = dial.path();
        let lost = !self.net().is_up(self.now, path) || !self.is_known(dial.rank, dial.to);
        if lost || dial.address != self.net().address {
            return;
        }
        if taken != self.servers[path].alive || self.servers[path].gone {
            return;
        }
        let there = taken && self.servers[dial.rank].alive;
        let result =
            if there { Ok(self.net().add(dial.rank, path)) } else { Err(FailureKind::Refused) };
        self.broker.borrow_mut().dialed(id, result);
    }

    /// The round trip to a server, by this path, if it answers.
    pub fn measure(&mut self, server: Rank, path: Rank, patience: Duration) -> Option<Duration> {
        let up = |world: &World, at: Rank| {
            let host = &world.servers[at];
            host.alive && !host.gone && host.asleep_until <= world.now
        };
        if !up(self, path) || !up(self, server) || !self.net().is_up(self.now, path) {
            return None;
        }
        let there = self.net().delay(self.now, path);
        let back = self.net().delay(self.now, path);
        let more = if path == server { Duration::ZERO } else { Duration::from_millis(10) };
        Some(there + back + more).filter(|trip| *trip < patience)
    }

    /// A spare link of the broker's ended, or its server spoke unasked.
    pub fn drop_spare(&mut self, conn: ConnId) {
        self.broker.borrow_mut().lose_spare(conn);
    }
}
