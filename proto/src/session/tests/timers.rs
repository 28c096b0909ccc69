//! Liveness, hold, idle cost (R70 to R72).

use std::time::Duration;

use super::fixture::*;
use crate::session::{ClosedWhy, Event, Input, Limits, LinkId, LostCause, code};
use crate::state::State;
use crate::time::Instant;

fn silent(pair: &Pair) -> bool {
    let lost = Event::Lost { link: LinkId(1), cause: LostCause::Silent };
    pair.broker.events.contains(&lost)
}

/// R70.
#[test]
fn a_silent_link_of_a_busy_session_is_lost_after_three_seconds() {
    let mut pair = Pair::connected(Limits::default());
    pair.server().write(&stream(1, 1000));
    pair.run(Duration::from_millis(100));
    let since = pair.now;
    pair.silence();
    pair.until(silent);
    let took = pair.now - since;
    assert!(took > Duration::from_millis(2500) && took <= Duration::from_secs(3), "{took:?}");
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.broker.session.state(), State::Active, "on a new link");
}

#[test]
fn a_silent_link_of_an_idle_session_is_noticed_at_the_next_question() {
    let mut pair = Pair::connected(Limits::default());
    pair.run(Duration::from_secs(300));
    let since = pair.now;
    pair.silence();
    pair.until(silent);
    assert!(pair.now - since <= Duration::from_secs(12));
}

#[test]
fn unreceived_bytes_make_a_session_busy() {
    let mut pair = Pair::connected(Limits::default());
    pair.run(Duration::from_secs(300));
    pair.silence();
    pair.broker.write(b"x");
    let since = pair.now;
    pair.until(silent);
    assert!(pair.now - since <= Duration::from_secs(3));
}

#[test]
fn an_idle_session_costs_a_question_and_an_answer_in_ten_seconds() {
    let mut pair = Pair::connected(Limits::default());
    pair.broker.write(b"hello");
    pair.run(Duration::from_secs(60));
    let before = pair.broker.frames_sent + pair.server().frames_sent;
    pair.run(Duration::from_secs(600));
    let frames = pair.broker.frames_sent + pair.server().frames_sent - before;
    // Both may ask before they hear the other's question.
    assert!((118..=240).contains(&frames), "{frames}");
}

/// R70.
#[test]
fn a_machine_that_slept_asks_before_it_judges() {
    let mut pair = Pair::connected(Limits::default());
    pair.run(Duration::from_secs(100));
    // Hours pass without a single timer.
    pair.now += Duration::from_secs(9 * 3600);
    pair.broker_input(Input::Timeout);
    assert_eq!(pair.broker.session.state(), State::Active);
    pair.run(Duration::from_secs(10));
    assert_eq!(pair.broker.session.link(), Some(LinkId(1)), "the link is still good");
    // The same in the middle of questions unanswered.
    pair.silence();
    pair.run(Duration::from_millis(1_500));
    pair.now += Duration::from_secs(9 * 3600);
    pair.broker_input(Input::Timeout);
    pair.broker_input(Input::Timeout);
    assert_eq!(pair.broker.session.link(), Some(LinkId(1)));
}

#[test]
fn parts_of_a_record_are_a_sign_of_life() {
    let mut pair = Pair::connected(Limits::default());
    pair.server().write(&stream(1, 1000));
    pair.run(Duration::from_millis(100));
    pair.silence();
    for _ in 0..40 {
        pair.run(Duration::from_millis(500));
        pair.broker_input(Input::LinkAlive { link: LinkId(1) });
    }
    assert!(!silent(&pair));
}

/// R72.
#[test]
fn a_session_without_a_link_is_held_72_hours_and_then_reset() {
    let mut pair = Pair::connected(Limits::default());
    pair.run(Duration::from_secs(1));
    pair.path = false;
    pair.cut();
    pair.run(Duration::from_secs(72 * 3600 - 60));
    assert!(!pair.broker.session.is_over() && !pair.server().session.is_over());
    pair.run(Duration::from_secs(120));
    assert_eq!(pair.server().closed(), Some(ClosedWhy::ResetHere { code: code::HOLD }));
    assert_eq!(pair.broker.session.state(), State::Closed);
}

/// R72: a broker that wants less than its server, and a server that gives less.
fn the_shorter_hold_binds_both_ends() {
    for (broker, server) in [(60, 3_600), (3_600, 60)] {
        let limits = |hold| Limits { hold: Duration::from_secs(hold), ..Limits::default() };
        let mut pair = Pair::with(limits(broker));
        pair.server_limits = limits(server);
        pair.run(Duration::from_secs(1));
        pair.path = false;
        pair.cut();
        pair.run(Duration::from_secs(50));
        assert!(!pair.broker.session.is_over() && !pair.server().session.is_over());
        pair.run(Duration::from_secs(30));
        assert_eq!(pair.server().closed(), Some(ClosedWhy::ResetHere { code: code::HOLD }));
        assert_eq!(pair.broker.session.state(), State::Closed);
    }
}

#[test]
fn a_session_is_kept_as_long_as_both_ends_have_agreed() {
    the_shorter_hold_binds_both_ends();
}

#[cfg(feature = "model")]
#[test]
fn an_end_that_forgets_the_agreed_hold_is_caught() {
    use crate::mutant::Mutant;
    for mutant in Mutant::HOLDS {
        Mutant::set(Some(*mutant));
        let kept = std::panic::catch_unwind(the_shorter_hold_binds_both_ends);
        Mutant::set(None);
        assert!(kept.is_err(), "{}", mutant.mistake());
    }
}

/// R76: at either end, while there is a link.
#[test]
fn a_session_on_which_nothing_passes_ends_where_there_is_a_limit() {
    let idle = Some(Duration::from_secs(600));
    for at_server in [false, true] {
        let limits = |mine| Limits { idle: idle.filter(|_| mine), ..Limits::default() };
        let mut pair = Pair::with(limits(!at_server));
        pair.server_limits = limits(at_server);
        pair.run(Duration::from_secs(500));
        pair.server().write(b"x");
        pair.run(Duration::from_secs(500));
        pair.broker.write(b"y");
        pair.run(Duration::from_secs(590));
        assert_eq!(pair.broker.session.state(), State::Active);
        // Without a link it is not idle: that is what the time of R72 is for.
        pair.path = false;
        pair.cut();
        pair.run(Duration::from_secs(3_000));
        pair.path = true;
        pair.until(|pair| pair.broker.session.state() == State::Active);
        pair.run(Duration::from_secs(590));
        assert_eq!(pair.broker.session.state(), State::Active);
        pair.run(Duration::from_secs(20));
        let (here, there) = (pair.broker.closed(), pair.server().closed());
        let (own, peer) = if at_server { (there, here) } else { (here, there) };
        assert_eq!(own, Some(ClosedWhy::ResetHere { code: code::IDLE }));
        assert_eq!(peer, Some(ClosedWhy::ResetByPeer { code: code::IDLE }));
    }
}

/// R77: what the program wrote waits for so long, and a program that has written nothing waits for
/// as long as ever.
#[test]
fn a_program_that_wants_its_bytes_acknowledged_in_time_is_told_when_they_are_not() {
    let ten = Some(Duration::from_secs(10));
    for (before, during, left) in [(true, false, 10), (false, true, 15), (false, false, 0)] {
        let mut pair = Pair::connected(Limits::default());
        pair.broker.session.set_user_timeout(ten);
        pair.run(Duration::from_secs(40));
        pair.path = false;
        if before {
            pair.broker.write(b"x");
        }
        pair.cut();
        pair.run(Duration::from_secs(5));
        if during {
            pair.broker.write(b"y");
            pair.settle();
        }
        pair.run(Duration::from_secs(3));
        assert_eq!(pair.broker.closed(), None, "{before} {during}");
        pair.run(Duration::from_secs(60));
        let why = pair.broker.session.state() == State::Closed;
        assert_eq!(why, left > 0, "{before} {during}");
        pair.path = true;
        pair.run(Duration::from_secs(3_700));
        let closed = Some(ClosedWhy::ResetHere { code: code::USER_TIMEOUT });
        assert_eq!(pair.broker.closed(), closed.filter(|_| left > 0), "{before} {during}");
    }
    // A link that is back in time is enough; and none is wanted while the user suspends it.
    let mut pair = Pair::connected(Limits::default());
    pair.broker.session.set_user_timeout(ten);
    pair.path = false;
    pair.broker.write(b"x");
    pair.cut();
    pair.run(Duration::from_secs(8));
    pair.path = true;
    pair.run(Duration::from_secs(30));
    assert!(pair.server().got == b"x");
    pair.broker.write(b"y");
    pair.broker_input(Input::Suspend { lasts: None });
    pair.run(Duration::from_secs(300));
    pair.broker_input(Input::Resume);
    pair.run(Duration::from_secs(3));
    assert!(pair.server().got == b"xy" && pair.broker.closed().is_none());
}

/// R23, R72.
#[test]
fn a_session_whose_initiator_never_spoke_is_held_a_short_time() {
    let mut pair = Pair::new();
    pair.fates.push_back(1);
    pair.until(|pair| pair.server.is_some());
    pair.path = false;
    pair.until(|pair| pair.broker.session.state() == State::ReadyResume);
    pair.run(Duration::from_secs(601));
    assert!(pair.server().session.is_over());
}

#[test]
fn a_deadline_at_the_end_of_time_is_none() {
    let never = Duration::MAX;
    let limits = Limits {
        heartbeat_busy: never,
        heartbeat_idle: never,
        checkpoint_interval: never,
        ack_delay: never,
        ..Limits::default()
    };
    let mut pair = Pair::connected(limits);
    let output = {
        let now = pair.now;
        pair.broker.session.poll_output(now, true, &mut Vec::new())
    };
    assert_eq!(output, crate::session::Output::Wait(None));
    assert!(pair.now < Instant(u64::MAX));
}
