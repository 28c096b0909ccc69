//! The world: a broker, one or two servers and the network between them; all that can happen, and
//! what must hold.

use std::fmt::Write;

use stp_proto::session::{ClosedWhy, Timer};
use stp_proto::state::State;
use stp_proto::wire::frames;

use crate::end::{Effect, End, Happening, is_data};
use crate::explore::{Model, Step};
use crate::net::{Actor, Change, Net, Touch};
use crate::plan::Plan;
use crate::pool::{Map, Pool};

/// A state: broker, servers and network, by number.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct Key {
    broker: u32,
    servers: [u32; 2],
    net: u32,
}

impl Key {
    fn with(mut self, actor: Actor, end: u32) -> Key {
        match actor {
            Actor::Broker => self.broker = end,
            Actor::Server(number) => self.servers[usize::from(number)] = end,
        }
        self
    }
}

/// What leads from one state to the next.
#[derive(Copy, Clone, Debug)]
pub enum Label {
    At(Actor, Happening),
    /// The process dies meanwhile, having stored so often.
    Died(Actor, Happening, u8),
    /// A server's listener drops a link that never said anything.
    Dropped(u8),
    Changed(Change),
}

/// What an end did, remembered.
#[derive(Copy, Clone)]
enum Memo {
    Done { end: u32, touches: u32 },
    Broken(u32),
}

/// What is known of an end.
struct Known {
    wishes: Vec<Happening>,
    attached: Option<u8>,
    /// A link that is not read for now (R66).
    paused: Option<u8>,
}

/// No run of a few faults needs more links.
const LINKS_MAX: u8 = 14;

/// The world.
pub struct World {
    pub plan: Plan,
    ends: Pool<End>,
    known: Vec<Known>,
    nets: Pool<Net>,
    messages: Pool<Vec<u8>>,
    touches: Pool<Vec<Touch>>,
    errors: Pool<String>,
    memos: Map<(u32, Happening, u8), Memo>,
    /// The next processes of ends that die.
    lives: Map<(u32, Happening, u8), Option<Memo>>,
    changes: Map<(u32, Change), u32>,
    touched: Map<(u32, Actor, u32), Memo>,
}

impl World {
    pub fn new(plan: Plan) -> World {
        World {
            plan,
            ends: Pool::new(),
            known: Vec::new(),
            nets: Pool::new(),
            messages: Pool::new(),
            touches: Pool::new(),
            errors: Pool::new(),
            memos: Map::default(),
            lives: Map::default(),
            changes: Map::default(),
            touched: Map::default(),
        }
    }

    fn put_end(&mut self, end: End) -> u32 {
        let (number, new) = self.ends.put(end);
        if new {
            let end = &self.ends[number];
            self.known.push(Known {
                wishes: end.wishes(&self.plan),
                attached: end.attached(),
                paused: end.paused(),
            });
        }
        number
    }

    fn change(&mut self, net: u32, change: Change) -> u32 {
        if let Some(known) = self.changes.get(&(net, change)) {
            return *known;
        }
        let next = self.nets.put(self.nets[net].change(change)).0;
        self.changes.insert((net, change), next);
        next
    }

    /// What an end does with `happening`.
    fn act(&mut self, end: u32, happening: Happening, room: u8) -> Memo {
        if let Some(memo) = self.memos.get(&(end, happening, room)) {
            return *memo;
        }
        let record: &[u8] = match happening {
            Happening::Record { message, .. } => &self.messages[message],
            _ => &[],
        };
        let memo = match self.ends[end].step(&self.plan, happening, record, room) {
            Err(what) => Memo::Broken(self.errors.put(what).0),
            Ok(outcome) => {
                let messages = &mut self.messages;
                let touches = outcome.effects.into_iter().map(|effect| match effect {
                    Effect::Send { link, frame } => {
                        Touch::Send { link, message: messages.put(frame).0 }
                    }
                    Effect::Detach { link, how } => Touch::Detach { link, how },
                });
                let touches = self.touches.put(touches.collect()).0;
                Memo::Done { end: self.put_end(outcome.end), touches }
            }
        };
        self.memos.insert((end, happening, room), memo);
        memo
    }

    /// The next process of an end that dies while something happens to it.
    fn die(&mut self, end: u32, happening: Happening, stores: u8) -> Option<Memo> {
        if let Some(memo) = self.lives.get(&(end, happening, stores)) {
            return *memo;
        }
        let record: &[u8] = match happening {
            Happening::Record { message, .. } => &self.messages[message],
            _ => &[],
        };
        let memo = match self.ends[end].dies(&self.plan, happening, record, stores) {
            Err(what) => Some(Memo::Broken(self.errors.put(what).0)),
            Ok(next) => next.map(|end| Memo::Done { end: self.put_end(end), touches: 0 }),
        };
        self.lives.insert((end, happening, stores), memo);
        memo
    }

    /// The process of an end may die at any store while something happens to it.
    fn deaths(
        &mut self,
        key: Key,
        net: u32,
        (actor, happening): (Actor, Happening),
        out: &mut Vec<Step<Key, Label>>,
    ) {
        let end = World::end_of(key, actor);
        if self.ends[end].left.restarts == 0 || self.ends[end].session.is_none() {
            return;
        }
        let net = self.change(net, Change::Die { actor });
        for stores in 0.. {
            let to = match self.die(end, happening, stores) {
                None => break,
                Some(Memo::Broken(what)) => Err(self.errors[what].clone()),
                Some(Memo::Done { end, .. }) => Ok(Key { net, ..key }.with(actor, end)),
            };
            out.push(Step { to, free: false, label: Label::Died(actor, happening, stores) });
        }
    }

    fn touch(&mut self, net: u32, actor: Actor, touches: u32) -> Memo {
        if let Some(memo) = self.touched.get(&(net, actor, touches)) {
            return *memo;
        }
        let replays = self.plan.replays > 0;
        let memo = match self.nets[net].touch(actor, &self.touches[touches], replays) {
            Err(what) => Memo::Broken(self.errors.put(what).0),
            Ok(next) => Memo::Done { end: self.nets.put(next).0, touches: 0 },
        };
        self.touched.insert((net, actor, touches), memo);
        memo
    }

    fn end_of(key: Key, actor: Actor) -> u32 {
        match actor {
            Actor::Broker => key.broker,
            Actor::Server(number) => key.servers[usize::from(number)],
        }
    }

    /// DATA frames that the attached link of an end still takes.
    fn room(&self, net: u32, actor: Actor, end: u32) -> u8 {
        if self.plan.pipe == u8::MAX {
            return u8::MAX;
        }
        let attached = self.known[end as usize].attached;
        let wire = self.nets[net].wires.iter().find(|wire| Some(wire.id) == attached);
        let Some(wire) = wire else { return self.plan.pipe };
        let lane = wire.outgoing(actor).frames.iter();
        let data = lane.filter(|message| is_data(&self.messages[**message])).count();
        self.plan.pipe.saturating_sub(u8::try_from(data).unwrap_or(u8::MAX))
    }

    /// The state after `happening` at an end, the network being `net` by then.
    fn after(
        &mut self,
        key: Key,
        net: u32,
        actor: Actor,
        happening: Happening,
    ) -> Result<Key, String> {
        let end = World::end_of(key, actor);
        let room = self.room(net, actor, end);
        let (end, touches) = match self.act(end, happening, room) {
            Memo::Done { end, touches } => (end, touches),
            Memo::Broken(what) => return Err(self.errors[what].clone()),
        };
        let net = match self.touch(net, actor, touches) {
            Memo::Done { end: net, .. } => net,
            Memo::Broken(what) => return Err(self.errors[what].clone()),
        };
        Ok(Key { net, ..key }.with(actor, end))
    }

    fn broker(&self, key: Key) -> &End {
        &self.ends[key.broker]
    }

    /// The server that holds the session.
    fn home(&self, key: Key) -> &End {
        let home = self.broker(key).home;
        &self.ends[key.servers[usize::from(home)]]
    }

    /// A user wanted the session to end, or a server forgot it.
    fn harmed(&self, key: Key) -> bool {
        let ends = [key.broker, key.servers[0], key.servers[1]];
        ends.iter().any(|end| self.ends[*end].aborted) || self.is_cut_off(key)
    }

    /// An end cannot know any more how the other one ended.
    fn is_cut_off(&self, key: Key) -> bool {
        let ends = [key.broker, key.servers[0], key.servers[1]];
        ends.iter().any(|end| self.ends[*end].gave_up)
            || self.nets[key.net].left.crashes < self.plan.crashes
    }

    fn link_steps(&mut self, key: Key, out: &mut Vec<Step<Key, Label>>) {
        for index in 0..self.nets[key.net].wires.len() {
            let wire = &self.nets[key.net].wires[index];
            let (link, server) = (wire.id, Actor::Server(wire.server));
            let fresh = wire.server_end == crate::net::Stage::Fresh;
            let looks = [Actor::Broker, server]
                .map(|actor| (actor, wire.can_read(actor), wire.can_lose(actor)));
            let paused = self.known[key.broker as usize].paused == Some(link);
            for (actor, read, lose) in looks {
                if paused && actor == Actor::Broker {
                    continue;
                }
                if let Some(message) = read {
                    let net = self.change(key.net, Change::Pop { link, actor });
                    let end = World::end_of(key, actor);
                    let reads_on = !fresh || actor == Actor::Broker;
                    let batch = reads_on && self.ends[end].unasked < self.plan.batch;
                    for more in [false, true].into_iter().take(1 + usize::from(batch)) {
                        let happening = Happening::Record { link, message, more };
                        let to = self.after(key, net, actor, happening);
                        out.push(Step { to, free: true, label: Label::At(actor, happening) });
                        if !more {
                            self.deaths(key, net, (actor, happening), out);
                        }
                    }
                }
                if lose {
                    let net = self.change(key.net, Change::Lose { link, actor });
                    if actor != Actor::Broker && fresh {
                        let to = Ok(Key { net, ..key });
                        out.push(Step { to, free: true, label: Label::Dropped(link) });
                        continue;
                    }
                    let happening = Happening::LinkLost { link };
                    let to = self.after(key, net, actor, happening);
                    out.push(Step { to, free: true, label: Label::At(actor, happening) });
                }
            }
        }
    }

    /// A link that was dialed.
    fn dial_steps(&mut self, key: Key, out: &mut Vec<Step<Key, Label>>) {
        let broker = self.broker(key);
        // Where a link leads is told against the server that has the session by then: a driver
        // carries out what it read before it takes a new link.
        if !broker.dialing || broker.unasked > 0 {
            return;
        }
        let other = 1 - broker.home;
        let transferable =
            broker.session.as_ref().is_some_and(|session| session.transferable().is_ok());
        let server = if broker.leave || broker.elsewhere { other } else { broker.home };
        let link = self.nets[key.net].next;
        if link == LINKS_MAX {
            let to = Err("P7 goal: links are dialed for ever".to_owned());
            let label = Label::Changed(Change::Dial { server });
            out.push(Step { to, free: true, label });
            return;
        }
        let net = self.change(key.net, Change::Dial { server });
        self.push(key, net, Actor::Broker, Happening::LinkUp { link, server }, true, out);
        if self.nets[key.net].left.moves > 0 && transferable {
            let net = self.change(key.net, Change::Move { server: other });
            let happening = Happening::LinkUp { link, server: other };
            self.push(key, net, Actor::Broker, happening, false, out);
        }
        if self.nets[key.net].left.faults > 0 {
            let net = self.change(key.net, Change::Fault);
            self.push(key, net, Actor::Broker, Happening::DialFailed, false, out);
        }
    }

    fn push(
        &mut self,
        key: Key,
        net: u32,
        actor: Actor,
        happening: Happening,
        free: bool,
        out: &mut Vec<Step<Key, Label>>,
    ) {
        let to = self.after(key, net, actor, happening);
        out.push(Step { to, free, label: Label::At(actor, happening) });
        self.deaths(key, net, (actor, happening), out);
    }

    /// What an end does without an event from outside.
    fn own_steps(&mut self, key: Key, actor: Actor, out: &mut Vec<Step<Key, Label>>) {
        let end = World::end_of(key, actor);
        if self.ends[end].session.is_none() {
            return;
        }
        let faults = self.nets[key.net].left.faults > 0;
        let waits = self.ends[end].blocked && self.room(key.net, actor, end) > 0;
        if waits || self.ends[end].unasked > 0 {
            self.push(key, key.net, actor, Happening::Room, true, out);
        }
        for index in 0..self.known[end as usize].wishes.len() {
            let happening = self.known[end as usize].wishes[index];
            let Happening::Timer(timer) = happening else {
                let free = matches!(
                    happening,
                    Happening::Write | Happening::Read | Happening::Fin | Happening::Resume
                );
                self.push(key, key.net, actor, happening, free, out);
                continue;
            };
            if self.is_timely(key, end, timer) {
                self.push(key, key.net, actor, happening, true, out);
            } else if faults && is_long(timer) {
                let net = self.change(key.net, Change::Fault);
                self.push(key, net, actor, happening, false, out);
            }
        }
        if actor == Actor::Broker && self.nets[key.net].left.moves > 0 && self.may_leave(end) {
            let net = self.change(key.net, Change::Leave);
            self.push(key, net, actor, Happening::Leave, false, out);
        }
        if actor == Actor::Broker && faults && !self.ends[end].dialing {
            let net = self.change(key.net, Change::Fault);
            self.push(key, net, actor, Happening::PathChanged, false, out);
        }
    }

    /// Whether a broker may want another server though it has one that works.
    fn may_leave(&self, end: u32) -> bool {
        let broker = &self.ends[end];
        let may = broker.session.as_ref().is_some_and(|session| {
            session.link().is_some() && !session.is_moving() && session.transferable().is_ok()
        });
        self.plan.beside && may && !broker.dialing && broker.unasked == 0
    }

    /// Whether a timer may expire without anything being wrong.
    fn is_timely(&self, key: Key, end: u32, timer: Timer) -> bool {
        match timer {
            Timer::Ack => self.plan.ack_timer,
            // What a user does, too, by Happening::Resume.
            Timer::Wake => true,
            Timer::Checkpoint => self.ends[end].left.cuts > 0,
            // The slow probe of a side that waits: the other's user comes back first.
            Timer::Retry => self.home(key).state() != Some(State::Suspended),
            Timer::Attempt | Timer::Hold | Timer::Closing | Timer::LastWord | Timer::Trim => false,
        }
    }

    /// Nothing else can happen: then the long timers run out.
    fn last_resorts(&mut self, key: Key, out: &mut Vec<Step<Key, Label>>) {
        let cut_off = self.is_cut_off(key);
        for actor in [Actor::Broker, Actor::Server(0), Actor::Server(1)] {
            let end = World::end_of(key, actor);
            for index in 0..self.known[end as usize].wishes.len() {
                let happening = self.known[end as usize].wishes[index];
                let Happening::Timer(timer) = happening else { continue };
                // An attempt that was given up may still open a session; it ends by itself.
                let orphan =
                    self.ends[end].session.as_ref().is_some_and(|session| !session.is_confirmed());
                let held = timer == Timer::Hold && (cut_off || orphan);
                if is_long(timer) && timer != Timer::Retry || held {
                    self.push(key, key.net, actor, happening, true, out);
                }
            }
        }
    }

    fn fault_steps(&mut self, key: Key, out: &mut Vec<Step<Key, Label>>) {
        let left = self.nets[key.net].left.clone();
        let mut changes = Vec::new();
        if left.faults > 0 {
            let wires = self.nets[key.net].wires.iter();
            let whole = wires.filter(|wire| !(wire.cut || wire.up.loose && wire.down.loose));
            changes.extend(whole.map(|wire| Change::Cut { link: wire.id }));
        }
        if left.replays > 0 {
            let count = u8::try_from(self.nets[key.net].firsts.len()).expect("a few are kept");
            changes.extend((0..count).map(|index| Change::Replay { index }));
        }
        for change in changes {
            let to = Ok(Key { net: self.change(key.net, change), ..key });
            out.push(Step { to, free: false, label: Label::Changed(change) });
        }
        for actor in [Actor::Broker, Actor::Server(0), Actor::Server(1)] {
            self.deaths(key, key.net, (actor, Happening::Room), out);
        }
        if left.crashes > 0 {
            for server in 0..2u8 {
                let end = &self.ends[key.servers[usize::from(server)]];
                if end.session.is_some() || end.tomb.is_some() {
                    let change = Change::Crash { server };
                    let end = self.put_end(end.crashed(&self.plan));
                    let mut next = Key { net: self.change(key.net, change), ..key };
                    next.servers[usize::from(server)] = end;
                    out.push(Step { to: Ok(next), free: false, label: Label::Changed(change) });
                }
            }
        }
    }

    /// Connects before the run begins, if the plan says so.
    fn connect_first(&mut self, mut key: Key) -> Key {
        let mut steps = Vec::new();
        // A dial, CONNECT, CONNECT_OK and what follows it.
        for _ in 0..8 {
            steps.clear();
            self.dial_steps(key, &mut steps);
            self.link_steps(key, &mut steps);
            let Some(step) = steps.iter().find(|step| step.free) else { break };
            key = step.to.clone().expect("nothing has gone wrong yet");
        }
        key
    }
}

/// Timers that expire only when something is wrong.
fn is_long(timer: Timer) -> bool {
    matches!(timer, Timer::Attempt | Timer::Closing | Timer::LastWord | Timer::Retry)
}

impl Model for World {
    type Key = Key;
    type Label = Label;

    fn start(&mut self) -> Key {
        let broker = End::broker(&self.plan).after_start(&self.plan);
        let broker = self.put_end(broker);
        let servers = [0, 1].map(|number| self.put_end(End::server(&self.plan, number)));
        let net = self.nets.put(Net::new(&self.plan)).0;
        let key = Key { broker, servers, net };
        if self.plan.established { self.connect_first(key) } else { key }
    }

    fn steps(&mut self, key: Key, out: &mut Vec<Step<Key, Label>>) {
        self.link_steps(key, out);
        self.dial_steps(key, out);
        for actor in [Actor::Broker, Actor::Server(0), Actor::Server(1)] {
            self.own_steps(key, actor, out);
        }
        if !out.iter().any(|step| step.free && step.to != Ok(key)) {
            self.last_resorts(key, out);
        }
        self.fault_steps(key, out);
    }

    fn broken(&mut self, key: Key) -> Option<String> {
        let (broker, home) = (self.broker(key), self.home(key));
        crate::property::of_both(broker, home)
            .or_else(|| crate::property::of_rounds(broker, home, &self.nets[key.net]))
            .or_else(|| crate::property::of_ending(&self.plan, broker, home, self.harmed(key)))
    }

    fn is_goal(&mut self, key: Key) -> bool {
        let (broker, home) = (self.broker(key), self.home(key));
        if broker.session.is_some() || home.session.is_some() {
            return false;
        }
        if self.harmed(key) {
            let near = &broker.near;
            return near.got_reset.is_some() || near.gone || near.got_fin;
        }
        let clean = |end: &End, bytes: u8| {
            end.closed == Some(ClosedWhy::Clean)
                && end.near.got == u64::from(bytes)
                && end.near.got_fin
        };
        clean(broker, self.plan.down) && clean(home, self.plan.up)
    }

    fn describe(&mut self, key: Key, label: Label) -> String {
        match label {
            Label::At(actor, happening) => {
                let mut line = format!("{actor:?}: ");
                match happening {
                    Happening::Record { link, message, .. } => {
                        let _ = write!(line, "reads from link {link}: ");
                        line.push_str(&text(&self.messages[message]));
                    }
                    other => {
                        let _ = write!(line, "{other:?}");
                    }
                }
                let end = World::end_of(key, actor);
                let room = self.plan.pipe;
                if let Memo::Done { touches, .. } = self.act(end, happening, room) {
                    for touch in &self.touches[touches] {
                        match touch {
                            Touch::Send { link, message } => {
                                let frame = text(&self.messages[*message]);
                                let _ = write!(line, "\n        sends on link {link}: {frame}");
                            }
                            Touch::Detach { link, how } => {
                                let _ = write!(line, "\n        leaves link {link}: {how:?}");
                            }
                        }
                    }
                }
                line
            }
            Label::Died(actor, happening, stores) => {
                format!("{actor:?} dies in {happening:?}, having stored {stores} times")
            }
            Label::Dropped(link) => format!("the listener drops link {link}"),
            Label::Changed(change) => format!("network: {change:?}"),
        }
    }

    fn show(&mut self, key: Key) -> String {
        let mut text = String::from("state:");
        let ends = [("broker", key.broker), ("server 0", key.servers[0])];
        for (name, end) in ends.into_iter().chain(
            (self.plan.replayable || self.plan.moves > 0).then_some(("server 1", key.servers[1])),
        ) {
            let end = &self.ends[end];
            let _ = write!(text, "\n  {name}: near {:?}, closed {:?}", end.near, end.closed);
            if let Some(session) = &end.session {
                let timers: Vec<_> = session.timers().collect();
                let _ = write!(
                    text,
                    "\n    {} epoch {} link {:?} {:?}\n    {:?}\n    timers {timers:?}",
                    session.state(),
                    session.epoch(),
                    session.link(),
                    session.positions(),
                    session.cuts(),
                );
            }
        }
        let net = &self.nets[key.net];
        for wire in &net.wires {
            let _ = write!(
                text,
                "\n  link {} to server {}{}: broker {:?}, server {:?}",
                wire.id,
                wire.server,
                if wire.cut { " (cut)" } else { "" },
                wire.broker_end,
                wire.server_end
            );
            for (name, lane) in [("up", &wire.up), ("down", &wire.down)] {
                for frame in &lane.frames {
                    let frame = crate::world::text(&self.messages[*frame]);
                    let _ = write!(text, "\n    {name}: {frame}");
                }
            }
        }
        let _ = write!(text, "\n  left: {:?}", net.left);
        text
    }
}

/// A frame for a person.
fn text(record: &[u8]) -> String {
    let mut text = String::new();
    for frame in frames(record) {
        let _ = match frame {
            Ok(frame) => write!(text, "{}", short(&format!("{frame:?}"))),
            Err(error) => write!(text, "{error}"),
        };
    }
    text
}

/// Handles and wrappers cost more room than they say.
fn short(text: &str) -> String {
    let text = text.replace(&format!("{:?}", crate::end::SH_A), "A");
    ["Handle(", "ResumeFrame ", "Report ", "Some(Cut ", "Cut "].iter().fold(text, |text, noise| {
        text.replace(
            noise,
            match *noise {
                "Handle(" => "B(",
                "Some(Cut " => "Some(",
                _ => "",
            },
        )
    })
}
