//! Tells, when a program that `session run` became has ended, which of its sessions could not go
//! on, and why.
//!
//! `session run` becomes the program, so it is not there any more when the program ends. Before, it
//! starts this watcher through a process that ends at once. So the watcher is not a child of the
//! program, and a program that waits for its children does not meet it.

use std::os::fd::OwnedFd;
use std::process::{Command, ExitCode, Stdio};

use clap::ValueEnum;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use serde_json::Value;

use crate::args::{Notify, Run, Tell};
use crate::broker;
use crate::notify::{self, Notifier};

/// Starts a watcher for the end of this very process. If that fails, the program runs all the same.
pub fn begin(run: &Run) {
    let Ok(own) = std::env::current_exe() else { return };
    let mut starter = Command::new(own);
    let pid = i32::try_from(std::process::id()).unwrap_or(0);
    starter.args(words(false, run.notify, run.quiet, pid));
    starter.stdin(Stdio::null()).stdout(Stdio::null());
    let _ended_at_once = starter.status();
}

/// Starts the watcher, or is the watcher.
pub fn tell(args: &Tell) -> ExitCode {
    let Some(pid) = Pid::from_raw(args.pid) else { return ExitCode::FAILURE };
    if !args.stay {
        let Ok(own) = std::env::current_exe() else { return ExitCode::FAILURE };
        let mut watcher = Command::new(own);
        watcher.args(words(true, args.notify, args.quiet, args.pid));
        watcher.stdin(Stdio::null()).stdout(Stdio::null());
        return if watcher.spawn().is_ok() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
    }
    let Ok(program) = pidfd_open(pid, PidfdFlags::empty()) else { return ExitCode::FAILURE };
    let mut notifier = Notifier::new(args.notify, args.pid);
    if args.quiet && notifier.is_none() {
        return ExitCode::SUCCESS;
    }
    wait_for_end(&program, notifier.as_mut());
    if args.quiet {
        return ExitCode::SUCCESS;
    }
    if let Ok(status) = broker::status() {
        for line in lines(&status, args.pid) {
            eprintln!("{line}");
        }
    }
    ExitCode::SUCCESS
}

/// The arguments of the watcher, or of the process that starts it.
fn words(stay: bool, notify: Notify, quiet: bool, pid: i32) -> Vec<String> {
    let notify = notify.to_possible_value().map_or_else(String::new, |v| v.get_name().to_owned());
    let mut words = vec!["tell".to_owned(), "--notify".to_owned(), notify];
    words.extend(stay.then(|| "--stay".to_owned()));
    words.extend(quiet.then(|| "--quiet".to_owned()));
    words.push(pid.to_string());
    words
}

fn wait_for_end(program: &OwnedFd, mut notifier: Option<&mut Notifier>) {
    let every = Timespec { tv_sec: notify::EVERY.as_secs().cast_signed(), tv_nsec: 0 };
    loop {
        let mut wanted = [PollFd::new(program, PollFlags::IN)];
        match (poll(&mut wanted, notifier.is_some().then_some(&every)), &mut notifier) {
            (Err(rustix::io::Errno::INTR), _) => {}
            (Ok(0), Some(notifier)) => notifier.look(),
            (Ok(_) | Err(_), notifier) => {
                if let Some(notifier) = notifier {
                    notifier.end();
                }
                return;
            }
        }
    }
}

/// The sessions of this process that the broker has given up, and what never became one: each cause
/// once.
fn lines(status: &Value, pid: i32) -> Vec<String> {
    let ended = status["ended"].as_array().map(Vec::as_slice).unwrap_or_default();
    let of_this = ended.iter().filter(|session| session["app"]["pid"] == pid);
    let line = |session: &Value| {
        let reason = session["reason"].as_str().unwrap_or_default();
        let given_up = session["gave_up"].as_bool().unwrap_or_default();
        let unbegun = session["id"].is_null() && !session["errno"].is_null();
        match (given_up, unbegun) {
            (true, _) => Some(format!("session {}: {reason}", session["id"])),
            (false, true) => {
                let destination = session["destination"].as_str().unwrap_or_default();
                Some(format!("session: {destination}: {reason}"))
            }
            (false, false) => None,
        }
    };
    let mut lines: Vec<String> = of_this.filter_map(line).collect();
    lines.dedup();
    lines
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn only_what_was_given_up_of_this_process_is_told() {
        let session = |id: u32, pid: i32, gave_up: bool| {
            let reason = "a is gone";
            json!({ "id": id, "app": { "pid": pid }, "gave_up": gave_up, "reason": reason })
        };
        let ended = [session(1, 7, true), session(2, 7, false), session(3, 8, true)];
        assert_eq!(lines(&json!({ "ended": ended }), 7), ["session 1: a is gone"]);
        assert!(lines(&json!({}), 7).is_empty());
        let unbegun = |errno: Value| {
            let app = json!({ "pid": 7 });
            json!({ "id": null, "app": app, "destination": "a", "reason": "b", "errno": errno })
        };
        let ended = [unbegun(json!(13)), unbegun(json!(13)), unbegun(Value::Null)];
        assert_eq!(lines(&json!({ "ended": ended }), 7), ["session: a: b"]);
    }
}
