//! Announcements: heard at their place in the stream, whatever happens to links (R90, R91).

use super::fixture::*;
use crate::handle::Handle;
use crate::session::{Limits, LinkId, PeerMisbehaved};
use crate::wire::{Announce, Announcement, Belongs, Connect, First, Frame, first_frame};

fn wait_for(number: u8) -> Announcement {
    Announcement::Await { port: 40_000 + u16::from(number), token: Handle([number; 16]) }
}

/// Three announcements: before the first byte, between two, and behind the last.
fn busy(fates: &[usize]) -> Pair {
    let mut pair = Pair::with(Limits { data_max: 3, checkpoint_every: 8, ..Limits::default() });
    pair.fates.extend(fates);
    pair.broker.write(&stream(3, 20));
    pair.broker.fin_at_end = true;
    pair.until(|pair| pair.server.is_some());
    let server = pair.server();
    assert!(server.session.announce(wait_for(1)));
    server.write(&stream(4, 10));
    pair.until(|pair| pair.broker.got.len() == 10);
    let first = pair.broker.session.take_announced();
    assert_eq!(first.first(), Some(&wait_for(1)), "before the first byte");
    assert!(pair.server().session.announce(wait_for(2)));
    let rest = [&stream(4, 10)[..], &[7; 10]].concat();
    pair.server().write(&rest[10..]);
    pair.until(|pair| pair.broker.got.len() == 20);
    assert!(pair.server().session.announce(wait_for(3)));
    pair.server().fin_at_end = true;
    pair.assert_clean(&stream(3, 20), &rest);
    assert!(pair.broker.errors.is_empty() && pair.server().errors.is_empty());
    let mut heard = pair.broker.session.take_announced();
    heard.dedup();
    assert_eq!(heard, [wait_for(2), wait_for(3)]);
    pair
}

#[test]
fn announcements_come_in_order_through_link_loss_at_every_frame_boundary() {
    let frames = busy(&[]).delivered;
    assert!(frames > 15, "many boundaries: {frames}");
    for first in 0..=frames {
        busy(&[first]);
        busy(&[first, 4]);
    }
}

#[test]
fn a_broker_that_knows_no_announcements_gets_none() {
    let mut pair = Pair::new();
    pair.broker.session.belongs(Belongs { token: Some(Handle([5; 16])), peer: None });
    pair.until(|pair| !pair.links.is_empty());
    pair.settle();
    let record = pair.links.get_mut(&1).expect("dialed").first(0).clone();
    let Ok(First::Connect(connect)) = first_frame(&record) else { panic!("a CONNECT") };
    assert_eq!(connect.belongs.token, Some(Handle([5; 16])));
    let mut old = Vec::new();
    Connect { features: 0, ..connect }.encode(&mut old);
    *pair.links.get_mut(&1).expect("just seen").first(0) = old;
    pair.until(|pair| pair.server.is_some());
    assert!(!pair.server().session.announce(wait_for(1)));
}

#[test]
fn an_announcement_ahead_of_the_stream_is_an_error() {
    let mut pair = Pair::connected(Limits::default());
    let mut record = Vec::new();
    Frame::Announce(Announce { at: 9, announcement: wait_for(1) }).encode(&mut record);
    let now = pair.now;
    let link = pair.broker.session.link().unwrap_or(LinkId(0));
    let got = pair.broker.session.handle_record(now, link, &record, &mut Vec::new());
    assert!(matches!(got, Err(PeerMisbehaved::WrongTicket { position: 9, .. })), "{got:?}");
}
