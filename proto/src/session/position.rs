//! Byte counts of one end, in both directions.

/// Where a new acceptor begins: 0, 0 for a new session; at a transfer the position the ticket
/// covers and the broker's receive position.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct StartAt {
    /// First up byte wanted.
    pub up: u64,
    /// First down byte sent.
    pub down: u64,
}

/// All positions of one end.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug, Default)]
pub struct Positions {
    /// Send: freed below.
    pub una: u64,
    /// Send: next to transmit.
    pub nxt: u64,
    /// Send: highest transmitted.
    pub max: u64,
    /// Send: taken from the near side.
    pub end: u64,
    /// Send: the peer has received this much.
    pub heard: u64,
    /// Send: the peer's limit.
    pub limit: u64,
    /// Receive: given to the near side.
    pub delivered: u64,
    /// Receive: received.
    pub received: u64,
    /// Receive: what the peer may free (R11).
    pub acked: u64,
    /// Receive: limit told to the peer.
    pub told: u64,
}
