//! Reaching a listener of an app: only one that is the app's own, on this machine. The app sees the
//! connection come from its server (R93).

use std::collections::HashMap;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use stp_proto::group::seen_from;
use stp_proto::local::wire::Accepted;
use tokio::net::{TcpSocket, TcpStream};

/// A listener on this machine answers at once, or not at all.
const CONNECT_MAX: Duration = Duration::from_secs(5);
/// The kernel's number for a socket that listens.
const LISTEN: &str = "0A";

/// A socket that listens, as /proc/net/tcp tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Listening {
    address: SocketAddr,
    uid: u32,
    inode: u64,
}

/// The connections to listeners of apps, and where the apps see them come from.
#[derive(Debug, Default)]
pub struct Reached {
    /// By the ends of each, this machine's and the app's.
    seen: Mutex<HashMap<(SocketAddr, SocketAddr), SocketAddr>>,
}

/// A connection to a listener.
#[derive(Debug)]
pub struct ToListener {
    /// It.
    pub stream: TcpStream,
    _known: Known,
}

/// The app is told who its peer is for as long as this lives.
#[derive(Debug)]
struct Known {
    all: Arc<Reached>,
    ends: (SocketAddr, SocketAddr),
}

impl Drop for Known {
    fn drop(&mut self) {
        self.all.seen.lock().remove(&self.ends);
    }
}

impl Reached {
    /// Connects to the listener of this process, as `peer`, which its lead is connected to. The
    /// connection comes from the listener's own address: the shim asks about no other.
    ///
    /// # Errors
    /// Says why not.
    pub async fn reach(
        self: &Arc<Self>,
        pid: i32,
        address: SocketAddr,
        peer: SocketAddr,
    ) -> Result<ToListener, String> {
        let address = SocketAddr::new(address.ip().to_canonical(), address.port());
        belongs(pid, address)?;
        let to_text = |error: std::io::Error| error.to_string();
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() };
        let socket = socket.map_err(to_text)?;
        socket.bind(SocketAddr::new(address.ip(), 0)).map_err(to_text)?;
        let ends = (socket.local_addr().map_err(to_text)?, address);
        self.seen.lock().insert(ends, seen_from(peer));
        let known = Known { all: Arc::clone(self), ends };
        let stream = tokio::time::timeout(CONNECT_MAX, socket.connect(address)).await;
        let stream = stream.map_err(|_| "it does not answer".to_owned())?.map_err(to_text)?;
        stream.set_nodelay(true).map_err(to_text)?;
        Ok(ToListener { stream, _known: known })
    }

    /// Where an app sees a connection come from that it has accepted, if it is one of these.
    #[must_use]
    pub fn seen(&self, accepted: &Accepted) -> Option<SocketAddr> {
        let plain = |end: SocketAddr| SocketAddr::new(end.ip().to_canonical(), end.port());
        self.seen.lock().get(&(plain(accepted.from), plain(accepted.to))).copied()
    }
}

fn belongs(pid: i32, address: SocketAddr) -> Result<(), String> {
    if address.port() < 1024 {
        return Err(format!("port {} belongs to the system", address.port()));
    }
    // Only an address of this machine can be bound to.
    UdpSocket::bind((address.ip(), 0))
        .map_err(|_| format!("{} is no address of this machine", address.ip()))?;
    let mut listening = Vec::new();
    for file in ["/proc/net/tcp", "/proc/net/tcp6"] {
        let text = fs::read_to_string(file).unwrap_or_default();
        listening.extend(text.lines().filter_map(parse));
    }
    let found = find(&listening, address).ok_or_else(|| format!("nobody listens at {address}"))?;
    let user = rustix::process::geteuid().as_raw();
    if found.uid != user {
        return Err(format!("the listener belongs to user {}", found.uid));
    }
    if !has_open(pid, found.inode) {
        return Err(format!("the listener is not one of process {pid}"));
    }
    Ok(())
}

/// The listener that a connection to `address` would meet.
fn find(listening: &[Listening], address: SocketAddr) -> Option<Listening> {
    let meets = |one: &&Listening| {
        let (own, wanted) = (one.address.ip().to_canonical(), address.ip());
        let any = own.is_unspecified() && (own.is_ipv6() || wanted.is_ipv4());
        one.address.port() == address.port() && (own == wanted || any)
    };
    let exact = listening.iter().filter(meets).find(|one| !one.address.ip().is_unspecified());
    exact.or_else(|| listening.iter().find(meets)).copied()
}

/// One line of /proc/net/tcp or tcp6, if it is a socket that listens.
fn parse(line: &str) -> Option<Listening> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let (local, state, uid, inode) =
        (fields.get(1)?, fields.get(3)?, fields.get(7)?, fields.get(9)?);
    if *state != LISTEN {
        return None;
    }
    let (ip, port) = local.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    // Words of four bytes, each as the machine holds it.
    let words: Option<Vec<u8>> = ip
        .as_bytes()
        .chunks(8)
        .map(|word| u32::from_str_radix(core::str::from_utf8(word).ok()?, 16).ok())
        .map(|word| Some(word?.to_ne_bytes()))
        .collect::<Option<Vec<_>>>()
        .map(|words| words.concat());
    let words = words?;
    let ip: IpAddr = match words.len() {
        4 => Ipv4Addr::from(<[u8; 4]>::try_from(words).ok()?).into(),
        16 => Ipv6Addr::from(<[u8; 16]>::try_from(words).ok()?).into(),
        _ => return None,
    };
    let (uid, inode) = (uid.parse().ok()?, inode.parse().ok()?);
    Some(Listening { address: SocketAddr::new(ip, port), uid, inode })
}

/// Whether a process has this socket open.
fn has_open(pid: i32, inode: u64) -> bool {
    let wanted = format!("socket:[{inode}]");
    let Ok(all) = fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    let links = all.flatten().filter_map(|entry| fs::read_link(entry.path()).ok());
    links.into_iter().any(|link| link.to_str() == Some(&wanted))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// R93.
    #[test]
    fn a_listener_of_this_process_is_found_and_another_ports_is_not() {
        let ours = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = ours.local_addr().unwrap();
        let pid = i32::try_from(std::process::id()).unwrap();
        assert_eq!(belongs(pid, address), Ok(()));
        let other = belongs(1, address).unwrap_err();
        assert!(other.contains("process 1"), "{other}");
        drop(ours);
        let gone = belongs(pid, address).unwrap_err();
        assert!(gone.contains("nobody listens"), "{gone}");
        assert!(belongs(pid, "127.0.0.1:21".parse().unwrap()).unwrap_err().contains("system"));
        let far = belongs(pid, "192.0.2.77:4000".parse().unwrap()).unwrap_err();
        assert!(far.contains("no address of this machine"), "{far}");
    }

    /// R93.
    #[tokio::test]
    async fn an_app_sees_its_server_for_as_long_as_it_is_connected() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let to = listener.local_addr().unwrap();
        let (all, pid) = (Arc::new(Reached::default()), std::process::id().cast_signed());
        let reached = all.reach(pid, to, "198.18.0.7:21".parse().unwrap()).await.unwrap();
        let (stream, from) = listener.accept().await.unwrap();
        let mapped = Ipv4Addr::LOCALHOST.to_ipv6_mapped().into();
        let mapped = Accepted {
            from: SocketAddr::new(mapped, from.port()),
            to: SocketAddr::new(mapped, to.port()),
        };
        for accepted in [Accepted { from, to }, mapped] {
            assert_eq!(all.seen(&accepted), Some("198.18.0.7:20".parse().unwrap()));
        }
        assert_eq!(all.seen(&Accepted { from: to, to: from }), None);
        drop((reached, stream));
        assert_eq!(all.seen(&Accepted { from, to }), None);
    }

    #[test]
    fn a_listener_for_every_address_counts_and_an_exact_one_comes_first() {
        let any = "   1: 00000000:9C41 00000000:0000 0A 00000000:00000000 00:00000000 00000000  \
            1000 0 77 1";
        let any = parse(any).unwrap();
        assert_eq!((any.address.port(), any.uid, any.inode), (40_001, 1000, 77));
        let exact = Listening { address: "10.0.0.1:40001".parse().unwrap(), uid: 5, inode: 1 };
        let all = [any, exact];
        assert_eq!(find(&all, "10.0.0.1:40001".parse().unwrap()), Some(exact));
        assert_eq!(find(&all, "10.0.0.2:40001".parse().unwrap()), Some(any));
        assert_eq!(find(&all, "[2001:db8::1]:40001".parse().unwrap()), None);
        assert_eq!(find(&all, "10.0.0.1:40002".parse().unwrap()), None);
    }
}
