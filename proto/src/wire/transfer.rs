//! TRANSFER and STAY: a server asks to be left, the broker declines.

use super::WireError;
use super::connect::REASON_MAX;
use super::frame::{Fields, Put, Raw, bounded, kind, write};

/// Why a server wants to be left, or a broker stays.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum TransferReason {
    /// The path to the client became slow.
    #[error("round-trip time rose")]
    Congested,
    /// The server is overloaded.
    #[error("overloaded")]
    Overloaded,
    /// The server is about to stop.
    #[error("draining")]
    Draining,
    /// The service behind the server gives no more.
    #[error("the service gives no more")]
    ServiceFailed,
    /// An operator asked.
    #[error("asked by the operator")]
    Operator,
    /// STAY: nobody better.
    #[error("no better server")]
    NobodyBetter,
    /// STAY: the session cannot be taken elsewhere.
    #[error("cannot be transferred")]
    NotTransferable,
}

impl TransferReason {
    fn code(self) -> u8 {
        match self {
            TransferReason::Congested => 1,
            TransferReason::Overloaded => 2,
            TransferReason::Draining => 3,
            TransferReason::Operator => 4,
            TransferReason::NobodyBetter => 5,
            TransferReason::NotTransferable => 6,
            TransferReason::ServiceFailed => 7,
        }
    }

    fn from_code(code: u8) -> Option<TransferReason> {
        Some(match code {
            1 => TransferReason::Congested,
            2 => TransferReason::Overloaded,
            3 => TransferReason::Draining,
            4 => TransferReason::Operator,
            5 => TransferReason::NobodyBetter,
            6 => TransferReason::NotTransferable,
            7 => TransferReason::ServiceFailed,
            _ => return None,
        })
    }
}

/// TRANSFER (server to broker) or STAY (broker to server).
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct Transfer<'a> {
    /// The reason, for the other end's decision.
    pub reason: TransferReason,
    /// The reason in words, for a person.
    pub text: &'a str,
}

impl<'a> Transfer<'a> {
    pub(crate) fn read(raw: Raw<'a>) -> Result<Transfer<'a>, WireError> {
        raw.check_flags(0)?;
        let mut f = Fields(raw.payload);
        let code = f.u8("reason")?;
        let text = f.text("text", REASON_MAX)?;
        f.end()?;
        let reason = TransferReason::from_code(code).ok_or(WireError::BadValue("reason"))?;
        Ok(Transfer { reason, text })
    }

    /// Appends a TRANSFER.
    pub fn encode(&self, out: &mut Vec<u8>) {
        self.encode_as(kind::TRANSFER, out);
    }

    /// Appends a STAY.
    pub fn encode_stay(&self, out: &mut Vec<u8>) {
        self.encode_as(kind::STAY, out);
    }

    fn encode_as(&self, kind: u8, out: &mut Vec<u8>) {
        let clean: String = self.text.chars().filter(|c| !c.is_control()).collect();
        write(out, kind, 0, |p| {
            p.put_u8(self.reason.code());
            p.put_bytes(bounded(&clean, REASON_MAX).as_bytes());
        });
    }
}
