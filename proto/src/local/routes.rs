//! The route map: a file the broker writes and every shim maps, to know what is routed.
//!
//! A program that has no route must not notice us, so its connect must find that out without a
//! question to the broker: in well under a microsecond, by a look into this map. The file never
//! changes, but for one word: the broker puts a new file in its place by rename and then marks the
//! old one *superseded*. A process that still has the old one mapped sees the mark and maps the new
//! one.
//!
//! Layout, little-endian: a control block of 64 bytes ([`Control`]), then the body: the head of the
//! body, groups, entries, names, text. Entries of one family and prefix length form a group and are
//! sorted by address, so a lookup is one binary search per group.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::bytes::{Reader, canonical};
use crate::pattern::is_address;

/// The bytes before the body.
pub const CONTROL_BYTES: usize = 64;
/// Where the superseded word is: a `u32`, 0 in a map that holds.
pub const SUPERSEDED_AT: usize = 8;
/// The largest file a reader takes.
pub const FILE_BYTES_MAX: usize = 8 << 20;
/// The most address entries and the most names a map holds.
pub const ENTRIES_MAX: usize = 65_536;

/// The pool of virtual IPv4 addresses unless configured otherwise: the range of RFC 2544, which no
/// network forwards to a stranger. Nothing on this machine listens there, as servers on `0.0.0.0`
/// do on all of 127/8, and no program takes it for this machine, as OpenSSH does with 127/8.
pub const VIRTUAL_V4: (Ipv4Addr, u8) = (Ipv4Addr::new(198, 18, 0, 0), 15);
/// The pool of virtual IPv6 addresses unless configured otherwise.
pub const VIRTUAL_V6: (Ipv6Addr, u8) =
    (Ipv6Addr::new(0xfd73, 0x7470, 0x5e55, 0x10f0, 0, 0, 0, 0), 96);

const MAGIC: [u8; 8] = *b"stproute";
const VERSION: u32 = 1;
const GROUP_BYTES: usize = 12;
const ENTRY_BYTES: usize = 20;
const NAME_BYTES: usize = 12;

/// What a program does whose destination is routed while no broker runs.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum WhenAbsent {
    /// It goes out directly, as if there were no route. Virtual addresses fail all the same.
    #[default]
    Pass,
    /// It fails.
    Fail,
}

/// An inclusive range of ports.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub struct Ports {
    /// The lowest.
    pub low: u16,
    /// The highest.
    pub high: u16,
}

impl Ports {
    /// Every port.
    pub const ALL: Ports = Ports { low: 0, high: u16::MAX };

    /// Just one port.
    #[must_use]
    pub fn one(port: u16) -> Ports {
        Ports { low: port, high: port }
    }

    fn holds(self, port: u16) -> bool {
        (self.low..=self.high).contains(&port)
    }
}

/// Why a destination is ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Match {
    /// It lies in the virtual pool: it leads nowhere without a broker.
    Virtual,
    /// A route names it.
    Routed,
}

/// Why a map cannot be built.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum BuildError {
    /// More entries than a map holds.
    #[error("{0} routes, at most {ENTRIES_MAX} are allowed")]
    TooMany(usize),
    /// A prefix length the family does not have.
    #[error("prefix length {0} is too long for {1}")]
    Prefix(u8, IpAddr),
    /// A host pattern nobody could ask for.
    #[error("host `{0}` is empty, longer than 253 bytes, or has a `*` in other places than `*.`")]
    Host(String),
}

/// Collects routes and writes the file's bytes. Used by the broker.
#[derive(Clone, Debug)]
pub struct Builder {
    when_absent: WhenAbsent,
    virtual_v4: (Ipv4Addr, u8),
    virtual_v6: Option<(Ipv6Addr, u8)>,
    addresses: Vec<(IpAddr, u8, Ports)>,
    names: Vec<(String, Ports)>,
}

impl Builder {
    /// An empty map with the usual virtual pools.
    #[must_use]
    pub fn new(when_absent: WhenAbsent) -> Builder {
        Builder {
            when_absent,
            virtual_v4: VIRTUAL_V4,
            virtual_v6: Some(VIRTUAL_V6),
            addresses: Vec::new(),
            names: Vec::new(),
        }
    }

    /// Sets the virtual pools.
    pub fn virtual_pools(
        &mut self,
        v4: (Ipv4Addr, u8),
        v6: Option<(Ipv6Addr, u8)>,
    ) -> Result<(), BuildError> {
        check_prefix(v4.0.into(), v4.1)?;
        if let Some(v6) = v6 {
            check_prefix(v6.0.into(), v6.1)?;
        }
        (self.virtual_v4, self.virtual_v6) = (v4, v6);
        Ok(())
    }

    /// Routes an address or a prefix; IPv4-mapped IPv6 addresses count as IPv4.
    pub fn address(&mut self, ip: IpAddr, prefix: u8, ports: Ports) -> Result<(), BuildError> {
        check_prefix(ip, prefix)?;
        self.addresses.push((ip, prefix, ports));
        Ok(())
    }

    /// Routes a host name, all names under a domain when it begins with `*.`, or every name when it
    /// is `*`.
    pub fn name(&mut self, host: &str, ports: Ports) -> Result<(), BuildError> {
        // `*` alone is every name.
        let stem = if host == "*" { "any" } else { host.strip_prefix("*.").unwrap_or(host) };
        if stem.is_empty() || host.len() > 253 || stem.contains('*') || stem.contains('\0') {
            return Err(BuildError::Host(host.into()));
        }
        let lower = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
        self.names.push((lower, ports));
        Ok(())
    }

    /// The bytes of the file.
    pub fn build(&self) -> Result<Vec<u8>, BuildError> {
        let count = self.addresses.len().max(self.names.len());
        if count > ENTRIES_MAX {
            return Err(BuildError::TooMany(count));
        }
        let mut entries: Vec<Entry> = self.addresses.iter().map(Entry::from_route).collect();
        entries.sort_unstable();
        entries.dedup();
        let mut groups: Vec<Group> = Vec::new();
        for (at, entry) in (0..).zip(&entries) {
            match groups.last_mut() {
                Some(last) if (last.family, last.prefix) == (entry.family, entry.prefix) => {
                    last.count += 1;
                }
                _ => groups.push(Group {
                    family: entry.family,
                    prefix: entry.prefix,
                    first: at,
                    count: 1,
                }),
            }
        }
        Ok(self.write(&groups, &entries))
    }

    fn write(&self, groups: &[Group], entries: &[Entry]) -> Vec<u8> {
        let mut body = Vec::new();
        body.push(self.virtual_v4.1);
        body.extend(self.virtual_v4.0.octets());
        body.push(self.virtual_v6.map_or(u8::MAX, |(_, prefix)| prefix));
        body.extend(self.virtual_v6.map_or([0; 16], |(ip, _)| ip.octets()));
        body.push(u8::from(self.when_absent == WhenAbsent::Fail));
        body.push(0);
        for count in [groups.len(), entries.len(), self.names.len()] {
            body.extend(word(count).to_le_bytes());
        }
        for group in groups {
            body.extend([group.family, group.prefix, 0, 0]);
            body.extend(group.first.to_le_bytes());
            body.extend(group.count.to_le_bytes());
        }
        for entry in entries {
            body.extend(entry.ip);
            body.extend(entry.ports.low.to_le_bytes());
            body.extend(entry.ports.high.to_le_bytes());
        }
        let mut text: Vec<u8> = Vec::new();
        for (host, ports) in &self.names {
            body.extend(word(text.len()).to_le_bytes());
            body.extend(word(host.len()).to_le_bytes());
            body.extend(ports.low.to_le_bytes());
            body.extend(ports.high.to_le_bytes());
            text.extend(host.as_bytes());
        }
        body.extend(text);
        let mut file = Vec::with_capacity(CONTROL_BYTES + body.len());
        file.extend(MAGIC);
        file.extend(0u32.to_le_bytes());
        file.extend(VERSION.to_le_bytes());
        file.extend(word(body.len()).to_le_bytes());
        file.extend([0; 4]);
        file.extend(checksum(&body).to_le_bytes());
        file.resize(CONTROL_BYTES, 0);
        file.extend(body);
        file
    }
}

fn word(count: usize) -> u32 {
    u32::try_from(count).expect("counts and texts are bounded far below 4 GiB")
}

fn check_prefix(ip: IpAddr, prefix: u8) -> Result<(), BuildError> {
    let longest = if ip.is_ipv4() { 32 } else { 128 };
    if prefix > longest { Err(BuildError::Prefix(prefix, ip)) } else { Ok(()) }
}

/// FNV-1a: guards against a torn or foreign file, not against anyone's will.
fn checksum(body: &[u8]) -> u64 {
    body.iter().fold(0xcbf2_9ce4_8422_2325, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    })
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    family: u8,
    prefix: u8,
    ip: [u8; 16],
    ports: Ports,
}

#[derive(Clone, Copy)]
struct Group {
    family: u8,
    prefix: u8,
    first: u32,
    count: u32,
}

impl Entry {
    fn from_route(&(ip, prefix, ports): &(IpAddr, u8, Ports)) -> Entry {
        let (ip, prefix) = match (ip, ip.to_canonical()) {
            (IpAddr::V6(_), v4 @ IpAddr::V4(_)) if prefix >= 96 => (v4, prefix - 96),
            (ip, _) => (ip, prefix),
        };
        let (family, bits) = bits_of(ip);
        Entry { family, prefix, ip: masked(bits, prefix).to_be_bytes(), ports }
    }
}

/// The family's number and the address at the upper end of 128 bits.
fn bits_of(ip: IpAddr) -> (u8, u128) {
    match ip {
        IpAddr::V4(v4) => (4, u128::from(v4.to_bits()) << 96),
        IpAddr::V6(v6) => (6, v6.to_bits()),
    }
}

fn masked(bits: u128, prefix: u8) -> u128 {
    match prefix {
        0 => 0,
        prefix => bits & u128::MAX << (128 - u32::from(prefix.min(128))),
    }
}

/// The control block at the front of the file, without the word that changes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Control {
    /// The length of the body.
    pub body_bytes: usize,
    checksum: u64,
}

impl Control {
    /// Reads the control block of a file of `file_bytes`; nothing when it is none of ours.
    #[must_use]
    pub fn read(block: &[u8; CONTROL_BYTES], file_bytes: usize) -> Option<Control> {
        let mut input = Reader::new(block);
        let (magic, _superseded) = (input.array::<8>()?, input.u32()?);
        let (version, body_bytes, _zero) = (input.u32()?, input.u32()? as usize, input.u32()?);
        let sum = u64::from_le_bytes(input.array()?);
        let fits = file_bytes <= FILE_BYTES_MAX && file_bytes == CONTROL_BYTES + body_bytes;
        let ours = magic == MAGIC && version == VERSION && fits;
        ours.then_some(Control { body_bytes, checksum: sum })
    }
}

/// The body of a map, read in place. Used by the shim.
#[derive(Clone, Copy)]
pub struct Routes<'a> {
    when_absent: WhenAbsent,
    virtual_v4: (u128, u8),
    virtual_v6: Option<(u128, u8)>,
    groups: &'a [u8],
    entries: &'a [u8],
    names: &'a [u8],
    text: &'a [u8],
}

impl<'a> Routes<'a> {
    /// Checks a body against its control block; nothing when they do not belong together.
    #[must_use]
    pub fn read(control: &Control, body: &'a [u8]) -> Option<Routes<'a>> {
        if body.len() != control.body_bytes || checksum(body) != control.checksum {
            return None;
        }
        let mut input = Reader::new(body);
        let v4 = (input.u8()?, input.array::<4>()?);
        let v6 = (input.u8()?, input.array::<16>()?);
        let when_absent = if input.u8()? == 0 { WhenAbsent::Pass } else { WhenAbsent::Fail };
        input.u8()?;
        let counts = [input.u32()?, input.u32()?, input.u32()?].map(|count| count as usize);
        if counts.iter().any(|count| *count > ENTRIES_MAX) {
            return None;
        }
        Some(Routes {
            when_absent,
            virtual_v4: (bits_of(Ipv4Addr::from(v4.1).into()).1, v4.0),
            virtual_v6: (v6.0 <= 128).then(|| (u128::from_be_bytes(v6.1), v6.0)),
            groups: input.bytes(counts[0] * GROUP_BYTES)?,
            entries: input.bytes(counts[1] * ENTRY_BYTES)?,
            names: input.bytes(counts[2] * NAME_BYTES)?,
            text: input.rest(),
        })
    }

    /// What to do when no broker answers.
    #[must_use]
    pub fn when_absent(&self) -> WhenAbsent {
        self.when_absent
    }

    /// Whether a destination is ours; IPv4-mapped addresses count as IPv4.
    #[must_use]
    pub fn destination(&self, address: &SocketAddr) -> Option<Match> {
        let (ip, port) = canonical(address);
        let (family, bits) = bits_of(ip);
        let pool = if family == 4 { Some(self.virtual_v4) } else { self.virtual_v6 };
        if pool.is_some_and(|(base, prefix)| masked(bits, prefix) == masked(base, prefix)) {
            return Some(Match::Virtual);
        }
        let groups = self.groups.as_chunks::<GROUP_BYTES>().0;
        groups.iter().any(|group| self.in_group(group, family, bits, port)).then_some(Match::Routed)
    }

    fn in_group(&self, group: &[u8; GROUP_BYTES], family: u8, bits: u128, port: u16) -> bool {
        if group[0] != family {
            return false;
        }
        let [.., a, b, c, d, e, f, g, h] = *group;
        let first = u32::from_le_bytes([a, b, c, d]) as usize;
        let count = u32::from_le_bytes([e, f, g, h]) as usize;
        let entries = self.entries.as_chunks::<ENTRY_BYTES>().0;
        let Some(entries) = entries.get(first..first.saturating_add(count)) else {
            return false;
        };
        let wanted = masked(bits, group[1]).to_be_bytes();
        let from = entries.partition_point(|entry| entry[..16] < wanted[..]);
        entries[from..].iter().take_while(|entry| entry[..16] == wanted[..]).any(|entry| {
            let [.., a, b, c, d] = *entry;
            Ports { low: u16::from_le_bytes([a, b]), high: u16::from_le_bytes([c, d]) }.holds(port)
        })
    }

    /// Whether a host name is ours, for a port or, where none is known, for any port.
    #[must_use]
    pub fn host(&self, host: &[u8], port: Option<u16>) -> bool {
        let host = host.strip_suffix(b".").unwrap_or(host);
        self.names.as_chunks::<NAME_BYTES>().0.iter().any(|name| {
            let [a, b, c, d, e, f, g, h, i, j, k, l] = *name;
            let begin = u32::from_le_bytes([a, b, c, d]) as usize;
            let length = u32::from_le_bytes([e, f, g, h]) as usize;
            let ports = Ports { low: u16::from_le_bytes([i, j]), high: u16::from_le_bytes([k, l]) };
            let pattern = self.text.get(begin..begin.saturating_add(length));
            pattern.is_some_and(|pattern| fits(pattern, host))
                && port.is_none_or(|port| ports.holds(port))
        })
    }

    /// Whether there is any route at all besides the virtual pools.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty() && self.names.is_empty()
    }
}

/// Whether `host` is what the pattern says; `*.example.org` is every name under `example.org`, and
/// `*` every name.
#[must_use]
pub fn fits(pattern: &[u8], host: &[u8]) -> bool {
    match pattern.strip_prefix(b"*") {
        None => pattern.eq_ignore_ascii_case(host),
        Some(b"") => !is_address(host),
        Some(under) => {
            host.len() > under.len() && host[host.len() - under.len()..].eq_ignore_ascii_case(under)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(file: &[u8]) -> Option<Routes<'_>> {
        let control = Control::read(file.first_chunk()?, file.len())?;
        Routes::read(&control, &file[CONTROL_BYTES..])
    }

    fn sample() -> Vec<u8> {
        let mut map = Builder::new(WhenAbsent::Fail);
        map.address("10.1.0.0".parse().unwrap(), 24, Ports::ALL).unwrap();
        map.address("10.1.0.7".parse().unwrap(), 32, Ports::one(22)).unwrap();
        map.address("192.0.2.1".parse().unwrap(), 32, Ports::one(80)).unwrap();
        map.address("192.0.2.1".parse().unwrap(), 32, Ports { low: 8000, high: 8100 }).unwrap();
        map.address("2001:db8::".parse().unwrap(), 32, Ports::one(443)).unwrap();
        map.address("::ffff:198.51.100.1".parse().unwrap(), 128, Ports::one(21)).unwrap();
        map.name("Mirror.Example.org.", Ports::one(80)).unwrap();
        map.name("*.example.net", Ports::ALL).unwrap();
        map.build().unwrap()
    }

    #[test]
    fn what_is_routed_is_found_and_nothing_else() {
        let file = sample();
        let map = routes(&file).unwrap();
        let routed = [
            "10.1.0.255:1",
            "10.1.0.7:22",
            "192.0.2.1:80",
            "192.0.2.1:8050",
            "[::ffff:10.1.0.1]:9",
            "[2001:db8:1::1]:443",
            "198.51.100.1:21",
        ];
        let unrouted = [
            "10.1.1.0:1",
            "192.0.2.1:81",
            "192.0.2.2:80",
            "192.0.2.1:7999",
            "127.0.0.1:80",
            "[2001:db8::1]:80",
            "[2001:db9::1]:443",
            "198.51.100.1:22",
            "0.0.0.0:0",
        ];
        for address in routed {
            assert_eq!(
                map.destination(&address.parse().unwrap()),
                Some(Match::Routed),
                "{address}"
            );
        }
        for address in unrouted {
            assert_eq!(map.destination(&address.parse().unwrap()), None, "{address}");
        }
        assert_eq!(map.when_absent(), WhenAbsent::Fail);
    }

    #[test]
    fn virtual_addresses_are_ours_on_every_port() {
        let file = Builder::new(WhenAbsent::Pass).build().unwrap();
        let map = routes(&file).unwrap();
        let inside = ["198.18.0.1:1", "198.19.255.255:65535", "[fd73:7470:5e55:10f0::1]:80"];
        for address in inside {
            assert_eq!(map.destination(&address.parse().unwrap()), Some(Match::Virtual));
        }
        for address in
            ["198.17.255.255:1", "198.20.0.0:1", "127.0.0.1:80", "[fd73:7470:5e55:10f0:0:1::]:80"]
        {
            assert_eq!(map.destination(&address.parse().unwrap()), None);
        }
        assert!(map.is_empty());
    }

    #[test]
    fn a_default_route_matches_everything() {
        let mut map = Builder::new(WhenAbsent::Pass);
        map.address("0.0.0.0".parse().unwrap(), 0, Ports::one(80)).unwrap();
        let file = map.build().unwrap();
        let map = routes(&file).unwrap();
        assert_eq!(map.destination(&"203.0.113.9:80".parse().unwrap()), Some(Match::Routed));
        assert_eq!(map.destination(&"[2001:db8::1]:80".parse().unwrap()), None);
    }

    #[test]
    fn host_names_match_without_case_and_with_their_port() {
        let file = sample();
        let map = routes(&file).unwrap();
        assert!(map.host(b"mirror.example.ORG", Some(80)));
        assert!(map.host(b"mirror.example.org.", None));
        assert!(!map.host(b"mirror.example.org", Some(443)));
        assert!(!map.host(b"amirror.example.org", Some(80)));
        assert!(map.host(b"a.b.example.net", Some(5)));
        assert!(!map.host(b"example.net", Some(5)));
        assert!(!map.host(b".example.net", Some(5)));
        assert!(!map.host(b"", None));
    }

    #[test]
    fn ten_thousand_routes_are_all_found() {
        let mut map = Builder::new(WhenAbsent::Pass);
        for number in 0..10_000u32 {
            let ip = Ipv4Addr::from_bits(0x0a00_0000 + number * 3);
            map.address(ip.into(), 32, Ports::one(80)).unwrap();
        }
        let file = map.build().unwrap();
        let map = routes(&file).unwrap();
        for number in 0..30_000u32 {
            let ip = Ipv4Addr::from_bits(0x0a00_0000 + number);
            let found = map.destination(&SocketAddr::new(ip.into(), 80)).is_some();
            assert_eq!(found, number % 3 == 0, "{ip}");
        }
    }

    #[test]
    fn a_damaged_file_is_refused() {
        let file = sample();
        for end in 0..file.len() {
            assert!(routes(&file[..end]).is_none(), "cut at {end}");
        }
        for at in 0..file.len() {
            let mut other = file.clone();
            other[at] ^= 0x55;
            // The superseded word and the padding of the control block are not part of the map.
            let free = (SUPERSEDED_AT..SUPERSEDED_AT + 4).contains(&at)
                || (20..24).contains(&at)
                || (32..CONTROL_BYTES).contains(&at);
            assert_eq!(routes(&other).is_some(), free, "byte {at}");
        }
    }

    #[test]
    fn counts_that_lie_do_no_harm() {
        let file = sample();
        for at in CONTROL_BYTES..file.len() {
            for value in [0, 1, 0x7f, 0x80, 0xff] {
                let mut other = file.clone();
                other[at] = value;
                let sum = checksum(&other[CONTROL_BYTES..]);
                other[24..32].copy_from_slice(&sum.to_le_bytes());
                if let Some(map) = routes(&other) {
                    let _any = map.destination(&"10.1.0.7:22".parse().unwrap());
                    let _any = map.destination(&"[2001:db8::1]:443".parse().unwrap());
                    let _any = map.host(b"mirror.example.org", Some(80));
                }
            }
        }
    }

    #[test]
    fn every_name_is_routed_by_one_entry_and_no_address_is_a_name() {
        let mut map = Builder::new(WhenAbsent::Pass);
        map.name("*", Ports::one(443)).unwrap();
        let file = map.build().unwrap();
        let map = routes(&file).unwrap();
        assert!(map.host(b"db.internal", None) && map.host(b"x.", Some(443)));
        assert!(!map.host(b"db.internal", Some(80)));
        for address in ["1.2.3.4", "127.1", "::1", "0x7f000001", ""] {
            assert!(!map.host(address.as_bytes(), None), "{address}");
        }
    }

    #[test]
    fn what_cannot_be_routed_is_refused_when_built() {
        let mut map = Builder::new(WhenAbsent::Pass);
        let ip: IpAddr = "10.0.0.0".parse().unwrap();
        assert_eq!(map.address(ip, 33, Ports::ALL), Err(BuildError::Prefix(33, ip)));
        for host in ["", "*.", "a*b", "**", "x\0y"] {
            assert_eq!(map.name(host, Ports::ALL), Err(BuildError::Host(host.into())));
        }
    }
}
