//! Sessions at the broker and at the servers: each is run by the shipped driver, one turn after the
//! other, whenever something has happened to it.

use core::time::Duration;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Wake, Waker};

use stp_drive::{Command, Driver, Start, Turn};
use stp_proto::session::{ClosedWhy, Session};
use stp_proto::state::State;
use stp_proto::time::Instant;
use tokio::sync::mpsc;

use crate::check::Watch;
use crate::far::Far;
use crate::link::SimLink;
use crate::near::NearSide;
use crate::net::{BROKER, ConnId, Item, Owner, SERVER};
use crate::plan::Kind;
use crate::world::{Ev, Who, World};

/// Commands that may wait for a session's driver.
const INBOX_MAX: usize = 64;
/// A session that takes more turns than this at one moment will never come to rest.
const TURNS_MAX: u32 = 40_000;

/// Whether a session was woken during its turn.
#[derive(Default)]
pub struct Woken(AtomicBool);

impl Woken {
    /// Whether it was woken since this was asked last.
    pub fn take(&self) -> bool {
        self.0.swap(false, Ordering::Relaxed)
    }
}

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// A session with its near side and its links.
pub struct End {
    pub driver: Driver<NearSide, Far>,
    inbox: mpsc::Sender<Command<SimLink>>,
    armed: Option<Instant>,
    pub watch: Watch,
}

impl End {
    pub fn new(session: Session, near: NearSide, far: Far, start: Start<SimLink>) -> End {
        let (inbox, commands) = mpsc::channel(INBOX_MAX);
        let driver = Driver::new(session, near, far, commands, start, Arc::default());
        End { driver, inbox, armed: None, watch: Watch::default() }
    }

    pub fn session(&self) -> &Session {
        self.driver.session()
    }

    /// How the session closed, as its far side was told.
    pub fn closed(&mut self) -> Option<ClosedWhy> {
        self.driver.far().closed
    }
}

impl World {
    fn take(&mut self, who: Who) -> Option<End> {
        self.ends.get_mut(&who)?.take()
    }

    pub fn end(&self, who: Who) -> Option<&End> {
        self.ends.get(&who)?.as_ref()
    }

    pub fn end_mut(&mut self, who: Who) -> Option<&mut End> {
        self.ends.get_mut(&who)?.as_mut()
    }

    /// The sessions that a server holds.
    pub fn sessions_of(&self, server: usize) -> Vec<Who> {
        let here = |who: &&Who| matches!(who, Who::Server(at, _) if *at == server);
        self.ends.keys().filter(here).copied().collect()
    }

    /// Tells a session's driver something and lets it go on.
    pub fn tell_end(&mut self, who: Who, command: Command<SimLink>) {
        let Some(end) = self.end(who) else { return };
        self.say(|_| format!("{who:?} is told: {}", describe(&command)));
        // A daemon drops a command as well if the queue of its session is full.
        let _full = end.inbox.try_send(command);
        self.run_end(who);
    }

    pub fn wake(&mut self, who: Who) {
        let now = self.now;
        let Some(end) = self.end_mut(who) else { return };
        if end.armed.is_some_and(|at| at <= now) {
            end.armed = None;
        }
        self.run_end(who);
    }

    /// The near side of a session may do more than it says it can.
    pub fn poke(&mut self, who: Who) {
        if let Some(end) = self.end_mut(who) {
            end.driver.near().poke();
        }
        self.run_end(who);
    }

    /// Lets a session take turns until nothing is ready at this moment.
    pub fn run_end(&mut self, who: Who) {
        let Some(mut end) = self.take(who) else { return };
        self.maybe_suspend(who, &mut end);
        let woken = Arc::new(Woken::default());
        let waker = Waker::from(Arc::clone(&woken));
        let mut cx = Context::from_waker(&waker);
        let mut turns = 0;
        let waits = loop {
            turns += 1;
            assert!(turns < TURNS_MAX, "{who:?} never comes to rest: {:?}", end.session());
            self.broker.borrow_mut().now = self.now;
            match end.driver.turn(self.now, &mut cx) {
                Turn::Again => {}
                Turn::Waits(_) if woken.take() => {}
                Turn::Waits(at) => break at,
                Turn::Over(reason) => return self.retire(who, end, &reason),
            }
        };
        self.check_end(who, &mut end);
        if let Some(next) = waits {
            let next = next.max(self.now + Duration::from_micros(1));
            let late = u64::try_from(self.plan.late.as_micros()).unwrap_or(0);
            if end.armed.is_none_or(|armed| armed > next) {
                let next = next + Duration::from_micros(self.random.below(late + 1));
                end.armed = Some(next);
                self.at(next, Ev::Wake(who));
            }
        }
        self.ends.insert(who, Some(end));
        if let Who::Broker(number) = who {
            self.check_pair(number);
        }
    }

    /// Users suspend and resume at any moment.
    fn maybe_suspend(&mut self, who: Who, end: &mut End) {
        if !self.plan.has(Kind::Suspend) || self.mended || !self.random.one_in(128) {
            return;
        }
        let halted = end.session().state() == State::Suspended;
        let command = if halted { Command::Resume } else { Command::Suspend { lasts: None } };
        self.counts.faults += 1;
        self.say(|_| format!("{who:?} is told: {}", describe(&command)));
        let _full = end.inbox.try_send(command);
        if !halted {
            let pause = self.random.millis(1, 120_000);
            self.after(pause, Ev::Resume(who));
        }
    }

    // Links.

    /// Something is due on a connection.
    pub fn arrive(&mut self, id: ConnId, way: usize) {
        let side = 1 - way;
        let Some((server, owner)) = self.net().conns.get(&id).map(|c| (c.server, c.owner[side]))
        else {
            return;
        };
        match (owner, side) {
            (Owner::Parked, _) => {}
            (Owner::Nobody, _) => {
                let mut net = self.net();
                while net.due(id, way).is_some() {}
            }
            (Owner::Spare, BROKER) => {
                let due = self.net().due(id, way);
                if due.is_some() {
                    self.drop_spare(id);
                }
            }
            (Owner::Spare, _) => {
                let due = self.net().due(id, way);
                match due {
                    Some(Item::Record(record)) => self.dispatch(server, id, record),
                    Some(Item::End) => self.net().close(id, SERVER, false),
                    None => {}
                }
            }
            (Owner::Session(number), _) => {
                let who = Who::at(side, server, number);
                let record = self.net().is_record_due(id, way);
                if let Some(end) = self.end_mut(who) {
                    end.watch.heard |= record;
                }
                self.run_end(who);
            }
        }
    }

    /// Where there is room again, the senders that waited for it go on.
    pub fn use_room(&mut self, id: ConnId, way: usize) {
        let Some((server, owner)) = self.net().conns.get(&id).map(|c| (c.server, c.owner[way]))
        else {
            return;
        };
        if let Owner::Session(number) = owner {
            self.at(self.now, Ev::Wake(Who::at(way, server, number)));
        }
    }

    /// A session is over and dropped.
    fn retire(&mut self, who: Who, mut end: End, reason: &str) {
        self.say(|_| format!("{who:?}: over, {reason}"));
        self.ends.remove(&who);
        let left = end.session().undelivered();
        assert_eq!(left, 0, "{who:?} is over before its near side has everything");
        self.counts.resumed += end.driver.far().resumed;
        self.counts.moved += end.driver.far().moved;
        match who {
            Who::Broker(number) => self.broker_session_over(number, end),
            Who::Server(server, _) => self.server_session_over(server, &mut end),
        }
    }
}

/// A command in a few words.
fn describe(command: &Command<SimLink>) -> String {
    match command {
        Command::Attach { link, .. } => format!("attach {}", link.conn),
        Command::PathChanged => "the path changed".to_owned(),
        Command::Retry => "retry".to_owned(),
        Command::Stay(reason) => format!("stay, {reason}"),
        Command::AskTransfer { reason, .. } => format!("ask to be left, {reason}"),
        Command::UserTimeout(_) => "patience".to_owned(),
        Command::Suspend { .. } => "suspend".to_owned(),
        Command::Resume => "resume".to_owned(),
        Command::GiveUp => "be given up".to_owned(),
        Command::Freeze(_) => "freeze".to_owned(),
        Command::Thaw => "thaw".to_owned(),
        Command::Leave => "leave".to_owned(),
        Command::Abort { code } => format!("abort, {code}"),
    }
}
