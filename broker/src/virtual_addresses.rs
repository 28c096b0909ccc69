//! Virtual addresses: what a program gets when it asks for a routed name.
//!
//! The address stands for the name (the indirect layer of TPT): it leads nowhere without the
//! shim, and stays the same while anybody may still use it. It is derived from a hash of the
//! name, so that programs which keep addresses for long mostly keep right ones even when the
//! broker is started again.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::Duration;

use stp_proto::time::Instant;

use stp_proto::pattern::Prefix;

/// Virtual addresses kept at most; beyond that the one unused for the longest time makes room.
pub const NAMES_MAX: usize = 65_536;
/// How long an address that was given out is not given to another name.
pub const KEEP: Duration = Duration::from_secs(3_600);

/// Which kind of address is asked for.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Family {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

#[derive(Debug)]
struct Entry {
    number: u32,
    sessions: usize,
    asked: Instant,
}

/// The pool of virtual addresses.
#[derive(Debug)]
pub struct VirtualAddresses {
    v4: Prefix,
    v6: Prefix,
    by_name: HashMap<String, Entry>,
    by_number: BTreeMap<u32, String>,
    names_max: usize,
}

impl VirtualAddresses {
    /// A pool over an IPv4 prefix of at most /24 and an IPv6 prefix of at most /96.
    ///
    /// # Errors
    /// Says what is wrong with a prefix.
    pub fn new(v4: Prefix, v6: Prefix) -> Result<VirtualAddresses, String> {
        if !v4.addr().is_ipv4() || v4.len() > 24 {
            return Err(format!("{v4} is not an IPv4 prefix of /24 or larger"));
        }
        if !v6.addr().is_ipv6() || v6.len() > 96 {
            return Err(format!("{v6} is not an IPv6 prefix of /96 or larger"));
        }
        let names_max = NAMES_MAX.min(size(v4) as usize / 2);
        let (by_name, by_number) = (HashMap::new(), BTreeMap::new());
        Ok(VirtualAddresses { v4, v6, by_name, by_number, names_max })
    }

    /// The two prefixes, for the route map.
    #[must_use]
    pub fn prefixes(&self) -> [Prefix; 2] {
        [self.v4, self.v6]
    }

    /// The virtual address of a (normalised) name; none if the pool is full of names in use.
    pub fn address(&mut self, now: Instant, name: &str, family: Family) -> Option<IpAddr> {
        let number = match self.by_name.get_mut(name) {
            Some(entry) => {
                entry.asked = now;
                entry.number
            }
            None => self.insert(now, name)?,
        };
        Some(self.at(number, family))
    }

    /// Whether this name has an address.
    #[must_use]
    pub fn knows(&self, name: &str) -> bool {
        self.by_name.contains_key(name)
    }

    /// The name a virtual address stands for.
    #[must_use]
    pub fn name_of(&self, ip: IpAddr) -> Option<&str> {
        self.by_number.get(&self.number_of(ip)?).map(String::as_str)
    }

    /// Whether an address belongs to the pool, in use or not.
    #[must_use]
    pub fn is_virtual(&self, ip: IpAddr) -> bool {
        self.v4.contains(ip) || self.v6.contains(ip)
    }

    /// A session uses this name from now on.
    pub fn used(&mut self, name: &str) {
        if let Some(entry) = self.by_name.get_mut(name) {
            entry.sessions += 1;
        }
    }

    /// A session that used this name has ended.
    pub fn unused(&mut self, now: Instant, name: &str) {
        if let Some(entry) = self.by_name.get_mut(name) {
            entry.sessions = entry.sessions.saturating_sub(1);
            entry.asked = now;
        }
    }

    fn insert(&mut self, now: Instant, name: &str) -> Option<u32> {
        if self.by_name.len() >= self.names_max {
            self.make_room(now)?;
        }
        let size = size(self.v4);
        // Number 0 is the prefix itself, which looks like no address to some programs.
        let start = hash(name) % (size - 1);
        let number = (0..size - 1)
            .map(|k| 1 + (start + k) % (size - 1))
            .find(|number| !self.by_number.contains_key(number))?;
        self.by_number.insert(number, name.to_owned());
        self.by_name.insert(name.to_owned(), Entry { number, sessions: 0, asked: now });
        Some(number)
    }

    fn make_room(&mut self, now: Instant) -> Option<()> {
        let free = |entry: &Entry| entry.sessions == 0 && now >= entry.asked + KEEP;
        let oldest = self.by_name.iter().filter(|(_, entry)| free(entry));
        let name = oldest.min_by_key(|(_, entry)| entry.asked)?.0.clone();
        let entry = self.by_name.remove(&name)?;
        self.by_number.remove(&entry.number);
        Some(())
    }

    fn at(&self, number: u32, family: Family) -> IpAddr {
        match (family, self.v4.addr(), self.v6.addr()) {
            (Family::V4, IpAddr::V4(base), _) => {
                IpAddr::V4(Ipv4Addr::from_bits(base.to_bits() + number))
            }
            (Family::V6, _, IpAddr::V6(base)) => {
                IpAddr::V6(Ipv6Addr::from_bits(base.to_bits() + u128::from(number)))
            }
            _ => unreachable!("new() checked the families"),
        }
    }

    fn number_of(&self, ip: IpAddr) -> Option<u32> {
        let number = match (ip.to_canonical(), self.v4.addr(), self.v6.addr()) {
            (IpAddr::V4(ip), IpAddr::V4(base), _) if self.v4.contains(ip.into()) => {
                ip.to_bits() - base.to_bits()
            }
            (IpAddr::V6(ip), _, IpAddr::V6(base)) if self.v6.contains(ip.into()) => {
                u32::try_from(ip.to_bits() - base.to_bits()).ok()?
            }
            _ => return None,
        };
        Some(number)
    }
}

fn size(v4: Prefix) -> u32 {
    1u32.checked_shl(32 - u32::from(v4.len())).unwrap_or(u32::MAX)
}

/// FNV-1a: stable from one start to the next, and nobody gains by making names collide.
fn hash(name: &str) -> u32 {
    name.bytes().fold(0x811c_9dc5, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(v4: &str) -> VirtualAddresses {
        let v6 = "fd7a:5e55:10f1::/96".parse().expect("a prefix");
        VirtualAddresses::new(v4.parse().expect("a prefix"), v6).expect("a pool")
    }

    fn at(seconds: u64) -> Instant {
        Instant(seconds * 1_000_000)
    }

    #[test]
    fn a_name_keeps_its_address_also_in_a_new_broker() {
        let mut names = pool("127.192.0.0/10");
        let first = names.address(at(0), "a.example.org", Family::V4).expect("an address");
        names.address(at(0), "b.example.org", Family::V4);
        assert_eq!(names.address(at(9_999_999), "a.example.org", Family::V4), Some(first));
        assert_eq!(pool("127.192.0.0/10").address(at(5), "a.example.org", Family::V4), Some(first));
    }

    #[test]
    fn both_families_lead_back_to_the_name() {
        let mut names = pool("127.192.0.0/10");
        for family in [Family::V4, Family::V6] {
            let ip = names.address(at(0), "a.example.org", family).expect("an address");
            assert!(names.is_virtual(ip));
            assert_eq!(names.name_of(ip), Some("a.example.org"));
        }
        let v4 = names.address(at(0), "a.example.org", Family::V4).expect("an address");
        let IpAddr::V4(v4) = v4 else { panic!("asked for IPv4") };
        assert_eq!(names.name_of(v4.to_ipv6_mapped().into()), Some("a.example.org"));
        assert_eq!(names.name_of("127.0.0.1".parse().expect("an address")), None);
    }

    #[test]
    fn an_address_in_use_or_lately_given_is_not_given_to_another_name() {
        let mut names = pool("127.192.0.0/24");
        assert_eq!(names.names_max, 128);
        for k in 0..128 {
            let name = format!("n{k}.example.org");
            assert!(names.address(at(k), &name, Family::V4).is_some());
        }
        assert_eq!(names.address(at(200), "more.example.org", Family::V4), None);
        names.used("n0.example.org");
        let hour = KEEP.as_secs();
        let n0 = names.address(at(0), "n0.example.org", Family::V4).expect("an address");
        let n1 = names.address(at(1), "n1.example.org", Family::V4).expect("an address");
        assert!(names.address(at(hour + 1), "more.example.org", Family::V4).is_some());
        assert_eq!(names.name_of(n0), Some("n0.example.org"), "a session holds it");
        assert_ne!(names.name_of(n1), Some("n1.example.org"), "the oldest unused one went");
        names.unused(at(hour + 2), "n0.example.org");
        assert!(names.address(at(3 * hour), "other.example.org", Family::V4).is_some());
    }

    #[test]
    fn prefixes_that_are_too_small_are_refused() {
        let v6: Prefix = "fd7a:5e55:10f1::/96".parse().expect("a prefix");
        let v4: Prefix = "127.192.0.0/25".parse().expect("a prefix");
        assert!(VirtualAddresses::new(v4, v6).is_err());
        assert!(VirtualAddresses::new("10.0.0.0/8".parse().expect("a prefix"), v4).is_err());
    }
}
