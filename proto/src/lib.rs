//! Names, wire formats and the session core: everything that decides, nothing that acts.
//! No clock, no socket, no randomness (see clippy.toml). The rules: PROTOCOL.md beside this.

#![forbid(unsafe_code)]
#![warn(missing_docs)]

pub mod budget;
pub mod buffer;
pub mod chain;
pub mod class;
pub mod clocks;
pub mod course;
pub mod cut;
pub mod days;
pub mod deaths;
pub mod egress;
pub mod group;
pub mod handle;
pub mod liveness;
pub mod local;
pub mod lookup;
pub mod mutant;
pub mod name;
pub mod pass;
pub mod pattern;
pub mod policy;
pub mod profile;
pub mod rate;
pub mod replay;
pub mod rise;
pub mod role;
pub mod roster;
pub mod scope;
pub mod seam;
pub mod select;
pub mod session;
pub mod state;
mod steps;
pub mod ticket;
pub mod time;
pub mod trickle;
pub mod wire;
