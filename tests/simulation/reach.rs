//! The way to a server: dials, the prober, and links kept ready (`broker/src/reach.rs`).

use std::net::SocketAddr;
use std::time::Duration;

use stp_proto::select::Rank;
use stp_proto::time::Instant;

use crate::broker::Seat;
use crate::net::{BROKER, ConnId, Owner};
use crate::search::Search;
use crate::world::{Ev, World};

const PROBE_EVERY: Duration = Duration::from_millis(250);
const PROBE_EVERY_MAX: Duration = Duration::from_secs(5);
const OUTAGE_OLD: Duration = Duration::from_secs(600);
const PROBES_MAX: usize = 40;
const SILENCE: Duration = Duration::from_millis(500);
const DIAL_MAX: Duration = Duration::from_secs(10);
const WARM_AGE: Duration = Duration::from_secs(60);
const KEPT_MAX: usize = 16;

/// How a server is out of reach: refusing or silent, and since when.
#[derive(Copy, Clone, PartialEq, Eq, Debug)]
pub struct Away {
    pub refuses: bool,
    pub since: Instant,
    pub away_since: Instant,
}

/// The way to one server.
pub struct Reach {
    /// Where the server is, as far as the broker knows.
    pub address: Option<SocketAddr>,
    pub away: Option<Away>,
    pub was_reached: bool,
    pub warm: Vec<(ConnId, Instant)>,
    pub attempts: Vec<u64>,
    pub probing: bool,
}

/// A dial under way.
pub struct Attempting {
    pub id: u64,
    pub rank: Rank,
    /// Where it leads to.
    pub to: Option<SocketAddr>,
    /// The broker's own address.
    pub address: u32,
    pub begun: Instant,
}

impl World {
    /// A session waits for a link to a server.
    pub fn ask(&mut self, rank: Rank) {
        let reach = &self.broker.reaches[rank];
        if !reach.warm.is_empty() {
            return;
        }
        if reach.away.is_none() {
            self.begin_dial(rank);
        } else {
            self.start_prober(rank);
        }
    }

    pub fn begin_dial(&mut self, rank: Rank) {
        self.broker.next_dial += 1;
        let id = self.broker.next_dial;
        let address = self.net.address;
        let to = self.broker.reaches[rank].address;
        self.broker.reaches[rank].attempts.push(id);
        self.broker.dials.push(Attempting { id, rank, to, address, begun: self.now });
        if self.net.is_up(self.now, rank) {
            let delay = self.net.delay(self.now, rank);
            self.after(delay, Ev::Syn(id));
        }
        self.after(SILENCE, Ev::Silent(id));
        self.after(DIAL_MAX, Ev::Silent(id));
    }

    pub fn attempt(&self, id: u64) -> Option<&Attempting> {
        self.broker.dials.iter().find(|dial| dial.id == id)
    }

    /// The attempt reaches the server's machine.
    pub fn syn(&mut self, id: u64) {
        let Some(&Attempting { rank, to, address, .. }) = self.attempt(id) else { return };
        let server = &self.servers[rank];
        let lost = !self.net.is_up(self.now, rank)
            || !self.is_known(rank, to)
            || address != self.net.address
            || server.asleep_until > self.now
            || server.gone;
        if lost {
            return;
        }
        let taken = server.alive;
        let mut delay = self.net.delay(self.now, rank);
        if taken {
            // TLS: one more round trip.
            delay += self.net.delay(self.now, rank) + self.net.delay(self.now, rank);
        }
        self.after(delay, Ev::Dialed(id, taken));
    }

    pub fn dialed(&mut self, id: u64, taken: bool) {
        let Some(&Attempting { rank, to, address, .. }) = self.attempt(id) else { return };
        let lost = !self.net.is_up(self.now, rank) || !self.is_known(rank, to);
        if lost || address != self.net.address {
            return;
        }
        if taken != self.servers[rank].alive || self.servers[rank].gone {
            return;
        }
        self.forget_dial(id);
        if !taken {
            return self.dial_failed(rank, true);
        }
        let conn = self.net.add(rank);
        self.broker.reaches[rank].warm.push((conn, self.now));
        self.broker.reaches[rank].was_reached = true;
        self.broker.reaches[rank].away = None;
        self.news();
    }

    /// A server is somewhere else: what leads to where it was is of no use.
    pub fn path_changed(&mut self, rank: Rank) {
        let warm = std::mem::take(&mut self.broker.reaches[rank].warm);
        warm.into_iter().for_each(|(conn, _)| self.close(conn, BROKER, false));
        self.broker.reaches[rank].attempts.clear();
        self.broker.dials.retain(|dial| dial.rank != rank);
        self.news();
    }

    pub fn forget_dial(&mut self, id: u64) {
        self.broker.dials.retain(|dial| dial.id != id);
        self.broker.reaches.iter_mut().for_each(|reach| reach.attempts.retain(|a| *a != id));
    }

    /// The attempt has not been answered for some time.
    pub fn silent(&mut self, id: u64) {
        let Some(&Attempting { rank, begun, .. }) = self.attempt(id) else { return };
        if self.now - begun >= DIAL_MAX {
            self.forget_dial(id);
        }
        self.dial_failed(rank, false);
    }

    pub fn dial_failed(&mut self, rank: Rank, refuses: bool) {
        let now = self.now;
        if refuses {
            let warm = std::mem::take(&mut self.broker.reaches[rank].warm);
            warm.into_iter().for_each(|(conn, _)| self.close(conn, BROKER, false));
        }
        let reach = &mut self.broker.reaches[rank];
        let same = reach.away.filter(|away| away.refuses == refuses);
        let since = same.map_or(now, |away| away.since);
        let away_since = reach.away.map_or(now, |away| away.away_since);
        reach.away = Some(Away { refuses, since, away_since });
        for seat in &mut self.broker.seats {
            seat.facts.unreachable |= !seat.over;
        }
        self.start_prober(rank);
        if same.is_none() {
            self.news();
        }
    }

    pub fn start_prober(&mut self, rank: Rank) {
        if !std::mem::replace(&mut self.broker.reaches[rank].probing, true) {
            self.after(PROBE_EVERY / 4, Ev::Probe(rank));
        }
    }

    /// Tries again, as long as a session waits and the server is out of reach.
    pub fn probe(&mut self, rank: Rank) {
        let waits = |seat: &Seat| {
            let asked = |search: &Search| search.asked.iter().any(|(asked, _)| *asked == rank);
            seat.search.as_ref().is_some_and(asked)
        };
        let wanted = self.broker.seats.iter().any(waits);
        let reach = &mut self.broker.reaches[rank];
        let Some(away) = reach.away.filter(|_| wanted) else {
            reach.probing = false;
            return;
        };
        let age = self.now - away.away_since;
        let past = age.saturating_sub(OUTAGE_OLD).as_secs_f64() / OUTAGE_OLD.as_secs_f64();
        let pause = PROBE_EVERY.mul_f64((1.0 + 20.0 * past).min(20.0)).min(PROBE_EVERY_MAX);
        if reach.attempts.len() < PROBES_MAX {
            self.begin_dial(rank);
        }
        self.after(pause, Ev::Probe(rank));
    }

    /// Every search looks again.
    pub fn news(&mut self) {
        for number in 0..self.broker.seats.len() as u64 {
            if self.broker.seat(number).search.is_some() {
                self.at(self.now, Ev::Search(number));
            }
        }
    }

    pub fn take_warm(&mut self, rank: Rank) -> Option<ConnId> {
        while let Some((conn, since)) = self.broker.reaches[rank].warm.pop() {
            let lives = self.net.conns.get(&conn).is_some_and(|c| c.owner[BROKER] == Owner::Spare);
            if lives && self.now - since < WARM_AGE {
                assert_eq!(self.net.conns[&conn].server, rank, "a link leads to another server");
                for _ in self.broker.reaches[rank].warm.len()..self.plan.warm {
                    if self.broker.reaches[rank].away.is_none() {
                        self.begin_dial(rank);
                    }
                }
                return Some(conn);
            }
            self.close(conn, BROKER, false);
        }
        None
    }

    /// A link that a session gave back: for those at the server it leads to. That is not always the
    /// session's own, as seed 97,533 showed: an attempt at another may have ended before it attached.
    pub fn keep_for(&mut self, conn: ConnId) {
        let Some(known) = self.net.conns.get(&conn) else { return };
        let (rank, address) = (known.server, known.address);
        let warm = &mut self.broker.reaches[rank].warm;
        if warm.len() < KEPT_MAX && address == self.net.address {
            warm.push((conn, self.now));
            self.news();
        } else {
            self.close(conn, BROKER, false);
        }
    }

    /// A spare link ended, or its server spoke unasked.
    pub fn drop_spare(&mut self, conn: ConnId) {
        for reach in &mut self.broker.reaches {
            reach.warm.retain(|(other, _)| *other != conn);
        }
        for seat in &mut self.broker.seats {
            if let Some(search) = &mut seat.search {
                search.answered = search.answered.filter(|(_, other, ..)| *other != conn);
            }
        }
        self.close(conn, BROKER, false);
        self.news();
    }
}
