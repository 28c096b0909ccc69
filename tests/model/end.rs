//! One end of the world: a session, its near side, and as much of a daemon as joins them. The
//! session is the shipped one; what is written here mirrors `drive/src/run.rs` and the server's
//! `listener.rs`, one event at a time, each followed by everything the session wants done.

use std::cell::Cell;
use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use stp_proto::handle::Handle;
use stp_proto::session::{
    Attempt, ClosedWhy, Denied, Detach, Event, Input, LinkId, Mutant, Output, Peer, Session,
    ShutNear, StartAt, TicketOffer, Timer, code,
};
use stp_proto::state::State;
use stp_proto::time::Instant;
use stp_proto::wire::{
    Connect, ConnectMode, First, ResumeDenial, ResumeFrame, encode_done, encode_resume_denied,
    first_frame,
};

use crate::plan::Plan;

/// The clock of the model stands still.
pub const NOW: Instant = Instant(0);
/// SH_A.
pub const SH_A: Handle = Handle([0xaa; 16]);

/// The byte at a position of a stream. Neighbours differ, so do the directions.
pub fn byte(up: bool, position: u64) -> u8 {
    let position = u8::try_from(position).expect("runs are of a few bytes");
    if up { position + 1 } else { 0x80 + position }
}

/// Who an end is.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum Role {
    Broker,
    Server(u8),
}

/// What happens to an end.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum Happening {
    /// A frame comes in. `message` is a number in the world's pool.
    Record {
        link: u8,
        message: u32,
    },
    LinkUp {
        link: u8,
        server: u8,
    },
    LinkLost {
        link: u8,
    },
    /// The link takes DATA again.
    Room,
    DialFailed,
    PathChanged,
    /// The near side writes a byte, reads one, ends its stream, aborts, closes both ways.
    Write,
    Read,
    Fin,
    NearReset,
    NearGone,
    Suspend,
    Resume,
    Abort,
    Timer(Timer),
}

/// What an end does to the world.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum Effect {
    Send { link: u8, frame: Vec<u8> },
    Detach { link: u8, how: Detach },
}

/// The app or the service: what it did and what it saw.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Near {
    /// Bytes the session took.
    pub wrote: u64,
    pub fin_said: bool,
    pub gone: bool,
    /// Bytes it was given, in order, each with its own value.
    pub got: u64,
    pub got_fin: bool,
    pub got_reset: Option<u32>,
}

/// A link that a driver holds.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct Held {
    /// The world's number.
    pub wire: u8,
    /// The driver's number: in the order in which links come to it.
    pub id: LinkId,
    pub server: u8,
}

/// How often something may still happen at this end.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Allowance {
    pub cuts: u8,
    pub suspends: u8,
    pub aborts: u8,
}

/// One end.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct End {
    pub role: Role,
    pub session: Option<Session>,
    pub near: Near,
    /// How the session ended.
    pub closed: Option<ClosedWhy>,
    /// Server: what late comers are told.
    pub tomb: Option<(Handle, u32, ResumeDenial)>,
    /// The links the driver holds for the session.
    pub links: Vec<Held>,
    /// The number the driver gives to the next link.
    next: u8,
    /// Broker: a dial is under way.
    pub dialing: bool,
    /// Broker: the server that holds the session.
    pub home: u8,
    /// Broker: the home server does not know the session any more.
    pub leave: bool,
    /// The link took no more DATA.
    pub blocked: bool,
    /// Sessions begun here, and the epoch the last one began with.
    pub lives: u8,
    pub begun: u32,
    /// The end of the session was wanted by somebody at this end.
    pub aborted: bool,
    /// This end did not wait for the peer's last word.
    pub gave_up: bool,
    pub left: Allowance,
}

/// What one happening does.
pub struct Outcome {
    pub end: End,
    pub effects: Vec<Effect>,
}

impl End {
    /// A broker whose app has just connected.
    pub fn broker(plan: &Plan) -> End {
        let session = Session::initiate(NOW, plan.limits(), SH_A, "s", "");
        End { session: Some(session), ..End::new(plan, Role::Broker, 0) }
    }

    /// A server that knows of nothing.
    pub fn server(plan: &Plan, number: u8) -> End {
        End::new(plan, Role::Server(number), 1)
    }

    fn new(plan: &Plan, role: Role, side: usize) -> End {
        End {
            role,
            session: None,
            near: Near::default(),
            closed: None,
            tomb: None,
            links: Vec::new(),
            next: 0,
            dialing: false,
            home: 0,
            leave: false,
            blocked: false,
            lives: 0,
            begun: 0,
            aborted: false,
            gave_up: false,
            left: Allowance {
                cuts: plan.cuts[side],
                suspends: plan.suspends[side],
                aborts: plan.aborts[side],
            },
        }
    }

    /// The same after the session's first wishes were carried out.
    pub fn after_start(self, plan: &Plan) -> End {
        match self.step(plan, Happening::Room, &[], u8::MAX) {
            Ok(outcome) => outcome.end,
            Err(what) => panic!("{what}"),
        }
    }

    /// The server's process dies and starts again, with nothing.
    pub fn crashed(&self, plan: &Plan) -> End {
        let Role::Server(number) = self.role else { unreachable!("brokers do not crash here") };
        let left = self.left.clone();
        End { lives: self.lives, left, ..End::server(plan, number) }
    }

    /// The attached link, by the world's number.
    pub fn attached(&self) -> Option<u8> {
        let id = self.session.as_ref()?.link()?;
        self.links.iter().find(|held| held.id == id).map(|held| held.wire)
    }

    fn hold(&mut self, wire: u8, server: u8) -> LinkId {
        let id = LinkId(self.next.into());
        self.next += 1;
        self.links.push(Held { wire, id, server });
        id
    }

    fn held(&self, wire: u8) -> Option<LinkId> {
        self.links.iter().find(|held| held.wire == wire).map(|held| held.id)
    }

    fn let_go(&mut self, id: LinkId) -> Option<u8> {
        let at = self.links.iter().position(|held| held.id == id)?;
        Some(self.links.remove(at).wire)
    }

    pub fn is_broker(&self) -> bool {
        self.role == Role::Broker
    }

    pub fn state(&self) -> Option<State> {
        self.session.as_ref().map(Session::state)
    }

    /// What can happen here of its own accord, faults aside.
    pub fn wishes(&self, plan: &Plan) -> Vec<Happening> {
        let mut all = Vec::new();
        let Some(session) = &self.session else { return all };
        let mine = u64::from(if self.is_broker() { plan.up } else { plan.down });
        let near = &self.near;
        let open = !near.fin_said && !near.gone && near.got_reset.is_none();
        if open && near.wrote < mine && session.send_room() > 0 {
            all.push(Happening::Write);
        }
        if open && near.wrote == mine {
            all.push(Happening::Fin);
        }
        if session.undelivered() > 0 && !near.gone && near.got_reset.is_none() {
            all.push(Happening::Read);
        }
        if self.left.suspends > 0 && !matches!(session.state(), State::Suspended | State::Closed) {
            all.push(Happening::Suspend);
        }
        if session.state() == State::Suspended {
            all.push(Happening::Resume);
        }
        if self.left.aborts > 0 && session.state() != State::Closed {
            all.push(Happening::Abort);
            if near.got_reset.is_none() && !near.gone {
                all.push(Happening::NearReset);
                all.push(Happening::NearGone);
            }
        }
        all.extend(session.timers().map(Happening::Timer));
        all
    }

    /// What `happening` does; or which property it breaks.
    pub fn step(
        &self,
        plan: &Plan,
        happening: Happening,
        record: &[u8],
        room: u8,
    ) -> Result<Outcome, String> {
        quiet_panics();
        Mutant::set(plan.mutant);
        let act = AssertUnwindSafe(|| {
            let outcome = Outcome { end: self.clone(), effects: Vec::new() };
            let mut act = Act { plan, room, out: outcome };
            act.happen(happening, record)?;
            act.carry_out()?;
            act.check(self, happening)?;
            Ok(act.out)
        });
        QUIET.set(true);
        let result = catch_unwind(act);
        QUIET.set(false);
        Mutant::set(None);
        result.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<String>().map(String::as_str);
            let text = text.or_else(|| panic.downcast_ref::<&str>().copied());
            Err(format!("P0 assertion: {}", text.unwrap_or("panic")))
        })
    }
}

thread_local! {
    static QUIET: Cell<bool> = const { Cell::new(false) };
}

/// Panics that are caught are not printed.
fn quiet_panics() {
    static ONCE: Once = Once::new();
    ONCE.call_once(|| {
        let usual = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            if !QUIET.get() {
                usual(info);
            }
        }));
    });
}

/// One event being handled.
struct Act<'p> {
    plan: &'p Plan,
    /// DATA frames the attached link still takes.
    room: u8,
    out: Outcome,
}

impl Act<'_> {
    fn end(&mut self) -> &mut End {
        &mut self.out.end
    }

    fn session(&mut self) -> Option<&mut Session> {
        self.out.end.session.as_mut()
    }

    fn input(&mut self, input: Input) {
        if let Some(session) = self.session() {
            session.handle_input(NOW, input);
        }
    }

    fn happen(&mut self, happening: Happening, record: &[u8]) -> Result<(), String> {
        match happening {
            Happening::Record { link, .. } => return self.record(link, record),
            Happening::LinkUp { link, server } => {
                self.end().dialing = false;
                let id = self.end().hold(link, server);
                let end = &self.out.end;
                let established = end.session.as_ref().is_some_and(Session::is_established);
                let same = !established || server == end.home;
                let peer = if same { Peer::Same } else { Peer::Other };
                self.input(Input::LinkUp { link: id, peer });
            }
            Happening::LinkLost { link } => self.lose(link),
            Happening::Room => (),
            Happening::DialFailed => {
                self.end().dialing = false;
                self.input(Input::DialFailed);
            }
            Happening::PathChanged => self.input(Input::PathChanged),
            Happening::Write => self.write()?,
            Happening::Read => self.read()?,
            Happening::Fin => {
                self.end().near.fin_said = true;
                self.input(Input::NearFin);
            }
            Happening::NearReset | Happening::NearGone | Happening::Abort => {
                self.end().left.aborts -= 1;
                self.end().aborted = true;
                self.end().near.gone |= happening != Happening::Abort;
                self.input(match happening {
                    Happening::NearReset => Input::NearReset,
                    Happening::NearGone => Input::NearGone,
                    _ => Input::Abort { code: code::USER },
                });
            }
            Happening::Suspend => {
                self.end().left.suspends -= 1;
                self.input(Input::Suspend);
            }
            Happening::Resume => self.input(Input::Resume),
            Happening::Timer(timer) => {
                if timer == Timer::Checkpoint {
                    self.end().left.cuts -= 1;
                }
                self.end().gave_up |= timer == Timer::Closing;
                if let Some(session) = self.session() {
                    session.expire(NOW, timer);
                    session.handle_input(NOW, Input::Timeout);
                }
            }
        }
        Ok(())
    }

    fn lose(&mut self, link: u8) {
        if let Some(id) = self.end().held(link) {
            self.end().let_go(id);
            self.input(Input::LinkLost { link: id });
        }
    }

    fn write(&mut self) -> Result<(), String> {
        let up = self.end().is_broker();
        let at = self.end().near.wrote;
        let Some(session) = self.session() else { return Ok(()) };
        let count = session
            .fill(NOW, |slices| {
                let first = slices.iter_mut().find(|slice| !slice.is_empty());
                let Some(slice) = first else { return Ok(0) };
                slice[0] = byte(up, at);
                Ok(1)
            })
            .map_err(|error| format!("P1 fill failed: {error}"))?;
        self.end().near.wrote += count as u64;
        Ok(())
    }

    fn read(&mut self) -> Result<(), String> {
        self.deliver(&[], if self.plan.lazy { 1 } else { usize::MAX })
    }

    /// The near side takes at most `most` bytes, and looks at each.
    fn deliver(&mut self, arrived: &[&[u8]], most: usize) -> Result<(), String> {
        let up = !self.end().is_broker();
        let (mut at, mut wrong) = (self.end().near.got, None);
        let mut appetite = if self.end().near.gone { 0 } else { most };
        let Some(session) = self.session() else { return Ok(()) };
        let result = session.deliver(NOW, arrived, |slices| {
            let mut count = 0;
            for value in slices.iter().flat_map(|slice| slice.iter()).take(appetite) {
                if *value != byte(up, at) {
                    wrong.get_or_insert((at, *value));
                }
                (at, count) = (at + 1, count + 1);
            }
            appetite -= count;
            if count == 0 { Err(ErrorKind::WouldBlock.into()) } else { Ok(count) }
        });
        match result {
            Ok(_) => (),
            Err(error) if error.kind() == ErrorKind::WouldBlock => (),
            Err(error) => return Err(format!("P1 deliver failed: {error}")),
        }
        if let Some((at, value)) = wrong {
            return Err(format!("P1 prefix: byte {value:#04x} given at position {at}"));
        }
        let (before, fin) = (self.end().near.got, self.end().near.got_fin);
        if at > before && fin {
            return Err("P1 prefix: bytes given after the end".to_owned());
        }
        self.end().near.got = at;
        self.ticket();
        Ok(())
    }

    /// A replayable service has taken bytes: the journal first, then the acknowledgement (D3).
    fn ticket(&mut self) {
        let (covers, at) = (self.end().near.got, self.end().near.wrote);
        if !self.plan.replayable || self.end().is_broker() {
            return;
        }
        let ticket = vec![0xee, covers as u8, at as u8];
        if let Some(session) = self.session() {
            let offer = TicketOffer { at, covers, seam_from: at, transferable: true, ticket };
            session.offer_ticket(offer);
        }
    }

    fn record(&mut self, link: u8, record: &[u8]) -> Result<(), String> {
        match (self.end().held(link), self.end().role) {
            (Some(id), _) => self.hand(id, record),
            (None, Role::Server(number)) => self.first(link, number, record),
            (None, Role::Broker) => Ok(()),
        }
    }

    /// Hands a record to the session.
    fn hand(&mut self, link: LinkId, record: &[u8]) -> Result<(), String> {
        let Some(session) = self.session() else { return Ok(()) };
        let mut arrived = Vec::new();
        let result = session.handle_record(NOW, link, record, &mut arrived);
        if let Err(blame) = result {
            return Err(format!("P1 protocol: {blame}"));
        }
        if arrived.is_empty() {
            return Ok(());
        }
        self.deliver(&arrived, if self.plan.lazy { 0 } else { usize::MAX })
    }

    /// The first record of a link at a server.
    fn first(&mut self, link: u8, number: u8, record: &[u8]) -> Result<(), String> {
        match first_frame(record) {
            Ok(First::Connect(connect)) => self.connect(link, number, &connect),
            Ok(First::Resume(resume)) => self.resume(link, number, &resume, record),
            Ok(First::Reset(reset)) => {
                let own = self.session().map(|session| session.handles().1);
                if own.is_some_and(|own| reset.acceptor.is_none() || own == reset.acceptor) {
                    self.input(Input::Abort { code: reset.code });
                }
                let mut frame = Vec::new();
                encode_done(&mut frame);
                self.answer(link, frame);
                Ok(())
            }
            Err(error) => Err(format!("P1 protocol: first frame: {error}")),
        }
    }

    /// The daemon's own answer; the link is of no more use.
    fn answer(&mut self, link: u8, frame: Vec<u8>) {
        self.out.effects.push(Effect::Send { link, frame });
        self.out.effects.push(Effect::Detach { link, how: Detach::Linger });
    }

    fn resume(
        &mut self,
        link: u8,
        number: u8,
        resume: &ResumeFrame,
        record: &[u8],
    ) -> Result<(), String> {
        if self.session().is_some_and(|session| session.handles().1 == resume.acceptor) {
            let id = self.end().hold(link, number);
            return self.hand(id, record);
        }
        let tomb = self.end().tomb.filter(|(own, _, _)| *own == resume.acceptor);
        let (seen, why) =
            tomb.map_or((resume.epoch, ResumeDenial::Unknown), |(_, seen, why)| (seen, why));
        let mut frame = Vec::new();
        encode_resume_denied(seen, why, &mut frame);
        self.answer(link, frame);
        Ok(())
    }

    fn connect(&mut self, link: u8, number: u8, connect: &Connect<'_>) -> Result<(), String> {
        if self.session().is_some() && connect.mode == ConnectMode::New {
            let id = self.end().hold(link, number);
            let reaccepted =
                self.session().is_some_and(|session| session.reaccept(NOW, id, connect));
            if !reaccepted {
                self.end().let_go(id);
                self.out.effects.push(Effect::Detach { link, how: Detach::Close });
            }
            return Ok(());
        }
        // An attempt that the broker gave up long ago must not replace what came after it. Where
        // only a tombstone is left, it would begin a session that nobody speaks to and that is
        // reset after its hold time; that is left out here.
        let buried = self.end().tomb.is_some_and(|(_, seen, _)| connect.epoch <= seen);
        let replaced = self.session().is_some() && connect.epoch <= self.end().begun;
        if buried || replaced {
            self.out.effects.push(Effect::Detach { link, how: Detach::Close });
            return Ok(());
        }
        self.open(link, number, connect)
    }

    /// A session begins here.
    fn open(&mut self, link: u8, number: u8, connect: &Connect<'_>) -> Result<(), String> {
        let at = match &connect.mode {
            ConnectMode::New => StartAt::default(),
            ConnectMode::Transfer(request) => {
                let claims = match request.ticket {
                    Some([0xee, covers, at]) => (u64::from(*covers), u64::from(*at)),
                    Some(_) => return Err("P11 ticket: not one of ours".to_owned()),
                    None => (0, 0),
                };
                if claims.0 != request.covers || claims.1 > request.down {
                    return Err(format!("P11 ticket: {claims:?} for {request:?}"));
                }
                if request.up_from > claims.0 {
                    return Err(format!(
                        "P2 resume point: up {} needed, freed below {}",
                        claims.0, request.up_from
                    ));
                }
                StartAt { up: claims.0, down: request.down }
            }
        };
        let lives = self.end().lives + 1;
        (self.end().lives, self.end().begun) = (lives, connect.epoch);
        let own = Handle([number * 16 + lives; 16]);
        let limits = self.plan.limits();
        let old = std::mem::take(&mut self.end().links);
        self.end().next = 0;
        let id = self.end().hold(link, number);
        let mut session = Session::accept(NOW, limits, id, own, connect, at, "");
        if self.plan.replayable {
            session.hold_acks();
        }
        let end = self.end();
        end.near = Near { got: at.up, wrote: at.down, ..Near::default() };
        (end.session, end.closed, end.blocked) = (Some(session), None, false);
        for held in old {
            self.out.effects.push(Effect::Detach { link: held.wire, how: Detach::Close });
        }
        self.ticket();
        Ok(())
    }

    /// Drains what the session wants done.
    fn carry_out(&mut self) -> Result<(), String> {
        let mut frame = Vec::new();
        self.end().blocked = false;
        // No event makes an end do more than this.
        for _ in 0..256 {
            frame.clear();
            let room = self.room > 0;
            let Some(session) = self.session() else { return Ok(()) };
            match session.poll_output(NOW, room, &mut frame) {
                Output::Frame { link } => self.send(link, &frame),
                Output::Dial => self.end().dialing = true,
                Output::Detach { link, how } => self.detach(link, how),
                Output::ShutNear(ShutNear::Fin) => self.end().near.got_fin = true,
                Output::ShutNear(ShutNear::Reset { code }) => {
                    self.end().near.got_reset = Some(code);
                }
                Output::Event(event) => self.event(&event),
                Output::Wait(_) => {
                    let blocked = !room && session.link().is_some();
                    self.end().blocked = blocked;
                    self.bury();
                    return Ok(());
                }
            }
        }
        Err("P7 goal: one event makes this end busy for ever".to_owned())
    }

    fn send(&mut self, link: LinkId, frame: &[u8]) {
        let held = self.end().links.iter().find(|held| held.id == link).copied();
        if let Some(Held { wire: link, .. }) = held {
            if is_data(frame) {
                self.room = self.room.saturating_sub(u8::from(self.room != u8::MAX));
            }
            self.out.effects.push(Effect::Send { link, frame: frame.to_vec() });
        }
    }

    fn detach(&mut self, link: LinkId, how: Detach) {
        if let Some(link) = self.end().let_go(link) {
            self.out.effects.push(Effect::Detach { link, how });
        }
    }

    fn event(&mut self, event: &Event) {
        match event {
            Event::Attached { link, attempt, .. } if self.end().is_broker() => {
                let held = self.end().links.iter().find(|held| held.id == *link).copied();
                if let Some(Held { server, .. }) = held
                    && matches!(attempt, Attempt::Connect | Attempt::Transfer)
                {
                    (self.end().home, self.end().leave) = (server, false);
                }
            }
            Event::Denied(denied) => self.denied(denied),
            Event::Closed { why } => self.end().closed = Some(*why),
            _ => (),
        }
    }

    /// The broker's verdict: another server if that is possible, else the session ends.
    fn denied(&mut self, denied: &Denied) {
        let possible = self.plan.replayable
            && self.session().is_some_and(|session| session.transferable().is_ok());
        let elsewhere = match denied {
            Denied::Resume(ResumeDenial::Unknown) => true,
            Denied::Resume(_) | Denied::Connect { .. } => false,
        };
        if elsewhere && possible {
            self.end().leave = true;
            self.input(Input::Retry);
        } else {
            self.input(Input::Abort { code: code::NO_SERVER });
        }
    }

    /// The loop ends with the session; a server keeps the tombstone.
    fn bury(&mut self) {
        let Some(session) = &self.out.end.session else { return };
        if self.out.end.closed.is_none() || session.undelivered() > 0 {
            return;
        }
        let epitaph = session.epitaph();
        let own = session.handles().1;
        if !self.end().is_broker() {
            self.end().tomb = epitaph.map(|(seen, why)| (own, seen, why));
        }
        let end = self.end();
        (end.session, end.dialing) = (None, false);
        for held in std::mem::take(&mut end.links) {
            self.out.effects.push(Effect::Detach { link: held.wire, how: Detach::Close });
        }
    }

    /// What must hold at one end, whatever the other does.
    fn check(&self, before: &End, happening: Happening) -> Result<(), String> {
        let end = &self.out.end;
        let Some(session) = &end.session else { return Ok(()) };
        let at = session.positions();
        let ordered = at.una <= at.heard
            && at.heard <= at.max
            && at.nxt <= at.max
            && at.max <= at.end
            && at.una <= at.nxt
            && at.acked <= at.received
            && at.delivered <= at.received
            && at.received <= at.told;
        if session.state() != State::Closed && !ordered {
            return Err(format!("P4 order of positions: {at:?}"));
        }
        if !end.near.gone && at.delivered != end.near.got && session.state() != State::Closed {
            return Err(format!("P1 prefix: {} delivered, {} got", at.delivered, end.near.got));
        }
        let (sending, receiving) = session.buffered();
        if sending > self.plan.send_buffer || receiving > self.plan.receive_buffer {
            return Err(format!("P5 bounds: {sending} and {receiving} bytes are held"));
        }
        if end.links.len() > 1 {
            return Err(format!("P8 one link: {} are held", end.links.len()));
        }
        self.check_suspended(before, happening)
    }

    fn check_suspended(&self, before: &End, happening: Happening) -> Result<(), String> {
        let (Some(was), Some(session)) = (&before.session, &self.out.end.session) else {
            return Ok(());
        };
        if was.state() != State::Suspended {
            return Ok(());
        }
        let (from, to) = (was.positions(), session.positions());
        let moved = (from.received, from.nxt) != (to.received, to.nxt) || session.link().is_some();
        let stays = matches!(session.state(), State::Suspended | State::Closed);
        if stays && !moved || happening == Happening::Resume {
            Ok(())
        } else {
            Err(format!("P9 suspended: {} without its user", session.state()))
        }
    }
}

/// Whether the frame is DATA.
pub fn is_data(frame: &[u8]) -> bool {
    frame.first() == Some(&4)
}
