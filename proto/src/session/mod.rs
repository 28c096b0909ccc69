//! One end of a session: the pure core that joins a near side (app or service) and links.
//!
//! The driver tells it what happened (`handle_input`, `handle_record`), moves bytes (`fill`,
//! `deliver`) and then drains `poll_output` until it says [`Output::Wait`]. Nothing here waits,
//! asks for the time or touches the kernel. The same functions are stepped by the model checker
//! with limits of a few bytes; two ends that hold the same bytes in the same state are equal and
//! hash alike, whatever the clock says.
//!
//! Files by noun: `send` and `receive` are the two streams, `attempt` how links begin, `record`
//! what comes in, `output` what goes out, `near` the app or service, `close` all endings,
//! `transfer` tickets and the way to another server, `beside` that way while the old link still
//! works, `remains` what outlives the process, `carry` what is carried to another machine. What
//! they work on: `end` the whole, `links` its
//! links, `position` its byte counts, `journal` tickets, `ending` how far an ending is, `clock` all
//! deadlines, `outbox` what waits to go out.
//!
//! Rule numbers (R20 and so on) are those of PROTOCOL.md.

mod announce;
mod announcing;
mod attempt;
mod beside;
mod carry;
mod clock;
mod close;
pub mod code;
mod end;
mod ending;
mod error;
mod event;
mod input;
mod journal;
mod limit;
mod links;
#[cfg(feature = "model")]
mod model;
mod near;
mod outbox;
mod output;
mod position;
mod receive;
mod record;
mod remains;
mod send;
mod transfer;

#[cfg(test)]
mod tests;

pub use carry::{CannotFreeze, FROZEN_BYTES_MAX, Frozen};
pub use end::Session;
pub use error::{PeerMisbehaved, WhyNot};
pub use event::{
    Attempt, ClosedWhy, Denied, Detach, Event, Input, LinkId, LostCause, Output, Peer, ShutNear,
};
pub use journal::TicketOffer;
pub use limit::Limits;
pub use position::{Positions, StartAt};
pub use remains::{NearCounts, NotRestored, REMAINS_VERSION, Remains};

#[cfg(feature = "model")]
pub use crate::mutant::Mutant;
#[cfg(feature = "model")]
pub use clock::Timer;
