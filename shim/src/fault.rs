//! Panics on demand, for the tests: `SESSION_FAULT="before SITE"` or `"after SITE"` makes the
//! decision at that place of the source (`shim/src/hooks/name.rs:70`) panic before it has done
//! anything, or when it has done all; `SITE` may be `all`. Every place that is reached is written
//! to the file `SESSION_FAULT_LOG`.

use core::ffi::{CStr, c_char};
use core::panic::Location;
use core::sync::atomic::{AtomicPtr, Ordering};
use std::io::Write;

static WISH: AtomicPtr<c_char> = AtomicPtr::new(core::ptr::null_mut());
static LOG: AtomicPtr<c_char> = AtomicPtr::new(core::ptr::null_mut());

/// Reads the wish; called when the library is loaded.
pub fn load() {
    for (place, name) in [(&WISH, c"SESSION_FAULT"), (&LOG, c"SESSION_FAULT_LOG")] {
        // SAFETY: the name ends in NUL, and nobody changes the environment while libraries are
        // loaded. The copy is never freed.
        let copy = unsafe {
            let value = libc::getenv(name.as_ptr());
            if value.is_null() { value } else { libc::strdup(value) }
        };
        place.store(copy, Ordering::Release);
    }
}

/// The decision, with the panic that was wished for in it.
pub fn planned<T>(
    site: &'static Location<'static>,
    decision: impl FnOnce() -> T,
) -> impl FnOnce() -> T {
    move || {
        note(site);
        let (before, after) = wished(site);
        assert!(!before, "wished for");
        let decided = decision();
        assert!(!after, "wished for");
        decided
    }
}

fn wished(site: &Location<'_>) -> (bool, bool) {
    let Some((when, place)) = text(&WISH).and_then(|wish| wish.split_once(' ')) else {
        return (false, false);
    };
    let here = place
        .split_once(':')
        .is_some_and(|(file, line)| site.file() == file && line.parse() == Ok(site.line()));
    let meant = here || place == "all";
    (meant && when == "before", meant && when == "after")
}

fn note(site: &Location<'_>) {
    let Some(path) = text(&LOG) else { return };
    let mut line = [0; 128];
    let mut rest = &mut line[..];
    let _fits = writeln!(rest, "{}:{}", site.file(), site.line());
    let length = 128 - rest.len();
    let Ok(mut log) = std::fs::OpenOptions::new().append(true).create(true).open(path) else {
        return;
    };
    let _best_effort = log.write_all(&line[..length]);
}

fn text(place: &AtomicPtr<c_char>) -> Option<&'static str> {
    let at = place.load(Ordering::Acquire);
    if at.is_null() {
        return None;
    }
    // SAFETY: a copy made by `load`, which ends in NUL and is never freed.
    unsafe { CStr::from_ptr(at) }.to_str().ok()
}
