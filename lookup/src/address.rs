//! Where a directory is: `host`, `host:port`, an address; and the first step of a look-up
//! (KTH 3.3.4), from a domain's name to the address of its SNS.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

/// The port of a directory, unless another is told.
pub const PORT: u16 = 4480;

/// A host and a port.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DirectoryAddress {
    /// A name or an address.
    pub host: String,
    /// The port.
    pub port: u16,
}

impl FromStr for DirectoryAddress {
    type Err = String;

    fn from_str(text: &str) -> Result<DirectoryAddress, String> {
        let wrong = || {
            format!("{text:?} is no place such as \"gateway.example.org\" or \"192.0.2.1:{PORT}\"")
        };
        if let Ok(address) = text.parse::<SocketAddr>() {
            let (host, port) = (address.ip().to_string(), address.port());
            return if port == 0 { Err(wrong()) } else { Ok(DirectoryAddress { host, port }) };
        }
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        if let Ok(ip) = bare.parse::<IpAddr>() {
            // One place, one spelling: keys are kept by it.
            return Ok(DirectoryAddress { host: ip.to_string(), port: PORT });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().map_err(|_| wrong())?),
            None => (text, PORT),
        };
        let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
        if host.is_empty() || host.len() > 253 || port == 0 || !host.bytes().all(good) {
            return Err(wrong());
        }
        Ok(DirectoryAddress { host: host.to_ascii_lowercase(), port })
    }
}

impl fmt::Display for DirectoryAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let brackets = self.host.contains(':');
        let (open, close) = if brackets { ("[", "]") } else { ("", "") };
        write!(f, "{open}{}{close}:{}", self.host, self.port)
    }
}

impl fmt::Debug for DirectoryAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl<'de> Deserialize<'de> for DirectoryAddress {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<DirectoryAddress, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// The addresses of a place, by the system's resolver.
pub async fn resolve(place: &DirectoryAddress) -> io::Result<Vec<SocketAddr>> {
    if let Ok(ip) = place.host.parse::<IpAddr>() {
        return Ok(vec![SocketAddr::new(ip, place.port)]);
    }
    let found: Vec<_> =
        tokio::net::lookup_host((place.host.as_str(), place.port)).await?.take(8).collect();
    if found.is_empty() {
        return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
    }
    Ok(found)
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
