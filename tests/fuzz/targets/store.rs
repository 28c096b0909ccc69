//! The records that a directory may find in a store that others write to as well: any key and any
//! value.

use std::net::IpAddr;

use stp_sns::record::{Announced, Endpoint, Service, json};
use stp_sns::store::{Applied, Sink};
use stp_sns::tables::Tables;

use super::Draw;

const FRONTS: [&str; 10] =
    ["ep/", "sv/", "up/", "srv/", "inv/", "invp/", "user/", "secret/", "", "x/"];

pub fn run(data: &[u8]) {
    let mut lines = data.splitn(8, |byte| *byte == b'\n');
    let tables = Tables::default();
    while let (Some(key), Some(value)) = (lines.next(), lines.next()) {
        put(&tables, &String::from_utf8_lossy(key), value.to_vec());
    }
    let mut draw = Draw::new(data);
    let mut keys = Vec::new();
    for _ in 0..draw.below(6) {
        let front = draw.pick(&FRONTS);
        let names = [draw.label(), draw.label(), draw.below(3).to_string()];
        let key = format!("{front}{}", names[..=draw.below(3)].join(draw.pick(&["/", "@", "."])));
        let value = value(&mut draw);
        put(&tables, &key, value);
        keys.push(key);
    }
    tables.read(|held| {
        let offered: usize = held.offered.values().map(std::collections::BTreeSet::len).sum();
        let told: usize = held.announced.values().map(|one| one.value.services.len()).sum();
        assert!(offered <= told && held.offered.values().all(|servers| !servers.is_empty()));
        let owned: u32 = held.owned.values().sum();
        assert_eq!(owned as usize, held.endpoints.len(), "every endpoint has one owner");
        held.offered.keys().for_each(|name| drop(held.holders(|one| one == &**name, "/f")));
    });
    // What is deleted is gone, in whatever order.
    for key in keys {
        tables.apply(vec![Applied::Gone(key.clone()), Applied::Gone(key)]);
    }
    tables.reset(Vec::new());
    tables.read(|held| assert!(held.endpoints.is_empty() && held.offered.is_empty()));
}

fn put(tables: &Tables, key: &str, value: Vec<u8>) {
    let version = value.len() as u64;
    tables.apply(vec![Applied::Put { key: key.to_owned(), value, version }]);
}

/// A good value of some kind, or none.
fn value(draw: &mut Draw<'_>) -> Vec<u8> {
    let key = stp_net::key::PublicKey(draw.array());
    match draw.below(4) {
        0 => {
            let addresses: Vec<IpAddr> = (0..draw.below(4)).map(|_| draw.ip()).collect();
            json(&Endpoint { owner: key, addresses, lease_s: draw.u32() })
        }
        1 => json(&Service { port: draw.u16(), key }),
        2 => {
            let addresses = (0..draw.below(4)).map(|_| draw.address()).collect();
            let services = (0..draw.below(4)).map(|_| draw.labels(2)).collect();
            json(&Announced { key, addresses, services, told: (draw.array(), [draw.u32(); 3]) })
        }
        _ => draw.bytes(200),
    }
}
