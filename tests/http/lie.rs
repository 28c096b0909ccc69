//! Origins that lie, drawn from a seed: in length, range, validators, framing, status, and files
//! that differ anywhere. `STP_LIES` says how many (a few in CI, many in scripts/verify), `STP_SEED`
//! repeats one.
//!
//! The oracle: the app's bytes are a prefix of exactly one file that some server held, curl says
//! that all is well only for a whole file, and no origin is asked more than five times per fault.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::bed::{Bed, code, content};
use crate::fault::chunked;
use crate::liar::{Answer, End, Liar};

/// Downloads at once.
const AT_ONCE: usize = 8;

/// What one origin does to one download.
struct Origin {
    file: Vec<u8>,
    /// What is put in the file's place after the first answer, under the same validators.
    later: Vec<u8>,
    fields: String,
    framing: Framing,
    /// What it answers to each request; the last one is repeated.
    deeds: Vec<Deed>,
}

/// How the length of a body is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Framing {
    Length,
    /// By the end of the stream.
    Close,
    /// In chunks of so many bytes.
    Chunks(usize),
}

#[derive(Clone, Copy, Debug)]
enum Deed {
    /// The whole, or a part of this many thousandths and then the end.
    Send(usize, End),
    /// As much again as it promised.
    TooMuch,
    /// The whole, with a byte that is wrong in what frames it, if anything does.
    Garbled(usize),
    /// An error.
    Status(&'static str),
    /// A part that nobody asked for.
    Part,
    /// The stream is closed without an answer.
    Nothing,
}

/// A download: its two origins.
struct Lies([Origin; 2]);

impl Lies {
    fn draw(seed: u64) -> Lies {
        let mut random = fastrand::Rng::with_seed(seed);
        let length = random.usize(1..300_000);
        let file = content(seed, length);
        let other = |random: &mut fastrand::Rng| {
            let mut other = file.clone();
            match random.u8(0..8) {
                0..=3 => {}
                4 => other.truncate(random.usize(0..length)),
                5 => other.extend_from_slice(&content(seed + 1, random.usize(1..1_000))),
                _ => {
                    for _ in 0..random.usize(1..3) {
                        let at = random.usize(0..length);
                        other[at] ^= 1 << random.u8(0..8);
                    }
                }
            }
            other
        };
        let mut origin = |first: bool| {
            let later = other(&mut random);
            let tag = ["", "ETag: \"1\"\r\n", "ETag: W/\"1\"\r\n", "ETag: \"2\"\r\n"];
            let fields = random.choice(tag).expect("some").to_owned();
            let mut deeds: Vec<Deed> = (0..random.usize(1..5)).map(|_| deed(&mut random)).collect();
            if first && random.u8(0..4) > 0 {
                deeds.insert(0, Deed::Send(random.usize(0..1000), end(&mut random)));
            }
            let file = if first { file.clone() } else { other(&mut random) };
            let framing = framing(&mut random);
            Origin { file, later, fields, framing, deeds }
        };
        Lies([origin(true), origin(false)])
    }
}

fn end(random: &mut fastrand::Rng) -> End {
    if random.bool() { End::Close } else { End::Reset }
}

fn framing(random: &mut fastrand::Rng) -> Framing {
    match random.u8(0..6) {
        0 => Framing::Close,
        1 | 2 => Framing::Chunks(random.usize(1..100_000)),
        _ => Framing::Length,
    }
}

fn deed(random: &mut fastrand::Rng) -> Deed {
    match random.u8(0..11) {
        0..=3 => Deed::Send(1000, End::Close),
        4 | 5 => Deed::Send(random.usize(0..1000), end(random)),
        6 => Deed::TooMuch,
        7 => Deed::Part,
        8 => Deed::Nothing,
        9 => Deed::Garbled(random.usize(0..1000)),
        _ => {
            let all = ["503 Busy", "403 No", "404 None", "410 Gone", "416 Range", "302 There"];
            Deed::Status(random.choice(all).expect("some"))
        }
    }
}

impl Origin {
    fn answer(&self, number: usize) -> Answer {
        let file = if number == 0 { &self.file } else { &self.later };
        let deed = self.deeds[number.min(self.deeds.len() - 1)];
        let mut answer = Answer::sized(file.len(), &self.fields, file, End::Close);
        let framing = match self.framing {
            Framing::Length => None,
            Framing::Close => Some("Connection: close"),
            Framing::Chunks(size) => {
                answer.body = chunked(file, size);
                Some("Transfer-Encoding: chunked")
            }
        };
        if let Some(framing) = framing {
            answer.head = format!("HTTP/1.1 200 OK\r\n{}{framing}\r\n\r\n", self.fields);
        }
        let until_close = self.framing == Framing::Close;
        let whole = answer.body.len();
        match deed {
            Deed::Send(part, end) => {
                answer.body.truncate(whole * part / 1000);
                // An end that is in order ends the body; only a reset tells that it is not whole.
                answer.end = if until_close && part < 1000 { End::Reset } else { end };
            }
            Deed::TooMuch if !until_close => answer.body.extend_from_slice(file),
            Deed::Garbled(part) if matches!(self.framing, Framing::Chunks(_)) => {
                garble(&mut answer.body, part);
            }
            Deed::TooMuch | Deed::Garbled(_) => {}
            Deed::Status(status) => return Answer::status(status),
            Deed::Part => {
                let (total, from) = (file.len(), file.len() / 2);
                let last = total.max(1) - 1;
                answer.head = format!(
                    "HTTP/1.1 206 Part\r\n{}Content-Length: {}\r\n\
                     Content-Range: bytes {from}-{last}/{total}\r\n\r\n",
                    self.fields,
                    total - from
                );
                answer.body = file[from..].to_vec();
            }
            Deed::Nothing => {
                answer.head.clear();
                answer.body.clear();
            }
        }
        answer
    }
}

/// Makes the first line of a chunk behind this many thousandths wrong.
fn garble(body: &mut [u8], part: usize) {
    let (mut at, until) = (0, body.len() * part / 1000);
    while let Some(end) = body[at..].windows(2).position(|two| two == b"\r\n") {
        let size = std::str::from_utf8(&body[at..at + end]).expect("a number");
        let size = usize::from_str_radix(size, 16).expect("a number");
        if at >= until || size == 0 {
            body[at] = b'?';
            return;
        }
        at += end + 2 + size + 2;
    }
}

/// The number of a path such as `/17`.
fn number_of(path: &str) -> u64 {
    path.trim_start_matches('/').parse().expect("a number")
}

fn check(bed: &Bed, liars: &[Liar; 2], seed: u64) {
    let lies = Lies::draw(seed);
    let to = format!("got-{seed}");
    let ended = code(bed.curl(&format!("/{seed}"), &to, &["-f"]), Duration::from_secs(100));
    let got = bed.got(&to);
    let err = std::fs::read_to_string(bed.path(&format!("{to}.err"))).unwrap_or_default();
    let what =
        |text: &str| format!("STP_SEED={seed}: {text}; curl {ended} {err:?}, {} bytes", got.len());
    // A 206 that nobody asked for is what the service says: plain TCP shows it, too.
    let first: Vec<&[u8]> = lies.0.iter().flat_map(|o| [&o.file[..], &o.later[..]]).collect();
    let halves = first.iter().map(|file| &file[file.len() / 2..]);
    let files: Vec<&[u8]> = first.iter().copied().chain(halves).collect();
    assert!(files.iter().any(|file| file.starts_with(&got)), "{}", what("bytes of no file"));
    // A redirection without a body is whole as it is.
    let redirects = |origin: &Origin| matches!(origin.deeds[0], Deed::Status("302 There"));
    let whole = files.iter().any(|file| **file == got[..])
        || (got.is_empty() && lies.0.iter().any(redirects));
    assert!(ended != 0 || whole, "{}", what("a part, told as the whole"));
    for (origin, liar) in lies.0.iter().zip(liars) {
        let asked = liar.requests(&format!("/{seed}"));
        let faults = 1 + origin.deeds.iter().filter(|deed| matches!(deed, Deed::Send(..))).count();
        assert!(asked <= 5 * faults, "{}", what(&format!("asked {asked} times")));
    }
    std::fs::remove_file(bed.path(&to)).ok();
}

#[test]
fn origins_that_lie_never_make_a_mixture() {
    let variable = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u64>().ok());
    let seeds = match variable("STP_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..variable("STP_LIES").unwrap_or(100),
    };
    let bed = Arc::new(Bed::new(&[]));
    let liars = [0, 1].map(|place| {
        Liar::start(bed.ports[place], move |path, number| {
            Lies::draw(number_of(path)).0[place].answer(number)
        })
    });
    let next = AtomicU64::new(seeds.start);
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                loop {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        break;
                    }
                    check(&bed, &liars, seed);
                }
            });
        }
    });
    println!("{} downloads of lying origins, none wrong", seeds.end - seeds.start);
}
