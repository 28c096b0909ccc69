//! The route map: what the shims need to know of the routes.

use std::net::IpAddr;

use stp_proto::group::Awaited;
use stp_proto::local::routes::{self, BuildError, Builder, Ports};

use crate::config::{Config, WhenAbsent};
use crate::routes::Route;
use stp_proto::pattern::{Hosts, Prefix};

/// Adds what a route does not leave out of a prefix.
fn addresses(
    map: &mut Builder,
    net: Prefix,
    route: &Route,
    ports: Ports,
) -> Result<(), BuildError> {
    let except = route.except.iter().filter_map(|one| match one {
        Hosts::Net(net) => Some(*net),
        Hosts::Any | Hosts::Name(_) | Hosts::Below(_) => None,
    });
    let except: Vec<Prefix> = except.collect();
    for left in net.without(&except) {
        map.address(left.addr(), left.len(), ports)?;
    }
    Ok(())
}

/// The bytes of the route map for this configuration, and for connections that were announced.
///
/// # Errors
/// When there are more routes than a map holds.
pub fn build(config: &Config, awaited: &[Awaited]) -> Result<Vec<u8>, BuildError> {
    let mut map = Builder::new(match config.when_absent {
        WhenAbsent::Pass => routes::WhenAbsent::Pass,
        WhenAbsent::Fail => routes::WhenAbsent::Fail,
    });
    if let (IpAddr::V4(v4), IpAddr::V6(v6)) =
        (config.virtual_ipv4.addr(), config.virtual_ipv6.addr())
    {
        let (v4, v6) = ((v4, config.virtual_ipv4.len()), (v6, config.virtual_ipv6.len()));
        map.virtual_pools(v4, Some(v6))?;
    }
    for route in config.routes.iter() {
        let ports = route.to.port.map_or(Ports::ALL, Ports::one);
        match &route.to.hosts {
            Hosts::Name(name) => map.name(name, ports)?,
            Hosts::Below(name) => map.name(&format!("*.{name}"), ports)?,
            Hosts::Net(net) => addresses(&mut map, *net, route, ports)?,
            Hosts::Any => {
                for every in ["0.0.0.0/0", "::/0"] {
                    let every = every.parse().expect("a constant prefix is right");
                    addresses(&mut map, every, route, ports)?;
                }
                // What is left out of the names the broker says when it is asked for one.
                if route.is_resolved_there {
                    map.name("*", ports)?;
                }
            }
        }
    }
    for one in awaited {
        let ports = Ports { low: one.port, high: one.last };
        let ip = one.lead.ip;
        match &one.lead.host {
            Some(host) => map.name(host, ports)?,
            None => map.address(ip, if ip.is_ipv4() { 32 } else { 128 }, ports)?,
        }
    }
    map.build()
}
