//! The observer of HTTP/1 exchanges. It must see the same whatever the pieces in which its bytes
//! come, and agree with hyper on where every message ends.

use stp_proto::replay::http::{Down, Flow, HEAD_MAX, Observer, Up};

use super::hyper_says::{self, HyperSays};
use super::{Draw, bounded};

/// The bytes that divide an input into the app's part and the server's part.
const DIVIDER: u8 = 0xff;

pub fn run(data: &[u8]) {
    let (seed, rest) = data.split_first().unwrap_or((&0, &[]));
    let mut sides = rest.splitn(2, |byte| *byte == DIVIDER);
    let up = sides.next().unwrap_or_default();
    let down = sides.next().unwrap_or_default();
    let whole = watch(up, down, &mut |_| usize::MAX);
    let mut random = fastrand::Rng::with_seed(u64::from(*seed));
    let pieces = watch(up, down, &mut |_| random.usize(1..40));
    assert_eq!(whole.ends, pieces.ends, "in one piece, and in small ones");
    // A bad head may be known as such before it is whole, or only then.
    assert!(whole.opaque == pieces.opaque || whole.in_head || pieces.in_head);
    whole.agrees_with_hyper(up, down);
    generated(&mut Draw::new(data));
}

/// Where messages ended, as the observer saw it.
#[derive(Default)]
struct Watched {
    /// Ends of request and response of each exchange that came to its end.
    ends: Vec<(u64, u64)>,
    opaque: bool,
    /// It waits for the rest of a head.
    in_head: bool,
}

/// Lets an observer see an exchange of bytes in pieces of the given sizes.
fn watch(mut up: &[u8], mut down: &[u8], piece: &mut dyn FnMut(usize) -> usize) -> Watched {
    let mut observer = Observer::new(0, 0);
    let mut watched = Watched::default();
    // Twice a head and the piece it ends in; bodies are not kept.
    let memory = 8 * HEAD_MAX + 4 * (up.len() + down.len());
    bounded(memory, || {
        let mut moved = true;
        while moved && !watched.opaque {
            moved = false;
            while !up.is_empty() && observer.up_flow() != Flow::Wait && !observer.closing() {
                let taken = push_up(&mut observer, &up[..up.len().min(piece(up.len()))]);
                up = &up[taken..];
                moved = true;
                watched.note(&mut observer);
            }
            while !down.is_empty() && !observer.idle() {
                let taken = push_down(&mut observer, &down[..down.len().min(piece(down.len()))]);
                down = &down[taken..];
                moved = true;
                watched.note(&mut observer);
            }
        }
    });
    let waits = [observer.up_flow(), observer.down_flow()].contains(&Flow::Head);
    watched.in_head = waits && !watched.opaque;
    watched
}

impl Watched {
    fn note(&mut self, observer: &mut Observer) {
        if observer.take_ended() {
            self.ends.push(observer.positions());
        }
        self.opaque |= observer.opaque().is_some();
        let _ = (observer.ending(), observer.seam_from(), observer.proof());
        assert!(observer.covers() <= observer.positions().0);
        if let Some(exchange) = observer.exchange() {
            assert!(!self.opaque, "{exchange:?}");
        }
    }

    fn agrees_with_hyper(&self, up: &[u8], down: &[u8]) {
        let mut from = (0, 0);
        for &(up_end, down_end) in &self.ends {
            let part = |bytes: &'_ [u8], from: u64, end: u64| {
                bytes[usize::try_from(from).expect("in it")..usize::try_from(end).expect("in it")]
                    .to_vec()
            };
            let (request, response) = (part(up, from.0, up_end), part(down, from.1, down_end));
            from = (up_end, down_end);
            agree("request", &request, hyper_says::request);
            let method = request.trim_ascii_start().split(|byte| *byte == b' ').next();
            let method = String::from_utf8_lossy(method.unwrap_or_default()).into_owned();
            agree("response", &response, |bytes| hyper_says::response(&method, bytes));
        }
    }
}

/// All of the bytes are one message, and without the last one they are not.
fn agree(what: &str, bytes: &[u8], says: impl Fn(&[u8]) -> HyperSays) {
    let verdict = says(bytes);
    assert!(verdict != HyperSays::Part, "part of a {what} to hyper: {}", bytes.escape_ascii());
    if verdict == HyperSays::Whole {
        let less = says(&bytes[..bytes.len() - 1]);
        assert!(less != HyperSays::Whole, "more than a {what} to hyper: {}", bytes.escape_ascii());
    }
}

fn push_up(observer: &mut Observer, bytes: &[u8]) -> usize {
    let flow = observer.up_flow();
    let (taken, event) = observer.up(bytes);
    if let (Flow::Body(least), Up::More) = (flow, event) {
        assert!(taken as u64 >= least.min(bytes.len() as u64), "{flow:?} is a promise");
    }
    match event {
        Up::Opaque => drop(observer.take_held_up()),
        Up::Head { begin, .. } => {
            assert_eq!(begin + observer.request_head().len() as u64, observer.positions().0);
        }
        Up::More => {}
    }
    assert!(taken > 0 || event == Up::Opaque, "no progress");
    taken
}

fn push_down(observer: &mut Observer, bytes: &[u8]) -> usize {
    let flow = observer.down_flow();
    let (taken, event) = observer.down(bytes);
    // No end is known: not even the next request's answer can come before this body's.
    if let (Flow::Body(least), Down::More) = (flow, event)
        && least < u64::MAX
    {
        assert!(taken as u64 >= least.min(bytes.len() as u64), "{flow:?} is a promise");
    }
    match event {
        Down::Head => drop(observer.release_head()),
        Down::Interim | Down::Opaque => drop(observer.take_held_down()),
        Down::More => {}
    }
    assert!(taken > 0 || event == Down::Opaque, "no progress");
    taken
}

/// Good exchanges, whose messages end where they were made to end.
fn generated(draw: &mut Draw<'_>) {
    let (mut up, mut down, mut ends) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..=draw.below(3) {
        let method = draw.pick(&["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS"]);
        up.extend(format!("{method} /{} HTTP/1.1\r\nHost: a\r\n", draw.u8()).into_bytes());
        put_body(draw, &mut up, true);
        for _ in 0..draw.below(6).saturating_sub(3) {
            down.extend(b"HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n");
        }
        let status = draw.pick(&[200, 200, 200, 206, 204, 304, 404]);
        down.extend(format!("HTTP/1.1 {status} x\r\nServer: y\r\n").into_bytes());
        if method == "HEAD" || status == 304 {
            let length = draw.u16();
            down.extend(format!("Content-Length: {length}\r\n\r\n").into_bytes());
        } else {
            put_body(draw, &mut down, status != 204);
        }
        ends.push((up.len() as u64, down.len() as u64));
    }
    let seed = u64::from(draw.u32());
    let mut random = fastrand::Rng::with_seed(seed);
    let largest = draw.pick(&[2, 30, 3_000]);
    let watched = watch(&up, &down, &mut |_| random.usize(1..largest));
    assert!(watched.ends == ends && !watched.opaque, "{}", up.escape_ascii());
    watched.agrees_with_hyper(&up, &down);
}

/// The end of a head, and a body.
fn put_body(draw: &mut Draw<'_>, out: &mut Vec<u8>, any: bool) {
    match draw.below(3) {
        1 if any => {
            let bytes = draw.bytes(100);
            out.extend(format!("content-length: {}\r\n\r\n", bytes.len()).into_bytes());
            out.extend(bytes);
        }
        2 if any => {
            out.extend(b"Transfer-Encoding: chunked\r\n\r\n");
            for _ in 0..draw.below(4) {
                let bytes = draw.bytes(60);
                if !bytes.is_empty() {
                    let zeros = draw.pick(&["", "0", "00"]);
                    let extension = draw.pick(&["", ";a=b", ";x"]);
                    out.extend(format!("{zeros}{:x}{extension}\r\n", bytes.len()).into_bytes());
                    out.extend(bytes);
                    out.extend(b"\r\n");
                }
            }
            out.extend(
                draw.pick(&["0\r\n\r\n", "000\r\n\r\n", "0;a\r\n\r\n", "0\r\nA: b\r\n\r\n"])
                    .as_bytes(),
            );
        }
        _ if any => out.extend(b"Content-Length: 0\r\n\r\n"),
        _ => out.extend(b"\r\n"),
    }
}
