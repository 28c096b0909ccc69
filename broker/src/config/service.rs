//! A service as the configuration describes it.

use stp_net::key::PublicKey;
use stp_net::link::SshWay;
use stp_net::place::Places;

use crate::direct::Mirror;
use crate::upkeep::Upkeep;

/// A server of a service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Server {
    /// Where it listens, by name or by address.
    pub places: Places,
    /// The key it must show.
    pub key: PublicKey,
    /// What it is called in the status; none means what it says itself.
    pub name: Option<String>,
    /// The user's ssh, which leads to its machine where nothing else does.
    pub ssh: Option<SshWay>,
}

/// A service and its servers, best first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    /// `service.object@domain`.
    pub name: String,
    /// Where it can be had. A `direct` service has no servers.
    pub servers: Vec<Server>,
    /// The broker itself goes to the app's destination, over HTTP.
    pub direct: Option<Direct>,
    /// Its servers lead to whatever destination the app names.
    pub egress: bool,
    /// Over what the links of its sessions may leave, by name.
    pub policy: Option<String>,
    /// How its sessions are to be kept.
    pub upkeep: Upkeep,
}

/// A service without a far end: the broker's own server asks the app's destination.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Direct {
    /// Origins that hold the same files, for when the app's own destination gives no more.
    pub mirrors: Vec<Mirror>,
}

impl Service {
    /// A service at servers of its own.
    #[must_use]
    pub fn at(name: String, servers: Vec<Server>) -> Service {
        Service {
            name,
            servers,
            direct: None,
            egress: false,
            policy: None,
            upkeep: Upkeep::default(),
        }
    }
}
