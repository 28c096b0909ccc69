//! What a decision comes to. Every decision of [`crate::ops`] that may leave a call to the kernel
//! gives one of these three answers, and every hook acts on it in the same way.

use crate::raw::{Errno, set_errno};

/// What becomes of a call.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome<T> {
    /// The call is answered by the shim, with this result.
    Ours(T),
    /// The real function is called with the program's own arguments.
    Bypass(Bypass),
    /// The call fails with this errno.
    Errno(Errno),
}

/// Why the real function is called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Bypass {
    /// The shim itself has a bug; it stays out of the way.
    Panicked,
    /// The arguments are wrong in a way that the kernel describes better.
    BadArgument,
    /// The address is neither IPv4 nor IPv6, or is not of the socket's family.
    OtherFamily,
    /// No route leads to the destination.
    Unrouted,
    /// The socket is not a stream socket of TCP.
    NotTcp,
    /// The TCP socket is connected, connecting or listening already.
    InUse,
    /// The socket is not a session's.
    NotOurs,
    /// A session could not take over all that the program has done to its socket.
    CannotCarry,
    /// No broker runs, and the configuration says to connect directly then.
    BrokerAbsent,
    /// The kernel does the same for a session's socket as for a TCP socket.
    Native,
    /// The name is not routed.
    OtherName,
    /// The result of the real call is right as it is.
    Right,
}

impl<T> Outcome<T> {
    /// The outcome with another result.
    pub fn map<U>(self, change: impl FnOnce(T) -> U) -> Outcome<U> {
        match self {
            Outcome::Ours(result) => Outcome::Ours(change(result)),
            Outcome::Bypass(why) => Outcome::Bypass(why),
            Outcome::Errno(errno) => Outcome::Errno(errno),
        }
    }
}

impl<T: From<i8>> Outcome<T> {
    /// What the hook returns: the result, -1 with errno set, or what `real` gives.
    #[inline]
    pub fn finish(self, real: impl FnOnce() -> T) -> T {
        match self {
            Outcome::Ours(result) => result,
            Outcome::Bypass(_) => real(),
            Outcome::Errno(errno) => {
                set_errno(errno);
                T::from(-1)
            }
        }
    }
}
