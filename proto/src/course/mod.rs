//! A session's way through the servers of its service, as its broker decides it.
//!
//! - [`Pacing`] says when links to one server are dialed; all sessions share it.
//! - [`Search`] finds one session a link: at its home, otherwise at another server.
//! - [`Prepared`] says when the next server is told what a session receives.
//! - [`Course`] is the session's way as a whole: which server holds it, what is tried, what was
//!   decided, and what the session and its server are to be told.
//!
//! All of it is pure: events go in, actions come out, `now` is an argument. What is to be measured,
//! dialed or told is done by the broker, or by whatever simulates one.

mod action;
mod change;
mod decide;
mod first;
mod leave;
mod machine;
mod pacing;
mod prepare;
mod search;
mod standing;
#[cfg(test)]
mod tests;

pub use action::{Action, Around, CannotMove, Dial, GapWhy, Measured, Relay, Seek, Target};
pub use change::{Change, Move, Question, Turn};
pub use decide::{PATIENCE, numbers};
pub use first::{FIRST_MAX, RescuePauses, first_longer};
pub use machine::{Course, Denial};
pub use pacing::{DialId, Pace, PaceCounts, Pacing, Pulse};
pub use prepare::Prepared;
pub use search::{AppError, Candidate, Deadlines, GaveUp, NoServer, Search, Step, Wanted};
pub use standing::{Failure, FailureKind, Standing, Ways};
