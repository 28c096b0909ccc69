//! A session's course through two servers, stepped through everything that can happen to it: the
//! shipped [`Course`], in every order of dials, answers, refusals, losses, measurements and wishes
//! of users. The clock stands still, so no cool-down ends; any measurement may have any result.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::time::Duration;

use stp_proto::course::{
    Action, AppError, Around, Change, Course, Deadlines, Denial, Dial, GaveUp, Measured, NoServer,
    Relay, Standing, Target, Ways,
};
use stp_proto::rise::Way;
use stp_proto::select::{Rank, Rejection, Want};
use stp_proto::session::{Attempt, LostCause, WhyNot};
use stp_proto::time::Instant;
use stp_proto::wire::TransferReason;

const NOW: Instant = Instant(1_000_000_000);
const RELAY: Relay = Relay([7; 32]);
const FIXED: Result<(), WhyNot> = Err(WhyNot::NotTransferable);

/// Servers that can be reached, and of which nothing is known.
struct Here;

impl Ways for Here {
    fn standing(&self, _server: Rank) -> Standing {
        Standing::Open
    }

    fn last_link(&self, _server: Rank) -> Option<Duration> {
        None
    }
}

impl Around for Here {
    fn server_name(&self, server: Rank) -> String {
        server.to_string()
    }

    fn relay_name(&self, _relay: Relay) -> String {
        "relay".to_owned()
    }

    fn listed_until(&self, _now: Instant, _server: Rank) -> Option<Instant> {
        None
    }

    fn round_trip(&self, _server: Rank) -> Option<Duration> {
        None
    }

    fn take_exit(&self, _now: Instant, _server: Rank) -> bool {
        true
    }
}

/// What a dial under way is for.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Dialing {
    Search,
    Move(Rank),
    Turn(Target),
}

/// What is being measured.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
enum Measuring {
    Servers,
    Ways,
}

/// The course, and as much of a session and a broker as it needs.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
struct World {
    course: Course,
    established: bool,
    linked: bool,
    /// The session wants to ask for a link.
    wants: bool,
    dialing: Option<Dialing>,
    /// An attempt awaits its answer.
    trying: Option<Target>,
    measuring: Option<Measuring>,
    over: bool,
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Dial,
    Found(Target),
    NotFound(NoServer, bool),
    Attached,
    Denied(Rejection, bool),
    AttemptLost(LostCause),
    Lost(LostCause),
    Suspended,
    Asked(TransferReason, bool),
    UserMove(Option<Rank>, bool),
    Pass,
    /// The present way is this slow, and the others are not.
    Measured(bool),
    Looked(bool),
}

fn can(transferable: bool) -> Result<(), WhyNot> {
    if transferable { Ok(()) } else { FIXED }
}

/// A way that has become slow, or one that has not.
fn way(slow: bool) -> Way {
    let ms = |ms| Some(Duration::from_millis(ms));
    Way { now: ms(if slow { 900 } else { 10 }), base: ms(10) }
}

impl World {
    fn new() -> World {
        World {
            course: Course::new(2, Deadlines::default()),
            established: false,
            linked: false,
            wants: true,
            dialing: None,
            trying: None,
            measuring: None,
            over: false,
        }
    }

    /// Everything that can happen now.
    fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        if self.over {
            return steps;
        }
        let transferable = [true, false];
        match (self.dialing, self.trying) {
            (None, None) if self.wants => steps.push(Step::Dial),
            (None, None) => {}
            (Some(Dialing::Move(rank)), _) => {
                steps.push(Step::Found(Target { rank, via: None }));
                steps.push(Step::NotFound(NoServer::NobodyAnswers, true));
            }
            (Some(Dialing::Turn(target)), _) => {
                steps.push(Step::Found(target));
                steps.push(Step::NotFound(NoServer::NobodyAnswers, true));
            }
            (Some(Dialing::Search), _) => {
                steps.extend((0..2).map(|rank| Step::Found(Target { rank, via: None })));
                if let Some(rank) = self.course.home() {
                    steps.push(Step::Found(Target { rank, via: Some(RELAY) }));
                }
                let ends = [NoServer::HomeRefuses, NoServer::HomeGone, NoServer::NobodyLeft];
                steps.extend(ends.map(|end| Step::NotFound(end, false)));
            }
            (None, Some(_)) => {
                steps.push(Step::Attached);
                for why in [Rejection::Overloaded(Duration::ZERO), Rejection::Seam] {
                    steps.push(Step::Denied(why, true));
                }
                steps.push(Step::Denied(Rejection::Unknown, false));
                steps.push(Step::AttemptLost(LostCause::Unanswered));
                if self.linked {
                    steps.push(Step::AttemptLost(LostCause::Overtaken));
                }
            }
        }
        if self.linked {
            steps.push(Step::Lost(LostCause::Silent));
            steps.push(Step::Suspended);
            for can in transferable {
                steps.push(Step::Asked(TransferReason::Congested, can));
                steps.push(Step::Asked(TransferReason::Draining, can));
            }
            steps.push(Step::Pass);
            if self.course.looks() {
                steps.extend([Step::Looked(true), Step::Looked(false)]);
            }
        }
        for to in [None, Some(0), Some(1)] {
            steps.extend(transferable.map(|can| Step::UserMove(to, can)));
        }
        if self.measuring.is_some() {
            steps.extend([Step::Measured(true), Step::Measured(false)]);
        }
        steps
    }

    fn take(&self, step: Step) -> Result<World, String> {
        let mut next = self.clone();
        let actions = match step {
            Step::Dial | Step::Found(_) | Step::NotFound(..) => next.dialed(step)?,
            Step::Attached | Step::Denied(..) | Step::AttemptLost(_) => next.answered(step)?,
            Step::Measured(better) => next.measured(better),
            _ => next.told(step),
        };
        next.carry_out(self, &actions)?;
        next.check()?;
        Ok(next)
    }

    fn dialed(&mut self, step: Step) -> Result<Vec<Action>, String> {
        match step {
            Step::Found(target) => {
                self.dialing = None;
                self.trying = Some(target);
                self.course.handle_found(target, self.established);
                Ok(Vec::new())
            }
            Step::NotFound(end, transferable) => {
                self.wants = !self.linked;
                let gave_up = GaveUp { end, error: AppError::Reset, why: String::new() };
                let (course, can) = (&mut self.course, can(transferable));
                Ok(match self.dialing.take() {
                    Some(Dialing::Move(rank)) => course.handle_unreached(rank),
                    Some(Dialing::Turn(_)) => course.handle_turn_failed(String::new()),
                    _ => course.handle_no_server(&Here, self.established, can, gave_up),
                })
            }
            _ => {
                self.wants = false;
                self.dial()?;
                Ok(Vec::new())
            }
        }
    }

    fn answered(&mut self, step: Step) -> Result<Vec<Action>, String> {
        let to = self.trying.take().ok_or("nothing is tried")?;
        let linked = self.linked;
        self.wants = !linked;
        Ok(match step {
            Step::Denied(why, transferable) => {
                let (established, transferable) = (self.established, can(transferable));
                let denial = Denial { why, text: "", linked, established, transferable };
                self.course.handle_denied(NOW, &Here, &denial)
            }
            Step::AttemptLost(cause) if linked => self.course.handle_attempt_lost(&Here, cause),
            Step::AttemptLost(cause) => self.course.handle_lost(NOW, cause, Duration::ZERO),
            _ => {
                let same = self.course.home().is_none_or(|home| home == to.rank);
                let attempt = match (self.established, same) {
                    (false, _) => Attempt::Connect,
                    (true, true) => Attempt::Resume,
                    (true, false) => Attempt::Transfer,
                };
                (self.established, self.linked, self.wants) = (true, true, false);
                self.course.handle_attached(NOW, &Here, attempt, Duration::ZERO)
            }
        })
    }

    fn told(&mut self, step: Step) -> Vec<Action> {
        match step {
            Step::Lost(cause) => {
                (self.linked, self.wants, self.trying) = (false, true, None);
                self.course.handle_lost(NOW, cause, Duration::ZERO)
            }
            Step::Suspended => {
                (self.linked, self.wants, self.trying, self.dialing) = (false, true, None, None);
                self.course.handle_suspended(NOW, false)
            }
            Step::Asked(reason, transferable) => {
                self.course.handle_asked_to_leave(NOW, reason, "", can(transferable))
            }
            Step::UserMove(to, transferable) => {
                let moved = self.course.handle_user_move(&Here, to, can(transferable));
                moved.unwrap_or_default()
            }
            Step::Looked(good) => self.course.handle_looked(NOW, &Here, way(false), way(!good)),
            _ => {
                self.course.handle_pass();
                Vec::new()
            }
        }
    }

    fn measured(&mut self, better: bool) -> Vec<Action> {
        match self.measuring.take() {
            Some(Measuring::Servers) => {
                let home = self.course.home();
                let all = [0, 1].map(|to| {
                    let way = way(better && Some(to) == home);
                    Measured { to, way }
                });
                self.course.handle_measured(NOW, &Here, &all, Duration::ZERO)
            }
            _ => {
                let via = self.course.via();
                let all = [None, Some(RELAY)].map(|to| {
                    let way = way(better && to == via);
                    Measured { to, way }
                });
                self.course.handle_ways_measured(&Here, &all)
            }
        }
    }

    fn dial(&mut self) -> Result<(), String> {
        let want =
            if self.established { Want::Resume { transferable: true } } else { Want::Connect };
        let before = self.course.change().clone();
        let dialing = match self.course.handle_dial(NOW, self.linked, want, NOW) {
            Dial::Search(_) => Dialing::Search,
            Dial::Move(rank) => Dialing::Move(rank),
            Dial::Turn(target) => Dialing::Turn(target),
        };
        let decided = match (dialing, before) {
            (Dialing::Search, _) => true,
            (Dialing::Move(rank), Change::Move(plan)) => plan.order.front() == Some(&rank),
            (Dialing::Turn(target), Change::Turn(turn)) => {
                turn.via == target.via && self.course.home() == Some(target.rank)
            }
            _ => false,
        };
        self.dialing = Some(dialing);
        if decided { Ok(()) } else { Err(format!("{dialing:?} was not decided")) }
    }

    fn carry_out(&mut self, before: &World, actions: &[Action]) -> Result<(), String> {
        let mut measures = 0;
        for action in actions {
            match action {
                Action::Retry | Action::RetryIn(_) => self.wants = true,
                Action::GiveUp { .. } if before.linked && self.linked => {
                    return Err("a session that has a link is given up".to_owned());
                }
                Action::GiveUp { .. } => self.over = true,
                Action::Measure { home, others } => {
                    if others.contains(home) || self.course.home() != Some(*home) {
                        return Err(format!("{home} and {others:?} are measured"));
                    }
                    (self.measuring, measures) = (Some(Measuring::Servers), measures + 1);
                }
                Action::MeasureWays { .. } => {
                    (self.measuring, measures) = (Some(Measuring::Ways), measures + 1);
                }
                _ => {}
            }
        }
        if measures > 1 { Err("two decisions at once".to_owned()) } else { Ok(()) }
    }

    /// What must hold in every state.
    fn check(&self) -> Result<(), String> {
        if self.course.is_attached() != self.linked {
            return Err("course and session disagree whether there is a link".to_owned());
        }
        if self.linked && self.course.home().is_none() {
            return Err("a session with a link has no server".to_owned());
        }
        match self.course.change() {
            Change::Nothing => {}
            _ if self.over => return Err("something is decided after the end".to_owned()),
            Change::Deciding(question) => {
                let kind = if question.ways_only { Measuring::Ways } else { Measuring::Servers };
                if self.measuring != Some(kind) {
                    return Err("a decision waits for nothing".to_owned());
                }
            }
            Change::Move(plan) => {
                if plan.order.is_empty() {
                    return Err("a move leads nowhere".to_owned());
                }
                if plan.order.iter().any(|rank| Some(*rank) == self.course.home()) {
                    return Err("a move leads to where the session is".to_owned());
                }
            }
            Change::Turn(_) if self.course.home().is_none() => {
                return Err("another way leads to no server".to_owned());
            }
            Change::Turn(_) => {}
        }
        // Somebody must do something next.
        let moves = self.wants || self.dialing.is_some() || self.trying.is_some();
        if !moves && !self.linked && !self.over {
            return Err("a session without a link waits for nothing".to_owned());
        }
        Ok(())
    }
}

/// All states that can be reached; the first that breaks a rule, with the way to it.
fn explore() -> Result<usize, String> {
    let first = World::new();
    let mut known = HashSet::from([first.clone()]);
    let mut came: BTreeMap<usize, (usize, Step)> = BTreeMap::new();
    let mut queue = VecDeque::from([(0, first)]);
    let mut count = 0;
    while let Some((number, world)) = queue.pop_front() {
        for step in world.steps() {
            match world.take(step) {
                Ok(next) if known.insert(next.clone()) => {
                    count += 1;
                    came.insert(count, (number, step));
                    queue.push_back((count, next));
                }
                Ok(_) => {}
                Err(why) => {
                    let mut way = vec![step];
                    let mut at = number;
                    while let Some((before, step)) = came.get(&at) {
                        way.insert(0, *step);
                        at = *before;
                    }
                    return Err(format!("{why}: {way:?}"));
                }
            }
        }
    }
    Ok(known.len())
}

#[test]
fn a_course_keeps_its_rules_in_every_state() {
    match explore() {
        Ok(states) => {
            println!("the course of a session between two servers: {states} states");
            assert!(states > 1_000, "most of what can happen is not reached");
        }
        Err(why) => panic!("{why}"),
    }
}
