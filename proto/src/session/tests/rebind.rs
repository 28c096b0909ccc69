//! Links break, new ones come: every byte arrives once and in order (R20-R24).

use std::time::Duration;

use super::fixture::*;
use crate::session::{Attempt, Detach, Event, Input, Limits, LinkId, LostCause, Peer, Session};
use crate::state::State;
use crate::wire::{Checkpoint, Frame, ResumeDenial, first_frame, frames};

/// Both directions with half-closes; small frames so that there are many boundaries.
fn busy(limits: Limits) -> (Pair, Vec<u8>, Vec<u8>) {
    let (up, down) = (stream(3, 40), stream(4, 50));
    let mut pair = Pair::with(limits);
    pair.broker.write(&up);
    pair.broker.fin_at_end = true;
    (pair, up, down)
}

fn serve(pair: &mut Pair, down: &[u8]) {
    pair.until(|pair| pair.server.is_some());
    pair.server().write(down);
    pair.server().fin_at_end = true;
}

#[test]
fn every_byte_is_exact_through_link_loss_at_every_frame_boundary() {
    let limits = Limits { data_max: 3, checkpoint_every: 8, ..Limits::default() };
    let (mut whole, up, down) = busy(limits.clone());
    serve(&mut whole, &down);
    whole.assert_clean(&up, &down);
    let frames = whole.delivered;
    assert!(frames > 40, "many boundaries: {frames}");
    for boundary in 0..=frames {
        let (mut pair, up, down) = busy(limits.clone());
        pair.fates.push_back(boundary);
        serve(&mut pair, &down);
        pair.assert_clean(&up, &down);
        assert!(pair.broker.errors.is_empty() && pair.server().errors.is_empty());
    }
}

#[test]
fn every_byte_is_exact_through_two_losses_with_tiny_buffers() {
    let (mut whole, up, down) = busy(tiny());
    serve(&mut whole, &down);
    whole.assert_clean(&up, &down);
    let frames = whole.delivered;
    for first in (0..=frames).step_by(2) {
        for second in 0..12 {
            let (mut pair, up, down) = busy(tiny());
            pair.fates.extend([first, second]);
            serve(&mut pair, &down);
            pair.assert_clean(&up, &down);
        }
    }
}

/// R22.
#[test]
fn what_the_peer_has_is_not_sent_again() {
    let mut pair = Pair::connected(Limits { window_first: 8 << 20, ..Limits::default() });
    pair.broker.write(&stream(1, 1_000_000));
    pair.run(Duration::from_millis(30));
    assert_eq!(pair.server().got.len(), 1_000_000, "all arrived");
    pair.cut();
    pair.run(Duration::from_secs(1));
    let (how, gap, again) = pair.broker.attached()[1];
    assert_eq!((how, again), (Attempt::Resume, 0));
    assert_eq!(gap, pair.latency * 4, "dial and RESUME at once");
}

/// R22.
#[test]
fn only_what_was_lost_is_sent_again() {
    let mut pair = Pair::connected(Limits::default());
    pair.broker.write(&stream(1, 100_000));
    pair.run(Duration::from_millis(10));
    pair.cut();
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.broker.attached()[1].2, 100_000);
    assert_eq!(pair.server().got, stream(1, 100_000));
}

/// R21.
#[test]
fn a_new_path_is_taken_before_the_old_link_breaks() {
    let mut pair = Pair::connected(Limits::default());
    pair.server().write(&stream(1, 4_000_000));
    pair.broker_input(Input::PathChanged);
    assert_eq!(pair.broker.session.state(), State::Active, "the old link goes on");
    pair.until(|pair| pair.broker.session.state() == State::SentResume);
    pair.until(|pair| pair.broker.session.state() == State::Active);
    let (how, gap, _) = pair.broker.attached()[1];
    assert_eq!((how, gap), (Attempt::Resume, pair.latency * 2), "a gap of one round trip");
    assert_eq!(pair.broker.detached[0], (LinkId(1), Detach::Close));
    pair.run(Duration::from_secs(2));
    assert_eq!(pair.broker.got, stream(1, 4_000_000));
}

#[test]
fn a_dial_that_fails_leaves_the_attached_link_alone() {
    let mut pair = Pair::connected(Limits::default());
    pair.path = false;
    pair.broker_input(Input::PathChanged);
    pair.run(Duration::from_secs(60));
    assert_eq!(pair.broker.session.link(), Some(LinkId(1)));
    assert_eq!(pair.broker.dials, 2);
}

/// R24.
#[test]
fn the_first_frame_after_a_rebind_is_sent_also_when_only_receiving() {
    let mut pair = Pair::connected(Limits::default());
    pair.cut();
    pair.until(|pair| pair.broker.session.state() == State::SentResume);
    let sent = pair.broker.frames_sent;
    pair.until(|pair| pair.broker.session.state() == State::Active);
    pair.settle();
    assert!(pair.broker.frames_sent > sent, "the confirm");
    pair.run(Duration::from_millis(100));
    let acknowledged = |event: &Event| matches!(event, Event::Acknowledged(_));
    assert!(pair.server().events.iter().any(acknowledged));
}

/// R1, R21.
#[test]
fn the_newest_link_evicts_the_old_one_at_the_server() {
    let mut pair = Pair::connected(Limits::default());
    // The broker loses its link; the server does not notice.
    pair.broker_input(Input::LinkLost { link: LinkId(1) });
    pair.until(|pair| pair.broker.session.state() == State::Active);
    assert!(pair.server().detached.contains(&(LinkId(1), Detach::Close)));
    assert_eq!(pair.server().session.link(), Some(LinkId(2)));
}

/// R27.
#[test]
fn only_the_initiator_dials() {
    let mut pair = Pair::connected(Limits::default());
    let dials = pair.broker.dials;
    pair.path = false;
    pair.cut();
    // Both have something to say, and neither has a link.
    pair.broker.write(&stream(1, 1_000));
    pair.server().write(&stream(2, 1_000));
    pair.run(Duration::from_secs(120));
    assert!(pair.broker.dials > dials + 5, "it keeps trying");
    assert_eq!(pair.server().session.state(), State::ReadyResume);
    assert_eq!(pair.server().dials, 0);
    pair.path = true;
    pair.until(|pair| pair.broker.got.len() == 1_000);
    pair.run(Duration::from_secs(1));
    assert_eq!((pair.server().got.len(), pair.server().dials), (1_000, 0));
}

/// R1.
#[test]
fn frames_of_a_detached_link_are_ignored() {
    let mut pair = Pair::connected(Limits::default());
    pair.cut();
    pair.run(Duration::from_secs(1));
    let before = pair.broker.session.clone();
    let now = pair.now;
    let mut arrived = Vec::new();
    let garbage = [0xff; 40];
    let result = pair.broker.session.handle_record(now, LinkId(1), &garbage, &mut arrived);
    assert_eq!(result, Ok(()));
    assert!(arrived.is_empty());
    assert_eq!(pair.broker.session, before);
    let server = &mut pair.server().session;
    assert_eq!(server.handle_record(now, LinkId(1), &garbage, &mut Vec::new()), Ok(()));
    assert_eq!(server.state(), State::Active);
}

/// R20, R26.
#[test]
fn a_stale_resume_is_denied_and_the_epoch_told() {
    let mut pair = Pair::connected(Limits::default());
    // A copy of the broker, as if a RESUME of long ago came late.
    let mut old = pair.broker.session.clone();
    pair.cut();
    pair.run(Duration::from_secs(1));
    pair.cut();
    pair.run(Duration::from_secs(1));
    let mut out = Vec::new();
    let now = pair.now;
    old.handle_input(now, Input::LinkLost { link: LinkId(1) });
    old.handle_input(now, Input::LinkUp { link: LinkId(50), peer: Peer::Same });
    let record = drain_frame(&mut old, now, &mut out);
    assert!(first_frame(&record).is_ok());
    let epoch = pair.server().session.epoch();
    let server = &mut pair.server().session;
    server.handle_record(now, LinkId(50), &record, &mut Vec::new()).unwrap();
    let answer = drain_frame(server, now, &mut out);
    let Some(Ok(Frame::ResumeDenied(denied))) = frames(&answer).next() else { panic!() };
    assert_eq!((denied.why, denied.seen), (ResumeDenial::Stale, epoch));
    assert_eq!(server.link(), Some(LinkId(3)), "the session is untouched");
    // It learns the epoch and tries again at once.
    old.handle_record(now, LinkId(50), &answer, &mut Vec::new()).unwrap();
    assert_eq!(old.state(), State::ReadyResume);
    assert_eq!(old.epoch(), epoch);
    old.handle_input(now, Input::LinkUp { link: LinkId(51), peer: Peer::Same });
    assert!(old.epoch() > epoch);
}

/// The next frame, skipping other outputs.
fn drain_frame(session: &mut Session, now: crate::time::Instant, out: &mut Vec<u8>) -> Vec<u8> {
    use crate::session::Output;
    for _ in 0..20 {
        out.clear();
        match session.poll_output(now, true, out) {
            Output::Frame { .. } => return out.clone(),
            Output::Wait(_) => break,
            _ => (),
        }
    }
    panic!("no frame");
}

#[test]
fn a_resume_without_answer_is_repeated_with_a_greater_epoch() {
    let mut pair = Pair::connected(Limits::default());
    pair.cut();
    pair.until(|pair| pair.broker.session.state() == State::SentResume);
    pair.silence();
    let epoch = pair.broker.session.epoch();
    pair.until(|pair| pair.broker.session.state() == State::Active);
    assert!(pair.broker.session.epoch() > epoch);
    let lost = Event::Lost { link: LinkId(2), cause: LostCause::Unanswered };
    assert!(pair.broker.events.contains(&lost));
}

#[test]
fn a_second_path_change_during_an_attempt_starts_another() {
    let mut pair = Pair::connected(Limits::default());
    pair.cut();
    pair.until(|pair| pair.broker.session.state() == State::SentResume);
    pair.silence();
    pair.broker_input(Input::PathChanged);
    pair.until(|pair| pair.broker.session.state() == State::Active);
    assert_eq!(pair.broker.session.link(), Some(LinkId(3)));
    assert!(pair.broker.detached.contains(&(LinkId(2), Detach::Close)));
}

#[test]
fn a_path_change_restarts_a_dial_under_way() {
    let mut pair = Pair::connected(Limits::default());
    pair.cut();
    assert_eq!(pair.broker.dials, 2);
    pair.broker_input(Input::PathChanged);
    assert_eq!(pair.broker.dials, 3);
}

/// R22, R26.
#[test]
fn positions_that_do_not_fit_are_a_mismatch_and_the_driver_decides() {
    let mut pair = Pair::connected(Limits::default());
    pair.broker.write(&stream(1, 1000));
    let mut twin = pair.server().session.clone();
    pair.run(Duration::from_secs(10));
    // A server that forgot what it had acknowledged.
    twin.handle_input(pair.now, Input::LinkLost { link: LinkId(1) });
    let now = pair.now;
    while !matches!(twin.poll_output(now, true, &mut Vec::new()), crate::session::Output::Wait(_)) {
    }
    pair.server().session = twin;
    pair.broker_input(Input::LinkLost { link: LinkId(1) });
    pair.run(Duration::from_secs(1));
    let mismatch = crate::session::Denied::Resume(ResumeDenial::Mismatch);
    assert!(pair.broker.events.contains(&Event::Denied(mismatch)));
    assert_eq!(pair.broker.session.state(), State::ReadyResume);
    assert_eq!(pair.server().session.state(), State::ReadyResume);
}

/// R2.
#[test]
fn a_resume_with_foreign_handles_is_unknown_and_harms_nothing() {
    let mut pair = Pair::connected(Limits::default());
    let mut other = Pair::connected(Limits::default());
    other.broker_input(Input::LinkLost { link: LinkId(1) });
    other.until(|pair| pair.broker.session.state() == State::SentResume);
    let mut twin = other.broker.session.clone();
    twin.handle_input(other.now, Input::LinkUp { link: LinkId(9), peer: Peer::Same });
    let mut record = drain_frame(&mut twin, other.now, &mut Vec::new());
    record[4] ^= 1;
    let now = pair.now;
    let server = &mut pair.server().session;
    server.handle_record(now, LinkId(9), &record, &mut Vec::new()).unwrap();
    let answer = drain_frame(server, now, &mut Vec::new());
    let Some(Ok(Frame::ResumeDenied(denied))) = frames(&answer).next() else { panic!() };
    assert_eq!(denied.why, ResumeDenial::Unknown);
    assert_eq!(server.link(), Some(LinkId(1)));
}

/// R2.
#[test]
fn garbage_on_a_new_link_harms_that_link_alone() {
    let mut pair = Pair::connected(Limits::default());
    let now = pair.now;
    let mut record = Vec::new();
    Checkpoint::Ack { echo: true, report: Default::default() }.encode(&mut record);
    for (id, garbage) in [(7, vec![]), (8, vec![1, 2, 3]), (9, vec![0xee; 200]), (10, record)] {
        let server = &mut pair.server().session;
        server.handle_record(now, LinkId(id), &garbage, &mut Vec::new()).unwrap();
        pair.settle();
        assert!(pair.server().detached.contains(&(LinkId(id), Detach::Close)));
    }
    assert_eq!(pair.server().session.link(), Some(LinkId(1)));
}

/// R71.
#[test]
fn outages_of_any_length_are_survived() {
    for seconds in [1, 5, 70, 3600, 36_000] {
        let mut pair = Pair::connected(Limits::default());
        pair.broker.write(&stream(1, 300_000));
        pair.path = false;
        pair.cut();
        pair.run(Duration::from_secs(seconds));
        pair.path = true;
        let back = pair.now;
        pair.until(|pair| pair.broker.session.state() == State::Active);
        // R71: the pause is at most an eighth of the outage, and half a minute.
        let gap = Duration::from_secs(seconds.div_ceil(8).min(30)) + Duration::from_millis(200);
        assert!(pair.now - back <= gap, "{seconds} s: {:?}", pair.now - back);
        pair.run(Duration::from_secs(1));
        assert_eq!(pair.server().got, stream(1, 300_000));
    }
}
