//! Legacy FTP clients, unmodified, before real FTP servers: every client, passive and active,
//! through everything that can happen to links and servers.
//!
//! A bounded part of it runs always; `scripts/ftp` runs all of it and prints the table of
//! docs/ftp.md. Needs root and /dev/net/tun.

#![expect(clippy::print_stdout, reason = "the table is what people look at")]

mod cases;
mod client;
mod compare;
mod crowd;
mod differential;
mod direct;
mod fault;
mod hostile;
mod interactive;
mod kept;
mod others;
mod table;
mod tls;
mod uploads;
mod world;
