//! What must hold after every step, and how sessions may end.

use stp_proto::role::Dialing;
use stp_proto::session::{ClosedWhy, Event, Session, code};
use stp_proto::state::State;
use stp_proto::time::Instant;

use crate::drive::End;
use crate::near::Near;
use crate::plan::{Kind, Replica, Work};
use crate::world::{Who, World};

/// Faults are over: sessions must be over after this time.
pub const PATIENCE_S: u64 = 6 * 3600;
/// Servers keep what nobody ends for the hold time.
pub const HOLD_S: u64 = 80 * 3600;

/// What is remembered of an end from one step to the next.
#[derive(Default)]
pub struct Watch {
    pub frames: u64,
    /// Received when it was suspended.
    halted: Option<u64>,
    /// The server of the newest ticket, and what that covers.
    ticket: Option<(stp_proto::handle::Handle, u64)>,
    received: u64,
    /// A record came after the first.
    pub heard: bool,
}

impl Watch {
    /// Tickets come in order, and cover what was sent.
    pub fn event(&mut self, session: &Session, event: &Event) {
        if let Event::TicketStored { covers, .. } = event {
            let server = session.handles().1;
            let last = self.ticket.filter(|(same, _)| *same == server);
            assert!(last.is_none_or(|(_, last)| *covers >= last), "tickets in order");
            assert!(*covers <= session.positions().max, "a ticket covers what was sent");
            self.ticket = Some((server, *covers));
        }
    }
}

impl World {
    /// What holds for one end whenever it rests.
    pub fn check_end(&mut self, who: Who, end: &mut End) {
        let session = &end.session;
        let p = session.positions();
        let limits = session.limits();
        assert!(p.delivered <= p.received && p.acked <= p.received, "{who:?}: {p:?}");
        assert!(p.received >= end.watch.received, "{who:?} received less than before");
        end.watch.received = p.received;
        let (send, receive) = session.buffered();
        assert!(send <= limits.send_buffer_max, "{who:?} keeps {send} bytes to be sent");
        assert!(receive <= limits.receive_buffer_max, "{who:?} keeps {receive} received bytes");
        let spares = 2 * limits.chunk.max(2048) * 24;
        let most = 2 * (limits.send_buffer_max + limits.receive_buffer_max) + spares;
        assert!(session.memory() <= most, "{who:?} holds {} bytes", session.memory());
        assert!(session.link().is_some() || session.state() != State::Active);
        // R65: the initiator may have one beside the attached one.
        let most = if session.role().dialing == Dialing::Dialer { 2 } else { 1 };
        assert!(end.links.len() <= most, "{who:?} holds links {:?}", end.links);
        if session.state() == State::Suspended {
            let received = *end.watch.halted.get_or_insert(p.received);
            assert_eq!(received, p.received, "{who:?} is suspended and receives");
            assert!(end.links.is_empty(), "{who:?} is suspended and has a link");
        } else {
            end.watch.halted = None;
        }
        if let Some(text) = end.near.violation() {
            panic!("{who:?}: {text}");
        }
        if session.state() == State::Closed {
            return;
        }
        assert!(p.una <= p.nxt && p.nxt <= p.max && p.max <= p.end, "{who:?}: {p:?}");
        assert!(p.una <= p.heard && p.heard <= p.max, "{who:?}: {p:?}");
        assert!(p.received <= p.told, "{who:?}: {p:?}");
        if session.role().dialing == Dialing::Listener {
            assert_ne!(session.state(), State::SentResume);
        }
    }

    /// What holds between the two ends of a session.
    pub fn check_pair(&mut self, number: u64) {
        let Some(broker) = &self.broker.seat(number).end else { return };
        let handles = broker.session.handles();
        let (b, cuts) = (broker.session.positions(), *broker.session.cuts());
        if broker.session.state() == State::Closed {
            return;
        }
        let ends = self.servers.iter().flat_map(|server| server.ends.values().flatten());
        let mut same = ends.filter(|end| end.session.handles() == handles);
        let Some(server) = same.next() else { return };
        assert!(same.next().is_none(), "two servers hold session {handles:?}");
        if server.session.state() == State::Closed {
            return;
        }
        let s = server.session.positions();
        let told = b.received <= s.max && s.received <= b.max;
        let freed = b.una <= s.received && s.una <= b.received;
        let heard = b.heard <= s.received && s.heard <= b.received;
        assert!(told && freed && heard, "the ends disagree: {b:?} and {s:?}");
        let (acked, pending) = cuts.offer();
        let shared = server.session.cuts().common(acked, pending);
        assert!(shared.is_some(), "no shared cut: {cuts:?} and {:?}", server.session.cuts());
    }

    /// A session has ended: in its goal, or as the rules allow.
    pub fn check_outcome(&mut self, number: u64, end: &End) {
        let Near::App(app) = &end.near else { panic!("a broker's near side is an app") };
        let seat = self.broker.seat(number);
        seat.over = true;
        seat.goal = app.reached_goal();
        let (facts, work) = (seat.facts.clone(), seat.work);
        let goal = seat.goal;
        let p = end.session.positions();
        self.counts.bytes += p.delivered + p.end;
        if goal {
            self.counts.goals += 1;
        } else {
            self.counts.resets += 1;
        }
        let all = app.has_all();
        let outcome = format!(
            "session {number} ({work:?}) ended {:?}, gave up {:?}, told {:?}; {}; {facts:?}",
            end.closed,
            end.gave_up,
            end.shut,
            app.progress()
        );
        self.say(|_| outcome.clone());
        let short = app.hung_up && self.may_be_cut_short(number);
        let left = facts.app_aborted || facts.app_quit || short;
        let established = end.session.is_established();
        let allowed = match end.closed {
            _ if goal => true,
            _ if facts.gave_up.is_some() => self.may_give_up(number, established),
            Some(ClosedWhy::Clean) => left || all || self.may_be_cut_short(number),
            None => false,
            Some(ClosedWhy::ResetHere { code } | ClosedWhy::ResetByPeer { code }) => {
                let here = matches!(end.closed, Some(ClosedWhy::ResetHere { .. }));
                match code {
                    code::NEAR_RESET if here => facts.app_aborted,
                    code::NEAR_RESET => self.may_be_cut_short(number),
                    code::NEAR_GONE => here && (left || all),
                    code::HOLD => self.short_hold() || facts.unheard,
                    _ => false,
                }
            }
        };
        assert!(allowed, "{outcome}");
        assert!(goal || left || !self.must_succeed(number, established), "{outcome}");
    }

    fn short_hold(&self) -> bool {
        let default = stp_proto::session::Limits::default().hold;
        self.plan.broker.hold < default || self.plan.server.hold < default
    }

    /// The broker may say that no server can take it.
    fn may_give_up(&mut self, number: u64, established: bool) -> bool {
        let many = self.servers.len() > 1;
        let origin = self.plan.has(Kind::Origin);
        let short = self.short_hold();
        let seat = self.broker.seat(number);
        let facts = &seat.facts;
        match seat.work {
            _ if !established || short => true,
            Work::Tcp => facts_deaths(facts.deaths),
            Work::Http { .. } => facts_deaths(facts.deaths) || many || origin,
        }
    }

    /// The service may have ended it before the app had everything.
    fn may_be_cut_short(&mut self, number: u64) -> bool {
        let many = self.servers.len() > 1;
        let origin = self.servers.iter().any(|server| server.origin.troubles.get() > 0);
        let seat = self.broker.seat(number);
        match seat.work {
            Work::Tcp => false,
            Work::Http { .. } if origin => true,
            Work::Http { safe } => !safe && (facts_deaths(seat.facts.deaths) || many),
        }
    }

    /// Nothing that happened is an excuse.
    fn must_succeed(&mut self, number: u64, established: bool) -> bool {
        let expires = self.plan.ticket_life.as_secs() < 3600 || self.plan.has(Kind::Clock);
        let right = self.plan.replicas.iter().all(|replica| *replica == Replica::Right);
        let origin = self.servers.iter().any(|server| server.origin.troubles.get() > 0);
        let many = self.servers.len() > 1;
        let unheard = self.broker.seat(number).facts.unheard;
        if unheard || self.short_hold() || self.plan.has(Kind::Origin) || origin {
            return false;
        }
        let seat = self.broker.seat(number);
        if !established && (seat.facts.unreachable || !self.plan.faults.is_empty()) {
            return false;
        }
        let seat = self.broker.seat(number);
        let died = seat.facts.deaths > 0;
        match seat.work {
            Work::Tcp => !died,
            Work::Http { safe: true } => (right && !expires) || (!died && !many),
            Work::Http { safe: false } => !died && !many,
        }
    }

    /// Whether every app's session is over.
    pub fn all_over(&self) -> bool {
        self.broker.seats.iter().all(|seat| seat.over)
    }

    /// Runs a seed to its end.
    pub fn run(&mut self) {
        let mut deadline: Option<Instant> = None;
        while !(self.mended && self.all_over()) {
            assert!(self.step(), "nothing happens any more: {}", self.hanging());
            if self.mended {
                let deadline =
                    *deadline.get_or_insert(Instant(self.now.0 + PATIENCE_S * 1_000_000));
                assert!(self.now < deadline, "sessions hang: {}", self.hanging());
            }
            assert!(self.counts.steps < 3_000_000, "too many steps: {}", self.hanging());
        }
        self.counts.virtual_time = core::time::Duration::from_micros(self.now.0);
        if let Some(names) = &self.names {
            self.counts.answers = names.directory.answers;
            self.counts.lapses = names.directory.lapses;
        }
        let deadline = Instant(self.now.0 + HOLD_S * 1_000_000);
        while self.servers.iter().any(|server| !server.ends.is_empty()) {
            assert!(self.step() && self.now < deadline, "a server keeps: {}", self.hanging());
            assert!(self.counts.steps < 3_000_000, "too many steps: {}", self.hanging());
        }
    }

    fn hanging(&self) -> String {
        let mut text = String::new();
        for (number, seat) in self.broker.seats.iter().enumerate().filter(|(_, seat)| !seat.over) {
            let Some(end) = &seat.end else { continue };
            let Near::App(app) = &end.near else { continue };
            text += &format!(
                "{:?} searches {} {:?} {}, {:?}; ",
                seat.work,
                self.broker.searches(number),
                end.session.state(),
                app.progress(),
                end.session.positions()
            );
        }
        for (number, server) in self.servers.iter().enumerate() {
            for end in server.ends.values().flatten() {
                text += &format!(
                    "server {number}: {:?} {:?} closed {:?} undelivered {}; ",
                    end.session.state(),
                    end.session.positions(),
                    end.closed,
                    end.session.undelivered()
                );
            }
        }
        text
    }
}

fn facts_deaths(deaths: u32) -> bool {
    deaths > 0
}
