//! Tickets, held acknowledgements, seam proofs, the way to another server (R60 to R64).

use std::time::Duration;

use super::fixture::*;
use crate::handle::Handle;
use crate::seam::Verifier;
use crate::session::{Attempt, Denied, Event, Input, Limits, Peer, StartAt, TicketOffer, WhyNot};
use crate::state::State;
use crate::wire::{DenyReason, ResumeDenial, TransferReason};

fn offer(at: u64, covers: u64, seam_from: u64) -> TicketOffer {
    let ticket = format!("ticket {at} {covers}").into_bytes();
    TicketOffer { at, covers, seam_from, transferable: true, ticket }
}

/// A replayable service that has read a request of 100 bytes and answers.
fn answering(limits: Limits) -> Pair {
    let mut pair = Pair::connected(limits);
    pair.server().session.hold_acks();
    pair.broker.write(&stream(1, 100));
    pair.run(Duration::from_secs(2));
    assert_eq!(pair.server().got.len(), 100);
    assert_eq!(pair.broker.session.positions().una, 0, "held: not journaled yet");
    assert_eq!(pair.broker.session.positions().heard, 100);
    pair
}

/// R60, R63.
#[test]
fn a_ticket_acknowledges_what_it_covers_and_nothing_else_does() {
    let mut pair = answering(Limits::default());
    pair.server().session.offer_ticket(offer(0, 100, 200));
    pair.server().write(&stream(2, 5000));
    pair.run(Duration::from_millis(30));
    let stored = Event::TicketStored { covers: 100, transferable: true };
    assert!(pair.broker.events.contains(&stored));
    assert_eq!(pair.broker.session.positions().una, 100);
    assert_eq!(pair.broker.session.transferable(), Ok(()));
    pair.broker.write(&stream(1, 50));
    pair.run(Duration::from_secs(20));
    assert_eq!(pair.broker.session.positions().una, 100);
    pair.server().session.release_acks(120);
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.broker.session.positions().una, 120);
    let freed = WhyNot::Freed { covers: 100, kept: 120 };
    assert_eq!(pair.broker.session.transferable(), Err(freed));
}

/// R61.
#[test]
fn acknowledgements_never_run_ahead_of_a_ticket_that_was_lost() {
    for boundary in 0..6 {
        let mut pair = answering(Limits::default());
        let left = pair.links.values_mut().next().unwrap();
        left.breaks_after = Some(boundary);
        pair.server().session.offer_ticket(offer(0, 100, 200));
        pair.server().write(&stream(2, 5000));
        pair.until(|pair| {
            let una = pair.broker.session.positions().una;
            let held = pair.broker.session.transfer_request().ticket.is_some();
            assert!(una == 0 || held, "freed without a ticket");
            una == 100
        });
    }
}

/// R60, R62.
#[test]
fn tickets_come_in_order_just_before_their_place_across_resumes() {
    for boundary in 0..40 {
        let limits = Limits { data_max: 10, ..Limits::default() };
        let mut pair = answering(limits);
        pair.fates.push_back(7);
        pair.links.values_mut().next().unwrap().breaks_after = Some(boundary);
        for (at, covers) in [(0, 40), (25, 60), (25, 80), (60, 100)] {
            pair.server().session.offer_ticket(offer(at, covers, at + 5));
        }
        pair.server().write(&stream(2, 100));
        pair.until(|pair| {
            let down = pair.broker.session.positions().received;
            let request = pair.broker.session.transfer_request();
            // The newest ticket at or before the broker's position, or the next if just there.
            let newest = [(0, 40), (25, 80), (60, 100)];
            let due = newest.iter().rev().find(|(at, _)| *at < down);
            if let Some((_, covers)) = due {
                assert!(request.covers >= *covers, "at {down}: {}", request.covers);
            }
            down == 100
        });
        pair.run(Duration::from_secs(1));
        assert_eq!(pair.broker.got, stream(2, 100));
        assert_eq!(pair.broker.session.transfer_request().ticket, Some(&b"ticket 60 100"[..]));
        assert!(pair.broker.errors.is_empty(), "{:?}", pair.broker.errors);
    }
}

/// The server is gone; the broker goes to another.
fn server_dies(pair: &mut Pair) {
    pair.server = None;
    pair.tombstone = Some((0, ResumeDenial::Unknown));
    pair.broker_input(Input::LinkLost { link: pair.broker.session.link().unwrap() });
    pair.until(|pair| {
        let unknown = Event::Denied(Denied::Resume(ResumeDenial::Unknown));
        pair.broker.events.contains(&unknown)
    });
    assert_eq!(pair.broker.session.state(), State::ReadyResume);
    pair.tombstone = None;
}

/// R64, R40.
#[test]
fn unknown_then_transfer_continues_the_stream_on_another_server() {
    let mut pair = answering(Limits::default());
    let down = stream(2, 400_000);
    pair.server().session.offer_ticket(offer(0, 100, 200));
    pair.server().write(&down[..300_000]);
    pair.run(Duration::from_secs(1));
    server_dies(&mut pair);

    let request = pair.broker.session.transfer_request();
    assert_eq!((request.covers, request.down, request.up_from), (100, 300_000, 100));
    let proof = request.seam.expect("the body began");
    assert_eq!((proof.from, proof.until), (200, 300_000));
    let mut verifier = Verifier::new(proof);
    assert_eq!(verifier.push(&down[200..]), Ok(300_000 - 200));
    assert_eq!(verifier.finish(), Ok(()));

    pair.transfer_at = Some(StartAt { up: 100, down: 300_000 });
    pair.server_handle = Handle([0xcc; 16]);
    pair.peer = Peer::Other;
    pair.broker_input(Input::Retry);
    pair.until(|pair| pair.broker.session.state() == State::Active);
    assert!(pair.broker.events.contains(&Event::Moved { old: SH_B, told: false }));
    pair.server().session.hold_acks();
    pair.peer = Peer::Same;
    pair.server().session.offer_ticket(offer(300_000, 100, 200));
    pair.server().write(&down[300_000..]);
    pair.server().fin_at_end = true;
    // The new server may lose the link, too.
    pair.run(Duration::from_millis(10));
    pair.cut();
    pair.broker.fin_at_end = true;
    pair.until(|pair| pair.broker.session.is_over());
    assert!(pair.broker.got == down);
    let attempts: Vec<Attempt> = pair.broker.attached().iter().map(|(how, ..)| *how).collect();
    assert_eq!(attempts, [Attempt::Connect, Attempt::Transfer, Attempt::Resume]);
    let seam = pair.broker.session.transfer_request().seam;
    assert_eq!(seam.map(|proof| (proof.from, proof.until)), Some((200, 400_000)));
}

#[test]
fn bytes_the_ticket_does_not_cover_are_sent_again_to_the_new_server() {
    let mut pair = answering(Limits::default());
    pair.server().session.offer_ticket(offer(0, 60, 200));
    pair.server().write(&stream(2, 1000));
    pair.run(Duration::from_secs(1));
    server_dies(&mut pair);
    pair.broker.write(&stream(3, 10));
    pair.transfer_at = Some(StartAt { up: 60, down: 1000 });
    pair.peer = Peer::Other;
    pair.broker_input(Input::Retry);
    pair.run(Duration::from_secs(1));
    let expected = [&stream(1, 100)[60..], &stream(3, 10)[..]].concat();
    assert_eq!(pair.server().got, expected);
}

/// R64.
#[test]
fn a_session_that_cannot_be_transferred_is_not() {
    let mut pair = Pair::connected(Limits::default());
    pair.broker.write(b"bytes");
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.broker.session.transferable(), Err(WhyNot::NoTicket));
    server_dies(&mut pair);
    pair.peer = Peer::Other;
    pair.broker_input(Input::Retry);
    pair.until(|pair| {
        let refused = |event: &Event| {
            matches!(event, Event::Denied(Denied::Connect { why: DenyReason::Unsafe, .. }))
        };
        pair.broker.events.iter().any(refused)
    });
    assert_eq!(pair.broker.session.state(), State::ReadyResume);
    assert!(pair.server.is_none());
}

#[test]
fn a_session_of_which_nothing_moved_begins_again_anywhere() {
    let mut pair = Pair::connected(Limits::default());
    assert_eq!(pair.broker.session.transferable(), Ok(()));
    server_dies(&mut pair);
    pair.peer = Peer::Other;
    pair.broker_input(Input::Retry);
    pair.until(|pair| pair.broker.session.state() == State::Active);
}

#[test]
fn a_ticket_that_forbids_it_makes_a_session_stay() {
    let mut pair = answering(Limits::default());
    let forbidden = TicketOffer { transferable: false, ticket: vec![], ..offer(0, 100, 0) };
    pair.server().session.offer_ticket(forbidden);
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.broker.session.transferable(), Err(WhyNot::NotTransferable));
    assert_eq!(pair.broker.session.positions().una, 100, "it acknowledges all the same");
}

/// R63.
#[test]
fn the_seam_survives_resumes_and_newer_tickets_of_the_same_answer() {
    let mut pair = answering(Limits { seam_block: 64, ..Limits::default() });
    let down = stream(2, 1000);
    pair.server().session.offer_ticket(offer(0, 50, 30));
    pair.server().write(&down[..400]);
    pair.run(Duration::from_millis(100));
    pair.cut();
    pair.run(Duration::from_secs(1));
    pair.server().session.offer_ticket(offer(400, 100, 30));
    pair.server().write(&down[400..]);
    pair.run(Duration::from_secs(1));
    let proof = pair.broker.session.transfer_request().seam.expect("still whole");
    assert_eq!((proof.from, proof.until, proof.blocks()), (30, 1000, 15));
    let mut verifier = Verifier::new(proof);
    assert_eq!(verifier.push(&down[30..]), Ok(970));
    assert_eq!(verifier.finish(), Ok(()));
    // The next answer has a seam of its own.
    pair.server().session.offer_ticket(offer(1000, 100, 1010));
    pair.server().write(&stream(4, 5));
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.broker.session.transfer_request().seam, None, "not begun yet");
}

#[test]
fn many_tickets_are_back_pressure() {
    let limits = Limits { tickets_max: 1000, ..Limits::default() };
    let mut pair = answering(limits);
    pair.server().room = false;
    let big = TicketOffer { ticket: vec![7; 1200], ..offer(0, 10, 0) };
    pair.server().session.offer_ticket(big.clone());
    assert_eq!(pair.server().session.send_room(), 0);
    pair.server().room = true;
    pair.run(Duration::from_millis(100));
    pair.server().session.offer_ticket(TicketOffer { at: 1, ticket: vec![8; 10], ..big });
    pair.run(Duration::from_millis(100));
    assert_eq!(pair.broker.session.transfer_request().covers, 10);
}

#[test]
fn a_server_may_ask_to_be_left_and_a_broker_may_stay() {
    let mut pair = Pair::connected(Limits::default());
    pair.server().session.request_transfer(TransferReason::Draining, "maintenance");
    pair.run(Duration::from_millis(100));
    let (reason, text) = (TransferReason::Draining, "maintenance".to_string());
    assert!(pair.broker.events.contains(&Event::TransferWanted { reason, text }));
    pair.broker.session.decline_transfer(TransferReason::NobodyBetter);
    pair.run(Duration::from_millis(100));
    let stays = Event::Stays { reason: TransferReason::NobodyBetter };
    assert!(pair.server().events.contains(&stays));
}

#[test]
fn a_held_session_still_ends_clean() {
    let mut pair = answering(Limits::default());
    pair.broker.fin_at_end = true;
    pair.server().session.offer_ticket(offer(0, 50, 20));
    pair.server().write(&stream(2, 100));
    pair.server().fin_at_end = true;
    pair.assert_clean(&stream(1, 100), &stream(2, 100));
}

/// R23.
#[test]
fn a_repeated_transfer_connect_is_accepted_again() {
    let mut pair = answering(Limits::default());
    pair.server().session.offer_ticket(offer(0, 100, 200));
    pair.server().write(&stream(2, 1000));
    pair.run(Duration::from_secs(1));
    server_dies(&mut pair);
    pair.transfer_at = Some(StartAt { up: 100, down: 1000 });
    pair.peer = Peer::Other;
    // CONNECT arrives, its answer does not.
    pair.fates.push_back(1);
    pair.broker_input(Input::Retry);
    pair.until(|pair| pair.server.is_some());
    pair.server().write(&stream(3, 500));
    pair.until(|pair| pair.broker.session.state() == State::Active);
    pair.run(Duration::from_secs(1));
    assert_eq!(pair.broker.got, [stream(2, 1000), stream(3, 500)].concat());
}
