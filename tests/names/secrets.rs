//! No secret is in any log, status or output, even with all logging on.

use std::fmt::Write as _;
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use stp_lookup::Credential;

use crate::world::{PASSWORD, Special, World, big_curl, get, get_unix, noise, status, until};

const WRONG: &str = "Tr0ub4dor&3 is wrong";

/// A secret in every form in which it might be written.
fn forms(bytes: &[u8]) -> Vec<String> {
    let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    vec![hex, URL_SAFE_NO_PAD.encode(bytes), STANDARD_NO_PAD.encode(bytes), format!("{bytes:?}")]
}

/// Keys as they stand in their files: one a line, without the prefix that names their kind.
fn in_file(path: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(path).expect("a file of keys");
    let words = text.split(|c: char| c.is_whitespace() || c == '"' || c == ':');
    words
        .filter(|word| word.len() >= 32 && !word.starts_with("ed25519"))
        .map(str::to_owned)
        .collect()
}

/// Words of exactly 32 hexadecimal digits: session handles are written so nowhere.
fn handles(text: &str) -> Vec<&str> {
    let words = text.split(|c: char| !c.is_ascii_alphanumeric());
    let is_one = |word: &&str| word.len() == 32 && word.bytes().all(|b| b.is_ascii_hexdigit());
    words.filter(is_one).collect()
}

/// Everything that must not be shown, in all its forms.
fn secrets(world: &World) -> Vec<String> {
    let folder = world.path("config/session");
    let place = world.sns_address.to_string().parse().expect("a place");
    let credential = Credential::load(&folder, "alice", &place).expect("logged in");
    let mut secrets = vec![PASSWORD.to_owned(), WRONG.to_owned(), "v4.local.".to_owned()];
    secrets.extend(forms(&credential.keys.list_key()));
    secrets.extend(forms(&credential.keys.proof_key()));
    let stored =
        std::fs::read_to_string(Credential::path(&folder, "alice", &place)).expect("it is there");
    let stored: serde_json::Value = serde_json::from_str(&stored).expect("JSON");
    let root = stored["secret"].as_str().expect("what the keys are made of");
    secrets.extend(forms(&URL_SAFE_NO_PAD.decode(root).expect("base64")));
    let files =
        ["cluster.key", "sns.key", "client.key", "server-a.key", "server-b.key", "session/token"];
    for file in files {
        let found = in_file(&world.path(file));
        assert!(!found.is_empty(), "{file} holds no key");
        secrets.extend(found);
    }
    secrets
}

/// Adds what every daemon shows now.
fn look(world: &World, shown: &mut Vec<(&'static str, String)>) {
    for page in ["/status", "/metrics", "/"] {
        let all = world.servers.iter().map(|server| server.status).chain([world.broker_status]);
        shown.extend(all.filter_map(|at| Some((page, get(at, page)?))));
        shown.push((page, get_unix(&world.path("sns.status"), page).expect("the directory")));
    }
    shown.push(("session status", world.run("session", &["status", "--json"], "")));
}

#[test]
fn nothing_secret_is_logged_shown_or_printed() {
    let env = vec![("SESSION_LOG", "trace".into()), ("RUST_LOG", "trace".into())];
    let tables = "[limits]\nserver_lease = \"2s\"\n";
    let mut world = World::with(Special { tables, env, ..Special::default() });
    let content = noise(6, 16 << 20);
    for name in ["a", "b"] {
        world.add_server(name, &[("alice/big.iso", &content)], "");
    }
    world.wait_for_file("/alice/big.iso", 2);
    let account = format!("alice@{}", world.sns_address);
    let key = world.key_of_sns();
    let mut shown = Vec::new();
    for password in [WRONG, PASSWORD] {
        let login = ["login", &account, "--key", &key, "--password-stdin"];
        let said = world.try_run("session", &login, password);
        shown.push(("session login", String::from_utf8_lossy(&said.stderr).into_owned()));
        shown.push(("session login", String::from_utf8_lossy(&said.stdout).into_owned()));
    }
    world.start_broker();
    let got = world.get_file("/big.iso", "got");
    assert!(got.status.success());
    shown.push(("session get", String::from_utf8_lossy(&got.stderr).into_owned()));

    // A session with tickets that is taken over, looked at in the middle.
    let mut curl = big_curl(&world, "4M");
    let place = until("a server that serves", || {
        world.servers.iter().position(|server| {
            status(server.status).is_some_and(|status| {
                status["sessions"].as_array().is_some_and(|all| !all.is_empty())
            })
        })
    });
    look(&world, &mut shown);
    world.servers[place].running = None;
    assert!(curl.wait().expect("it ends").success(), "{}", world.log("broker.log"));
    look(&world, &mut shown);
    for log in ["sns.log", "server-a.log", "server-b.log", "broker.log"] {
        shown.push((log, world.log(log)));
    }
    let log = world.log("broker.log");
    assert!(log.contains("transferred") && log.contains("DEBUG"), "{log}");

    let secrets = secrets(&world);
    let mut leaks = String::new();
    for (what, text) in &shown {
        for secret in secrets.iter().filter(|secret| text.contains(secret.as_str())) {
            writeln!(leaks, "{what} shows {secret}").expect("a string");
        }
        for handle in handles(text) {
            writeln!(leaks, "{what} shows what may be a handle, {handle}").expect("a string");
        }
    }
    assert!(leaks.is_empty(), "{leaks}");
}
