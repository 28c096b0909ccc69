//! The STP server: the far end of sessions.
//!
//! Links come in (`listener`), a CONNECT opens a service (`open`, `service`) and becomes a session
//! in the registry, run by `stp_drive::run` in a task of its own. HTTP services follow their
//! exchanges, hand out tickets, and can go on with a session of another server of the cluster.
#![forbid(unsafe_code)]

pub mod comparing;
pub mod config;
pub mod daemon;
pub mod denial;
pub mod drain;
pub mod far;
pub mod following;
pub mod grant;
pub mod inventory;
pub mod keeping;
mod life;
pub mod listener;
pub mod lookup;
pub mod open;
pub mod passes;
pub mod prepare;
pub mod registry;
pub mod relay;
pub mod relays;
mod relief;
mod restore;
mod room;
pub mod service;
pub mod standing;
pub mod status;
mod stdio;
pub mod ticket;
mod toward;
mod trouble;
pub mod within;
