//! Which server is near (STP 2): a pure function of configured networks and hop counts.
//!
//! The gateway ranks by the hops from the client's network to the server's, where an operator has
//! told them; two addresses of one network are no hop apart. What is not told is estimated by the
//! common front of the two addresses, after all that is told. Brokers measure the best three
//! themselves before they choose.

use core::net::IpAddr;
use core::str::FromStr;

/// Hops that nobody has told.
pub const UNKNOWN_HOPS: u8 = u8::MAX;

/// A network, `10.1.0.0/16`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Network {
    address: IpAddr,
    bits: u8,
}

impl Network {
    /// Whether it holds an address.
    #[must_use]
    pub fn holds(&self, address: IpAddr) -> bool {
        common_bits(self.address, address).is_some_and(|common| common >= self.bits)
    }

    /// How many leading bits are fixed.
    #[must_use]
    pub fn bits(&self) -> u8 {
        self.bits
    }
}

impl FromStr for Network {
    type Err = String;

    fn from_str(text: &str) -> Result<Network, String> {
        let wrong =
            || format!("{text:?} is no network such as \"10.1.0.0/16\" or \"2001:db8::/32\"");
        let (address, bits) = text.split_once('/').ok_or_else(wrong)?;
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let bits: u8 = bits.parse().map_err(|_| wrong())?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        if bits > width {
            return Err(wrong());
        }
        Ok(Network { address, bits })
    }
}

/// The number of leading bits two addresses share; none if they are of different families.
fn common_bits(a: IpAddr, b: IpAddr) -> Option<u8> {
    let bits = match (a.to_canonical(), b.to_canonical()) {
        (IpAddr::V4(a), IpAddr::V4(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        (IpAddr::V6(a), IpAddr::V6(b)) => (a.to_bits() ^ b.to_bits()).leading_zeros(),
        _ => return None,
    };
    Some(u8::try_from(bits).expect("at most 128"))
}

/// What is known of the networks around.
#[derive(Clone, Debug, Default)]
pub struct Networks {
    networks: Vec<(String, Network)>,
    distances: Vec<(String, String, u8)>,
}

impl Networks {
    /// Names a network; a name may have several.
    pub fn name(&mut self, name: &str, network: Network) {
        self.networks.push((name.to_owned(), network));
    }

    /// Tells the hops between two named networks, either way.
    pub fn distance(&mut self, a: &str, b: &str, hops: u8) {
        self.distances.push((a.to_owned(), b.to_owned(), hops));
    }

    /// The name of the narrowest network that holds an address.
    #[must_use]
    pub fn of(&self, address: IpAddr) -> Option<&str> {
        let around = self.networks.iter().filter(|(_, network)| network.holds(address));
        around.max_by_key(|(_, network)| network.bits()).map(|(name, _)| name.as_str())
    }

    /// The hops between two addresses, as far as they were told.
    #[must_use]
    pub fn hops(&self, a: IpAddr, b: IpAddr) -> u8 {
        let (Some(a), Some(b)) = (self.of(a), self.of(b)) else { return UNKNOWN_HOPS };
        if a == b {
            return 0;
        }
        let told =
            self.distances.iter().filter(|(x, y, _)| (x == a && y == b) || (x == b && y == a));
        told.map(|(_, _, hops)| *hops).min().unwrap_or(UNKNOWN_HOPS)
    }

    /// The order of `servers` (each with its addresses) for a client, nearest first, and the hops.
    /// Equals keep their order.
    #[must_use]
    pub fn rank(&self, client: IpAddr, servers: &[Vec<IpAddr>]) -> Vec<(usize, u8)> {
        let distance = |addresses: &Vec<IpAddr>| {
            let hops = addresses.iter().map(|address| self.hops(client, *address)).min();
            let common = addresses.iter().filter_map(|address| common_bits(client, *address)).max();
            (hops.unwrap_or(UNKNOWN_HOPS), u8::MAX - common.unwrap_or(0))
        };
        let mut order: Vec<(usize, (u8, u8))> = servers.iter().map(distance).enumerate().collect();
        order.sort_by_key(|(index, distance)| (*distance, *index));
        order.into_iter().map(|(index, (hops, _))| (index, hops)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn networks() -> Networks {
        let mut networks = Networks::default();
        for (name, prefix) in [
            ("all", "10.0.0.0/8"),
            ("north", "10.1.0.0/16"),
            ("south", "10.2.0.0/16"),
            ("six", "2001:db8::/32"),
        ] {
            networks.name(name, prefix.parse().unwrap());
        }
        networks.distance("north", "south", 7);
        networks.distance("all", "north", 3);
        networks
    }

    #[test]
    fn the_narrowest_network_counts() {
        assert_eq!(networks().of(ip("10.1.2.3")), Some("north"));
        assert_eq!(networks().of(ip("10.9.2.3")), Some("all"));
        assert_eq!(networks().of(ip("192.0.2.1")), None);
        assert_eq!(networks().of(ip("::ffff:10.1.2.3")), Some("north"));
    }

    #[test]
    fn servers_are_ranked_by_hops_and_then_by_the_common_front() {
        let servers =
            ["192.0.2.9", "10.2.0.1", "10.9.0.1", "10.1.0.1", "198.51.100.1"].map(|s| vec![ip(s)]);
        let order = networks().rank(ip("10.1.7.7"), &servers);
        assert_eq!(order[..3], [(3, 0), (2, 3), (1, 7)]);
        assert!(order[3..].iter().all(|(_, hops)| *hops == UNKNOWN_HOPS));
        let order = Networks::default().rank(ip("192.0.2.1"), &servers);
        assert_eq!(order[0].0, 0, "the common front, when nothing was told");
    }

    #[test]
    fn a_server_is_as_near_as_its_nearest_address() {
        let servers = [vec![ip("10.2.0.1")], vec![ip("2001:db8::1"), ip("10.1.0.9")]];
        assert_eq!(networks().rank(ip("10.1.7.7"), &servers)[0], (1, 0));
        assert_eq!(networks().rank(ip("2001:db8::2"), &servers)[0], (1, 0));
    }

    #[test]
    fn equals_keep_their_order_and_bad_networks_are_refused() {
        let servers = [vec![ip("10.1.0.1")], vec![ip("10.1.0.1")]];
        assert_eq!(networks().rank(ip("10.1.7.7"), &servers), [(0, 0), (1, 0)]);
        for bad in ["10.0.0.0", "10.0.0.0/33", "x/8", "::/129"] {
            assert!(bad.parse::<Network>().is_err(), "{bad}");
        }
    }
}
