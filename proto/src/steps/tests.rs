//! What is sent here is chosen to cost much: heads and lines that never end, ends that come again
//! and again, and all of it in pieces of any size.

use super::TAKEN;
use crate::local::wire::Request;
use crate::replay::ftp::{Lines, Replies};
use crate::replay::http::{Body, Framing, Observer};
use crate::wire::{first_frame, frames};

const SIZE: usize = 128 * 1024;

/// No byte costs more steps than this, on average: a short line is looked at anew for each of its
/// bytes, and a short head for each of its lines.
const STEPS_MAX: u64 = 600;
/// What is read in one go costs no more than this for each byte.
const ONCE_MAX: u64 = 8;

fn steps(work: impl FnOnce()) -> u64 {
    TAKEN.with(|taken| taken.set(0));
    work();
    TAKEN.with(core::cell::Cell::get)
}

/// Gives `bytes` to `take` in pieces of some sizes; it says how many it took, none if it takes no
/// more. `fresh` makes what takes them.
fn bounded<T>(
    name: &str,
    bytes: &[u8],
    fresh: impl Fn() -> T,
    take: impl Fn(&mut T, &[u8]) -> usize,
) {
    for piece in [1, 2, 7, 100, 1_000, 16_000] {
        let mut reader = fresh();
        let mut given = 0;
        let steps = steps(|| {
            'pieces: for mut piece in bytes.chunks(piece) {
                while !piece.is_empty() {
                    let taken = take(&mut reader, piece);
                    if taken == 0 {
                        break 'pieces;
                    }
                    given += taken as u64;
                    piece = &piece[taken..];
                }
            }
        });
        let most = STEPS_MAX * given + (1 << 18);
        assert!(steps > 0, "{name} notes nothing");
        assert!(steps <= most, "{name}: {steps} steps for {given} bytes by {piece}");
    }
}

fn long(line: &str) -> Vec<u8> {
    line.as_bytes().iter().copied().cycle().take(SIZE).collect()
}

#[test]
fn heads_of_requests_cost_work_by_their_bytes() {
    let field = "GET / HTTP/1.1\r\n".to_owned() + &"a: b\r\n".repeat(20_000);
    let exchanges = "GET / HTTP/1.1\r\na:\r\nb:\r\n\r\n".repeat(4_000);
    for text in ["\n", "\r\n", "a", "a\n", "a:\n", "GET / HTTP/1.1\r\n", &field, &exchanges] {
        bounded(
            text,
            &long(text),
            || Observer::new(0, 0),
            |observer, bytes| {
                // A whole request is answered at once, so that the next one comes.
                let taken = observer.up(bytes).0;
                let mut answer = &b"HTTP/1.1 204 x\r\n\r\n"[..];
                while taken == 0 && !answer.is_empty() {
                    let (taken, _) = observer.down(answer);
                    if observer.holds_head() {
                        observer.release_head();
                    }
                    answer = &answer[taken..];
                    if taken == 0 {
                        break;
                    }
                }
                if taken == 0 { observer.up(bytes).0 } else { taken }
            },
        );
    }
}

#[test]
fn heads_of_responses_cost_work_by_their_bytes() {
    let asked = || {
        let mut observer = Observer::new(0, 0);
        observer.up(b"GET / HTTP/1.1\r\nRange: bytes=0-1,3-4\r\n\r\n");
        observer
    };
    let interim = "HTTP/1.1 100 x\r\n\r\n";
    let parts = "HTTP/1.1 206 x\r\nContent-Length: 99999\r\n\
                 Content-Type: multipart/byteranges; boundary=x\r\n\r\n\r\n--x\r\na: b\r\n";
    for text in ["\n", "HTTP/1.1 200 x\r\n", "a\n", interim, parts] {
        bounded(text, &long(text), asked, |observer, bytes| {
            let (taken, _) = observer.down(bytes);
            if observer.holds_head() {
                observer.release_head();
            }
            taken
        });
    }
}

#[test]
fn chunks_cost_work_by_their_bytes() {
    for text in
        ["1\r\nx\r\n", "1;aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa\r\nx\r\n", "0", "0\r\na: b\r\n"]
    {
        bounded(text, &long(text), || Body::new(Framing::Chunked), Body::take);
    }
}

#[test]
fn ftp_costs_work_by_its_bytes() {
    for text in ["\n", "a", "A B\r\n", "\u{ff}\u{fa}"] {
        bounded(text, &long(text), Lines::default, |lines, bytes| lines.take(bytes).0);
    }
    for text in ["\n", "2", "220 x\r\n", "220-x\r\n", "220-x\r\n x\r\n"] {
        bounded(text, &long(text), Replies::default, |replies, bytes| {
            replies.take(bytes).map_or(0, |(taken, _)| taken)
        });
    }
}

/// A local message is looked at each time a part of it comes, and its content once.
#[test]
fn local_messages_cost_work_by_their_bytes() {
    let mut whole = Request::Hello.encode().unwrap().as_bytes().to_vec();
    whole.resize(512, 0);
    // As long as a message may be.
    whole[6..8].copy_from_slice(&504_u16.to_le_bytes());
    for first in 0..=255 {
        whole[4] = first;
        let steps = steps(|| {
            for end in 0..=whole.len() {
                let _ = Request::decode(&whole[..end]);
            }
        });
        assert!(steps <= ONCE_MAX * whole.len() as u64, "{steps} steps for kind {first}");
    }
}

#[test]
fn frames_cost_work_by_their_bytes() {
    for kind in 0..=255 {
        // As many frames as fit one record, all empty; and a long one of zeros.
        let many: Vec<u8> = [kind, 0, 0, 0].repeat(4_096);
        let mut one = vec![kind, 0, 0x3f, 0xfc];
        one.resize(16_384, 0);
        for record in [many, one] {
            let steps = steps(|| {
                let _ = first_frame(&record);
                for frame in frames(&record) {
                    let _ = frame;
                }
            });
            assert!(steps > 0);
            assert!(steps <= ONCE_MAX * record.len() as u64, "{steps} steps for kind {kind}");
        }
    }
}
