//! What a session's frames travel on: a secured link to a server, or memory to the broker's own.

use std::io;
use std::task::{Context, Poll};

use stp_drive::{Carrier, MemoryLink};
use stp_net::link::{Link, Records, TcpInfo};

/// A link of a session.
#[expect(clippy::large_enum_variant, reason = "nearly every session has a secured link")]
pub enum AnyLink {
    /// To a server on the network.
    Secured(Link),
    /// To the server inside this process.
    Within(MemoryLink),
}

/// Told to a session's loop from outside.
pub type Command = stp_drive::Command<AnyLink>;

macro_rules! either {
    ($self:expr, $link:ident => $what:expr) => {
        match $self {
            AnyLink::Secured($link) => $what,
            AnyLink::Within($link) => $what,
        }
    };
}

impl Carrier for AnyLink {
    fn poll_readable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        either!(self, link => Carrier::poll_readable(link, cx))
    }

    fn poll_writable(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        either!(self, link => Carrier::poll_writable(link, cx))
    }

    fn try_read(&mut self) -> io::Result<Records<'_>> {
        either!(self, link => Carrier::try_read(link))
    }

    fn send(&mut self, frame: &[u8]) {
        either!(self, link => Carrier::send(link, frame));
    }

    fn try_flush(&mut self) -> io::Result<bool> {
        either!(self, link => Carrier::try_flush(link))
    }

    fn unsent(&self) -> usize {
        either!(self, link => Carrier::unsent(link))
    }

    fn has_room(&self) -> bool {
        either!(self, link => Carrier::has_room(link))
    }

    fn tcp_info(&self) -> io::Result<TcpInfo> {
        either!(self, link => Carrier::tcp_info(link))
    }

    fn ends(&self) -> String {
        either!(self, link => Carrier::ends(link))
    }

    fn linger(self) {
        either!(self, link => Carrier::linger(link));
    }
}
