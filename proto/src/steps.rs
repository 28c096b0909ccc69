//! Steps that reading takes, counted while proto's own tests run and nowhere else: whoever decodes
//! what a stranger sends notes how many bytes it looks at, and how often. A peer must not be able
//! to make a few bytes cost much work. Time would tell it too, but not on every machine alike.

#[cfg(test)]
use core::cell::Cell;

#[cfg(test)]
thread_local! {
    static TAKEN: Cell<u64> = const { Cell::new(0) };
}

/// So many bytes were looked at.
#[cfg(test)]
pub(crate) fn note(bytes: usize) {
    TAKEN.with(|taken| taken.set(taken.get() + bytes as u64 + 1));
}

/// Nothing is counted.
#[cfg(not(test))]
#[inline(always)]
pub(crate) fn note(_: usize) {}

#[cfg(test)]
mod tests;
