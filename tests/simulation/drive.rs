//! The loop that drives a session, its near side and its links, as `drive/src/run.rs` does in the
//! daemons.

use core::time::Duration;
use std::io::ErrorKind;

use stp_proto::session::{
    Attempt, ClosedWhy, Detach, Event, Input, LinkId, Output, Session, ShutNear, code,
};
use stp_proto::state::State;
use stp_proto::time::Instant;

use crate::broker::Verdict;
use crate::check::Watch;
use crate::near::{Near, Pulled};
use crate::net::{BROKER, ConnId, Item, Owner, SERVER};
use crate::plan::Kind;
use crate::world::{Ev, Who, World};

/// A session with its near side and its links.
pub struct End {
    pub session: Session,
    pub near: Near,
    pub near_open: bool,
    pub links: Vec<(LinkId, ConnId)>,
    next_link: u64,
    armed: Option<Instant>,
    pub closed: Option<ClosedWhy>,
    /// The driver gave it up.
    pub gave_up: bool,
    pub shut: Option<ShutNear>,
    /// A link that is not read for now.
    paused: Option<LinkId>,
    pub watch: Watch,
}

impl End {
    pub fn new(session: Session, near: Near) -> End {
        End {
            session,
            near,
            near_open: true,
            links: Vec::new(),
            next_link: 0,
            armed: None,
            closed: None,
            gave_up: false,
            shut: None,
            paused: None,
            watch: Watch::default(),
        }
    }

    /// Takes a link up and gives it a number.
    pub fn add(&mut self, conn: ConnId) -> LinkId {
        let link = LinkId(self.next_link);
        self.next_link += 1;
        self.links.push((link, conn));
        link
    }

    fn remove(&mut self, link: LinkId) -> Option<ConnId> {
        let at = self.links.iter().position(|(other, _)| *other == link)?;
        Some(self.links.remove(at).1)
    }
}

impl World {
    pub fn slot(&mut self, who: Who) -> Option<&mut Option<End>> {
        match who {
            Who::Broker(number) => {
                let at = usize::try_from(number).expect("few");
                self.broker.seats.get_mut(at).map(|seat| &mut seat.end)
            }
            Who::Server(server, number) => self.servers[server].ends.get_mut(&number),
        }
    }

    fn take(&mut self, who: Who) -> Option<End> {
        self.slot(who)?.take()
    }

    fn put(&mut self, who: Who, end: End) {
        *self.slot(who).expect("it was taken from there") = Some(end);
    }

    /// Tells a session something and lets it go on.
    pub fn input(&mut self, who: Who, input: Input) {
        let now = self.now;
        let Some(end) = self.slot(who).and_then(Option::as_mut) else { return };
        end.session.handle_input(now, input);
        self.say(|_| format!("{who:?}: {input:?}"));
        self.run_end(who);
    }

    pub fn wake(&mut self, who: Who) {
        let now = self.now;
        let Some(end) = self.slot(who).and_then(Option::as_mut) else { return };
        if end.armed.is_some_and(|at| at <= now) {
            end.armed = None;
        }
        self.run_end(who);
    }

    /// Lets a session and its near side do all they can at this moment.
    pub fn run_end(&mut self, who: Who) {
        let Some(mut end) = self.take(who) else { return };
        if self.plan.has(Kind::Suspend) && !self.mended && self.random.one_in(128) {
            let halted = end.session.state() == State::Suspended;
            let input = if halted { Input::Resume } else { Input::Suspend };
            end.session.handle_input(self.now, input);
            self.counts.faults += 1;
            self.say(|_| format!("{who:?}: {input:?}"));
            if !halted {
                let pause = self.random.millis(1, 120_000);
                self.after(pause, Ev::Resume(who));
            }
        }
        let mut deadline = None;
        let (mut rounds, mut timeouts) = (0, 0);
        loop {
            rounds += 1;
            assert!(rounds < 20_000, "{who:?} never comes to rest: {:?}", end.session);
            let busy = self.carry_out(who, &mut end, &mut deadline);
            if self.near_step(&mut end) | busy {
                continue;
            }
            if deadline.is_none_or(|at| at > self.now) {
                break;
            }
            // The daemons' loop would tell it again and again.
            timeouts += 1;
            assert!(timeouts < 5, "{who:?}: a deadline outlives its timeout");
            self.time_out(&mut end);
        }
        self.check_end(who, &mut end);
        let paused = std::mem::replace(&mut end.paused, end.session.paused());
        if let Some((_, conn)) = end.links.iter().find(|(link, _)| Some(*link) == paused) {
            self.at(self.now, Ev::Arrive(*conn, 1 - who.side()));
        }
        let near = end.near.wake_at(&end.session, self.now).filter(|at| *at > self.now);
        let over = end.closed.is_some() || end.gave_up;
        if over && end.session.undelivered() == 0 {
            return self.retire(who, end);
        }
        let next = deadline.into_iter().chain(near).min();
        if let Some(next) = next {
            let next = next.max(self.now + Duration::from_micros(1));
            let late = u64::try_from(self.plan.late.as_micros()).unwrap_or(0);
            if end.armed.is_none_or(|armed| armed > next) {
                let next = next + Duration::from_micros(self.random.below(late + 1));
                end.armed = Some(next);
                self.at(next, Ev::Wake(who));
            }
        }
        self.put(who, end);
        if let Who::Broker(number) = who {
            self.check_pair(number);
        }
    }

    /// A deadline has passed. What gets through bit by bit is a sign of life (R70).
    fn time_out(&mut self, end: &mut End) {
        for (link, conn) in &end.links {
            if self.net.is_moving(self.now, *conn) {
                end.session.handle_input(self.now, Input::LinkAlive { link: *link });
            }
        }
        end.session.handle_input(self.now, Input::Timeout);
    }

    /// Drains what the session wants done; whether that was anything.
    fn carry_out(&mut self, who: Who, end: &mut End, deadline: &mut Option<Instant>) -> bool {
        let mut frame = Vec::new();
        let mut busy = false;
        for _ in 0..200_000 {
            frame.clear();
            let attached = end.session.link();
            let conn = end.links.iter().find(|(link, _)| Some(*link) == attached);
            let conn = conn.map(|(_, conn)| *conn);
            let room = conn.is_some_and(|conn| self.net.room(conn, who.side()));
            match end.session.poll_output(self.now, room, &mut frame) {
                Output::Frame { link } => self.transmit(who, end, link, &frame),
                Output::Dial => self.dial(who, &end.session),
                Output::Detach { link, how } => self.detach(who, end, link, how),
                Output::ShutNear(how) => {
                    end.near_open &= matches!(how, ShutNear::Fin);
                    end.shut = Some(how);
                    end.near.shut(self.now, how);
                    self.say(|_| format!("{who:?}: shut {how:?}"));
                }
                Output::Event(event) => self.event(who, end, &event),
                Output::Wait(at) => {
                    *deadline = at;
                    return busy;
                }
            }
            busy = true;
        }
        panic!("{who:?}: poll_output never waits");
    }

    fn transmit(&mut self, who: Who, end: &mut End, link: LinkId, frame: &[u8]) {
        let Some(conn) = end.links.iter().find(|(other, _)| *other == link) else { return };
        let conn = conn.1;
        end.watch.frames += 1;
        self.say(|_| format!("{who:?} -> {conn}: {}", describe(frame)));
        if let Some(at) = self.net.send(self.now, conn, who.side(), frame) {
            self.at(at, Ev::Arrive(conn, who.side()));
        }
    }

    fn detach(&mut self, who: Who, end: &mut End, link: LinkId, how: Detach) {
        let Some(conn) = end.remove(link) else { return };
        self.say(|_| format!("{who:?} detaches {conn}: {how:?}"));
        match how {
            Detach::Close => {
                let abruptly = self.random.one_in(3);
                self.close(conn, who.side(), abruptly);
            }
            Detach::Linger => self.close(conn, who.side(), false),
            Detach::Reuse => self.give_back(who, conn),
        }
    }

    /// One side closes a connection.
    pub fn close(&mut self, conn: ConnId, side: usize, abruptly: bool) {
        if let Some(at) = self.net.close(self.now, conn, side, abruptly) {
            self.at(at, Ev::Arrive(conn, side));
        }
    }

    fn give_back(&mut self, who: Who, conn: ConnId) {
        let side = who.side();
        let Some(known) = self.net.conns.get_mut(&conn) else { return };
        known.owner[side] = Owner::Spare;
        if let Who::Broker(_) = who {
            self.keep_for(conn);
        }
        // What came already is for the next session.
        self.at(self.now, Ev::Arrive(conn, 1 - side));
    }

    fn event(&mut self, who: Who, end: &mut End, event: &Event) {
        self.say(|_| format!("{who:?}: {event:?}"));
        end.near.event(self.now, &mut end.session, event);
        end.watch.event(&end.session, event);
        match event {
            Event::Closed { why } => end.closed = Some(*why),
            Event::Attached { attempt, .. } if who.side() == BROKER => match attempt {
                Attempt::Connect => {}
                Attempt::Resume => self.counts.resumed += 1,
                Attempt::Transfer => self.counts.moved += 1,
            },
            _ => {}
        }
        match who {
            Who::Broker(number) => match self.far_event(number, &end.session, event) {
                Verdict::Nothing => {}
                Verdict::TryAgain => end.session.handle_input(self.now, Input::Retry),
                Verdict::GiveUp => {
                    end.gave_up = true;
                    end.session.handle_input(self.now, Input::Abort { code: code::NO_SERVER });
                }
            },
            Who::Server(server, _) => self.bury(server, end, event),
        }
    }

    /// The near side reads and writes; whether anything moved.
    fn near_step(&mut self, end: &mut End) -> bool {
        let mut moved = false;
        if end.session.undelivered() > 0 {
            let pushed = end.near.push(self.now, &mut end.session, &[]);
            moved |= pushed.as_ref().is_ok_and(|count| *count > 0);
            self.after_push(end, pushed);
        }
        if end.near_open && end.session.send_room() > 0 {
            let input = match end.near.pull(self.now, &mut end.session) {
                Pulled::Nothing => return moved,
                Pulled::Bytes => return true,
                Pulled::Fin => Input::NearFin,
                Pulled::Gone => Input::NearGone,
                Pulled::Reset => Input::NearReset,
            };
            end.near_open = false;
            end.session.handle_input(self.now, input);
            moved = true;
        }
        moved
    }

    fn after_push(&mut self, end: &mut End, pushed: std::io::Result<usize>) {
        let Err(error) = pushed else { return };
        match error.kind() {
            ErrorKind::WouldBlock => {}
            ErrorKind::BrokenPipe => end.session.handle_input(self.now, Input::NearGone),
            _ => {
                end.near_open = false;
                end.session.handle_input(self.now, Input::NearReset);
            }
        }
    }

    // Links.

    /// Something is due on a connection.
    pub fn arrive(&mut self, id: ConnId, way: usize) {
        let side = 1 - way;
        let Some(conn) = self.net.conns.get(&id) else { return };
        let server = conn.server;
        match (conn.owner[side], side) {
            (Owner::Parked, _) => return,
            (Owner::Nobody, _) => while self.net.due(self.now, id, way).is_some() {},
            (Owner::Spare, BROKER) => {
                if self.net.due(self.now, id, way).is_some() {
                    self.drop_spare(id);
                }
            }
            (Owner::Spare, _) => match self.net.due(self.now, id, way) {
                Some(Item::Record(record)) => self.dispatch(server, id, record),
                Some(Item::End) => self.close(id, SERVER, false),
                None => {}
            },
            (Owner::Session(number, link), _) => {
                let who =
                    if side == BROKER { Who::Broker(number) } else { Who::Server(server, number) };
                self.read(who, link, id);
            }
        }
        if self.net.unblocked(id, way)
            && let Some(conn) = self.net.conns.get(&id)
            && let Owner::Session(number, _) = conn.owner[way]
        {
            let who =
                if way == BROKER { Who::Broker(number) } else { Who::Server(conn.server, number) };
            self.at(self.now, Ev::Wake(who));
        }
    }

    /// Reads once from a link and hands what arrived to the near side.
    fn read(&mut self, who: Who, link: LinkId, id: ConnId) {
        let way = 1 - who.side();
        let Some(mut end) = self.take(who) else { return };
        if end.paused == Some(link) {
            return self.put(who, end);
        }
        let most = 1 + self.random.index(4);
        let (mut records, mut closed) = (Vec::new(), false);
        while records.len() < most && !closed {
            match self.net.due(self.now, id, way) {
                Some(Item::Record(record)) => records.push(record),
                Some(Item::End) => closed = true,
                None => break,
            }
        }
        let mut arrived = Vec::new();
        let mut next_words = 0;
        let attached = end.session.link() == Some(link);
        end.watch.heard |= attached && !records.is_empty();
        for record in &records {
            if attached && end.session.link().is_none() {
                next_words += 1;
                continue;
            }
            if let Err(blame) = end.session.handle_record(self.now, link, record, &mut arrived) {
                panic!("{who:?} blames its peer: {blame}");
            }
        }
        if !arrived.is_empty() {
            let pushed = end.near.push(self.now, &mut end.session, &arrived);
            self.after_push(&mut end, pushed);
        }
        if closed {
            self.lose(who, &mut end, link);
        }
        self.put(who, end);
        self.run_end(who);
        for record in records.drain(records.len() - next_words..).rev() {
            self.net.put_back(self.now, id, way, record);
            self.at(self.now, Ev::Arrive(id, way));
        }
    }

    fn lose(&mut self, who: Who, end: &mut End, link: LinkId) {
        if let Some(conn) = end.remove(link) {
            self.say(|_| format!("{who:?} lost {conn}"));
            self.close(conn, who.side(), true);
            end.session.handle_input(self.now, Input::LinkLost { link });
        }
    }

    /// Hands a connection to a session under a new link number.
    pub fn hand_over(&mut self, who: Who, conn: ConnId) -> Option<LinkId> {
        let end = self.slot(who)?.as_mut()?;
        let link = end.add(conn);
        let known = self.net.conns.get_mut(&conn)?;
        known.owner[who.side()] = Owner::Session(who.number(), link);
        self.at(self.now, Ev::Arrive(conn, 1 - who.side()));
        Some(link)
    }

    /// A session is over and dropped.
    fn retire(&mut self, who: Who, mut end: End) {
        self.say(|_| format!("{who:?}: over, {:?}", end.closed));
        for (_, conn) in std::mem::take(&mut end.links) {
            self.close(conn, who.side(), false);
        }
        match who {
            Who::Broker(number) => self.broker_session_over(number, end),
            Who::Server(server, number) => self.server_session_over(server, number),
        }
    }
}

/// A frame in a few words.
fn describe(frame: &[u8]) -> String {
    let text = match stp_proto::wire::frames(frame).next() {
        Some(Ok(stp_proto::wire::Frame::Data(data))) => {
            format!("DATA {}..{}", data.position, data.position + data.bytes.len() as u64)
        }
        Some(Ok(stp_proto::wire::Frame::Ticket(ticket))) => format!(
            "TICKET at {} covers {} seam {} {}",
            ticket.at, ticket.covers, ticket.seam_from, ticket.transferable
        ),
        Some(Ok(frame)) => format!("{frame:?}"),
        other => format!("{other:?}"),
    };
    text.chars().take(300).collect()
}
