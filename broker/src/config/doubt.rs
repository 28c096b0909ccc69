//! What is not wrong in a configuration, and probably not meant.

use std::collections::BTreeMap;

use super::Config;

/// What `--check` warns of.
#[must_use]
pub fn doubts(config: &Config) -> Vec<String> {
    let mut names: BTreeMap<_, Vec<&str>> = BTreeMap::new();
    let mut doubts = Vec::new();
    for service in &config.services {
        for server in &service.servers {
            let known = names.entry(server.key.0).or_default();
            let name = server.name.as_deref().unwrap_or_default();
            if !name.is_empty() && !known.contains(&name) {
                known.push(name);
            }
        }
        if service.servers.len() == 1 && service.direct.is_none() && !service.egress {
            doubts.push(format!(
                "service \"{}\" has one server: when that dies nobody can continue its sessions",
                service.name
            ));
        }
    }
    for names in names.values().filter(|names| names.len() > 1) {
        doubts.push(format!(
            "one key under {} names ({}): each server has a key of its own, which `stp-server \
             --print-key` prints there",
            names.len(),
            names.join(", ")
        ));
    }
    let routed = |place: usize| config.routes.iter().any(|route| route.service == place);
    for (place, service) in config.services.iter().enumerate() {
        if !routed(place) {
            doubts.push(format!("no route leads to service \"{}\"", service.name));
        }
    }
    doubts
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn of(text: &str) -> Vec<String> {
        doubts(&super::super::parse(Path::new("b.toml"), text).expect("it is right"))
    }

    const KEY: &str = "ed25519:11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo";

    #[test]
    fn one_key_under_two_names_a_single_server_and_a_service_without_a_route_are_told() {
        let server = |name: &str, port: u16| {
            let (address, name) = (format!("192.0.2.1:{port}"), format!("{name:?}"));
            format!("[[service.server]]\naddress = \"{address}\"\nkey = \"{KEY}\"\nname = {name}\n")
        };
        let service = "[[service]]\nname = \"www.m@e.org\"\n";
        let route = "[[route]]\nto = \"m.e.org:80\"\nservice = \"www.m@e.org\"\n";
        let two = of(&format!("{service}{}{}{route}", server("a", 1), server("b", 2)));
        assert_eq!(two.len(), 1);
        assert!(two[0].contains("(a, b)"), "{two:?}");
        let one = of(&format!("{service}{}", server("a", 1)));
        assert_eq!(one.len(), 2);
        assert!(one[0].contains("one server") && one[1].contains("no route"), "{one:?}");
        assert!(of(super::super::DEFAULT).is_empty());
    }
}
