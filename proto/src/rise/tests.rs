//! The rule over traces: what TCP_INFO says every 50 ms in situations that must be told apart.

use super::*;

const MBIT: u64 = 125_000;

/// Round trip in ms, rate in Mbit/s, and the number of samples.
type Piece = (usize, fn(usize) -> (u32, u64, bool));

/// Runs a trace; the times in ms at which the rule spoke.
fn run(pieces: &[Piece]) -> Vec<u64> {
    let mut watch = RiseWatch::new(Rule::default());
    let (mut at, mut spoke) = (0, Vec::new());
    let mut least = u32::MAX;
    for (count, piece) in pieces {
        for k in 0..*count {
            let (rtt_ms, mbit, idle) = piece(k);
            let srtt_us = rtt_ms * 1_000;
            least = least.min(srtt_us);
            let sample = Sample { srtt_us, min_rtt_us: least, rate: mbit * MBIT, acked: at, idle };
            if watch.sample(Instant(at * 1_000), sample).is_some() {
                spoke.push(at);
            }
            at += 50;
        }
    }
    spoke
}

const QUIET: Piece = (100, |k| (40 + (k % 3) as u32, 95, false));

#[test]
fn cross_traffic_is_a_rise_within_a_second_and_is_told_again_ever_more_rarely() {
    // Eight other flows: the queue fills within some round trips, the share falls to a ninth.
    let crowd: Piece =
        (400, |k| (40 + (k as u32 * 8).min(60), (95 - (k as u64 * 8).min(84)), false));
    let spoke = run(&[QUIET, crowd]);
    assert!((5_500..6_500).contains(&spoke[0]), "{spoke:?}");
    let pauses: Vec<u64> = spoke.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(pauses.windows(2).all(|pair| pair[1] >= 2 * pair[0]), "{pauses:?}");
}

#[test]
fn a_bulk_flow_that_fills_its_own_queue_stays() {
    // CUBIC in a deep queue: a saw between 60 and 240 ms, always at the rate of the wire.
    let own: Piece = (600, |k| (60 + (k as u32 % 90) * 2, 94 + (k as u64 % 2), false));
    assert_eq!(run(&[(20, |_| (40, 60, false)), own]), Vec::<u64>::new());
}

#[test]
fn a_window_cut_after_a_loss_is_no_rise() {
    // The rate halves for some round trips; the queue is empty then.
    let saw: Piece = (600, |k| match k % 60 {
        0..8 => (42, 48, false),
        _ => (40 + (k as u32 % 60), 95, false),
    });
    assert_eq!(run(&[QUIET, saw]), Vec::<u64>::new());
}

#[test]
fn wireless_jitter_is_no_rise() {
    // Spikes of 120 ms for a third of a second, the rate sagging with them.
    let spikes: Piece = (600, |k| if k % 40 < 7 { (120, 50, false) } else { (44, 80, false) });
    assert_eq!(run(&[QUIET, spikes]), Vec::<u64>::new());
}

#[test]
fn a_step_in_the_path_delay_is_no_rise_when_the_rate_recovers() {
    let step: Piece = (600, |k| (110, if k < 6 { 40 } else { 93 }, false));
    assert_eq!(run(&[QUIET, step]), Vec::<u64>::new());
}

#[test]
fn a_slow_reader_is_no_rise() {
    // The window is closed most of the time: short round trips, or delayed acknowledgements.
    let slow: Piece = (600, |k| (if k % 10 == 0 { 85 } else { 45 }, 2, k % 4 != 0));
    assert_eq!(run(&[QUIET, slow]), Vec::<u64>::new());
}

#[test]
fn somebody_who_types_over_a_congested_path_is_a_rise() {
    let typing: Piece = (100, |k| (30 + (k % 3) as u32, 0, true));
    let congested: Piece = (400, |k| (30 + (k as u32 * 4).min(90), 0, true));
    let spoke = run(&[typing, congested]);
    assert!((7_000..9_000).contains(&spoke[0]), "{spoke:?}");
    // Delayed acknowledgements are none, and neither is silence after a long round trip.
    let delayed: Piece = (400, |k| (if k % 2 == 0 { 70 } else { 45 }, 0, true));
    assert_eq!(run(&[typing, delayed]), Vec::<u64>::new());
    let mut watch = RiseWatch::new(Rule::default());
    for k in 0..200 {
        let srtt_us = if k < 100 { 30_000 } else { 200_000 };
        let sample = Sample { srtt_us, min_rtt_us: 30_000, rate: 0, acked: k.min(101), idle: true };
        assert_eq!(watch.sample(Instant(k * 50_000), sample), None);
    }
}

#[test]
fn small_absolute_rises_do_not_count() {
    let lan: Piece = (400, |_| (9, 20, false));
    assert_eq!(run(&[(100, |_| (1, 900, false)), lan]), Vec::<u64>::new());
}

#[test]
fn an_old_base_is_forgotten() {
    // The path is longer for good, and slower: told at first, not for ever.
    let longer: Piece = (2_400, |_| (110, 50, false));
    let spoke = run(&[QUIET, longer]);
    assert!(!spoke.is_empty() && spoke.iter().all(|at| *at < 5_000 + 20_000), "{spoke:?}");
}

fn way(now_ms: u64, base_ms: u64) -> Way {
    let ms = Duration::from_millis;
    Way { now: (now_ms > 0).then(|| ms(now_ms)), base: (base_ms > 0).then(|| ms(base_ms)) }
}

#[test]
fn a_server_on_a_free_path_is_better_than_a_congested_home() {
    let margin = Margin::default();
    assert_eq!(better(way(140, 40), way(45, 42), &margin), Ok(()));
    assert_eq!(better(way(140, 0), way(60, 0), &margin), Ok(()));
    assert_eq!(better(way(0, 40), way(300, 40), &margin), Ok(()));
}

#[test]
fn a_shared_bottleneck_is_no_reason_to_move() {
    let margin = Margin::default();
    assert_eq!(better(way(140, 40), way(138, 40), &margin), Err(NotBetter::Shared));
    // Nearer by nature, but slower in the same measure.
    assert_eq!(better(way(200, 100), way(110, 10), &margin), Err(NotBetter::Shared));
}

#[test]
fn a_server_that_is_hardly_nearer_or_silent_is_not_better() {
    let margin = Margin::default();
    assert_eq!(better(way(100, 40), way(90, 88), &margin), Err(NotBetter::NoNearer));
    assert_eq!(better(way(12, 4), way(5, 4), &margin), Err(NotBetter::NoNearer));
    assert_eq!(better(way(100, 40), way(0, 4), &margin), Err(NotBetter::Silent));
}

#[test]
fn the_straight_way_is_taken_again_when_it_is_as_it_was() {
    let margin = Margin::default();
    assert_eq!(straight_again(way(60, 55), way(42, 40), &margin), Ok(()));
    assert_eq!(straight_again(way(0, 55), way(42, 0), &margin), Ok(()));
    assert_eq!(straight_again(way(200, 55), way(140, 40), &margin), Err(NotBetter::Risen));
    assert_eq!(straight_again(way(60, 55), way(70, 70), &margin), Err(NotBetter::NoNearer));
    assert_eq!(straight_again(way(60, 55), way(0, 40), &margin), Err(NotBetter::Silent));
}

#[test]
fn the_cool_down_doubles_and_is_forgotten() {
    let mut cool = CoolDown::default();
    let mut now = Instant(0);
    assert_eq!(cool.left(now), None);
    let mut pauses = Vec::new();
    for _ in 0..8 {
        cool.moved(now);
        let left = cool.left(now).expect("just moved");
        pauses.push(left.as_secs());
        now += left;
        assert_eq!(cool.left(now), None);
    }
    assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 600, 600]);
    now += COOL_MAX * 2;
    cool.moved(now);
    assert_eq!(cool.left(now), Some(COOL_MIN));
}

#[test]
fn sessions_leave_a_server_one_then_two_then_four_a_second() {
    let mut exits = Exits::default();
    let at = |ms: u64| Instant(50_000_000 + ms * 1_000);
    let mut leave = |ms: u64| (0..10).filter(|_| exits.take(at(ms))).count();
    assert_eq!((leave(0), leave(500), leave(1_000)), (1, 0, 2));
    assert_eq!((leave(1_900), leave(2_100), leave(4_000)), (0, 4, 8));
    assert_eq!(leave(14_001), 1, "it is long ago");
}
