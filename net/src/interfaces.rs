//! The interfaces of this machine: which there are, what they are made of, and how fast they are.
//!
//! Names, states and addresses are the kernel's, by rtnetlink (`getifaddrs`). What an interface is
//! made of stands in `/sys/class/net`, which shows the network namespace that it was mounted in; so
//! it is believed only about an interface whose number is the same there.

use std::collections::BTreeMap;
use std::fmt;
use std::fs;
use std::io;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use nix::ifaddrs::getifaddrs;
use nix::net::if_::{InterfaceFlags, if_nametoindex};

/// What an interface is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Medium {
    /// A cable: a device that speaks Ethernet.
    Cable,
    /// Wi-Fi.
    Wifi,
    /// A modem for a mobile network.
    Modem,
    /// A tunnel, a bridge, or nobody knows.
    Other,
}

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Interface {
    /// Its name.
    pub name: String,
    /// It is up, and its cable or its network is there.
    pub running: bool,
    /// Its addresses, but for those that lead no farther than the next cable.
    pub addresses: Vec<IpAddr>,
    /// What it is made of.
    pub medium: Medium,
    /// Bytes a second, if it says so.
    pub speed: Option<u64>,
}

impl Interface {
    /// Whether a connection can leave over it.
    #[must_use]
    pub fn is_up(&self) -> bool {
        self.running && !self.addresses.is_empty()
    }
}

/// All interfaces but the loopback, by name.
///
/// # Errors
/// When the kernel does not say.
pub fn interfaces() -> io::Result<Vec<Interface>> {
    let mut all: BTreeMap<String, Interface> = BTreeMap::new();
    for found in getifaddrs()? {
        if found.flags.contains(InterfaceFlags::IFF_LOOPBACK) {
            continue;
        }
        let running = InterfaceFlags::IFF_UP | InterfaceFlags::IFF_RUNNING;
        let interface = all.entry(found.interface_name).or_insert_with_key(|name| {
            let folder = folder_of(name);
            Interface {
                name: name.clone(),
                running: found.flags.contains(running),
                addresses: Vec::new(),
                medium: folder.as_deref().map_or(Medium::Other, medium),
                speed: folder.as_deref().and_then(speed),
            }
        });
        let Some(address) = found.address else { continue };
        let v4 = address.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
        let v6 = || address.as_sockaddr_in6().map(|address| IpAddr::from(address.ip()));
        interface.addresses.extend(v4.or_else(v6).filter(leads_far));
    }
    Ok(all.into_values().collect())
}

/// Whether an address leads farther than the next cable.
fn leads_far(ip: &IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => !v4.is_link_local(),
        IpAddr::V6(v6) => !v6.is_unicast_link_local(),
    }
}

/// Where the kernel tells more about an interface.
fn folder_of(name: &str) -> Option<PathBuf> {
    let folder = Path::new("/sys/class/net").join(name);
    let number: u32 = read(&folder, "ifindex")?.parse().ok()?;
    (if_nametoindex(name) == Ok(number)).then_some(folder)
}

fn read(folder: &Path, file: &str) -> Option<String> {
    Some(fs::read_to_string(folder.join(file)).ok()?.trim().to_owned())
}

fn medium(folder: &Path) -> Medium {
    const ETHERNET: &str = "1";
    let told = read(folder, "uevent").unwrap_or_default();
    let is = |what: &str| told.lines().any(|line| line.strip_prefix("DEVTYPE=") == Some(what));
    if is("wlan") {
        Medium::Wifi
    } else if is("wwan") {
        Medium::Modem
    } else if read(folder, "type").as_deref() == Some(ETHERNET) && folder.join("device").exists() {
        Medium::Cable
    } else {
        Medium::Other
    }
}

fn speed(folder: &Path) -> Option<u64> {
    // An interface that does not know says -1, or fails.
    let megabits: u64 = read(folder, "speed")?.parse().ok()?;
    Some(megabits * 125_000)
}

/// What is different about an interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// It can be used now.
    Up(String),
    /// It cannot be used any more.
    Down(String),
    /// It has other addresses.
    Addresses(String),
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Change::Up(name) => write!(f, "{name} is up"),
            Change::Down(name) => write!(f, "{name} is down"),
            Change::Addresses(name) => write!(f, "{name} has other addresses"),
        }
    }
}

/// What is different from before, by name.
#[must_use]
pub fn changes(before: &[Interface], after: &[Interface]) -> Vec<Change> {
    let find = |all: &'_ [Interface], name: &str| {
        all.iter().find(|interface| interface.name == name).cloned()
    };
    let names: std::collections::BTreeSet<&String> =
        before.iter().chain(after).map(|interface| &interface.name).collect();
    let change = |name: &String| {
        let (old, new) = (find(before, name), find(after, name));
        let up = |one: &Option<Interface>| one.as_ref().is_some_and(Interface::is_up);
        match (up(&old), up(&new)) {
            (false, true) => Some(Change::Up(name.clone())),
            (true, false) => Some(Change::Down(name.clone())),
            (true, true) if old.map(|one| one.addresses) != new.map(|one| one.addresses) => {
                Some(Change::Addresses(name.clone()))
            }
            _ => None,
        }
    };
    names.into_iter().filter_map(change).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_told_by_name() {
        let of = |name: &str, running, addresses: &[[u8; 4]]| Interface {
            name: name.to_owned(),
            running,
            addresses: addresses.iter().copied().map(IpAddr::from).collect(),
            medium: Medium::Other,
            speed: None,
        };
        let (a, b) = ([192, 0, 2, 1], [192, 0, 2, 2]);
        let before = [of("eth0", true, &[a]), of("eth1", false, &[]), of("wl0", true, &[a])];
        let after = [of("eth1", true, &[b]), of("wl0", true, &[b]), of("tun0", true, &[])];
        let told: Vec<String> = changes(&before, &after).iter().map(ToString::to_string).collect();
        assert_eq!(told, ["eth0 is down", "eth1 is up", "wl0 has other addresses"]);
        assert!(changes(&after, &after).is_empty());
    }

    #[test]
    fn an_interface_is_seen_with_what_it_is_made_of() {
        // A network namespace of this thread's own; without the right to have one there is nothing
        // to try.
        let thread = std::thread::spawn(|| {
            if nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNET).is_err() {
                return;
            }
            let ip = |arguments: &str| {
                let mut command = std::process::Command::new("ip");
                let done = command.args(arguments.split(' ')).status();
                assert!(done.is_ok_and(|status| status.success()), "ip {arguments}");
            };
            assert_eq!(interfaces().expect("the kernel says").len(), 0);
            ip("link add va type veth peer name vb");
            ip("address add 192.0.2.9/24 dev va");
            ip("link set va up");
            let seen = || interfaces().expect("the kernel says");
            assert!(seen().iter().all(|one| !one.is_up()), "the other end is not up");
            ip("link set vb up");
            let all = seen();
            let names: Vec<_> = all.iter().map(|one| (one.name.as_str(), one.is_up())).collect();
            assert_eq!(names, [("va", true), ("vb", false)]);
            assert_eq!(all[0].addresses, [IpAddr::from([192, 0, 2, 9])]);
            // `/sys` may be that of another namespace: then nothing is known.
            assert_eq!(all[0].medium, Medium::Other);
        });
        thread.join().expect("no panic");
    }
}
