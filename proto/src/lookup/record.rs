//! What the directory keeps and tells: endpoints, places, servers, files.

use core::fmt;
use core::net::{IpAddr, SocketAddr};
use core::str::FromStr;

use super::MessageError;
use super::field::{Field, FilePath, List, Reader, record};
use crate::name::{Name, NameError};
use crate::profile::{Profile, Version};

/// An endpoint's name, `object@domain`: the named, movable thing that has services.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct EndpointName {
    text: String,
    at: usize,
}

impl EndpointName {
    /// The endpoint a service belongs to.
    #[must_use]
    pub fn of(service: &Name) -> EndpointName {
        EndpointName { text: service.endpoint().to_owned(), at: service.object().len() }
    }

    /// The domain that allows and keeps the name.
    #[must_use]
    pub fn domain(&self) -> &str {
        &self.text[self.at + 1..]
    }

    /// The whole name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for EndpointName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<EndpointName, NameError> {
        // The rules are those of a service's name with some service before it.
        format!("x.{text}").parse().map(|name: Name| EndpointName::of(&name))
    }
}

impl fmt::Display for EndpointName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl Field for EndpointName {
    fn put(&self, out: &mut Vec<u8>) {
        self.text.put(out);
    }

    fn read(from: &mut Reader<'_>, name: &'static str) -> Result<Self, MessageError> {
        String::read(from, name)?.parse().map_err(|_| MessageError::BadValue(name))
    }
}

record! {
    /// What a daemon says of itself to another of its cluster.
    pub struct Told {
        /// The three numbers of its version, a byte each from the highest but one on.
        pub version: u32,
        /// Public ids of its cluster keys, the one that seals first.
        pub keys: List<u32>,
        /// What time it is there, in milliseconds since 1970.
        pub unix_ms: u64,
    }
}

impl Told {
    /// From a profile and the time.
    #[must_use]
    pub fn new(profile: &Profile, unix_ms: u64) -> Told {
        let [major, minor, patch] = profile.version.0;
        let version = u32::from_be_bytes([0, major, minor, patch]);
        let keys: Vec<u32> = profile.keys.into_iter().filter(|id| *id != 0).collect();
        Told { version, keys: keys.into(), unix_ms }
    }

    /// As the profile that it was made of.
    #[must_use]
    pub fn profile(&self) -> Profile {
        let [_, major, minor, patch] = self.version.to_be_bytes();
        let keys = core::array::from_fn(|place| self.keys.get(place).copied().unwrap_or_default());
        Profile { version: Version([major, minor, patch]), keys }
    }
}

/// By which protocol a service is reached.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Protocol {
    /// The session protocol over TLS over TCP.
    #[default]
    Session,
}

impl Field for Protocol {
    fn put(&self, out: &mut Vec<u8>) {
        out.push(match self {
            Protocol::Session => 1,
        });
    }

    fn read(from: &mut Reader<'_>, name: &'static str) -> Result<Self, MessageError> {
        match u8::read(from, name)? {
            1 => Ok(Protocol::Session),
            _ => Err(MessageError::BadValue(name)),
        }
    }
}

record! {
    /// Where a service can be had now.
    pub struct Location {
        /// The server's name; empty for a service that its endpoint offers itself.
        pub server: String,
        /// Its address.
        pub address: SocketAddr,
        /// How it is spoken to.
        pub protocol: Protocol,
        /// The key it must show.
        pub key: [u8; 32],
    }
}

record! {
    /// A server of the gateway's list, best first.
    pub struct Server {
        /// What it is called.
        pub name: String,
        /// Where it listens; any of them.
        pub addresses: List<SocketAddr>,
        /// The key it must show.
        pub key: [u8; 32],
        /// Hops from the client's network, as far as known ([`super::UNKNOWN_HOPS`]).
        pub hops: u8,
    }
}

record! {
    /// A file that a server holds.
    pub struct FileEntry {
        /// Where it is in the service's tree.
        pub path: FilePath,
        /// Its length.
        pub size: u64,
        /// SHA-256 of its content.
        pub sha256: [u8; 32],
    }
}

/// Whether addresses can be those of an endpoint: one to eight, none unspecified or multicast.
#[must_use]
pub(super) fn addresses_are_good(addresses: &[IpAddr]) -> bool {
    let one = |address: &IpAddr| !address.is_unspecified() && !address.is_multicast();
    (1..=8).contains(&addresses.len()) && addresses.iter().all(one)
}
