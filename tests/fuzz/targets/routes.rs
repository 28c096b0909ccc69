//! The route map, against a plain list of the routes that went into it.

use std::net::{IpAddr, SocketAddr};

use stp_proto::local::routes::{
    Builder, CONTROL_BYTES, Control, Match, Ports, Routes, VIRTUAL_V4, VIRTUAL_V6, WhenAbsent,
};

use super::{Draw, bounded};

pub fn run(data: &[u8]) {
    let mut draw = Draw::new(data);
    let places: Vec<_> = (0..4).map(|_| draw.scoped_address()).collect();
    // A file that came from anywhere, but whose sum is right.
    let file = file_of(data);
    if let Some(routes) = bounded(0, || read(&file)) {
        for place in &places {
            bounded(0, || routes.destination(place));
        }
        bounded(0, || routes.host(data, Some(80)));
    }
    // Whatever the control block says.
    let mut block = [0; CONTROL_BYTES];
    let length = data.len().min(CONTROL_BYTES);
    block[..length].copy_from_slice(&data[..length]);
    if let Some(control) = Control::read(&block, data.len()) {
        let _ = Routes::read(&control, &data[CONTROL_BYTES..]);
    }
    agrees_with_a_list(&mut draw);
}

fn read(file: &[u8]) -> Option<Routes<'_>> {
    let (block, body) = file.split_first_chunk::<CONTROL_BYTES>()?;
    Routes::read(&Control::read(block, file.len())?, body)
}

/// The control block that makes `body` a route map.
fn file_of(body: &[u8]) -> Vec<u8> {
    let sum = body.iter().fold(0xcbf2_9ce4_8422_2325_u64, |sum, byte| {
        (sum ^ u64::from(*byte)).wrapping_mul(0x100_0000_01b3)
    });
    let mut file = b"stproute\0\0\0\0\x01\0\0\0".to_vec();
    file.extend(u32::try_from(body.len()).expect("inputs are short").to_le_bytes());
    file.extend([0; 4]);
    file.extend(sum.to_le_bytes());
    file.resize(CONTROL_BYTES, 0);
    file.extend(body);
    file
}

/// Addresses near each other, so that routes meet.
fn near(draw: &mut Draw<'_>) -> IpAddr {
    let (a, b) = (draw.u8() & 3, draw.u8());
    match draw.below(4) {
        0 => IpAddr::from([10, a, 0, b]),
        1 => IpAddr::V6(std::net::Ipv4Addr::new(10, a, 0, b).to_ipv6_mapped()),
        2 => IpAddr::from([0x2001, 0xdb8, 0, 0, 0, 0, u16::from(a), u16::from(b)]),
        _ => draw.ip(),
    }
}

fn ports(draw: &mut Draw<'_>) -> Ports {
    let (a, b) = (draw.u16() % 4, draw.u16() % 4);
    draw.pick(&[Ports::ALL, Ports::one(a), Ports { low: a, high: b }])
}

fn agrees_with_a_list(draw: &mut Draw<'_>) {
    let when_absent = draw.pick(&[WhenAbsent::Pass, WhenAbsent::Fail]);
    let mut builder = Builder::new(when_absent);
    let (mut addresses, mut names) = (Vec::new(), Vec::new());
    for _ in 0..draw.below(12) {
        let (ip, prefix, ports) = (near(draw), draw.u8() % 130, ports(draw));
        if builder.address(ip, prefix, ports).is_ok() {
            addresses.push((ip, prefix, ports));
        }
        let (host, ports) = (draw.pick(&["a.b", "*.b", "*.c.d", "A.b.", "e"]), ports);
        if builder.name(host, ports).is_ok() {
            names.push((host, ports));
        }
    }
    let mut file = builder.build().expect("a few routes");
    let routes = read(&file).expect("just built");
    assert_eq!(routes.when_absent(), when_absent);
    for _ in 0..8 {
        let (ip, port) = (near(draw), draw.u16() % 5);
        let listed = listed(&addresses, ip.to_canonical(), port);
        assert_eq!(routes.destination(&SocketAddr::new(ip, port)), listed, "{ip} {port}");
        let host = draw.pick(&["a.b", "x.b", "b", "x.y.c.d", "c.d", ".c.d", "E", "e.", "f"]);
        let named = names.iter().any(|(pattern, ports)| {
            is_named(pattern, host) && (ports.low..=ports.high).contains(&port)
        });
        assert_eq!(routes.host(host.as_bytes(), Some(port)), named, "{host} {port}");
    }
    // A torn file is none, unless the change is where nobody looks.
    let at = draw.below(file.len());
    file[at] ^= draw.u8().max(1);
    assert!(at < CONTROL_BYTES || read(&file).is_none());
}

fn bits(ip: IpAddr) -> (u128, u8) {
    match ip {
        IpAddr::V4(v4) => (u128::from(v4.to_bits()), 32),
        IpAddr::V6(v6) => (v6.to_bits(), 128),
    }
}

fn holds((net, prefix): (IpAddr, u8), ip: IpAddr) -> bool {
    let ((net, width), (ip, width_too)) = (bits(net), bits(ip));
    let shift = u32::from(width - prefix);
    width == width_too && net.checked_shr(shift).unwrap_or(0) == ip.checked_shr(shift).unwrap_or(0)
}

fn listed(routes: &[(IpAddr, u8, Ports)], ip: IpAddr, port: u16) -> Option<Match> {
    let pools = [(VIRTUAL_V4.0.into(), VIRTUAL_V4.1), (VIRTUAL_V6.0.into(), VIRTUAL_V6.1)];
    if pools.iter().any(|pool| holds(*pool, ip)) {
        return Some(Match::Virtual);
    }
    let routed = routes.iter().any(|&(net, prefix, ports)| {
        let plain = match (net, net.to_canonical()) {
            (IpAddr::V6(_), v4 @ IpAddr::V4(_)) if prefix >= 96 => (v4, prefix - 96),
            _ => (net, prefix),
        };
        holds(plain, ip) && (ports.low..=ports.high).contains(&port)
    });
    routed.then_some(Match::Routed)
}

fn is_named(pattern: &str, host: &str) -> bool {
    let lower = |text: &str| text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let (pattern, host) = (lower(pattern), lower(host));
    match pattern.strip_prefix('*') {
        Some(under) => host.len() > under.len() && host.ends_with(under),
        None => host == pattern,
    }
}
