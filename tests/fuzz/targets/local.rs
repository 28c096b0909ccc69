//! What shim and broker say to each other, and the names of the app's sockets.

use std::net::{Ipv4Addr, Ipv6Addr};

use stp_proto::local::path::{LocalPath, PATH_BYTES_MAX, SOCKET_FILE, Surroundings};
use stp_proto::local::socket_name::SocketName;
use stp_proto::local::wire::{
    Accepted, Act, HOST_BYTES_MAX, MESSAGE_BYTES_MAX, Names, Open, OpenFlags, Passed, PassedWhy,
    Reply, Request, Resolve, Resolved, SocketState, Told,
};
use stp_proto::local::{Cookie, Family};
use stp_proto::state::State;

use super::{Draw, bounded};

pub fn run(data: &[u8]) {
    if let Ok(Some((request, length))) = bounded(0, || Request::decode(data)) {
        assert!(length <= data.len() && length <= MESSAGE_BYTES_MAX);
        request_survives(&request);
    }
    if let Ok(Some((reply, length))) = bounded(0, || Reply::decode(data)) {
        assert!(length <= data.len() && length <= MESSAGE_BYTES_MAX);
        reply_survives(&reply);
    }
    if let Some(name) = bounded(0, || SocketName::decode(data)) {
        assert_eq!(SocketName::decode(&name.encode()), Some(name));
    }
    let mut draw = Draw::new(data);
    let host = draw.text(HOST_BYTES_MAX);
    if let Some(request) = make_request(&mut draw, &host) {
        request_survives(&request);
    }
    reply_survives(&make_reply(&mut draw, &host));
    let name = SocketName {
        family: family(&mut draw),
        nonblocking: draw.bool(),
        local: draw.scoped_address(),
        peer: draw.scoped_address(),
        cookie: Cookie(draw.array()),
    };
    assert_eq!(SocketName::decode(&name.encode()), Some(name));
    place(&mut draw, data);
}

fn request_survives(request: &Request<'_>) {
    let message = request.encode().expect("no name in it is too long");
    let bytes = message.as_bytes();
    assert_eq!(Request::decode(bytes), Ok(Some((*request, bytes.len()))));
    let followed = [bytes, b"more"].concat();
    assert_eq!(Request::decode(&followed), Ok(Some((*request, bytes.len()))));
    for end in 0..bytes.len() {
        assert_eq!(Request::decode(&bytes[..end]), Ok(None), "{end} bytes of {}", bytes.len());
    }
}

fn reply_survives(reply: &Reply<'_>) {
    let Some(message) = reply.encode() else {
        assert!(matches!(reply, Reply::Name(Some(name)) if name.len() > 255));
        return;
    };
    let bytes = message.as_bytes();
    assert_eq!(Reply::decode(bytes), Ok(Some((*reply, bytes.len()))));
    assert_eq!(Reply::decode(&bytes[..bytes.len() - 1]), Ok(None));
}

fn family(draw: &mut Draw<'_>) -> Family {
    draw.pick(&[Family::V4, Family::V6])
}

fn make_request<'a>(draw: &mut Draw<'_>, host: &'a str) -> Option<Request<'a>> {
    let cookie = Cookie(draw.array());
    Some(match draw.below(11) {
        0 => Request::Open(Open {
            cookie,
            family: family(draw),
            destination: draw.scoped_address(),
            local: draw.scoped_address(),
            pid: draw.u32(),
            flags: OpenFlags {
                nonblocking: draw.bool(),
                bound: draw.bool(),
                abortive: draw.bool(),
                keepalive: draw.bool(),
                reserved: draw.bool(),
            },
        }),
        1 if host.is_empty() => return None,
        1 => Request::Resolve(Resolve { host, port: draw.bool().then(|| draw.u16()) }),
        2 => Request::Name(draw.ip()),
        3 => Request::SocketState(cookie),
        4 if draw.bool() => Request::UserTimeout(cookie, draw.u32()),
        4 => Request::Linger(cookie, draw.bool()),
        5 => Request::Passed(Passed {
            destination: draw.scoped_address(),
            why: draw.pick(&[PassedWhy::TooManyReferences, PassedWhy::Interface]),
        }),
        6 => Request::Accepted(Accepted { from: draw.scoped_address(), to: draw.scoped_address() }),
        7 => Request::Act(cookie, draw.pick(&[Act::Look, Act::Suspend, Act::Resume, Act::Abort])),
        8 => Request::Names(cookie),
        9 => Request::Watch(cookie),
        _ => Request::Hello,
    })
}

fn make_reply<'a>(draw: &mut Draw<'_>, host: &'a str) -> Reply<'a> {
    match draw.below(9) {
        0 => {
            let v4 = Ipv4Addr::from(draw.array());
            let v6 = draw.bool().then(|| Ipv6Addr::from(draw.array::<16>()));
            let virtual_one = Resolved::Virtual { v4, v6 };
            let others = [Resolved::NotRouted, Resolved::Unknown, Resolved::TryAgain];
            Reply::Resolved(draw.pick(&[virtual_one, others[0], others[1], others[2]]))
        }
        1 => Reply::Name((!host.is_empty()).then_some(host)),
        2 => {
            let (first, second) = (draw.u32(), draw.u32());
            let errno = i32::from(draw.u16() % 4_095) + 1;
            Reply::SocketState(draw.pick(&[
                SocketState::Unknown,
                SocketState::Pending,
                SocketState::Established { rtt_us: first, unacknowledged: second },
                SocketState::Refused(errno),
                SocketState::Reset(errno),
                SocketState::Closed,
            ]))
        }
        3 => Reply::Done,
        4 => Reply::Peer(draw.bool().then(|| draw.scoped_address())),
        5 => Reply::Told(draw.bool().then(|| Told {
            state: draw.pick(&[State::Active, State::Suspended, State::Closed]),
            rtt_us: draw.u32(),
            paused_ms: draw.position(),
            taken: draw.position(),
            acknowledged: draw.position(),
            received: draw.position(),
            delivered: draw.position(),
            server: host,
        })),
        6 => Reply::Names(draw.bool().then_some(Names {
            service: host,
            server: "server",
            endpoint: host,
        })),
        7 => Reply::Watched(i32::from(draw.u16())),
        _ => Reply::Hello { pid: draw.u32() },
    }
}

/// Whatever is in the environment, a path fits a socket's address or there is none.
fn place(draw: &mut Draw<'_>, variable: &[u8]) {
    let around = Surroundings {
        session_dir: draw.bool().then_some(variable),
        runtime_dir: draw.bool().then_some(variable),
        uid: draw.u32(),
        has_run_user: draw.bool(),
    };
    let Some(place) = bounded(0, || LocalPath::directory(&around)) else { return };
    let socket = place.file(SOCKET_FILE).expect("a directory leaves room for it");
    let path = socket.as_bytes_with_nul();
    assert!(path.len() <= PATH_BYTES_MAX && path[0] == b'/');
    assert_eq!(path.iter().position(|byte| *byte == 0), Some(path.len() - 1));
}
