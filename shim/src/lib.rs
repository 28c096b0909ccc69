//! `libsession.so`: lets unmodified programs use sessions. Loaded by `LD_PRELOAD`.
//!
//! A program's TCP connection to a routed destination is replaced, at the moment of its connect, by
//! a Unix socket to the broker. From then on the kernel does nearly everything as it would for TCP;
//! the functions hooked here make good what differs. Everything else goes to the real functions
//! untouched, and a program that has no route runs as without us. `NOTES.md` beside this crate's
//! manifest tells how each difference is made good, and what was tried.
//!
//! [`hooks`] convert C's arguments and nothing else; [`ops`] decide, with an [`outcome`]; [`map`]
//! says what is routed; [`raw`] are the system calls made by ourselves. State of a socket is kept
//! by the kernel: in the name it is bound to, and in its filter program ([`ops::kept`]). No
//! descriptor stays open between calls, no lock is taken, nothing is allocated and no thread is
//! started.
//!
//! Hooked: connect, `__connect` · getsockname, getpeername, shutdown · accept, accept4 (where FTP
//! data come from) · getsockopt, setsockopt, ioctl · read, readv, recv, recvfrom, recvmsg, recvmmsg
//! and their `__` and `_chk` forms · send, `__send`, sendto, sendmsg, sendmmsg · getaddrinfo,
//! getaddrinfo_a, getnameinfo, gethostbyname, gethostbyname2 and their `_r` forms · dlopen (x86-64
//! only) · socket, epoll_create, epoll_create1, dup, dup2, dup3, fcntl, fcntl64, epoll_ctl (only to
//! note that they were called) · poll, ppoll, select, pselect, epoll_wait, epoll_pwait,
//! epoll_pwait2 and their `__` and `_chk` forms, clock_gettime, clock_nanosleep (time-outs stand
//! still while a session has no link) · pthread_cond_timedwait, pthread_cond_clockwait,
//! sem_clockwait, pthread_mutex_clocklock, pthread_rwlock_clockrdlock, pthread_rwlock_clockwrlock,
//! timerfd_settime, timer_settime, alarm, setitimer, getitimer (only for a program whose clock
//! stands still).
//!
//! Exported besides, for programs that know of sessions: session_status, session_suspend,
//! session_resume, session_abort, session_wait, session_names, session_events, session_connect
//! (`session.h`).
//!
//! Not hooked, on purpose: write, writev, sendfile, splice, close, fork, exec: the kernel does it.
//! syscall: a program that goes to the kernel directly does so on purpose, and virtual addresses
//! then lead nowhere. res_query and its kin: we have only addresses to give.

pub mod address;
#[cfg(feature = "fault")]
pub mod fault;
pub mod guard;
pub mod hooks;
pub mod map;
pub mod ops;
pub mod outcome;
pub mod pauses;
pub mod raw;
pub mod real;
pub mod surroundings;

/// Runs when the library is loaded, before the program's first instruction: afterwards nothing has
/// to be looked up any more.
extern "C" fn load() {
    let errno = raw::errno();
    #[cfg(feature = "fault")]
    fault::load();
    guard::decide((), || {
        surroundings::find();
        map::load_first();
        ops::process::look_around();
    });
    raw::set_errno(errno);
}

#[used]
#[unsafe(link_section = ".init_array")]
static LOAD: extern "C" fn() = load;

#[used]
#[unsafe(link_section = ".init_array.00080")]
static SILENCE: extern "C" fn() = {
    // Before the first function is looked up, as one that is missing panics.
    extern "C" fn silence() {
        guard::silence();
    }
    silence
};
