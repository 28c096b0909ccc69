//! The user's own ssh: its agent, its configuration, its jump hosts, and its questions. Nothing of
//! that is decided here, least of all whether a host's key is trusted.
//!
//! The commands of one `session via` share one connection, so that a password is asked for once.

use std::fs::File;
use std::io::Write;
use std::process::{Command, Output, Stdio};

use anyhow::{Context, bail};

/// What ssh itself ends with when there is no connection.
const NO_CONNECTION: i32 = 255;

/// A way to run commands on another machine.
pub struct Ssh {
    /// The program and its options, as the user has named them.
    program: Vec<String>,
    target: String,
    /// For the shared connection's socket, and for what ssh says.
    folder: tempfile::TempDir,
}

/// Why a command was not run there.
#[derive(Debug, thiserror::Error)]
pub enum SshError {
    /// There is no ssh here.
    #[error("cannot run {0}: {1}")]
    NoProgram(String, std::io::Error),
    /// ssh has not got there.
    #[error("ssh does not get to {0}: {1}")]
    NoConnection(String, String),
    /// It got there, and the command failed.
    #[error("on {0}: {1}")]
    Failed(String, String),
    /// This machine.
    #[error(transparent)]
    Here(#[from] std::io::Error),
}

impl Ssh {
    /// To `target`, by what `$SESSION_SSH` says or else `ssh`.
    ///
    /// # Errors
    /// When the target is none, or no temporary directory can be made.
    pub fn new(target: &str) -> anyhow::Result<Ssh> {
        let given = std::env::var("SESSION_SSH").unwrap_or_default();
        let program: Vec<String> = given.split_whitespace().map(str::to_owned).collect();
        let program = if program.is_empty() { vec!["ssh".to_owned()] } else { program };
        Ssh::by(program, target)
    }

    /// The same by this program with these options.
    ///
    /// # Errors
    /// As [`Ssh::new`].
    pub fn by(program: Vec<String>, target: &str) -> anyhow::Result<Ssh> {
        if target.is_empty() || target.starts_with('-') || target.contains(char::is_whitespace) {
            bail!("{target:?} is no host that ssh knows, such as me@home.example.org");
        }
        let folder = tempfile::Builder::new().prefix("session-ssh").tempdir();
        let folder = folder.context("no temporary directory")?;
        Ok(Ssh { program, target: target.to_owned(), folder })
    }

    /// Program, options and target: what leads there.
    #[must_use]
    pub fn words(&self) -> Vec<String> {
        self.program.iter().chain([&self.target]).cloned().collect()
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program[0]);
        command.args(&self.program[1..]);
        let socket = self.folder.path().join("c");
        command.arg("-o").arg(format!("ControlPath={}", socket.display()));
        command
    }

    /// Runs a command there, with this input; what it has printed.
    ///
    /// # Errors
    /// When ssh does not get there, or the command fails.
    pub fn run(&self, what: &str, input: Input<'_>) -> Result<String, SshError> {
        let said = self.folder.path().join("said");
        let mut command = self.command();
        command
            .args(["-o", "ControlMaster=auto", "-o", "ControlPersist=60", "-C", "-T", "--"])
            .args([&self.target, what])
            // A connection that stays in the background keeps this open: it must be no pipe.
            .stderr(File::create(&said)?)
            .stdout(Stdio::piped())
            .stdin(match &input {
                Input::File(file) => Stdio::from(file.try_clone()?),
                Input::Text(_) => Stdio::piped(),
            });
        let no_program = |error| SshError::NoProgram(self.program[0].clone(), error);
        let mut child = command.spawn().map_err(no_program)?;
        if let (Input::Text(text), Some(mut pipe)) = (&input, child.stdin.take()) {
            // Whoever does not read it says why on its own.
            let _refused = pipe.write_all(text.as_bytes());
        }
        let Output { status, stdout, .. } = child.wait_with_output()?;
        if status.success() {
            return Ok(String::from_utf8_lossy(&stdout).into_owned());
        }
        let said = std::fs::read_to_string(&said).unwrap_or_default();
        let mut lines = said.lines().map(str::trim).filter(|line| !line.is_empty());
        let last = lines.next_back().unwrap_or("it said nothing").to_owned();
        Err(match status.code() {
            Some(NO_CONNECTION) => SshError::NoConnection(self.target.clone(), last),
            _ => SshError::Failed(self.target.clone(), last),
        })
    }

    /// The host that ssh's configuration means.
    #[must_use]
    pub fn host(&self) -> Option<String> {
        let output = self.command().args(["-G", "--", &self.target]).output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        text.lines().find_map(|line| line.strip_prefix("hostname ")).map(str::to_owned)
    }
}

impl Drop for Ssh {
    fn drop(&mut self) {
        let mut end = self.command();
        end.args(["-O", "exit", "--", &self.target]);
        // There may be none.
        let _ended = end.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

/// What a command reads.
pub enum Input<'a> {
    /// A file from where it stands.
    File(&'a File),
    /// A text.
    Text(&'a str),
}
