//! The Session Name Server and the STP gateway in one daemon (KTH 3.3, STP 1, 2).
//!
//! It keeps names (who made them, where they are, for how long), the servers of a cluster with
//! the files they hold, and users. Brokers ask it where a service is, log in, and get tickets;
//! servers announce themselves; whoever watches a name hears of its change at once.
//!
//! The way of a request: `link` (a task per link) → `names`, `servers` or `gateway` → `store`
//! (what must survive) → `tables` (what is answered from) → back over `link`. Whatever is written
//! goes through the store and comes back into the tables; so several daemons on one etcd hold the
//! same tables.
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
