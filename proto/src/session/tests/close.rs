//! Endings (R50-R55).

use std::time::Duration;

use super::fixture::*;
use crate::session::{ClosedWhy, Detach, Input, Limits, LinkId, ShutNear, code};
use crate::state::State;
use crate::wire::ResumeDenial;

/// R50.
#[test]
fn half_closed_by_the_app_the_answer_still_comes() {
    let mut pair = Pair::connected(Limits::default());
    pair.broker.write(b"question");
    pair.broker.fin_at_end = true;
    pair.run(Duration::from_secs(60));
    assert_eq!(pair.server().shut, [ShutNear::Fin]);
    assert_eq!(pair.broker.session.state(), State::Active);
    pair.server().write(b"answer");
    pair.server().fin_at_end = true;
    pair.assert_clean(b"question", b"answer");
}

/// R50.
#[test]
fn half_closed_by_the_service_the_upload_goes_on() {
    let mut pair = Pair::connected(Limits::default());
    pair.server().write(b"greeting");
    pair.server().fin_at_end = true;
    pair.run(Duration::from_secs(60));
    assert_eq!(pair.broker.shut, [ShutNear::Fin]);
    let up = stream(1, 500_000);
    pair.broker.write(&up);
    pair.run(Duration::from_secs(60));
    pair.cut();
    pair.broker.fin_at_end = true;
    pair.assert_clean(&up, b"greeting");
}

/// R50, R51: a link lost anywhere among FIN, CLOSE ACK and DONE, also one after the other.
#[test]
fn a_link_lost_while_both_ends_close_costs_nothing() {
    let cases = (0..24u8).flat_map(|a| (0..8u8).map(move |b| (a, b)));
    for (case, (first, second)) in cases.flat_map(|case| (0..4u8).map(move |c| (c, case))) {
        let (waits, batch) = (case & 1 > 0, case & 2 > 0);
        let mut pair = Pair::with(Limits::default());
        pair.batch = batch;
        pair.fates.extend([usize::from(first), usize::from(second)]);
        pair.broker.write(b"question");
        pair.broker.fin_at_end = true;
        pair.until(|pair| match &pair.server {
            Some(server) => !waits || server.shut == [ShutNear::Fin],
            None => false,
        });
        pair.server().write(b"answer");
        pair.server().fin_at_end = true;
        pair.assert_clean(b"question", b"answer");
        let mut blamed = pair.broker.errors.clone();
        blamed.extend(pair.server().errors.clone());
        assert_eq!(blamed, [], "lost after {first} and {second} records, {case}");
    }
}

/// R53.
#[test]
fn the_end_comes_after_the_last_byte_also_to_a_slow_reader() {
    let mut pair = Pair::connected(Limits::default());
    let down = stream(1, 100_000);
    pair.broker.appetite = 10;
    pair.broker.fin_at_end = true;
    pair.server().write(&down);
    pair.server().fin_at_end = true;
    pair.run(Duration::from_secs(1000));
    assert!(pair.broker.shut.is_empty());
    assert!(!pair.broker.session.is_over());
    assert_eq!(pair.server().closed(), Some(ClosedWhy::Clean), "the server is done");
    pair.broker.appetite = usize::MAX;
    pair.assert_clean(&[], &down);
}

/// R55.
#[test]
fn a_reset_while_there_is_no_link_is_told_when_there_is_one() {
    let mut pair = Pair::connected(Limits::default());
    pair.path = false;
    pair.cut();
    pair.broker_input(Input::NearReset);
    pair.run(Duration::from_secs(300));
    assert!(!pair.broker.session.is_over());
    assert_eq!(pair.server().session.state(), State::ReadyResume);
    pair.path = true;
    pair.until(|pair| pair.broker.session.is_over());
    assert_eq!(pair.server().closed(), Some(ClosedWhy::ResetByPeer { code: code::NEAR_RESET }));
    assert_eq!(pair.broker.closed(), Some(ClosedWhy::ResetHere { code: code::NEAR_RESET }));
    assert!(pair.broker.shut.is_empty(), "the near side did it");
}

#[test]
fn a_reset_that_is_lost_on_the_way_is_told_again() {
    let mut pair = Pair::connected(Limits::default());
    pair.silence();
    pair.broker_input(Input::NearReset);
    pair.until(|pair| pair.broker.session.is_over());
    assert_eq!(pair.server().closed(), Some(ClosedWhy::ResetByPeer { code: code::NEAR_RESET }));
}

#[test]
fn a_reset_is_not_told_for_ever() {
    let mut pair = Pair::connected(Limits::default());
    pair.path = false;
    pair.cut();
    pair.broker_input(Input::NearReset);
    pair.run(Duration::from_secs(3700));
    assert!(pair.broker.session.is_over());
}

/// R52.
#[test]
fn resets_that_cross_leave_a_clean_link() {
    let mut pair = Pair::connected(Limits::default());
    let now = pair.now;
    pair.server().session.handle_input(now, Input::NearReset);
    pair.broker_input(Input::NearReset);
    pair.run(Duration::from_secs(1));
    assert!(pair.broker.session.is_over() && pair.server().session.is_over());
    assert_eq!(pair.broker.detached, [(LinkId(1), Detach::Reuse)]);
    assert_eq!(pair.server().detached, [(LinkId(1), Detach::Reuse)]);
}

/// R52.
#[test]
fn a_service_that_aborts_resets_the_app_and_the_link_is_used_again() {
    let mut pair = Pair::connected(Limits::default());
    pair.broker.write(&stream(1, 100_000));
    pair.server_input(Input::Abort { code: code::SERVICE });
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.broker.shut, [ShutNear::Reset { code: code::SERVICE }]);
    assert_eq!(pair.broker.closed(), Some(ClosedWhy::ResetByPeer { code: code::SERVICE }));
    assert_eq!(pair.broker.detached, [(LinkId(1), Detach::Reuse)]);
    assert_eq!(pair.server().detached, [(LinkId(1), Detach::Reuse)]);
}

#[test]
fn a_server_that_aborted_without_a_link_tells_it_from_its_tombstone() {
    let mut pair = Pair::connected(Limits::default());
    pair.path = false;
    pair.cut();
    pair.server_input(Input::Abort { code: code::SERVICE });
    assert!(pair.server().session.is_over());
    assert_eq!(
        pair.server().session.epitaph().map(|(_, why)| why),
        Some(ResumeDenial::Reset { code: code::SERVICE })
    );
    pair.path = true;
    pair.until(|pair| pair.broker.session.is_over());
    assert_eq!(pair.broker.closed(), Some(ClosedWhy::ResetByPeer { code: code::SERVICE }));
}

/// R51, R55.
#[test]
fn a_last_word_that_is_lost_is_had_from_the_tombstone() {
    let mut whole = Pair::connected(Limits::default());
    let run = |pair: &mut Pair| {
        pair.server().fin_at_end = true;
        pair.broker.fin_at_end = true;
        pair.assert_clean(&[], &[]);
    };
    run(&mut whole);
    for boundary in 1..whole.delivered {
        let mut pair = Pair::with(Limits::default());
        pair.fates.push_back(boundary);
        pair.until(|pair| pair.server.is_some());
        run(&mut pair);
    }
}

/// R55.
#[test]
fn an_unknown_session_of_which_nothing_is_missing_ends_clean() {
    let mut pair = Pair::connected(Limits::default());
    pair.broker.write(b"bytes");
    pair.server().fin_at_end = true;
    pair.run(Duration::from_secs(2));
    pair.path = false;
    pair.cut();
    pair.broker.fin_at_end = true;
    pair.settle();
    pair.tombstone = Some((0, ResumeDenial::Unknown));
    pair.server = None;
    pair.path = true;
    pair.until(|pair| pair.broker.session.is_over());
    assert_eq!(pair.broker.closed(), Some(ClosedWhy::Clean));
}

/// R55.
#[test]
fn a_tombstone_that_lacks_bytes_is_a_reset() {
    let mut pair = Pair::connected(Limits::default());
    pair.path = false;
    pair.cut();
    pair.broker.write(b"bytes");
    pair.settle();
    pair.tombstone = Some((0, ResumeDenial::Closed { received: 0 }));
    pair.server = None;
    pair.path = true;
    pair.until(|pair| pair.broker.session.is_over());
    assert_eq!(pair.broker.closed(), Some(ClosedWhy::ResetByPeer { code: code::LOST }));
}

/// R54.
#[test]
fn an_app_that_is_gone_stops_the_download() {
    let mut pair = Pair::connected(Limits::default());
    pair.server().write(&stream(1, 30 << 20));
    pair.broker.appetite = 1 << 20;
    pair.run(Duration::from_secs(1));
    let sent = pair.server().session.positions().max;
    pair.broker_input(Input::NearGone);
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.server().closed(), Some(ClosedWhy::ResetByPeer { code: code::NEAR_GONE }));
    assert!(pair.broker.session.is_over());
    assert!(pair.server().session.positions().max - sent <= 8 << 20);
    assert_eq!(pair.broker.detached, [(LinkId(1), Detach::Reuse)]);
}

/// R54.
#[test]
fn an_app_that_is_gone_with_nothing_unread_ends_clean() {
    let mut pair = Pair::connected(Limits::default());
    let up = stream(1, 2_000_000);
    pair.broker.write(&up);
    pair.until(|pair| pair.broker.source.is_empty());
    pair.broker_input(Input::NearGone);
    pair.until(|pair| pair.server.as_ref().is_some_and(|server| server.shut.len() == 1));
    pair.server().fin_at_end = true;
    pair.until(|pair| pair.broker.session.is_over());
    pair.settle();
    assert!(pair.server().got == up);
    assert_eq!(pair.broker.closed(), Some(ClosedWhy::Clean));
}

/// R53, R54.
#[test]
fn what_a_gone_app_wrote_arrives_before_the_reset() {
    let mut pair = Pair::connected(Limits { window_first: 8 << 20, ..Limits::default() });
    let up = stream(1, 2_000_000);
    pair.server().write(b"a greeting nobody reads");
    pair.broker.appetite = 0;
    pair.run(Duration::from_millis(100));
    pair.server().appetite = 1000;
    pair.broker.write(&up);
    pair.settle();
    pair.broker_input(Input::NearGone);
    pair.run(Duration::from_secs(1));
    assert!(pair.broker.session.is_over());
    assert!(!pair.server().session.is_over(), "the service is still reading");
    pair.server().appetite = usize::MAX;
    pair.run(Duration::from_secs(1));
    assert!(pair.server().got == up);
    let reset = ShutNear::Reset { code: code::NEAR_GONE };
    assert_eq!(pair.server().shut.last(), Some(&reset));
    assert!(pair.server().session.is_over());
}

#[test]
fn a_service_that_never_ends_does_not_keep_a_gone_app() {
    let mut pair = Pair::connected(Limits::default());
    pair.broker_input(Input::NearGone);
    pair.run(Duration::from_secs(60));
    assert!(!pair.broker.session.is_over());
    pair.run(Duration::from_secs(100));
    assert!(pair.broker.session.is_over() && pair.server().session.is_over());
}

/// R54: the service waits for its answer to be taken, the app for nothing: neither will move.
#[test]
fn a_gone_app_whose_server_takes_no_more_is_given_up() {
    let mut pair = Pair::connected(tiny());
    pair.server().appetite = 0;
    pair.server().write(&stream(1, 6));
    pair.broker.write(&stream(2, 8));
    pair.broker.appetite = 0;
    pair.run(Duration::from_secs(1));
    pair.broker.appetite = usize::MAX;
    pair.broker.session.handle_input(pair.now, Input::NearGone);
    pair.run(Duration::from_secs(100));
    pair.cut();
    pair.run(Duration::from_secs(100));
    assert!(!pair.broker.session.is_over(), "the time counts on a link that lasts");
    pair.run(Duration::from_secs(200));
    assert_eq!(pair.broker.closed(), Some(ClosedWhy::ResetHere { code: code::NEAR_GONE }));
}

/// R54.
#[test]
fn a_service_that_takes_nothing_of_a_gone_app_is_not_waited_for() {
    let mut pair = Pair::connected(Limits::default());
    pair.broker.appetite = 0;
    pair.server().appetite = 1000;
    pair.server().write(b"a greeting nobody reads");
    pair.broker.write(&stream(1, 5000));
    pair.run(Duration::from_secs(1));
    pair.broker_input(Input::NearGone);
    for _ in 0..3 {
        pair.run(Duration::from_secs(100));
        assert!(!pair.server().session.is_over());
        pair.server().appetite = 1000;
    }
    pair.run(Duration::from_secs(200));
    assert!(pair.server().session.is_over());
    let reset = ShutNear::Reset { code: code::NEAR_GONE };
    assert_eq!(pair.server().shut.last(), Some(&reset));
}

#[test]
fn a_near_side_that_goes_after_the_end_changes_nothing() {
    let mut pair = Pair::connected(Limits::default());
    pair.broker.appetite = 0;
    pair.broker.fin_at_end = true;
    pair.server().write(b"unread");
    pair.server().fin_at_end = true;
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.broker.session.state(), State::Closed);
    pair.broker_input(Input::NearGone);
    assert_eq!(pair.broker.closed(), Some(ClosedWhy::Clean));
    pair.broker_input(Input::NearGone);
    pair.broker_input(Input::Abort { code: code::USER });
}
