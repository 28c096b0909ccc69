//! What goes over a link: frames, one file per format (PROTOCOL.md, R2 to R5).
//!
//! A frame never spans TLS records, so there is no reassembly: a decrypted record is decoded as it
//! lies. Every decoder is bounded by its record, borrows from it, and names the peer in its error.
//! Sealed tickets are opaque here.

mod checkpoint;
mod close;
mod connect;
mod data;
mod error;
mod frame;
mod group;
mod pass;
mod resume;
mod seam;
mod suspend;
mod ticket;
mod transfer;
mod upkeep;
mod urgent;

#[cfg(test)]
mod tests;

pub use checkpoint::{Checkpoint, Report};
pub use close::{Close, ResetFrame, encode_done};
pub use connect::{
    Connect, ConnectDenied, ConnectMode, ConnectOk, DenyReason, Destination, FEATURE_GROUP,
    FEATURE_PASS, FEATURE_URGENT, FEATURE_VERIFYING, FEATURES, GRANT_MAX, HOST_MAX, NAME_MAX,
    PASS_MAX, PrepareRequest, REASON_MAX, RelayRequest, TICKET_MAX, TransferRequest, VERSION,
    encode_connect_denied,
};
pub use data::{DATA_MAX, Data};
pub use error::WireError;
pub use frame::{FRAME_MAX, HEADER};
pub use group::{Announce, Announcement, Belongs, RANGE_MAX};
pub use pass::PassFrame;
pub use resume::{ResumeDenial, ResumeDenied, ResumeFrame, ResumeOk, encode_resume_denied};
pub use suspend::Suspend;
pub use ticket::TicketFrame;
pub use transfer::{Transfer, TransferReason};
pub use upkeep::Upkeep;
pub use urgent::Urgent;

pub(crate) use data::encode_data;
pub(crate) use seam::{SEAM_PROOF_MAX, put_seam, read_seam};

use frame::{Raw, kind, take};

/// One decoded frame.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[expect(clippy::large_enum_variant, reason = "lives on the stack while one record is read")]
pub enum Frame<'a> {
    /// Opens a session, or brings one over.
    Connect(Connect<'a>),
    /// A server has taken the session.
    ConnectOk(ConnectOk<'a>),
    /// A server does not take the session.
    ConnectDenied(ConnectDenied<'a>),
    /// Bytes of the stream.
    Data(Data<'a>),
    /// A step of a cut, or an acknowledgement.
    Checkpoint(Checkpoint),
    /// The end of a direction, or of the session.
    Close(Close),
    /// The user has stopped the session.
    Suspend(Suspend),
    /// A session goes on over a new link.
    Resume(ResumeFrame),
    /// The session goes on over that link.
    ResumeOk(ResumeOk),
    /// The session does not go on over that link.
    ResumeDenied(ResumeDenied),
    /// What a later transfer needs.
    Ticket(TicketFrame<'a>),
    /// The server asks the session to go elsewhere.
    Transfer(Transfer<'a>),
    /// The broker stays.
    Stay(Transfer<'a>),
    /// What lets the broker reach this server through others.
    Pass(PassFrame<'a>),
    /// Which byte of the stream is urgent.
    Urgent(Urgent),
    /// Of another connection that belongs to the session.
    Announce(Announce),
}

impl<'a> Frame<'a> {
    fn read(raw: Raw<'a>) -> Result<Frame<'a>, WireError> {
        Ok(match raw.kind {
            kind::CONNECT => Frame::Connect(Connect::read(raw)?),
            kind::CONNECT_OK => Frame::ConnectOk(ConnectOk::read(raw)?),
            kind::CONNECT_DENIED => Frame::ConnectDenied(ConnectDenied::read(raw)?),
            kind::DATA => Frame::Data(Data::read(raw)?),
            kind::CHECKPOINT => Frame::Checkpoint(Checkpoint::read(raw)?),
            kind::CLOSE => Frame::Close(Close::read(raw)?),
            kind::SUSPEND => Frame::Suspend(Suspend::read(raw)?),
            kind::RESUME => Frame::Resume(ResumeFrame::read(raw)?),
            kind::RESUME_OK => Frame::ResumeOk(ResumeOk::read(raw)?),
            kind::RESUME_DENIED => Frame::ResumeDenied(ResumeDenied::read(raw)?),
            kind::TICKET => Frame::Ticket(TicketFrame::read(raw)?),
            kind::TRANSFER => Frame::Transfer(Transfer::read(raw)?),
            kind::STAY => Frame::Stay(Transfer::read(raw)?),
            kind::PASS => Frame::Pass(PassFrame::read(raw)?),
            kind::URGENT => Frame::Urgent(Urgent::read(raw)?),
            kind::ANNOUNCE => Frame::Announce(Announce::read(raw)?),
            unknown => return Err(WireError::UnknownType(unknown)),
        })
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Frame::Connect(frame) => frame.encode(out),
            Frame::ConnectOk(frame) => frame.encode(out),
            Frame::ConnectDenied(frame) => frame.encode(out),
            Frame::Data(frame) => frame.encode(out),
            Frame::Checkpoint(frame) => frame.encode(out),
            Frame::Close(frame) => frame.encode(out),
            Frame::Suspend(frame) => frame.encode(out),
            Frame::Resume(frame) => frame.encode(out),
            Frame::ResumeOk(frame) => frame.encode(out),
            Frame::ResumeDenied(frame) => frame.encode(out),
            Frame::Ticket(frame) => frame.encode(out),
            Frame::Transfer(frame) => frame.encode(out),
            Frame::Stay(frame) => frame.encode_stay(out),
            Frame::Pass(frame) => frame.encode(out),
            Frame::Urgent(frame) => frame.encode(out),
            Frame::Announce(frame) => frame.encode(out),
        }
    }
}

/// The frames of one record, in order; ends after the first error.
#[derive(Clone, Debug)]
pub struct Frames<'a> {
    record: &'a [u8],
    fresh: bool,
}

/// Takes a record apart. An empty record is an error, and so is one longer than [`FRAME_MAX`].
pub fn frames(record: &[u8]) -> Frames<'_> {
    Frames { record, fresh: true }
}

impl<'a> Iterator for Frames<'a> {
    type Item = Result<Frame<'a>, WireError>;

    fn next(&mut self) -> Option<Self::Item> {
        let fresh = core::mem::take(&mut self.fresh);
        let result = if fresh && self.record.is_empty() {
            Err(WireError::Empty)
        } else if self.record.is_empty() {
            return None;
        } else if fresh && self.record.len() > FRAME_MAX {
            Err(WireError::RecordTooLong(self.record.len()))
        } else {
            take(&mut self.record).and_then(Frame::read)
        };
        if result.is_err() {
            self.record = &[];
        }
        Some(result)
    }
}

/// How a link at a server begins (R2).
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
#[expect(clippy::large_enum_variant, reason = "lives on the stack while one record is read")]
pub enum First<'a> {
    /// A session begins or comes over.
    Connect(Connect<'a>),
    /// A session goes on.
    Resume(ResumeFrame),
    /// A session was aborted while it had no link. Answer CLOSE DONE.
    Reset(ResetFrame),
}

/// Decodes the first record of a link, which holds exactly one frame.
pub fn first_frame(record: &[u8]) -> Result<First<'_>, WireError> {
    let mut frames = frames(record);
    let kind = record.first().copied().unwrap_or_default();
    let first = match frames.next() {
        Some(Ok(Frame::Connect(connect))) => First::Connect(connect),
        Some(Ok(Frame::Resume(resume))) => First::Resume(resume),
        Some(Ok(Frame::Close(Close::ResetFirst(reset)))) => First::Reset(reset),
        Some(Err(error)) => return Err(error),
        Some(Ok(_)) | None => return Err(WireError::NotFirst(kind)),
    };
    if frames.record.is_empty() { Ok(first) } else { Err(WireError::Trailing(frames.record.len())) }
}
