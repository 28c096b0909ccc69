//! Continuing an exchange at a replica: any exchange that a ticket may hold, with any answer that
//! the replica may give.

use stp_proto::replay::Policy;
use stp_proto::replay::http::{
    Exchange, Framing, Judged, Plan, RequestHead, ResponseHead, Splice, SpliceStep,
};
use stp_proto::seam::{BLOCK, Seam, SeamProof};

use super::{Draw, bounded};

const DIVIDER: u8 = 0xff;
/// What the app may have of a body here.
const HAVE_MAX: u64 = 3 * BLOCK as u64;
/// Heads, the request once more, texts.
const MEMORY: usize = 64 * 1024;

pub fn run(data: &[u8]) {
    let (choices, texts) = data.split_at_checked(16).unwrap_or((data, &[]));
    let mut texts = texts.splitn(3, |byte| *byte == DIVIDER);
    let mut next = || texts.next().unwrap_or_default();
    let (request, response, answer) = (next(), next(), next());
    let mut draw = Draw::new(choices);
    let policy = if draw.bool() { Policy::Validators } else { Policy::Prefix };
    let lies = draw.below(8) == 0;
    let head_at = if draw.below(8) == 0 { draw.position() } else { u64::from(draw.u16()) };
    let passed = if lies { draw.position() } else { u64::from(draw.u32()) % HAVE_MAX };
    let have = head_at.saturating_add(passed);
    let body_at = head_at.saturating_add(response.len() as u64);
    let exchange = Exchange::Response {
        request: request.to_vec(),
        response: response.to_vec(),
        head_at,
        shortened: lies && draw.bool(),
        chunks: None,
    };
    let first = original(request, response).and_then(|head| head.range).map_or(0, |r| r.first);
    let proof = if lies {
        let (from, until) = draw.span();
        Some(SeamProof { from, until, block: BLOCK, last: 0, partial: 0, chain: [0; 32] })
    } else {
        (have > body_at).then(|| proof(body_at, have, first))
    };
    let planned = bounded(MEMORY + 8 * data.len(), || {
        Plan::make(&exchange, draw.position(), have, proof, policy)
    });
    let Ok(Plan::Ask(ask)) = planned else { return };
    let judged = bounded(MEMORY + 8 * data.len(), || ask.judge(answer));
    let Ok(Judged::Splice(length, splice)) = judged else { return };
    assert!(length <= answer.len());
    let (question, _) = RequestHead::parse(request).ok().flatten().expect("the plan was made");
    let parsed = ResponseHead::parse(&answer[..length], &question).ok().flatten();
    let Some((head, _)) = parsed else { return };
    let begin = head.range.map_or(0, |range| range.first);
    let body_have = have.saturating_sub(body_at);
    let length = match head.framing {
        Framing::Length(length) => length,
        Framing::Close => u64::MAX,
        // The file is fed without chunks here.
        Framing::Chunked | Framing::Empty => return,
    };
    if !lies {
        // The answer's body is the same file; joined is where the app's part ends.
        joined(*splice, (begin, length), first + body_have);
    }
}

fn original(request: &[u8], response: &[u8]) -> Option<ResponseHead> {
    let (question, _) = RequestHead::parse(request).ok()??;
    Some(ResponseHead::parse(response, &question).ok()??.0)
}

/// The file: its byte at a position.
fn byte(at: u64) -> u8 {
    (at.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32) as u8
}

fn proof(body_at: u64, have: u64, first: u64) -> SeamProof {
    let mut seam = Seam::new(body_at, BLOCK);
    let bytes: Vec<u8> =
        (body_at..have).map(|at| byte((at - body_at).wrapping_add(first))).collect();
    seam.update(body_at, &bytes);
    seam.proof()
}

/// Feeds the file, `length` bytes from `begin` on, until the splice has joined: what follows for
/// the app is the file from byte `goes_on` on.
fn joined(mut splice: Splice, (begin, length): (u64, u64), goes_on: u64) {
    let (mut fed, mut piece) = (0_u64, 0);
    loop {
        let end = (fed + piece).min(length);
        let bytes: Vec<u8> = (fed..end).map(|at| byte(begin.wrapping_add(at))).collect();
        match splice.feed(&bytes).expect("the same file") {
            SpliceStep::Joined => break,
            SpliceStep::More => fed = end,
        }
        assert!(fed <= 64 * HAVE_MAX, "more is skipped than a test should feed");
        piece = piece * 3 + 1;
        piece = piece.min(50_000);
    }
    for (at, found) in (goes_on..).zip(splice.into_joined().ahead()) {
        assert_eq!(*found, byte(at));
    }
}
