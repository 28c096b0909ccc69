//! TLS 1.3 of an app that ends at a server, and that another server can go on with.
//!
//! rustls shakes hands ([`handshake`]). From then on the records are made and read here
//! ([`record`]), because all that they follow from is little: a cipher suite, two secrets and two
//! sequence numbers ([`secret`]). A ticket carries those, and where in the plaintext a record
//! begins; whoever has the same plaintext then makes the same bytes ([`writer`]). Bytes go in,
//! bytes come out.
//!
//! **Invariant:** a record that goes out follows from the plaintext and from the newest ticket
//! before it: it is 16 KiB long, counted from there, unless the ticket or the end of the response
//! says otherwise.
//!
//! Deliberately not here: sockets, sessions, HTTP, and tickets' seals.
#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod alert;
pub mod certificate;
pub mod handshake;
pub mod reader;
pub mod record;
pub mod secret;
pub mod writer;

#[cfg(test)]
mod tests;
