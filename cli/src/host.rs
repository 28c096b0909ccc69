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

/// The most bytes of a route map. A real one is far smaller, so a larger file is another one.
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

/// Programs that speak FTP.
const FTP_CLIENTS: [&str; 8] =
    ["ftp", "lftp", "tnftp", "ncftp", "ncftpget", "ncftpput", "ncftpls", "inetutils-ftp"];

/// Programs that take hosts as bare words, and the port that each of them uses then.
const HOST_WORDS: [(&[&str], Option<u16>); 8] = [
    (&["curl", "wget", "wget2", "lynx", "w3m", "aria2c", "http", "axel"], Some(80)),
    (&["ssh", "sftp", "scp", "mosh", "ssh-copy-id", "sshfs"], Some(22)),
    (&FTP_CLIENTS, Some(21)),
    (&["telnet"], Some(23)),
    (&["nc", "ncat", "netcat", "socat"], None),
    (&["redis-cli"], Some(6_379)),
    (&["psql"], Some(5_432)),
    (&["rsync"], Some(873)),
];

/// Programs to which `USER@HOST` is a host. To others it is an address of mail, a package with its
/// version, or, without a user, a name server.
const ACCOUNT_WORDS: [&str; 9] =
    ["ssh", "sftp", "scp", "mosh", "ssh-copy-id", "sshfs", "rsync", "git", "ftp"];

/// Reads an argument of a program: a URL, `HOST:PORT`, an address, one of our names, `USER@HOST`
/// with or without `:PATH` where the program means a host by it, and a bare word if the program
/// takes bare words as hosts, or if `is_routed` says so. Other arguments are not read as hosts.
#[must_use]
pub fn read(program: &str, word: &str, is_routed: &dyn Fn(&str) -> bool) -> Option<Host> {
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
        let means_it = ACCOUNT_WORDS.contains(&program) && !user.is_empty();
        let port = if FTP_CLIENTS.contains(&program) { 21 } else { 22 };
        return if means_it { host(place.split(':').next()?, Some(port)) } else { None };
    }
    if word.parse::<IpAddr>().is_ok() || Name::is_host(word.as_bytes()) {
        return host(word, None);
    }
    if let (name, Some(port)) = with_port(word) {
        return host(name, Some(port));
    }
    let usual = HOST_WORDS.iter().find(|(programs, _)| programs.contains(&program));
    let is_name = word.contains('.') && !word.starts_with(['-', '.', '/']) && !word.contains('/');
    let may_be = is_name && usual.is_some() && !Path::new(word).exists();
    if may_be || is_routed(word) {
        return host(word, usual.and_then(|(_, port)| *port));
    }
    None
}

fn with_port(place: &str) -> (&str, Option<u16>) {
    let split =
        place.rsplit_once(':').filter(|(name, _)| !name.contains(':') || name.ends_with(']'));
    match split.and_then(|(name, port)| Some((name, port.parse().ok()?))) {
        Some((name, port)) => (name, Some(port)),
        None => (place, None),
    }
}

/// The route map of the broker in this directory; `None` if there is none.
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

/// Whether a route names this host, for whatever port.
#[must_use]
pub fn is_named(map: &[u8], name: &str) -> bool {
    routes(map).is_some_and(|routes| routes.host(name.as_bytes(), None))
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

    fn read_as(program: &str, word: &str) -> Option<(String, Option<u16>)> {
        read(program, word, &|name| name == "routed").map(|host| (host.name, host.port))
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
            ("192.0.2.1", "192.0.2.1", None),
            ("www.web.at.example.com.stp", "www.web.at.example.com.stp", None),
        ] {
            assert_eq!(read_as("any", word), Some((name.to_owned(), port)), "{word}");
        }
        for word in ["-O", "file.txt", "mirror.test", "a/b@c", "x:y", "http://", "", "a b:80"] {
            assert_eq!(read_as("any", word), None, "{word}");
        }
        // What a word is depends on the program.
        let ssh = Some(("mirror.test".to_owned(), Some(22)));
        assert_eq!(read_as("ssh", "me@mirror.test:dir/file"), ssh);
        assert_eq!(read_as("ssh", "mirror.test"), ssh);
        assert_eq!(read_as("npm", "left-pad@1.2.3"), None);
        assert_eq!(read_as("dig", "@192.0.2.1"), None);
        assert_eq!(read_as("curl", "mirror.test"), Some(("mirror.test".to_owned(), Some(80))));
        assert_eq!(read_as("any", "routed"), Some(("routed".to_owned(), None)));
    }

    #[test]
    fn the_route_map_says_which_way() {
        let mut map = Builder::new(WhenAbsent::Pass);
        map.address("192.0.2.0".parse().unwrap(), 24, Ports::ALL).unwrap();
        map.address("127.0.0.1".parse().unwrap(), 32, Ports::one(81)).unwrap();
        map.name("mirror.test", Ports::one(80)).unwrap();
        let map = map.build().unwrap();
        let way_to = |word| way(&map, &read("any", word, &|_| false).unwrap());
        assert_eq!(way_to("http://mirror.test/"), Way::Routed);
        assert_eq!(way_to("192.0.2.7"), Way::Routed);
        assert_eq!(way_to("192.0.3.7"), Way::Direct);
        assert_eq!(way_to("www.web.at.example.com.stp"), Way::Routed);
        assert_eq!(way_to("localhost:81"), Way::RoutedAddress("127.0.0.1".parse().unwrap()));
        assert_eq!(way_to("localhost:82"), Way::Direct);
        assert_eq!(way(b"garbage", &read("any", "192.0.2.7", &|_| false).unwrap()), Way::Direct);
    }
}
