//! Where a directory is: `host`, `host:port`, an address; and the first step of a look-up
//! (KTH 3.3.4), from a domain's name to the address of its SNS.

use std::fmt;
use std::ops::Deref;
use std::str::FromStr;

use serde::{Deserialize, Deserializer};
use stp_net::place::Place;

/// The port of a directory, unless another is told.
pub const PORT: u16 = 4480;

/// A host and a port, which need not be written if it is [`PORT`].
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DirectoryAddress(pub Place);

impl Deref for DirectoryAddress {
    type Target = Place;

    fn deref(&self) -> &Place {
        &self.0
    }
}

impl FromStr for DirectoryAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<DirectoryAddress, String> {
        Place::parse(text, Some(PORT)).map(DirectoryAddress).ok_or_else(|| {
            format!("{text:?} is no place such as \"gateway.example.org\" or \"192.0.2.1:{PORT}\"")
        })
    }
}

impl fmt::Display for DirectoryAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl fmt::Debug for DirectoryAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.0, f)
    }
}

impl<'de> Deserialize<'de> for DirectoryAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<DirectoryAddress, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_and_written() {
        for (text, written) in [
            ("gateway.example.org", "gateway.example.org:4480"),
            ("Gateway:99", "gateway:99"),
            ("192.0.2.1", "192.0.2.1:4480"),
            ("2001:db8::1", "[2001:db8::1]:4480"),
            ("2001:DB8::0b8", "[2001:db8::b8]:4480"),
            ("[2001:db8::1]:5", "[2001:db8::1]:5"),
        ] {
            let place: DirectoryAddress = text.parse().expect(text);
            assert_eq!(place.to_string(), written);
            assert_eq!(written.parse(), Ok(place));
        }
        for bad in ["", ":5", "a b", "a:b", "a:0", "a/b", "192.0.2.1:0"] {
            assert!(bad.parse::<DirectoryAddress>().is_err(), "{bad}");
        }
    }
}
