//! Echo over UDP: questions and answers, which any host may send.

use std::sync::LazyLock;

use stp_net::echo::{Answerer, question, read_answer};

use super::{Draw, bounded};

static ANSWERER: LazyLock<Answerer> = LazyLock::new(|| Answerer::new().expect("randomness"));

pub fn run(data: &[u8]) {
    LazyLock::force(&ANSWERER);
    let mut draw = Draw::new(data);
    let (now, from, number) = (draw.position(), draw.address(), draw.position());
    if let Some(answer) = bounded(1_024, || ANSWERER.answer_to(now, from, data)) {
        assert!(answer.len() <= data.len(), "no answer is longer than its question");
        assert_eq!(answer[8..16], data[8..16], "it repeats the number");
    }
    if let Some((asked, cookie)) = bounded(0, || read_answer(data, number, 8)) {
        assert!(asked < 8 && data[16..].starts_with(&cookie));
    }
    let asked = draw.below(8);
    let first = question(number.wrapping_add(asked as u64), &draw.array());
    let answer = ANSWERER.answer_to(now, from, &first).expect("a question is answered");
    let (read, cookie) = read_answer(&answer, number, 8).expect("an answer is read");
    assert_eq!(read, asked);
    let again = question(number, &cookie);
    let full = ANSWERER.answer_to(now, from, &again).expect("a question is answered");
    let moved = ANSWERER.answer_to(now, draw.address(), &again).expect("a question is answered");
    assert_ne!(full[4], answer[4], "who shows the cookie is answered in full");
    assert!(moved[4] != full[4] || moved == full, "a cookie is of one address");
}
