//! Which destinations go through a session, and to which service.
//!
//! A route is one line of the configuration: a pattern of destinations. The first route that
//! matches wins. Names are matched as the app asked for them; an app that connects to a bare
//! address is matched by address.

use std::net::IpAddr;
use std::sync::Arc;

use serde::Deserialize;
use stp_proto::pattern::{Hosts, Pattern};

use crate::upkeep::Upkeep;

/// What stands still while a session has no link.
#[derive(Copy, Clone, Debug, PartialEq, Eq, Default, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Freeze {
    /// Nothing: the program's time-outs run on.
    Off,
    /// The time-outs of calls that wait for the session.
    #[default]
    Waits,
    /// The program's clock and its alarm as well.
    Clock,
}

impl Freeze {
    /// Its name in the configuration and in the status.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Freeze::Off => "off",
            Freeze::Waits => "waits",
            Freeze::Clock => "clock",
        }
    }
}

/// A route: where to, and the number of its service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    /// The destinations.
    pub to: Pattern,
    /// What the configuration calls them: one text may stand for several patterns.
    pub written: Arc<str>,
    /// The place of the service in the configuration's list.
    pub service: usize,
    /// Its place among the lines of the configuration: one line may be several routes.
    pub line: usize,
    /// Over what links may leave, by name.
    pub policy: Option<String>,
    /// The endpoint whose sessions they are, by name; none: that of the configuration.
    pub endpoint: Option<String>,
    /// What stands still while its session has no link.
    pub freeze: Freeze,
    /// How its sessions are to be kept.
    pub upkeep: Upkeep,
    /// What they hold and is left out.
    pub except: Arc<[Hosts]>,
    /// Names are resolved at the far end: `*` stands for every name, and not only for addresses.
    pub is_resolved_there: bool,
}

impl Route {
    fn has_name(&self, name: &str) -> bool {
        let may = self.is_resolved_there || self.to.hosts != Hosts::Any;
        may && self.to.hosts.has_name(name) && !self.except.iter().any(|one| one.has_name(name))
    }

    fn has_address(&self, ip: IpAddr) -> bool {
        self.to.hosts.has_address(ip) && !self.except.iter().any(|one| one.has_address(ip))
    }
}

/// All routes, in the order of the file.
#[derive(Clone, Debug, Default)]
pub struct Routes(Vec<Route>);

impl Routes {
    /// Takes the routes in the order in which they are to be tried.
    #[must_use]
    pub fn new(routes: Vec<Route>) -> Routes {
        Routes(routes)
    }

    /// All of them.
    pub fn iter(&self) -> impl Iterator<Item = &Route> {
        self.0.iter()
    }

    /// The route for a connect to `ip:port`, which the app knows as `name` if it asked for one.
    #[must_use]
    pub fn find(&self, name: Option<&str>, ip: IpAddr, port: u16) -> Option<&Route> {
        self.0.iter().find(|route| {
            route.to.has_port(port)
                && match name {
                    None => route.has_address(ip),
                    Some(name) => route.has_name(name),
                }
        })
    }

    /// The first route that leads this (normalised) host name anywhere, at this port or any.
    #[must_use]
    pub fn leading(&self, name: &str, port: Option<u16>) -> Option<&Route> {
        let has_port = |route: &&Route| port.is_none_or(|port| route.to.has_port(port));
        self.0.iter().filter(has_port).find(|route| route.has_name(name))
    }

    /// Whether a connect to this host may have a route: a name whose address is not known has every
    /// route that is by address alone.
    #[must_use]
    pub fn may_lead(&self, host: &str, port: u16) -> bool {
        let by_address = |route: &Route| route.to.hosts == Hosts::Any && route.to.has_port(port);
        match host.parse() {
            Ok(ip) => self.find(None, ip, port).is_some(),
            Err(_) => self.leading(host, Some(port)).is_some() || self.iter().any(by_address),
        }
    }
}

#[cfg(test)]
mod tests {
    use stp_proto::pattern::host_name;

    use super::*;

    fn routes(patterns: &[&str]) -> Routes {
        let route = |(service, text): (usize, &&str)| Route {
            written: Arc::from(*text),
            to: text.parse().expect("a pattern"),
            service,
            line: 0,
            policy: None,
            endpoint: None,
            freeze: Freeze::Waits,
            upkeep: Upkeep::default(),
            except: Arc::new([]),
            is_resolved_there: false,
        };
        Routes::new(patterns.iter().enumerate().map(route).collect())
    }

    fn found(routes: &Routes, name: Option<&str>, ip: &str, port: u16) -> Option<usize> {
        routes.find(name, ip.parse().expect("an address"), port).map(|r| r.service)
    }

    #[test]
    fn the_first_route_that_matches_wins() {
        let r = routes(&["a.example.org:80", "*.example.org:80", "*.example.org:*"]);
        assert_eq!(found(&r, Some("a.example.org"), "127.192.0.1", 80), Some(0));
        assert_eq!(found(&r, Some("b.example.org"), "127.192.0.1", 80), Some(1));
        assert_eq!(found(&r, Some("b.example.org"), "127.192.0.1", 443), Some(2));
        assert_eq!(found(&r, Some("example.org"), "127.192.0.1", 80), None);
        assert_eq!(found(&r, Some("badexample.org"), "127.192.0.1", 80), None);
    }

    #[test]
    fn addresses_match_by_prefix_and_mapped_ones_count_as_ipv4() {
        let r = routes(&["10.1.0.0/16:*", "192.0.2.7:80", "[2001:db8::/32]:22", "0.0.0.0/0:9"]);
        assert_eq!(found(&r, None, "10.1.2.3", 5), Some(0));
        assert_eq!(found(&r, None, "10.2.2.3", 5), None);
        assert_eq!(found(&r, None, "::ffff:192.0.2.7", 80), Some(1));
        assert_eq!(found(&r, None, "192.0.2.7", 81), None);
        assert_eq!(found(&r, None, "2001:db8:1::1", 22), Some(2));
        assert_eq!(found(&r, None, "8.8.8.8", 9), Some(3));
        assert_eq!(found(&r, Some("x.org"), "10.1.2.3", 5), None);
    }

    #[test]
    fn names_are_compared_without_case_and_final_dot() {
        let r = routes(&["Mirror.Example.ORG.:80"]);
        let name = host_name("mirror.example.org.").expect("a name");
        assert!(r.leading(&name, None).is_some() && r.leading(&name, Some(81)).is_none());
        assert!(r.leading("www.mirror.example.org", None).is_none());
    }

    #[test]
    fn a_name_without_an_address_may_have_any_route_by_address() {
        let r = routes(&["*.example.org:80", "*:8080", "10.0.0.0/8:81"]);
        for (host, port, may) in [
            ("a.example.org", 80, true),
            ("a.example.org", 443, false),
            ("b.example.net", 8080, true),
            ("b.example.net", 80, false),
            ("10.0.0.1", 81, true),
            ("192.0.2.1", 81, false),
            ("192.0.2.1", 8080, true),
        ] {
            assert_eq!(r.may_lead(host, port), may, "{host}:{port}");
        }
    }
}
