//! Every message comes back as it was; garbage is refused and never more.

use core::net::{IpAddr, SocketAddr};

use super::*;
use crate::name::Name;
use crate::profile::{Profile, Version};

fn name() -> Name {
    "www.web@example.com".parse().unwrap()
}

fn endpoint() -> EndpointName {
    "web@example.com".parse().unwrap()
}

fn path(text: &str) -> FilePath {
    FilePath::new(text).unwrap()
}

fn ips() -> List<IpAddr> {
    vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()].into()
}

fn sockets() -> List<SocketAddr> {
    vec!["192.0.2.1:4433".parse().unwrap(), "[2001:db8::1]:4".parse().unwrap()].into()
}

fn asks() -> Vec<Ask> {
    let service =
        || NewService { name: name(), port: 4433, protocol: Protocol::Session, key: [9; 32] };
    let files: Vec<_> = (0..64)
        .map(|i| FileEntry { path: path(&format!("/a/{i}")), size: i, sha256: [3; 32] })
        .collect();
    vec![
        Ask::NewEndpoint(NewEndpoint { name: endpoint(), addresses: ips(), lease_s: 60 }),
        Ask::ChangeEndpoint(ChangeEndpoint { name: endpoint(), addresses: ips() }),
        Ask::DeleteEndpoint(OneEndpoint { name: endpoint() }),
        Ask::GetEndpoint(OneEndpoint { name: endpoint() }),
        Ask::NewService(service()),
        Ask::ChangeService(ChangeService {
            name: name(),
            port: 1,
            protocol: Protocol::Session,
            key: [1; 32],
        }),
        Ask::DeleteService(OneService { name: name() }),
        Ask::GetService(OneService { name: name() }),
        Ask::Renew(OneEndpoint { name: endpoint() }),
        Ask::Watch(OneName { name: name().to_string(), endpoint: false }),
        Ask::Unwatch(Unwatch { watch: 7 }),
        Ask::Announce(Announce {
            server: "a".into(),
            addresses: sockets(),
            services: vec![name()].into(),
            inventory: [5; 32],
            told: told(),
        }),
        Ask::Files(Files {
            server: "a".into(),
            service: name(),
            first: true,
            last: false,
            inventory: [5; 32],
            files: files.into(),
        }),
        Ask::Login(Login { user: "alice".into() }),
        Ask::Prove(Prove { signature: [4; 64] }),
        Ask::Locate(Locate { service: Some(name()), path: Some(path("/big.iso")), from: 1 << 40 }),
    ]
}

fn told() -> Told {
    let profile = Profile { version: Version([1, 2, 3]), keys: [7, 8, 0] };
    let told = Told::new(&profile, 1_700_000_000_123);
    assert_eq!(told.profile(), profile);
    told
}

fn bodies() -> Vec<Body> {
    let found = || EndpointFound { addresses: ips(), owner: [8; 32], fresh_s: 30 };
    let place = Location {
        server: "a".into(),
        address: "192.0.2.1:4433".parse().unwrap(),
        protocol: Protocol::Session,
        key: [7; 32],
    };
    let service = || ServiceFound { places: vec![place.clone()].into(), fresh_s: 30 };
    let mut bodies = vec![
        Body::Done(Done),
        Body::Created(Created { lease_s: 60 }),
        Body::Endpoint(found()),
        Body::Service(service()),
        Body::Changed(Changed { endpoint: Some(found()), service: None }),
        Body::Changed(Changed { endpoint: None, service: Some(service()) }),
        Body::Announced(Announced {
            lease_s: 30,
            files_wanted: true,
            revoked: vec![Revoked { user: "alice".into(), until: 1_700_000_000 }].into(),
            told: told(),
        }),
        Body::Challenge(Challenge {
            nonce: [1; 32],
            salt: [2; SALT_BYTES],
            cost: KdfCost::default(),
        }),
        Body::Welcome(Welcome { now: 1_700_000_000, cluster: "example".into() }),
        Body::Located(Located {
            service: name(),
            path: Some(path("/x")),
            size: 5,
            sha256: [6; 32],
            ticket: vec![b'v'; BYTES_MAX],
            life_s: 600,
            servers: vec![0xFF; 4_000],
        }),
    ];
    let refused = Refusal::ALL.iter().map(|why| Body::refused(*why, why.to_string()));
    bodies.extend(refused);
    bodies
}

#[test]
fn every_request_comes_back_as_it_was() {
    for (id, ask) in asks().into_iter().enumerate() {
        let request = Request { id: id as u32, ask };
        assert_eq!(Request::decode(&request.encode().unwrap()), Ok(request));
    }
}

#[test]
fn every_answer_comes_back_as_it_was() {
    for (id, body) in bodies().into_iter().enumerate() {
        let answer = Answer { id: id as u32, body };
        assert_eq!(Answer::decode(&answer.encode().unwrap()), Ok(answer));
    }
}

#[test]
fn a_cut_message_is_refused_at_every_byte_and_a_longer_one_too() {
    for ask in asks() {
        let bytes = Request { id: 1, ask }.encode().unwrap();
        for length in 0..bytes.len() {
            assert!(Request::decode(&bytes[..length]).is_err());
        }
        let longer = [&bytes[..], &[0]].concat();
        assert_eq!(Request::decode(&longer), Err(MessageError::Trailing(1)));
    }
}

#[test]
fn garbage_is_never_more_than_refused() {
    let mut state = 0x9E37_79B9_7F4A_7C15_u64;
    let mut next = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let seeds: Vec<Vec<u8>> = asks()
        .into_iter()
        .map(|ask| Request { id: 1, ask }.encode().unwrap())
        .chain(bodies().into_iter().map(|body| Answer { id: 1, body }.encode().unwrap()))
        .collect();
    for round in 0..60_000 {
        let mut bytes = seeds[round % seeds.len()].clone();
        for _ in 0..1 + next() % 4 {
            let at = next() as usize % bytes.len();
            bytes[at] = next() as u8;
        }
        // What is accepted can be said again.
        if let Ok(request) = Request::decode(&bytes) {
            assert_eq!(Request::decode(&request.encode().unwrap()), Ok(request));
        }
        if let Ok(answer) = Answer::decode(&bytes) {
            assert_eq!(Answer::decode(&answer.encode().unwrap()), Ok(answer));
        }
    }
    assert_eq!(Request::decode(&[0; 8]), Err(MessageError::Version(0)));
    let huge = vec![0xD1; MESSAGE_MAX + 1];
    assert_eq!(Request::decode(&huge), Err(MessageError::TooLong(MESSAGE_MAX + 1)));
}

#[test]
fn what_the_types_do_not_say_is_checked() {
    let refused = |ask: Ask| Request::decode(&Request { id: 1, ask }.encode().unwrap());
    let none =
        Ask::NewEndpoint(NewEndpoint { name: endpoint(), addresses: List(vec![]), lease_s: 0 });
    assert_eq!(refused(none), Err(MessageError::BadValue("addresses")));
    let user = Ask::Login(Login { user: "Robert'); DROP TABLE".into() });
    assert_eq!(refused(user), Err(MessageError::BadValue("user")));
    let nothing = Ask::Locate(Locate { service: None, path: None, from: 0 });
    assert_eq!(refused(nothing), Err(MessageError::BadValue("path")));
    let weak = Body::Challenge(Challenge {
        nonce: [0; 32],
        salt: [0; SALT_BYTES],
        cost: KdfCost { memory_kib: 8, passes: 1, lanes: 1 },
    });
    let bytes = Answer { id: 1, body: weak }.encode().unwrap();
    assert_eq!(Answer::decode(&bytes), Err(MessageError::BadValue("cost")));
}

#[test]
fn a_path_that_leaves_its_tree_is_none() {
    for bad in ["", "a", "/", "//a", "/a//b", "/a/../b", "/..", "/./a", "/a/", "/a\n"] {
        assert_eq!(FilePath::new(bad), None, "{bad:?}");
    }
    assert_eq!(path("/a/b").below("/home/alice").unwrap().as_str(), "/home/alice/a/b");
    assert_eq!(path("/a/b").below("/").unwrap().as_str(), "/a/b");
    assert_eq!(FilePath::new(&format!("/{}", "a".repeat(PATH_MAX))), None);
}

mod grants {
    use super::*;
    use crate::scope::Scope;

    const NOW: u64 = 1_700_000_000;

    fn grant() -> Grant {
        let what = GrantFor {
            audience: "example",
            user: "alice",
            service: "file.web@example.com",
            scope: Some(Scope::Path("/big.iso".into())),
            byte: 5,
            client: &[7; 32],
            address: None,
        };
        Grant::new(&what, [1; 16], (NOW, 600))
    }

    fn check(
        grant: &Grant,
        audience: &str,
        service: &str,
        client: u8,
        now: u64,
    ) -> Result<(), GrantError> {
        grant.check(audience, service, (&[client; 32], "192.0.2.1".parse().unwrap()), now)
    }

    #[test]
    fn a_grant_comes_back_as_it_was_and_is_small() {
        let bytes = grant().encode();
        assert!(bytes.len() < 400, "{}", bytes.len());
        assert_eq!(Grant::decode(&bytes), Ok(grant()));
        let other = String::from_utf8(bytes).unwrap().replace("grant/1", "grant/2");
        assert!(matches!(Grant::decode(other.as_bytes()), Err(GrantError::Malformed(_))));
        let more = other.replace("grant/2", "grant/1").replace("{", "{\"x\":1,");
        assert!(matches!(Grant::decode(more.as_bytes()), Err(GrantError::Malformed(_))));
    }

    #[test]
    fn a_grant_serves_only_whom_and_what_it_was_made_for() {
        let service = "file.web@example.com";
        assert_eq!(check(&grant(), "example", service, 7, NOW), Ok(()));
        for (audience, service, client, what) in [
            ("other", service, 7, "cluster"),
            ("example", "www.web@example.com", 7, "service"),
            ("example", service, 8, "client"),
        ] {
            let refused = check(&grant(), audience, service, client, NOW);
            assert_eq!(refused, Err(GrantError::Foreign(what)));
        }
        let granted = grant().granted();
        assert_eq!((granted.user.as_str(), granted.at), ("alice", NOW));
        assert_eq!(granted.scope, Some(Scope::Path("/big.iso".into())));
        let mut bound = grant();
        bound.address = Some("192.0.2.9".parse().unwrap());
        let refused = check(&bound, "example", service, 7, NOW);
        assert_eq!(refused, Err(GrantError::Foreign("address")));
    }

    #[test]
    fn clocks_may_differ_by_the_leeway_and_no_more() {
        let at = |now| check(&grant(), "example", "file.web@example.com", 7, now);
        assert_eq!(at(NOW - 120), Ok(()));
        assert_eq!(at(NOW - 121), Err(GrantError::Future(121)));
        assert_eq!(at(NOW + 720), Ok(()));
        assert_eq!(at(NOW + 721), Err(GrantError::Expired(121)));
    }
}
