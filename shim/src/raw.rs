//! System calls made by the shim itself.
//!
//! They go to the kernel directly, because the libc functions of these names are our own hooks,
//! and because a direct call is no cancellation point. Each wrapper is safe: it owns or borrows all
//! the memory the kernel may touch. All of them leave `errno` as it may come out; hooks save it.

use core::ffi::{c_int, c_long, c_void};
use core::mem::size_of;
use core::ptr;

/// A file descriptor of the process.
pub type Fd = c_int;
/// A Linux error number.
pub type Errno = c_int;
/// What a system call gives.
pub type Result<T> = core::result::Result<T, Errno>;

/// The value `errno` has now.
pub fn errno() -> Errno {
    // SAFETY: the pointer is this thread's own and always valid.
    unsafe { *libc::__errno_location() }
}

/// Gives `errno` a value.
pub fn set_errno(value: Errno) {
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = value }
}

fn checked(result: c_long) -> Result<c_long> {
    if result == -1 { Err(errno()) } else { Ok(result) }
}

macro_rules! syscall {
    ($number:ident $(, $argument:expr)*) => {
        // SAFETY: every wrapper below passes memory it owns or borrows for the length of the call,
        // with its true size, and the argument count the call has.
        checked(unsafe { libc::syscall(libc::$number $(, $argument)*) })
    };
}

/// A new socket.
pub fn socket(domain: c_int, kind: c_int, protocol: c_int) -> Result<Fd> {
    syscall!(SYS_socket, domain, kind, protocol).map(|fd| fd as Fd)
}

/// Closes; errors of close mean nothing here.
pub fn close(fd: Fd) {
    let _closed_anyway = syscall!(SYS_close, fd);
}

/// Puts `from` in the place of `to`.
pub fn dup3(from: Fd, to: Fd, cloexec: bool) -> Result<()> {
    let flags = if cloexec { libc::O_CLOEXEC } else { 0 };
    syscall!(SYS_dup3, from, to, flags).map(drop)
}

/// `fcntl` with a number.
pub fn fcntl(fd: Fd, command: c_int, argument: c_long) -> Result<c_int> {
    syscall!(SYS_fcntl, fd, command, argument).map(|value| value as c_int)
}

/// A socket address in the kernel's form.
#[derive(Clone, Copy)]
pub struct Address {
    /// The bytes, family first.
    pub bytes: [u8; 128],
    /// How many of them count.
    pub length: usize,
}

impl Address {
    const EMPTY: Address = Address { bytes: [0; 128], length: 0 };

    /// The address family, if there is room for one.
    pub fn family(&self) -> c_int {
        c_int::from(u16::from_ne_bytes([self.bytes[0], self.bytes[1]]))
    }

    /// What the address holds.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length.min(self.bytes.len())]
    }
}

/// The socket's own name.
pub fn getsockname(fd: Fd) -> Result<Address> {
    let mut address = Address::EMPTY;
    let mut length = address.bytes.len() as libc::socklen_t;
    syscall!(SYS_getsockname, fd, address.bytes.as_mut_ptr(), &raw mut length)?;
    address.length = length as usize;
    Ok(address)
}

/// The name of the socket's peer.
pub fn getpeername(fd: Fd) -> Result<Address> {
    let mut address = Address::EMPTY;
    let mut length = address.bytes.len() as libc::socklen_t;
    syscall!(SYS_getpeername, fd, address.bytes.as_mut_ptr(), &raw mut length)?;
    address.length = length as usize;
    Ok(address)
}

/// Binds to an address in the kernel's form.
pub fn bind(fd: Fd, address: &[u8]) -> Result<()> {
    syscall!(SYS_bind, fd, address.as_ptr(), address.len()).map(drop)
}

/// Connects to an address in the kernel's form.
pub fn connect(fd: Fd, address: &[u8]) -> Result<()> {
    syscall!(SYS_connect, fd, address.as_ptr(), address.len()).map(drop)
}

/// A socket option's bytes; says how many there are.
pub fn getsockopt(fd: Fd, level: c_int, name: c_int, value: &mut [u8]) -> Result<usize> {
    let mut length = value.len() as libc::socklen_t;
    syscall!(SYS_getsockopt, fd, level, name, value.as_mut_ptr(), &raw mut length)?;
    Ok((length as usize).min(value.len()))
}

/// A socket option that is a number.
pub fn option(fd: Fd, level: c_int, name: c_int) -> Result<c_int> {
    let mut value = [0; 4];
    getsockopt(fd, level, name, &mut value).map(|_| c_int::from_ne_bytes(value))
}

/// The state of a TCP socket that is neither connected, connecting nor listening.
pub const TCP_CLOSED: u8 = 7;

/// The state of a TCP socket, as the kernel numbers them; an error for other sockets.
pub fn tcp_state(fd: Fd) -> Result<u8> {
    let mut state = [0; 1];
    getsockopt(fd, libc::IPPROTO_TCP, libc::TCP_INFO, &mut state)?;
    Ok(state[0])
}

/// Sets a socket option.
pub fn setsockopt(fd: Fd, level: c_int, name: c_int, value: &[u8]) -> Result<()> {
    syscall!(SYS_setsockopt, fd, level, name, value.as_ptr(), value.len()).map(drop)
}

/// `SO_GET_FILTER`, whose length counts instructions of eight bytes.
pub fn get_filter(fd: Fd, program: &mut [libc::sock_filter]) -> Result<usize> {
    let mut count = program.len() as libc::socklen_t;
    let name = libc::SO_GET_FILTER;
    let room = program.as_mut_ptr();
    syscall!(SYS_getsockopt, fd, libc::SOL_SOCKET, name, room, &raw mut count)?;
    Ok((count as usize).min(program.len()))
}

/// `SO_ATTACH_FILTER`.
pub fn attach_filter(fd: Fd, program: &[libc::sock_filter]) -> Result<()> {
    let program =
        libc::sock_fprog { len: program.len() as u16, filter: program.as_ptr().cast_mut() };
    let (name, size) = (libc::SO_ATTACH_FILTER, size_of::<libc::sock_fprog>());
    syscall!(SYS_setsockopt, fd, libc::SOL_SOCKET, name, &raw const program, size).map(drop)
}

/// Sends without waiting and without a signal.
pub fn send(fd: Fd, bytes: &[u8]) -> Result<usize> {
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    let (at, length) = (bytes.as_ptr(), bytes.len());
    syscall!(SYS_sendto, fd, at, length, flags, ptr::null::<u8>(), 0).map(|count| count as usize)
}

/// Sends without waiting, and a descriptor with it.
pub fn send_with_descriptor(fd: Fd, bytes: &[u8], descriptor: Fd) -> Result<usize> {
    #[repr(C, align(8))]
    struct Control {
        head: libc::cmsghdr,
        descriptor: Fd,
    }
    // SAFETY: a cmsghdr is plain numbers.
    let mut control: Control = unsafe { core::mem::zeroed() };
    control.head.cmsg_len = size_of::<libc::cmsghdr>() + size_of::<Fd>();
    control.head.cmsg_level = libc::SOL_SOCKET;
    control.head.cmsg_type = libc::SCM_RIGHTS;
    control.descriptor = descriptor;
    let mut slice =
        libc::iovec { iov_base: bytes.as_ptr().cast_mut().cast(), iov_len: bytes.len() };
    // SAFETY: a msghdr is plain numbers and null pointers.
    let mut message: libc::msghdr = unsafe { core::mem::zeroed() };
    message.msg_iov = &raw mut slice;
    message.msg_iovlen = 1;
    message.msg_control = (&raw mut control).cast();
    message.msg_controllen = size_of::<Control>();
    let flags = libc::MSG_DONTWAIT | libc::MSG_NOSIGNAL;
    syscall!(SYS_sendmsg, fd, &raw const message, flags).map(|count| count as usize)
}

/// Receives, waiting as long as the socket's own time-out says.
pub fn recv(fd: Fd, bytes: &mut [u8]) -> Result<usize> {
    let (at, length) = (bytes.as_mut_ptr(), bytes.len());
    syscall!(SYS_recvfrom, fd, at, length, 0, ptr::null::<u8>(), 0).map(|count| count as usize)
}

/// The events of one descriptor now.
pub fn poll(fd: Fd, events: i16) -> Result<i16> {
    let mut polled = libc::pollfd { fd, events, revents: 0 };
    let now = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let none = ptr::null::<u8>();
    syscall!(SYS_ppoll, &raw mut polled, 1, &raw const now, none, 0)?;
    Ok(polled.revents)
}

/// Sleeps, by a system call of our own.
pub fn sleep_ms(ms: u64) {
    let time =
        libc::timespec { tv_sec: (ms / 1_000) as i64, tv_nsec: (ms % 1_000 * 1_000_000) as i64 };
    let none = ptr::null::<u8>();
    // A signal ends it sooner, which does no harm.
    let _ended = syscall!(SYS_nanosleep, &raw const time, none);
}

/// An `ioctl` that gives a number.
pub fn ioctl_number(fd: Fd, request: c_long) -> Result<c_int> {
    let mut value: c_int = 0;
    syscall!(SYS_ioctl, fd, request, &raw mut value).map(|_| value)
}

/// Opens for reading. The path ends in NUL.
pub fn open(path: &core::ffi::CStr, flags: c_int) -> Result<Fd> {
    let flags = flags | libc::O_RDONLY | libc::O_CLOEXEC;
    syscall!(SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags, 0).map(|fd| fd as Fd)
}

/// Reads; 0 at the end.
pub fn read(fd: Fd, bytes: &mut [u8]) -> Result<usize> {
    syscall!(SYS_read, fd, bytes.as_mut_ptr(), bytes.len()).map(|count| count as usize)
}

/// Directory entries in the kernel's form.
pub fn getdents(fd: Fd, bytes: &mut [u8]) -> Result<usize> {
    syscall!(SYS_getdents64, fd, bytes.as_mut_ptr(), bytes.len()).map(|count| count as usize)
}

/// What a link says, without NUL.
pub fn readlink(dir: Fd, name: &core::ffi::CStr, bytes: &mut [u8]) -> Result<usize> {
    syscall!(SYS_readlinkat, dir, name.as_ptr(), bytes.as_mut_ptr(), bytes.len())
        .map(|count| count as usize)
}

/// Size, owner and inode of an open file.
pub fn stat(fd: Fd) -> Result<(u64, u32, u64)> {
    // SAFETY: a stat is plain numbers.
    let mut found: libc::stat = unsafe { core::mem::zeroed() };
    syscall!(SYS_fstat, fd, &raw mut found)?;
    Ok((found.st_size as u64, found.st_uid, found.st_ino))
}

/// `epoll_ctl`.
pub fn epoll_ctl(epoll: Fd, operation: c_int, fd: Fd, events: u32, data: u64) -> Result<()> {
    let mut event = libc::epoll_event { events, u64: data };
    syscall!(SYS_epoll_ctl, epoll, operation, fd, &raw mut event).map(drop)
}

/// Whether a descriptor is registered in an epoll instance under its own number, with the file it
/// has now. `EINVAL` or `EBADF` when there is no epoll instance; other errors say that the kernel
/// does not tell.
pub fn is_registered(epoll: Fd, fd: Fd) -> Result<bool> {
    const KCMP_EPOLL_TFD: c_int = 7;
    #[repr(C)]
    struct Slot {
        epoll: u32,
        number: u32,
        offset: u32,
    }
    let slot = Slot { epoll: epoll as u32, number: fd as u32, offset: 0 };
    let own = pid();
    match syscall!(SYS_kcmp, own, own, KCMP_EPOLL_TFD, fd, &raw const slot) {
        Ok(order) => Ok(order == 0),
        Err(libc::ENOENT) => Ok(false),
        Err(errno) => Err(errno),
    }
}

/// Random bytes.
pub fn random(bytes: &mut [u8]) -> Result<()> {
    let count = syscall!(SYS_getrandom, bytes.as_mut_ptr(), bytes.len(), 0)?;
    if count as usize == bytes.len() { Ok(()) } else { Err(libc::EAGAIN) }
}

/// The process's id.
pub fn pid() -> u32 {
    syscall!(SYS_getpid).unwrap_or(0) as u32
}

/// The effective user.
pub fn euid() -> u32 {
    syscall!(SYS_geteuid).unwrap_or(0) as u32
}

/// Where a mapping begins in its file. As the seventh argument of a variadic function it lies on
/// the stack, where a shorter number would leave half of its place undefined.
const BEGIN: c_long = 0;

/// Maps a whole file for reading, shared with whoever writes it; never unmapped.
pub fn map(fd: Fd, length: usize) -> Result<*const u8> {
    let none = ptr::null::<u8>();
    let (access, kind) = (libc::PROT_READ, libc::MAP_SHARED);
    syscall!(SYS_mmap, none, length, access, kind, fd, BEGIN).map(|at| at as *const u8)
}

/// Fresh pages of our own; never unmapped.
pub fn pages(length: usize) -> Result<*mut c_void> {
    let none = ptr::null::<u8>();
    let (access, kind) =
        (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
    syscall!(SYS_mmap, none, length, access, kind, -1, BEGIN).map(|at| at as *mut c_void)
}

/// Unmaps what was not published.
///
/// # Safety
/// Nothing may point into the mapping any more.
pub unsafe fn unmap(at: *const u8, length: usize) {
    let _unmapped_anyway = syscall!(SYS_munmap, at, length);
}

/// Milliseconds of `CLOCK_MONOTONIC`, as the kernel has it: what the program is told may be held
/// back.
pub fn now_ms() -> u64 {
    now_ns() / 1_000_000
}

/// The same in nanoseconds.
pub fn now_ns() -> u64 {
    clock_ns(libc::CLOCK_MONOTONIC)
}

/// A clock of the kernel's, nanoseconds.
pub fn clock_ns(clock: c_int) -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let _valid_arguments = syscall!(SYS_clock_gettime, clock, &raw mut time);
    (time.tv_sec as u64) * 1_000_000_000 + time.tv_nsec as u64
}

/// A new timer of the kernel's, by `CLOCK_MONOTONIC`, that gives this signal.
pub fn make_timer(signal: c_int) -> Result<c_int> {
    // SAFETY: a sigevent is plain numbers and null pointers.
    let mut event: libc::sigevent = unsafe { core::mem::zeroed() };
    event.sigev_notify = libc::SIGEV_SIGNAL;
    event.sigev_signo = signal;
    let mut timer: c_int = 0;
    syscall!(SYS_timer_create, libc::CLOCK_MONOTONIC, &raw const event, &raw mut timer)?;
    Ok(timer)
}

/// Has a timer run out once, after this time; 0 stops it.
pub fn set_timer(timer: c_int, ns: u64) -> Result<()> {
    let none = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    let rest = i64::try_from(ns).unwrap_or(i64::MAX);
    let time = libc::timespec { tv_sec: rest / 1_000_000_000, tv_nsec: rest % 1_000_000_000 };
    let setting = libc::itimerspec { it_interval: none, it_value: time };
    syscall!(SYS_timer_settime, timer, 0, &raw const setting, ptr::null::<u8>()).map(drop)
}

/// Stops the timer of `alarm` and `setitimer`, and says how it stood.
pub fn take_itimer() -> Result<libc::itimerval> {
    let never = libc::timeval { tv_sec: 0, tv_usec: 0 };
    let none = libc::itimerval { it_interval: never, it_value: never };
    let mut before = none;
    syscall!(SYS_setitimer, libc::ITIMER_REAL, &raw const none, &raw mut before)?;
    Ok(before)
}

/// Has the kernel's own timer of `alarm` run out once, after this time.
pub fn ring_in_us(us: i64) {
    let time = |tv_usec| libc::timeval { tv_sec: 0, tv_usec };
    let setting = libc::itimerval { it_interval: time(0), it_value: time(us) };
    let none = ptr::null::<u8>();
    let _valid_arguments = syscall!(SYS_setitimer, libc::ITIMER_REAL, &raw const setting, none);
}

/// Has a signal handled; calls that it interrupts go on where the kernel can.
pub fn handle(signal: c_int, handler: extern "C" fn(c_int)) -> Result<()> {
    // SAFETY: a sigaction is plain numbers and null pointers.
    let mut action: libc::sigaction = unsafe { core::mem::zeroed() };
    action.sa_sigaction = handler as libc::sighandler_t;
    action.sa_flags = libc::SA_RESTART | libc::SA_ONSTACK;
    // SAFETY: an action of our own.
    let result = unsafe { libc::sigaction(signal, &raw const action, ptr::null_mut()) };
    if result == 0 { Ok(()) } else { Err(errno()) }
}

/// `SO_RCVTIMEO` or `SO_SNDTIMEO` in milliseconds; nothing when calls wait for ever.
pub fn socket_timeout_ms(fd: Fd, option: c_int) -> Option<u64> {
    let mut time = [0; 16];
    getsockopt(fd, libc::SOL_SOCKET, option, &mut time).ok()?;
    let [seconds, us] = [0, 8]
        .map(|at| time[at..].first_chunk().map_or(0, |bytes: &[u8; 8]| u64::from_ne_bytes(*bytes)));
    let total = seconds.saturating_mul(1_000).saturating_add(us / 1_000);
    (total > 0).then_some(total)
}

unsafe extern "C" {
    /// Set by libc: not zero as long as no second thread was started.
    static __libc_single_threaded: core::ffi::c_char;
}

/// Whether the process has one thread.
#[inline]
pub fn is_single_threaded() -> bool {
    // SAFETY: libc's own variable, which it writes while there is one thread.
    unsafe { (&raw const __libc_single_threaded).read_volatile() != 0 }
}

const SIGNAL_SET_BYTES: usize = 8;
/// No page is smaller.
const PAGE_MIN: usize = 4_096;

/// Holds back every signal until dropped: between the first and the last step of a swap no handler
/// may run, as it might jump out.
pub struct Quiet(u64);

impl Quiet {
    /// Begins.
    pub fn begin() -> Quiet {
        let (all, mut before) = (u64::MAX, 0u64);
        let how = libc::SIG_BLOCK;
        let _valid_arguments =
            syscall!(SYS_rt_sigprocmask, how, &raw const all, &raw mut before, SIGNAL_SET_BYTES);
        Quiet(before)
    }
}

impl Drop for Quiet {
    fn drop(&mut self) {
        let (how, none) = (libc::SIG_SETMASK, ptr::null::<u8>());
        let _valid_arguments =
            syscall!(SYS_rt_sigprocmask, how, &raw const self.0, none, SIGNAL_SET_BYTES);
    }
}

/// Whether eight bytes at `at` can be read, asked of the kernel: it copies the set before it finds
/// that there is no such way to change a mask.
fn readable(at: *const u8) -> bool {
    const NO_SUCH_WAY: c_int = -1;
    if at.is_null() {
        return false;
    }
    let none = ptr::null::<u8>();
    syscall!(SYS_rt_sigprocmask, NO_SUCH_WAY, at, none, SIGNAL_SET_BYTES) != Err(libc::EFAULT)
}

/// The number a caller's pointer leads to; nothing where the kernel would say `EFAULT`.
///
/// # Safety
/// No other thread may unmap the memory meanwhile.
pub unsafe fn number_at(at: *const u32) -> Option<u32> {
    // Eight bytes at a multiple of eight never cross a page.
    let aligned = |byte: usize| (at as usize).wrapping_add(byte) & !(SIGNAL_SET_BYTES - 1);
    let (first, last) = (aligned(0), aligned(size_of::<u32>() - 1));
    let there = !at.is_null()
        && readable(first as *const u8)
        && (first == last || readable(last as *const u8));
    // SAFETY: found readable just now.
    there.then(|| unsafe { at.read_unaligned() })
}

/// Copies what a caller's pointer points to, at least eight bytes of it; nothing when it points
/// nowhere, as the kernel would say `EFAULT` where we would crash.
///
/// # Safety
/// No other thread may unmap the memory meanwhile.
pub unsafe fn copy_in<const N: usize>(at: *const u8, length: usize) -> Option<[u8; N]> {
    let mut copy = [0; N];
    let length = length.min(N);
    let last = length.checked_sub(SIGNAL_SET_BYTES)?;
    let end = at.wrapping_add(last);
    let one_page = (at as usize) / PAGE_MIN == (end as usize + SIGNAL_SET_BYTES - 1) / PAGE_MIN;
    if at.is_null() || !readable(at) || !(one_page || readable(end)) {
        return None;
    }
    // SAFETY: begin and end were found readable, and N is far less than a page.
    unsafe { ptr::copy_nonoverlapping(at, copy.as_mut_ptr(), length) };
    Some(copy)
}
