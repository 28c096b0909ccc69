//! getaddrinfo and gethostbyname and kin: for names of ours the real function is asked for the
//! virtual address as text, so that all it gives back is its own to free.

use core::ffi::{CStr, c_char, c_int};
use core::fmt::Write;
use core::net::{IpAddr, SocketAddr};
use core::ptr;

use libc::{addrinfo, hostent};

use super::hook;
use crate::guard::decide;
use crate::ops::broker::Host;
use crate::ops::resolve::{Answer, decide as answer};
use crate::ops::{Bypass, from_kernel};
use crate::raw;

const HOST_NOT_FOUND: c_int = 1;
const TRY_AGAIN: c_int = 2;

unsafe extern "C" {
    fn __h_errno_location() -> *mut c_int;
}

/// An address as text, NUL at the end.
struct Text {
    bytes: [u8; 48],
    length: usize,
}

impl Text {
    fn of(ip: IpAddr) -> Text {
        let mut text = Text { bytes: [0; 48], length: 0 };
        let _an_address_fits = write!(text, "{ip}");
        text
    }

    fn as_ptr(&self) -> *const c_char {
        self.bytes.as_ptr().cast()
    }
}

impl Write for Text {
    fn write_str(&mut self, more: &str) -> core::fmt::Result {
        let end = self.length + more.len();
        // The last byte stays NUL.
        let room = self.bytes[..47].get_mut(self.length..end).ok_or(core::fmt::Error)?;
        room.copy_from_slice(more.as_bytes());
        self.length = end;
        Ok(())
    }
}

/// The answer for a name as C has it.
///
/// # Safety
/// The name is null or ends in NUL, and so does the service.
unsafe fn look_up(name: *const c_char, service: *const c_char) -> Answer {
    if name.is_null() {
        return Answer::Bypass(Bypass::BadArgument);
    }
    // SAFETY: as promised.
    let host = unsafe { CStr::from_ptr(name) };
    let port = if service.is_null() {
        None
    } else {
        // SAFETY: as promised.
        unsafe { CStr::from_ptr(service) }.to_str().ok().and_then(|text| text.parse().ok())
    };
    // Port 0 is asked for by those who fill it in later.
    let port = port.filter(|port| *port != 0);
    decide(Answer::Bypass(Bypass::Panicked), || answer(host.to_bytes(), port))
}

type GetAddrInfo = unsafe extern "C-unwind" fn(
    *const c_char,
    *const c_char,
    *const addrinfo,
    *mut *mut addrinfo,
) -> c_int;

/// What the system knows of a host, in the family of a socket.
pub fn first_address(host: &Host, fd: c_int, port: u16) -> Option<SocketAddr> {
    // SAFETY: this is the prototype of the function of this name.
    static REAL: crate::real::Real<GetAddrInfo> = unsafe { crate::real::Real::new(c"getaddrinfo") };
    let real = REAL.get()?;
    // SAFETY: an addrinfo is plain numbers and pointers.
    let mut wishes: addrinfo = unsafe { core::mem::zeroed() };
    wishes.ai_family = decide(libc::AF_INET, || {
        raw::option(fd, libc::SOL_SOCKET, libc::SO_DOMAIN).unwrap_or(libc::AF_INET)
    });
    wishes.ai_socktype = libc::SOCK_STREAM;
    wishes.ai_flags = libc::AI_V4MAPPED;
    let mut found = ptr::null_mut();
    let name = host.as_c_str().as_ptr();
    // SAFETY: all of it is ours and lives on.
    let result = unsafe { real(name, ptr::null(), &raw const wishes, &raw mut found) };
    if result != 0 || found.is_null() {
        return None;
    }
    // SAFETY: the call has succeeded: there is a first entry, whose address has that length.
    let address = unsafe {
        let (at, length) = ((*found).ai_addr.cast::<u8>(), (*found).ai_addrlen as usize);
        let bytes = core::slice::from_raw_parts(at, length);
        let address = decide(None, || from_kernel(bytes));
        libc::freeaddrinfo(found);
        address
    };
    address.map(|mut address| {
        address.set_port(port);
        address
    })
}

hook! {
    /// Resolves a name.
    [getaddrinfo] (
        name: *const c_char, service: *const c_char,
        hints: *const addrinfo, found: *mut *mut addrinfo
    ) -> c_int, real => {
        // SAFETY: null or the caller's; an addrinfo is plain numbers and pointers.
        let given = unsafe { hints.as_ref() };
        if given.is_some_and(|hints| hints.ai_flags & libc::AI_NUMERICHOST != 0) {
            // Whether it is an address is the question; no name is.
            // SAFETY: the caller's own arguments.
            return unsafe { real(name, service, hints, found) };
        }
        // SAFETY: the caller's own arguments.
        let (v4, v6) = match unsafe { look_up(name, service) } {
            // SAFETY: as above.
            Answer::Bypass(_) => return unsafe { real(name, service, hints, found) },
            Answer::Unknown => return libc::EAI_NONAME,
            Answer::TryAgain => return libc::EAI_AGAIN,
            Answer::Virtual(v4, v6) => (v4, v6),
        };
        let mut wishes: addrinfo = match given {
            Some(hints) => *hints,
            // SAFETY: as above.
            None => unsafe { core::mem::zeroed() },
        };
        if given.is_none() {
            wishes.ai_flags = libc::AI_V4MAPPED;
        }
        let mapped = wishes.ai_flags & libc::AI_V4MAPPED != 0;
        let text = match (wishes.ai_family, v6) {
            (libc::AF_INET6, Some(v6)) => Text::of(v6.into()),
            (libc::AF_INET6, None) if mapped => Text::of(v4.to_ipv6_mapped().into()),
            (libc::AF_INET6, None) => return libc::EAI_NONAME,
            _ => Text::of(v4.into()),
        };
        let named = wishes.ai_flags & libc::AI_CANONNAME != 0;
        wishes.ai_flags |= libc::AI_NUMERICHOST;
        wishes.ai_flags &= !(libc::AI_ADDRCONFIG | libc::AI_CANONNAME);
        // SAFETY: the text ends in NUL and lives on; the rest is the caller's.
        let result = unsafe { real(text.as_ptr(), service, &raw const wishes, found) };
        if result == 0 && named {
            // SAFETY: the call has succeeded, so there is a first entry, without a name; the copy
            // comes from the allocator that freeaddrinfo gives it back to.
            unsafe { (**found).ai_canonname = libc::strdup(name) };
        }
        result
    }
}

/// The text to ask for instead of a name, or the `h_errno` that says why there is none.
///
/// # Safety
/// The name is null or ends in NUL.
unsafe fn host_text(name: *const c_char, family: c_int) -> Result<Option<Text>, c_int> {
    // SAFETY: as promised.
    match unsafe { look_up(name, ptr::null()) } {
        Answer::Bypass(_) => Ok(None),
        Answer::Virtual(v4, _) if family == libc::AF_INET => Ok(Some(Text::of(v4.into()))),
        Answer::Virtual(_, Some(v6)) => Ok(Some(Text::of(v6.into()))),
        Answer::Virtual(_, None) | Answer::Unknown => Err(HOST_NOT_FOUND),
        Answer::TryAgain => Err(TRY_AGAIN),
    }
}

fn no_host(why: c_int) -> *mut hostent {
    // SAFETY: the pointer is this thread's own.
    unsafe { *__h_errno_location() = why };
    ptr::null_mut()
}

macro_rules! host_hook {
    (
        #[$doc:meta] $function:ident ($name:ident: $text:ty $(, $more:ident: $kind:ty)*),
        $family:expr
    ) => {
        #[$doc]
        ///
        /// # Safety
        /// As the libc function of this name demands.
        #[unsafe(no_mangle)]
        pub unsafe extern "C-unwind" fn $function($name: $text $(, $more: $kind)*) -> *mut hostent {
            type Function = unsafe extern "C-unwind" fn($text $(, $kind)*) -> *mut hostent;
            // SAFETY: this is the prototype of the function of this name.
            static REAL: crate::real::Real<Function> = unsafe {
                crate::real::Real::new(super::c_name(concat!(stringify!($function), "\0")))
            };
            super::look_up_when_loaded!(REAL);
            let Some(real) = REAL.get() else { return no_host(TRY_AGAIN) };
            // SAFETY: the caller's own name.
            match unsafe { host_text($name, $family) } {
                // SAFETY: the caller's own arguments, or our text in the name's place.
                Ok(text) => unsafe { real(text.as_ref().map_or($name, Text::as_ptr) $(, $more)*) },
                Err(why) => no_host(why),
            }
        }
    };
}

host_hook! {
    /// Resolves a name to IPv4.
    gethostbyname (name: *const c_char), libc::AF_INET
}

host_hook! {
    /// Resolves a name to a family.
    gethostbyname2 (name: *const c_char, family: c_int), family
}

hook! {
    /// Resolves a name to IPv4, with memory of the caller's.
    [gethostbyname_r] (
        name: *const c_char, entry: *mut hostent, buffer: *mut c_char, size: usize,
        found: *mut *mut hostent, why: *mut c_int
    ) -> c_int, real => {
        // SAFETY: the caller's own name.
        match unsafe { host_text(name, libc::AF_INET) } {
            // SAFETY: the caller's own arguments, or our text in the name's place.
            Ok(text) => unsafe {
                real(text.as_ref().map_or(name, Text::as_ptr), entry, buffer, size, found, why)
            },
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
            // SAFETY: the caller's own arguments, or our text in the name's place.
            Ok(text) => unsafe {
                let name = text.as_ref().map_or(name, Text::as_ptr);
                real(name, family, entry, buffer, size, found, why)
            },
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
