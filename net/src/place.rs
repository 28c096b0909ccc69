//! Where something listens: a host, which may be a name, and a port; one of them or a list.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::str::FromStr;

use serde::{Deserialize, Deserializer};

/// Addresses that are taken of a name.
const ADDRESSES_MAX: usize = 8;
/// Places in a list.
const PLACES_MAX: usize = 16;

/// A host and a port. It is read from "home.example.org:4433", "192.0.2.1:4433" or
/// "[2001:db8::1]:4433".
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Place {
    /// A name in small letters, or an address.
    pub host: String,
    /// The port, not 0.
    pub port: u16,
}

impl Place {
    /// Reads a place, which may lack a port if there is a usual one. None if it is no such thing.
    #[must_use]
    pub fn parse(text: &str, usual: Option<u16>) -> Option<Self> {
        if let Ok(address) = text.parse::<SocketAddr>() {
            return (address.port() != 0).then(|| address.into());
        }
        let bare = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(text);
        if let (Ok(ip), Some(port)) = (bare.parse::<IpAddr>(), usual) {
            // One place, one spelling: keys are kept by it.
            return Some(Self { host: ip.to_string(), port });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().ok()?),
            None => (text, usual?),
        };
        let good = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.';
        // Whatever ends like an address is meant as one (RFC 1123, section 2.1).
        let digits = host.rsplit('.').next()?.bytes().all(|byte| byte.is_ascii_digit());
        let named = !digits && host.len() <= 253 && host.bytes().all(good);
        (named && port != 0).then(|| Self { host: host.to_ascii_lowercase(), port })
    }

    /// The address, if it is written as one.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        let ip = self.host.parse::<IpAddr>().ok()?;
        Some(SocketAddr::new(ip, self.port))
    }

    /// Its addresses, by the system's resolver, at most eight.
    ///
    /// # Errors
    /// When the name has none, or nobody knows now.
    pub async fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        if let Some(address) = self.address() {
            return Ok(vec![address]);
        }
        let found = tokio::net::lookup_host((self.host.as_str(), self.port)).await?;
        let found: Vec<_> = found.take(ADDRESSES_MAX).collect();
        if found.is_empty() {
            return Err(io::Error::new(io::ErrorKind::NotFound, "the name has no address"));
        }
        Ok(found)
    }
}

impl From<SocketAddr> for Place {
    fn from(address: SocketAddr) -> Self {
        Self { host: address.ip().to_string(), port: address.port() }
    }
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Self::parse(text, None).ok_or_else(|| {
            format!("{text:?} is no place such as \"home.example.org:4433\" or \"192.0.2.1:4433\"")
        })
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let brackets = self.host.contains(':');
        let (open, close) = if brackets { ("[", "]") } else { ("", "") };
        write!(f, "{open}{}{close}:{}", self.host, self.port)
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Places of one and the same server, the preferred one first. In a configuration, one text or a
/// list of texts.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Places(Vec<Place>);

impl Places {
    /// The places; never none.
    #[must_use]
    pub fn all(&self) -> &[Place] {
        &self.0
    }

    /// One more, if it is not there.
    pub fn add(&mut self, place: Place) {
        if !self.0.contains(&place) {
            self.0.push(place);
        }
    }

    /// Whether some place is in both.
    #[must_use]
    pub fn meets(&self, other: &Self) -> bool {
        self.0.iter().any(|place| other.0.contains(place))
    }

    /// Those that are written as addresses.
    pub fn addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.0.iter().filter_map(Place::address)
    }

    /// All addresses, IPv6 and IPv4 in turn (RFC 8305, section 4), beginning with the family of the
    /// first. Names are looked up all at once.
    ///
    /// # Errors
    /// The first name's, if there is no address at all.
    pub async fn resolve(&self) -> io::Result<Vec<SocketAddr>> {
        let asked = self.0.iter().map(Place::resolve);
        let (mut found, mut failed) = (Vec::new(), None);
        for answer in futures_util::future::join_all(asked).await {
            match answer {
                Ok(addresses) => found.extend(addresses),
                Err(error) => failed = failed.or(Some(error)),
            }
        }
        let found = in_turn(&found);
        match failed {
            Some(error) if found.is_empty() => Err(error),
            _ => Ok(found),
        }
    }
}

fn in_turn(found: &[SocketAddr]) -> Vec<SocketAddr> {
    let Some(first) = found.first() else { return Vec::new() };
    let of =
        |same: bool| found.iter().filter(move |one| (one.is_ipv4() == first.is_ipv4()) == same);
    let (mut these, mut others) = (of(true), of(false));
    let mut all = Vec::new();
    loop {
        let two = [these.next(), others.next()];
        if two == [None, None] {
            return all;
        }
        for one in two.into_iter().flatten() {
            if !all.contains(one) {
                all.push(*one);
            }
        }
    }
}

impl From<Place> for Places {
    fn from(place: Place) -> Self {
        Self(vec![place])
    }
}

impl From<SocketAddr> for Places {
    fn from(address: SocketAddr) -> Self {
        Self(vec![address.into()])
    }
}

impl fmt::Display for Places {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (k, place) in self.0.iter().enumerate() {
            let comma = if k > 0 { ", " } else { "" };
            write!(f, "{comma}{place}")?;
        }
        Ok(())
    }
}

impl<'de> Deserialize<'de> for Places {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        use serde::de::Error;
        #[derive(Deserialize)]
        #[serde(
            untagged,
            expecting = "expected a place such as \"home.example.org:4433\", or a list of them"
        )]
        enum OneOrMore {
            One(String),
            More(Vec<String>),
        }
        let texts = match OneOrMore::deserialize(deserializer)? {
            OneOrMore::One(text) => vec![text],
            OneOrMore::More(texts) => texts,
        };
        if texts.is_empty() || texts.len() > PLACES_MAX {
            return Err(Error::custom(format!("expected 1 to {PLACES_MAX} places")));
        }
        let mut places: Vec<Place> = Vec::new();
        for text in texts {
            let place = text.parse().map_err(Error::custom)?;
            if places.contains(&place) {
                return Err(Error::custom(format!("{place} is there twice")));
            }
            places.push(place);
        }
        Ok(Self(places))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_and_written() {
        for (text, written) in [
            ("Home.example.org:99", "home.example.org:99"),
            ("192.0.2.1:5", "192.0.2.1:5"),
            ("[2001:DB8::0b8]:5", "[2001:db8::b8]:5"),
        ] {
            let place: Place = text.parse().expect(text);
            assert_eq!(place.to_string(), written);
            assert_eq!(written.parse(), Ok(place));
        }
        for bad in [
            "300.1.1.1:1",
            "a.7:1",
            "",
            ":5",
            "a b:1",
            "a:b",
            "a:0",
            "a/b:1",
            "192.0.2.1:0",
            "a",
            "2001:db8::1",
        ] {
            assert!(bad.parse::<Place>().is_err(), "{bad}");
        }
    }

    #[test]
    fn families_take_turns() {
        let all: Vec<SocketAddr> = ["[::1]:1", "[::2]:1", "[::3]:1", "1.1.1.1:1", "[::1]:1"]
            .map(|text| text.parse().expect("an address"))
            .to_vec();
        let texts: Vec<_> = in_turn(&all).iter().map(ToString::to_string).collect();
        assert_eq!(texts, ["[::1]:1", "1.1.1.1:1", "[::2]:1", "[::3]:1"]);
        assert!(in_turn(&[]).is_empty());
    }

    #[test]
    fn a_list_of_places_is_read_as_one_server() {
        #[derive(Deserialize)]
        struct File {
            address: Places,
        }
        let read = |text: &str| toml::from_str::<File>(text).map(|file| file.address.to_string());
        assert_eq!(read("address = \"a:1\"").expect("one"), "a:1");
        assert_eq!(read("address = [\"a:1\", \"[::1]:2\"]").expect("two"), "a:1, [::1]:2");
        for (bad, said) in [
            ("address = []", "1 to 16 places"),
            ("address = 5", "expected a place"),
            ("address = [\"a:1\", \"A:1\"]", "is there twice"),
            ("address = \"a\"", "is no place"),
        ] {
            let error = read(bad).expect_err(bad).to_string();
            assert!(error.contains(said), "{bad}: {error}");
        }
    }
}
