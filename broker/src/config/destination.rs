//! What a route leads from, and what it leaves out, as the configuration writes it.

use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer};

use crate::routes::{Hosts, Pattern, Prefix};

/// The destinations of one route, each with the text that it comes from.
pub(super) struct OneOrMore(pub(super) Vec<(Arc<str>, Pattern)>);

/// The patterns that a text stands for: one, but `*:80` is every host on the network.
fn destinations(text: &str) -> Result<Vec<(Arc<str>, Pattern)>, String> {
    let written: Arc<str> = Arc::from(text);
    let Some(port) = text.strip_prefix("*:") else { return Ok(vec![(written, text.parse()?)]) };
    let Pattern { port, .. } = format!("host:{port}").parse()?;
    let except: Vec<Prefix> = NOT_ANY.iter().map(|text| constant(text)).collect();
    let every = ["0.0.0.0/0", "::/0"].map(constant);
    let nets = every.iter().flat_map(|every| every.without(&except));
    let one = |net| (Arc::clone(&written), Pattern { hosts: Hosts::Net(net), port });
    Ok(nets.map(one).collect())
}

impl<'de> Deserialize<'de> for OneOrMore {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = OneOrMore;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a destination such as \"mirror.example.org:80\", or a list of them")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<OneOrMore, E> {
                destinations(text).map(OneOrMore).map_err(E::custom)
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(
                self,
                mut seq: A,
            ) -> Result<OneOrMore, A::Error> {
                let mut all = Vec::new();
                while let Some(text) = seq.next_element::<String>()? {
                    all.extend(destinations(&text).map_err(serde::de::Error::custom)?);
                }
                Ok(OneOrMore(all))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// Addresses that a route leaves out: a prefix, or `localhost`.
pub(super) struct Exception(pub(super) Vec<Prefix>);

impl FromStr for Exception {
    type Err = String;

    fn from_str(text: &str) -> Result<Exception, String> {
        if text == "localhost" {
            return Ok(Exception(LOCALHOST.iter().map(|text| constant(text)).collect()));
        }
        text.parse().map(|prefix| Exception(vec![prefix]))
    }
}

/// This machine itself.
const LOCALHOST: [&str; 2] = ["127.0.0.0/8", "::1"];
/// What `*` leaves out besides: this machine, this network's neighbours, many hosts at once.
const NOT_ANY: [&str; 8] = [
    "127.0.0.0/8",
    "::1",
    "0.0.0.0/8",
    "::",
    "169.254.0.0/16",
    "fe80::/10",
    "224.0.0.0/3",
    "ff00::/8",
];

fn constant(text: &str) -> Prefix {
    text.parse().expect("a constant prefix is right")
}
