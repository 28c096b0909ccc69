//! The five states.

/// The five states.
#[derive(Copy, Clone, PartialEq, Eq, Hash, Debug)]
pub enum State {
    /// A link is attached, data moves.
    Active,
    /// No link; the session wants one.
    ReadyResume,
    /// An attempt is under way.
    SentResume,
    /// Stopped by the user here.
    Suspended,
    /// Over.
    Closed,
}
