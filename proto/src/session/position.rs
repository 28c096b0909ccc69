//! Byte counts of one end, in both directions.

/// Where a new acceptor begins: at 0 and 0 for a new session, and for a transfer at the position
/// that the ticket covers and at the broker's receive position.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct StartAt {
    /// The first up byte wanted.
    pub up: u64,
    /// The first down byte sent.
    pub down: u64,
}

/// All positions of one end.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Positions {
    /// Send: everything below is freed.
    pub una: u64,
    /// Send: the next byte to send.
    pub nxt: u64,
    /// Send: the highest position ever sent.
    pub max: u64,
    /// Send: the end of what was taken from the near side.
    pub end: u64,
    /// Send: the peer has received this much.
    pub heard: u64,
    /// Send: the peer's limit.
    pub limit: u64,
    /// Receive: the end of what was given to the near side.
    pub delivered: u64,
    /// Receive: the next byte wanted.
    pub received: u64,
    /// Receive: the peer may free everything below (R11).
    pub acked: u64,
    /// Receive: the limit that the peer was told.
    pub told: u64,
}
