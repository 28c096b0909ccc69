//! The far side of a session: which server it goes to, and what is to be done when one refuses or
//! is lost. The decisions are [`stp_proto::select`]'s; the ways are [`crate::reach`]'s.

use std::sync::Arc;
use std::time::{Duration, Instant};

use stp_drive::{DialFailed, Dialed, Dialing, Far, Verdict, path_sample};
use stp_net::link::{Link, TcpInfo};
use stp_proto::rise::{Rule, Watch};
use stp_proto::select::{self, Meaning, Next, Rank, Refusal, Want};
use stp_proto::session::{Attempt, Denied, Event, LostCause, Peer, Session, WhyNot, code};
use stp_proto::time;
use stp_proto::wire::{Close, ResetFrame, TransferReason};

use crate::broker::Broker;
use crate::dialer::ServerDialer;
use crate::entry::{Course, Entry};
use crate::moves;
use crate::reach::{Kind, Reach, Standing};
use crate::relay::{self, Turn};
use crate::search::{Candidate, GaveUp, Search};
use crate::service::Server;

/// Attempts at a session's home that may go unanswered before another server is asked first.
const UNANSWERED_MAX: u32 = 2;

/// Servers measured before a first choice, how long that may take, and how much longer than the
/// nearest another may.
const FIRST_ASKED: usize = 3;
const FIRST_MAX: Duration = Duration::from_millis(400);
const FIRST_LONGER: Duration = Duration::from_millis(20);

/// How long a server that was left, and is out of reach, may yet be told.
const LEAVE_MAX: Duration = Duration::from_secs(3_600);
const LEAVE_DIAL_MAX: Duration = Duration::from_secs(5);

/// What this end notices of a path is no news for so long after it was decided about.
const ASKED_LATELY: Duration = Duration::from_secs(2);

/// Before a move that was overtaken is tried again.
const AGAIN_AFTER: Duration = Duration::from_millis(100);

/// The far side of one session.
#[derive(Clone)]
pub struct SessionFar {
    broker: Arc<Broker>,
    entry: Arc<Entry>,
    /// Where the attached link leads, and since when there is one.
    link: Option<(Arc<Server>, time::Instant)>,
    /// The round trip of its link.
    watch: Watch,
    /// When it was last decided whether to leave.
    asked: Option<Instant>,
}

impl SessionFar {
    /// The far side of this session.
    #[must_use]
    pub fn new(broker: Arc<Broker>, entry: Arc<Entry>) -> SessionFar {
        let watch = Watch::new(Rule::default());
        SessionFar { broker, entry, link: None, watch, asked: None }
    }

    /// STP 3: the best three that are not known yet are measured, before the first choice only.
    async fn measure(&self) {
        let order = self.order(&self.entry.course.lock(), Want::Connect);
        if order.len() < 2 {
            return;
        }
        let mut asked = tokio::task::JoinSet::new();
        for rank in order.into_iter().take(FIRST_ASKED) {
            let server = Arc::clone(&self.entry.service.servers[rank]);
            let known = server.distance.way().now.is_some();
            if server.distance.is_fresh() || !server.reach.standing().borrow().is_open() {
                continue;
            }
            let measured = async move {
                let address = server.reach.dialer().address();
                server.distance.measure(address, FIRST_MAX, FIRST_MAX).await
            };
            // What is merely old is good enough for this session, and fresh for the next.
            if known {
                tokio::spawn(measured);
            } else {
                asked.spawn(measured);
            }
        }
        // Who is much farther than the nearest, or silent, is not waited for.
        let all = async {
            let begun = Instant::now();
            while let Some(way) = asked.join_next().await {
                if way.is_ok_and(|way| way.now.is_some()) {
                    let longer = begun.elapsed() + FIRST_LONGER;
                    let _late = tokio::time::timeout(longer, async {
                        while asked.join_next().await.is_some() {}
                    })
                    .await;
                    break;
                }
            }
        };
        let _late = tokio::time::timeout(FIRST_MAX, all).await;
        asked.detach_all();
    }

    /// The servers that may be asked, best first; who is hardly farther than the nearest counts as
    /// just as near.
    fn order(&self, course: &Course, want: Want) -> Vec<Rank> {
        let (service, number) = (&self.entry.service, self.entry.service_number);
        let now = self.broker.now();
        let list = self.broker.overloaded.lock();
        let listed = |rank| list.contains(now, &(number, rank));
        let rtts: Vec<_> = service.servers.iter().map(|one| one.distance.way().now).collect();
        let rtts = select::near_enough(&rtts);
        course.choice.order(want, listed, |rank| rtts[rank])
    }

    fn search(&self, want: Want, course: &mut Course) -> Search<ServerDialer> {
        let (service, number) = (&self.entry.service, self.entry.service_number);
        let established = want != Want::Connect;
        let order = self.order(course, want);
        let now = self.broker.now();
        let list = self.broker.overloaded.lock();
        let home = course.choice.home();
        let candidate = |rank: Rank| {
            let until = list.until(now, &(number, rank)).map(|until| until - now);
            let waits = established && Some(rank) != home;
            Candidate { rank, not_before: until.filter(|_| waits).map(|t| Instant::now() + t) }
        };
        let mut order: Vec<Candidate> = order.into_iter().map(candidate).collect();
        let mut home = home;
        // A home that lets itself be connected to and then says nothing is asked last.
        if course.unanswered >= UNANSWERED_MAX && order.len() > 1 {
            order.rotate_left(1);
            home = None;
        }
        if let Some(leave) = course.leave.take()
            && order.len() > 1
        {
            order.retain(|candidate| candidate.rank != leave);
            home = home.filter(|rank| *rank != leave);
        }
        let give_up_at = self.entry.started + self.broker.config.limits.connect;
        Search {
            servers: service.servers.iter().map(|server| Arc::clone(&server.reach)).collect(),
            news: Arc::clone(&self.broker.news),
            order,
            home,
            give_up_at: (!established).then_some(give_up_at),
            tired_after: course.choice.patience(),
        }
    }

    fn refuse(&self, course: &mut Course, why: Refusal, text: &str) -> Option<Next> {
        let rank = course.trying.take()?;
        let name = (self.entry.service_number, rank);
        let mut list = self.broker.overloaded.lock();
        let next = course.choice.refused(self.broker.now(), rank, why, &mut list, name);
        let server = self.entry.service.server_name(rank);
        let said = if text.is_empty() { String::new() } else { format!(" ({text})") };
        tracing::info!(session = self.entry.id, %server, "refused: {why}{said}");
        self.broker.count_refusal(why);
        Some(next)
    }

    fn attached(&self, session: &Session, attempt: Attempt, gap: Duration, received: u64) {
        let mut course = self.entry.course.lock();
        let from = course.choice.last();
        let to = course.trying.take();
        course.attached = true;
        course.unanswered = 0;
        course.came_from = from.filter(|from| to.is_some_and(|to| to != *from));
        let gap = course.away_since.take().map_or(gap, |since| gap.max(since.elapsed()));
        if let Some(rank) = to {
            course.choice.taken_by(rank);
            self.entry.service.servers[rank].named(session.server());
            self.broker.overloaded.lock().remove(&(self.entry.service_number, rank));
        }
        let what = match attempt {
            Attempt::Connect => "connected",
            Attempt::Resume => "resumed",
            Attempt::Transfer => "transferred",
        };
        let name = |rank| self.entry.service.server_name(rank);
        let mut cause = std::mem::take(&mut course.lost);
        let plan = course.plan.take();
        let via = course.trying_via.take();
        if let Some(turn) = course.turn.take() {
            if turn.congested {
                let now = self.broker.now();
                course.cool.moved(now);
            }
            cause = turn.why;
        }
        if via.is_some() || course.via.is_some() {
            cause += &via
                .as_ref()
                .map_or("; straight".to_owned(), |v| format!("; through {}", v.name()));
        }
        course.via = via;
        if course.via.is_some() && !std::mem::replace(&mut course.watched, true) {
            tokio::spawn(relay::watch(Arc::clone(&self.broker), Arc::clone(&self.entry)));
        }
        match (course.came_from, plan) {
            (Some(rank), Some(plan)) => {
                if plan.congested {
                    let (now, left) = (self.broker.now(), (self.entry.service_number, rank));
                    course.cool.moved(now);
                    self.broker.overloaded.lock().add(now, left, Duration::ZERO);
                }
                cause = plan.why;
            }
            (Some(rank), None) => cause += &self.why_left(rank),
            (None, _) => {}
        }
        let mut history = self.entry.history(what, cause, received);
        drop(course);
        let gap_ms = u64::try_from(gap.as_millis()).unwrap_or(u64::MAX);
        history.gap_ms = (attempt != Attempt::Connect).then_some(gap_ms);
        history.from_server = from.map(name);
        history.to_server = to.or(from).map(name);
        let server = history.to_server.as_deref().unwrap_or_default();
        if attempt == Attempt::Connect {
            let destination = &self.entry.destination;
            tracing::info!(session = self.entry.id, server, %destination, "connected");
        } else {
            let cause = &history.cause;
            tracing::info!(session = self.entry.id, server, gap_ms, at_byte = received, %cause, "{what}");
        }
        self.broker.count_attach(attempt);
        self.entry.status.record(history);
    }

    /// What is known of the server that a session left.
    fn why_left(&self, rank: Rank) -> String {
        let server = &self.entry.service.servers[rank];
        match &*server.reach.standing().borrow() {
            Standing::Open => String::new(),
            Standing::Away { last, .. } if last.kind == Kind::Refused => {
                format!(", {} is gone", server.name())
            }
            Standing::Away { .. } => format!(", {} is out of reach", server.name()),
        }
    }

    fn lost(&self, cause: LostCause, received: u64) {
        let mut course = self.entry.course.lock();
        course.local = None;
        let was_attached = std::mem::take(&mut course.attached);
        if was_attached && course.plan.take().is_some() {
            // A dial to another server may be under way: all of them are to be asked now.
            let inbox = self.entry.inbox.clone();
            tokio::spawn(async move { inbox.send(stp_drive::Command::Retry).await });
        }
        let tried = course.trying.take();
        let home = course.choice.last();
        let turned = course.turn.take().is_some();
        if was_attached && turned {
            let inbox = self.entry.inbox.clone();
            tokio::spawn(async move { inbox.send(stp_drive::Command::Retry).await });
        }
        let via = course.trying_via.take().or_else(|| course.via.clone());
        if let Some(rank) = tried.or(home) {
            let reach = match &via {
                Some(via) => &via.reach,
                None => &self.entry.service.servers[rank].reach,
            };
            match cause {
                LostCause::Broken => reach.lost(),
                LostCause::Silent | LostCause::Unanswered => reach.suspect(),
                LostCause::Overtaken => {}
            }
        }
        if cause == LostCause::Unanswered {
            match tried {
                Some(rank) if Some(rank) == course.choice.home() => course.unanswered += 1,
                Some(rank) => {
                    let name = (self.entry.service_number, rank);
                    self.broker.overloaded.lock().add(self.broker.now(), name, Duration::ZERO);
                }
                None => {}
            }
        }
        let silence = match cause {
            LostCause::Silent => self.broker.config.limits.silence,
            LostCause::Broken | LostCause::Unanswered | LostCause::Overtaken => Duration::ZERO,
        };
        course.away_since.get_or_insert(Instant::now() - silence);
        if was_attached {
            let text = match cause {
                LostCause::Broken => "link broke",
                LostCause::Silent => "link silent",
                LostCause::Unanswered => "attempt unanswered",
                LostCause::Overtaken => "overtaken",
            };
            text.clone_into(&mut course.lost);
            drop(course);
            tracing::info!(session = self.entry.id, at_byte = received, "{text}");
            self.entry.record("lost", text.to_owned(), received);
        }
    }
}

/// No server is left. The session counts as ended, though its loop may yet try to tell a server.
fn give_up(broker: &Broker, entry: &Entry, errno: i32, why: &str, received: u64) {
    let mut course = entry.course.lock();
    if course.gave_up.is_some() {
        return;
    }
    course.gave_up = Some((errno, why.to_owned()));
    drop(course);
    entry.record("gave up", why.to_owned(), received);
    broker.session_ended(entry, why);
}

/// Tells the server that a session has left, so that it need not keep it for days. If it is out of
/// reach it is told when others find it there again.
async fn take_leave(reach: Arc<Reach<ServerDialer>>, reset: ResetFrame) {
    let told = tokio::time::timeout(LEAVE_MAX, async {
        let mut standing = reach.standing();
        let mut link = loop {
            // Waiting like this makes nobody probe.
            let _the_standing = standing.wait_for(Standing::is_open).await.map(|_| ());
            if let Ok(link) = tokio::time::timeout(LEAVE_DIAL_MAX, reach.link()).await {
                break link;
            }
        };
        let mut frame = Vec::new();
        Close::ResetFirst(reset).encode(&mut frame);
        link.send(&frame);
        link.linger();
    });
    if told.await.is_err() {
        tracing::debug!("a server that was left could not be told");
    }
}

impl SessionFar {
    /// A link to whoever can have the session.
    async fn dial_any(&self, want: Want, received: u64) -> Result<Dialed, DialFailed> {
        let established = want != Want::Connect;
        if !established {
            self.measure().await;
        }
        let (search, worst) = {
            let mut course = self.entry.course.lock();
            let worst = course.choice.worst();
            (self.search(want, &mut course), worst)
        };
        // Who can go on nowhere else may be led to its home.
        let stuck = want == Want::Resume { transferable: false };
        let found = tokio::select! {
            found = search.run() => found,
            (relay, link) = relay::rescue(&self.broker, &self.entry), if stuck => {
                let mut course = self.entry.course.lock();
                course.trying = course.choice.home();
                (course.local, course.trying_via) = (Some(link.local_addr()), Some(relay));
                return Ok((link, Peer::Same));
            }
        };
        match found {
            Ok((rank, link)) => {
                let mut course = self.entry.course.lock();
                (course.trying, course.trying_via) = (Some(rank), None);
                course.local = Some(link.local_addr());
                // As it is now: an earlier attempt may have been answered meanwhile.
                let home = course.choice.home();
                let same = home.map_or(!established, |home| home == rank);
                Ok((link, if same { Peer::Same } else { Peer::Other }))
            }
            // An earlier attempt was answered meanwhile: it has a home, and will ask again.
            Err(GaveUp { why, .. }) if !established && self.has_home() => Err(DialFailed { why }),
            Err(GaveUp { errno, why }) => {
                let why = if established {
                    format!("no server can go on with it: {worst}; {why}")
                } else {
                    why
                };
                give_up(&self.broker, &self.entry, errno, &why, received);
                let inbox = self.entry.inbox.clone();
                let abort = stp_drive::Command::Abort { code: code::NO_SERVER };
                tokio::spawn(async move { inbox.send(abort).await });
                Err(DialFailed { why })
            }
        }
    }

    fn has_home(&self) -> bool {
        self.entry.course.lock().choice.home().is_some()
    }

    /// A link to where the session shall move; the one it has goes on.
    async fn dial_planned(&self, received: u64) -> Result<Dialed, DialFailed> {
        if let Some((rank, link)) = moves::dial(&self.entry).await {
            self.entry.course.lock().trying = Some(rank);
            return Ok((link, Peer::Other));
        }
        let why = "no other server could be reached".to_owned();
        let reason = TransferReason::NobodyBetter;
        let (entry, said) = (Arc::clone(&self.entry), why.clone());
        tokio::spawn(async move { moves::stay(&entry, reason, said, received).await });
        Err(DialFailed { why })
    }

    /// A link by another way to the server that has the session; the one it has goes on.
    async fn dial_turn(&self, turn: Turn, received: u64) -> Result<Dialed, DialFailed> {
        match relay::dial_turn(&self.broker, &self.entry, &turn).await {
            Ok(link) => {
                let mut course = self.entry.course.lock();
                course.trying = course.choice.home();
                (course.local, course.trying_via) = (Some(link.local_addr()), turn.via);
                Ok((link, Peer::Same))
            }
            Err(why) => {
                self.entry.course.lock().turn = None;
                let (entry, said) = (Arc::clone(&self.entry), why.clone());
                let reason = TransferReason::NobodyBetter;
                tokio::spawn(async move { moves::stay(&entry, reason, said, received).await });
                Err(DialFailed { why })
            }
        }
    }

    /// A server refuses the session while another still has it.
    fn denied_planned(&self, refusal: Refusal, cause: &str, received: u64) -> Verdict {
        let mut course = self.entry.course.lock();
        let Some(rank) = course.trying.take() else { return Verdict::TryLater };
        let mut list = self.broker.overloaded.lock();
        let name = (self.entry.service_number, rank);
        match refusal.meaning() {
            Meaning::List(asked) => list.add(self.broker.now(), name, asked),
            Meaning::NotThisSession => {
                course.choice.refused(self.broker.now(), rank, refusal, &mut list, name);
            }
            Meaning::GiveUp | Meaning::Forgotten => {}
        }
        drop((list, course));
        self.broker.count_refusal(refusal);
        self.go_on(rank, cause, received)
    }

    /// The next server of the plan, or none.
    fn go_on(&self, failed: Rank, cause: &str, received: u64) -> Verdict {
        if moves::next(&self.entry, failed) {
            return Verdict::TryAgain;
        }
        let (entry, why) = (Arc::clone(&self.entry), cause.to_owned());
        let reason = TransferReason::NobodyBetter;
        tokio::spawn(async move { moves::stay(&entry, reason, why, received).await });
        Verdict::TryLater
    }

    /// The link to another server came to nothing; the one the session has goes on.
    fn lost_planned(&self, cause: LostCause, received: u64) {
        let mut course = self.entry.course.lock();
        let Some(rank) = course.trying.take() else { return };
        let inbox = self.entry.inbox.clone();
        let again = course.plan.as_mut().is_some_and(|plan| {
            plan.overtaken += u32::from(cause == LostCause::Overtaken);
            cause == LostCause::Overtaken && plan.overtaken <= moves::OVERTAKEN_MAX
        });
        drop(course);
        let server = self.entry.service.server_name(rank);
        let what = match cause {
            LostCause::Broken | LostCause::Silent => "broke off",
            LostCause::Unanswered => "did not catch up",
            LostCause::Overtaken => "was overtaken by another answer",
        };
        let again = again
            || matches!(self.go_on(rank, &format!("{server} {what}"), received), Verdict::TryAgain);
        if again {
            tokio::spawn(async move {
                tokio::time::sleep(AGAIN_AFTER).await;
                let _ended = inbox.send(stp_drive::Command::Retry).await;
            });
        }
    }

    /// STP 8: the server asks to be left.
    fn asked_to_leave(&mut self, session: &Session, reason: TransferReason, text: &str) {
        let received = session.positions().received;
        let mut course = self.entry.course.lock();
        if course.deciding || session.is_moving() || course.plan.is_some() || course.turn.is_some()
        {
            return;
        }
        course.deciding = true;
        self.asked = Some(Instant::now());
        let congested = reason == TransferReason::Congested;
        let may_turn = congested && course.pass.is_some();
        drop(course);
        let said = if text.is_empty() { String::new() } else { format!(": {text}") };
        self.entry.record("asked to leave", format!("{reason}{said}"), received);
        let (broker, entry) = (Arc::clone(&self.broker), Arc::clone(&self.entry));
        let text = text.to_owned();
        match session.transferable() {
            Ok(()) => drop(tokio::spawn(moves::decide(broker, entry, reason, text))),
            Err(_) if may_turn => drop(tokio::spawn(relay::decide(broker, entry, text))),
            Err(why) => {
                self.entry.course.lock().deciding = false;
                // Between two requests it may well be possible in a moment.
                let fixed = !matches!(why, WhyNot::Freed { .. });
                let reason = if fixed {
                    TransferReason::NotTransferable
                } else {
                    TransferReason::NobodyBetter
                };
                let why = format!("it cannot go elsewhere: {why}");
                tokio::spawn(async move { moves::stay(&entry, reason, why, received).await });
            }
        }
    }
}

impl Far for SessionFar {
    fn heard(&mut self, now: time::Instant) {
        if let Some((server, since)) = &self.link {
            server.heard.note(now, *since);
        }
    }

    fn speaks_elsewhere(&self, now: time::Instant) -> bool {
        self.link.as_ref().is_some_and(|(server, _)| server.heard.lately(now))
    }

    fn dial(&mut self, session: &Session) -> Dialing {
        let far = self.clone();
        let received = session.positions().received;
        // An attempt that is still under way may yet succeed: it is not forgotten for this.
        let mut course = self.entry.course.lock();
        if session.link().is_some() && course.plan.is_some() {
            drop(course);
            return Box::pin(async move { far.dial_planned(received).await });
        }
        if session.link().is_some()
            && let Some(turn) = course.turn.clone()
        {
            drop(course);
            return Box::pin(async move { far.dial_turn(turn, received).await });
        }
        (course.plan, course.turn) = (None, None);
        drop(course);
        let want = if session.is_established() {
            Want::Resume { transferable: session.transferable().is_ok() }
        } else {
            Want::Connect
        };
        Box::pin(async move { far.dial_any(want, received).await })
    }

    fn denied(&mut self, session: &Session, why: &Denied) -> Verdict {
        let (refusal, text) = match why {
            Denied::Connect { why, retry_after, text, .. } => {
                (Some(Refusal::of_connect(*why, *retry_after)), text.clone())
            }
            Denied::Resume(why) => (Refusal::of_resume(*why), why.to_string()),
        };
        let Some(refusal) = refusal else { return Verdict::TryLater };
        if matches!(refusal, Refusal::Unauthorized | Refusal::Expired)
            && let Some(host) = &self.entry.host
        {
            self.broker.directory.distrust(host);
        }
        let mut course = self.entry.course.lock();
        let server = course.trying.map(|rank| self.entry.service.server_name(rank));
        let said = if text.is_empty() { String::new() } else { format!(": {text}") };
        let cause = format!("{} {refusal}{said}", server.as_deref().unwrap_or("server"));
        self.entry.record("refused", cause.clone(), session.positions().received);
        if session.link().is_some() {
            drop(course);
            return self.denied_planned(refusal, &cause, session.positions().received);
        }
        let next = self.refuse(&mut course, refusal, &text).unwrap_or(Next::Another);
        let hopeless = match (refusal, session.transferable()) {
            (Refusal::Unknown, Err(why)) if session.is_established() => {
                Some(format!("{cause}; and it cannot be continued elsewhere: {why}"))
            }
            _ => None,
        };
        let reason = match (next, hopeless) {
            (_, Some(reason)) => reason,
            (Next::GiveUp(why), None) => format!("no server can take it: {why} ({cause})"),
            (Next::Another, None) => return Verdict::TryAgain,
        };
        let errno = match refusal {
            _ if session.is_established() => nix::errno::Errno::ECONNRESET as i32,
            Refusal::Service(errno) => i32::from(errno),
            Refusal::NotHere => nix::errno::Errno::EHOSTUNREACH as i32,
            _ => nix::errno::Errno::ECONNREFUSED as i32,
        };
        drop(course);
        give_up(&self.broker, &self.entry, errno, &reason, session.positions().received);
        Verdict::GiveUp { code: code::NO_SERVER, reason }
    }

    fn event(&mut self, session: &Session, event: &Event) {
        let received = session.positions().received;
        match event {
            Event::Attached { attempt, gap, received, .. } => {
                self.watch.forget();
                self.attached(session, *attempt, *gap, *received);
                let home = {
                    let course = self.entry.course.lock();
                    // What comes through a relay says nothing of the straight way.
                    course.choice.home().filter(|_| course.via.is_none())
                };
                let server = home.map(|rank| Arc::clone(&self.entry.service.servers[rank]));
                self.link = server.map(|server| (server, self.broker.now()));
            }
            Event::Lost { cause, .. } if session.link().is_some() => {
                self.lost_planned(*cause, received);
            }
            Event::Lost { cause, .. } => {
                self.link = None;
                self.lost(*cause, received);
            }
            Event::Suspended { by_peer } => {
                let cause = if *by_peer { "by the server" } else { "by the user" };
                let mut course = self.entry.course.lock();
                course.attached = false;
                course.away_since = Some(Instant::now());
                course.lost = format!("suspended {cause}");
                drop(course);
                self.entry.record("suspended", cause.to_owned(), received);
            }
            Event::TransferWanted { reason, text } => self.asked_to_leave(session, *reason, text),
            Event::PassGiven { pass } => {
                self.entry.course.lock().pass = Some(pass.as_ref().into());
            }
            Event::Moved { told: true, .. } => {}
            Event::Moved { old, told: false } => {
                if let Some(rank) = self.entry.course.lock().came_from {
                    let initiator = session.handles().0;
                    let reset = ResetFrame { initiator, acceptor: *old, code: code::MOVED };
                    let reach = Arc::clone(&self.entry.service.servers[rank].reach);
                    tokio::spawn(take_leave(reach, reset));
                }
            }
            Event::Closed { .. }
            | Event::Established { .. }
            | Event::Denied(_)
            | Event::Acknowledged(_)
            | Event::TicketStored { .. }
            | Event::Stays { .. } => {}
        }
    }

    fn reuse(&mut self, link: Link, first: Option<Vec<u8>>) {
        // A server speaks only when asked; one that does not is no good for another session.
        if first.is_some() {
            return;
        }
        // Not always the last one's: an attempt at another may have ended before it attached.
        // And not one that leads there through a relay.
        let there = (link.peer_key(), link.peer_addr());
        let leads_to = |server: &&Arc<Server>| {
            let dialer = server.reach.dialer();
            (dialer.key, dialer.address()) == there
        };
        let servers = &self.entry.service.servers;
        let last = self.entry.course.lock().choice.last().map(|rank| &servers[rank]);
        if let Some(server) = last.into_iter().chain(servers).find(leads_to) {
            server.reach.keep(link);
        }
    }

    fn wants_sample(&self, now: time::Instant) -> bool {
        self.watch.is_due(now)
    }

    /// STP 6 the other way: this end sends, and its path has become slow.
    fn sample(&mut self, now: time::Instant, session: &mut Session, info: &TcpInfo) {
        // The server may have noticed as well, and asked.
        let asked = self.asked.is_some_and(|asked| asked.elapsed() < ASKED_LATELY);
        if let Some(rise) = self.watch.sample(now, path_sample(session, info))
            && !asked
        {
            self.asked_to_leave(session, TransferReason::Congested, &rise.to_string());
        }
    }
}
