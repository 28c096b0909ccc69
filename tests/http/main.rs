//! Real HTTP servers and a misbehaving one behind two servers of Session, and curl before them, all
//! on loopback ports of the test's own.
//!
//! What must hold in every case: what the app gets is a prefix of exactly one server's file, the
//! end that it sees is one that plain TCP could have shown, and the service is not asked for ever.
#![expect(clippy::print_stdout, reason = "the figures are what people look at")]

mod bed;
mod behind;
mod clients;
mod fault;
mod front;
mod kinds;
mod liar;
mod lie;
mod real;
mod tls;
