//! Large buffers, lent to links only while they hold something.
//!
//! A link that waits holds no buffer. The pools are bounded, and last in, first out: a busy
//! process works in few, warm buffers.

use parking_lot::Mutex;

use super::record::{RECORD_MAX, WIRE_MAX};

/// What one read takes at most.
pub(super) const READ_MAX: usize = 256 * 1024;
/// `has_room` says no from this many unsent bytes on.
pub const ROOM: usize = 256 * 1024;
const KEPT_MAX: usize = 32;

/// Space for one record's plaintext, for what the last read left over, and for a read behind it.
const IN_LEN: usize = RECORD_MAX + WIRE_MAX + READ_MAX;
/// Space for everything `has_room` allows, and the records that follow a yes.
const OUT_LEN: usize = ROOM + 2 * WIRE_MAX;

static IN: Mutex<Vec<Box<[u8]>>> = Mutex::new(Vec::new());
static OUT: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());
static PLAIN: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

pub(super) fn take_in() -> Box<[u8]> {
    let kept = IN.lock().pop();
    kept.unwrap_or_else(|| vec![0; IN_LEN].into_boxed_slice())
}

pub(super) fn give_in(buffer: Box<[u8]>) {
    let mut kept = IN.lock();
    if kept.len() < KEPT_MAX && buffer.len() == IN_LEN {
        kept.push(buffer);
    }
}

pub(super) fn take_out() -> Vec<u8> {
    let kept = OUT.lock().pop();
    kept.unwrap_or_else(|| vec![0; OUT_LEN])
}

pub(super) fn give_out(buffer: Vec<u8>) {
    let mut kept = OUT.lock();
    if kept.len() < KEPT_MAX && (OUT_LEN..=2 * OUT_LEN).contains(&buffer.capacity()) {
        kept.push(buffer);
    }
}

pub(super) fn take_plain() -> Vec<u8> {
    let kept = PLAIN.lock().pop();
    kept.unwrap_or_else(|| Vec::with_capacity(RECORD_MAX))
}

pub(super) fn give_plain(buffer: Vec<u8>) {
    let mut kept = PLAIN.lock();
    if kept.len() < KEPT_MAX && (RECORD_MAX..=2 * RECORD_MAX).contains(&buffer.capacity()) {
        kept.push(buffer);
    }
}
