//! This machine's own list of names, `/etc/hosts`: what stands there is resolved here, also where a
//! route leads every name to a far end.

/// Whether this (normalised) name stands in the list.
pub fn has(name: &str) -> bool {
    std::fs::read_to_string("/etc/hosts").is_ok_and(|text| lists(&text, name))
}

fn lists(text: &str, name: &str) -> bool {
    let lines = text.lines().map(|line| line.split('#').next().unwrap_or_default());
    lines
        .flat_map(|line| line.split_whitespace().skip(1))
        .any(|one| one.strip_suffix('.').unwrap_or(one).eq_ignore_ascii_case(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_aliases_are_listed_comments_and_addresses_are_not() {
        let text = "127.0.0.1 localhost\n127.0.1.1\tLaptop.home laptop # old: desk\n# x y\n::1 l6";
        for name in ["localhost", "laptop.home", "laptop", "l6"] {
            assert!(lists(text, name), "{name}");
        }
        for name in ["127.0.0.1", "desk", "old:", "y", "home", ""] {
            assert!(!lists(text, name), "{name}");
        }
    }
}
