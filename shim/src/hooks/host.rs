//! gethostbyname and kin: the real function is asked for the virtual address as text.

use core::cell::UnsafeCell;
use core::ffi::{CStr, c_char, c_int};
use core::ptr;

use libc::hostent;
use stp_proto::local::wire::HOST_BYTES_MAX;

use super::hook;
use super::resolve::{Text, look_up};
use crate::ops::resolve::{Answer, in_family};
use crate::outcome::Outcome;

const HOST_NOT_FOUND: c_int = 1;
const TRY_AGAIN: c_int = 2;

unsafe extern "C" {
    fn __h_errno_location() -> *mut c_int;
}

/// The text to ask for instead of a name, or the `h_errno` that says why there is none.
///
/// # Safety
/// The name is null or ends in NUL.
unsafe fn host_text(name: *const c_char, family: c_int) -> Result<Option<Text>, c_int> {
    // SAFETY: as promised.
    match unsafe { look_up(name, ptr::null()) } {
        Outcome::Bypass(_) => Ok(None),
        Outcome::Ours(Answer::Virtual(v4, v6)) => match in_family((v4, v6), family, false) {
            Some(address) => Ok(Some(Text::of(address))),
            None => Err(HOST_NOT_FOUND),
        },
        Outcome::Ours(Answer::Unknown) => Err(HOST_NOT_FOUND),
        Outcome::Ours(Answer::TryAgain) | Outcome::Errno(_) => Err(TRY_AGAIN),
    }
}

/// The name behind `text` in an answer, in the place of its address.
///
/// # Safety
/// `found` is null or an answer of the real function; `copy` has room for the name, lives as long
/// as the answer, and is nobody else's.
unsafe fn name_answer(found: *mut hostent, name: *const c_char, copy: *mut c_char) {
    if !found.is_null() {
        // SAFETY: as promised; a name of ours ends in NUL.
        unsafe {
            ptr::copy_nonoverlapping(name, copy, CStr::from_ptr(name).count_bytes() + 1);
            (*found).h_name = copy;
        }
    }
}

/// Where the functions without memory of the caller's keep the name of their last answer.
struct LastName(UnsafeCell<[c_char; HOST_BYTES_MAX + 1]>);

// SAFETY: the functions that use it may, by their contract, be called by one thread at a time.
unsafe impl Sync for LastName {}

static LAST_NAME: LastName = LastName(UnsafeCell::new([0; HOST_BYTES_MAX + 1]));

fn no_host(why: c_int) -> *mut hostent {
    // SAFETY: the pointer is this thread's own.
    unsafe { *__h_errno_location() = why };
    ptr::null_mut()
}

type GetHost = unsafe extern "C-unwind" fn(*const c_char) -> *mut hostent;

/// # Safety
/// As `gethostbyname` demands; `ask` is the real function, given our text or the caller's name.
unsafe fn host_by_name(
    name: *const c_char,
    family: c_int,
    ask: impl FnOnce(*const c_char) -> *mut hostent,
) -> *mut hostent {
    // SAFETY: the caller's own name.
    match unsafe { host_text(name, family) } {
        Ok(Some(text)) => {
            let found = ask(text.as_ptr());
            // SAFETY: names of ours are no longer than the place for the last one.
            unsafe { name_answer(found, name, LAST_NAME.0.get().cast()) };
            found
        }
        Ok(None) => ask(name),
        Err(why) => no_host(why),
    }
}

hook! {
    /// Resolves a name to IPv4.
    [gethostbyname] (name: *const c_char) -> *mut hostent, real => {
        let real: GetHost = real;
        // SAFETY: the caller's own name, or our text in its place.
        unsafe { host_by_name(name, libc::AF_INET, |text| real(text)) }
    }
}

hook! {
    /// Resolves a name to a family.
    [gethostbyname2] (name: *const c_char, family: c_int) -> *mut hostent, real => {
        // SAFETY: the caller's own arguments, or our text in the name's place.
        unsafe { host_by_name(name, family, |text| real(text, family)) }
    }
}

hook! {
    /// Resolves a name to IPv4, with memory of the caller's.
    [gethostbyname_r] (
        name: *const c_char, entry: *mut hostent, buffer: *mut c_char, size: usize,
        found: *mut *mut hostent, why: *mut c_int
    ) -> c_int, real => {
        // SAFETY: the caller's own name.
        match unsafe { host_text(name, libc::AF_INET) } {
            // SAFETY: the caller's own arguments, our text in the name's place.
            Ok(Some(text)) => unsafe {
                let length = CStr::from_ptr(name).count_bytes() + 1;
                let Some(rest) = size.checked_sub(length) else { return libc::ERANGE };
                let result = real(text.as_ptr(), entry, buffer, rest, found, why);
                name_answer(*found, name, buffer.add(rest));
                result
            },
            // SAFETY: the caller's own arguments.
            Ok(None) => unsafe { real(name, entry, buffer, size, found, why) },
            // SAFETY: the caller's own places.
            Err(code) => unsafe { no_entry(code, found, why) },
        }
    }
}

hook! {
    /// Resolves a name to a family, with memory of the caller's.
    [gethostbyname2_r] (
        name: *const c_char, family: c_int, entry: *mut hostent, buffer: *mut c_char, size: usize,
        found: *mut *mut hostent, why: *mut c_int
    ) -> c_int, real => {
        // SAFETY: the caller's own name.
        match unsafe { host_text(name, family) } {
            // SAFETY: the caller's own arguments, our text in the name's place.
            Ok(Some(text)) => unsafe {
                let length = CStr::from_ptr(name).count_bytes() + 1;
                let Some(rest) = size.checked_sub(length) else { return libc::ERANGE };
                let result = real(text.as_ptr(), family, entry, buffer, rest, found, why);
                name_answer(*found, name, buffer.add(rest));
                result
            },
            // SAFETY: the caller's own arguments.
            Ok(None) => unsafe { real(name, family, entry, buffer, size, found, why) },
            // SAFETY: the caller's own places.
            Err(code) => unsafe { no_entry(code, found, why) },
        }
    }
}

/// # Safety
/// Both places can be written to.
unsafe fn no_entry(code: c_int, found: *mut *mut hostent, why: *mut c_int) -> c_int {
    // SAFETY: as promised.
    unsafe {
        *found = ptr::null_mut();
        *why = code;
    }
    if code == TRY_AGAIN { libc::EAGAIN } else { 0 }
}
