//! Why a server cannot go on with an exchange.

/// What kind of refusal it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoReplayKind {
    /// The request does not fit the ticket, or the replica's answer is of another kind.
    Mismatch,
    /// The replica holds other bytes.
    Seam,
    /// The replica does not hold the file.
    NotHere,
    /// It cannot be continued without doing something twice.
    Unsafe,
}

/// A refusal, with the reason in words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct NoReplay {
    /// What kind.
    pub kind: NoReplayKind,
    /// For the log and the status: short, and with the numbers that broke it.
    pub text: String,
}

impl NoReplay {
    /// A refusal of this kind.
    pub fn new(kind: NoReplayKind, text: impl Into<String>) -> Self {
        Self { kind, text: text.into() }
    }
}
