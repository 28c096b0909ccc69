//! Bounds, back-pressure, window credit (R30 to R34, flaw F5), memory.

use std::time::Duration;

use super::fixture::*;
use crate::budget::Level;
use crate::session::Limits;
use crate::state::State;

/// R30, R32, R33, R35, R36: a service that takes little is given little, and an app that writes
/// more waits.
#[test]
fn a_full_window_is_back_pressure_and_not_an_error() {
    let mut pair = Pair::connected(Limits::default());
    pair.server().appetite = 100;
    let bytes = stream(1, 20 << 20);
    pair.broker.write(&bytes);
    pair.run(Duration::from_secs(30));
    let limits = Limits::default();
    assert_eq!(pair.server().session.undelivered(), limits.window_first);
    assert_eq!(pair.broker.session.send_room(), 0);
    assert_eq!(pair.broker.session.buffered().0, limits.ahead_max);
    assert_eq!(pair.broker.session.state(), State::Active);
    pair.server().appetite = usize::MAX;
    pair.run(Duration::from_secs(5));
    assert!(pair.server().got == bytes);
}

/// R35.
#[test]
fn the_window_doubles_with_each_that_was_taken_up_to_its_bound() {
    let mut pair = Pair::connected(Limits::default());
    let window = |pair: &mut Pair| {
        let at = pair.server().session.positions();
        at.told - at.delivered
    };
    assert_eq!(window(&mut pair), 256 << 10);
    for doubled in [512 << 10, 1 << 20, 2 << 20, 4 << 20, 8 << 20, 8 << 20] {
        let before = window(&mut pair);
        pair.broker.write(&stream(1, usize::try_from(before).unwrap() + 1));
        pair.run(Duration::from_secs(2));
        let now = window(&mut pair);
        assert!(now <= doubled && now > doubled / 2, "{now} after {before}");
    }
}

/// R36: a server does not read far ahead of a broker that is gone, or takes nothing.
#[test]
fn little_is_read_ahead_of_a_peer_that_cannot_be_sent_anything() {
    let limits = Limits::default();
    let mut pair = Pair::connected(limits.clone());
    pair.broker.appetite = 0;
    pair.server().write(&stream(2, 20 << 20));
    pair.run(Duration::from_secs(2));
    let (sent, _) = pair.server().session.buffered();
    assert_eq!(sent, limits.ahead_max, "the window is used up");
    let mut pair = Pair::connected(limits.clone());
    pair.server().write(b"the first");
    pair.run(Duration::from_secs(1));
    pair.path = false;
    pair.cut();
    pair.server().write(&stream(2, 20 << 20));
    pair.run(Duration::from_secs(20));
    assert!(pair.server().session.link().is_none());
    let (sent, _) = pair.server().session.buffered();
    assert_eq!(sent, limits.ahead_max);
    assert!(pair.server().session.cost() < (1 << 20), "{}", pair.server().session.cost());
}

/// R37.
#[test]
fn a_session_of_a_daemon_without_memory_holds_little_and_goes_on() {
    let mut pair = Pair::connected(Limits::default());
    let bytes = stream(1, 6 << 20);
    for level in [Level::Plenty, Level::Short, Level::Full] {
        let now = pair.now;
        pair.server().session.hold_to(level);
        pair.broker.session.hold_to(level);
        let before = pair.broker.got.len();
        pair.server().write(&bytes[..2 << 20]);
        pair.run(Duration::from_secs(2));
        assert_eq!(pair.broker.got.len() - before, 2 << 20, "{level:?}");
        assert!(pair.now > now);
    }
    pair.broker.appetite = 0;
    pair.server().write(&bytes);
    pair.run(Duration::from_secs(2));
    let (held, _) = pair.server().session.buffered();
    assert!(held <= 64 << 10, "{held}");
    assert!(pair.broker.session.undelivered() <= 4 << 20, "what was promised may come");
    pair.broker.appetite = usize::MAX;
    pair.run(Duration::from_secs(5));
    assert_eq!(pair.broker.got.len(), 12 << 20);
}

/// R33, R34.
#[test]
fn f5_an_app_that_writes_everything_before_it_reads_gets_through() {
    for limits in [tiny(), Limits::default()] {
        let size = 5 * (limits.send_buffer_max + limits.receive_buffer_max) / 4;
        let bytes = stream(1, size);
        let mut pair = Pair::connected(limits);
        pair.broker.appetite = 0;
        pair.broker.write(&bytes);
        // The service echoes as it reads.
        let mut echoed = 0;
        for _ in 0..400 {
            pair.run(Duration::from_millis(100));
            let fresh = pair.server().got[echoed..].to_vec();
            echoed += fresh.len();
            pair.server().write(&fresh);
            let stuck = !pair.broker.source.is_empty() && fresh.is_empty();
            if pair.broker.source.is_empty() && !stuck {
                pair.broker.appetite = usize::MAX;
            }
        }
        assert!(pair.broker.got == bytes, "{} of {}", pair.broker.got.len(), size);
    }
}

/// R34.
#[test]
fn a_link_without_room_gets_no_data_but_acknowledgements() {
    let mut pair = Pair::connected(Limits::default());
    pair.broker.room = false;
    pair.broker.write(&stream(1, 1000));
    pair.server().write(&stream(2, 1_000_000));
    pair.run(Duration::from_secs(2));
    assert!(pair.server().got.is_empty());
    assert_eq!(pair.broker.got.len(), 1_000_000);
    assert_eq!(pair.server().session.buffered().0, 0, "acknowledged");
    pair.broker.room = true;
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.server().got.len(), 1000);
}

/// R73.
#[test]
fn an_idle_session_holds_no_memory() {
    let mut pair = Pair::connected(Limits::default());
    pair.broker.write(&stream(1, 3_000_000));
    pair.server().write(&stream(2, 3_000_000));
    pair.run(Duration::from_secs(5));
    assert_eq!(pair.broker.session.memory(), 0);
    assert_eq!(pair.server().session.memory(), 0);
    assert!(size_of::<crate::session::Session>() <= 2048);
}

#[test]
fn a_small_request_that_waits_takes_little() {
    let mut pair = Pair::connected(Limits::default());
    pair.server().session.hold_acks();
    pair.broker.write(&stream(1, 300));
    pair.run(Duration::from_secs(5));
    assert_eq!(pair.broker.session.buffered().0, 300, "not acknowledged");
    assert!(pair.broker.session.memory() <= 300, "{}", pair.broker.session.memory());
}

#[test]
fn a_stalled_session_that_recovers_frees_what_it_held() {
    let mut pair = Pair::connected(Limits::default());
    pair.server().appetite = 0;
    pair.broker.write(&stream(1, 200_000));
    pair.path = false;
    pair.run(Duration::from_secs(2));
    pair.cut();
    pair.run(Duration::from_secs(100));
    pair.path = true;
    pair.server().appetite = usize::MAX;
    pair.run(Duration::from_secs(60));
    assert_eq!(pair.server().got.len(), 200_000);
    assert_eq!(pair.broker.session.memory() + pair.server().session.memory(), 0);
}

#[test]
fn reads_are_offered_much_space_and_never_beyond_the_room() {
    let mut pair = Pair::connected(Limits { ahead_max: 8 << 20, ..Limits::default() });
    let now = pair.now;
    let mut offers = Vec::new();
    for _ in 0..100 {
        let room = pair.broker.session.send_room();
        let count = pair
            .broker
            .session
            .fill(now, |slices| {
                let offered = slices.iter().map(|slice| slice.len()).sum();
                offers.push(offered);
                assert!(offered <= room);
                Ok(offered)
            })
            .unwrap();
        if count == 0 {
            break;
        }
    }
    assert_eq!(offers[0], 64 << 10);
    assert_eq!(offers[3], 256 << 10);
    assert_eq!(offers.iter().sum::<usize>(), 8 << 20);
    assert_eq!(pair.broker.session.send_room(), 0);
}

/// R31.
#[test]
fn bulk_is_acknowledged_every_quarter_mebibyte_and_small_things_after_a_moment() {
    let heartbeat_busy = Duration::from_secs(60);
    let heartbeat_idle = heartbeat_busy;
    let window_first = Limits::default().receive_buffer_max;
    let limits = Limits { heartbeat_busy, heartbeat_idle, window_first, ..Limits::default() };
    let mut pair = Pair::connected(limits);
    let before = pair.broker.frames_sent;
    pair.server().write(&stream(1, 4 << 20));
    pair.run(Duration::from_millis(200));
    let acks = pair.broker.frames_sent - before;
    assert!((16..=20).contains(&acks), "{acks}");
    pair.run(Duration::from_secs(10));
    let before = (pair.broker.frames_sent, pair.server().frames_sent);
    pair.broker.write(b"x");
    pair.run(Duration::from_millis(30));
    assert_eq!(pair.server().frames_sent, before.1);
    pair.run(Duration::from_millis(40));
    assert_eq!(pair.server().frames_sent, before.1 + 1);
    assert_eq!(pair.broker.session.buffered().0, 0);
}
