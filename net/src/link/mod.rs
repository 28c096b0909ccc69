//! A link: one TCP connection with TLS 1.3 in it, by which two known keys exchange records.
//!
//! A link carries whole records of at most [`RECORD_MAX`] bytes and knows nothing of what is in
//! them. It is made for one task that waits for several things at once: `poll_readable` and
//! `poll_writable` wait, `try_read` and `try_flush` never do. All that one read brought is opened
//! and lent together; records to be sent are sealed into the buffer the kernel takes them from. A
//! link that waits holds no buffer.
//!
//! Where to start: [`Link::dial`] and [`Acceptor`] (`dial.rs`, `accept.rs`), the handshake
//! (`handshake.rs`, `tls.rs`), the records (`channel.rs`, `buffer.rs`).
//!
//! **Invariant:** what was handed to [`Link::send`] leaves in that order, whole, or the link is
//! broken; what [`Link::try_read`] lends was authenticated, in order, and is lent once.

mod accept;
mod buffer;
mod channel;
mod dial;
mod handshake;
mod pool;
mod proxy;
mod race;
mod record;
mod secured;
mod socket;
mod ssh;
mod tcp_info;
mod tls;

pub use accept::{AcceptError, Acceptor, listen};
pub use dial::{Blame, DialError, Dialed, Through, connect_plain};
pub use pool::ROOM;
pub use proxy::{Detour, Proxy, ProxyWish};
pub use race::{Lost, race};
pub use record::RECORD_MAX;
pub use secured::{Link, LinkError, Records};
pub use socket::{LinkOptions, congestion};
pub use ssh::SshWay;
pub use tcp_info::{TcpInfo, sample as tcp_info_of};
pub use tls::Tls;

#[cfg(test)]
mod tests;
