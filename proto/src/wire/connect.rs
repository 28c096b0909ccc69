//! CONNECT and its two answers. CONNECT opens a session, or (mode transfer) brings one over from
//! another server. It is idempotent on (client key, SH_A): a repeated one gets the same CONNECT_OK.

use core::fmt;
use core::time::Duration;

use super::frame::{Fields, Put, Raw, bounded, kind, seconds, write};
use super::group::{Belongs, put_address, read_address};
use super::upkeep::Upkeep;
use super::{SEAM_PROOF_MAX, WireError, put_seam, read_seam};
use crate::handle::Handle;
use crate::seam::SeamProof;

/// The version of the protocol spoken here.
pub const VERSION: u16 = 2;
/// The longest name of a service, an endpoint or a server.
pub const NAME_MAX: usize = 255;
/// The longest name of a host.
pub const HOST_MAX: usize = 253;
/// The longest ticket.
pub const TICKET_MAX: usize = 15_000;
/// The longest ticket of a gateway.
pub const GRANT_MAX: usize = 6_000;
/// The longest pass (R80).
pub const PASS_MAX: usize = 1_000;
/// Bits of the mode.
const TRANSFER: u8 = 1;
const WITH_GRANT: u8 = 2;
const RELAY: u8 = 4;
const PREPARE: u8 = 8;
/// Feature (R6): the rate wanted stands at the end of the CONNECT.
const WITH_RATE: u32 = 1;
/// The same of the token under which the session was announced (R90).
const WITH_TOKEN: u32 = 2;
/// The same of the address of the app's peer (R92).
const WITH_PEER: u32 = 4;
/// The same of how long the session is to be kept without a link (R72).
const WITH_HOLD: u32 = 8;
/// The same of the app's destination (R110).
const WITH_DESTINATION: u32 = 16;
/// The same of how the session is kept (R74). CONNECT_OK says so by the same bit, which tells each
/// end that the other one knows a SUSPEND with a time (R75).
const WITH_UPKEEP: u32 = 32;
/// The fields that are known here.
const KNOWN: u32 = WITH_RATE | WITH_TOKEN | WITH_PEER | WITH_HOLD | WITH_DESTINATION | WITH_UPKEEP;
/// The features that announce a field: known ones are read, the others' fields skipped (R6).
const FIELDS: u32 = 0xffff;
/// Feature: PASS is understood (R80).
pub const FEATURE_PASS: u32 = 1 << 16;
/// Feature: URGENT is understood (R12).
pub const FEATURE_URGENT: u32 = 1 << 17;
/// Feature: ANNOUNCE is understood (R90).
pub const FEATURE_GROUP: u32 = 1 << 18;
/// Feature: VERIFYING is understood (R69).
pub const FEATURE_VERIFYING: u32 = 1 << 19;
/// What is understood here, without a field (R6).
pub const FEATURES: u32 = FEATURE_PASS | FEATURE_URGENT | FEATURE_GROUP | FEATURE_VERIFYING;
/// The longest text that explains a denial.
pub const REASON_MAX: usize = 200;

/// CONNECT: the first frame of a link that opens or brings over a session.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct Connect<'a> {
    /// Protocol version, [`VERSION`].
    pub version: u16,
    /// SH_A, chosen by the initiator.
    pub handle: Handle,
    /// Number of this attempt (R20): the acceptor takes only a greater one than it has seen.
    pub epoch: u32,
    /// Optional abilities, bits 16 and up, such as [`FEATURE_PASS`]; the bits below announce fields
    /// (R6) and are written as those are there.
    pub features: u32,
    /// Receive buffer of the initiator, from its receive position on.
    pub window: u64,
    /// The service asked for, `service.object@domain`.
    pub service: &'a str,
    /// The endpoint that asks; may be empty.
    pub endpoint: &'a str,
    /// New session, or one that comes over.
    pub mode: ConnectMode<'a>,
    /// The gateway's ticket, if the service wants one. It is left out beside a session's own
    /// ticket, which says more.
    pub grant: Option<&'a [u8]>,
    /// The rate that the session is used to, in bytes a second; none: not known.
    pub rate: Option<u64>,
    /// How long the initiator wants the session kept without a link; none: as long as the acceptor
    /// does by itself.
    pub hold: Option<Duration>,
    /// How the initiator wants it kept; none: it knows of no classes.
    pub upkeep: Option<Upkeep>,
    /// What is to be known of the connection at the app.
    pub belongs: Belongs,
    /// Where the app wants to go, for a service that leads anywhere (R110).
    pub destination: Option<Destination<'a>>,
}

/// A destination as the app knows it.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct Destination<'a> {
    /// A name, or an address.
    pub host: &'a str,
    /// Not 0.
    pub port: u16,
}

impl fmt::Display for Destination<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]:{}", self.host, self.port),
            false => write!(f, "{}:{}", self.host, self.port),
        }
    }
}

/// What a CONNECT wants.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub enum ConnectMode<'a> {
    /// A session that begins.
    New,
    /// A session that goes on from another server.
    Transfer(TransferRequest<'a>),
    /// No session: the way to the server that has it (R81).
    Relay(RelayRequest<'a>),
    /// No session: this server may be the next for one, and can get ready (R69).
    Prepare(PrepareRequest<'a>),
}

/// What a broker tells the server to which a session would go next (R69).
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct PrepareRequest<'a> {
    /// The newest ticket, as the session's server sealed it.
    pub ticket: &'a [u8],
    /// The broker's receive position.
    pub down: u64,
}

/// What a broker tells the server through which it wants to reach another one (R81).
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct RelayRequest<'a> {
    /// The public key of the server to be reached. The relay knows from its own configuration where
    /// that server is.
    pub home: [u8; 32],
    /// What that server has given the session for this.
    pub pass: &'a [u8],
}

/// What a broker tells the server that is to continue a session (R64).
#[derive(Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct TransferRequest<'a> {
    /// The newest ticket, as the last server sealed it. None: nothing was ever ticketed.
    pub ticket: Option<&'a [u8]>,
    /// The up position the ticket covers; the new server's up stream starts there.
    pub covers: u64,
    /// The broker's receive position: the first down byte it still wants.
    pub down: u64,
    /// The first up byte the broker still has.
    pub up_from: u64,
    /// The end of what was ever sent up.
    pub up_sent: u64,
    /// Whether the app has ended its up stream.
    pub up_fin: bool,
    /// Highest epoch seen or used before this attempt.
    pub epoch: u32,
    /// Proof of the down bytes the broker holds.
    pub seam: Option<SeamProof>,
}

impl<'a> Connect<'a> {
    pub(crate) fn read(raw: Raw<'a>) -> Result<Connect<'a>, WireError> {
        raw.check_flags(0)?;
        let mut f = Fields(raw.payload);
        let version = f.u16("version")?;
        if version != VERSION {
            // What follows may look different; a server answers DenyReason::Version.
            return Ok(Connect { version, ..Connect::unknown(f.handle("handle")?) });
        }
        let mut connect = Connect {
            version,
            handle: f.handle("handle")?,
            epoch: f.u32("epoch")?,
            features: f.u32("features")?,
            window: f.u64("window")?,
            service: f.text("service", NAME_MAX)?,
            endpoint: f.text("endpoint", NAME_MAX)?,
            mode: ConnectMode::New,
            grant: None,
            rate: None,
            hold: None,
            upkeep: None,
            belongs: Belongs::default(),
            destination: None,
        };
        let mode = f.u8("mode")?;
        connect.mode = match mode & !WITH_GRANT {
            0 => ConnectMode::New,
            TRANSFER => ConnectMode::Transfer(TransferRequest::read(&mut f)?),
            RELAY => ConnectMode::Relay(RelayRequest {
                home: f.array("home")?,
                pass: f.bytes("pass", PASS_MAX)?,
            }),
            PREPARE => ConnectMode::Prepare(PrepareRequest {
                ticket: f.bytes("ticket", TICKET_MAX)?,
                down: f.u64("down")?,
            }),
            _ => return Err(WireError::BadValue("mode")),
        };
        if mode & WITH_GRANT != 0 {
            connect.grant = Some(f.bytes("grant", GRANT_MAX)?);
            if !connect.mode.wants_grant() {
                return Err(WireError::BadValue("grant"));
            }
        }
        connect.read_optional(&mut f)?;
        if connect.features & FIELDS & !KNOWN == 0 {
            f.end()?;
        }
        connect.features &= !FIELDS;
        if connect.handle.is_none() {
            return Err(WireError::BadValue("handle"));
        }
        Ok(connect)
    }

    /// The fields that the features announce, in the order of their bits (R6).
    fn read_optional(&mut self, f: &mut Fields<'a>) -> Result<(), WireError> {
        if self.features & WITH_RATE != 0 {
            self.rate = Some(f.u64("rate")?);
        }
        if self.features & WITH_TOKEN != 0 {
            let token = f.handle("token")?;
            self.belongs.token = Some(token).filter(|token| !token.is_none());
        }
        if self.features & WITH_PEER != 0 {
            self.belongs.peer = Some(read_address(f)?);
        }
        if self.features & WITH_HOLD != 0 {
            self.hold = Some(Duration::from_secs(f.u32("hold")?.into()));
        }
        if self.features & WITH_DESTINATION != 0 {
            let (host, port) = (f.text("destination", HOST_MAX)?, f.u16("port")?);
            if host.is_empty() || port == 0 {
                return Err(WireError::BadValue("destination"));
            }
            self.destination = Some(Destination { host, port });
        }
        if self.features & WITH_UPKEEP != 0 {
            self.upkeep = Some(Upkeep::read(f)?);
        }
        Ok(())
    }

    fn unknown(handle: Handle) -> Connect<'static> {
        Connect {
            version: 0,
            handle,
            epoch: 0,
            features: 0,
            window: 0,
            service: "",
            endpoint: "",
            mode: ConnectMode::New,
            grant: None,
            rate: None,
            hold: None,
            upkeep: None,
            belongs: Belongs::default(),
            destination: None,
        }
    }

    /// Appends the frame. Names longer than [`NAME_MAX`] are the caller's mistake and are cut.
    pub fn encode(&self, out: &mut Vec<u8>) {
        write(out, kind::CONNECT, 0, |p| {
            p.put_u16(self.version);
            p.put_handle(self.handle);
            p.put_u32(self.epoch);
            let bit = |there: bool, bit: u32| if there { bit } else { 0 };
            let fields = bit(self.rate.is_some(), WITH_RATE)
                | bit(self.belongs.token.is_some(), WITH_TOKEN)
                | bit(self.belongs.peer.is_some(), WITH_PEER)
                | bit(self.hold.is_some(), WITH_HOLD)
                | bit(self.destination.is_some(), WITH_DESTINATION)
                | bit(self.upkeep.is_some(), WITH_UPKEEP);
            p.put_u32(self.features & !FIELDS | fields);
            p.put_u64(self.window);
            p.put_bytes(bounded(self.service, NAME_MAX).as_bytes());
            p.put_bytes(bounded(self.endpoint, NAME_MAX).as_bytes());
            let grant = self.grant.filter(|_| self.mode.wants_grant());
            let with_grant = if grant.is_some() { WITH_GRANT } else { 0 };
            match &self.mode {
                ConnectMode::New => p.put_u8(with_grant),
                ConnectMode::Transfer(request) => {
                    p.put_u8(TRANSFER | with_grant);
                    request.put(p);
                }
                ConnectMode::Relay(request) => {
                    p.put_u8(RELAY);
                    p.extend_from_slice(&request.home);
                    p.put_bytes(request.pass);
                }
                ConnectMode::Prepare(request) => {
                    p.put_u8(PREPARE);
                    p.put_bytes(request.ticket);
                    p.put_u64(request.down);
                }
            }
            if let Some(grant) = grant {
                p.put_bytes(grant);
            }
            if let Some(rate) = self.rate {
                p.put_u64(rate);
            }
            if let Some(token) = self.belongs.token {
                p.put_handle(token);
            }
            if let Some(peer) = self.belongs.peer {
                put_address(p, peer);
            }
            if let Some(hold) = self.hold {
                p.put_u32(seconds(hold));
            }
            if let Some(Destination { host, port }) = self.destination {
                p.put_bytes(bounded(host, HOST_MAX).as_bytes());
                p.put_u16(port);
            }
            if let Some(upkeep) = self.upkeep {
                upkeep.put(p);
            }
        });
    }
}

impl ConnectMode<'_> {
    /// Whether the gateway's ticket goes along: a session's own ticket makes it needless.
    #[must_use]
    pub fn wants_grant(&self) -> bool {
        match self {
            ConnectMode::New => true,
            ConnectMode::Transfer(request) => request.ticket.is_none(),
            ConnectMode::Relay(_) | ConnectMode::Prepare(_) => false,
        }
    }
}

impl<'a> TransferRequest<'a> {
    fn read(f: &mut Fields<'a>) -> Result<TransferRequest<'a>, WireError> {
        let ticket = match f.bytes("ticket", TICKET_MAX)? {
            [] => None,
            ticket => Some(ticket),
        };
        let request = TransferRequest {
            ticket,
            covers: f.u64("covers")?,
            down: f.u64("down")?,
            up_from: f.u64("up_from")?,
            up_sent: f.u64("up_sent")?,
            up_fin: f.bool("up_fin")?,
            epoch: f.u32("epoch")?,
            seam: read_seam(f)?,
        };
        if request.up_from > request.up_sent || request.covers > request.up_sent {
            return Err(WireError::BadValue("up_sent"));
        }
        Ok(request)
    }

    fn put(&self, p: &mut Vec<u8>) {
        const { assert!(TICKET_MAX + 3 * NAME_MAX + SEAM_PROOF_MAX + 128 < super::FRAME_MAX) };
        p.put_bytes(self.ticket.unwrap_or_default());
        p.put_u64(self.covers);
        p.put_u64(self.down);
        p.put_u64(self.up_from);
        p.put_u64(self.up_sent);
        p.put_u8(u8::from(self.up_fin));
        p.put_u32(self.epoch);
        put_seam(p, self.seam.as_ref());
    }
}

/// CONNECT_OK: the server has the session.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ConnectOk<'a> {
    /// SH_A, as in the CONNECT.
    pub initiator: Handle,
    /// SH_B, chosen by the acceptor.
    pub acceptor: Handle,
    /// The epoch of the CONNECT that is answered.
    pub epoch: u32,
    /// Those of the CONNECT's abilities that the acceptor has as well (R6).
    pub features: u32,
    /// Up position from which the acceptor wants bytes.
    pub up: u64,
    /// Down position at which the acceptor starts.
    pub down: u64,
    /// Absolute up limit.
    pub limit: u64,
    /// How long the acceptor keeps a session without a link.
    pub hold: Duration,
    /// How long the acceptor remembers a closed one.
    pub tombstone: Duration,
    /// The server's name, for status.
    pub server: &'a str,
    /// How the acceptor keeps the session; none: one of them knows of no classes.
    pub upkeep: Option<Upkeep>,
}

impl<'a> ConnectOk<'a> {
    pub(crate) fn read(raw: Raw<'a>) -> Result<ConnectOk<'a>, WireError> {
        raw.check_flags(0)?;
        let mut f = Fields(raw.payload);
        let mut ok = ConnectOk {
            initiator: f.handle("initiator")?,
            acceptor: f.handle("acceptor")?,
            epoch: f.u32("epoch")?,
            features: f.u32("features")?,
            up: f.u64("up")?,
            down: f.u64("down")?,
            limit: f.u64("limit")?,
            hold: Duration::from_secs(f.u32("hold")?.into()),
            tombstone: Duration::from_secs(f.u32("tombstone")?.into()),
            server: f.text("server", NAME_MAX)?,
            upkeep: None,
        };
        if ok.features & WITH_UPKEEP != 0 {
            ok.upkeep = Some(Upkeep::read(&mut f)?);
        }
        ok.features &= !WITH_UPKEEP;
        f.end()?;
        if ok.acceptor.is_none() {
            return Err(WireError::BadValue("acceptor"));
        }
        Ok(ok)
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        write(out, kind::CONNECT_OK, 0, |p| {
            p.put_handle(self.initiator);
            p.put_handle(self.acceptor);
            p.put_u32(self.epoch);
            let upkeep = if self.upkeep.is_some() { WITH_UPKEEP } else { 0 };
            p.put_u32(self.features & !WITH_UPKEEP | upkeep);
            p.put_u64(self.up);
            p.put_u64(self.down);
            p.put_u64(self.limit);
            p.put_u32(seconds(self.hold));
            p.put_u32(seconds(self.tombstone));
            p.put_bytes(bounded(self.server, NAME_MAX).as_bytes());
            if let Some(upkeep) = self.upkeep {
                upkeep.put(p);
            }
        });
    }
}

/// Why a server does not take a session.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum DenyReason {
    /// It serves as much as it can.
    #[error("overloaded")]
    Overloaded,
    /// It does not have what is asked for.
    #[error("not here")]
    NotHere,
    /// Its copy differs from what the app was already given (R64).
    #[error("its copy differs from what was already delivered")]
    Seam,
    /// The ticket is too old.
    #[error("ticket expired")]
    Expired,
    /// Ticket and request contradict each other, or positions do not fit.
    #[error("ticket and request do not match")]
    Mismatch,
    /// The request may not be repeated.
    #[error("the request may not be repeated")]
    Unsafe,
    /// The service itself could not be reached; its errno.
    #[error("service refused, errno {0}")]
    Refused(u16),
    /// This client's key is not welcome.
    #[error("client not authorized")]
    Unauthorized,
    /// Another protocol version.
    #[error("protocol version not spoken")]
    Version,
    /// It is about to stop.
    #[error("draining")]
    Draining,
    /// It failed.
    #[error("internal error")]
    Internal,
    /// It is comparing its copy with what the app has, and goes on with that (R69).
    #[error("verifying")]
    Verifying,
}

impl DenyReason {
    fn code(self) -> (u8, u16) {
        match self {
            DenyReason::Overloaded => (1, 0),
            DenyReason::NotHere => (2, 0),
            DenyReason::Seam => (3, 0),
            DenyReason::Expired => (4, 0),
            DenyReason::Mismatch => (5, 0),
            DenyReason::Unsafe => (6, 0),
            DenyReason::Refused(errno) => (7, errno),
            DenyReason::Unauthorized => (8, 0),
            DenyReason::Version => (9, 0),
            DenyReason::Draining => (10, 0),
            DenyReason::Internal => (11, 0),
            DenyReason::Verifying => (12, 0),
        }
    }

    fn from_code(code: u8, errno: u16) -> Option<DenyReason> {
        Some(match code {
            1 => DenyReason::Overloaded,
            2 => DenyReason::NotHere,
            3 => DenyReason::Seam,
            4 => DenyReason::Expired,
            5 => DenyReason::Mismatch,
            6 => DenyReason::Unsafe,
            7 => DenyReason::Refused(errno),
            8 => DenyReason::Unauthorized,
            9 => DenyReason::Version,
            10 => DenyReason::Draining,
            11 => DenyReason::Internal,
            12 => DenyReason::Verifying,
            _ => return None,
        })
    }
}

/// CONNECT_DENIED.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct ConnectDenied<'a> {
    /// SH_A of the CONNECT.
    pub handle: Handle,
    /// The reason, for the broker's decision.
    pub why: DenyReason,
    /// How long the server wants to be left alone; zero: it does not say.
    pub retry_after: Duration,
    /// The reason in words, for a person.
    pub text: &'a str,
}

impl<'a> ConnectDenied<'a> {
    pub(crate) fn read(raw: Raw<'a>) -> Result<ConnectDenied<'a>, WireError> {
        raw.check_flags(0)?;
        let mut f = Fields(raw.payload);
        let handle = f.handle("handle")?;
        let code = f.u8("why")?;
        let errno = f.u16("errno")?;
        let retry_after = Duration::from_millis(f.u32("retry_after")?.into());
        let text = f.text("text", REASON_MAX)?;
        f.end()?;
        let why = DenyReason::from_code(code, errno).ok_or(WireError::BadValue("why"))?;
        Ok(ConnectDenied { handle, why, retry_after, text })
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (code, errno) = self.why.code();
        let clean: String = self.text.chars().filter(|c| !c.is_control()).collect();
        write(out, kind::CONNECT_DENIED, 0, |p| {
            p.put_handle(self.handle);
            p.put_u8(code);
            p.put_u16(errno);
            p.put_u32(u32::try_from(self.retry_after.as_millis()).unwrap_or(u32::MAX));
            p.put_bytes(bounded(&clean, REASON_MAX).as_bytes());
        });
    }
}

/// CONNECT_DENIED by a server before a session exists.
pub fn encode_connect_denied(
    handle: Handle,
    why: DenyReason,
    retry_after: Duration,
    text: &str,
    out: &mut Vec<u8>,
) {
    ConnectDenied { handle, why, retry_after, text }.encode(out);
}
