//! What the shim and the broker of one machine say to each other, and the facts both keep.
//!
//! - [`wire`]: the messages on the broker's Unix socket. The first message of a connection says
//!   what it is for; after an [`wire::Open`] the connection *is* the app's socket.
//! - [`socket_name`]: the abstract name an app-side socket is bound to. The name is the table: a
//!   plain `getsockname` on any descriptor says whether it is ours and all that is needed to
//!   answer for it, after fork, dup and exec as well.
//! - [`routes`]: the file that tells the shim which destinations are routed, mapped and read in
//!   place, so that a program that has no route pays next to nothing.
//! - [`pause`]: the file that tells the shim which sessions have no link at present.
//! - [`mirror`]: other origins that a program names in its environment.
//! - [`path`]: where the socket and the route file are.
//!
//! Everything is pure and bounded, survives any input, and does not allocate where the shim runs
//! it. There is no network order here: both ends are one machine, and one build in most cases; a
//! version number stands where two builds could meet.

pub mod mirror;
pub mod path;
pub mod pause;
pub mod routes;
pub mod socket_name;
pub mod wire;

mod act;
mod bytes;

/// The random identity of one app socket; the broker's answers about it are asked for by this.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Cookie(pub [u8; 16]);

/// The address family of the socket the app made, which is not always that of the address.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Family {
    /// `AF_INET`.
    V4,
    /// `AF_INET6`; also for IPv4 addresses mapped into it.
    V6,
}
