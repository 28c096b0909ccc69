//! R100-R103: a broker's process dies, and the next one goes on.

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

/// A life in which the broker dies after so many records have come, and once more.
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

/// Every record may be the last one that a process has taken.
fn dies_whenever_it_can() {
    for appetite in [0, 3, usize::MAX] {
        for dies_after in 0..60 {
            dies(dies_after, appetite, false);
            dies(dies_after, appetite, true);
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
    newer[0] += 1;
    let told = Remains::decode(&newer).unwrap_err();
    assert_eq!(told.to_string(), "the state is of version 2, this program reads 1");
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
