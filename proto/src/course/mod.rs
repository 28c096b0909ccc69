//! A session's way through the servers of its service, as its broker decides it.
//!
//! - [`Pacing`] says when links to one server are dialed; all sessions share it.
//! - [`Search`] finds one session a link: at its home, otherwise at another server.
//!
//! All of it is pure: events go in, actions come out, `now` is an argument. What is to be measured,
//! dialed or told is done by the broker, or by whatever simulates one.

mod pacing;
mod search;
mod standing;

pub use pacing::{DialId, Pace, PaceCounts, Pacing, Pulse};
pub use search::{AppError, Candidate, GaveUp, Search, Step, Wanted};
pub use standing::{Failure, FailureKind, Standing, Ways};
