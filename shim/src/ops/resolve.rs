//! Names: routed ones, and those that end in `.stp`, get a virtual address; all others are left to
//! the system.

use core::ffi::c_int;
use core::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use stp_proto::local::routes::Match;
use stp_proto::local::wire::{HOST_BYTES_MAX, Resolve, Resolved};
use stp_proto::name::Name;

use super::broker::{self, Host};
use super::{process, told};
use crate::address::from_kernel;
use crate::map;
use crate::outcome::{Bypass, Outcome};

/// The answer for a name that is ours.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// These stand for it.
    Virtual(Ipv4Addr, Option<Ipv6Addr>),
    /// There is no such name.
    Unknown,
    /// It cannot be said now.
    TryAgain,
}

/// Decides about a host name that is wanted for a service, or for any.
pub fn decide(host: &[u8], service: Option<&[u8]>) -> Outcome<Answer> {
    // Port 0 is asked for by programs that fill the port in later.
    let port = service.and_then(|service| core::str::from_utf8(service).ok()?.parse().ok());
    let port = port.filter(|port| *port != 0);
    let own = Name::is_host(host);
    if !own && !map::host(host, port) {
        return Outcome::Bypass(Bypass::OtherName);
    }
    let text = core::str::from_utf8(host).ok().filter(|text| text.len() <= HOST_BYTES_MAX);
    let Some(host) = text else {
        let unknown = Outcome::Ours(Answer::Unknown);
        return if own { unknown } else { Outcome::Bypass(Bypass::BadArgument) };
    };
    match broker::resolve(Resolve { host, port }) {
        Some(Resolved::Virtual { v4, v6 }) => {
            process::knows_virtual_now();
            told::remember(host, v4, v6);
            Outcome::Ours(Answer::Virtual(v4, v6))
        }
        Some(Resolved::NotRouted) if !own => Outcome::Bypass(Bypass::OtherName),
        Some(Resolved::NotRouted | Resolved::Unknown) => Outcome::Ours(Answer::Unknown),
        Some(Resolved::TryAgain) => Outcome::Ours(Answer::TryAgain),
        None => without_broker(own),
    }
}

fn without_broker(own: bool) -> Outcome<Answer> {
    use stp_proto::local::routes::WhenAbsent;
    map::doubt();
    match map::when_absent() {
        WhenAbsent::Pass if !own => Outcome::Bypass(Bypass::BrokerAbsent),
        _ => Outcome::Ours(Answer::TryAgain),
    }
}

/// The one address that answers a question for a family; nothing when the family has none. `mapped`
/// says whether an IPv4 address may stand in the place of an IPv6 one.
pub fn in_family(
    (v4, v6): (Ipv4Addr, Option<Ipv6Addr>),
    family: c_int,
    mapped: bool,
) -> Option<IpAddr> {
    match (family, v6) {
        (libc::AF_INET6, Some(v6)) => Some(v6.into()),
        (libc::AF_INET6, None) if mapped => Some(v4.to_ipv6_mapped().into()),
        (libc::AF_INET6, None) => None,
        _ => Some(v4.into()),
    }
}

/// The host name behind an address in the kernel's form. The system's resolver must not be asked
/// for a virtual address: it knows nothing of it, and the question would leave this machine.
pub fn name_of(address: &[u8]) -> Outcome<Option<Host>> {
    let Some(address) = from_kernel(address) else { return Outcome::Bypass(Bypass::OtherFamily) };
    match map::destination(&address) {
        Some(Match::Virtual) => Outcome::Ours(broker::name_of(address.ip().to_canonical())),
        _ => Outcome::Bypass(Bypass::Unrouted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_gets_its_own_address_or_none() {
        let (v4, v6) = (Ipv4Addr::new(198, 18, 0, 1), Ipv6Addr::new(0xfd73, 0, 0, 0, 0, 0, 0, 1));
        assert_eq!(in_family((v4, Some(v6)), libc::AF_UNSPEC, false), Some(v4.into()));
        assert_eq!(in_family((v4, Some(v6)), libc::AF_INET6, false), Some(v6.into()));
        assert_eq!(in_family((v4, None), libc::AF_INET6, false), None);
        let mapped = v4.to_ipv6_mapped();
        assert_eq!(in_family((v4, None), libc::AF_INET6, true), Some(mapped.into()));
    }
}
