//! The model checker: the shipped session core, stepped through everything that can happen.
//!
//! `explore.rs` goes through a graph of states; `world.rs` is the graph: a broker, servers and the
//! links between them. `end.rs` is one end, the real [`stp_proto::session::Session`]; `act.rs` and
//! `daemon.rs` are as much of a daemon as it needs; `kept.rs` is what outlives
//! a process, `net.rs` the network; `plan.rs` how large a run
//! is; `property.rs` what must hold. `course.rs` is a session's course through its servers, and
//! `groups.rs` a login with its announcements; `exhaustive.rs` has the runs, `mutants.rs` the
//! mistakes that must be caught, `thesis.rs` the rules of the thesis, which must fail, and
//! `rules.rs` sees to the numbered rules.
//!
//! Time is left out: the clock stands still, and any timer that is set may expire. Not here: sealed
//! tickets, digests over more than a few bytes, the daemons' own locks and sockets.
#![expect(clippy::print_stdout, reason = "the figures are what the runs are for")]

mod act;
mod course;
mod daemon;
mod end;
mod exhaustive;
mod explore;
mod groups;
mod kept;
mod mutants;
mod net;
mod plan;
mod pool;
mod property;
mod rules;
mod thesis;
mod world;
