//! What a session refuses: a peer that broke the protocol, a transfer that cannot be.

use crate::cut::CutError;
use crate::wire::WireError;

/// Why a session cannot be transferred now.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum WhyNot {
    /// No server has accepted it yet.
    #[error("not established yet")]
    NotEstablished,
    /// No ticket was given, and something was already exchanged.
    #[error("the server gave no ticket")]
    NoTicket,
    /// The newest ticket says that it cannot be transferred.
    #[error("the server says that it cannot be transferred")]
    NotTransferable,
    /// Up bytes that the ticket does not cover are already freed.
    #[error("up bytes from {covers} on are needed, kept are those from {kept} on")]
    Freed {
        /// The up position that the ticket covers.
        covers: u64,
        /// The first byte that is kept.
        kept: u64,
    },
    /// It has ended.
    #[error("closed")]
    Closed,
}

/// The peer broke the protocol. The session has reset itself; nothing else is harmed.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, thiserror::Error)]
pub enum PeerMisbehaved {
    /// The bytes are no frames.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The rules of checkpoints were broken.
    #[error(transparent)]
    Cut(#[from] CutError),
    /// DATA does not continue the stream.
    #[error("peer sent data at position {position}, {expected} is next")]
    WrongPosition {
        /// Received.
        position: u64,
        /// Next in line.
        expected: u64,
    },
    /// DATA beyond the limit told.
    #[error("peer sent data up to position {end}, its limit is {limit}")]
    WindowExceeded {
        /// End of the data.
        end: u64,
        /// Limit.
        limit: u64,
    },
    /// DATA came after FIN.
    #[error("peer sent data at position {position}, after the end of its stream")]
    DataAfterFin {
        /// Position.
        position: u64,
    },
    /// FIN lies elsewhere than at the end of the stream.
    #[error("peer ended its stream at position {position}, received are {expected}")]
    WrongFin {
        /// Received.
        position: u64,
        /// Where the stream ends.
        expected: u64,
    },
    /// The urgent byte came already, or lies beyond the limit or behind the end.
    #[error("peer announced an urgent byte at position {position}, received are {received}")]
    WrongUrgent {
        /// Announced.
        position: u64,
        /// Received.
        received: u64,
    },
    /// It acknowledged what was not sent.
    #[error("peer acknowledged position {position}, sent are {sent}")]
    AckedUnsent {
        /// Acknowledged.
        position: u64,
        /// Sent.
        sent: u64,
    },
    /// A checkpoint lies at another position than the stream.
    #[error("peer put a checkpoint at {position}, received are {received}")]
    WrongCheckpoint {
        /// The peer's sent position.
        position: u64,
        /// Received.
        received: u64,
    },
    /// A ticket names a position that the streams have not reached.
    #[error("peer sent a ticket for position {position}, the stream is at {reached}")]
    WrongTicket {
        /// Position in the ticket.
        position: u64,
        /// Where the stream is.
        reached: u64,
    },
    /// The answer belongs to another attempt.
    #[error("peer answered attempt {got}, under way is {expected}")]
    WrongEpoch {
        /// Received.
        got: u32,
        /// Under way.
        expected: u32,
    },
    /// A frame that has no place here.
    #[error("peer sent a frame of type {0}, which has no place here")]
    Unexpected(&'static str),
}
