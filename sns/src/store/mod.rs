//! The store, for everything that must survive: keys and values, leases, and one way to change
//! them, all or nothing.
//!
//! A store does little, on purpose: a change is committed under guards, and every change, of this
//! daemon or of another one on the same store, is told to a [`Sink`]. Reading is done there, in
//! memory. There are two stores: an embedded one (`embedded`, `keeper`) and etcd (`etcd`).

pub mod embedded;
pub mod etcd;
pub mod keeper;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

/// The longest key, in bytes.
pub const KEY_MAX: usize = 700;

/// A condition of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Guard {
    /// The key does not exist.
    Absent(String),
    /// The key has this version.
    Version(String, u64),
}

/// The lease by which a value is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lease {
    /// None: until it is deleted.
    None,
    /// A new one that lasts this many seconds.
    New(u32),
    /// The lease that another key has now.
    SameAs(String),
}

/// One change of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// Writes a value.
    Put {
        /// The key.
        key: String,
        /// The value.
        value: Vec<u8>,
        /// Its lease.
        lease: Lease,
    },
    /// Deletes a key; no matter whether it exists.
    Delete(String),
    /// Deletes all keys with this prefix.
    DeleteBelow(String),
}

/// A change that was made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Applied {
    /// A key has this value now.
    Put {
        /// The key.
        key: String,
        /// The value.
        value: Vec<u8>,
        /// The version: a number that differs after every write of the value.
        version: u64,
    },
    /// A key is gone, deleted or with its lease.
    Gone(String),
}

/// The receiver of all changes.
pub trait Sink: Send + Sync + 'static {
    /// Takes the changes, in order. Called from one thread at a time; must not wait.
    fn apply(&self, changes: Vec<Applied>);
    /// Takes all keys and values that there are. Others that the sink has are gone.
    fn reset(&self, all: Vec<Applied>);
}

/// Why a commit was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommitError {
    /// A guard does not hold.
    #[error("it was changed by somebody else")]
    Conflict,
    /// The store cannot do it now. The commit may have been made all the same.
    #[error("the store is not available: {0}")]
    Unavailable(String),
}

/// A result that comes later.
pub type Later<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// A store. Once a commit is answered, its changes survive the end of this process and have
/// reached the sink.
pub trait Store: Send + Sync + 'static {
    /// Makes all changes if all guards hold, and otherwise none.
    fn commit(&self, guards: Vec<Guard>, changes: Vec<Change>) -> Later<Result<(), CommitError>>;

    /// Begins the lease of a key anew; false if the key or its lease is gone. A key without a
    /// lease is renewed by doing nothing.
    fn renew(&self, key: String) -> Later<Result<bool, CommitError>>;

    /// What it is, and whether it works now, for the status.
    fn health(&self) -> (String, bool);

    /// How long a store that is not reachable now has been silent. Leases may have run out
    /// meanwhile without being noticed.
    fn silent_for(&self) -> Duration {
        Duration::ZERO
    }
}

/// A store of either kind.
pub type AnyStore = Arc<dyn Store>;
