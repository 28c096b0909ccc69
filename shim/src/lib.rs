//! `libsession.so`: lets unmodified programs use sessions. Loaded by `LD_PRELOAD`.
//!
//! A program's TCP connection to a routed destination is replaced, at the moment of its connect, by
//! a Unix socket to the broker. From then on the kernel does nearly everything as it would for TCP;
//! the functions hooked here make good what differs. Everything else goes to the real functions
//! untouched, and a program that has no route runs as without us (DESIGN 3.1, SHIM.md).
//!
//! [`hooks`] convert C's arguments and nothing else; [`ops`] decide; [`map`] says what is routed;
//! [`raw`] are the system calls made by ourselves. State of a socket is kept by the kernel: in the
//! name it is bound to, and in its filter program ([`ops::kept`]). No descriptor stays open between
//! calls, no lock is taken, nothing is allocated and no thread is started.
//!
//! Hooked: connect, `__connect` · getsockname, getpeername, shutdown · getsockopt, setsockopt, ioctl
//! · read, readv, recv, recvfrom, recvmsg, recvmmsg and their `__` and `_chk` forms · send, `__send`,
//! sendto, sendmsg, sendmmsg · getaddrinfo, getaddrinfo_a, gethostbyname, gethostbyname2 and their
//! `_r` forms · dlopen (x86-64 only).
//!
//! Not hooked, on purpose: socket, write, writev, sendfile, splice, close, dup, fork, exec, fcntl,
//! poll, select, epoll: the kernel does it. syscall: who goes to the kernel directly is not ours;
//! virtual addresses then lead nowhere. res_query and kin: only addresses are ours to give.

#[cfg(feature = "fault")]
pub mod fault;
pub mod guard;
pub mod hooks;
pub mod map;
pub mod ops;
pub mod raw;
pub mod real;
pub mod surroundings;

/// Runs when the library is loaded, before the program's first instruction: afterwards nothing has
/// to be looked up any more.
extern "C" fn load() {
    let errno = raw::errno();
    guard::silence();
    hooks::look_up_redhook();
    #[cfg(feature = "fault")]
    fault::load();
    guard::decide((), || {
        surroundings::find();
        map::load_first();
    });
    raw::set_errno(errno);
}

#[used]
#[unsafe(link_section = ".init_array")]
static LOAD: extern "C" fn() = load;
