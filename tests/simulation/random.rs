//! Randomness from a seed: the same on every machine.

use std::time::Duration;

/// splitmix64.
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(mix(seed ^ 0x5e55_1011))
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// 0..n; n is not 0.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }

    pub fn index(&mut self, n: usize) -> usize {
        usize::try_from(self.below(n as u64)).expect("below a usize")
    }

    /// from..=to.
    pub fn within(&mut self, from: u64, to: u64) -> u64 {
        from + self.below(to - from + 1)
    }

    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }

    pub fn pick<T: Copy>(&mut self, all: &[T]) -> T {
        all[self.index(all.len())]
    }

    /// Between two numbers, every order of magnitude as likely.
    pub fn scale(&mut self, from: u64, to: u64) -> u64 {
        let (low, high) = (from.max(1).ilog2(), to.max(1).ilog2());
        let bits = self.within(low.into(), high.into());
        let base = 1u64 << bits;
        (base + self.below(base)).clamp(from, to)
    }

    pub fn size(&mut self, from: u64, to: u64) -> usize {
        usize::try_from(self.scale(from, to)).expect("sizes are small")
    }

    /// A time in milliseconds, every order of magnitude as likely.
    pub fn millis(&mut self, from: u64, to: u64) -> Duration {
        Duration::from_micros(self.scale(from * 1000, to * 1000))
    }

    pub fn handle(&mut self) -> [u8; 16] {
        let mut bytes = [0; 16];
        bytes[..8].copy_from_slice(&self.next().to_be_bytes());
        bytes[8..].copy_from_slice(&(self.next() | 1).to_be_bytes());
        bytes
    }
}

fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

/// Bytes that tell their position: those of stream `seed` from `at` on.
pub fn pattern(seed: u64, at: u64, out: &mut [u8]) {
    for (index, byte) in out.iter_mut().enumerate() {
        *byte = pattern_at(seed, at + index as u64);
    }
}

/// Whether a byte of a pattern is urgent, if it is the last of a write.
pub fn urgent_at(seed: u64, at: u64) -> bool {
    mix(at.wrapping_add(seed << 32)).is_multiple_of(4)
}

pub fn pattern_at(seed: u64, at: u64) -> u8 {
    let word = mix((at >> 3).wrapping_add(seed << 32));
    word.to_le_bytes()[usize::try_from(at & 7).expect("three bits")]
}
