//! Connect, bytes both ways, close.

use std::time::Duration;

use super::fixture::*;
use crate::session::{Attempt, ClosedWhy, Denied, Detach, Event, Input, Limits, LinkId, Session};
use crate::session::{ShutNear, StartAt, code};
use crate::state::State;
use crate::wire::{
    ConnectMode, DenyReason, First, Frame, encode_connect_denied, first_frame, frames,
};

/// R50, R51, R52.
#[test]
fn a_session_moves_every_byte_both_ways_and_ends_clean() {
    let (up, down) = (stream(1, 3_000_000), stream(2, 5_000_000));
    let mut pair = Pair::new();
    pair.broker.write(&up);
    pair.broker.fin_at_end = true;
    pair.until(|pair| pair.server.is_some());
    pair.server().write(&down);
    pair.server().fin_at_end = true;
    pair.assert_clean(&up, &down);
    assert_eq!(pair.broker.attached().len(), 1);
    assert_eq!(pair.broker.dials, 1);
    // R52: both gave the link back for reuse.
    assert_eq!(pair.broker.detached, [(LinkId(1), Detach::Reuse)]);
    assert_eq!(pair.server().detached, [(LinkId(1), Detach::Reuse)]);
    assert!(pair.broker.errors.is_empty());
}

#[test]
fn the_app_is_told_after_one_round_trip() {
    let mut pair = Pair::new();
    let start = pair.now;
    pair.until(|pair| pair.broker.session.is_established());
    assert_eq!(pair.now - start, pair.latency * 4, "handshake and CONNECT");
    assert_eq!(pair.broker.events[0], Event::Established { server: "a".into() });
    let (a, b) = pair.broker.session.handles();
    assert_eq!((a, b), (SH_A, SH_B));
    assert_eq!(pair.server().session.handles(), (SH_A, SH_B));
    assert_eq!(pair.server().session.service(), "www.web@example.org");
}

/// R23.
#[test]
fn a_lost_connect_ok_is_repeated_on_the_next_link() {
    let (up, down) = (stream(1, 1000), stream(2, 1000));
    for fate in [0, 1] {
        let mut pair = Pair::new();
        pair.fates.push_back(fate);
        pair.broker.write(&up);
        pair.broker.fin_at_end = true;
        pair.until(|pair| pair.server.is_some());
        pair.server().write(&down);
        pair.server().fin_at_end = true;
        pair.assert_clean(&up, &down);
        assert!(pair.broker.attached().iter().all(|(how, ..)| *how == Attempt::Connect));
    }
}

/// R20, R23.
#[test]
fn a_late_repetition_of_connect_does_not_evict_a_session_that_moves() {
    let mut pair = Pair::connected(Limits::default());
    let mut first = Session::initiate(pair.now, Limits::default(), SH_A, "s@d", "");
    let mut out = Vec::new();
    first.poll_output(pair.now, true, &mut out);
    let link = LinkId(1);
    first.handle_input(pair.now, Input::LinkUp { link, peer: crate::session::Peer::Same });
    first.poll_output(pair.now, true, &mut out);
    let Ok(First::Connect(connect)) = first_frame(&out) else { panic!("a CONNECT") };
    assert_eq!(connect.mode, ConnectMode::New);
    let now = pair.now;
    assert!(!pair.server().session.reaccept(now, LinkId(9), &connect));
    assert_eq!(pair.server().session.link(), Some(link));
}

/// R26, R71.
#[test]
fn a_refused_connect_is_an_event_and_a_retry_dials_at_once() {
    let mut pair = Pair::new();
    pair.until(|pair| pair.broker.session.state() == State::SentResume);
    let mut out = Vec::new();
    let why = DenyReason::Refused(111);
    encode_connect_denied(SH_A, why, Duration::from_secs(7), "nobody\nhome", &mut out);
    let now = pair.now;
    pair.broker.session.handle_record(now, LinkId(1), &out, &mut Vec::new()).unwrap();
    pair.broker_input(Input::Timeout);
    let denied = Denied::Connect {
        attempt: Attempt::Connect,
        why,
        retry_after: Duration::from_secs(7),
        text: "nobodyhome".into(),
    };
    assert!(pair.broker.events.contains(&Event::Denied(denied)));
    assert_eq!(pair.broker.session.state(), State::ReadyResume);
    assert_eq!(pair.broker.dials, 1);
    pair.broker_input(Input::Retry);
    assert_eq!(pair.broker.dials, 2);
    pair.until(|pair| pair.broker.session.is_established());
}

#[test]
fn an_app_that_dies_before_the_session_is_established_leaves_nothing() {
    // Before CONNECT: nobody needs to know.
    let mut pair = Pair::new();
    pair.settle();
    pair.broker_input(Input::NearGone);
    assert_eq!(pair.broker.closed(), Some(ClosedWhy::ResetHere { code: code::NEAR_GONE }));
    // After CONNECT: the server is told.
    let mut pair = Pair::new();
    pair.until(|pair| pair.broker.session.state() == State::SentResume);
    pair.broker_input(Input::NearGone);
    pair.until(|pair| pair.broker.session.is_over());
    let by_peer = ClosedWhy::ResetByPeer { code: code::NEAR_GONE };
    assert_eq!(pair.server().closed(), Some(by_peer));
    assert_eq!(pair.broker.detached, [(LinkId(1), Detach::Reuse)]);
}

#[test]
fn an_aborted_session_resets_both_near_sides() {
    let mut pair = Pair::connected(Limits::default());
    pair.broker_input(Input::Abort { code: code::USER });
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.broker.closed(), Some(ClosedWhy::ResetHere { code: code::USER }));
    assert_eq!(pair.server().closed(), Some(ClosedWhy::ResetByPeer { code: code::USER }));
    assert_eq!(pair.broker.shut, [ShutNear::Reset { code: code::USER }]);
    assert_eq!(pair.server().shut, [ShutNear::Reset { code: code::USER }]);
    assert_eq!(pair.broker.detached, [(LinkId(1), Detach::Reuse)]);
    assert_eq!(pair.server().detached, [(LinkId(1), Detach::Reuse)]);
}

#[test]
fn equal_sessions_are_equal_at_any_time() {
    let limits = Limits::default();
    let one = Session::initiate(crate::time::Instant(5), limits.clone(), SH_A, "s@d", "");
    let other = Session::initiate(crate::time::Instant(99), limits, SH_A, "s@d", "");
    assert_eq!(one, other);
}

#[test]
fn a_new_acceptor_starts_where_it_is_told() {
    let mut pair = Pair::new();
    pair.transfer_at = Some(StartAt { up: 5, down: 7 });
    pair.run(Duration::from_millis(79));
    // The broker refuses an answer that does not fit, and names it.
    pair.run(Duration::from_millis(10));
    let denied = |event: &Event| {
        matches!(event, Event::Denied(Denied::Connect { why: DenyReason::Mismatch, .. }))
    };
    assert!(pair.broker.events.iter().any(denied));
}

#[test]
fn each_frame_is_a_record() {
    let mut pair = Pair::connected(Limits::default());
    pair.broker.write(&stream(1, 100_000));
    pair.broker.room = false;
    pair.settle();
    pair.broker.room = true;
    let mut out = Vec::new();
    let now = pair.now;
    pair.broker.session.poll_output(now, true, &mut out);
    assert_eq!(out.len(), crate::wire::FRAME_MAX, "a full record");
    let Some(Ok(Frame::Data(data))) = frames(&out).next() else { panic!("DATA") };
    assert_eq!((data.position, data.bytes.len()), (0, crate::wire::DATA_MAX));
}
