//! The claims of tickets: those of a session, and those of a gateway.

use std::net::IpAddr;

use stp_proto::lookup::{FilePath, GRANT_MAX, Grant, GrantFor};
use stp_proto::replay::{Exchange, http};
use stp_proto::scope::Scope;
use stp_proto::ticket::{CLAIMS_MAX, Claims, Holder};

use super::{Draw, bounded};

pub fn run(data: &[u8]) {
    // The text once more in pieces, and the messages of errors.
    if let Ok(claims) = bounded(4 * CLAIMS_MAX + 4_096, || Claims::decode(data)) {
        survives(&claims);
        let holder = Holder {
            audience: claims.audience.clone(),
            service: claims.service.clone(),
            client: claims.client,
            handle: claims.handle,
        };
        let positions = (claims.down, claims.up);
        let accepted = claims.check(&holder, claims.issued, positions);
        assert!(accepted.is_ok() || claims.expires < claims.issued, "{accepted:?}");
        let _ = claims.check(&holder, u64::MAX, (0, u64::MAX));
    }
    if let Ok(grant) = bounded(4 * GRANT_MAX + 4_096, || Grant::decode(data)) {
        let again = Grant::decode(&grant.encode());
        assert!(again.as_ref() == Ok(&grant) || grant.encode().len() > GRANT_MAX, "{again:?}");
    }
    let mut draw = Draw::new(data);
    let holder = Holder {
        audience: draw.text(40),
        service: draw.text(255),
        client: draw.array(),
        handle: draw.handle(),
    };
    let exchange = exchange(&mut draw);
    let (id, now, life) = (draw.handle(), draw.position(), draw.position());
    let (up, down) = (draw.position(), draw.position());
    survives(&Claims::new(&holder, id, (now, life), (up, down), exchange));
    grant(&mut draw);
}

fn survives(claims: &Claims) {
    // Claims that are too long are not made into a ticket.
    let Ok(bytes) = claims.encode() else { return };
    let again = Claims::decode(&bytes);
    assert_eq!(again.as_ref(), Ok(claims));
    assert_eq!(again.expect("equal to good ones").encode(), Ok(bytes));
}

fn exchange(draw: &mut Draw<'_>) -> Exchange {
    if draw.bool() {
        return Exchange::Http(http::Exchange::Idle { close: draw.bool() });
    }
    let (request, response) = (draw.bytes(2_000), draw.bytes(2_000));
    let (head_at, chunks) = (draw.position(), draw.bool().then(|| base(draw)));
    let shortened = draw.bool();
    Exchange::Http(http::Exchange::Response { request, response, head_at, shortened, chunks })
}

fn base(draw: &mut Draw<'_>) -> http::Base {
    let (at, body) = (draw.position(), draw.position());
    let half = |draw: &mut Draw<'_>| u128::from_be_bytes(draw.array());
    let digest = (half(draw), half(draw), draw.array());
    http::Base { at, body, first: draw.u32(), digest }
}

fn grant(draw: &mut Draw<'_>) {
    let path = FilePath::new(&format!("/{}", draw.text(200)));
    let path = path.map(|path| path.as_str().to_owned());
    let scope = if draw.bool() { path.map(Scope::Path) } else { path.map(Scope::Tree) };
    if let Some(scope) = &scope {
        let _any_answer_will_do = scope.allows(&draw.bytes(2_000));
    }
    let (audience, user, service) = (draw.text(40), draw.text(64), draw.text(255));
    let client = draw.array();
    let address: Option<IpAddr> = draw.bool().then(|| draw.ip());
    let what = GrantFor {
        audience: &audience,
        user: &user,
        service: &service,
        scope,
        byte: 7,
        client: &client,
        address,
    };
    let now = draw.position();
    let grant = Grant::new(&what, draw.array(), (now, 600));
    if grant.encode().len() > GRANT_MAX {
        return;
    }
    assert_eq!(Grant::decode(&grant.encode()).as_ref(), Ok(&grant));
    let from = address.unwrap_or([127, 0, 0, 1].into());
    assert_eq!(grant.check(&audience, &service, (&client, from), now), Ok(()));
}
