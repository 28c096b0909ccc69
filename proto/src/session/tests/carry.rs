//! R130 to R132: a suspended end is saved, and goes on in another place, once.

use std::time::Duration;

use super::fixture::*;
use crate::session::{
    CannotFreeze, ClosedWhy, Frozen, Input, Limits, NotRestored, TicketOffer, code,
};
use crate::state::State;

/// Half an hour on a stick.
const AWAY: Duration = Duration::from_secs(1_800);

fn frozen(pair: &Pair) -> Frozen {
    let frozen = pair.broker.session.freeze().expect("suspended, and under way");
    let mut bytes = Vec::new();
    frozen.encode(&mut bytes);
    assert_eq!(Frozen::decode(&bytes), Ok(frozen.clone()));
    frozen
}

/// A pair under way, whose broker's end is suspended.
fn suspended() -> (Pair, Vec<u8>, Vec<u8>) {
    let mut pair = Pair::connected(tiny());
    let (up, down) = (stream(1, 100), stream(2, 100));
    pair.broker.write(&up);
    pair.server().write(&down);
    pair.broker.appetite = 40;
    pair.run(Duration::from_secs(1));
    pair.broker_input(Input::Suspend { lasts: None });
    pair.run(Duration::from_secs(1));
    (pair, up, down)
}

#[test]
fn what_was_saved_goes_on_at_the_exact_byte() {
    let (mut pair, up, down) = suspended();
    let saved = frozen(&pair);
    assert!(!saved.bytes().1.is_empty(), "something was received and not delivered");
    pair.load_broker(&saved, AWAY);
    assert!(pair.broker.session.is_carried());
    pair.broker.appetite = usize::MAX;
    pair.broker.fin_at_end = true;
    pair.server().fin_at_end = true;
    pair.run(Duration::from_secs(2));
    assert!(!pair.broker.session.is_carried());
    pair.assert_clean(&up, &down);
}

/// R132. The broker that has the first copy moves some bytes, or none; the second copy ends.
fn second_copy_ends(moves_bytes: bool) {
    let (mut pair, _, _) = suspended();
    let saved = frozen(&pair);
    pair.load_broker(&saved, AWAY);
    if moves_bytes {
        pair.broker.appetite = usize::MAX;
    }
    pair.run(Duration::from_secs(2));
    assert_eq!(pair.broker.session.state(), State::Active);
    pair.load_broker(&saved, AWAY);
    pair.run(Duration::from_secs(30));
    assert_eq!(pair.broker.closed(), Some(ClosedWhy::ResetByPeer { code: code::CARRIED }));
    assert_ne!(pair.server().session.state(), State::Closed, "the first copy can go on");
}

#[test]
fn a_second_copy_is_refused_by_the_epoch() {
    second_copy_ends(true);
    second_copy_ends(false);
}

/// R132: also when the first copy has come to its end, for as long as the far end remembers it.
#[test]
fn a_copy_of_what_has_ended_is_refused() {
    let (mut pair, up, down) = suspended();
    let saved = frozen(&pair);
    pair.load_broker(&saved, AWAY);
    pair.broker.appetite = usize::MAX;
    pair.broker.fin_at_end = true;
    pair.server().fin_at_end = true;
    pair.run(Duration::from_secs(2));
    pair.assert_clean(&up, &down);
    pair.load_broker(&saved, AWAY);
    pair.run(Duration::from_secs(30));
    assert_eq!(pair.broker.closed(), Some(ClosedWhy::ResetByPeer { code: code::CARRIED }));
}

#[test]
fn only_a_suspended_end_with_a_program_is_saved() {
    let mut pair = Pair::with(tiny());
    assert_eq!(pair.broker.session.freeze(), Err(CannotFreeze::NotSuspended));
    pair.broker_input(Input::Suspend { lasts: None });
    assert_eq!(pair.broker.session.freeze(), Err(CannotFreeze::NotBegun));
    let mut pair = Pair::connected(tiny());
    assert_eq!(pair.broker.session.freeze(), Err(CannotFreeze::NotSuspended));
    pair.broker_input(Input::Suspend { lasts: None });
    pair.broker_input(Input::NearGone);
    assert_eq!(pair.broker.session.freeze(), Err(CannotFreeze::Closing));
}

/// R72: it is kept for as long as was agreed, and the time on the stick counts.
#[test]
fn the_time_away_counts() {
    let hold = AWAY + Duration::from_secs(10);
    let mut pair = Pair::connected(Limits { hold, ..tiny() });
    pair.broker_input(Input::Suspend { lasts: None });
    let saved = frozen(&pair);
    pair.path = false;
    pair.now += AWAY;
    pair.load_broker(&saved, AWAY);
    pair.run(Duration::from_secs(5));
    assert_eq!(pair.broker.closed(), None);
    pair.run(Duration::from_secs(10));
    assert!(pair.broker.session.state() == State::Closed, "the hold time is over");
}

/// R103, R131: the ticket goes along.
fn the_ticket_is_carried() {
    let mut pair = Pair::with(tiny());
    pair.replayable = true;
    pair.broker.write(&stream(1, 40));
    pair.until(|pair| pair.server.is_some());
    pair.run(Duration::from_millis(200));
    let covers = pair.server().session.positions().received;
    let ticket = vec![7; 100];
    let offer = TicketOffer { at: 0, covers, seam_from: 5, transferable: true, ticket };
    pair.server().session.offer_ticket(offer);
    pair.server().write(&stream(2, 5_000));
    pair.run(Duration::from_secs(1));
    pair.broker_input(Input::Suspend { lasts: None });
    let saved = frozen(&pair);
    let was = pair.broker.session.clone();
    pair.load_broker(&saved, AWAY);
    let (is, was) = (pair.broker.session.transfer_request(), was.transfer_request());
    assert_eq!((is.ticket, is.covers, is.seam), (was.ticket, was.covers, was.seam));
}

#[test]
fn a_session_that_was_carried_can_still_go_to_another_server() {
    the_ticket_is_carried();
}

#[test]
fn what_was_cut_off_or_changed_is_not_read() {
    let (pair, _, _) = suspended();
    let mut bytes = Vec::new();
    frozen(&pair).encode(&mut bytes);
    for at in 0..bytes.len() {
        assert!(Frozen::decode(&bytes[..at]).is_err(), "cut off at {at}");
        let mut wrong = bytes.clone();
        wrong[at] ^= 0x10;
        assert!(Frozen::decode(&wrong).is_err(), "changed at {at}");
    }
    bytes[0] = 9;
    assert_eq!(Frozen::decode(&bytes), Err(NotRestored::Version(9)));
}

/// Mistakes in this must be seen by the tests above.
#[cfg(feature = "model")]
#[test]
fn mistakes_are_caught() {
    use crate::session::Mutant;
    let seen: [(Mutant, fn()); 4] = [
        (Mutant::CopyAsksAgain, a_second_copy_is_refused_by_the_epoch),
        (Mutant::FrozenActive, only_a_suspended_end_with_a_program_is_saved),
        (Mutant::TicketLeftBehind, the_ticket_is_carried),
        (Mutant::SameEpoch, what_was_saved_goes_on_at_the_exact_byte),
    ];
    assert!(Mutant::CARRIED.iter().all(|mutant| seen.iter().any(|(one, _)| one == mutant)));
    for (mutant, test) in seen {
        Mutant::set(Some(mutant));
        let caught = std::panic::catch_unwind(test);
        Mutant::set(None);
        assert!(caught.is_err(), "not caught: {}", mutant.mistake());
    }
}
