//! `session doctor` about real programs of every kind.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use serde_json::Value;

use crate::bed::{Bed, Said, library, run, session_program};

const NOTHING: &str = "int main(void) { return 0; }";

fn doctor(bed: &Bed, words: &[&str]) -> Said {
    let mut session = Command::new(session_program());
    session.env("SESSION_LIB", library()).env("SESSION_DIR", bed.session_dir());
    run(session.env_remove("LD_PRELOAD").arg("doctor").args(words).current_dir(bed.path()))
}

/// Exit code, and the kind of obstacle.
fn found(bed: &Bed, words: &[&str]) -> (Option<i32>, String) {
    let said = doctor(bed, &[&["--json"], words].concat());
    let json: Value = serde_json::from_str(&said.out).unwrap_or_default();
    (said.code, json["obstacle"]["kind"].as_str().unwrap_or_default().to_owned())
}

#[test]
fn programs_of_every_kind_are_told_apart() {
    let bed = Bed::loopback();
    let path = |name: &str| bed.path().join(name).to_str().expect("a path").to_owned();
    bed.compile("fine", NOTHING, &[]);
    bed.compile("static", NOTHING, &["-static"]);
    bed.compile("musl", NOTHING, &["musl"]);
    bed.compile(
        "go",
        "char mark[] __attribute__((section(\".go.buildinfo\"))) = \"x\"; int \
        main(void) { return 0; }",
        &[],
    );
    bed.compile("libgone.so", "int gone(void) { return 0; }", &["-shared"]);
    bed.compile("needy", "int gone(void); int main(void) { return gone(); }", &["libgone.so"]);
    fs::remove_file(path("libgone.so")).unwrap();
    fs::write(path("script"), format!("#!/usr/bin/env -S {}\n", path("static"))).unwrap();
    fs::write(path("scrubber"), "#!/bin/sh\nexec env -i true\n").unwrap();
    fs::write(path("text"), "no program\n").unwrap();
    for script in ["script", "scrubber", "text"] {
        fs::set_permissions(path(script), fs::Permissions::from_mode(0o755)).unwrap();
    }
    for (words, code, kind) in [
        (vec![path("fine")], 0, ""),
        (vec!["curl".into(), "-O".into()], 0, ""),
        (vec![path("static")], 1, "static"),
        (vec![path("musl")], 1, "musl"),
        (vec![path("go")], 1, "go"),
        (vec![path("needy")], 1, "missing libraries"),
        (vec![path("script")], 1, "static"),
        (vec![path("text")], 1, "no program"),
        (vec!["env".into(), "A=b".into(), path("static")], 1, "static"),
        (vec!["env".into(), "-i".into(), path("fine")], 1, "elsewhere"),
        (vec![path("nothing")], 125, ""),
    ] {
        let words: Vec<&str> = words.iter().map(String::as_str).collect();
        assert_eq!(found(&bed, &words), (Some(code), kind.to_owned()), "{words:?}");
    }
    let said = doctor(&bed, &[&path("needy")]);
    assert!(said.out.contains("libgone.so") && said.out.contains("advice"), "{}", said.out);
    let said = doctor(&bed, &[&path("scrubber")]);
    assert!(said.code == Some(0) && said.out.contains("\"env -i\""), "{}", said.out);
}

#[test]
fn rights_that_keep_the_shim_out_are_seen() {
    let bed = Bed::loopback();
    if !nix::unistd::geteuid().is_root() {
        return;
    }
    let program = bed.compile("fine", NOTHING, &[]);
    let text = program.to_str().expect("a path");
    // The kernel's form of cap_net_bind_service+ep.
    let capability = format!(
        "import os; os.setxattr('{text}', 'security.capability', \
         bytes([1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]))"
    );
    let set = run(Command::new("/usr/bin/python3").args(["-c", &capability]));
    assert_eq!(set.code, Some(0), "{}", set.err);
    assert_eq!(found(&bed, &[text]), (Some(1), "capabilities".to_owned()));
    let other = bed.compile("setuid", NOTHING, &[]);
    std::os::unix::fs::chown(&other, Some(65_534), None).unwrap();
    fs::set_permissions(&other, fs::Permissions::from_mode(0o4755)).unwrap();
    let setuid = other.to_str().expect("a path");
    assert_eq!(found(&bed, &[setuid]), (Some(1), "setuid".to_owned()));
}

#[test]
fn hosts_among_the_arguments_are_looked_up_in_the_routes() {
    let bed = Bed::loopback();
    for (word, code, says) in [
        ("http://mirror.test:2000/", 0, "mirror.test port 2000: by a session"),
        ("http://mirror.test/", 3, "mirror.test port 80: directly"),
        ("127.0.0.1:80", 0, "127.0.0.1 is this machine, and routed"),
        ("192.0.2.1", 0, "192.0.2.1: by a session"),
        ("me@127.77.0.1:file", 3, "no route leads to 127.77.0.1"),
        ("www.web.at.example.com.stp", 0, "by a session"),
    ] {
        // Only to ssh and its kin is the word before an @ a user.
        let program = if word.contains('@') { "scp" } else { "curl" };
        let said = doctor(&bed, &[program, word]);
        assert!(said.code == Some(code) && said.out.contains(says), "{word}: {said:?}");
    }
    let mut absent = Command::new(session_program());
    absent.env("SESSION_LIB", library()).env("SESSION_DIR", "/nonexistent");
    let said = run(absent.args(["doctor", "curl", "http://mirror.test/"]));
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(said.out.contains("no broker runs here"), "{}", said.out);
    assert!(said.out.contains("cannot be said whether mirror.test is routed"), "{}", said.out);
}
