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

/// Where and as whom a client logs in.
#[derive(Debug, Clone, Copy)]
pub struct Account<'a> {
    pub host: &'a str,
    pub user: &'a str,
    pub password: &'a str,
}

/// At the world's service, as anybody.
pub const ANONYMOUS: Account<'_> = Account { host: HOST, user: "anonymous", password: "x@y" };

/// What a client is told.
#[derive(Debug, Clone, Copy)]
pub struct Order<'a> {
    pub account: Account<'a>,
    pub mode: Mode,
    pub operation: Operation,
    /// The file that is made, or sent.
    pub local: &'a Path,
    /// Seconds between the login and the operation.
    pub idle: u64,
}

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

    /// Whether it can be idle: the others log in for one thing.
    pub fn idles(self) -> bool {
        matches!(self, Client::Tnftp | Client::Lftp | Client::Ftplib | Client::Inetutils)
    }

    /// Whether its exit code says anything.
    pub fn exit_code_counts(self) -> bool {
        !matches!(self, Client::Inetutils | Client::Tnftp)
    }

    /// A plan to do it, in a session or, without a broker, by itself.
    pub fn plan(self, broker: Option<&Broker>, order: &Order<'_>) -> Result<Plan> {
        let Order { account, mode, operation, local, .. } = *order;
        let file = local.display().to_string();
        let dir = local.parent().unwrap_or(Path::new("/"));
        let active = mode == Mode::Active;
        let plan = |program: &str, arguments: &[&str]| -> Result<Plan> {
            let called = format!("client-{}", self.name());
            let plan = Plan::new(program).called(&called).alone_in(dir).args(arguments);
            match broker {
                Some(broker) => broker.with_shim(plan),
                None => Ok(plan),
            }
        };
        let Account { host, user, password } = account;
        match self {
            Client::Curl => plan("curl", &texts(&curl(order, &file))),
            Client::Tnftp => {
                let flag = if active { "-A" } else { "-p" };
                Ok(plan("tnftp", &[flag, "-n", "-i", "-v", host])?.input(&script(order, &file)))
            }
            Client::Ncftp => {
                let flag = if active { "-E" } else { "-F" };
                let all = ["-V", "-r", "1", "-Z", "-u", user, "-p", password, host];
                let all = [&[flag], &all[..]].concat();
                match operation {
                    Operation::Retr => {
                        let dir = dir.display().to_string();
                        plan("ncftpget", &[&all[..], &[&dir, "big"]].concat())
                    }
                    Operation::Stor => plan("ncftpput", &[&all[..], &["in", &file]].concat()),
                    Operation::List => {
                        let url = format!("ftp://{host}/names/");
                        plan("ncftpls", &[flag, "-u", user, "-p", password, "-1", &url])
                    }
                }
            }
            Client::Lftp => plan("lftp", &["--norc", "-c", &lftp(order, &file)]),
            Client::Wget => plan("wget", &texts(&wget(order, &file))),
            Client::Ftplib => {
                let script = concat!(env!("CARGO_MANIFEST_DIR"), "/ftp/client.py");
                let mode = if active { "active" } else { "passive" };
                let operation = match operation {
                    Operation::Retr => "retr",
                    Operation::Stor => "stor",
                    Operation::List => "list",
                };
                let idle = order.idle.to_string();
                let arguments = [script, host, user, password, mode, operation, &file, &idle];
                plan("/usr/bin/python3", &arguments)
            }
            Client::Inetutils => {
                let flag = if active { "-A" } else { "-p" };
                let plan = plan("inetutils-ftp", &[flag, "-n", "-i", "-v", host])?;
                Ok(plan.input(&script(order, &file)))
            }
            Client::Busybox => {
                let what: &[&str] = match operation {
                    Operation::Stor => &["in/put", &file],
                    _ => &[&file, "big"],
                };
                let does = if operation == Operation::Stor { "ftpput" } else { "ftpget" };
                let all = [&[does, "-u", user, "-p", password, host], what].concat();
                plan("busybox", &all)
            }
        }
    }
}

fn texts(arguments: &[String]) -> Vec<&str> {
    arguments.iter().map(String::as_str).collect()
}

/// What tnftp and inetutils' ftp are told.
fn script(order: &Order<'_>, file: &str) -> String {
    let does = match order.operation {
        Operation::Retr => format!("get big {file}"),
        Operation::Stor => format!("put {file} in/put"),
        Operation::List => format!("nlist names {file}"),
    };
    let Account { user, password, .. } = order.account;
    let idle = if order.idle > 0 { format!("!sleep {}\n", order.idle) } else { String::new() };
    format!("user {user} {password}\nbinary\n{idle}{does}\nquit\n")
}

fn curl(order: &Order<'_>, file: &str) -> Vec<String> {
    let Account { host, user, password } = order.account;
    let (does, url): (&[&str], _) = match order.operation {
        Operation::Retr => (&["-o", file], format!("ftp://{host}/big")),
        Operation::Stor => (&["-T", file], format!("ftp://{host}/in/put")),
        Operation::List => (&["-l", "-o", file], format!("ftp://{host}/names/")),
    };
    let mode: &[&str] = if order.mode == Mode::Active { &["-P", "-"] } else { &[] };
    let arguments = ["-sS", "--fail"].iter().chain(mode).chain(does);
    let login = ["-u".to_owned(), format!("{user}:{password}"), url];
    arguments.map(|argument| (*argument).to_owned()).chain(login).collect()
}

fn wget(order: &Order<'_>, file: &str) -> Vec<String> {
    let Account { host, user, password } = order.account;
    let (does, url): (&[&str], _) = match order.operation {
        Operation::List => {
            (&["--no-remove-listing", "-O", "/dev/null"], format!("ftp://{host}/names/"))
        }
        _ => (&["-O", file], format!("ftp://{host}/big")),
    };
    let mode: &[&str] = if order.mode == Mode::Active { &["--no-passive-ftp"] } else { &[] };
    let arguments = ["-nv", "--tries=1"].iter().chain(mode).chain(does);
    let login = [format!("--ftp-user={user}"), format!("--ftp-password={password}"), url];
    arguments.map(|argument| (*argument).to_owned()).chain(login).collect()
}

fn lftp(order: &Order<'_>, file: &str) -> String {
    let does = match order.operation {
        Operation::Retr => format!("get big -o {file}"),
        Operation::Stor => format!("put {file} -o in/put"),
        Operation::List => format!("nlist names > {file}"),
    };
    let passive = if order.mode == Mode::Active { "off" } else { "on" };
    let Account { host, user, password } = order.account;
    let idle = match order.idle {
        0 => String::new(),
        // What follows `!` on a line belongs to it.
        seconds => format!("nlist in > /dev/null; !sleep {seconds}\n"),
    };
    format!(
        "set net:max-retries 1; set net:reconnect-interval-base 1; \
         set ftp:passive-mode {passive}; open -u {user},{password} {host}; {idle}{does}"
    )
}
