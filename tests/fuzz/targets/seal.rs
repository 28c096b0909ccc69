//! Sealed tickets, and sealed lists of servers.

use std::sync::LazyLock;

use stp_lookup::sealed;
use stp_net::cluster_key::ClusterKey;
use stp_net::key::PublicKey;
use stp_net::seal;
use stp_proto::lookup::{MESSAGE_MAX, Server};

use super::{Draw, bounded};

static CLUSTER: LazyLock<ClusterKey> = LazyLock::new(ClusterKey::generate);

pub fn run(data: &[u8]) {
    LazyLock::force(&CLUSTER);
    let client = PublicKey([7; 32]);
    let opened = bounded(16 * seal::TICKET_MAX, || seal::open(&CLUSTER, data, &client));
    assert!(opened.is_err(), "nobody but the cluster seals");
    let mut draw = Draw::new(data);
    let claims = format!("{{{}}}", draw.text(300)).into_bytes();
    let mut sealed = seal::seal(&CLUSTER, &claims, &client);
    let opened = seal::open(&CLUSTER, &sealed, &client);
    assert_eq!(opened.as_ref(), Ok(&claims));
    assert!(seal::open(&CLUSTER, &sealed, &PublicKey([8; 32])).is_err());
    // The last character of base64 may hold bits that say nothing; all others matter.
    let at = draw.below(sealed.len() - 1);
    let was = std::mem::replace(&mut sealed[at], draw.u8());
    if sealed[at] != was && sealed.get(at + 1) != Some(&b'.') {
        assert!(seal::open(&CLUSTER, &sealed, &client).is_err(), "altered at {at}");
    }
    sealed.truncate(at);
    assert!(seal::open(&CLUSTER, &sealed, &client).is_err(), "cut at {at}");
    servers(data, &mut draw);
}

/// The gateway's list, which only its user opens, and only with its ticket.
fn servers(data: &[u8], draw: &mut Draw<'_>) {
    let (key, ticket) = (draw.array(), draw.bytes(60));
    let opened = bounded(4 * MESSAGE_MAX, || sealed::open(&key, &ticket, data));
    assert!(opened.is_err(), "nobody but the gateway seals");
    let server = |draw: &mut Draw<'_>| Server {
        name: draw.text(40),
        addresses: vec![draw.address()].into(),
        key: draw.array(),
        hops: draw.u8(),
    };
    let list: Vec<Server> = (0..draw.below(4)).map(|_| server(draw)).collect();
    let mut whole = sealed::seal(&key, &ticket, &list.clone().into()).expect("a short list");
    assert_eq!(sealed::open(&key, &ticket, &whole), Ok(list.into()));
    assert!(sealed::open(&key, &[&ticket[..], b"x"].concat(), &whole).is_err());
    let at = draw.below(whole.len());
    whole[at] ^= 1 << draw.below(8);
    assert!(sealed::open(&key, &ticket, &whole).is_err(), "altered at {at}");
    whole.truncate(at);
    assert!(sealed::open(&key, &ticket, &whole).is_err(), "cut at {at}");
}
