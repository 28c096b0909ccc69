//! The loop: wait for events, hand them to the session, carry out what it says.

use std::future::Future;
use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use stp_net::clock;
use stp_net::link::Link;
use stp_proto::session::{
    ClosedWhy, Detach, Event, Input, LinkId, Output, Peer, Session, ShutNear, code,
};
use stp_proto::state::State;
use stp_proto::time::Instant;
use stp_proto::wire::{self, First, TransferReason};
use tokio::sync::mpsc;
use tokio::time::Sleep;

use crate::links::Links;
use crate::sides::{AfterDenial, DialFailed, Dialed, Dialing, Far, Near, Pulled};
use crate::status::{Moment, Positions, SessionStatus, Snapshot};

/// How often a busy session publishes its numbers.
const PUBLISH_EVERY: Duration = Duration::from_millis(200);

/// A rate is one only over so many seconds at least.
const RATE_OVER: f64 = 0.1;

/// How often the kernel is asked whether a link that owes an answer still carries what was sent on it.
const LOOK_EVERY: Duration = Duration::from_millis(500);
/// Fewer bytes than this from one look to the next are no progress: questions alone make that much.
const PROGRESS: u64 = 512;

/// Told to a session's loop from outside.
#[derive(Debug)]
pub enum Command {
    /// A link on which the peer asks to resume; `record` is what came first on it.
    Attach {
        /// The link.
        link: Box<Link>,
        /// Its first record.
        record: Vec<u8>,
    },
    /// A path appeared or an address changed.
    PathChanged,
    /// Attempt again now: a server was found that answers.
    Retry,
    /// The server shall be told that the session stays, and why.
    Stay(TransferReason),
    /// The broker shall be asked to go elsewhere.
    AskTransfer {
        /// Why.
        reason: TransferReason,
        /// For a person.
        text: String,
    },
    /// The user suspends the session.
    Suspend,
    /// The user resumes it.
    Resume,
    /// End it with an error for the app.
    Abort {
        /// One of [`stp_proto::session::code`].
        code: u32,
    },
}

/// How a session's loop begins.
pub enum Start {
    /// With nothing; the session will ask for a link.
    Dial,
    /// With a link on which the session was opened, known to the session as [`Start::FIRST`].
    Link(Box<Link>),
}

impl Start {
    /// The id of the link that a server's session is accepted on.
    pub const FIRST: LinkId = LinkId(0);
}

/// Runs a session to its end and returns why it ended. The near side is shut by then.
pub async fn run<N: Near, F: Far>(
    session: Session,
    near: N,
    far: F,
    inbox: mpsc::Receiver<Command>,
    start: Start,
    status: Arc<SessionStatus>,
) -> String {
    let mut links = Links::default();
    if let Start::Link(link) = start {
        links.add(*link);
    }
    let mut driver = Driver {
        session,
        near,
        far,
        links,
        inbox,
        status,
        dialing: None,
        near_open: true,
        frame: Vec::with_capacity(stp_proto::wire::FRAME_MAX),
        next_words: Vec::new(),
        published: Published::default(),
        closed: None,
        due: None,
        seen: None,
        rate_used: 0,
    };
    driver.run().await
}

struct Driver<N, F> {
    session: Session,
    near: N,
    far: F,
    links: Links,
    inbox: mpsc::Receiver<Command>,
    status: Arc<SessionStatus>,
    dialing: Option<Dialing>,
    /// The near side may still send.
    near_open: bool,
    frame: Vec<u8>,
    /// What came on a link behind the session's end: for the next session on it.
    next_words: Vec<Vec<u8>>,
    published: Published,
    closed: Option<String>,
    /// When the session is to be told that time has passed.
    due: Option<Instant>,
    seen: Option<Seen>,
    /// The most it has received lately, bytes a second.
    rate_used: u64,
}

/// What the kernel said of a link.
#[derive(Clone, Copy)]
struct Seen {
    link: LinkId,
    at: Instant,
    /// Bytes the peer's kernel has acknowledged.
    acked: u64,
}

/// What was published last, and when.
#[derive(Default)]
struct Published {
    at: Instant,
    delivered: u64,
    taken: u64,
    stale: bool,
}

/// What one wait brought. Several may be ready at once.
#[derive(Default)]
struct Wake {
    readable: Vec<LinkId>,
    /// A link with something to send takes bytes again; `carry_out` flushes it.
    writable: bool,
    near_readable: bool,
    near_writable: bool,
    dialed: Option<Result<Dialed, DialFailed>>,
    command: Option<Command>,
    deadline: bool,
}

impl<N: Near, F: Far> Driver<N, F> {
    async fn run(&mut self) -> String {
        let mut wake = Wake::default();
        let mut sleep = Box::pin(tokio::time::sleep(Duration::ZERO));
        loop {
            let deadline = self.carry_out(now());
            self.due = deadline;
            if let Some(reason) = self.ended() {
                self.publish(now(), true);
                return reason;
            }
            let deadline = self.publish_or_later(now(), deadline);
            arm(sleep.as_mut(), deadline);
            self.wait(&mut wake, sleep.as_mut(), deadline.is_some()).await;
            self.handle(now(), &mut wake);
            self.sample(now());
        }
    }

    /// Over: closed, all delivered, and nothing waits to be sent.
    fn ended(&mut self) -> Option<String> {
        let reason = self.closed.as_ref()?;
        let unsent = self.links.iter_mut().any(|(_, link)| link.unsent() > 0);
        (self.session.undelivered() == 0 && !unsent).then(|| reason.clone())
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
                    Output::Dial => self.dialing = Some(self.far.dial(&self.session)),
                    Output::Detach { link, how } => self.detach(link, how),
                    Output::ShutNear(how) => self.shut_near(how),
                    Output::Event(event) => self.event(now, &event),
                    Output::Wait(deadline) => break deadline,
                }
            };
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
        if self.links.take(id).is_some() {
            self.session.handle_input(now, Input::LinkLost { link: id });
        }
    }

    fn detach(&mut self, id: LinkId, how: Detach) {
        let Some(link) = self.links.take(id) else {
            return;
        };
        match how {
            Detach::Close => drop(link),
            Detach::Linger => link.linger(),
            Detach::Reuse => self.give_back(link),
        }
    }

    fn give_back(&mut self, link: Link) {
        let mut words = std::mem::take(&mut self.next_words);
        // A peer that says more than one thing unasked is no good for another session.
        if words.len() <= 1 {
            self.far.reuse(link, words.pop());
        }
    }

    fn shut_near(&mut self, how: ShutNear) {
        if matches!(how, ShutNear::Reset { .. }) {
            self.near_open = false;
        }
        self.near.shut(how);
    }

    fn event(&mut self, now: Instant, event: &Event) {
        self.published.stale = true;
        self.near.event(now, &mut self.session, event);
        self.far.event(&self.session, event);
        match event {
            Event::Denied(why) => match self.far.denied(&self.session, why) {
                AfterDenial::TryAgain => self.session.handle_input(now, Input::Retry),
                AfterDenial::TryLater => {}
                AfterDenial::GiveUp { code, reason } => {
                    self.closed.get_or_insert(reason);
                    self.session.handle_input(now, Input::Abort { code });
                }
            },
            Event::Closed { why } => {
                self.closed.get_or_insert_with(|| closed_reason(*why));
            }
            _ => {}
        }
    }

    async fn wait(&mut self, wake: &mut Wake, mut sleep: Pin<&mut Sleep>, armed: bool) {
        std::future::poll_fn(|cx| {
            self.poll_wake(cx, wake);
            wake.deadline = armed && sleep.as_mut().poll(cx).is_ready();
            if wake.any() { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
    }

    fn poll_wake(&mut self, cx: &mut Context<'_>, wake: &mut Wake) {
        let paused = self.session.paused();
        wake.writable = self.links.poll_ready(cx, paused, &mut wake.readable);
        if self.near_open && self.session.send_room() > 0 {
            wake.near_readable = self.near.poll_readable(cx).is_ready();
        }
        if self.session.undelivered() > 0 {
            wake.near_writable = self.near.poll_writable(cx).is_ready();
        }
        if let Some(dialing) = &mut self.dialing
            && let Poll::Ready(dialed) = dialing.as_mut().poll(cx)
        {
            self.dialing = None;
            wake.dialed = Some(dialed);
        }
        if let Poll::Ready(Some(command)) = self.inbox.poll_recv(cx) {
            wake.command = Some(command);
        }
    }

    fn handle(&mut self, now: Instant, wake: &mut Wake) {
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
        match wake.dialed.take() {
            Some(Ok((link, peer))) => self.link_up(now, link, peer),
            Some(Err(failed)) => {
                tracing::debug!(why = %failed.why, "dial failed");
                self.session.handle_input(now, Input::DialFailed);
            }
            None => {}
        }
        if let Some(command) = wake.command.take() {
            self.command(now, command);
        }
        if std::mem::take(&mut wake.deadline) {
            if self.due.is_some_and(|due| due <= now) {
                self.look_at_link(now);
            }
            self.session.handle_input(now, Input::Timeout);
        }
        self.published.stale = true;
    }

    fn link_up(&mut self, now: Instant, link: Link, peer: Peer) {
        let id = self.links.add(link);
        self.session.handle_input(now, Input::LinkUp { link: id, peer });
    }

    /// R70: on a slow link questions and answers wait behind a large record, or behind other links.
    /// That its bytes are acknowledged is a sign of life; that the others live is one as well, until
    /// the kernel has waited in vain for the questions to be acknowledged.
    fn look_at_link(&mut self, now: Instant) {
        let Some(id) = self.session.link().filter(|_| self.session.unanswered() > 0) else {
            // What was acknowledged before the question says nothing of the time since.
            self.seen = None;
            return;
        };
        if self.session.unanswered() >= 2 && self.far.speaks_elsewhere(now) {
            self.session.handle_input(now, Input::LinkAlive { link: id });
        }
        let seen = self.seen.filter(|seen| seen.link == id);
        if seen.is_some_and(|seen| now - seen.at < LOOK_EVERY) {
            return;
        }
        let Some(Ok(info)) = self.links.get_mut(id).map(|link| link.tcp_info()) else { return };
        let acked = info.bytes_acked;
        if seen.is_some_and(|seen| acked >= seen.acked.saturating_add(PROGRESS)) {
            self.session.handle_input(now, Input::LinkAlive { link: id });
        }
        self.seen = Some(Seen { link: id, at: now, acked });
    }

    /// What the kernel knows of the attached link, for a far side that watches it.
    fn sample(&mut self, now: Instant) {
        if !self.far.wants_sample(now) {
            return;
        }
        let link = self.session.link().and_then(|id| self.links.get_mut(id));
        if let Some(Ok(info)) = link.map(|link| link.tcp_info()) {
            self.far.sample(now, &mut self.session, &info);
        }
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
            self.session.handle_input(now, Input::LinkAlive { link: id });
        }
        let mut arrived = Vec::new();
        let attached = self.session.link() == Some(id);
        if attached {
            self.far.heard(now);
        }
        for record in records.iter() {
            // The session has let go of the link: the rest is for the next one on it (R52).
            if attached && self.session.link().is_none() {
                self.next_words.push(record.to_vec());
                continue;
            }
            if let Err(blame) = self.session.handle_record(now, id, record, &mut arrived) {
                tracing::warn!(%blame, "peer misbehaved, session reset");
                break;
            }
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
        match self.near.pull(now, &mut self.session) {
            Ok(Pulled::Bytes(_)) => {}
            Ok(Pulled::Fin) => {
                self.near_open = false;
                self.session.handle_input(now, Input::NearFin);
            }
            Ok(Pulled::Gone) => {
                self.near_open = false;
                self.session.handle_input(now, Input::NearGone);
            }
            Err(error) if error.kind() == ErrorKind::WouldBlock => {}
            Err(error) => {
                tracing::debug!(%error, "near side was reset");
                self.near_open = false;
                self.session.handle_input(now, Input::NearReset);
            }
        }
    }

    fn command(&mut self, now: Instant, command: Command) {
        match command {
            Command::Attach { link, record } => self.attach(now, *link, &record),
            Command::PathChanged => self.session.handle_input(now, Input::PathChanged),
            Command::Retry => self.session.handle_input(now, Input::Retry),
            Command::Stay(reason) => self.session.decline_transfer(reason),
            Command::AskTransfer { reason, text } => self.session.request_transfer(reason, &text),
            Command::Suspend => self.session.handle_input(now, Input::Suspend),
            Command::Resume => self.session.handle_input(now, Input::Resume),
            Command::Abort { code } => self.session.handle_input(now, Input::Abort { code }),
        }
    }

    /// A link that came to this end, with its first record: a RESUME, or the CONNECT again whose
    /// answer was lost.
    fn attach(&mut self, now: Instant, link: Link, record: &[u8]) {
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

    /// Publishes now, or moves the deadline so that it is done soon.
    fn publish_or_later(&mut self, now: Instant, deadline: Option<Instant>) -> Option<Instant> {
        if !self.published.stale {
            return deadline;
        }
        let due = self.published.at + PUBLISH_EVERY;
        if now >= due {
            self.publish(now, false);
            return deadline;
        }
        Some(deadline.map_or(due, |deadline| deadline.min(due)))
    }

    fn publish(&mut self, now: Instant, last: bool) {
        let at = self.session.positions();
        let elapsed = (now - self.published.at).as_secs_f64().max(1e-3);
        let rate = |new: u64, old: u64| ((new - old.min(new)) as f64 / elapsed) as u64;
        let (rate_in, rate_out) =
            (rate(at.delivered, self.published.delivered), rate(at.end, self.published.taken));
        let link = if last { None } else { self.links.newest() };
        let info = link.and_then(|link| link.tcp_info().ok());
        let ms = |micros: u32| f64::from(micros) / 1e3;
        let rtt_ms = info.map(|info| ms(info.rtt_us));
        if let Some(info) = info {
            self.status.note(Moment {
                at_ms: now.0 / 1000,
                rtt_ms: ms(info.rtt_us),
                rtt_ms_min: ms(info.min_rtt_us),
                delivery_rate: info.delivery_rate,
                rate: rate_in + rate_out,
            });
        }
        if elapsed >= RATE_OVER {
            // What it was used to: half of it is forgotten in some seconds.
            self.rate_used = rate_in.max(self.rate_used - self.rate_used / 50);
            self.session.want_rate(self.rate_used);
        }
        self.status.publish(Snapshot {
            state: state_name(self.session.state()),
            epoch: self.session.epoch(),
            positions: Positions {
                una: at.una,
                nxt: at.nxt,
                end: at.end,
                rcv: at.received,
                dlv: at.delivered,
            },
            unacknowledged: at.end - at.una,
            undelivered: self.session.undelivered() as u64,
            rtt_ms,
            rate_in,
            rate_out,
            link: link.map(|l| format!("{} → {}", l.local_addr(), l.peer_addr())),
            last_checkpoint: self
                .session
                .last_checkpoint()
                .map(|cut| format!("sent {} received {}", cut.sent, cut.received)),
            transferable: match self.session.transferable() {
                Ok(()) => "yes".to_owned(),
                Err(why) => why.to_string(),
            },
        });
        self.published =
            Published { at: now, delivered: at.delivered, taken: at.end, stale: false };
    }
}

impl Wake {
    fn any(&self) -> bool {
        !self.readable.is_empty()
            || self.writable
            || self.near_readable
            || self.near_writable
            || self.dialed.is_some()
            || self.command.is_some()
            || self.deadline
    }
}

fn closed_reason(why: ClosedWhy) -> String {
    match why {
        ClosedWhy::Clean => "ended in order".to_owned(),
        ClosedWhy::ResetHere { code } => format!("reset at this end, {}", code_text(code)),
        ClosedWhy::ResetByPeer { code } => format!("reset by the other end, {}", code_text(code)),
    }
}

fn code_text(code: u32) -> &'static str {
    match code {
        code::NEAR_RESET => "the program or service there aborted",
        code::NEAR_GONE => "the program or service there is gone",
        code::USER => "ended by a user",
        code::HOLD => "no link for longer than the hold time",
        code::PROTOCOL => "the protocol was broken",
        code::MOVED => "the session went to another server",
        code::SERVICE => "the server's service failed",
        code::NO_SERVER => "no server can continue it",
        code::SHUTDOWN => "the daemon is stopping",
        _ => "for an unknown reason",
    }
}

fn state_name(state: State) -> &'static str {
    match state {
        State::Active => "active",
        State::ReadyResume => "ready_resume",
        State::SentResume => "sent_resume",
        State::Suspended => "suspended",
        State::Closed => "closed",
    }
}

fn now() -> Instant {
    Instant(clock::now_us())
}

/// Sets the sleep to a deadline of the session's clock.
fn arm(mut sleep: Pin<&mut Sleep>, deadline: Option<Instant>) {
    if let Some(deadline) = deadline {
        let at = tokio::time::Instant::now() + (deadline - now());
        sleep.as_mut().reset(at);
    }
}
