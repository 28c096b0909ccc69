//! Destinations, as configurations write them: a host name (`mirror.example.org`, or
//! `*.example.org` for everything below it), an address or a prefix, each with a port or `*`.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use core::str::FromStr;

/// An address prefix, as `10.1.0.0/24`; a plain address is a prefix of full length.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Prefix {
    addr: IpAddr,
    len: u8,
}

impl Prefix {
    /// A prefix; bits beyond `len` must be zero.
    ///
    /// # Errors
    /// Says what is wrong, for the configuration's error.
    pub fn new(addr: IpAddr, len: u8) -> Result<Prefix, String> {
        let bits = if addr.is_ipv4() { 32 } else { 128 };
        if len > bits {
            return Err(format!("prefix length {len} is more than {bits}"));
        }
        let prefix = Prefix { addr, len };
        let first = prefix.first();
        if first != addr {
            return Err(format!("{addr}/{len} has bits beyond the prefix; write {first}/{len}"));
        }
        Ok(prefix)
    }

    fn first(&self) -> IpAddr {
        match self.addr {
            IpAddr::V4(v4) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.len)).unwrap_or(0);
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() & mask))
            }
            IpAddr::V6(v6) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.len)).unwrap_or(0);
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() & mask))
            }
        }
    }

    /// The first address.
    #[must_use]
    pub fn addr(&self) -> IpAddr {
        self.addr
    }

    /// The number of leading bits that count.
    #[must_use]
    pub fn len(&self) -> u8 {
        self.len
    }

    /// Whether every address is inside.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        false
    }

    /// The prefixes that together hold every address of this one that is in none of `others`, in
    /// ascending order.
    #[must_use]
    pub fn without(self, others: &[Prefix]) -> Vec<Prefix> {
        let holds =
            |outer: &Prefix, inner: &Prefix| outer.len <= inner.len && outer.contains(inner.addr);
        if others.iter().any(|other| holds(other, &self)) {
            return Vec::new();
        }
        if !others.iter().any(|other| holds(&self, other)) {
            return vec![self];
        }
        self.halves().into_iter().flat_map(|half| half.without(others)).collect()
    }

    /// The two prefixes that are one bit longer. Must not be called on a single address.
    fn halves(self) -> [Prefix; 2] {
        let len = self.len + 1;
        let second = match self.addr {
            IpAddr::V4(v4) => {
                IpAddr::V4(Ipv4Addr::from_bits(v4.to_bits() | (1 << (32 - u32::from(len)))))
            }
            IpAddr::V6(v6) => {
                IpAddr::V6(Ipv6Addr::from_bits(v6.to_bits() | (1 << (128 - u32::from(len)))))
            }
        };
        [Prefix { len, ..self }, Prefix { addr: second, len }]
    }

    /// Whether an address lies inside. `::ffff:a.b.c.d` is a.b.c.d.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        let ip = ip.to_canonical();
        ip.is_ipv4() == self.addr.is_ipv4()
            && Prefix { addr: ip, len: self.len }.first() == self.addr
    }
}

impl FromStr for Prefix {
    type Err = String;

    fn from_str(text: &str) -> Result<Prefix, String> {
        let (addr, len) = match text.split_once('/') {
            Some((addr, len)) => (addr, Some(len)),
            None => (text, None),
        };
        let addr: IpAddr =
            addr.parse().map_err(|_| format!("\"{addr}\" is not an IPv4 or IPv6 address"))?;
        let full = if addr.is_ipv4() { 32 } else { 128 };
        let len = match len {
            None => full,
            Some(len) => len
                .parse()
                .map_err(|_| format!("\"{len}\" is not a prefix length (0 to {full})"))?,
        };
        Prefix::new(addr, len)
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let full = if self.addr.is_ipv4() { 32 } else { 128 };
        if self.len == full {
            write!(f, "{}", self.addr)
        } else {
            write!(f, "{}/{}", self.addr, self.len)
        }
    }
}

/// The destinations half of a [`Pattern`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hosts {
    /// Every host, by name and by address; written `*`.
    Any,
    /// One host name, lower case, no final dot.
    Name(String),
    /// Every name that ends in a dot and this.
    Below(String),
    /// Addresses.
    Net(Prefix),
}

/// The destinations of a route.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pattern {
    /// Which hosts.
    pub hosts: Hosts,
    /// Which port; none means all.
    pub port: Option<u16>,
}

impl Hosts {
    /// Whether this (normalised) host name is among them.
    #[must_use]
    pub fn has_name(&self, name: &str) -> bool {
        match self {
            Hosts::Any => true,
            Hosts::Name(own) => own == name,
            Hosts::Below(tail) => name
                .strip_suffix(tail.as_str())
                .and_then(|head| head.strip_suffix('.'))
                .is_some_and(|head| !head.is_empty()),
            Hosts::Net(_) => false,
        }
    }

    /// Whether this address is among them.
    #[must_use]
    pub fn has_address(&self, ip: IpAddr) -> bool {
        match self {
            Hosts::Any => true,
            Hosts::Name(_) | Hosts::Below(_) => false,
            Hosts::Net(net) => net.contains(ip),
        }
    }
}

impl Pattern {
    /// Whether this port is among them.
    #[must_use]
    pub fn has_port(&self, port: u16) -> bool {
        self.port.is_none_or(|own| own == port)
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Pattern, String> {
        let (host, port) = split_port(text)?;
        let port = match port {
            "*" => None,
            digits => match digits.parse::<u16>() {
                Ok(port) if port > 0 => Some(port),
                _ => return Err(format!("\"{digits}\" is not a port (1 to 65535, or *)")),
            },
        };
        Ok(Pattern { hosts: host.parse()?, port })
    }
}

fn split_port(text: &str) -> Result<(&str, &str), String> {
    if let Some(rest) = text.strip_prefix('[') {
        return rest.split_once("]:").ok_or_else(|| {
            format!("\"{text}\" has no port after the bracket; write [address]:80 or [address]:*")
        });
    }
    match text.rsplit_once(':') {
        Some((host, _)) if host.contains(':') => {
            Err(format!("write an IPv6 address in brackets: [{host}]:port"))
        }
        Some(pair) => Ok(pair),
        None => Err(format!("\"{text}\" has no port; write {text}:80, or {text}:* for every port")),
    }
}

impl FromStr for Hosts {
    type Err = String;

    fn from_str(host: &str) -> Result<Hosts, String> {
        if host == "*" {
            return Ok(Hosts::Any);
        }
        let looks_numeric =
            host.contains(['/', ':']) || host.chars().all(|c| c.is_ascii_digit() || c == '.');
        if looks_numeric {
            return host.parse().map(Hosts::Net);
        }
        match host.strip_prefix("*.") {
            Some(below) => Ok(Hosts::Below(host_name(below)?)),
            None => Ok(Hosts::Name(host_name(host)?)),
        }
    }
}

/// Whether what an app gives to a resolver is an address in some notation, and no name: whatever
/// ends like an address is meant as one (RFC 1123, section 2.1).
#[must_use]
pub fn is_address(host: &[u8]) -> bool {
    let host = host.strip_suffix(b".").unwrap_or(host);
    let last = host.rsplit(|byte| *byte == b'.').next().unwrap_or_default();
    let number = match last {
        [b'0', b'x' | b'X', hex @ ..] => hex.iter().all(u8::is_ascii_hexdigit),
        digits => digits.iter().all(u8::is_ascii_digit),
    };
    number || host.contains(&b':')
}

/// Normalises a host name: lower case, no final dot.
///
/// # Errors
/// Says what is wrong with it.
pub fn host_name(text: &str) -> Result<String, String> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let good_label = |label: &str| {
        !label.is_empty()
            && label.len() <= 63
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    if name.is_empty() || name.len() > 253 || !name.split('.').all(good_label) {
        return Err(format!("\"{text}\" is not a host name"));
    }
    Ok(name)
}

impl fmt::Display for Hosts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Hosts::Any => f.write_str("*"),
            Hosts::Name(name) => f.write_str(name),
            Hosts::Below(name) => write!(f, "*.{name}"),
            Hosts::Net(net) => net.fmt(f),
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.hosts {
            Hosts::Net(net) if net.addr().is_ipv6() => write!(f, "[{net}]")?,
            hosts => hosts.fmt(f)?,
        }
        match self.port {
            Some(port) => write!(f, ":{port}"),
            None => f.write_str(":*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_pattern_says_what_is_wrong() {
        for (text, says) in [
            ("example.org", "has no port"),
            ("example.org:http", "is not a port"),
            ("example.org:0", "is not a port"),
            ("10.1.2.3/16:80", "write 10.1.0.0/16"),
            ("10.1.0.0/33:80", "more than 32"),
            ("10.1.0:80", "is not an IPv4 or IPv6 address"),
            ("2001:db8::1:80", "in brackets"),
            ("[2001:db8::1]", "after the bracket"),
            ("a..b:80", "is not a host name"),
            ("*.:80", "is not a host name"),
            ("exa mple.org:80", "is not a host name"),
        ] {
            let error = text.parse::<Pattern>().expect_err(text);
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn what_ends_like_an_address_is_no_name() {
        for address in ["1.2.3.4", "127.1", "0x7f.0x1", "0x7F000001", "::1", "fe80::1%lo", "", "9."]
        {
            assert!(is_address(address.as_bytes()), "{address}");
        }
        for name in ["a", "localhost", "1.2.3.4.org", "0xg", "4.example.org.", "10a"] {
            assert!(!is_address(name.as_bytes()), "{name}");
        }
    }

    #[test]
    fn a_pattern_is_shown_as_it_is_written() {
        for text in
            ["*:*", "*:80", "a.b:80", "*.a.b:*", "10.0.0.0/8:22", "[2001:db8::/32]:*", "[::1]:80"]
        {
            assert_eq!(text.parse::<Pattern>().expect(text).to_string(), text);
        }
    }
}
