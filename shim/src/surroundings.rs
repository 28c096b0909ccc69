//! What is known of the place the program runs in, fixed when the library is loaded: programs
//! overwrite their environment later.

use core::ffi::CStr;
use core::sync::atomic::{AtomicPtr, Ordering};

use stp_proto::local::path::{LocalPath, PAUSES_FILE, ROUTES_FILE, SOCKET_FILE, Surroundings};
use stp_proto::local::routes::WhenAbsent;

use crate::raw;

/// Paths and settings.
pub struct Known {
    /// The broker's socket, NUL at the end.
    pub socket: LocalPath,
    /// The route map, NUL at the end.
    pub routes: LocalPath,
    /// The pause file, NUL at the end.
    pub pauses: LocalPath,
    /// `$SESSION_WHEN_ABSENT`, which goes before what the map says.
    pub when_absent: Option<WhenAbsent>,
}

static KNOWN: AtomicPtr<Known> = AtomicPtr::new(core::ptr::null_mut());

/// What is known; nothing when there is no usable directory.
pub fn known() -> Option<&'static Known> {
    let at = KNOWN.load(Ordering::Acquire);
    let at = if at.is_null() { find() } else { at };
    // SAFETY: the pointer is null or leads to a value written before it was published, in pages
    // that are never unmapped.
    unsafe { at.as_ref() }
}

/// Looks around and remembers. Called when the library is loaded.
pub fn find() -> *mut Known {
    let Some(found) = look() else { return core::ptr::null_mut() };
    let Ok(at) = raw::pages(size_of::<Known>()) else { return core::ptr::null_mut() };
    let at = at.cast::<Known>();
    // SAFETY: fresh pages, large enough, aligned to a page.
    unsafe { at.write(found) };
    KNOWN.store(at, Ordering::Release);
    at
}

fn look() -> Option<Known> {
    let uid = raw::euid();
    let mut around = Surroundings {
        session_dir: variable(c"SESSION_DIR"),
        runtime_dir: variable(c"XDG_RUNTIME_DIR"),
        uid,
        has_run_user: true,
    };
    let mut directory = LocalPath::directory(&around)?;
    let given = |value: Option<&[u8]>| value.is_some_and(|value| !value.is_empty());
    if !given(around.session_dir) && !given(around.runtime_dir) && !has_parent(&directory) {
        around.has_run_user = false;
        directory = LocalPath::directory(&around)?;
    }
    let when_absent = match variable(c"SESSION_WHEN_ABSENT") {
        Some(b"pass") => Some(WhenAbsent::Pass),
        Some(b"fail") => Some(WhenAbsent::Fail),
        _ => None,
    };
    Some(Known {
        socket: directory.file(SOCKET_FILE)?,
        routes: directory.file(ROUTES_FILE)?,
        pauses: directory.file(PAUSES_FILE)?,
        when_absent,
    })
}

/// Whether the directory above is there: `/run/user/UID`.
fn has_parent(directory: &LocalPath) -> bool {
    let Some(above) = directory.file("..") else { return false };
    let end = directory.as_bytes().iter().rposition(|byte| *byte == b'/').unwrap_or(0);
    let mut path = [0; stp_proto::local::path::PATH_BYTES_MAX];
    path[..end].copy_from_slice(&above.as_bytes()[..end]);
    let Ok(path) = CStr::from_bytes_until_nul(&path) else { return false };
    match raw::open(path, libc::O_PATH | libc::O_DIRECTORY) {
        Ok(fd) => {
            raw::close(fd);
            true
        }
        Err(_) => false,
    }
}

fn variable(name: &CStr) -> Option<&'static [u8]> {
    // SAFETY: the name ends in NUL; nobody changes the environment while libraries are loaded.
    let value = unsafe { libc::getenv(name.as_ptr()) };
    if value.is_null() {
        return None;
    }
    // SAFETY: getenv gives a string that ends in NUL; it is copied before the program runs.
    Some(unsafe { CStr::from_ptr(value) }.to_bytes())
}
