//! getaddrinfo and getaddrinfo_a: for names of ours the real function is asked for the virtual
//! address as text, so that all it gives back is its own to free.

use core::ffi::{CStr, c_char, c_int};
use core::fmt::Write;
use core::net::{IpAddr, SocketAddr};
use core::ptr;

use libc::{addrinfo, sigevent, sockaddr, socklen_t};

use super::hook;
use crate::address::{ADDRESS_BYTES, from_kernel};
use crate::guard::decide;
use crate::ops::broker::Host;
use crate::ops::resolve::{self as names, Answer};
use crate::outcome::{Bypass, Outcome};
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
pub unsafe fn look_up(name: *const c_char, service: *const c_char) -> Outcome<Answer> {
    if name.is_null() {
        return Outcome::Bypass(Bypass::BadArgument);
    }
    // SAFETY: as promised.
    let host = unsafe { CStr::from_ptr(name) };
    // SAFETY: as promised.
    let service = (!service.is_null()).then(|| unsafe { CStr::from_ptr(service) }.to_bytes());
    decide(Outcome::Bypass(Bypass::Panicked), || names::decide(host.to_bytes(), service))
}

type GetAddrInfo = unsafe extern "C-unwind" fn(
    *const c_char,
    *const c_char,
    *const addrinfo,
    *mut *mut addrinfo,
) -> c_int;

/// What the system knows of a host, in the family of a socket.
pub fn first_address(host: &Host, fd: c_int, port: u16) -> Option<SocketAddr> {
    static REAL: crate::real::Real<GetAddrInfo> =
        // SAFETY: this is the prototype of the function of this name.
        unsafe { crate::real::Real::new("getaddrinfo\0") };
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
        let stands_for_it = match unsafe { look_up(name, service) } {
            // SAFETY: as above.
            Outcome::Bypass(_) => return unsafe { real(name, service, hints, found) },
            Outcome::Errno(_) | Outcome::Ours(Answer::TryAgain) => return libc::EAI_AGAIN,
            Outcome::Ours(Answer::Unknown) => return libc::EAI_NONAME,
            Outcome::Ours(Answer::Virtual(v4, v6)) => (v4, v6),
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
        let Some(address) = names::in_family(stands_for_it, wishes.ai_family, mapped) else {
            return libc::EAI_NONAME;
        };
        let text = Text::of(address);
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
            // SAFETY: the caller's list has `nitems` entries, each null or a question.
            let question = unsafe { *list.add(at) };
            // SAFETY: as above.
            let is_ours = !question.is_null() && unsafe {
                !matches!(look_up((*question).name, (*question).service), Outcome::Bypass(_))
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

type GetNameInfo = unsafe extern "C-unwind" fn(
    *const sockaddr,
    socklen_t,
    *mut c_char,
    socklen_t,
    *mut c_char,
    socklen_t,
    c_int,
) -> c_int;

hook! {
    /// Says the name behind an address. For a virtual address it is the name that it stands for.
    [getnameinfo] (
        address: *const sockaddr, length: socklen_t, host: *mut c_char, host_size: socklen_t,
        service: *mut c_char, service_size: socklen_t, flags: c_int
    ) -> c_int, real => {
        let wants_name = flags & libc::NI_NUMERICHOST == 0 && !host.is_null() && host_size > 0;
        let outcome = if wants_name {
            // SAFETY: the caller's own address.
            unsafe { name_behind(address, length) }
        } else {
            Outcome::Bypass(Bypass::BadArgument)
        };
        let real: GetNameInfo = real;
        match outcome {
            // SAFETY: the caller's own arguments.
            Outcome::Bypass(_) | Outcome::Errno(_) => unsafe {
                real(address, length, host, host_size, service, service_size, flags)
            },
            Outcome::Ours(None) if flags & libc::NI_NAMEREQD != 0 => libc::EAI_NONAME,
            // SAFETY: as above; the system is not asked for a name.
            Outcome::Ours(None) => unsafe {
                let flags = flags | libc::NI_NUMERICHOST;
                real(address, length, host, host_size, service, service_size, flags)
            },
            Outcome::Ours(Some(name)) => {
                let name = name.as_c_str().to_bytes_with_nul();
                if name.len() > host_size as usize {
                    return libc::EAI_OVERFLOW;
                }
                // SAFETY: the buffer has room for this many bytes.
                unsafe { ptr::copy_nonoverlapping(name.as_ptr(), host.cast(), name.len()) };
                if service.is_null() || service_size == 0 {
                    return 0;
                }
                let (no_host, flags) = (ptr::null_mut(), flags & !libc::NI_NAMEREQD);
                // SAFETY: the caller's own arguments, without the host.
                unsafe { real(address, length, no_host, 0, service, service_size, flags) }
            }
        }
    }
}

/// The name behind an address as C has it.
///
/// # Safety
/// `address` leads to `length` bytes.
pub unsafe fn name_behind(address: *const sockaddr, length: socklen_t) -> Outcome<Option<Host>> {
    decide(Outcome::Bypass(Bypass::Panicked), || {
        // SAFETY: the kernel is asked whether the memory is there; the caller keeps it.
        let bytes = unsafe { raw::copy_in::<ADDRESS_BYTES>(address.cast(), length as usize) };
        match bytes {
            Some(bytes) => names::name_of(&bytes[..bytes.len().min(length as usize)]),
            None => Outcome::Bypass(Bypass::BadArgument),
        }
    })
}
