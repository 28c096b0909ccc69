//! Endpoint directories (KTH 4.3): an endpoint, `object@domain`, is a directory with a key of its
//! own. Sessions that are opened under it belong to that key, so the directory can be carried to
//! another machine, and they with it.
//!
//! ```text
//! ~/.local/share/session/endpoints/ada@example.org/     0700
//!     .endpoint            what it is: version, name, when it was made
//!     key                  its key (PEM, 0600); under a passphrase: key.sealed
//!     sessions/7           a session that was saved, sealed with the key
//!     .state.get.0         what its program has saved
//! ```
//!
//! **Invariant:** a file here is whole or not there: everything is written beside its place, synced
//! and renamed.

mod carry;
mod disk;
mod passphrase;

pub use carry::{Carried, export, import, peek};
pub use disk::{
    ENDPOINTS_MAX, Endpoint, EndpointError, FILE, SESSIONS, STATE, folder, name, states,
};

#[cfg(test)]
mod tests;
