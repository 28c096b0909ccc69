//! What must hold after every step, and how sessions may end.

use stp_proto::role::Dialing;
use stp_proto::session::{ClosedWhy, Event, Session, code};
use stp_proto::state::State;
use stp_proto::time::Instant;

use crate::ends::End;
use crate::net::SERVER;
use crate::plan::{Kind, Replica, Work};
use crate::world::{Who, World};

/// When faults are over, sessions must end within this time.
pub const PATIENCE_S: u64 = 6 * 3600;
/// Servers keep sessions that no broker ends for the hold time.
pub const HOLD_S: u64 = 80 * 3600;

/// What the checker remembers of an end from one step to the next.
#[derive(Default)]
pub struct Watch {
    /// Received when it was suspended.
    halted: Option<u64>,
    received: u64,
    /// A record came after the first.
    pub heard: bool,
}

/// The tickets that a session was given.
#[derive(Default)]
pub struct Tickets {
    /// The server of the newest one, and what that covers.
    newest: Option<(stp_proto::handle::Handle, u64)>,
    /// What any of them covers.
    covered: u64,
    /// Nothing needs a ticket any more (R60): the server's end has come, or the newest one says
    /// that no other server could go on.
    released: bool,
}

impl Tickets {
    /// Tickets come in order, and cover what was sent.
    pub fn event(&mut self, session: &Session, event: &Event) {
        self.released |= matches!(event, Event::EndReceived);
        if let Event::TicketStored { covers, transferable } = event {
            self.released |= !transferable;
            let server = session.handles().1;
            let last = self.newest.filter(|(same, _)| *same == server);
            assert!(last.is_none_or(|(_, last)| *covers >= last), "tickets in order");
            assert!(*covers <= session.positions().max, "a ticket covers what was sent");
            self.newest = Some((server, *covers));
            self.covered = self.covered.max(*covers);
        }
    }

    /// A request that may be repeated is kept until a ticket covers it.
    pub fn check_freed(&self, freed: u64) {
        let covered = self.covered;
        let allowed = self.released || freed <= covered;
        assert!(allowed, "byte {freed} is freed, tickets cover {covered}");
    }
}

impl End {
    fn check_freed(&mut self) {
        if self.driver.session().state() != State::Closed {
            let freed = self.driver.session().positions().una;
            self.driver.far().tickets.check_freed(freed);
        }
    }
}

impl World {
    /// What must hold for one end whenever it is at rest.
    pub fn check_end(&mut self, who: Who, end: &mut End) {
        if let Some(text) = end.driver.near().violation() {
            panic!("{who:?}: {text}");
        }
        let links = end.driver.links();
        if let Who::Broker(number) = who
            && self.broker().seat(number).work == (Work::Http { safe: true })
        {
            end.check_freed();
        }
        let session = end.driver.session();
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
        assert!(links <= most, "{who:?} holds {links} links");
        if session.state() == State::Suspended {
            let received = *end.watch.halted.get_or_insert(p.received);
            assert_eq!(received, p.received, "{who:?} is suspended and receives");
            assert_eq!(links, 0, "{who:?} is suspended and has a link");
        } else {
            end.watch.halted = None;
        }
        if session.state() == State::Closed {
            return;
        }
        assert!(p.una <= p.nxt && p.nxt <= p.max && p.max <= p.end, "{who:?}: {p:?}");
        assert!(p.end - p.max <= limits.ahead_max as u64, "{who:?} reads ahead: {p:?}");
        assert!(p.una <= p.heard && p.heard <= p.max, "{who:?}: {p:?}");
        assert!(p.received <= p.told, "{who:?}: {p:?}");
        if session.role().dialing == Dialing::Listener {
            assert_ne!(session.state(), State::SentResume);
        }
    }

    /// What must hold between the two ends of a session.
    pub fn check_pair(&mut self, number: u64) {
        let Some(broker) = self.end(Who::Broker(number)) else { return };
        let broker = broker.session();
        let handles = broker.handles();
        let (b, cuts) = (broker.positions(), *broker.cuts());
        if broker.state() == State::Closed {
            return;
        }
        let ends = self.ends.iter().filter(|(who, _)| who.side() == SERVER);
        let sessions = ends.filter_map(|(_, end)| end.as_ref().map(End::session));
        let mut same = sessions.filter(|session| session.handles() == handles);
        let Some(server) = same.next() else { return };
        assert!(same.next().is_none(), "two servers hold session {handles:?}");
        if server.state() == State::Closed {
            return;
        }
        let s = server.positions();
        let told = b.received <= s.max && s.received <= b.max;
        let freed = b.una <= s.received && s.una <= b.received;
        let heard = b.heard <= s.received && s.heard <= b.received;
        assert!(told && freed && heard, "the ends disagree: {b:?} and {s:?}");
        let (acked, pending) = cuts.offer();
        let shared = server.cuts().common(acked, pending);
        assert!(shared.is_some(), "no shared cut: {cuts:?} and {:?}", server.cuts());
    }

    /// A session has ended: in its goal, or as the rules allow.
    pub fn check_outcome(&mut self, number: u64, mut end: End) {
        let closed = end.closed();
        let established = end.session().is_established();
        let p = end.session().positions();
        let app = end.driver.near().app().expect("a broker's near side is an app");
        if let Some(text) = app.violation.take() {
            panic!("session {number}: {text}");
        }
        let goal = app.reached_goal();
        let (facts, work) = {
            let mut broker = self.broker();
            let seat = broker.seat(number);
            (seat.over, seat.goal) = (true, goal);
            (seat.facts.clone(), seat.work)
        };
        self.counts.bytes += p.delivered + p.end;
        if goal {
            self.counts.goals += 1;
        } else {
            self.counts.resets += 1;
        }
        let all = app.has_all();
        let outcome = format!(
            "session {number} ({work:?}) ended {closed:?}, told {:?}; {}; {facts:?}",
            app.shut,
            app.progress()
        );
        let hung_up = app.hung_up;
        self.say(|_| outcome.clone());
        let short = hung_up && self.may_be_cut_short(number);
        let left = facts.app_aborted || facts.app_quit || short;
        let allowed = match closed {
            _ if goal => true,
            _ if facts.gave_up.is_some() => self.may_give_up(number, established),
            Some(ClosedWhy::Clean) => left || all || self.may_be_cut_short(number),
            None => false,
            Some(ClosedWhy::ResetHere { code } | ClosedWhy::ResetByPeer { code }) => {
                let here = matches!(closed, Some(ClosedWhy::ResetHere { .. }));
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
        let mut broker = self.broker();
        let seat = broker.seat(number);
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
        let mut broker = self.broker();
        let seat = broker.seat(number);
        match seat.work {
            Work::Tcp => false,
            Work::Http { .. } if origin => true,
            Work::Http { safe } => !safe && (facts_deaths(seat.facts.deaths) || many),
        }
    }

    /// Fails, because nothing that happened can explain this end.
    fn must_succeed(&mut self, number: u64, established: bool) -> bool {
        let expires = self.plan.ticket_life.as_secs() < 3600 || self.plan.has(Kind::Clock);
        let right = self.plan.replicas.iter().all(|replica| *replica == Replica::Right);
        let origin = self.servers.iter().any(|server| server.origin.troubles.get() > 0);
        let many = self.servers.len() > 1;
        let (facts, work) = {
            let mut broker = self.broker();
            let seat = broker.seat(number);
            (seat.facts.clone(), seat.work)
        };
        let unheard = facts.unheard;
        if unheard || self.short_hold() || self.plan.has(Kind::Origin) || origin {
            return false;
        }
        if !established && (facts.unreachable || !self.plan.faults.is_empty()) {
            return false;
        }
        let died = facts.deaths > 0;
        match work {
            Work::Tcp => !died,
            Work::Http { safe: true } => (right && !expires) || (!died && !many),
            Work::Http { safe: false } => !died && !many,
        }
    }

    /// Whether every app's session is over.
    pub fn all_over(&self) -> bool {
        self.broker.borrow().seats.iter().all(|seat| seat.over)
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
        (self.counts.decided, self.counts.cooled, self.counts.led) = {
            let broker = self.broker();
            (broker.decided, broker.cooled, broker.led)
        };
        self.counts.virtual_time = core::time::Duration::from_micros(self.now.0);
        if let Some(names) = &self.names {
            self.counts.answers = names.directory.answers;
            self.counts.lapses = names.directory.lapses;
        }
        let deadline = Instant(self.now.0 + HOLD_S * 1_000_000);
        while !self.ends.is_empty() {
            assert!(self.step() && self.now < deadline, "a server keeps: {}", self.hanging());
            assert!(self.counts.steps < 3_000_000, "too many steps: {}", self.hanging());
        }
    }

    fn hanging(&mut self) -> String {
        let mut text = String::new();
        let all: Vec<Who> = self.ends.keys().copied().collect();
        for who in all {
            let looking = match who {
                Who::Broker(number) => self.broker().seat(number).looking.describe(),
                Who::Server(..) => "",
            };
            let Some(end) = self.end_mut(who) else { continue };
            let progress = end.driver.near().app().map(|app| app.progress());
            let (closed, session) = (end.closed(), end.session());
            text += &format!(
                "{who:?} {looking} {:?} {progress:?} closed {closed:?} undelivered {} {:?}; ",
                session.state(),
                session.undelivered(),
                session.positions(),
            );
        }
        text
    }
}

fn facts_deaths(deaths: u32) -> bool {
    deaths > 0
}
