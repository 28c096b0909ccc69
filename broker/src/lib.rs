//! The local daemon that holds the apps' sessions.
//!
//! An app's socket comes in through [`app`]; [`routes`] say which service it wants; a session is
//! begun, and [`stp_drive`]'s loop joins its [`near`] side to a link that its [`far`] side brings
//! up. [`reach`] is the way to one server, shared by all sessions; [`search`] is one session's way
//! through the servers of its service. The broker knows nothing of HTTP or any other protocol of
//! the apps.
#![forbid(unsafe_code)]

pub mod app;
pub mod broker;
pub mod clock;
pub mod config;
pub mod daemon;
pub mod dialer;
pub mod distance;
pub mod entry;
pub mod far;
pub mod lookup;
pub mod map;
pub mod moves;
pub mod near;
pub mod network;
pub mod reach;
pub mod relay;
pub mod routes;
pub mod search;
pub mod service;
pub mod status;
pub mod virtual_addresses;
