//! Why a server cannot go on with an exchange.

/// Which kind of reason it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoReplayKind {
    /// The request does not fit the ticket, or the replica's answer is of another kind.
    Mismatch,
    /// Whoever answers leads elsewhere: a network that wants a log-in first does so for everybody.
    Elsewhere,
    /// The replica holds other bytes.
    Seam,
    /// The replica does not hold the file.
    NotHere,
    /// The replica's service cannot answer now.
    Busy,
    /// It cannot be continued without doing something twice.
    Unsafe,
}

/// Why an exchange cannot be continued, with the reason in words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct NoReplay {
    /// What kind.
    pub kind: NoReplayKind,
    /// For the log and the status: short, and with the numbers that broke it.
    pub text: String,
}

impl NoReplay {
    /// A reason of this kind.
    pub fn new(kind: NoReplayKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }
}
