//! Whether a session leaves its server, or the way to it, for a better one (STP 6 to 9).

use core::time::Duration;

use super::action::{Action, Around, CannotMove, GapWhy, Measured, Relay, stays};
use super::change::{Change, Move, Question, Turn};
use super::decide::{self, PATIENCE, numbers, way_name};
use super::machine::Course;
use crate::mutant::mutant;
use crate::rise::{Margin, Way, straight_again};
use crate::select::Rank;
use crate::session::WhyNot;
use crate::time::Instant;
use crate::wire::TransferReason;

/// A path that this end finds slow says nothing new for this long after it was decided whether to
/// leave: the server may have noticed as well, and asked.
const ASKED_LATELY: Duration = Duration::from_secs(2);
/// This many looks at the straight way in a row must say that it is good again.
const LOOKS: u32 = 2;

impl Course {
    /// This end finds that the path has become slow (STP 6).
    pub fn handle_slow_path(
        &mut self,
        now: Instant,
        text: &str,
        transferable: Result<(), WhyNot>,
    ) -> Vec<Action> {
        if self.asked_at.is_some_and(|at| now - at < ASKED_LATELY) {
            return Vec::new();
        }
        self.handle_asked_to_leave(now, TransferReason::Congested, text, transferable)
    }

    /// The server asks to be left (STP 8).
    pub fn handle_asked_to_leave(
        &mut self,
        now: Instant,
        reason: TransferReason,
        text: &str,
        transferable: Result<(), WhyNot>,
    ) -> Vec<Action> {
        let Some(home) = self.home().filter(|_| self.attached) else { return Vec::new() };
        let question = |ways_only| {
            let text = text.to_owned();
            Question { reason, text, by_user: false, ways_only }
        };
        let for_speed = reason == TransferReason::Congested;
        // Not while something else is under way, which may well answer it.
        let busy = self.change != Change::Nothing || self.attempt.is_some();
        if mutant!(DecidesAgain, busy, false) {
            if !for_speed && transferable.is_ok() {
                mutant!(MeanwhileForgotten, self.put_off(question(false)), ());
            }
            return Vec::new();
        }
        self.asked_at = Some(now);
        let said = if text.is_empty() { String::new() } else { format!(": {text}") };
        let cause = format!("{reason}{said}");
        let mut actions = vec![Action::Note { what: "asked to leave", cause }];
        let cooling = self.cool.left(now).filter(|_| for_speed).map(|left| left.as_secs() + 1);
        let cooling = mutant!(CoolDownIgnored, cooling, None);
        match (transferable, cooling) {
            (Ok(()), Some(left)) => {
                let why = format!("moved lately: no move for another {left} s");
                actions.extend(stays(TransferReason::NobodyBetter, why));
            }
            (Err(_), Some(left)) if self.has_pass => {
                let why = format!("changed its way lately: not for another {left} s");
                actions.extend(stays(TransferReason::NobodyBetter, why));
            }
            (Ok(()), None) => {
                actions.extend(self.decide(home, question(false)));
            }
            (Err(_), None) if for_speed && self.has_pass => {
                self.change = Change::Deciding(question(true));
                actions.push(Action::MeasureWays { home });
            }
            (Err(why), _) => {
                // Between two requests it may well be possible in a moment.
                let reason = match why {
                    WhyNot::Freed { .. } => TransferReason::NobodyBetter,
                    _ => TransferReason::NotTransferable,
                };
                actions.extend(stays(reason, format!("it cannot go elsewhere: {why}")));
            }
        }
        actions
    }

    /// What its server asked is decided later, if what goes before it comes to nothing. A service
    /// that has failed is the most pressing reason.
    fn put_off(&mut self, question: Question) {
        let failed = |one: &Question| one.reason == TransferReason::ServiceFailed;
        if !self.asked_meanwhile.as_ref().is_some_and(failed) {
            self.asked_meanwhile = Some(question);
        }
    }

    /// The user's word goes before a decision that is being made.
    fn put_off_decision(&mut self) {
        if let Change::Deciding(question) = &self.change
            && !question.by_user
            && question.reason != TransferReason::Congested
        {
            self.put_off(question.clone());
        }
    }

    /// Begins to decide to which server it goes.
    fn decide(&mut self, home: Rank, question: Question) -> Vec<Action> {
        self.change = Change::Deciding(question);
        vec![Action::Measure { home, others: self.others(home) }]
    }

    /// What was under way is over, and the session is still where it was: its server is told,
    /// unless it has asked for something else meanwhile. Then that is decided.
    pub(super) fn came_to_nothing(&mut self, why: String) -> Vec<Action> {
        self.change = Change::Nothing;
        let (Some(home), Some(question)) = (self.home(), self.asked_meanwhile.take()) else {
            return stays(TransferReason::NobodyBetter, why);
        };
        let mut actions = vec![Action::Note { what: "stays", cause: why }];
        let cause = question.asked();
        actions.push(Action::Note { what: "asked to leave", cause });
        actions.extend(self.decide(home, question));
        actions
    }

    /// STP 8: all servers but those that cannot have the session.
    fn others(&self, home: Rank) -> Vec<Rank> {
        let open = |rank: &Rank| *rank != home && self.choice.struck(*rank).is_none();
        (0..self.choice.servers()).filter(open).collect()
    }

    /// The servers were measured. `link_rtt` is the round trip of the session's link.
    pub fn handle_measured(
        &mut self,
        now: Instant,
        around: &impl Around,
        measured: &[Measured<Rank>],
        link_rtt: Duration,
    ) -> Vec<Action> {
        let (Some(home), Some(question)) = (self.choice.home(), self.answer(false)) else {
            return Vec::new();
        };
        let for_speed = question.reason == TransferReason::Congested;
        let silent = Way { now: None, base: None };
        let here = measured.iter().find(|one| one.to == home).map_or(silent, |one| one.way);
        // The link lives: its server is not gone, but at least as far as was waited.
        let here = Way { now: here.now.or(Some(link_rtt.max(PATIENCE))), ..here };
        let others: Vec<_> = measured.iter().filter(|one| one.to != home).copied().collect();
        let is_free = |server| around.listed_until(now, server).is_none();
        let is_free = |server| mutant!(ListedChosen, is_free(server), true);
        let others: Vec<_> = others.into_iter().filter(|one| is_free(one.to)).collect();
        let here = Measured { to: home, way: here };
        let decided = match decide::servers(around, here, &others, for_speed) {
            // Not all sessions that share a congested path leave it at once.
            Ok((_, numbers)) if for_speed && !around.take_exit(now, home) => {
                let name = around.server_name(home);
                Err(format!("others have just left {name}, that may be enough; {numbers}"))
            }
            decided => decided,
        };
        match decided {
            Ok((order, numbers)) => {
                let why = format!("{}; {numbers}", question.asked());
                let service_failed = question.reason == TransferReason::ServiceFailed;
                let (by_user, overtaken, order) = (question.by_user, 0, order.into());
                self.go(Move { order, why, for_speed, service_failed, by_user, overtaken })
            }
            Err(why) => self.came_to_nothing(why),
        }
    }

    /// The question that was being decided, if it is of this kind. It is none any more.
    fn answer(&mut self, ways_only: bool) -> Option<Question> {
        match std::mem::take(&mut self.change) {
            Change::Deciding(question) if question.ways_only == ways_only => Some(question),
            other => {
                self.change = other;
                None
            }
        }
    }

    /// What was decided begins. If an attempt is under way, it begins when that is answered.
    fn begin(&self, note: Action) -> Vec<Action> {
        let retry = self.attempt.is_none().then_some(Action::Retry);
        std::iter::once(note).chain(retry).collect()
    }

    /// It goes to another server.
    fn go(&mut self, plan: Move) -> Vec<Action> {
        let note = Action::Log { what: "leaves its server", cause: plan.why.clone() };
        self.change = Change::Move(plan);
        self.begin(note)
    }

    /// The straight way and those through relays were measured. The present one is among them,
    /// unless nobody answered on it.
    pub fn handle_ways_measured(
        &mut self,
        around: &impl Around,
        measured: &[Measured<Option<Relay>>],
    ) -> Vec<Action> {
        let Some(question) = self.answer(true) else { return Vec::new() };
        let silent = Way { now: None, base: None };
        let present = measured.iter().find(|one| one.to == self.via);
        let present = present.map_or(silent, |one| one.way);
        let others: Vec<_> = measured.iter().filter(|one| one.to != self.via).copied().collect();
        match decide::ways(around, Measured { to: self.via, way: present }, &others) {
            Ok((via, numbers)) => {
                let why = format!("{}; {numbers}", question.asked());
                self.turn(around, Turn { via, why, for_speed: true })
            }
            Err(why) => self.came_to_nothing(why),
        }
    }

    /// It takes another way to its server.
    fn turn(&mut self, around: &impl Around, turn: Turn) -> Vec<Action> {
        let cause = format!("{}: {}", way_name(around, turn.via), turn.why);
        self.change = Change::Turn(turn);
        self.begin(Action::Log { what: "turns", cause })
    }

    /// A look at the way through the relay and at the straight one. It goes straight again when
    /// some looks in a row have found that good.
    pub fn handle_looked(
        &mut self,
        now: Instant,
        around: &impl Around,
        present: Way,
        straight: Way,
    ) -> Vec<Action> {
        if self.via.is_none() || !self.attached {
            return Vec::new();
        }
        mutant!(NeverStraight => return Vec::new());
        let name = way_name(around, self.via);
        let said = format!("{name} {}, straight {}", numbers(present), numbers(straight));
        match straight_again(present, straight, &Margin::default()) {
            Ok(()) => self.agreed = (self.agreed + 1).min(LOOKS),
            Err(why) => {
                self.agreed = 0;
                // It is told once for every reason, because it looks often.
                if self.disagreed.replace(why) == Some(why) {
                    return Vec::new();
                }
                return vec![Action::Note { what: "stays", cause: format!("{said}: {why}") }];
            }
        }
        if self.agreed < LOOKS || self.cool.left(now).is_some() || self.change != Change::Nothing {
            return Vec::new();
        }
        self.agreed = 0;
        let why = format!("the straight way is good again: {said}");
        self.turn(around, Turn { via: None, why, for_speed: false })
    }

    /// Its user wants it at another server: at this one, or at any.
    ///
    /// # Errors
    /// When it cannot be moved now; says why.
    pub fn handle_user_move(
        &mut self,
        around: &impl Around,
        to: Option<Rank>,
        transferable: Result<(), WhyNot>,
    ) -> Result<Vec<Action>, CannotMove> {
        if self.choice.servers() < 2 {
            return Err(CannotMove::OnlyServer);
        }
        transferable.map_err(CannotMove::NotTransferable)?;
        let home = self.choice.home().ok_or(CannotMove::Homeless)?;
        match (&self.change, to) {
            (Change::Move(_) | Change::Turn(_), _) => Err(CannotMove::UnderWay),
            (_, Some(to)) if to == home => Err(CannotMove::There(around.server_name(to))),
            (_, Some(_)) if !self.attached => Err(CannotMove::NoLink),
            (_, Some(to)) => {
                self.put_off_decision();
                Ok(self.go(Move {
                    order: [to].into(),
                    why: GapWhy::User.to_string(),
                    for_speed: false,
                    service_failed: false,
                    by_user: true,
                    overtaken: 0,
                }))
            }
            (_, None) if self.attached => {
                self.put_off_decision();
                let (reason, text) = (TransferReason::Operator, String::new());
                let question = Question { reason, text, by_user: true, ways_only: false };
                Ok(self.decide(home, question))
            }
            (_, None) => {
                self.leave = Some(home);
                self.gap_why = Some(GapWhy::User);
                Ok(vec![Action::Retry])
            }
        }
    }
}

impl Question {
    /// Why, in one line.
    fn asked(&self) -> String {
        match &self.text {
            text if text.is_empty() => self.reason.to_string(),
            text => format!("{}: {text}", self.reason),
        }
    }
}
