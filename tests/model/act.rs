//! What one event does to an end: a small form of `drive/src/run.rs`, one event at a time, each
//! followed by everything that the session wants done.

use std::io::ErrorKind;

use stp_net::kept::ledger::Way;
use stp_proto::session::{
    Attempt, Detach, Event, Input, LinkId, Output, Peer, Session, ShutNear, TicketOffer, Timer,
    code,
};
use stp_proto::state::State;
use stp_proto::wire::{ConnectMode, First, Frame, first_frame, frames};

use crate::end::{
    Asked, Effect, End, Happening, Held, NOW, Outcome, Role, byte, is_data, other_byte,
};
use crate::kept::Memory;
use crate::plan::Plan;

/// One event being handled.
pub struct Act<'p> {
    pub plan: &'p Plan,
    /// DATA frames the attached link still takes.
    pub room: u8,
    pub out: Outcome,
    /// What outlives this process.
    pub memory: Memory,
}

impl<'p> Act<'p> {
    /// Something happens to this end, whose process dies when it has stored so often; at 255 it
    /// lives.
    pub fn new(plan: &'p Plan, mut end: End, room: u8, stores: u8) -> Act<'p> {
        let memory = Memory::new(end.kept.take(), stores);
        Act { plan, room, out: Outcome { end, effects: Vec::new() }, memory }
    }
}

impl Act<'_> {
    /// The event, everything the session then wants done, and what must hold afterwards.
    pub fn run(
        mut self,
        before: &End,
        happening: Happening,
        record: &[u8],
    ) -> Result<Outcome, String> {
        self.happen(happening, record)?;
        if matches!(happening, Happening::Record { more: true, .. }) {
            self.end().unasked += 1;
        } else {
            self.end().unasked = 0;
            self.carry_out()?;
            self.check(before, happening)?;
        }
        self.out.end.kept = self.memory.kept.take();
        Ok(self.out)
    }

    /// The same in a process that may die meanwhile.
    pub fn run_until_death(&mut self, happening: Happening, record: &[u8]) -> Result<(), String> {
        self.happen(happening, record)?;
        self.end().unasked = 0;
        self.carry_out()?;
        if !self.memory.is_dead() {
            self.out.end.kept = self.memory.kept.take();
        }
        Ok(())
    }

    pub fn end(&mut self) -> &mut End {
        &mut self.out.end
    }

    pub fn session(&mut self) -> Option<&mut Session> {
        self.out.end.session.as_mut()
    }

    pub fn input(&mut self, input: Input) {
        if let Some(session) = self.session() {
            session.handle_input(NOW, input);
        }
    }

    fn happen(&mut self, happening: Happening, record: &[u8]) -> Result<(), String> {
        match happening {
            Happening::Record { link, .. } => return self.record(link, record),
            Happening::LinkUp { link, server } => {
                (self.end().dialing, self.end().elsewhere) = (false, false);
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
                (self.end().dialing, self.end().elsewhere) = (false, false);
                self.input(Input::DialFailed);
            }
            Happening::PathChanged => self.input(Input::PathChanged),
            Happening::Leave => {
                self.end().elsewhere = true;
                self.input(Input::Retry);
            }
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
                self.input(Input::Suspend { lasts: None });
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
        let differs = self.differs(at) && self.end().role == Role::Server(1);
        let value = if differs { other_byte(at) } else { byte(up, at) };
        let urgent = self.plan.urgent_of(if up { self.plan.up } else { self.plan.down });
        let memory = &self.memory;
        let Some(session) = self.out.end.session.as_mut() else { return Ok(()) };
        let count = session
            .fill(NOW, |slices| {
                let first = slices.iter_mut().find(|slice| !slice.is_empty());
                let Some(slice) = first.filter(|_| memory.moves(Way::Read)) else { return Ok(0) };
                slice[0] = value;
                Ok(1)
            })
            .map_err(|error| format!("P1 fill failed: {error}"))?;
        if count == 1 && urgent == Some(at) {
            session.mark_urgent();
        }
        self.end().near.wrote += count as u64;
        Ok(())
    }

    /// Whether the second server's copy has another byte there.
    fn differs(&self, position: u64) -> bool {
        self.plan.differs.is_some_and(|differs| u64::from(differs) == position)
    }

    fn read(&mut self) -> Result<(), String> {
        self.deliver(&[], if self.plan.lazy { 1 } else { usize::MAX })
    }

    /// The near side takes at most `most` bytes, and looks at each.
    fn deliver(&mut self, arrived: &[&[u8]], most: usize) -> Result<(), String> {
        let up = !self.end().is_broker();
        let (mut at, mut wrong, mut mark) = (self.end().near.got, None, None);
        let marked = self.plan.urgent_of(if up { self.plan.up } else { self.plan.down });
        let mut appetite = if self.end().near.gone { 0 } else { most };
        let differs = self.plan.differs.map(u64::from).filter(|_| !up);
        let memory = &self.memory;
        let Some(session) = self.out.end.session.as_mut() else { return Ok(()) };
        let result = session.deliver_marked(NOW, arrived, |slices, urgent| {
            let mut count = 0;
            for value in slices.iter().flat_map(|slice| slice.iter()).take(appetite) {
                if !memory.moves(Way::Written) {
                    break;
                }
                if urgent != (marked == Some(at)) {
                    mark.get_or_insert(at);
                }
                let other = differs == Some(at) && *value == other_byte(at);
                if *value != byte(up, at) && !other {
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
        if session.undelivered() > 0 {
            memory.hold_until(session.positions().received);
        }
        if let Some((at, value)) = wrong {
            return Err(format!("P1 prefix: byte {value:#04x} given at position {at}"));
        }
        if let Some(at) = mark {
            return Err(format!("P14 mark: wrong of the byte at position {at}"));
        }
        let (before, fin) = (self.end().near.got, self.end().near.got_fin);
        if at > before && fin {
            return Err("P1 prefix: bytes given after the end".to_owned());
        }
        self.end().near.got = at;
        self.ticket();
        Ok(())
    }

    /// A replayable service has taken bytes: the journal first, then the acknowledgement (R60).
    pub fn ticket(&mut self) {
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
    pub fn hand(&mut self, link: LinkId, record: &[u8]) -> Result<(), String> {
        let asked = self.end().asked;
        let Some(session) = self.session() else { return Ok(()) };
        let attached = session.link() == Some(link);
        let mut arrived = Vec::new();
        let result = session.handle_record(NOW, link, record, &mut arrived);
        if let Err(blame) = result {
            return Err(format!("P1 protocol: {blame}"));
        }
        if let (Some(asked), true, true) = (asked, attached, session.is_moving())
            && let Some(covers) = ticket_covers(record).filter(|covers| *covers != asked.covers)
        {
            return Err(format!("P13 promise: {covers} is covered, {asked:?} goes on"));
        }
        if arrived.is_empty() {
            return Ok(());
        }
        self.deliver(&arrived, if self.plan.lazy { 0 } else { usize::MAX })
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
                Output::ShutNear(ShutNear::Fin) => {
                    self.out.end.near.got_fin |= !self.memory.is_dead();
                }
                Output::ShutNear(ShutNear::Reset { code }) => {
                    self.end().near.got_reset = Some(code);
                }
                Output::Event(event) => self.event(&event),
                Output::Wait(_) => {
                    let blocked = !room && session.link().is_some();
                    self.end().blocked = blocked;
                    self.keep();
                    self.bury();
                    return Ok(());
                }
            }
        }
        Err("P7 goal: one event makes this end busy for ever".to_owned())
    }

    /// R100: before what was sent leaves. What has ended is put by no more.
    fn keep(&self) {
        let Some(session) = &self.out.end.session else { return };
        if !(self.out.end.is_broker() && self.out.end.closed.is_some()) {
            self.memory.put(session);
        }
    }

    fn send(&mut self, link: LinkId, frame: &[u8]) {
        let held = self.end().links.iter().find(|held| held.id == link).copied();
        if let Some(Held { wire: link, .. }) = held {
            if is_data(frame) {
                self.room = self.room.saturating_sub(u8::from(self.room != u8::MAX));
            }
            if let Ok(First::Connect(connect)) = first_frame(frame)
                && let ConnectMode::Transfer(request) = connect.mode
            {
                let (covers, down, up_sent) = (request.covers, request.down, request.up_sent);
                self.end().asked = Some(Asked { covers, down, up_sent });
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
        // R65: another server may be asked beside the attached link.
        if end.links.len() > 1 + usize::from(session.is_moving()) {
            return Err(format!("P8 one link: {} are held", end.links.len()));
        }
        self.check_moving(before)?;
        self.check_suspended(before, happening)
    }

    /// P13: what another server was promised is kept, and the session moves there only for that.
    fn check_moving(&self, before: &End) -> Result<(), String> {
        let end = &self.out.end;
        let (Some(was), Some(session)) = (&before.session, &end.session) else { return Ok(()) };
        let Some(asked) = end.asked else { return Ok(()) };
        let at = session.positions();
        if session.is_moving() && (at.una > asked.covers || at.max > asked.up_sent) {
            return Err(format!("P13 promise: {asked:?}, but {at:?}"));
        }
        let moved = was.is_moving() && !session.is_moving() && session.link() != was.link();
        let moved = moved && session.link().is_some();
        let compared = asked.down..was.positions().received;
        if moved && self.plan.differs.is_some_and(|at| compared.contains(&u64::from(at))) {
            return Err(format!("P13 promise: moved to a copy that differs in {compared:?}"));
        }
        Ok(())
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

/// What the ticket in a record covers.
fn ticket_covers(record: &[u8]) -> Option<u64> {
    let tickets = frames(record).filter_map(|frame| match frame {
        Ok(Frame::Ticket(ticket)) => Some(ticket.covers),
        _ => None,
    });
    tickets.last()
}
