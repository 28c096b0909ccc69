//! What a route leads from, and what it leaves out, as the configuration writes it.

use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer};
use stp_proto::pattern::{Hosts, Pattern};

/// The destinations of one route, each with its text.
pub(super) struct Destinations(pub(super) Vec<(Arc<str>, Pattern)>);

impl<'de> Deserialize<'de> for Destinations {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        fn one<E: serde::de::Error>(text: &str) -> Result<(Arc<str>, Pattern), E> {
            text.parse().map(|to| (Arc::from(text), to)).map_err(E::custom)
        }
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = Destinations;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a destination such as \"mirror.example.org:80\", or a list of them")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Destinations, E> {
                Ok(Destinations(vec![one(text)?]))
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(
                self,
                mut seq: A,
            ) -> Result<Destinations, A::Error> {
                let mut all = Vec::new();
                while let Some(text) = seq.next_element::<String>()? {
                    all.push(one(&text)?);
                }
                Ok(Destinations(all))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// What a route leaves out: an address or a prefix, a name or all below it, or `localhost`.
pub(super) struct Exception(pub(super) Vec<Hosts>);

impl FromStr for Exception {
    type Err = String;

    fn from_str(text: &str) -> Result<Exception, String> {
        if text == "localhost" {
            let of = |text: &&str| text.parse().expect("a constant is right");
            return Ok(Exception(LOCALHOST.iter().map(of).collect()));
        }
        match text.parse()? {
            Hosts::Any => Err("nothing would be left".to_owned()),
            hosts => Ok(Exception(vec![hosts])),
        }
    }
}

/// This machine itself.
const LOCALHOST: [&str; 4] = ["127.0.0.0/8", "::1", "localhost", "*.localhost"];
/// What `*` leaves out besides: this machine, this network's neighbours, many hosts at once,
/// addresses that no host has (they stand for names), and names of the directory.
pub(super) const NOT_ANY: [&str; 14] = [
    "127.0.0.0/8",
    "::1",
    "localhost",
    "*.localhost",
    "0.0.0.0/8",
    "::",
    "169.254.0.0/16",
    "fe80::/10",
    "*.local",
    "224.0.0.0/3",
    "ff00::/8",
    "198.18.0.0/15",
    "stp",
    "*.stp",
];
