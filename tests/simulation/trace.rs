//! The trace of one seed, printed when it is asked for.

use std::cell::Cell;

use stp_proto::time::Instant;

thread_local! {
    static LOUD: Cell<bool> = const { Cell::new(false) };
}

/// Whether what happens on this thread is printed from now on.
pub fn set_loud(loud: bool) {
    LOUD.set(loud);
}

#[expect(clippy::print_stderr, reason = "the trace is what is asked for")]
pub fn say(now: Instant, text: impl FnOnce() -> String) {
    if LOUD.get() {
        let ms = now.0 / 1000;
        eprintln!("{:>8}.{:03} {}", ms / 1000, ms % 1000, text());
    }
}
