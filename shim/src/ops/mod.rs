//! Decisions: what a call on a descriptor means, and what is done about it.
//!
//! Everything here is safe code over [`crate::raw`]. Modules further down in this list use those
//! above them, never the other way.

pub mod aware;
pub mod broker;
pub mod clock;
pub mod connect;
pub mod kept;
pub mod name;
pub mod option;
pub mod process;
pub mod procfs;
pub mod references;
pub mod resolve;
pub mod socket;
pub mod stream;
pub mod swap;
pub mod told;
pub mod wait;
