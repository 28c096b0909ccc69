//! `session run`: becomes the program, with the shim in its environment.

use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::bail;
use stp_proto::local::mirror;
use stp_proto::policy::VARIABLE;

use crate::args::{Notify, Run};
use crate::elf::{self, Coverage, Obstacle};
use crate::wrapper::{self, Started};
use crate::{broker, places, tell};

/// The variable that names the endpoint of a program's sessions to the broker.
const ENDPOINT: &str = "SESSION_ENDPOINT";
/// Exit codes of a shell.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;

/// Starts a broker if none runs and replaces this process by the program, so that its exit code
/// and the signals it gets are its own.
///
/// # Errors
/// When the shim or the broker cannot be had, or the program cannot be covered.
pub fn run(run: &Run) -> anyhow::Result<ExitCode> {
    let (program, arguments) = run.command.split_first().expect("clap wants at least one word");
    let name = program.to_string_lossy();
    let Some(path) = places::in_path(program) else {
        eprintln!("session: {name}: command not found");
        return Ok(ExitCode::from(NOT_FOUND));
    };
    let preload = check(run, &path)?;
    let mut command = Command::new(program);
    command.args(arguments);
    if preload {
        let shim = places::shim()?;
        command.env("LD_PRELOAD", added(std::env::var_os("LD_PRELOAD"), shim.as_os_str()));
        if !run.mirror.is_empty() {
            let urls: Vec<String> = run.mirror.iter().map(ToString::to_string).collect();
            command.env(mirror::VARIABLE, urls.join(","));
        }
        if !run.no_broker {
            broker::ensure(run)?;
        }
        if let Some(policy) = &run.policy {
            broker::must_know_policy(policy)?;
            command.env(VARIABLE, policy);
        }
        if let Some(endpoint) = &run.endpoint {
            broker::must_know_endpoint(endpoint)?;
            command.env(ENDPOINT, endpoint);
        }
        if !run.quiet || run.notify != Notify::Off {
            tell::begin(run);
        }
    }
    let error = command.exec();
    eprintln!("session: cannot run {name}: {error}");
    let missing = error.kind() == std::io::ErrorKind::NotFound;
    Ok(ExitCode::from(if missing { NOT_FOUND } else { NOT_EXECUTABLE }))
}

/// Whether the shim is to be loaded into the program.
fn check(run: &Run, path: &Path) -> anyhow::Result<bool> {
    // A file that cannot be read may still be run; the kernel decides.
    let Some((program, obstacle)) = obstacle(&run.command, path) else { return Ok(true) };
    let text = format!("{}: {}", program.display(), obstacle.why());
    if !run.anyway {
        bail!(
            "{text}.\nIts connections would not become sessions. What to do: {}.\n\
             To run it without sessions: session run --anyway -- ...",
            obstacle.advice()
        );
    }
    eprintln!("session: {text}; it runs without sessions");
    Ok(obstacle.runs_with_preload())
}

/// What keeps the shim out, as `session doctor` says it: out of the program itself, or out of the
/// one that `env` starts.
fn obstacle(command: &[OsString], path: &Path) -> Option<(PathBuf, Obstacle)> {
    let program = match wrapper::follow(command) {
        Started::Away(why, advice) => {
            return Some((path.to_owned(), Obstacle::Elsewhere(why, advice)));
        }
        Started::Here(0) => path.to_owned(),
        Started::Here(at) => places::in_path(&command[at])?,
    };
    if let Some((why, advice)) = wrapper::in_sandbox(&program) {
        return Some((program, Obstacle::Elsewhere(why, advice)));
    }
    let finding = elf::look(&program).ok()?;
    match finding.coverage {
        Coverage::Not(obstacle) => Some((finding.program, obstacle)),
        Coverage::Covered => None,
    }
}

/// Adds the shim to what is preloaded already.
fn added(old: Option<OsString>, shim: &OsStr) -> OsString {
    let Some(old) = old.filter(|old| !old.is_empty()) else { return shim.to_owned() };
    let shown = old.to_string_lossy();
    if shown.split([' ', ':']).any(|path| OsStr::new(path) == shim) {
        return old;
    }
    let mut all = shim.to_owned();
    all.push(":");
    all.push(old);
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shim_is_added_to_what_is_preloaded_and_never_twice() {
        let shim = OsStr::new("/x/libsession.so");
        assert_eq!(added(None, shim), "/x/libsession.so");
        assert_eq!(added(Some("".into()), shim), "/x/libsession.so");
        assert_eq!(added(Some("/a.so".into()), shim), "/x/libsession.so:/a.so");
        let both: OsString = "/a.so /x/libsession.so".into();
        assert_eq!(added(Some(both.clone()), shim), both);
    }
}
