//! The `session` command: runs programs whose TCP connections are sessions, and shows and steers
//! those sessions.
//!
//! [`run`] puts the shim into the environment, starts a broker if none runs, and becomes the
//! program. All other commands ask the broker over its status socket.
#![forbid(unsafe_code)]

pub mod args;
pub mod broker;
pub mod cause;
pub mod demo;
pub mod doctor;
pub mod elf;
pub mod endpoint;
pub mod feed;
pub mod fetch;
pub mod get;
pub mod host;
pub mod linker;
pub mod log;
pub mod login;
pub mod notify;
pub mod places;
mod print;
pub mod probe;
pub mod report;
pub mod route;
pub mod run;
pub mod serve;
pub mod show;
pub mod state;
pub mod stream;
pub mod tell;
pub mod top;
pub mod via;
pub mod words;
pub mod wrapper;

use std::io::IsTerminal;
use std::process::ExitCode;

use anyhow::Context;
use clap::{CommandFactory, Parser};

use args::{Args, Command};
use print::print;

/// The exit code when the command itself, and not the program it runs, has failed.
pub const FAILED: u8 = 125;

/// Reads the command line and does what it says; linked statically, or not.
#[must_use]
pub fn main(is_static: bool) -> ExitCode {
    if is_static {
        stp_net::machine::look_names_up_alone();
    }
    match go(Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("session: {error:#}");
            ExitCode::from(FAILED)
        }
    }
}

fn go(args: Args) -> anyhow::Result<ExitCode> {
    let Some(command) = args.command else { return first_contact() };
    if let Some(name) = &args.via {
        via::lead_through(name, matches!(command, Command::Run(_)))?;
    }
    match command {
        Command::Run(run) => run::run(&run),
        Command::Tell(args) => Ok(tell::tell(&args)),
        Command::Status(status) => show::status(&status),
        Command::Top => top::top(),
        Command::Log(args) => log::log(&args),
        Command::Page => report::page(),
        Command::Suspend(suspend) => broker::suspend(&suspend),
        Command::Resume(which) => broker::resume(&which),
        Command::Close { id } => broker::act(&id, "close"),
        Command::Move(args) => broker::move_to(&args),
        Command::Endpoint(command) => endpoint::endpoint(&command),
        Command::Route(command) => route::route(&command),
        Command::Serve(args) => serve::serve(&args),
        Command::Reload => broker::reload(),
        Command::Upgrade => broker::upgrade(),
        Command::Stop { force } => broker::stop(force),
        Command::Via(command) => via::via(&command),
        Command::Login(args) => login::login(&args),
        Command::Trust(args) => login::trust(&args),
        Command::Get(args) => get::get(&args),
        Command::Demo { arguments } => demo::demo(&arguments),
        Command::Doctor(args) => match &args.report {
            Some(to) => report::report(to),
            None => doctor::doctor(&args),
        },
        Command::Completions { shell } => {
            let (mut command, mut script) = (Args::command(), Vec::new());
            clap_complete::generate(shell, &mut command, "session", &mut script);
            print(&String::from_utf8_lossy(&script))?;
            Ok(ExitCode::SUCCESS)
        }
        Command::Man { command } => {
            print(&manual(command.as_deref())?)?;
            Ok(ExitCode::SUCCESS)
        }
    }
}

/// What is printed when somebody types just `session`: what it is, and what to type next.
fn first_contact() -> anyhow::Result<ExitCode> {
    if !std::io::stdout().is_terminal() {
        eprint!("{}", Args::command().render_help());
        return Ok(ExitCode::from(2));
    }
    print(FIRST)?;
    Ok(ExitCode::SUCCESS)
}

const FIRST: &str = "\
Session keeps the network connections of unmodified programs alive when links and servers die.
  session run -- curl -O http://mirror.example.org/big.iso   run a program with it
  session doctor curl http://mirror.example.org/             will it be covered, and if not, why
  session top                                                watch sessions, suspend and move them
Configuration: ~/.config/session/broker.toml. All commands: session --help, or man session.
";

/// The manual page of `session`, or of one of its commands.
fn manual(command: Option<&str>) -> anyhow::Result<String> {
    let mut whole = Args::command();
    whole.build();
    let subject = match command {
        None => whole,
        Some(name) => {
            let found = whole.find_subcommand(name);
            let found = found.with_context(|| format!("there is no command \"{name}\""))?;
            found.clone()
        }
    };
    let mut page = Vec::new();
    clap_mangen::Man::new(subject).render(&mut page)?;
    Ok(String::from_utf8_lossy(&page).into_owned())
}
