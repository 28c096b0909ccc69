//! What the command line says.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Run programs whose TCP connections outlive their links and their servers.
#[derive(Debug, Parser)]
#[command(name = "session", version, about, long_about = LONG, after_long_help = AFTER)]
pub struct Args {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

const LONG: &str = "\
Run programs whose TCP connections outlive their links and their servers.

A program started with `session run` is not changed and does not know: where a route of the \
broker's configuration matches, its connection becomes a session. A session survives a lost link, \
a new address and, where a second server has the same content, the death of its server.";

const AFTER: &str = "\
Examples:
  session run -- curl -O http://mirror.example.org/big.iso
  session status --watch
  session doctor /usr/bin/git
  session suspend 3   # its app waits until: session resume 3

Files:
  ~/.config/session/broker.toml    services and routes (see `stp-broker --help`)
  $XDG_RUNTIME_DIR/session/        the broker's socket, and its log when `session run` started it

Environment:
  SESSION_CONFIG   the broker's configuration
  SESSION_DIR      the directory of the broker's socket
  SESSION_LIB      the shim, libsession.so
  SESSION_BROKER   the program stp-broker";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a program with sessions.
    Run(Run),
    /// Show the sessions, the servers and what happened.
    Status(Status),
    /// Suspend a session: its app waits.
    Suspend {
        /// The session's number, as `session status` shows it.
        id: String,
    },
    /// Resume a suspended session.
    Resume {
        /// The session's number.
        id: String,
    },
    /// End a session; its app gets an error.
    Close {
        /// The session's number.
        id: String,
    },
    /// Move a session to another server.
    Move {
        /// The session's number.
        id: String,
    },
    /// Show what sessions do: a download whose link is cut and whose server is killed.
    Demo {
        /// Handed on to the demo.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Say whether a program will be covered, and if not, why and what to do.
    Doctor {
        /// The program, as one would start it.
        program: OsString,
    },
    /// Print a completion script for a shell.
    Completions {
        /// bash, zsh, fish, elvish or powershell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page.
    Man,
}

/// `session run`.
#[derive(Debug, clap::Args)]
pub struct Run {
    /// The broker's configuration, if a broker has to be started.
    #[arg(long, value_name = "FILE", env = "SESSION_CONFIG")]
    pub config: Option<PathBuf>,
    /// Do not start a broker.
    #[arg(long, conflicts_with = "broker_log")]
    pub no_broker: bool,
    /// Where a broker that has to be started writes its log.
    #[arg(long, value_name = "FILE")]
    pub broker_log: Option<PathBuf>,
    /// Run the program also when it cannot be covered.
    #[arg(long)]
    pub anyway: bool,
    /// The program and its arguments.
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "CMD"
    )]
    pub command: Vec<OsString>,
}

/// `session status`.
#[derive(Debug, clap::Args)]
pub struct Status {
    /// Print what the broker says as JSON.
    #[arg(long)]
    pub json: bool,
    /// Show it again every second.
    #[arg(long, short)]
    pub watch: bool,
}
