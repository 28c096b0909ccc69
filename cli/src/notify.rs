//! Tells the person at the terminal that a program waits for the network, as mosh does, without
//! disturbing what the program itself writes there.

use std::fs::{File, OpenOptions};
use std::io::{IsTerminal, Write};
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::unistd::{Pid, getpgid};
use serde_json::Value;

use crate::args::Notify;
use crate::broker;

/// A session that has been without a link for less than this time is not worth telling.
const NEWS: Duration = Duration::from_secs(2);
/// How often the broker is asked.
pub const EVERY: Duration = Duration::from_secs(1);

/// What is to be shown.
#[derive(Debug, PartialEq, Eq)]
enum Show {
    /// It has been waiting for this many seconds; and whether that is told for the first time.
    Waiting { seconds: u64, first: bool },
    /// The network is back.
    Back,
}

/// How long the program has been waiting, and whether that has been told.
#[derive(Debug, Default)]
struct Wait {
    since: Option<Instant>,
    told: bool,
}

impl Wait {
    /// `waits` says whether a session of the program has no link now.
    fn look(&mut self, now: Instant, waits: bool) -> Option<Show> {
        if !waits {
            self.since = None;
            return std::mem::take(&mut self.told).then_some(Show::Back);
        }
        let waited = now.duration_since(*self.since.get_or_insert(now));
        if waited < NEWS {
            return None;
        }
        let first = !std::mem::replace(&mut self.told, true);
        Some(Show::Waiting { seconds: waited.as_secs(), first })
    }
}

/// Watches one program.
pub struct Notifier {
    how: Notify,
    pid: i32,
    terminal: Option<File>,
    wait: Wait,
}

impl Notifier {
    /// For the program of this process; none, when there is nobody to tell.
    #[must_use]
    pub fn new(how: Notify, pid: i32) -> Option<Notifier> {
        let terminal = match how {
            Notify::Off => return None,
            Notify::Desktop => None,
            Notify::Title if !has_title() => return None,
            Notify::Line | Notify::Title => {
                Some(OpenOptions::new().write(true).open(own_terminal()?).ok()?)
            }
        };
        Some(Notifier { how, pid, terminal, wait: Wait::default() })
    }

    /// Asks the broker, and tells what has changed. Called every second.
    pub fn look(&mut self) {
        let waits = broker::brief().is_ok_and(|status| waits(&status, self.pid));
        let show = self.wait.look(Instant::now(), waits);
        self.show(show);
    }

    /// The program has ended: nothing must be left on the terminal.
    pub fn end(&mut self) {
        let show = self.wait.look(Instant::now(), false);
        self.show(show);
    }

    fn show(&mut self, show: Option<Show>) {
        let Some(show) = show else { return };
        if self.how == Notify::Desktop {
            return desktop(&show);
        }
        let text = match (&show, self.how) {
            // XTWINOPS 22 and 23 keep the title and put it back.
            (Show::Waiting { seconds, first }, Notify::Title) => {
                let keep = if *first { "\x1b[22;2t" } else { "" };
                format!("{keep}\x1b]2;{}\x07", waiting(*seconds))
            }
            (Show::Back, Notify::Title) => "\x1b[23;2t".to_owned(),
            (Show::Waiting { seconds, .. }, _) => format!("\r\x1b[2K{}", waiting(*seconds)),
            (Show::Back, _) => "\r\x1b[2K".to_owned(),
        };
        if let Some(terminal) = &mut self.terminal {
            let _closed_meanwhile = terminal.write_all(text.as_bytes());
        }
    }
}

fn waiting(seconds: u64) -> String {
    format!("session: waiting for the network, {seconds} s; nothing is lost")
}

/// Whether the terminal is in a window, judged by its name: another one would print the title as
/// text.
fn has_title() -> bool {
    let name = std::env::var("TERM").unwrap_or_default();
    !matches!(name.as_str(), "" | "dumb" | "linux" | "vt100" | "vt220" | "cons25")
}

/// The terminal that stderr is, if it is one.
fn own_terminal() -> Option<PathBuf> {
    use std::os::unix::ffi::OsStringExt;
    if !std::io::stderr().is_terminal() {
        return None;
    }
    let name = rustix::termios::ttyname(std::io::stderr().as_fd(), Vec::new()).ok()?;
    Some(PathBuf::from(std::ffi::OsString::from_vec(name.into_bytes())))
}

fn desktop(show: &Show) {
    let text = match show {
        Show::Waiting { first: true, .. } => "waiting for the network; nothing is lost",
        Show::Waiting { first: false, .. } => return,
        Show::Back => "the network is back",
    };
    let mut command = Command::new("notify-send");
    command.args(["--app-name", "session", "Session", text]);
    let silent = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let _there_is_none = silent.status();
}

/// Whether a session of the program, or of one that it started, has no link, and nobody has
/// suspended it.
fn waits(status: &Value, pid: i32) -> bool {
    // Processes that came into a container from outside have the group 0 there.
    let group = |pid: i32| {
        let group = getpgid(Some(Pid::from_raw(pid))).ok()?;
        (group.as_raw() > 0).then_some(group)
    };
    let own = group(pid);
    let is_its = |app: &Value| {
        let app = app["pid"].as_i64().and_then(|app| i32::try_from(app).ok());
        app.is_some_and(|app| app == pid || own.is_some() && group(app) == own)
    };
    let sessions = status["sessions"].as_array().map(Vec::as_slice).unwrap_or_default();
    sessions.iter().any(|session| {
        matches!(session["state"].as_str(), Some("ready_resume" | "sent_resume"))
            && is_its(&session["app"])
    })
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn waiting_is_told_after_two_seconds_and_taken_back_once() {
        let begun = Instant::now();
        let at = |seconds| begun + Duration::from_secs(seconds);
        let mut wait = Wait::default();
        assert_eq!(wait.look(at(0), false), None);
        assert_eq!(wait.look(at(1), true), None);
        assert_eq!(wait.look(at(2), false), None, "too short to be told");
        assert_eq!(wait.look(at(3), true), None);
        assert_eq!(wait.look(at(4), true), None);
        assert_eq!(wait.look(at(5), true), Some(Show::Waiting { seconds: 2, first: true }));
        assert_eq!(wait.look(at(6), true), Some(Show::Waiting { seconds: 3, first: false }));
        assert_eq!(wait.look(at(7), false), Some(Show::Back));
        assert_eq!(wait.look(at(8), false), None);
    }

    #[test]
    fn only_sessions_of_this_program_that_have_no_link_wait() {
        let own = i32::try_from(std::process::id()).expect("a process");
        let with = |state: &str, pid: i32| {
            let app = json!({ "pid": pid });
            json!({ "sessions": [{ "state": state, "app": app }] })
        };
        assert!(waits(&with("ready_resume", own), own));
        assert!(!waits(&with("active", own), own));
        assert!(!waits(&with("suspended", own), own), "that was the user's own wish");
        assert!(!waits(&with("ready_resume", 1), own), "another program");
        assert!(!waits(&json!({}), own));
    }
}
