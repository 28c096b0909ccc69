//! Every numbered rule of proto/PROTOCOL.md is cited in the code and in a test, and every number
//! that is cited is a rule.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Where rules are kept, and where it is shown.
const FOLDERS: [&str; 12] = [
    "proto/src",
    "net/src",
    "drive/src",
    "broker/src",
    "server/src",
    "server/tests",
    "tls/src",
    "tests/lab",
    "tests/ftp",
    "tests/http",
    "tests/names",
    "tests/simulation",
];

fn root() -> PathBuf {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    tests.parent().expect("it is a folder of this repository").to_owned()
}

/// The rules: paragraphs that begin with a number in bold type.
fn rules() -> BTreeSet<u32> {
    let text = std::fs::read_to_string(root().join("proto/PROTOCOL.md")).expect("it is there");
    let heads = text.lines().filter_map(|line| line.strip_prefix("**R")?.split_once("**"));
    heads.filter_map(|(number, _)| number.parse().ok()).collect()
}

/// Rust files below `path`.
fn sources(path: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(path).expect("a folder of this repository").flatten() {
        let path = entry.path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

/// Rules cited in comments: `R20`, `R20, R23`, `R20-R24`.
fn cited(text: &str, rules: &BTreeSet<u32>, into: &mut BTreeSet<u32>) {
    for comment in text.lines().filter_map(|line| line.split_once("//").map(|(_, comment)| comment))
    {
        let words = comment.split(|c: char| !(c.is_ascii_alphanumeric() || c == '-' || c == '–'));
        for word in words {
            let number = |word: &str| word.strip_prefix('R')?.parse::<u32>().ok();
            if let Some(one) = number(word) {
                into.insert(one);
            } else if let Some((from, to)) = word.split_once(['-', '–'])
                && let (Some(from), Some(to)) = (number(from), number(to))
            {
                into.extend(rules.range(from..=to));
            }
        }
    }
}

#[test]
fn every_rule_is_cited_in_code_and_in_a_test() {
    let rules = rules();
    assert!(rules.len() > 30, "the rules are found");
    let mut places: BTreeMap<bool, BTreeSet<u32>> = BTreeMap::new();
    let mut files = Vec::new();
    for folder in FOLDERS {
        sources(&root().join(folder), &mut files);
    }
    for file in files {
        let name = file.strip_prefix(root()).expect("it is below").to_string_lossy();
        let is_test = name.contains("tests/") || name.ends_with("tests.rs");
        let text = std::fs::read_to_string(&file).expect("just listed");
        // Unit tests at the bottom of a file.
        let (code, tests) = text.split_once("#[cfg(test)]\nmod tests {").unwrap_or((&text, ""));
        cited(code, &rules, places.entry(is_test).or_default());
        cited(tests, &rules, places.entry(true).or_default());
    }
    let (code, tests) = (&places[&false], &places[&true]);
    let missing = |cited: &BTreeSet<u32>| rules.difference(cited).copied().collect::<Vec<_>>();
    let unknown: Vec<u32> =
        code.union(tests).filter(|rule| !rules.contains(rule)).copied().collect();
    assert_eq!(missing(code), [0; 0], "rules that no code cites");
    assert_eq!(missing(tests), [0; 0], "rules that no test cites");
    assert_eq!(unknown, [0; 0], "cited, but no rule");
}
