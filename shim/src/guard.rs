//! What happens when the shim itself is wrong: nothing.
//!
//! Decisions run under [`decide`]. Should one panic, the hook goes on as if there were no shim,
//! with the real call. No real call that can wait is ever made inside: a thread that is cancelled
//! in it is unwound through our frames, and `catch_unwind` may not meet that.
//!
//! Built with the feature `fault`, which nothing that is shipped has, decisions panic on demand.

use std::panic::{AssertUnwindSafe, catch_unwind};

#[cfg(feature = "fault")]
use crate::fault;
use crate::raw::{errno, set_errno};

/// Makes panics silent: an app's stderr is its own.
pub fn silence() {
    std::panic::set_hook(Box::new(|_| {}));
}

/// Runs a decision; `otherwise` when it panics. `errno` is as it was before.
#[track_caller]
pub fn decide<T>(otherwise: T, decision: impl FnOnce() -> T) -> T {
    let before = errno();
    #[cfg(feature = "fault")]
    let decision = fault::planned(std::panic::Location::caller(), decision);
    let decided = catch_unwind(AssertUnwindSafe(decision)).unwrap_or(otherwise);
    set_errno(before);
    decided
}
