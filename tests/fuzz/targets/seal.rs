//! Sealed tickets.

use std::sync::LazyLock;

use stp_net::key::{ClusterKey, PublicKey};
use stp_net::seal;

use super::{Draw, bounded};

static CLUSTER: LazyLock<ClusterKey> = LazyLock::new(ClusterKey::generate);

pub fn run(data: &[u8]) {
    LazyLock::force(&CLUSTER);
    let client = PublicKey([7; 32]);
    let opened = bounded(16 * seal::TICKET_MAX, || seal::open(&CLUSTER, data, &client));
    assert!(opened.is_err(), "nobody but the cluster seals");
    let mut draw = Draw::new(data);
    let claims = draw.bytes(300);
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
}
