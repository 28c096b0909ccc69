//! The course as a table, and all that can happen to a small one.

use core::time::Duration;
use std::collections::{BTreeSet, HashSet, VecDeque};
use std::fmt::Write;

use super::*;
use crate::rise::Way;
use crate::select::{Rank, Rejection, Want};
use crate::session::{Attempt, LostCause, WhyNot};
use crate::time::Instant;
use crate::wire::TransferReason;

const NOW: Instant = Instant(100_000_000);
const RELAY: Relay = Relay([7; 32]);

/// Surroundings in which every way is open.
struct Lab;

impl Ways for Lab {
    fn standing(&self, _server: Rank) -> Standing {
        Standing::Open
    }

    fn last_link(&self, _server: Rank) -> Option<Duration> {
        None
    }
}

impl Around for Lab {
    fn server_name(&self, server: Rank) -> String {
        ["a", "b", "c"][server].to_owned()
    }

    fn relay_name(&self, _relay: Relay) -> String {
        "r".to_owned()
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

fn way(ms: u64) -> Way {
    let rtt = Some(Duration::from_millis(ms));
    Way { now: rtt, base: rtt }
}

const FREED: Result<(), WhyNot> = Err(WhyNot::Freed { covers: 1, kept: 2 });

/// What can happen.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
enum Happens {
    /// The session asks for a link and gets one to what it asked for, or to this server.
    Dialed(Rank),
    Attached,
    Lost(LostCause),
    AttemptLost(LostCause),
    Denied(Rejection),
    DeniedBeside(Rejection),
    Suspended,
    Asked(TransferReason),
    AskedBound,
    Slow,
    MeasuredNearer,
    MeasuredFarther,
    WaysNearer,
    WaysFarther,
    LookedGood,
    LookedBad,
    Unreached,
    TurnFailed,
    UserMove,
    UserMoveTo(Rank),
    PathChanged,
    Pass,
    NoServer,
}

use Happens::*;

const ALL: [Happens; 30] = [
    Dialed(0),
    Dialed(1),
    Attached,
    Lost(LostCause::Broken),
    Lost(LostCause::Silent),
    Lost(LostCause::Unanswered),
    AttemptLost(LostCause::Broken),
    AttemptLost(LostCause::Overtaken),
    Denied(Rejection::NotHere),
    Denied(Rejection::Unknown),
    Denied(Rejection::Draining),
    Denied(Rejection::Unsafe),
    DeniedBeside(Rejection::NotHere),
    DeniedBeside(Rejection::Draining),
    Suspended,
    Asked(TransferReason::Congested),
    Asked(TransferReason::Draining),
    AskedBound,
    Slow,
    MeasuredNearer,
    MeasuredFarther,
    WaysNearer,
    WaysFarther,
    LookedGood,
    LookedBad,
    Unreached,
    TurnFailed,
    UserMove,
    UserMoveTo(1),
    PathChanged,
];

fn denial(why: Rejection, linked: bool, course: &Course) -> Denial<'static> {
    let established = course.last().is_some();
    Denial { why, text: "", linked, established, transferable: Ok(()) }
}

impl Happens {
    /// Whether it can happen in this state at all. The session tells of a link only if it has one.
    fn is_possible(self, course: &Course) -> bool {
        let linked = course.is_attached();
        match self {
            Attached => course.attempt().is_some(),
            Denied(_) => !linked && course.attempt().is_some(),
            Lost(LostCause::Unanswered) => !linked && course.attempt().is_some(),
            DeniedBeside(_) | AttemptLost(_) => linked && course.attempt().is_some(),
            Asked(_) | AskedBound | Slow | PathChanged => linked,
            Suspended => course.last().is_some(),
            _ => true,
        }
    }

    fn happen(self, course: &mut Course) -> Vec<Action> {
        match self {
            Dialed(rank) => dialed(course, rank),
            Attached => {
                let attempt = match (course.last(), course.attempt()) {
                    (None, _) => Attempt::Connect,
                    (Some(last), Some(to)) if last != to.rank => Attempt::Transfer,
                    _ => Attempt::Resume,
                };
                course.handle_attached(NOW, &Lab, attempt, Duration::ZERO)
            }
            Lost(cause) => course.handle_lost(NOW, cause, Duration::ZERO),
            AttemptLost(cause) => course.handle_attempt_lost(&Lab, cause),
            Denied(why) => {
                let denial = denial(why, false, course);
                course.handle_denied(NOW, &Lab, &denial)
            }
            DeniedBeside(why) => {
                let denial = denial(why, true, course);
                course.handle_denied(NOW, &Lab, &denial)
            }
            Suspended => course.handle_suspended(NOW, true, None),
            Asked(reason) => course.handle_asked_to_leave(NOW, reason, "", Ok(())),
            AskedBound => course.handle_asked_to_leave(NOW, TransferReason::Congested, "", FREED),
            Slow => course.handle_slow_path(NOW, "slow", Ok(())),
            MeasuredNearer => measured(course, 10),
            MeasuredFarther => measured(course, 200),
            WaysNearer => ways_measured(course, 10),
            WaysFarther => ways_measured(course, 200),
            LookedGood => course.handle_looked(NOW, &Lab, way(50), way(20)),
            LookedBad => course.handle_looked(NOW, &Lab, way(50), way(80)),
            Unreached => course.handle_unreached(1),
            TurnFailed => course.handle_turn_failed("r does not answer".to_owned()),
            UserMove => course.handle_user_move(&Lab, None, Ok(())).unwrap_or_default(),
            UserMoveTo(to) => course.handle_user_move(&Lab, Some(to), Ok(())).unwrap_or_default(),
            PathChanged => {
                course.handle_path_changed(NOW, GapWhy::AddressGone, NOW);
                Vec::new()
            }
            Pass => {
                course.handle_pass();
                Vec::new()
            }
            NoServer => {
                let (end, error) = (super::NoServer::HomeRefuses, AppError::Reset);
                let gave_up = GaveUp { end, error, why: "gone".to_owned() };
                course.handle_no_server(&Lab, course.last().is_some(), Ok(()), gave_up)
            }
        }
    }
}

fn dialed(course: &mut Course, rank: Rank) -> Vec<Action> {
    let linked = course.is_attached();
    let established = course.last().is_some();
    let want = match established {
        true => Want::Resume { transferable: true },
        false => Want::Connect,
    };
    let to = match course.handle_dial(NOW, linked, want, NOW) {
        Dial::Move(rank) => Target { rank, via: None },
        Dial::Turn(target) => target,
        Dial::Search(seek) => {
            let wanted = seek.wanted(NOW, &Lab);
            let Some(to) = wanted.order.iter().find(|one| one.rank == rank) else {
                return Vec::new();
            };
            Target { rank: to.rank, via: None }
        }
    };
    course.handle_found(to, established);
    Vec::new()
}

fn measured(course: &mut Course, ms: u64) -> Vec<Action> {
    let one = |to, ms| Measured { to, way: way(ms) };
    let home = course.home().unwrap_or(0);
    let measured = [one(home, 100), one(1 - home, ms)];
    course.handle_measured(NOW, &Lab, &measured, Duration::from_millis(100))
}

fn ways_measured(course: &mut Course, ms: u64) -> Vec<Action> {
    let present = course.via();
    let other = if present.is_some() { None } else { Some(RELAY) };
    let measured = [(present, 100), (other, ms)].map(|(to, ms)| Measured { to, way: way(ms) });
    course.handle_ways_measured(&Lab, &measured)
}

/// A session that is at server 0 and has a pass.
fn at_home() -> Course {
    let mut course = Course::new(2, Deadlines::default());
    for happens in [Dialed(0), Attached, Pass] {
        happens.happen(&mut course);
    }
    course
}

fn after(events: &[Happens]) -> Course {
    let mut course = at_home();
    events.iter().for_each(|event| drop(event.happen(&mut course)));
    course
}

/// The same in a few letters, for the table.
fn short(actions: &[Action]) -> String {
    let one = |action: &Action| match action {
        Action::Retry => Some("retry".to_owned()),
        Action::RetryIn(_) => Some("retry later".to_owned()),
        Action::Stay(_) => Some("stay".to_owned()),
        Action::GiveUp { .. } => Some("give up".to_owned()),
        Action::Measure { .. } => Some("measure".to_owned()),
        Action::MeasureWays { .. } => Some("measure ways".to_owned()),
        Action::Look => Some("look".to_owned()),
        Action::List(rank, _) => Some(format!("list {}", Lab.server_name(*rank))),
        Action::Unlist(_) | Action::Doubt(..) | Action::NoteLink { .. } => None,
        Action::Note { .. } | Action::Log { .. } => None,
    };
    actions.iter().filter_map(one).collect::<Vec<_>>().join(", ")
}

fn name(change: &Change) -> &'static str {
    match change {
        Change::Nothing => "nothing",
        Change::Deciding(question) if question.ways_only => "deciding on ways",
        Change::Deciding(_) => "deciding",
        Change::Move(_) => "move",
        Change::Turn(_) => "turn",
    }
}

/// Every change that may be under way, and everything that can happen then.
#[test]
fn the_table_of_changes_is_as_it_was_agreed() {
    let mut table = String::new();
    let states: [&[Happens]; 5] = [
        &[],
        &[Asked(TransferReason::Draining)],
        &[AskedBound],
        &[Asked(TransferReason::Draining), MeasuredNearer, Dialed(1)],
        &[AskedBound, WaysNearer, Dialed(0)],
    ];
    for events in states {
        let course = after(events);
        writeln!(table, "{}", name(course.change())).unwrap();
        for happens in ALL.into_iter().filter(|one| one.is_possible(&course)) {
            let mut next = course.clone();
            let actions = short(&happens.happen(&mut next));
            if next.change() == course.change() && actions.is_empty() {
                continue;
            }
            let (happens, to) = (format!("{happens:?}"), name(next.change()));
            let line = format!("  {happens:<26}{to:<17}{actions}");
            writeln!(table, "{}", line.trim_end()).unwrap();
        }
    }
    assert_eq!(table, include_str!("table.txt"), "\n{table}");
}

/// How many things happen one after the other at most.
const DEPTH: usize = 7;

/// Everything that can happen to a session of two servers, a relay and a pass, in every order.
#[test]
fn in_no_state_that_can_be_reached_does_a_course_contradict_itself() {
    let mut seen: HashSet<Course> = HashSet::new();
    let mut queue = VecDeque::from([(Course::new(2, Deadlines::default()), 0), (at_home(), 0)]);
    let mut changes = BTreeSet::new();
    while let Some((course, depth)) = queue.pop_front() {
        changes.insert(name(course.change()));
        for happens in ALL.into_iter().chain([NoServer]) {
            if !happens.is_possible(&course) {
                continue;
            }
            let mut next = course.clone();
            let actions = happens.happen(&mut next);
            check(&course, happens, &next, &actions);
            if !actions.iter().any(|one| matches!(one, Action::GiveUp { .. }))
                && depth < DEPTH
                && seen.insert(next.clone())
            {
                queue.push_back((next, depth + 1));
            }
        }
    }
    assert_eq!(changes.len(), 5, "{changes:?}");
    assert!(seen.len() > 1_000, "{} states", seen.len());
}

fn check(before: &Course, happens: Happens, after: &Course, actions: &[Action]) {
    let told = || format!("{happens:?} in {before:?} led to {after:?} with {actions:?}");
    let is_order = |action: &&Action| {
        matches!(
            action,
            Action::Retry | Action::RetryIn(_) | Action::Stay(_) | Action::GiveUp { .. }
        )
    };
    let orders: Vec<&Action> = actions.iter().filter(is_order).collect();
    assert!(orders.len() <= 1, "the session is told one thing at a time: {}", told());
    let changes = *after.change() != Change::Nothing;
    assert!(!changes || after.is_attached(), "a change needs a link to be beside: {}", told());
    if let Change::Move(plan) = after.change() {
        assert!(!plan.order.is_empty(), "a plan leads somewhere: {}", told());
        assert!(!plan.order.contains(&after.home().unwrap()), "a plan leads away: {}", told());
    }
    let decided = match (before.change(), happens) {
        (Change::Deciding(question), MeasuredNearer | MeasuredFarther) => !question.ways_only,
        (Change::Deciding(question), WaysNearer | WaysFarther) => question.ways_only,
        _ => false,
    };
    let was_going = matches!(before.change(), Change::Move(_) | Change::Turn(_));
    let goes = matches!(after.change(), Change::Move(_) | Change::Turn(_));
    let decides_next = before.asked_meanwhile.is_some()
        && matches!(after.change(), Change::Deciding(_))
        && actions.iter().any(|one| matches!(one, Action::Measure { .. }));
    if decided && !decides_next {
        // What was decided waits for the end of an attempt that is under way.
        let waits = goes && before.attempt().is_some();
        assert!(orders.len() == 1 || waits, "who asks gets an answer: {}", told());
        assert!(!matches!(after.change(), Change::Deciding(_)), "it is decided: {}", told());
    }
    if was_going && goes && matches!(happens, UserMove | UserMoveTo(_) | Asked(_) | Slow) {
        assert_eq!(before.change(), after.change(), "one change at a time: {}", told());
    }
    if was_going && !goes && after.is_attached() && !matches!(happens, Attached) {
        let answered = orders.iter().any(|one| matches!(one, Action::Stay(_)));
        assert!(answered || decides_next, "who asked is told: {}", told());
    }
}

#[test]
fn a_user_is_told_why_a_session_cannot_be_moved() {
    let to = |course: &mut Course, to| {
        course.handle_user_move(&Lab, to, Ok(())).map_err(|why| why.to_string())
    };
    assert_eq!(
        to(&mut Course::new(1, Deadlines::default()), None),
        Err("its service has only one server".to_owned())
    );
    assert_eq!(
        to(&mut Course::new(2, Deadlines::default()), None),
        Err("it has no server now".to_owned())
    );
    assert_eq!(to(&mut at_home(), Some(0)), Err("it is at a already".to_owned()));
    let mut moving = after(&[UserMoveTo(1)]);
    assert_eq!(to(&mut moving, None), Err("it is about to move already".to_owned()));
    let why = at_home().handle_user_move(&Lab, None, Err(WhyNot::NoTicket)).unwrap_err();
    assert_eq!(why.to_string(), "it cannot be moved: the server gave no ticket");
    let mut lost = after(&[Lost(LostCause::Broken)]);
    let why = "it has no link now; it looks for a server by itself".to_owned();
    assert_eq!(to(&mut lost, Some(1)), Err(why));
}

#[test]
fn what_a_user_wants_is_not_forgotten_when_the_link_is_lost_meanwhile() {
    let mut course = after(&[UserMove, Lost(LostCause::Broken)]);
    let want = Want::Resume { transferable: true };
    let Dial::Search(seek) = course.handle_dial(NOW, false, want, NOW) else {
        panic!("it searches")
    };
    let wanted = seek.wanted(NOW, &Lab);
    let left = Some(NOW + Duration::from_secs(20));
    assert_eq!(wanted.order[0], Candidate { rank: 1, not_before: None });
    assert_eq!(wanted.order[1], Candidate { rank: 0, not_before: left }, "if no other answers");
    assert_eq!(wanted.home, None);
}

#[test]
fn a_move_for_speed_is_followed_by_a_time_of_rest_and_lists_the_server_that_was_left() {
    let mut course = after(&[Asked(TransferReason::Congested), MeasuredNearer, Dialed(1)]);
    let actions = Attached.happen(&mut course);
    assert!(actions.contains(&Action::List(0, Duration::ZERO)), "{actions:?}");
    let actions = Asked(TransferReason::Congested).happen(&mut course);
    assert_eq!(short(&actions), "stay");
    let actions = Asked(TransferReason::Draining).happen(&mut course);
    assert_eq!(short(&actions), "measure", "it must go all the same");
}

#[test]
fn a_server_that_cannot_catch_up_with_a_failed_service_is_asked_until_the_rest_is_through() {
    let unanswered = |reason| {
        let mut course = after(&[Asked(reason), MeasuredNearer, Dialed(1)]);
        let mut said = Vec::new();
        for _ in 0..3 {
            let actions = course.handle_attempt_lost(&Lab, LostCause::Unanswered);
            said.push(short(&actions));
            Dialed(1).happen(&mut course);
        }
        said
    };
    assert_eq!(
        unanswered(TransferReason::ServiceFailed),
        ["retry later", "retry later", "retry later"]
    );
    assert_eq!(unanswered(TransferReason::Draining)[0], "stay", "it is as well off where it is");
}

#[test]
fn a_home_that_is_not_answered_twice_is_asked_last() {
    let unanswered = [Dialed(0), Lost(LostCause::Unanswered)];
    let mut course = after(&[Lost(LostCause::Broken)]);
    let first = |course: &mut Course| {
        let want = Want::Resume { transferable: true };
        let Dial::Search(seek) = course.handle_dial(NOW, false, want, NOW) else {
            panic!("searches")
        };
        seek.wanted(NOW, &Lab).order[0].rank
    };
    assert_eq!(first(&mut course), 0);
    unanswered.iter().chain(&unanswered).for_each(|event| drop(event.happen(&mut course)));
    assert_eq!(first(&mut course), 1);
}

#[test]
fn a_home_that_is_not_answered_twice_waits_for_a_server_that_did_not_have_it() {
    let mut course = after(&[Lost(LostCause::Broken), Dialed(1), Denied(Rejection::NotHere)]);
    let unanswered = [Dialed(0), Lost(LostCause::Unanswered)];
    unanswered.iter().chain(&unanswered).for_each(|event| drop(event.happen(&mut course)));
    let want = Want::Resume { transferable: true };
    let Dial::Search(seek) = course.handle_dial(NOW, false, want, NOW) else { panic!("searches") };
    let wanted = seek.wanted(NOW, &Lab);
    let not_before = Some(NOW + Duration::from_secs(2));
    let other = Candidate { rank: 1, not_before };
    assert_eq!(wanted.order, [other, Candidate { rank: 0, not_before }]);
}

#[test]
fn a_link_that_went_on_after_the_network_had_changed_is_lost_when_it_is_lost() {
    let later = NOW + Duration::from_secs(3_600);
    let mut course = at_home();
    course.handle_path_changed(NOW, GapWhy::AddressGone, NOW);
    course.handle_lost(later, LostCause::Broken, Duration::ZERO);
    let want = Want::Resume { transferable: true };
    let Dial::Search(seek) = course.handle_dial(later, false, want, later) else {
        panic!("searches")
    };
    assert_eq!(seek.wanted(later, &Lab).lost_at, later);
}

#[test]
fn what_a_server_asks_while_its_user_moves_the_session_is_decided_when_that_fails() {
    let mut course = after(&[UserMoveTo(1), Dialed(1)]);
    assert_eq!(short(&Asked(TransferReason::ServiceFailed).happen(&mut course)), "");
    let actions = DeniedBeside(Rejection::Draining).happen(&mut course);
    assert_eq!(short(&actions), "list b, measure");
}

#[test]
fn a_move_that_is_decided_while_the_link_is_renewed_begins_when_that_is_done() {
    let mut course = after(&[Asked(TransferReason::Draining), Dialed(0)]);
    assert_eq!(short(&MeasuredNearer.happen(&mut course)), "", "the session asks already");
    assert_eq!(short(&Attached.happen(&mut course)), "retry");
    assert_eq!(name(course.change()), "move");
}

#[test]
fn a_session_goes_straight_again_when_two_looks_agree() {
    let mut course = after(&[AskedBound, WaysNearer, Dialed(0), Attached]);
    assert_eq!(course.via(), Some(RELAY));
    course.cool = crate::rise::CoolDown::default();
    assert_eq!(short(&LookedGood.happen(&mut course)), "");
    assert_eq!(short(&LookedBad.happen(&mut course)), "");
    assert_eq!(short(&LookedGood.happen(&mut course)), "");
    assert_eq!(short(&LookedGood.happen(&mut course)), "retry");
    for happens in [Dialed(0), Attached] {
        happens.happen(&mut course);
    }
    assert_eq!(course.via(), None);
    assert!(!course.looks());
}

#[test]
fn a_server_that_refuses_for_good_is_named_when_nobody_is_left() {
    let mut course = Course::new(1, Deadlines::default());
    Dialed(0).happen(&mut course);
    let actions = Denied(Rejection::NotHere).happen(&mut course);
    let why = "no server can take it: does not have it (a does not have it)".to_owned();
    assert!(actions.contains(&Action::GiveUp { error: AppError::Unreachable, why }), "{actions:?}");
    assert!(NoServer.happen(&mut course).is_empty(), "it gives up once");
}

#[test]
fn a_session_that_only_its_home_could_go_on_with_says_what_is_gone() {
    let mut course = after(&[Lost(LostCause::Broken)]);
    let (end, error) = (super::NoServer::HomeRefuses, AppError::Reset);
    let gave_up = GaveUp { end, error, why: "refused".to_owned() };
    let transferable = Err("POST, which is never sent twice".to_owned());
    let actions = course.handle_no_server(&Lab, true, transferable, gave_up);
    let why = "server a is gone; a POST is never sent twice (nobody has listened there for 20 s)";
    assert!(actions.contains(&Action::GiveUp { error, why: why.to_owned() }), "{actions:?}");
}

/// A search that was begun before the session had a server may end after that: the time that a
/// connect may take is no reason to end a session that lives.
#[test]
fn the_end_of_a_search_for_a_connect_does_not_end_a_session_that_was_established_since() {
    for end in [super::NoServer::NobodyAnswers, super::NoServer::AllRefuse] {
        let mut course = after(&[Attached, Lost(LostCause::Silent)]);
        let gave_up = GaveUp { end, error: AppError::TimedOut, why: String::new() };
        let transferable = Err("the server gave no ticket".to_owned());
        let actions = course.handle_no_server(&Lab, true, transferable, gave_up);
        assert_eq!(actions, [Action::Retry]);
    }
}

#[test]
fn a_server_that_did_not_have_it_is_asked_again_while_the_home_is_away() {
    let mut course = after(&[Lost(LostCause::Broken), Dialed(1)]);
    Denied(Rejection::NotHere).happen(&mut course);
    let want = Want::Resume { transferable: true };
    let Dial::Search(seek) = course.handle_dial(NOW, false, want, NOW) else { panic!("searches") };
    let wanted = seek.wanted(NOW, &Lab);
    let again = NOW + Duration::from_secs(2);
    assert_eq!(wanted.order[1], Candidate { rank: 1, not_before: Some(again) });
    assert_eq!(wanted.bound, Some(Deadlines::default()));
    assert_eq!(wanted.lost_at, NOW);
}
