//! FTP whose login outlives links and servers (RFC 959, 2428, 3659).
//!
//! An FTP login is one control connection and one data connection for each file or listing. Here is
//! what decides about them, without sockets: [`Control`] stands between the client and the real FTP
//! server on the control connection. It reads commands and replies line by line, answers by itself
//! where data connections are agreed upon (so that they become sessions), remembers how the login
//! came about, and says what another server has to know ([`Exchange`]). A data connection that was
//! cut is continued by asking for the whole file again and comparing what the client has already
//! ([`Resumption`]); an upload by reading back what is proven to be in the file ([`Upload`]).
//!
//! **Invariants:** a client is told of success only after all bytes and the end of its data
//! connection have arrived there; every reply is given once.
//!
//! Deliberately not here: sockets, tickets' seals, digests. A control connection that is encrypted
//! by AUTH is *opaque*: it passes untouched and cannot be continued elsewhere.

mod command;
mod control;
mod line;
mod login;
mod place;
mod reply;
mod resumption;
mod state;
mod stored;
mod text;
mod upload;

#[cfg(test)]
mod tests;

pub use command::{Command, Transfer};
pub use control::{Act, Answer, Control, DataNews, Verdict};
pub use line::{LINE_MAX, Lines};
pub use login::{Login, Step, Steps};
pub use place::{Family, Place, port_of_reply};
pub use reply::{REPLY_MAX, Replies, Reply};
pub use resumption::Resumption;
pub use state::{ControlState, DataState, Exchange, Running, Waiting};
pub use stored::{File, Stored};
pub use upload::{Continuation, Look, Upload};
