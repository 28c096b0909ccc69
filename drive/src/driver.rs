//! The loop's core: one turn takes what is ready, hands it to the session, and carries out what the
//! session says. It never waits and never asks for the time, so that it can be stepped by a test.

use std::future::Future;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use stp_net::link::Link;
use stp_proto::liveness::{Last, Liveness};
use stp_proto::mutant;
use stp_proto::rate::RecentRate;
use stp_proto::session::{Detach, Event, Input, LinkId, Output, Session, ShutNear, code};
use stp_proto::time::Instant;
use stp_proto::wire::{self, First};
use tokio::sync::mpsc;

use crate::carrier::Carrier;
use crate::command::Command;
use crate::far::{Act, Far};
use crate::links::Links;
use crate::near::{Near, Pulled};
use crate::published::Published;
use crate::stake::Stake;
use crate::status::{SessionStatus, closed_reason};

/// The session's name for the link that [`Start::Link`] brings.
pub const FIRST_LINK: LinkId = LinkId(0);

/// How a session's loop begins.
pub enum Start<L = Link> {
    /// With nothing: the session will ask for a link, or waits for one.
    Unlinked,
    /// With a link on which the session was opened, known to the session as [`FIRST_LINK`].
    Link(Box<L>),
}

/// The result of one turn.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Turn {
    /// Something happened; there may be more to do at once.
    Again,
    /// Nothing is ready. Take a turn again at this time, or when a waker is woken.
    Waits(Option<Instant>),
    /// The session is over, for this reason. The near side is shut.
    Over(String),
}

/// A session with its two sides and its links.
pub struct Driver<N, F: Far> {
    pub(crate) session: Session,
    pub(crate) near: N,
    pub(crate) far: F,
    pub(crate) links: Links<F::Link>,
    inbox: mpsc::Receiver<Command<F::Link>>,
    pub(crate) status: Arc<SessionStatus>,
    dialing: Option<F::Dialing>,
    /// The near side may still send.
    near_open: bool,
    /// The near side is left alone: what there is of the session is being carried elsewhere.
    frozen: bool,
    frame: Vec<u8>,
    /// The records that came on a link after the session's end. They are for the next session on
    /// it.
    next_words: Vec<Vec<u8>>,
    pub(crate) published: Published,
    closed: Option<String>,
    wake: Wake<F::Link, F::Found>,
    /// The first turn was taken.
    begun: bool,
    /// When the session must be told that time has passed.
    due: Option<Instant>,
    /// When the next numbers are published.
    publish_at: Option<Instant>,
    /// When the far side wants the session to ask for a link again.
    retry_at: Option<Instant>,
    pub(crate) liveness: Liveness,
    /// Links that were closed in this turn, and what the kernel knew of them.
    pub(crate) closed_links: Vec<(LinkId, Last)>,
    /// The rate at which it is used to receive.
    pub(crate) rate: RecentRate,
    pub(crate) stake: Stake,
}

/// What is ready at the beginning of a turn. Several may be at once.
struct Wake<L, D> {
    readable: Vec<LinkId>,
    /// A link with something to send takes bytes again; `carry_out` flushes it.
    writable: bool,
    near_readable: bool,
    near_writable: bool,
    dialed: Option<D>,
    act: Option<Act>,
    command: Option<Command<L>>,
    deadline: bool,
}

impl<L, D> Default for Wake<L, D> {
    fn default() -> Wake<L, D> {
        Wake {
            readable: Vec::new(),
            writable: false,
            near_readable: false,
            near_writable: false,
            dialed: None,
            act: None,
            command: None,
            deadline: false,
        }
    }
}

impl<L, D> Wake<L, D> {
    fn any(&self) -> bool {
        !self.readable.is_empty()
            || self.writable
            || self.near_readable
            || self.near_writable
            || self.dialed.is_some()
            || self.act.is_some()
            || self.command.is_some()
            || self.deadline
    }
}

impl<N: Near, F: Far> Driver<N, F> {
    /// A session that has not taken a turn yet.
    pub fn new(
        session: Session,
        near: N,
        far: F,
        inbox: mpsc::Receiver<Command<F::Link>>,
        start: Start<F::Link>,
        status: Arc<SessionStatus>,
    ) -> Driver<N, F> {
        let mut links = Links::default();
        if let Start::Link(link) = start {
            links.add(*link);
        }
        Driver {
            session,
            near,
            far,
            links,
            inbox,
            status,
            dialing: None,
            near_open: true,
            frozen: false,
            frame: Vec::with_capacity(wire::FRAME_MAX),
            next_words: Vec::new(),
            published: Published::default(),
            closed: None,
            wake: Wake::default(),
            begun: false,
            due: None,
            publish_at: None,
            retry_at: None,
            liveness: Liveness::default(),
            closed_links: Vec::new(),
            rate: RecentRate::default(),
            stake: Stake::default(),
        }
    }

    /// The session.
    pub fn session(&self) -> &Session {
        &self.session
    }

    /// Its near side.
    pub fn near(&mut self) -> &mut N {
        &mut self.near
    }

    /// Its far side.
    pub fn far(&mut self) -> &mut F {
        &mut self.far
    }

    /// How many links it holds.
    pub fn links(&self) -> usize {
        self.links.iter().count()
    }

    /// The link that came up last.
    pub fn newest_link(&self) -> Option<&F::Link> {
        self.links.newest()
    }

    /// Takes what is ready, and does everything that follows from it. What is not ready wakes the
    /// waker of `cx` when it is.
    pub fn turn(&mut self, now: Instant, cx: &mut Context<'_>) -> Turn {
        self.near.at_work(true);
        let turn = self.take_turn(now, cx);
        self.near.at_work(false);
        turn
    }

    fn take_turn(&mut self, now: Instant, cx: &mut Context<'_>) -> Turn {
        let mut wake = std::mem::take(&mut self.wake);
        self.poll_wake(now, cx, &mut wake);
        let any = wake.any();
        if any {
            self.handle(now, &mut wake);
            self.sample(now);
        }
        self.wake = wake;
        if !any && std::mem::replace(&mut self.begun, true) {
            return Turn::Waits(self.wake_at(now));
        }
        self.due = self.carry_out(now);
        self.keep_to_budget();
        if let Some(reason) = self.ended() {
            self.publish(now, true);
            return Turn::Over(reason);
        }
        self.publish_at = self.publish_or_later(now);
        Turn::Again
    }

    fn wake_at(&self, now: Instant) -> Option<Instant> {
        // A near side whose time has come was polled already; by now it waits for something else.
        let near = self.near.due().filter(|at| *at > now);
        [self.due, self.publish_at, self.retry_at, near].into_iter().flatten().min()
    }

    /// Why the session is over: it is closed, and nothing waits to be sent. A session closes when
    /// its near side has taken everything (R53), or must not take any more.
    fn ended(&self) -> Option<String> {
        let reason = self.closed.as_ref()?;
        let unsent = self.links.iter().any(|(_, link)| link.unsent() > 0);
        (!unsent).then(|| reason.clone())
    }

    /// Drains what the session wants done; returns until when there is nothing more.
    fn carry_out(&mut self, now: Instant) -> Option<Instant> {
        loop {
            let mut blocked = false;
            let deadline = loop {
                let room = self.room();
                blocked |= !room;
                self.frame.clear();
                match self.session.poll_output(now, room, &mut self.frame) {
                    Output::Frame { link } => {
                        if let Some(link) = self.links.get_mut(link) {
                            link.send(&self.frame);
                        }
                    }
                    Output::Dial => self.dialing = Some(self.far.dial(now, &self.session)),
                    Output::Detach { link, how } => self.detach(now, link, how),
                    Output::ShutNear(how) => self.shut_near(now, how),
                    Output::Event(event) => self.event(now, &event),
                    Output::Wait(deadline) => break deadline,
                }
            };
            self.closed_links.clear();
            self.near.keep(&self.session);
            self.flush(now);
            if !(blocked && self.room()) {
                return deadline;
            }
        }
    }

    /// Whether the attached link takes more data now.
    fn room(&mut self) -> bool {
        match self.session.link().and_then(|id| self.links.get_mut(id)) {
            Some(link) => link.has_room(),
            None => false,
        }
    }

    fn flush(&mut self, now: Instant) {
        let mut lost = Vec::new();
        for (id, link) in self.links.iter_mut() {
            if link.unsent() > 0 && link.try_flush().is_err() {
                lost.push(*id);
            }
        }
        for id in lost {
            self.lose(now, id);
        }
    }

    fn lose(&mut self, now: Instant, id: LinkId) {
        if let Some(link) = self.links.take(id) {
            self.remember(id, &link);
            self.session.handle_input(now, Input::LinkLost { link: id });
        }
    }

    fn detach(&mut self, now: Instant, id: LinkId, how: Detach) {
        let Some(link) = self.links.take(id) else { return };
        match how {
            Detach::Close => self.remember(id, &link),
            Detach::Linger => link.linger(),
            Detach::Reuse => self.give_back(now, link),
        }
    }

    fn give_back(&mut self, now: Instant, mut link: F::Link) {
        let mut words = std::mem::take(&mut self.next_words);
        // A link on which the peer sends more than one record unasked cannot serve another session.
        if words.len() > 1 {
            return;
        }
        // The last word is sent now: nothing flushes a link until its next session does.
        match mutant!(LastWordKept, link.try_flush(), Ok(true)) {
            Ok(false) if words.is_empty() => link.linger(),
            Ok(_) => self.far.reuse(now, link, words.pop()),
            Err(error) => tracing::debug!(%error, "link failed"),
        }
    }

    fn shut_near(&mut self, now: Instant, how: ShutNear) {
        if matches!(how, ShutNear::Reset { .. }) {
            self.near_open = false;
        }
        self.near.shut(now, how);
    }

    fn event(&mut self, now: Instant, event: &Event) {
        self.published.stale = true;
        self.near.event(now, &mut self.session, event);
        if let Event::Closed { why } = event {
            self.closed.get_or_insert_with(|| closed_reason(*why));
        }
        if let Event::Lost { link, cause } = event {
            self.tell_of_loss(*link, *cause);
        }
        let act = self.far.event(now, &mut self.session, event);
        self.act(now, act);
    }

    pub(crate) fn act(&mut self, now: Instant, act: Act) {
        mutant!(ActDropped => return);
        match act {
            Act::Nothing => {}
            Act::Retry => self.session.handle_input(now, Input::Retry),
            Act::RetryIn(pause) => self.retry_at = Some(now + pause),
            Act::Stay(reason) => self.session.decline_transfer(reason),
            Act::Abort { code, reason } => {
                self.closed.get_or_insert(reason);
                self.session.handle_input(now, Input::Abort { code });
            }
        }
    }

    fn poll_wake(
        &mut self,
        now: Instant,
        cx: &mut Context<'_>,
        wake: &mut Wake<F::Link, F::Found>,
    ) {
        let paused = mutant!(PausedRead, self.session.paused(), None);
        wake.writable = self.links.poll_ready(cx, paused, &mut wake.readable);
        let near_open = self.near_open && !self.frozen;
        if near_open && self.session.send_room() > 0 {
            wake.near_readable = self.near.poll_readable(now, cx).is_ready();
        } else if near_open {
            self.near.take_ahead(now, &self.session);
        }
        if self.session.undelivered() > 0 && !self.frozen {
            wake.near_writable = self.near.poll_writable(now, cx).is_ready();
        }
        if let Some(dialing) = &mut self.dialing
            && let Poll::Ready(dialed) = Pin::new(dialing).poll(cx)
        {
            self.dialing = None;
            wake.dialed = Some(dialed);
        }
        if let Poll::Ready(act) = self.far.poll_act(now, &mut self.session, cx) {
            wake.act = Some(act);
        }
        if let Poll::Ready(Some(command)) = self.inbox.poll_recv(cx) {
            wake.command = Some(command);
        }
        let deadlines = [self.due, self.publish_at, self.retry_at];
        wake.deadline = deadlines.into_iter().flatten().any(|at| at <= now);
    }

    fn handle(&mut self, now: Instant, wake: &mut Wake<F::Link, F::Found>) {
        for id in wake.readable.drain(..) {
            self.read_link(now, id);
        }
        if std::mem::take(&mut wake.near_writable) {
            let pushed = self.near.push(now, &mut self.session, &[]);
            self.after_push(now, pushed);
        }
        if std::mem::take(&mut wake.near_readable) {
            self.pull(now);
        }
        let dialed = wake.dialed.take();
        match dialed.map(|found| self.far.dialed(now, &mut self.session, found)) {
            Some(Ok((link, peer))) => {
                let id = self.links.add(link);
                self.session.want_rate(self.rate.at(now));
                self.session.handle_input(now, Input::LinkUp { link: id, peer });
            }
            Some(Err(failed)) => {
                tracing::debug!(why = %failed.why, "dial failed");
                mutant!(DialFailedUntold => return);
                self.session.handle_input(now, Input::DialFailed);
                self.act(now, failed.then);
            }
            None => {}
        }
        if let Some(act) = wake.act.take() {
            self.act(now, act);
        }
        if let Some(command) = wake.command.take() {
            self.command(now, command);
        }
        if std::mem::take(&mut wake.deadline) {
            self.time_passed(now);
        }
        self.published.stale = true;
    }

    fn time_passed(&mut self, now: Instant) {
        if self.due.is_some_and(|due| due <= now) {
            self.look_at_link(now);
        }
        if self.retry_at.take_if(|at| *at <= now).is_some() {
            self.session.handle_input(now, Input::Retry);
        }
        mutant!(DeadlineUntold => return);
        self.session.handle_input(now, Input::Timeout);
    }

    /// Reads once from a link and hands what arrived to the near side.
    fn read_link(&mut self, now: Instant, id: LinkId) {
        let Some(link) = self.links.get_mut(id) else {
            return;
        };
        let records = match link.try_read() {
            Ok(records) => records,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) => {
                tracing::debug!(%error, "link failed");
                self.lose(now, id);
                return;
            }
        };
        let closed = records.closed();
        if records.is_empty() {
            // A part of a record came.
            self.session.handle_input(now, Input::LinkAlive { link: id });
        }
        let mut arrived = Vec::new();
        let attached = self.session.link() == Some(id);
        if attached {
            self.far.heard(now);
        }
        for record in records.iter() {
            // The session has let go of the link: the rest is for the next one on it (R52).
            let let_go = attached && self.session.link().is_none();
            if mutant!(NextWordsRead, let_go, false) {
                self.next_words.push(record.to_vec());
                continue;
            }
            if let Err(blame) = self.session.handle_record(now, id, record, &mut arrived) {
                tracing::warn!(%blame, "peer misbehaved, session reset");
                break;
            }
        }
        // This comes before the near side gets a byte that stands behind an announcement.
        for announcement in self.session.take_announced() {
            self.far.announced(&self.session, &announcement);
        }
        let pushed = if arrived.is_empty() {
            Ok(0)
        } else {
            self.near.push(now, &mut self.session, &arrived)
        };
        drop(arrived);
        self.after_push(now, pushed);
        if closed {
            self.lose(now, id);
        }
    }

    fn after_push(&mut self, now: Instant, pushed: io::Result<usize>) {
        match pushed {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => {
                tracing::debug!(%error, "near side takes no more");
                mutant!(GoneUntold => return);
                let gone = if error.kind() == ErrorKind::BrokenPipe {
                    Input::NearGone
                } else {
                    self.near_open = false;
                    Input::NearReset
                };
                self.session.handle_input(now, gone);
            }
        }
    }

    fn pull(&mut self, now: Instant) {
        let over = match self.near.pull(now, &mut self.session) {
            Ok(Pulled::Bytes(_)) => return,
            Ok(Pulled::Fin) => {
                mutant!(FinUntold => return);
                Input::NearFin
            }
            Ok(Pulled::Gone) => Input::NearGone,
            Err(error) if error.kind() == ErrorKind::WouldBlock => return,
            Err(error) => {
                tracing::debug!(%error, "near side was reset");
                Input::NearReset
            }
        };
        self.near_open = false;
        self.session.handle_input(now, over);
    }

    fn command(&mut self, now: Instant, command: Command<F::Link>) {
        match command {
            Command::Attach { link, record } => self.attach(now, *link, &record),
            Command::PathChanged => self.session.handle_input(now, Input::PathChanged),
            Command::Retry => self.session.handle_input(now, Input::Retry),
            Command::Stay(reason) => self.session.decline_transfer(reason),
            Command::AskTransfer { reason, text } => self.session.request_transfer(reason, &text),
            Command::Suspend { lasts } => self.session.handle_input(now, Input::Suspend { lasts }),
            Command::Resume => self.session.handle_input(now, Input::Resume),
            Command::UserTimeout(most) => self.session.set_user_timeout(most),
            Command::GiveUp if self.session.can_be_had_again() => {
                let reason = "given up as memory is short; its broker has the ticket for it";
                self.closed.get_or_insert_with(|| reason.to_owned());
            }
            Command::GiveUp => {}
            Command::Freeze(answer) => {
                let frozen = self.session.freeze();
                self.frozen = frozen.is_ok();
                // Nobody waits any more: it goes on.
                self.frozen &= answer.send(frozen).is_ok();
            }
            Command::Thaw => self.frozen = false,
            Command::Leave => {
                self.shut_near(now, ShutNear::Reset { code: code::CARRIED });
                self.closed.get_or_insert_with(|| "saved with its endpoint".to_owned());
            }
            Command::Abort { code } => self.session.handle_input(now, Input::Abort { code }),
        }
    }

    /// A link that came to this end, with its first record: a RESUME, or the CONNECT again whose
    /// answer was lost.
    fn attach(&mut self, now: Instant, link: F::Link, record: &[u8]) {
        let id = self.links.add(link);
        if let Ok(First::Connect(connect)) = wire::first_frame(record) {
            if !self.session.reaccept(now, id, &connect) {
                self.links.take(id);
            }
            return;
        }
        let mut arrived = Vec::new();
        if let Err(blame) = self.session.handle_record(now, id, record, &mut arrived) {
            tracing::warn!(%blame, "peer misbehaved, session reset");
        }
        let pushed = self.near.push(now, &mut self.session, &arrived);
        self.after_push(now, pushed);
    }
}
