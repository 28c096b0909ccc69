//! Interning: every part of a state of the world is kept once and named by a number. A state of the
//! world is then a few numbers, and what one end does with one input is worked out once, however
//! many states of the world it happens in.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hash, Hasher};
use std::ops::Index;

/// A quick hasher (multiply and fold). It may be weak, because no attacker chooses what is hashed.
#[derive(Copy, Clone, Default)]
pub struct Fold(u64);

const ODD: u64 = 0x9e37_79b9_7f4a_7c15;

impl Fold {
    fn mix(&mut self, value: u64) {
        let wide = u128::from(self.0 ^ value) * u128::from(ODD);
        let (high, low) = ((wide >> 64) as u64, wide as u64);
        self.0 = (high ^ low).wrapping_add(ODD);
    }
}

impl Hasher for Fold {
    fn write(&mut self, bytes: &[u8]) {
        let mut words = bytes.chunks_exact(8);
        for word in &mut words {
            self.mix(u64::from_le_bytes(word.try_into().expect("eight bytes")));
        }
        let mut last = [0; 8];
        let rest = words.remainder();
        if !rest.is_empty() {
            last[..rest.len()].copy_from_slice(rest);
            self.mix(u64::from_le_bytes(last) ^ (rest.len() as u64) << 56);
        }
    }

    fn write_u8(&mut self, value: u8) {
        self.mix(u64::from(value));
    }

    fn write_u16(&mut self, value: u16) {
        self.mix(u64::from(value));
    }

    fn write_u32(&mut self, value: u32) {
        self.mix(u64::from(value));
    }

    fn write_u64(&mut self, value: u64) {
        self.mix(value);
    }

    fn write_usize(&mut self, value: usize) {
        self.mix(value as u64);
    }

    fn finish(&self) -> u64 {
        // The tables look at the low and at the top bits.
        self.0 ^ (self.0 >> 32)
    }
}

/// A map for what is hashed here.
pub type Map<K, V> = HashMap<K, V, BuildHasherDefault<Fold>>;

/// The hash of a value.
pub fn hash(value: &impl Hash) -> u64 {
    let mut hasher = Fold::default();
    value.hash(&mut hasher);
    hasher.finish()
}

/// Values, each kept once, each with a number.
pub struct Pool<T> {
    values: Vec<T>,
    slots: Slots,
}

impl<T: Hash + Eq> Pool<T> {
    pub fn new() -> Pool<T> {
        Pool { values: Vec::new(), slots: Slots::new() }
    }

    /// The number of `value`, and whether it is new.
    pub fn put(&mut self, value: T) -> (u32, bool) {
        let values = &self.values;
        let hash_of = |at: u32| hash(&values[at as usize]);
        let same = |at: u32| values[at as usize] == value;
        let found = self.slots.find_or_add(hash(&value), values.len(), same, hash_of);
        if let Some(known) = found {
            return (known, false);
        }
        let number = u32::try_from(self.values.len()).expect("fewer than 2^32 values");
        self.values.push(value);
        (number, true)
    }
}

impl<T> Index<u32> for Pool<T> {
    type Output = T;

    fn index(&self, number: u32) -> &T {
        &self.values[number as usize]
    }
}

/// An open-addressing table of numbers; what they stand for lies elsewhere.
pub struct Slots {
    slots: Vec<u32>,
}

const FREE: u32 = u32::MAX;

impl Slots {
    pub fn new() -> Slots {
        Slots { slots: vec![FREE; 64] }
    }

    /// The number under `hash` for which `same` holds; otherwise puts `next` there and says
    /// nothing.
    pub fn find_or_add(
        &mut self,
        hash: u64,
        next: usize,
        same: impl Fn(u32) -> bool,
        hash_of: impl Fn(u32) -> u64,
    ) -> Option<u32> {
        if (next + 1) * 4 > self.slots.len() * 3 {
            self.grow(hash_of);
        }
        let mask = self.slots.len() - 1;
        let mut at = hash as usize & mask;
        loop {
            match self.slots[at] {
                FREE => break,
                number if same(number) => return Some(number),
                _ => at = (at + 1) & mask,
            }
        }
        self.slots[at] = u32::try_from(next).expect("fewer than 2^32 values");
        None
    }

    fn grow(&mut self, hash_of: impl Fn(u32) -> u64) {
        let size = self.slots.len() * 2;
        let old = std::mem::replace(&mut self.slots, vec![FREE; size]);
        for number in old.into_iter().filter(|number| *number != FREE) {
            let mut at = hash_of(number) as usize & (size - 1);
            while self.slots[at] != FREE {
                at = (at + 1) & (size - 1);
            }
            self.slots[at] = number;
        }
    }
}
