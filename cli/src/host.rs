//! The hosts among a program's arguments, and whether a route leads to them.

use std::io::Read;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::path::Path;

use stp_lookup::here;
use stp_proto::local::path::ROUTES_FILE;
use stp_proto::local::routes::{CONTROL_BYTES, Control, Routes};
use stp_proto::name::Name;

/// Schemes and the port that each means.
const SCHEMES: [(&str, u16); 11] = [
    ("http", 80),
    ("https", 443),
    ("ftp", 21),
    ("ssh", 22),
    ("sftp", 22),
    ("git", 9_418),
    ("rsync", 873),
    ("redis", 6_379),
    ("postgres", 5_432),
    ("postgresql", 5_432),
    ("ws", 80),
];

/// A route map is far smaller; more is some other file.
const MAP_BYTES_MAX: u64 = 256 << 20;

/// A host that a program is told to talk to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Host {
    /// Its name or address.
    pub name: String,
    /// The port, if the argument says one, or its scheme does.
    pub port: Option<u16>,
}

/// How a host is reached.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Way {
    /// Over a session: a route names it.
    Routed,
    /// Over a session: a route holds this address of it.
    RoutedAddress(IpAddr),
    /// Directly.
    Direct,
}

/// Reads an argument: a URL, `HOST:PORT`, `USER@HOST` with or without `:PATH`, an address, or one
/// of our names. Anything else could be anything.
#[must_use]
pub fn read(word: &str) -> Option<Host> {
    let host = |name: &str, port| {
        let name = name.trim_start_matches('[').trim_end_matches(']');
        let good = |c: char| c.is_ascii_alphanumeric() || "-._:".contains(c);
        let fine = !name.is_empty() && name.chars().all(good);
        fine.then(|| Host { name: name.to_owned(), port })
    };
    if let Some((scheme, rest)) = word.split_once("://") {
        let known = SCHEMES.iter().find(|(known, _)| scheme.eq_ignore_ascii_case(known));
        let authority = rest.split(['/', '?', '#']).next()?;
        let place = authority.rsplit_once('@').map_or(authority, |(_, place)| place);
        let (name, port) = with_port(place);
        return host(name, port.or(known.map(|(_, port)| *port)));
    }
    if let Some((user, place)) = word.split_once('@')
        && !user.contains('/')
    {
        return host(place.split(':').next()?, Some(22));
    }
    if word.parse::<IpAddr>().is_ok() || Name::is_host(word.as_bytes()) {
        return host(word, None);
    }
    match with_port(word) {
        (name, Some(port)) => host(name, Some(port)),
        (_, None) => None,
    }
}

fn with_port(place: &str) -> (&str, Option<u16>) {
    let split =
        place.rsplit_once(':').filter(|(name, _)| !name.contains(':') || name.ends_with(']'));
    match split.and_then(|(name, port)| Some((name, port.parse().ok()?))) {
        Some((name, port)) => (name, Some(port)),
        None => (place, None),
    }
}

/// The route map of the broker in this directory; nothing when there is none.
#[must_use]
pub fn route_map(dir: &Path) -> Option<Vec<u8>> {
    let mut map = Vec::new();
    here::open(dir, ROUTES_FILE).ok()?.take(MAP_BYTES_MAX).read_to_end(&mut map).ok()?;
    routes(&map)?;
    Some(map)
}

fn routes(map: &[u8]) -> Option<Routes<'_>> {
    let (control, body) = map.split_first_chunk::<CONTROL_BYTES>()?;
    Routes::read(&Control::read(control, map.len())?, body)
}

/// How a program with the shim reaches a host. A name that no route holds is looked up, as routes
/// may hold its addresses.
#[must_use]
pub fn way(map: &[u8], host: &Host) -> Way {
    let Some(routes) = routes(map) else { return Way::Direct };
    let name = host.name.as_bytes();
    if let Ok(ip) = host.name.parse::<IpAddr>() {
        // Without a port only routes for every port can be meant; any port will do to find them.
        let address = SocketAddr::new(ip, host.port.unwrap_or(9));
        return if routes.destination(&address).is_some() { Way::Routed } else { Way::Direct };
    }
    if Name::is_host(name) || routes.host(name, host.port) {
        return Way::Routed;
    }
    let found = (host.name.as_str(), host.port.unwrap_or(9)).to_socket_addrs();
    let mut found = found.into_iter().flatten();
    let routed = found.find(|address| routes.destination(address).is_some());
    routed.map_or(Way::Direct, |address| Way::RoutedAddress(address.ip()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use stp_proto::local::routes::{Builder, Ports, WhenAbsent};

    fn read_as(word: &str) -> Option<(String, Option<u16>)> {
        read(word).map(|host| (host.name, host.port))
    }

    #[test]
    fn hosts_are_found_among_arguments() {
        for (word, name, port) in [
            ("http://mirror.test/big.iso", "mirror.test", Some(80)),
            ("HTTPS://u:p@mirror.test:8443?x", "mirror.test", Some(8443)),
            ("ftp://[::1]:2121/", "::1", Some(2121)),
            ("rsync://mirror.test/module", "mirror.test", Some(873)),
            ("other://mirror.test", "mirror.test", None),
            ("mirror.test:80", "mirror.test", Some(80)),
            ("me@mirror.test:dir/file", "mirror.test", Some(22)),
            ("192.0.2.1", "192.0.2.1", None),
            ("www.web.at.example.com.stp", "www.web.at.example.com.stp", None),
        ] {
            assert_eq!(read_as(word), Some((name.to_owned(), port)), "{word}");
        }
        for word in ["-O", "file.txt", "mirror.test", "a/b@c", "x:y", "http://", "", "a b:80"] {
            assert_eq!(read_as(word), None, "{word}");
        }
    }

    #[test]
    fn the_route_map_says_which_way() {
        let mut map = Builder::new(WhenAbsent::Pass);
        map.address("192.0.2.0".parse().unwrap(), 24, Ports::ALL).unwrap();
        map.address("127.0.0.1".parse().unwrap(), 32, Ports::one(81)).unwrap();
        map.name("mirror.test", Ports::one(80)).unwrap();
        let map = map.build().unwrap();
        let way_to = |word| way(&map, &read(word).unwrap());
        assert_eq!(way_to("http://mirror.test/"), Way::Routed);
        assert_eq!(way_to("192.0.2.7"), Way::Routed);
        assert_eq!(way_to("192.0.3.7"), Way::Direct);
        assert_eq!(way_to("www.web.at.example.com.stp"), Way::Routed);
        assert_eq!(way_to("localhost:81"), Way::RoutedAddress("127.0.0.1".parse().unwrap()));
        assert_eq!(way_to("localhost:82"), Way::Direct);
        assert_eq!(way(b"garbage", &read("192.0.2.7").unwrap()), Way::Direct);
    }
}
