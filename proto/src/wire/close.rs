//! CLOSE: the end of one direction, of both, and the last word.

use super::WireError;
use super::frame::{Fields, Put, Raw, kind, write};
use crate::handle::Handle;

const DONE: u8 = 0b0000_1000;
const ACK: u8 = 0b0000_1100;
const FIN: u8 = 0b0001_0000;
const RST: u8 = 0b0010_0000;

/// CLOSE.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum Close {
    /// My stream ends here (half-close).
    Fin {
        /// Final length of the stream.
        position: u64,
    },
    /// I have your whole stream, its end included, and you may free it.
    Ack {
        /// Its length.
        position: u64,
    },
    /// The session ends now, both directions.
    Reset {
        /// Why, see [`crate::session::code`].
        code: u32,
    },
    /// The same as first frame of a link.
    ResetFirst(ResetFrame),
    /// The acceptor's last frame of a session: nothing of it follows on this link (R52).
    Done,
}

/// CLOSE RST as first frame of a link: an initiator that aborted while it had none.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub struct ResetFrame {
    /// SH_A.
    pub initiator: Handle,
    /// SH_B; [`Handle::NONE`] when the initiator never learned it.
    pub acceptor: Handle,
    /// The reason ([`crate::session::code`]).
    pub code: u32,
}

impl Close {
    pub(crate) fn read(raw: Raw<'_>) -> Result<Close, WireError> {
        let mut f = Fields(raw.payload);
        let close = match raw.flags {
            FIN => Close::Fin { position: f.u64("position")? },
            ACK => Close::Ack { position: f.u64("position")? },
            DONE => Close::Done,
            RST => {
                let code = f.u32("code")?;
                if f.0.is_empty() {
                    Close::Reset { code }
                } else {
                    let initiator = f.handle("initiator")?;
                    let acceptor = f.handle("acceptor")?;
                    Close::ResetFirst(ResetFrame { initiator, acceptor, code })
                }
            }
            flags => return Err(WireError::BadFlags { kind: raw.kind, flags }),
        };
        f.end()?;
        Ok(close)
    }

    /// Appends the frame.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match *self {
            Close::Fin { position } => write(out, kind::CLOSE, FIN, |p| p.put_u64(position)),
            Close::Ack { position } => write(out, kind::CLOSE, ACK, |p| p.put_u64(position)),
            Close::Reset { code } => write(out, kind::CLOSE, RST, |p| p.put_u32(code)),
            Close::ResetFirst(reset) => write(out, kind::CLOSE, RST, |p| {
                p.put_u32(reset.code);
                p.put_handle(reset.initiator);
                p.put_handle(reset.acceptor);
            }),
            Close::Done => write(out, kind::CLOSE, DONE, |_| ()),
        }
    }
}

/// CLOSE DONE by a server that has no session for a CLOSE RST that began a link.
pub fn encode_done(out: &mut Vec<u8>) {
    Close::Done.encode(out);
}
