//! A panic in any decision of the shim leaves the program running, with what the real calls give.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::process::Command;

use crate::bed::{Bed, Said, faulty_library, run};
use crate::probe::compiled;
use crate::relay::Rules;

/// Topics of the probes in which every decision is met, without those that take long.
const TOPICS: [(&str, &str); 17] = [
    ("probe", "names"),
    ("probe", "basics"),
    ("probe", "again"),
    ("probe", "options"),
    ("probe", "nonblocking"),
    ("probe", "refused"),
    ("probe", "ends"),
    ("probe", "aborts"),
    ("probe", "hosts"),
    ("probe", "fast_open"),
    ("probe", "waits"),
    ("process", "truncations"),
    ("process", "elsewhere"),
    ("process", "strays"),
    ("process", "aware"),
    ("clock", "deadlines"),
    ("clock", "alarms"),
];

/// How often a topic is played at most until a decision in it is met.
const ROUNDS: usize = 10;

fn faulted(bed: &Bed, (probe, topic): (&str, &str), wish: &str, log: &str) -> Said {
    let mut command = bed.shimmed(bed.path().join(probe).to_str().expect("a temporary path"));
    command.env("LD_PRELOAD", faulty_library()).args([topic, "5"]);
    run(command.env("SESSION_FAULT", wish).env("SESSION_FAULT_LOG", bed.path().join(log)))
}

/// A bed with the probes in it.
fn with_probes() -> Bed {
    let mut rules = Rules { stops_clock: true, ..Rules::loopback() };
    rules.hosts.push(("localhost".to_owned(), IpAddr::V4(Ipv4Addr::LOCALHOST)));
    let bed = Bed::new(rules);
    for probe in ["probe", "process", "clock"] {
        compiled(&bed, probe);
    }
    bed
}

#[test]
fn with_a_panic_in_every_decision_a_program_is_as_without_the_shim() {
    let bed = with_probes();
    for topic @ (probe, name) in TOPICS {
        let bare = run(Command::new(bed.path().join(probe)).arg(name));
        let said = faulted(&bed, topic, "before all", "all");
        assert_eq!((said.code, &said.out), (Some(0), &bare.out), "{name}");
        assert_eq!(said.err, "", "{name}: nothing on the program's stderr");
    }
    let met = fs::read_to_string(bed.path().join("all")).expect("a log");
    assert!(met.contains("shim/src/hooks/connect.rs"), "panics were wished for: {met}");
}

#[test]
fn a_panic_in_any_one_decision_leaves_the_program_running() {
    let bed = with_probes();
    let mut topic_of = BTreeMap::new();
    // Whether a reset is met by a read or by a send depends on the moment.
    for _ in 0..ROUNDS {
        for topic in TOPICS {
            let said = faulted(&bed, topic, "", topic.1);
            assert_eq!(said.code, Some(0), "{topic:?} without a fault");
            for site in logged(&bed, topic.1) {
                topic_of.entry(site).or_insert(topic);
            }
        }
        let met: BTreeSet<_> = topic_of.keys().map(|site| plain(site)).collect();
        if decisions().is_subset(&met) {
            break;
        }
    }
    for (site, topic) in topic_of {
        for when in ["before", "after"] {
            let strikes = || logged(&bed, "one").iter().filter(|one| **one == site).count();
            let before = strikes();
            for _ in 0..ROUNDS {
                let said = faulted(&bed, topic, &format!("{when} {site}"), "one");
                // With one hook gone the probe may wait for bytes that it could not send, until its
                // own alarm rings.
                let runs = said.code == Some(0) || said.signal == Some(libc::SIGALRM);
                assert!(runs, "{when} {site} in {topic:?}: {said:?}");
                if strikes() > before {
                    break;
                }
            }
        }
    }
    let met: BTreeSet<_> = logged(&bed, "one").iter().map(|site| plain(site)).collect();
    assert_eq!(decisions().difference(&met).collect::<Vec<_>>(), Vec::<&String>::new());
}

/// The sites that a log names; none if nothing was logged.
fn logged(bed: &Bed, log: &str) -> Vec<String> {
    let text = fs::read_to_string(bed.path().join(log)).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}

/// A site as [`decisions`] names it.
fn plain(site: &str) -> String {
    site.replace("tests/../", "")
}

/// Every place of the source that decides something.
fn decisions() -> BTreeSet<String> {
    let shim = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shim/src");
    let mut found = BTreeSet::new();
    for (dir, name) in [(shim.join("hooks"), "hooks/"), (shim, "")] {
        for file in fs::read_dir(dir).expect("the shim's source") {
            let path = file.expect("an entry").path();
            if path.extension().is_none_or(|extension| extension != "rs") {
                continue;
            }
            let file = path.file_name().expect("a file").to_string_lossy().into_owned();
            let text = fs::read_to_string(&path).expect("a source file");
            for (line, text) in (1..).zip(text.lines()) {
                // The guard's own, not a decision of `ops` that is made under it.
                let guarded = |at: usize| {
                    let front = &text[..at];
                    front.ends_with("guard::") || !front.ends_with("::")
                };
                let calls = text.match_indices("decide(").any(|(at, _)| guarded(at))
                    && !text.contains("fn decide");
                if calls && !text.trim_start().starts_with("//") {
                    found.insert(format!("shim/src/{name}{file}:{line}"));
                }
            }
        }
    }
    found
}
