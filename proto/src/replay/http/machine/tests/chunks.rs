//! Bodies in chunks: to the app, at another server, and at the same service again (R68).

use super::*;
use crate::replay::http::plan::{Ask, Judged};
use crate::replay::http::splice::SpliceStep;
use crate::replay::http::{Body, Framing};
use crate::replay::{NoReplay, NoReplayKind};
use crate::seam::{BLOCK, Seam};

const CHUNKED: &str = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
const TRAILER: &str = "Digest: x\r\n";

fn chunked(body: &[u8], size: usize, trailers: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for piece in body.chunks(size) {
        bytes.extend(format!("{:X};x=y\r\n", piece.len()).into_bytes());
        bytes.extend_from_slice(piece);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend(format!("0\r\n{trailers}\r\n").into_bytes());
    bytes
}

/// The body of a response in chunks, if that is whole.
fn decoded(stream: &[u8]) -> Option<Vec<u8>> {
    let stream = stream.strip_prefix(CHUNKED.as_bytes())?;
    let (mut body, mut data, mut at) = (Body::new(Framing::Chunked), Vec::new(), 0);
    while at < stream.len() && !body.over() {
        let (taken, is_data) = body.next(&stream[at..]);
        assert!(!body.broken(), "chunks that nobody understands, at {at}");
        if is_data {
            data.extend_from_slice(&stream[at..at + taken]);
        }
        at += taken;
    }
    assert_eq!(at, stream.len(), "nothing behind the end");
    body.over().then_some(data)
}

/// How another server answers.
#[derive(Clone, Copy, Debug)]
enum Answer {
    Chunks(usize),
    Length,
    Close,
}

fn answer(how: Answer, body: &[u8]) -> Vec<u8> {
    let (head, body) = match how {
        Answer::Chunks(size) => (CHUNKED.to_owned(), chunked(body, size, TRAILER)),
        Answer::Length => {
            (format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len()), body.to_vec())
        }
        Answer::Close => ("HTTP/1.1 200 OK\r\n\r\n".to_owned(), body.to_vec()),
    };
    [head.as_bytes(), &body].concat()
}

/// A download that came in chunks, with pauses.
fn slow(body: &[u8], stops: &[usize]) -> Bed {
    let mut bed = Bed::new();
    bed.app(REQUEST.as_bytes());
    bed.service(CHUNKED.as_bytes(), 1_000);
    let bytes = chunked(body, 5_000, TRAILER);
    let mut sent = 0;
    for &stop in stops.iter().chain([&bytes.len()]) {
        bed.service(&bytes[sent..stop], 3_000);
        sent = stop;
        bed.machine.service_pauses(bed.now, 0);
        bed.now += Duration::from_secs(1);
        bed.machine.service_pauses(bed.now, 0);
        bed.turn();
    }
    bed
}

/// What a broker asks for that has the stream up to `have`.
pub(super) fn ask(bed: &Bed, have: usize) -> Result<Box<Ask>, NoReplay> {
    let mut offers = bed.offers.iter().filter(|offer| offer.at <= have as u64);
    let offer = offers.next_back().expect("a ticket came before");
    let exchange = offer.exchange.as_ref().expect("it can be continued");
    let from = usize::try_from(offer.seam_from).unwrap();
    let proof = (have > from).then(|| {
        let mut seam = Seam::new(offer.seam_from, BLOCK);
        seam.update(offer.seam_from, &bed.got[from..have]);
        seam.proof()
    });
    match Plan::make(exchange, offer.at, have as u64, proof, Policy::Prefix)? {
        Plan::Ask(ask) => Ok(ask),
        other => panic!("{other:?}"),
    }
}

/// Goes on elsewhere from byte `have`: all that the app gets.
fn go_on(bed: &Bed, have: usize, how: Answer, body: &[u8], piece: usize) -> Result<Bed, NoReplay> {
    go_on_with(bed, have, &answer(how, body), piece, matches!(how, Answer::Close))
}

/// The same with an answer as it stands on the wire.
pub(super) fn go_on_with(
    bed: &Bed,
    have: usize,
    answer: &[u8],
    piece: usize,
    closes: bool,
) -> Result<Bed, NoReplay> {
    let ask = ask(bed, have)?;
    let Judged::Splice(length, mut splice) = ask.judge(answer)? else { panic!("a whole head") };
    let mut pieces = answer[length..].chunks(piece);
    let mut step = splice.feed(&[])?;
    let mut ended = false;
    while step == SpliceStep::More {
        step = match pieces.next() {
            Some(piece) => splice.feed(piece)?,
            None if splice.until_close() => {
                ended = true;
                splice.ended()?
            }
            None => panic!("it should have been said"),
        };
    }
    let begun = bed.got[..have].to_vec();
    let joined = splice.into_joined();
    let Exchange::Response { request, .. } = &ask.exchange else { panic!("one under way") };
    let up = request.len() as u64;
    let beginning = Beginning::planned(Plan::Ask(ask), up, have as u64, Some(joined));
    let mut other = Bed::at(beginning.expect("it can be followed"));
    other.got = begun;
    other.turn();
    for piece in pieces {
        other.service(piece, 10_000);
    }
    if closes && !ended {
        other.closes();
    }
    Ok(other)
}

const LONG: usize = 200_000;

#[test]
fn chunks_of_our_own_carry_the_same_body() {
    for length in [0, 1, 5_000, 65_536, LONG] {
        let bed = slow(&body(0, length), &[]);
        assert_eq!(decoded(&bed.got), Some(body(0, length)));
        assert!(bed.got.ends_with(format!("0\r\n{TRAILER}\r\n").as_bytes()));
        let idle = bed.offers.last().expect("one that says that it is over");
        assert_eq!(idle.exchange, Ok(Exchange::Idle { close: false }));
        assert!(bed.ends.is_empty() && bed.offers.len() == 2);
    }
}

#[test]
fn what_comes_slowly_is_not_held_back_and_has_its_ticket_before_it() {
    let body = body(0, LONG);
    let bed = slow(&body, &[30, 5_030, 90_000, 90_001]);
    assert_eq!(decoded(&bed.got).as_ref(), Some(&body));
    let bases: Vec<_> = (bed.offers.iter())
        .filter_map(|offer| match &offer.exchange {
            Ok(Exchange::Response { chunks: Some(base), .. }) => Some((offer.at, base.at)),
            _ => None,
        })
        .collect();
    assert_eq!(bases.len(), 5, "the head's, and one for each pause");
    assert!(bases[1..].iter().all(|(at, base)| at == base));
}

#[test]
fn a_trickle_costs_a_ticket_every_fifty_milliseconds() {
    let mut bed = Bed::new();
    bed.app(REQUEST.as_bytes());
    bed.service(CHUNKED.as_bytes(), 1_000);
    for _ in 0..1_000 {
        bed.service(b"1\r\nx\r\n", 6);
        bed.machine.service_pauses(bed.now, 0);
        bed.later(Duration::from_millis(1));
    }
    assert!((20..=22).contains(&bed.offers.len()), "{}", bed.offers.len());
    let due = bed.machine.due().expect("the last ones");
    assert!(due.since(bed.now) < Duration::from_millis(50));
    bed.now = due;
    assert!(bed.machine.service_pauses(bed.now, 0));
    bed.turn();
    assert_eq!(bed.got.iter().filter(|byte| **byte == b'x').count(), 1_000);
}

#[test]
fn a_body_in_chunks_goes_on_elsewhere_from_any_byte_of_its_stream() {
    let whole = body(0, LONG);
    let bed = slow(&whole, &[30, 5_030, 90_000, 90_001]);
    let marks = (bed.offers.iter()).flat_map(|offer| offer.at.saturating_sub(3)..offer.at + 9);
    let mut haves: Vec<usize> = marks.filter_map(|at| usize::try_from(at).ok()).collect();
    haves.extend((CHUNKED.len()..bed.got.len()).step_by(9_973));
    haves.extend(bed.got.len() - 25..=bed.got.len());
    haves.retain(|have| (1..=bed.got.len()).contains(have));
    let idle = usize::try_from(bed.offers.last().unwrap().at).unwrap();
    for have in haves {
        if have >= idle {
            continue;
        }
        for (how, piece) in [
            (Answer::Chunks(3_000), 7_000),
            (Answer::Chunks(100_000), 1_000_000),
            (Answer::Length, 10_000),
            (Answer::Close, 10_000),
        ] {
            let in_trailers = have > bed.got.len() - TRAILER.len() - 2;
            let other = match go_on(&bed, have, how, &whole, piece) {
                // Only a server with the same trailers can go on inside of them.
                Err(why) if in_trailers && !matches!(how, Answer::Chunks(_)) => {
                    assert_eq!(why.kind, NoReplayKind::Seam);
                    continue;
                }
                other => other.unwrap_or_else(|why| panic!("{how:?} at {have}: {why:?}")),
            };
            assert_eq!(decoded(&other.got).as_ref(), Some(&whole), "{how:?} at {have}");
            assert!(matches!(other.ends[..], [] | [How::Fin]));
        }
    }
}

#[test]
fn a_body_that_differs_anywhere_before_is_refused() {
    let whole = body(0, LONG);
    let bed = slow(&whole, &[5_030, 90_000]);
    let have = bed.got.len() - 5_000;
    for at in (0..190_000).step_by(6_007).chain([0, 65_535, 65_536]) {
        let mut other = whole.clone();
        other[at] ^= 1;
        for how in [Answer::Chunks(3_000), Answer::Length, Answer::Close] {
            let refused = go_on(&bed, have, how, &other, 9_000).expect_err("it differs");
            assert_eq!(refused.kind, NoReplayKind::Seam, "{how:?} at {at}");
        }
    }
    for shorter in [0, 1_000, 100_000] {
        let refused = go_on(&bed, have, Answer::Chunks(3_000), &whole[..shorter], 9_000);
        assert_eq!(refused.expect_err("it is shorter").kind, NoReplayKind::Seam);
    }
}

#[test]
fn a_server_that_took_over_can_be_left_as_well() {
    let whole = body(0, LONG);
    let bed = slow(&whole, &[5_030]);
    let second = go_on(&bed, 20_000, Answer::Chunks(1_000), &whole, 8_000).unwrap();
    assert_eq!(decoded(&second.got).as_ref(), Some(&whole));
    // The broker's newest ticket is still the first server's: no other was due.
    let mut both = second;
    both.offers.splice(0..0, bed.offers.into_iter().filter(|offer| offer.at <= 20_000));
    both.offers.retain(|offer| matches!(offer.exchange, Ok(Exchange::Response { .. })));
    for have in [30_000, 66_000, 150_000] {
        let third = go_on(&both, have, Answer::Length, &whole, 8_000).unwrap();
        assert_eq!(decoded(&third.got).as_ref(), Some(&whole));
    }
}

/// Feeds the answer to a rejoin.
fn rejoin(bed: &mut Bed, how: Answer, body: &[u8]) -> Result<(), NoReplay> {
    let Action::Rejoin(ask) = bed.action() else { panic!("the rest is asked for") };
    let answer = answer(how, body);
    let Judged::Splice(length, mut splice) = ask.judge(&answer)? else { panic!("a whole head") };
    let mut pieces = answer[length..].chunks(7_000);
    let mut step = splice.feed(&[])?;
    while step == SpliceStep::More {
        step = splice.feed(pieces.next().expect("it is longer"))?;
    }
    bed.machine.joined(splice.into_joined());
    bed.turn();
    for piece in pieces {
        bed.service(piece, 10_000);
    }
    if matches!(how, Answer::Close) {
        bed.closes();
    }
    Ok(())
}

#[test]
fn chunks_that_break_off_are_asked_for_again_and_joined() {
    let whole = body(0, LONG);
    for how in [Answer::Chunks(777), Answer::Length, Answer::Close] {
        for stop in [0, 3, 10, 4_000, 70_000, 150_001] {
            let mut bed = Bed::new();
            bed.app(REQUEST.as_bytes());
            bed.service(CHUNKED.as_bytes(), 1_000);
            bed.service(&chunked(&whole, 5_000, "")[..stop], 3_000);
            bed.closes();
            rejoin(&mut bed, how, &whole).unwrap();
            assert_eq!(decoded(&bed.got).as_ref(), Some(&whole), "{how:?} at {stop}");
            // What is told of the base still leads to the same stream.
            let tickets = bed.offers.len();
            assert_eq!(tickets, 2, "{how:?} at {stop}");
        }
    }
}

#[test]
fn all_that_came_of_chunks_is_given_before_a_short_end() {
    let whole = body(0, LONG);
    let mut bed = Bed::new();
    bed.app(REQUEST.as_bytes());
    bed.service(CHUNKED.as_bytes(), 1_000);
    bed.service(&chunked(&whole, 5_000, "")[..100_000], 3_000);
    bed.closes();
    bed.action();
    bed.machine.failed(bed.now, Failure::Refused("404".to_owned()));
    bed.turn();
    bed.machine.stays(bed.now);
    bed.turn();
    assert_eq!(bed.ends, [How::Fin]);
    assert_eq!(decoded(&bed.got), None, "the end is not that of the whole");
    let frames = 100_000 / 5_012 * 12;
    assert!(bed.got.len() > 100_000 - frames - 20, "{}", bed.got.len());
}

#[test]
fn chunks_that_nobody_understands_pass_as_they_are() {
    for (good, bad) in [("", "5\nhello\n0\n\n"), ("5\r\nhello\r\n", "x\r\nmore"), ("", "zz\r\n")] {
        let mut bed = Bed::new();
        bed.app(REQUEST.as_bytes());
        bed.service(CHUNKED.as_bytes(), 1_000);
        let bytes = [good.as_bytes(), bad.as_bytes()].concat();
        let mut left = bytes.as_slice();
        while !left.is_empty() {
            if matches!(bed.machine.step(), Next::Read) {
                bed.machine.feed(left);
            } else {
                bed.machine.passed(left);
                bed.got.extend_from_slice(left);
            }
            left = &[];
            bed.turn();
        }
        assert_eq!(bed.got, [CHUNKED.as_bytes(), &bytes].concat());
    }
}

#[test]
fn a_body_that_ends_with_its_stream_goes_on_from_chunks() {
    let head = "HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n";
    let whole = body(0, LONG);
    let mut bed = Bed::new();
    bed.app(REQUEST.as_bytes());
    bed.service(head.as_bytes(), 1_000);
    bed.service(&whole[..70_000], 9_000);
    bed.machine.service_ended(bed.now, Ended::Broken("reset".to_owned()));
    bed.turn();
    rejoin(&mut bed, Answer::Chunks(3_000), &whole).unwrap();
    assert_eq!(bed.got, [head.as_bytes(), &whole].concat());
    assert_eq!(bed.ends, [How::Fin]);
}
