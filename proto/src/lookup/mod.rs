//! What is said to a Session Name Server and its gateway (KTH 3.3.6; STP 1, 2).
//!
//! A client holds one secured link to the SNS and sends requests over it, each a record of its
//! own with a number; the answer carries the same number, so several may be under way. The eight
//! requests of the thesis are all answered, with an error that says why not (the thesis answers
//! two of them). Beside them: renewing a lease, watching a name, a server announcing itself and
//! its files, and the gateway's log-in and look-up.
//!
//! **Invariant:** every field is bounded, a message fits one record, and nothing follows it. No
//! message names its sender: that is the key which the link has proved.
//!
//! Deliberately not here: storage, clocks, cryptography.

mod answer;
mod error;
mod field;
mod grant;
mod login;
mod message;
mod rank;
mod record;
mod request;
#[cfg(test)]
mod tests;

pub use answer::{
    Announced, Answer, Body, Challenge, Changed, Created, Done, EndpointFound, Located, Refusal,
    Refused, Revoked, ServiceFound, Welcome,
};
pub use error::{MESSAGE_MAX, MessageError};
pub use field::{BYTES_MAX, FilePath, LIST_MAX, List, PATH_MAX, TEXT_MAX};
pub use grant::{GRANT_MAX, Grant, GrantError, GrantFor};
pub use login::{KdfCost, SALT_BYTES, login_statement, user_is_good};
pub use message::{decode_servers, encode_servers};
pub use rank::{Network, Networks, UNKNOWN_HOPS};
pub use record::{EndpointName, FileEntry, Location, Protocol, Server, Told};
pub use request::{
    Announce, Ask, ChangeEndpoint, ChangeService, Files, Locate, Login, NewEndpoint, NewService,
    OneEndpoint, OneName, OneService, Prove, Request, Unwatch,
};
