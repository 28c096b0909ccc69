//! The messages on the broker's Unix socket.
//!
//! Every message is `magic(3) version(1) kind(1) zero(1) length(2)` and `length` bytes. The first
//! message of a connection is the shim's [`Request`]. After a [`Request::Open`] nothing else is
//! framed: filler bytes follow ([`FILLER`], any number) up to one [`FILLER_END`], and from there on
//! the connection carries the app's bytes both ways. After a [`Request::Watch`] that is granted a
//! byte follows for each change of the session's state, its number ([`state_number`]), until the
//! session ends. Every other request gets one [`Reply`], and the connection ends.
//!
//! Because of the filler the app's socket is not writable while its connect is under way, as a TCP
//! socket is not: the kernel says so as long as the filler lies unread. So the broker reads the
//! filler when, and only when, the session is established.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

pub use super::act::{Act, EMOVED, NAMED_BYTES_MAX, Names, Told, state_number};
use super::bytes::{Reader, Writer};
use super::{Cookie, Family};
use crate::steps;

/// The bytes between an [`Open`] and the app's own.
pub const FILLER: u8 = 0;
/// The one byte that ends the filler.
pub const FILLER_END: u8 = 1;
/// The longest message, head included.
pub const MESSAGE_BYTES_MAX: usize = 1_024;
/// The length of a [`Reply::Watched`]; what follows it belongs to the program.
pub const WATCHED_BYTES: usize = HEAD + 4;
/// The longest host name a [`Resolve`] may carry.
pub const HOST_BYTES_MAX: usize = 255;

const HEAD: usize = 8;
const MAGIC: [u8; 4] = *b"stL\x01";

/// What the shim asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Request<'a> {
    /// This connection is the app's socket from now on.
    Open(Open),
    /// Which address stands for a name.
    Resolve(Resolve<'a>),
    /// Which name a virtual address stands for.
    Name(IpAddr),
    /// How an app socket fares; answered at once.
    SocketState(Cookie),
    /// The app has set `SO_LINGER` to {1, 0}, or taken it back: closing means abort.
    Linger(Cookie, bool),
    /// The app has set `TCP_USER_TIMEOUT` after its connect, in milliseconds; 0: no such time.
    UserTimeout(Cookie, u32),
    /// A routed connect that went to the kernel instead of a session.
    Passed(Passed),
    /// Where a connection comes from that the app has accepted from this machine.
    Accepted(Accepted),
    /// A program that knows of sessions wants something of its own (`session.h`).
    Act(Cookie, Act),
    /// It wants to know what the ends of a session of its own are called.
    Names(Cookie),
    /// It wants to be told by this connection when a session of its own changes its state.
    Watch(Cookie),
    /// Is a broker there, and of which version.
    Hello,
}

/// A connect that the route map gives to a session, and that the shim left to the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Passed {
    /// The destination as the app wrote it.
    pub destination: SocketAddr,
    /// Why there is no session.
    pub why: PassedWhy,
}

/// The two ends of a connection that the app has accepted.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Accepted {
    /// The other end, as the kernel has it.
    pub from: SocketAddr,
    /// The app's end.
    pub to: SocketAddr,
}

/// Why a routed connect went to the kernel.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PassedWhy {
    /// The socket has more descriptors or epoll registrations than the shim carries over.
    TooManyReferences,
    /// The socket is registered with epoll, and the system does not say how.
    UnreadableReferences,
    /// The app had bound the socket to an interface, which a session's links do not keep to.
    Interface,
    /// The app had bound the socket to an address that is not the one a session's links use.
    SourceAddress,
}

impl core::fmt::Display for PassedWhy {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            PassedWhy::TooManyReferences => {
                "its socket has more duplicates or epoll registrations than can be carried over"
            }
            PassedWhy::UnreadableReferences => {
                "its socket is registered with epoll, and /proc cannot be read to see how"
            }
            PassedWhy::Interface => "the program bound its socket to an interface",
            PassedWhy::SourceAddress => "the program bound its socket to another source address",
        })
    }
}

/// A connect that the route map says is ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Open {
    /// The new socket's identity.
    pub cookie: Cookie,
    /// The family of the socket the app had made.
    pub family: Family,
    /// The destination as the app wrote it.
    pub destination: SocketAddr,
    /// What `getsockname` answers: an address of this machine and a reserved port.
    pub local: SocketAddr,
    /// The app's process id as it sees itself; the kernel's word for it is `SO_PEERCRED`.
    pub pid: u32,
    /// What the app has set on the socket.
    pub flags: OpenFlags,
}

/// Facts about the app's socket at the time of its connect.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct OpenFlags {
    /// The connect was a non-blocking one.
    pub nonblocking: bool,
    /// The app itself had bound the socket, so address or port matter to it.
    pub bound: bool,
    /// `SO_LINGER` is {1, 0}: closing means abort.
    pub abortive: bool,
    /// `SO_KEEPALIVE` is set.
    pub keepalive: bool,
    /// The app's TCP socket comes along as a descriptor; it holds the reserved port.
    pub reserved: bool,
}

/// A question for the address of a host name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Resolve<'a> {
    /// The name as the app wrote it.
    pub host: &'a str,
    /// The port it is wanted for, where the app said one.
    pub port: Option<u16>,
}

/// What the broker answers.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Reply<'a> {
    /// To [`Request::Resolve`].
    Resolved(Resolved),
    /// To [`Request::Name`]; nothing when the address was never given out.
    Name(Option<&'a str>),
    /// To [`Request::SocketState`].
    SocketState(SocketState),
    /// To [`Request::Linger`], [`Request::UserTimeout`] and [`Request::Passed`].
    Done,
    /// To [`Request::Accepted`]: the peer that the app should see; none if the kernel's is right.
    Peer(Option<SocketAddr>),
    /// To [`Request::Act`]: how it fares, before anything that was wanted has happened; nothing
    /// when there is no such session.
    Told(Option<Told<'a>>),
    /// To [`Request::Names`]; nothing when there is no such session.
    Names(Option<Names<'a>>),
    /// To [`Request::Watch`]: 0, or why not, as an errno.
    Watched(i32),
    /// To [`Request::Hello`]: process id of the broker.
    Hello {
        /// The broker's process id.
        pid: u32,
    },
}

/// The answer for a host name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Resolved {
    /// The virtual addresses that stand for it.
    Virtual {
        /// For IPv4, and the first one for unspecified families.
        v4: Ipv4Addr,
        /// For IPv6, and the second one for unspecified families.
        v6: Option<Ipv6Addr>,
    },
    /// No route for it: ask the system.
    NotRouted,
    /// A name of ours that nobody offers.
    Unknown,
    /// It cannot be said now.
    TryAgain,
}

/// How an app socket fares.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SocketState {
    /// Never heard of, or long ago.
    Unknown,
    /// The connect is under way.
    Pending,
    /// The session is established.
    Established {
        /// Smoothed round-trip time of the link, 0 when there is none.
        rtt_us: u32,
        /// Bytes taken from the app that the far end has not acknowledged.
        unacknowledged: u32,
    },
    /// The connect was refused, with this errno.
    Refused(i32),
    /// The session was aborted, with this errno.
    Reset(i32),
    /// Both directions ended in order.
    Closed,
}

/// Why bytes are no message. The sender is to blame.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum WireError {
    /// Not our magic, or another version.
    #[error("not a message of this version: begins {0:02x?}")]
    Magic([u8; 4]),
    /// Longer than any message.
    #[error("message of {0} bytes, at most {MESSAGE_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// No such kind.
    #[error("message of unknown kind {0}")]
    Kind(u8),
    /// The content of this kind does not hold what it must.
    #[error("malformed content in a message of kind {0}")]
    Content(u8),
}

const OPEN: u8 = 1;
const RESOLVE: u8 = 2;
const NAME: u8 = 3;
const SOCKET_STATE: u8 = 4;
const LINGER: u8 = 5;
const HELLO: u8 = 6;
const PASSED: u8 = 7;
const ACCEPTED: u8 = 8;
const ACT: u8 = 9;
const NAMES: u8 = 10;
const WATCH: u8 = 11;
const USER_TIMEOUT: u8 = 12;
const REPLY: u8 = 0x80;

/// A message in a fixed buffer.
pub struct Message {
    bytes: [u8; MESSAGE_BYTES_MAX],
    length: usize,
}

impl Message {
    /// What goes onto the socket.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes[..self.length]
    }

    /// Nothing when the content does not fit, which only a name that is too long brings about.
    fn build(kind: u8, content: impl FnOnce(&mut Writer<'_>)) -> Option<Message> {
        let mut bytes = [0; MESSAGE_BYTES_MAX];
        let (head, room) = bytes.split_at_mut(HEAD);
        let mut writer = Writer::new(room);
        content(&mut writer);
        let length = writer.end()?;
        head[..4].copy_from_slice(&MAGIC);
        head[4] = kind;
        head[6..].copy_from_slice(&u16::try_from(length).ok()?.to_le_bytes());
        Some(Message { bytes, length: HEAD + length })
    }
}

/// Kind, content, and length of the whole message.
type Parts<'a> = (u8, &'a [u8], usize);

/// Takes the message at the front of `input` apart.
/// Nothing when more bytes are needed.
fn split(input: &[u8]) -> Result<Option<Parts<'_>>, WireError> {
    steps::note(0);
    let known = input.len().min(MAGIC.len());
    if input[..known] != MAGIC[..known] {
        let mut begin = [0; 4];
        begin[..known].copy_from_slice(&input[..known]);
        return Err(WireError::Magic(begin));
    }
    let Some(head) = input.get(..HEAD) else {
        return Ok(None);
    };
    let length = HEAD + usize::from(u16::from_le_bytes([head[6], head[7]]));
    if length > MESSAGE_BYTES_MAX {
        return Err(WireError::TooLong(length));
    }
    Ok(input.get(HEAD..length).map(|content| (head[4], content, length)))
}

impl<'a> Request<'a> {
    /// The message for this request; nothing when a host name in it is too long.
    #[must_use]
    pub fn encode(&self) -> Option<Message> {
        match self {
            Request::Open(open) => Message::build(OPEN, |out| {
                out.bytes(&open.cookie.0);
                out.u8(if open.family == Family::V4 { 4 } else { 6 });
                out.address(&open.destination);
                out.address(&open.local);
                out.u32(open.pid);
                out.u8(open.flags.to_bits());
            }),
            Request::Resolve(resolve) if resolve.host.len() > HOST_BYTES_MAX => None,
            Request::Resolve(resolve) => Message::build(RESOLVE, |out| {
                out.u8(u8::from(resolve.port.is_some()));
                out.u16(resolve.port.unwrap_or(0));
                out.bytes(resolve.host.as_bytes());
            }),
            Request::Name(address) => {
                Message::build(NAME, |out| out.address(&SocketAddr::new(*address, 0)))
            }
            Request::SocketState(cookie) => {
                Message::build(SOCKET_STATE, |out| out.bytes(&cookie.0))
            }
            Request::Linger(cookie, on) => Message::build(LINGER, |out| {
                out.bytes(&cookie.0);
                out.u8(u8::from(*on));
            }),
            Request::UserTimeout(cookie, ms) => Message::build(USER_TIMEOUT, |out| {
                out.bytes(&cookie.0);
                out.u32(*ms);
            }),
            Request::Passed(passed) => Message::build(PASSED, |out| {
                out.address(&passed.destination);
                out.u8(passed.why.to_number());
            }),
            Request::Accepted(accepted) => Message::build(ACCEPTED, |out| {
                out.address(&accepted.from);
                out.address(&accepted.to);
            }),
            Request::Act(cookie, act) => Message::build(ACT, |out| {
                out.bytes(&cookie.0);
                out.u8(act.to_number());
            }),
            Request::Names(cookie) => Message::build(NAMES, |out| out.bytes(&cookie.0)),
            Request::Watch(cookie) => Message::build(WATCH, |out| out.bytes(&cookie.0)),
            Request::Hello => Message::build(HELLO, |_| {}),
        }
    }

    /// Reads the request at the front of `input` and says how long it is; nothing when more bytes
    /// are needed.
    pub fn decode(input: &'a [u8]) -> Result<Option<(Request<'a>, usize)>, WireError> {
        let Some((kind, content, length)) = split(input)? else {
            return Ok(None);
        };
        let mut reader = Reader::new(content);
        let request = match kind {
            OPEN => Open::read(&mut reader).map(Request::Open),
            RESOLVE => {
                return Resolve::read(reader).map_or(Err(WireError::Content(kind)), |it| {
                    Ok(Some((Request::Resolve(it), length)))
                });
            }
            NAME => reader.address().map(|address| Request::Name(address.ip())),
            SOCKET_STATE => reader.array().map(|cookie| Request::SocketState(Cookie(cookie))),
            LINGER => reader
                .array()
                .zip(reader.u8())
                .map(|(cookie, on)| Request::Linger(Cookie(cookie), on != 0)),
            USER_TIMEOUT => reader
                .array()
                .zip(reader.u32())
                .map(|(cookie, ms)| Request::UserTimeout(Cookie(cookie), ms)),
            PASSED => Passed::read(&mut reader).map(Request::Passed),
            ACCEPTED => reader
                .address()
                .zip(reader.address())
                .map(|(from, to)| Request::Accepted(Accepted { from, to })),
            ACT => {
                let cookie = reader.array().map(Cookie);
                cookie.zip(reader.u8().and_then(Act::from_number)).map(|(c, a)| Request::Act(c, a))
            }
            NAMES => reader.array().map(|cookie| Request::Names(Cookie(cookie))),
            WATCH => reader.array().map(|cookie| Request::Watch(Cookie(cookie))),
            HELLO => Some(Request::Hello),
            other => return Err(WireError::Kind(other)),
        };
        match request {
            Some(request) if reader.rest().is_empty() => Ok(Some((request, length))),
            _ => Err(WireError::Content(kind)),
        }
    }
}

impl Open {
    fn read(input: &mut Reader<'_>) -> Option<Open> {
        let cookie = Cookie(input.array()?);
        let family = match input.u8()? {
            4 => Family::V4,
            6 => Family::V6,
            _ => return None,
        };
        let (destination, local) = (input.address()?, input.address()?);
        let (pid, flags) = (input.u32()?, OpenFlags::from_bits(input.u8()?)?);
        Some(Open { cookie, family, destination, local, pid, flags })
    }
}

impl Passed {
    fn read(input: &mut Reader<'_>) -> Option<Passed> {
        let (destination, why) = (input.address()?, PassedWhy::from_number(input.u8()?)?);
        Some(Passed { destination, why })
    }
}

impl PassedWhy {
    fn to_number(self) -> u8 {
        match self {
            PassedWhy::TooManyReferences => 1,
            PassedWhy::UnreadableReferences => 2,
            PassedWhy::Interface => 3,
            PassedWhy::SourceAddress => 4,
        }
    }

    fn from_number(number: u8) -> Option<PassedWhy> {
        match number {
            1 => Some(PassedWhy::TooManyReferences),
            2 => Some(PassedWhy::UnreadableReferences),
            3 => Some(PassedWhy::Interface),
            4 => Some(PassedWhy::SourceAddress),
            _ => None,
        }
    }
}

impl OpenFlags {
    fn to_bits(self) -> u8 {
        u8::from(self.nonblocking)
            | u8::from(self.bound) << 1
            | u8::from(self.abortive) << 2
            | u8::from(self.keepalive) << 3
            | u8::from(self.reserved) << 4
    }

    fn from_bits(bits: u8) -> Option<OpenFlags> {
        let bit = |at: u8| bits >> at & 1 != 0;
        (bits < 1 << 5).then(|| OpenFlags {
            nonblocking: bit(0),
            bound: bit(1),
            abortive: bit(2),
            keepalive: bit(3),
            reserved: bit(4),
        })
    }
}

impl<'a> Resolve<'a> {
    fn read(mut input: Reader<'a>) -> Option<Resolve<'a>> {
        let (has_port, port) = (input.u8()?, input.u16()?);
        let host = core::str::from_utf8(input.rest()).ok()?;
        let fits = !host.is_empty() && host.len() <= HOST_BYTES_MAX && !host.contains('\0');
        fits.then_some(Resolve { host, port: (has_port != 0).then_some(port) })
    }
}

impl<'a> Reply<'a> {
    /// The message for this reply; nothing when a name in it is too long.
    #[must_use]
    pub fn encode(&self) -> Option<Message> {
        match self {
            Reply::Resolved(resolved) => Message::build(REPLY | RESOLVE, |out| match resolved {
                Resolved::Virtual { v4, v6 } => {
                    out.u8(0);
                    out.bytes(&v4.octets());
                    out.u8(u8::from(v6.is_some()));
                    out.bytes(&v6.unwrap_or(Ipv6Addr::UNSPECIFIED).octets());
                }
                Resolved::NotRouted => out.u8(1),
                Resolved::Unknown => out.u8(2),
                Resolved::TryAgain => out.u8(3),
            }),
            Reply::Name(name) => {
                Message::build(REPLY | NAME, |out| out.bytes(name.unwrap_or("").as_bytes()))
            }
            Reply::SocketState(state) => Message::build(REPLY | SOCKET_STATE, |out| {
                let (kind, first, second) = state.to_fields();
                out.u8(kind);
                out.u32(first);
                out.u32(second);
            }),
            Reply::Done => Message::build(REPLY | LINGER, |_| {}),
            Reply::Peer(peer) => Message::build(REPLY | ACCEPTED, |out| {
                if let Some(peer) = peer {
                    out.address(peer);
                }
            }),
            Reply::Told(told) => Message::build(REPLY | ACT, |out| {
                if let Some(told) = told {
                    told.put(out);
                }
            }),
            Reply::Names(names) => Message::build(REPLY | NAMES, |out| {
                if let Some(names) = names {
                    names.put(out);
                }
            }),
            Reply::Watched(errno) => {
                Message::build(REPLY | WATCH, |out| out.u32(errno.unsigned_abs()))
            }
            Reply::Hello { pid } => Message::build(REPLY | HELLO, |out| out.u32(*pid)),
        }
    }

    /// Reads the reply at the front of `input`; nothing when more bytes are needed.
    pub fn decode(input: &'a [u8]) -> Result<Option<(Reply<'a>, usize)>, WireError> {
        let Some((kind, content, length)) = split(input)? else {
            return Ok(None);
        };
        let mut reader = Reader::new(content);
        let reply = match kind ^ REPLY {
            RESOLVE => Resolved::read(&mut reader).map(Reply::Resolved),
            NAME => {
                let name = core::str::from_utf8(reader.rest());
                let name = name.map_err(|_| WireError::Content(kind))?;
                return Ok(Some((Reply::Name((!name.is_empty()).then_some(name)), length)));
            }
            SOCKET_STATE => SocketState::read(&mut reader).map(Reply::SocketState),
            LINGER => Some(Reply::Done),
            ACT if content.is_empty() => Some(Reply::Told(None)),
            ACT => {
                let told = Told::read(reader).ok_or(WireError::Content(kind))?;
                return Ok(Some((Reply::Told(Some(told)), length)));
            }
            ACCEPTED if content.is_empty() => Some(Reply::Peer(None)),
            ACCEPTED => reader.address().map(|peer| Reply::Peer(Some(peer))),
            NAMES if content.is_empty() => Some(Reply::Names(None)),
            NAMES => Names::read(&mut reader).map(|names| Reply::Names(Some(names))),
            WATCH => reader.u32().and_then(|it| i32::try_from(it).ok()).map(Reply::Watched),
            HELLO => reader.u32().map(|pid| Reply::Hello { pid }),
            _ => return Err(WireError::Kind(kind)),
        };
        match reply {
            Some(reply) if reader.rest().is_empty() => Ok(Some((reply, length))),
            _ => Err(WireError::Content(kind)),
        }
    }
}

impl Resolved {
    fn read(input: &mut Reader<'_>) -> Option<Resolved> {
        match input.u8()? {
            0 => {
                let v4: [u8; 4] = input.array()?;
                let has_v6 = input.u8()? != 0;
                let v6: [u8; 16] = input.array()?;
                Some(Resolved::Virtual { v4: v4.into(), v6: has_v6.then(|| v6.into()) })
            }
            1 => Some(Resolved::NotRouted),
            2 => Some(Resolved::Unknown),
            3 => Some(Resolved::TryAgain),
            _ => None,
        }
    }
}

impl SocketState {
    fn to_fields(self) -> (u8, u32, u32) {
        match self {
            SocketState::Unknown => (0, 0, 0),
            SocketState::Pending => (1, 0, 0),
            SocketState::Established { rtt_us, unacknowledged } => (2, rtt_us, unacknowledged),
            SocketState::Refused(errno) => (3, errno.unsigned_abs(), 0),
            SocketState::Reset(errno) => (4, errno.unsigned_abs(), 0),
            SocketState::Closed => (5, 0, 0),
        }
    }

    fn read(input: &mut Reader<'_>) -> Option<SocketState> {
        let (kind, first, second) = (input.u8()?, input.u32()?, input.u32()?);
        // Linux has no errno beyond 4095, and 0 would be no error.
        let errno = || i32::try_from(first).ok().filter(|errno| (1..4096).contains(errno));
        match kind {
            0 => Some(SocketState::Unknown),
            1 => Some(SocketState::Pending),
            2 => Some(SocketState::Established { rtt_us: first, unacknowledged: second }),
            3 => errno().map(SocketState::Refused),
            4 => errno().map(SocketState::Reset),
            5 => Some(SocketState::Closed),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::State;

    fn requests() -> Vec<Request<'static>> {
        let open = Open {
            cookie: Cookie([9; 16]),
            family: Family::V6,
            destination: "[fe80::1%2]:80".parse().unwrap(),
            local: "10.0.0.1:40000".parse().unwrap(),
            pid: 4711,
            flags: OpenFlags { nonblocking: true, reserved: true, ..OpenFlags::default() },
        };
        vec![
            Request::Open(open),
            Request::Resolve(Resolve { host: "www.web.at.example.com.stp", port: Some(80) }),
            Request::Resolve(Resolve { host: "h", port: None }),
            Request::Name(IpAddr::V4(Ipv4Addr::new(127, 192, 0, 1))),
            Request::Name(IpAddr::V6(Ipv6Addr::LOCALHOST)),
            Request::SocketState(Cookie([3; 16])),
            Request::Linger(Cookie([4; 16]), true),
            Request::UserTimeout(Cookie([4; 16]), 12_345),
            Request::Passed(Passed {
                destination: "192.0.2.1:80".parse().unwrap(),
                why: PassedWhy::TooManyReferences,
            }),
            Request::Passed(Passed {
                destination: "[2001:db8::1]:22".parse().unwrap(),
                why: PassedWhy::SourceAddress,
            }),
            Request::Accepted(Accepted {
                from: "127.0.0.1:40000".parse().unwrap(),
                to: "[::1]:40001".parse().unwrap(),
            }),
            Request::Act(Cookie([5; 16]), Act::Look),
            Request::Act(Cookie([5; 16]), Act::Abort),
            Request::Names(Cookie([6; 16])),
            Request::Watch(Cookie([7; 16])),
            Request::Hello,
        ]
    }

    fn replies() -> Vec<Reply<'static>> {
        vec![
            Reply::Resolved(Resolved::Virtual { v4: Ipv4Addr::LOCALHOST, v6: None }),
            Reply::Resolved(Resolved::Virtual {
                v4: Ipv4Addr::LOCALHOST,
                v6: Some(Ipv6Addr::LOCALHOST),
            }),
            Reply::Resolved(Resolved::NotRouted),
            Reply::Resolved(Resolved::Unknown),
            Reply::Resolved(Resolved::TryAgain),
            Reply::Name(Some("example.org")),
            Reply::Name(None),
            Reply::SocketState(SocketState::Unknown),
            Reply::SocketState(SocketState::Pending),
            Reply::SocketState(SocketState::Established { rtt_us: 1, unacknowledged: 2 }),
            Reply::SocketState(SocketState::Refused(111)),
            Reply::SocketState(SocketState::Reset(104)),
            Reply::SocketState(SocketState::Closed),
            Reply::Done,
            Reply::Peer(None),
            Reply::Peer(Some("198.18.0.1:20".parse().unwrap())),
            Reply::Peer(Some("[fd00::1]:20".parse().unwrap())),
            Reply::Told(None),
            Reply::Told(Some(Told {
                state: State::Suspended,
                rtt_us: 1,
                paused_ms: 2,
                taken: 3,
                acknowledged: 4,
                received: 5,
                delivered: 6,
                server: "a",
            })),
            Reply::Names(None),
            Reply::Names(Some(Names { service: "www.a@b", server: "s", endpoint: "" })),
            Reply::Watched(0),
            Reply::Watched(EMOVED),
            Reply::Hello { pid: 1 },
        ]
    }

    #[test]
    fn every_request_is_read_back_and_every_part_of_one_asks_for_more() {
        for request in requests() {
            let message = request.encode().unwrap();
            let bytes = message.as_bytes();
            assert_eq!(Request::decode(bytes), Ok(Some((request, bytes.len()))));
            for end in 0..bytes.len() {
                assert_eq!(Request::decode(&bytes[..end]), Ok(None), "{request:?} to {end}");
            }
            let mut followed = bytes.to_vec();
            followed.extend([0; 3]);
            assert_eq!(Request::decode(&followed), Ok(Some((request, bytes.len()))));
        }
    }

    #[test]
    fn every_reply_is_read_back_and_every_part_of_one_asks_for_more() {
        for reply in replies() {
            let message = reply.encode().unwrap();
            let bytes = message.as_bytes();
            assert_eq!(Reply::decode(bytes), Ok(Some((reply, bytes.len()))));
            for end in 0..bytes.len() {
                assert_eq!(Reply::decode(&bytes[..end]), Ok(None), "{reply:?} to {end}");
            }
        }
    }

    #[test]
    fn garbage_is_refused_at_its_first_byte() {
        assert!(matches!(Request::decode(b"G"), Err(WireError::Magic(_))));
        assert!(matches!(Request::decode(b"GET / HTTP/1.1\r\n"), Err(WireError::Magic(_))));
        let mut long = *Request::Hello.encode().unwrap().as_bytes().first_chunk::<8>().unwrap();
        long[7] = 0xff;
        assert_eq!(Request::decode(&long), Err(WireError::TooLong(HEAD + 0xff00)));
        assert_eq!(
            Request::decode(&[MAGIC[0], MAGIC[1], MAGIC[2], 1, 99, 0, 0, 0]),
            Err(WireError::Kind(99))
        );
    }

    #[test]
    fn any_changed_byte_is_either_read_or_refused() {
        for request in requests() {
            let message = request.encode().unwrap();
            for at in 0..message.as_bytes().len() {
                for value in [0, 1, 0x7f, 0xff] {
                    let mut bytes = message.as_bytes().to_vec();
                    bytes[at] = value;
                    let _read_or_refused = Request::decode(&bytes);
                    let _read_or_refused = Reply::decode(&bytes);
                }
            }
        }
    }

    #[test]
    fn a_host_name_that_is_too_long_is_not_sent() {
        let host = "a".repeat(HOST_BYTES_MAX + 1);
        assert!(Request::Resolve(Resolve { host: &host, port: None }).encode().is_none());
    }
}
