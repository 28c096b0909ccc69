//! Inputs made of other inputs, and of a seed alone: the same seed makes the same inputs.

use fastrand::Rng;

/// Numbers at which decoders are likely to go wrong.
const EDGES: [u64; 10] =
    [0, 1, 0x7f, 0x80, 0xff, 0x7fff, 0xffff, u32::MAX as u64, i64::MAX as u64, u64::MAX];

/// An input of at most `max` bytes, made of some of `corpus`.
pub fn make(random: &mut Rng, corpus: &[Vec<u8>], max: usize) -> Vec<u8> {
    let mut input = match random.choice(corpus) {
        Some(kept) if random.u8(..) > 8 => kept.clone(),
        _ => (0..random.usize(..max.min(300))).map(|_| random.u8(..)).collect(),
    };
    for _ in 0..random.usize(1..6) {
        alter(random, &mut input, corpus);
    }
    input.truncate(max);
    input
}

fn alter(random: &mut Rng, input: &mut Vec<u8>, corpus: &[Vec<u8>]) {
    let at = random.usize(..=input.len());
    let end = (at + random.usize(..16)).min(input.len());
    match random.u8(..10) {
        0 => drop(input.drain(at..end)),
        1 => drop(input.splice(at..at, [random.u8(..)])),
        2 => {
            let copy = input[at..end].to_vec();
            let to = random.usize(..=input.len());
            input.splice(to..to, copy);
        }
        3 => input.truncate(at),
        4 => {
            if let Some(byte) = input.get_mut(at) {
                *byte ^= 1 << random.u8(..8);
            }
        }
        5 => {
            if let Some(byte) = input.get_mut(at) {
                *byte = random.u8(..);
            }
        }
        6 => overwrite(input, at, &edge(random)),
        7 => {
            let Some(other) = random.choice(corpus) else { return };
            let from = random.usize(..=other.len());
            let until = random.usize(from..=other.len());
            let until = until.min(from + 200);
            input.splice(at..end, other[from..until].iter().copied());
        }
        8 => {
            let digits = EDGES[random.usize(..EDGES.len())].to_string();
            input.splice(at..end, digits.into_bytes());
        }
        _ => {
            // A number goes up or down a little.
            if let Some(byte) = input.get_mut(at) {
                *byte = byte.wrapping_add(random.u8(1..=4)).wrapping_sub(2);
            }
        }
    }
}

fn edge(random: &mut Rng) -> Vec<u8> {
    let bytes = EDGES[random.usize(..EDGES.len())].to_be_bytes();
    let mut bytes = bytes[8 - [1, 2, 4, 8][random.usize(..4)]..].to_vec();
    if random.bool() {
        bytes.reverse();
    }
    bytes
}

fn overwrite(input: &mut [u8], at: usize, bytes: &[u8]) {
    for (to, from) in input[at..].iter_mut().zip(bytes) {
        *to = *from;
    }
}
