//! Urgent bytes: the newest one arrives as such, at its place, whatever happens to links (R12,
//! R13).

use std::time::Duration;

use super::fixture::*;
use crate::session::{Limits, LinkId, PeerMisbehaved};
use crate::wire::{
    Close, Connect, Data, FEATURE_URGENT, First, Frame, Urgent, first_frame, frames,
};

/// Places of urgent bytes.
const UP: [u64; 4] = [0, 7, 8, 39];
const DOWN: [u64; 2] = [20, 45];

/// Both directions, with marks on the way and on the last byte of one; links with these fates.
fn busy(limits: &Limits, fates: &[usize]) -> Pair {
    let mut pair = Pair::with(limits.clone());
    pair.fates.extend(fates);
    pair.broker.urgent.extend(UP);
    pair.broker.write(&stream(3, 40));
    pair.broker.fin_at_end = true;
    pair.until(|pair| pair.server.is_some());
    pair.server().urgent.extend(DOWN);
    pair.server().write(&stream(4, 50));
    pair.server().fin_at_end = true;
    pair.assert_clean(&stream(3, 40), &stream(4, 50));
    assert!(pair.broker.errors.is_empty() && pair.server().errors.is_empty());
    assert_marks(&pair.server().marks.clone(), &UP);
    assert_marks(&pair.broker.marks, &DOWN);
    pair
}

fn assert_got(end: &End, bytes: &[u8], marks: &[u64]) {
    assert_eq!((&end.got[..], &end.marks[..]), (bytes, marks));
}

/// Every mark that came was made, in order; the newest came.
fn assert_marks(came: &[u64], made: &[u64]) {
    assert!(came.is_sorted_by(|one, next| one < next), "{came:?}");
    assert!(came.iter().all(|mark| made.contains(mark)), "{came:?} of {made:?}");
    assert_eq!(came.last(), made.last(), "the newest");
}

#[test]
fn the_newest_mark_arrives_at_its_byte_through_link_loss_at_every_frame_boundary() {
    for limits in [Limits { data_max: 3, checkpoint_every: 8, ..Limits::default() }, tiny()] {
        let frames = busy(&limits, &[]).delivered;
        assert!(frames > 40, "many boundaries: {frames}");
        for first in 0..=frames {
            busy(&limits, &[first]);
            for second in [3, 6] {
                busy(&limits, &[first, second]);
            }
        }
    }
}

/// R12.
#[test]
fn each_mark_arrives_if_its_byte_is_sent_before_the_next() {
    let mut pair = Pair::connected(Limits::default());
    for place in [2, 5, 6] {
        pair.broker.urgent.push_back(place);
    }
    for bytes in [&b"abC"[..], b"deF", b"G", b"h"] {
        pair.broker.write(bytes);
        pair.run(Duration::from_millis(50));
    }
    assert_eq!(pair.server().got, b"abCdeFGh");
    assert_eq!(pair.server().marks, [2, 5, 6]);
}

/// R12.
#[test]
fn a_newer_urgent_byte_replaces_the_one_that_waits() {
    let mut pair = Pair::connected(Limits::default());
    pair.cut();
    pair.broker.urgent.extend([1, 4]);
    pair.broker.write(b"aBcdEf");
    pair.run(Duration::from_secs(1));
    assert_got(pair.server(), b"aBcdEf", &[4]);
}

/// R13.
#[test]
fn a_near_side_that_takes_nothing_gets_the_mark_later() {
    let mut pair = Pair::connected(Limits::default());
    pair.server().appetite = 0;
    pair.broker.urgent.extend([1, 3]);
    pair.broker.write(b"aB");
    pair.run(Duration::from_millis(50));
    pair.broker.write(b"cDe");
    pair.run(Duration::from_millis(50));
    pair.cut();
    pair.run(Duration::from_secs(1));
    assert!(pair.server().got.is_empty());
    pair.server().appetite = usize::MAX;
    pair.settle();
    assert_got(pair.server(), b"aBcDe", &[3]);
}

/// R6, R12.
#[test]
fn a_peer_that_does_not_know_gets_the_byte_in_line() {
    let mut pair = Pair::with(Limits::default());
    pair.until(|pair| !pair.links.is_empty());
    pair.settle();
    let record = pair.links.get_mut(&1).expect("dialed").first(0).clone();
    let Ok(First::Connect(connect)) = first_frame(&record) else { panic!("{record:?}") };
    assert!(connect.features & FEATURE_URGENT != 0);
    let mut old = Vec::new();
    Connect { features: connect.features & !FEATURE_URGENT, ..connect }.encode(&mut old);
    *pair.links.get_mut(&1).expect("just seen").first(0) = old;
    pair.run(Duration::from_secs(1));
    pair.server().urgent.push_back(1);
    pair.server().write(b"aBc");
    // Its answer says what both can: nothing comes from here either.
    pair.broker.urgent.push_back(1);
    pair.broker.write(b"aBc");
    pair.run(Duration::from_secs(1));
    assert!(pair.broker.errors.is_empty() && pair.server().errors.is_empty());
    assert_got(&pair.broker, b"aBc", &[]);
    assert_got(pair.server(), b"aBc", &[]);
}

/// R13.
#[test]
fn an_announcement_that_does_not_fit_is_the_peers_mistake() {
    let limits = Limits { receive_buffer_max: 100, ..Limits::default() };
    let send = |made: &[Frame<'_>]| {
        let mut pair = Pair::connected(limits.clone());
        let mut record = Vec::new();
        made.iter().for_each(|frame| frame.encode(&mut record));
        let now = pair.now;
        let session = &mut pair.server().session;
        session.handle_record(now, LinkId(1), &record, &mut Vec::new())
    };
    let data = Frame::Data(Data { position: 0, bytes: b"abc" });
    let urgent = |position| Frame::Urgent(Urgent { position });
    let end = Frame::Close(Close::Fin { position: 3 });
    assert_eq!(send(&[urgent(2), urgent(3), data.clone()]), Ok(()));
    let wrong = |position, received| Err(PeerMisbehaved::WrongUrgent { position, received });
    assert_eq!(send(&[data.clone(), urgent(2)]), wrong(2, 3));
    assert_eq!(send(&[urgent(100)]), wrong(100, 0));
    assert_eq!(send(&[data.clone(), urgent(3), end.clone()]), wrong(3, 3));
    assert_eq!(send(&[data, end, urgent(3)]), wrong(3, 3));
}

/// R13.
#[test]
fn an_announcement_dies_with_its_link() {
    let mut pair = Pair::connected(Limits::default());
    let mut record = Vec::new();
    Urgent { position: 2 }.encode(&mut record);
    assert_eq!(frames(&record).count(), 1);
    let now = pair.now;
    let session = &mut pair.server().session;
    session.handle_record(now, LinkId(1), &record, &mut Vec::new()).expect("it fits");
    pair.cut();
    pair.broker.write(b"abcd");
    pair.run(Duration::from_secs(1));
    assert_got(pair.server(), b"abcd", &[]);
}
