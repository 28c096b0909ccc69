//! The Session Name Server and the STP gateway in one daemon (KTH 3.3, STP 1, 2).
//!
//! It keeps names (with owner, place and lease), the servers of a cluster with the files that they
//! hold, and users. Brokers ask it where a service is, log in, and get tickets. Servers announce
//! themselves. A client that watches a name hears of its change at once.
//!
//! The way of a request: `link` (a task per link) → `names`, `servers` or `gateway` → `store`
//! (durable) → `tables` (in memory, for answers) → back over `link`. Every change goes through the
//! store and comes back from it into the tables. So several daemons on one etcd hold the same
//! tables.
//!
//! **Invariant:** an answer that says "done" is sent after the store has it for good.
#![forbid(unsafe_code)]

pub mod admin;
pub mod attempts;
pub mod cluster_key;
pub mod command;
pub mod config;
pub mod daemon;
pub mod gateway;
pub mod link;
pub mod names;
pub mod record;
pub mod servers;
pub mod sns;
pub mod status;
pub mod store;
pub mod tables;
