//! Suspend and resume, from both ends, also at the same time (T2, T4, T5, T8, T9).

use std::time::Duration;

use super::fixture::*;
use crate::class::Class;
use crate::session::{ClosedWhy, Detach, Event, Input, Limits, LinkId, code};
use crate::state::State;

#[test]
fn a_suspended_session_moves_nothing_and_goes_on_where_it_was() {
    let mut pair = Pair::connected(Limits::default());
    let (up, down) = (stream(1, 700_000), stream(2, 900_000));
    pair.broker.write(&up);
    pair.server().write(&down);
    pair.run(Duration::from_millis(5));
    pair.broker_input(Input::Suspend { lasts: None });
    assert_eq!(pair.broker.session.state(), State::Suspended);
    assert_eq!(pair.broker.detached, [(LinkId(1), Detach::Linger)]);
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.server().session.state(), State::ReadyResume);
    assert!(pair.server().events.contains(&Event::Suspended { by_peer: true, lasts: None }));
    let frames = (pair.broker.frames_sent, pair.server().frames_sent);
    pair.run(Duration::from_secs(3600));
    assert_eq!(frames, (pair.broker.frames_sent, pair.server().frames_sent));
    assert!(pair.broker.got.len() < down.len());
    pair.broker_input(Input::Resume);
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.broker.session.state(), State::Active);
    assert!(pair.server().got == up && pair.broker.got == down);
}

/// R25.
#[test]
fn a_session_suspended_at_the_server_is_probed_slowly_until_it_is_back() {
    let mut pair = Pair::connected(Limits::default());
    pair.server_input(Input::Suspend { lasts: None });
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.broker.session.state(), State::ReadyResume);
    let dials = pair.broker.dials;
    pair.run(Duration::from_secs(600));
    let probes = pair.broker.dials - dials;
    assert!((9..=21).contains(&probes), "half a minute to a minute apart: {probes}");
    assert_eq!(pair.server().session.state(), State::Suspended);
    pair.server_input(Input::Resume);
    assert_eq!(pair.server().session.state(), State::ReadyResume);
    pair.run(Duration::from_secs(61));
    assert_eq!(pair.broker.session.state(), State::Active);
}

#[test]
fn both_may_suspend_at_once() {
    let mut pair = Pair::connected(Limits::default());
    let now = pair.now;
    pair.server().session.handle_input(now, Input::Suspend { lasts: None });
    pair.broker_input(Input::Suspend { lasts: None });
    pair.run(Duration::from_secs(100));
    assert_eq!(pair.broker.session.state(), State::Suspended);
    assert_eq!(pair.server().session.state(), State::Suspended);
    pair.broker_input(Input::Resume);
    pair.run(Duration::from_secs(100));
    assert_eq!(pair.broker.session.state(), State::ReadyResume, "still suspended there");
    pair.server_input(Input::Resume);
    pair.run(Duration::from_secs(100));
    assert_eq!(pair.broker.session.state(), State::Active);
}

/// R25.
#[test]
fn suspending_during_an_attempt_or_a_wait_halts_it() {
    let mut pair = Pair::connected(Limits::default());
    pair.cut();
    pair.until(|pair| pair.broker.session.state() == State::SentResume);
    pair.broker_input(Input::Suspend { lasts: None });
    pair.run(Duration::from_secs(100));
    assert_eq!(pair.broker.session.state(), State::Suspended);
    let dials = pair.broker.dials;
    pair.broker_input(Input::PathChanged);
    pair.broker_input(Input::Retry);
    pair.run(Duration::from_secs(100));
    assert_eq!(pair.broker.dials, dials, "only the user ends a suspension");
    pair.broker_input(Input::Resume);
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.broker.session.state(), State::Active);

    let mut pair = Pair::connected(Limits::default());
    pair.cut();
    pair.broker_input(Input::Suspend { lasts: None });
    // The dial under way succeeds all the same.
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.broker.session.state(), State::Suspended);
    assert!(pair.broker.detached.contains(&(LinkId(2), Detach::Close)));
}

#[test]
fn a_suspended_session_is_not_held_for_a_limited_time() {
    let mut pair = Pair::connected(Limits::default());
    pair.broker_input(Input::Suspend { lasts: None });
    pair.run(Duration::from_secs(71 * 3600));
    pair.broker_input(Input::Resume);
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.broker.session.state(), State::Active);
}

#[test]
fn a_suspended_session_can_be_aborted() {
    let mut pair = Pair::connected(Limits::default());
    pair.broker_input(Input::Suspend { lasts: None });
    pair.run(Duration::from_secs(10));
    pair.broker_input(Input::Abort { code: crate::session::code::USER });
    pair.run(Duration::from_secs(1));
    assert!(pair.broker.session.is_over());
    assert!(pair.server().session.is_over());
}

/// How long it is kept without a link.
const HOLD: Duration = Duration::from_secs(300);

/// A session that is kept through a suspension of four hours.
fn four_hours() -> Limits {
    Limits { hold: HOLD, suspended_max: 48 * HOLD, ..Limits::default() }
}

/// R75: the broker (or the server) suspends for `asked`. The session wakes by itself after `lasts`,
/// and its peer has it for `hold` more.
fn sleeps_for((asked, lasts): (Duration, Duration), at_server: bool) {
    let mut pair = Pair::with(four_hours());
    pair.server_limits = four_hours();
    pair.run(Duration::from_secs(1));
    let suspend = Input::Suspend { lasts: Some(asked) };
    if at_server {
        pair.server_input(suspend);
    } else {
        pair.broker_input(suspend);
    }
    pair.run(lasts.saturating_sub(Duration::from_secs(1)));
    let end = if at_server { &pair.server().session } else { &pair.broker.session };
    assert_eq!(end.state(), State::Suspended, "{asked:?}");
    assert!(!pair.server().session.is_over() && !pair.broker.session.is_over());
    // A server cannot dial; its broker asks once a minute.
    pair.run(Duration::from_secs(if at_server { 70 } else { 3 }));
    assert_eq!(pair.broker.session.state(), State::Active, "{asked:?}");
    let own = if at_server { pair.server() } else { &mut pair.broker };
    assert!(own.events.contains(&Event::Woken));
    let told = Event::Suspended { by_peer: true, lasts: Some(lasts) };
    let peer = if at_server { &pair.broker } else { pair.server() };
    assert!(peer.events.contains(&told), "{:?}", peer.events);
}

fn a_peer_keeps_a_suspended_session_for_as_long_as_it_was_told() {
    for at_server in [false, true] {
        for (asked, lasts) in [(HOLD * 5, HOLD * 5), (HOLD * 200, HOLD * 48)] {
            sleeps_for((asked, lasts), at_server);
        }
    }
}

/// R75: who says more than was agreed is not believed; and `hold` counts from the end on.
fn a_suspension_is_kept_within_its_bound() {
    let mut pair = Pair::with(four_hours());
    pair.server_limits = four_hours();
    pair.run(Duration::from_secs(1));
    pair.broker_input(Input::Suspend { lasts: Some(HOLD * 2) });
    pair.run(Duration::from_secs(1));
    pair.path = false;
    pair.run((HOLD * 3).saturating_sub(Duration::from_secs(5)));
    assert!(!pair.server().session.is_over());
    pair.run(Duration::from_secs(10));
    assert_eq!(pair.server().closed(), Some(ClosedWhy::ResetHere { code: code::HOLD }));

    // A broker that takes its server's word for more than the server keeps.
    let mut pair = Pair::with(Limits { suspended_max: HOLD * 4, ..four_hours() });
    pair.server_limits = four_hours();
    pair.run(Duration::from_secs(1));
    pair.server_limits.suspended_max = HOLD * 4;
    pair.server_input(Input::Suspend { lasts: Some(HOLD * 40) });
    pair.run(Duration::from_secs(1));
    let left = pair.server().session.suspended_until().map(|until| until - pair.now);
    assert!(left.is_some_and(|left| left <= HOLD * 4), "what the broker keeps: {left:?}");
    let mut session = pair.broker.session.clone();
    session.peer_is_away(pair.now, HOLD * 4_000);
    let until = session.suspended_until().expect("it was told");
    assert!(until - pair.now <= HOLD * 4);
}

#[test]
fn a_suspension_with_an_end_is_kept_by_the_peer() {
    a_peer_keeps_a_suspended_session_for_as_long_as_it_was_told();
    a_suspension_is_kept_within_its_bound();
}

/// R75: who has no link, or a peer of before, is suspended for no longer than that has it.
#[test]
fn a_peer_that_cannot_be_told_still_has_the_session() {
    let mut pair = Pair::with(four_hours());
    pair.server_limits = four_hours();
    pair.run(Duration::from_secs(1));
    pair.path = false;
    pair.cut();
    pair.run(Duration::from_secs(60));
    pair.broker_input(Input::Suspend { lasts: Some(HOLD * 30) });
    let left = pair.broker.session.suspended_until().expect("it has an end") - pair.now;
    assert_eq!(left, Duration::from_secs(270 - 60));
    pair.path = true;
    pair.run(left + Duration::from_secs(3));
    assert_eq!(pair.broker.session.state(), State::Active);
}

#[test]
fn a_user_ends_a_suspension_before_its_time() {
    let mut pair = Pair::connected(four_hours());
    pair.broker_input(Input::Suspend { lasts: Some(HOLD * 30) });
    pair.run(Duration::from_secs(10));
    pair.broker_input(Input::Resume);
    pair.run(HOLD * 31);
    assert_eq!(pair.broker.session.state(), State::Active);
    assert!(!pair.broker.events.contains(&Event::Woken));
    assert_eq!(pair.server().session.suspended_until(), None);
}

/// R103.
#[test]
fn a_suspension_with_an_end_survives_its_process_and_that_of_the_peer() {
    let mut pair = Pair::with(four_hours());
    pair.server_limits = four_hours();
    pair.run(Duration::from_secs(1));
    pair.broker_input(Input::Suspend { lasts: Some(HOLD * 30) });
    pair.run(Duration::from_secs(10));
    let until = pair.broker.session.suspended_until();
    assert!(pair.restart_broker(false, false) && pair.restart_server(false));
    assert_eq!(pair.broker.session.suspended_until(), until);
    assert_eq!(pair.broker.session.state(), State::Suspended);
    pair.run(HOLD * 30);
    assert_eq!(pair.broker.session.state(), State::Active);
}

/// R74: asked for, the best that is granted, and what comes of it at both ends.
fn classes_are_granted_up_to_what_the_acceptor_has() {
    use Class::{Critical, Suspended, Temporary};
    for (asked, best, granted) in [
        (Temporary, Critical, Temporary),
        (Suspended, Critical, Suspended),
        (Critical, Critical, Critical),
        (Critical, Suspended, Suspended),
        (Critical, Temporary, Temporary),
    ] {
        let mut pair = Pair::with(Limits { class: asked, ..Limits::default() });
        pair.server_limits = Limits { class: best, ..Limits::default() };
        pair.run(Duration::from_secs(1));
        let classes = (pair.broker.session.class(), pair.server().session.class());
        assert_eq!(classes, (granted, granted), "{asked} of {best}");
        assert!(pair.restart_broker(false, false) && pair.restart_server(false));
        let classes = (pair.broker.session.class(), pair.server().session.class());
        assert_eq!(classes, (granted, granted), "{asked} of {best}, restored");
    }
}

#[test]
fn a_class_is_asked_for_and_granted() {
    classes_are_granted_up_to_what_the_acceptor_has();
}

#[cfg(feature = "model")]
#[test]
fn mistakes_in_suspensions_and_classes_are_caught() {
    use crate::mutant::Mutant;
    let runs: [fn(); 3] = [
        a_peer_keeps_a_suspended_session_for_as_long_as_it_was_told,
        a_suspension_is_kept_within_its_bound,
        classes_are_granted_up_to_what_the_acceptor_has,
    ];
    assert_eq!(Mutant::UPKEEP.len(), runs.len());
    for (mutant, run) in Mutant::UPKEEP.iter().zip(runs) {
        Mutant::set(Some(*mutant));
        let kept = std::panic::catch_unwind(run);
        Mutant::set(None);
        assert!(kept.is_err(), "{}", mutant.mistake());
    }
}
