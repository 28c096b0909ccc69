//! The local daemon that holds the apps' sessions.
//!
//! An app's socket comes in through [`app`]; [`routes`] say which service it wants; a session is
//! begun, and [`stp_drive`]'s loop joins its [`near`] side to a link that its [`far`] side brings
//! up. [`reach`] is the way to one server, shared by all sessions; [`search`] finds one session a
//! link. What is decided is decided in [`stp_proto::course`]. The broker knows nothing of HTTP or
//! any other protocol of the apps.
#![forbid(unsafe_code)]

pub mod accept;
pub mod any_link;
pub mod app;
pub mod around;
pub mod broker;
pub mod clock;
pub mod command;
pub mod config;
pub mod daemon;
pub mod dial;
pub mod dialer;
pub mod direct;
pub mod distance;
pub mod endpoints;
pub mod entry;
pub mod environment;
pub mod far;
pub mod goal;
pub mod group;
mod hosts;
pub mod lacking;
pub mod leave;
pub mod lookup;
pub mod map;
pub mod means;
pub mod measure;
pub mod mirrors;
pub mod names;
pub mod near;
pub mod network;
pub mod pauses;
pub mod policies;
pub mod policing;
pub mod reach;
pub mod redirect;
pub mod relay;
pub mod relays;
pub mod reload;
pub mod remains;
pub mod restore;
pub mod routes;
pub mod search;
pub mod service;
pub mod sleep;
pub mod status;
pub mod tables;
pub mod trouble;
pub mod upkeep;
pub mod virtual_addresses;
