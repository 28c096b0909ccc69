//! One end of the world: a session, its near side, and what its daemon holds for it. The session is
//! the shipped one. What an event does to an end is in `act.rs`.

use std::cell::Cell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Once;

use stp_proto::handle::Handle;
use stp_proto::session::{ClosedWhy, Detach, LinkId, Mutant, Session, Timer};
use stp_proto::state::State;
use stp_proto::time::Instant;
use stp_proto::wire::ResumeDenial;

use crate::act::Act;
use crate::kept::Kept;
use crate::plan::Plan;

/// The clock of the model stands still.
pub const NOW: Instant = Instant(0);
/// SH_A.
pub const SH_A: Handle = Handle([0xaa; 16]);

/// The byte at a position of a stream. Neighbours differ, so do the directions.
/// A copy that differs has [`other_byte`] there.
pub fn byte(up: bool, position: u64) -> u8 {
    let position = u8::try_from(position).expect("runs are of a few bytes");
    if up { position + 1 } else { 0x80 + position }
}

/// What a copy of the service's stream has in place of the right byte.
pub fn other_byte(position: u64) -> u8 {
    byte(false, position) ^ 0x40
}

/// Which end it is.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum Role {
    Broker,
    Server(u8),
}

/// What happens to an end.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum Happening {
    /// A frame comes in. `message` is a number in the world's pool; `more`: the driver reads on
    /// before it carries out what the session wants.
    Record {
        link: u8,
        message: u32,
        more: bool,
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
    /// The broker wants another server, though this one works.
    Leave,
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

/// What another server was told when it was asked beside the attached link.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct Asked {
    pub covers: u64,
    pub down: u64,
    pub up_sent: u64,
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
    pub restarts: u8,
}

/// One end.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct End {
    pub role: Role,
    pub session: Option<Session>,
    pub near: Near,
    /// What the next process would find.
    pub kept: Option<Kept>,
    /// How the session ended.
    pub closed: Option<ClosedWhy>,
    /// Server: the answer to a RESUME that comes after the end.
    pub tomb: Option<(Handle, u32, ResumeDenial)>,
    /// The links the driver holds for the session.
    pub links: Vec<Held>,
    /// The number the driver gives to the next link.
    pub next: u8,
    /// Broker: a dial is under way.
    pub dialing: bool,
    /// Broker: the server that holds the session.
    pub home: u8,
    /// Broker: the home server does not know the session any more.
    pub leave: bool,
    /// Broker: the next link is to lead to the other server.
    pub elsewhere: bool,
    /// Broker: what the other server was told.
    pub asked: Option<Asked>,
    /// The link took no more DATA.
    pub blocked: bool,
    /// Frames handled since the session was last asked what it wants.
    pub unasked: u8,
    /// Sessions begun here, and the epoch the last one began with.
    pub lives: u8,
    pub begun: u32,
    /// The user, or the near side, of this end wanted the session to end.
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
            kept: (plan.restarts[side] > 0).then(Kept::default),
            closed: None,
            tomb: None,
            links: Vec::new(),
            next: 0,
            dialing: false,
            home: 0,
            leave: false,
            elsewhere: false,
            asked: None,
            blocked: false,
            unasked: 0,
            lives: 0,
            begun: 0,
            aborted: false,
            gave_up: false,
            left: Allowance {
                cuts: plan.cuts[side],
                suspends: plan.suspends[side],
                aborts: plan.aborts[side],
                restarts: plan.restarts[side],
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

    /// The link that is not read for now (R66), by the world's number.
    pub fn paused(&self) -> Option<u8> {
        let id = self.session.as_ref()?.paused()?;
        self.links.iter().find(|held| held.id == id).map(|held| held.wire)
    }

    pub fn hold(&mut self, wire: u8, server: u8) -> LinkId {
        let id = LinkId(self.next.into());
        self.next += 1;
        self.links.push(Held { wire, id, server });
        id
    }

    pub fn held(&self, wire: u8) -> Option<LinkId> {
        self.links.iter().find(|held| held.wire == wire).map(|held| held.id)
    }

    pub fn let_go(&mut self, id: LinkId) -> Option<u8> {
        let at = self.links.iter().position(|held| held.id == id)?;
        Some(self.links.remove(at).wire)
    }

    pub fn is_broker(&self) -> bool {
        self.role == Role::Broker
    }

    pub fn state(&self) -> Option<State> {
        self.session.as_ref().map(Session::state)
    }

    /// What can happen here without a fault.
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

    /// The effect of `happening`, or the property that it breaks.
    pub fn step(
        &self,
        plan: &Plan,
        happening: Happening,
        record: &[u8],
        room: u8,
    ) -> Result<Outcome, String> {
        self.caught(plan, || {
            Act::new(plan, self.clone(), room, u8::MAX).run(self, happening, record)
        })
    }

    /// Does something with the plan's mistake; a panic is an error.
    pub fn caught<T>(
        &self,
        plan: &Plan,
        act: impl FnOnce() -> Result<T, String>,
    ) -> Result<T, String> {
        quiet_panics();
        Mutant::set(plan.mutant);
        QUIET.set(true);
        let result = catch_unwind(AssertUnwindSafe(act));
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

/// Whether the frame is DATA.
pub fn is_data(frame: &[u8]) -> bool {
    frame.first() == Some(&4)
}
