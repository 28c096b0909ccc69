use super::*;
use crate::chain::{self, MARK_EVERY};
use crate::seam::{BLOCK, SeamProof};

/// A replica's HTTP server.
#[derive(Clone)]
struct Replica {
    file: Vec<u8>,
    etag: Option<&'static str>,
    ranges: bool,
    status: Option<&'static str>,
}

impl Replica {
    fn new(length: usize) -> Self {
        Self { file: content(length), etag: Some("\"a\""), ranges: true, status: None }
    }

    /// Answers as RFC 9110 says.
    fn answer(&self, request: &[u8]) -> Vec<u8> {
        let text = std::str::from_utf8(request).unwrap();
        assert!(text.ends_with("\r\n\r\n") && text.matches("\r\n\r\n").count() == 1, "{text}");
        let field = |name: &str| {
            let mut lines = text.lines().filter_map(|line| line.split_once(": "));
            lines.find(|(found, _)| found.eq_ignore_ascii_case(name)).map(|(_, value)| value)
        };
        let etag = self.etag.map(|etag| format!("ETag: {etag}\r\n")).unwrap_or_default();
        let total = self.file.len();
        if let Some(status) = self.status {
            return format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n").into_bytes();
        }
        let condition = field("if-range").is_none_or(|tag| Some(tag) == self.etag);
        let range = field("range").filter(|_| self.ranges && condition);
        let Some(range) = range.and_then(|range| range.strip_prefix("bytes=")) else {
            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {total}\r\n{etag}\r\n");
            return [head.as_bytes(), &self.file].concat();
        };
        let (first, last) = range.split_once('-').unwrap();
        let first: usize = first.parse().unwrap();
        let last = last.parse().unwrap_or(total - 1).min(total - 1);
        if first > last {
            return b"HTTP/1.1 416 x\r\nContent-Length: 0\r\n\r\n".to_vec();
        }
        let head = format!(
            "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\n\
             Content-Range: bytes {first}-{last}/{total}\r\n{etag}\r\n",
            last - first + 1
        );
        [head.as_bytes(), &self.file[first..=last]].concat()
    }
}

const REQUEST: &str = "GET /f HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\n\r\n";

/// An exchange of which the app's side has a part.
struct Part {
    exchange: Exchange,
    whole: Vec<u8>,
    head: u64,
}

fn part(replica: &Replica, request: &str) -> Part {
    let mut run = Run::new();
    run.up(request.as_bytes());
    let whole = replica.answer(request.as_bytes());
    run.down(&whole);
    let (_, exchange) = run.tickets.remove(0);
    let Exchange::Response { response, .. } = &exchange else { panic!("a response is under way") };
    Part { head: response.len() as u64, exchange, whole }
}

impl Part {
    fn proof(&self, have: u64) -> Option<SeamProof> {
        (have > self.head).then(|| {
            let mut seam = crate::seam::Seam::new(self.head, BLOCK);
            let (from, to) = (usize::try_from(self.head).unwrap(), usize::try_from(have).unwrap());
            seam.update(self.head, &self.whole[from..to]);
            seam.proof()
        })
    }

    fn plan(&self, have: u64) -> Result<Plan, NoReplay> {
        Plan::make(&self.exchange, 0, have, self.proof(have), Policy::Prefix)
    }

    /// Goes on at `replica` from byte `have`; the rest, or why not.
    fn go_on(&self, replica: &Replica, have: u64, piece: usize) -> Result<Vec<u8>, NoReplay> {
        let ask = match self.plan(have)? {
            Plan::Ask(ask) => ask,
            Plan::Complete { head_rest, .. } => return Ok(head_rest),
            Plan::Again { request } => return Ok(replica.answer(&request)),
            Plan::Fresh | Plan::Closed => panic!("a response is under way"),
        };
        let answer = replica.answer(&ask.request);
        let Judged::Splice(length, mut splice) = ask.judge(&answer)? else {
            panic!("the head is whole")
        };
        let mut rest = ask.head_rest.clone();
        let mut pieces = answer[length..].chunks(piece);
        let mut step = splice.feed(&[])?;
        while step == SpliceStep::More {
            step = splice.feed(pieces.next().expect("all of the answer was fed"))?;
        }
        let mut joined = splice.into_joined();
        let mut body = std::mem::take(&mut joined.ahead);
        pieces.for_each(|piece| body.extend_from_slice(piece));
        body.truncate(usize::try_from(joined.left.unwrap()).unwrap());
        assert_eq!(body.len() as u64, joined.left.unwrap());
        rest.extend(body);
        if let Some(seam) = joined.seam {
            assert_eq!(Some(seam.proof()), self.proof(have), "the digest goes on");
        }
        Ok(rest)
    }

    fn kind(&self, replica: &Replica, have: u64) -> NoReplayKind {
        self.go_on(replica, have, 10_000).expect_err("this replica must be refused").kind
    }
}

const BODY: usize = 3 * 65_536 + 777;

fn positions(part: &Part) -> Vec<u64> {
    let block = u64::from(BLOCK);
    let marks = [0, 1, 500, block - 1, block, block + 1, 2 * block, 3 * block, 3 * block + 776];
    let mut positions: Vec<u64> = marks.iter().map(|mark| part.head + mark).collect();
    positions.extend([0, 1, part.head - 1, part.whole.len() as u64]);
    positions.retain(|position| *position <= part.whole.len() as u64);
    positions
}

#[test]
fn an_equal_replica_continues_at_every_position() {
    let replica = Replica::new(BODY);
    for ranges in [true, false] {
        let other = Replica { ranges, ..replica.clone() };
        let part = part(&replica, REQUEST);
        for have in positions(&part) {
            for piece in [1, 65_536, 1 << 20] {
                if piece == 1 && have > part.head + 1 {
                    continue;
                }
                let rest = part.go_on(&other, have, piece).unwrap();
                assert!(rest == part.whole[usize::try_from(have).unwrap()..], "at {have}");
            }
        }
    }
}

#[test]
fn behind_a_mark_of_the_file_only_the_rest_is_asked_for_and_compared() {
    let length = usize::try_from(MARK_EVERY).unwrap() + BODY;
    let replica = Replica::new(length);
    let mark = chain::Chain::default().update(&replica.file).1.expect("a whole one");
    let part = part(&replica, REQUEST);
    let have = part.head + MARK_EVERY + 70_000;
    let ask = |own: &Replica| {
        let Plan::Ask(ask) = part.plan(have).unwrap() else { panic!("a rest is missing") };
        assert_eq!(ask.front(), Some(have - part.head));
        let ask = ask.behind(1, mark);
        let text = String::from_utf8(ask.request.clone()).unwrap();
        assert!(text.contains(&format!("Range: bytes={MARK_EVERY}-{}\r\n", length - 1)), "{text}");
        let answer = own.answer(&ask.request);
        let Judged::Splice(head, mut splice) = ask.judge(&answer)? else { panic!("a whole head") };
        let SpliceStep::Joined = splice.feed(&answer[head..])? else { panic!("it joins") };
        let joined = splice.into_joined();
        let needed = answer.len() - head - joined.ahead.len();
        assert_eq!(joined.seam.map(|seam| seam.proof()), part.proof(have), "the digest goes on");
        assert_eq!(joined.left, Some((length - 70_000) as u64 - MARK_EVERY));
        Ok::<_, NoReplay>((needed, joined.ahead))
    };
    let rest = part.whole[usize::try_from(have).unwrap()..].to_vec();
    assert_eq!(ask(&replica).unwrap(), (70_000, rest.clone()));
    // Without ranges everything comes, and everything is compared.
    let whole = Replica { ranges: false, ..replica.clone() };
    assert_eq!(ask(&whole).unwrap(), (length - rest.len(), rest));
    let mut other = replica.clone();
    other.file[usize::try_from(MARK_EVERY).unwrap() + 60_000] ^= 1;
    assert_eq!(ask(&other).expect_err("it differs").kind, NoReplayKind::Seam);
    let mut longer = replica.clone();
    longer.file.push(0);
    assert_eq!(ask(&longer).expect_err("it is longer").kind, NoReplayKind::Seam);
}

/// A response that was followed up to `upto` of its body goes on at `have`: how many bytes of it
/// were compared behind that, and what follows.
fn follow(
    part: &Part,
    own: &Replica,
    upto: usize,
    have: u64,
) -> Result<(usize, Vec<u8>), NoReplay> {
    let ask = Ask::follow(&part.exchange, part.head + 100, Policy::Prefix).expect("it can be");
    let answer = own.answer(&ask.request);
    let Judged::Splice(head, mut followed) = ask.judge(&answer)? else { panic!("a whole head") };
    for piece in answer[head..head + upto].chunks(10_000) {
        assert_eq!(followed.feed(piece).unwrap(), SpliceStep::More, "nothing is asked yet");
    }
    assert_eq!(followed.followed(), Some(upto as u64));
    let Plan::Ask(asked) = part.plan(have).unwrap() else { panic!("a rest is missing") };
    assert_eq!(asked.request, ask.request);
    let Judged::Splice(_, splice) = asked.judge(&answer)? else { panic!("a whole head") };
    let fits = NoReplay::new(NoReplayKind::Unsafe, "they do not fit");
    let mut splice = splice.goes_on_from(*followed).ok_or(fits)?;
    let rest = &answer[head + upto..];
    let SpliceStep::Joined = splice.feed(rest)? else { panic!("it joins") };
    let joined = splice.into_joined();
    assert_eq!(joined.seam.map(|seam| seam.proof()), part.proof(have), "the digest goes on");
    assert_eq!(joined.left, Some(part.whole.len() as u64 - have));
    Ok((rest.len() - joined.ahead.len(), joined.ahead))
}

#[test]
fn a_response_that_was_followed_goes_on_if_all_of_it_is_the_same() {
    let replica = Replica::new(BODY);
    for request in [REQUEST, &REQUEST.replace("\r\n\r\n", "\r\nRange: bytes=9-\r\n\r\n")] {
        let part = part(&replica, request);
        for (upto, more) in [(0, 100), (100, 0), (70_000, 0), (70_000, 100_000), (131_072, 1)] {
            let have = part.head + (upto + more) as u64;
            let rest = part.whole[usize::try_from(have).unwrap()..].to_vec();
            assert_eq!(follow(&part, &replica, upto, have).unwrap(), (more, rest));
            for at in [9, upto.max(10) / 2, upto + more - 1].map(|at| at.max(9)) {
                let mut other = replica.clone();
                other.file[at] ^= 1;
                let within = at < upto + more + if request == REQUEST { 0 } else { 9 };
                let differs = follow(&part, &other, upto, have);
                assert_eq!(differs.is_err(), within, "{upto}+{more}: {at}");
            }
        }
        // It was read further than the app is.
        let why = follow(&part, &replica, 5_000, part.head + 4_999).expect_err("too far");
        assert_eq!(why.kind, NoReplayKind::Unsafe);
    }
    // Only what has a length is followed, and not what the app has whole.
    let part = part(&replica, REQUEST);
    let whole = part.whole.len() as u64;
    assert!(Ask::follow(&part.exchange, whole, Policy::Prefix).is_none());
    assert!(Ask::follow(&Exchange::Idle { close: false }, 0, Policy::Prefix).is_none());
}

#[test]
fn a_range_the_app_asked_for_is_continued_within_itself() {
    let replica = Replica::new(BODY);
    for (asked, etag) in
        [("1000-", Some("\"a\"")), ("1000-150000", Some("\"a\"")), ("1000-150000", None)]
    {
        for ranges in [true, false] {
            let first = Replica { etag, ..replica.clone() };
            let other = Replica { etag, ranges, ..replica.clone() };
            let request = REQUEST.replace("\r\n\r\n", &format!("\r\nRange: bytes={asked}\r\n\r\n"));
            let part = part(&first, &request);
            for have in positions(&part) {
                if have == 0 {
                    continue;
                }
                let rest = part.go_on(&other, have, 9_999).unwrap();
                assert!(rest == part.whole[usize::try_from(have).unwrap()..], "{asked} at {have}");
            }
        }
    }
}

#[test]
fn the_question_keeps_the_apps_words_and_changes_only_conditions() {
    let replica = Replica::new(BODY);
    let request = "GET /f HTTP/1.1\r\nhost: x\r\nRANGE: bytes=7-\r\nIf-None-Match: \"z\"\r\n\
                   Accept-Encoding: gzip\r\nIf-Range: \"a\"\r\n\r\n";
    let ranged = part(&replica, request);
    let Ok(Plan::Ask(ask)) = ranged.plan(ranged.head + 70_000) else { panic!("a question") };
    let expected = format!(
        "GET /f HTTP/1.1\r\nhost: x\r\nAccept-Encoding: gzip\r\nRange: bytes=7-{}\r\n\r\n",
        BODY - 1
    );
    assert_eq!(String::from_utf8(ask.request.clone()).unwrap(), expected);
    let whole = part(&replica, REQUEST);
    let Ok(Plan::Ask(ask)) = whole.plan(whole.head + 140_000) else { panic!("a question") };
    assert_eq!(String::from_utf8(ask.request).unwrap(), REQUEST);
}

#[test]
fn a_byte_that_differs_anywhere_before_the_seam_is_refused() {
    let replica = Replica::new(BODY);
    let part = part(&replica, REQUEST);
    let have = part.head + 2 * 65_536 + 100;
    for at in [0, 10, 65_535, 65_536, 2 * 65_536 - 1, 2 * 65_536, 2 * 65_536 + 99] {
        let mut other = replica.clone();
        other.file[at] ^= 1;
        assert_eq!(part.kind(&other, have), NoReplayKind::Seam, "byte {at}");
    }
}

#[test]
fn another_validator_makes_no_difference_unless_the_operator_wants_it() {
    let replica = Replica::new(BODY);
    let part = part(&replica, REQUEST);
    let have = part.head + 2 * 65_536 + 100;
    for etag in [Some("\"b\""), Some("W/\"a\""), None] {
        let mut other = Replica { etag, ..replica.clone() };
        let rest = part.go_on(&other, have, 5_000).unwrap();
        assert!(rest == part.whole[usize::try_from(have).unwrap()..]);
        other.file[3] ^= 1;
        assert_eq!(part.kind(&other, have), NoReplayKind::Seam, "{etag:?}");
        let strict = Policy::Validators;
        let plan = Plan::make(&part.exchange, 0, have, part.proof(have), strict);
        let Ok(Plan::Ask(ask)) = plan else { panic!("a question") };
        let answer = other.answer(&ask.request);
        assert_eq!(ask.judge(&answer).expect_err("strict").kind, NoReplayKind::Seam);
    }
}

#[test]
fn a_head_that_went_out_binds_the_body_to_its_validator() {
    let replica = Replica::new(BODY);
    let part = part(&replica, REQUEST);
    let other = Replica { etag: Some("\"b\""), ..replica };
    assert_eq!(part.kind(&other, part.head), NoReplayKind::Seam);
    assert_eq!(part.kind(&other, 1), NoReplayKind::Seam);
    assert_eq!(part.kind(&other, part.head + 63), NoReplayKind::Seam, "too little to compare");
    assert!(part.go_on(&other, part.head + 64, 1000).is_ok());
    assert!(part.go_on(&other, 0, 1000).is_ok(), "nothing has gone out");
}

#[test]
fn an_app_that_named_a_version_gets_no_other() {
    let replica = Replica::new(BODY);
    let other = Replica { etag: Some("\"b\""), ..replica.clone() };
    for (condition, refused) in [("", false), ("If-Range: \"a\"\r\n", true)] {
        let fields = format!("\r\nRange: bytes=1000-\r\n{condition}\r\n");
        let part = part(&replica, &REQUEST.replace("\r\n\r\n", &fields));
        let have = part.head + 70_000;
        assert!(part.go_on(&replica, have, 5_000).is_ok());
        assert_eq!(part.go_on(&other, have, 5_000).is_err(), refused, "{condition}");
    }
}

#[test]
fn weak_validators_and_none_go_on_if_the_prefix_is_equal() {
    for (had, has) in [("W/\"a\"", Some("W/\"b\"")), ("W/\"a\"", None), ("\"a\"", None)] {
        let replica = Replica { etag: Some(had), ..Replica::new(BODY) };
        let part = part(&replica, REQUEST);
        let have = part.head + 70_000;
        let mut other = Replica { etag: has, ..replica };
        assert!(part.go_on(&other, have, 5_000).is_ok());
        other.file[69_999] ^= 1;
        assert_eq!(part.kind(&other, have), NoReplayKind::Seam);
    }
}

#[test]
fn another_length_is_refused() {
    let replica = Replica::new(BODY);
    let part = part(&replica, REQUEST);
    for have in [part.head, part.head + 200_000 - 70_000] {
        for etag in [Some("\"a\""), Some("\"b\""), None] {
            for length in [BODY - 1, BODY + 1, BODY / 2, 10] {
                let mut other = Replica { etag, ..replica.clone() };
                other.file.resize(length, 0);
                // A shorter one may be complete in a while.
                let shorter = length < BODY;
                let kind = if shorter { NoReplayKind::NotHere } else { NoReplayKind::Seam };
                assert_eq!(part.kind(&other, have), kind, "{length} {etag:?} at {have}");
            }
        }
    }
}

#[test]
fn errors_and_other_answers_are_refused() {
    let replica = Replica::new(BODY);
    let part = part(&replica, REQUEST);
    let have = part.head + 100_000;
    for (status, kind) in [
        ("404 Not Found", NoReplayKind::NotHere),
        ("403 Forbidden", NoReplayKind::NotHere),
        ("503 Busy", NoReplayKind::Busy),
        ("416 Range", NoReplayKind::Mismatch),
        ("301 Moved", NoReplayKind::Elsewhere),
        ("511 Network Authentication Required", NoReplayKind::Elsewhere),
        ("204 Nothing", NoReplayKind::Mismatch),
        ("101 Other", NoReplayKind::Mismatch),
    ] {
        let other = Replica { status: Some(status), ..replica.clone() };
        assert_eq!(part.kind(&other, have), kind, "{status}");
    }
    let Ok(Plan::Ask(ask)) = part.plan(have) else { panic!("a question") };
    let total = BODY;
    let last = BODY - 1;
    for head in [
        // Another range, another total, chunks, several ranges, coded, no validator.
        format!(
            "206 x\r\nContent-Length: {last}\r\n\
             Content-Range: bytes 1-{last}/{total}\r\nETag: \"a\""
        ),
        format!(
            "206 x\r\nContent-Length: {total}\r\nContent-Range: bytes 0-{last}/*\r\nETag: \"a\""
        ),
        "200 x\r\nTransfer-Encoding: chunked\r\nETag: \"a\"".to_owned(),
        "206 x\r\nContent-Type: multipart/byteranges\r\nContent-Length: 9\r\nETag: \"a\""
            .to_owned(),
        format!("200 x\r\nContent-Encoding: gzip\r\nContent-Length: {total}\r\nETag: \"a\""),
        "200 x\r\nETag: \"a\"".to_owned(),
    ] {
        let head = format!("HTTP/1.1 {head}\r\n\r\n");
        assert!(ask.judge(head.as_bytes()).is_err(), "{head}");
    }
    assert!(ask.judge(b"SSH-2.0\r\n").is_err());
    assert!(matches!(ask.judge(b"HTTP/1.1 20"), Ok(Judged::Partial)));
    let hints = b"HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200";
    assert!(matches!(ask.judge(hints), Ok(Judged::Interim(28))));
}

#[test]
fn positions_and_proofs_that_do_not_fit_are_refused() {
    let replica = Replica::new(BODY);
    let part = part(&replica, REQUEST);
    let have = part.head + 100_000;
    let make = |have, proof| {
        Plan::make(&part.exchange, 0, have, proof, Policy::default()).expect_err("no plan").kind
    };
    assert_eq!(make(have, None), NoReplayKind::Seam);
    assert_eq!(make(have, part.proof(have - 1)), NoReplayKind::Mismatch);
    let other_block = SeamProof { block: 1, ..part.proof(have).unwrap() };
    assert_eq!(make(have, Some(other_block)), NoReplayKind::Mismatch);
    let no_block = SeamProof { block: 0, ..part.proof(have).unwrap() };
    assert_eq!(make(have, Some(no_block)), NoReplayKind::Mismatch);
    assert_eq!(make(part.whole.len() as u64 + 1, None), NoReplayKind::Mismatch);
}

#[test]
fn between_exchanges_only_the_exact_position_goes_on() {
    let plan =
        |close, at, have| Plan::make(&Exchange::Idle { close }, at, have, None, Policy::default());
    assert!(matches!(plan(false, 7, 7), Ok(Plan::Fresh)));
    assert!(matches!(plan(true, 7, 7), Ok(Plan::Closed)));
    assert_eq!(plan(false, 7, 8).expect_err("bytes were seen").kind, NoReplayKind::Unsafe);
}

#[test]
fn a_ticket_of_something_else_is_refused() {
    for (request, response) in [
        ("POST / HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"),
        ("GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"),
        ("GET / HTTP/1.1\r\n\r\n", "HTTP/1.1 206 x\r\nContent-Length: 9\r\n\r\n"),
        ("GET / HTTP/1.1\r\n\r\nGET", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"),
        ("GET / HTTP/1.1\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n"),
    ] {
        let exchange = Exchange::Response {
            request: request.into(),
            response: response.into(),
            head_at: 0,
            shortened: false,
            chunks: None,
        };
        let refused = Plan::make(&exchange, 0, 5, None, Policy::default());
        assert_eq!(refused.expect_err("not an exchange").kind, NoReplayKind::Mismatch, "{request}");
    }
}

#[test]
fn an_observer_goes_on_inside_a_response() {
    let replica = Replica::new(BODY);
    let part = part(&replica, REQUEST);
    let Exchange::Response { request, response, head_at, .. } = &part.exchange else {
        panic!("a response is under way")
    };
    let exchange = (request.as_slice(), response.as_slice(), *head_at, false);
    let up = REQUEST.len() as u64;
    let mut observer = Observer::inside(up, part.head, exchange, None).unwrap();
    assert_eq!(observer.exchange(), Some(part.exchange.clone()));
    let (first, last) = part.whole[usize::try_from(part.head).unwrap()..].split_at(100_000);
    assert_eq!(observer.down(first), (first.len(), Down::More));
    assert_eq!(observer.proof(), part.proof(part.head + 100_000));
    assert_eq!((observer.covers(), observer.seam_from()), (up, part.head));
    assert_eq!(observer.down(last), (last.len(), Down::More));
    assert!(observer.take_ended() && observer.idle());
    assert!(Observer::inside(up, part.head - 1, exchange, None).is_none());
    assert!(Observer::inside(up, part.whole.len() as u64 + 1, exchange, None).is_none());
}

/// In TLS the first record is compared when the stream is made again.
#[test]
fn what_is_compared_later_counts_as_compared() {
    let replica = Replica::new(BODY);
    let part = part(&replica, REQUEST);
    let other = Replica { etag: Some("\"b\""), ..replica };
    let answer = other.answer(REQUEST.as_bytes());
    for (later, goes_on) in [(0, false), (63, false), (64, true), (16_000, true)] {
        let Plan::Ask(mut ask) = part.plan(part.head).unwrap() else { panic!("there is more") };
        ask.compared_later(later);
        assert_eq!(ask.judge(&answer).is_ok(), goes_on, "{later}");
    }
    let conditional = REQUEST.replace("\r\n\r\n", "\r\nRange: bytes=5-\r\nIf-Range: \"a\"\r\n\r\n");
    let bound = self::part(&Replica::new(BODY), &conditional);
    let Plan::Ask(mut ask) = bound.plan(bound.head).unwrap() else { panic!("there is more") };
    ask.compared_later(16_000);
    assert!(ask.judge(&other.answer(&ask.request)).is_err(), "the app has named a version");
}
