//! R100-R104: a process dies, a broker's or a server's, and the next one goes on.

use std::time::Duration;

use super::fixture::*;
use crate::session::{Attempt, Input, NearCounts, NotRestored, Remains, Session};
use crate::state::State;

fn remains(pair: &Pair) -> Remains {
    pair.broker.session.remains().expect("established")
}

fn encoded(remains: &Remains) -> Vec<u8> {
    let mut bytes = Vec::new();
    remains.encode(&mut bytes);
    bytes
}

#[test]
fn a_session_goes_on_in_another_process() {
    let mut pair = Pair::connected(tiny());
    let (up, down) = (stream(1, 100), stream(2, 100));
    pair.broker.write(&up);
    pair.server().write(&down);
    pair.broker.appetite = 40;
    pair.run(Duration::from_secs(1));
    assert!(pair.restart_broker(false, false));
    pair.broker.appetite = usize::MAX;
    pair.run(Duration::from_secs(2));
    assert!(pair.restart_broker(false, true));
    pair.broker.fin_at_end = true;
    pair.server().fin_at_end = true;
    pair.assert_clean(&up, &down);
    assert!(pair.broker.attached().iter().any(|(attempt, ..)| *attempt == Attempt::Resume));
}

#[test]
fn a_server_goes_on_in_another_process() {
    let mut pair = Pair::connected(tiny());
    let (up, down) = (stream(1, 100), stream(2, 100));
    pair.broker.write(&up);
    pair.server().write(&down);
    pair.server().appetite = 40;
    pair.run(Duration::from_secs(1));
    assert!(pair.restart_server(false));
    pair.server().appetite = usize::MAX;
    pair.run(Duration::from_secs(2));
    assert!(pair.restart_server(true));
    pair.broker.fin_at_end = true;
    pair.server().fin_at_end = true;
    pair.assert_clean(&up, &down);
    assert!(pair.server().attached().iter().any(|(attempt, ..)| *attempt == Attempt::Resume));
}

/// R23: its answer to CONNECT was lost with it; the broker repeats its CONNECT.
#[test]
fn a_server_that_died_with_its_first_answer_takes_the_same_connect_again() {
    let mut pair = Pair::with(tiny());
    pair.server_dies_after = Some(0);
    pair.until(|pair| pair.server.is_some());
    pair.silence();
    pair.server().write(&stream(2, 20));
    assert!(pair.restart_server(true));
    pair.server().fin_at_end = true;
    pair.broker.write(&stream(1, 20));
    pair.broker.fin_at_end = true;
    pair.assert_clean(&stream(1, 20), &stream(2, 20));
    let attached = pair.server().attached();
    assert_eq!(attached.iter().filter(|(how, ..)| *how == Attempt::Connect).count(), 2);
}

/// R104: tickets are not among the remains.
#[test]
fn a_server_whose_tickets_would_be_lost_leaves_nothing() {
    let mut pair = Pair::with(tiny());
    pair.replayable = true;
    pair.run(Duration::from_millis(500));
    assert_eq!(pair.server().session.remains(), None);
    assert!(!pair.restart_server(false));
}

/// What version 1 wrote, which knew of brokers alone.
#[test]
fn the_version_before_is_read_as_well() {
    let mut pair = Pair::connected(tiny());
    pair.broker.write(&stream(1, 50));
    pair.run(Duration::from_millis(70));
    let left = remains(&pair);
    let mut bytes = encoded(&left);
    // Behind the version, two handles, epoch, features and the flags.
    bytes.remove(1 + 32 + 8 + 1);
    bytes.truncate(bytes.len() - 8);
    bytes[0] = 1;
    let sum = {
        use core::hash::Hasher;
        let mut hasher = xxhash_rust::xxh3::Xxh3Default::new();
        hasher.write(&bytes);
        hasher.finish()
    };
    bytes.extend(sum.to_le_bytes());
    assert_eq!(Remains::decode(&bytes), Ok(left));
}

/// A life in which the broker dies after so many records have come, and once more; and the server
/// in another one.
fn dies(dies_after: usize, appetite: usize, looked: bool) {
    let mut pair = Pair::with(tiny());
    let (up, down) = (stream(1, 60), stream(2, 60));
    pair.broker.write(&up);
    pair.until(|pair| pair.server.is_some());
    pair.server().write(&down);
    (pair.broker.fin_at_end, pair.server().fin_at_end) = (true, true);
    pair.broker.appetite = appetite;
    pair.broker_dies_after = Some(dies_after);
    pair.run(Duration::from_secs(3));
    pair.restart_broker(false, looked);
    pair.broker.appetite = usize::MAX;
    pair.run(Duration::from_secs(600));
    assert!(pair.broker.got == down, "down, {dies_after}, {appetite}, {looked}");
    assert!(pair.server().got == up, "up, {dies_after}, {appetite}, {looked}");
    assert!(pair.broker.errors.is_empty() && pair.server().errors.is_empty());
}

/// The same with the server.
fn server_dies(dies_after: usize, appetite: usize) {
    let mut pair = Pair::with(tiny());
    let (up, down) = (stream(1, 60), stream(2, 60));
    pair.broker.write(&up);
    pair.until(|pair| pair.server.is_some());
    pair.server().write(&down);
    (pair.broker.fin_at_end, pair.server().fin_at_end) = (true, true);
    pair.server().appetite = appetite;
    pair.server_dies_after = Some(dies_after);
    pair.run(Duration::from_secs(3));
    if !pair.server().session.is_over() {
        pair.restart_server(false);
    }
    pair.server().appetite = usize::MAX;
    pair.run(Duration::from_secs(600));
    assert!(pair.broker.got == down, "down, {dies_after}, {appetite}");
    assert!(pair.server().got == up, "up, {dies_after}, {appetite}");
    assert!(pair.broker.errors.is_empty() && pair.server().errors.is_empty());
}

/// Every record may be the last one that a process has taken.
fn dies_whenever_it_can() {
    for appetite in [0, 3, usize::MAX] {
        for dies_after in 0..60 {
            dies(dies_after, appetite, false);
            dies(dies_after, appetite, true);
            server_dies(dies_after, appetite);
        }
    }
}

#[test]
fn whenever_it_dies_no_byte_is_lost_or_given_twice() {
    dies_whenever_it_can();
}

#[cfg(feature = "model")]
#[test]
fn every_mistake_in_what_is_left_is_caught() {
    use crate::session::Mutant;
    for mutant in Mutant::REMAINS {
        Mutant::set(Some(*mutant));
        let life = std::panic::catch_unwind(dies_whenever_it_can);
        Mutant::set(None);
        assert!(life.is_err(), "{}", mutant.mistake());
    }
}

#[test]
fn a_suspended_session_stays_so_and_the_user_can_resume_it() {
    let mut pair = Pair::connected(tiny());
    pair.broker_input(Input::Suspend);
    assert!(pair.restart_broker(false, false));
    pair.run(Duration::from_secs(100));
    assert_eq!(pair.broker.session.state(), State::Suspended);
    pair.broker_input(Input::Resume);
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.broker.session.state(), State::Active);
}

#[test]
fn remains_are_read_as_they_were_written_and_nothing_else_is() {
    let mut pair = Pair::connected(tiny());
    pair.broker.write(&stream(1, 50));
    pair.run(Duration::from_millis(70));
    let left = remains(&pair);
    let bytes = encoded(&left);
    assert!(bytes.len() < 300, "{} bytes", bytes.len());
    assert_eq!(Remains::decode(&bytes), Ok(left));
    for at in 0..bytes.len() {
        assert!(Remains::decode(&bytes[..at]).is_err(), "cut off at {at}");
        let mut wrong = bytes.clone();
        wrong[at] ^= 0x10;
        assert!(Remains::decode(&wrong).is_err(), "changed at {at}");
    }
    let mut newer = bytes.clone();
    newer[0] = 3;
    let told = Remains::decode(&newer).unwrap_err();
    assert_eq!(told.to_string(), "the state is of version 3, this program reads 2");
}

#[test]
fn remains_that_do_not_fit_the_counts_are_refused() {
    let mut pair = Pair::connected(tiny());
    pair.broker.write(&stream(1, 50));
    pair.server().write(&stream(1, 50));
    pair.run(Duration::from_secs(1));
    let left = remains(&pair);
    let (right, _) = left.counts(50, 50, 0);
    let with = |at: NearCounts| {
        let from = left.needed_from(at, u64::MAX);
        let up = vec![0; (at.end - from) as usize];
        let down = vec![0; (at.held - at.delivered) as usize];
        Session::restore(pair.now, tiny(), "s.o@d", &left, at, (&up, &down)).map(drop)
    };
    assert_eq!(with(right), Ok(()));
    assert_eq!(with(NearCounts { end: 49, ..right }), Err(NotRestored::Misfit));
    assert_eq!(with(NearCounts { held: 49, delivered: 49, ..right }), Err(NotRestored::Misfit));
    assert_eq!(with(NearCounts { held: 999, delivered: 999, ..right }), Err(NotRestored::Misfit));
}
