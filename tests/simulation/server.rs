//! A server around its sessions. The shipped roster decides what to do with a first frame, and
//! sessions have the shipped far side. Simulated are the daemon that carries out the decisions, and
//! the opening of a service (`server/src/{listener,open}.rs`).

use std::cell::{Cell, RefCell};
use std::collections::BTreeMap;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use stp_drive::{Command, FIRST_LINK, Start};
use stp_proto::handle::Handle;
use stp_proto::replay::http::{Ask, Exchange};
use stp_proto::roster::{Calls, Roster};
use stp_proto::session::{ClosedWhy, Session, StartAt, code};
use stp_proto::state::State;
use stp_proto::ticket::Holder;
use stp_proto::time::Instant;
use stp_proto::wire::{
    Connect, ConnectMode, DenyReason, First, PrepareRequest, encode_connect_denied, encode_done,
    encode_resume_denied, first_frame,
};

use stp_server::denial::Denial;
use stp_server::ticket::Seal;

use crate::ends::{End, Woken};
use crate::far::{AtServer, Far};
use crate::link::SimLink;
use crate::near::{Kind, NearSide, Tcp};
use crate::net::{ConnId, Owner, SERVER};
use crate::origin::{Ledger, Origin};
use crate::plan::Plan;
use crate::random::Random;
use crate::service::{Connections, EPOCH_S, Mint, SimJoin, SimTakeover};
use crate::work::Script;
use crate::world::{Ev, Who, World};

/// A service that is open, where the session begins, and whether acknowledgements wait.
type Opened = (Kind, StartAt, bool);

const RETRY_AFTER: Duration = Duration::from_secs(5);

/// Connections whose CONNECT waits until a service is open.
type Waiting = Vec<(ConnId, Vec<u8>)>;

/// The sessions of a server, by the handles of their brokers and with their numbers.
pub type Shared = Rc<RefCell<Roster<Handle, u64, Waiting>>>;

/// A server.
pub struct Server {
    pub origin: Rc<Origin>,
    roster: Shared,
    /// Services that are being opened, by the connection of their CONNECT.
    opening: BTreeMap<ConnId, (SimTakeover, Connections)>,
    /// Responses of sessions elsewhere that are followed, by their brokers' handles.
    followed: BTreeMap<Handle, (SimJoin, Connections)>,
    next: u64,
    /// The process runs.
    pub alive: bool,
    /// The machine answers to nothing.
    pub gone: bool,
    pub generation: u32,
    pub asleep_until: Instant,
    pub full_until: Instant,
    /// The time of day by its clock when the simulation began.
    pub clock: Rc<Cell<u64>>,
}

impl Server {
    pub fn all(plan: &Plan, random: &mut Random, ledger: &Rc<RefCell<Ledger>>) -> Vec<Server> {
        let files: Vec<u64> = (0..4).map(|_| random.scale(1, plan.size)).collect();
        let content = random.below(1000);
        let server = |(name, replica): (usize, &crate::plan::Replica)| {
            let origin = Origin {
                name,
                replica: *replica,
                validator: plan.validator,
                content,
                files: RefCell::new(files.clone()),
                pace: plan.origin,
                keepalive: plan.keepalive,
                ledger: Rc::clone(ledger),
                down_until: Cell::default(),
                breaks: Cell::default(),
                troubles: Cell::default(),
                read_ahead: RefCell::default(),
                answers: Cell::default(),
                random: RefCell::new(Random::new(random.next())),
            };
            Server {
                origin: Rc::new(origin),
                roster: Shared::default(),
                opening: BTreeMap::new(),
                followed: BTreeMap::new(),
                next: 0,
                alive: true,
                gone: false,
                generation: 0,
                asleep_until: Instant::default(),
                full_until: Instant::default(),
                clock: Rc::new(Cell::new(EPOCH_S)),
            }
        };
        plan.replicas.iter().enumerate().map(server).collect()
    }

    /// Dies: nothing of its memory is left.
    pub fn die(&mut self) {
        self.roster = Shared::default();
        self.opening.clear();
        self.followed.clear();
        self.alive = false;
        self.generation += 1;
    }
}

impl World {
    /// The first frame of a link.
    pub fn dispatch(&mut self, server: usize, conn: ConnId, record: Vec<u8>) {
        match first_frame(&record) {
            Ok(First::Connect(connect)) => {
                let handle = connect.handle;
                if let ConnectMode::Prepare(request) = &connect.mode {
                    self.prepare(server, &connect, request);
                    return self.net().close(conn, SERVER, false);
                }
                let new = connect.mode == ConnectMode::New;
                self.connect(server, conn, handle, new, &record);
            }
            Ok(First::Resume(resume)) => {
                let roster = Rc::clone(&self.servers[server].roster);
                let found = roster
                    .borrow()
                    .resume(&resume.initiator, resume.acceptor, resume.epoch)
                    .copied();
                match found {
                    Ok(number) => self.attach(Who::Server(server, number), conn, record),
                    Err((seen, why)) => {
                        self.say(|_| format!("server {server} denies: {why}"));
                        let mut frame = Vec::new();
                        encode_resume_denied(seen, why, &mut frame);
                        self.answer(conn, &frame);
                    }
                }
            }
            Ok(First::Reset(reset)) => {
                let roster = Rc::clone(&self.servers[server].roster);
                let found = roster.borrow().reset(&reset.initiator, reset.acceptor).copied();
                if let Some(number) = found {
                    let abort = Command::Abort { code: reset.code };
                    self.tell_end(Who::Server(server, number), abort);
                }
                let mut frame = Vec::new();
                encode_done(&mut frame);
                self.answer(conn, &frame);
            }
            Err(error) => panic!("server {server}: a link begins with {error}: {record:?}"),
        }
    }

    /// R69: reads ahead what a session receives elsewhere. That a file's digests are kept from
    /// then on is noted at the origin; comparing takes no time here anyway.
    fn prepare(&mut self, server: usize, connect: &Connect<'_>, request: &PrepareRequest<'_>) {
        let (mint, connections) = self.http(server, connect);
        let Ok(claims) = mint.open(request.ticket, request.down, 0) else { return };
        let Some(exchange) = claims.exchange.http() else { return };
        let Exchange::Response { request: head, .. } = exchange else { return };
        self.servers[server].origin.read_ahead.borrow_mut().push(head.clone());
        let have = claims.exchange.received(request.down);
        let Some(ask) = Ask::follow(exchange, have, self.plan.policy) else { return };
        let (now, handle, here) = (self.now, connect.handle, &mut self.servers[server]);
        let known = here.followed.get_mut(&handle);
        if !known.is_some_and(|(join, _)| join.went_on(now, &ask)) {
            let join = SimJoin::follow(now, &connections, ask);
            here.followed.insert(handle, (join, connections));
        }
        let generation = here.generation;
        self.read_along(server, generation, handle);
    }

    /// Reads of a response that is followed what is there.
    pub fn read_along(&mut self, server: usize, generation: u32, handle: Handle) {
        let (now, here) = (self.now, &mut self.servers[server]);
        if here.generation != generation {
            return;
        }
        let Some((join, connections)) = here.followed.get_mut(&handle) else { return };
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut cx = Context::from_waker(&waker);
        loop {
            if join.poll(now, &mut cx).is_ready() {
                here.followed.remove(&handle);
                return;
            }
            if !woken.take() {
                break;
            }
        }
        let soon = now + Duration::from_millis(100);
        let due = [join.due()].into_iter().chain(connections.due()).min();
        let at = due.unwrap_or(soon).max(soon);
        self.at(at, Ev::ReadAlong(server, generation, handle));
    }

    fn answer(&mut self, conn: ConnId, frame: &[u8]) {
        let mut net = self.net();
        net.send(conn, SERVER, frame);
        net.close(conn, SERVER, false);
    }

    /// Hands a link to a session that runs.
    fn attach(&mut self, who: Who, conn: ConnId, record: Vec<u8>) {
        let Who::Server(_, number) = who else { return };
        let link = Box::new(SimLink::new(&self.wire(), conn, SERVER, number));
        self.tell_end(who, Command::Attach { link, record });
    }

    fn connect(&mut self, server: usize, conn: ConnId, handle: Handle, new: bool, record: &[u8]) {
        self.net().give(conn, SERVER, Owner::Parked);
        let roster = Rc::clone(&self.servers[server].roster);
        let mut roster = roster.borrow_mut();
        match roster.connect(&handle, new) {
            Calls::Wait(waiting) => return waiting.push((conn, record.to_vec())),
            Calls::Attach(number) => {
                let who = Who::Server(server, *number);
                drop(roster);
                return self.attach(who, conn, record.to_vec());
            }
            Calls::Open { free: true } => drop(roster.reserve(handle, Waiting::new())),
            Calls::Open { free: false } => {}
        }
        drop(roster);
        let pause =
            if self.random.one_in(2) { self.random.millis(1, 2_000) } else { Duration::ZERO };
        let generation = self.servers[server].generation;
        self.after(pause, Ev::Open(server, generation, conn, record.to_vec()));
    }

    /// The service of a session is being opened.
    pub fn open(&mut self, server: usize, generation: u32, conn: ConnId, record: &[u8]) {
        if self.servers[server].generation != generation {
            return;
        }
        let Ok(First::Connect(connect)) = first_frame(record) else { return };
        let handle = connect.handle;
        let opened = match self.open_service(server, conn, &connect) {
            Poll::Ready(opened) => opened,
            Poll::Pending => {
                let next = self.servers[server].opening.get(&conn);
                let due = next.and_then(|(takeover, connections)| {
                    takeover.due().into_iter().chain(connections.due()).min()
                });
                let soon = self.now + Duration::from_millis(1);
                let at = due.unwrap_or(soon).max(soon);
                return self.at(at, Ev::Open(server, generation, conn, record.to_vec()));
            }
        };
        self.servers[server].opening.remove(&conn);
        let waiting = match opened {
            Ok(opened) => self.accept(server, conn, &connect, opened),
            Err(Denial { why, text, .. }) => {
                self.say(|_| format!("server {server} refuses: {why}, {text}"));
                let busy = why == DenyReason::Overloaded;
                self.counts.full += u64::from(busy);
                self.counts.refused += u64::from(!busy);
                let after = if busy { RETRY_AFTER } else { Duration::ZERO };
                let mut frame = Vec::new();
                encode_connect_denied(handle, why, after, &text, &mut frame);
                self.answer(conn, &frame);
                self.servers[server].roster.borrow_mut().give_up(&handle)
            }
        };
        for (conn, record) in waiting.into_iter().flatten() {
            self.dispatch(server, conn, record);
        }
    }

    fn open_service(
        &mut self,
        server: usize,
        conn: ConnId,
        connect: &Connect<'_>,
    ) -> Poll<Result<Opened, Denial>> {
        let now = self.now;
        if !self.servers[server].opening.contains_key(&conn) {
            if now < self.servers[server].full_until {
                return Poll::Ready(Err(Denial::new(DenyReason::Overloaded, "full")));
            }
            let script = self.broker().seat_of(connect.handle).map(|seat| seat.script.clone());
            let request = match &connect.mode {
                ConnectMode::New | ConnectMode::Relay(_) | ConnectMode::Prepare(_) => None,
                ConnectMode::Transfer(request) => Some(request),
            };
            match script {
                None => {
                    let unknown = Denial::new(DenyReason::Internal, "an unknown handle");
                    return Poll::Ready(Err(unknown));
                }
                Some(Script::Tcp { up, down, waits }) => {
                    if request.is_some_and(|request| request.up_sent > 0 || request.down > 0) {
                        return Poll::Ready(Err(Denial::new(DenyReason::Unsafe, "tcp")));
                    }
                    let tcp = Tcp::new(up, down, waits, self.plan.origin);
                    let near = Kind::Tcp(Box::new(tcp));
                    return Poll::Ready(Ok((near, StartAt::default(), false)));
                }
                Some(Script::Http) => {
                    let (mint, connections) = self.http(server, connect);
                    let policy = self.plan.policy;
                    let followed = self.servers[server].followed.remove(&connect.handle);
                    let followed = followed.filter(|_| request.is_some());
                    let (join, connections) = match followed {
                        Some((join, connections)) => (Some(join), connections),
                        None => (None, connections),
                    };
                    let streams = connections.clone();
                    let mut takeover =
                        SimTakeover::new(now, streams, policy, Some(mint), request, &|_| Ok(()))?;
                    if let Some(join) = join {
                        takeover.go_on_with(now, join);
                    }
                    self.servers[server].opening.insert(conn, (takeover, connections));
                }
            }
        }
        let (takeover, connections) =
            self.servers[server].opening.get_mut(&conn).expect("it is being opened");
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut cx = Context::from_waker(&waker);
        loop {
            let opened = takeover.poll(now, &mut cx);
            if opened.is_ready() || !woken.take() {
                let kind = |http| Kind::Http(Box::new(http), connections.clone());
                return opened.map_ok(|(http, at)| (kind(http), at, true));
            }
        }
    }

    /// What the HTTP service of a session makes tickets with, and reaches.
    fn http(&self, server: usize, connect: &Connect<'_>) -> (Mint, Connections) {
        let here = &self.servers[server];
        let holder = Holder {
            audience: "cluster".to_owned(),
            service: connect.service.to_owned(),
            client: [7; 32],
            handle: connect.handle,
        };
        let mint = Mint {
            holder,
            life: self.plan.ticket_life,
            clock: Rc::clone(&here.clock),
            now: Rc::clone(&self.clock),
            granted: None,
        };
        (mint, Connections::new(&here.origin, &self.clock))
    }

    /// A session begins. Returns the connections that waited for it.
    fn accept(
        &mut self,
        server: usize,
        conn: ConnId,
        connect: &Connect<'_>,
        (near, at, holds): Opened,
    ) -> Option<Waiting> {
        let own = Handle(self.random.handle());
        let here = &mut self.servers[server];
        here.next += 1;
        let (number, handle) = (here.next, connect.handle);
        let filled = here.roster.borrow_mut().fill(handle, (own, connect.epoch), number);
        let Ok(filled) = filled else {
            self.net().close(conn, SERVER, false);
            return None;
        };
        let limits = self.plan.server.clone();
        let tombstone = limits.tombstone;
        let name = ["a", "b", "c"][server];
        let mut session = Session::accept(self.now, limits, FIRST_LINK, own, connect, at, name);
        if holds {
            session.hold_acks();
        }
        let roster = Rc::clone(&self.servers[server].roster);
        let (net, key) = (self.wire(), (handle, own));
        let around = AtServer { roster, net, key, tombstone, pass_due: false };
        self.say(|_| format!("server {server} accepts session {number} at {at:?}"));
        let who = Who::Server(server, number);
        let link = Box::new(SimLink::new(&self.net, conn, SERVER, number));
        let near = self.keep(NearSide::new(near), SERVER);
        let end = End::new(session, near, Far::of_server(around), Start::Link(link));
        self.ends.insert(who, Some(end));
        self.run_end(who);
        if let Some(old) = filled.old {
            self.tell_end(Who::Server(server, old), Command::Abort { code: code::MOVED });
        }
        filled.waited
    }

    /// A server's process dies, and the next one goes on with what its keeper has: sessions of a
    /// service that nothing is known of. The others come back with their tickets.
    pub fn restart_server(&mut self, server: usize) {
        if !self.servers[server].alive {
            return;
        }
        let mut kept = Vec::new();
        for who in self.sessions_of(server) {
            let goes_on = |end: &mut End| {
                end.session().state() != State::Closed && end.driver.near().is_kept()
            };
            if self.end_mut(who).is_some_and(goes_on)
                && let Some(end) = self.ends.remove(&who).flatten()
            {
                kept.push((who, end));
            }
        }
        self.kill(server, false);
        self.servers[server].alive = true;
        let limits = self.plan.server.clone();
        for (who, mut old) in kept {
            let Who::Server(_, number) = who else { continue };
            let (key, epoch) = (old.session().handles(), old.session().epoch());
            let service = old.session().service().to_owned();
            let mut near = std::mem::replace(old.driver.near(), NearSide::gone());
            let watch = std::mem::take(&mut old.watch);
            drop(old);
            let Some(session) = near.restore(self.now, &limits, &service) else { continue };
            let roster = Rc::clone(&self.servers[server].roster);
            let filled = roster.borrow_mut().fill(key.0, (key.1, epoch), number);
            assert!(filled.is_ok(), "nobody has its place");
            // It did not die.
            if let Some(seat) = self.broker().seats.iter_mut().find(|seat| seat.handle == key.0) {
                seat.facts.deaths -= 1;
            }
            let (net, tombstone) = (self.wire(), limits.tombstone);
            let around = AtServer { roster, net, key, tombstone, pass_due: false };
            let mut end = End::new(session, near, Far::of_server(around), Start::Unlinked);
            end.watch = watch;
            self.ends.insert(who, Some(end));
            self.run_end(who);
        }
    }

    /// A server drops a session.
    pub fn server_session_over(&mut self, server: usize, end: &mut End) {
        let (handle, own) = end.session().handles();
        self.servers[server].roster.borrow_mut().remove(&handle, own);
        let unheard = end.closed() == Some(ClosedWhy::ResetHere { code: code::HOLD });
        if unheard && !end.watch.heard {
            let mut broker = self.broker();
            let seat = broker.seats.iter_mut().find(|seat| seat.handle == handle);
            if let Some(seat) = seat {
                seat.facts.unheard = true;
            }
        }
    }
}
