//! TICKET: what the broker needs to take the session to another server (R60).

use super::WireError;
use super::connect::TICKET_MAX;
use super::frame::{Fields, Put, Raw, kind, write};

/// Bit 0: the session can be transferred with this ticket.
const TRANSFERABLE: u8 = 1;

/// TICKET, sent just before the DATA at `at`.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct TicketFrame<'a> {
    /// Down position before whose DATA it is sent.
    pub at: u64,
    /// Up position it covers; the broker may free what lies below.
    pub covers: u64,
    /// First down position that can be compared on a replica.
    pub seam_from: u64,
    /// False: the session cannot be taken elsewhere from here on.
    pub transferable: bool,
    /// The sealed bytes; when not transferable, why not, in words, or nothing.
    pub ticket: &'a [u8],
}

impl<'a> TicketFrame<'a> {
    pub(crate) fn read(raw: Raw<'a>) -> Result<TicketFrame<'a>, WireError> {
        raw.check_flags(TRANSFERABLE)?;
        let mut f = Fields(raw.payload);
        let frame = TicketFrame {
            at: f.u64("at")?,
            covers: f.u64("covers")?,
            seam_from: f.u64("seam_from")?,
            transferable: raw.flags & TRANSFERABLE != 0,
            ticket: f.bytes("ticket", TICKET_MAX)?,
        };
        f.end()?;
        if frame.transferable && frame.ticket.is_empty() {
            return Err(WireError::BadValue("ticket"));
        }
        Ok(frame)
    }

    /// Appends the frame; the ticket has at most [`TICKET_MAX`] bytes.
    pub fn encode(&self, out: &mut Vec<u8>) {
        write(out, kind::TICKET, u8::from(self.transferable), |p| {
            p.put_u64(self.at);
            p.put_u64(self.covers);
            p.put_u64(self.seam_from);
            p.put_bytes(self.ticket);
        });
    }
}
