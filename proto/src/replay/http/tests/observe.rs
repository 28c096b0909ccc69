use super::*;

/// As recorded from nginx 1.26 (request, response).
const GET: (&str, &str) = (
    "GET /a HTTP/1.1\r\nHost: localhost\r\nUser-Agent: curl/8.5.0\r\nAccept: */*\r\n\r\n",
    "HTTP/1.1 200 OK\r\nServer: nginx/1.26.3\r\nDate: Fri, 20 Nov 2026 10:00:00 GMT\r\n\
     Content-Type: application/octet-stream\r\nContent-Length: 12\r\n\
     Last-Modified: Fri, 20 Nov 2026 09:00:00 GMT\r\nConnection: keep-alive\r\n\
     ETag: \"691ed0b0-c\"\r\nAccept-Ranges: bytes\r\n\r\nhello world\n",
);
const HEAD: (&str, &str) = (
    "HEAD /a HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "HTTP/1.1 200 OK\r\nServer: nginx/1.26.3\r\nContent-Length: 12\r\nETag: \"691ed0b0-c\"\r\n\r\n",
);
const RANGE: (&str, &str) = (
    "GET /a HTTP/1.1\r\nHost: localhost\r\nRange: bytes=6-\r\n\r\n",
    "HTTP/1.1 206 Partial Content\r\nContent-Length: 6\r\nETag: \"691ed0b0-c\"\r\n\
     Content-Range: bytes 6-11/12\r\n\r\nworld\n",
);
const FRESH: (&str, &str) = (
    "GET /a HTTP/1.1\r\nHost: localhost\r\nIf-None-Match: \"691ed0b0-c\"\r\n\r\n",
    "HTTP/1.1 304 Not Modified\r\nETag: \"691ed0b0-c\"\r\n\r\n",
);
const CHUNKED: (&str, &str) = (
    "GET /list HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: keep-alive\r\n\r\n\
     5\r\nhello\r\n8;x=y\r\n\r\n world\r\n0\r\nTrailer: 1\r\n\r\n",
);
const POST: (&str, &str) = (
    "POST /form HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n\
     a=b&c",
    "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\nok",
);
const UPLOAD: (&str, &str) = (
    "PUT /f HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n",
    "HTTP/1.1 204 No Content\r\n\r\n",
);
const HINTS: (&str, &str) = (
    "GET /a HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "HTTP/1.1 103 Early Hints\r\nLink: </s.css>\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: \
        1\r\n\r\nx",
);
const LAST: (&str, &str) = (
    "GET /a HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n",
    "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nby",
);

const ALL: [(&str, &str); 8] = [GET, HEAD, RANGE, FRESH, CHUNKED, POST, UPLOAD, HINTS];

fn run(exchange: (&str, &str), up_cut: usize, down_cut: usize) -> Run {
    let mut run = Run::new();
    let (up, down) = (exchange.0.as_bytes(), exchange.1.as_bytes());
    assert!(run.up(&up[..up_cut]).is_empty());
    assert!(run.up(&up[up_cut..]).is_empty());
    run.down(&down[..down_cut]);
    run.down(&down[down_cut..]);
    assert_eq!((run.up.as_slice(), run.down.as_slice()), (up, down), "nothing is rewritten");
    run
}

#[test]
fn cutting_an_exchange_anywhere_changes_nothing() {
    for exchange in ALL.into_iter().chain([LAST]) {
        let whole = run(exchange, exchange.0.len(), exchange.1.len());
        assert_eq!(whole.ended, 1, "{exchange:?}");
        for cut in 0..=exchange.0.len() {
            let cut = run(exchange, cut, exchange.1.len());
            assert_eq!((cut.ended, &cut.tickets), (1, &whole.tickets));
        }
        for cut in 0..=exchange.1.len() {
            let cut = run(exchange, exchange.0.len(), cut);
            assert_eq!((cut.ended, &cut.tickets), (1, &whole.tickets));
            assert!(cut.observer.closing() == (exchange == LAST));
        }
    }
}

#[test]
fn one_byte_at_a_time_is_as_good() {
    for exchange in ALL {
        let mut run = Run::new();
        for byte in exchange.0.as_bytes() {
            assert!(run.up(std::slice::from_ref(byte)).is_empty());
        }
        for byte in exchange.1.as_bytes() {
            run.down(std::slice::from_ref(byte));
        }
        assert_eq!((run.ended, run.observer.idle()), (1, true), "{exchange:?}");
    }
}

#[test]
fn only_what_can_be_continued_gets_a_ticket() {
    for (exchange, tickets) in
        [(GET, 1), (HEAD, 1), (RANGE, 1), (FRESH, 1), (CHUNKED, 1), (POST, 0), (UPLOAD, 0)]
    {
        let run = run(exchange, 0, 0);
        assert_eq!(run.tickets.len(), tickets, "{exchange:?}");
        if let Some((covers, Exchange::Response { request, response, head_at, .. })) =
            run.tickets.first()
        {
            assert_eq!(*covers, exchange.0.len() as u64);
            assert_eq!((request.as_slice(), *head_at), (exchange.0.as_bytes(), 0));
            assert!(exchange.1.as_bytes().starts_with(response));
        }
    }
}

#[test]
fn pipelined_requests_wait_for_their_turn() {
    let requests: String = ALL.iter().map(|(request, _)| *request).collect();
    let mut run = Run::new();
    let mut waiting = requests.as_bytes();
    for (index, (request, response)) in ALL.iter().enumerate() {
        waiting = run.up(waiting);
        let passed: usize = ALL[..=index].iter().map(|(request, _)| request.len()).sum();
        assert_eq!(run.up.len(), passed, "{request:?}");
        assert_eq!(run.observer.positions().0, passed as u64);
        run.down(response.as_bytes());
        assert_eq!(run.ended, index + 1);
    }
    assert!(waiting.is_empty() && run.observer.idle());
    assert_eq!(run.up, requests.as_bytes());
}

#[test]
fn an_unanswered_request_is_covered_by_no_ticket_unless_it_is_unsafe() {
    let mut run = Run::new();
    run.up(GET.0.as_bytes());
    assert_eq!(run.observer.covers(), 0);
    assert_eq!(run.observer.exchange(), Some(Exchange::Idle { close: false }));
    run.down(GET.1.as_bytes());
    assert_eq!(run.observer.covers(), GET.0.len() as u64);
    run.up(&POST.0.as_bytes()[..POST.0.len() - 2]);
    assert!(run.observer.unsafe_request());
    assert_eq!(run.observer.covers(), (GET.0.len() + POST.0.len() - 2) as u64);
    assert_eq!(run.observer.exchange(), None);
}

#[test]
fn what_is_not_http_passes_untouched() {
    for bytes in
        [&b"\x16\x03\x01\x02\x00\x01"[..], b"SSH-2.0-OpenSSH_9.9\r\n", b"PRI * HTTP/2.0\r\n\r\n"]
    {
        let mut run = Run::new();
        assert!(run.up(bytes).is_empty());
        assert!(run.observer.opaque().is_some(), "{bytes:?}");
        run.down(b"whatever\r\n");
        assert_eq!((run.up.as_slice(), run.down.as_slice()), (bytes, &b"whatever\r\n"[..]));
        assert_eq!(run.observer.exchange(), None);
    }
}

#[test]
fn after_an_upgrade_the_stream_is_opaque() {
    let mut run = Run::new();
    run.up(b"GET / HTTP/1.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n");
    let down = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n\x81\x02hi";
    run.down(down);
    assert!(run.observer.opaque().is_some());
    assert!(run.up(b"\x81\x82").is_empty());
    assert_eq!(run.down, down);
    let mut run = Run::new();
    run.up(b"CONNECT a:1 HTTP/1.1\r\n\r\n");
    run.down(b"HTTP/1.1 200 Fine\r\n\r\nabc");
    assert!(run.observer.opaque().is_some());
    assert!(run.up(b"xyz").is_empty());
}

#[test]
fn a_server_that_speaks_unasked_ends_the_following() {
    let mut run = Run::new();
    run.up(GET.0.as_bytes());
    run.down(GET.1.as_bytes());
    run.down(b"HTTP/1.1 408 Request Timeout\r\n\r\n");
    assert!(run.observer.opaque().is_some());
    assert!(run.down.ends_with(b"Timeout\r\n\r\n"));
}

#[test]
fn heads_beyond_the_bounds_are_not_followed() {
    let long = format!("GET / HTTP/1.1\r\nCookie: {}\r\n\r\n", "x".repeat(HEAD_MAX - 40));
    let mut run = Run::new();
    run.up(long.as_bytes());
    assert_eq!(run.observer.opaque(), None);
    run.down(GET.1.as_bytes());
    assert_eq!((run.tickets.len(), run.ended), (1, 1));
    // In a ticket it is compressed.
    let text = serde_json::to_string(&run.tickets[0].1).unwrap();
    assert!(text.len() < 2_000, "{} bytes", text.len());
    assert_eq!(serde_json::from_str::<Exchange>(&text).unwrap(), run.tickets[0].1);
    let longer = format!("GET / HTTP/1.1\r\nCookie: {}\r\n\r\n", "x".repeat(HEAD_MAX));
    for piece in [1_000, longer.len()] {
        let mut run = Run::new();
        for piece in longer.as_bytes().chunks(piece) {
            assert!(run.up(piece).is_empty());
        }
        assert!(run.observer.opaque().is_some(), "in pieces of {piece}");
        assert_eq!(run.up, longer.as_bytes());
    }
}

#[test]
fn the_end_of_the_stream_means_what_it_means() {
    let mut run = Run::new();
    assert_eq!(run.observer.ending(), Ending::Fair);
    run.up(GET.0.as_bytes());
    assert_eq!(run.observer.ending(), Ending::Unanswered);
    run.down(&GET.1.as_bytes()[..30]);
    assert_eq!(run.observer.ending(), Ending::Lost);
    run.down(&GET.1.as_bytes()[30..GET.1.len() - 2]);
    assert_eq!(run.observer.ending(), Ending::Cut);
    run.down(&GET.1.as_bytes()[GET.1.len() - 2..]);
    assert_eq!(run.observer.ending(), Ending::Fair);
    run.up(CHUNKED.0.as_bytes());
    run.down(&CHUNKED.1.as_bytes()[..CHUNKED.1.len() - 9]);
    assert_eq!(run.observer.ending(), Ending::Cut);
    let mut run = Run::new();
    run.up(GET.0.as_bytes());
    run.down(b"HTTP/1.1 200 OK\r\n\r\nuntil the end");
    assert_eq!(run.observer.ending(), Ending::Fair);
    let mut run = Run::new();
    run.up(POST.0.as_bytes());
    assert_eq!(run.observer.ending(), Ending::Lost);
}

#[test]
fn generated_exchanges_end_where_their_maker_ended_them() {
    let mut seed = 7_u64;
    let mut next = |below: u64| {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) % below
    };
    for _ in 0..300 {
        let (mut ups, mut downs) = (Vec::new(), Vec::new());
        let count = 1 + next(6);
        let mut run = Run::new();
        for _ in 0..count {
            let (mut up, mut down) = (Vec::new(), Vec::new());
            let body = content(usize::try_from(next(3000)).unwrap());
            let method =
                ["GET", "HEAD", "POST", "PUT", "DELETE"][usize::try_from(next(5)).unwrap()];
            up.extend(format!("{method} /{} HTTP/1.1\r\nHost: x\r\n", next(99)).into_bytes());
            match (method, next(2)) {
                ("POST" | "PUT", 0) => {
                    up.extend(format!("Content-Length: {}\r\n\r\n", body.len()).into_bytes());
                    up.extend(&body);
                }
                ("POST" | "PUT", _) => {
                    up.extend(b"Transfer-Encoding: chunked\r\n\r\n");
                    chunks(&body, &mut up, &mut next);
                }
                _ => up.extend(b"\r\n"),
            }
            down.extend(b"HTTP/1.1 200 OK\r\n");
            match next(2) {
                0 => {
                    down.extend(format!("Content-Length: {}\r\n\r\n", body.len()).into_bytes());
                    down.extend(if method == "HEAD" { &[][..] } else { &body });
                }
                _ => {
                    down.extend(b"Transfer-Encoding: chunked\r\n\r\n");
                    if method != "HEAD" {
                        chunks(&body, &mut down, &mut next);
                    }
                }
            }
            ups.push(up);
            downs.push(down);
        }
        let all: Vec<u8> = ups.concat();
        let (mut waiting, mut passed) = (all.as_slice(), 0);
        for (index, (up, down)) in ups.iter().zip(&downs).enumerate() {
            passed += up.len();
            while run.up.len() < passed {
                let piece = usize::try_from(1 + next(700)).unwrap().min(waiting.len());
                let left = run.up(&waiting[..piece]).len();
                waiting = &waiting[piece - left..];
            }
            assert_eq!(run.up.len(), passed);
            for piece in down.chunks(usize::try_from(1 + next(700)).unwrap()) {
                assert_eq!(run.ended, index, "not before its last byte");
                run.down(piece);
            }
            assert_eq!((run.ended, run.observer.opaque()), (index + 1, None));
        }
        assert_eq!((run.up, run.down), (all, downs.concat()));
    }
}

fn chunks(body: &[u8], out: &mut Vec<u8>, next: &mut impl FnMut(u64) -> u64) {
    for chunk in body.chunks(usize::try_from(1 + next(999)).unwrap()) {
        out.extend(format!("{:x}\r\n", chunk.len()).into_bytes());
        out.extend(chunk);
        out.extend(b"\r\n");
    }
    out.extend(b"0\r\n\r\n");
}
