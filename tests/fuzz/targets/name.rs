//! Names of services in both forms, and other short texts that people write.

use std::str::FromStr;

use stp_lookup::DirectoryAddress;
use stp_net::key::PublicKey;
use stp_proto::lookup::{EndpointName, FilePath, Network, user_is_good};
use stp_proto::name::{NAME_BYTES_MAX, Name};

use super::{Draw, bounded};

pub fn run(data: &[u8]) {
    bounded(0, || Name::is_host(data));
    let text = String::from_utf8_lossy(data);
    // A name is kept once, its host form is written lower-case on the way.
    let memory = 4 * NAME_BYTES_MAX + 4 * text.len().min(NAME_BYTES_MAX + 1);
    if let Ok(name) = bounded(memory, || Name::from_str(&text)) {
        assert_eq!(name.to_string(), *text);
        survives(&name);
    }
    if let Ok(name) = bounded(memory, || Name::from_host(&text)) {
        assert!(Name::is_host(text.as_bytes()));
        survives(&name);
    }
    if let Ok(endpoint) = EndpointName::from_str(&text) {
        assert_eq!(endpoint.as_str(), text);
        let service: Name = format!("x.{endpoint}").parse().expect("with a service before it");
        assert_eq!(EndpointName::of(&service), endpoint);
        assert_eq!(service.domain(), endpoint.domain());
    }
    if let Some(path) = FilePath::new(&text) {
        assert_eq!(path.as_str(), text);
        assert_eq!(path.below("/"), Some(path));
    }
    // Padding does no harm, and nobody writes it.
    same_again::<PublicKey>(text.trim_end_matches('='));
    if let Ok(network) = Network::from_str(&text) {
        let (address, _) = text.split_once('/').expect("a network has a length");
        assert!(network.holds(address.parse().expect("a network has an address")), "{text}");
    }
    if let Ok(place) = DirectoryAddress::from_str(&text) {
        assert_eq!(place.to_string().parse().as_ref(), Ok(&place));
    }
    let _ = user_is_good(&text);
    let mut draw = Draw::new(data);
    let made = Name::new(&draw.label(), &draw.labels(3), &draw.labels(3));
    made.iter().for_each(survives);
}

fn survives(name: &Name) {
    let host = name.to_host();
    assert!(host.len() <= NAME_BYTES_MAX && Name::is_host(host.as_bytes()));
    assert_eq!(Name::from_host(&host).as_ref(), Ok(name));
    assert_eq!(Name::from_host(&format!("{}.", host.to_ascii_uppercase())).as_ref(), Ok(name));
    assert_eq!(Name::from_str(name.as_str()).as_ref(), Ok(name));
    assert_eq!(Name::new(name.service(), name.object(), name.domain()).as_ref(), Ok(name));
}

/// What is read is written as it was.
fn same_again<T: FromStr + ToString>(text: &str) {
    if let Ok(value) = T::from_str(text) {
        assert_eq!(value.to_string(), text);
    }
}
