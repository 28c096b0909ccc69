//! Who may go where through a service of kind `egress` (R110-R112): it leads to whatever
//! destination the app names, so what it refuses is all that stands between a client and the
//! networks around the server.
//!
//! What is decided on is the address that will be dialled, never the name alone: whoever asks may
//! own the name, and let it lead anywhere at any time.

use core::fmt;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use crate::pattern::{Hosts, Pattern, Prefix};

/// The errno of a destination that may not be reached.
pub const EACCES: u16 = 13;
/// The errno of a client that has all that it may have.
pub const ENOBUFS: u16 = 105;

/// What the operator allows and denies.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// A destination must be among these.
    pub allow: Vec<Pattern>,
    /// And not among these.
    pub deny: Vec<Pattern>,
}

impl Default for Rules {
    fn default() -> Rules {
        Rules { allow: vec![Pattern { hosts: Hosts::Any, port: None }], deny: Vec::new() }
    }
}

/// What is asked for.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The name that the app knows, normalised; none: it knows the address only.
    pub name: Option<&'a str>,
    /// The address that would be dialled.
    pub address: IpAddr,
    /// The port.
    pub port: u16,
    /// The address is one of this machine's own.
    pub is_here: bool,
    /// The client is the owner of this server.
    pub is_owner: bool,
}

/// Why a destination may not be reached.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nobody reaches that through an egress.
    #[error("{0} is {1}, where nobody is led")]
    Never(IpAddr, &'static str),
    /// This machine itself.
    #[error("{0} is this machine itself, which only its owner may reach")]
    Here(IpAddr),
    /// By the operator's word.
    #[error("{0} is denied by \"{1}\"")]
    Denied(IpAddr, Pattern),
    /// No rule allows it.
    #[error("{0} port {1} is not among what is allowed here")]
    NotAllowed(IpAddr, u16),
}

impl Refusal {
    /// What the app's connect ends with.
    #[must_use]
    pub fn errno(&self) -> u16 {
        EACCES
    }
}

impl Rules {
    /// Whether the client is led there.
    ///
    /// # Errors
    /// Why not.
    pub fn decide(&self, asked: &Asked<'_>) -> Result<(), Refusal> {
        let faces = Faces::of(asked.address);
        for ip in faces.iter() {
            if let Some(what) = never(ip) {
                return Err(Refusal::Never(asked.address, what));
            }
            if (asked.is_here || ip.is_loopback()) && !asked.is_owner {
                return Err(Refusal::Here(asked.address));
            }
        }
        let among = |pattern: &&Pattern| {
            pattern.has_port(asked.port)
                && (faces.iter().any(|ip| pattern.hosts.has_address(ip))
                    || asked.name.is_some_and(|name| pattern.hosts.has_name(name)))
        };
        if let Some(pattern) = self.deny.iter().find(among) {
            return Err(Refusal::Denied(asked.address, pattern.clone()));
        }
        match self.allow.iter().any(|pattern| among(&pattern)) {
            true => Ok(()),
            false => Err(Refusal::NotAllowed(asked.address, asked.port)),
        }
    }
}

/// An address, and the IPv4 address inside of it to which a gateway of the network would lead.
struct Faces([Option<IpAddr>; 2]);

impl Faces {
    fn of(address: IpAddr) -> Faces {
        let ip = address.to_canonical();
        let inner = match ip {
            IpAddr::V4(_) => None,
            IpAddr::V6(v6) => inside(v6).map(IpAddr::V4),
        };
        Faces([Some(ip), inner])
    }

    fn iter(&self) -> impl Iterator<Item = IpAddr> {
        self.0.into_iter().flatten()
    }
}

/// The IPv4 address in one of NAT64 (RFC 6052), of 6to4 (RFC 3056), or of the form `::192.0.2.1`.
fn inside(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    let [a, b, c, d, e, f, g, h] = v6.segments();
    let v4 = |high: u16, low: u16| Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low));
    match [a, b, c, d, e, f] {
        [0x64, 0xff9b, 0, 0, 0, 0] => Some(v4(g, h)),
        [0, 0, 0, 0, 0, 0] if v6 != Ipv6Addr::LOCALHOST && !v6.is_unspecified() => Some(v4(g, h)),
        [0x2002, high, low, ..] => Some(v4(high, low)),
        _ => None,
    }
}

/// What clouds tell their machines about themselves, log-ins included, at addresses that are not
/// link-local: Alibaba, Azure, Oracle; Amazon's and Google's by IPv6.
const METADATA: [&str; 5] =
    ["100.100.100.200", "168.63.129.16", "192.0.0.192", "fd00:ec2::254", "fd20:ce::254"];

/// What nobody is led to, in words.
fn never(ip: IpAddr) -> Option<&'static str> {
    let among = |prefixes: &[&str]| prefixes.iter().any(|prefix| constant(prefix).contains(ip));
    if among(&["0.0.0.0/8", "::"]) {
        return Some("no address");
    }
    if among(&["169.254.0.0/16", "fe80::/10"]) {
        return Some("link-local, as a cloud's metadata are");
    }
    if among(&METADATA) {
        return Some("a cloud's metadata");
    }
    among(&["224.0.0.0/3", "ff00::/8"]).then_some("for many hosts at once")
}

fn constant(text: &str) -> Prefix {
    text.parse().expect("a constant prefix is right")
}

/// How much one client may have of an egress.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Share {
    /// Sessions at a time.
    pub sessions: usize,
    /// New ones a second, over ten seconds.
    pub rate: f64,
}

impl Default for Share {
    fn default() -> Share {
        Share { sessions: 1_000, rate: 50.0 }
    }
}

/// Why a client gets no session more.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Spent {
    /// It has all that it may have at a time.
    Sessions(usize),
    /// It begins them too fast.
    Rate(f64),
}

impl fmt::Display for Spent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Spent::Sessions(most) => {
                write!(f, "this client has {most} sessions here, as many as it may have")
            }
            Spent::Rate(rate) => write!(f, "this client begins more than {rate} sessions a second"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(allow: &[&str], deny: &[&str]) -> Rules {
        let read = |texts: &[&str]| texts.iter().map(|text| text.parse().expect(text)).collect();
        Rules { allow: read(allow), deny: read(deny) }
    }

    /// Name, address, port, own address, owner; what becomes of it: a word of the refusal.
    type Row = (Option<&'static str>, &'static str, u16, bool, bool, &'static str);

    fn check(rules: &Rules, rows: &[Row]) {
        for &(name, address, port, is_here, is_owner, says) in rows {
            let address = address.parse().expect("an address");
            let asked = Asked { name, address, port, is_here, is_owner };
            match rules.decide(&asked) {
                Ok(()) => assert_eq!(says, "", "{asked:?} is led there"),
                Err(why) => {
                    let text = why.to_string();
                    assert!(!says.is_empty() && text.contains(says), "{asked:?}: {text}");
                    assert_eq!(why.errno(), EACCES);
                }
            }
        }
    }

    #[test]
    fn r111_without_rules_everything_is_led_to_but_what_is_near_the_machine() {
        let never = "nobody is led";
        check(
            &Rules::default(),
            &[
                (None, "192.0.2.7", 443, false, false, ""),
                (Some("db.internal"), "10.0.0.7", 5432, false, false, ""),
                (None, "2001:db8::7", 22, false, false, ""),
                (None, "100.64.0.1", 22, false, false, ""),
                // Link-local and metadata: nobody, however it is written.
                (None, "169.254.169.254", 80, false, true, never),
                (Some("innocent.example.org"), "169.254.169.254", 80, false, true, never),
                (None, "::ffff:169.254.169.254", 80, false, true, never),
                (None, "64:ff9b::a9fe:a9fe", 80, false, true, never),
                (None, "2002:a9fe:a9fe::1", 80, false, true, never),
                (None, "::169.254.169.254", 80, false, true, never),
                (None, "fe80::1", 80, false, true, never),
                (None, "fd00:ec2::254", 80, false, true, "metadata"),
                (None, "168.63.129.16", 80, false, true, "metadata"),
                (None, "100.100.100.200", 80, false, true, "metadata"),
                (None, "0.0.0.0", 22, false, true, never),
                (None, "0.1.2.3", 22, false, true, never),
                (None, "::", 22, false, true, never),
                (None, "::ffff:0.0.0.0", 22, false, true, never),
                (None, "224.0.0.1", 22, false, true, never),
                (None, "255.255.255.255", 22, false, true, never),
                (None, "ff02::1", 22, false, true, never),
                // The machine itself: its owner.
                (None, "127.0.0.1", 22, true, false, "only its owner"),
                (None, "127.9.9.9", 22, false, false, "only its owner"),
                (None, "::1", 22, true, false, "only its owner"),
                (None, "::ffff:127.0.0.1", 22, false, false, "only its owner"),
                (None, "64:ff9b::7f00:1", 22, false, false, "only its owner"),
                (Some("rebound.example.org"), "127.0.0.1", 22, true, false, "only its owner"),
                (Some("rebound.example.org"), "192.0.2.1", 22, true, false, "only its owner"),
                (None, "127.0.0.1", 22, true, true, ""),
                (None, "192.0.2.1", 22, true, true, ""),
            ],
        );
    }

    #[test]
    fn r111_what_is_denied_is_denied_by_name_prefix_and_port_and_before_what_is_allowed() {
        let rules = rules(
            &["*.example.org:*", "10.0.0.0/8:*", "[2001:db8::/32]:443"],
            &["secret.example.org:*", "*.hidden.example.org:*", "10.1.0.0/16:*", "10.0.0.0/8:25"],
        );
        check(
            &rules,
            &[
                (Some("www.example.org"), "192.0.2.7", 80, false, false, ""),
                (Some("secret.example.org"), "192.0.2.7", 80, false, false, "secret.example.org:*"),
                (Some("a.hidden.example.org"), "192.0.2.7", 80, false, false, "*.hidden"),
                // A name that is allowed does not lead to an address that is denied.
                (Some("www.example.org"), "10.1.2.3", 80, false, false, "10.1.0.0/16:*"),
                (Some("www.example.org"), "::ffff:10.1.2.3", 80, false, false, "10.1.0.0/16:*"),
                (Some("www.example.org"), "64:ff9b::a01:203", 80, false, false, "10.1.0.0/16:*"),
                (None, "10.2.2.3", 80, false, false, ""),
                (None, "10.2.2.3", 25, false, false, "10.0.0.0/8:25"),
                (Some("mail.elsewhere.net"), "10.2.2.3", 25, false, true, "10.0.0.0/8:25"),
                (Some("elsewhere.net"), "10.2.2.3", 80, false, false, ""),
                (Some("elsewhere.net"), "192.0.2.7", 80, false, false, "not among"),
                (Some("example.org"), "192.0.2.7", 80, false, false, "not among"),
                (None, "2001:db8::7", 443, false, false, ""),
                (None, "2001:db8::7", 80, false, false, "port 80 is not among"),
                // Rules do not open what nobody is led to, nor the machine itself.
                (Some("www.example.org"), "169.254.169.254", 80, false, true, "nobody"),
                (Some("www.example.org"), "127.0.0.1", 80, true, false, "only its owner"),
                (Some("www.example.org"), "127.0.0.1", 80, true, true, ""),
            ],
        );
    }
}
