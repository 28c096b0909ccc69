//! Suspend and resume, from both ends, also at the same time (T2, T4, T5, T8, T9).

use std::time::Duration;

use super::fixture::*;
use crate::session::{Detach, Event, Input, Limits, LinkId};
use crate::state::State;

#[test]
fn a_suspended_session_moves_nothing_and_goes_on_where_it_was() {
    let mut pair = Pair::connected(Limits::default());
    let (up, down) = (stream(1, 700_000), stream(2, 900_000));
    pair.broker.write(&up);
    pair.server().write(&down);
    pair.run(Duration::from_millis(5));
    pair.broker_input(Input::Suspend);
    assert_eq!(pair.broker.session.state(), State::Suspended);
    assert_eq!(pair.broker.detached, [(LinkId(1), Detach::Linger)]);
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.server().session.state(), State::ReadyResume);
    assert!(pair.server().events.contains(&Event::Suspended { by_peer: true }));
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
    pair.server_input(Input::Suspend);
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
    pair.server().session.handle_input(now, Input::Suspend);
    pair.broker_input(Input::Suspend);
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
    pair.broker_input(Input::Suspend);
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
    pair.broker_input(Input::Suspend);
    // The dial under way succeeds all the same.
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.broker.session.state(), State::Suspended);
    assert!(pair.broker.detached.contains(&(LinkId(2), Detach::Close)));
}

#[test]
fn a_suspended_session_is_not_held_for_a_limited_time() {
    let mut pair = Pair::connected(Limits::default());
    pair.broker_input(Input::Suspend);
    pair.run(Duration::from_secs(71 * 3600));
    pair.broker_input(Input::Resume);
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.broker.session.state(), State::Active);
}

#[test]
fn a_suspended_session_can_be_aborted() {
    let mut pair = Pair::connected(Limits::default());
    pair.broker_input(Input::Suspend);
    pair.run(Duration::from_secs(10));
    pair.broker_input(Input::Abort { code: crate::session::code::USER });
    pair.run(Duration::from_secs(1));
    assert!(pair.broker.session.is_over());
    assert!(pair.server().session.is_over());
}
