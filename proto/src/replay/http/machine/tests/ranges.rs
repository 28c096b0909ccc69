//! Several ranges of a file, and one in chunks: at another server, and what is refused.

use super::chunks::{ask, go_on_with};
use super::*;
use crate::replay::NoReplayKind;

const LENGTH: usize = 100_000;
const ASKED: &str = "GET /f HTTP/1.1\r\nRange: bytes=0-9,500-,-20\r\n\r\n";
const RANGES: [(usize, usize); 3] = [(0, 9), (500, LENGTH - 1), (LENGTH - 20, LENGTH - 1)];

/// How a server writes several ranges.
#[derive(Clone, Copy)]
enum Way {
    Long,
    Short,
}

fn several(way: Way, file: &[u8], ranges: &[(usize, usize)]) -> Vec<u8> {
    let (boundary, fields) = match way {
        Way::Long => ("00000000000000000042", "Content-Type: text/plain\r\nContent-Range: "),
        Way::Short => ("x", "content-range: "),
    };
    let mut body = Vec::new();
    for (first, last) in ranges {
        let total = file.len();
        let head = format!("\r\n--{boundary}\r\n{fields}bytes {first}-{last}/{total}\r\n\r\n");
        body.extend_from_slice(head.as_bytes());
        body.extend_from_slice(&file[*first..=*last]);
    }
    body.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
    let head = format!(
        "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\n\
         Content-Type: multipart/byteranges; boundary={boundary}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), &body].concat()
}

/// A download of several ranges, the answer in pieces of this size.
fn download(answer: &[u8], piece: usize) -> Bed {
    let mut bed = Bed::new();
    bed.app(ASKED.as_bytes());
    bed.service(answer, piece);
    bed
}

#[test]
fn several_ranges_pass_unchanged_and_the_exchange_after_them_is_followed() {
    let answer = several(Way::Long, &body(0, LENGTH), &RANGES);
    for piece in [1, 100, 1 << 20] {
        let mut bed = download(&answer, piece);
        assert!(bed.got == answer, "by {piece}");
        assert_eq!(bed.offers.len(), 1, "one ticket, before the head");
        bed.app(REQUEST.as_bytes());
        bed.service(HEAD.as_bytes(), 1_000);
        assert_eq!(bed.offers.len(), 2);
    }
}

#[test]
fn several_ranges_go_on_in_the_words_of_the_first_server() {
    let file = body(0, LENGTH);
    for (one, other) in [(Way::Long, Way::Short), (Way::Short, Way::Long)] {
        let (first, second) = (several(one, &file, &RANGES), several(other, &file, &RANGES));
        let bed = download(&first, 10_000);
        // Among the words before the last range, in it, and in those behind it.
        let near = first.len() - 300..first.len();
        for have in (400..first.len()).step_by(9_973).chain(near.step_by(7)) {
            for piece in [61, 1 << 20] {
                let after = go_on_with(&bed, have, &second, piece, false).expect("the same file");
                assert!(after.got == first, "from {have} by {piece}");
                assert!(after.ends.is_empty() && after.machine.has_stream());
            }
        }
    }
}

#[test]
fn several_ranges_go_on_at_the_same_service() {
    let answer = several(Way::Long, &body(0, LENGTH), &RANGES);
    let mut bed = Bed::new();
    bed.app(ASKED.as_bytes());
    bed.service(&answer[..50_000], 1_000);
    bed.closes();
    assert!(matches!(bed.actions.last(), Some(Action::Rejoin(_))), "{:?}", bed.actions);
}

#[test]
fn other_ranges_another_file_and_what_is_no_answer_of_several_ranges_are_refused() {
    let file = body(0, LENGTH);
    let bed = download(&several(Way::Long, &file, &RANGES), 10_000);
    let have = 50_000;
    let kind = |answer: &[u8]| {
        go_on_with(&bed, have, answer, 5_000, false).map(|bed| bed.got.len()).map_err(|no| no.kind)
    };
    assert_eq!(kind(&several(Way::Short, &file, &RANGES[..2])), Err(NoReplayKind::Mismatch));
    let mut other = file.clone();
    other[700] ^= 1;
    assert_eq!(kind(&several(Way::Short, &other, &RANGES)), Err(NoReplayKind::Seam));
    let shorter = &file[..LENGTH - 1];
    let ranges = [(0, 9), (500, LENGTH - 2), (LENGTH - 21, LENGTH - 2)];
    assert_eq!(kind(&several(Way::Short, shorter, &ranges)), Err(NoReplayKind::NotHere));
    let whole = format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n");
    assert_eq!(kind(&[whole.as_bytes(), &file].concat()), Err(NoReplayKind::Mismatch));
    assert_eq!(kind(b"HTTP/1.1 503 x\r\nContent-Length: 0\r\n\r\n"), Err(NoReplayKind::Busy));
    let asked = String::from_utf8(ask(&bed, have).expect("it can go on").request).expect("text");
    assert!(asked.contains("Range: bytes=0-9,500-99999,99980-99999\r\n"), "{asked}");
}

#[test]
fn a_server_whose_ranges_turn_out_to_be_others_ends_the_session() {
    let file = body(0, LENGTH);
    let first = several(Way::Long, &file, &RANGES);
    let mut second = several(Way::Short, &file, &RANGES);
    let bed = download(&first, 10_000);
    // In what stands before the last range.
    let wrong = second.len() - 60;
    second[wrong] ^= 1;
    let after = go_on_with(&bed, 50_000, &second, 5_000, false).expect("it begins alike");
    assert!(matches!(&after.ends[..], [How::Failed(_)]), "{:?}", after.ends);
    assert!(first.starts_with(&after.got) && after.got.len() < first.len());
}

#[test]
fn what_only_looks_like_several_ranges_passes_and_is_not_continued() {
    let head = "HTTP/1.1 206 x\r\nContent-Type: multipart/byteranges; boundary=x\r\n";
    for text in
        ["hello", "--x", "--x\r\nA: b\r\n\r\nabc", "\r\n--x\r\nContent-Range: bytes 0-0/9\r\n\r\na"]
    {
        let answer = format!("{head}Content-Length: {}\r\n\r\n{text}", text.len());
        for piece in [1, 1_000] {
            let bed = download(answer.as_bytes(), piece);
            assert_eq!(String::from_utf8_lossy(&bed.got), answer);
            let goes_on = |offer: &Offer| matches!(offer.exchange, Ok(Exchange::Response { .. }));
            assert!(!bed.offers.iter().any(goes_on), "{:?}", bed.offers);
        }
    }
}

/// One range in chunks, as a server sends it that does not know its length.
fn in_chunks(file: &[u8], (first, last): (usize, usize), size: usize) -> Vec<u8> {
    let total = file.len();
    let head = format!(
        "HTTP/1.1 206 x\r\nContent-Range: bytes {first}-{last}/{total}\r\n\
         Transfer-Encoding: chunked\r\n\r\n"
    );
    let mut bytes = head.into_bytes();
    for piece in file[first..=last].chunks(size) {
        bytes.extend(format!("{:x}\r\n", piece.len()).into_bytes());
        bytes.extend_from_slice(piece);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes.extend_from_slice(b"0\r\n\r\n");
    bytes
}

#[test]
fn one_range_in_chunks_goes_on_elsewhere() {
    let file = body(0, LENGTH);
    let range = (1_000, 89_999);
    let bed = download(&in_chunks(&file, range, 5_000), 3_000);
    for have in [2_000, 30_000, 70_000, 80_000] {
        for size in [700, 50_000] {
            let answer = in_chunks(&file, range, size);
            let after = go_on_with(&bed, have, &answer, 4_000, false).expect("the same range");
            assert!(after.got == bed.got, "from {have}");
        }
        let sized = format!(
            "HTTP/1.1 206 x\r\nContent-Range: bytes 1000-89999/{LENGTH}\r\n\
             Content-Length: 89000\r\n\r\n"
        );
        let sized = [sized.as_bytes(), &file[1_000..90_000]].concat();
        let after = go_on_with(&bed, have, &sized, 4_000, false).expect("the same range");
        assert!(after.got == bed.got, "from {have}");
        let whole = format!("HTTP/1.1 200 OK\r\nContent-Length: {LENGTH}\r\n\r\n");
        let whole = [whole.as_bytes(), &file].concat();
        for other in [in_chunks(&file, (1_000, 89_998), 5_000), whole] {
            let refused = go_on_with(&bed, have, &other, 4_000, false).expect_err("another range");
            assert_eq!(refused.kind, NoReplayKind::Mismatch);
        }
    }
}

#[test]
fn a_long_head_is_told_in_short_once_the_app_has_it() {
    let pad = "X-Policy: none of this is needed\r\n".repeat(100);
    let file = body(0, LENGTH);
    let head = format!("HTTP/1.1 200 OK\r\n{pad}ETag: \"a\"\r\nContent-Length: {LENGTH}\r\n\r\n");
    let answer = [head.as_bytes(), &file].concat();
    let mut bed = Bed::new();
    bed.app(REQUEST.as_bytes());
    bed.service(&answer, 10_000);
    let offer = bed.offers.first_mut().expect("a ticket");
    let short = offer.exchange.as_ref().ok().and_then(Exchange::shortened).expect("shorter");
    assert_eq!(short.shortened(), None, "it is short already");
    let Exchange::Response { response, .. } = &short else { panic!("{short:?}") };
    assert!(response.len() < 100);
    // Nothing of the head is there, part of it, or all of it.
    let plan = |have| Plan::make(&short, 0, have, None, Policy::Prefix);
    assert!(matches!(plan(0), Ok(Plan::Again { .. })));
    for have in [1, 100, head.len() as u64 - 1] {
        assert_eq!(plan(have).expect_err("cut").kind, NoReplayKind::Unsafe, "{have}");
    }
    offer.exchange = Ok(short);
    for have in [head.len() + 100, 50_000] {
        let other = format!("HTTP/1.1 200 OK\r\nX: y\r\nContent-Length: {LENGTH}\r\n\r\n");
        let other = [other.as_bytes(), &file].concat();
        let after = go_on_with(&bed, have, &other, 4_000, false).expect("the same file");
        assert!(after.got == answer, "from {have}");
    }
}
