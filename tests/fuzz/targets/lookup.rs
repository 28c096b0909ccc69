//! What is said to and by the directory.

#![expect(
    clippy::redundant_closure_for_method_calls,
    reason = "the methods themselves are not general enough in the lifetime of the bytes"
)]

use std::fmt::Debug;

use stp_proto::lookup::{
    Announce, Announced, Answer, Ask, Body, Challenge, ChangeEndpoint, ChangeService, Changed,
    Created, Done, EndpointFound, EndpointName, FileEntry, FilePath, Files, KdfCost, List, Locate,
    Located, Location, Login, MESSAGE_MAX, MessageError, NewEndpoint, NewService, OneEndpoint,
    OneName, OneService, PATH_MAX, Protocol, Prove, Refusal, Refused, Request, Revoked, Server,
    ServiceFound, TEXT_MAX, Told, Unwatch, Welcome, decode_servers, encode_servers,
};
use stp_proto::name::Name;

use super::{Draw, bounded};

/// A list grows to at most 64 items, by doubling; the texts in them are at most the message.
const MEMORY: usize = 8 * MESSAGE_MAX;

pub fn run(data: &[u8]) {
    if let Ok(request) = bounded(MEMORY, || Request::decode(data)) {
        survives(&request, Request::encode, Request::decode);
        assert_eq!(request.encode().as_deref(), Ok(data), "there is one way to write it");
    }
    if let Ok(answer) = bounded(MEMORY, || Answer::decode(data)) {
        survives(&answer, Answer::encode, Answer::decode);
        assert_eq!(answer.encode().as_deref(), Ok(data), "there is one way to write it");
    }
    if let Ok(servers) = bounded(MEMORY, || decode_servers(data)) {
        survives(&servers, encode_servers, decode_servers);
    }
    let mut draw = Draw::new(data);
    let request = Request { id: draw.u32(), ask: ask(&mut draw) };
    survives(&request, Request::encode, Request::decode);
    let answer = Answer { id: draw.u32(), body: body(&mut draw) };
    survives(&answer, Answer::encode, Answer::decode);
    survives(&list(&mut draw, server), encode_servers, decode_servers);
}

fn survives<T: PartialEq + Debug>(
    value: &T,
    encode: impl Fn(&T) -> Result<Vec<u8>, MessageError>,
    decode: impl Fn(&[u8]) -> Result<T, MessageError>,
) {
    // Many long items do not fit a message.
    let Ok(bytes) = encode(value) else { return };
    assert_eq!(decode(&bytes).as_ref(), Ok(value));
    assert!(decode(&bytes[..bytes.len() - 1]).is_err(), "part of a message is none");
    assert!(decode(&[&bytes[..], b"x"].concat()).is_err(), "nothing follows a message");
}

fn list<T>(draw: &mut Draw<'_>, item: impl Fn(&mut Draw<'_>) -> T) -> List<T> {
    let count = draw.pick(&[0, 1, 2, 3, 5, 64]);
    (0..count).map(|_| item(draw)).collect::<Vec<_>>().into()
}

fn told(draw: &mut Draw<'_>) -> Told {
    Told { version: draw.u32(), keys: list(draw, |draw| draw.u32()), unix_ms: draw.position() }
}

fn name(draw: &mut Draw<'_>) -> Name {
    let made = Name::new(&draw.label(), &draw.labels(1), &draw.labels(1));
    made.unwrap_or_else(|_| "www.web@example.org".parse().expect("a name"))
}

fn endpoint(draw: &mut Draw<'_>) -> EndpointName {
    EndpointName::of(&name(draw))
}

fn path(draw: &mut Draw<'_>) -> FilePath {
    let path = FilePath::new(&format!("/{}", draw.text(PATH_MAX - 1)));
    path.unwrap_or_else(|| FilePath::new("/a").expect("a path"))
}

/// Such as an endpoint may have.
fn addresses(draw: &mut Draw<'_>) -> List<std::net::IpAddr> {
    let one = |draw: &mut Draw<'_>| match draw.ip() {
        bad if bad.is_unspecified() || bad.is_multicast() => [192, 0, 2, 1].into(),
        good => good,
    };
    (0..=draw.below(8)).map(|_| one(draw)).collect::<Vec<_>>().into()
}

fn server(draw: &mut Draw<'_>) -> Server {
    Server {
        name: draw.text(TEXT_MAX),
        addresses: list(draw, |draw| draw.address()),
        key: draw.array(),
        hops: draw.u8(),
    }
}

fn file(draw: &mut Draw<'_>) -> FileEntry {
    FileEntry { path: path(draw), size: draw.position(), sha256: draw.array() }
}

fn ask(draw: &mut Draw<'_>) -> Ask {
    let protocol = Protocol::Session;
    match draw.below(16) {
        0 => Ask::NewEndpoint(NewEndpoint {
            name: endpoint(draw),
            addresses: addresses(draw),
            lease_s: draw.u32(),
        }),
        1 => {
            Ask::ChangeEndpoint(ChangeEndpoint { name: endpoint(draw), addresses: addresses(draw) })
        }
        2 => Ask::DeleteEndpoint(OneEndpoint { name: endpoint(draw) }),
        3 => Ask::GetEndpoint(OneEndpoint { name: endpoint(draw) }),
        4 => Ask::NewService(NewService {
            name: name(draw),
            port: draw.u16().max(1),
            protocol,
            key: draw.array(),
        }),
        5 => Ask::ChangeService(ChangeService {
            name: name(draw),
            port: draw.u16().max(1),
            protocol,
            key: draw.array(),
        }),
        6 => Ask::DeleteService(OneService { name: name(draw) }),
        7 => Ask::GetService(OneService { name: name(draw) }),
        8 => Ask::Renew(OneEndpoint { name: endpoint(draw) }),
        9 => Ask::Watch(OneName { name: draw.text(TEXT_MAX), endpoint: draw.bool() }),
        10 => Ask::Unwatch(Unwatch { watch: draw.u32() }),
        11 => Ask::Announce(Announce {
            server: draw.text(TEXT_MAX),
            addresses: list(draw, |draw| draw.address()),
            services: list(draw, name),
            inventory: draw.array(),
            told: told(draw),
        }),
        12 => Ask::Files(Files {
            server: draw.text(TEXT_MAX),
            service: name(draw),
            first: draw.bool(),
            last: draw.bool(),
            inventory: draw.array(),
            files: list(draw, file),
        }),
        13 => Ask::Login(Login { user: draw.label() }),
        14 => {
            let (r, s): ([u8; 32], [u8; 32]) = (draw.array(), draw.array());
            let mut signature = [0; 64];
            signature[..32].copy_from_slice(&r);
            signature[32..].copy_from_slice(&s);
            Ask::Prove(Prove { signature })
        }
        _ => Ask::Locate(Locate {
            service: draw.bool().then(|| name(draw)),
            path: Some(path(draw)),
            from: draw.position(),
        }),
    }
}

fn endpoint_found(draw: &mut Draw<'_>) -> EndpointFound {
    EndpointFound {
        addresses: list(draw, |draw| draw.ip()),
        owner: draw.array(),
        fresh_s: draw.u32(),
    }
}

fn service_found(draw: &mut Draw<'_>) -> ServiceFound {
    let place = |draw: &mut Draw<'_>| Location {
        server: draw.text(TEXT_MAX),
        address: draw.address(),
        protocol: Protocol::Session,
        key: draw.array(),
    };
    ServiceFound { places: list(draw, place), fresh_s: draw.u32() }
}

fn body(draw: &mut Draw<'_>) -> Body {
    match draw.below(10) {
        0 => Body::Refused(Refused {
            why: draw.pick(&Refusal::ALL),
            retry_after_ms: draw.u32(),
            text: draw.text(TEXT_MAX),
        }),
        1 => Body::Done(Done),
        2 => Body::Created(Created { lease_s: draw.u32() }),
        3 => Body::Endpoint(endpoint_found(draw)),
        4 => Body::Service(service_found(draw)),
        5 => Body::Changed(Changed {
            endpoint: draw.bool().then(|| endpoint_found(draw)),
            service: draw.bool().then(|| service_found(draw)),
        }),
        6 => Body::Announced(Announced {
            lease_s: draw.u32(),
            files_wanted: draw.bool(),
            revoked: list(draw, |draw| Revoked { user: draw.text(64), until: draw.position() }),
            told: told(draw),
        }),
        7 => Body::Challenge(Challenge {
            nonce: draw.array(),
            salt: draw.array(),
            cost: KdfCost::default(),
        }),
        8 => Body::Welcome(Welcome { now: draw.position(), cluster: draw.text(TEXT_MAX) }),
        _ => Body::Located(Located {
            service: name(draw),
            path: draw.bool().then(|| path(draw)),
            size: draw.position(),
            sha256: draw.array(),
            ticket: draw.bytes(6_000),
            life_s: draw.u32(),
            servers: draw.bytes(6_000),
        }),
    }
}
