//! Reading and sending. The bytes are the kernel's business; only ends, errors and addresses
//! differ.

use core::ffi::{c_int, c_uint, c_void};
use core::ptr;

use libc::{iovec, mmsghdr, msghdr, sockaddr, socklen_t, timespec};

use super::hook;
use crate::address::ADDRESS_BYTES;
use crate::guard::decide;
use crate::ops::process;
use crate::ops::stream::{self, Discard};
use crate::ops::wait::{self, Pausing, Set};
use crate::outcome::{Bypass, Outcome};
use crate::raw::{copy_in, errno};

const PANICKED: Bypass = Bypass::Panicked;

/// Makes a call on a socket again whose `SO_RCVTIMEO` or `SO_SNDTIMEO`, by name, has run out while
/// its session had no link.
#[inline]
fn patient(fd: c_int, option: c_int, flags: c_int, mut call: impl FnMut() -> isize) -> isize {
    let mut result = call();
    if result != -1 || errno() != libc::EAGAIN || !wait::may_have_waited() {
        return result;
    }
    let timeout = decide(None, || wait::socket_timeout(fd, option, flags));
    let Some(timeout_ms) = timeout else { return result };
    let mut pausing = Pausing::default();
    while result == -1
        && errno() == libc::EAGAIN
        && decide(false, || pausing.expired(timeout_ms, Set::One(fd)).is_some())
    {
        result = call();
    }
    result
}

const READING: c_int = libc::SO_RCVTIMEO;
const SENDING: c_int = libc::SO_SNDTIMEO;

/// The result of a read, with TCP's errno where the Unix socket has another end.
#[inline]
fn read_result(fd: c_int, result: isize, wanted: bool) -> isize {
    if !stream::may_differ(result, wanted, errno) {
        return result;
    }
    decide(Outcome::Bypass(PANICKED), || stream::after_read(fd, result)).finish(|| result)
}

/// The result of a send, with TCP's errno where the Unix socket has another.
#[inline]
fn send_result(fd: c_int, result: isize) -> isize {
    if result != -1 || errno() != libc::ECONNRESET {
        return result;
    }
    decide(Outcome::Bypass(PANICKED), || stream::after_send(fd)).finish(|| result)
}

/// Whether a send failed only because it names an address.
#[inline]
fn address_refused(fd: c_int, result: isize) -> bool {
    let why = errno();
    result == -1 && decide(false, || stream::ignores_address(fd, why))
}

/// Whether an address that came with a message must be hidden.
///
/// # Safety
/// `address` is null or leads to `length` bytes.
unsafe fn is_brokers(fd: c_int, address: *const sockaddr, length: socklen_t) -> bool {
    if address.is_null() || length < 2 {
        return false;
    }
    // SAFETY: as promised.
    let family = c_int::from(unsafe { (*address).sa_family });
    decide(false, || stream::hides_sender(fd, family))
}

hook! {
    /// Reads.
    [read, __read] (fd: c_int, at: *mut c_void, length: usize) -> isize, real => {
        // SAFETY: the caller's own arguments.
        let result = patient(fd, READING, 0, || unsafe { real(fd, at, length) });
        read_result(fd, result, length > 0)
    }
}

hook! {
    /// Reads, with the size of the buffer checked by the compiler's wish.
    [__read_chk] (fd: c_int, at: *mut c_void, length: usize, size: usize) -> isize, real => {
        // SAFETY: the caller's own arguments.
        let result = patient(fd, READING, 0, || unsafe { real(fd, at, length, size) });
        read_result(fd, result, length > 0)
    }
}

hook! {
    /// Reads into several places.
    [readv] (fd: c_int, places: *const iovec, count: c_int) -> isize, real => {
        // SAFETY: the caller's own arguments.
        let result = patient(fd, READING, 0, || unsafe { real(fd, places, count) });
        read_result(fd, result, count > 0)
    }
}

hook! {
    /// Receives.
    [recv, __recv] (fd: c_int, at: *mut c_void, length: usize, flags: c_int) -> isize, real => {
        if discards(fd, flags) {
            // SAFETY: none of the caller's memory is touched.
            return unsafe { discard(fd, length, flags) };
        }
        // SAFETY: the caller's own arguments.
        let result = patient(fd, READING, flags, || unsafe { real(fd, at, length, flags) });
        read_result(fd, result, length > 0)
    }
}

fn discards(fd: c_int, flags: c_int) -> bool {
    flags & libc::MSG_TRUNC != 0 && decide(false, || stream::discards(fd, flags))
}

/// Receives into nowhere as much as is there, at most `wanted` bytes.
///
/// # Safety
/// The calls may unwind when the thread is cancelled.
unsafe fn discard(fd: c_int, wanted: usize, flags: c_int) -> isize {
    let mut nowhere = [0u8; 4_096];
    let mut discard = Discard::new(wanted, flags);
    let mut last = 0;
    while let Some((length, flags)) = discard.next(nowhere.len()) {
        // SAFETY: memory of our own.
        last = unsafe { recv(fd, nowhere.as_mut_ptr().cast(), length, flags) };
        if let Some(result) = decide(Some(last), || discard.took(fd, last)) {
            return result;
        }
    }
    last
}

hook! {
    /// Receives, with the size of the buffer checked.
    [__recv_chk] (
        fd: c_int, at: *mut c_void, length: usize, size: usize, flags: c_int
    ) -> isize, real => {
        if discards(fd, flags) {
            // SAFETY: none of the caller's memory is touched.
            let result = unsafe { discard(fd, length, flags) };
            return result;
        }
        // SAFETY: the caller's own arguments.
        let result = patient(fd, READING, flags, || unsafe { real(fd, at, length, size, flags) });
        read_result(fd, result, length > 0)
    }
}

hook! {
    /// Receives, and says from whom: a connected TCP socket says nobody.
    [recvfrom] (
        fd: c_int, at: *mut c_void, length: usize, flags: c_int,
        from: *mut sockaddr, from_length: *mut socklen_t
    ) -> isize, real => {
        if discards(fd, flags) {
            // SAFETY: none of the caller's memory is touched.
            let result = unsafe { discard(fd, length, flags) };
            // SAFETY: the caller's own places; a connected TCP socket says nobody.
            unsafe { no_sender(result, from, from_length) };
            return result;
        }
        // SAFETY: the caller's own arguments.
        let result = patient(fd, READING, flags, || unsafe {
            real(fd, at, length, flags, from, from_length)
        });
        // SAFETY: the kernel has filled both when it received something.
        unsafe { hide_sender(fd, result, from, from_length) };
        read_result(fd, result, length > 0)
    }
}

hook! {
    /// Receives, and says from whom, with the size of the buffer checked.
    [__recvfrom_chk] (
        fd: c_int, at: *mut c_void, length: usize, size: usize, flags: c_int,
        from: *mut sockaddr, from_length: *mut socklen_t
    ) -> isize, real => {
        if discards(fd, flags) {
            // SAFETY: none of the caller's memory is touched.
            let result = unsafe { discard(fd, length, flags) };
            // SAFETY: the caller's own places; a connected TCP socket says nobody.
            unsafe { no_sender(result, from, from_length) };
            return result;
        }
        // SAFETY: the caller's own arguments.
        let result = patient(fd, READING, flags, || unsafe {
            real(fd, at, length, size, flags, from, from_length)
        });
        // SAFETY: the kernel has filled both when it received something.
        unsafe { hide_sender(fd, result, from, from_length) };
        read_result(fd, result, length > 0)
    }
}

/// # Safety
/// `from_length` leads to a number if `from` is not null.
unsafe fn no_sender(result: isize, from: *mut sockaddr, from_length: *mut socklen_t) {
    if result >= 0 && !(from.is_null() || from_length.is_null()) {
        // SAFETY: as promised.
        unsafe { *from_length = 0 };
    }
}

/// # Safety
/// Both pointers are null or were accepted by the kernel.
unsafe fn hide_sender(fd: c_int, result: isize, from: *mut sockaddr, from_length: *mut socklen_t) {
    // SAFETY: as promised, as the call succeeded.
    unsafe {
        if result >= 0
            && !(from.is_null() || from_length.is_null())
            && is_brokers(fd, from, *from_length)
        {
            *from_length = 0;
        }
    }
}

hook! {
    /// Receives a message.
    [recvmsg] (fd: c_int, message: *mut msghdr, flags: c_int) -> isize, real => {
        // SAFETY: the caller's own arguments.
        let result = patient(fd, READING, flags, || unsafe { real(fd, message, flags) });
        if result >= 0 {
            // SAFETY: the kernel has accepted and filled it.
            unsafe { hide_name(fd, message) };
        }
        // SAFETY: as above; at the end of a stream it was accepted as well.
        let wanted = result == 0 && unsafe { has_room(message) };
        read_result(fd, result, wanted)
    }
}

hook! {
    /// Receives several messages.
    [recvmmsg] (
        fd: c_int, messages: *mut mmsghdr, count: c_uint, flags: c_int, wait: *mut timespec
    ) -> c_int, real => {
        // SAFETY: the caller's own arguments.
        let result = unsafe { real(fd, messages, count, flags, wait) };
        for at in 0..usize::try_from(result).unwrap_or(0) {
            // SAFETY: the kernel has accepted and filled the first `result` of them.
            unsafe { hide_name(fd, &raw mut (*messages.add(at)).msg_hdr) };
        }
        if result < 0 { read_result(fd, -1, false) as c_int } else { result }
    }
}

/// # Safety
/// The message was accepted by the kernel.
unsafe fn hide_name(fd: c_int, message: *mut msghdr) {
    // SAFETY: as promised.
    unsafe {
        if is_brokers(fd, (*message).msg_name.cast(), (*message).msg_namelen) {
            (*message).msg_namelen = 0;
        }
    }
}

/// # Safety
/// The message was accepted by the kernel.
unsafe fn has_room(message: *const msghdr) -> bool {
    // SAFETY: the caller promises that this many places are there.
    unsafe {
        let (places, count) = ((*message).msg_iov, (*message).msg_iovlen);
        (0..count).any(|at| (*places.add(at)).iov_len > 0)
    }
}

hook! {
    /// Sends.
    [send, __send] (fd: c_int, at: *const c_void, length: usize, flags: c_int) -> isize, real => {
        // SAFETY: the caller's own arguments.
        let result = patient(fd, SENDING, flags, || unsafe { real(fd, at, length, flags) });
        send_result(fd, result)
    }
}

hook! {
    /// Sends to an address, which a connected TCP socket ignores.
    [sendto] (
        fd: c_int, at: *const c_void, length: usize, flags: c_int,
        to: *const sockaddr, to_length: socklen_t
    ) -> isize, real => {
        // SAFETY: the caller's own arguments.
        if process::may_know_virtual() && unsafe { goes_astray(fd, to, to_length) } {
            return -1;
        }
        if !to.is_null() && flags & libc::MSG_FASTOPEN != 0
            // SAFETY: the caller's own arguments.
            && let Some(result) = unsafe { fast_open(fd, to, to_length) }
            && result != 0
        {
            return -1;
        }
        // SAFETY: the caller's own arguments.
        let mut result =
            patient(fd, SENDING, flags, || unsafe { real(fd, at, length, flags, to, to_length) });
        if address_refused(fd, result) {
            // SAFETY: as above, without the address.
            result = unsafe { real(fd, at, length, flags, ptr::null(), 0) };
        }
        send_result(fd, result)
    }
}

hook! {
    /// Sends a message.
    [sendmsg] (fd: c_int, message: *const msghdr, flags: c_int) -> isize, real => {
        if process::may_know_virtual()
            // SAFETY: the kernel is asked whether the message is there; the caller keeps it.
            && let Some((to, length)) = unsafe { name_of(message) }
            // SAFETY: the caller's own arguments.
            && unsafe { goes_astray(fd, to, length) }
        {
            return -1;
        }
        if flags & libc::MSG_FASTOPEN != 0
            // SAFETY: the kernel is asked whether the message is there; the caller keeps it.
            && let Some((to, length)) = unsafe { name_of(message) }
            // SAFETY: the caller's own arguments.
            && unsafe { fast_open(fd, to, length) }.is_some_and(|result| result != 0)
        {
            return -1;
        }
        // SAFETY: the caller's own arguments.
        let mut result = patient(fd, SENDING, flags, || unsafe { real(fd, message, flags) });
        if address_refused(fd, result) {
            // SAFETY: the kernel has read the message whole; the copy lacks the address.
            let mut nameless = unsafe { *message };
            (nameless.msg_name, nameless.msg_namelen) = (ptr::null_mut(), 0);
            // SAFETY: as above.
            result = unsafe { real(fd, &raw const nameless, flags) };
        }
        send_result(fd, result)
    }
}

hook! {
    /// Sends several messages.
    [sendmmsg] (fd: c_int, messages: *mut mmsghdr, count: c_uint, flags: c_int) -> c_int, real => {
        // SAFETY: the caller's own arguments.
        let mut result = unsafe { real(fd, messages, count, flags) };
        if address_refused(fd, result as isize) && count > 0 {
            // One at a time, without the address; the caller sends the rest again.
            // SAFETY: the kernel has read the first message.
            let mut nameless = unsafe { *messages };
            (nameless.msg_hdr.msg_name, nameless.msg_hdr.msg_namelen) = (ptr::null_mut(), 0);
            // SAFETY: a message of our own.
            result = unsafe { real(fd, &raw mut nameless, 1, flags) };
            if result == 1 {
                // SAFETY: as above.
                unsafe { (*messages).msg_len = nameless.msg_len };
            }
        }
        send_result(fd, result as isize) as c_int
    }
}

/// Where a message is to go; nothing if it is not there or does not say.
///
/// # Safety
/// No other thread may unmap the memory meanwhile.
unsafe fn name_of(message: *const msghdr) -> Option<(*const sockaddr, socklen_t)> {
    // SAFETY: the kernel is asked first.
    unsafe { copy_in::<16>(message.cast(), 16) }?;
    // SAFETY: the first sixteen bytes, which hold both, are there.
    let (to, length) = unsafe { ((*message).msg_name, (*message).msg_namelen) };
    (!to.is_null()).then_some((to.cast_const().cast(), length))
}

/// Whether a datagram would go to a virtual address; errno is set then.
///
/// # Safety
/// `to` is null or leads to `length` bytes.
unsafe fn goes_astray(fd: c_int, to: *const sockaddr, length: socklen_t) -> bool {
    let outcome = decide(Outcome::Bypass(PANICKED), || {
        // SAFETY: the kernel is asked first.
        match unsafe { copy_in::<ADDRESS_BYTES>(to.cast(), length as usize) } {
            Some(bytes) => stream::strays(fd, &bytes[..bytes.len().min(length as usize)]),
            None => Outcome::Bypass(Bypass::BadArgument),
        }
    });
    outcome.finish(|| 0) == -1
}

/// Sending with `MSG_FASTOPEN` is connecting and sending. Nothing when no session goes to the
/// destination; otherwise the result of the connect.
///
/// # Safety
/// `to` leads to `length` bytes.
unsafe fn fast_open(fd: c_int, to: *const sockaddr, length: socklen_t) -> Option<c_int> {
    let ours = decide(false, || {
        // SAFETY: the kernel is asked first.
        let bytes = unsafe { copy_in::<ADDRESS_BYTES>(to.cast(), length as usize) };
        bytes.is_some_and(|bytes| stream::opens_fast(fd, &bytes))
    });
    // SAFETY: as promised.
    ours.then(|| unsafe { super::connect::connect(fd, to, length) })
}
