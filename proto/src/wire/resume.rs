//! RESUME and its two answers: a checkpoint round that begins a new link (R46).

use core::time::Duration;

use super::WireError;
use super::checkpoint::Report;
use super::frame::{Fields, Put, Raw, kind, seconds, write};
use crate::cut::{Cut, Id};
use crate::handle::Handle;

/// RESUME: the first frame of a new link of a session that goes on.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct ResumeFrame {
    /// SH_A.
    pub initiator: Handle,
    /// SH_B.
    pub acceptor: Handle,
    /// Number of this attempt; only a greater one than seen is accepted (R20).
    pub epoch: u32,
    /// Positions of the sender's receiving side.
    pub report: Report,
    /// The sender has the end of the peer's stream.
    pub fin_received: bool,
    /// Newest acknowledged cut.
    pub acked: Cut,
    /// The pending cut, only if it is final (never a tentative one).
    pub pending: Option<Cut>,
}

impl ResumeFrame {
    pub(crate) fn read(raw: Raw<'_>) -> Result<ResumeFrame, WireError> {
        raw.check_flags(0)?;
        let mut f = Fields(raw.payload);
        let resume = ResumeFrame {
            initiator: f.handle("initiator")?,
            acceptor: f.handle("acceptor")?,
            epoch: f.u32("epoch")?,
            report: Report::read(&mut f)?,
            fin_received: f.bool("fin_received")?,
            acked: read_cut(&mut f)?,
            pending: if f.bool("pending")? { Some(read_cut(&mut f)?) } else { None },
        };
        f.end()?;
        Ok(resume)
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        write(out, kind::RESUME, 0, |p| {
            p.put_handle(self.initiator);
            p.put_handle(self.acceptor);
            p.put_u32(self.epoch);
            self.report.put(p);
            p.put_u8(u8::from(self.fin_received));
            put_cut(p, &self.acked);
            p.put_u8(u8::from(self.pending.is_some()));
            if let Some(pending) = &self.pending {
                put_cut(p, pending);
            }
        });
    }
}

/// RESUME_OK.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct ResumeOk {
    /// The epoch of the RESUME that is answered.
    pub epoch: u32,
    /// Positions of the sender's receiving side.
    pub report: Report,
    /// The sender has the end of the peer's stream.
    pub fin_received: bool,
    /// The newest cut both hold, as the receiver of this frame sees it.
    pub base: Cut,
    /// The cut this resume makes, as the receiver of this frame sees it.
    pub new: Cut,
}

impl ResumeOk {
    pub(crate) fn read(raw: Raw<'_>) -> Result<ResumeOk, WireError> {
        raw.check_flags(0)?;
        let mut f = Fields(raw.payload);
        let ok = ResumeOk {
            epoch: f.u32("epoch")?,
            report: Report::read(&mut f)?,
            fin_received: f.bool("fin_received")?,
            base: read_cut(&mut f)?,
            new: read_cut(&mut f)?,
        };
        f.end()?;
        Ok(ok)
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        write(out, kind::RESUME_OK, 0, |p| {
            p.put_u32(self.epoch);
            self.report.put(p);
            p.put_u8(u8::from(self.fin_received));
            put_cut(p, &self.base);
            put_cut(p, &self.new);
        });
    }
}

/// Why a RESUME is refused.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum ResumeDenial {
    /// The user at the other end suspended the session.
    #[error("suspended at the other end")]
    Suspended {
        /// For how much longer, in whole seconds; zero: that is not known (R75).
        left: Duration,
    },
    /// The epoch is not greater than one already seen.
    #[error("stale epoch")]
    Stale,
    /// The other end has an attempt of its own under way, and it stands.
    #[error("the other end is resuming itself")]
    Collision,
    /// The session has ended well; everything up to `received` arrived.
    #[error("closed at {received}")]
    Closed {
        /// Received position there.
        received: u64,
    },
    /// The session was aborted.
    #[error("reset with code {code}")]
    Reset {
        /// The reason ([`crate::session::code`]).
        code: u32,
    },
    /// No such session (any more).
    #[error("session unknown")]
    Unknown,
    /// Positions or cuts do not fit.
    #[error("positions do not match")]
    Mismatch,
    /// The session went to another server.
    #[error("moved to another server")]
    Moved,
}

impl ResumeDenial {
    /// Whether the other end does not have the session, or not any more.
    pub fn is_final(&self) -> bool {
        match self {
            ResumeDenial::Suspended { .. }
            | ResumeDenial::Stale
            | ResumeDenial::Collision
            | ResumeDenial::Mismatch => false,
            ResumeDenial::Closed { .. }
            | ResumeDenial::Reset { .. }
            | ResumeDenial::Unknown
            | ResumeDenial::Moved => true,
        }
    }
}

/// RESUME_DENIED.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct ResumeDenied {
    /// Highest epoch seen there.
    pub seen: u32,
    /// The reason.
    pub why: ResumeDenial,
}

impl ResumeDenied {
    pub(crate) fn read(raw: Raw<'_>) -> Result<ResumeDenied, WireError> {
        raw.check_flags(0)?;
        let mut f = Fields(raw.payload);
        let seen = f.u32("seen")?;
        let code = f.u8("why")?;
        let value = f.u64("value")?;
        f.end()?;
        let why = match code {
            1 => ResumeDenial::Suspended { left: Duration::from_secs(value.min(u32::MAX.into())) },
            2 => ResumeDenial::Stale,
            3 => ResumeDenial::Collision,
            4 => ResumeDenial::Closed { received: value },
            5 => ResumeDenial::Reset {
                code: u32::try_from(value).map_err(|_| WireError::BadValue("value"))?,
            },
            6 => ResumeDenial::Unknown,
            7 => ResumeDenial::Mismatch,
            8 => ResumeDenial::Moved,
            _ => return Err(WireError::BadValue("why")),
        };
        Ok(ResumeDenied { seen, why })
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        let (code, value) = match self.why {
            ResumeDenial::Suspended { left } => (1, u64::from(seconds(left))),
            ResumeDenial::Stale => (2, 0),
            ResumeDenial::Collision => (3, 0),
            ResumeDenial::Closed { received } => (4, received),
            ResumeDenial::Reset { code } => (5, u64::from(code)),
            ResumeDenial::Unknown => (6, 0),
            ResumeDenial::Mismatch => (7, 0),
            ResumeDenial::Moved => (8, 0),
        };
        write(out, kind::RESUME_DENIED, 0, |p| {
            p.put_u32(self.seen);
            p.put_u8(code);
            p.put_u64(value);
        });
    }
}

/// RESUME_DENIED by a server that has no such session, or only its tombstone.
pub fn encode_resume_denied(seen: u32, why: ResumeDenial, out: &mut Vec<u8>) {
    ResumeDenied { seen, why }.encode(out);
}

fn read_cut(f: &mut Fields<'_>) -> Result<Cut, WireError> {
    let id = Id::new(f.u8("cut id")?).ok_or(WireError::BadValue("cut id"))?;
    Ok(Cut { id, sent: f.u64("cut sent")?, received: f.u64("cut received")? })
}

fn put_cut(p: &mut Vec<u8>, cut: &Cut) {
    p.put_u8(cut.id.number());
    p.put_u64(cut.sent);
    p.put_u64(cut.received);
}
