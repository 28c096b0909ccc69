//! Names: routed ones and ours get a virtual address, all others are the system's.

use core::net::{Ipv4Addr, Ipv6Addr};

use stp_proto::local::wire::{HOST_BYTES_MAX, Resolve, Resolved};
use stp_proto::name::Name;

use super::{Bypass, broker};
use crate::map;

/// The answer for a name.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Ask the system.
    Bypass(Bypass),
    /// These stand for it.
    Virtual(Ipv4Addr, Option<Ipv6Addr>),
    /// There is no such name.
    Unknown,
    /// It cannot be said now.
    TryAgain,
}

/// Decides about a host name that is wanted for a port, or for any.
pub fn decide(host: &[u8], port: Option<u16>) -> Answer {
    let own = Name::is_host(host);
    if !own && !map::host(host, port) {
        return Answer::Bypass(Bypass::OtherName);
    }
    let text = core::str::from_utf8(host).ok().filter(|text| text.len() <= HOST_BYTES_MAX);
    let Some(host) = text else {
        return if own { Answer::Unknown } else { Answer::Bypass(Bypass::BadArgument) };
    };
    match broker::resolve(Resolve { host, port }) {
        Some(Resolved::Virtual { v4, v6 }) => Answer::Virtual(v4, v6),
        Some(Resolved::NotRouted) if own => Answer::Unknown,
        Some(Resolved::NotRouted) => Answer::Bypass(Bypass::OtherName),
        Some(Resolved::Unknown) => Answer::Unknown,
        Some(Resolved::TryAgain) => Answer::TryAgain,
        None => without_broker(own),
    }
}

fn without_broker(own: bool) -> Answer {
    use stp_proto::local::routes::WhenAbsent;
    map::doubt();
    match map::when_absent() {
        WhenAbsent::Pass if !own => Answer::Bypass(Bypass::BrokerAbsent),
        _ => Answer::TryAgain,
    }
}
