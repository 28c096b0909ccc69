//! What a server announces of connections that belong to a session (R90): connections that the app
//! will make, or that are to be made to the app.

use core::net::{IpAddr, SocketAddr};

use super::WireError;
use super::frame::{Fields, Put, Raw, kind, write};
use crate::handle::Handle;

const AWAIT: u8 = 1;
const REACH: u8 = 2;
const DROP: u8 = 3;
const RANGE: u8 = 4;
/// Most ports of a range.
pub const RANGE_MAX: u16 = 1_000;

/// ANNOUNCE, sent just before the DATA at `at`.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct Announce {
    /// Down position before whose DATA it is sent.
    pub at: u64,
    /// What is announced.
    pub announcement: Announcement,
}

impl Announce {
    pub(crate) fn read(raw: Raw<'_>) -> Result<Announce, WireError> {
        raw.check_flags(0)?;
        let mut f = Fields(raw.payload);
        let at = f.u64("at")?;
        let announcement = Announcement::read(&mut f)?;
        f.end()?;
        Ok(Announce { at, announcement })
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        write(out, kind::ANNOUNCE, 0, |p| {
            p.put_u64(self.at);
            self.announcement.put(p);
        });
    }
}

/// What a CONNECT says of the connection at the app, for services whose sessions belong together
/// (R90, R92).
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Belongs {
    /// The token under which this session was announced; none: it was not.
    pub token: Option<Handle>,
    /// The address of the app's peer, as the app knows it.
    pub peer: Option<SocketAddr>,
}

/// An announcement, in the stream order of the session it belongs to.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum Announcement {
    /// A connection of the app to this port of its peer is a session of mine, with this token.
    Await {
        /// The port.
        port: u16,
        /// Names the session.
        token: Handle,
    },
    /// Connect to the listener that the app has at this address, and make a session of mine of it.
    Reach {
        /// Where the app listens.
        address: SocketAddr,
        /// Names the session.
        token: Handle,
    },
    /// The session of this token cannot go on: the app is to see an error.
    Drop {
        /// Names the session.
        token: Handle,
    },
    /// Every connection of the app to one of these ports of its peer is a session of mine, with
    /// this token, as long as this session lives.
    Range {
        /// The first port.
        first: u16,
        /// The last one, at most [`RANGE_MAX`] further on.
        last: u16,
        /// Names the sessions.
        token: Handle,
    },
}

impl Announcement {
    /// What names the session.
    #[must_use]
    pub fn token(&self) -> Handle {
        match self {
            Self::Await { token, .. }
            | Self::Reach { token, .. }
            | Self::Drop { token }
            | Self::Range { token, .. } => *token,
        }
    }

    fn put(&self, p: &mut Vec<u8>) {
        let (kind, address) = match self {
            Self::Await { port, .. } => (AWAIT, SocketAddr::new(IpAddr::from([0; 4]), *port)),
            Self::Reach { address, .. } => (REACH, *address),
            Self::Drop { .. } => (DROP, SocketAddr::new(IpAddr::from([0; 4]), 0)),
            Self::Range { first, last, .. } => {
                let [high, low] = last.to_be_bytes();
                (RANGE, SocketAddr::new(IpAddr::from([0, 0, high, low]), *first))
            }
        };
        p.put_u8(kind);
        p.put_handle(self.token());
        put_address(p, address);
    }

    fn read(f: &mut Fields<'_>) -> Result<Self, WireError> {
        let (kind, token) = (f.u8("announcement")?, f.handle("token")?);
        let address = read_address(f)?;
        let port = address.port();
        let wanted = kind == DROP || port > 0;
        if token.is_none() || !wanted {
            return Err(WireError::BadValue("announcement"));
        }
        match kind {
            AWAIT => Ok(Self::Await { port, token }),
            REACH => Ok(Self::Reach { address, token }),
            DROP => Ok(Self::Drop { token }),
            RANGE => {
                let IpAddr::V4(v4) = address.ip() else {
                    return Err(WireError::BadValue("announcement"));
                };
                let [_, _, high, low] = v4.octets();
                let last = u16::from_be_bytes([high, low]);
                let fits = (port..=port.saturating_add(RANGE_MAX)).contains(&last);
                let range = Self::Range { first: port, last, token };
                fits.then_some(range).ok_or(WireError::BadValue("announcement"))
            }
            _ => Err(WireError::BadValue("announcement")),
        }
    }
}

/// An address as 16 bytes and a port; IPv4 as mapped.
pub(crate) fn put_address(p: &mut Vec<u8>, address: SocketAddr) {
    let ip = match address.ip() {
        IpAddr::V4(v4) => v4.to_ipv6_mapped(),
        IpAddr::V6(v6) => v6,
    };
    p.extend_from_slice(&ip.octets());
    p.put_u16(address.port());
}

pub(crate) fn read_address(f: &mut Fields<'_>) -> Result<SocketAddr, WireError> {
    let ip = IpAddr::from(f.array::<16>("address")?).to_canonical();
    Ok(SocketAddr::new(ip, f.u16("port")?))
}
