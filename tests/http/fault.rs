//! Faults one by one: each kind of docs/what-cannot-go-on.md, and what goes on.

use std::process::Command;
use std::time::{Duration, Instant};

use stp_tests::daemon::programs;

use crate::bed::{Bed, code, content, until};
use crate::liar::{Answer, End, Liar};

const LONG: Duration = Duration::from_secs(90);
const MB: usize = 1_000_000;

/// Nothing more is asked after the app has its end.
fn quiet(liar: &Liar, path: &str) {
    let before = liar.requests(path);
    std::thread::sleep(Duration::from_secs(2));
    assert_eq!(liar.requests(path), before, "asked again after the end");
}

#[test]
fn a_body_that_is_always_too_short_is_asked_for_four_times_and_ends_short() {
    let bed = Bed::new(&[]);
    let file = content(1, 300_000);
    let body = file.clone();
    let liar = Liar::start(bed.ports[0], move |_, _| {
        Answer::sized(MB, "ETag: \"x\"\r\n", &body, End::Close)
    });
    assert_eq!(code(bed.curl("/f", "got", &[]), LONG), 18);
    assert_eq!(bed.got("got"), file);
    assert!(liar.requests("/f") <= 5, "{} requests", liar.requests("/f"));
    assert!(bed.said().contains("it gives no more, at byte"), "{}", bed.said());
    quiet(&liar, "/f");
}

#[test]
fn what_the_service_had_sent_arrives_though_it_then_answers_errors_and_the_status_says_which() {
    for (status, told) in [("503 Busy", "503"), ("410 Gone", "410"), ("401 Unauthorized", "401")] {
        let bed = Bed::new(&[]);
        let file = content(2, 4 * MB);
        let half = file[..2 * MB].to_vec();
        let liar = Liar::start(bed.ports[0], move |_, number| match number {
            0 => Answer::sized(4 * MB, "ETag: \"x\"\r\n", &half, End::Close),
            _ => Answer::status(status),
        });
        let ended = code(bed.curl("/f", "got", &["--limit-rate", "2M"]), LONG);
        assert_eq!((ended, bed.got("got").len()), (18, 2 * MB), "{status}");
        assert_eq!(bed.got("got"), file[..2 * MB]);
        assert!(liar.requests("/f") <= 5);
        assert!(bed.said().contains(told), "{}", bed.said());
    }
}

#[test]
fn one_busy_answer_is_only_a_pause() {
    let bed = Bed::new(&[]);
    let file = content(3, 4 * MB);
    let all = file.clone();
    Liar::start(bed.ports[0], move |_, number| match number {
        0 => Answer::sized(4 * MB, "", &all[..MB], End::Close),
        1 => Answer::status("503 Busy"),
        _ => Answer::sized(4 * MB, "", &all, End::Close),
    });
    assert_eq!(code(bed.curl("/f", "got", &[]), LONG), 0);
    assert_eq!(bed.got("got"), file);
}

#[test]
fn another_file_in_its_place_is_never_mixed_in() {
    let bed = Bed::new(&[]);
    let (old, mut new) = (content(4, 4 * MB), content(4, 4 * MB));
    new[10] ^= 1;
    new[4 * MB - 1] ^= 1;
    let (first, later) = (old.clone(), new);
    Liar::start(bed.ports[0], move |_, number| match number {
        0 => Answer::sized(4 * MB, "ETag: \"same\"\r\n", &first[..2 * MB], End::Close),
        _ => Answer::sized(4 * MB, "ETag: \"same\"\r\n", &later, End::Close),
    });
    assert_eq!(code(bed.curl("/f", "got", &[]), LONG), 18);
    assert_eq!(bed.got("got"), old[..2 * MB]);
    assert!(bed.said().contains("local copy differs"), "{}", bed.said());
}

#[test]
fn a_server_whose_service_gives_no_more_is_left_for_one_that_has_the_rest() {
    for status in ["404 Not Found", "503 Busy"] {
        let bed = Bed::new(&[]);
        let file = content(5, 4 * MB);
        let (half, whole) = (file[..2 * MB].to_vec(), file.clone());
        let a = Liar::start(bed.ports[0], move |_, number| match number {
            0 => Answer::sized(4 * MB, "ETag: \"a\"\r\n", &half, End::Close),
            _ => Answer::status(status),
        });
        let b = Liar::start(bed.ports[1], move |_, _| {
            Answer::sized(4 * MB, "ETag: \"b\"\r\n", &whole, End::Close)
        });
        assert_eq!(code(bed.curl("/f", "got", &[]), LONG), 0, "{status}: {}", bed.said());
        assert_eq!(bed.got("got"), file);
        assert!(a.requests("/f") <= 5 && b.requests("/f") <= 5);
    }
}

#[test]
fn a_slow_app_gets_the_rest_from_another_server_after_what_the_failed_service_had_given() {
    let bed = Bed::new(&[]);
    let file = content(8, 24 * MB);
    let (half, whole) = (file[..16 * MB].to_vec(), file.clone());
    let a = Liar::start(bed.ports[0], move |_, number| match number {
        0 => Answer::sized(24 * MB, "ETag: \"a\"\r\n", &half, End::Close),
        _ => Answer::status("410 Gone"),
    });
    let b = Liar::start(bed.ports[1], move |_, _| {
        Answer::sized(24 * MB, "ETag: \"b\"\r\n", &whole, End::Close)
    });
    // What a has given is on its way to the app for some 10 s after a's service has failed.
    let curl = bed.curl("/f", "got", &["--limit-rate", "1500k"]);
    assert_eq!(code(curl, LONG), 0, "{}", bed.said());
    assert!(bed.got("got") == file, "wrong bytes");
    assert!(a.requests("/f") <= 5 && b.requests("/f") <= 5);
}

/// A response of the first server goes on at the second when the first is killed.
fn goes_on_elsewhere(head: &'static str, seed: u64) {
    goes_on_framed(head, seed, <[u8]>::to_vec);
}

/// As that, with something about the body.
fn goes_on_framed(head: &'static str, seed: u64, frame: fn(&[u8]) -> Vec<u8>) {
    goes_on_with(head, seed, frame, &[]);
}

/// As that, and what else curl is told.
fn goes_on_with(head: &'static str, seed: u64, frame: fn(&[u8]) -> Vec<u8>, told: &[&str]) {
    let mut bed = Bed::new(&[]);
    let file = content(seed, 3 * MB);
    let answer = {
        let body = frame(&file);
        move |_: &str, _: usize| {
            let (head, body) = (head.to_owned(), body.clone());
            Answer { head, body, rate: 2 * MB, end: End::Close }
        }
    };
    let a = Liar::start(bed.ports[0], answer.clone());
    let b = Liar::start(bed.ports[1], answer);
    let curl = bed.curl("/f", "got", told);
    until("a third of the file", || (bed.got("got").len() > MB).then_some(()));
    bed.kill(usize::from(b.requests("/f") > 0));
    assert_eq!(code(curl, LONG), 0, "{}", bed.said());
    assert_eq!(bed.got("got"), file);
    assert_eq!((a.requests("/f"), b.requests("/f")), (1, 1));
}

#[test]
fn a_body_that_ends_with_its_stream_goes_on_elsewhere() {
    goes_on_elsewhere("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", 6);
}

/// A body in chunks of this size.
pub fn chunked(body: &[u8], size: usize) -> Vec<u8> {
    let chunk =
        |piece: &[u8]| [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat();
    let mut framed: Vec<u8> = body.chunks(size).flat_map(chunk).collect();
    framed.extend_from_slice(b"0\r\n\r\n");
    framed
}

#[test]
fn a_body_in_chunks_goes_on_elsewhere() {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    goes_on_framed(head, 12, |body| chunked(body, 50_000));
    goes_on_framed(head, 13, |body| chunked(body, 300));
}

/// Seeded bytes as they stand in cookies.
fn letters(seed: u64, length: usize) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    content(seed, length).iter().map(|byte| char::from(LETTERS[usize::from(byte % 64)])).collect()
}

#[test]
fn long_heads_that_cannot_be_compressed_are_no_obstacle() {
    let cookie = format!("Cookie: {}", letters(14, 9_000));
    let head =
        format!("HTTP/1.1 200 OK\r\nX: {}\r\nContent-Length: 3000000\r\n\r\n", letters(15, 60_000));
    goes_on_with(Box::leak(head.into_boxed_str()), 16, <[u8]>::to_vec, &["-H", &cookie]);
}

#[test]
fn one_range_in_chunks_goes_on_elsewhere() {
    let head = "HTTP/1.1 206 Partial Content\r\nContent-Range: bytes 100-3000099/4000000\r\n\
                Transfer-Encoding: chunked\r\n\r\n";
    goes_on_with(head, 17, |body| chunked(body, 20_000), &["-r", "100-3000099"]);
}

#[test]
fn a_log_in_that_another_server_does_not_know_ends_the_session_with_that_reason() {
    let mut bed = Bed::new(&[]);
    let file = content(18, 3 * MB);
    let log_in = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\
                  WWW-Authenticate: Digest realm=\"x\", nonce=\"1\", qop=\"auth\"\r\n\r\n";
    let wants = |number: usize| match number {
        0 => Answer { head: log_in.to_owned(), body: Vec::new(), rate: 0, end: End::Close },
        _ => Answer { rate: MB, ..Answer::sized(3 * MB, "", &file, End::Close) },
    };
    let (first, other) = (wants(0), wants(1));
    let a = Liar::start(bed.ports[0], move |_, number| match number {
        0 => first.clone(),
        _ => other.clone(),
    });
    let first = wants(0);
    Liar::start(bed.ports[1], move |_, _| first.clone());
    let curl = bed.curl("/f", "got", &["--digest", "-u", "alice:secret"]);
    until("a third of the file", || (bed.got("got").len() > MB).then_some(()));
    assert_eq!(a.requests("/f"), 2);
    bed.kill(0);
    let ended = code(curl, LONG);
    assert!(ended != 0, "{} bytes; {}", bed.got("got").len(), bed.said());
    assert!(file.starts_with(&bed.got("got")));
    assert!(bed.said().contains("answered 401 and wants another log-in"), "{}", bed.said());
}

#[test]
fn odd_heads_are_no_obstacle() {
    goes_on_elsewhere(
        "HTTP/1.1 200 OK\r\nSet-Cookie: a=b;\r\n path=/\r\nContent-Type : text/plain\r\n\
         Content-Length: 3000000\r\n\r\n",
        7,
    );
}

#[test]
fn a_long_head_is_no_obstacle() {
    let pad: String =
        (0..300).map(|n| format!("X-Policy-{n}: default-src 'self' {n}; \r\n")).collect();
    let head = format!("HTTP/1.1 200 OK\r\n{pad}Content-Length: 3000000\r\n\r\n");
    assert!(head.len() > 8_000);
    goes_on_elsewhere(Box::leak(head.into_boxed_str()), 8);
}

#[test]
fn what_cannot_go_on_elsewhere_says_so_while_it_runs_and_ends_when_its_server_is_gone() {
    let ranges = "HTTP/1.1 206 Partial Content\r\nContent-Length: 3000000\r\n\
                  Content-Type: multipart/byteranges; boundary=x\r\n\r\n";
    let plain = "HTTP/1.1 200 OK\r\nContent-Length: 3000000\r\n\r\n";
    for (kind, head, more) in [
        ("a response of several ranges", ranges, &["-r", "0-9,20-2999999"][..]),
        ("POST, which is never sent twice", plain, &["-X", "POST"][..]),
    ] {
        let mut bed = Bed::new(&[]);
        let answer = move |_: &str, _: usize| {
            let body = content(9, 3 * MB);
            Answer { head: head.to_owned(), body, rate: MB / 4, end: End::Close }
        };
        let a = Liar::start(bed.ports[0], answer);
        Liar::start(bed.ports[1], answer);
        let curl = bed.curl("/f", "got", more);
        until("some of it", || (bed.got("got").len() > MB / 10).then_some(()));
        until(kind, || {
            bed.said().contains(&format!("cannot go on elsewhere: {kind}")).then_some(())
        });
        let place = usize::from(a.requests("/f") == 0);
        bed.kill(place);
        let killed = Instant::now();
        let ended = code(curl, LONG);
        let took = killed.elapsed().as_secs();
        assert!(ended != 0 && (15..40).contains(&took), "{kind}: {ended} after {took} s");
    }
}

#[test]
fn a_clock_that_is_wrong_is_no_reason_to_end() {
    let library = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1";
    for off in ["-10m", "+30m"] {
        let env = [("LD_PRELOAD", library), ("DONT_FAKE_MONOTONIC", "1"), ("FAKETIME", off)];
        let mut bed = Bed::new(&env);
        let file = content(10, 3 * MB);
        let (one, two) = (file.clone(), file.clone());
        Liar::start(bed.ports[0], move |_, _| Answer {
            rate: MB / 4,
            ..Answer::sized(3 * MB, "", &one, End::Close)
        });
        let b = Liar::start(bed.ports[1], move |_, _| Answer {
            rate: MB / 4,
            ..Answer::sized(3 * MB, "", &two, End::Close)
        });
        let curl = bed.curl("/f", "got", &[]);
        until("half of the file", || (bed.got("got").len() > MB).then_some(()));
        let word = if off == "-10m" { "s behind" } else { "s ahead" };
        until("a warning", || {
            let said = bed.said();
            (said.contains("clock of b is") && said.contains(word)).then_some(())
        });
        bed.kill(usize::from(b.requests("/f") > 0));
        assert_eq!(code(curl, LONG), 0, "{off}: {}", bed.said());
        assert_eq!(bed.got("got"), file);
    }
}

/// Two servers with different cluster keys are named before a session has to move, at the broker
/// and at the server where none could go on; and when the file is copied, nothing is said any more.
#[test]
fn servers_with_different_cluster_keys_are_told_before_one_dies() {
    let bed = Bed::new(&[]);
    let bin = programs().expect("they are built").join("stp-server");
    let made = Command::new(bin).arg("--new-cluster-key").arg(bed.path("other")).output();
    assert!(made.expect("it runs").status.success());
    std::fs::rename(bed.path("other"), bed.path("b.cluster")).expect("ours");
    let (one, two) = (content(12, 60 * MB), content(12, 60 * MB));
    let slow = |file: Vec<u8>| {
        move |_: &str, _: usize| Answer {
            rate: 4 * MB,
            ..Answer::sized(60 * MB, "", &file, End::Close)
        }
    };
    Liar::start(bed.ports[0], slow(one));
    Liar::start(bed.ports[1], slow(two));
    let _curl = bed.curl("/f", "got", &[]);
    until("the broker says so", || {
        let said = bed.status()["trouble"].to_string();
        said.contains("b has another cluster key than a: ").then_some(())
    });
    let other = usize::from(bed.status()["sessions"][0]["server"] == "a");
    until("the other server says so", || {
        let said = bed.server_status(other)["trouble"].to_string();
        said.contains("which is not in cluster_key_file").then_some(())
    });
}

#[test]
fn an_app_that_leaves_ends_everything_upstream_within_a_second() {
    let bed = Bed::new(&[]);
    let file = content(11, 3 * MB);
    let liar = Liar::start(bed.ports[0], move |_, _| Answer {
        rate: MB / 2,
        ..Answer::sized(3 * MB, "", &file, End::Close)
    });
    let mut curl = bed.curl("/f", "got", &[]);
    until("some of it", || (bed.got("got").len() > MB / 10).then_some(()));
    curl.0.kill().expect("it runs");
    curl.0.wait().expect("it is ours");
    std::thread::sleep(Duration::from_secs(1));
    assert_eq!(liar.requests("/f"), 1);
    quiet(&liar, "/f");
}
