//! The shim under probes and real programs, over a broker that relays straight to TCP.
//!
//! What a program sees with the shim in front of each of its connections is compared, line by
//! line, with what it sees without.

mod absent;
mod bed;
mod doctor;
mod fault;
mod probe;
mod program;
mod relay;
mod surrounding;
