//! R100-R104: a process dies, a broker's or a server's, and the next one goes on.

use std::time::Duration;

use super::fixture::*;
use crate::session::TicketOffer;
use crate::session::{Attempt, Input, Limits, NearCounts, NotRestored, Remains, Session};
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

/// What version 3 wrote, which knew of no classes and of no suspension with an end.
#[test]
fn the_version_before_is_read_as_well() {
    let mut pair = Pair::connected(tiny());
    pair.broker.write(&stream(1, 50));
    pair.run(Duration::from_millis(70));
    let left = remains(&pair);
    let mut bytes = encoded(&left);
    // Before the name of the server stand three words that it did not have.
    bytes.truncate(bytes.len() - 8);
    let name = 1 + usize::from(bytes[1 + 32 + 8 + 2 + 3 + 18 * 8]);
    let words = bytes.len() - name - 24;
    bytes.drain(words..words + 24);
    bytes[0] = 3;
    let sum = {
        use core::hash::Hasher;
        let mut hasher = xxhash_rust::xxh3::Xxh3Default::new();
        hasher.write(&bytes);
        hasher.finish()
    };
    bytes.extend(sum.to_le_bytes());
    let found = Remains::decode(&bytes).expect("one version back");
    assert_eq!(found.handles(), left.handles());
    assert_eq!(found.counts(50, 0, 0), left.counts(50, 0, 0));
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

/// R72, R103: it is not kept longer for having been restored.
#[test]
fn what_was_agreed_on_goes_on_from_when_it_began() {
    let hold = Duration::from_secs(1000);
    let mut pair = Pair::connected(Limits { hold, ..tiny() });
    pair.path = false;
    pair.cut();
    pair.run(Duration::from_secs(900));
    assert_eq!(pair.broker.closed(), None);
    assert!(pair.restart_broker(false, false));
    pair.run(Duration::from_secs(90));
    assert_ne!(pair.broker.session.state(), State::Closed);
    pair.run(Duration::from_secs(100));
    assert_eq!(pair.broker.session.state(), State::Closed, "a thousand seconds without a link");
}

/// R103: with its ticket and the digest it can go on elsewhere, also if the digest is ahead of what
/// the near side was given.
#[test]
fn a_restored_session_has_its_ticket() {
    let mut pair = Pair::with(tiny());
    pair.replayable = true;
    let (up, down) = (stream(1, 40), stream(2, 5_000));
    pair.broker.write(&up);
    pair.until(|pair| pair.server.is_some());
    pair.broker.appetite = 30;
    pair.run(Duration::from_millis(200));
    let (covers, ticket) = (pair.server().session.positions().received, vec![7; 100]);
    let offer = TicketOffer { at: 0, covers, seam_from: 5, transferable: true, ticket };
    pair.server().session.offer_ticket(offer);
    pair.server().write(&down);
    pair.run(Duration::from_secs(1));
    let (was, mut note) = (pair.broker.session.clone(), Vec::new());
    was.encode_ticket(&mut note);
    assert!(pair.restart_broker(false, false));
    assert!(pair.broker.session.transferable().is_err(), "without it, it cannot");
    assert_eq!(pair.broker.session.take_up_ticket(&note[1..]), Err(NotRestored::Damaged));
    pair.broker.session.take_up_ticket(&note).expect("what was put by");
    assert_eq!(pair.broker.session.transferable(), Ok(()));
    let (is, was) = (pair.broker.session.transfer_request(), was.transfer_request());
    assert_eq!((is.ticket, is.covers, is.seam), (was.ticket, was.covers, was.seam));
}

#[test]
fn a_suspended_session_stays_so_and_the_user_can_resume_it() {
    let mut pair = Pair::connected(tiny());
    pair.broker_input(Input::Suspend { lasts: None });
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
    newer[0] = 5;
    let told = Remains::decode(&newer).unwrap_err();
    assert_eq!(told.to_string(), "the state is of version 5, this program reads 4");
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
