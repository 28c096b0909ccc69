//! getaddrinfo and getaddrinfo_a: for names of ours the real function is asked for the virtual
//! address as text, so that all it gives back is its own to free.

use core::ffi::{CStr, c_char, c_int};
use core::fmt::Write;
use core::net::{IpAddr, SocketAddr};
use core::ptr;

use libc::{addrinfo, sigevent};

use super::hook;
use crate::guard::decide;
use crate::ops::broker::Host;
use crate::ops::resolve::{Answer, decide as answer};
use crate::ops::{Bypass, from_kernel};
use crate::raw;

/// An address as text, NUL at the end.
pub struct Text {
    bytes: [u8; 48],
    length: usize,
}

impl Text {
    /// As the resolver reads it.
    pub fn of(ip: IpAddr) -> Text {
        let mut text = Text { bytes: [0; 48], length: 0 };
        let _an_address_fits = write!(text, "{ip}");
        text
    }

    /// As C has it.
    pub fn as_ptr(&self) -> *const c_char {
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
pub unsafe fn look_up(name: *const c_char, service: *const c_char) -> Answer {
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
        let address = from_kernel(bytes);
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

/// `struct gaicb`: one question and the place of its answer.
#[repr(C)]
pub struct Question {
    name: *const c_char,
    service: *const c_char,
    hints: *const addrinfo,
    found: *mut addrinfo,
    result: c_int,
    reserved: [c_int; 5],
}

/// Questions of one call that are answered by us; the others stay the system's.
const QUESTIONS_MAX: usize = 64;

hook! {
    /// Resolves names in the background; those of ours are answered before the call returns.
    [getaddrinfo_a] (
        mode: c_int, list: *mut *mut Question, count: c_int, event: *mut sigevent
    ) -> c_int, real => {
        let mut ours = [(0, ptr::null_mut()); QUESTIONS_MAX];
        let mut answered = 0;
        for at in 0..usize::try_from(count).unwrap_or(0) {
            // SAFETY: the caller's list has so many entries, each null or a question.
            let question = unsafe { *list.add(at) };
            // SAFETY: as above.
            let is_ours = !question.is_null() && unsafe {
                !matches!(look_up((*question).name, (*question).service), Answer::Bypass(_))
            };
            if is_ours && let Some(place) = ours.get_mut(answered) {
                // SAFETY: as above; an entry that is null is passed over by the real function.
                unsafe {
                    let it = &mut *question;
                    it.result = getaddrinfo(it.name, it.service, it.hints, &raw mut it.found);
                    *list.add(at) = ptr::null_mut();
                }
                *place = (at, question);
                answered += 1;
            }
        }
        // SAFETY: the caller's own arguments.
        let result = unsafe { real(mode, list, count, event) };
        for (at, question) in &ours[..answered] {
            // SAFETY: as above: the caller gets its list back as it was.
            unsafe { *list.add(*at) = *question };
        }
        result
    }
}
