//! `session doctor --report`: a file for a report of a bug. It says what is installed, how it is
//! configured and what happened. Keys are shortened, and there are no passwords or tokens in it.

use std::fmt::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::Context;
use serde_json::Value;
use stp_lookup::here;
use stp_net::config::broker_files;

use crate::print::print;
use crate::{broker, places};

/// How many of the last lines of the broker's log are taken.
const LOG_LINES: usize = 100;
/// What a key begins with, and how much of it is left: enough to tell two apart.
const KEY: &str = "ed25519:";
const KEY_LEFT: usize = 6;

/// Writes the report.
///
/// # Errors
/// When the file is there already, or cannot be written.
pub fn report(to: &Path) -> anyhow::Result<ExitCode> {
    let mut text = String::new();
    section(&mut text, "versions", &versions());
    let status = broker::status();
    let used = status.as_ref().ok().and_then(|status| status["broker"]["config"].as_str());
    for path in used.map(PathBuf::from).into_iter().chain(broker_files()) {
        if let Ok(config) = std::fs::read_to_string(&path) {
            section(&mut text, &format!("configuration {}", path.display()), &config);
            break;
        }
    }
    let status = match &status {
        Ok(status) => format!("{status:#}"),
        Err(error) => format!("{error:#}"),
    };
    section(&mut text, "status of the broker, with the last events", &status);
    section(&mut text, "log of the broker", &log());
    let mut file = std::fs::OpenOptions::new();
    let file = file.write(true).create_new(true).mode(0o600).open(to);
    let mut file = file.with_context(|| format!("cannot write {}", to.display()))?;
    std::io::Write::write_all(&mut file, without_keys(&text).as_bytes())?;
    print(&format!(
        "{}: read it before you send it; it names the hosts and programs of your sessions\n",
        to.display()
    ))?;
    Ok(ExitCode::SUCCESS)
}

fn section(text: &mut String, title: &str, body: &str) {
    let body = body.trim_end();
    write!(text, "== {title}\n{body}\n\n").expect("writing to a string does not fail");
}

fn versions() -> String {
    let kernel = rustix::system::uname();
    let system = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let name = system.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    let path = |found: anyhow::Result<PathBuf>| match found {
        Ok(path) => path.display().to_string(),
        Err(error) => format!("{error:#}"),
    };
    format!(
        "session {}\nkernel {} {}\nsystem {}\nshim {}\nbroker {}\n",
        env!("CARGO_PKG_VERSION"),
        kernel.release().to_string_lossy(),
        kernel.machine().to_string_lossy(),
        name.unwrap_or("unknown").trim_matches('"'),
        path(places::shim()),
        path(places::broker_program()),
    )
}

fn log() -> String {
    let log = here::session_dir().map(|dir| dir.join("broker.log"));
    let Ok(Ok(log)) = log.map(std::fs::read_to_string) else {
        return "none; systemd may have it: journalctl --user -u session-broker".to_owned();
    };
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
}

/// The text with every key cut short.
fn without_keys(text: &str) -> String {
    let mut pieces = text.split(KEY);
    let mut short = pieces.next().unwrap_or_default().to_owned();
    for piece in pieces {
        let of_key =
            |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '+' | '/' | '=');
        let end = piece.find(|c| !of_key(c)).unwrap_or(piece.len());
        let (key, rest) = piece.split_at(end);
        let left = &key[..KEY_LEFT.min(key.len())];
        write!(short, "{KEY}{left}…{rest}").expect("writing to a string does not fail");
    }
    short
}

/// The address of the broker's page, with the token that its buttons need.
///
/// # Errors
/// When no broker answers, or it shows no page.
pub fn page() -> anyhow::Result<ExitCode> {
    let status: Value = broker::brief()?;
    let at = status["broker"]["status"].as_str().unwrap_or("off");
    if at == "off" || at.starts_with("unix:") {
        anyhow::bail!(
            "the broker shows no page; write status = \"127.0.0.1:7070\" into {}, then say: \
             session stop",
            status["broker"]["config"].as_str().unwrap_or("its configuration")
        );
    }
    let token = std::fs::read_to_string(here::session_dir()?.join("token"))?;
    // A browser keeps what follows the # to itself: it is in no request and in no log.
    print(&format!("http://{at}/#token={}\n", token.trim()))?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_key_only_the_beginning_is_left() {
        let key = format!("{KEY}11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo");
        let text = format!("key = \"{key}\" # {key}");
        assert_eq!(without_keys(&text), "key = \"ed25519:11qYAY…\" # ed25519:11qYAY…");
        assert_eq!(without_keys("no key"), "no key");
        assert_eq!(without_keys(KEY), "ed25519:…");
    }
}
