//! The clients, and what they are told to do.

use std::path::Path;

use anyhow::Result;
use stp_tests::daemon::Broker;
use stp_tests::process::Plan;

/// Host of the FTP service, as the clients know it.
pub const HOST: &str = "ftp.lab";

/// A real FTP client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Client {
    Curl,
    Tnftp,
    Ncftp,
    Lftp,
    Wget,
    Ftplib,
    Inetutils,
    Busybox,
}

/// Which end connects for data.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Passive,
    Active,
}

/// What is done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// Gets `big`.
    Retr,
    /// Puts a file to `in/put`.
    Stor,
    /// Lists the 2,000 names of `names`.
    List,
}

pub const CLIENTS: [Client; 8] = [
    Client::Curl,
    Client::Tnftp,
    Client::Ncftp,
    Client::Lftp,
    Client::Wget,
    Client::Ftplib,
    Client::Inetutils,
    Client::Busybox,
];

impl Client {
    pub fn name(self) -> &'static str {
        match self {
            Client::Curl => "curl",
            Client::Tnftp => "tnftp",
            Client::Ncftp => "ncftp",
            Client::Lftp => "lftp",
            Client::Wget => "wget",
            Client::Ftplib => "ftplib",
            Client::Inetutils => "inetutils",
            Client::Busybox => "busybox",
        }
    }

    /// Whether it can do this at all.
    pub fn can(self, mode: Mode, operation: Operation) -> bool {
        !matches!(
            (self, mode, operation),
            (Client::Busybox, Mode::Active, _)
                | (Client::Busybox, _, Operation::List)
                | (Client::Wget, _, Operation::Stor)
        )
    }

    /// Whether its exit code says anything.
    pub fn exit_code_counts(self) -> bool {
        !matches!(self, Client::Inetutils | Client::Tnftp)
    }

    /// A plan to do it: `local` is the file that is made, or sent.
    pub fn plan(
        self,
        broker: &Broker,
        mode: Mode,
        operation: Operation,
        local: &Path,
    ) -> Result<Plan> {
        let file = local.display().to_string();
        let dir = local.parent().unwrap_or(Path::new("/")).display().to_string();
        let active = mode == Mode::Active;
        let plan = |program: &str, arguments: &[&str]| -> Result<Plan> {
            let called = format!("client-{}", self.name());
            let plan = Plan::new(program).called(&called).alone_in(local.parent().unwrap_or(local));
            Ok(broker.with_shim(plan)?.args(arguments))
        };
        match self {
            Client::Curl => plan("curl", &texts(&curl(active, operation, &file))),
            Client::Tnftp => {
                let flag = if active { "-A" } else { "-p" };
                let script = script(operation, &file);
                Ok(plan("tnftp", &[flag, "-n", "-i", "-v", HOST])?.input(&script))
            }
            Client::Ncftp => {
                let flag = if active { "-E" } else { "-F" };
                match operation {
                    Operation::Retr => {
                        plan("ncftpget", &[flag, "-V", "-r", "1", "-Z", HOST, &dir, "big"])
                    }
                    Operation::Stor => {
                        plan("ncftpput", &[flag, "-V", "-r", "1", "-Z", HOST, "in", &file])
                    }
                    Operation::List => {
                        let url = format!("ftp://{HOST}/names/");
                        plan("ncftpls", &[flag, "-1", &url])
                    }
                }
            }
            Client::Lftp => plan("lftp", &["-c", &lftp(active, operation, &file)]),
            Client::Wget => plan("wget", &texts(&wget(active, operation, &file))),
            Client::Ftplib => {
                let script = concat!(env!("CARGO_MANIFEST_DIR"), "/ftp/client.py");
                let mode = if active { "active" } else { "passive" };
                let operation = match operation {
                    Operation::Retr => "retr",
                    Operation::Stor => "stor",
                    Operation::List => "list",
                };
                plan("/usr/bin/python3", &[script, HOST, mode, operation, &file])
            }
            Client::Inetutils => {
                let flag = if active { "-A" } else { "-p" };
                let script = script(operation, &file);
                Ok(plan("inetutils-ftp", &[flag, "-n", "-i", "-v", HOST])?.input(&script))
            }
            Client::Busybox => match operation {
                Operation::Stor => plan("busybox", &["ftpput", HOST, "in/put", &file]),
                _ => plan("busybox", &["ftpget", HOST, &file, "big"]),
            },
        }
    }
}

fn texts(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

/// What tnftp and inetutils' ftp are told.
fn script(operation: Operation, file: &str) -> String {
    let does = match operation {
        Operation::Retr => format!("get big {file}"),
        Operation::Stor => format!("put {file} in/put"),
        Operation::List => format!("nlist names {file}"),
    };
    format!("user anonymous x@y\nbinary\n{does}\nquit\n")
}

fn curl(active: bool, operation: Operation, file: &str) -> Vec<String> {
    let (does, url): (&[&str], _) = match operation {
        Operation::Retr => (&["-o", file], format!("ftp://{HOST}/big")),
        Operation::Stor => (&["-T", file], format!("ftp://{HOST}/in/put")),
        Operation::List => (&["-l", "-o", file], format!("ftp://{HOST}/names/")),
    };
    let mode: &[&str] = if active { &["-P", "-"] } else { &[] };
    let arguments = ["-sS", "--fail"].iter().chain(mode).chain(does);
    arguments.map(|argument| (*argument).to_owned()).chain([url]).collect()
}

fn wget(active: bool, operation: Operation, file: &str) -> Vec<String> {
    let (does, url): (&[&str], _) = match operation {
        Operation::List => {
            (&["--no-remove-listing", "-O", "/dev/null"], format!("ftp://{HOST}/names/"))
        }
        _ => (&["-O", file], format!("ftp://{HOST}/big")),
    };
    let mode: &[&str] = if active { &["--no-passive-ftp"] } else { &[] };
    let arguments = ["-nv", "--tries=1"].iter().chain(mode).chain(does);
    arguments.map(|argument| (*argument).to_owned()).chain([url]).collect()
}

fn lftp(active: bool, operation: Operation, file: &str) -> String {
    let does = match operation {
        Operation::Retr => format!("get big -o {file}"),
        Operation::Stor => format!("put {file} -o in/put"),
        Operation::List => format!("nlist names > {file}"),
    };
    let passive = if active { "off" } else { "on" };
    format!(
        "set net:max-retries 1; set net:reconnect-interval-base 1; \
         set ftp:passive-mode {passive}; open {HOST}; {does}"
    )
}
