//! How a login came about, so that it can be made again at another server, or at the same one.
//!
//! Kept are the commands whose effect lasts. They hold a password: a login is sealed in tickets and
//! is shown nowhere.

use core::fmt;

use serde::{Deserialize, Serialize};

use super::command::Command;
use super::reply::Reply;
use super::text::latin;

/// Most changes of the directory that are kept; a login with more cannot be made again.
const STEPS_MAX: usize = 48;
/// Most bytes of them.
const STEPS_BYTES_MAX: usize = 3_000;

/// The verbs of which only the last successful one counts.
const SETTINGS: [&str; 8] = ["TYPE", "MODE", "STRU", "PBSZ", "PROT", "LANG", "CLNT", "CCC"];

/// A line that was taken by the server.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
struct Said(#[serde(with = "latin")] Vec<u8>);

impl fmt::Debug for Said {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

/// The commands of a login that have lasting effect.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Login {
    user: Option<Said>,
    pass: Option<Said>,
    acct: Option<Said>,
    /// TYPE, MODE and so on, the last of each.
    settings: Vec<Said>,
    /// OPTS, each of its own subject.
    options: Vec<Said>,
    /// CWD and CDUP since the last absolute path.
    directory: Vec<Said>,
    /// EPSV ALL was said.
    only_extended: bool,
    /// The last of ALLO, REST and RNFR, which the next command needs.
    before: Vec<Said>,
    /// Too much happened to be told again.
    lost: bool,
}

/// What the answer to a step has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    /// 2yz, or 3yz if more steps of the log-in follow.
    Done,
    /// 2yz; 3yz is a request for a step that does not come.
    LoggedIn,
    /// Whatever.
    Anything,
    /// 3yz or 2yz.
    Pending,
}

/// One command that is said again.
#[derive(Clone, PartialEq, Eq)]
pub struct Step {
    /// With its line end.
    pub line: Vec<u8>,
    want: Want,
}

impl fmt::Debug for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({} bytes)", self.verb(), self.line.len())
    }
}

impl Step {
    pub(super) fn new(line: &[u8], want: Want) -> Self {
        Self { line: [line, b"\r\n"].concat(), want }
    }

    /// What it says, without its argument.
    #[must_use]
    pub fn verb(&self) -> String {
        Command::new(self.line.clone(), 0).verb.trim_end().to_owned()
    }

    /// Whether this answer lets the login go on.
    #[must_use]
    pub fn accepts(&self, reply: &Reply) -> bool {
        match self.want {
            Want::Done | Want::Pending => (200..400).contains(&reply.code),
            Want::LoggedIn => reply.is_done(),
            Want::Anything => reply.code != 421,
        }
    }
}

/// The commands that make a login again, in order. The server's greeting comes first.
pub type Steps = Vec<Step>;

impl Login {
    /// Whether it can be made again.
    #[must_use]
    pub fn can_be_repeated(&self) -> bool {
        !self.lost
    }

    /// Somebody is logged in, as far as can be told from what was taken.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.pass.is_some()
    }

    /// EPSV ALL was said: nothing else may be used.
    #[must_use]
    pub fn only_extended(&self) -> bool {
        self.only_extended
    }

    /// Where the next transfer begins in its file.
    #[must_use]
    pub fn rest(&self) -> Option<u64> {
        let all = self.before.iter().map(|said| Command::new(said.0.clone(), 0));
        let rest = all.into_iter().find(|command| command.verb == "REST");
        rest.and_then(|command| command.text().parse().ok())
    }

    /// Files move byte by byte (TYPE I, in the mode and structure of the beginning), so that
    /// positions and sizes can be compared.
    #[must_use]
    pub fn is_binary(&self) -> bool {
        self.is_set_to("TYPE", 'I') == Some(true)
            && self.is_set_to("MODE", 'S').unwrap_or(true)
            && self.is_set_to("STRU", 'F').unwrap_or(true)
    }

    fn is_set_to(&self, verb: &str, letter: char) -> Option<bool> {
        let all = self.settings.iter().map(|said| Command::new(said.0.clone(), 0));
        let found = all.into_iter().find(|command| command.verb == verb)?;
        Some(found.text().to_ascii_uppercase().starts_with(letter))
    }

    /// The server has taken a command with this answer.
    pub fn note(&mut self, command: &Command, reply: &Reply) {
        let said = || Some(Said(command.line.clone()));
        if reply.is_error() {
            if command.verb != "NOOP" {
                self.before.clear();
            }
            return;
        }
        match command.verb.as_str() {
            "USER" => {
                *self = Self { user: said(), options: self.options.clone(), ..Self::default() }
            }
            "PASS" => self.pass = said(),
            "ACCT" => self.acct = said(),
            "REIN" => *self = Self::default(),
            "CWD" | "XCWD" | "CDUP" | "XCUP" => self.moved(command),
            "EPSV" if command.text().eq_ignore_ascii_case("ALL") => self.only_extended = true,
            "OPTS" => {
                let subject = |said: &Said| {
                    let command = Command::new(said.0.clone(), 0);
                    command.text().split(' ').next().unwrap_or_default().to_ascii_uppercase()
                };
                let new = Said(command.line.clone());
                self.options.retain(|old| subject(old) != subject(&new));
                self.options.push(new);
            }
            "REST" | "RNFR" | "ALLO" => {
                self.before.retain(|old| Command::new(old.0.clone(), 0).verb != command.verb);
                self.before.extend(said());
                return;
            }
            verb if SETTINGS.contains(&verb) => {
                self.settings.retain(|old| Command::new(old.0.clone(), 0).verb != verb);
                self.settings.push(Said(command.line.clone()));
            }
            // Asked between REST and its transfer, it changes nothing.
            "NOOP" | "PASV" | "EPSV" | "LPSV" | "PORT" | "EPRT" | "LPRT" | "SIZE" | "MDTM"
            | "FEAT" | "SYST" | "PWD" | "XPWD" => return,
            _ => {}
        }
        self.before.clear();
        self.bound();
    }

    /// A transfer has begun: what was said for it is used up.
    pub fn used(&mut self) {
        self.before.clear();
    }

    fn moved(&mut self, command: &Command) {
        let up = command.verb.ends_with("UP") || command.argument == b"..";
        if command.argument.first() == Some(&b'/') && !up {
            self.directory.clear();
        }
        let plain = |said: &Said| {
            let last = Command::new(said.0.clone(), 0).argument;
            let dots = last.iter().all(|&byte| byte == b'.');
            !last.is_empty() && !dots && !last.contains(&b'/') && last[0] != b'~'
        };
        if up && self.directory.last().is_some_and(plain) {
            self.directory.pop();
            return;
        }
        self.directory.push(Said(command.line.clone()));
    }

    fn bound(&mut self) {
        let all = self.directory.iter().chain(&self.options).chain(&self.settings);
        let all = all.chain(&self.user).chain(&self.pass).chain(&self.acct);
        let (count, bytes) =
            all.fold((0, 0), |(count, bytes), said| (count + 1, bytes + said.0.len()));
        if count > STEPS_MAX || bytes > STEPS_BYTES_MAX {
            *self = Self { lost: true, ..Self::default() };
        }
    }

    /// What is said again to be where this login stands.
    #[must_use]
    pub fn steps(&self) -> Steps {
        let mut steps = Steps::new();
        let mut say = |said: &Said, want| steps.push(Step::new(&said.0, want));
        let log_in: Vec<&Said> =
            [&self.user, &self.pass, &self.acct].into_iter().flatten().collect();
        for (index, said) in log_in.iter().enumerate() {
            let last = index + 1 == log_in.len() && self.pass.is_some();
            say(said, if last { Want::LoggedIn } else { Want::Done });
        }
        for option in &self.options {
            say(option, Want::Anything);
        }
        for setting in &self.settings {
            say(setting, Want::Done);
        }
        for directory in &self.directory {
            say(directory, Want::Done);
        }
        if self.only_extended {
            say(&Said(b"EPSV ALL".to_vec()), Want::Anything);
        }
        for before in &self.before {
            say(before, Want::Pending);
        }
        steps
    }
}
