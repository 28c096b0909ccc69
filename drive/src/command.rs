//! What others want of a session's loop.

use std::time::Duration;

use stp_net::link::Link;
use stp_proto::session::{CannotFreeze, Frozen};
use stp_proto::wire::TransferReason;
use tokio::sync::oneshot;

/// A command to a session's loop from outside.
#[derive(Debug)]
pub enum Command<L = Link> {
    /// A link on which the peer asks to resume.
    Attach {
        /// The link.
        link: Box<L>,
        /// Its first record.
        record: Vec<u8>,
    },
    /// A path appeared or an address changed.
    PathChanged,
    /// The session is to attempt again now, because a server was found that answers.
    Retry,
    /// The server is to be told that the session stays, and why.
    Stay(TransferReason),
    /// The broker is to be asked to go elsewhere.
    AskTransfer {
        /// The reason, as the server is told.
        reason: TransferReason,
        /// For a person.
        text: String,
    },
    /// The user suspends the session.
    Suspend {
        /// For so long, and no longer than the peer keeps it; none: until the user resumes it.
        lasts: Option<Duration>,
    },
    /// The user resumes it.
    Resume,
    /// The program wants no more than this time for what it writes.
    UserTimeout(Option<Duration>),
    /// Memory is short: it ends as if this server had died, if its broker can have all of it again
    /// by its ticket.
    GiveUp,
    /// R130: what is to be carried elsewhere is asked for. If it can be had, the near side is left
    /// alone from then on.
    Freeze(oneshot::Sender<Result<Frozen, CannotFreeze>>),
    /// It was not carried after all: the near side goes on.
    Thaw,
    /// It was carried: it ends here as if this process had died. The peer is told nothing.
    Leave,
    /// End it with an error for the app.
    Abort {
        /// One of [`stp_proto::session::code`].
        code: u32,
    },
}
