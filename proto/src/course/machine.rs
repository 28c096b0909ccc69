//! The course: one session's way through the servers of its service.

use core::time::Duration;

use super::action::{Action, Around, Dial, GapWhy, Relay, Seek, Target};
use super::change::{Change, Move, Question};
use super::decide::way_name;
use super::search::{AppError, Deadlines, GaveUp, NoServer};
use super::standing::{FailureKind, Standing};
use crate::mutant::mutant;
use crate::rise::{CoolDown, NotBetter};
use crate::select::{Choice, Meaning, Next, Rank, Rejection, Want};
use crate::session::{Attempt, LostCause, WhyNot};
use crate::time::Instant;

/// Attempts at a session's home that may go unanswered before another server is asked first.
const UNANSWERED_MAX: u32 = 2;
/// How often a move that the stream has overtaken is tried again, and after which pause.
const OVERTAKEN_MAX: u32 = 5;
const AGAIN_AFTER: Duration = Duration::from_millis(100);
/// A link is lost within this time if a change of the network has hurt it.
const CHANGE_HURTS: Duration = Duration::from_secs(60);
/// After this pause a server is asked again that did not catch up with the rest of what a failed
/// service had given.
const AFTER_THE_REST: Duration = Duration::from_secs(1);

/// An attempt that a server denied.
#[derive(Clone, Debug)]
pub struct Denial<'a> {
    /// The kind of reason.
    pub why: Rejection,
    /// The same in the server's words.
    pub text: &'a str,
    /// The session has a link beside the one that was refused.
    pub linked: bool,
    /// It was established once.
    pub established: bool,
    /// Whether another server could go on with it.
    pub transferable: Result<(), WhyNot>,
}

/// A session's way through the servers.
///
/// What happens to the session is told with `handle_*`; the answer says what is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Course {
    pub(super) deadlines: Deadlines,
    pub(super) choice: Choice,
    /// Where the attempt that is under way leads.
    pub(super) attempt: Option<Target>,
    pub(super) attached: bool,
    /// The relay through which its link goes; none: straight.
    pub(super) via: Option<Relay>,
    pub(super) change: Change,
    /// What its server asked while another change was under way: it is decided when that comes to
    /// nothing.
    pub(super) asked_meanwhile: Option<Question>,
    /// Since when nothing can have come through, as far as is known, and why.
    pub(super) gap_since: Option<Instant>,
    pub(super) gap_why: Option<GapWhy>,
    /// When the network has changed under its link.
    pub(super) path_changed: Option<Instant>,
    /// Attempts at its home that were not answered, one after the other.
    pub(super) unanswered: u32,
    /// The server it came from at its last transfer.
    pub(super) came_from: Option<Rank>,
    /// The server that its user wants it to leave when it looks for one.
    pub(super) leave: Option<Rank>,
    /// Its server has given it a pass, with which others lead there.
    pub(super) has_pass: bool,
    /// No changes for the sake of speed for a while.
    pub(super) cool: CoolDown,
    /// When it was last decided whether to leave.
    pub(super) asked_at: Option<Instant>,
    /// Looks in a row that found the straight way good again; why the last one did not.
    pub(super) agreed: u32,
    pub(super) disagreed: Option<NotBetter>,
    pub(super) gave_up: bool,
}

impl Course {
    /// A new session of a service with this many servers.
    #[must_use]
    pub fn new(servers: usize, deadlines: Deadlines) -> Course {
        Course {
            deadlines,
            choice: Choice::new(servers),
            attempt: None,
            attached: false,
            via: None,
            change: Change::Nothing,
            asked_meanwhile: None,
            gap_since: None,
            gap_why: None,
            path_changed: None,
            unanswered: 0,
            came_from: None,
            leave: None,
            has_pass: false,
            cool: CoolDown::default(),
            asked_at: None,
            agreed: 0,
            disagreed: None,
            gave_up: false,
        }
    }

    /// The session goes on in another process of the broker; this server has it (R103).
    pub fn handle_restored(&mut self, now: Instant, home: Rank) {
        self.choice.taken_by(home);
        (self.gap_since, self.gap_why) = (Some(now), Some(GapWhy::Restarted));
    }

    /// The server that holds the session, if one does.
    #[must_use]
    pub fn home(&self) -> Option<Rank> {
        self.choice.home()
    }

    /// The server that held the session last, even if it has forgotten it.
    #[must_use]
    pub fn last(&self) -> Option<Rank> {
        self.choice.last()
    }

    /// Where the attempt that is under way leads.
    #[must_use]
    pub fn attempt(&self) -> Option<Target> {
        self.attempt
    }

    /// Whether it has a link.
    #[must_use]
    pub fn is_attached(&self) -> bool {
        self.attached
    }

    /// The relay through which its link goes; none: straight.
    #[must_use]
    pub fn via(&self) -> Option<Relay> {
        self.via
    }

    /// What is under way beside its link.
    #[must_use]
    pub fn change(&self) -> &Change {
        &self.change
    }

    /// The server it came from at its last transfer.
    #[must_use]
    pub fn came_from(&self) -> Option<Rank> {
        self.came_from
    }

    /// Whether it looks if it could go straight again.
    #[must_use]
    pub fn looks(&self) -> bool {
        self.via.is_some()
    }

    /// Its server has given it a pass, with which others lead there.
    pub fn handle_pass(&mut self) {
        self.has_pass = true;
    }

    /// The session asks for a link. `linked`: beside the one it has.
    pub fn handle_dial(
        &mut self,
        now: Instant,
        linked: bool,
        want: Want,
        connect_until: Instant,
    ) -> Dial {
        match (&self.change, self.choice.home()) {
            (Change::Move(plan), _) if linked => return Dial::Move(plan.order[0]),
            (Change::Turn(turn), Some(rank)) if linked => {
                return Dial::Turn(Target { rank, via: turn.via });
            }
            _ => {}
        }
        // An attempt that is still under way may yet succeed, and what was decided goes on then.
        Dial::Search(Seek {
            want,
            choice: self.choice.clone(),
            leave: self.leave.take(),
            home_last: mutant!(MuteHomeFirst, self.unanswered >= UNANSWERED_MAX, false),
            connect_until,
            lost_at: self.gap_since.unwrap_or(now),
            deadlines: self.deadlines,
        })
    }

    /// A dial brought a link. Returns whether it leads to the server that holds the session.
    pub fn handle_found(&mut self, to: Target, established: bool) -> bool {
        self.attempt = Some(to);
        // As it is now: an earlier attempt may have been answered meanwhile.
        self.choice.home().map_or(!established, |home| home == to.rank)
    }

    /// A search has come to nothing. `transferable` says in words why no other server could go on
    /// with it.
    pub fn handle_no_server(
        &mut self,
        around: &impl Around,
        established: bool,
        transferable: Result<(), String>,
        gave_up: GaveUp,
    ) -> Vec<Action> {
        let GaveUp { end, error, why } = gave_up;
        // It looked for a link beside the one it has, which goes on.
        if mutant!(LinkedGivenUp, self.attached, false) {
            return Vec::new();
        }
        // Only the search for a session that is not established yet ends so. This one was begun
        // before it was, and the link of then is lost already: it asks again, as what it is now.
        if established && matches!(end, NoServer::AllRefuse | NoServer::NobodyAnswers) {
            return vec![Action::Retry];
        }
        if established {
            let elsewhere = match transferable {
                Err(why) => match why.strip_suffix(", which is never sent twice") {
                    Some(method) => format!("a {method} is never sent twice"),
                    None => format!("it cannot go on elsewhere: {why}"),
                },
                Ok(()) => format!("no other server can go on with it: {}", self.choice.worst()),
            };
            let home = self.choice.last().map(|rank| around.server_name(rank));
            let home = home.unwrap_or_default();
            let why = match end {
                NoServer::HomeRefuses => format!(
                    "server {home} is gone; {elsewhere} (nobody has listened there for {} s)",
                    self.deadlines.refused.as_secs()
                ),
                NoServer::HomeGone => format!(
                    "server {home} is gone; {elsewhere} (it has been silent for {} s while others \
                     answer)",
                    self.deadlines.gone.as_secs()
                ),
                NoServer::NobodyLeft | NoServer::AllRefuse | NoServer::NobodyAnswers => {
                    format!("{elsewhere}; {why}")
                }
            };
            return self.give_up(error, why);
        }
        // An earlier attempt was answered meanwhile: it has a home, and will ask again.
        if self.choice.home().is_some() { Vec::new() } else { self.give_up(error, why) }
    }

    /// The server to which a move was decided gave no link.
    pub fn handle_unreached(&mut self, server: Rank) -> Vec<Action> {
        self.next_of_plan(server, "no other server could be reached".to_owned(), Action::Retry)
    }

    /// There is no link by the way that was decided.
    pub fn handle_turn_failed(&mut self, why: String) -> Vec<Action> {
        if !matches!(self.change, Change::Turn(_)) {
            return Vec::new();
        }
        self.came_to_nothing(why)
    }

    /// A link is attached.
    pub fn handle_attached(
        &mut self,
        now: Instant,
        around: &impl Around,
        attempt: Attempt,
        gap: Duration,
    ) -> Vec<Action> {
        let mut actions = Vec::new();
        let from = self.choice.last();
        let to = self.attempt.take();
        self.forget_change(now);
        self.path_changed = None;
        self.attached = true;
        self.unanswered = 0;
        self.came_from = from.filter(|from| to.is_some_and(|to| to.rank != *from));
        let gap = self.gap_since.take().map_or(gap, |since| gap.max(now - since));
        let mut cause = self.gap_why.take().map_or_else(String::new, |why| why.to_string());
        if let Some(to) = to {
            self.choice.taken_by(to.rank);
            actions.push(Action::Unlist(to.rank));
        }
        let via = to.and_then(|to| to.via);
        let moved = self.finish_change(now, (attempt, via), &mut cause);
        if matches!(self.change, Change::Move(_) | Change::Turn(_)) {
            actions.push(Action::Retry);
        }
        if via.is_some() || self.via.is_some() {
            cause = format!("{cause}; {}", way_name(around, via));
        }
        match (self.came_from, moved) {
            (Some(rank), Some(Move { for_speed, why, .. })) => {
                if for_speed {
                    mutant!(CoolDownUnset, self.cool.moved(now), ());
                    actions.push(Action::List(rank, Duration::ZERO));
                }
                cause = why;
            }
            (Some(rank), None) => cause += &why_left(around, rank),
            (None, _) => {}
        }
        if via.is_some() && self.via.is_none() {
            (self.agreed, self.disagreed) = (0, None);
            actions.push(Action::Look);
        }
        self.via = via;
        let to = to.map(|to| to.rank).or(from);
        actions.push(Action::NoteLink { attempt, from, to, gap, cause });
        actions
    }

    /// A link has come: what was decided is done, unless the link is one to the same server, or by
    /// the same way, that was under way already. A question is void if it is about a server that
    /// was left, or that has begun the session anew.
    fn finish_change(
        &mut self,
        now: Instant,
        (attempt, via): (Attempt, Option<Relay>),
        cause: &mut String,
    ) -> Option<Move> {
        let same = attempt == Attempt::Resume;
        self.asked_meanwhile = self.asked_meanwhile.take().filter(|_| same);
        match std::mem::take(&mut self.change) {
            Change::Move(plan) if same => self.change = Change::Move(plan),
            Change::Move(plan) => return Some(plan),
            Change::Turn(turn) if same && turn.via != via => self.change = Change::Turn(turn),
            Change::Turn(turn) => {
                if turn.for_speed {
                    self.cool.moved(now);
                }
                *cause = turn.why;
            }
            Change::Deciding(question) if same => self.change = Change::Deciding(question),
            Change::Deciding(_) | Change::Nothing => {}
        }
        None
    }

    /// The link was lost, or an attempt of a session without a link. `silence` is how long the link
    /// had been silent then.
    pub fn handle_lost(
        &mut self,
        now: Instant,
        cause: LostCause,
        silence: Duration,
    ) -> Vec<Action> {
        let mut actions = Vec::new();
        self.forget_change(now);
        self.path_changed = None;
        let was_attached = std::mem::take(&mut self.attached);
        let tried = self.attempt.take();
        let last = self.choice.last().map(|rank| Target { rank, via: self.via });
        if let Some(to) = tried.or(last) {
            actions.push(Action::Doubt(to, cause));
        }
        if cause == LostCause::Unanswered
            && let Some(to) = tried
        {
            if Some(to.rank) == self.choice.home() {
                self.unanswered = (self.unanswered + 1).min(UNANSWERED_MAX);
            } else {
                actions.push(Action::List(to.rank, Duration::ZERO));
            }
        }
        self.gap_since.get_or_insert(now - silence);
        // A dial beside the link may be under way: all servers are to be asked now.
        if matches!(self.change, Change::Move(_) | Change::Turn(_)) {
            actions.push(Action::Retry);
        }
        self.drop_change();
        if was_attached {
            let why = GapWhy::Lost(cause);
            self.gap_why = Some(why);
            actions.push(Action::Note { what: "lost", cause: why.to_string() });
        }
        actions
    }

    /// The session has no link any more beside which something could be changed. What its user
    /// wants is done by the search, and a server that is found again asks again.
    fn drop_change(&mut self) {
        self.asked_meanwhile = None;
        let by_user = match &self.change {
            Change::Deciding(question) => question.by_user,
            Change::Move(plan) => plan.by_user,
            Change::Turn(_) | Change::Nothing => false,
        };
        if mutant!(WishForgotten, by_user, false) {
            self.leave = self.choice.last();
        }
        mutant!(ChangeKept, self.change = Change::Nothing, ());
    }

    /// An attempt beside the link that the session has was lost.
    pub fn handle_attempt_lost(&mut self, around: &impl Around, cause: LostCause) -> Vec<Action> {
        let Some(to) = self.attempt.take() else { return Vec::new() };
        if cause == LostCause::Overtaken
            && let Change::Move(plan) = &mut self.change
        {
            plan.overtaken += 1;
            if plan.overtaken <= OVERTAKEN_MAX {
                return vec![Action::RetryIn(AGAIN_AFTER)];
            }
        }
        // What the old link still brings keeps the new one from catching up. It ends soon, as the
        // service gives no more. A link that broke off is no reason to end what can go on, either:
        // a server that is gone will give no link.
        if let Change::Move(plan) = &self.change
            && mutant!(RestForgotten, plan.service_failed, false)
        {
            return vec![Action::RetryIn(AFTER_THE_REST)];
        }
        let what = match cause {
            LostCause::Broken | LostCause::Silent => "broke off",
            LostCause::Unanswered => "did not catch up",
            LostCause::Overtaken => "was overtaken by another answer",
        };
        let why = format!("{} {what}", around.server_name(to.rank));
        self.next_of_plan(to.rank, why, Action::RetryIn(AGAIN_AFTER))
    }

    /// A server of the plan is out of the question: the next one, by `again`, or the session stays.
    fn next_of_plan(&mut self, failed: Rank, why: String, again: Action) -> Vec<Action> {
        match &mut self.change {
            Change::Move(plan) => {
                mutant!(RefuserKept, plan.order.retain(|rank| *rank != failed), ());
                if !plan.order.is_empty() {
                    return vec![again];
                }
            }
            Change::Turn(_) => {}
            Change::Nothing if self.asked_meanwhile.is_some() => {}
            Change::Nothing | Change::Deciding(_) => return Vec::new(),
        }
        self.came_to_nothing(why)
    }

    /// The session was suspended.
    pub fn handle_suspended(
        &mut self,
        now: Instant,
        by_peer: bool,
        lasts: Option<Duration>,
    ) -> Vec<Action> {
        self.attached = false;
        self.asked_meanwhile = None;
        self.change = Change::Nothing;
        self.gap_since = Some(now);
        self.gap_why = Some(GapWhy::Suspended { by_peer });
        let by = if by_peer { "by the server" } else { "here" };
        let cause = match lasts {
            Some(lasts) => format!("{by}, for {} s", lasts.as_secs()),
            None => by.to_owned(),
        };
        vec![Action::Note { what: "suspended", cause }]
    }

    /// The network has changed, and the session is told to open another link.
    pub fn handle_path_changed(&mut self, now: Instant, why: GapWhy, since: Instant) {
        self.forget_change(now);
        if self.attached && self.gap_why.is_none() {
            self.path_changed = Some(now);
            self.gap_why = Some(why);
            self.gap_since.get_or_insert(since);
        }
    }

    /// A link that goes on long after the network has changed was not hurt by that.
    fn forget_change(&mut self, now: Instant) {
        if self.attached && self.path_changed.is_some_and(|at| now - at > CHANGE_HURTS) {
            (self.path_changed, self.gap_since, self.gap_why) = (None, None, None);
        }
    }

    /// A server has refused the session.
    pub fn handle_denied(
        &mut self,
        now: Instant,
        around: &impl Around,
        denial: &Denial<'_>,
    ) -> Vec<Action> {
        let to = self.attempt.take();
        let name = to.map_or_else(|| "server".to_owned(), |to| around.server_name(to.rank));
        let said =
            if denial.text.is_empty() { String::new() } else { format!(": {}", denial.text) };
        let cause = format!("{name} {}{said}", denial.why);
        let mut actions = vec![Action::Note { what: "refused", cause: cause.clone() }];
        let Some(to) = to else {
            // An answer to an attempt that is not known: the next one may tell more.
            if !denial.linked {
                actions.push(Action::Retry);
            }
            return actions;
        };
        if !denial.linked {
            self.attached = false;
            self.drop_change();
        }
        if let Meaning::List(asked) = denial.why.meaning() {
            actions.push(Action::List(to.rank, asked));
        }
        if denial.linked {
            // Whether it could go on without a home is no question while it has one.
            if denial.why.meaning() == Meaning::NotThisSession {
                self.choice.refuse(now, to.rank, denial.why);
            }
            actions.extend(self.next_of_plan(to.rank, cause, Action::Retry));
            return actions;
        }
        let next = self.choice.refuse(now, to.rank, denial.why);
        let why = match (next, denial.why, denial.transferable) {
            (_, Rejection::Unknown, Err(why)) if denial.established => {
                format!("{cause}; and it cannot be continued elsewhere: {why}")
            }
            (Next::GiveUp(worst), ..) => format!("no server can take it: {worst} ({cause})"),
            (Next::Another, ..) => {
                actions.push(Action::Retry);
                return actions;
            }
        };
        let error = match denial.why {
            _ if denial.established => AppError::Reset,
            Rejection::Service(errno) => AppError::Number(i32::from(errno)),
            Rejection::NotHere => AppError::Unreachable,
            _ => AppError::Refused,
        };
        actions.extend(self.give_up(error, why));
        actions
    }

    fn give_up(&mut self, error: AppError, why: String) -> Vec<Action> {
        if std::mem::replace(&mut self.gave_up, true) {
            return Vec::new();
        }
        self.change = Change::Nothing;
        let note = Action::Note { what: "gave up", cause: why.clone() };
        vec![note, Action::GiveUp { error, why }]
    }
}

/// What is known of the server that a session has left.
fn why_left(around: &impl Around, server: Rank) -> String {
    let name = around.server_name(server);
    match around.standing(server) {
        Standing::Open => String::new(),
        Standing::Away { last, .. } if last.kind == FailureKind::Refused => {
            format!(", {name} is gone")
        }
        Standing::Away { .. } => format!(", {name} is out of reach"),
    }
}
