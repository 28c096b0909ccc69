//! CHECKPOINT: request, answer and confirm of a cut (KTH 3.4.1, repaired: R40 to R46), and the
//! plain acknowledgement, which is also window update and heartbeat.

use super::WireError;
use super::frame::{Fields, Put, Raw, kind, write};
use crate::cut::Id;

/// Bits 0-1: id of the cut.
const ID: u8 = 0b0000_0011;
/// Bits 2-3: kind.
const KIND: u8 = 0b0000_1100;
const REQ: u8 = 0 << 2;
const ANS: u8 = 1 << 2;
const CFM: u8 = 2 << 2;
const ACK: u8 = 3 << 2;
/// Bit 6, ACK only: please answer with an ACK (R70).
const ECHO: u8 = 0b0100_0000;

/// What an end tells of its receiving side; in every CHECKPOINT, RESUME and RESUME_OK (R11).
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Report {
    /// Received: where the peer continues after a resume.
    pub received: u64,
    /// What the peer may free; at most `received`.
    pub acked: u64,
    /// The peer never sends at or above this position.
    pub limit: u64,
}

impl Report {
    pub(crate) fn read(f: &mut Fields<'_>) -> Result<Report, WireError> {
        let report =
            Report { received: f.u64("received")?, acked: f.u64("acked")?, limit: f.u64("limit")? };
        if report.acked > report.received {
            return Err(WireError::BadValue("acked"));
        }
        Ok(report)
    }

    pub(crate) fn put(&self, p: &mut Vec<u8>) {
        p.put_u64(self.received);
        p.put_u64(self.acked);
        p.put_u64(self.limit);
    }
}

/// CHECKPOINT.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum Checkpoint {
    /// A new cut is proposed: id, the proposer's sent and received positions.
    Request {
        /// Id of the new cut.
        id: Id,
        /// Position sent up to.
        sent: u64,
        /// What was received; `received` is part of the cut.
        report: Report,
    },
    /// The answer.
    Answer {
        /// Id of the cut that is answered.
        id: Id,
        /// Position sent up to.
        sent: u64,
        /// `received` equals the proposer's `sent`.
        report: Report,
    },
    /// The proposer knows that both hold the cut.
    Confirm {
        /// Its id.
        id: Id,
        /// Plain acknowledgement besides.
        report: Report,
    },
    /// Acknowledgement, window update, heartbeat.
    Ack {
        /// Please answer.
        echo: bool,
        /// Positions.
        report: Report,
    },
}

impl Checkpoint {
    pub(crate) fn read(raw: Raw<'_>) -> Result<Checkpoint, WireError> {
        let bad = WireError::BadFlags { kind: raw.kind, flags: raw.flags };
        let id = Id::new(raw.flags & ID).ok_or(bad)?;
        let mut f = Fields(raw.payload);
        let checkpoint = match raw.flags & !ID {
            REQ => Checkpoint::Request { id, sent: f.u64("sent")?, report: Report::read(&mut f)? },
            ANS => Checkpoint::Answer { id, sent: f.u64("sent")?, report: Report::read(&mut f)? },
            CFM => Checkpoint::Confirm { id, report: Report::read(&mut f)? },
            flags if flags & !ECHO == ACK && id == Id::FIRST => {
                Checkpoint::Ack { echo: flags & ECHO != 0, report: Report::read(&mut f)? }
            }
            _ => return Err(bad),
        };
        f.end()?;
        Ok(checkpoint)
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        const { assert!(ID | KIND | ECHO == 0b0100_1111) };
        match *self {
            Checkpoint::Request { id, sent, report } => {
                write(out, kind::CHECKPOINT, REQ | id.number(), |p| {
                    p.put_u64(sent);
                    report.put(p);
                });
            }
            Checkpoint::Answer { id, sent, report } => {
                write(out, kind::CHECKPOINT, ANS | id.number(), |p| {
                    p.put_u64(sent);
                    report.put(p);
                });
            }
            Checkpoint::Confirm { id, report } => {
                write(out, kind::CHECKPOINT, CFM | id.number(), |p| report.put(p));
            }
            Checkpoint::Ack { echo, report } => {
                let flags = ACK | if echo { ECHO } else { 0 };
                write(out, kind::CHECKPOINT, flags, |p| report.put(p));
            }
        }
    }
}
