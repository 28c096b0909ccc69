//! The route map, mapped once and looked at by every connect.

use core::ffi::CStr;
use core::net::SocketAddr;
use core::ptr;
use core::sync::atomic::{AtomicPtr, AtomicU32, AtomicU64, Ordering};

use stp_proto::local::routes::{
    CONTROL_BYTES, Control, FILE_BYTES_MAX, Match, Routes, SUPERSEDED_AT, WhenAbsent,
};

use crate::raw::{self, Fd};
use crate::surroundings::known;

/// A map in memory. Replaced ones stay: another thread may be reading them, and they are small.
struct Mapped {
    superseded: &'static AtomicU32,
    inode: u64,
    routes: Routes<'static>,
}

static CURRENT: AtomicPtr<Mapped> = AtomicPtr::new(ptr::null_mut());

/// Whether a destination is ours.
pub fn destination(address: &SocketAddr) -> Option<Match> {
    current()?.destination(address)
}

/// Whether a host name is ours, for a port or for any.
pub fn host(host: &[u8], port: Option<u16>) -> bool {
    current().is_some_and(|routes| routes.host(host, port))
}

/// What to do without a broker.
pub fn when_absent() -> WhenAbsent {
    let said = known().and_then(|known| known.when_absent);
    said.or_else(|| current().map(Routes::when_absent)).unwrap_or_default()
}

/// Looks for another map, as no broker answers where this one led.
pub fn doubt() {
    load();
}

/// Maps the file when the library is loaded.
pub fn load_first() {
    current();
}

fn current() -> Option<&'static Routes<'static>> {
    let at = CURRENT.load(Ordering::Acquire);
    // SAFETY: null or published after it was written, and never unmapped.
    let mapped = unsafe { at.as_ref() };
    match mapped {
        Some(mapped) if mapped.superseded.load(Ordering::Relaxed) == 0 => Some(&mapped.routes),
        Some(stale) => load().or(Some(&stale.routes)),
        None if is_early() => None,
        None => load(),
    }
}

/// Whether the file was looked for so recently that it is not worth it again: where no broker has
/// ever run, connects have to be cheap as well.
fn is_early() -> bool {
    /// The file is looked for again after this time.
    const PAUSE_MS: u64 = 50;
    static LAST_MS: AtomicU64 = AtomicU64::new(0);
    let now = raw::now_ms();
    let early = now.saturating_sub(LAST_MS.load(Ordering::Relaxed)) < PAUSE_MS;
    if !early {
        LAST_MS.store(now, Ordering::Relaxed);
    }
    early
}

#[cold]
fn load() -> Option<&'static Routes<'static>> {
    let path = CStr::from_bytes_with_nul(known()?.routes.as_bytes_with_nul()).ok()?;
    let fd = raw::open(path, libc::O_NOFOLLOW).ok()?;
    let mapped = map(fd);
    raw::close(fd);
    let mapped = mapped?;
    let page = raw::pages(size_of::<Mapped>()).ok()?.cast::<Mapped>();
    // SAFETY: fresh pages, large enough and aligned; never unmapped.
    let mapped: &'static Mapped = unsafe {
        page.write(mapped);
        &*page
    };
    CURRENT.store(page, Ordering::Release);
    Some(&mapped.routes)
}

fn map(fd: Fd) -> Option<Mapped> {
    let (size, owner, inode) = raw::stat(fd).ok()?;
    let size = usize::try_from(size).ok()?;
    let ours = owner == raw::euid() || owner == 0;
    // SAFETY: as in `current`.
    let known = unsafe { CURRENT.load(Ordering::Acquire).as_ref() };
    if known.is_some_and(|known| known.inode == inode)
        || !ours
        || !(CONTROL_BYTES..=FILE_BYTES_MAX).contains(&size)
    {
        return None;
    }
    let at = raw::map(fd, size).ok()?;
    let mapped = view(at, size, inode);
    if mapped.is_none() {
        // SAFETY: nothing points into it, as there is no view.
        unsafe { raw::unmap(at, size) };
    }
    mapped
}

fn view(at: *const u8, size: usize, inode: u64) -> Option<Mapped> {
    // SAFETY: the mapping has `size` bytes, at least a control block; the word is aligned, and only
    // ever accessed as an atomic. The rest of the file never changes once it has its name.
    let (superseded, control, body) = unsafe {
        let word = &*at.add(SUPERSEDED_AT).cast::<AtomicU32>();
        let control: [u8; CONTROL_BYTES] = at.cast::<[u8; CONTROL_BYTES]>().read();
        let body = core::slice::from_raw_parts(at.add(CONTROL_BYTES), size - CONTROL_BYTES);
        (word, control, body)
    };
    let control = Control::read(&control, size)?;
    Some(Mapped { superseded, inode, routes: Routes::read(&control, body)? })
}
