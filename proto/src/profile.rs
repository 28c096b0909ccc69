//! What servers say of themselves, and what is to be said of servers that do not fit together: a
//! session moves between two of them only if each opens the tickets that the other seals.

use std::fmt;

/// How many key ids a profile has room for. While a key is changed, a file holds the new one, the
/// one before and, for a moment, one that is made known early.
pub const KEYS: usize = 3;

/// What a server says of itself to whoever asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Profile {
    /// Its version.
    pub version: Version,
    /// Ids of its cluster keys, 0 for none: the first seals tickets, all of them open.
    pub keys: [u32; KEYS],
}

/// The first three numbers of a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Version(pub [u8; 3]);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.0;
        write!(f, "{major}.{minor}.{patch}")
    }
}

impl Version {
    /// The version of this workspace.
    #[must_use]
    pub fn ours() -> Version {
        let mut parts = env!("CARGO_PKG_VERSION").split(['.', '-']).map(str::parse);
        Version(std::array::from_fn(|_| parts.next().and_then(Result::ok).unwrap_or(0)))
    }

    /// What may not differ between servers of one service.
    fn release(self) -> [u8; 2] {
        [self.0[0], self.0[1]]
    }
}

impl Profile {
    /// The id of the key that seals its tickets; none outside of a cluster.
    fn seals(&self) -> Option<u32> {
        Some(self.keys[0]).filter(|id| *id != 0)
    }

    /// Whether it opens what this key seals. A server whose keys fill the profile may have more.
    fn opens(&self, id: u32) -> bool {
        self.keys.contains(&id) || !self.keys.contains(&0)
    }
}

/// A server's name and what it says of itself.
pub type Seen = (String, Profile);

/// What to tell the person who runs the servers of one service: at most one line about the cluster
/// key of each, and one about its version.
#[must_use]
pub fn warnings(seen: &[Seen]) -> Vec<String> {
    seen.iter().filter_map(|one| of_key(one, seen)).chain(of_versions(seen)).collect()
}

/// The server whose key most of them seal with, the first of them if that is no single one.
fn usual(seen: &[Seen]) -> Option<(&Seen, u32)> {
    let count = |id| seen.iter().filter(|(_, other)| other.seals() == Some(id)).count();
    let sealing = seen.iter().filter_map(|one| one.1.seals().map(|id| (one, id)));
    // The last of equals would be taken otherwise.
    sealing.rev().max_by_key(|(_, id)| count(*id))
}

fn of_key((name, profile): &Seen, seen: &[Seen]) -> Option<String> {
    let ((model, _), id) = usual(seen)?;
    if profile.seals().is_none() {
        return Some(format!(
            "{name} is in no cluster, and {model} is: no session goes on from one at the other; \
             set cluster and cluster_key_file of {name} as {model} has them"
        ));
    }
    if !profile.opens(id) {
        return Some(format!(
            "{name} has another cluster key than {model}: no session goes on from one at the \
             other; copy the cluster_key_file of {model} to {name}"
        ));
    }
    // A new key was put first at one server before the others knew it.
    let unknown = seen.iter().find_map(|(other, theirs)| {
        let sealing = theirs.seals().filter(|_| theirs.opens(id))?;
        (!profile.opens(sealing)).then_some(other)
    })?;
    Some(format!(
        "{name} does not know the cluster key with which {unknown} seals now: copy the \
         cluster_key_file of {unknown} to {name}"
    ))
}

fn of_versions(seen: &[Seen]) -> Option<String> {
    let (oldest, newest) = (
        seen.iter().min_by_key(|(_, profile)| profile.version)?,
        seen.iter().max_by_key(|(_, profile)| profile.version)?,
    );
    (oldest.1.version.release() != newest.1.version.release()).then(|| {
        format!(
            "{} runs version {}, and {} runs {}: sessions may not go on from one at the other; \
             bring them to the same version",
            oldest.0, oldest.1.version, newest.0, newest.1.version
        )
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(servers: &[(&str, [u32; KEYS])]) -> Vec<Seen> {
        let version = Version([1, 2, 3]);
        let one = |(name, keys): &(&str, _)| ((*name).to_owned(), Profile { version, keys: *keys });
        servers.iter().map(one).collect()
    }

    #[test]
    fn servers_with_one_key_are_not_worth_a_word() {
        assert!(warnings(&[]).is_empty());
        assert!(warnings(&seen(&[("a", [0; 3]), ("b", [0; 3])])).is_empty());
        assert!(warnings(&seen(&[("a", [1, 0, 0])])).is_empty());
        assert!(warnings(&seen(&[("a", [1, 0, 0]), ("b", [1, 0, 0])])).is_empty());
    }

    #[test]
    fn the_server_whose_key_differs_is_named_once() {
        let said = warnings(&seen(&[("a", [1, 0, 0]), ("b", [2, 0, 0])]));
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].starts_with("b has another cluster key than a: "), "{said:?}");
        let said = warnings(&seen(&[("a", [2, 0, 0]), ("b", [1, 0, 0]), ("c", [1, 0, 0])]));
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].starts_with("a has another cluster key than b: "), "{said:?}");
        let said = warnings(&seen(&[("a", [0; 3]), ("b", [1, 0, 0])]));
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].starts_with("a is in no cluster, and b is"), "{said:?}");
    }

    /// Each of the three steps in which a key is changed is silent; a step too early is not.
    #[test]
    fn a_key_that_is_changed_step_by_step_is_not_worth_a_word() {
        let known = seen(&[("a", [1, 2, 0]), ("b", [1, 0, 0])]);
        let sealing = seen(&[("a", [2, 1, 0]), ("b", [1, 2, 0])]);
        let forgotten = seen(&[("a", [2, 0, 0]), ("b", [2, 1, 0])]);
        for step in [&known, &sealing, &forgotten] {
            assert!(warnings(step).is_empty(), "{step:?}");
        }
        let said = warnings(&seen(&[("a", [2, 1, 0]), ("b", [1, 0, 0]), ("c", [1, 0, 0])]));
        assert_eq!(said.len(), 2, "{said:?}");
        assert!(said[0].starts_with("b does not know the cluster key with which a seals"));
        assert!(warnings(&seen(&[("a", [9, 0, 0]), ("b", [1, 2, 3])])).len() <= 1, "b may have it");
    }

    #[test]
    fn versions_may_differ_in_their_last_number_only() {
        let at = |name: &str, version| {
            (name.to_owned(), Profile { version: Version(version), ..Profile::default() })
        };
        assert!(warnings(&[at("a", [1, 2, 3]), at("b", [1, 2, 9])]).is_empty());
        let said = warnings(&[at("a", [1, 3, 0]), at("b", [1, 2, 9])]);
        assert_eq!(said.len(), 1, "{said:?}");
        assert!(said[0].starts_with("b runs version 1.2.9, and a runs 1.3.0"), "{said:?}");
        assert_eq!(Version::ours().to_string(), env!("CARGO_PKG_VERSION"));
    }
}
