//! What the command line says.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;

use clap::{Parser, Subcommand};
use stp_lookup::DirectoryAddress;
use stp_net::config::Span;
use stp_net::key::PublicKey;
use stp_proto::local::mirror::Mirror;
use stp_proto::name::Name;

/// Run programs whose TCP connections outlive their links and their servers.
#[derive(Debug, Parser)]
#[command(name = "session", version, about, long_about = LONG, after_long_help = AFTER)]
pub struct Args {
    /// Go by the broker that leads everything through a far end that `session via add` has made.
    #[arg(long, global = true, value_name = "NAME")]
    pub via: Option<String>,
    /// The command.
    #[command(subcommand)]
    pub command: Option<Command>,
}

const LONG: &str = "\
Run programs whose TCP connections outlive their links and their servers.

A program started with `session run` is not changed and does not know: where a route of the \
broker's configuration matches, its connection becomes a session. A session survives a lost link, \
a new address and, where a second server has the same content, the death of its server.";

const AFTER: &str = "\
Examples:
  session run -- curl -O http://mirror.example.org/big.iso
  session run --mirror http://a.org/deb,http://b.org/deb -- curl -O http://a.org/deb/big.iso
  session via add me@home.example.org && session run --via home -- git clone ssh://git@host/x
  session status
  session top         # the same, live; q ends it
  session doctor git
  session doctor curl http://mirror.example.org/big.iso
  session suspend 3   # its app waits until: session resume 3; all of them: --all; --for 2h
  session login alice@gateway.example.org
  session serve www.laptop@example.org --to 8080
  session get stp://alice@gateway.example.org/big.iso

Files:
  ~/.config/session/broker.toml    services and routes, or a gateway and a user
  ~/.config/session/via/           what `session via add` leaves
  ~/.config/session/credentials/   what `session login` leaves, readable by you alone
  ~/.config/session/known_directories   the keys of gateways and name servers
  $XDG_RUNTIME_DIR/session/        the broker's socket, and its log when `session run` started it

Environment:
  SESSION_CONFIG   the broker's configuration
  SESSION_DIR      the directory of the broker's socket
  SESSION_SSH      the ssh that `session via` uses, with options: ssh -F FILE
  SESSION_LIB      the shim, libsession.so
  SESSION_BROKER   the program stp-broker";

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run a program with sessions.
    Run(Run),
    /// When a program has ended, tell why sessions of it could not go on.
    #[command(hide = true)]
    Tell(Tell),
    /// Show the sessions, the servers and what happened.
    Status(Status),
    /// Watch the sessions in the terminal, and suspend, move or close them by a key.
    Top,
    /// Print what happens to the sessions, a line each, as it happens.
    Log(Log),
    /// Print the address of the broker's page, with the token for its buttons.
    Page,
    /// Suspend a session: its app waits.
    Suspend(Suspend),
    /// Resume a suspended session.
    Resume(Which),
    /// End a session; its app gets an error.
    Close {
        /// The session's number.
        id: String,
    },
    /// Move a session to another server.
    Move(Move),
    /// Endpoints: names whose sessions can be carried to another machine.
    #[command(subcommand)]
    Endpoint(Endpoint),
    /// Show, try or add routes: which destinations become sessions.
    #[command(subcommand)]
    Route(Route),
    /// Make a far end of your own out of an ssh account, and look after it.
    #[command(subcommand)]
    Via(Via),
    /// Offer a service of this machine by a name of your own, wherever the machine is.
    ///
    /// The name's domain must have a Session Name Server that lets your key make names. Whoever
    /// runs a broker reaches the service as www.laptop.at.example.org.stp, and keeps the connection
    /// when this machine or theirs changes its address, or sleeps. Ctrl-C takes the name back.
    Serve(Serve),
    /// Have the broker read its configuration again; sessions that run keep their service.
    Reload,
    /// Have the program that is now in the broker's file go on with all sessions.
    Upgrade,
    /// End the broker. The next `session run` starts one.
    Stop {
        /// Also while there are sessions; their apps get a reset.
        #[arg(long)]
        force: bool,
    },
    /// Log in at a gateway; the password is asked for, and never leaves this machine.
    Login(Login),
    /// Remember the key of a Session Name Server.
    Trust(Trust),
    /// Get a file of a cluster: stp://USER@GATEWAY/PATH.
    ///
    /// Exit code: 0 the file is there, with the SHA-256 that the gateway says; 3 no server has it;
    /// 6 the servers cannot be reached; 9 the disk is full; 13 there is another file of that name;
    /// 16 it cannot be written; 24 the gateway refuses this user; 32 the bytes that came have
    /// another SHA-256; 75 its endpoint was saved, and with it what had come; 125 something else;
    /// 130 Ctrl-C.
    Get(Get),
    /// Show what sessions do: a download whose link is cut and whose server is killed.
    Demo {
        /// Handed on to the demo.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<OsString>,
    },
    /// Say whether a program will be covered, and if not, why and what to do.
    ///
    /// It contacts the servers and the gateway that would be used, unless --offline is given.
    ///
    /// Exit code: 0 it will be covered, and hosts among its arguments are routed; 1 it cannot be
    /// covered; 3 it will be, but a host is not routed; 4 it will be, but no server of a service
    /// answers, or the gateway does not; 125 it could not be found out.
    Doctor(Doctor),
    /// Print a completion script for a shell.
    Completions {
        /// bash, zsh, fish, elvish or powershell.
        shell: clap_complete::Shell,
    },
    /// Print the manual page, or that of a command.
    Man {
        /// Such as "get".
        command: Option<String>,
    },
}

/// One session, or all of them.
#[derive(Debug, clap::Args)]
pub struct Which {
    /// The session's number, as `session status` shows it.
    #[arg(required_unless_present_any = ["all", "endpoint"])]
    pub id: Option<String>,
    /// All sessions of this broker.
    #[arg(long, conflicts_with_all = ["id", "endpoint"])]
    pub all: bool,
    /// All sessions of an endpoint.
    #[arg(long, value_name = "NAME", conflicts_with = "id")]
    pub endpoint: Option<String>,
}

/// `session move`.
#[derive(Debug, clap::Args)]
#[command(
    override_usage = "session move ID [SERVER]\n       session move --endpoint NAME [SERVER]"
)]
pub struct Move {
    /// The session's number.
    #[arg(required_unless_present = "endpoint")]
    pub id: Option<String>,
    /// Where to, by name or address [default: the nearest].
    pub server: Option<String>,
    /// All sessions of an endpoint.
    #[arg(long, value_name = "NAME", conflicts_with = "server")]
    pub endpoint: Option<String>,
}

/// `session endpoint`.
#[derive(Debug, Subcommand)]
pub enum Endpoint {
    /// Make an endpoint: a name, object@domain, with a key of its own.
    ///
    /// Its sessions are opened with that key. If a [[directory]] is configured for its domain, it
    /// is made known there.
    Create {
        /// Such as laptop@example.org.
        name: String,
    },
    /// Show the endpoints of this machine.
    List,
    /// Show all that is known of one, as JSON.
    Show {
        /// Its name.
        name: String,
    },
    /// End its sessions, and remove it with its key, for good.
    Close {
        /// Its name.
        name: String,
    },
    /// Save it with its sessions in a directory, such as one on a stick. It is gone here then.
    ///
    /// Programs that know of endpoints, such as `session get`, save their state with it. All
    /// others get a reset.
    Save(SaveEndpoint),
    /// Go on with an endpoint that was saved: its sessions, and the programs that saved theirs.
    ///
    /// Exit code: that of the first program that fails.
    Load(LoadEndpoint),
}

/// Under a passphrase.
#[derive(Debug, clap::Args)]
pub struct Sealed {
    /// Seal its key with a passphrase, or open it; asked for on the terminal. Without one, whoever
    /// holds the directory holds the endpoint.
    #[arg(long)]
    pub passphrase: bool,
    /// Read the passphrase from the standard input.
    #[arg(long, conflicts_with = "passphrase")]
    pub passphrase_stdin: bool,
}

/// `session endpoint save`.
#[derive(Debug, clap::Args)]
pub struct SaveEndpoint {
    /// Its name.
    pub name: String,
    /// A directory that is not there yet, such as /media/stick/laptop@example.org.
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// Under a passphrase.
    #[command(flatten)]
    pub sealed: Sealed,
}

/// `session endpoint load`.
#[derive(Debug, clap::Args)]
pub struct LoadEndpoint {
    /// The directory; or the name of an endpoint that is here with sessions that were saved.
    #[arg(value_name = "DIR")]
    pub directory: PathBuf,
    /// Under a passphrase.
    #[command(flatten)]
    pub sealed: Sealed,
    /// Start no programs.
    #[arg(long)]
    pub no_start: bool,
    /// The broker's configuration, if a broker has to be started.
    #[arg(long, value_name = "FILE", env = "SESSION_CONFIG")]
    pub config: Option<PathBuf>,
}

/// `session suspend`.
#[derive(Debug, clap::Args)]
pub struct Suspend {
    /// One, or all.
    #[command(flatten)]
    pub which: Which,
    /// How long, such as 2h or 3d; then it goes on by itself. Its server is told, and keeps the
    /// session as long [default: until session resume; then the server keeps it for 72h, or what
    /// both ends call hold].
    #[arg(long = "for", value_name = "TIME")]
    pub lasts: Option<Span>,
}

/// `session route`.
#[derive(Debug, Subcommand)]
pub enum Route {
    /// Show the routes that the broker uses.
    List,
    /// Tell which route a destination takes. Exit code 3: none.
    Test {
        /// Such as www.example.org:80.
        #[arg(value_name = "HOST:PORT")]
        to: String,
    },
    /// Add a route to the configuration, and use it at once.
    Add {
        /// Such as www.example.org:80, *.example.org:80, 10.1.0.0/24:22 or *:80.
        #[arg(value_name = "DESTINATION")]
        to: String,
        /// The service that it leads to. The default needs no far end, and is for plain HTTP.
        #[arg(long, default_value = "http.direct@localhost")]
        service: String,
        /// The configuration [default: the one in use].
        #[arg(long, value_name = "FILE", env = "SESSION_CONFIG")]
        config: Option<PathBuf>,
    },
}

/// `session via`.
#[derive(Debug, Subcommand)]
pub enum Via {
    /// Put a server there, start it, and write a profile. No root is needed there.
    Add(ViaAdd),
    /// Show the far ends that were added.
    List,
    /// Say what is wrong with one, and what to do. Exit code: 0 nothing, 1 something.
    Check {
        /// Its name.
        name: String,
    },
    /// Put this version of the server there, and start it.
    Upgrade {
        /// Its name.
        name: String,
    },
    /// Stop the server, and remove it there and here.
    Remove {
        /// Its name.
        name: String,
        /// Remove it here alone: that machine is not asked.
        #[arg(long)]
        forget: bool,
    },
}

/// `session via add`.
#[derive(Debug, clap::Args)]
pub struct ViaAdd {
    /// Where to, as ssh knows it: its configuration, agent and jump hosts are used.
    #[arg(value_name = "USER@HOST")]
    pub target: String,
    /// What it is called here [default: the first part of the host's name].
    #[arg(long)]
    pub name: Option<String>,
    /// The port that its server takes there [default: the first that is free of a few].
    #[arg(long)]
    pub port: Option<u16>,
    /// Where its server can be reached, if that is not the host that ssh goes to; may be repeated.
    #[arg(long, value_name = "HOST")]
    pub address: Vec<String>,
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
    /// Other origins of the files that the program asks for over plain HTTP, such as
    /// http://mirror.example.org/debian: when one gives no more, the next one continues.
    #[arg(long, value_name = "URL", value_delimiter = ',', env = "SESSION_MIRRORS")]
    pub mirror: Vec<Mirror>,
    /// Over which interfaces the program's sessions go: the name of a `[[policy]]` of the broker's
    /// configuration.
    #[arg(long, value_name = "NAME", env = "SESSION_POLICY", conflicts_with = "no_broker")]
    pub policy: Option<String>,
    /// The endpoint of the program's sessions: `session endpoint create` makes it.
    #[arg(long, value_name = "NAME", env = "SESSION_ENDPOINT", conflicts_with = "no_broker")]
    pub endpoint: Option<String>,
    /// Run the program even if it cannot be covered.
    #[arg(long)]
    pub anyway: bool,
    /// Do not tell on stderr why a session of the program could not go on.
    #[arg(long)]
    pub quiet: bool,
    /// How to tell that the program has been waiting for the network for more than 2 s.
    #[arg(long, value_name = "HOW", default_value = "title")]
    pub notify: Notify,
    /// The program and its arguments.
    #[arg(
        required = true,
        trailing_var_arg = true,
        allow_hyphen_values = true,
        value_name = "CMD"
    )]
    pub command: Vec<OsString>,
}

/// How a person is told that a program waits for the network.
#[derive(Copy, Clone, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Notify {
    /// Not at all.
    Off,
    /// The title of the terminal's window, put back when the network is back. The program's own
    /// output stays as it is.
    Title,
    /// A line on the terminal, erased when the network is back: for programs that write nothing.
    Line,
    /// A notification of the desktop, by notify-send.
    Desktop,
}

/// `session tell`: watches a program, for [`Run`].
#[derive(Debug, clap::Args)]
pub struct Tell {
    /// Watch; otherwise start a process that does.
    #[arg(long)]
    pub stay: bool,
    /// How to tell that the program waits for the network.
    #[arg(long, default_value = "off")]
    pub notify: Notify,
    /// Tell nothing when the program has ended.
    #[arg(long)]
    pub quiet: bool,
    /// The program's process.
    pub pid: i32,
}

/// `session doctor`.
#[derive(Debug, clap::Args)]
pub struct Doctor {
    /// Print what was found as JSON.
    #[arg(long)]
    pub json: bool,
    /// Write a file for a report of a bug: versions, configuration, last events; no secrets.
    #[arg(
        long,
        value_name = "FILE",
        num_args = 0..=1,
        default_missing_value = "session-report.txt",
        require_equals = true,
        conflicts_with_all = ["json", "command"]
    )]
    pub report: Option<PathBuf>,
    /// Do not contact servers and gateway.
    #[arg(long)]
    pub offline: bool,
    /// The program as one would start it; URLs, hosts, HOST:PORT and, where the program means it,
    /// USER@HOST among its arguments are looked up in the routes.
    #[arg(
        required_unless_present = "report",
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
    /// Show the sessions of this endpoint alone.
    #[arg(long, value_name = "NAME")]
    pub endpoint: Option<String>,
    /// Show the status again every second.
    #[arg(long, short)]
    pub watch: bool,
}

/// `session log`.
#[derive(Debug, clap::Args)]
pub struct Log {
    /// Print what the broker tells as JSON, a line each.
    #[arg(long)]
    pub json: bool,
    /// How many lines to print of what happened before.
    #[arg(long, short = 'n', default_value_t = 10, value_name = "COUNT")]
    pub lines: usize,
}

/// `session login`.
#[derive(Debug, clap::Args)]
pub struct Login {
    /// Who, and where: USER@GATEWAY, the gateway with a port if it is not the usual one.
    #[arg(value_name = "USER@GATEWAY")]
    pub account: String,
    /// The gateway's key, if it is not known yet; without it the key is shown and asked about.
    #[arg(long)]
    pub key: Option<PublicKey>,
    /// Read the password from the standard input.
    #[arg(long)]
    pub password_stdin: bool,
}

/// `session trust`.
#[derive(Debug, clap::Args)]
pub struct Trust {
    /// A domain, host or address, with a port if it is not the usual one.
    pub place: DirectoryAddress,
    /// Its key; without it the key is shown and asked about.
    #[arg(long)]
    pub key: Option<PublicKey>,
}

/// `session serve`.
#[derive(Debug, clap::Args)]
pub struct Serve {
    /// The service's name.
    #[arg(value_name = "service.object@domain")]
    pub name: Name,
    /// What it is: HOST:PORT or PORT of a program that listens, or a folder of files.
    #[arg(long, value_name = "WHERE")]
    pub to: String,
    /// Where links come in [default: a port that is free now, and stays the same].
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub listen: Option<SocketAddr>,
    /// The name server [default: that of the name's domain, port 4480].
    #[arg(long, value_name = "PLACE")]
    pub name_server: Option<DirectoryAddress>,
    /// Its key, if it is not known yet (`session trust` remembers it).
    #[arg(long, value_name = "KEY")]
    pub key: Option<PublicKey>,
    /// Only this client may come (`stp-broker --print-key`); several times for several.
    #[arg(long, value_name = "KEY")]
    pub client: Vec<PublicKey>,
}

/// `session get`.
#[derive(Debug, clap::Args)]
pub struct Get {
    /// The file.
    #[arg(value_name = "stp://USER@GATEWAY/PATH", required_unless_present = "state")]
    pub url: Option<String>,
    /// The endpoint of its session, which can be carried to another machine with it.
    #[arg(long, value_name = "NAME", env = "SESSION_ENDPOINT")]
    pub endpoint: Option<String>,
    /// Go on with what was saved with an endpoint, as `session endpoint load` does.
    #[arg(long, value_name = "FILE", hide = true, conflicts_with = "url")]
    pub state: Option<PathBuf>,
    /// Where to: a file, a folder, or - for stdout; otherwise the last part of the path, here.
    #[arg(long, short, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Replace another file of that name.
    #[arg(long, conflicts_with = "continue_it")]
    pub force: bool,
    /// Continue a part of the file that is there under the file's own name. (FILE.part, which an
    /// interrupted `session get` leaves, is continued in any case.)
    #[arg(long = "continue", short = 'c')]
    pub continue_it: bool,
    /// Print only errors.
    #[arg(long, short)]
    pub quiet: bool,
    /// The broker's configuration, if a broker has to be started.
    #[arg(long, value_name = "FILE", env = "SESSION_CONFIG")]
    pub config: Option<PathBuf>,
}
