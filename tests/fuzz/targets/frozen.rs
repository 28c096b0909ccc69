//! A session's end that was saved to be carried elsewhere (R130).

use std::time::Duration;

use stp_proto::session::{Frozen, Limits, Session};
use stp_proto::time::Instant;

use super::{Draw, bounded};

/// What reading takes at most, for each byte that came, and beside that.
const TIMES: usize = 4;
const BESIDE: usize = 64 << 10;

/// The checksum that stands last, so that more than it is tried.
fn summed(content: &[u8]) -> Vec<u8> {
    let sum = xxhash_rust::xxh3::xxh3_64(content);
    [content, &sum.to_le_bytes()].concat()
}

fn is_survived(bytes: &[u8]) {
    let limit = TIMES * bytes.len() + BESIDE;
    let Ok(frozen) = bounded(limit, || Frozen::decode(bytes)) else { return };
    let mut again = Vec::new();
    frozen.encode(&mut again);
    assert_eq!(again, bytes, "another text for the same");
    let (end, delivered) = frozen.positions();
    let now = Instant(1 << 40);
    let away = Duration::from_secs(60);
    let Ok(session) = Session::thaw(now, Limits::default(), "a.b@c", away, &frozen) else { return };
    let at = session.positions();
    assert_eq!((at.end, at.delivered), (end, delivered));
}

pub fn run(data: &[u8]) {
    is_survived(data);
    let Some((content, _)) = data.split_last_chunk::<8>() else { return };
    is_survived(&summed(content));
    // The parts with lengths of their own, as they could be.
    let mut draw = Draw::new(data);
    let mut made = vec![1];
    made.extend(u64::from(draw.u32()).to_le_bytes());
    made.extend(u64::from(draw.u32()).to_le_bytes());
    for _ in 0..4 {
        let part = draw.bytes(300);
        made.extend((part.len() as u32).to_le_bytes());
        made.extend(part);
    }
    is_survived(&summed(&made));
}
