//! Cuts: both ends hold the same ones, whatever collides or gets lost (R40 to R46, flaws F1 and
//! F2).

use std::time::Duration;

use super::fixture::*;
use crate::cut::Phase;
use crate::session::{Event, Limits};

fn often() -> Limits {
    Limits { checkpoint_every: 4, data_max: 2, ..Limits::default() }
}

/// P3: both always hold one identical final cut.
fn share_a_cut(pair: &mut Pair) {
    let broker = *pair.broker.session.cuts();
    let server = *pair.server().session.cuts();
    let (acked, pending) = broker.offer();
    assert!(server.common(acked, pending).is_some(), "{broker:?} {server:?}");
}

/// R41, R43, R44.
#[test]
fn a_quiet_session_agrees_on_where_it_is() {
    let mut pair = Pair::connected(Limits::default());
    pair.broker.write(&stream(1, 1000));
    pair.server().write(&stream(2, 2000));
    pair.run(Duration::from_secs(20));
    let (broker, server) = (*pair.broker.session.cuts(), *pair.server().session.cuts());
    assert_eq!((broker.phase, server.phase), (Phase::Idle, Phase::Idle));
    assert_eq!(broker.pending, server.pending.turned());
    assert_eq!((broker.pending.sent, broker.pending.received), (1000, 2000));
    assert!(pair.broker.events.contains(&Event::Acknowledged(broker.pending)));
    assert!(pair.server().events.contains(&Event::Acknowledged(server.pending)));
}

#[test]
fn an_idle_session_proposes_nothing() {
    let mut pair = Pair::connected(Limits::default());
    pair.run(Duration::from_secs(600));
    let proposed = |event: &Event| matches!(event, Event::Acknowledged(_));
    assert!(!pair.broker.events.iter().any(proposed));
}

/// R42.
#[test]
fn proposals_at_the_same_time_agree_on_one_cut() {
    let mut pair = Pair::connected(often());
    for round in 0..20 {
        pair.broker.write(&stream(1, 4));
        pair.server().write(&stream(2, 4));
        pair.settle();
        let broker = pair.broker.session.cuts().phase;
        assert_eq!(
            (broker, pair.server().session.cuts().phase),
            (Phase::Requested, Phase::Requested)
        );
        pair.run(Duration::from_millis(200));
        let (broker, server) = (*pair.broker.session.cuts(), *pair.server().session.cuts());
        assert_eq!(broker.pending, server.pending.turned(), "round {round}");
        assert_eq!(pair.broker.errors, []);
    }
}

/// R42, R46.
#[test]
fn f1_colliding_proposals_lost_by_a_cut_at_any_frame_give_no_wrong_byte() {
    for first in 0..14 {
        for second in 0..8 {
            let mut pair = Pair::with(often());
            pair.fates.extend([2 + first, second]);
            let (up, down) = (stream(1, 24), stream(2, 24));
            pair.broker.write(&up);
            pair.until(|pair| pair.server.is_some());
            pair.server().write(&down);
            pair.server().fin_at_end = true;
            pair.broker.fin_at_end = true;
            pair.run(Duration::from_millis(50));
            share_a_cut(&mut pair);
            pair.assert_clean(&up, &down);
        }
    }
}

/// R44, R45, R46.
#[test]
fn f2_a_lost_answer_and_a_new_proposal_leave_a_common_cut() {
    // One way first, so that only one end proposes; the other at once after its answer.
    for boundary in 2..30 {
        let mut pair = Pair::with(Limits { checkpoint_every: 1, data_max: 1, ..often() });
        pair.fates.push_back(boundary);
        let (up, down) = (stream(1, 6), stream(2, 6));
        pair.broker.write(&up[..1]);
        pair.until(|pair| pair.server.is_some());
        for (a, b) in up[1..].iter().zip(&down) {
            pair.run(Duration::from_millis(15));
            pair.server().write(&[*b]);
            pair.broker.write(&[*a]);
            share_a_cut(&mut pair);
        }
        pair.server().write(&down[5..]);
        pair.broker.fin_at_end = true;
        pair.server().fin_at_end = true;
        share_a_cut(&mut pair);
        pair.assert_clean(&up, &down);
    }
}

/// R34, R41.
#[test]
fn a_full_send_buffer_can_still_propose() {
    let mut limits = tiny();
    limits.checkpoint_every = 1_000_000;
    limits.checkpoint_interval = Duration::from_secs(3600);
    // Plain acknowledgements never come by themselves.
    limits.ack_every = 1_000_000;
    limits.ack_delay = Duration::from_secs(3600);
    limits.receive_buffer_max = 64;
    let mut pair = Pair::connected(limits);
    pair.broker.write(&stream(1, 200));
    pair.server().write(&stream(2, 200));
    pair.run(Duration::from_secs(8));
    assert_eq!(pair.server().got, stream(1, 200));
    assert_eq!(pair.broker.got, stream(2, 200));
}

/// R41.
#[test]
fn bulk_data_is_cut_every_half_buffer() {
    let mut pair = Pair::connected(Limits::default());
    pair.server().write(&stream(1, 40 << 20));
    pair.run(Duration::from_secs(4));
    assert_eq!(pair.broker.got.len(), 40 << 20);
    let cuts = pair.broker.events.iter().filter(|e| matches!(e, Event::Acknowledged(_))).count();
    assert!((4..=12).contains(&cuts), "{cuts}");
}
