//! Scenarios by topic over a pair of sessions and a network of virtual time.

mod fixture;

mod announce;
mod basic;
mod beside;
mod bounds;
mod carry;
mod checkpoint;
mod close;
mod misbehaviour;
mod mobility;
mod rebind;
mod remains;
mod soak;
mod suspend;
mod timers;
mod transfer;
mod urgent;
